from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import variant_of
from pfstudy import files, ledger, store
from pfstudy.errors import PfstudyError
from pfstudy.inventory import Description, describe, describe_run
from pfstudy.why import (
    Difference,
    compare,
    describe_all,
    explain,
    foresee,
    group_sites,
    in_words,
    list_differences,
)
from run_directories import edit_owner, let_owner_vanish, write_record, write_run, write_weights

MAXPOOL = "block.spatial=maxpool"
MOMENT = time.mktime((2026, 3, 1, 10, 32, 0, 0, 0, -1))


def set_time(path: Path) -> None:
    os.utime(path, (MOMENT, MOMENT))


def pairs(differences: tuple[Difference, ...]) -> dict[str, tuple[Any, Any]]:
    return {each.key: (each.left, each.right) for each in differences}


def description(*overrides: str, seed: int = 0) -> Description:
    """A run that has no directory."""
    return describe_run(store.Run(variant_of(*overrides), seed, Path("runs/new") / f"seed{seed}"))


class TestListDifferences:
    def test_of_a_setting(self) -> None:
        found = list_differences(description("recipe.lr=0.1"), description("recipe.lr=0.3"))
        assert found == (Difference("recipe.lr", 0.1, 0.3),)

    def test_of_a_setting_that_one_has_not(self) -> None:
        found = list_differences(description(), description("recipe.label_smoothing=0"))
        assert pairs(found) == {"recipe.label_smoothing": (0.1, 0.0)}

    def test_of_sites_names_operations(self) -> None:
        found = list_differences(
            description(MAXPOOL), description("block.stage2.spatial=avgpool", "recipe.epochs=3")
        )
        assert pairs(found) == {
            "stage1.block1": ("maxpool", "original"),
            "stage1.block2": ("maxpool", "original"),
            "stage2.block1": ("maxpool", "avgpool"),
            "stage2.block2": ("maxpool", "avgpool"),
            "recipe.epochs": (15, 3),
        }
        assert [each.key for each in found][-1] == "recipe.epochs"

    @pytest.mark.parametrize(
        ("override", "word"),
        [("block.kernel_size=5", "maxpool5x5"), ("block.norm_act=keep", "maxpool+norm")],
        ids=["kernel", "norm"],
    )
    def test_of_kernel_and_norm(self, override: str, word: str) -> None:
        left, right = description(MAXPOOL), description(MAXPOOL, override)
        assert set(pairs(list_differences(left, right)).values()) == {("maxpool", word)}

    def test_of_the_source_of_an_operation(self) -> None:
        left = description("block.stage2.block2.spatial=maxpool")
        right = with_site(left, "layer2.1.conv2", source="abc")
        found = list_differences(left, right)
        assert found == (Difference("stage2.block2.source", None, "abc"),)

    def test_of_another_backbone(self) -> None:
        found = pairs(list_differences(description(), description("model=vit_digits")))
        assert found["backbone.timm"] == ("pfstudy_small_resnet", "pfstudy_small_vit")
        assert not any(key.startswith("stage") for key in found)

    def test_of_sites_that_the_other_backbone_lacks(self) -> None:
        left, right = description("model=vit_digits"), description("model=vit_digits", MAXPOOL)
        address = list(left.operations)[-1]
        shorter = replace(left, operations=dict(list(left.operations.items())[:-1]))
        assert pairs(list_differences(shorter, right))[address] == (None, "maxpool")
        assert address not in pairs(list_differences(shorter, replace(left, hash="other")))

    def test_of_what_no_site_shows(self) -> None:
        left = description(MAXPOOL)
        right = replace(
            left, hash="other", canonical={**left.canonical, "sites": {"elsewhere": {"a": 1}}}
        )
        found = pairs(list_differences(replace(left, operations={}), replace(right, operations={})))
        assert found["sites.elsewhere.a"] == (None, 1)

    def test_of_the_same_variant(self) -> None:
        assert list_differences(description(seed=0), description(seed=1)) == ()


def with_site(run: Description, layer: str, **entry: Any) -> Description:
    """The same run with another entry for one site in its canonical form."""
    sites = run.canonical["sites"]
    changed = {**sites, layer: {**sites[layer], **entry}}
    return replace(run, hash="other", canonical={**run.canonical, "sites": changed})


