"""Going on with runs that are not done, without the command that began them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from configs import compose
from jobs import NUM_EPOCHS, RUN, Ended, Pfstudy, are_equal, table_rows
from pfstudy import files, ledger, store
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.launch.resume import list_unfinished
from pfstudy.schema.config import Config, Study
from pfstudy.variant import make_variant
from run_directories import write_record
from trouble import registered, set_pace, write_module
from under_way import Sweep, Sweeps

BASE = (
    *("model=resnet_digits", "data=synthetic", "data.num_train=128"),
    *("trainer.accelerator=cpu", "speed=none", "logger=none"),
)


def make(
    root: Path,
    operation: str = "original",
    *,
    num_sites: int | None = None,
    seed: int = 0,
    state: ledger.State = "pending",
    study: str = "mine",
    base: Config | None = None,
    **changes: Any,
) -> Path:
    """Make the directory of a run, a member of a study, in a state.

    Args:
        root: Directory of the run directories.
        operation: What stands at the sites.
        num_sites: At the first ones only.
        seed: The seed.
        state: The state.
        study: The study.
        base: The config, but for the sites.
        changes: Further fields of the config; of a group, those that differ.
    """
    config = base or compose(*BASE)
    for key, value in changes.items():
        group = getattr(config, key)
        new = replace(group, **value) if isinstance(value, dict) else value
        config = replace(config, **{key: new})
    changed = (replace(site, operation=operation) for site in config.sites[:num_sites])
    sites = (*changed, *(config.sites[num_sites:] if num_sites else ()))
    config = replace(config, sites=sites, runs_dir=str(root))
    run = store.make_run(make_variant(config, fingerprint(config.data)), seed)
    store.prepare(run)
    store.add_to_study(root, study, [run])
    if state == "pending":
        return run.directory
    claimed = ledger.claim(run.directory)
    assert claimed is not None
    if state == "done":
        write_record(run.directory)
    if state != "running":
        claimed.end(state)
    return run.directory


def directory_of(config: Config) -> Path:
    """Where a sweep of a config trains."""
    return store.make_run(make_variant(config, fingerprint(config.data)), config.seed).directory


def left(directory: Path, *overrides: str, study: str | None = None) -> dict[str, set[Path]]:
    """The run directories that are left, by study."""
    found = list_unfinished(directory, study, overrides)
    return {
        each.study: {directory_of(config).resolve() for config in each.configs} for each in found
    }


def configs(directory: Path, *overrides: str) -> list[Config]:
    """The configs that are left of the only study."""
    (unfinished,) = list_unfinished(directory, None, overrides)
    return list(unfinished.configs)


class TestWhatIsLeft:
    def test_is_what_is_not_done(self, tmp_path: Path) -> None:
        make(tmp_path, "identity", state="done")
        states: Mapping[str, ledger.State] = {
            "maxpool": "pending",
            "avgpool": "failed",
            "dwconv": "interrupted",
            "conv": "running",
        }
        made = {make(tmp_path, name, state=state) for name, state in states.items()}
        assert left(tmp_path) == {"mine": made}

    def test_seeds_are_runs_of_their_own(self, tmp_path: Path) -> None:
        make(tmp_path, seeds=3, seed=0, state="done")
        made = {make(tmp_path, seeds=3, seed=seed) for seed in (1, 2)}
        assert left(tmp_path) == {"mine": made}
        assert [(each.seed, each.seeds) for each in configs(tmp_path)] == [(1, None), (2, None)]

    def test_nothing_where_all_are_done(self, tmp_path: Path) -> None:
        make(tmp_path, state="done")
        assert list_unfinished(tmp_path) == []

    def test_constraints_do_not_drop_what_was_not_dropped(self, tmp_path: Path) -> None:
        constrained = replace(compose(*BASE), study=Study(constraints=("params < 1x",)))
        make(tmp_path, base=constrained)
        (config,) = configs(tmp_path)
        assert config.study.constraints == ()

    def test_no_directory_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"there is no directory .*gone; give the one"):
            list_unfinished(tmp_path / "gone")

    def test_directory_without_runs_is_said(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"there is no study in .*; give a directory"):
            list_unfinished(tmp_path)


class TestStudies:
    @pytest.fixture
    def two(self, tmp_path: Path) -> dict[str, Path]:
        shared = make(tmp_path, study="first")
        make(tmp_path, study="second")
        return {
            "shared": shared,
            "own of first": make(tmp_path, "maxpool", study="first"),
            "own of second": make(tmp_path, "avgpool", study="second"),
        }

    def test_are_listed_one_by_one_and_what_they_share_once(
        self, two: Mapping[str, Path], tmp_path: Path
    ) -> None:
        assert left(tmp_path) == {
            "first": {two["shared"], two["own of first"]},
            "second": {two["own of second"]},
        }

    def test_one_by_name(self, two: Mapping[str, Path], tmp_path: Path) -> None:
        assert left(tmp_path, study="second") == {"second": {two["shared"], two["own of second"]}}

    def test_runs_go_on_as_members_of_it(self, two: Mapping[str, Path], tmp_path: Path) -> None:
        found = list_unfinished(tmp_path)
        for unfinished in found:
            assert {config.study.name for config in unfinished.configs} == {unfinished.study}

    def test_looks_stay_those_of_the_study(self, tmp_path: Path) -> None:
        make(tmp_path, base=replace(compose(*BASE), study=Study(looks=(2, 4))))
        make(tmp_path, "maxpool")
        store.add_to_study(tmp_path, "mine", [], (2, 3))
        assert {config.study.looks for config in configs(tmp_path)} == {()}

    def test_unknown_name_lists_those_there_are(
        self, two: Mapping[str, Path], tmp_path: Path
    ) -> None:
        with pytest.raises(PfstudyError, match=r"study 'third' does not exist.*first, second"):
            list_unfinished(tmp_path, "third")


class TestPartOfThem:
    @pytest.fixture
    def made(self, tmp_path: Path) -> list[Path]:
        """Two seeds of a variant, whose name has a ``=`` in it, and another variant."""
        root = tmp_path / "runs"
        first, second = (make(root, "maxpool", num_sites=1, seed=seed) for seed in (0, 1))
        assert "=" in first.parent.name
        return [first, second, make(root, "avgpool")]

    def test_run_directory(self, made: Sequence[Path]) -> None:
        assert left(made[1]) == {"mine": {made[1]}}

    def test_directory_of_a_variant(self, made: Sequence[Path]) -> None:
        assert left(made[0].parent) == {"mine": set(made[:2])}

    @pytest.mark.parametrize(
        ("here", "directory", "number"),
        [
            pytest.param("..", "runs", 3, id="above"),
            pytest.param(".", ".", 3, id="in the directory of all"),
            pytest.param("variant", ".", 2, id="in that of a variant"),
            pytest.param("variant", "seed1", 1, id="a run in that of a variant"),
            pytest.param("variant/seed1", ".", 1, id="in a run"),
        ],
    )
    def test_from_a_working_directory(
        self,
        made: Sequence[Path],
        monkeypatch: pytest.MonkeyPatch,
        here: str,
        directory: str,
        number: int,
    ) -> None:
        root = made[0].parent.parent
        monkeypatch.chdir(root / here.replace("variant", made[0].parent.name))
        found = left(Path(directory))
        assert found.keys() == {"mine"}
        assert len(found["mine"]) == number
        assert found["mine"] <= set(made)


class TestNoConfig:
    def test_others_go_on(self, tmp_path: Path) -> None:
        gone, stays = make(tmp_path), make(tmp_path, "maxpool")
        shutil.rmtree(gone)
        (unfinished,) = list_unfinished(tmp_path)
        assert unfinished.missing == (str(gone.relative_to(tmp_path)),)
        assert [directory_of(config) for config in unfinished.configs] == [stays]

    def test_nothing_to_go_on_with(self, tmp_path: Path) -> None:
        gone = make(tmp_path)
        (gone / store.CONFIG).unlink()
        (unfinished,) = list_unfinished(tmp_path)
        assert unfinished.configs == ()
        assert unfinished.missing == (str(gone.relative_to(tmp_path)),)

    def test_damaged_one_is_named(self, tmp_path: Path) -> None:
        path = make(tmp_path) / store.CONFIG
        path.write_text("{")
        with pytest.raises(PfstudyError, match=r"config\.json is damaged"):
            list_unfinished(tmp_path)


class TestSettings:
    @pytest.mark.parametrize(
        ("override", "group", "key", "value"),
        [
            ("launcher.num_workers=4", "launcher", "num_workers", 4),
            ("launcher.slots=auto", "launcher", "slots", "auto"),
            ("launcher.hung_minutes=0.5", "launcher", "hung_minutes", 0.5),
            ("logger.name=wandb", "logger", "name", "wandb"),
            ("speed.enabled=true", "speed", "enabled", True),
            ("trainer.keep=[last,best]", "trainer", "keep", ("last", "best")),
            ("trainer.devices=2", "trainer", "devices", 2),
        ],
    )
    def test_may_be_changed(
        self, tmp_path: Path, override: str, group: str, key: str, value: object
    ) -> None:
        directory = make(tmp_path)
        (before,), (after,) = configs(tmp_path), configs(tmp_path, override)
        assert getattr(getattr(before, group), key) != value
        assert getattr(getattr(after, group), key) == value
        assert directory_of(after) == directory

    @pytest.mark.parametrize(
        "override",
        [
            *("recipe.lr=0.1", "block.spatial=maxpool", "seeds=2", "data.path=x"),
            *("trainer.precision=bf16-mixed", "logger=none", "launcher.=1", "trainer.keep"),
        ],
    )
    def test_may_not_be_changed(self, tmp_path: Path, override: str) -> None:
        make(tmp_path)
        with pytest.raises(PfstudyError) as caught:
            list_unfinished(tmp_path, overrides=[override])
        assert str(caught.value) == (
            f"{override!r} cannot be set when runs go on; only launcher.KEY=VALUE, "
            "logger.KEY=VALUE, speed.KEY=VALUE, trainer.KEY=VALUE can, and not the precision."
        )

    @pytest.mark.parametrize(
        ("override", "sentence"),
        [
            ("launcher.wrong=1", r"launcher\.wrong is no key of the configuration"),
            ("launcher.num_workers=few", r"launcher\.num_workers: .* but got 'few'"),
            ("trainer.keep=[", r"'trainer\.keep=\[' cannot be read: "),
        ],
    )
    def test_mistake_is_one_sentence(self, tmp_path: Path, override: str, sentence: str) -> None:
        make(tmp_path)
        with pytest.raises(PfstudyError, match=sentence) as caught:
            list_unfinished(tmp_path, overrides=[override])
        assert len(str(caught.value).splitlines()) == 1

    def test_are_those_of_the_run_that_was_made_last(self, tmp_path: Path) -> None:
        """They must be the same for all runs of a sweep; the precision need not."""
        make(tmp_path, "maxpool", trainer={"keep": ("last",)}, launcher={"retries": 5})
        newer = {"keep": ("best",), "precision": "bf16-mixed"}
        make(tmp_path, trainer=newer, launcher={"retries": 6})
        found = {config.trainer.precision: config for config in configs(tmp_path)}
        assert found.keys() == {"32-true", "bf16-mixed"}
        for config in found.values():
            assert config.trainer.keep == ("best",)
            assert config.launcher.retries == 6


def test_copy_goes_on_where_it_is(tmp_path: Path) -> None:
    made = make(tmp_path / "runs")
    shutil.copytree(tmp_path / "runs", tmp_path / "elsewhere" / "copy")
    copied = tmp_path / "elsewhere" / "copy" / made.relative_to(tmp_path / "runs")
    assert left(tmp_path / "elsewhere" / "copy") == {"mine": {copied}}
    shutil.rmtree(tmp_path / "runs")
    assert left(tmp_path / "elsewhere" / "copy") == {"mine": {copied}}


class TestChanged:
    """What a run is made of has changed since, so that it would be another run."""

    ASKED = "give the command again, which trains a new run"

    def save(self, path: Path, value: int, *, compressed: bool = False) -> None:
        write = np.savez_compressed if compressed else np.savez
        images = np.full((40, 8, 8), value, dtype=np.uint8)
        write(path, images=images, labels=np.arange(40) % 10)

    @pytest.fixture
    def own_data(self, tmp_path: Path) -> Path:
        """A dataset of the user's, of which there is a run below ``runs``."""
        path = tmp_path / "mine.npz"
        self.save(path, 1)
        numbers = {"image_size": 8, "channels": 1, "num_classes": 10}
        numbers |= {"num_validation": 10, "num_test": 10}
        keys = (f"data.{key}={value}" for key, value in numbers.items())
        own = compose("model=bottleneck1", "data=npz", "data.path=PATH", "logger=none", *keys)
        make(tmp_path / "runs", base=own, data={"path": str(path)})
        return path

    def test_dataset(self, own_data: Path, tmp_path: Path) -> None:
        self.save(own_data, 2)
        with pytest.raises(PfstudyError, match=rf"seed0: the dataset changed .*{self.ASKED}"):
            list_unfinished(tmp_path / "runs")

    def test_dataset_that_is_gone(self, own_data: Path, tmp_path: Path) -> None:
        own_data.unlink()
        with pytest.raises(PfstudyError, match=r"data\.path=.*mine\.npz cannot be read"):
            list_unfinished(tmp_path / "runs")

    def test_not_what_is_the_same_in_another_file(self, own_data: Path, tmp_path: Path) -> None:
        before = own_data.read_bytes()
        self.save(own_data, 1, compressed=True)
        assert own_data.read_bytes() != before
        assert len(configs(tmp_path / "runs")) == 1

    def test_dataset_of_a_run_that_is_done_matters_no_more(
        self, own_data: Path, tmp_path: Path
    ) -> None:
        (directory,) = (tmp_path / "runs").glob("*/seed0")
        write_record(directory)
        self.save(own_data, 2)
        assert list_unfinished(tmp_path / "runs") == []

    def test_initial_weights(self, tmp_path: Path) -> None:
        path = tmp_path / "first.safetensors"
        save_file({"weight": np.zeros(1)}, path)
        make(tmp_path / "runs", init_from=str(path))
        assert len(configs(tmp_path / "runs")) == 1
        save_file({"weight": np.ones(1)}, path)
        changed = "the checkpoint that it starts from changed"
        with pytest.raises(PfstudyError, match=changed):
            list_unfinished(tmp_path / "runs")

    def test_source_of_an_operation(self, tmp_path: Path) -> None:
        path = write_module(tmp_path)
        with registered(path):
            make(tmp_path / "runs", "paced", imports=(str(path),))
            make(tmp_path / "runs", "maxpool")
            assert len(configs(tmp_path / "runs")) == 2
            path.write_text(path.read_text() + "# another thought\n")
            with pytest.raises(PfstudyError, match=r"paced-.*the source of an operation changed"):
                list_unfinished(tmp_path / "runs")

    def test_nothing_is_written(self, own_data: Path, tmp_path: Path) -> None:
        self.save(own_data, 2)
        before = sorted((tmp_path / "runs").rglob("*"))
        with pytest.raises(PfstudyError):
            list_unfinished(tmp_path / "runs")
        assert sorted((tmp_path / "runs").rglob("*")) == before


