"""Mistakes in a user's own operation, which are found before anything is trained."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.launch.check import check_variants
from pfstudy.schema import imports
from pfstudy.schema.config import Config
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN
from pfstudy.variant import make_variant

MODULE = """from torch import nn

from pfstudy import Operation, register


class Mine(nn.Module):
    def forward(self, x_NCHW):
        {forward}


def mine(layer):
    {builder}


register(Operation("mine", mine, trainable=False))
"""
RETURN = "return Mine()"


@pytest.fixture
def users(tmp_path: Path) -> Iterator[Callable[..., Config]]:
    """Register an operation ``mine`` from a file; the config has it at every site."""

    def register(forward: str = "return x_NCHW", builder: str = RETURN) -> Config:
        path = tmp_path / "mistaken_ops.py"
        path.write_text(MODULE.format(forward=forward, builder=builder))
        imports.import_modules([str(path)])
        sites = tuple(replace(site, operation="mine") for site in compose().sites)
        return replace(compose(), sites=sites)

    path = list(sys.path)
    yield register
    sys.path[:] = path
    sys.modules.pop("mistaken_ops", None)
    OPERATIONS.pop("mine", None)
    REGISTERED_IN.pop("mine", None)
    imports._import.cache_clear()


def refusal(config: Config, *constraints: str) -> str:
    study = replace(config.study, constraints=constraints)
    configs = [replace(c, study=study) for c in (compose(), config)]
    with pytest.raises(PfstudyError) as caught:
        check_variants([make_variant(c, "content") for c in configs], lambda _: None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("forward", "builder", "sentence"),
    [
        pytest.param("return self.pool(x_NCHW)", RETURN, "AttributeError: 'Mine' object has no "
                     "attribute 'pool' (mistaken_ops.py, line 8)", id="attribute"),
        pytest.param("return {}[x_NCHW.shape]", RETURN, "KeyError: torch.Size([2, 16, 8, 8]) "
                     "(mistaken_ops.py, line 8)", id="key"),
        pytest.param("return x_NCHW", "return nn.Conv2d(layer.channels, 1, 1)",
                     "AttributeError: 'Layer' object has no attribute 'channels' "
                     "(mistaken_ops.py, line 12)", id="builder"),
        pytest.param("return x_NCHW", "assert layer.stride > 2", "AssertionError:  "
                     "(mistaken_ops.py, line 12)", id="builder, without a word"),
    ],
)  # fmt: skip
def test_what_it_raises_is_one_sentence_with_its_place(
    users: Callable[..., Config], forward: str, builder: str, sentence: str
) -> None:
    found = refusal(users(forward, builder))
    assert found == f"mine: stage1.block1: mine: {sentence}"


@pytest.mark.parametrize("metric", ["macs", "params"])
def test_a_wrong_shape_is_named_before_its_cost_is_counted(
    users: Callable[..., Config], metric: str
) -> None:
    found = refusal(users("return x_NCHW[..., 1:]"), f"{metric} <= 0.5x")
    assert found == (
        "mine: stage1.block1: mine puts out (2, 16, 8, 7), but the backbone expects (2, 16, 8, 8) "
        "there."
    )
