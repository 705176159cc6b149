from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from configs import variant_of
from pfstudy.speed import phase
from pfstudy.speed.summary import Timings
from pfstudy.variant import Variant

PLACE = {"host": "here", "device": "Some CPU", "device_kind": "cpu"}
MAXPOOL = "block.spatial=maxpool"
BLOCKS = [f"stage{stage}.block{block}" for stage in (1, 2) for block in (1, 2)]


class FakeMeasure:
    """Stands for fresh processes: every network is ``factor`` times as slow as the baseline.

    Args:
        factors: One for every network.
        between: By how much, relatively, processes differ.
        loads: Cores that others use in each process; the last one goes on.
        fell_back: Indices of the networks that do not compile, in the second process alone.
    """

    def __init__(
        self,
        factors: Sequence[float],
        between: float = 0.0,
        loads: Sequence[float | None] = (0.0,),
        fell_back: Sequence[int] = (),
    ) -> None:
        self.factors = factors
        self.between = between
        self.loads = loads
        self.fell_back = fell_back
        self.generator = np.random.default_rng(0)
        self.calls: list[list[str]] = []
        self.thorough: list[bool] = []
        self.seconds: list[float] = []

    def __call__(self, networks: Sequence[Variant], thorough: bool, seconds: float) -> Timings:
        number = len(self.calls)
        self.calls.append([network.label for network in networks])
        self.thorough.append(thorough)
        self.seconds.append(seconds)
        shifts = np.exp(self.generator.normal(0, self.between, len(self.factors)))
        nothing = [None] * len(self.factors)
        return Timings(
            [[2.0 * f * s] * 4 for f, s in zip(self.factors, shifts, strict=True)],
            load=self.loads[min(number, len(self.loads) - 1)],
            peak_memory_bytes=[round(1000 * f) for f in self.factors] if thorough else nothing,
            energy_j=[3 * f for f in self.factors] if thorough else nothing,
            fell_back=self.fell_back if number == 1 else (),
        )


def portion(*settings: str) -> list[list[Variant]]:
    """The baseline and all-maxpool."""
    (found,) = phase.group_for_measuring([variant_of(MAXPOOL, *settings)])
    return found


def measure(
    fake: FakeMeasure, *settings: str, place: dict[str, str] = PLACE
) -> list[dict[str, Any]]:
    return phase.measure_portion(portion(*settings), fake, lambda number, width: None, place)


def test_a_variant_is_measured_beside_its_baseline() -> None:
    baseline, maxpool = portion()
    assert [v.label for v in baseline] == ["original"]
    assert [v.label for v in maxpool] == ["maxpool"]


def test_a_baseline_alone_is_measured_once() -> None:
    ((shared,),) = phase.group_for_measuring([variant_of()])
    assert {v.hash for v in shared} == {variant_of().hash}


def test_variants_of_one_network_are_measured_once() -> None:
    variants = [variant_of(MAXPOOL), variant_of(MAXPOOL, "recipe.lr=0.3")]
    ((_, shared),) = phase.group_for_measuring(variants)
    assert shared == variants


def test_backbones_and_settings_are_measured_apart() -> None:
    variants = [
        variant_of(MAXPOOL),
        variant_of(MAXPOOL, "speed.batch_size=8"),
        variant_of("model=resnet18", "data=synthetic", MAXPOOL),
    ]
    portions = phase.group_for_measuring(variants)
    assert [networks[1] for networks in portions] == [[variant] for variant in variants]
    baselines = [networks[0][0] for networks in portions]
    assert [b.config.model.name for b in baselines] == ["resnet_digits"] * 2 + ["resnet18"]
    assert [b.config.speed.batch_size for b in baselines] == [1, 8, 1]


def test_many_variants_are_measured_in_portions_with_the_baseline_in_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(phase, "MOST_TOGETHER", 3)
    variants = [variant_of(f"block.{block}.spatial=maxpool") for block in BLOCKS]
    portions = phase.group_for_measuring(variants)
    assert [len(networks) for networks in portions] == [1 + 3, 1 + 1]
    assert all(networks[0][0].is_baseline for networks in portions)
    labels = [shared[0].label for networks in portions for shared in networks[1:]]
    assert labels == [variant.label for variant in variants]


