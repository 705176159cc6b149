"""The public interface: what ``import pfstudy`` offers."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import pfstudy
from configs import config_loader
from pfstudy import files, ledger, store
from pfstudy.data.tensors import load_splits
from pfstudy.errors import PfstudyError
from pfstudy.schema import imports
from pfstudy.schema.config import parse_config
from pfstudy.schema.operations import OPERATIONS, REGISTERED_IN
from pfstudy.tasks import Task
from pfstudy.worker.run import train_run

HEAVY = {"torch", "hydra", "lightning", "pandas", "timm", "wandb", "sklearn", "numpy", "omegaconf"}


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """Models are registered by every composition; put back what the other tests offer."""
    with config_loader():
        yield


@pytest.fixture
def forget_my_ops() -> Iterator[None]:
    """Forget the user's module and its operation afterwards."""
    path = list(sys.path)
    yield
    sys.path[:] = path
    OPERATIONS.pop("mine", None)
    REGISTERED_IN.pop("mine", None)
    sys.modules.pop("my_ops", None)
    imports._import.cache_clear()


def test_importing_it_costs_nothing(tmp_path: Path) -> None:
    program = f"import sys, pfstudy; print(sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_its_names_are_frozen() -> None:
    assert sorted(pfstudy.__all__) == [
        *("Config", "Cost", "Layer", "Operation", "PfstudyError", "__version__"),
        *("build_network", "check_network", "compose", "cost", "load_checkpoint", "load_run"),
        "register",
    ]


@pytest.mark.parametrize("name", sorted(pfstudy.__all__))
def test_every_name_is_there(name: str) -> None:
    assert getattr(pfstudy, name) is not None
    assert name in dir(pfstudy)


def test_there_is_no_other_name() -> None:
    with pytest.raises(AttributeError, match="module 'pfstudy' has no attribute 'train'"):
        pfstudy.train  # noqa: B018


class TestCompose:
    def test_what_is_composed_is_what_the_command_line_composes(self) -> None:
        config = pfstudy.compose(["block.spatial=maxpool", "block.downsample=avgpool_conv"])
        assert [site.operation for site in config.sites] == [
            *("maxpool", "maxpool", "avgpool_conv", "maxpool")
        ]
        assert (config.model.name, config.data.name) == ("resnet_digits", "digits")

    def test_without_overrides_it_is_the_default(self) -> None:
        assert {site.operation for site in pfstudy.compose().sites} == {"original"}

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            pytest.param("conf", str, id="text"),
            pytest.param("conf", Path, id="path"),
            pytest.param("my [own] user's conf", Path, id="marks of Hydra's grammar"),
        ],
    )
    def test_a_users_own_model(self, tmp_path: Path, name: str, kind: type[str | Path]) -> None:
        directory = tmp_path / name
        (directory / "model").mkdir(parents=True)
        (directory / "model" / "mine.yaml").write_text(
            "defaults: [resnet_digits, _self_]\n"
            "name: mine\n"
            "args:\n  layers: [1, 3]\n"
            "depths: [1, 3]\n"
        )
        overrides = ["model=mine", "site=stage2.block3", "swap=maxpool"]
        config = pfstudy.compose(overrides, config_dir=kind(directory))
        assert config.model.name == "mine"
        assert {site.address: site.operation for site in config.sites} == {
            "stage1.block1": "original",
            "stage2.block1": "original",
            "stage2.block2": "original",
            "stage2.block3": "maxpool",
        }
        assert pfstudy.build_network(config, seed=0)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)

    def test_a_directory_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(PfstudyError, match=r"^config_dir .*nowhere is no directory\.$"):
            pfstudy.compose(config_dir=tmp_path / "nowhere")

    @pytest.mark.parametrize(
        ("overrides", "sentence"),
        [
            pytest.param(
                ["model=resnet5"], r"model 'resnet5' does not exist; choose from: ", id="group"
            ),
            pytest.param(
                ["recipe.lrr=1"], r"recipe: the key 'lrr' does not exist; .*'lr'\?", id="key"
            ),
            pytest.param(["recipe.epochs=two"], r"recipe\.epochs: .* but got 'two'", id="type"),
            pytest.param(["block.spatial=maxpol"], r"operation 'maxpol' does not exist", id="name"),
            pytest.param(["block.spatial=(("], r"the override .* cannot be read", id="grammar"),
            pytest.param(["data=npz"], r"is required; give ", id="required"),
            pytest.param(
                ["block.spatial=conv,maxpool"], r"block\.spatial=conv,maxpool lists", id="list"
            ),
            pytest.param(["site=stage1"], r"needs swap=OPERATION", id="site without swap"),
            pytest.param(
                ["study.design=[all]", "site=stage1", "swap=maxpool"],
                r"^study\.design and study\.variants describe a sweep",
                id="design",
            ),
            pytest.param(
                ["study.variants=['block.spatial=maxpool']"],
                r"^study\.design and study\.variants describe a sweep",
                id="variants",
            ),
            pytest.param(["imports=[no_ops]"], r"there is no module 'no_ops'", id="imports"),
        ],
    )
    def test_a_mistake_is_the_sentence_of_the_command_line(
        self, overrides: list[str], sentence: str
    ) -> None:
        with pytest.raises(PfstudyError, match=sentence) as caught:
            pfstudy.compose(overrides)
        assert "\n" not in str(caught.value)

    def test_one_override_is_no_list(self) -> None:
        with pytest.raises(PfstudyError) as caught:
            pfstudy.compose("block.spatial=maxpool")
        assert str(caught.value) == (
            "overrides must be a list of them, such as ['block.spatial=maxpool']."
        )

    def test_it_can_be_called_again_with_another_directory(self, tmp_path: Path) -> None:
        for name, blocks in (("one", 1), ("two", 2)):
            (tmp_path / name / "model").mkdir(parents=True)
            (tmp_path / name / "model" / f"{name}.yaml").write_text(
                f"defaults: [resnet_digits, _self_]\nname: {name}\n"
                f"args:\n  layers: [1, {blocks}]\ndepths: [1, {blocks}]\n"
            )
        for name, number in (("one", 2), ("two", 3)):
            config = pfstudy.compose([f"model={name}"], config_dir=tmp_path / name)
            assert (config.model.name, len(config.sites)) == (name, number)
        with pytest.raises(PfstudyError, match="model 'two' does not exist"):
            pfstudy.compose(["model=two"])
        assert len(pfstudy.compose(["site=stage2.block2", "swap=maxpool"]).sites) == 4

    def test_it_can_be_called_again_after_a_mistake(self) -> None:
        with pytest.raises(PfstudyError):
            pfstudy.compose(["model=resnet5"])
        assert pfstudy.compose(["model=resnet18", "data=synthetic"]).model.name == "resnet18"


