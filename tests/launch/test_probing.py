from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from configs import compose, variant_of
from pfstudy.errors import ChildFailedError, PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Event
from pfstudy.launch.probe import probe_slots
from pfstudy.schema.config import Config
from pfstudy.tasks import Device

CPU = Device("cpu", "cpu", "Some CPU")
GPU = Device("gpu", "GPU-a", "Some GPU")


class Trials:
    """Stands in for a pool: says what trials of training found out, without training.

    Args:
        rates: Images per second, or an error, of every trial, by how many there are at a time.
    """

    def __init__(self, rates: Mapping[int, Sequence[Any]]) -> None:
        self.rates = rates
        self.options: list[Mapping[str, Any]] = []
        self._under_way = 0

    def start(self, function: str, *arguments: Any, **options: Any) -> None:
        assert function == "pfstudy.worker.trial:try_training"
        self.options.append(options)
        self._under_way += 1

    def events(self) -> Iterator[Event]:
        number, self._under_way = self._under_way, 0
        for rate in self.rates[number]:
            if isinstance(rate, str):
                details = {"reason": rate, "user": False}
                yield Event(None, "error", details)  # type: ignore[arg-type]
            else:
                details = {"value": SimpleNamespace(images_per_s=rate)}
                yield Event(None, "result", details)  # type: ignore[arg-type]


def chosen(
    trials: Trials, *devices: Device, num_cores: int = 4, config: Config | None = None
) -> tuple[Config, str]:
    """The config with the number that was chosen, and what was said."""
    said = io.StringIO()
    display = Display(Console(file=said, soft_wrap=True, highlight=False))
    found = probe_slots(
        trials,  # type: ignore[arg-type]
        display,
        variant_of(),
        config or compose(),
        devices or [CPU],
        range(num_cores),
    )
    return found, said.getvalue().strip()


class TestProbeSlots:
    def test_chooses_what_trains_most_images_together(self) -> None:
        config, said = chosen(Trials({1: [100], 2: [90, 95], 4: [50, 45, 40, 45]}))
        assert config.launcher.num_workers == 2
        assert said == "runs at a time and images/s together: 1: 100, 2: 185, 4: 180; chosen: 2"

    def test_trials_have_the_cores_that_runs_would_have(self) -> None:
        trials = Trials({1: [100], 2: [90, 95], 4: [0, 0, 0, 0]})
        chosen(trials)
        cores = [options["cores"] for options in trials.options]
        assert cores == [(0, 1, 2, 3), (0, 1), (2, 3), (0,), (1,), (2,), (3,)]
        seen = {options["environment"]["CUDA_VISIBLE_DEVICES"] for options in trials.options}
        assert seen == {""}

    def test_of_a_gpu_it_chooses_how_many_runs_share_it(self) -> None:
        trials = Trials({1: [100], 2: [100, 100], 4: [25, 25, 25, 25]})
        config, _ = chosen(trials, GPU)
        assert (config.launcher.slots_per_gpu, config.launcher.num_workers) == (2, "auto")
        seen = {options["environment"]["CUDA_VISIBLE_DEVICES"] for options in trials.options}
        assert seen == {"GPU-a"}

    def test_the_one_gpu_that_is_tried_has_its_share_of_the_cores(self) -> None:
        trials = Trials({1: [100], 2: [0, 0]})
        chosen(trials, GPU, Device("gpu", "GPU-b", "Some GPU"), num_cores=8)
        cores = [options["cores"] for options in trials.options]
        assert cores == [(0, 1, 2, 3), (0, 1), (2, 3)]
        seen = {options["environment"]["CUDA_VISIBLE_DEVICES"] for options in trials.options}
        assert seen == {"GPU-a"}

    def test_the_rest_of_the_config_stays(self) -> None:
        config, _ = chosen(Trials({1: [100], 2: [10, 10]}))
        assert config == replace(compose(), launcher=replace(compose().launcher, num_workers=1))

    def test_no_more_than_there_are_cores(self) -> None:
        config, _ = chosen(Trials({1: [100]}), num_cores=1)
        assert config.launcher.num_workers == 1

    def test_number_at_which_one_fails_is_not_chosen(self) -> None:
        config, said = chosen(Trials({1: [100], 2: [1000, "RuntimeError: out of memory"]}))
        assert config.launcher.num_workers == 1
        assert "1: 100, 2: 0; chosen: 1" in said

    def test_run_that_fails_alone_is_an_error(self) -> None:
        with pytest.raises(ChildFailedError, match="the paint is wet"):
            chosen(Trials({1: ["RuntimeError: the paint is wet"]}))

    def test_several_devices_per_run_are_refused(self) -> None:
        config = replace(compose(), trainer=replace(compose().trainer, devices=2))
        trials = Trials({})
        with pytest.raises(PfstudyError, match=r"launcher\.slots=auto needs trainer\.devices=1"):
            chosen(trials, config=config)
        assert trials.options == []
