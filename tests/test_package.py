"""The wheel: what it carries, and that it works where the repository is not."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def run(*command: str | Path, cwd: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as for a release, with the person's own settings of the package index."""
    directory = tmp_path_factory.mktemp("wheel")
    env = {**os.environ, "HOME": pwd.getpwuid(os.getuid()).pw_dir}
    build = (sys.executable, "-m", "build", "--wheel", "--outdir", directory, REPOSITORY)
    run(*build, cwd=directory, env=env)
    (found,) = directory.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory, environment: Mapping[str, str]
) -> Path:
    """A clean environment with the wheel; it borrows the dependencies of this one."""
    directory = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "venv", directory, cwd=directory, env=environment)
    pip = ("-m", "pip", "install", "--no-deps", "--no-index", wheel)
    run(directory / "bin" / "python", *pip, cwd=directory, env=environment)
    scheme = {"base": str(directory), "platbase": str(directory)}
    site_packages = Path(sysconfig.get_path("purelib", "venv", vars=scheme))
    assert site_packages.is_dir()
    # a .pth file in a directory that a .pth file adds is not read: no editable install shows
    borrowed = sysconfig.get_path("purelib")
    (site_packages / "borrowed.pth").write_text(f"{borrowed}\n")
    return directory


class TestWheel:
    @pytest.fixture
    def names(self, wheel: Path) -> set[str]:
        with zipfile.ZipFile(wheel) as archive:
            return set(archive.namelist())

    def test_carries_every_config(self, names: set[str]) -> None:
        conf = REPOSITORY / "conf"
        expected = {f"pfstudy/conf/{path.relative_to(conf)}" for path in conf.rglob("*.yaml")}
        assert expected
        assert {name for name in names if name.endswith(".yaml")} == expected

    def test_carries_every_module_and_the_plugins(self, names: set[str]) -> None:
        source = REPOSITORY / "src"
        expected = {str(path.relative_to(source)) for path in source.rglob("*.py")}
        assert "hydra_plugins/pfstudy/__init__.py" in expected
        assert {name for name in names if name.endswith(".py")} == expected

    def test_does_not_claim_the_namespace_of_all_plugins(self, names: set[str]) -> None:
        assert "hydra_plugins/__init__.py" not in names

    def test_carries_nothing_else(self, names: set[str]) -> None:
        tops = {name.partition("/")[0] for name in names}
        (metadata,) = {top for top in tops if top.endswith(".dist-info")}
        assert tops == {"pfstudy", "hydra_plugins", metadata}
        assert f"{metadata}/licenses/LICENSE" in names
        assert "pfstudy/py.typed" in names

    def test_names_the_command(self, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive:
            (path,) = [name for name in archive.namelist() if name.endswith("entry_points.txt")]
            assert "pfstudy = pfstudy.cli:main" in archive.read(path).decode()


class TestInstalled:
    def test_module_is_that_of_the_wheel(
        self, installed: Path, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        script = "import pfstudy, hydra_plugins.pfstudy as p; print(pfstudy.__file__, p.__file__)"
        python = installed / "bin" / "python"
        paths = run(python, "-c", script, cwd=tmp_path, env=environment).split()
        assert len(paths) == 2
        assert all(Path(path).is_relative_to(installed) for path in paths)

    def test_command_finds_the_configs_from_another_directory(
        self, installed: Path, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        command = (installed / "bin" / "pfstudy", "--cfg", "job", "--package", "model")
        shown = run(*command, "model=resnet50", cwd=tmp_path, env=environment)
        assert "timm: resnet50" in shown

    @pytest.mark.slow
    def test_command_trains_from_another_directory(
        self, installed: Path, tmp_path: Path, environment: Mapping[str, str]
    ) -> None:
        command = (installed / "bin" / "pfstudy", "-m", "block.spatial=conv,maxpool")
        quick = ("recipe.epochs=1", "speed=none", "logger=none")
        shown = run(*command, *quick, cwd=tmp_path, env=environment)
        assert "maxpool" in shown
        assert len(list((tmp_path / "runs").glob("*/seed0/record.json"))) == 2
