from __future__ import annotations

import copy
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pfstudy import __version__, cli, files, store
from pfstudy.launch import pool
from pfstudy.schema import operations
from pfstudy.schema.config import Config
from pfstudy.schema.models import conf_directory

OPERATIONS = ", ".join(dict.fromkeys(["original", "conv", *operations.OPERATIONS]))
MODELS = ", ".join(sorted(path.stem for path in (conf_directory() / "model").glob("*.yaml")))
SMALL_SITES = ("stage1.block1-2", "stage2.block1-2")
NPZ = ["data=npz", "data.image_size=8", "data.channels=1", "data.num_classes=10"]
NPZ += ["data.num_validation=5", "data.num_test=5"]


@dataclass(frozen=True)
class Ended:
    code: int | str | None
    out: str
    err: str


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Ended]]:
    """Call the command line in this process and an empty directory; no other may be started."""
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    from pfstudy.schema import models

    def refuse(*_: object) -> None:
        raise AssertionError("a process would be started")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(pool.Pool, "__enter__", refuse)
    monkeypatch.setattr(pool.Pool, "start", refuse)
    monkeypatch.setattr(ConfigStore.instance(), "repo", copy.deepcopy(ConfigStore.instance().repo))
    sites, reducing = dict(models.SITES), set(models.REDUCING)
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["pfstudy", *arguments])
        GlobalHydra.instance().clear()
        models.SITES.clear()  # nothing is generated yet when a command begins
        for generated in ("block", "site"):
            ConfigStore.instance().repo.pop(generated, None)
        code: int | str | None = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
        return Ended(code, *capsys.readouterr())

    yield run
    models.SITES.clear()
    models.SITES.update(sites)
    models.REDUCING.clear()
    models.REDUCING.update(reducing)
    signal.signal(signal.SIGTERM, before)
    GlobalHydra.instance().clear()


