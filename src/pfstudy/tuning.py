"""Learning rate and weight decay of every variant, chosen among as many pairs for each.

A recipe that was tuned for the backbone favours it. With ``tune.trials=8`` every variant is trained
with the same eight pairs, and the one with the best validation accuracy is taken: the same budget
for all (Dodge et al. 2019, "Show Your Work").

The pairs are drawn before anything is trained: the recipe's own, then a scrambled Sobol sequence,
which fills the plane more evenly than random numbers do (Bergstra and Bengio 2012). So
the trials of a sweep can all run at the same time, the comparison is paired, and nothing that was
found of one variant helps another. A sampler that learns would not do better: Optuna's TPE draws
its first ten trials at random.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pfstudy.canonical import compact, recipe_form
from pfstudy.errors import PfstudyError
from pfstudy.files import read_json
from pfstudy.schema.config import Config
from pfstudy.schema.recipe import Recipe, Tune
from pfstudy.variant import Variant

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

TUNED = "tuned.json"
"""In a variant's directory: what was tried, and chosen."""

TUNING = "tuning"
"""Below the run directories: those of the trials."""

JOB_TYPE = "tune"
"""What W&B calls trials, which are in no table of a project."""

_CHOSEN = ("lr", "weight_decay")
_DIGITS = 3


@dataclass(frozen=True)
class Point:
    """What a trial is trained with.

    Attributes:
        lr: Largest learning rate.
        weight_decay: Weight decay.
    """

    lr: float
    weight_decay: float


def check_tuning(config: Config) -> None:
    """Check that pairs can be tried, if that is asked for.

    Raises:
        PfstudyError: Optuna is not installed, all pairs would be the recipe's own, or runs would be
            taken for trials.
    """
    tune, trials = config.tune, config.tune.trials
    root = Path(config.runs_dir).absolute()
    if root.name == TUNING and not any(root.glob(f"studies/*-{TUNING}.json")):
        raise PfstudyError(
            f"runs_dir={config.runs_dir} is the name of a directory of tuning trials, which are "
            "not tested; choose another."
        )
    if trials is None:
        return
    if find_spec("optuna") is None:
        raise PfstudyError(f"tune.trials={trials} needs Optuna: pip install 'pfstudy[search]'.")
    if tune.epochs is not None and tune.epochs < config.recipe.warmup_epochs:
        raise PfstudyError(
            f"tune.epochs is {tune.epochs}, but the warm-up alone takes "
            f"{config.recipe.warmup_epochs:g}; give trials more epochs."
        )
    if trials > 1 and all(low == high for low, high in _bounds(config.recipe, tune).values()):
        raise PfstudyError(
            f"tune.trials={trials} has nothing to choose from, as tune.lr_factor and "
            "tune.weight_decay_factor (which leaves a weight decay of 0 as it is) allow the "
            "recipe's values alone; raise tune.lr_factor."
        )


def draw_points(recipe: Recipe, tune: Tune) -> tuple[Point, ...]:
    r"""Draw the pairs that are tried, the same for every variant.

    The first is the recipe's own. The others are log-uniform in
    :math:`[v / f, v \cdot f]` around the recipe's value :math:`v` with its factor :math:`f`, of
    which three digits are kept, so that they can be typed; a weight decay of 0 stays 0. More trials
    begin with the same pairs.

    Args:
        recipe: Around which.
        tune: How many, how far away, and the seed.
    """
    return _draw(Point(recipe.lr, recipe.weight_decay), tune.trials or 0, tune)


@cache
def _draw(own: Point, number: int, tune: Tune) -> tuple[Point, ...]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():  # Optuna 4 calls the sampler experimental
        warnings.simplefilter("ignore")
        sampler = optuna.samplers.QMCSampler(scramble=True, seed=tune.seed)
        study = optuna.create_study(direction="maximize", sampler=sampler)
        space = _space(own, tune)
        study.enqueue_trial(vars(own))
        trials = [study.ask(space)]
        study.tell(trials[0], 0.0)  # the sequence begins behind a trial that has ended
        trials += [study.ask(space) for _ in range(number - 1)]
    bounds = _bounds(own, tune)
    others = (Point(**_rounded(trial.params, bounds)) for trial in trials[1:])
    return (own, *others)[:number]


def _rounded(
    values: Mapping[str, float], bounds: Mapping[str, tuple[float, float]]
) -> dict[str, float]:
    """Keep so few digits that a value can be typed, within the bounds."""
    found = {}
    for key, value in values.items():
        low, high = bounds[key]
        found[key] = min(max(float(f"{value:.{_DIGITS}g}"), low), high)
    return found