@dataclass(frozen=True)
class Resumed:
    """A sweep whose command was killed, and what went on of it.

    Attributes:
        sweep: The sweep.
        states: States of its runs afterwards, by label.
        metrics: The metrics of the run that was under way.
        here: ``pfstudy resume`` where it was.
        moved: Where its run directories were copied to.
        there: ``pfstudy resume`` of the copy.
        again: The first one once more.
    """

    sweep: Sweep
    states: Mapping[str, str]
    metrics: str
    here: Ended
    moved: Path
    there: Ended
    again: Ended


@pytest.fixture(scope="module")
def resumed(
    executable: str,
    environment: Mapping[str, str],
    pfstudy: Pfstudy,
    pfstudy_together: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Resumed]:
    directory = tmp_path_factory.mktemp("resumed")
    moved = tmp_path_factory.mktemp("moved") / "copy"
    write_module(directory)
    set_pace(directory, 0.3)
    variants = "block.spatial=identity,paced,maxpool"
    settings = ("launcher.num_workers=1", "trainer.checkpoint_minutes=0.001")
    with Sweeps(executable, environment) as sweeps:
        sweep = sweeps.start(directory, "-m", *RUN, variants, *settings)
        sweep.wait_for_epochs(2, "paced")
        sweep.parent.kill()
        sweep.wait_until_nothing_is_left()
        states = {label: sweep.state_of(label) for label in ("identity", "paced", "maxpool")}
        metrics = (sweep.run_dir("paced") / "metrics.csv").read_text()
        shutil.copytree(sweep.runs_dir, moved)
        set_pace(directory, 0)
        done = pfstudy_together(
            {
                "here": (directory, ("resume", "launcher.num_workers=2")),
                "there": (moved.parent, ("resume", "copy")),
            }
        )
        again = pfstudy(directory, "resume")
        yield Resumed(sweep, states, metrics, done["here"], moved, done["there"], again)


