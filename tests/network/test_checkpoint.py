from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.network.checkpoint import describe_weights, load_checkpoint, read_state_dict
from pfstudy.network.surgery import build_network

MAXPOOL = "block.spatial=maxpool"
State = dict[str, torch.Tensor]


def digits(seed: int = 0, *overrides: str) -> nn.Module:
    return build_network(compose(*overrides), seed)


def trained(*overrides: str) -> State:
    """A state whose every tensor differs from that of a new network."""
    state = digits(1, *overrides).state_dict()
    return {name: tensor + 1 for name, tensor in state.items()}


def copied(network: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(network: nn.Module, path: Path) -> str:
    """The sentence with which a checkpoint is refused; the network stays as it was."""
    before = copied(network)
    with pytest.raises(PfstudyError) as caught:
        load_checkpoint(network, path)
    assert equal(network.state_dict(), before)
    return str(caught.value)


def save_torch(state: State, path: Path) -> None:
    torch.save(state, path)


@pytest.mark.parametrize(
    ("ending", "save"),
    [
        pytest.param("safetensors", save_file, id="safetensors"),
        pytest.param("pt", save_torch, id="state dict"),
    ],
)
def test_a_network_starts_from_a_checkpoint(
    tmp_path: Path, ending: str, save: Callable[..., None]
) -> None:
    state, path = trained(MAXPOOL), tmp_path / f"weights.{ending}"
    save(state, path)
    config = replace(compose(MAXPOOL), init_from=str(path))
    assert equal(build_network(config, seed=2).state_dict(), state)


def under(*keys: str) -> Callable[[State], Any]:
    def wrap(state: State) -> Any:
        for key in reversed(keys):
            state = {"epoch": 3, key: state}  # type: ignore[dict-item]
        return state

    return wrap


def prefixed(state: State) -> State:
    return {f"module.{name}": tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(under("state_dict"), id="under state_dict"),
        pytest.param(under("model"), id="under model"),
        pytest.param(under("state_dict", "model"), id="under both"),
        pytest.param(prefixed, id="from a DataParallel"),
        pytest.param(lambda state: under("model")(prefixed(state)), id="prefixed, under model"),
    ],
)
def test_a_state_dict_is_found_where_others_put_it(
    tmp_path: Path, wrap: Callable[[State], Any]
) -> None:
    state, network = trained(), digits()
    torch.save(wrap(state), tmp_path / "weights.pt")
    load_checkpoint(network, tmp_path / "weights.pt")
    assert equal(network.state_dict(), state)


def renamed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(renamed(prefix), id=prefix)
        for prefix in ("_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "module.module.")
    ]
    + [
        pytest.param(lambda state: torch.compile(loaded(state)).state_dict(), id="torch.compile"),
        pytest.param(
            lambda state: nn.DataParallel(torch.compile(loaded(state))).state_dict(),
            id="DataParallel of torch.compile",
        ),
        pytest.param(lambda state: compiled_in_part(state).state_dict(), id="a compiled stage"),
        pytest.param(lambda state: AveragedModel(loaded(state)).state_dict(), id="AveragedModel"),
    ],
)
def test_names_of_wrapped_networks_are_unwrapped(
    tmp_path: Path, wrap: Callable[[State], State]
) -> None:
    state, network = trained(), digits()
    wrapped = wrap(state)
    assert wrapped.keys() != state.keys()
    torch.save(wrapped, tmp_path / "weights.pt")
    load_checkpoint(network, tmp_path / "weights.pt")
    assert equal(network.state_dict(), state)


def loaded(state: State) -> nn.Module:
    network = digits()
    network.load_state_dict(state)
    return network


def compiled_in_part(state: State) -> nn.Module:
    network = loaded(state)
    network.layer1 = torch.compile(network.layer1)
    return network


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel], ids=["compiled", "parallel"])
def test_a_wrapped_network_is_loaded_into(
    tmp_path: Path, wrap: Callable[[nn.Module], nn.Module]
) -> None:
    state, network = trained(), digits()
    torch.save(state, tmp_path / "weights.pt")
    load_checkpoint(wrap(network), tmp_path / "weights.pt")
    assert equal(network.state_dict(), state)


