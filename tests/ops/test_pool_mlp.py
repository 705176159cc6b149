from __future__ import annotations

import numpy as np
import pytest
import torch
from cases import build, build_random, by_windows, images
from scipy.special import erf


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x / np.sqrt(2))) / 2


@pytest.mark.parametrize("size", [(7, 7), (5, 8), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("name", "reduce"), [("maxpool_mlp", np.max), ("avgpool_mlp", np.mean)])
def test_a_pool_between_two_matrices(
    name: str, reduce: object, kernel_size: int, stride: int, size: tuple[int, int]
) -> None:
    operation = build_random(name, out_channels=5, kernel_size=kernel_size, stride=stride)
    state = {key: value.numpy() for key, value in operation.state_dict().items()}
    assert state["expand.weight"].shape == (9, 3)
    x_NCHW = images(2, 3, *size)
    hidden = np.einsum("dc,nchw->ndhw", state["expand.weight"], x_NCHW.numpy())
    hidden = gelu(hidden + state["expand.bias"][:, None, None])
    pooled = by_windows(torch.from_numpy(hidden), kernel_size, stride, reduce)
    expected = np.einsum("oc,nchw->nohw", state["reduce.weight"], gelu(pooled.numpy()))
    expected += state["reduce.bias"][:, None, None]
    torch.testing.assert_close(operation(x_NCHW), torch.from_numpy(expected))


@pytest.mark.parametrize("name", ["maxpool_mlp", "avgpool_mlp"])
def test_weights_start_as_in_a_vit(name: str) -> None:
    operation = build(name, in_channels=64)
    for linear in (operation.expand, operation.reduce):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05)
        assert not linear.bias.any()


@pytest.mark.parametrize("name", ["maxpool_mlp", "avgpool_mlp"])
def test_nothing_that_mixes_positions_has_parameters(name: str) -> None:
    assert list(build(name).pool.parameters()) == []
