from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from pfstudy.errors import PfstudyError
from pfstudy.files import write_json
from pfstudy.tables import render
from pfstudy.tables.audit import Finding, audit_records, in_short
from pfstudy.tables.content import make_content
from pfstudy.tables.latex import latex
from pfstudy.tables.rows import make_rows
from records import Record, leave_records

Call = Callable[..., tuple[int | str | None, str, str]]


def change(record: Record, place: str, value: Any) -> Record:
    """Set what stands at a place of a record, such as ``training/epochs``."""
    *parents, last = place.split("/")
    tree = record
    for parent in parents:
        tree = tree[parent]
    tree[last] = value
    return record


def values(finding: Finding) -> dict[str, list[str]]:
    return {value.text: value.runs for value in finding.values}


def by_key(records: Sequence[Record]) -> dict[str, dict[str, list[str]]]:
    return {finding.key: values(finding) for finding in audit_records(records).findings}


def keys(records: Sequence[Record]) -> list[str]:
    return [finding.key for finding in audit_records(records).findings]


CANONICAL = "identity/canonical"
DIFFERENCES = [
    pytest.param(f"{CANONICAL}/recipe/lr", 0.2, "recipe.lr", "recipe", "0.2", id="recipe"),
    pytest.param(
        f"{CANONICAL}/recipe/mixup", 0.8, "recipe.mixup", "recipe", "0.8", id="recipe-key-of-one"
    ),
    pytest.param(
        f"{CANONICAL}/data/fingerprint",
        "fedcba9876543210",
        "data.fingerprint",
        "data",
        "digits (fedcba9876)",
        id="data",
    ),
    pytest.param(
        f"{CANONICAL}/data/mean", [0.5, 0.5], "data.mean", "data", "[0.5, 0.5]", id="data-setting"
    ),
    pytest.param(f"{CANONICAL}/data/split_seed", 1, "data.split_seed", "split", "1", id="split"),
    pytest.param(f"{CANONICAL}/data/num_test", 400, "data.num_test", "split", "400", id="num_test"),
    pytest.param(
        f"{CANONICAL}/precision", "bf16-mixed", "precision", "precision", "bf16-mixed", id="config"
    ),
    pytest.param(
        f"{CANONICAL}/init", "ab" * 32, "init", "initial weights", "ababababab", id="init"
    ),
    pytest.param(
        f"{CANONICAL}/pretrained", True, "pretrained", "initial weights", "true", id="pretrained"
    ),
    pytest.param(f"{CANONICAL}/teacher/name", "x", "teacher.name", "teacher", "x", id="unheard-of"),
    pytest.param("training/epochs", 14, "training.epochs", "epochs", "14", id="epochs"),
    pytest.param(
        "training/effective_batch_size",
        60,
        "training.effective_batch_size",
        "effective batch size",
        "60",
        id="batch",
    ),
    pytest.param(
        "training/world_size", 2, "training.world_size", "world size", "2", id="world-size"
    ),
    pytest.param("training/num_threads", 2, "training.num_threads", "threads", "2", id="threads"),
    pytest.param(
        "training/accumulation", 2, "training.accumulation", "accumulation", "2", id="accumulation"
    ),
    pytest.param(
        "training/precision",
        "16-mixed",
        "training.precision",
        "precision",
        "16-mixed",
        id="trained",
    ),
    pytest.param(
        "environment/git",
        {"commit": "fedcba987", "dirty": False},
        "environment.git",
        "code version",
        "fedcba9",
        id="commit",
    ),
    pytest.param(
        "environment/git",
        {"commit": "1a2b3c4d5e6f", "dirty": True},
        "environment.git",
        "code version",
        "1a2b3c4 (modified)",
        id="dirty",
    ),
    pytest.param(
        "environment/git",
        None,
        "environment.git",
        "code version",
        "not in a git repository",
        id="no-git",
    ),
    pytest.param(
        "environment/versions/pfstudy",
        "0.2.0",
        "environment.versions.pfstudy",
        "code version",
        "pfstudy 0.2.0",
        id="pfstudy",
    ),
    *(
        pytest.param(
            f"environment/versions/{name}",
            "9",
            f"environment.versions.{name}",
            "library versions",
            f"{name} 9",
            id=name,
        )
        for name in ("torch", "lightning", "timm")
    ),
    pytest.param(
        "environment/cpu_model", "Other", "environment.device", "device", "Other", id="cpu"
    ),
    pytest.param("environment/device", "H100", "environment.device", "device", "H100", id="gpu"),
]