class TestAveragedWeights:
    RAW, AVERAGED = digits(1).state_dict(), digits(2).state_dict()

    def save(self, path: Path, content: Mapping[str, Any]) -> Path:
        torch.save({"epoch": 3, "arch": "x", **content}, path / "weights.pt")
        return path / "weights.pt"

    @pytest.mark.parametrize(
        ("raw", "averaged"),
        [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("model", "ema_state_dict")],
    )
    def test_a_setting_chooses(self, tmp_path: Path, raw: str, averaged: str) -> None:
        path = self.save(tmp_path, {averaged: prefixed(self.AVERAGED), raw: self.RAW})
        config = replace(compose(), init_from=str(path))
        assert equal(build_network(config).state_dict(), self.RAW)
        config = replace(config, init_weights="averaged")
        assert equal(build_network(config).state_dict(), self.AVERAGED)
        assert describe_weights(path) == (
            f"{path} has raw and averaged weights; the raw ones ({raw}) are taken, "
            f"init_weights=averaged takes {averaged}"
        )
        assert describe_weights(path, "averaged") == (
            f"{path} has raw and averaged weights; the averaged ones ({averaged}) are taken, "
            f"init_weights=raw takes {raw}"
        )

    def test_averaged_ones_alone_are_taken(self, tmp_path: Path) -> None:
        path, network = self.save(tmp_path, {"model_ema": self.AVERAGED}), digits()
        load_checkpoint(network, path)
        assert equal(network.state_dict(), self.AVERAGED)
        sentence = f"{path} has averaged weights only (model_ema); these are taken"
        assert describe_weights(path) == sentence

    def test_a_file_without_them_is_refused(self, tmp_path: Path) -> None:
        path = self.save(tmp_path, {"state_dict": self.RAW})
        assert describe_weights(path) is None
        with pytest.raises(PfstudyError) as caught:
            load_checkpoint(digits(), path, "averaged")
        assert str(caught.value) == (
            f"init_weights=averaged: {path} has no averaged weights (state_dict_ema, model_ema, "
            "ema_state_dict, ema); leave init_weights out."
        )


def test_a_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    state = {"module.weight": torch.zeros(2), "weight": torch.ones(2)}
    torch.save(state, tmp_path / "weights.pt")
    assert equal(read_state_dict(tmp_path / "weights.pt"), state)


