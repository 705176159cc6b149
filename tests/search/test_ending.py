from dataclasses import replace
from typing import Any

import pytest

from pfstudy.schema.search import Differentiable
from pfstudy.search.ending import found_row, reason_to_end

SEARCH = Differentiable(
    method="differentiable",
    preset="darts",
    operations=("conv", "maxpool", "identity"),
    epochs=10,
    sharing="individual",
    relaxation="softmax",
    order=1,
    arch_share=0.5,
    arch_lr=0.1,
    arch_weight_decay=0,
    warmup_epochs=2,
    entropy_weight=0,
    temperature=1,
    final_temperature=1,
    latency_weight=0,
    collapse_operations=("identity",),
    collapse_share=0.5,
    patience=3,
)


def rows(*chosen: str) -> list[dict[str, Any]]:
    """Epochs in which these were clearly chosen at two sites, by their first letters."""
    names = {"c": "conv", "m": "maxpool", "i": "identity"}
    found = []
    for number, letters in enumerate(chosen, 1):
        row: dict[str, Any] = {"epoch": number}
        for site, letter in zip(("stage1.block1", "stage2.block1"), letters, strict=True):
            row[f"chosen.{site}"] = names[letter]
            for other, name in names.items():
                row[f"probability.{site}.{name}"] = 0.9 if other == letter else 0.05
        found.append(row)
    return found


class TestReasonToEnd:
    def test_warm_up_says_nothing(self) -> None:
        assert reason_to_end(rows("ii", "ii"), SEARCH) is None

    def test_what_stays_ends_it(self) -> None:
        assert reason_to_end(rows("cm", "cm", "cm", "cm", "cm"), SEARCH) is None
        assert reason_to_end(rows("cm", "cm", "cm", "cm", "cm", "cm"), SEARCH) == "patience"

    def test_patience_begins_behind_the_last_change(self) -> None:
        changing = rows("cc", "cc", "cc", "cm", "cm", "cm")
        assert reason_to_end(changing, SEARCH) is None
        assert reason_to_end(rows("cc", "cc", "cc", "cm", "cm", "cm", "cm"), SEARCH) == "patience"

    def test_without_patience_it_takes_all_epochs(self) -> None:
        search = replace(SEARCH, patience=None)
        assert reason_to_end(rows(*["cm"] * 9), search) is None
        assert reason_to_end(rows(*["cm"] * 10), search) == "epochs"

    def test_half_of_the_sites_is_no_collapse(self) -> None:
        assert reason_to_end(rows("cc", "cc", "ci"), SEARCH) is None  # half of the sites

    def test_hardly_more_probable_is_no_collapse(self) -> None:
        undecided = rows("cc", "cc", "ii")
        for key in undecided[-1]:
            if key.startswith("probability"):
                undecided[-1][key] = 0.34 if key.endswith("identity") else 0.33
        assert reason_to_end(undecided, SEARCH) is None

    def test_collapse_ends_it_at_once(self) -> None:
        assert reason_to_end(rows("cc", "cc", "ii"), SEARCH) == "collapse"

    def test_what_counts_as_a_collapse_is_a_choice(self) -> None:
        search = replace(SEARCH, collapse_operations=("identity", "maxpool"))
        assert reason_to_end(rows("cc", "cc", "mi"), search) == "collapse"
        assert reason_to_end(rows("cc", "cc", "ii"), replace(SEARCH, collapse_share=1.0)) is None


class TestFoundRow:
    def test_is_the_last_one(self) -> None:
        assert found_row(rows("cc", "cc", "cm"), SEARCH)["epoch"] == 3

    def test_is_the_one_before_a_collapse(self) -> None:
        assert found_row(rows("cc", "cm", "cm", "ii"), SEARCH)["epoch"] == 3

    @pytest.mark.parametrize("number", [1, 3])
    def test_where_all_are_collapsed_is_the_last_one(self, number: int) -> None:
        assert found_row(rows(*["ii"] * number), SEARCH)["epoch"] == number