@pytest.mark.parametrize(("place", "value", "key", "kind", "text"), DIFFERENCES)
def test_a_difference_is_found_with_the_runs_that_have_it(
    record: Any, place: str, value: Any, key: str, kind: str, text: str
) -> None:
    records = [record("original"), record("maxpool"), record("avgpool")]
    records[1]["identity"]["canonical"]["teacher"] = {}
    change(records[1], place, value)
    (finding,) = audit_records(records).findings
    assert (finding.key, finding.kind) == (key, kind)
    assert [value.text for value in finding.values][1:] == [text]
    assert [value.runs for value in finding.values] == [
        ["original seed0", "avgpool seed0"],
        ["maxpool seed0"],
    ]


ALIKE = [
    pytest.param(f"{CANONICAL}/backbone/timm", "other", id="backbone"),
    pytest.param(f"{CANONICAL}/sites", {"a": {"operation": "avgpool"}}, id="sites"),
    pytest.param("environment/host", "there", id="host"),
    pytest.param("environment/versions/wandb", "9", id="wandb"),
    pytest.param("environment/versions/torchmetrics", "9", id="torchmetrics"),
    pytest.param("training/seconds", 9.0, id="seconds"),
    pytest.param("training/accumulation", 1, id="accumulation-by-default"),
    pytest.param("metrics/test_top1_percent", 12.0, id="accuracy"),
]


@pytest.mark.parametrize(("place", "value"), ALIKE)
def test_what_may_differ_is_no_finding(record: Any, place: str, value: Any) -> None:
    audit = audit_records([record("original"), change(record("maxpool"), place, value)])
    assert audit.findings == ()


def test_models_may_differ_and_are_then_part_of_a_name(record: Any) -> None:
    records = [
        record(model="resnet18", family="a"),
        change(record(model="resnet50", family="b"), "training/num_threads", 2),
    ]
    (finding,) = audit_records(records).findings
    assert values(finding) == {
        "1": ["resnet18 original seed0"],
        "2": ["resnet50 original seed0"],
    }


def test_variants_of_one_label_are_told_apart_by_their_identity(record: Any) -> None:
    records = [
        record("maxpool", family="a", lr=0.1),
        record("maxpool", family="b", lr=0.2),
        record("conv", family="b", lr=0.2),
    ]
    (finding,) = audit_records(records).findings
    assert values(finding) == {
        "0.2": ["maxpool (b-maxpool) seed0", "conv seed0"],
        "0.1": ["maxpool (a-maxpool) seed0"],
    }


def test_commit_and_changes_are_one_finding(record: Any) -> None:
    modified = {"commit": "fedcba98", "dirty": True}
    records = [record(), change(record("maxpool"), "environment/git", modified)]
    assert keys(records) == ["environment.git"]


def test_what_a_record_repeats_of_the_config_is_one_finding(record: Any) -> None:
    short = record("maxpool", family="short")
    for place, value in (("recipe/epochs", 5), ("recipe/batch_size", 8), ("precision", "16-mixed")):
        change(short, f"{CANONICAL}/{place}", value)
    short["training"] |= {"epochs": 5, "effective_batch_size": 8, "precision": "16-mixed"}
    assert keys([record(), short]) == ["recipe.batch_size", "recipe.epochs", "precision"]


def test_what_the_config_does_not_explain_is_a_finding_of_its_own(record: Any) -> None:
    short = change(record("maxpool"), f"{CANONICAL}/recipe/epochs", 5)
    short["training"]["epochs"] = 5
    stopped = change(record("avgpool"), "training/epochs", 3)
    assert by_key([record(), short, stopped]) == {
        "recipe.epochs": {"15": ["original seed0", "avgpool seed0"], "5": ["maxpool seed0"]},
        "training.epochs": {
            "15": ["original seed0"],
            "5": ["maxpool seed0"],
            "3": ["avgpool seed0"],
        },
    }


def test_what_one_record_lacks_is_named(record: Any) -> None:
    lacking = record("maxpool")
    del lacking["environment"]["versions"]["timm"]
    del lacking["identity"]["canonical"]["data"]["num_test"]
    assert by_key([record(), lacking]) == {
        "data.num_test": {"500": ["original seed0"], "not set": ["maxpool seed0"]},
        "environment.versions.timm": {
            "timm 1.0.15": ["original seed0"],
            "not recorded": ["maxpool seed0"],
        },
    }