MISTAKES = [
    pytest.param(
        ["block.spatial=maxpol"], ["'maxpol'", OPERATIONS, "Did you mean 'maxpool'"], id="operation"
    ),
    pytest.param(
        ["-m", "block.spatial=conv,maxpol"], ["'maxpol'", OPERATIONS], id="operation-of-a-sweep"
    ),
    pytest.param(
        ["block.stage2.block1.spatial=maxpol"], ["'maxpol'", OPERATIONS], id="operation-of-a-block"
    ),
    pytest.param(["site=stage1", "swap=maxpol"], ["'maxpol'", OPERATIONS], id="swap"),
    pytest.param(["site=stage1"], ["swap=OPERATION"], id="site-without-swap"),
    pytest.param(
        ["study.design=[all]", "site=stage1", "swap=maxpool"],
        ["study.design and study.variants describe a sweep; give -m, or leave them out."],
        id="design-without-sweep",
    ),
    pytest.param(
        ["study.variants=['block.spatial=maxpool']"],
        ["study.design and study.variants describe a sweep; give -m, or leave them out."],
        id="variants-without-sweep",
    ),
    pytest.param(["model=resnet_digit"], ["'resnet_digit'", MODELS], id="model"),
    pytest.param(["-m", "model=resnet18,resnet19"], ["'resnet19'", MODELS], id="model-of-a-sweep"),
    pytest.param(["data=digit"], ["'digit'", "digits, imagefolder"], id="dataset"),
    pytest.param(
        ["-m", "data=digits,digit"], ["'digit'", "digits, imagefolder"], id="dataset-of-a-sweep"
    ),
    pytest.param(["data.name=digit"], ["'digit'", "digits, imagefolder"], id="dataset-name"),
    pytest.param(NPZ, ["data.path", "required"], id="dataset-without-file"),
    pytest.param(
        [*NPZ, "data.path=no.npz"], ["data.path=no.npz", "cannot be read"], id="dataset-file"
    ),
    pytest.param(["block.stage3.spatial=maxpool"], ["'stage3'", "stage1, stage2"], id="stage"),
    pytest.param(
        ["-m", "block.stage3.spatial=conv,maxpool"],
        ["'stage3'", "stage1, stage2"],
        id="stage-of-a-sweep",
    ),
    pytest.param(
        ["++block.stage3.spatial=maxpool"], ["stage3", *SMALL_SITES], id="stage-that-is-forced"
    ),
    pytest.param(
        ["model=resnet18", "data=synthetic", "block.stage3.block3.spatial=maxpool"],
        ["'block3'", "block1, block2"],
        id="block",
    ),
    pytest.param(
        ["site=stage3", "swap=maxpool"], ["'stage3'", "stage1.block2"], id="site-of-another"
    ),
    pytest.param(
        ["-m", "site=stage1,stage3", "swap=maxpool"],
        ["'stage3'", "stage1.block2"],
        id="site-of-a-sweep",
    ),
    pytest.param(["site=stage9", "swap=maxpool"], ["'stage9'", "stage1", "stage2"], id="site"),
    pytest.param(
        ["site=[stage1,stage9]", "swap=maxpool"],
        ["stage9", "choose from", "stage1", "stage2"],
        id="site-in-a-list",
    ),
    pytest.param(
        ["block=resnet_digits", "model=resnet18", "data=synthetic"],
        ["lacks stage3.block1", "stage4.block1-2", "leave block= to the model"],
        id="block-tree-of-another-model",
    ),
    pytest.param(
        ["-m", "block=resnet_digits", "model=resnet18", "data=synthetic"],
        ["lacks stage3.block1", "stage4.block1-2", "leave block= to the model"],
        id="block-tree-of-another-model-in-a-sweep",
    ),
    pytest.param(
        ["block=resnet50", "model=resnet18", "data=synthetic"],
        ["'resnet50'", "choose from: resnet18"],
        id="block-tree-that-was-not-generated",
    ),
    pytest.param(
        ["runs_dir=/dev/null/x"], ["runs_dir=/dev/null/x", "cannot be written"], id="runs_dir"
    ),
    pytest.param(
        ["-m", "block.spatial=conv,maxpool", "runs_dir=/dev/null/x"],
        ["runs_dir=/dev/null/x", "cannot be written"],
        id="runs_dir-of-a-sweep",
    ),
    pytest.param(["-m", "runs_dir=a,b"], ["runs_dir must be the same"], id="runs_dir-varies"),
    pytest.param(["-m", "speed.batch_size=1,8"], ["speed must be the same"], id="speed-varies"),
    pytest.param(["recipe.lrr=1"], ["'lrr'", "batch_size, lr,"], id="key"),
    pytest.param(["+recipe.lrr=1"], ["recipe.lrr is no key"], id="added-key"),
    pytest.param(["~recipe.lr"], ["recipe.lr is required"], id="deleted-key"),
    pytest.param(["recipe.epochs=0"], ["recipe.epochs", "greater than 0", "got 0"], id="range"),
    pytest.param(["recipe.epochs=two"], ["recipe.epochs", "integer", "'two'"], id="type"),
    pytest.param(
        ["block.norm_act=maybe"], ["norm_act", "'auto', 'keep' or 'drop'", "'maybe'"], id="norm_act"
    ),
    pytest.param(
        ["model=resnet18", "data=synthetic", "block.downsample=maxpool"],
        ["block.downsample", "no site there reduces"],
        id="downsample-of-a-model-without",
    ),
    pytest.param(["init_from=no.pt"], ["init_from=no.pt", "cannot be read"], id="checkpoint"),
    pytest.param(["block.spatial=conv,maxpool"], ["add -m"], id="list-without-m"),
    pytest.param(["-m", "recipe.lr=interval(0,1)"], ["no intervals"], id="interval"),
    pytest.param(["study.name=a/b"], ["study.name", "'a/b'"], id="study-name"),
    pytest.param(["block.spatial=(("], ["block.spatial=(("], id="grammar"),
    pytest.param(
        ["--config-dir", "no", "block.spatial=conv"], ["--config-dir no"], id="config-dir"
    ),
    pytest.param(["table", "no"], ["there is no directory no"], id="table-directory"),
    pytest.param(["table", "."], ["no finished runs"], id="table-of-nothing"),
    pytest.param(["table", ".", "--study", "no"], ["study 'no'", "choose from"], id="table-study"),
]


class TestMistakes:
    @pytest.mark.parametrize(("arguments", "phrases"), MISTAKES)
    def test_one_sentence_and_nothing_written(
        self, call: Callable[..., Ended], tmp_path: Path, arguments: list[str], phrases: list[str]
    ) -> None:
        ended = call(*arguments)
        assert ended.code == 2, ended
        (sentence,) = ended.err.strip().splitlines()
        assert sentence.startswith("pfstudy: ")
        for phrase in phrases:
            assert phrase in sentence
        for internal in ("Traceback", "Error executing", "provider=", "HYDRA_FULL_ERROR"):
            assert internal not in sentence
        assert ended.out == ""
        assert list(tmp_path.iterdir()) == []

    def test_mistyped_command_suggests_the_nearest(self, call: Callable[..., Ended]) -> None:
        ended = call("tabel")
        assert ended.code == 2
        assert "Did you mean 'table'?" in ended.err

    @pytest.mark.parametrize("change", ["hash", "seed"])
    def test_run_directory_of_another_config(
        self,
        call: Callable[..., Ended],
        make_run: Callable[..., store.Run],
        tmp_path: Path,
        change: str,
    ) -> None:
        run = make_run("block.spatial=maxpool")
        store.prepare(run)
        path = run.directory / store.CONFIG
        written = files.read_json(path)
        written["identity"][change] = "0123456789" if change == "hash" else 7
        files.write_json(path, written)
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        ended = call("block.spatial=maxpool", f"runs_dir={tmp_path / 'runs'}")
        assert ended.code == 2
        (sentence,) = ended.err.strip().splitlines()
        assert f"{run.directory} was written by another config" in sentence
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before

    def test_malformed_key_of_wandb(self, pfstudy: Any, tmp_path: Path) -> None:
        done = pfstudy(tmp_path, "block.spatial=maxpool", WANDB_API_KEY="abc")
        assert done.returncode == 2
        last = done.stderr.strip().splitlines()[-1]
        assert last.startswith("pfstudy: the W&B key is malformed")
        assert "WANDB_API_KEY" in last
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert list(tmp_path.iterdir()) == []


