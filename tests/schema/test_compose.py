from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from configs import (
    compose,
    compose_alone,
    compose_sweep,
    config_loader,
    list_jobs,
    operations,
    refusal,
)
from pfstudy.errors import PfstudyError
from pfstudy.schema.models import conf_directory, register_models
from pfstudy.schema.operations import OPERATIONS
from pfstudy.schema.sites import list_sites
from pfstudy.variant import make_variant

CONF = conf_directory()
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
CHOICES = ", ".join(dict.fromkeys(["original", "conv", *OPERATIONS]))
NPZ = ["data.path=images.npz", "data.image_size=8", "data.channels=1", "data.num_classes=2"]
NPZ += ["data.num_validation=10", "data.num_test=10"]
REQUIRED = {
    "data=npz": NPZ,
    "data=imagefolder": ["data.path=images", "data.num_classes=2"],
    "data=imagenet": ["data.path=images"],
    "recipe=base": ["recipe.name=base", "recipe.epochs=1", "recipe.batch_size=1", "recipe.lr=1"],
}


def shipped_options() -> list[str]:
    """``GROUP=NAME`` of every shipped config but those of Hydra's own groups."""
    paths = sorted(CONF.glob("*/*.yaml"))
    return [f"{path.parent.name}={path.stem}" for path in paths]


@pytest.fixture
def user_directory(tmp_path: Path) -> Path:
    """A user's ``--config-dir`` with a backbone of one and two blocks and a study."""
    declared = yaml.safe_load((CONF / "model" / "resnet_digits.yaml").read_text())
    declared |= {"name": "mine", "depths": [1, 2]}
    declared["args"]["layers"] = [1, 2]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(yaml.safe_dump(declared))
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "grid.yaml").write_text(
        "# @package _global_\n"
        "study:\n  name: grid\n"
        "recipe:\n  epochs: 2\n"
        "hydra:\n  mode: MULTIRUN\n  sweeper:\n    params:\n"
        "      block.spatial: maxpool,avgpool\n      block.norm_act: keep,drop\n"
    )
    return tmp_path


def test_every_group_of_the_shipped_configs_is_covered() -> None:
    groups = {option.partition("=")[0] for option in shipped_options()}
    assert groups >= {"model", "data", "recipe", "trainer", "logger", "speed", "study"}


@pytest.mark.parametrize("option", shipped_options())
def test_every_shipped_config_composes(option: str) -> None:
    config = compose(option, *REQUIRED.get(option, []))
    group, name = option.split("=")
    part = getattr(config, group, None)
    if group in ("model", "data", "recipe", "logger"):
        assert part.name == name


@pytest.mark.parametrize("model", MODELS)
def test_every_site_of_a_model_has_a_setting(model: str) -> None:
    config = compose(f"model={model}")
    assert [site.address for site in config.sites] == [s.address for s in list_sites(config.model)]
    assert {site.operation for site in config.sites} == {"original"}


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "resnet_digits"])
def test_a_resnet_declares_one_site_per_block(model: str) -> None:
    config = compose(f"model={model}")
    assert [site.address for site in config.sites] == [
        f"stage{stage}.block{block}"
        for stage, depth in enumerate(config.model.depths, 1)
        for block in range(1, depth + 1)
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        pytest.param(["block.spatial=maxpool"], "maxpool maxpool maxpool maxpool", id="root"),
        pytest.param(["block.spatial=maxpool", "block.downsample=avgpool_conv"],
                     "maxpool maxpool avgpool_conv maxpool", id="the hybrid"),
        pytest.param(["block.downsample=avgpool_conv", "block.stage2.spatial=maxpool"],
                     "original original maxpool maxpool",
                     id="a root downsample does not beat a stage's spatial"),
        pytest.param(["block.stage2.downsample=conv", "block.stage2.spatial=maxpool"],
                     "original original conv maxpool", id="at a stage downsample beats spatial"),
        pytest.param(["block.downsample=dwconv", "block.stage2.downsample=conv"],
                     "original original conv original", id="stage downsample beats root's"),
        pytest.param(["block.spatial=maxpool", "block.stage1.block2.spatial=original"],
                     "maxpool original maxpool maxpool", id="a block beats all"),
        pytest.param(["site=stage1", "swap=maxpool"], "maxpool maxpool original original",
                     id="one stage as site"),
        pytest.param(["site=stage2.block1", "swap=maxpool"], "original original maxpool original",
                     id="one block as site"),
        pytest.param(["site=[stage1,stage2.block2]", "swap=dwconv"],
                     "dwconv dwconv original dwconv", id="a list of sites"),
        pytest.param(["site=[stage1]", "swap=dwconv", "block.spatial=maxpool"],
                     "dwconv dwconv maxpool maxpool", id="a site beats the root"),
        pytest.param(["site=[stage1]", "swap=dwconv", "block.stage1.block1.spatial=maxpool"],
                     "maxpool dwconv original original", id="a block beats its stage's site"),
        pytest.param(["swap=dwconv"], "original original original original",
                     id="swap without sites"),
    ],
)  # fmt: skip
def test_what_stands_at_every_site(overrides: list[str], expected: str) -> None:
    assert list(operations(*overrides).values()) == expected.split()


