from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import ALL, WITH_EVERY_KERNEL
from cases import layer as describe
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, OperationCost, build_operation, operation_cost
from pfstudy.schema.operations import Operation, find_operation

ONE_OPERATOR = ["conv", "groupconv", "dwconv", "dilated_conv", "avgpool"]
"""What they move is the least that can be moved."""

SHAPES = [(1, 2), (7, 7), (8, 5)]


class Counter(TorchDispatchMode):
    """Adds up what the operators of torch compute, by torch's own count, and what they move."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.bytes_moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if any(returned.alias_info is not None for returned in func._schema.returns):
            return out
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
        self.bytes_moved += sum(t.nbytes for t in tensors)
        if func.overloadpacket in flop_registry:
            self.macs += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out) // 2
        return out


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("name", "kernel_size"), WITH_EVERY_KERNEL)
def test_the_cost_is_what_torch_counts(name: str, kernel_size: int, stride: int) -> None:
    operation = find_operation(name)
    for fields in ({}, {"out_channels": 8, "bias": True}):
        layer = describe(name, kernel_size=kernel_size, stride=stride, **fields)
        with torch.device("meta"):
            module = build_operation(operation, layer)
        for height, width in SHAPES:
            x_NCHW = torch.empty(1, layer.in_channels, height, width, device="meta")
            with Counter() as counter, torch.no_grad():
                module(x_NCHW)
            cost = operation_cost(operation, layer, height, width)
            assert cost.macs == counter.macs
            assert cost.bytes_moved <= counter.bytes_moved
            if name in ONE_OPERATOR:
                assert cost.bytes_moved == counter.bytes_moved


@pytest.mark.parametrize("name", ALL)
def test_bytes_are_those_of_input_output_and_parameters(name: str) -> None:
    layer = describe(name, stride=2, bias=True)
    module = build_operation(find_operation(name), layer)
    num_elements = layer.in_channels * (7 * 6 + 4 * 3) + sum(p.numel() for p in module.parameters())
    cost = operation_cost(find_operation(name), layer, 7, 6)
    assert cost.bytes_moved == 4 * num_elements


def test_groupconv_costs_what_the_groups_of_the_replaced_layer_do() -> None:
    layer = Layer(in_channels=20, out_channels=40, kernel_size=3, stride=1, groups=4)
    assert operation_cost(find_operation("groupconv"), layer, 5, 5).macs == 9 * 5 * 40 * 25


def test_the_projection_adds_to_the_cost() -> None:
    layer = Layer(in_channels=3, out_channels=4, kernel_size=3, stride=2, bias=True)
    cost = operation_cost(find_operation("maxpool"), layer, 8, 8)
    pooled, projected = 3 * 64 + 3 * 16, 3 * 16 + 4 * 16 + 3 * 4 + 4
    assert cost == OperationCost(macs=3 * 4 * 16, bytes_moved=4 * (pooled + projected))


def test_identity_is_free_where_it_is_the_input() -> None:
    layer = Layer(in_channels=3, out_channels=3, kernel_size=3, stride=1)
    assert operation_cost(find_operation("identity"), layer, 8, 8) == OperationCost(0, 0)


def test_what_cannot_be_built_has_no_cost() -> None:
    layer = Layer(in_channels=20, out_channels=20, kernel_size=3, stride=1)
    with pytest.raises(PfstudyError, match="groupconv takes channels divisible by 8, but got 20"):
        operation_cost(find_operation("groupconv"), layer, 8, 8)


def test_an_operation_of_the_user_has_the_cost_that_it_registers() -> None:
    def cost(layer: Layer, height: int, width: int) -> OperationCost:
        return OperationCost(macs=layer.in_channels * height * width, bytes_moved=1)

    layer = Layer(in_channels=3, out_channels=3, kernel_size=3, stride=1)
    mine = Operation("mine", "my_operations:mine", trainable=True, cost=cost)
    assert operation_cost(mine, layer, 2, 5) == OperationCost(macs=30, bytes_moved=1)


def test_an_operation_without_a_cost_function_says_so() -> None:
    layer = Layer(in_channels=3, out_channels=3, kernel_size=3, stride=1)
    mine = Operation("mine", "my_operations:mine", trainable=True)
    with pytest.raises(PfstudyError) as caught:
        operation_cost(mine, layer, 2, 5)
    assert str(caught.value) == (
        "mine has no cost function; register it with cost=module:function."
    )
