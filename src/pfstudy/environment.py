"""What a run was done with, as far as it can be said without torch; taken once per sweep."""

from __future__ import annotations

import platform
import re
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = (
    *("pfstudy", "torch", "lightning", "timm", "torchmetrics", "wandb", "hydra-core"),
    *("triton", "onnxruntime", "nvidia-cudnn-cu12", "nvidia-cudnn-cu13"),
)

_NVIDIA = Path("/proc/driver/nvidia/version")


def describe_environment() -> dict[str, Any]:
    """Describe host, versions and the git commit of the working directory."""
    return {
        "host": platform.node(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpu_model": cpu_model(),
        "versions": {n: v for n in _PACKAGES if (v := package_version(n)) is not None},
        "git": _git(),
    }


def cpu_model() -> str:
    """Name of the processor, as the kernel gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def nvidia_driver() -> str | None:
    """Version of the driver of NVIDIA's GPUs, as the kernel gives it; ``None`` without one."""
    try:
        found = re.search(r"\s(\d+(\.\d+)+)\s", _NVIDIA.read_text())
    except OSError:
        return None
    return found[1] if found else None


def package_version(package: str) -> str | None:
    """Version of an installed package; ``None`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    def ask(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain", "--untracked-files=no"))}
