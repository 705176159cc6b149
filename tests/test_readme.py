"""What the README tells a newcomer to type, typed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


def block(heading: str, language: str) -> str:
    """The first block of code below a heading."""
    section = README.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found, f"no block of {language} below {heading!r}"
    return found[1]


@pytest.fixture(scope="session")
def walk(
    executable: str, environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, str]]:
    """Type the commands below a heading in an empty directory; return it and what was printed."""
    path = f"{Path(executable).parent}{os.pathsep}{environment['PATH']}"

    @cache
    def run(heading: str) -> tuple[Path, str]:
        directory = tmp_path_factory.mktemp("walk")
        done = subprocess.run(
            ["sh", "-eu", "-c", block(heading, "sh")],
            cwd=directory,
            env={**environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return directory, done.stdout

    return run


@pytest.mark.slow
def test_bring_your_own_backbone(walk: Callable[[str], tuple[Path, str]]) -> None:
    directory, printed = walk("Bring your own backbone")
    assert re.search(r"original \(dwconv\) .* 1\.00\*? .* \+0\.00", printed)
    assert re.search(r"maxpool +3\.28 ", printed)
    assert len(list(directory.glob("runs/convnext_atto-*/seed0/record.json"))) == 2


@pytest.mark.slow
def test_bring_your_own_operation(walk: Callable[[str], tuple[Path, str]]) -> None:
    directory, printed = walk("Bring your own operation")
    accuracy = {
        name: float(top1)
        for name, top1 in re.findall(r"^ +(\w+)[^\n]* (\d+\.\d\d) +[+-]\d", printed, re.MULTILINE)
    }
    assert accuracy["roll"] > accuracy["identity"]  # it mixes positions, and that helps
    assert list(directory.glob("runs/resnet_digits-digits-roll-*/seed0/record.json"))


@pytest.mark.slow
def test_from_python(
    walk: Callable[[str], tuple[Path, str]], tmp_path: Path, environment: Mapping[str, str]
) -> None:
    directory, _ = walk("Bring your own operation")
    run = next(directory.glob("runs/*-original-*/seed0"))
    weights = "import pfstudy, torch; torch.save(pfstudy.build_network(pfstudy.compose("
    weights += "['paper=r50_max', 'data=synthetic'])).state_dict(), 'r50_max.pth')\n"
    code = weights + block("From Python", "python").replace("runs/SLUG-HASH/seed0", str(run))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Cost(params=14232232, macs=2239496192" in done.stdout