def test_a_users_operation_that_was_edited_is_found(record: Any) -> None:
    def of_source(family: str, source: str) -> Record:
        made: Record = record("mine", family=family)
        made["identity"]["canonical"]["sites"]["layer1.0.conv2"]["source"] = source
        return made

    assert keys([record(), of_source("base", "a" * 64)]) == []
    records = [record(), of_source("a", "a" * 64), of_source("b", "b" * 64)]
    (finding,) = audit_records(records).findings
    assert (finding.key, finding.kind) == ("operation.mine", "code version")
    assert [value.text for value in finding.values] == ["source aaaaaaaaaa", "source bbbbbbbbbb"]


class TestSeeds:
    def test_the_same_ones_are_no_finding(self, record: Any) -> None:
        assert keys([record(label, seed=seed) for label in "ab" for seed in (0, 1)]) == []

    @pytest.mark.parametrize(
        ("seeds", "text"),
        [
            pytest.param([0, 1, 2, 5], "4 seeds: 0-2,5", id="more"),
            pytest.param([1], "1 seed: 1", id="another"),
        ],
    )
    def test_others_are(self, record: Any, seeds: list[int], text: str) -> None:
        records = [record("original"), *(record("maxpool", seed=seed) for seed in seeds)]
        (finding,) = audit_records(records).findings
        assert (finding.key, finding.kind) == ("seeds", "seeds")
        assert values(finding) == {"1 seed: 0": ["original"], text: ["maxpool"]}


class TestSpeed:
    def test_one_setting_is_no_finding(self, record: Any) -> None:
        assert keys([record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8))]) == []

    def test_no_measurement_at_all_is_none_either(self, record: Any) -> None:
        audit = audit_records([record(), record("maxpool")])
        assert audit.findings == ()
        assert "speed setting" not in audit.compared

    @pytest.mark.parametrize(
        "setting",
        [
            pytest.param({"batch_size": 64}, id="batch"),
            pytest.param({"host": "there"}, id="host"),
            pytest.param({"device": "H100"}, id="device"),
            pytest.param({"backend": "compiled"}, id="backend"),
        ],
    )
    def test_another_setting_is_one(self, record: Any, setting: dict[str, Any]) -> None:
        records = [record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8), **setting)]
        (finding,) = audit_records(records).findings
        assert (finding.key, finding.kind) == ("speed", "speed setting")
        ((key, value),) = setting.items()
        assert values(finding)[f"{key}={value}"] == ["maxpool"]
        assert sorted(values(finding).values()) == [["maxpool"], ["original"]]

    def test_variants_that_were_not_measured_are_named(self, record: Any) -> None:
        (finding,) = audit_records([record(speed=(2.0, 1.0)), record("maxpool")]).findings
        assert values(finding) == {"measured": ["original"], "not measured": ["maxpool"]}

    def test_a_setting_that_all_share_suffices(self, record: Any) -> None:
        first, second = record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8))
        first["speed"] += record(speed=(9.0, 1.0), batch_size=64)["speed"]
        assert keys([first, second]) == []

    def test_shared_values_do_not_make_a_shared_setting(self, record: Any) -> None:
        first = record(speed=(2.0, 1.0))
        first["speed"] += record(speed=(2.0, 1.0), batch_size=8, host="there")["speed"]
        second = record("maxpool", speed=(2.0, 1.0), host="there")
        second["speed"] += record(speed=(2.0, 1.0), batch_size=8)["speed"]
        (finding,) = audit_records([first, second]).findings
        assert values(finding) == {
            "host=here, batch_size=1": ["original"],
            "host=there, batch_size=8": ["original"],
            "host=here, batch_size=8": ["maxpool"],
            "host=there, batch_size=1": ["maxpool"],
        }


def test_no_records_are_an_error() -> None:
    with pytest.raises(PfstudyError, match="there are no finished runs here"):
        audit_records([])


def test_the_same_changes_in_all_runs_are_no_difference_but_a_remark(record: Any) -> None:
    modified = {"commit": "1a2b3c4d", "dirty": True}
    audit = audit_records(
        [change(record(label), "environment/git", modified) for label in ("original", "maxpool")]
    )
    assert audit.findings == ()
    (remark,) = audit.remarks
    assert remark.startswith("1a2b3c4 (modified): 2 runs were made with changes")


def test_committed_code_needs_no_remark(record: Any) -> None:
    assert audit_records([record(), record("maxpool")]).remarks == ()


def test_long_lists_of_runs_are_cut(record: Any) -> None:
    records = [record("maxpool", seed=seed) for seed in range(6)]
    change(records[5], "training/num_threads", 2)
    (finding,) = audit_records(records).findings
    most, one = finding.values
    assert most.runs_in_short() == "maxpool seed0, seed1, seed2, and 2 more"
    assert one.runs_in_short() == "maxpool seed5"
    assert len(most.runs) == 5


