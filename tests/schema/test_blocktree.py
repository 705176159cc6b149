from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from pfstudy.errors import PfstudyError
from pfstudy.schema.blocktree import block_tree, register_resolver, site_values
from pfstudy.schema.sites import declared_addresses, summary

DOWNSAMPLE = ("stage2.block1",)


def addresses(*depths: int) -> list[str]:
    return declared_addresses({"depths": list(depths), "sites": [{}]}, "model")


SITES = addresses(2, 3)


def tree_with(**places: Any) -> dict[str, Any]:
    """The block tree of ``SITES`` with values at dotted places (``__`` for a dot)."""
    tree = OmegaConf.create(block_tree(SITES, DOWNSAMPLE))
    for place, value in places.items():
        OmegaConf.update(tree, place.replace("__", "."), value)
    return OmegaConf.to_container(tree, resolve=False)  # type: ignore[return-value]


def sites(tree: dict[str, Any]) -> dict[str, dict[str, Any]]:
    register_resolver()
    node = OmegaConf.create(tree)
    return dict(site_values(tree, SITES, lambda place: OmegaConf.select(node, place)))


def resolved_operations(tree: dict[str, Any]) -> dict[str, Any]:
    """What the resolved tree, the one that ``--resolve`` prints, shows at every block."""
    register_resolver()
    plain: Any = OmegaConf.to_container(OmegaConf.create(tree), resolve=True)
    return {
        address: plain[address.split(".")[0]][address.split(".")[1]]["spatial"] for address in SITES
    }


def test_only_root_and_reducing_stages_have_a_downsample() -> None:
    tree = block_tree(SITES, DOWNSAMPLE)
    assert "downsample" in tree
    assert "downsample" in tree["stage2"]
    assert "downsample" not in tree["stage1"]
    assert all("downsample" not in tree["stage2"][f"block{block}"] for block in (1, 2, 3))


def test_a_backbone_without_reducing_sites_has_no_downsample() -> None:
    assert "downsample" not in block_tree(SITES, ())


def test_the_roots_defaults_reach_every_site() -> None:
    expected = {"operation": "original", "kernel_size": None, "norm_act": "auto"}
    assert sites(block_tree(SITES, DOWNSAMPLE)) == dict.fromkeys(SITES, expected)


PRECEDENCE = [
    pytest.param({"spatial": "A"}, "A A A A A", id="root spatial reaches all"),
    pytest.param({"downsample": "D"}, "- - D - -", id="root downsample reaches reducing blocks"),
    pytest.param({"spatial": "A", "downsample": "D"}, "A A D A A",
                 id="at the root downsample beats spatial"),
    pytest.param({"stage2__spatial": "A"}, "- - A A A", id="stage beats root where it reduces"),
    pytest.param({"stage2__downsample": "D"}, "- - D - -", id="stage downsample"),
    pytest.param({"stage2__spatial": "A", "stage2__downsample": "D"}, "- - D A A",
                 id="at a stage downsample beats spatial"),
    pytest.param({"downsample": "D", "stage2__spatial": "A"}, "- - A A A",
                 id="a root downsample does not beat a stage's spatial"),
    pytest.param({"spatial": "A", "stage2__downsample": "D"}, "A A D A A",
                 id="a stage downsample beats a root spatial"),
    pytest.param({"downsample": "D", "stage2__downsample": "E"}, "- - E - -",
                 id="stage downsample beats root downsample"),
    pytest.param({"spatial": "A", "stage1__spatial": "B"}, "B B A A A", id="stage beats root"),
    pytest.param({"spatial": "A", "stage1__spatial": "B", "stage1__block2__spatial": "C"},
                 "B C A A A", id="block beats stage"),
    pytest.param({"downsample": "D", "stage2__downsample": "E", "stage2__block1__spatial": "C"},
                 "- - C - -", id="a block's own value beats every downsample"),
    pytest.param({"downsample": "D", "stage2__block2__spatial": "C"}, "- - D C -",
                 id="a block that keeps the resolution ignores downsample"),
    pytest.param({"spatial": "A", "stage2__spatial": "original"}, "A A - - -",
                 id="original at a stage is a value of its own"),
]  # fmt: skip


@pytest.mark.parametrize(("places", "expected"), PRECEDENCE)
def test_precedence_at_every_site(places: dict[str, str], expected: str) -> None:
    wanted = ["original" if name == "-" else name for name in expected.split()]
    found = sites(tree_with(**places))
    assert [values["operation"] for values in found.values()] == wanted


@pytest.mark.parametrize(("places", "expected"), PRECEDENCE)
def test_the_resolved_tree_shows_what_stands_at_every_site(
    places: dict[str, str], expected: str
) -> None:
    tree = tree_with(**places)
    assert resolved_operations(tree) == {a: v["operation"] for a, v in sites(tree).items()}


@pytest.mark.parametrize(("key", "value"), [("kernel_size", 5), ("norm_act", "keep")])
def test_kernel_and_norm_follow_block_before_stage_before_root(key: str, value: object) -> None:
    default = {"kernel_size": None, "norm_act": "auto"}[key]

    def found(place: str) -> list[object]:
        return [values[key] for values in sites(tree_with(**{place: value})).values()]

    assert found(key) == [value] * 5
    assert found(f"stage1__{key}") == [value] * 2 + [default] * 3
    assert found(f"stage2__block1__{key}") == [default] * 2 + [value] + [default] * 2


def test_a_tree_has_only_the_blocks_that_are_sites() -> None:
    known = ["stage1.block2", "stage3.block1", "stage3.block4"]
    tree = block_tree(known, ["stage3.block4"])
    register_resolver()
    node = OmegaConf.create(tree)
    OmegaConf.update(node, "downsample", "D")
    OmegaConf.update(node, "stage3.spatial", "A")
    plain: Any = OmegaConf.to_container(node, resolve=False)
    found = dict(site_values(plain, known, lambda place: OmegaConf.select(node, place)))
    assert {a: values["operation"] for a, values in found.items()} == {
        "stage1.block2": "original",
        "stage3.block1": "A",
        "stage3.block4": "A",
    }


def test_an_interpolation_of_the_user_is_resolved_where_it_stands() -> None:
    tree = tree_with(stage2__spatial="${..stage1.block1.spatial}", stage1__spatial="A")
    assert [v["operation"] for v in sites(tree).values()] == ["A"] * 5


@pytest.mark.parametrize(
    ("depths", "named"),
    [
        pytest.param((2, 2), "stage2.block3 is no site", id="ghost block"),
        pytest.param((2,), "stage2.block1 is no site", id="ghost stage"),
        pytest.param((2, 3, 1), "the block tree lacks stage3.block1", id="missing stage"),
        pytest.param((3, 3), "the block tree lacks stage1.block3", id="missing block"),
    ],
)
def test_the_tree_of_another_backbone_is_refused(depths: tuple[int, ...], named: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        list(site_values(block_tree(SITES, DOWNSAMPLE), addresses(*depths), lambda place: None))
    assert named in str(caught.value)
    assert summary(addresses(*depths)) in str(caught.value)