class TestDispatch:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            pytest.param(["block.spatial=maxpool"], True, id="override"),
            pytest.param(["+a=1"], True, id="added"),
            pytest.param(["~a"], True, id="deleted"),
            pytest.param(["-m"], True, id="multirun"),
            pytest.param(["--multirun"], True, id="multirun-long"),
            pytest.param(["--cfg", "job"], True, id="cfg"),
            pytest.param(["--config-dir=x"], True, id="config-dir"),
            pytest.param(["-cd", "x"], True, id="config-dir-short"),
            pytest.param(["--info"], True, id="info"),
            pytest.param(["train"], True, id="train"),
            pytest.param(["table"], False, id="command"),
            pytest.param(["table", "a=b"], False, id="command-with-override"),
            pytest.param(["--help"], False, id="help"),
            pytest.param(["-h"], False, id="help-short"),
            pytest.param(["--version"], False, id="version"),
            pytest.param(["--install-completion"], False, id="completion"),
            pytest.param(["--show-completion=bash"], False, id="completion-of-a-shell"),
            pytest.param([], False, id="bare"),
        ],
    )
    def test_goes_to_hydra(self, arguments: list[str], expected: bool) -> None:
        assert cli.goes_to_hydra(arguments) is expected

    def test_version(self, call: Callable[..., Ended]) -> None:
        assert call("--version") == Ended(0, f"pfstudy {__version__}\n", "")

    @pytest.mark.parametrize("arguments", [["--help"], ["-h"], []], ids=["long", "short", "bare"])
    def test_help_shows_commands_and_examples(
        self, call: Callable[..., Ended], arguments: list[str]
    ) -> None:
        ended = call(*arguments)
        assert ended.code == 0
        assert "    pfstudy -m block.spatial=maxpool,dwconv" in ended.out
        assert "table" in ended.out

    @pytest.mark.parametrize("lead", [[], ["train"]], ids=["plain", "train"])
    def test_cfg_shows_what_stands_where(
        self, call: Callable[..., Ended], lead: list[str], tmp_path: Path
    ) -> None:
        import yaml

        shown = ["--cfg", "job", "--resolve", "--package", "block"]
        ended = call(*lead, "block.stage2.spatial=maxpool", "block.kernel_size=5", *shown)
        assert ended.code == 0, ended
        tree = yaml.safe_load(ended.out)
        assert tree["stage1"]["block1"]["spatial"] == "original"
        assert tree["stage2"]["block1"]["spatial"] == "maxpool"
        assert tree["stage2"]["block2"]["kernel_size"] == 5
        assert list(tmp_path.iterdir()) == []


class TestCompose:
    @pytest.fixture(autouse=True)
    def _restore(self, call: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "argv", ["pfstudy"])

    @staticmethod
    def operations(config: Config) -> list[str]:
        return [site.operation for site in config.sites]

    def test_one_variant(self) -> None:
        (config,) = cli.compose(["block.spatial=maxpool"])
        assert self.operations(config) == ["maxpool"] * 4

    def test_sweep_is_the_product_the_last_list_fastest(self) -> None:
        configs = cli.compose(["-m", "block.spatial=conv,maxpool", "recipe.lr=0.1,0.2"])
        found = [(self.operations(config)[0], config.recipe.lr) for config in configs]
        assert found == [("conv", 0.1), ("conv", 0.2), ("maxpool", 0.1), ("maxpool", 0.2)]

    def test_glob_takes_one_stage_at_a_time(self) -> None:
        configs = cli.compose(["-m", "site=glob(stage?)", "swap=maxpool"])
        assert [self.operations(config) for config in configs] == [
            ["maxpool", "maxpool", "original", "original"],
            ["original", "original", "maxpool", "maxpool"],
        ]

    def test_user_adds_a_backbone_by_one_file(self, tmp_path: Path) -> None:
        from pfstudy.schema.models import conf_directory

        shipped = (conf_directory() / "model" / "resnet_digits.yaml").read_text()
        mine = shipped.replace("name: resnet_digits", "name: mine").replace("[2, 2]", "[3, 1]")
        (tmp_path / "mine" / "model").mkdir(parents=True)
        (tmp_path / "mine" / "model" / "mine.yaml").write_text(mine)
        arguments = ["--config-dir", str(tmp_path / "mine"), "model=mine"]
        (config,) = cli.compose([*arguments, "block.stage1.block3.spatial=maxpool"])
        assert config.model.depths == (3, 1)
        assert self.operations(config) == ["original", "original", "maxpool", "original"]


