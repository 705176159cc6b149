from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from configs import variant_of
from measurements import ENVIRONMENT, SETTING
from pfstudy.errors import PfstudyError
from pfstudy.schema.operations import ORIGINAL
from pfstudy.speed import setting as setting_module
from pfstudy.speed.blocktable import (
    BlockTable,
    HeldOut,
    TableFinder,
    backbone_of,
    draw_mixed,
    list_operations,
    make_table,
    read_table,
    save_table,
    table_path,
    what_stands,
)
from pfstudy.speed.summary import (
    SegmentTimings,
    mean_load,
    over_processes,
    trimmed_error,
    trimmed_mean,
)
from pfstudy.variant import Variant, make_variant

BASELINE = variant_of()
SITES = list(BASELINE.operations)
OPERATIONS = (ORIGINAL, "maxpool", "avgpool")
COSTS = {
    ORIGINAL: (1.0, 2.0, 4.0, 2.0),
    "maxpool": (0.5, 1.5, 5.0, 1.0),
    "avgpool": (0.7, 1.1, 3.0, 0.5),
    "identity": (0.1, 0.1, 0.1, 0.1),
}
"""Milliseconds of every operation at each of the four sites."""
REST = 1.0
WHOLE = sum(COSTS[ORIGINAL]) + REST
NUM_ROUNDS = 5


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The torch of the tables is the one that is installed."""
    versions: Mapping[str, str] = ENVIRONMENT["versions"]
    monkeypatch.setattr(setting_module, "package_version", versions.get)


def network(stands: Sequence[str], variant: Variant = BASELINE) -> Variant:
    """A network by what stands at its sites."""
    sites = zip(variant.config.sites, stands, strict=True)
    changed = tuple(replace(site, operation=operation) for site, operation in sites)
    return make_variant(replace(variant.config, sites=changed), "content")


def segments_of(variant: Variant) -> list[float]:
    stands = what_stands(variant).values()
    return [*(COSTS[operation][place] for place, operation in enumerate(stands)), REST]


def timings(
    variants: Sequence[Variant], held_out: Sequence[Variant], seed: int, off: float = 0.0
) -> SegmentTimings:
    """What a process finds on a machine that gets faster and slower from round to round.

    Args:
        variants: The networks that are cut, the baseline first; marks make each slower by a tenth.
        held_out: Those that are not, as the baseline is a second time.
        seed: Of the machine.
        off: By how much, relatively, the times of held-out networks are no sum.
    """
    drift = np.random.default_rng(seed).uniform(0.5, 20, NUM_ROUNDS)
    segments = [(1.1 * drift[:, None] * segments_of(v)).tolist() for v in variants]
    totals = [drift * sum(segments_of(v)) / (1 + off) for v in held_out]
    return SegmentTimings(
        segments, [(drift * WHOLE).tolist(), *(t.tolist() for t in totals)], load=0.3 * seed
    )


UNIFORM = [network([operation] * 4) for operation in OPERATIONS]
MIXED = [
    network(["maxpool", "avgpool", ORIGINAL, "maxpool"]),
    network([ORIGINAL, "maxpool", "avgpool", ORIGINAL]),
]


def table_of(off: Sequence[float] = (0.0, 0.0), **setting: Any) -> BlockTable:
    """The table of all three operations, with two mixed networks beside it in every process."""
    processes = [timings(UNIFORM, MIXED, seed, each) for seed, each in enumerate(off)]
    held_out = [MIXED] * len(processes)
    return make_table(UNIFORM, held_out, processes, {**SETTING, **setting}, ENVIRONMENT)


def test_a_cell_is_a_share_of_the_time_of_the_baseline() -> None:
    table = table_of()
    assert table.sites == SITES
    for operation in OPERATIONS:
        found = [table.cells[site][operation] for site in SITES]
        assert found == pytest.approx([cost / WHOLE for cost in COSTS[operation]])
    assert table.rest == pytest.approx(REST / WHOLE)
    assert table.baseline == pytest.approx(1)
    assert (table.model, table.backbone) == ("resnet_digits", backbone_of(BASELINE))


def test_all_combinations_of_what_was_measured_are_predicted_exactly() -> None:
    table = table_of()
    for stands in itertools.product(OPERATIONS, repeat=4):
        found = table.predict(network(stands))
        assert found is not None
        expected = sum(segments_of(network(stands))) / WHOLE
        assert found.relative_latency == pytest.approx(expected)
        assert found.latency_ms == pytest.approx(expected * table.baseline_latency_ms)


def test_the_baseline_takes_what_it_took_without_marks() -> None:
    totals = [timings(UNIFORM, [], seed).totals_ms[0] for seed in range(2)]
    expected = float(np.median([np.median(total) for total in totals]))
    assert table_of().baseline_latency_ms == pytest.approx(expected)


def test_many_predictions_at_once_are_those_of_each() -> None:
    table = table_of()
    choices = list(itertools.product(range(3), repeat=4))
    found = table.predict_many(np.array(choices), OPERATIONS)
    for chosen, value in zip(choices, found, strict=True):
        single = table.predict(network([OPERATIONS[index] for index in chosen]))
        assert single is not None
        assert value == pytest.approx(single.relative_latency)


def test_many_networks_of_a_large_backbone_are_predicted_without_building_any() -> None:
    variant = variant_of("model=resnet50", "data=synthetic")
    generator = np.random.default_rng(0)
    shares_SO = generator.uniform(0.01, 0.1, (16, 4))
    operations = [*OPERATIONS, "identity"]
    cells = {
        site: dict(zip(operations, row.tolist(), strict=True))
        for site, row in zip(variant.operations, shares_SO, strict=True)
    }
    table = BlockTable({}, {}, "resnet50", backbone_of(variant), 100.0, 0.05, cells)
    choices = generator.integers(4, size=(10_000, 16))
    found = table.predict_many(choices, operations)
    assert found.shape == (10_000,)
    sums = [sum(shares_SO[site, chosen[site]] for site in range(16)) for chosen in choices[:20]]
    assert found[:20] == pytest.approx((np.array(sums) + 0.05) / (shares_SO[:, 0].sum() + 0.05))


def test_what_the_table_lacks_is_not_predicted() -> None:
    table = table_of()
    odd = network(["maxpool", "identity", "maxpool", "maxpool"])
    assert table.predict(odd) is None
    with pytest.raises(PfstudyError) as caught:
        table.predict_many(np.zeros((1, 4), dtype=int), [*OPERATIONS, "identity"])
    assert str(caught.value) == (
        "the block table has no identity at stage1.block1, but original, maxpool, avgpool; measure "
        "it with pfstudy speed table."
    )


def test_another_kernel_is_another_operation() -> None:
    assert table_of().predict(variant_of("block.spatial=maxpool", "block.kernel_size=5")) is None


def test_mixed_networks_show_how_far_the_table_is_off() -> None:
    table = table_of(off=[0.02, -0.01])
    assert [held.label for held in table.held_out] == [variant.label for variant in MIXED] * 2
    errors = [held.predicted / held.measured - 1 for held in table.held_out]
    assert errors == pytest.approx([0.02, 0.02, -0.01, -0.01])
    expected = float(np.sqrt(np.mean(np.square(errors))) * stats.t.ppf(0.975, 4))
    assert table.relative_error == pytest.approx(expected)
    found = table.predict(MIXED[0])
    assert found is not None
    assert found.low == pytest.approx(found.relative_latency * (1 - expected))
    assert found.high == pytest.approx(found.relative_latency * (1 + expected))


@pytest.mark.parametrize(
    ("measured_error", "predicted_error", "expected"),
    [
        pytest.param(0.0, 0.0, 0.05, id="of the table"),
        pytest.param(0.03, 0.0, 0.04, id="partly of what it is judged by"),
        pytest.param(0.2, 0.01, 0.01, id="at least its own noise"),
    ],
)
def test_the_interval_is_of_the_table_not_of_what_it_is_judged_by(
    measured_error: float, predicted_error: float, expected: float
) -> None:
    held = HeldOut("mixed", 1.05, 1.0, predicted_error, measured_error)
    table = replace(table_of(), held_out=(held,) * 4)
    assert table.relative_error == pytest.approx(expected * stats.t.ppf(0.975, 4))


@pytest.mark.parametrize("noise", [0.02, 0.08])
def test_what_noise_makes_of_figures_is_estimated(noise: float) -> None:
    """The errors that are said are about those that are seen over many tables."""
    found = []
    for seed in range(60):
        generator = np.random.default_rng(seed)
        clean = timings(UNIFORM, MIXED, seed)
        segments = np.asarray(clean.segments_ms)
        totals = np.asarray(clean.totals_ms)
        segments *= generator.normal(1, noise, segments.shape[:2])[..., None]
        totals *= generator.normal(1, noise, totals.shape)
        process = replace(clean, segments_ms=segments.tolist(), totals_ms=totals.tolist())
        table = make_table(UNIFORM, [MIXED], [process], SETTING, ENVIRONMENT)
        found.append(table.held_out[0])
    for which in ("predicted", "measured"):
        seen = np.std([getattr(held, which) for held in found], ddof=1)
        said = np.mean([getattr(held, f"{which}_error") for held in found]) * found[0].measured
        assert 0.5 < said / seen < 1.6


@pytest.mark.parametrize(("number", "is_known"), [(0, False), (2, False), (3, True)])
def test_too_few_mixed_networks_show_nothing(number: int, is_known: bool) -> None:
    held_out = tuple(HeldOut("mixed", 1.0, 1.01 + 0.01 * index) for index in range(number))
    table = replace(table_of(), held_out=held_out)
    assert (table.relative_error is not None) == is_known
    found = table.predict(MIXED[0])
    assert found is not None
    if is_known:
        assert found.low is not None
        assert found.high is not None
        assert found.low < found.relative_latency < found.high
    else:
        assert found.low is found.high is None


def test_what_others_used_is_averaged_over_processes() -> None:
    assert table_of(off=[0.0, 0.0, 0.0]).others_load == pytest.approx(0.3)
    assert table_of().max_load == BASELINE.config.speed.max_load


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        pytest.param([0.1, 0.3], 0.2, id="known"),
        pytest.param([None, 0.3], 0.3, id="known of one"),
        pytest.param([None, None], None, id="not known"),
        pytest.param([-0.1, 0.0], 0.0, id="rounded up to none"),
    ],
)
def test_what_others_used_may_not_be_known(
    loads: Sequence[float | None], expected: float | None
) -> None:
    found = mean_load(replace(timings(UNIFORM, [], 0), load=load) for load in loads)
    assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("between", "within"),
    [pytest.param(0.0, 0.05, id="rounds"), pytest.param(0.05, 0.02, id="processes")],
)
def test_the_error_over_processes_is_about_what_is_seen(between: float, within: float) -> None:
    """Of five processes with different numbers of rounds, many times over."""
    found = []
    for seed in range(300):
        generator = np.random.default_rng(seed)
        rounds = [
            1 + generator.normal(0, between) + generator.normal(0, within, number)
            for number in (10, 12, 14, 16, 18)
        ]
        found.append(over_processes(rounds))
    values, errors = np.array(found).T
    assert values.mean() == pytest.approx(1, abs=0.01)
    assert 0.9 < errors.mean() / values.std(ddof=1) < 1.6


def test_the_error_of_one_process_is_that_of_its_rounds() -> None:
    rounds = np.random.default_rng(0).normal(1, 0.1, (3, 20))
    value, error = over_processes([rounds])
    assert value == pytest.approx(trimmed_mean(rounds))
    assert error == pytest.approx(trimmed_error(rounds))


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    table = table_of(off=[0.01, 0.02])
    path = table_path(tmp_path, BASELINE, SETTING)
    assert path.relative_to(tmp_path).parts[:2] == ("speed", "tables")
    assert save_table(path, table) == table
    assert read_table(path) == table


def test_operations_that_are_measured_later_join_the_others(tmp_path: Path) -> None:
    path = table_path(tmp_path, BASELINE, SETTING)
    save_table(path, first_table())
    merged = save_table(path, second_table())
    assert read_table(path) == merged
    assert all(list(row) == [ORIGINAL, "maxpool", "identity"] for row in merged.cells.values())
    assert merged.held_out == (*first_table().held_out, *second_table().held_out)
    assert merged.predict(network(["maxpool", "identity", ORIGINAL, "maxpool"])) is not None


def plain_table(operations: Sequence[str], scale: float = 1.0) -> BlockTable:
    """A table without mixed networks, all of whose shares are scaled."""
    variants = [network([operation] * 4) for operation in operations]
    table = make_table(variants, [[]], [timings(variants, [], 1)], SETTING, ENVIRONMENT)
    cells = {a: {o: scale * share for o, share in row.items()} for a, row in table.cells.items()}
    return replace(table, cells=cells)


def first_table() -> BlockTable:
    held_out = (HeldOut("mixed before", 1.0, 0.98),)
    return replace(plain_table([ORIGINAL, "maxpool"]), held_out=held_out)


def second_table() -> BlockTable:
    held_out = (HeldOut("mixed", 1.0, 1.01),)
    return replace(plain_table([ORIGINAL, "identity"], scale=1.1), held_out=held_out)


def test_what_is_measured_again_is_replaced(tmp_path: Path) -> None:
    path = table_path(tmp_path, BASELINE, SETTING)
    save_table(path, replace(first_table(), held_out=(HeldOut("mixed", 1.0, 0.9),)))
    merged = save_table(path, second_table())
    assert merged.held_out == second_table().held_out
    assert {a: row[ORIGINAL] for a, row in merged.cells.items()} == {
        a: row[ORIGINAL] for a, row in second_table().cells.items()
    }


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [(0.3, 0.1, 0.3), (0.1, 0.3, 0.3), (None, 0.1, 0.1), (0.1, None, 0.1), (None, None, None)],
)
def test_what_others_used_is_not_forgotten(
    tmp_path: Path, first: float | None, second: float | None, expected: float | None
) -> None:
    path = table_path(tmp_path, BASELINE, SETTING)
    save_table(path, replace(first_table(), others_load=first))
    assert save_table(path, replace(second_table(), others_load=second)).others_load == expected
    assert read_table(path).others_load == expected


class TestFindTable:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        save_table(table_path(tmp_path, BASELINE, SETTING), table_of())
        return tmp_path

    @pytest.mark.parametrize(
        "place",
        [
            pytest.param({"host": "here"}, id="host"),
            pytest.param({"host": "here", "device": "Some CPU"}, id="host and device"),
            pytest.param({}, id="anywhere"),
        ],
    )
    def test_of_a_place(self, root: Path, place: Mapping[str, str]) -> None:
        assert TableFinder(root).find(MIXED[0], place) == table_of()

    @pytest.mark.parametrize(
        "place", [{"host": "elsewhere"}, {"host": "here", "device": "Another CPU"}]
    )
    def test_of_another_place(self, root: Path, place: Mapping[str, str]) -> None:
        assert TableFinder(root).find(MIXED[0], place) is None

    @pytest.mark.parametrize(
        "change",
        [
            {"batch_size": 8},
            {"layout": "channels_last"},
            {"dtype": "bfloat16"},
            {"backend": "compile"},
            {"num_threads": 2},
        ],
        ids=lambda change: next(iter(change)),
    )
    def test_of_another_setting(self, root: Path, change: dict[str, Any]) -> None:
        speed = replace(BASELINE.config.speed, **change)
        other = replace(BASELINE, config=replace(BASELINE.config, speed=speed))
        assert TableFinder(root).find(other, {"host": "here"}) is None
        save_table(table_path(root, BASELINE, SETTING | change), table_of(**change))
        found = TableFinder(root).find(other, {"host": "here"})
        assert found is not None
        assert found.setting == SETTING | change
        assert TableFinder(root).find(BASELINE, {"host": "here"}) == table_of()

    def test_of_another_torch(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(setting_module, "package_version", lambda name: "2.9.1")
        assert TableFinder(root).find(BASELINE, {"host": "here"}) is None

    def test_of_several_devices_one_must_be_chosen(self, root: Path) -> None:
        other = {"device": "Some GPU"}
        save_table(table_path(root, BASELINE, SETTING | other), table_of(**other))
        with pytest.raises(PfstudyError) as caught:
            TableFinder(root).find(MIXED[0], {"host": "here"})
        assert str(caught.value) == (
            "there are block tables of resnet_digits of several devices: Some CPU, Some GPU; "
            "choose with speed.device=cpu or speed.device=gpu, or remove from "
            f"{root / 'speed' / 'tables'} what is not wanted."
        )
        found = TableFinder(root).find(MIXED[0], {"host": "here", **other})
        assert found == table_of(**other)

    def test_of_other_images(self, root: Path) -> None:
        data = replace(BASELINE.config.data, image_size=16)
        other = make_variant(replace(BASELINE.config, data=data), "content")
        assert backbone_of(other) != backbone_of(BASELINE)
        assert TableFinder(root).find(other, {"host": "here"}) is None

    def test_of_another_recipe_and_dataset(self, root: Path) -> None:
        config = replace(BASELINE.config, recipe=replace(BASELINE.config.recipe, lr=3.0))
        assert TableFinder(root).find(make_variant(config, "other content"), {}) == table_of()


def test_an_operation_of_the_users_is_known_by_its_source() -> None:
    variant = network(["maxpool", ORIGINAL, ORIGINAL, ORIGINAL])
    (layer,) = variant.canonical["sites"]
    sites = {layer: {**variant.canonical["sites"][layer], "source": "0123456789abcdef"}}
    own = replace(variant, canonical={**variant.canonical, "sites": sites})
    assert list(what_stands(own).values()) == ["maxpool@01234567", *[ORIGINAL] * 3]
    assert own.operations == variant.operations


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param("{", "is damaged", id="cut"),
        pytest.param({"schema_version": 99}, "no block table that this version reads", id="schema"),
        pytest.param({"schema_version": 1}, "is damaged: it is no block table.", id="empty"),
        pytest.param(
            {"schema_version": 1, "held_out": []}, "is damaged: it is no block table.", id="parts"
        ),
        pytest.param(
            {"schema_version": 1, "held_out": [{"label": "x"}]},
            "is damaged: it is no block table.",
            id="held out",
        ),
    ],
)
def test_a_damaged_table_is_named(tmp_path: Path, content: Any, sentence: str) -> None:
    path = table_path(tmp_path, BASELINE, SETTING)
    path.parent.mkdir(parents=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(PfstudyError, match=sentence) as caught:
        TableFinder(tmp_path).find(BASELINE, {})
    assert str(caught.value).startswith(str(path))


def test_mixed_networks_are_drawn_of_what_is_measured() -> None:
    drawn = draw_mixed(UNIFORM, 200, np.random.default_rng(0))
    stand = [tuple(what_stands(variant).values()) for variant in drawn]
    assert {operation for row in stand for operation in row} == set(OPERATIONS)
    assert len(set(stand)) > 60  # of 81
    assert draw_mixed(UNIFORM, 200, np.random.default_rng(0)) == drawn
    assert all(table_of().predict(variant) is not None for variant in drawn[:10])


def test_operations_are_listed_with_the_backbones_own_first() -> None:
    cells = {"a": {"maxpool": 1.0, ORIGINAL: 1.0}, "b": {"avgpool": 1.0, "maxpool": 1.0}}
    assert list_operations(cells.values()) == [ORIGINAL, "maxpool", "avgpool"]
