from __future__ import annotations

import io
import itertools
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest
from rich.console import Console

from configs import variant_of
from pfstudy import lease
from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch import measure
from pfstudy.launch.display import Display
from pfstudy.launch.measure import measure_speed, pinned_cores
from pfstudy.launch.pool import Pool
from pfstudy.launch.slots import available_cores
from pfstudy.schema.config import Speed
from pfstudy.speed.summary import Timings
from pfstudy.tasks import Device
from pfstudy.variant import Variant

CPU = Device("cpu", "cpu", "Some CPU")
OPERATIONS = ("maxpool", "avgpool", "identity")


class FakePool:
    """Stands for fresh processes, in which some networks cannot be measured.

    Args:
        bad: Labels of networks that no process survives.
        load: Cores that others use.
    """

    def __init__(self, *bad: str, load: float = 0.0) -> None:
        self.bad = frozenset(bad)
        self.load = load
        self.calls: list[list[str]] = []
        self.cores: list[Sequence[int]] = []

    def call(
        self,
        function: str,
        networks: Sequence[Variant],
        settings: Speed,
        on_gpu: bool,
        counted: Sequence[int],
        thorough: bool,
        seconds: float,
        *,
        environment: Mapping[str, str],
        cores: Sequence[int],
    ) -> Timings:
        assert function == "pfstudy.speed.measure:measure_in_process"
        assert not lease.is_free(environment["CUDA_VISIBLE_DEVICES"] or "cpu")
        assert tuple(counted) == available_cores()
        assert 0 < seconds <= settings.max_seconds
        labels = [network.label for network in networks]
        self.calls.append(labels)
        self.cores.append(cores)
        if found := [label for label in labels if label in self.bad]:
            raise ChildFailedError(f"{found[0]}: its process was killed by SIGKILL")
        nothing = [None] * len(networks)
        rounds = [[1.0] * settings.num_rounds for _ in networks]
        return Timings(rounds, self.load, nothing, nothing, ())


class Outcome:
    """What became of measuring some variants with some pool.

    Args:
        pool: The pool.
        variants: The variants.
        device: Where to measure.
    """

    def __init__(self, pool: FakePool, variants: Sequence[Variant], device: Device = CPU) -> None:
        self.pool = pool
        self.kept: dict[str, Mapping[str, Any]] = {}
        said = io.StringIO()
        self.problems = measure_speed(
            cast(Pool, pool),
            Display(Console(file=said, width=300)),
            device,
            variants,
            lambda variant, measured: self.kept.update({variant.label: measured}),
        )
        self.said = said.getvalue()


def several(*operations: str) -> list[Variant]:
    return [variant_of(f"block.spatial={operation}") for operation in operations]


class Backbones(FakePool):
    """Stands for fresh processes, in which some backbones cannot be measured.

    Args:
        bad: Their names.
        most: Most networks that fit into a process.
    """

    def __init__(self, *bad: str, most: int = 99) -> None:
        super().__init__()
        self.backbones = frozenset(bad)
        self.most = most
        self.thorough: list[bool] = []

    def call(self, function: str, networks: Sequence[Variant], *others: Any, **options: Any) -> Any:
        names = [f"{n.config.model.name.partition('_')[0]} {n.label}" for n in networks]
        timings = super().call(function, networks, *others, **options)
        self.calls[-1] = names
        self.thorough.append(others[3])
        if any(n.config.model.name in self.backbones for n in networks) or len(names) > self.most:
            raise ChildFailedError("original: its process was killed by SIGKILL")
        return timings

    @property
    def portions(self) -> list[list[str]]:
        """What was timed together, in however many processes."""
        return [names for names, _ in itertools.groupby(self.calls)]


