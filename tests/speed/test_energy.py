from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pfstudy.speed import energy
from pfstudy.speed.energy import energy_j, find_meter

CPU = torch.device("cpu")
RANGE_UJ = 10_000_000

Add = Callable[..., Path]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Add a counter to a pretended folder of the kernel's."""
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "_MIN_S", 0.0)

    def make(name: str, value: int = 0) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
        counter = tmp_path / name / "energy_uj"
        counter.write_text(f"{value}\n")
        return counter

    return make


def spend(counter: Path, joules: float) -> None:
    """What the kernel does: the counter begins anew where its range ends."""
    counter.write_text(f"{(int(counter.read_text()) + round(1e6 * joules)) % RANGE_UJ}\n")


def joules_of(step: Callable[[], object]) -> float:
    meter = find_meter(CPU)
    assert meter is not None
    return energy_j(step, meter, lambda: None)


def test_the_joules_of_a_step_are_counted(add: Add) -> None:
    counter = add("intel-rapl:0", 1_234_567)
    assert joules_of(lambda: spend(counter, 0.25)) == pytest.approx(0.25)


def test_a_counter_that_begins_anew_is_followed(add: Add) -> None:
    counter = add("intel-rapl:0", RANGE_UJ - 1_500_000)
    assert joules_of(lambda: spend(counter, 1)) == pytest.approx(1)


def test_packages_are_added_up_and_their_parts_left_out(add: Add) -> None:
    one, other, part = add("intel-rapl:0"), add("intel-rapl:1"), add("intel-rapl:0:0")

    def step() -> None:
        spend(one, 0.5)
        spend(other, 0.25)
        spend(part, 0.4)

    assert joules_of(step) == pytest.approx(0.75)


def test_what_was_spent_before_does_not_matter(add: Add) -> None:
    counter = add("intel-rapl:0")
    meter = find_meter(CPU)
    assert meter is not None
    spend(counter, 2)
    assert meter() == pytest.approx(2)
    assert energy_j(lambda: spend(counter, 0.5), meter, lambda: None) == pytest.approx(0.5)


def test_the_device_has_done_everything_when_the_counter_is_read(add: Add) -> None:
    """A GPU goes on computing after a step returns."""
    counter, given = add("intel-rapl:0"), [0.5]

    def synchronize() -> None:
        spend(counter, sum(given))
        given.clear()

    meter = find_meter(CPU)
    assert meter is not None
    assert energy_j(lambda: given.append(0.3), meter, synchronize) == pytest.approx(0.3)


def test_a_host_without_counters_has_no_meter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in (tmp_path, tmp_path / "gone"):
        monkeypatch.setattr(energy, "POWERCAP", directory)
        assert find_meter(CPU) is None


def test_parts_of_a_package_alone_are_no_meter(add: Add) -> None:
    add("intel-rapl:0:0")
    assert find_meter(CPU) is None


@pytest.mark.parametrize("content", [pytest.param(None, id="not allowed"), pytest.param("?")])
def test_counters_that_cannot_be_read_are_no_meter(add: Add, content: str | None) -> None:
    add("intel-rapl:0")
    counter = add("intel-rapl:1")
    if content is None:  # root may read anything but a directory
        counter.unlink()
        counter.mkdir()
    else:
        counter.write_text(content)
    assert find_meter(CPU) is None


@pytest.mark.parametrize(
    ("visible", "joules"),
    [pytest.param("0", 2.5, id="a GPU"), pytest.param("MIG-a", None, id="a part of one")],
)
def test_a_gpu_counts_its_energy_as_a_whole(
    monkeypatch: pytest.MonkeyPatch, visible: str, joules: float | None
) -> None:
    nvml = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID={"GPU-a": "first", "MIG-a": "first"}.__getitem__,
        nvmlDeviceGetTotalEnergyConsumption={"first": 2500}.__getitem__,
    )
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid="a"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    meter = find_meter(torch.device("cuda"))
    assert (meter and meter()) == joules
