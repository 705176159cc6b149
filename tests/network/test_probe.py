from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from pfstudy.network.probe import BATCH, forward_on_meta, probe


class Tokens(nn.Module):
    """Takes further arguments, as an attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x_NLC: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x_NLC * self.scale


class Network(nn.Module):
    """A convolution, then tokens that are given whatever is asked for; one layer is not called."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.arguments, self.named = arguments, named
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.tokens = Tokens()
        self.dropout = nn.Dropout()
        self.unused = nn.Linear(4, 4)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NLC = self.norm(self.conv(x_NCHW)).flatten(2).transpose(1, 2)
        return self.dropout(self.tokens(x_NLC, *self.arguments, **self.named))


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_shapes_are_seen_on_the_meta_device() -> None:
    seen = probe(Network(), (2, 8, 6), ["conv", "tokens"])
    found = {path: (tuple(s.x.shape), tuple(s.out.shape), s.extra) for path, s in seen.items()}
    assert found == {
        "conv": ((BATCH, 2, 8, 6), (BATCH, 4, 4, 3), ()),
        "tokens": ((BATCH, 12, 4), (BATCH, 12, 4), ()),
    }
    assert {s.x.device.type for s in seen.values()} == {"meta"}


def test_what_one_layer_puts_out_is_what_the_next_one_takes() -> None:
    seen = probe(Network(), (2, 8, 6), ["conv", "norm"])
    assert seen["norm"].x is seen["conv"].out


def test_what_comes_into_the_parent_of_a_layer_is_seen() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Sequential(nn.Flatten(2), nn.ReLU()))
    seen = probe(network, (2, 9, 9), ["0", "1.1"])
    around = {path: tuple(s.around.shape) for path, s in seen.items() if s.around is not None}
    assert around == {"0": (BATCH, 2, 9, 9), "1.1": (BATCH, 3, 4, 4)}
    assert seen["1.1"].x.shape == (BATCH, 3, 16)


def test_a_layer_that_is_never_called_is_not_seen() -> None:
    assert probe(Network(), (2, 8, 6), ["unused"]) == {}


@pytest.mark.parametrize(
    ("arguments", "named", "extra"),
    [
        pytest.param((None,), {"mask": None, "causal": False}, (), id="nothing in them"),
        pytest.param((), {"mask": torch.ones(1)}, ("mask",), id="a mask"),
        pytest.param((), {"causal": True}, (), id="a flag"),
        pytest.param((torch.ones(1), None), {}, ("args",), id="a position"),
        pytest.param((torch.ones(2),), {"bias": [torch.ones(1)]}, ("bias", "args"), id="both"),
        pytest.param((4, 3), {"size": (4, 3), "offset": 1}, (), id="numbers"),
    ],
)
def test_further_arguments_are_named(
    arguments: tuple[Any, ...], named: dict[str, Any], extra: tuple[str, ...]
) -> None:
    seen = probe(Network(*arguments, **named), (2, 8, 6), ["tokens"])
    assert seen["tokens"].extra == extra


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_left_as_it_was_found(training: bool) -> None:
    network = Network().train(training)
    network.norm.train(not training)
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe(network, (2, 8, 6), ["conv", "tokens"])
    assert hooks(network) == 0
    assert [module.training for module in network.modules()] == modes
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_a_network_is_left_as_it_was_found_when_it_cannot_run() -> None:
    network = Network().train()
    with pytest.raises(RuntimeError):
        probe(network, (3, 8, 6), ["conv", "tokens"])
    assert hooks(network) == 0
    assert all(module.training for module in network.modules())


def test_the_generator_is_left_alone() -> None:
    network = Network().train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    probe(network, (2, 8, 6), ["tokens"])
    assert torch.equal(torch.rand(3), expected)


def test_images_have_the_dtype_of_the_weights() -> None:
    seen = probe(Network().to(torch.bfloat16), (2, 8, 6), ["conv"])
    assert (seen["conv"].x.dtype, seen["conv"].out.dtype) == (torch.bfloat16, torch.bfloat16)


def test_tensors_made_in_the_forward_pass_are_on_the_meta_device_as_well() -> None:
    class Positions(nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return x_NCHW + torch.arange(x_NCHW.shape[3])

    seen = probe(nn.Sequential(Positions()), (2, 8, 6), ["0"])
    assert seen["0"].out.device.type == "meta"


def test_only_the_forward_pass_is_watched() -> None:
    network, events = Network(), []
    network.register_forward_hook(lambda *_: events.append("forward"))

    @contextmanager
    def watch() -> Iterator[None]:
        events.append("from")
        yield
        events.append("to")

    forward_on_meta(network, (1, 2, 8, 6), watch())
    assert events == ["from", "forward", "to"]