class Bottlenecks(nn.Module):
    """The layers of two bottlenecks, by the names that they have here."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2)
        plain, reducing = nn.Module(), nn.Module()
        for block in (plain, reducing):
            block.conv1, block.bn1 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
            block.bn2 = nn.BatchNorm2d(2)
            block.conv3, block.bn3 = nn.Conv2d(2, 4, 1, bias=False), nn.BatchNorm2d(4)
        plain.conv2 = nn.Conv2d(2, 2, 3, bias=False)
        reducing.conv2 = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(2, 2, 3, bias=False))
        self.layer1 = nn.Sequential(plain, reducing)
        self.fc = nn.Linear(4, 3)


PUBLISHED = {
    "conv1.0.": "conv1.",
    "conv1.1.": "bn1.",
    "layer1.0.reduction_block.0.": "layer1.0.conv1.",
    "layer1.0.reduction_block.1.": "layer1.0.bn1.",
    "layer1.0.conv_block.0.": "layer1.0.conv2.",
    "layer1.0.conv_block.1.": "layer1.0.bn2.",
    "layer1.0.expansion_block.0.": "layer1.0.conv3.",
    "layer1.0.expansion_block.1.": "layer1.0.bn3.",
    "layer1.1.reduction_block.0.": "layer1.1.conv1.",
    "layer1.1.reduction_block.1.": "layer1.1.bn1.",
    "layer1.1.conv_block.1.0.": "layer1.1.conv2.1.",
    "layer1.1.conv_block.1.1.": "layer1.1.bn2.",
    "layer1.1.expansion_block.0.": "layer1.1.conv3.",
    "layer1.1.expansion_block.1.": "layer1.1.bn3.",
    "fc.": "fc.",
}


def test_the_names_of_published_checkpoints_are_translated(tmp_path: Path) -> None:
    network = Bottlenecks()
    ours = {name: torch.full_like(t, n + 1) for n, (name, t) in enumerate(copied(network).items())}
    published = {
        theirs + name.removeprefix(here): tensor
        for theirs, here in PUBLISHED.items()
        for name, tensor in ours.items()
        if name.startswith(here)
    }
    assert len(published) == len(ours)
    save_file(published, tmp_path / "published.safetensors")
    load_checkpoint(network, tmp_path / "published.safetensors")
    assert equal(network.state_dict(), ours)


def test_a_tensor_under_its_own_and_its_published_name_is_refused(tmp_path: Path) -> None:
    network, path = Bottlenecks(), tmp_path / "twice.safetensors"
    state = copied(network)
    save_file({**state, "conv1.0.weight": state["conv1.weight"] + 1}, path)
    assert refusal(network, path) == (
        f"the checkpoint {path} holds some tensors twice, under two names."
    )
    assert equal(network.state_dict(), state)


def test_missing_left_over_and_reshaped_tensors_are_named(tmp_path: Path) -> None:
    network, path = digits(0, MAXPOOL), tmp_path / "other.safetensors"
    state = {**trained(MAXPOOL), "extra.weight": torch.zeros(1), "fc.weight": torch.zeros(11, 128)}
    del state["fc.bias"]
    save_file(state, path)
    assert refusal(network, path) == (
        f"the checkpoint {path} belongs to another network: 1 missing (fc.bias), 1 left over "
        "(extra.weight), 1 of another shape (fc.weight: (11, 128) instead of (10, 128))."
    )


def test_many_names_are_cut_to_three(tmp_path: Path) -> None:
    path = tmp_path / "baseline.safetensors"
    save_file(digits(0).state_dict(), path)
    sentence = refusal(digits(0, MAXPOOL), path)
    assert "none missing, 24 left over (layer1.0.bn2.bias, " in sentence
    assert sentence.count("layer") == 3


class _Malicious:
    """An object whose unpickling makes a directory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (self.path,)


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt"])
@pytest.mark.parametrize("saved_by", [torch.save, "pickle"], ids=["torch", "pickle"])
def test_a_checkpoint_that_carries_code_is_refused(
    tmp_path: Path, saved_by: Any, ending: str
) -> None:
    trace, path = tmp_path / "was_here", tmp_path / f"weights.{ending}"
    content = {"state_dict": {"fc.weight": torch.zeros(1)}, "args": _Malicious(trace)}
    if saved_by == "pickle":
        path.write_bytes(pickle.dumps(content, protocol=2))
    else:
        saved_by(content, path)
    assert refusal(digits(), path) == (
        f"{path} is no checkpoint of tensors alone, or it is damaged; if there is more in it, save "
        "its state dict by itself."
    )
    assert not trace.exists()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
@pytest.mark.parametrize("length", [0, 2000])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, ending: str, length: int) -> None:
    network, path = digits(), tmp_path / f"weights.{ending}"
    (save_file if ending == "safetensors" else save_torch)(network.state_dict(), path)
    path.write_bytes(path.read_bytes()[:length])
    sentence = refusal(network, path)
    assert sentence.startswith((f"{path} is no readable checkpoint: ", f"{path} is no checkpoint"))
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "content",
    [
        pytest.param([1, 2], id="a list"),
        pytest.param({}, id="an empty dict"),
        pytest.param({"epoch": 3}, id="a dict without tensors"),
        pytest.param({0: torch.zeros(10)}, id="numbers for names"),
        pytest.param({"optimizer": {"fc.bias": torch.zeros(10)}}, id="a nested dict"),
        pytest.param({"state_dict": {}}, id="an empty state dict"),
    ],
)
def test_a_checkpoint_that_is_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert refusal(digits(), path) == f"{path} is no state dict: expected names and tensors."


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_checkpoint_that_does_not_exist_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"nowhere.{ending}"
    assert refusal(digits(), path).startswith(f"{path} is no readable checkpoint: ")