class TestCompare:
    @pytest.mark.parametrize(
        ("overrides", "seed", "relation", "keys"),
        [
            pytest.param([], 0, "the same run", [], id="run"),
            pytest.param([], 1, "the same variant, seeds 0 and 1", ["seed"], id="seeds"),
            pytest.param(["recipe.lr=0.3"], 0, "two variants", ["recipe.lr"], id="variants"),
            pytest.param(["recipe.lr=0.3"], 1, "two variants", ["recipe.lr", "seed"], id="both"),
        ],
    )
    def test_two_runs(
        self, tmp_path: Path, overrides: list[str], seed: int, relation: str, keys: list[str]
    ) -> None:
        comparison = compare(write_run(tmp_path), write_run(tmp_path, *overrides, seed=seed))
        assert comparison.relation == relation
        assert [each.key for each in comparison.differences] == keys
        assert comparison.recorded is None

    def test_two_variants_without_their_seeds(self, tmp_path: Path) -> None:
        left = write_run(tmp_path, seed=0).parent
        right = write_run(tmp_path, MAXPOOL, seed=1).parent
        comparison = compare(left, right)
        assert comparison.relation == "two variants"
        assert "seed" not in pairs(comparison.differences)
        assert compare(left, left).relation == "the same variant"

    def test_run_that_was_trained_again(self, tmp_path: Path) -> None:
        again = write_run(tmp_path / "again", state="done")
        comparison = compare(write_run(tmp_path, state="done"), again)
        assert comparison.relation == "the same run, in two directories"
        assert comparison.differences == ()

    def test_what_records_say_besides(self, tmp_path: Path) -> None:
        left, right = write_run(tmp_path), write_run(tmp_path, seed=1)
        write_record(left)
        write_record(
            right,
            training={"seconds": 9.0, "images_per_second": 1.0, "num_threads": 4, "epochs": 99},
            environment={
                "git": {"commit": "4567cdef", "dirty": False},
                "versions": {"torch": "2.9.0", "pfstudy": "0.1.0"},
            },
        )
        comparison = compare(left, right)
        assert comparison.recorded is not None
        assert pairs(comparison.recorded) == {
            "git.commit": ("0123abcd", "4567cdef"),
            "versions.torch": ("2.8.0", "2.9.0"),
            "num_threads": (1, 4),
        }

    def test_of_a_variant_a_seed_with_a_record_is_taken(self, tmp_path: Path) -> None:
        write_run(tmp_path, seed=0)
        done = write_run(tmp_path, seed=1, state="done")
        assert compare(done.parent, done).left.directory == done

    @pytest.mark.parametrize("name", ["", "empty"], ids=["runs", "empty"])
    def test_no_directory_of_a_run(self, tmp_path: Path, name: str) -> None:
        run = write_run(tmp_path)
        (tmp_path / "empty").mkdir()
        with pytest.raises(PfstudyError, match="no directory of a run or of a variant"):
            compare(run, tmp_path / name)