class TestBackbones:
    NAMES = ("resnet_digits", "mobilenet_digits", "vit_digits")
    SHORT = ("resnet", "mobilenet", "vit")
    TOGETHER: ClassVar[list[str]] = [f"{name} original" for name in SHORT]
    FAMILIES: ClassVar[list[list[str]]] = [[f"{n} original", f"{n} maxpool"] for n in SHORT]

    def measured(
        self, pool: Backbones, names: Sequence[str] = NAMES, known: Sequence[str] = ()
    ) -> tuple[dict[str, Any], dict[str, str], str]:
        """What is kept for each backbone's networks, the problems, and what was said."""
        variants = [variant_of(f"model={name}", "block.spatial=maxpool") for name in names]
        kept: dict[str, Any] = {}
        said = io.StringIO()
        problems = measure_speed(
            cast(Pool, pool),
            Display(Console(file=said, width=300)),
            CPU,
            [v for v in variants if v.config.model.name not in known],
            lambda v, m: kept.setdefault(v.config.model.name, []).append(m),
            variants,
        )
        return kept, problems, said.getvalue()

    def identity(self, name: str) -> str:
        return variant_of(f"model={name}").architecture_hash

    def references(self, kept: Mapping[str, Any]) -> dict[str, Any]:
        """The one reference of each backbone's measurements."""
        found = {}
        for name, measured in kept.items():
            (found[name],) = {m.get("beside", {}).get("architecture") for m in measured}
        return found

    def test_baselines_are_timed_side_by_side_first(self) -> None:
        pool = Backbones()
        kept, problems, said = self.measured(pool)
        assert pool.portions == [self.TOGETHER, *self.FAMILIES]
        assert problems == {}
        reference = self.identity("resnet_digits")
        assert self.references(kept) == {
            "resnet_digits": None,
            "mobilenet_digits": reference,
            "vit_digits": reference,
        }
        assert kept["vit_digits"][0]["beside"]["relative_latency"] == 1
        assert "speed  3 backbones side by side, 1 thread, batch 1, contiguous" in said

    def test_memory_and_energy_are_not_found_out_twice(self) -> None:
        pool = Backbones()
        self.measured(pool)
        assert pool.thorough == [False] * 5 + 3 * [True, *[False] * 4]

    def test_one_baseline_is_timed_with_its_variants_alone(self) -> None:
        pool = Backbones()
        kept, _, _ = self.measured(pool, self.NAMES[:1])
        assert pool.portions == self.FAMILIES[:1]
        assert "beside" not in kept["resnet_digits"][0]

    def test_a_new_backbone_of_a_sweep_is_timed_next_to_the_same_reference(self) -> None:
        pool = Backbones()
        kept, _, _ = self.measured(pool, known=self.NAMES[:2])
        assert pool.portions == [[self.TOGETHER[0], self.TOGETHER[2]], self.FAMILIES[2]]
        assert self.references(kept) == {"vit_digits": self.identity("resnet_digits")}

    def test_those_that_do_not_fit_together_are_timed_in_pairs(self) -> None:
        pool = Backbones(most=2)
        kept, problems, said = self.measured(pool)
        first, *others = self.TOGETHER
        assert pool.portions[:3] == [self.TOGETHER, *([first, other] for other in others)]
        reference = self.identity("resnet_digits")
        assert list(self.references(kept).values()) == [None, reference, reference]
        assert problems == {}
        assert (
            "resnet_digits and mobilenet_digits and vit_digits could not be timed side by side: "
            "original: its process was killed by SIGKILL" in said
        )

    @pytest.mark.parametrize(
        ("bad", "expected"),
        [
            pytest.param(
                "resnet_digits",
                {"mobilenet_digits": None, "vit_digits": "mobilenet_digits"},
                id="reference",
            ),
            pytest.param(
                "vit_digits",
                {"resnet_digits": None, "mobilenet_digits": "resnet_digits"},
                id="another one",
            ),
        ],
    )
    def test_a_backbone_that_fails_stops_no_other(
        self, bad: str, expected: Mapping[str, str | None]
    ) -> None:
        kept, problems, _ = self.measured(Backbones(bad))
        assert self.references(kept) == {
            name: reference and self.identity(reference) for name, reference in expected.items()
        }
        assert list(problems) == ["maxpool"]

    def test_two_that_fail_together_are_timed_apart(self) -> None:
        class Alone(Backbones):
            def call(self, function: str, networks: Sequence[Variant], *o: Any, **k: Any) -> Any:
                if len({n.config.model.name for n in networks}) > 1:
                    raise ChildFailedError("no.")
                return super().call(function, networks, *o, **k)

        kept, problems, _ = self.measured(Alone())
        assert problems == {}
        assert self.references(kept) == dict.fromkeys(self.NAMES)


def test_networks_are_measured_together_beside_the_baseline() -> None:
    outcome = Outcome(FakePool(), several(*OPERATIONS))
    assert outcome.pool.calls == [["original", *OPERATIONS]] * 5
    assert list(outcome.kept) == ["original", *OPERATIONS]
    assert outcome.problems == {}
    for measured in outcome.kept.values():
        assert (measured["host"], measured["device"]) == (platform.node(), "Some CPU")
        assert measured["environment"]["versions"]["torch"] in measured["version"]
    assert lease.is_free("cpu")


def test_what_is_measured_is_said() -> None:
    lines = [line.strip() for line in Outcome(FakePool(), several("maxpool")).said.splitlines()]
    assert lines[0] == (
        "speed  1 network beside the baseline, 1 thread, batch 1, contiguous, float32, eager"
    )
    assert lines[1].startswith("Some CPU, 5 processes, widest 95 % interval 0.0 % of its ratio, ")
    assert len(lines) == 2


@pytest.mark.parametrize("bad", OPERATIONS)
def test_a_network_that_fails_stops_no_other(bad: str) -> None:
    outcome = Outcome(FakePool(bad), several(*OPERATIONS))
    assert outcome.problems == {bad: f"{bad}: its process was killed by SIGKILL"}
    assert set(outcome.kept) == {"original", *OPERATIONS} - {bad}
    assert outcome.pool.calls[0] == ["original", *OPERATIONS]
    assert all(len(labels) == 2 for labels in outcome.pool.calls[1:])
    assert f"speed could not be measured: {bad}: its process was killed" in outcome.said
    assert lease.is_free("cpu")


