from __future__ import annotations

import copy
import itertools
from collections import Counter
from functools import cache

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from configs import compose_sweep, config_loader
from pfstudy.errors import PfstudyError
from pfstudy.schema.compose import explain
from pfstudy.schema.designs import (
    DESIGNS,
    METRICS,
    choose_sites,
    draw_operations,
    natural_order,
    parse_constraints,
)
from pfstudy.schema.sweeps import expand_sweep

TWELVE = [f"stage1.block{block}" for block in range(1, 13)]


def blocks(*numbers: int) -> tuple[str, ...]:
    return tuple(f"stage1.block{number}" for number in numbers)


class TestChooseSites:
    @pytest.mark.parametrize(
        ("design", "expected"),
        [
            pytest.param("one_at_a_time", [[n] for n in range(1, 13)], id="one_at_a_time"),
            pytest.param(
                "pairs", [[n, m] for n in range(1, 12) for m in range(n + 1, 13)], id="pairs"
            ),
            pytest.param("from_front", [range(1, n + 1) for n in range(1, 13)], id="from_front"),
            pytest.param("from_back", [range(n, 13) for n in range(12, 0, -1)], id="from_back"),
            pytest.param("alternate", [range(1, 13, 2), range(2, 13, 2)], id="alternate"),
            pytest.param("all", [range(1, 13)], id="all"),
        ],
    )
    def test_a_design_of_twelve_sites(self, design: str, expected: list[list[int]]) -> None:
        assert choose_sites([design], TWELVE) == [blocks(*numbers) for numbers in expected]

    def test_sets_that_coincide_are_chosen_once(self) -> None:
        sites = TWELVE[:3]
        assert choose_sites(list(DESIGNS), sites) == [
            *(blocks(1), blocks(2), blocks(3)),
            *(blocks(1, 2), blocks(1, 3), blocks(2, 3)),
            blocks(1, 2, 3),
        ]

    def test_sets_that_were_listed_in_another_order_coincide(self) -> None:
        assert choose_sites(["from_front"], blocks(10, 2, 1)) == [
            blocks(10),
            blocks(2, 10),
            blocks(1, 2, 10),
        ]
        assert choose_sites(["all", "from_back"], blocks(2, 1)) == [blocks(1, 2), blocks(1)]

    @pytest.mark.parametrize("design", DESIGNS)
    def test_one_site_is_chosen_alone(self, design: str) -> None:
        expected = [] if design == "pairs" else [blocks(1)]
        assert choose_sites([design], blocks(1)) == expected

    def test_there_is_no_such_design(self) -> None:
        with pytest.raises(PfstudyError) as caught:
            choose_sites(["all", "from_font"], TWELVE)
        assert str(caught.value) == (
            "design 'from_font' does not exist; choose from: one_at_a_time, pairs, from_front, "
            "from_back, alternate, all, random. Did you mean 'from_front'?"
        )

    def test_the_natural_order_is_that_of_the_numbers(self) -> None:
        mixed = ["stage2.block1", "stage1.block10", "stage1", "stage10", "stage1.block9", "stage2"]
        assert sorted(mixed, key=natural_order) == [
            *("stage1", "stage1.block9", "stage1.block10", "stage2", "stage2.block1", "stage10")
        ]


