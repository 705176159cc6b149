"""Environment variables of clusters in, ranks out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from pfstudy import cluster
from pfstudy.errors import PfstudyError
from pfstudy.launch.pool import Pool
from pfstudy.worker.ranks import Ranks, ranks_of_environment

SET = (
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
TORCHRUN = {
    "WORLD_SIZE": "4",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
STEP = {
    "SLURM_JOB_ID": "17",
    "SLURM_STEP_ID": "0",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NUM_NODES": "4",
    "SLURM_STEP_NODELIST": "gpu[003-005],big7",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}
SUBMITTED_TO_SLURM = {
    "SUBMITIT_EXECUTOR": "slurm",
    "SLURM_JOB_ID": "19",
    "SLURM_ARRAY_JOB_ID": "17",
    "SLURM_ARRAY_TASK_ID": "1",
    "SLURM_NTASKS": "6",
    "SLURM_JOB_NUM_NODES": "2",
    "SLURM_JOB_NODELIST": "gpu[003,009]",
    "SLURM_PROCID": "4",
    "SLURM_LOCALID": "1",
}
SUBMITTED_LOCALLY = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": "4711",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_LOCALID": "1",
}


@pytest.fixture(autouse=True)
def _bare() -> Iterator[None]:
    """No variables of a cluster, neither before the test nor left behind by it."""
    before = dict(os.environ)
    for name in before:
        if name in SET or name.startswith(("SLURM_", "SUBMITIT_")):
            del os.environ[name]
    yield
    os.environ.clear()
    os.environ.update(before)


def adopt(variables: Mapping[str, str]) -> dict[str, str]:
    """What stands in the environment after these variables were looked at."""
    os.environ |= variables
    cluster.adopt_cluster()
    return {name: os.environ[name] for name in SET if name in os.environ}


def without_port(found: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in found.items() if name != "MASTER_PORT"}


class TestNothing:
    @pytest.mark.parametrize(
        "variables",
        [
            pytest.param({}, id="no cluster"),
            pytest.param(STEP | {"SLURM_STEP_NUM_TASKS": "1"}, id="a step of one task"),
            pytest.param(
                {"SLURM_JOB_ID": "17", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"},
                id="the script of a job, outside of its steps",
            ),
            pytest.param(SUBMITTED_LOCALLY | {"SUBMITIT_LOCAL_NTASKS": "1"}, id="one local task"),
            pytest.param(SUBMITTED_TO_SLURM | {"SLURM_NTASKS": "1"}, id="one task of SLURM's"),
        ],
    )
    def test_is_adopted(self, variables: Mapping[str, str]) -> None:
        if "SUBMITIT_EXECUTOR" in variables:
            pytest.importorskip("submitit")
        assert adopt(variables) == {}
        assert (cluster.num_ranks(), cluster.rank()) == (1, 0)
        assert ranks_of_environment() == Ranks()


class TestTorchrun:
    @pytest.mark.parametrize(
        "besides",
        [
            pytest.param({}, id="alone"),
            pytest.param(STEP, id="inside of a step"),
            pytest.param(SUBMITTED_TO_SLURM, id="inside of a job"),
        ],
    )
    def test_what_it_has_set_stays(self, besides: Mapping[str, str]) -> None:
        assert adopt({**besides, **TORCHRUN}) == TORCHRUN
        assert (cluster.num_ranks(), cluster.rank()) == (4, 3)
        assert ranks_of_environment() == Ranks(rank=3, num_ranks=4, local_rank=1, num_local=2)


class TestSrun:
    def test_ranks(self) -> None:
        found = adopt(STEP)
        assert without_port(found) == {
            "WORLD_SIZE": "8",
            "RANK": "5",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "gpu003",
        }
        assert (cluster.num_ranks(), cluster.rank()) == (8, 5)

    def test_are_what_a_worker_takes(self) -> None:
        os.environ |= STEP
        ranks = ranks_of_environment()
        assert ranks == Ranks(rank=5, num_ranks=8, local_rank=1, num_local=2)
        assert ranks.num_nodes == 4

    def test_step_counts_and_not_the_job(self) -> None:
        part = {
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_STEP_NUM_NODES": "1",
            "SLURM_STEP_NODELIST": "gpu005",
            "SLURM_PROCID": "1",
            "SLURM_NNODES": "4",
            "SLURM_NODELIST": "gpu[003-005],big7",
        }
        found = adopt(STEP | part)
        assert (found["WORLD_SIZE"], found["LOCAL_WORLD_SIZE"]) == ("2", "2")

    def test_processes_of_one_machine_meet_there(self) -> None:
        """However that is called: its name need not be known to itself."""
        alone = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NODELIST": "gpu003"}
        assert adopt(STEP | alone)["MASTER_ADDR"] == "127.0.0.1"

    def test_machines_with_unequal_numbers_are_refused(self) -> None:
        with pytest.raises(PfstudyError, match="7 processes on 4 machines"):
            adopt(STEP | {"SLURM_STEP_NUM_TASKS": "7"})
        assert "WORLD_SIZE" not in os.environ


class TestPort:
    def test_is_the_same_for_all_processes_of_a_step(self) -> None:
        found = set()
        for rank in range(8):
            for name in SET:
                os.environ.pop(name, None)
            found.add(adopt(STEP | {"SLURM_PROCID": str(rank)})["MASTER_PORT"])
        assert len(found) == 1

    @pytest.mark.parametrize(
        "other",
        [
            pytest.param({"SLURM_JOB_ID": "18"}, id="job"),
            pytest.param({"SLURM_STEP_ID": "1"}, id="step of the job"),
        ],
    )
    def test_is_another_one_for_another(self, other: Mapping[str, str]) -> None:
        mine = adopt(STEP)["MASTER_PORT"]
        for name in SET:
            del os.environ[name]
        assert adopt(STEP | other)["MASTER_PORT"] != mine

    def test_is_none_that_the_system_gives_to_others(self) -> None:
        for job in range(200):
            for name in SET:
                os.environ.pop(name, None)
            port = int(adopt(STEP | {"SLURM_JOB_ID": str(job)})["MASTER_PORT"])
            assert 1024 < port < 32768  # the lowest of /proc/sys/net/ipv4/ip_local_port_range

    def test_given_one_stays(self) -> None:
        assert adopt(STEP | {"MASTER_PORT": "29501"})["MASTER_PORT"] == "29501"


class TestSubmitit:
    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("submitit")

    def test_job_of_an_array_on_two_machines(self) -> None:
        assert without_port(adopt(SUBMITTED_TO_SLURM)) == {
            "WORLD_SIZE": "6",
            "RANK": "4",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "3",
            "MASTER_ADDR": "gpu003",
        }

    def test_jobs_of_an_array_have_their_own_ports(self) -> None:
        mine = adopt(SUBMITTED_TO_SLURM)["MASTER_PORT"]
        for name in SET:
            del os.environ[name]
        assert adopt(SUBMITTED_TO_SLURM | {"SLURM_ARRAY_TASK_ID": "2"})["MASTER_PORT"] != mine

    def test_local_job(self) -> None:
        assert without_port(adopt(SUBMITTED_LOCALLY)) == {
            "WORLD_SIZE": "2",
            "RANK": "1",
            "LOCAL_RANK": "1",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
        }


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("gpu03,gpu04", "gpu03"),
        ("gpu[03-05]", "gpu03"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("gpu[7]", "gpu7"),
        ("gpu[5,7-9]", "gpu5"),
        ("big1,gpu[03-05]", "big1"),
        ("node-a[01-02],node-b[01-02]", "node-a01"),
        ("gpu[1-3]-ib,cpu[1-2]", "gpu1-ib"),
        ("rack[1-2]n[3-4]", "rack1n3"),
        ("first.cluster.org,second.cluster.org", "first.cluster.org"),
        ("one two", "one"),
    ],
)
def test_first_machine_of_a_list(nodes: str, first: str) -> None:
    assert cluster.first_host(nodes) == first


def test_first_machine_is_the_one_that_submitit_finds() -> None:
    slurm = pytest.importorskip("submitit.slurm.slurm")
    for nodes in ("gpu[03-05,9],cpu1", "rack[1-2]n[3-4]", "a1,b[2-3]", "gpu[1-3]-ib"):
        assert cluster.first_host(nodes) == slurm._parse_node_list(nodes)[0]


def adopt_in_child(report: Callable[[str, Mapping[str, Any]], None]) -> dict[str, Any]:
    cluster.adopt_cluster()
    return {"ranks": cluster.num_ranks(), "set": [name for name in SET if name in os.environ]}


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param(TORCHRUN, id="torchrun"),
        pytest.param(STEP, id="srun"),
        pytest.param(SUBMITTED_TO_SLURM, id="submitit"),
    ],
)
def test_children_of_a_sweep_are_no_ranks(variables: Mapping[str, str]) -> None:
    """The sweep itself was started by a cluster, as one of several tasks, say."""
    if "SUBMITIT_EXECUTOR" in variables:
        pytest.importorskip("submitit")
    os.environ |= variables
    with Pool(("pfstudy.launch.pool",)) as pool:
        found = pool.call(f"{__name__}:adopt_in_child")
    assert found == {"ranks": 1, "set": []}
