from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from configs import compose, tiny_vit, variant_of
from pfstudy.canonical import digest, file_digest
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import Config
from pfstudy.variant import Variant, flatten, make_variant, varying_settings

MAXPOOL = "block.spatial=maxpool"
HYBRID = ("block.spatial=maxpool", "block.downsample=avgpool_conv")


def with_npz(path: Path, images: np.ndarray) -> Variant:
    """The variant of a dataset that is written to a path."""
    np.savez(path, images=images, labels=np.arange(len(images)) % 2)
    data = replace(compose().data, name="npz", path=str(path))
    return make_variant(replace(compose(), data=data), fingerprint(data))


SAME = [
    pytest.param([MAXPOOL], ["block.stage1.spatial=maxpool", "block.stage2.spatial=maxpool"],
                 id="every stage"),
    pytest.param([MAXPOOL], ["site=[stage1,stage2]", "swap=maxpool"], id="every stage as a site"),
    pytest.param([MAXPOOL], ["site=[stage1.block1,stage1.block2,stage2.block1,stage2.block2]",
                             "swap=maxpool"], id="every block as a site"),
    pytest.param([MAXPOOL], [MAXPOOL, "swap=dwconv"], id="an unused swap"),
    pytest.param([MAXPOOL], [MAXPOOL, "block.downsample=maxpool"], id="downsample says it too"),
    pytest.param([MAXPOOL], [MAXPOOL, "block.kernel_size=3"], id="the original's kernel"),
    pytest.param([MAXPOOL], [MAXPOOL, "block.norm_act=drop"], id="auto drops after max-pool"),
    pytest.param(["block.spatial=dwconv"], ["block.spatial=dwconv", "block.norm_act=keep"],
                 id="auto keeps after dwconv"),
    pytest.param([], ["block.spatial=conv"], id="conv is the original"),
    pytest.param([], ["block.spatial=original", "block.kernel_size=5"],
                 id="kernel of an unsubstituted site"),
    pytest.param([], ["block.norm_act=drop"], id="norm of an unsubstituted site"),
    pytest.param(["block.stage1.spatial=conv"], ["block.stage1.spatial=avgpool_conv"],
                 id="avgpool_conv at stride 1 is conv"),
    pytest.param(["block.spatial=avgpool_conv"], ["block.downsample=avgpool_conv"],
                 id="avgpool_conv everywhere is avgpool_conv where the resolution falls"),
    pytest.param(["block.spatial=identity"], ["block.spatial=identity", "block.kernel_size=5"],
                 id="identity has no kernel"),
    pytest.param(["model=resnet18", MAXPOOL], ["model=resnet18", MAXPOOL, "block.norm_act=keep"],
                 id="a model whose norm always stays"),
    pytest.param(["recipe.lr=1"], ["recipe.lr=1.0"], id="whole and decimal number"),
    pytest.param([], ["recipe.warmup_epochs=2.0"], id="a default written out"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_variant_have_one_identity(one: list[str], other: list[str]) -> None:
    assert variant_of(*one).canonical == variant_of(*other).canonical
    assert variant_of(*one).hash == variant_of(*other).hash
    assert variant_of(*one).label == variant_of(*other).label


@pytest.mark.parametrize(
    "override",
    [
        "seed=7",
        "seeds=3",
        "runs_dir=elsewhere",
        "study.name=mine",
        "logger=none",
        "logger.project=other",
        "speed=none",
        "speed.batch_size=64",
        "speed.num_threads=4",
        "trainer.accelerator=cpu",
        "trainer.num_threads=2",
        "launcher.num_workers=3",
        "recipe.name=renamed",
        "model.name=renamed",
        "model.image_size=32",
        "++data.path=elsewhere/images.npz",
        "imports=[json]",
        "study.num_samples=3",
        "data.name=renamed",
        "+data.num_workers=3",
    ],
)
def test_what_changes_no_result_changes_no_identity(override: str) -> None:
    assert variant_of(MAXPOOL, override).hash == variant_of(MAXPOOL).hash


DIFFERENT = [
    "block.spatial=avgpool",
    "block.kernel_size=5",
    "block.norm_act=keep",
    "block.stage1.block1.spatial=original",
    "block.downsample=avgpool",
    "recipe.epochs=16",
    "recipe.batch_size=32",
    "recipe.lr=0.1",
    "recipe.momentum=0",
    "recipe.weight_decay=0",
    "recipe.schedule=one_cycle",
    "recipe.warmup_epochs=0",
    "recipe.label_smoothing=0",
    "trainer.precision=bf16-mixed",
    "data.image_size=16",
    "data.channels=3",
    "data.num_classes=11",
    "data.num_validation=151",
    "data.num_test=501",
    "data.split_seed=1",
    "+data.crop_fraction=0.9",
    "+data.interpolation=bicubic",
    "+data.mean=[0.5]",
    "+data.std=[0.5]",
    "pretrained=true",
    "model.args.channels=[16,48]",
    "model.timm=resnet50",
]


def test_whatever_changes_results_is_another_variant() -> None:
    hashes = [variant_of(MAXPOOL, override).hash for override in DIFFERENT]
    assert len({variant_of(MAXPOOL).hash, *hashes}) == len(DIFFERENT) + 1


OF_RECIPES = (
    "recipe.optimizer=adamw",
    "recipe.ema_decay=0.9",
    "recipe.clip_norm=1",
    "recipe.drop_path=0.1",
    "recipe.min_lr=0.01",
    "recipe.loss=binary_cross_entropy",
    "recipe.decay_all=false",
    "recipe.sync_batch_norm=true",
    "recipe.teacher=timm:resnet18",
    "recipe.augmentation.flip=true",
    "recipe.augmentation.mixup=0.2",
    "recipe.augmentation.repeats=2",
    "tune.trials=4",
)


def test_whatever_a_recipe_may_say_is_another_variant() -> None:
    hashes = [variant_of(MAXPOOL, override).hash for override in OF_RECIPES]
    assert len({variant_of(MAXPOOL).hash, *hashes}) == len(OF_RECIPES) + 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(
            ["recipe.lr=0.1", "recipe.lr_batch_size=32"], ["recipe.lr=0.2"], id="scaled rate"
        ),
        pytest.param(["recipe.step_epochs=5"], [], id="steps of a cosine"),
        pytest.param(
            ["recipe.warmup_lr=0.1", "recipe.warmup_epochs=0"],
            ["recipe.warmup_epochs=0"],
            id="no warm-up",
        ),
        pytest.param(["recipe.augmentation.mixup_probability=0.5"], [], id="nothing is mixed"),
        pytest.param(["recipe.distillation=hard"], [], id="no teacher"),
        pytest.param(["tune.seed=3"], [], id="no tuning"),
        pytest.param(["trainer.channels_last=true", "trainer.compile=default"], [], id="layout"),
        pytest.param(["trainer.accumulation=2"], [], id="accumulation"),
    ],
)
def test_what_changes_no_result_is_the_same_variant(one: list[str], other: list[str]) -> None:
    assert variant_of(MAXPOOL, *one).hash == variant_of(MAXPOOL, *other).hash


