"""Identities by older rules, and those that must never change."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from configs import compose, variant_of
from pfstudy import store
from pfstudy.data import fingerprint
from pfstudy.identity import Content, agree, modernise, unverified
from pfstudy.variant import Variant, make_variant

RECORDED = json.loads(Path(__file__).with_name("archive").joinpath("identities.json").read_text())
"""Hashes of shipped presets and others, and fingerprints, as of the build that made the archive."""


@pytest.mark.parametrize("overrides", RECORDED["hashes"])
def test_identities_are_those_of_the_archive(overrides: str) -> None:
    variant = variant_of(*overrides.split())
    found = [variant.hash, variant.baseline_hash, variant.architecture_hash]
    assert found == RECORDED["hashes"][overrides]
    assert variant.older() is None


@pytest.mark.parametrize("name", RECORDED["fingerprints"])
def test_fingerprints_are_those_of_the_archive(name: str) -> None:
    data = compose("model=bottleneck1", f"data={name}").data
    assert fingerprint(data) == RECORDED["fingerprints"][name]


def variant_on(content: Content | str, *overrides: str) -> Variant:
    return make_variant(compose(*overrides), content)


def record_of(variant: Variant, data: str = "imagefolder", seed: int = 0) -> dict[str, Any]:
    return {"identity": variant.describe_identity(), "data": data, "seed": seed}


NEW = Content("new", "old")
MAXPOOL = "block.spatial=maxpool"


class TestOlder:
    def test_it_is_the_variant_by_the_older_digest(self) -> None:
        older = variant_on(NEW).older()
        assert older is not None
        assert older.hash == variant_on("old").hash
        assert older.baseline().hash == variant_on("old").baseline_hash
        assert older.older() is None

    def test_a_baseline_has_one_too(self) -> None:
        older = variant_on(NEW, MAXPOOL).baseline().older()
        assert older is not None
        assert older.hash == variant_on("old").hash

    def test_the_variant_is_chosen_by_a_hash(self) -> None:
        variant = variant_on(NEW)
        assert variant.with_hash(variant.hash) is variant
        older = variant.with_hash(variant_on("old").hash)
        assert older is not None
        assert older.rules == 1
        assert variant.with_hash("another") is None


class TestAdopting:
    def prepare(self, variant: Variant) -> Path:
        run = store.make_run(variant, 0)
        store.prepare(run)
        return run.directory

    def test_runs_by_the_older_rule_are_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        old = self.prepare(variant_on("old"))
        run = store.make_run(variant_on(NEW), 0)
        assert run.directory == old
        assert run.variant.hash == variant_on("old").hash
        store.check_directory(run)

    def test_others_and_runs_by_the_newer_rule_are_not_affected(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        self.prepare(variant_on("old"))
        assert store.adopt(variant_on(Content("new", "other sizes"))).rules == 2
        assert store.adopt(variant_on(NEW, MAXPOOL)).rules == 2

    def test_where_both_are_there_content_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        new = self.prepare(variant_on(NEW))
        old = self.prepare(variant_on("old"))
        assert old != new
        assert store.make_run(variant_on(NEW), 0).directory == new


class TestModernise:
    def old(self, *overrides: str, seed: int = 0) -> dict[str, Any]:
        record = record_of(variant_on("old", *overrides), seed=seed)
        del record["identity"]["rules"]  # as it was written then
        return record

    def test_an_older_record_gets_the_identity_of_newer_ones(self) -> None:
        new = record_of(variant_on(NEW, MAXPOOL))
        (changed, same), hashes = modernise([self.old(), new])
        assert same == new
        assert changed["unverified"] == ["data"]
        assert changed["identity"]["hash"] == new["identity"]["baseline"]
        assert hashes == {variant_on("old").hash: variant_on(NEW).hash}
        assert agree(self.old()["identity"], new["identity"], ("data", "backbone"))

    def test_alone_it_stays_and_is_marked(self) -> None:
        (record,), hashes = modernise([self.old()])
        assert record == {**self.old(), "unverified": ["data"]}
        assert not hashes

    def test_of_two_contents_with_the_same_sizes_none_is_chosen(self) -> None:
        new = [record_of(variant_on(Content(name, "old"))) for name in ("a", "b")]
        record, *_ = modernise([self.old(), *new])[0]
        assert record["identity"]["hash"] == variant_on("old").hash

    def test_a_record_that_is_there_by_content_stays_the_only_one(self) -> None:
        records, _ = modernise([self.old(), record_of(variant_on(NEW))])
        assert len({record["identity"]["hash"] for record in records}) == 2

    def test_data_of_other_kinds_were_always_identified_by_content(self) -> None:
        assert unverified({**self.old(), "data": "digits"}) == frozenset()
