"""Measures speed in fresh processes, on a device that nobody else of ours uses meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from pfstudy import lease
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
from pfstudy.launch.display import Display
from pfstudy.launch.pool import Pool
from pfstudy.launch.slots import available_cores
from pfstudy.schema.config import Speed
from pfstudy.speed import phase
from pfstudy.speed.setting import check_settings, describe_setting, setting_of
from pfstudy.speed.summary import Timings
from pfstudy.tasks import Device, place_of, visible_devices
from pfstudy.variant import Variant
from pfstudy.words import counted

BAR = "processes"
"""The bar that shows how many processes have measured."""

Keep = Callable[[Variant, Mapping[str, Any]], object]

_SIBLINGS = "/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"


def measure_speed(
    pool: Pool,
    display: Display,
    device: Device,
    variants: Sequence[Variant],
    keep: Keep,
    among: Sequence[Variant] = (),
) -> dict[str, str]:
    """Measure variants beside their baselines; those that cannot be measured stop no other.

    Several baselines of one setting are timed side by side first. The measurements of a backbone's
    networks then say in ``beside`` how long the backbone takes relative to the reference.

    Args:
        pool: Where the processes come from.
        display: Told of progress.
        device: Where to measure.
        variants: What to measure.
        keep: Called with every variant, baselines that were not asked for included, and its
            measurement, as soon as that is known.
        among: All variants of the command, as `pfstudy.speed.phase.group_baselines` takes them.

    Returns:
        Why not, by label, for those that cannot be measured.
    """
    problems: dict[str, str] = {}

    def fail(failed: Sequence[Variant], error: PfstudyError) -> None:
        display.note(f"speed could not be measured: {error}")
        for variant in failed:
            known = variant.label in problems
            setting = f" ({describe_setting(setting_of(variant.config.speed))})" if known else ""
            problems[f"{variant.label}{setting}"] = str(error)

    for settings in dict.fromkeys(variant.config.speed for variant in variants):
        try:
            check_device(settings, device)
        except PfstudyError as error:
            fail([v for v in variants if v.config.speed == settings], error)
            variants = [v for v in variants if v.config.speed != settings]
    place = {**place_of(device), "environment": describe_environment()}
    portions = phase.group_for_measuring(variants)
    announced = None
    with hold(display, device):
        beside = _time_baselines(pool, display, device, place, variants, among)
        while portions:
            portion = portions.pop(0)
            first, *others = portion
            settings = first[0].config.speed
            if announced != settings:
                announced = settings
                _announce(display, settings, portion, portions)
            try:
                results = _measure_portion(pool, display, device, place, portion)
            except PfstudyError as error:
                if len(others) > 1 and not _is_about(first[0], error):
                    # one of the others fails; the rest need not
                    portions[:0] = [[first, other] for other in others]
                    continue
                fail([failed for failed, *_ in others or [first]], error)
                continue
            found = beside.get((first[0].architecture_hash, settings))
            for shared, result in zip(portion, results, strict=True):
                for variant in shared:
                    keep(variant, result | ({"beside": found} if found else {}))
    return problems


def _time_baselines(
    pool: Pool,
    display: Display,
    device: Device,
    place: Mapping[str, Any],
    variants: Sequence[Variant],
    among: Sequence[Variant],
) -> dict[tuple[str, Speed], dict[str, Any]]:
    """Time the baselines of each setting side by side.

    Baselines that fail together are timed in pairs with the reference. If all pairs fail, the
    reference is left out.

    Returns:
        Content of the key ``beside``, by the baseline's identity and the setting.
    """
    found: dict[tuple[str, Speed], dict[str, Any]] = {}

    def time_together(portion: Sequence[Sequence[Variant]]) -> bool:
        try:
            results = _measure_portion(pool, display, device, place, portion, thorough=False)
        except PfstudyError as error:
            names = " and ".join(shared[0].config.model.name for shared in portion)
            display.note(f"{names} could not be timed side by side: {error}")
            return False
        for identity, timed in phase.describe_beside(portion, results).items():
            found[identity, portion[0][0].config.speed] = timed
        return True

    for portion in phase.group_baselines(variants, among):
        setting = describe_setting(setting_of(portion[0][0].config.speed))
        display.phase("speed", f"{counted(len(portion), 'backbone')} side by side, {setting}")
        while not time_together(portion) and len(portion) > 2:
            reference, *others = portion
            in_pairs = [time_together([reference, other]) for other in others]
            if any(in_pairs):
                break
            portion = others
    return found


def hold(display: Display, device: Device) -> AbstractContextManager[None]:
    """Keep other runs of ours off a device, as soon as those that use it have ended."""
    waiting = "waiting for other runs on this device to end"
    return lease.measuring(device.id, on_wait=lambda: display.note(waiting))


def call_pinned(
    pool: Pool, device: Device, num_threads: int, function: str, *arguments: Any, **options: Any
) -> Any:
    """Run a function in a fresh process that sees one device, its threads on cores of their own."""
    on_gpu = device.kind == "gpu"
    return pool.call(
        function,
        *arguments,
        environment=visible_devices([device]),
        cores=() if on_gpu else pinned_cores(available_cores(), num_threads),
        **options,
    )


def pinned_cores(cores: Sequence[int], num_threads: int) -> tuple[int, ...]:
    """The cores that threads are pinned to: of their own, the last ones; all if too few.

    Of cores that share one physical core the first is taken.
    """
    physical = [core for core in cores if core == min(_siblings(core) & {*cores}, default=core)]
    chosen = physical if len(physical) >= num_threads else list(cores)
    return tuple(chosen[-num_threads:]) if len(chosen) >= num_threads else tuple(cores)


def _siblings(core: int) -> set[int]:
    try:
        text = Path(_SIBLINGS.format(core=core)).read_text().strip()
    except OSError:
        return {core}
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found


def _announce(
    display: Display,
    settings: Speed,
    portion: Sequence[Sequence[Variant]],
    others: Sequence[Sequence[Sequence[Variant]]],
) -> None:
    alike = [portion, *(other for other in others if other[0][0].config.speed == settings)]
    number = sum(len(each) - 1 for each in alike)
    what = f"{counted(number, 'network')} beside the baseline" if number else "the baseline"
    display.phase("speed", f"{what}, {describe_setting(setting_of(settings))}")


def check_device(settings: Speed, device: Device) -> None:
    """Refuse settings that a device cannot be measured in.

    Raises:
        PfstudyError: It cannot.
    """
    check_settings(settings, device.kind)
    number = len(available_cores())
    if device.kind == "cpu" and settings.num_threads > number:
        raise PfstudyError(
            f"speed.num_threads is {settings.num_threads}, but this process may use "
            f"{counted(number, 'core')}."
        )


def _is_about(variant: Variant, error: PfstudyError) -> bool:
    """Whether an error names the variant, as those of networks do."""
    return str(error).startswith((f"{variant.label}: ", f"{variant.label} cannot "))


def _measure_portion(
    pool: Pool,
    display: Display,
    device: Device,
    place: Mapping[str, Any],
    portion: Sequence[Sequence[Variant]],
    *,
    thorough: bool = True,
) -> list[dict[str, Any]]:
    settings = portion[0][0].config.speed
    on_gpu = device.kind == "gpu"

    def measure(networks: Sequence[Variant], is_first: bool, seconds: float) -> Timings:
        function = "pfstudy.speed.measure:measure_in_process"
        cores = available_cores()
        asked = (list(networks), settings, on_gpu, cores, thorough and is_first, seconds)
        timings: Timings = call_pinned(pool, device, settings.num_threads, function, *asked)
        return timings

    def progress(number: int, widest: float) -> None:
        figures = _width(widest) if number > 1 else ""
        display.bar(BAR, number, settings.max_processes, figures)

    started = time.monotonic()
    display.bar(BAR, 0, settings.max_processes)
    try:
        results = phase.measure_portion(portion, measure, progress, place)
    finally:
        display.drop_bar(BAR)
    first = results[0]
    display.note(
        f"{first['device']}, {first['num_processes']} processes, "
        f"{_width(max(map(phase.relative_width, results)))}, "
        f"{time.monotonic() - started:.1f} s{_why_stopped(settings, first)}"
    )
    if phase.was_busy(first):
        display.note(
            f"others used {first['others_load']:.2f} {'of the GPU' if on_gpu else 'cores'} "
            f"meanwhile; the figures are marked; measure anew when it is idle"
        )
    return results


def _why_stopped(settings: Speed, measured: Mapping[str, Any]) -> str:
    """Say what ended measuring, if it was not that the intervals are narrow enough."""
    asked = f"{100 * settings.interval_width:g} % asked"
    return {
        "interval_width": "",
        "max_processes": f"; {asked}, ended by speed.max_processes={settings.max_processes}",
        "max_seconds": f"; {asked}, ended by speed.max_seconds={settings.max_seconds:g}",
    }[measured["stopped_by"]]


def _width(relative: float) -> str:
    return f"widest 95 % interval {100 * relative:.1f} % of its ratio"