class TestExplain:
    def test_done(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="done")
        write_record(run, 95.254)
        set_time(run / ledger.RECORD)
        verdict = explain(run)
        assert (verdict.state, verdict.action) == ("done", "skipped")
        assert verdict.reason == "done since 2026-03-01 10:32, test accuracy 95.25 %"

    def test_pending(self, tmp_path: Path) -> None:
        verdict = explain(write_run(tmp_path))
        assert (verdict.state, verdict.action) == ("pending", "trained")
        assert verdict.reason == "it has not begun yet"

    def test_running(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="running", epoch=3, num_epochs=40)
        verdict = explain(run)
        assert (verdict.state, verdict.action) == ("running", "left")
        host = files.read_json(run / ledger.STATE)["host"]
        expected = f"process {os.getpid()} on {host} trains it, 3 of 40 epochs had ended"
        assert verdict.reason == expected

    def test_running_in_a_process_that_has_not_written_so_yet(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="failed", epoch=3, num_epochs=40)
        before = (run / ledger.STATE).read_bytes()
        assert ledger.claim(run) is not None
        (run / ledger.STATE).write_bytes(before)
        assert explain(run).reason == "process ? on another host trains it"

    def test_failed(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="failed", reason="the loss is nan", kind="diverged")
        assert explain(run).reason == "attempt 1 failed (diverged): the loss is nan; it begins anew"
        (run / "run.log").touch()
        verdict = explain(run)
        assert (verdict.state, verdict.action) == ("failed", "trained")
        assert f"the loss is nan (log: {run / 'run.log'}); it begins anew" in verdict.reason

    def test_interrupted_with_a_checkpoint(self, tmp_path: Path) -> None:
        progress = {"epoch": 3, "num_epochs": 40, "reason": "asked to stop"}
        run = write_run(tmp_path, state="interrupted", **progress)
        write_weights(run, "resume.ckpt")
        set_time(run / store.RESUME)
        verdict = explain(run)
        assert (verdict.state, verdict.action) == ("interrupted", "trained")
        assert verdict.reason == (
            "attempt 1 was interrupted: asked to stop; it goes on from its checkpoint of "
            "2026-03-01 10:32, 3 of 40 epochs had ended"
        )

    def test_interrupted_without_a_checkpoint(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="running", epoch=3)
        let_owner_vanish(run)
        expected = "attempt 1 was interrupted: its process is gone; it begins anew"
        assert explain(run).reason == expected

    def test_failed_before_it_could_begin(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        ledger.bury(run, os.getpid(), "failed", reason="killed by signal 9", kind="killed")
        expected = "it failed (killed): killed by signal 9; it begins anew"
        assert explain(run).reason == expected

    @pytest.mark.parametrize("before", ["failed", "interrupted"])
    def test_attempt_that_died_before_it_wrote_anything(
        self, tmp_path: Path, before: ledger.State
    ) -> None:
        run = write_run(tmp_path, state=before, reason="of the first attempt")
        state = (run / ledger.STATE).read_bytes()
        assert ledger.claim(run) is not None
        (run / ledger.STATE).write_bytes(state)
        let_owner_vanish(run, attempt=2)
        expected = "attempt 2 was interrupted: its process is gone; it begins anew"
        assert explain(run).reason == expected

    def test_record_that_is_gone(self, tmp_path: Path) -> None:
        run = write_run(tmp_path, state="done")
        (run / ledger.RECORD).unlink()
        assert "interrupted: its record is gone" in explain(run).reason

    def test_damaged(self, tmp_path: Path) -> None:
        run = write_run(tmp_path)
        (run / ledger.STATE).write_text("{")
        with pytest.raises(PfstudyError, match=r"state\.json is damaged"):
            explain(run)


class TestForesee:
    def test_run_that_exists_is_explained(self, tmp_path: Path) -> None:
        run = describe(write_run(tmp_path, state="failed", reason="why"))
        assert foresee(run, [run]) == explain(run.directory)

    def test_the_first_one(self) -> None:
        verdict = foresee(description(), [])
        assert (verdict.state, verdict.action) == ("new", "trained")
        assert verdict.nearest is None

    def test_names_the_nearest_and_what_differs(self, tmp_path: Path) -> None:
        write_run(tmp_path, MAXPOOL, "recipe.lr=0.1", "recipe.epochs=3")
        nearest = write_run(tmp_path, MAXPOOL, "recipe.lr=0.1")
        write_run(tmp_path, "recipe.lr=0.2")
        verdict = foresee(description(MAXPOOL, "recipe.lr=0.2"), describe_all(tmp_path))
        assert (verdict.state, verdict.action) == ("new", "trained")
        assert verdict.nearest == nearest
        assert verdict.differences == (Difference("recipe.lr", 0.1, 0.2),)
        assert verdict.reason == f"new: differs from {nearest} in recipe.lr: 0.1 there, 0.2 here"

    def test_prefers_the_same_seed(self, tmp_path: Path) -> None:
        for seed in (0, 2, 1):
            write_run(tmp_path, seed=seed)
        run = description("recipe.lr=0.3", seed=2)
        verdict = foresee(run, describe_all(tmp_path))
        assert verdict.nearest is not None
        assert verdict.nearest.name == "seed2"
        assert pairs(verdict.differences) == {"recipe.lr": (0.2, 0.3)}

    def test_prefers_the_same_variant_to_the_same_seed(self, tmp_path: Path) -> None:
        write_run(tmp_path, "recipe.lr=0.3", seed=1)
        nearest = write_run(tmp_path, seed=0)
        verdict = foresee(description(seed=1), describe_all(tmp_path))
        assert verdict.nearest == nearest
        assert verdict.differences == (Difference("seed", 0, 1),)

    def test_directory_without_a_run_in_it_is_new(self, tmp_path: Path) -> None:
        run = replace(description(), directory=tmp_path)
        assert foresee(run, []).state == "new"


class TestDescribeAll:
    def test_leaves_out_what_cannot_be_read(self, tmp_path: Path) -> None:
        kept, damaged = write_run(tmp_path), write_run(tmp_path, MAXPOOL)
        (damaged / store.CONFIG).write_text("{")
        assert [run.directory for run in describe_all(tmp_path)] == [kept]

    def test_of_no_directory(self, tmp_path: Path) -> None:
        assert describe_all(tmp_path / "none") == []


class TestInWords:
    def test_sites_that_differ_alike_stand_together(self) -> None:
        found = list_differences(
            description("block.stage1.spatial=avgpool"), description(MAXPOOL, "recipe.lr=0.3")
        )
        grouped = group_sites(found)
        assert grouped == [
            Difference("stage1.block1-2", "avgpool", "maxpool"),
            Difference("stage2.block1-2", "original", "maxpool"),
            Difference("recipe.lr", 0.2, 0.3),
        ]
        assert in_words(found) == (
            "stage1.block1-2: avgpool there, maxpool here; "
            "stage2.block1-2: original there, maxpool here; recipe.lr: 0.2 there, 0.3 here"
        )

    def test_value_that_is_not_there(self) -> None:
        missing = [Difference("stage1.block1", None, "conv"), Difference("init", None, "a" * 64)]
        assert in_words(missing) == (
            "stage1.block1: not set there, conv here; init: not set there, aaaaaaaaaa here"
        )

    @pytest.mark.parametrize(
        ("number", "expected"),
        [
            pytest.param(2, "k0: 1 there, 2 here; k1: 1 there, 2 here", id="few"),
            pytest.param(
                9,
                "k0: 1 there, 2 here; k1: 1 there, 2 here; k2: 1 there, 2 here; 6 more",
                id="many",
            ),
        ],
    )
    def test_no_more_than_a_few(self, number: int, expected: str) -> None:
        assert in_words([Difference(f"k{index}", 1, 2) for index in range(number)]) == expected


def test_host_of_another_machine_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path, state="running")
    edit_owner(run, machine="gpu7 boot pid")
    written = files.read_json(run / ledger.STATE)
    files.write_json(run / ledger.STATE, {**written, "host": "gpu7", "pid": 12})
    assert explain(run).reason == "process 12 on gpu7 trains it"