def models(portion: Sequence[Sequence[Variant]]) -> list[str]:
    """The backbones of a portion; their baselines are its networks."""
    assert all(shared[0].is_baseline for shared in portion)
    return [shared[0].config.model.name for shared in portion]


class TestBaselines:
    DIGITS = ("resnet_digits", "mobilenet_digits", "vit_digits")

    def variants(self, *settings: str) -> list[Variant]:
        return [variant_of(f"model={model}", MAXPOOL, *settings) for model in self.DIGITS]

    def test_several_are_timed_side_by_side(self) -> None:
        (portion,) = phase.group_baselines([*self.variants(), variant_of(MAXPOOL)])
        assert models(portion) == [*self.DIGITS]

    def test_one_is_not(self) -> None:
        assert phase.group_baselines([variant_of(MAXPOOL), variant_of("recipe.lr=0.3")]) == []
        assert phase.group_baselines([]) == []

    def test_each_setting_has_its_own(self) -> None:
        variants = [*self.variants()[:2], *self.variants("speed.batch_size=8")[1:]]
        portions = phase.group_baselines(variants)
        assert [models(portion) for portion in portions] == [
            ["resnet_digits", "mobilenet_digits"],
            ["mobilenet_digits", "vit_digits"],
        ]
        batches = [{n[0].config.speed.batch_size for n in portion} for portion in portions]
        assert batches == [{1}, {8}]

    def test_those_of_other_images_are_not_compared(self) -> None:
        other = variant_of("model=resnet18", "data=synthetic", MAXPOOL)
        assert phase.group_baselines([variant_of(MAXPOOL), other]) == []

    def test_many_share_the_reference(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(phase, "MOST_TOGETHER", 1)
        portions = phase.group_baselines(self.variants())
        assert [models(portion) for portion in portions] == [
            ["resnet_digits", "mobilenet_digits"],
            ["resnet_digits", "vit_digits"],
        ]

    @pytest.mark.parametrize(
        ("measured", "expected"),
        [
            pytest.param(0, [["resnet_digits", "mobilenet_digits", "vit_digits"]], id="none"),
            pytest.param(1, [["resnet_digits", "mobilenet_digits", "vit_digits"]], id="reference"),
            pytest.param(2, [["resnet_digits", "vit_digits"]], id="all but the last"),
            pytest.param(3, [], id="all"),
        ],
    )
    def test_a_resumed_sweep_has_the_same_reference(
        self, measured: int, expected: list[list[str]]
    ) -> None:
        variants = self.variants()
        portions = phase.group_baselines(variants[measured:], among=variants)
        assert [models(portion) for portion in portions] == expected

    def test_the_reference_alone_is_not_timed_again(self) -> None:
        variants = self.variants()
        assert phase.group_baselines(variants[:1], among=variants) == []

    def test_their_times_relative_to_the_reference(self) -> None:
        (portion,) = phase.group_baselines(self.variants())
        fake = FakeMeasure([1.0, 0.5, 2.0], loads=[0.2])
        results = phase.measure_portion(portion, fake, lambda number, width: None, PLACE)
        reference, *others = (shared[0].architecture_hash for shared in portion)
        common = {"architecture": reference, "num_processes": 5, "others_load": 0.2}
        assert phase.describe_beside(portion, results) == {
            other: {
                **common,
                "max_load": 0.1,
                **dict.fromkeys(
                    ("relative_latency", "relative_latency_low", "relative_latency_high"), ratio
                ),
            }
            for other, ratio in zip(others, (0.5, 2.0), strict=True)
        }


def test_the_result_is_relative_to_the_baseline() -> None:
    fake = FakeMeasure([1.0, 0.75])
    baseline, maxpool = measure(fake, "speed.batch_size=4")
    assert fake.calls == [["original", "maxpool"]] * 5
    assert (baseline["latency_ms"], maxpool["latency_ms"]) == (2, 1.5)
    assert (baseline["relative_latency"], maxpool["relative_latency"]) == (1, 0.75)
    assert maxpool["relative_latency_low"] == maxpool["relative_latency_high"] == 0.75
    assert maxpool["throughput_images_per_s"] == pytest.approx(4 / 1.5e-3)
    assert maxpool["device"] == "Some CPU"
    assert maxpool["batch_size"] == 4


def test_memory_and_energy_are_found_out_in_the_first_process() -> None:
    fake = FakeMeasure([1.0, 0.75])
    baseline, maxpool = measure(fake)
    assert fake.thorough == [True, False, False, False, False]
    assert (baseline["peak_memory_bytes"], maxpool["peak_memory_bytes"]) == (1000, 750)
    assert (baseline["energy_j"], maxpool["energy_j"]) == (3, 2.25)


def test_a_network_that_falls_back_in_any_process_is_marked() -> None:
    baseline, maxpool = measure(FakeMeasure([1.0, 0.75], fell_back=[1]), "speed.backend=compile")
    assert (baseline["fell_back"], maxpool["fell_back"]) == (False, True)


@pytest.mark.parametrize(
    ("loads", "settings", "expected", "busy"),
    [
        pytest.param([0.0], [], 0.0, False, id="alone"),
        pytest.param([1.0, 0.0], [], 0.2, True, id="others in one process"),
        pytest.param([1.0, 0.0], ["speed.max_load=0.3"], 0.2, False, id="as much as may be"),
        pytest.param([0.1], [], 0.1, False, id="just as much as may be"),
        pytest.param([None], [], None, False, id="not known"),
    ],
)
def test_what_others_used_is_averaged_over_processes(
    loads: list[float | None], settings: list[str], expected: float | None, busy: bool
) -> None:
    for result in measure(FakeMeasure([1.0, 0.75], loads=loads), *settings):
        assert result["others_load"] == expected
        assert phase.was_busy(result) is busy


def test_a_measurement_that_knows_of_no_load_was_not_busy() -> None:
    assert not phase.was_busy({"latency_ms": 1.0})


@pytest.mark.parametrize(
    ("settings", "between", "number", "reason"),
    [
        pytest.param([], 0.0, 5, "interval_width", id="narrow at once"),
        pytest.param(["speed.num_processes=3"], 0.0, 3, "interval_width", id="least number"),
        pytest.param(["speed.interval_width=0.001"], 0.05, 10, "max_processes", id="never narrow"),
        pytest.param(["speed.max_processes=6"], 0.2, 6, "max_processes", id="the most"),
        pytest.param(["speed.max_seconds=1e-9"], 0.2, 2, "max_seconds", id="no time"),
    ],
)
def test_measuring_stops(settings: list[str], between: float, number: int, reason: str) -> None:
    fake = FakeMeasure([1.0, 0.75], between)
    for result in measure(fake, *settings):
        assert (result["num_processes"], result["stopped_by"]) == (number, reason)
    assert len(fake.calls) == number


def test_the_time_is_shared_among_the_processes() -> None:
    fake = FakeMeasure([1.0, 0.75], between=0.2)
    measure(fake, "speed.max_seconds=1000", "speed.max_processes=7")
    assert fake.seconds == pytest.approx([200, 250, 333, 500, 1000, 1000, 1000], rel=0.01)


def test_measuring_goes_on_until_the_widest_interval_is_narrow() -> None:
    fake = FakeMeasure([1.0, 0.75], between=0.02)
    told: list[tuple[int, float]] = []
    settings = ("speed.max_processes=60", "speed.interval_width=0.025")
    _, maxpool = phase.measure_portion(
        portion(*settings), fake, lambda *progress: told.append(progress), PLACE
    )
    assert maxpool["stopped_by"] == "interval_width"
    assert 5 < len(fake.calls) < 60
    assert [number for number, _ in told] == list(range(1, len(fake.calls) + 1))
    assert all(width > 0.025 for _, width in told[4:-1])
    width = maxpool["relative_latency_high"] - maxpool["relative_latency_low"]
    assert width / maxpool["relative_latency"] == pytest.approx(told[-1][1])
    assert told[-1][1] <= 0.025
