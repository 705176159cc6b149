from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import variant_of
from measurements import ENVIRONMENT, SETTING, measurement
from pfstudy import files
from pfstudy.errors import PfstudyError
from pfstudy.speed.results import (
    Network,
    Results,
    add_results,
    agree,
    compare_results,
    list_results,
    network_of,
    read_results,
    results_path,
)

LABELS = ("original", "maxpool", "avgpool", "identity")
VARIANTS = {label: variant_of(f"block.spatial={label}") for label in LABELS}


def networks(**relative: float) -> list[Network]:
    """Networks by label, with their relative times."""
    return [network_of(VARIANTS[label], measurement(time)) for label, time in relative.items()]


def results_of(device: str = "Some CPU", **relative: float) -> Results:
    found = [
        replace(network, measured={**network.measured, "device": device})
        for network in networks(**relative)
    ]
    return Results({**SETTING, "device": device}, ENVIRONMENT, tuple(found))


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "speed" / "x.json"
    written = add_results(path, networks(original=1.0, maxpool=0.8), ENVIRONMENT)
    assert read_results(path) == written
    assert written.setting == SETTING
    assert written.device == "Some CPU"
    assert [network.name for network in written.networks] == [
        "resnet_digits original",
        "resnet_digits maxpool",
    ]
    assert written.networks[1].operations == dict.fromkeys(
        VARIANTS["maxpool"].operations, "maxpool"
    )
    assert {network.baseline_hash for network in written.networks} == {
        VARIANTS["original"].architecture_hash
    }


@pytest.mark.parametrize("replaces", [False, True])
def test_results_join_those_that_are_there(tmp_path: Path, replaces: bool) -> None:
    path = tmp_path / "x.json"
    add_results(path, networks(original=1.0, maxpool=0.8), ENVIRONMENT)
    more = networks(avgpool=0.9, maxpool=0.7)  # as wide, of as many processes
    add_results(path, more, ENVIRONMENT, replace=replaces)
    found = {n.label: n.measured["relative_latency"] for n in read_results(path).networks}
    assert found == {"original": 1.0, "maxpool": 0.7 if replaces else 0.8, "avgpool": 0.9}


def test_results_files_below_the_runs_are_listed(tmp_path: Path) -> None:
    """Neither block tables nor damaged files."""
    for batch_size in (1, 8):
        found = [
            replace(n, measured=measurement(batch_size=batch_size)) for n in networks(maxpool=1)
        ]
        add_results(results_path(tmp_path, found[0].measured), found, ENVIRONMENT)
    (tmp_path / "speed" / "damaged.json").write_text("{")
    listed = list_results(tmp_path)
    assert [results.setting["batch_size"] for results in listed] == [1, 8]
    (network,) = listed[0].networks_by_identity.items()
    assert network == (VARIANTS["maxpool"].architecture_hash, listed[0].networks[0])


@pytest.mark.parametrize(
    ("change", "name"),
    [
        pytest.param({}, "some-cpu_here_float32_contiguous_b1_t1_eager_torch2.9.0", id="usual"),
        pytest.param(
            {"cache": "cold", "batch_size": 8},
            "some-cpu_here_float32_contiguous_b8_t1_eager_cold_torch2.9.0",
            id="cold",
        ),
    ],
)
def test_a_file_is_named_after_its_setting_and_torch(
    tmp_path: Path, change: dict[str, Any], name: str
) -> None:
    path = results_path(tmp_path, measurement(**change))
    assert path == tmp_path / "speed" / f"{name}.json"


def without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content["networks"][0]["measured"].pop(key)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: content.pop("networks"), id="no networks"),
        pytest.param(lambda content: content.pop("setting"), id="no setting"),
        pytest.param(lambda content: content["networks"].append(3), id="number"),
        pytest.param(lambda content: content["networks"][0].pop("label"), id="no label"),
        pytest.param(without("relative_latency"), id="no time"),
        pytest.param(
            lambda content: content["networks"][0]["measured"].update(latency_ms="fast"),
            id="time in words",
        ),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object]
) -> None:
    path = tmp_path / "x.json"
    add_results(path, networks(maxpool=0.8), ENVIRONMENT)
    content = files.read_json(path)
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(PfstudyError) as caught:
        read_results(path)
    assert str(caught.value) == f"{path} is damaged: it is no results file of pfstudy speed."


