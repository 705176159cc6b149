from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import config_tree, parse_config


def tree_with(place: str, value: object) -> dict[str, object]:
    """The default config as plain data, with one value replaced or added."""
    tree = config_tree(compose())
    node = tree
    *path, key = place.split(".")
    for part in path:
        node = node[part]
    node[key] = value
    return tree


def tree_without(place: str) -> dict[str, object]:
    tree = config_tree(compose())
    node = tree
    *path, key = place.split(".")
    for part in path:
        node = node[part]
    del node[key]
    return tree


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param((), id="default"),
        pytest.param(("model=resnet50", "block.spatial=maxpool", "seeds=3"), id="resnet50"),
        pytest.param(("data=synthetic", "speed=none", "logger=none"), id="synthetic"),
    ],
)
def test_a_config_survives_being_written_as_json_and_read(overrides: tuple[str, ...]) -> None:
    config = compose(*overrides)
    assert parse_config(json.loads(json.dumps(config_tree(config)))) == config


def test_a_config_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        compose().seed = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        pytest.param("recipe.lr", -1, "recipe.lr: input should be greater than 0, but got -1.",
                     id="out of range"),
        pytest.param("recipe.momentum", 1.0,
                     "recipe.momentum: input should be less than 1, but got 1.0.", id="fraction"),
        pytest.param("recipe.epochs", 1.5, "recipe.epochs: input should be a valid integer, got a "
                     "number with a fractional part, but got 1.5.", id="fractional epochs"),
        pytest.param("recipe.schedule", "steps", "recipe.schedule: input should be 'cosine', "
                     "'one_cycle', 'linear', 'step' or 'constant', but got 'steps'.", id="choice"),
        pytest.param("recipe.lrr", 1, "recipe.lrr is no key of the configuration.", id="unknown"),
        pytest.param("speed.num_processes", 1, "speed.num_processes: input should be greater than "
                     "or equal to 2, but got 1.", id="one process has no spread"),
        pytest.param("study.name", "../other", "study.name: string should match pattern "
                     "'^[A-Za-z0-9][A-Za-z0-9_.-]*$', but got '../other'.", id="study as a path"),
        pytest.param("study.looks", [3, 10, 5], "study.looks: each number of seeds must be larger "
                     "than the last, but got [3, 10, 5].", id="looks out of order"),
        pytest.param("study.looks", [3, 3], "study.looks: each number of seeds must be larger "
                     "than the last, but got [3, 3].", id="a look twice"),
        pytest.param("study.looks", [0, 3], "study.looks.0: input should be greater than 0, but "
                     "got 0.", id="a look at no seed"),
        pytest.param("trainer.precision", "64", "trainer.precision: input should be '32-true', "
                     "'bf16-mixed' or '16-mixed', but got '64'.", id="precision"),
        pytest.param("seed", -1, "seed: input should be greater than or equal to 0, but got -1.",
                     id="negative seed"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_what_was_expected(
    place: str, value: object, sentence: str
) -> None:
    with pytest.raises(PfstudyError) as caught:
        parse_config(tree_with(place, value))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("place", ["recipe", "recipe.lr", "seed", "data.image_size"])
def test_a_missing_key_is_named(place: str) -> None:
    with pytest.raises(PfstudyError) as caught:
        parse_config(tree_without(place))
    assert str(caught.value) == f"{place} is required."


def test_a_value_of_a_site_is_named_by_its_place_in_the_block_tree() -> None:
    tree = config_tree(compose())
    tree["sites"][2]["kernel_size"] = "big"
    with pytest.raises(PfstudyError, match=r"^block\.stage2\.block1\.kernel_size: .*'big'\.$"):
        parse_config(tree)


@pytest.mark.parametrize("value", ["auto", 4])
def test_the_number_of_workers_is_a_number_or_auto(value: object) -> None:
    assert parse_config(tree_with("launcher.num_workers", value)).launcher.num_workers == value


@pytest.mark.parametrize("value", [pytest.param(0, id="zero"), pytest.param("many", id="word")])
def test_a_wrong_value_of_two_possible_types_is_named_by_its_key_alone(value: object) -> None:
    with pytest.raises(PfstudyError) as caught:
        parse_config(tree_with("launcher.num_workers", value))
    places = [sentence.partition(": ")[0] for sentence in str(caught.value).split("; ")]
    assert set(places) == {"launcher.num_workers"}
