"""Trials with processes that are made up."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

import pfstudy.launch.trials
from configs import compose, variant_of
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Event, Pool
from pfstudy.launch.trials import Candidate, Trials, Tried
from pfstudy.schema.config import Launcher
from pfstudy.tasks import Device, Slot
from pfstudy.worker.findings import Findings, Trial, Wanted

CPU = Device("cpu", "cpu", "Some CPU")
GPU = Device("gpu", "GPU-1", "Some GPU")
TRIAL = Trial(1.0, 1.0, 1.0, 0.0, 0.0, 17, 1, 2, 1000)
COST = {"params": 10, "macs": 20}
LABELS = ("maxpool", "avgpool", "dwconv")


class FakePool:
    """Starts nothing; what happens to the processes is decided by the test.

    Args:
        answer: What happens to a process that tries a variant for a while: its last event.
    """

    def __init__(self, answer: Callable[[str, Wanted], Event]) -> None:
        self.answer = answer
        self.children: list[Any] = []
        self.started: list[tuple[str, Wanted, Mapping[str, Any]]] = []
        self.most = 0
        self._events: deque[Event] = deque()

    def start(self, function: str, variant: Any, wanted: Wanted, **options: Any) -> None:
        assert function == "pfstudy.worker.trial:examine"
        child: Any = SimpleNamespace(tag=options["tag"])
        self.children.append(child)
        self.most = max(self.most, len(self.children))
        self.started.append((variant.label, wanted, options))
        if wanted.seconds < float("inf"):
            self._events.append(Event(child, "cost", COST))
            last = self.answer(variant.label, wanted)
            if last.kind == "error":
                kind = {"kind": last.details.get("failure", "error")}
                self._events.append(Event(child, "failed", kind))
            self._events.append(replace(last, child=child))

    def next_event(self, timeout_s: float) -> Event | None:
        if not self._events:
            return None
        event = self._events.popleft()
        if event.is_last:
            self.children.remove(event.child)
        return event

    def kill(self, child: Any) -> None:
        reason = "its process was killed by SIGKILL"
        self._events.append(event("died", reason=reason, user=False, child=child))


def event(kind: str, *, child: Any = None, **details: Any) -> Event:
    return Event(child, kind, details)


def succeed(label: str, wanted: Wanted) -> Event:
    return event("result", value=Findings(TRIAL))


def cpu_slots(number: int) -> list[Slot]:
    return [Slot(f"cpu {index}", (CPU,), (index,)) for index in range(number)]


def run(
    pool: FakePool,
    slots: Sequence[Slot],
    labels: Sequence[str] = LABELS,
    *,
    times_latency: bool = False,
    speed_device: Device = CPU,
    console: Console | None = None,
    **launcher: Any,
) -> dict[str, Tried]:
    candidates = [
        Candidate(variant_of(f"block.spatial={label}"), times_latency) for label in labels
    ]
    settings: Launcher = replace(compose().launcher, **launcher)
    display = Display(console or Console(file=io.StringIO()))
    trials = Trials(cast(Pool, pool), display, slots, speed_device, 0.5, settings)
    return dict(zip(labels, trials.run(candidates), strict=True))


def test_every_variant_is_tried_once_and_as_long_as_asked() -> None:
    pool = FakePool(succeed)
    found = run(pool, cpu_slots(1))
    assert found == dict.fromkeys(LABELS, Tried(Findings(TRIAL), COST))
    assert [(label, wanted.seconds) for label, wanted, _ in pool.started] == [
        (label, 0.5) for label in LABELS
    ]


def test_as_many_processes_as_slots_on_their_cores() -> None:
    pool = FakePool(succeed)
    run(pool, cpu_slots(2))
    assert pool.most == 2
    assert {options["cores"] for _, _, options in pool.started} == {(0,), (1,)}
    assert {options["environment"]["CUDA_VISIBLE_DEVICES"] for *_, options in pool.started} == {""}


def test_slots_that_would_be_idle_train_as_well() -> None:
    pool = FakePool(succeed)
    found = run(pool, cpu_slots(3), LABELS[:1])
    company = [(label, tag) for label, wanted, tag in endless(pool)]
    assert company == [("maxpool", None), ("maxpool", None)]
    assert found["maxpool"].findings is not None


def endless(pool: FakePool) -> list[tuple[str, Wanted, Any]]:
    return [
        (label, wanted, options["tag"])
        for label, wanted, options in pool.started
        if wanted.seconds == float("inf")
    ]


def test_company_that_fails_is_not_started_again() -> None:
    class Failing(FakePool):
        def next_event(self, timeout_s: float) -> Event | None:
            idle = [child for child in self.children if child.tag is None]
            if idle:
                self.children.remove(idle[0])
                return event("error", child=idle[0], reason="RuntimeError", user=False)
            return super().next_event(timeout_s)

    pool = Failing(succeed)
    run(pool, cpu_slots(2), LABELS[:1])
    assert len(endless(pool)) == 1


def test_nothing_is_left_running() -> None:
    pool = FakePool(succeed)
    run(pool, cpu_slots(3), LABELS[:1])
    assert len(pool.children) == 2
    while pool.next_event(0.0):
        pass
    assert pool.children == []


class TestFailures:
    @pytest.mark.parametrize(
        ("last", "problem"),
        [
            (event("error", reason="it does not fit.", user=True), "it does not fit."),
            (event("error", reason="KeyError: 'x'", user=False), "KeyError: 'x'"),
            (
                event("died", reason="its process was killed by SIGSEGV", user=False),
                "its process was killed by SIGSEGV",
            ),
        ],
        ids=["refused", "failed", "died"],
    )
    def test_one_that_fails_leaves_the_others_alone(self, last: Event, problem: str) -> None:
        pool = FakePool(
            lambda label, wanted: last if label == "avgpool" else succeed(label, wanted)
        )
        found = run(pool, cpu_slots(2))
        assert found["avgpool"] == Tried(None, COST, 1, problem)
        assert [label for label in LABELS if found[label].findings] == ["maxpool", "dwconv"]

    def test_host_that_is_out_of_memory_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kills = iter([4, 5])
        monkeypatch.setattr(pfstudy.launch.trials, "count_oom_kills", lambda: next(kills))
        last = event("died", reason="its process was killed by SIGKILL", user=False)
        found = run(FakePool(lambda *_: last), cpu_slots(1), LABELS[:1])
        assert found["maxpool"].problem == (
            "its process was killed by SIGKILL, as the host was out of memory"
        )

    def test_what_hangs_is_ended(self) -> None:
        class Hanging(FakePool):
            def start(self, function: str, variant: Any, wanted: Wanted, **options: Any) -> None:
                self.children.append(SimpleNamespace(tag=options["tag"]))

        found = run(Hanging(succeed), cpu_slots(1), LABELS[:1], hung_minutes=1e-9)
        assert found["maxpool"].problem == "no progress for 0 s"


class TestLackOfMemory:
    @staticmethod
    def needs_parts(number: int) -> Callable[[str, Wanted], Event]:
        """Fit into memory if the batch is divided into so many parts."""

        def answer(label: str, wanted: Wanted) -> Event:
            if label == "avgpool" and wanted.num_parts < number:
                reason = "OutOfMemoryError: CUDA out of memory."
                return event("error", reason=reason, user=False, failure="memory")
            return succeed(label, wanted)

        return answer

    def test_is_a_failure(self) -> None:
        pool = FakePool(self.needs_parts(2))
        found = run(pool, cpu_slots(2))
        assert found["avgpool"].problem == "OutOfMemoryError: CUDA out of memory."
        assert {wanted.num_parts for _, wanted, _ in pool.started} == {1}

    def test_batch_is_divided_where_a_sweep_would(self) -> None:
        found = run(FakePool(self.needs_parts(4)), cpu_slots(1), halve_batch=True)
        assert found["avgpool"] == Tried(Findings(TRIAL), COST, 4)
        assert found["maxpool"].num_parts == 1

    def test_batch_that_cannot_be_divided_any_more(self) -> None:
        pool = FakePool(self.needs_parts(1000))
        found = run(pool, cpu_slots(1), halve_batch=True)
        assert found["avgpool"].problem is not None
        tried = [wanted.num_parts for label, wanted, _ in pool.started if label == "avgpool"]
        assert tried == [1, 2, 4, 8, 16, 32, 64]


class TestDevices:
    def test_ranks_share_a_slot(self) -> None:
        pool = FakePool(succeed)
        second = Device("gpu", "GPU-2", "Some GPU")
        run(pool, [Slot("gpu 0,1", (GPU, second))], LABELS[:1])
        ((_, wanted, options),) = pool.started
        assert (wanted.num_ranks, wanted.devices) == (2, ("GPU-1", "GPU-2"))
        assert options["environment"] == {"CUDA_VISIBLE_DEVICES": "GPU-1,GPU-2"}

    @pytest.mark.parametrize(
        ("trained_on", "timed_on", "visible", "latency_on"),
        [
            (CPU, CPU, "", "cpu"),
            (GPU, GPU, "GPU-1", "gpu"),
            (GPU, CPU, "GPU-1", "cpu"),
            (CPU, GPU, "GPU-1", "gpu"),
        ],
    )
    def test_forward_pass_has_its_device(
        self, trained_on: Device, timed_on: Device, visible: str, latency_on: str
    ) -> None:
        pool = FakePool(succeed)
        slots = [Slot("a slot", (trained_on,))]
        run(pool, slots, LABELS[:1], times_latency=True, speed_device=timed_on)
        ((_, wanted, options),) = pool.started
        assert options["environment"]["CUDA_VISIBLE_DEVICES"] == visible
        assert wanted.latency_on == latency_on
        assert wanted.devices == (trained_on.id,)

    def test_forward_pass_that_is_known_is_not_timed(self) -> None:
        pool = FakePool(succeed)
        run(pool, cpu_slots(1), LABELS[:1])
        assert pool.started[0][1].latency_on is None


def test_notes_are_shown() -> None:
    class Noting(FakePool):
        def next_event(self, timeout_s: float) -> Event | None:
            if self.children and self.children[0].tag is not None and not self.noted:
                self.noted = True
                return event("note", child=self.children[0], text="waiting for somebody")
            return super().next_event(timeout_s)

        noted = False

    written = io.StringIO()
    run(Noting(succeed), cpu_slots(1), LABELS[:1], console=Console(file=written))
    assert written.getvalue().strip() == "waiting for somebody"
