"""The tuning phase of a sweep: what is tried of every variant, and what is chosen by that."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from pfstudy import files, inventory, ledger, store
from pfstudy.launch.display import Display
from pfstudy.launch.training import RunTrainer
from pfstudy.record import VALIDATION_TOP1
from pfstudy.tuning import TUNED, TUNING, choose, make_trials, read_tuned
from pfstudy.variant import Variant
from pfstudy.words import counted


def list_trials(variant: Variant) -> list[store.Run]:
    """List the runs by which a variant is tuned, in the order of their pairs.

    Some may be one and the same; there are none where the variant is not tuned, or was before.

    Raises:
        PfstudyError: What was chosen before is damaged.
    """
    tune = variant.config.tune
    if tune.trials is None or read_tuned(store.variant_directory(variant)) is not None:
        return []
    return [store.make_run(trial, tune.seed) for trial in make_trials(variant)]


def tune_variants(
    variants: Iterable[Variant], study: str, display: Display, trainer: RunTrainer
) -> None:
    """Try every variant that is to be tuned, and write beside its runs what was chosen.

    The trials are runs in a study and a directory of their own, which do not touch the test images:
    what is done is not trained again, and what was interrupted is resumed. Where all trials of a
    variant failed, nothing is written, its runs fail, and the same command tries again.

    Args:
        variants: The variants; others than those to be tuned are left alone.
        study: Name of their study.
        display: Told of what was chosen.
        trainer: Trains the trials.

    Raises:
        PfstudyError: There are not as many devices, or a file is damaged or cannot be written.
    """
    trials = [(variant, tried) for variant in variants if (tried := list_trials(variant))]
    if not trials:
        return
    root = Path(trials[0][0].config.runs_dir, TUNING)
    runs = list({run.directory: run for _, tried in trials for run in tried}.values())
    todo = [run for run in runs if ledger.state_of(run.directory) != "done"]
    numbers = sorted({len(tried) for _, tried in trials})
    display.phase(
        "tune",
        f"{counted(len(trials), 'variant')} x {' or '.join(map(str, numbers))} trials, "
        f"{len(runs) - len(todo)} done before; pfstudy status {root} shows them",
    )
    for run in todo:
        store.prepare(run)
    store.add_to_study(root, f"{study}-{TUNING}", runs)
    if todo:
        names = inventory.name_runs([inventory.describe_run(run) for run in runs])
        trainer.train(todo, names, f"{study}-{TUNING}")
    for variant, tried in trials:
        display.note(f"{variant.label}: {_choose(variant, tried)}")


def _choose(variant: Variant, trials: Sequence[store.Run]) -> str:
    """Write what is chosen for a variant, once, and say it."""
    recipe, tune = variant.config.recipe, variant.config.tune
    undecided = [run for run in trials if _may_do_better(run)]
    if undecided:
        return (
            f"{len(undecided)} of its {len(trials)} trials failed, but have not diverged, so "
            "nothing is chosen; the same command tries them again"
        )
    accuracies = [_accuracy(run) for run in trials]
    root = Path(variant.config.runs_dir)
    runs = [str(run.directory.relative_to(root)) for run in trials]
    chosen = choose(recipe, tune, accuracies, runs)
    if chosen is None:
        return f"all of its {len(trials)} trials failed"
    path = store.variant_directory(variant) / TUNED
    files.write_json(path, chosen, durable=True, once=True)
    chosen = read_tuned(path.parent) or chosen  # another sweep may have been first
    failed = f", {chosen['failed']} failed" if chosen["failed"] else ""
    return (
        f"lr={chosen['lr']:g}, weight_decay={chosen['weight_decay']:g} has "
        f"{max(a for a in chosen['val_top1_percent'] if a is not None):.2f} % on validation"
        f"{failed}"
    )


def _may_do_better(run: store.Run) -> bool:
    """Whether a trial is not done for a reason that is not its learning rate or weight decay."""
    status = ledger.read_status(run.directory)
    return status.state != "done" and status.written.get("kind") != "diverged"


def _accuracy(run: store.Run) -> float | None:
    """Top-1 accuracy of a trial on the validation split, in percent; ``None`` if it diverged.

    Raises:
        PfstudyError: Its record is damaged.
    """
    record = next(store.read_records([run.directory]), None)
    return float(record["metrics"][VALIDATION_TOP1]) if record else None
