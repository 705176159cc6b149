"""Which measurements of speed a table shows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pfstudy.errors import PfstudyError, unknown_name
from pfstudy.speed.setting import ALL_KEYS, PLACE, complete_setting, describe_setting


def choose_speed(records: Iterable[Mapping[str, Any]], wanted: Sequence[str]) -> dict[str, Any]:
    """Choose the setting of speed that a table shows.

    Args:
        records: As `pfstudy.store.read_records` yields them.
        wanted: ``KEY=VALUE``; a part of a device's or host's name is enough.

    Returns:
        The setting that most records have of those that fit.

    Raises:
        PfstudyError: There is no such key, or no measurement that fits; lists what there is.
    """
    found = [complete_setting(m) for record in records for m in record["speed"]]
    fitting = found
    for text in wanted:
        key, _, value = text.partition("=")
        if key not in ALL_KEYS:
            raise unknown_name("the setting of speed", key, ALL_KEYS)
        fitting = [setting for setting in fitting if _fits(key, value, setting[key])]
    if not fitting:
        known = dict.fromkeys(f"{describe_setting(s)} (host {s['host']})" for s in found)
        raise PfstudyError(
            f"no speed was measured with {' and '.join(wanted)}; measured were: "
            f"{'; '.join(known) or 'none'}."
        )
    return _most_common(fitting)


def common_setting(
    records: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]
) -> dict[str, Any]:
    """The setting, device included, in which most variants are measured; empty if none is.

    Args:
        records: As `pfstudy.store.read_records` yields them, one of every variant.
        wanted: What it should have, such as ``{"batch_size": 8}``, if any has it.
    """
    found = [complete_setting(measured) for record in records for measured in record["speed"]]
    fitting = [s for s in found if all(s.get(key) == value for key, value in wanted.items())]
    return _most_common(fitting or found) if found else {}


def measured_in(
    seeds: Iterable[Mapping[str, Any]], setting: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The measurement of a variant in a setting; empty without one."""
    measured = (m for record in seeds for m in record["speed"])
    return next((m for m in measured if complete_setting(m) == setting), {})


def _most_common(settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    counted = Counter(tuple(setting.items()) for setting in settings)
    return dict(counted.most_common(1)[0][0])


def _fits(key: str, wanted: str, value: Any) -> bool:
    written = str(value).lower()
    return wanted.lower() in written if key in PLACE else wanted.lower() == written