def test_a_model_takes_its_own_block_tree() -> None:
    assert len(operations("model=resnet50", "block.stage3.block6.spatial=maxpool")) == 16
    assert "'block3' does not exist" in refusal(
        "model=resnet18", "block.stage3.block3.spatial=maxpool"
    )


def test_synthetic_images_have_the_size_of_the_model() -> None:
    data = compose("data=synthetic", "model=resnet50").data
    assert (data.image_size, data.channels, data.num_classes) == (224, 3, 1000)


REFUSED = [
    pytest.param(["block.spatial=maxpol"], "operation 'maxpol' does not exist; choose from: "
                 f"{CHOICES}. Did you mean 'maxpool'?", id="operation"),
    pytest.param(["model=resnet_digit"], "model 'resnet_digit' does not exist; choose from: "
                 f"{', '.join(MODELS)}. Did you mean 'resnet_digits'?", id="model"),
    pytest.param(["data=digit"], "data 'digit' does not exist; choose from: cifar10, cifar100, "
                 "digits, imagefolder, imagenet, npz, stl10, svhn, synthetic. Did you mean "
                 "'digits'?", id="dataset"),
    pytest.param(["block.stage3.spatial=maxpool"], "block: the key 'stage3' does not exist; choose "
                 "from: spatial, downsample, kernel_size, norm_act, stage1, stage2. Did you mean "
                 "'stage2'?", id="stage"),
    pytest.param(["+block.stage3.block1.spatial=maxpool"], "stage3.block1 is no site of this "
                 "backbone, whose sites are stage1.block1-2, stage2.block1-2; choose among them, "
                 "and leave block= to the model.", id="ghost block"),
    pytest.param(["site=stage3", "swap=maxpool"], "stage3 is no site of this backbone, whose sites "
                 "are stage1.block1-2, stage2.block1-2; choose among them, and leave block= to the "
                 "model.", id="site of another model"),
    pytest.param(["block=resnet50", "model=resnet18"], "stage1.block3 is no site of this backbone, "
                 "whose sites are stage1.block1-2, stage2.block1-2, stage3.block1-2, "
                 "stage4.block1-2; choose among them, and leave block= to the model.",
                 id="block tree of a deeper model"),
    pytest.param(["block=resnet18", "model=resnet50"], "the block tree lacks stage1.block3 of this "
                 "backbone, whose sites are stage1.block1-3, stage2.block1-4, stage3.block1-6, "
                 "stage4.block1-3; choose among them, and leave block= to the model.",
                 id="block tree of a shallower model"),
    pytest.param(["site=[stage1]"], "block.stage1.block1 has no operation; a site chosen by "
                 "`site=` needs swap=OPERATION.", id="site without swap"),
    pytest.param(["data=npz"], "data.path is required; give data.path=VALUE.", id="required value"),
    pytest.param(["block.spatial=conv,maxpool"], "block.spatial=conv,maxpool lists several values; "
                 "add -m to sweep over them.", id="list without -m"),
    pytest.param(["block.spatial=[conv"], "the override 'block.spatial=[conv' cannot be read: no "
                 "viable alternative at input '[conv'.", id="syntax"),
    pytest.param(["recip.lr=1"], "the configuration: the key 'recip' does not exist; choose from: "
                 "swap, seed, seeds, init_from, init_weights, pretrained, "
                 "pretrained_normalisation, imports, runs_dir, tune, launcher, "
                 "model, block, data, recipe, trainer, logger, speed, study. Did you mean "
                 "'recipe'?", id="root key"),
    pytest.param(["+recipe.lrr=1"], "recipe.lrr is no key of the configuration.", id="added key"),
    pytest.param(["~recipe"], "recipe is required.", id="removed group"),
    pytest.param(["recipe.lr=${recipe.rate}"], "recipe.lr: Interpolation key 'recipe.rate' not "
                 "found.", id="interpolation"),
    pytest.param(["model=resnet18", "block.downsample=maxpool"], "block.downsample does not exist: "
                 "no site there reduces the resolution.", id="downsample of a model"),
    pytest.param(["block.stage1.downsample=maxpool"], "block.stage1.downsample does not exist: no "
                 "site there reduces the resolution.", id="downsample of a stage"),
]  # fmt: skip


