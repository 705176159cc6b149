from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pfstudy.errors import PfstudyError
from pfstudy.ops import Layer, build_operation
from pfstudy.ops.grid import OnGrid, grid_side
from pfstudy.schema.operations import find_operation

CHANNELS, SIDE = 3, 5


def operation(name: str, kernel_size: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return build_operation(find_operation(name), Layer(CHANNELS, CHANNELS, kernel_size, 1))


def images() -> torch.Tensor:
    """Two maps whose every value is another one, so that no transposition goes unseen."""
    shape = (2, CHANNELS, SIDE, SIDE)
    return torch.randperm(math.prod(shape), generator=torch.manual_seed(1)).reshape(shape) / 100


def in_layout(x_NCHW: torch.Tensor, layout: str) -> torch.Tensor:
    """Write a map in another layout, element by element."""
    num_images, channels, height, width = x_NCHW.shape
    sizes = {"N": num_images, "C": channels, "H": height, "W": width, "L": height * width}
    y = torch.empty([sizes[axis] for axis in layout])
    for n in range(num_images):
        for c in range(channels):
            for i in range(height):
                for j in range(width):
                    at = {"N": n, "C": c, "H": i, "W": j, "L": i * width + j}
                    y[tuple(at[axis] for axis in layout)] = x_NCHW[n, c, i, j]
    return y


@pytest.mark.parametrize("name", ["maxpool", "avgpool", "dwconv", "conv", "identity"])
@pytest.mark.parametrize("layout", ["NHWC", "NLC", "NCL"])
def test_an_operation_does_on_tokens_what_it_does_on_the_map(layout: str, name: str) -> None:
    module, x_NCHW = operation(name), images()
    expected = in_layout(module(x_NCHW), layout)
    found = OnGrid(module, layout)(in_layout(x_NCHW, layout))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("num_prefix", [1, 2])
@pytest.mark.parametrize("layout", ["NLC", "NCL"])
def test_tokens_in_front_of_the_grid_pass_unchanged(layout: str, num_prefix: int) -> None:
    module, x_NCHW = operation("dwconv"), images()
    along = layout.index("L")
    shape = [2, num_prefix, CHANNELS] if layout == "NLC" else [2, CHANNELS, num_prefix]
    prefix = torch.randn(shape)
    found = OnGrid(module, layout, num_prefix)(
        torch.cat([prefix, in_layout(x_NCHW, layout)], along)
    )
    first, on_grid = found.split([num_prefix, SIDE * SIDE], along)
    assert torch.equal(first, prefix)
    expected = in_layout(module(x_NCHW), layout)
    torch.testing.assert_close(on_grid, expected, rtol=1e-6, atol=1e-6)


def test_a_map_may_have_any_height_and_width() -> None:
    x_NHWC = torch.randn(1, 4, 7, CHANNELS)
    assert OnGrid(operation("maxpool"), "NHWC")(x_NHWC).shape == (1, 4, 7, CHANNELS)


def test_further_arguments_of_an_attention_are_taken() -> None:
    module = OnGrid(operation("identity"), "NLC", 1)
    tokens_NLC = torch.randn(2, 17, CHANNELS)
    assert torch.equal(module(tokens_NLC, None, attn_mask=None, is_causal=False), tokens_NLC)


def test_gradients_reach_every_token() -> None:
    tokens_NLC = torch.randn(2, 17, CHANNELS, requires_grad=True)
    OnGrid(operation("dwconv"), "NLC", 1)(tokens_NLC).sum().backward()
    assert tokens_NLC.grad is not None
    assert tokens_NLC.grad.ne(0).all()


@pytest.mark.parametrize(
    ("layout", "num_prefix", "shape", "named"),
    [
        pytest.param("NLC", 0, (2, 17, 4), "17 tokens", id="a class token that is not declared"),
        pytest.param("NLC", 1, (2, 16, 4), "15 tokens", id="a class token that is not there"),
        pytest.param("NCL", 0, (2, 4, 12), "12 tokens", id="a rectangle"),
    ],
)
def test_tokens_that_form_no_square_are_refused(
    layout: str, num_prefix: int, shape: tuple[int, ...], named: str
) -> None:
    message = f"^{named} form no square grid; check prefix_tokens\\.$"
    with pytest.raises(PfstudyError, match=message):
        OnGrid(nn.Identity(), layout, num_prefix)(torch.zeros(shape))


@pytest.mark.parametrize("side", [1, 2, 7, 14, 1000])
def test_a_square_grid_has_a_side(side: int) -> None:
    assert grid_side(side * side) == side


@pytest.mark.parametrize("num_positions", [2, 15, 17, 999_999])
def test_other_numbers_of_positions_have_none(num_positions: int) -> None:
    with pytest.raises(PfstudyError, match=f"^{num_positions} tokens form no square grid"):
        grid_side(num_positions)
