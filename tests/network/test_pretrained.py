"""``pretrained=true``: timm's weights, here from files, in everything that still has a place."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
from safetensors.torch import save_file

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.launch.check import check_variants
from pfstudy.network.pretrained import describe_initial_weights
from pfstudy.network.surgery import build_network
from pfstudy.schema.config import Config, config_tree, parse_config
from pfstudy.variant import make_variant

State = dict[str, torch.Tensor]

SITES = [f"layer{stage}.{block}.conv2" for stage in range(1, 5) for block in range(2)]


def save_weights(name: str, path: Path) -> State:
    """Save a timm model whose every tensor differs from that of a new one, as its weights."""
    torch.manual_seed(17)
    state = {name: tensor + 1 for name, tensor in timm.create_model(name).state_dict().items()}
    save_file(state, path)
    return state


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, State]:
    """A file with weights of a ResNet-18 for 1000 classes, and what is in it."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    return str(path), save_weights("resnet18", path)


def resnet18(file: str | None, *overrides: str) -> Config:
    """A variant of ResNet-18 on small images that starts from a file as timm's weights."""
    config = compose("model=resnet18", "data=synthetic", "data.image_size=32", *overrides)
    if file is None:
        return config
    args = {**config.model.args, "pretrained_cfg_overlay": {"file": file}}
    return replace(config, model=replace(config.model, args=args), pretrained=True)


def initial(config: Config, seed: int = 3) -> State:
    return build_network(config, seed).state_dict()


def is_of_a_site(name: str) -> bool:
    return any(name.startswith(f"{site}.") for site in SITES)


def equal_tensors(one: State, other: State) -> set[str]:
    return {name for name in one.keys() & other.keys() if torch.equal(one[name], other[name])}


def test_the_override_gives_the_file(published: tuple[str, State]) -> None:
    file, _ = published
    override = f"+model.args.pretrained_cfg_overlay.file={file}"
    config = compose(
        *("model=resnet18", "data=synthetic", "data.image_size=32", override, "pretrained=true")
    )
    assert config == resnet18(file)


def test_the_backbone_has_every_tensor_of_the_file(published: tuple[str, State]) -> None:
    file, weights = published
    found = initial(resnet18(file))
    assert equal_tensors(found, weights) == found.keys() == weights.keys()


@pytest.mark.parametrize(
    ("overrides", "taken_over"),
    [
        pytest.param(["block.spatial=maxpool"], False, id="no weights"),
        pytest.param(["block.spatial=dwconv"], False, id="weights of another shape"),
        pytest.param(["block.spatial=conv", "block.kernel_size=5"], False, id="another kernel"),
        pytest.param(["block.spatial=dilated_conv"], True, id="weights of the same shape"),
    ],
)
def test_what_is_replaced_is_fresh_unless_its_weights_fit(
    published: tuple[str, State], overrides: list[str], taken_over: bool
) -> None:
    file, weights = published
    config = resnet18(file, *overrides)
    found, fresh = initial(config), initial(replace(config, pretrained=False))
    shared = {name for name in weights if not is_of_a_site(name)}
    at_sites = {name for name in found if is_of_a_site(name)}
    assert found.keys() == shared | at_sites
    assert equal_tensors(found, weights) == shared | (at_sites if taken_over else set())
    assert equal_tensors(found, fresh) == (set() if taken_over else at_sites)


def test_other_classes_have_a_head_of_their_own(published: tuple[str, State]) -> None:
    file, weights = published
    config = resnet18(file, "data.num_classes=10")
    found, again, other = (initial(config, seed) for seed in (3, 3, 4))
    assert found["fc.weight"].shape == (10, 512)
    rest = found.keys() - {"fc.weight", "fc.bias"}
    assert equal_tensors(found, weights) == rest
    assert equal_tensors(found, again) == found.keys()
    assert equal_tensors(found, other) == rest