def test_conv_with_another_kernel_or_without_its_norm_is_a_substitution() -> None:
    for override in ("block.kernel_size=5", "block.norm_act=drop"):
        assert not variant_of("block.spatial=conv", override).is_baseline


def test_avgpool_conv_is_no_conv_where_the_resolution_falls() -> None:
    (substitution,) = variant_of("block.spatial=avgpool_conv").substitutions
    assert (substitution.address, substitution.operation) == ("stage2.block1", "avgpool_conv")


def test_other_data_is_another_variant() -> None:
    assert variant_of(fingerprint="a").hash != variant_of(fingerprint="b").hash


def test_another_content_under_the_same_path_is_another_variant(tmp_path: Path) -> None:
    images = np.arange(256, dtype=np.float32).reshape(4, 8, 8)
    before = with_npz(tmp_path / "images.npz", images).hash
    assert with_npz(tmp_path / "images.npz", images + 1).hash != before


def test_the_same_content_under_another_path_is_the_same_variant(tmp_path: Path) -> None:
    images = np.arange(256, dtype=np.float32).reshape(4, 8, 8)
    moved = with_npz(tmp_path / "moved.npz", images)
    assert with_npz(tmp_path / "images.npz", images).hash == moved.hash


def test_a_checkpoint_is_identified_by_its_content(tmp_path: Path) -> None:
    one, copied, other = (tmp_path / f"{name}.pt" for name in ("one", "copied", "other"))
    one.write_bytes(b"weights")
    copied.write_bytes(b"weights")
    other.write_bytes(b"other weights")

    def identity(path: Path) -> str:
        return make_variant(replace(compose(), init_from=str(path)), "content").hash

    assert identity(one) == identity(copied)
    assert len({identity(one), identity(other), variant_of().hash}) == 3
    before = identity(one)
    one.write_bytes(b"trained further")
    assert identity(one) != before


