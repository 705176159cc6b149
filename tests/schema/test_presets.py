"""The shipped studies: what their heads say is what they consist of."""

from __future__ import annotations

import re
from functools import cache

import pytest

from configs import compose_sweep, list_jobs
from pfstudy.schema.models import conf_directory
from pfstudy.variant import Variant, make_variant

STUDIES = conf_directory() / "study"
PRESETS = sorted(path.stem for path in STUDIES.glob("*.yaml") if path.stem != "default")
ON_RESNET50 = ("model=resnet50", "data=synthetic")


def head_of(preset: str) -> str:
    lines = (STUDIES / f"{preset}.yaml").read_text().splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("# "))


@cache
def variants_of(*overrides: str) -> list[Variant]:
    """The variants of a sweep, those that coincide once, in its order."""
    asked = [make_variant(config, "content") for config in compose_sweep(*overrides)]
    return list({variant.hash: variant for variant in asked}.values())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_as_many_variants_as_its_head_says(preset: str) -> None:
    (stated,) = re.findall(r"(\d+) variants\b", head_of(preset))
    assert len(variants_of(f"study={preset}")) == int(stated)


@pytest.mark.parametrize(
    ("preset", "model"),
    [
        ("cumulative", "resnet50"),
        ("depthwise", "mobilenetv2"),
        ("hybrid", "resnet50"),
        ("one_block", "resnet50"),
        ("one_stage", "resnet50"),
        ("transformer", "vit_ti_gap"),
    ],
)
def test_a_preset_has_as_many_with_another_model_as_its_head_says(preset: str, model: str) -> None:
    (stated,) = re.findall(r"\d+ variants with \w+ \w+, (\d+) with \w+", head_of(preset))
    jobs = list_jobs(f"study={preset}", f"model={model}", "data=synthetic")
    assert len({tuple(job) for job in jobs}) == len(jobs) == int(stated)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_variant_of_a_preset_stands_beside_its_backbone(preset: str) -> None:
    variants = variants_of(f"study={preset}")
    baselines = {variant.hash for variant in variants if variant.is_baseline}
    assert {variant.baseline_hash for variant in variants} == baselines
    assert all(variant.config.study.preset == preset for variant in variants)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_head_of_a_preset_gives_its_command(preset: str) -> None:
    lines = (STUDIES / f"{preset}.yaml").read_text().splitlines()
    assert f"#   pfstudy study={preset}" in lines


def labels_of(*overrides: str) -> list[str]:
    return [variant.label for variant in variants_of(*overrides)]


def test_one_stage_works_with_another_model() -> None:
    names = ("maxpool", "avgpool", "dwconv")
    assert labels_of("study=one_stage", *ON_RESNET50) == [
        "original",
        *(f"stage{stage}={name}" for stage in range(1, 5) for name in names),
    ]


def test_hybrid_keeps_convolutions_where_the_resolution_falls_or_in_one_stage() -> None:
    assert labels_of("study=hybrid") == [
        "original",
        "maxpool, downsample=original",
        "maxpool, downsample=avgpool_conv",
        "maxpool",
        "stage2=maxpool",
        "stage1=maxpool",
    ]


def test_norm_control_has_each_operation_with_norm_and_activation_and_without() -> None:
    """The convolution with both is the backbone."""
    assert labels_of("study=norm_control") == [
        *("original", "conv-norm", "maxpool+norm", "maxpool"),
        *("avgpool+norm", "avgpool", "dwconv", "dwconv-norm"),
    ]


def test_transformer_has_the_alternation_of_the_paper() -> None:
    found = [list(variant.operations.values()) for variant in variants_of("study=transformer")]
    assert ["original", "maxpool_mlp", "original", "maxpool_mlp"] in found
    for everywhere in ("original", "maxpool", "maxpool_mlp"):
        assert [everywhere] * 4 in found


def own_of(*overrides: str) -> list[list[str]]:
    """What the jobs of a sweep have of their own, beside what was asked for all of them."""
    jobs = list_jobs(*overrides)
    return [[line for line in job if line not in overrides] for job in jobs]


def stages(*operations: str) -> list[list[str]]:
    return [[f"block.stage{n}.spatial={name}"] for n in (1, 2) for name in operations]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        pytest.param("swap=blurpool", [[], *stages("blurpool")], id="swap"),
        pytest.param("site=stage2", [[], *stages("maxpool", "avgpool", "dwconv")[3:]], id="site"),
        pytest.param(
            "study.design=[all]",
            [
                [],
                *(
                    [f"block.stage{n}.spatial={name}" for n in (1, 2)]
                    for name in ("maxpool", "avgpool", "dwconv")
                ),
            ],
            id="design",
        ),
    ],
)
def test_the_command_line_replaces_a_list_of_a_preset(
    override: str, expected: list[list[str]]
) -> None:
    assert own_of("study=one_stage", override) == expected


def test_the_command_line_replaces_the_listed_variants_of_a_preset() -> None:
    everywhere = ["block.spatial=maxpool"]
    found = own_of("study=hybrid", "study.variants=['block.downsample=dwconv']")
    kept = [everywhere + stage for stage in stages("original")]
    assert found == [[*everywhere, "block.downsample=dwconv"], everywhere, *kept]


def test_the_command_line_adds_a_list_to_a_preset() -> None:
    jobs = list_jobs("study=one_stage", "recipe.lr=0.1,0.2")
    assert len(jobs) == 14
    assert len({tuple(job) for job in jobs}) == 14
