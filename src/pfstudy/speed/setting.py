"""What a measurement of speed is comparable by, in one place: its keys, its words, its limits."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any

from pfstudy import files
from pfstudy.environment import package_version
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config, Speed

KEYS = (
    *("batch_size", "layout", "dtype", "backend", "passes"),
    *("cache", "cuda_graph", "num_threads"),
)
"""Keys of a setting, in `Speed` and in every measurement."""

VERSION = "version"
"""Key of what computed: a library and its version."""

DRIVER = "driver"
"""Key of the version of the GPU's driver; ``None`` on a CPU, and where it is not known."""

MEASURING = "measuring"
"""Key of the version of the way in which time is taken; raise it where that changes figures."""

PLACE = ("device", "host")
"""What a measurement is comparable by besides."""

ALL_KEYS = (*PLACE, *KEYS, VERSION, DRIVER, MEASURING)
"""Keys of a complete setting."""

_MEASURING = 1
_WHERE_MISSING = {"passes": "forward", "cache": "warm", "cuda_graph": False, MEASURING: _MEASURING}
_COMPILERS = ("compile", "compile_max_autotune")


def setting_of(settings: Speed) -> dict[str, Any]:
    """What a measurement is comparable by, besides the device."""
    library = "onnxruntime" if settings.backend == "onnxruntime" else "torch"
    version = f"{library}{package_version(library)}"
    keys = {key: getattr(settings, key) for key in KEYS}
    return {**keys, VERSION: version, MEASURING: _MEASURING}


def complete_setting(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The setting of a measurement, device and host included.

    Keys that came later have, in older measurements, the value that was the only one then.
    """
    return {key: measured.get(key, _WHERE_MISSING.get(key)) for key in ALL_KEYS}


def name_setting(measured: Mapping[str, Any]) -> str:
    """Name a file after device, host and setting; what is as usual is not part of it."""
    setting = complete_setting(measured)
    driver, measuring = setting[DRIVER], setting[MEASURING]
    parts = [
        str(setting["device"]),
        str(setting["host"]),
        str(setting["dtype"]),
        str(setting["layout"]),
        f"b{setting['batch_size']}",
        f"t{setting['num_threads']}",
        str(setting["backend"]),
        "" if setting["passes"] == "forward" else str(setting["passes"]),
        "" if setting["cache"] == "warm" else "cold",
        "graph" if setting["cuda_graph"] else "",
        str(setting["version"] or ""),
        f"driver{driver}" if driver else "",
        "" if measuring == 1 else f"measuring{measuring}",
    ]
    return files.file_name("_".join(filter(None, parts)))


def device_name(config: Config) -> str:
    """What a config says of the device to measure on: ``auto``, ``cpu`` or ``gpu``."""
    wanted = config.speed.device
    return config.trainer.accelerator if wanted == "auto" else wanted


def expected_place(config: Config) -> dict[str, str]:
    """What a config alone says of where speed is measured: the host, and the kind of device."""
    kind = device_name(config)
    return {"host": platform.node()} | ({} if kind == "auto" else {"device_kind": kind})


def compiles(settings: Speed) -> bool:
    """Whether the backend is ``torch.compile`` in one of its modes."""
    return settings.backend in _COMPILERS


def describe_setting(setting: Mapping[str, Any], leave_out: Iterable[str] = ()) -> str:
    """Name device, threads, batch, layout, precision and backend, as every caption does.

    Args:
        setting: As `complete_setting` gives it.
        leave_out: Keys that are named elsewhere.
    """
    threads = setting["num_threads"]
    parts = {
        "device": setting.get("device"),
        "num_threads": f"{threads} thread{'' if threads == 1 else 's'}",
        "batch_size": f"batch {setting['batch_size']}",
        "layout": setting["layout"],
        "dtype": setting["dtype"],
        "backend": setting["backend"],
        "passes": {"forward": None, "forward_backward": "forward and backward"}[setting["passes"]],
        "cache": {"warm": None, "cold": "cold cache"}[setting["cache"]],
        "cuda_graph": "CUDA graph" if setting["cuda_graph"] else None,
    }
    left_out = set(leave_out)
    return ", ".join(str(text) for key, text in parts.items() if text and key not in left_out)


def check_settings(settings: Speed, device_kind: str | None = None) -> None:
    """Refuse what cannot be measured, before anything is.

    Args:
        settings: How to measure.
        device_kind: ``cpu`` or ``gpu`` where that is known.

    Raises:
        PfstudyError: A backend is not installed, or settings exclude each other.
    """
    if settings.max_processes < settings.num_processes:
        raise PfstudyError(
            f"speed.max_processes is {settings.max_processes}, but speed.num_processes, the least "
            f"number, is {settings.num_processes}."
        )
    if settings.backend == "onnxruntime":
        if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
            raise PfstudyError(
                "speed.backend=onnxruntime is not installed: pip install 'pfstudy[onnxruntime]'."
            )
        excluded = {
            "passes": "forward",
            "layout": "contiguous",
            "cuda_graph": False,
        }
        for key, value in excluded.items():
            if getattr(settings, key) != value:
                raise PfstudyError(
                    f"speed.backend=onnxruntime has no speed.{key}="
                    f"{str(getattr(settings, key)).lower()}; only {str(value).lower()}."
                )
        if settings.dtype == "bfloat16":
            raise PfstudyError(
                "speed.backend=onnxruntime computes no convolutions in bfloat16; use float32 or "
                "float16."
            )
    if settings.dtype == "tf32" and device_kind == "cpu":
        raise PfstudyError("speed.dtype=tf32 needs a GPU; CPUs compute in float32 or bfloat16.")
    if settings.cuda_graph:
        if device_kind == "cpu":
            raise PfstudyError("speed.cuda_graph=true needs a GPU; this would measure the CPU.")
        if settings.passes != "forward" or settings.backend != "eager":
            raise PfstudyError(
                "speed.cuda_graph=true replays a forward pass of backend eager; "
                "compile_max_autotune makes CUDA graphs by itself."
            )
    if settings.fallback and not compiles(settings):
        raise PfstudyError(
            f"speed.fallback=true is for backends that compile; speed.backend={settings.backend} "
            "does not."
        )


def check_segments(settings: Speed, device_kind: str | None = None) -> None:
    """Refuse settings in which the time within a pass cannot be seen.

    Args:
        settings: How to measure.
        device_kind: ``cpu`` or ``gpu`` where that is known.

    Raises:
        PfstudyError: It cannot.
    """
    if settings.fallback:
        raise PfstudyError(
            "the time within a pass is seen only of networks that compile; leave out "
            "speed.fallback=true."
        )
    if settings.backend == "compile_max_autotune" and device_kind == "gpu":
        raise PfstudyError(
            "the time within a pass cannot be seen with speed.backend=compile_max_autotune on a "
            "GPU, where it replays CUDA graphs; use compile."
        )
    if settings.backend == "onnxruntime":
        raise PfstudyError("the time within a pass cannot be seen with speed.backend=onnxruntime.")
    if settings.passes != "forward":
        raise PfstudyError("the time within a pass is that of speed.passes=forward alone.")
    if settings.cuda_graph or settings.cache != "warm":
        raise PfstudyError(
            "the time within a pass cannot be seen with speed.cuda_graph=true or speed.cache=cold."
        )
