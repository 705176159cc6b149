"""Weights & Biases: runs out.

W&B is never the ledger and never a reason for a run to die: what goes wrong here is caught, said
once, and training goes on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pfstudy.errors import PfstudyError, first_line
from pfstudy.schema.config import Logger
from pfstudy.tracking.agents import leave_agent, take_agents_run
from pfstudy.tracking.reading import IDENTITY_KEY, RECORD_KEY
from pfstudy.variant import unflatten

Mode = Literal["online", "offline", "disabled"]

LOST = "wandb/lost"
"""Marks a run directory whose run W&B does not know whole."""

_INIT_TIMEOUT_S = 20
_FINISH_TIMEOUT_S = 60
_SPEED_FIGURES = ("latency_ms", "relative_latency", "throughput_images_per_s")


def choose_mode(logger: Logger) -> Mode:
    """Choose how to log, once per sweep: online if somebody is logged in, without a prompt.

    Raises:
        PfstudyError: The key in the environment is malformed, or ``logger.mode=online`` and
            nobody is logged in.
    """
    if logger.name == "none":
        return "disabled"
    asked = os.environ.get("WANDB_MODE") if logger.mode == "auto" else logger.mode
    if asked == "disabled":
        return "disabled"
    if asked == "offline":
        return "offline"
    os.environ.setdefault("WANDB_SILENT", "true")  # what it would say is not about the sweep
    import wandb

    try:
        logged_in = wandb.login(prompt=False, verify=False)
    except (wandb.errors.AuthenticationError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise PfstudyError(
            f"the W&B key is malformed ({reason}); mend WANDB_API_KEY or the login, or log "
            "offline with logger.mode=offline."
        ) from None
    if logger.mode == "online" and not logged_in:
        raise PfstudyError(
            "logger.mode=online, but nobody is logged in to W&B; run `wandb login` first or use "
            "logger.mode=offline."
        )
    return "online" if logged_in else "offline"


def start_service() -> dict[str, str]:
    """Start the process that serves all runs of a sweep.

    Returns:
        The environment by which child processes find it; empty if it could not be started, and
        then every run starts its own.
    """
    from wandb.sdk import wandb_setup

    try:
        # not wandb.setup(), which waits for itself for ever where the process dies at its start
        wandb_setup.singleton().ensure_service()
    except Exception:  # a run can do without
        return {}
    return {key: os.environ[key] for key in ("WANDB_SERVICE",) if key in os.environ}


def stop_service() -> None:
    """Stop that process; it may be gone already."""
    import wandb

    with suppress(Exception, SystemExit):  # teardown leaves with the service's exit code
        wandb.teardown()


def config_to_log(
    config: Mapping[str, Any],
    identity: Mapping[str, Any],
    label: str,
    operations: Mapping[str, Any],
) -> dict[str, Any]:
    """What W&B is told of a run besides its figures.

    Args:
        config: The whole resolved config.
        identity: Hash and canonical form of the variant, and the seed: that of the run, where the
            config has the first of several.
        label: Of the variant.
        operations: What stands at every site, by its address.
    """
    told = {key: identity[key] for key in ("hash", "seed", "canonical")}
    seed, stands = identity["seed"], unflatten(operations)
    return {**config, IDENTITY_KEY: told, "seed": seed, "label": label, "operations": stands}


def speed_to_log(measured: Mapping[str, Any]) -> dict[str, Any]:
    """The figures of a measurement of speed that the summary has."""
    return {key: measured[key] for key in _SPEED_FIGURES if key in measured}


def record_to_log(
    record: Mapping[str, Any], measured: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The figures of a record that the summary has, and the whole of it.

    Args:
        record: The record.
        measured: Measurements of the variant's speed.
    """
    counted = {key: record["cost"][key] for key in ("params", "macs")}
    whole = json.dumps({**record, "speed": list(measured)})
    return {**record["metrics"], **counted, RECORD_KEY: whole}


class Tracker:
    """One attempt at a run, as a run of W&B.

    Args:
        logger: Where to log.
        mode: As `choose_mode` said.
        directory: The run directory.
        say: Told once when tracking is lost, or goes offline.
        on_offline: Called if nothing could be reached.
    """

    def __init__(
        self,
        logger: Logger,
        mode: Mode,
        directory: Path,
        say: Callable[[str], None],
        on_offline: Callable[[], None] = lambda: None,
    ) -> None:
        self._logger = logger
        self._mode = mode
        self._directory = directory
        self._say = say
        self._on_offline = on_offline
        self._run: Any = None

    def start(
        self, run_id: str, name: str, group: str, config: Mapping[str, Any], job_type: str = "train"
    ) -> None:
        """Open the run.

        Args:
            run_id: Never used before, also not by an attempt that was killed. An agent of a W&B
                sweep has chosen another.
            name: Name for people.
            group: The study.
            config: As `config_to_log` gives it.
            job_type: What the run does.
        """
        if self._mode == "disabled":
            return
        if job_type == "train":
            take_agents_run()  # if so, wandb ignores id, project and entity
        else:
            leave_agent()  # which waits for the figures of what it asked for
        import wandb

        arguments: dict[str, Any] = {
            "id": run_id,
            "name": name,
            "group": group,
            "job_type": job_type,
            "config": dict(config),
            "project": self._logger.project,
            "entity": self._logger.entity,
            "dir": str(self._directory),
        }
        settings = wandb.Settings(
            init_timeout=_INIT_TIMEOUT_S,
            finish_timeout=_FINISH_TIMEOUT_S,  # else it waits for hours for a network that is gone
            finish_timeout_raises=True,
            silent=True,
            console="off",
            # what these would probe is the same for all runs, and stands in our records
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
            disable_git=True,
            disable_code=True,
            disable_job_creation=True,
        )
        while self._run is None:
            try:
                self._run = wandb.init(**arguments, mode=self._mode, settings=settings)
            except Exception as error:
                reason = first_line(error)
                if self._mode == "online":
                    self._say(f"W&B is not to be reached ({reason}); logging offline.")
                    self._mode = "offline"
                    self._on_offline()
                elif "WANDB_SERVICE" in os.environ:
                    _leave_service()
                else:
                    self._lose(reason)
                    return

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Add a row to the curves."""
        self._try(lambda run: run.log(dict(figures), step=step))

    def summarise(self, figures: Mapping[str, Any]) -> None:
        """Set figures of the summary."""
        self._try(lambda run: run.summary.update(dict(figures)))

    def finish(self, exit_code: int) -> None:
        """Close the run; W&B shows it as crashed unless the exit code is 0."""
        self._try(lambda run: run.finish(exit_code=exit_code))
        self._run = None

    def _try(self, call: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            call(self._run)
        except Exception as error:
            self._run = None
            self._lose(first_line(error))

    def _lose(self, reason: str) -> None:
        """Say so, to people and to `pfstudy sync`."""
        self._say(
            f"tracking is lost ({reason}); the run goes on, and `pfstudy sync` tells W&B later."
        )
        with suppress(OSError):
            (self._directory / LOST).parent.mkdir(exist_ok=True)
            (self._directory / LOST).touch()


def _leave_service() -> None:
    """Forget the shared service, which is gone; the next run of this process starts its own."""
    os.environ.pop("WANDB_SERVICE", None)
    stop_service()
