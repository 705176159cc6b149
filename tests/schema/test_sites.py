from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Model, SitePattern
from pfstudy.schema.sites import (
    declared_addresses,
    list_sites,
    stage_and_block,
    stages_of,
    summary,
)


def declaration(depths: Any, *blocks: Any, downsample: Any = None) -> dict[str, Any]:
    """What a declaration says in YAML; one pattern for each ``blocks``."""
    groups = [{"blocks": entry} for entry in blocks or (None,)]
    return {"depths": depths, "sites": groups, "downsample": downsample}


def declared(*patterns: SitePattern, **changes: Any) -> Model:
    """A model of two and three blocks with other patterns."""
    return replace(compose().model, name="mine", depths=(2, 3), sites=patterns, **changes)


def pattern(layer: str = "layer{stage}.{block0}.conv2", **changes: Any) -> SitePattern:
    return SitePattern(layer=layer, original="conv", **{"kernel_size": 3, **changes})


def test_addresses_count_stages_and_blocks_from_one() -> None:
    addresses = declared_addresses(declaration([1, 2]), "model")
    assert addresses == ["stage1.block1", "stage2.block1", "stage2.block2"]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param([[2, 1]], "1.1 1.2 2.1", id="numbers of blocks"),
        pytest.param([[0, 3]], "2.1 2.2 2.3", id="none of the first stage"),
        pytest.param([[1]], "1.1", id="later stages left out"),
        pytest.param([[[2], [1, 3]]], "1.2 2.1 2.3", id="numbers of their own"),
        pytest.param([[1, [3]]], "1.1 2.3", id="both ways"),
        pytest.param([[[], [3, 1]]], "2.1 2.3", id="in any order"),
        pytest.param([[0, [2]], [[2], [3]], [[1]]], "1.1 1.2 2.2 2.3", id="several patterns"),
        pytest.param([None], "1.1 1.2 2.1 2.2 2.3", id="all"),
    ],
)
def test_blocks_say_where_a_pattern_has_sites(blocks: list[Any], expected: str) -> None:
    addresses = declared_addresses(declaration([2, 3], *blocks), "model")
    assert [".".join(map(str, stage_and_block(a))) for a in addresses] == expected.split()
    typed = [None if entry is None else tuple(tuple(b) if isinstance(b, list) else b for b in entry)
             for entry in blocks]  # fmt: skip
    model = declared(*(pattern(blocks=entry) for entry in typed))
    assert [site.address for site in list_sites(model)] == addresses


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param({}, "depths must list the number of blocks in each stage.", id="empty"),
        pytest.param(declaration(3), "depths must list the number of blocks in each stage.",
                     id="depths are no list"),
        pytest.param(declaration([2, 0]), "depths must list the number of blocks in each stage.",
                     id="an empty stage"),
        pytest.param(declaration([2, True]), "depths must list the number of blocks in each stage.",
                     id="yes for a number"),
        pytest.param({"depths": [2]}, "sites must list one or more patterns, each with its layer.",
                     id="no sites"),
        pytest.param({"depths": [2], "sites": {"layer": "conv"}}, "sites must list one or more "
                     "patterns, each with its layer.", id="one pattern without its list"),
        pytest.param({"depths": [2], "sites": ["conv"]}, "sites must list one or more patterns, "
                     "each with its layer.", id="a word for a pattern"),
        *(pytest.param(declaration([2, 3], blocks), "blocks must list, for each stage, the number "
                       "of its blocks that are sites, or their numbers, such as [1, [2, 4]].",
                       id=name)
          for blocks, name in ((3, "blocks are no list"), ([-1], "less than none"),
                               ([[0]], "block 0"), ([["one"]], "a word"), ([1.5], "a half"),
                               ([None], "nothing for a stage"))),
        pytest.param(declaration([2, 3], [1, 1, 1]), "blocks lists 3 stages, but depths 2.",
                     id="a stage too many"),
        pytest.param(declaration([2, 3], [3]), "blocks names stage1.block3, but depths gives stage "
                     "1 2 blocks.", id="a block too many"),
        pytest.param(declaration([2, 3], [0, [1, 4]]), "blocks names stage2.block4, but depths "
                     "gives stage 2 3 blocks.", id="a block that is not there"),
        pytest.param(declaration([2, 3], [1, [3]], [0, [2, 3]]), "two patterns declare "
                     "stage2.block3; blocks says which stages and blocks a pattern is for.",
                     id="a block of two patterns"),
        pytest.param(declaration([2, 3], [[1, 1]]), "two patterns declare stage1.block1; blocks "
                     "says which stages and blocks a pattern is for.", id="a block twice"),
        pytest.param(declaration([2, 3], None, None), "two patterns declare stage1.block1; blocks "
                     "says which stages and blocks a pattern is for.", id="two for all"),
        pytest.param({"depths": [2], "sites": []}, "no stage has a site.", id="no pattern"),
        pytest.param(declaration([2, 3], [0, []]), "no stage has a site.", id="no blocks"),
        pytest.param(declaration([2], downsample=5), "downsample must list sites such as "
                     "stage2.block1.", id="downsample is no list"),
    ],
)  # fmt: skip
def test_a_damaged_declaration_is_named(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        declared_addresses(content, "mine.yaml")
    assert str(caught.value) == f"mine.yaml: {sentence}"


@pytest.mark.parametrize("address", ["stage2.block1", "stage2", "block1", 5])
def test_only_sites_reduce_the_resolution(address: object) -> None:
    content = declaration([2, 3], [2, [3]], downsample=["stage2.block3", address])
    with pytest.raises(PfstudyError) as caught:
        declared_addresses(content, "mine.yaml")
    assert str(caught.value).startswith(
        f"mine.yaml: the site {str(address)!r} does not exist; choose from: stage1.block1, "
        "stage1.block2, stage2.block3."
    )


@pytest.mark.parametrize(
    ("address", "pair"), [("stage1.block1", (1, 1)), ("stage4.block12", (4, 12))]
)
def test_an_address_is_split_into_numbers(address: str, pair: tuple[int, int]) -> None:
    assert stage_and_block(address) == pair


def test_stages_are_named_once() -> None:
    assert stages_of(["stage1.block2", "stage3.block1", "stage3.block2"]) == ["stage1", "stage3"]


@pytest.mark.parametrize(
    ("blocks", "expected"),
    [
        pytest.param([3, 1], "stage1.block1-3, stage2.block1", id="every stage"),
        pytest.param([[1, 2, 3, 5]], "stage1.block1-3,5", id="a gap"),
        pytest.param([[2, 4, 6], [1, 2, 4, 5]], "stage1.block2,4,6, stage2.block1-2,4-5",
                     id="gaps"),
        pytest.param([0, 0, [10, 11]], "stage3.block10-11", id="stages left out"),
    ],
)  # fmt: skip
def test_a_summary_names_all_sites(blocks: list[Any], expected: str) -> None:
    addresses = declared_addresses(declaration([12, 12, 12], blocks), "model")
    assert summary(addresses) == expected


@pytest.mark.parametrize(
    ("layer", "path"),
    [
        pytest.param("layer{stage}.{block0}.conv2", "layer3.1.conv2", id="from 1 and from 0"),
        pytest.param("stages.{stage0}.blocks.{block}.mix", "stages.2.blocks.2.mix", id="other way"),
    ],
)
def test_a_site_pattern_gives_the_path_of_a_layer(layer: str, path: str) -> None:
    (shipped,) = compose("model=resnet50").model.sites
    model = replace(compose("model=resnet50").model, sites=(replace(shipped, layer=layer),))
    found = {site.address: site.layer for site in list_sites(model)}
    assert found["stage3.block2"] == path


@pytest.mark.parametrize("layer", ["layer{depth}.conv2", "layer{0}.conv2", "layer{stage.conv2"])
def test_a_pattern_that_cannot_be_filled_is_named(layer: str) -> None:
    message = r"^model mine: the pattern .* may only use \{stage\}, \{block\}, \{stage0\} and"
    with pytest.raises(PfstudyError, match=message):
        list_sites(declared(pattern(layer)))


def test_a_site_carries_what_its_pattern_says() -> None:
    first = pattern(blocks=((1, 2), (2,)), kernel_size=(3, 5), norm_act=("bn2", "act2"))
    second = pattern("tokens.{block}", blocks=((), (1, 3)), layout="NLC", kernel_size=7)
    sites = list_sites(declared(first, second, downsample=("stage2.block2",)))
    assert [(s.address, s.layer, s.kernel_size, s.reduces) for s in sites] == [
        ("stage1.block1", "layer1.0.conv2", 3, False),
        ("stage1.block2", "layer1.1.conv2", 3, False),
        ("stage2.block1", "tokens.1", 7, False),
        ("stage2.block2", "layer2.1.conv2", 5, True),
        ("stage2.block3", "tokens.3", 7, False),
    ]
    assert [s.norm_act for s in sites[1:3]] == [("layer1.1.bn2", "layer1.1.act2"), ()]
    assert [s.pattern is first for s in sites] == [True, True, False, True, False]


def test_kernel_sizes_of_stages_are_as_many_as_stages() -> None:
    with pytest.raises(PfstudyError) as caught:
        list_sites(declared(pattern(kernel_size=(3, 5, 7))))
    assert str(caught.value) == "model mine: kernel_size lists 3 stages, but depths 2."