def test_the_choice_of_weights_counts_where_it_chooses_others(tmp_path: Path) -> None:
    (tmp_path / "weights.pt").write_bytes(b"weights")
    started = replace(compose(), init_from=str(tmp_path / "weights.pt"))

    def canonical(config: Config) -> Mapping[str, Any]:
        return make_variant(config, "content").canonical

    assert "init_weights" not in canonical(started)
    averaged = canonical(replace(started, init_weights="averaged"))
    assert averaged == {**canonical(started), "init_weights": "averaged"}
    assert canonical(replace(compose(), init_weights="averaged")) == canonical(compose())


def test_how_unusual_pixels_are_read_counts_where_it_is_not_the_default() -> None:
    folder = compose("data=imagefolder", "data.path=x", "data.num_classes=4", "data.image_size=8")
    assert (folder.data.background, folder.data.bit_depth) == ("white", None)
    usual = make_variant(folder, "content").canonical["data"]
    assert not {"background", "bit_depth"} & usual.keys()
    for changes in ({"background": "black"}, {"bit_depth": 12}):
        data = replace(folder.data, **changes)
        found = make_variant(replace(folder, data=data), "content").canonical["data"]
        assert found == {**usual, **changes}
    old = replace(folder.data, background=None, bit_depth=16)
    assert make_variant(replace(folder, data=old), "content").canonical["data"] == usual


def test_a_missing_checkpoint_is_named() -> None:
    with pytest.raises(PfstudyError, match=r"^init_from=nowhere\.pt cannot be read: No such file"):
        make_variant(replace(compose(), init_from="nowhere.pt"), "content")


