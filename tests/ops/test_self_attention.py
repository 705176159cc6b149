from __future__ import annotations

import pytest
import torch
from cases import build, build_random, images
from torch import nn

from pfstudy.errors import PfstudyError


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("channels", "num_heads"),
    [
        pytest.param(3, 1, id="one small head"),
        pytest.param(32, 1, id="one head"),
        pytest.param(64, 2, id="two heads"),
    ],
)
def test_self_attention_is_that_of_torch(channels: int, num_heads: int, stride: int) -> None:
    fields = {"in_channels": channels, "out_channels": 5, "stride": stride}
    operation = build_random("self_attention", **fields)
    reference = nn.MultiheadAttention(channels, num_heads, batch_first=True).double()
    reference.in_proj_weight = operation.qkv.weight
    reference.in_proj_bias = operation.qkv.bias
    nn.init.eye_(reference.out_proj.weight)
    nn.init.zeros_(reference.out_proj.bias)
    x_NCHW = images(2, channels, 4, 5)
    keys_NLC = x_NCHW.flatten(2).transpose(1, 2)
    queries_NLC = x_NCHW[:, :, ::stride, ::stride].flatten(2).transpose(1, 2)
    mixed_NLC, _ = reference(queries_NLC, keys_NLC, keys_NLC)
    y_NCHW = operation(x_NCHW)
    expected_NLC = mixed_NLC @ operation.project.weight.T + operation.project.bias
    torch.testing.assert_close(y_NCHW.flatten(2).transpose(1, 2), expected_NLC)


def test_self_attention_refuses_channels_that_form_no_heads() -> None:
    with pytest.raises(PfstudyError) as caught:
        build("self_attention", in_channels=48)
    assert str(caught.value) == (
        "self_attention takes channels divisible by 32, or fewer, but got 48; "
        "choose another operation here."
    )


def test_self_attention_refuses_a_single_position() -> None:
    operation = build("self_attention")
    assert operation(images(1, 3, 1, 2)).shape == (1, 3, 1, 2)
    with pytest.raises(PfstudyError) as caught:
        operation(images(1, 3, 1, 1))
    assert str(caught.value) == (
        "self_attention takes a map of at least two positions, but got 1x1; choose another "
        "operation here or larger images."
    )


def test_weights_start_as_in_a_vit() -> None:
    operation = build("self_attention", in_channels=64)
    for linear in (operation.qkv, operation.project):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()
