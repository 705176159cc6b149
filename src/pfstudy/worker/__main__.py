"""``python -m pfstudy.worker RUN_DIR`` trains one run, also under srun or torchrun."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from pfstudy import files, ledger, store
from pfstudy.environment import describe_environment
from pfstudy.errors import PfstudyError
from pfstudy.schema.config import parse_config
from pfstudy.tasks import Task
from pfstudy.tracking import choose_mode
from pfstudy.worker.progress import print_report
from pfstudy.worker.run import train_run


def main() -> None:
    """Train it; a user's mistake is one sentence and exit code 2."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if len(sys.argv) != 2:
            raise PfstudyError("give one run directory: python -m pfstudy.worker RUN_DIR.")
        how = train_run(make_task(Path(sys.argv[1])), print_report)
        print(how)
    except PfstudyError as error:
        print(f"pfstudy: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("pfstudy: interrupted; the same command goes on.", file=sys.stderr)
        sys.exit(130)


def make_task(directory: Path) -> Task:
    """Make the task of a run directory that no sweep has made.

    Raises:
        PfstudyError: The directory holds no config, or the W&B key is malformed.
    """
    config = parse_config(files.read_json(directory / store.CONFIG)["config"])
    return Task(
        directory,
        study=config.study.name or directory.parent.name,
        mode=choose_mode(config.logger),
        environment=describe_environment(),
        accumulation=ledger.last_accumulation(directory, config.trainer.accumulation),
    )


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