def test_the_content_of_a_file_is_digested(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")  # the example of FIPS 180-2
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_digest(str(path), "key") == expected


@pytest.mark.parametrize(
    ("overrides", "frozen"),
    [
        pytest.param([], "6448c50367", id="default"),
        pytest.param([MAXPOOL], "5a5dc42f4e", id="maxpool"),
        pytest.param(["model=resnet50", "data=synthetic", *HYBRID], "fb360b406f", id="hybrid"),
    ],
)
def test_identities_are_frozen(overrides: list[str], frozen: str) -> None:
    """A change here orphans every record: it needs a new schema version and a migration."""
    assert variant_of(*overrides).hash == frozen


def test_the_canonical_form_of_a_substitution() -> None:
    canonical = variant_of("block.stage2.block2.spatial=maxpool").canonical
    assert canonical["sites"] == {
        "layer2.1.conv2": {
            "operation": "maxpool",
            "kernel_size": 3,
            "drops": ["layer2.1.act2", "layer2.1.bn2"],
        }
    }
    assert canonical["backbone"]["timm"] == "pfstudy_small_resnet"
    assert "init" not in canonical


def test_the_canonical_form_of_tokens_says_where_they_are() -> None:
    canonical = make_variant(tiny_vit("original", "maxpool"), "content").canonical
    assert canonical["sites"] == {
        "blocks.1.attn": {
            "operation": "maxpool",
            "kernel_size": 3,
            "layout": "NLC",
            "prefix_tokens": 1,
        }
    }


def test_attributes_of_a_parent_are_part_of_the_identity() -> None:
    config = tiny_vit("maxpool", "maxpool")
    (pattern,) = config.model.sites
    model = replace(config.model, sites=(replace(pattern, parent={"scale": 2}),))
    changed = make_variant(replace(config, model=model), "content")
    assert changed.canonical["sites"]["blocks.0.attn"]["parent"] == {"scale": 2}
    assert changed.hash != make_variant(config, "content").hash
    assert changed.baseline_hash == make_variant(config, "content").baseline_hash


def test_an_architecture_does_not_depend_on_its_weights() -> None:
    variant = variant_of(MAXPOOL, "pretrained=true")
    assert variant.hash != variant_of(MAXPOOL).hash
    assert variant.architecture_hash == variant_of(MAXPOOL).architecture_hash
    assert not variant.without_weights().config.pretrained


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        pytest.param([], "original", id="baseline"),
        pytest.param([MAXPOOL], "maxpool", id="everywhere"),
        pytest.param(HYBRID, "maxpool, downsample=avgpool_conv", id="hybrid"),
        pytest.param(["block.downsample=avgpool"], "original, downsample=avgpool",
                     id="only where the resolution falls"),
        pytest.param(["block.stage1.spatial=maxpool"], "stage1=maxpool", id="one stage"),
        pytest.param(["block.stage1.block2.spatial=dwconv"], "stage1.block2=dwconv",
                     id="one block"),
        pytest.param(["block.stage1.spatial=dwconv", "block.stage2.block2.spatial=maxpool"],
                     "stage1=dwconv, stage2.block2=maxpool", id="stage and block"),
        pytest.param([MAXPOOL, "block.kernel_size=5"], "maxpool5x5", id="kernel"),
        pytest.param([MAXPOOL, "block.norm_act=keep"], "maxpool+norm", id="norm kept"),
        pytest.param(["block.spatial=dwconv", "block.norm_act=drop"], "dwconv-norm",
                     id="norm dropped"),
        pytest.param(["block.spatial=conv", "block.kernel_size=1", "block.norm_act=drop"],
                     "conv1x1-norm", id="kernel and norm"),
    ],
)  # fmt: skip
def test_a_label_says_what_differs(overrides: list[str], label: str) -> None:
    assert variant_of(*overrides).label == label


def test_variants_of_a_sweep_have_different_labels() -> None:
    swept = [[f"block.stage{s}.block{b}.spatial={name}"] for s in (1, 2) for b in (1, 2)
             for name in ("maxpool", "dwconv")]  # fmt: skip
    assert len({variant_of(*overrides).label for overrides in swept}) == len(swept)


@pytest.mark.parametrize(
    ("overrides", "slug"),
    [
        pytest.param([MAXPOOL], "resnet_digits-digits-maxpool", id="plain"),
        pytest.param(["model=resnet50", "data=synthetic", *HYBRID],
                     "resnet50-synthetic-maxpool-downsample=avgpool_conv", id="hybrid"),
        pytest.param(["model.name='../odd name'"], "odd-name-digits-original", id="odd name"),
    ],
)  # fmt: skip
def test_a_slug_is_a_readable_name_of_a_directory(overrides: list[str], slug: str) -> None:
    assert variant_of(*overrides).slug == slug