def test_all_that_fail_are_named() -> None:
    outcome = Outcome(FakePool("maxpool", "identity"), several(*OPERATIONS))
    assert set(outcome.problems) == {"maxpool", "identity"}
    assert set(outcome.kept) == {"original", "avgpool"}


def test_a_baseline_that_fails_fails_all() -> None:
    outcome = Outcome(FakePool("original"), several(*OPERATIONS))
    assert set(outcome.problems) == set(OPERATIONS)
    assert outcome.kept == {}


def test_a_baseline_that_does_not_compile_is_not_tried_again() -> None:
    class NotCompiling(FakePool):
        def call(self, *arguments: Any, **options: Any) -> Timings:
            self.calls.append([])
            raise PfstudyError("original cannot be compiled.")

    outcome = Outcome(NotCompiling(), several(*OPERATIONS))
    assert len(outcome.pool.calls) == 1
    assert set(outcome.problems) == set(OPERATIONS)


def test_a_baseline_alone_that_fails_is_named() -> None:
    outcome = Outcome(FakePool("original"), [variant_of()])
    assert set(outcome.problems) == {"original"}
    assert outcome.pool.calls == [["original"]]


def test_a_setting_that_cannot_be_measured_costs_no_process() -> None:
    refused = variant_of("block.spatial=maxpool", "speed.cuda_graph=true")
    outcome = Outcome(FakePool(), [refused, *several("avgpool")])
    assert "speed.cuda_graph=true needs a GPU" in outcome.problems["maxpool"]
    assert {tuple(labels) for labels in outcome.pool.calls} == {("original", "avgpool")}
    assert outcome.said.count("speed could not be measured") == 1


def test_more_threads_than_cores_are_refused() -> None:
    outcome = Outcome(FakePool(), [variant_of("speed.num_threads=4096")])
    assert "speed.num_threads is 4096, but this process may use " in outcome.problems["original"]
    assert outcome.pool.calls == []


def test_what_becomes_of_a_figure_is_no_failure_of_measuring() -> None:
    def lose(variant: Variant, measured: Mapping[str, Any]) -> None:
        raise PfstudyError("the disk is full.")

    with pytest.raises(PfstudyError, match="the disk is full"):
        measure_speed(cast(Pool, FakePool()), Display(), CPU, several("maxpool"), lose)
    assert lease.is_free("cpu")


def test_an_error_that_is_no_users_is_not_hidden() -> None:
    class Broken(FakePool):
        def call(self, *arguments: Any, **options: Any) -> Timings:
            raise KeyError("bug")

    with pytest.raises(KeyError):
        Outcome(Broken(), several("maxpool"))
    assert lease.is_free("cpu")


def test_figures_of_a_busy_machine_are_marked() -> None:
    outcome = Outcome(FakePool(load=0.25), several("maxpool"))
    assert "others used 0.25 cores meanwhile; the figures are marked" in outcome.said
    assert outcome.kept["maxpool"]["others_load"] == 0.25


def test_threads_are_pinned_on_the_cpu_alone() -> None:
    assert {*Outcome(FakePool(), several("maxpool")).pool.cores} == {
        pinned_cores(available_cores(), 1)
    }
    gpu = Device("gpu", "GPU-a", "Some GPU")
    assert {*Outcome(FakePool(), several("maxpool"), gpu).pool.cores} == {()}


@pytest.fixture
def siblings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A pretended processor: write which cores share one physical core."""
    monkeypatch.setattr(measure, "_SIBLINGS", str(tmp_path / "{core}"))
    return tmp_path


@pytest.mark.parametrize(
    ("shared", "cores", "num_threads", "expected"),
    [
        pytest.param({}, (0, 1, 2, 3), 1, (3,), id="not told"),
        pytest.param({}, (0, 1, 2, 3), 2, (2, 3), id="two threads"),
        pytest.param({}, (0, 1), 4, (0, 1), id="too few cores"),
        pytest.param({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 1, 2, 3), 1, (2,), id="pairs"),
        pytest.param({0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 1, 2, 3), 2, (0, 2), id="both"),
        pytest.param(
            {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"}, (0, 1, 2, 3), 2, (0, 1), id="far apart"
        ),
        pytest.param(
            {0: "0-1", 1: "0-1", 2: "2-3", 3: "2-3"}, (0, 1, 2, 3), 3, (1, 2, 3), id="more threads"
        ),
        pytest.param(
            {1: "0-1", 2: "2-3", 3: "2-3"}, (1, 2, 3), 2, (1, 2), id="the other is not ours"
        ),
    ],
)
def test_threads_have_physical_cores_of_their_own(
    siblings: Path,
    shared: Mapping[int, str],
    cores: tuple[int, ...],
    num_threads: int,
    expected: tuple[int, ...],
) -> None:
    for core, text in shared.items():
        (siblings / str(core)).write_text(f"{text}\n")
    assert pinned_cores(cores, num_threads) == expected