def test_images_of_one_channel_have_the_sum_of_the_first_kernels(
    published: tuple[str, State],
) -> None:
    file, weights = published
    found = initial(resnet18(file, "data.channels=1"))
    assert equal_tensors(found, weights) == found.keys() - {"conv1.weight"}
    expected = weights["conv1.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(found["conv1.weight"], expected)


def test_without_a_class_token_the_rest_of_the_position_embedding_stays(tmp_path: Path) -> None:
    weights = save_weights("vit_tiny_patch16_224", tmp_path / "vit.safetensors")
    config = compose("model=vit_ti_gap", "data=synthetic", "block.stage1.block2.spatial=maxpool")
    args = {
        **config.model.args,
        "pretrained_cfg_overlay": {"file": str(tmp_path / "vit.safetensors")},
    }
    config = replace(config, model=replace(config.model, args=args), pretrained=True)
    found = initial(config)
    assert not any(name.startswith("blocks.1.attn.") for name in found)
    assert found.keys() - equal_tensors(found, weights) == {"pos_embed"}
    assert torch.equal(found["pos_embed"], weights["pos_embed"][:, 1:])


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with weights of a ViT-Ti."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_weights("vit_tiny_patch16_224", path)
    return str(path)


def vit_ti(file: str, **args: int) -> Config:
    """A ViT-Ti of other sizes that starts from a file as timm's weights."""
    config = compose("model=vit_ti_gap", "data=synthetic")
    args = {**config.model.args, **args, "pretrained_cfg_overlay": {"file": file}}
    return replace(config, model=replace(config.model, args=args), pretrained=True)


def test_the_position_embedding_of_another_grid_is_not_cut(vit: str) -> None:
    config = vit_ti(vit, patch_size=32)
    found, fresh = initial(config), initial(replace(config, pretrained=False))
    assert equal_tensors(found, fresh) == {"pos_embed", "patch_embed.proj.weight"}


class TestRefusals:
    def refusal(self, config: Config) -> str:
        with pytest.raises(PfstudyError) as caught:
            build_network(config, seed=0)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    @pytest.fixture
    def _offline(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))

    @pytest.mark.usefixtures("_offline")
    def test_weights_that_cannot_be_had(self) -> None:
        config = replace(resnet18(None), pretrained=True)
        sentence = self.refusal(config)
        assert sentence.startswith("pretrained=true: timm cannot load its weights of 'resnet18': ")

    @pytest.mark.usefixtures("_offline")
    def test_a_sweep_finds_that_out_before_it_trains(self) -> None:
        config = replace(resnet18(None, "block.spatial=maxpool"), pretrained=True)
        with pytest.raises(PfstudyError, match=r"^maxpool: pretrained=true: timm cannot load"):
            check_variants([make_variant(config, "content")], lambda kind, details: None)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        sentence = self.refusal(resnet18(str(tmp_path / "nowhere.safetensors")))
        assert sentence.startswith("pretrained=true: timm cannot load its weights of 'resnet18': ")

    def test_a_file_of_another_network(self, published: tuple[str, State], tmp_path: Path) -> None:
        path = tmp_path / "other.safetensors"
        save_file({"fc.weight": torch.zeros(1000, 512)}, path)
        sentence = self.refusal(resnet18(str(path)))
        assert sentence.startswith("pretrained=true: timm cannot load its weights of 'resnet18': ")

    def test_weights_of_which_none_has_a_place(self, vit: str) -> None:
        assert self.refusal(vit_ti(vit, embed_dim=96)) == (
            "pretrained=true: no tensor of timm's weights of 'vit_tiny_patch16_224' has a place in "
            "the network of model vit_ti_gap."
        )

    @pytest.mark.parametrize("model", ["resnet_digits", "pit_ti_gap"])
    def test_a_backbone_without_weights(self, model: str) -> None:
        config = replace(compose(f"model={model}", "data=synthetic"), pretrained=True)
        assert self.refusal(config).startswith("pretrained=true: timm cannot load its weights of ")

    def test_two_beginnings(self) -> None:
        config = replace(compose(), init_from="weights.pt", pretrained=True)
        with pytest.raises(PfstudyError) as caught:
            make_variant(config, "content")
        assert str(caught.value) == (
            "init_from and pretrained=true exclude each other; give one of them."
        )


def test_it_is_part_of_the_identity_but_not_of_the_architecture() -> None:
    config = compose("model=resnet18", "data=synthetic", "block.spatial=maxpool")
    drawn, loaded = (make_variant(replace(config, pretrained=p), "content") for p in (False, True))
    assert drawn.hash != loaded.hash
    assert drawn.baseline_hash != loaded.baseline_hash == loaded.baseline().hash
    assert drawn.architecture_hash == loaded.architecture_hash
    assert loaded.without_weights().config == config