def states_equal(*networks: nn.Module) -> bool:
    one, other = (network.state_dict() for network in networks)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class TestBuildNetwork:
    def test_a_seed_makes_the_same_network(self) -> None:
        config = pfstudy.compose(["block.spatial=dwconv"])
        first, again, other = (pfstudy.build_network(config, seed=seed) for seed in (0, 0, 1))
        assert states_equal(first, again)
        assert not states_equal(first, other)

    def test_without_one_the_current_generator_draws(self) -> None:
        config = pfstudy.compose(["block.spatial=dwconv"])
        networks = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            networks.append(pfstudy.build_network(config))
        assert states_equal(*networks[:2])
        assert not states_equal(*networks[1:])


class TestCost:
    """A convolution 3x3 to four channels, then two classes: counted by hand."""

    @pytest.fixture
    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(4, 2),
        )

    @pytest.mark.parametrize(
        ("size", "pixels"),
        [
            pytest.param(8, 64, id="side"),
            pytest.param((3, 8, 8), 64, id="channels, height and width"),
            pytest.param([3, 4, 8], 32, id="not square"),
        ],
    )
    def test_of_one_image(self, network: nn.Module, size: Any, pixels: int) -> None:
        counted = pfstudy.cost(network, size)
        assert isinstance(counted, pfstudy.Cost)
        assert counted.params == 3 * 4 * 9 + 4 + 4 * 2 + 2
        assert counted.macs == pixels * 3 * 4 * 9 + 4 * 2
        assert counted.activations == pixels * 4 + 2

    @pytest.mark.parametrize(
        "size", [0, -8, (), (8, 8), (1, 3, 8, 8), (3, 0, 8)], ids=lambda size: str(size)
    )
    def test_of_no_image(self, network: nn.Module, size: Any) -> None:
        with pytest.raises(PfstudyError) as caught:
            pfstudy.cost(network, size)
        assert str(caught.value) == (f"input_size must be (C, H, W) or a number, but got {size!r}.")

    def test_leaves_the_network_as_it_was(self, network: nn.Module) -> None:
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        pfstudy.cost(network.train(), 8)
        assert network.training
        assert all(torch.equal(tensor, before[n]) for n, tensor in network.state_dict().items())