class TestDrawOperations:
    def test_the_same_seed_draws_the_same_networks(self) -> None:
        operations = ["original", "maxpool", "avgpool"]
        drawn = [draw_operations(TWELVE, operations, 50, seed) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert all(list(network) == TWELVE for network in drawn[0])

    def test_more_of_them_begin_with_the_same(self) -> None:
        few, many = (draw_operations(TWELVE, ["conv", "maxpool"], n, 3) for n in (5, 20))
        assert many[:5] == few

    def test_no_two_are_the_same(self) -> None:
        """All networks that there are, with so many draws that chance alone repeats some."""
        sites, operations = TWELVE[:4], ["original", "maxpool", "avgpool"]
        drawn = {tuple(n.values()) for n in draw_operations(sites, operations, 3**4, seed=0)}
        assert drawn == set(itertools.product(operations, repeat=4))

    def test_every_operation_is_as_likely(self) -> None:
        drawn = draw_operations(TWELVE, ["original", "maxpool", "avgpool"], 300, seed=0)
        counts = Counter(operation for network in drawn for operation in network.values())
        assert all(counts[name] == pytest.approx(1200, abs=120) for name in counts)
        assert len(counts) == 3

    @pytest.mark.parametrize(
        ("operations", "number"),
        [
            pytest.param(["original", "maxpool"], 4, id="distinct"),
            pytest.param(["maxpool", "maxpool"], 1, id="named twice"),
        ],
    )
    def test_there_are_not_so_many(self, operations: list[str], number: int) -> None:
        draw_operations(TWELVE[:2], operations, number, seed=0)
        with pytest.raises(PfstudyError) as caught:
            draw_operations(TWELVE[:2], operations, number + 1, seed=0)
        assert str(caught.value) == (
            f"study.num_samples is {number + 1}, but {len(set(operations))} operations at 2 sites "
            f"make {number} networks."
        )


class TestConstraints:
    @pytest.mark.parametrize(
        ("text", "metric", "relation", "bound", "relative"),
        [
            pytest.param("sites <= 3", "sites", "<=", 3, False, id="sites"),
            pytest.param("macs<=2.5e9", "macs", "<=", 2.5e9, False, id="exponent, no spaces"),
            pytest.param(" params >= 1E+6 ", "params", ">=", 1e6, False, id="spaces around"),
            pytest.param("params <= 0.6x", "params", "<=", 0.6, True, id="relative"),
            pytest.param("activations > .5x", "activations", ">", 0.5, True, id="no leading zero"),
            pytest.param(
                "memory_traffic_bytes < 1e-1x", "memory_traffic_bytes", "<", 0.1, True, id="less"
            ),
        ],
    )
    def test_is_read(
        self, text: str, metric: str, relation: str, bound: float, relative: bool
    ) -> None:
        (found,) = parse_constraints([text])
        assert (found.metric, found.relation, found.bound, found.relative) == (
            *(metric, relation, bound, relative),
        )
        assert found.text == text

    @pytest.mark.parametrize("metric", METRICS)
    def test_every_metric_is_known(self, metric: str) -> None:
        assert parse_constraints([f"{metric} <= 1"])[0].metric == metric

    @pytest.mark.parametrize(
        "text",
        ["", "sites", "sites 3", "sites <= ", "sites = 3", "sites == 3", "3 >= sites", "macs <= x",
         "macs <= -1", "macs <= 2.5 e9", "macs <= 0.5 x", "macs <= 1 <= 2", "macs <= 2G",
         "macs <= 60%"],
    )  # fmt: skip
    def test_cannot_be_read(self, text: str) -> None:
        with pytest.raises(PfstudyError) as caught:
            parse_constraints(["sites <= 3", text])
        assert str(caught.value) == (
            f"study.constraints: {text!r} cannot be read; write METRIC <= NUMBER, or NUMBERx for a "
            "multiple of the backbone's; the metrics are sites, params, macs, activations, "
            "memory_traffic_bytes."
        )

    @pytest.mark.parametrize("text", ["macs <= 1.2.3", "macs <= .", "macs <= ..x"])
    def test_has_no_number(self, text: str) -> None:
        with pytest.raises(PfstudyError) as caught:
            parse_constraints([text])
        assert str(caught.value) == f"study.constraints: {text!r} has no number."

    def test_is_on_something_unknown(self) -> None:
        with pytest.raises(PfstudyError) as caught:
            parse_constraints(["parms <= 1e6"])
        assert str(caught.value) == (
            "study.constraints: the metric 'parms' does not exist; choose from: sites, params, "
            "macs, activations, memory_traffic_bytes. Did you mean 'params'?"
        )

    @pytest.mark.parametrize(
        ("text", "figure", "holds"),
        [
            pytest.param("macs <= 100", 100, True, id="at most, equal"),
            pytest.param("macs <= 100", 101, False, id="at most, more"),
            pytest.param("macs < 100", 100, False, id="less, equal"),
            pytest.param("macs < 100", 99, True, id="less"),
            pytest.param("macs >= 100", 100, True, id="at least, equal"),
            pytest.param("macs >= 100", 99, False, id="at least, less"),
            pytest.param("macs > 100", 100, False, id="more, equal"),
            pytest.param("macs > 100", 101, True, id="more"),
            pytest.param("macs <= 0.5x", 200, True, id="relative, equal"),
            pytest.param("macs <= 0.5x", 201, False, id="relative, more"),
            pytest.param("macs > 1x", 401, True, id="more than the backbone"),
        ],
    )
    def test_holds(self, text: str, figure: int, holds: bool) -> None:
        (constraint,) = parse_constraints([text])
        assert constraint.holds({"macs": figure}, {"macs": 400}) is holds

    def test_one_on_sites_needs_no_figure_of_the_baseline(self) -> None:
        (constraint,) = parse_constraints(["sites <= 2"])
        assert constraint.holds({"sites": 2}, {})
        assert not constraint.holds({"sites": 3}, {})


def spatial(*blocks: str, operation: str = "maxpool") -> list[str]:
    return [f"block.{block}.spatial={operation}" for block in blocks]


def jobs_of(*overrides: str) -> list[list[str]]:
    """The jobs of a sweep without what they share: the overrides of the study itself."""
    own = [override for override in overrides if override.startswith("study.")]
    rest = [override for override in overrides if override not in own]
    config = copy.deepcopy(sweep_config())
    parsed = OverridesParser.create().parse_overrides(own)
    ConfigLoaderImpl._apply_overrides_to_config(parsed, config)
    with config_loader() as loader:
        return expand_sweep(loader, config, {}, rest)


@cache
def sweep_config() -> DictConfig:
    with config_loader() as loader:
        return loader.load_configuration("config", [], run_mode=RunMode.MULTIRUN)


STAGES = ("site=stage1,stage2", "swap=maxpool,avgpool")


class TestJobs:
    """What a sweep is made of; ``resnet_digits`` has two stages of two blocks."""

    def test_a_design_begins_with_the_backbone(self) -> None:
        assert jobs_of("study.design=[one_at_a_time]", *STAGES) == [
            [],
            spatial("stage1"),
            spatial("stage1", operation="avgpool"),
            spatial("stage2"),
            spatial("stage2", operation="avgpool"),
        ]

    def test_designs_are_joined_and_what_coincides_is_asked_for_once(self) -> None:
        jobs = jobs_of(
            "study.design=[from_front,from_back,all]", "site=stage1,stage2", "swap=maxpool"
        )
        assert jobs == [[], spatial("stage1"), spatial("stage1", "stage2"), spatial("stage2")]

    def test_the_rest_of_a_sweep_is_around_its_design(self) -> None:
        jobs = jobs_of(
            "recipe.lr=0.1,0.2", "study.design=[all]", "site=stage1,stage2", "swap=maxpool"
        )
        both = spatial("stage1", "stage2")
        assert [(job[0], job[-len(both) :] == both) for job in jobs] == [
            ("recipe.lr=0.1", False),
            ("recipe.lr=0.1", True),
            ("recipe.lr=0.2", False),
            ("recipe.lr=0.2", True),
        ]

    def test_a_design_takes_the_sites_of_each_jobs_model(self) -> None:
        jobs = jobs_of(
            "model=resnet_digits,resnet50",
            "study.design=[one_at_a_time]",
            "site=glob(stage?)",
            "swap=maxpool",
        )
        assert [job[0] for job in jobs] == ["model=resnet_digits"] * 3 + ["model=resnet50"] * 5

    def test_drawn_networks_come_after_the_backbone(self) -> None:
        asked = (
            "study.design=[random]",
            "study.num_samples=5",
            "site=stage1.block1,stage1.block2,stage2.block1,stage2.block2",
            "swap=original,maxpool,avgpool",
        )
        jobs = jobs_of(*asked, "study.sample_seed=1")
        assert jobs[0] == []
        assert len({tuple(job) for job in jobs}) == len(jobs) == 6
        assert {len(job) for job in jobs[1:]} == {4}
        assert jobs == jobs_of(*asked, "study.sample_seed=1") != jobs_of(*asked)

    def test_listed_variants(self) -> None:
        jobs = jobs_of(
            "recipe.lr=0.1,0.2",
            "study.variants=['block.spatial=maxpool',"
            "'block.spatial=maxpool block.downsample=avgpool_conv']",
        )
        listed = [
            ["block.spatial=maxpool"],
            ["block.spatial=maxpool", "block.downsample=avgpool_conv"],
        ]
        assert jobs == [[f"recipe.lr={lr}", *own] for lr in (0.1, 0.2) for own in listed]

    def test_listed_variants_come_before_those_of_a_design(self) -> None:
        jobs = jobs_of(
            "study.variants=['block.spatial=dwconv']", "study.design=[one_at_a_time]", *STAGES
        )
        assert jobs[:3] == [["block.spatial=dwconv"], [], spatial("stage1")]

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            pytest.param(
                ["study.design=[all]", "swap=maxpool"],
                "study.design needs sites and operations, such as 'site=glob(stage?)' "
                "swap=maxpool,avgpool; site is not given.",
                id="no site",
            ),
            pytest.param(
                ["study.design=[all]", "site=glob(stage?)"],
                "study.design needs sites and operations, such as 'site=glob(stage?)' "
                "swap=maxpool,avgpool; swap is not given.",
                id="no swap",
            ),
            pytest.param(
                ["study.design=[all]", "site=[stage1,stage2]", "swap=maxpool"],
                "study.design makes the lists of sites itself; give site=SITE,SITE.",
                id="a list of sites",
            ),
            pytest.param(
                ["study.design=[all]", "site=[stage1],[stage1,stage2]", "swap=maxpool"],
                "study.design makes the lists of sites itself; give site=SITE,SITE.",
                id="lists of sites",
            ),
            pytest.param(
                ["study.design=[random]", *STAGES],
                "study.design=[random] needs study.num_samples=NUMBER.",
                id="no number",
            ),
            pytest.param(
                ["study.design=[random]", "study.num_samples=5", *STAGES],
                "study.num_samples is 5, but 2 operations at 2 sites make 4 networks.",
                id="not so many",
            ),
            pytest.param(
                ["study.variants=['block.spatial=maxpool,avgpool']"],
                "study.variants: block.spatial=maxpool,avgpool lists several values; a variant has "
                "one.",
                id="a variant with a list",
            ),
            pytest.param(
                ["study.design=[randon]", *STAGES],
                "design 'randon' does not exist; choose from: one_at_a_time, pairs, from_front, "
                "from_back, alternate, all, random. Did you mean 'random'?",
                id="no such design",
            ),
        ],
    )
    def test_is_refused(self, overrides: list[str], sentence: str) -> None:
        with pytest.raises(PfstudyError) as caught:
            jobs_of(*overrides)
        assert str(caught.value) == sentence

    def test_a_site_that_does_not_exist_is_named(self) -> None:
        with pytest.raises(HydraException) as caught:
            compose_sweep("study.design=[all]", "site=stage1,stage3", "swap=maxpool")
        assert str(explain(caught.value)).startswith(
            "block: the key 'stage3' does not exist; choose from: "
        )
