"""A SLURM of one machine: the commands that submitit gives, as far as it gives them.

A batch script is run at once, in the background, with the variables that SLURM sets. What is
submitted, its state and its processes stand in files beside the commands.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

COMMANDS = ("sbatch", "srun", "sacct", "scontrol")
HOLDS = "holds"
"""File that makes jobs wait for ever."""
REFUSES = "refuses"
"""File with what ``sbatch`` says instead of taking a job."""

KILL_WAIT_S = 5.0


def install(directory: Path) -> Path:
    """Make the commands in a directory, which is to be put on PATH."""
    directory.mkdir(parents=True)
    for name in COMMANDS:
        path = directory / name
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        path.chmod(0o755)
    return directory


def variables(directory: Path) -> dict[str, str]:
    """Variables of a command that is to find them."""
    path = f"{directory}{os.pathsep}{os.environ['PATH']}"
    return {"PATH": path, "PRETENDED_SLURM": str(directory)}


def tasks(directory: Path, job: str) -> list[int]:
    """Process ids of the tasks of a job that is running."""
    path = directory / f"tasks-{job}"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def preempt(directory: Path, job: str) -> None:
    """Announce to a job that it is preempted, as a cluster with send_user_signal does."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        for process in tasks(directory, job):
            os.kill(process, number)
        time.sleep(0.2)


def read_options(script: Path) -> dict[str, str]:
    """The ``#SBATCH`` lines of a script; those without a value have an empty one."""
    found = re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", script.read_text(), re.MULTILINE)
    return {name: value.strip("'\"") for name, value in found}


def _home() -> Path:
    return Path(os.environ["PRETENDED_SLURM"])


def _sbatch(script: str) -> int:
    home = _home()
    if (home / REFUSES).exists():
        print((home / REFUSES).read_text(), file=sys.stderr)
        return 1
    job = 4000 + 100 * len(list(home.glob("*.sh")))
    kept = home / f"{job}.sh"
    kept.write_text(Path(script).read_text())
    first, last = (read_options(kept).get("array", "") + "-").split("%")[0].split("-")[:2]
    members = [f"{job}_{k}" for k in range(int(first), int(last) + 1)] if first else [str(job)]
    for member in members:
        (home / f"state-{member}").write_text("PENDING")
        if not (home / HOLDS).exists():
            subprocess.Popen(
                [sys.executable, __file__, "batch", str(kept), member],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=(home / "errors").open("a"),
                start_new_session=True,
            )
    print(f"Submitted batch job {job}")
    return 0


def _batch(script: str, member: str) -> int:
    home, options = _home(), read_options(Path(script))
    job, _, index = member.partition("_")
    nodes, per_node = int(options["nodes"]), int(options["ntasks-per-node"])
    own = {
        "SLURM_JOB_ID": str(int(job) + 1 + int(index or 0)),
        "SLURM_NTASKS": str(nodes * per_node),
        "SLURM_JOB_NUM_NODES": str(nodes),
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_CPUS_PER_TASK": options["cpus-per-task"],
        **dict.fromkeys(("SLURM_NODEID", "SLURM_PROCID", "SLURM_LOCALID"), "0"),
        "PRETENDED_MEMBER": member,
    }
    if index:
        own |= {"SLURM_ARRAY_JOB_ID": job, "SLURM_ARRAY_TASK_ID": index}
    else:
        own["SLURM_JOB_ID"] = job
    while True:
        (home / f"state-{member}").write_text("RUNNING")
        code = subprocess.run(["bash", script], env={**os.environ, **own}, check=False).returncode
        if not (home / f"requeue-{member}").exists():
            break
        while (home / f"killing-{member}").exists():
            time.sleep(0.1)
        (home / f"requeue-{member}").unlink()
    (home / f"state-{member}").write_text("FAILED" if code else "COMPLETED")
    return code


def _srun(*arguments: str) -> int:
    home, member = _home(), os.environ["PRETENDED_MEMBER"]
    files = {}
    rest = list(arguments)
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option != "--unbuffered":
            files[option] = rest.pop(0)
    number = os.environ["SLURM_NTASKS"]
    step = {
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": number,
        "SLURM_STEP_NUM_NODES": os.environ["SLURM_JOB_NUM_NODES"],
        "SLURM_STEP_NODELIST": os.environ["SLURM_JOB_NODELIST"],
    }
    (home / f"srun-{member}").write_text("\n".join(f"{k}={v}" for k, v in os.environ.items()))
    started = []
    for rank in range(int(number)):
        own = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)}
        out, err = (Path(_fill(files[name], rank)) for name in ("--output", "--error"))
        out.parent.mkdir(parents=True, exist_ok=True)
        started.append(
            subprocess.Popen(
                rest,
                env={**os.environ, **step, **own},
                stdout=out.open("a"),
                stderr=err.open("a"),
            )
        )
    (home / f"tasks-{member}").write_text(" ".join(str(task.pid) for task in started))
    codes = [task.wait() for task in started]
    (home / f"tasks-{member}").unlink()
    return max(map(abs, codes))


def _fill(pattern: str, rank: int) -> str:
    job, _, index = os.environ["PRETENDED_MEMBER"].partition("_")
    for sign, value in (("%A", job), ("%a", index), ("%j", job), ("%t", str(rank))):
        pattern = pattern.replace(sign, value)
    return pattern


def _sacct(*_: str) -> int:
    print("JobID|State|NodeList")
    for path in _home().glob("state-*"):
        print(f"{path.name.removeprefix('state-')}|{path.read_text()}|localhost")
    return 0


def _scontrol(verb: str, member: str) -> int:
    """Begin a job again: its tasks are asked to end, and what is left after a while is killed."""
    assert verb == "requeue"
    home = _home()
    (home / f"killing-{member}").touch()
    (home / f"requeue-{member}").touch()
    for process in tasks(home, member):
        os.kill(process, signal.SIGCONT)
        os.kill(process, signal.SIGTERM)
    outside = {key: value for key, value in os.environ.items() if key != "SLURM_STEP_ID"}
    subprocess.Popen(
        [sys.executable, __file__, "kill", member], env=outside, start_new_session=True
    )
    return 0


def _kill(member: str) -> int:
    deadline = time.monotonic() + KILL_WAIT_S
    while _processes(member) and time.monotonic() < deadline:
        time.sleep(0.1)
    for process in _processes(member):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    (_home() / f"killing-{member}").unlink()
    return 0


def _processes(member: str) -> list[int]:
    """The tasks of a job, and whatever they have started."""
    wanted = {b"SLURM_STEP_ID=0", f"PRETENDED_MEMBER={member}".encode()}
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue
    return found


if __name__ == "__main__":
    functions = {
        **{"sbatch": _sbatch, "srun": _srun, "sacct": _sacct, "scontrol": _scontrol},
        **{"batch": _batch, "kill": _kill},
    }
    sys.exit(functions[sys.argv[1]](*sys.argv[2:]))