def test_load_checkpoint(tmp_path: Path) -> None:
    config = pfstudy.compose(["block.spatial=maxpool"])
    trained, network = (pfstudy.build_network(config, seed=seed) for seed in (0, 1))
    save_file(trained.state_dict(), tmp_path / "trained.safetensors")
    pfstudy.load_checkpoint(network, tmp_path / "trained.safetensors")
    assert states_equal(trained, network)


@pytest.mark.usefixtures("forget_my_ops")
class TestLoadRun:
    def test_reproduces_the_predictions_that_were_kept(self, own_sweep: Any) -> None:
        directory = own_sweep.run_dir("original")
        network = pfstudy.load_run(directory)
        assert not network.training
        config = parse_config(files.read_json(directory / store.CONFIG)["config"])
        with torch.inference_mode():
            logits = network(load_splits(config.data)["test"].images_NCHW)
        with np.load(directory / "predictions.npz") as predictions:
            np.testing.assert_allclose(logits, predictions["logits"], rtol=1e-4, atol=1e-4)

    def test_takes_an_operation_of_the_users_from_where_it_lies(
        self, own_sweep: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        network = pfstudy.load_run(own_sweep.run_dir("mine"))
        assert isinstance(network.get_submodule("layer1.0.conv2"), nn.AvgPool2d)

    def test_of_an_operation_that_was_edited_is_refused(
        self, own_sweep: Any, tmp_path: Path
    ) -> None:
        source = (own_sweep.directory / "my_ops.py").read_text()
        (tmp_path / "my_ops.py").write_text(f"{source}# edited\n")
        copied = shutil.copytree(own_sweep.run_dir("mine"), tmp_path / "seed0")
        text = (copied / store.CONFIG).read_text()
        (copied / store.CONFIG).write_text(text.replace(str(own_sweep.directory), str(tmp_path)))
        with pytest.raises(PfstudyError, match=r"trained with another source of .* 'mine'"):
            pfstudy.load_run(copied)

    def test_needs_neither_the_dataset_nor_what_it_started_from(
        self, make_run: Callable[..., store.Run], tmp_path: Path
    ) -> None:
        generator = np.random.default_rng(0)
        images = generator.integers(0, 256, (40, 8, 8), dtype=np.uint8)
        np.savez(tmp_path / "images.npz", images=images, labels=np.arange(40) % 2)
        asked = (
            *("data=npz", f"data.path={tmp_path / 'images.npz'}", "data.image_size=8"),
            *("data.channels=1", "data.num_classes=2", "data.num_validation=8", "data.num_test=8"),
            *("block.spatial=maxpool", "trainer.accelerator=cpu", "logger=none"),
            *("recipe.epochs=1", "recipe.batch_size=8", "recipe.lr=0.01"),
        )
        start = pfstudy.build_network(pfstudy.compose(asked), seed=0)
        save_file(start.state_dict(), tmp_path / "start.safetensors")
        run = make_run(*asked, f"init_from={tmp_path / 'start.safetensors'}")
        store.prepare(run)
        task = Task(run.directory, study="mine", mode="disabled", environment={})
        train_run(task, lambda kind, details: None)
        (tmp_path / "images.npz").unlink()
        (tmp_path / "start.safetensors").unlink()
        network = pfstudy.load_run(str(run.directory))
        trained = load_file(run.directory / "checkpoints" / "last.safetensors")
        assert all(torch.equal(t, trained[name]) for name, t in network.state_dict().items())
        assert not states_equal(network, start)

    @pytest.mark.parametrize("state", ["pending", "running", "failed", "interrupted", None])
    def test_of_a_run_that_is_not_finished_is_refused(
        self, make_run: Callable[..., store.Run], state: ledger.State | None
    ) -> None:
        run = make_run("block.spatial=maxpool")
        if state is not None:
            store.prepare(run)
            files.write_json(run.directory / ledger.STATE, {"state": state, "attempt": 0})
        with pytest.raises(PfstudyError) as caught:
            pfstudy.load_run(run.directory)
        assert str(caught.value) == (
            f"{run.directory} holds no finished run; give a directory such as "
            "runs/SLUG-HASH/seed0, with a record.json in it."
        )

    def test_of_the_directory_of_a_variant_is_refused(self, own_sweep: Any) -> None:
        with pytest.raises(PfstudyError, match="holds no finished run"):
            pfstudy.load_run(own_sweep.run_dir("original").parent)