def test_an_impossible_figure_in_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    add_results(path, networks(maxpool=0.8), ENVIRONMENT)
    content = files.read_json(path)
    content["networks"][0]["measured"]["latency_ms"] = -5
    path.write_text(json.dumps(content))
    with pytest.raises(PfstudyError, match=r"x\.json is damaged: latency_ms is -5, but must be"):
        read_results(path)


@pytest.mark.parametrize("version", [99, None])
def test_another_schema_is_named(tmp_path: Path, version: int | None) -> None:
    path = tmp_path / "x.json"
    files.write_json(path, {"schema_version": version})
    with pytest.raises(PfstudyError, match=f"its schema version is {version}, not 1"):
        read_results(path)


class TestCompareResults:
    def test_pairs_are_of_one_network(self) -> None:
        first = results_of(original=1.0, maxpool=0.8, avgpool=0.9)
        second = results_of("Another CPU", identity=0.2, maxpool=0.7, original=1.0)
        compared = compare_results(first, second)
        assert [(one.label, other.label) for one, other in compared.pairs] == [
            ("original", "original"),
            ("maxpool", "maxpool"),
        ]
        assert [network.measured["device"] for network in compared.pairs[0]] == [
            "Some CPU",
            "Another CPU",
        ]
        assert compared.only_first == ("resnet_digits avgpool",)
        assert compared.only_second == ("resnet_digits identity",)

    def test_nothing_in_common_is_refused(self) -> None:
        with pytest.raises(PfstudyError) as caught:
            compare_results(results_of(maxpool=0.8), results_of(avgpool=0.9))
        assert str(caught.value) == (
            "the two files have no network in common; measure the same networks, with images of "
            "the same size, on both machines."
        )

    @pytest.mark.parametrize(
        ("times", "expected"),
        [
            pytest.param((0.5, 0.6, 0.7, 0.9), 1, id="same order"),
            pytest.param((0.9, 0.7, 0.6, 0.5), -1, id="reversed"),
            pytest.param((0.6, 0.5, 0.7, 0.9), 2 / 3, id="one pair swapped"),  # 5 of 6 pairs
        ],
    )
    def test_the_order_of_networks_is_compared(
        self, times: tuple[float, ...], expected: float
    ) -> None:
        first = results_of(identity=0.1, avgpool=0.2, maxpool=0.3, original=1.0)
        order = ("identity", "avgpool", "maxpool", "original")
        second = results_of(**dict(zip(order, times, strict=True)))
        assert compare_results(first, second).rank_correlation == pytest.approx(expected)

    def test_two_networks_have_no_order_to_speak_of(self) -> None:
        first = results_of(original=1.0, maxpool=0.8)
        assert compare_results(first, first).rank_correlation is None


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        pytest.param((0.8, 0.9), (0.85, 0.95), True, id="overlap"),
        pytest.param((0.8, 0.9), (0.82, 0.83), True, id="within"),
        pytest.param((0.8, 0.9), (0.9, 1.0), True, id="touch"),
        pytest.param((0.8, 0.9), (0.91, 1.0), False, id="above"),
        pytest.param((0.8, 0.9), (0.5, 0.79), False, id="below"),
    ],
)
def test_networks_agree_where_their_intervals_overlap(
    one: tuple[float, float], other: tuple[float, float], expected: bool
) -> None:
    pair = [
        network_of(
            VARIANTS["maxpool"],
            measurement(relative_latency_low=low, relative_latency_high=high),
        )
        for low, high in (one, other)
    ]
    assert agree((pair[0], pair[1])) is expected
    assert agree((pair[1], pair[0])) is expected
