"""``pfstudy eval RUN``: figures of finished runs, what is kept of them, the console."""

from __future__ import annotations

import importlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from configs import compose
from pfstudy import files, store
from pfstudy.cli.evaluation import show_runs
from pfstudy.data.splitting import split_heap
from pfstudy.errors import PfstudyError, RunsFailedError
from pfstudy.evaluation import results, runs
from pfstudy.evaluation.cases import CLEAN, Case, list_cases
from pfstudy.evaluation.pixels import open_images
from pfstudy.evaluation.results import add_figures, find_missing, read_figures
from pfstudy.launch import evaluate as launch
from pfstudy.network.restore import load_run
from run_directories import write_run

FOG, NOISE = Case("corruptions", 3, "fog"), Case("corruptions", 2, "gaussian_noise")
FGSM, OCCLUSION = Case("fgsm", 32), Case("occlusion", 50)


def ignore(kind: str, details: Mapping[str, Any]) -> None:
    del kind, details


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """An evaluation sets the number of threads of its process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(own_sweep: Any, tmp_path: Path) -> tuple[Path, Path]:
    """The runs of the backbone and of a user's operation, to add figures to."""
    found = [own_sweep.run_dir(label) for label in ("original", "mine")]
    original, mine = (
        shutil.copytree(run, tmp_path / "runs" / run.parent.name / run.name) for run in found
    )
    return original, mine


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate in this process instead of a fresh one."""

    class Here:
        def __init__(self, preload: object) -> None:
            del preload

        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def call(self, function: str, wanted: Any, on_report: Any) -> Any:
            assert function == "pfstudy.evaluation.runs:evaluate_runs"
            return runs.evaluate_runs(wanted, on_report)

    monkeypatch.setattr(launch, "Pool", Here)


class TestFigures:
    def test_as_they_are_are_those_that_the_run_recorded(self, trained: Sequence[Path]) -> None:
        runs.evaluate_runs([(trained[0], [CLEAN])], ignore)
        found = read_figures(trained[0], [CLEAN])[CLEAN]
        metrics = files.read_json(trained[0] / store.RECORD)["metrics"]
        for name in ("top1_percent", "top5_percent", "loss"):
            assert found[name] == pytest.approx(metrics[f"test_{name}"], rel=1e-5)
        with np.load(trained[0] / store.PREDICTIONS) as kept:
            predicted_N, labels_N = kept["logits"].argmax(1), kept["labels"]
        for label, row in enumerate(found["per_class"]):
            of_class = predicted_N[labels_N == label]
            assert row["class"] == str(label)
            assert row["num_images"] == len(of_class)
            assert row["top1_percent"] == pytest.approx(100 * (of_class == label).mean())

    def test_of_a_corruption_are_those_of_our_own_computation(
        self, trained: Sequence[Path]
    ) -> None:
        case = Case("corruptions", 1, "contrast")  # draws nothing
        runs.evaluate_runs([(trained[0], [case])], ignore)
        digits, data = load_digits(), compose().data
        members = split_heap(digits.target, data)
        mean, std = digits.images[members["train"]].mean(), digits.images[members["train"]].std()
        contrast = importlib.import_module("imagecorruptions.corruptions").contrast
        grey = (digits.images[members["test"]] * 255 / 16).round().astype(np.uint8)
        corrupted = [
            np.uint8(contrast(Image.fromarray(one).convert("RGB"), 1))[..., 0] for one in grey
        ]
        x_N1HW = torch.tensor((np.stack(corrupted) * 16 / 255 - mean) / std)[:, None].float()
        with torch.inference_mode():
            predicted_N = load_run(trained[0])(x_N1HW).argmax(1).numpy()
        expected = 100 * (predicted_N == digits.target[members["test"]]).mean()
        assert read_figures(trained[0], [case])[case] == pytest.approx(expected, abs=0.21)

    def test_are_the_same_with_other_runs_beside_and_alone(self, trained: Sequence[Path]) -> None:
        cases = [CLEAN, NOISE, FGSM, OCCLUSION]
        runs.evaluate_runs([(run, cases) for run in trained], ignore)
        together = [read_figures(run, cases) for run in trained]
        shutil.rmtree(trained[1] / "eval")
        runs.evaluate_runs([(trained[1], cases)], ignore)
        assert read_figures(trained[1], cases) == together[1] != together[0]
        for figures in together:
            for case in (FGSM, OCCLUSION):
                assert figures[case] < figures[CLEAN]["top1_percent"]

    def test_that_were_found_stay_when_a_later_one_fails(
        self, trained: Sequence[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        look = runs._look

        def fail(networks: Any, cases: Sequence[Case], *rest: Any) -> Any:
            if FGSM in cases:
                raise MemoryError
            return look(networks, cases, *rest)

        monkeypatch.setattr(runs, "_look", fail)
        with pytest.raises(MemoryError):
            runs.evaluate_runs([(trained[0], [OCCLUSION, FGSM])], ignore)
        assert find_missing(trained[0], [OCCLUSION, FGSM]) == [FGSM]
        assert {path.name for path in (trained[0] / "eval").iterdir()} == {
            ".lock",
            "occlusion.json",
        }


def test_pixels_of_a_folder_are_the_bytes_that_it_has(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    for number, name in enumerate(("ape", "bee", "cat")):
        (tmp_path / "val" / name).mkdir(parents=True)
        Image.fromarray(drawn[number]).save(tmp_path / "val" / name / "0.png")
    config = compose(
        *("data=imagefolder", f"data.path={tmp_path}", "data.num_classes=3"),
        *("data.crop_fraction=1", "data.num_workers=0"),
    )
    images = open_images(config.data, 2, torch.device("cpu"))
    pixels, labels = (torch.cat(parts) for parts in zip(*images.batches(), strict=True))
    np.testing.assert_array_equal((pixels * 255).permute(0, 2, 3, 1), drawn)
    assert labels.tolist() == [0, 1, 2]
    assert images.classes == ("ape", "bee", "cat")
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    normalised = images.normalise(pixels).permute(0, 2, 3, 1)
    np.testing.assert_allclose(normalised, (drawn / 255 - mean) / std, atol=1e-5)


class TestKept:
    def test_is_not_computed_anew_but_added_to(
        self, trained: Sequence[Path], here: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launch.evaluate_runs([trained[0]], [CLEAN, OCCLUSION])
        path = trained[0] / "eval" / "occlusion.json"
        files.write_json(path, files.read_json(path) | {"top1_percent": {"50": 100.5}})
        launch.evaluate_runs([trained[0]], [CLEAN, OCCLUSION, Case("occlusion", 10)])
        found = files.read_json(path)
        assert found["top1_percent"]["50"] == 100.5
        assert set(found["top1_percent"]) == {"50", "10"}
        assert found["settings"]["weights"] == store.WEIGHTS
        (environment,) = found["environments"]
        assert environment["versions"]["torch"] == torch.__version__.partition("+")[0]
        launch.evaluate_runs([trained[0]], [OCCLUSION], again=True)
        assert files.read_json(path)["top1_percent"]["50"] < 100
        monkeypatch.setattr(launch, "Pool", None)  # or it would be started
        (trained[0] / store.WEIGHTS).unlink()
        assert launch.evaluate_runs([trained[0]], [CLEAN, OCCLUSION]).done == [trained[0]]

    def test_with_other_settings_is_refused(
        self, trained: Sequence[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_figures(trained[0], {FOG: 50.0}, {}, {})
        monkeypatch.setattr(results, "package_version", lambda name: "9.9")
        with pytest.raises(PfstudyError) as caught:
            find_missing(trained[0], [FOG])
        assert str(caught.value).endswith("which is now 9.9; --again evaluates anew.")

    def test_is_listed_by_corruption_and_severity(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, state="done")
        cases = list_cases(["fog", "snow"], [1, 3])
        add_figures(directory, {CLEAN: {"top1_percent": 80.0}}, {}, {})
        add_figures(directory, dict(zip(cases[1:], (60.0, 40.0, 30.0, 10.0), strict=True)), {}, {})
        assert results.summary_of(read_figures(directory, cases)) == {
            "clean": {"top1_percent": 80.0},
            "corruptions": {
                "top1_percent": {"fog": {"1": 60.0, "3": 40.0}, "snow": {"1": 30.0, "3": 10.0}},
                "mean_top1_percent": 35.0,
                "relative_to_clean": 35 / 80,
            },
        }


class TestChoice:
    def test_finished_runs_of_a_directory_are_taken(self, tmp_path: Path) -> None:
        done = [write_run(tmp_path, seed=seed, state="done") for seed in (0, 1)]
        other = write_run(tmp_path, "block.spatial=maxpool", state="done")
        failed = write_run(tmp_path, "block.spatial=maxpool", seed=1, state="failed")
        assert set(launch.choose_runs([tmp_path])) == {*done, other}
        assert launch.choose_runs([done[0].parent, done[1]]) == done
        with pytest.raises(PfstudyError, match="seed1 is not finished; pfstudy resume goes on"):
            launch.choose_runs([failed])

    def test_runs_without_weights_are_left_out_unless_named(
        self, trained: Sequence[Path], here: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (trained[1] / store.WEIGHTS).unlink()
        root = trained[0].parent.parent
        assert launch.evaluate_runs([root], [CLEAN]).done == [trained[0]]
        assert "has kept no weights, and is left out" in " ".join(capsys.readouterr().err.split())
        with pytest.raises(
            PfstudyError, match=r"has kept no weights; .* with trainer\.keep=\[last\]"
        ):
            launch.evaluate_runs([trained[1]], [CLEAN])

    def test_a_run_that_cannot_be_evaluated_does_not_stop_the_others(
        self, trained: Sequence[Path], here: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = files.read_json(trained[1] / store.CONFIG)
        written["identity"]["canonical"]["data"]["fingerprint"] = "another"
        files.write_json(trained[1] / store.CONFIG, written)
        with pytest.raises(RunsFailedError, match=r"1 run not evaluated, such as .* changed since"):
            show_runs(trained, [CLEAN], as_json=True)
        (shown,) = json.loads(capsys.readouterr().out)
        assert shown["directory"] == str(trained[0])
        with pytest.raises(PfstudyError, match="has been changed since"):
            launch.evaluate_runs([trained[1]], [CLEAN])

    def test_a_missing_package_is_one_sentence(
        self, trained: Sequence[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(launch, "find_spec", lambda name: None)
        with pytest.raises(PfstudyError) as caught:
            launch.evaluate_runs([trained[0]], [FOG])
        sentence = "imagecorruptions-imaug is not installed: pip install 'pfstudy[corruptions]'."
        assert str(caught.value) == sentence


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([".", "--only", "fogg"], "corruption 'fogg' does not exist; choose from: gaussian"),
        ([".", "--severities", "1,6"], "--severities lists some of 1 to 5, but got '1,6'."),
        ([".", "--fgsm", "-1"], "--fgsm lists numbers above 0 and up to 255, such as 1,2,4,8, but "
         "got '-1'."),
        ([".", "--fgsm", "nan"], "--fgsm lists numbers above 0"),
        ([".", "--fgs", "1"], "eval: the option '--fgs' does not exist; choose from: --corr"),
        ([".", "data=digits"], "eval takes run directories or overrides, not both: data=digits is"),
        (["."], ". has no runs; give a run directory such as runs/SLUG-HASH/seed0, that of a"),
        (["nowhere"], "there is no directory nowhere; give"),
        (["./x-stage3=maxpool-12/seed0"], "there is no directory x-stage3=maxpool-12/seed0; give"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_writes_nothing(
    arguments: list[str], sentence: str, call_here: Any, tmp_path: Path
) -> None:
    code, out, err = call_here("eval", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"pfstudy: {sentence}")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_shows_a_run_in_tables_and_several_in_one(
    trained: Sequence[Path],
    tmp_path: Path,
    pfstudy: Callable[..., subprocess.CompletedProcess[str]],
    call_here: Any,
) -> None:
    asked = ("--only", "contrast,fog", "--severities", "1,5", "--fgsm", "16", "--occlusion")
    done = pfstudy(tmp_path, "eval", "runs", *asked, "--json")
    assert (done.returncode, done.stderr) == (0, "eval   2 runs on digits\n")
    found = {run["name"]: run for run in json.loads(done.stdout)}
    assert set(found) == {"original seed0", "mine seed0"}
    for run in found.values():
        assert set(run["corruptions"]["top1_percent"]) == {"fog", "contrast"}
        assert set(run["fgsm"]["top1_percent"]) == {"16"}
        assert len(run["occlusion"]["top1_percent"]) == 9
        values = [v for of in run["corruptions"]["top1_percent"].values() for v in of.values()]
        assert run["corruptions"]["mean_top1_percent"] == pytest.approx(np.mean(values))

    code, out, err = call_here("eval", "runs", *asked)  # nothing is left to compute
    assert (code, err) == (0, "")
    (row,) = (line.split() for line in out.splitlines() if " mine seed0 " in line)
    mine = found["mine seed0"]
    assert row[2] == f"{mine['clean']['top1_percent']:.2f}"
    assert row[-1] == f"{mine['occlusion']['mean_top1_percent']:.2f}"
    assert row[-2] == f"{mine['fgsm']['top1_percent']['16']:.2f}"

    code, out, _ = call_here("eval", str(trained[1]), *asked, "--per-class")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    fog = mine["corruptions"]["top1_percent"]["fog"]
    assert [f"{fog['1']:.2f}", f"{fog['5']:.2f}"] == next(x[1:3] for x in lines if x[:1] == ["fog"])
    nine = mine["clean"]["per_class"][9]
    assert ["9", str(nine["num_images"]), f"{nine['top1_percent']:.2f}"] in [x[:3] for x in lines]


@pytest.mark.slow
def test_a_kill_leaves_whole_files_and_the_rest_to_do(
    trained: Sequence[Path],
    tmp_path: Path,
    executable: str,
    environment: Mapping[str, str],
    pfstudy: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    path = trained[0] / "eval" / "corruptions.json"
    asked = ["eval", str(trained[0]), "--corruptions", "--severities", "1,3"]
    with subprocess.Popen([executable, *asked], cwd=tmp_path, env=environment) as process:
        deadline = time.monotonic() + 120
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    kept = files.read_json(path)["top1_percent"]
    assert 0 < len(kept) < 15
    done = pfstudy(tmp_path, *asked, "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)
    top1_percent = found["corruptions"]["top1_percent"]
    assert len(top1_percent) == 15
    assert {name: top1_percent[name] for name in kept} == kept


def test_the_parent_needs_no_torch() -> None:
    modules = "pfstudy.cli, pfstudy.launch.evaluate, pfstudy.tables.evaluated"
    program = f"import sys, {modules}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert not {"torch", "imagecorruptions", "cv2"} & set(done.stdout.split())
