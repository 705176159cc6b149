"""Published figures stand beside networks that were trained by the same recipe."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from configs import compose
from pfstudy.canonical import compact, recipe_form
from pfstudy.tables.content import make_content
from pfstudy.tables.published import PUBLISHED, RECIPES, published_of
from pfstudy.tables.rows import make_rows
from records import Record, make_record

SIZES = {each.name: (each.params, each.macs) for each in PUBLISHED}


def trained(network: str, recipe: str, **changes: Any) -> Record:
    """A record of a network of the paper that was trained by one of our recipes."""
    params, macs = SIZES[network]
    record = make_record(params=params, macs=macs)
    overrides = [f"recipe.{key}={value}" for key, value in changes.items()]
    config = compose(f"recipe={recipe}", "data=synthetic", *overrides)
    form = compact(recipe_form(config.recipe))
    record["identity"]["canonical"]["recipe"] = copy.deepcopy(form)
    record["recipe"] = recipe
    return record


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_published_settings_are_those_of_our_recipes(recipe: str) -> None:
    config = compose(f"recipe={recipe}", "data=synthetic")
    assert compact(recipe_form(config.recipe)) == RECIPES[recipe]


@pytest.mark.parametrize(
    ("network", "recipe", "top1", "top5"),
    [
        ("R50", "r50_90ep", 76.2, 93.8),
        ("R50-max", "r50_90ep", 74.3, 92.0),
        ("R50-hybrid", "r50_90ep", 77.1, 93.1),
        ("R50", "deit_300ep", 78.8, None),
        ("ViT-S-max", "deit_300ep", 80.0, None),
        ("PiT-S-max", "deit_300ep", 80.8, None),
    ],
)
def test_accuracy_is_that_of_the_recipe(
    network: str, recipe: str, top1: float, top5: float | None
) -> None:
    found = published_of(trained(network, recipe))
    assert found["published"] == network
    assert found["published_top1_percent"] == top1
    assert found["published_top5_percent"] == top5


@pytest.mark.parametrize(
    ("record", "said"),
    [
        pytest.param(
            trained("R50-max", "r50_long"), "R50-max+ (75.5 %, settings not published)", id="longer"
        ),
        pytest.param(
            trained("R50-hybrid", "r50_long"),
            "R50-hybrid+ (78.0 %, settings not published)",
            id="hybrid",
        ),
        pytest.param(
            trained("R50", "r50_90ep", **{"augmentation.cutmix": 1.0}),
            "R50 with CutMix (77.6 %, settings not published)",
            id="CutMix",
        ),
        pytest.param(
            trained("ViT-S-max", "r50_90ep"), "ViT-S-max (74.2 %, settings not published)", id="ViT"
        ),
        pytest.param(trained("R50", "r50_long"), "R50 (trained in other ways)", id="none longer"),
        pytest.param(
            trained("R50", "r50_90ep", epochs=3), "R50 (trained in other ways)", id="epochs"
        ),
        pytest.param(trained("R50", "digits"), "R50 (trained in other ways)", id="recipe"),
    ],
)
def test_where_the_recipe_is_another_one_the_row_says_so(record: Record, said: str) -> None:
    found = published_of(record)
    assert found["published"] == said
    assert found["published_top1_percent"] is found["published_top5_percent"] is None


def test_time_does_not_depend_on_the_recipe() -> None:
    assert published_of(trained("R50-max", "digits"))["published_latency"] == 6.8 / 8.7


@pytest.mark.parametrize(("lr", "is_same"), [(0.05, True), (0.2, False)])
def test_a_batch_size_may_be_another_one_if_the_learning_rate_is_scaled(
    lr: float, is_same: bool
) -> None:
    record = trained("R50", "r50_90ep")
    record["identity"]["canonical"]["recipe"] |= {"batch_size": 256, "lr": lr}
    assert (published_of(record)["published_top1_percent"] == 76.2) is is_same


def test_other_networks_have_no_published_figures() -> None:
    assert set(published_of(make_record()).values()) == {None}


def test_a_table_sets_them_beside_ours() -> None:
    record = trained("ViT-S-max", "deit_300ep")
    content = make_content(make_rows([record]), compare="paper")
    assert "accuracy for the same recipe alone" in content.caption
    (line,) = content.lines
    assert "80.00" in [cell.first for cell in line]