@pytest.mark.parametrize(("overrides", "sentence"), REFUSED)
def test_a_mistake_is_said_in_one_sentence(overrides: list[str], sentence: str) -> None:
    assert refusal(*overrides) == sentence


def test_reducing_sites_are_not_set_where_there_are_none() -> None:
    assert refusal("paper=r50_hybrid", "model=resnet18") == (
        "block.downsample is set, but no site of this backbone reduces the resolution; leave it "
        "out."
    )


def test_a_site_that_no_model_has_is_refused_with_choices() -> None:
    message = refusal("site=stage9", "swap=maxpool")
    assert message.startswith("site 'stage9' does not exist; choose from: stage1, stage1.block1,")


@pytest.mark.parametrize(
    "override",
    [
        pytest.param("model.depths=3", id="a number for a list"),
        pytest.param("model.depths=[2,two]", id="a word for a number"),
        pytest.param("~model.depths", id="no depths"),
        pytest.param("~model", id="no model"),
        pytest.param("~block", id="no block tree"),
        pytest.param("block=null", id="null for the block tree"),
        pytest.param("block.stage1=maxpool", id="a word for a stage"),
        pytest.param("recipe=null", id="null for a recipe"),
    ],
)
def test_a_damaged_structure_is_a_users_mistake(override: str) -> None:
    assert refusal(override)


def test_null_at_a_block_is_no_operation() -> None:
    assert "block.stage1.block1 has no operation" in refusal("block.stage1.block1.spatial=null")


def test_the_last_list_varies_fastest() -> None:
    assert list_jobs("block.spatial=conv,maxpool", "seed=0,1") == [
        ["block.spatial=conv", "seed=0"],
        ["block.spatial=conv", "seed=1"],
        ["block.spatial=maxpool", "seed=0"],
        ["block.spatial=maxpool", "seed=1"],
    ]


def test_a_plain_value_stands_in_every_job() -> None:
    jobs = list_jobs("recipe.epochs=2", "block.spatial=conv,maxpool")
    assert jobs == [["recipe.epochs=2", f"block.spatial={name}"] for name in ("conv", "maxpool")]


