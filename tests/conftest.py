"""What the tests share: configs composed in this process, and real sweeps through the console."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import pytest

from pfstudy.schema.config import Config
from records import make_record

QUICK_SPEED = (
    *("speed.num_processes=2", "speed.max_processes=2", "speed.num_rounds=3"),
    "speed.max_load=99",  # other tests run meanwhile
)

Call = Callable[..., tuple[int | str | None, str, str]]
Pfstudy = Callable[..., subprocess.CompletedProcess[str]]
PfstudyTogether = Callable[
    [Mapping[str, tuple[Path, Sequence[str]]]], dict[str, subprocess.CompletedProcess[str]]
]


@pytest.fixture
def record() -> Callable[..., dict[str, Any]]:
    """Makes a record of a run."""
    return make_record


@pytest.fixture
def call_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Call]:
    """Call the command line in this process and an empty directory: exit code, output, errors."""
    from pfstudy import cli

    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> tuple[int | str | None, str, str]:
        monkeypatch.setattr(sys, "argv", ["pfstudy", *arguments])
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def _server() -> Iterator[Any]:
    import wandb_server

    with wandb_server.serve_logged_in() as server:
        yield server


@pytest.fixture
def server(_server: Any) -> Any:
    """A W&B that nobody else has been at, with somebody logged in."""
    _server.clear()
    return _server


@pytest.fixture(scope="session", autouse=True)
def _nobody_is_logged_in(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep a person's W&B login, settings and leases out of the tests, and the tests out of W&B."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("WANDB_", "PFSTUDY_", "HYDRA_")) or name == "NETRC":
                patch.delenv(name)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("PFSTUDY_LEASE_DIR", str(tmp_path_factory.mktemp("leases")))
        patch.setenv("WANDB_ERROR_REPORTING", "false")
        yield


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_works() -> None:
    """A job in the background inherits that Ctrl-C is ignored, and so would the real sweeps."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Compute on one thread: two of them wait for each other where the cores are shared."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _operations_stay_as_they_are() -> Iterator[None]:
    """What a module has imported of a user's operations is none of the next one's business."""
    from pfstudy.schema import imports, operations

    known, places = dict(operations.OPERATIONS), dict(operations.REGISTERED_IN)
    before, search_path = set(sys.modules), list(sys.path)
    yield
    new = {name: place for name, place in operations.REGISTERED_IN.items() if name not in places}
    files = {str(Path(place)) for place in new.values()}
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) in files:
            del sys.modules[name]
    if new:
        operations.OPERATIONS.clear()
        operations.OPERATIONS.update(known)
        operations.REGISTERED_IN.clear()
        operations.REGISTERED_IN.update(places)
        sys.path[:] = search_path
        imports._import.cache_clear()


@pytest.fixture(scope="session")
def executable() -> str:
    """The console script of the environment that runs the tests."""
    return str(Path(sys.executable).with_name("pfstudy"))


@pytest.fixture(scope="session")
def environment(_nobody_is_logged_in: None) -> Mapping[str, str]:
    """The environment of real sweeps: they see no GPU, so that they are the same everywhere."""
    return {**os.environ, "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="session")
def pfstudy(executable: str, environment: Mapping[str, str]) -> Pfstudy:
    """Run ``pfstudy`` in a directory, with further variables, until it ends."""

    def run(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [executable, *arguments]
        # files, not pipes, so that no process left behind delays the end
        with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
            code = subprocess.run(
                command,
                cwd=directory,
                env={**environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                timeout=300,
                check=False,
            ).returncode
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(command, code, out.read(), err.read())

    return run


@pytest.fixture(scope="session")
def pfstudy_together(pfstudy: Pfstudy) -> PfstudyTogether:
    """Run several commands at the same time, each in its directory: they mostly import."""

    def run(
        commands: Mapping[str, tuple[Path, Sequence[str]]],
    ) -> dict[str, subprocess.CompletedProcess[str]]:
        with ThreadPoolExecutor(max_workers=3) as pool:
            running = {
                name: pool.submit(pfstudy, directory, *arguments)
                for name, (directory, arguments) in commands.items()
            }
        return {name: ended.result() for name, ended in running.items()}

    return run


@pytest.fixture(scope="session")
def quick_speed() -> tuple[str, ...]:
    """Settings by which the speed phase takes no time, and says nothing."""
    return QUICK_SPEED


MY_OPS = """
from pfstudy import Operation, register


def mine(layer):
    from torch import nn  # here, so that the command itself need not import it

    return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding)


register(Operation("mine", mine, trainable=False))
"""


@dataclass(frozen=True)
class OwnSweep:
    """A real sweep over the backbone and an operation of the user's, one epoch each.

    Attributes:
        directory: The working directory: ``my_ops.py`` and ``runs``.
        done: The command, which has ended.
    """

    directory: Path
    done: subprocess.CompletedProcess[str]

    def run_dir(self, label: str) -> Path:
        """The run directory of ``original`` or ``mine``."""
        (found,) = self.directory.glob(f"runs/resnet_digits-digits-{label}-*/seed0")
        return found

    def weights(self, label: str) -> str:
        """The weights of ``original`` or ``mine``, from the working directory."""
        path = self.run_dir(label) / "checkpoints" / "last.safetensors"
        return str(path.relative_to(self.directory))


@pytest.fixture(scope="session")
def own_sweep(tmp_path_factory: pytest.TempPathFactory, pfstudy: Pfstudy) -> OwnSweep:
    """Train the backbone and a variant with a user's operation, and measure their speed."""
    directory = tmp_path_factory.mktemp("own")
    (directory / "my_ops.py").write_text(MY_OPS)
    grid = ("imports=[my_ops]", "block.spatial=original,mine", "recipe.epochs=1", "logger=none")
    return OwnSweep(directory, pfstudy(directory, "-m", *grid, *QUICK_SPEED))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """Compose a config from overrides, without a command line."""
    from hydra import compose, initialize_config_dir

    from pfstudy.schema.compose import config_of
    from pfstudy.schema.models import conf_directory, register_models

    register_models([conf_directory()])

    def make(*overrides: str) -> Config:
        with initialize_config_dir(str(conf_directory()), version_base="1.3"):
            return config_of(compose("config", overrides=list(overrides)))

    return make


@pytest.fixture
def make_run(make_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Any]:
    """Make a run from overrides; its directory lies below ``tmp_path``."""
    from pfstudy import store
    from pfstudy.data import fingerprint
    from pfstudy.variant import make_variant

    def make(*overrides: str) -> store.Run:
        config = make_config(*overrides, f"runs_dir={tmp_path / 'runs'}")
        return store.make_run(make_variant(config, fingerprint(config.data)), config.seed)

    return make