class TestInShort:
    """How the captions of tables name what differs."""

    def in_short(self, record: Any, **places: Any) -> str:
        other = record("maxpool", family="other")
        for place, value in places.items():
            change(other, place, value)
        return in_short(audit_records([record(), other]).findings)

    def test_nothing(self, record: Any) -> None:
        assert self.in_short(record) == ""

    def test_settings_of_the_config_by_key_and_the_rest_by_kind(self, record: Any) -> None:
        places = {f"{CANONICAL}/recipe/lr": 0.2, "environment/git": None}
        assert self.in_short(record, **places) == "recipe.lr, code version"

    def test_a_kind_is_named_once(self, record: Any) -> None:
        versions = {f"environment/versions/{name}": "9" for name in ("torch", "timm", "lightning")}
        assert self.in_short(record, **versions) == "library versions"

    def test_many_settings_of_a_kind_are_counted(self, record: Any) -> None:
        recipe = {f"{CANONICAL}/recipe/{key}": 9 for key in ("lr", "mixup", "dropout")}
        assert self.in_short(record, **recipe) == "recipe (3 settings)"

    def test_many_kinds_are_cut(self, record: Any) -> None:
        places = {
            f"{CANONICAL}/recipe/lr": 0.2,
            f"{CANONICAL}/data/split_seed": 1,
            "training/num_threads": 2,
            "training/world_size": 2,
            "environment/device": "H100",
        }
        assert self.in_short(record, **places) == (
            "recipe.lr, data.split_seed, world size, and 2 more"
        )


class TestTables:
    @pytest.fixture
    def mixed(self, record: Any) -> list[Record]:
        fast = change(record("maxpool", lr=0.2), f"{CANONICAL}/recipe/batch_size", 32)
        return [record(), change(fast, "environment/git", None)]

    def test_a_table_that_mixes_is_flagged(self, mixed: list[Record]) -> None:
        flag = "recipe.batch_size, recipe.lr, code version; see pfstudy audit."
        written = render.markdown(make_content(make_rows(mixed)))
        assert f" Not the same for all rows: {flag}\n\n<!--" in written

    def test_in_latex_too(self, mixed: list[Record]) -> None:
        flag = r"Not the same for all rows: recipe.batch\_size, recipe.lr, code version."
        assert flag in latex(make_content(make_rows(mixed)))

    def test_and_in_the_terminal(self, mixed: list[Record]) -> None:
        table = render.terminal(make_content(make_rows(mixed)))
        assert "Not the same for all rows" in str(table.caption)

    def test_json_stays_a_list_of_rows(self, mixed: list[Record]) -> None:
        rows = json.loads(render.json(make_content(make_rows(mixed))))
        assert [row["variant"] for row in rows] == ["original (conv)", "maxpool"]

    def test_a_fair_table_is_not_flagged(self, record: Any) -> None:
        rows = make_rows([record(), record("maxpool")])
        assert rows.audit.findings == ()
        content = make_content(rows)
        assert "Not the same" not in render.markdown(content) + latex(content)