def overrides_in(sentence: str) -> list[str]:
    return re.findall(r"data\.\w+=\S+(?<![;,.])", sentence)


FOLDER = ("data=imagenet", "data.path=nowhere", "pretrained=true")


class TestExpectedInput:
    """What timm declares of weights, which needs no download."""

    @pytest.mark.parametrize(
        "model",
        ["vit_ti", "vit_s", "vit_b", "vit_ti_gap", "vit_b_gap", "mixer_b16", "efficientnet_b1"],
    )
    def test_another_normalisation_is_refused_with_what_to_add(self, model: str) -> None:
        asked = [f"model={model}", *FOLDER]
        with pytest.raises(PfstudyError) as caught:
            describe_initial_weights(compose(*asked))
        named = overrides_in(str(caught.value))
        assert named[:2] == ["data.mean=[0.5,0.5,0.5]", "data.std=[0.5,0.5,0.5]"]
        assert "pretrained_normalisation=any" in str(caught.value)
        assert describe_initial_weights(compose(*asked, *named)) == []
        (note,) = describe_initial_weights(compose(*asked, "pretrained_normalisation=any"))
        assert overrides_in(note)[:2] == named[:2]

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            pytest.param("resnet50", ["data.crop_fraction=0.95"], id="resnet50"),
            pytest.param("deit_ti", ["data.crop_fraction=0.9"], id="deit_ti"),
            pytest.param("mobilenetv2", [], id="mobilenetv2"),
        ],
    )
    def test_another_crop_is_said(self, model: str, expected: list[str]) -> None:
        asked = [f"model={model}", *FOLDER]
        notes = describe_initial_weights(compose(*asked))
        assert overrides_in(" ".join(notes)) == expected
        assert describe_initial_weights(compose(*asked, *expected)) == []

    @pytest.mark.parametrize(
        ("overrides", "expected"),
        [
            pytest.param(["model.timm=resnet50.tv_in1k"], ["data.interpolation=bilinear"],
                         id="tag in the name"),
            pytest.param(["+model.args.pretrained_cfg=tv_in1k"], ["data.interpolation=bilinear"],
                         id="tag as an argument"),
            pytest.param(["+model.args.pretrained_cfg_overlay.crop_pct=0.8"],
                         ["data.crop_fraction=0.8"], id="own declaration"),
        ],
    )  # fmt: skip
    def test_the_tag_counts(self, overrides: list[str], expected: list[str]) -> None:
        config = compose("model=resnet50", *FOLDER, *overrides)
        assert overrides_in(" ".join(describe_initial_weights(config))) == expected

    def test_the_tag_counts_for_the_normalisation(self) -> None:
        tag = "model.timm=mixer_b16_224.miil_in21k_ft_in1k"
        with pytest.raises(PfstudyError, match=r"data\.mean=\[0,0,0\] data\.std=\[1,1,1\] "):
            describe_initial_weights(compose("model=mixer_b16", tag, *FOLDER))

    def test_grey_images_have_the_mean_over_colours(self) -> None:
        asked = ["model=resnet18", *FOLDER, "data.channels=1", "data.crop_fraction=0.95"]
        usual = ["data.mean=[0.449]", "data.std=[0.226]"]
        assert describe_initial_weights(compose(*asked, *usual)) == []
        with pytest.raises(PfstudyError, match=r"add data\.mean=\[0\.449\] data\.std=\[0\.226\]"):
            describe_initial_weights(compose(*asked, "data.mean=[0.5]", "data.std=[0.5]"))

    def test_data_normalised_by_itself_is_said(self) -> None:
        config = compose("model=vit_ti", "data=synthetic", "pretrained=true")
        (note,) = describe_initial_weights(config)
        assert note.endswith("data=synthetic are normalised by their own mean and deviation")

    def test_other_weights_expect_nothing(self) -> None:
        assert describe_initial_weights(compose("model=vit_ti", *FOLDER[:2])) == []
        config = compose("model=resnet_digits", "data=synthetic", "pretrained=true")
        assert describe_initial_weights(config) == []

    def test_what_was_started_before_goes_on(self) -> None:
        tree = config_tree(compose("model=vit_ti", *FOLDER))
        assert tree.pop("pretrained_normalisation") == "match"
        (note,) = describe_initial_weights(parse_config(tree))
        assert note.endswith("these images differ")