def _bounds(own: Recipe | Point, tune: Tune) -> dict[str, tuple[float, float]]:
    lr, decay = tune.lr_factor, tune.weight_decay_factor
    return {
        "lr": (own.lr / lr, own.lr * lr),
        "weight_decay": (own.weight_decay / decay, own.weight_decay * decay),
    }


def _space(own: Recipe | Point, tune: Tune) -> dict[str, BaseDistribution]:
    from optuna.distributions import FloatDistribution

    return {
        key: FloatDistribution(low, high, log=low > 0)
        for key, (low, high) in _bounds(own, tune).items()
    }


def make_trials(variant: Variant) -> tuple[Variant, ...]:
    """Make of a variant that is tuned those that are tried, one for every pair.

    Each is a variant by itself, with its run directory below `TUNING`; it keeps no weights, its
    speed is not measured, and it is not tested.
    """
    points = draw_points(variant.config.recipe, variant.config.tune)
    return tuple(_make_trial(variant, point) for point in points)


def _make_trial(variant: Variant, point: Point) -> Variant:
    config, tune = variant.config, variant.config.tune
    changed = {**vars(point), "epochs": tune.epochs or config.recipe.epochs}
    canonical = {key: value for key, value in variant.canonical.items() if key != "tune"}
    recipe = replace(config.recipe, **changed)
    canonical["recipe"] = compact(recipe_form(recipe))
    tried = replace(
        config,
        recipe=recipe,
        tune=Tune(),
        seed=tune.seed,
        seeds=None,
        runs_dir=str(Path(config.runs_dir, TUNING)),
        speed=replace(config.speed, enabled=False),
        trainer=replace(config.trainer, keep=()),
    )
    return replace(variant, config=tried, canonical=canonical)


def is_trial(directory: Path) -> bool:
    """Whether a run directory is that of a trial, by where it lies."""
    return directory.parent.parent.name == TUNING


def is_trials(study: str | None) -> bool:
    """Whether a study is that of trials, by its name."""
    return study is not None and study.endswith(f"-{TUNING}")


def choose(
    recipe: Recipe, tune: Tune, accuracies: Sequence[float | None], runs: Sequence[str]
) -> dict[str, Any] | None:
    """Choose the pair with the best validation accuracy, the earliest of those that tie.

    Args:
        recipe: Around which pairs were drawn.
        tune: How.
        accuracies: Top-1 accuracy on the validation split of every trial, in percent; ``None`` of
            one that failed, because it diverged for example.
        runs: Directories of the trials.

    Returns:
        What ``tuned.json`` says; ``None`` if all trials failed.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    states, points = optuna.trial.TrialState, draw_points(recipe, tune)
    study = optuna.create_study(direction="maximize")
    for point, accuracy in zip(points, accuracies, strict=True):
        study.enqueue_trial(vars(point))
        trial = study.ask(_space(recipe, tune))
        study.tell(trial, accuracy, state=states.FAIL if accuracy is None else states.COMPLETE)
    failed = sum(accuracy is None for accuracy in accuracies)
    if failed == len(accuracies):
        return None
    return {
        "trials": len(points),
        "failed": failed,
        "epochs": tune.epochs or recipe.epochs,
        "lr_factor": tune.lr_factor,
        "weight_decay_factor": tune.weight_decay_factor,
        "seed": tune.seed,
        **{key: study.best_trial.params[key] for key in _CHOSEN},
        "tried": {key: [vars(point)[key] for point in points] for key in _CHOSEN},
        "val_top1_percent": list(accuracies),
        "runs": list(runs),
        "optuna": optuna.__version__,
    }


def read_tuned(variant_directory: Path) -> dict[str, Any] | None:
    """Read what was chosen for a variant, if it was.

    Raises:
        PfstudyError: The file is damaged.
    """
    path = variant_directory / TUNED
    tuned = read_json(path, missing_ok=True)
    if not tuned:
        return None
    for key in _CHOSEN:
        if not isinstance(tuned.get(key), float | int):
            raise PfstudyError(f"{path} is damaged: it has no {key}.")
    return tuned


def with_chosen(variant: Variant, variant_directory: Path) -> Variant:
    """Give a variant that is tuned the values that were chosen; its identity stays.

    Raises:
        PfstudyError: None were, because it was not trained by a sweep, or all trials failed.
    """
    config = variant.config
    if config.tune.trials is None:
        return variant
    tuned = read_tuned(variant_directory)
    if tuned is None:
        trials = variant_directory.parent / TUNING
        raise PfstudyError(
            f"{variant.label} has no learning rate and weight decay yet: none of its "
            f"{config.tune.trials} trials is done; see pfstudy status {trials}, and give the "
            "command of its sweep, which tries them."
        )
    recipe = replace(config.recipe, **{key: tuned[key] for key in _CHOSEN})
    return replace(variant, config=replace(config, recipe=recipe))