def run_dir(root: Path, label: str) -> Path:
    (found,) = root.glob(f"*-{label}-*/seed0")
    return found


@pytest.mark.slow
class TestKilledSweep:
    """The command gets SIGKILL while one run is done, one under way, and one waits."""

    def test_states(self, resumed: Resumed) -> None:
        assert resumed.states == {"identity": "done", "paced": "interrupted", "maxpool": "pending"}

    def test_only_what_is_not_done_is_trained(self, resumed: Resumed) -> None:
        assert resumed.here.returncode == 0, resumed.here.stderr
        assert "train  2 runs, 2 at a time" in resumed.here.stderr
        assert "identity" not in resumed.here.stderr
        attempts = {label: resumed.sweep.attempts(label) for label in resumed.states}
        assert attempts == {"identity": 1, "paced": 2, "maxpool": 1}

    def test_table_is_that_of_the_whole_study(self, resumed: Resumed) -> None:
        assert sorted(table_rows(resumed.here.stdout)) == ["identity", "maxpool", "paced"]

    def test_goes_on_from_the_last_checkpoint(self, resumed: Resumed) -> None:
        lines = (resumed.sweep.run_dir("paced") / "metrics.csv").read_text().splitlines()
        assert len(lines) == NUM_EPOCHS + 1
        # a row with the time that its epoch took is kept from the attempt before
        assert lines[1] == resumed.metrics.splitlines()[1]

    def test_nothing_is_left_to_do(self, resumed: Resumed) -> None:
        assert resumed.again.returncode == 0
        assert resumed.again.stdout == "Nothing is left to do: all runs are done.\n"


@pytest.mark.slow
class TestMovedRuns:
    def test_go_on_where_they_are(self, resumed: Resumed) -> None:
        assert resumed.there.returncode == 0, resumed.there.stderr
        assert sorted(table_rows(resumed.there.stdout)) == ["identity", "maxpool", "paced"]
        assert "train  2 runs" in resumed.there.stderr
        assert len(list(resumed.moved.glob("*/seed0"))) == 3
        assert {path.name for path in resumed.moved.parent.iterdir()} == {"copy"}

    def test_end_as_they_would_have(self, resumed: Resumed) -> None:
        for label in ("paced", "maxpool"):
            mine = load_file(run_dir(resumed.moved, label) / store.WEIGHTS)
            assert are_equal(mine, load_file(resumed.sweep.run_dir(label) / store.WEIGHTS))

    def test_know_where_they_are(self, resumed: Resumed) -> None:
        config = files.read_json(run_dir(resumed.moved, "paced") / store.CONFIG)["config"]
        assert config["runs_dir"] == str(resumed.moved)