@pytest.mark.parametrize(
    ("model", "pattern", "expected"),
    [
        pytest.param("resnet_digits", "stage?", ["stage1", "stage2"], id="stages"),
        pytest.param("resnet_digits", "stage?.block*", ["stage1.block1", "stage1.block2",
                     "stage2.block1", "stage2.block2"], id="blocks"),
        pytest.param("resnet18", "'stage[34]'", ["stage3", "stage4"], id="last stages"),
        pytest.param("resnet50", "stage3.*", [f"stage3.block{b}" for b in range(1, 7)],
                     id="blocks of a stage"),
    ],
)  # fmt: skip
def test_glob_offers_the_sites_of_the_chosen_model(
    model: str, pattern: str, expected: list[str]
) -> None:
    jobs = list_jobs(f"model={model}", f"site=glob({pattern})", "swap=maxpool")
    assert jobs == [[f"model={model}", f"site={name}", "swap=maxpool"] for name in expected]


@pytest.mark.parametrize("model_first", [True, False])
def test_glob_over_sites_means_those_of_each_jobs_model(model_first: bool) -> None:
    overrides = ["model=resnet_digits,resnet50", "site=glob(stage?)", "swap=maxpool"]
    jobs = list_jobs(*(overrides if model_first else [*overrides[1:], overrides[0]]))
    sites = [job[:2] for job in jobs]
    expected = [["model=resnet_digits", f"site=stage{s}"] for s in (1, 2)]
    assert sites == expected + [["model=resnet50", f"site=stage{s}"] for s in (1, 2, 3, 4)]


def test_the_papers_of_a_sweep_take_each_ones_own_sites() -> None:
    jobs = list_jobs("paper=r50,vit_s_max", "site=glob(stage?)", "swap=avgpool")
    assert [job[:2] for job in jobs] == [
        *(["paper=r50", f"site=stage{stage}"] for stage in (1, 2, 3, 4)),
        ["paper=vit_s_max", "site=stage1"],
    ]


def hybrid(model: str) -> list[list[str]]:
    return list_jobs("study=hybrid", f"model={model}")


def test_a_study_leaves_variants_of_reducing_sites_out_where_there_are_none() -> None:
    assert not any("downsample" in line for job in hybrid("resnet18") for line in job)
    assert [len(hybrid(model)) for model in ("resnet18", "resnet50")] == [6, 8]


def test_a_sweep_over_intervals_is_refused() -> None:
    with pytest.raises(PfstudyError, match=r"^recipe\.lr=interval\(0,1\): a sweep takes lists"):
        list_jobs("recipe.lr=interval(0,1)")


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["block.spatial=conv,maxpool", "recipe.lr=0.1"], id="values"),
        pytest.param(["model=resnet18,resnet50", "block.spatial=maxpool"], id="models"),
        pytest.param(["site=glob(stage?)", "swap=maxpool"], id="sites"),
        pytest.param(["++recipe.name=other,more", "seed=1"], id="forced values"),
        pytest.param(["data=digits,synthetic", "data.num_test=600"], id="group and value"),
        pytest.param(["block.stage2.spatial=maxpool", "block.spatial=original,dwconv",
                      "block.downsample=avgpool"], id="levels of the block tree"),
    ],
)  # fmt: skip
def test_a_sweep_composes_what_its_jobs_compose_alone(overrides: list[str]) -> None:
    jobs = list_jobs(*overrides)
    assert len(jobs) > 1
    assert compose_sweep(*overrides) == [compose_alone(*job) for job in jobs]


def test_a_job_that_is_not_valid_stops_the_sweep() -> None:
    with pytest.raises(PfstudyError, match="operation 'maxpol' does not exist"):
        compose_sweep("block.spatial=conv,maxpol")


def test_a_user_adds_a_backbone_with_one_file(user_directory: Path) -> None:
    overrides = ["model=mine", "site=glob(stage?.block*)", "swap=maxpool"]
    configs = compose_sweep(*overrides, directories=[user_directory])
    assert [[s.address for s in c.sites if s.operation == "maxpool"] for c in configs] == [
        ["stage1.block1"],
        ["stage2.block1"],
        ["stage2.block2"],
    ]
    assert all(config.model.name == "mine" for config in configs)


