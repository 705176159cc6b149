from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from configs import variant_of
from pfstudy.errors import PfstudyError
from pfstudy.speed import segments
from pfstudy.speed.measure import build_for_speed, draw_images
from pfstudy.speed.segments import Stopwatch, mark_segments
from pfstudy.speed.step import make_step
from pfstudy.variant import Variant

CPU = torch.device("cpu")
VARIANTS = [
    pytest.param(variant_of(), id="resnet"),
    pytest.param(variant_of("block.spatial=maxpool"), id="maxpool"),
    pytest.param(variant_of("model=mobilenet_digits"), id="mobilenet"),
    pytest.param(variant_of("model=vit_digits"), id="transformer"),
]


def networks_of(variant: Variant) -> tuple[nn.Module, nn.Module]:
    """The network twice: as it is, and marked."""
    plain, marked = (build_for_speed(variant, CPU).eval() for _ in range(2))
    mark_segments(marked, variant)
    return plain, marked


def run_of(network: nn.Module, variant: Variant, **changes: Any) -> Callable[[], object]:
    images = draw_images(variant, 2, CPU)
    settings = replace(variant.config.speed, **changes)
    return make_step(network, images, settings, variant.label).run


@pytest.mark.parametrize("variant", VARIANTS)
def test_there_is_a_segment_for_every_site_and_the_rest(variant: Variant) -> None:
    _, marked = networks_of(variant)
    watch = Stopwatch(run_of(marked, variant), CPU)
    for _ in range(2):
        found = watch()
        assert len(found) == len(variant.config.sites) + 1
        assert all(milliseconds > 0 for milliseconds in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_marked_network_computes_the_same(variant: Variant) -> None:
    plain, marked = networks_of(variant)
    images = draw_images(variant, 2, CPU)
    with torch.inference_mode():
        assert torch.equal(plain(images), marked(images))


def test_the_segments_add_up_to_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that goes on by one more second every time it is looked at."""
    seconds = itertools.accumulate(itertools.count(1))
    _, marked = networks_of(variant_of())
    watch = Stopwatch(run_of(marked, variant_of()), CPU)
    monkeypatch.setattr(segments, "time", SimpleNamespace(perf_counter=lambda: next(seconds)))
    assert watch() == [2000, 3000, 4000, 5000, 6000]  # looked at six times


@pytest.mark.parametrize(
    ("path", "segment"),
    [
        pytest.param("conv1", 0, id="stem"),
        pytest.param("layer1.0.block", 0, id="first block"),
        pytest.param("layer2.0.block.conv2", 2, id="third block"),
        pytest.param("fc", 4, id="rest"),
    ],
)
def test_time_is_seen_where_it_is_spent(path: str, segment: int) -> None:
    _, marked = networks_of(variant_of())
    marked.get_submodule(path).register_forward_hook(lambda *_: time.sleep(0.2))
    assert Stopwatch(run_of(marked, variant_of()), CPU)()[segment] >= 200


@pytest.mark.parametrize(
    "layer", [pytest.param("layer{stage}.conv", id="one for a stage"), pytest.param("conv{stage}")]
)
def test_sites_without_blocks_of_their_own_are_refused(layer: str) -> None:
    variant = variant_of()
    model = variant.config.model
    shared = replace(model, sites=(replace(model.sites[0], layer=layer),))
    with pytest.raises(PfstudyError) as caught:
        mark_segments(nn.Identity(), replace(variant, config=replace(variant.config, model=shared)))
    assert str(caught.value) == (
        "model resnet_digits: its sites have no blocks of their own, so the time of each cannot be "
        "seen."
    )


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_compiled_network_has_the_same_segments_and_logits(layout: str) -> None:
    variant = variant_of("block.spatial=maxpool")
    plain, marked = networks_of(variant)
    images = draw_images(variant, 2, CPU)
    with torch.inference_mode():
        expected = plain(images)
    watch = Stopwatch(run_of(marked, variant, backend="compile", layout=layout), CPU)
    for _ in range(2):
        found = watch()
        assert len(found) == len(variant.config.sites) + 1
        assert all(milliseconds > 0 for milliseconds in found)
    with torch.inference_mode():
        logits = torch.compile(marked, fullgraph=True, dynamic=False)(images)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
