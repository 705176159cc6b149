"""What searches say of networks beside what full training says; the searches are made by hand."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pfstudy import searches
from pfstudy.data import fingerprint
from pfstudy.errors import PfstudyError
from pfstudy.files import write_json
from pfstudy.launch.ranking import ADDITIVE, MACS, TRAINED, rank_searches
from pfstudy.schema.config import Config
from pfstudy.searches import Asked, Evaluation
from pfstudy.space import Choice, Space, make_space
from pfstudy.tables.ranking import correlate, describe_ranking, ranking_data
from pfstudy.variant import make_variant
from records import leave_records, make_record

Make = Callable[..., Config]
Call = Callable[..., tuple[int | str | None, str, str]]

WORTH = {"conv": 0.0, "maxpool": -1.0, "identity": -2.31}
OPERATIONS = f"search.operations=[{','.join(WORTH)}]"


def value(space: Space, choice: Choice) -> float:
    """The planted truth: effects add up, and count more at the front."""
    return sum(WORTH[space.operations[k]] * (1 - 0.2 * place) for place, k in enumerate(choice))


@pytest.fixture
def space(make_config: Make) -> Space:
    return make_space(make_config("search=darts", OPERATIONS))


def leave_search(root: Path, name: str, space: Space, *, sign: float = 1.0) -> None:
    """Leave a differentiable search whose preferences are the truth, or its reverse."""
    canonical = make_variant(space.config, fingerprint(space.config.data)).canonical
    identity = searches.identify(space, canonical, None)
    directory = searches.search_directory(root, name)
    searches.write_asked(directory, Asked(space, None, identity))
    log_p = {
        site: {op: sign * (1 - 0.2 * place) * worth for op, worth in WORTH.items()}
        for place, site in enumerate(space.sites)
    }
    record = {"schema_version": 1, "log_probabilities": log_p}
    write_json(directory / "record.json", record)


def leave_one_shot(root: Path, name: str, config: Config, choices: list[Choice]) -> None:
    space = make_space(config)
    canonical = make_variant(config, fingerprint(config.data)).canonical
    directory = searches.search_directory(root, name)
    identity = searches.identify(space, canonical, None)
    searches.write_asked(directory, Asked(space, None, identity))
    known = [Evaluation(c, 90 + value(space, c), "search", 0.1) for c in choices]
    searches.write_evaluations(directory, space, known)
    listed = [
        {
            "operations": dict(
                zip(space.sites, (space.operations[k] for k in each.choice), strict=True)
            ),
            "val_top1_percent": each.val_top1_percent,
        }
        for each in known
    ]
    write_json(directory / "record.json", {"schema_version": 1, "evaluations": listed})


def trained(space: Space, choice: Choice, *, seed: int = 0, noise: float = 0.0) -> dict[str, Any]:
    variant = make_variant(space.place(choice), fingerprint(space.config.data))
    record = make_record(seed=seed)
    record["identity"] = {
        "hash": variant.hash,
        "baseline": variant.baseline_hash,
        "canonical": variant.canonical,
    }
    record["variant"] |= {
        "label": variant.label,
        "is_baseline": variant.is_baseline,
        "operations": variant.operations,
    }
    accuracy = 95 + value(space, choice) + noise
    record["metrics"] = {"test_top1_percent": accuracy, "val_top1_percent": accuracy}
    record["cost"]["macs"] = 1000 - sum(choice)
    return record


CHOICES: list[Choice] = [
    (0, 0, 0, 0),
    *(tuple(k if s == place else 0 for s in range(4)) for place in range(4) for k in (1, 2)),
    *itertools.islice(itertools.product((1, 2), repeat=4), 0, 16, 3),
]


COMBINATIONS = [choice for choice in CHOICES if sum(k > 0 for k in choice) > 1]
"""What the additive model can predict from the others, so what all can be compared by."""


class TestRanking:
    def test_a_search_that_is_right_and_one_that_is_not(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        leave_search(tmp_path, "wrong", space, sign=-1.0)
        ranking = rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)
        assert ranking.names == ("right", "wrong")
        assert len(ranking.labels) == len(COMBINATIONS)
        right, wrong = (correlate(ranking, TRAINED, name) for name in ranking.names)
        assert right is not None
        assert wrong is not None
        assert (right.tau, wrong.tau) == (pytest.approx(1), pytest.approx(-1))

    def test_the_additive_model_predicts_combinations(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        ranking = rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)
        np.testing.assert_allclose(ranking.scores[ADDITIVE], ranking.scores[TRAINED], atol=1e-6)

    def test_without_an_additive_model_all_are_compared(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        ranking = rank_searches([trained(space, choice) for choice in COMBINATIONS[:5]], tmp_path)
        assert ADDITIVE not in ranking.scores
        assert len(ranking.labels) == 5

    def test_one_shot_accuracies_are_read(
        self, space: Space, make_config: Make, tmp_path: Path
    ) -> None:
        config = make_config("search=evolution", OPERATIONS)
        leave_one_shot(tmp_path, "paths", config, CHOICES)
        ranking = rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)
        found = correlate(ranking, TRAINED, "paths")
        assert found is not None
        assert found.tau == pytest.approx(1)

    def test_networks_of_other_spaces_are_left_out(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        other = make_record("shift")
        records = [trained(space, choice) for choice in CHOICES]
        records[3]["variant"]["operations"] = dict.fromkeys(space.sites, "shift")
        ranking = rank_searches([*records, other], tmp_path)
        assert len(ranking.labels) == len(COMBINATIONS)

    def test_seeds_give_errors(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        one = [trained(space, choice) for choice in CHOICES]
        assert rank_searches(one, tmp_path).errors is None
        noisy = [
            trained(space, choice, seed=seed, noise=noise)
            for choice in CHOICES
            for seed, noise in enumerate((-0.3, 0.0, 0.3))
        ]
        errors = rank_searches(noisy, tmp_path).errors
        assert errors is not None
        np.testing.assert_allclose(errors, 0.3 / math.sqrt(3))

    def test_shares_are_of_the_found_and_of_the_best(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        ranking = rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)
        found = [share for share in ranking.shares if share.by == "right"]
        assert {(share.stage, share.operation, share.share) for share in found} == {
            ("stage1", "conv", 1.0),
            ("stage2", "conv", 1.0),
        }
        for stage in ("stage1", "stage2"):
            best = [s.share for s in ranking.shares if s.stage == stage and "best" in s.by]
            assert sum(best) == pytest.approx(1)

    def test_size_is_there_for_comparison(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        ranking = rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)
        assert MACS in ranking.scores
        assert f"{len(COMBINATIONS)} networks" in describe_ranking(ranking)
        json.dumps(ranking_data(ranking), allow_nan=False)


class TestBadInput:
    def test_too_few_networks(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        with pytest.raises(PfstudyError, match=r"^2 networks trained here .* 4 are needed; train"):
            rank_searches([trained(space, choice) for choice in CHOICES[:2]], tmp_path)

    def test_other_data(self, space: Space, make_config: Make, tmp_path: Path) -> None:
        other = make_space(make_config("search=darts", OPERATIONS, "data.split_seed=1"))
        leave_search(tmp_path, "other", other)
        with pytest.raises(PfstudyError, match="no runs here have the backbone and the data"):
            rank_searches([trained(space, choice) for choice in CHOICES], tmp_path)

    def test_an_unknown_search(self, space: Space, tmp_path: Path) -> None:
        leave_search(tmp_path, "right", space)
        with pytest.raises(PfstudyError, match=r"search .rigth. does not exist.*Did you mean"):
            rank_searches([trained(space, CHOICES[0])], tmp_path, ["rigth"])


def test_command(space: Space, call_here: Call) -> None:
    leave_search(Path("runs"), "right", space)
    leave_records("runs", *(trained(space, choice) for choice in CHOICES))
    code, out, err = call_here("search", "report")
    assert (code, err) == (0, "")
    assert "Kendall's tau" in out
    assert "+1.00" in out
    assert Path("runs/searches/shares.svg").read_text().startswith("<svg")
    code, out, err = call_here("search", "report", "--search", "right", "--json")
    assert (code, err) == (0, "")
    assert len(json.loads(out)["networks"]) == len(COMBINATIONS)