def test_a_users_model_of_a_shipped_ones_name_is_refused(user_directory: Path) -> None:
    (user_directory / "model" / "mine.yaml").rename(user_directory / "model" / "resnet_digits.yaml")
    with pytest.raises(
        PfstudyError, match=r"give yours a name of its own.*\[resnet_digits, _self_"
    ):
        register_models([conf_directory(), user_directory])


def test_a_users_config_of_a_shipped_ones_name_is_refused(user_directory: Path) -> None:
    (user_directory / "recipe").mkdir()
    (user_directory / "recipe" / "digits.yaml").write_text("epochs: 1\n")
    with pytest.raises(
        PfstudyError, match=r"/recipe/digits\.yaml has the name of a shipped config"
    ):
        register_models([conf_directory(), user_directory])


def test_a_model_has_the_name_of_its_file(user_directory: Path) -> None:
    (user_directory / "model" / "mine.yaml").rename(user_directory / "model" / "yours.yaml")
    with (
        config_loader(),
        pytest.raises(PfstudyError, match=r"name is 'mine', but must be that of the file, 'yours'"),
    ):
        register_models([conf_directory(), user_directory])


def test_a_copy_of_the_shipped_models_is_harmless(user_directory: Path) -> None:
    for path in (conf_directory() / "model").glob("*.yaml"):
        (user_directory / "model" / path.name).write_bytes(path.read_bytes())
    register_models([conf_directory(), user_directory])


def test_models_that_begin_with_one_another_are_refused(user_directory: Path) -> None:
    write_model(user_directory, "one", "defaults: [other, _self_]\n")
    write_model(user_directory, "other", "defaults: [one, _self_]\n")
    with pytest.raises(PfstudyError, match="defaults lead from one back to itself"):
        register_models([conf_directory(), user_directory])


def write_model(directory: Path, name: str, content: str) -> None:
    (directory / "model" / f"{name}.yaml").write_text(f"name: {name}\n{content}")


def test_a_users_model_begins_with_another_one(user_directory: Path) -> None:
    content = "defaults: [resnet50, _self_]\nargs:\n  output_stride: 16\n"
    write_model(user_directory, "dilated", f"{content}downsample: [stage2.block1]\n")
    (config,) = compose_sweep(
        "model=dilated", "data=synthetic", "block.downsample=avgpool", directories=[user_directory]
    )
    shipped = compose("model=resnet50")
    assert (config.model.name, config.model.timm) == ("dilated", "resnet50")
    assert (config.model.depths, config.model.sites) == (shipped.model.depths, shipped.model.sites)
    assert config.model.args == {"output_stride": 16}
    found = [site.address for site in config.sites if site.operation == "avgpool"]
    assert found == ["stage2.block1"]
    assert len(config.sites) == len(shipped.sites) == 16


def test_a_users_model_has_the_sites_that_it_says_itself(user_directory: Path) -> None:
    write_model(
        user_directory,
        "half",
        "defaults: [mine, _self_]\n"
        "sites:\n"
        "  - {layer: 'layer{stage}.{block0}.conv2', original: conv, kernel_size: 3,\n"
        "     norm_act: [bn2, act2], blocks: [0, [2]]}\n"
        "downsample: []\n",
    )
    jobs = list_jobs(
        "model=half", "site=glob(stage?.block*)", "swap=maxpool", directories=[user_directory]
    )
    assert [job[1] for job in jobs] == ["site=stage2.block2"]
    (config,) = compose_sweep("model=half", "block.spatial=conv", directories=[user_directory])
    assert [site.address for site in config.sites] == ["stage2.block2"]
    message = refusal(
        "model=half", "block.stage2.block1.spatial=conv", directories=[user_directory]
    )
    assert message.startswith("block.stage2: the key 'block1' does not exist; choose from: ")


