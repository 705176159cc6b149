from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import lightning as L  # noqa: N812
import pytest
import torch
from safetensors.torch import save_file

import pfstudy.worker.trial
from configs import compose, variant_of
from pfstudy import cost
from pfstudy.errors import PfstudyError
from pfstudy.launch.pool import PRELOAD, Pool
from pfstudy.module import Batch, Classifier
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config, Study
from pfstudy.speed.summary import Timings
from pfstudy.variant import Variant, make_variant
from pfstudy.worker.findings import Trial, Wanted
from pfstudy.worker.trial import _Clock, examine, find_misfits, try_training

ONCE = Wanted(seconds=1e-9)
ON_CPU = "trainer.accelerator=cpu"
MAXPOOL = "block.spatial=maxpool"
WIDE = ("model.args.channels=[256,512]", "recipe.batch_size=2", ON_CPU)
NARROW = ("recipe.batch_size=2", ON_CPU)

Said = list[tuple[str, Mapping[str, Any]]]


def quiet(kind: str, details: Mapping[str, Any]) -> None:
    pass


def listen(said: Said) -> Callable[[str, Mapping[str, Any]], None]:
    return lambda kind, details: said.append((kind, details))


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images of every training step."""
    found: list[int] = []
    step = Classifier.training_step

    def counted(self: Classifier, batch: Batch, batch_index: int) -> torch.Tensor:
        found.append(len(batch[1]))
        return step(self, batch, batch_index)

    monkeypatch.setattr(Classifier, "training_step", counted)
    return found


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


class TestTryTraining:
    def test_counts_the_batches_of_a_run(self) -> None:
        trial = try_training(variant_of(MAXPOOL, ON_CPU), 1e-9, quiet)
        # 1797 images, of which 500 are for the test and 150 for validation, 256 at a time
        assert trial.num_steps == (1797 - 500 - 150) // 64
        assert (trial.num_validation_batches, trial.num_test_batches) == (1, 2)

    def test_measures_something(self) -> None:
        trial = try_training(variant_of(MAXPOOL, ON_CPU), 1e-9, quiet)
        assert trial.seconds_per_step > 0
        assert trial.seconds_per_evaluation_batch > 0
        assert trial.seconds_to_start > 0
        assert trial.images_per_s > 0

    def test_two_steps_are_enough(self, sizes: list[int]) -> None:
        try_training(variant_of(MAXPOOL, ON_CPU), 1e-9, quiet)
        assert sizes == [64, 64]

    def test_goes_on_over_epochs_for_as_long_as_it_is_told(self, sizes: list[int]) -> None:
        variant = variant_of(MAXPOOL, ON_CPU, "recipe.batch_size=512")
        trial = try_training(variant, 3.0, quiet)
        assert trial.num_steps == 2
        assert len(sizes) > 2

    @pytest.mark.parametrize(("num_cores", "num_steps"), [(4, 4), (2, 3)])
    def test_first_batches_of_processes_that_read_are_not_timed(
        self, sizes: list[int], monkeypatch: pytest.MonkeyPatch, num_cores: int, num_steps: int
    ) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)))
        monkeypatch.setattr(pfstudy.worker.trial, "_MOST_WARMUP", float("inf"))
        try_training(variant_of(ON_CPU, "+data.num_workers=3"), 1e-9, quiet)
        assert len(sizes) == num_steps

    def test_image_files_are_read(self, folder: Path) -> None:
        data = ("data=imagefolder", f"data.path={folder}", "data.num_classes=3")
        sizes = ("data.image_size=8", "recipe.batch_size=8", "data.num_workers=1")
        trial = try_training(variant_of(*data, *sizes, "data.channels=3", ON_CPU), 1e-9, quiet)
        assert (trial.num_steps, trial.num_validation_batches, trial.num_test_batches) == (6, 1, 1)

    def test_nothing_is_written(self, tmp_path: Path) -> None:
        try_training(variant_of(MAXPOOL, ON_CPU), 1e-9, quiet)
        assert list(tmp_path.iterdir()) == []


class TestExamine:
    def test_cost_is_said_before_training(self, sizes: list[int]) -> None:
        variant = variant_of(MAXPOOL, ON_CPU)
        counted = cost(build_network(variant.config), (1, 8, 8))
        said: Said = []
        examine(variant, ONCE, listen(said))
        assert said[0] == ("cost", {"params": counted.params, "macs": counted.macs})

    def test_one_of_two_devices_takes_half_of_every_batch(self, sizes: list[int]) -> None:
        findings = examine(variant_of(ON_CPU), replace(ONCE, num_ranks=2), quiet)
        assert sizes == [32, 32]
        assert (findings.trial.num_steps, findings.trial.num_test_batches) == (17, 1)

    def test_batch_in_parts_takes_more_steps(self, sizes: list[int]) -> None:
        findings = examine(variant_of(ON_CPU), replace(ONCE, num_parts=2), quiet)
        assert set(sizes) == {32}
        assert (findings.trial.num_steps, findings.trial.num_test_batches) == (34, 2)

    def test_batch_that_cannot_be_shared_is_refused(self) -> None:
        said: Said = []
        with pytest.raises(PfstudyError, match="3 devices cannot share evenly"):
            examine(variant_of(ON_CPU), replace(ONCE, num_ranks=3), listen(said))
        assert said[-1] == ("failed", {"kind": "error"})

    def test_lack_of_memory_is_told_from_other_failures(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fill_up(*_: Any) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(Classifier, "training_step", fill_up)
        said: Said = []
        with pytest.raises(torch.OutOfMemoryError):
            examine(variant_of(ON_CPU), ONCE, listen(said))
        assert [kind for kind, _ in said] == ["cost", "failed"]
        assert said[-1][1] == {"kind": "memory"}

    def test_latency_is_that_of_the_sweeps_setting(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []
        monkeypatch.setattr(
            pfstudy.worker.trial,
            "measure_in_process",
            lambda variants, settings, on_gpu, cores, thorough, seconds, report: (
                asked.append((settings, on_gpu))
                or Timings([[2.0, 3.0, 4.0]], 0.0, [None], [None], [])
            ),
        )
        variant = variant_of(ON_CPU, "speed.batch_size=7")
        wanted = Wanted(1e-2, latency_on="cpu")
        assert examine(variant, wanted, quiet).latency_ms == 3.0
        (first, on_gpu), (second, _) = asked
        assert not on_gpu
        assert (first.batch_size, first.num_rounds) == (7, 1)
        assert (second.batch_size, second.num_rounds) == (7, 3)  # 10 ms of 3 ms each

    def test_latency_is_not_timed_unless_asked_for(self) -> None:
        assert examine(variant_of(ON_CPU), ONCE, quiet).latency_ms is None

    def test_network_that_cannot_be_timed_can_be_trained(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise RuntimeError("out of something")

        monkeypatch.setattr(pfstudy.worker.trial, "measure_in_process", refuse)
        findings = examine(variant_of(ON_CPU), replace(ONCE, latency_on="cpu"), quiet)
        assert findings.latency_ms is None
        assert findings.trial.num_steps == 17


def test_estimate_of_a_run() -> None:
    trial = Trial(
        seconds_per_step=0.5,
        images_per_s=1.0,
        seconds_per_evaluation_batch=2.0,
        seconds_between_epochs=0.25,
        seconds_to_start=3.0,
        num_steps=10,
        num_validation_batches=2,
        num_test_batches=4,
        peak_memory_bytes=0,
    )
    assert trial.seconds(1) == 3 + (10 * 0.5 + 2 * 2 + 0.25) + 4 * 2
    assert trial.seconds(3) - trial.seconds(2) == 9.25


class TestClock:
    """With a clock that is set by hand."""

    @pytest.fixture
    def time(self, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
        made = SimpleNamespace(now=0.0)
        made.perf_counter = lambda: made.now
        monkeypatch.setattr(pfstudy.worker.trial, "time", made)
        return made

    @staticmethod
    def make(seconds: float, num_warmup: int = 1) -> tuple[_Clock, L.Trainer]:
        trainer = cast(L.Trainer, SimpleNamespace(should_stop=False))
        return _Clock(seconds, num_warmup, 0.0, torch.device("cpu"), quiet), trainer

    @staticmethod
    def steps(clock: _Clock, trainer: L.Trainer, time: Any, ends: Sequence[float]) -> None:
        for time.now in ends:
            clock.on_train_batch_end(trainer)

    @staticmethod
    def validation(clock: _Clock, time: Any, start: float, ends: Sequence[float]) -> None:
        time.now = start
        clock.on_validation_start()
        for time.now in ends:
            clock.on_validation_batch_end()
        clock.on_validation_end()

    def test_steps_are_timed_with_what_is_between_them(self, time: SimpleNamespace) -> None:
        clock, trainer = self.make(100.0)
        clock.on_train_epoch_start()
        self.steps(clock, trainer, time, [5.0, 6.0, 9.0])
        self.validation(clock, time, 9.0, [11.0, 12.0])
        assert (clock.train_seconds, clock.num_timed) == (4.0, 2)
        assert clock.evaluation_seconds == [1.5]

    def test_what_is_between_epochs_is_neither_training_nor_validation(
        self, time: SimpleNamespace
    ) -> None:
        clock, trainer = self.make(100.0)
        clock.on_train_epoch_start()
        self.steps(clock, trainer, time, [5.0])
        self.validation(clock, time, 9.0, [12.0])
        time.now = 12.5
        clock.on_train_epoch_start()
        self.steps(clock, trainer, time, [14.0, 15.5])
        self.validation(clock, time, 15.5, [16.0])
        assert clock.between_seconds == [0.5]
        assert (clock.train_seconds, clock.num_timed) == (3.0, 2)
        assert clock.evaluation_seconds == [3.0, 0.5]

    def test_a_wave_of_batches_that_were_read_ahead_is_not_timed(
        self, time: SimpleNamespace
    ) -> None:
        clock, trainer = self.make(8.0, num_warmup=2)
        clock.on_train_epoch_start()
        self.steps(clock, trainer, time, [10.0, 10.5, 20.0])  # two processes, 10 s a batch
        assert trainer.should_stop
        self.validation(clock, time, 20.0, [21.0])
        assert (clock.train_seconds, clock.num_timed) == (9.5, 1)

    def test_stops_when_the_time_is_over(self, time: SimpleNamespace) -> None:
        clock, trainer = self.make(3.0)
        clock.on_train_epoch_start()
        stopped = []
        for end in (5.0, 6.0, 7.0, 8.0):
            self.steps(clock, trainer, time, [end])
            stopped.append(trainer.should_stop)
        assert stopped == [False, False, False, True]

    def test_warm_up_that_takes_very_long_is_cut_short(self, time: SimpleNamespace) -> None:
        clock, trainer = self.make(1.0, num_warmup=8)
        clock.on_train_epoch_start()
        self.steps(clock, trainer, time, [5.0, 10.0, 15.1, 20.0])
        assert trainer.should_stop
        self.validation(clock, time, 20.0, [21.0])
        assert clock.num_timed == 1


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with Pool(PRELOAD) as opened:
        yield opened


@pytest.fixture(scope="module")
def findings(pool: Pool) -> Mapping[str, Any]:
    """Of a wide and of a narrow network, by fresh processes."""
    found = {}
    for name, overrides in {"wide": WIDE, "narrow": NARROW}.items():
        said: Said = []
        found[name] = pool.call(
            "pfstudy.worker.trial:examine",
            variant_of(*overrides),
            Wanted(1e-9, latency_on="cpu"),
            on_report=listen(said),
            log=Path(os.devnull),
        )
        found[f"{name} params"] = dict(said)["cost"]["params"]
    return found


class TestInFreshProcesses:
    def test_memory_holds_weights_gradients_and_momentum(self, findings: Mapping[str, Any]) -> None:
        held = 3 * 4 * findings["wide params"]
        assert held > 1e8
        assert findings["wide"].trial.peak_memory_bytes > held

    def test_memory_of_a_small_network_is_small(self, findings: Mapping[str, Any]) -> None:
        """Without the pages of the libraries, which are 70 MB."""
        assert 0 < findings["narrow"].trial.peak_memory_bytes < 6e7

    @pytest.mark.parametrize("name", ["wide", "narrow"])
    def test_forward_pass_is_timed(self, findings: Mapping[str, Any], name: str) -> None:
        assert findings[name].latency_ms > 0


class TestFindMisfits:
    def find(self, *variants: Variant) -> dict[str, str]:
        found = find_misfits(variants, quiet)
        labels = {variant.hash: variant.label for variant in variants}
        return {labels[key]: reason for key, reason in found.items()}

    def test_names_those_that_do_not_fit_and_why(self) -> None:
        large = variant_of(MAXPOOL, "block.kernel_size=9")
        found = self.find(variant_of(), variant_of(MAXPOOL), large)
        assert list(found) == ["maxpool9x9"]
        assert found["maxpool9x9"].startswith("stage1.block1: kernel_size=9 is larger than")

    def test_checkpoint_may_fit_some_variants_alone(self, tmp_path: Path) -> None:
        maxpool, conv = compose(MAXPOOL), compose()
        save_file(build_network(maxpool).state_dict(), tmp_path / "weights.safetensors")
        variants = [
            make_variant(replace(config, init_from="weights.safetensors"), "content")
            for config in (maxpool, conv)
        ]
        assert list(self.find(*variants)) == ["original"]

    def test_backbone_that_is_wrong_is_not_the_variants_fault(self) -> None:
        config = compose(MAXPOOL)
        wrong = replace(config, model=replace(config.model, timm="no_such_model"))
        assert self.find(make_variant(wrong, "content")) == {}

    @pytest.mark.parametrize(
        ("constraint", "found"), [("sites <= 3", []), ("sites <= 4", ["maxpool9x9"])]
    )
    def test_what_is_dropped_is_not_looked_at(self, constraint: str, found: list[str]) -> None:
        config: Config = compose(MAXPOOL, "block.kernel_size=9")
        study = Study(constraints=(constraint,))
        assert list(self.find(make_variant(replace(config, study=study), "content"))) == found