def test_a_long_slug_is_cut() -> None:
    names = ("maxpool", "avgpool", "minpool", "lppool")
    different = [f"block.stage3.block{b}.spatial={name}" for b, name in enumerate(names, 1)]
    slug = variant_of("model=resnet50", *different).slug
    assert len(slug) <= 80
    assert slug.startswith("resnet50-digits-stage3.block1=maxpool-stage3.block2=avgpool")


def test_blocks_of_a_stage_that_share_an_operation_stand_together_in_the_label() -> None:
    blocks = [f"block.stage3.block{b}.spatial=maxpool" for b in (1, 2, 3, 5)]
    found = variant_of("model=resnet50", *blocks, "block.stage3.block6.spatial=dwconv").label
    assert found == "stage3.block1-3,5=maxpool, stage3.block6=dwconv"


@pytest.mark.parametrize("overrides", [(), (MAXPOOL,), HYBRID, ("block.stage1.spatial=identity",)])
def test_the_baseline_is_the_unsubstituted_backbone(overrides: tuple[str, ...]) -> None:
    variant = variant_of(*overrides, "recipe.lr=0.3")
    plain = variant_of("recipe.lr=0.3")
    assert variant.baseline_hash == variant.baseline().hash == plain.hash
    assert variant.baseline().label == "original"
    assert variant.baseline().is_baseline
    assert variant.is_baseline is not bool(overrides)


def test_the_baseline_depends_on_data_and_recipe() -> None:
    other = variant_of(MAXPOOL, "recipe.lr=0.3").baseline_hash
    assert len({other, variant_of(MAXPOOL).baseline_hash}) == 2


def test_variants_of_one_network_share_the_architecture() -> None:
    one = variant_of(MAXPOOL)
    retrained = variant_of(MAXPOOL, "recipe.lr=0.3", "data.num_test=501", fingerprint="other")
    assert one.architecture_hash == retrained.architecture_hash
    others = [(), ("block.spatial=avgpool",), (MAXPOOL, "data.image_size=16"),
              (MAXPOOL, "data.num_classes=12"), (MAXPOOL, "model.args.channels=[8,8]")]  # fmt: skip
    hashes = {variant_of(*overrides).architecture_hash for overrides in others}
    assert len(hashes | {one.architecture_hash}) == len(others) + 1


def test_operations_name_every_site() -> None:
    variant = variant_of("block.stage1.spatial=maxpool", "block.stage1.kernel_size=5")
    assert variant.operations == {
        "stage1.block1": "maxpool5x5",
        "stage1.block2": "maxpool5x5",
        "stage2.block1": "original",
        "stage2.block2": "original",
    }


def test_varying_settings_leave_the_sites_out() -> None:
    forms = [
        variant_of(*overrides).canonical
        for overrides in ((), (MAXPOOL,), (MAXPOOL, "recipe.lr=0.1"), ("data.split_seed=4",))
    ]
    assert varying_settings(forms, ["resnet_digits"] * len(forms)) == [
        "data.split_seed",
        "recipe.lr",
    ]
    assert varying_settings(forms[:2], ["resnet_digits"] * 2) == []


def test_a_setting_that_one_form_lacks_varies() -> None:
    assert varying_settings([{"init": "abc"}, {}], ["a", "a"]) == ["init"]


def test_a_setting_of_the_backbone_is_named_if_it_varies_within_a_model() -> None:
    forms = [{"backbone": {"args": {"width": 1, "depth": d}}} for d in (1, 2)]
    wide = {"backbone": {"args": {"width": 2, "depth": 1}}}
    assert varying_settings(forms, ["shallow", "deep"]) == []
    assert varying_settings([*forms, wide], ["shallow", "deep", "shallow"]) == [
        "backbone.args.width"
    ]


def test_flatten_joins_keys_with_dots() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e": 3}) == {"a.b": 1, "a.c.d": [2], "e": 3}