class TestImports:
    @pytest.mark.parametrize(
        ("arguments", "absent"),
        [
            pytest.param(["--help"], "torch lightning wandb hydra pandas timm", id="help"),
            pytest.param(["--version"], "torch lightning wandb hydra pandas timm", id="version"),
            pytest.param(
                ["block.spatial=maxpol"], "torch lightning wandb timm torchmetrics", id="override"
            ),
            pytest.param(["table", "no"], "torch lightning wandb timm torchmetrics", id="table"),
        ],
    )
    def test_heavy_packages_are_not_imported(
        self, tmp_path: Path, arguments: list[str], absent: str
    ) -> None:
        script = (
            "import sys\n"
            "from pfstudy.cli import main\n"
            "try:\n    main()\n"
            "except SystemExit:\n    pass\n"
            f"print('imported:', sorted(set({absent.split()!r}) & set(sys.modules)))\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        assert done.stdout.splitlines()[-1] == "imported: []"


class TestBrokenPipe:
    def test_reader_that_goes_away_is_no_error(
        self, executable: str, environment: dict[str, str], tmp_path: Path
    ) -> None:
        command = [executable, "--cfg", "job"]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read().decode() == ""
        assert process.wait(120) == 0


SPEED_MISTAKES = [
    pytest.param(["block.spatial=maxpol"], "'maxpol'", id="operation"),
    pytest.param(["speed.layout=nhwc"], "speed.layout", id="layout"),
    pytest.param(["speed.backend=tensorrt"], "speed.backend", id="backend"),
    pytest.param(["speed.device=cpu", "speed.cuda_graph=true"], "needs a GPU", id="graph"),
    pytest.param(["speed.fallback=true"], "speed.backend=eager does not", id="fallback"),
    pytest.param(["speed.max_processes=2"], "the least number, is 5", id="processes"),
    pytest.param(["--by-layer"], "nothing is substituted here", id="nothing substituted"),
    pytest.param(
        ["--by-layer", "-m", "model=resnet18,resnet_digits", "block.spatial=maxpool"],
        "of one backbone",
        id="two backbones",
    ),
    pytest.param(
        ["--by-layer", "-m", "block.spatial=maxpool", "speed.batch_size=1,8"],
        "of one setting",
        id="two settings",
    ),
    pytest.param(
        ["--by-layer", "block.spatial=maxpool", "speed.passes=forward_backward"],
        "speed.passes=forward alone",
        id="backward",
    ),
    pytest.param(["predict", "block.spatial=maxpool"], "there is no block table", id="no table"),
    pytest.param(["table", "--seconds=0"], "--seconds must be more than 0", id="no time"),
    pytest.param(["compare", "a.json", "b.json"], "a.json cannot be read", id="no file"),
    pytest.param(["take", "a.json"], "a.json cannot be read", id="nothing to take"),
]


@pytest.mark.parametrize(("arguments", "expected"), SPEED_MISTAKES)
def test_a_mistake_about_speed_is_one_sentence(
    call: Callable[..., Ended], tmp_path: Path, arguments: list[str], expected: str
) -> None:
    ended = call("speed", *arguments)
    assert (ended.code, ended.out) == (2, "")
    (sentence,) = ended.err.splitlines()
    assert expected in sentence
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_results_file_is_said(call: Callable[..., Ended], tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"schema_version": 1, "networks": [{"model": "x"}]})
    ended = call("speed", "compare", "a.json", "a.json")
    assert ended.code == 2
    assert ended.err == "pfstudy: a.json is damaged: it is no results file of pfstudy speed.\n"


@pytest.mark.parametrize(
    "command", ["", "plan", "speed", "speed table", "search", "search run", "design", "report"]
)
def test_help_shows_examples_line_by_line(command: str, call: Callable[..., Ended]) -> None:
    out = call(*command.split(), "--help").out
    assert out.startswith("Usage: ")
    assert "\\b" not in out
    for line in out.splitlines():
        assert line.count("pfstudy ") <= 2, line