def token_model(user_directory: Path) -> list[Path]:
    """A model whose own operation is in no registry."""
    write_model(
        user_directory,
        "tokens",
        "timm: vit_tiny_patch16_224\n"
        "image_size: 8\nchannels: 1\nnum_classes: 10\ndepths: [2]\n"
        "sites:\n"
        "  - {layer: 'blocks.{block0}.attn', original: windows, kernel_size: 3, layout: NLC}\n",
    )
    return [user_directory]


def test_what_a_model_has_itself_may_be_named(user_directory: Path) -> None:
    overrides = ["model=tokens", "block.spatial=maxpool", "block.stage1.block2.spatial=windows"]
    (config,) = compose_sweep(*overrides, directories=token_model(user_directory))
    assert [site.operation for site in config.sites] == ["maxpool", "windows"]
    assert [s.address for s in make_variant(config, "content").substitutions] == ["stage1.block1"]


def test_what_a_model_has_itself_is_among_the_choices(user_directory: Path) -> None:
    message = refusal(
        "model=tokens", "block.spatial=window", directories=token_model(user_directory)
    )
    assert message == (
        "operation 'window' does not exist; choose from: original, windows, "
        f"{', '.join(OPERATIONS)}. Did you mean 'windows'?"
    )


def test_what_another_model_has_is_not_among_the_choices(user_directory: Path) -> None:
    directories = token_model(user_directory)
    message = refusal("block.spatial=windows", directories=directories)
    assert message.startswith(f"operation 'windows' does not exist; choose from: {CHOICES}.")


def test_a_preset_runs_its_own_grid(user_directory: Path) -> None:
    configs = compose_sweep("study=grid", directories=[user_directory])
    found = [(c.sites[0].operation, c.sites[0].norm_act) for c in configs]
    assert found == [(o, n) for o in ("maxpool", "avgpool") for n in ("keep", "drop")]
    assert {(c.study.name, c.recipe.epochs) for c in configs} == {("grid", 2)}


def test_the_command_line_replaces_a_presets_list(user_directory: Path) -> None:
    configs = compose_sweep("study=grid", "block.spatial=dwconv", directories=[user_directory])
    found = [(c.sites[0].operation, c.sites[0].norm_act) for c in configs]
    assert found == [("dwconv", "keep"), ("dwconv", "drop")]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param("depths: three", "depths must list the number of blocks in each stage",
                     id="depths are no list"),
        pytest.param("depths: [2, 0]", "depths must list the number of blocks in each stage",
                     id="an empty stage"),
        pytest.param("- a\n- b", "name is None, but must be that of the file, 'broken'",
                     id="no mapping"),
        pytest.param("depths: [2", "cannot be read", id="no YAML"),
        pytest.param("depths: [2]\nsites: [{}]\ndownsample: [stage2.block1]", "the site "
                     "'stage2.block1' does not exist; choose from: stage1.block1, stage1.block2",
                     id="ghost site"),
        pytest.param("depths: [2]\nsites: [{}]\ndownsample: 5", "downsample must list sites",
                     id="downsample is no list"),
        pytest.param("depths: [2]\nsites: {layer: conv}", "sites must list one or more patterns",
                     id="one pattern without its list"),
        pytest.param("depths: [2]\nsites: [{blocks: [3]}]", "blocks names stage1.block3, but "
                     "depths gives stage 1 2 blocks", id="ghost block"),
        pytest.param("defaults: [resnet5000, _self_]", "defaults names 'resnet5000', but there is "
                     "no such model", id="ghost model to begin with"),
    ],
)  # fmt: skip
def test_a_damaged_declaration_is_named(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "model" / "broken.yaml"
    path.parent.mkdir()
    path.write_text(content if content[0] == "-" else f"name: broken\n{content}")
    with config_loader(), pytest.raises(PfstudyError) as caught:
        register_models([tmp_path])
    assert str(path) in str(caught.value)
    assert sentence in str(caught.value)