class TestCommand:
    def test_fair_runs_are_one_sentence(self, call_here: Call, record: Any) -> None:
        leave_records("runs", record(speed=(2.0, 1.0)), record("maxpool", speed=(1.6, 0.8)))
        assert call_here("audit") == (
            0,
            "All 2 runs share everything that was compared: recipe, data, split, precision, "
            "epochs, effective batch size, accumulation, world size, threads, code version, "
            "library versions, device, seeds, speed setting.\n",
            "",
        )

    def test_differences_are_a_table_and_exit_code_1(self, call_here: Call, record: Any) -> None:
        odd = record("[b]odd", lr=0.2)
        leave_records("made", record(), odd, record("maxpool"))
        code, out, err = call_here("audit", "made")
        lines = [line.split() for line in out.splitlines() if line.strip()]
        assert code == 1
        assert err == ""
        assert lines[0] == ["what", "value", "runs"]
        assert lines[2] == ["recipe.lr", "0.1", "original", "seed0,", "maxpool", "seed0"]
        assert lines[3] == ["0.2", "[b]odd", "seed0"]
        assert out.splitlines()[-1].startswith("The same for all 3 runs: data, split, precision,")

    def test_json_is_an_object_with_all_runs(self, call_here: Call, record: Any) -> None:
        same = [record("maxpool", seed=seed) for seed in range(6)]
        leave_records(
            "runs", *same, change(record("maxpool", seed=6), "environment/device", "H100")
        )
        code, out, _ = call_here("audit", "--json")
        assert code == 1
        found = json.loads(out)
        assert not found["fair"]
        assert (found["num_runs"], found["num_variants"], found["remarks"]) == (7, 1, [])
        assert {"recipe", "device", "seeds"} <= set(found["compared"])
        runs = [f"maxpool seed{seed}" for seed in range(6)]
        assert found["findings"] == [
            {
                "key": "environment.device",
                "kind": "device",
                "values": [
                    {"value": "Some CPU", "runs": runs},
                    {"value": "H100", "runs": ["maxpool seed6"]},
                ],
            }
        ]

    def test_json_of_fair_runs(self, call_here: Call, record: Any) -> None:
        leave_records("runs", record(), record("maxpool"))
        code, out, _ = call_here("audit", "--json")
        assert code == 0
        assert json.loads(out)["fair"]

    def test_only_the_members_of_a_study_are_compared(self, call_here: Call, record: Any) -> None:
        members = leave_records("runs", record(), record("maxpool"), record("conv", lr=0.2))
        for name, some in (("fair", members[:2]), ("unfair", members)):
            study = {"schema_version": 1, "name": name, "members": some}
            write_json(Path("runs/studies") / f"{name}.json", study)
        assert call_here("audit", "--study", "fair")[0] == 0
        assert call_here("audit", "--study", "unfair")[0] == 1

    def test_one_run_is_compared_with_none(self, call_here: Call, record: Any) -> None:
        leave_records("runs", record())
        assert call_here("audit")[:2] == (0, "There is one run, and none to compare it with.\n")

    def test_a_remark_is_printed_and_changes_no_exit_code(
        self, call_here: Call, record: Any
    ) -> None:
        modified = {"commit": "1a2b3c4d", "dirty": True}
        records = [record("maxpool", seed=seed) for seed in (0, 1)]
        leave_records("runs", *(change(made, "environment/git", modified) for made in records))
        code, out, _ = call_here("audit")
        assert code == 0
        assert out.splitlines()[1].startswith("1a2b3c4 (modified): 2 runs")

    @pytest.mark.parametrize(
        ("arguments", "phrase"),
        [
            pytest.param(["no"], "there is no directory no", id="directory"),
            pytest.param(["."], "there are no finished runs in .", id="records"),
            pytest.param([".", "--study", "no"], "study 'no' does not exist", id="study"),
        ],
    )
    def test_mistakes_are_one_sentence_and_exit_code_2(
        self, call_here: Call, arguments: list[str], phrase: str
    ) -> None:
        code, out, err = call_here("audit", *arguments)
        assert (code, out) == (2, "")
        (sentence,) = err.splitlines()
        assert sentence.startswith(f"pfstudy: {phrase}")


class TestNorm:
    """Norm and activation go with the replaced layers of some variants."""

    @staticmethod
    def variant(record: Callable[..., Record], label: str, *, loses: bool) -> Record:
        made = record(label)
        if loses:
            site = made["identity"]["canonical"]["sites"]["layer1.0.conv2"]
            site["drops"] = ["layer1.0.act2", "layer1.0.bn2"]
        return made

    def test_that_some_lost_is_a_finding(self, record: Callable[..., Record]) -> None:
        variants = [self.variant(record, "maxpool", loses=True), record("dwconv")]
        audit = audit_records([record(), *variants])
        (finding,) = audit.findings
        assert (finding.key, finding.kind) == ("norm_act", "norm and activation")
        assert values(finding) == {"dropped": ["maxpool"], "kept": ["dwconv"]}
        caption = make_content(make_rows([record(), *variants])).caption
        assert "Not the same for all rows: norm and activation; see pfstudy audit." in caption
        assert "(no norm): without the norm and activation of the replaced layers" in caption

    def test_that_all_lost_is_a_remark(self, record: Callable[..., Record]) -> None:
        names = ("maxpool", "avgpool")
        variants = [self.variant(record, name, loses=True) for name in names]
        audit = audit_records([record(), *variants])
        assert audit.findings == ()
        assert "norm and activation" in audit.compared
        (remark,) = audit.remarks
        assert remark.startswith("All substituted variants lack the norm and activation")

    def test_that_none_lost_is_nothing(self, record: Callable[..., Record]) -> None:
        audit = audit_records([record(), record("dwconv")])
        assert (audit.findings, audit.remarks) == ((), ())
        assert "norm and activation" not in audit.compared

    def test_it_is_marked_in_tables(self, record: Callable[..., Record]) -> None:
        variants = [self.variant(record, "maxpool", loses=True), record("dwconv")]
        rows = make_rows([record(), *variants])
        assert list(rows.frame["variant"]) == ["original (conv)", "maxpool (no norm)", "dwconv"]
