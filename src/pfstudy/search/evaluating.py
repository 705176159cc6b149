"""Evaluates paths of a supernet with shared weights: what a sampler proposes, or given ones."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from pfstudy import searches, store
from pfstudy.data.order import Share
from pfstudy.network.checkpoint import load_checkpoint
from pfstudy.schema.search import OneShot
from pfstudy.search.drawing import Limits
from pfstudy.search.samplers import make_sampler
from pfstudy.searches import Asked, By, Evaluation
from pfstudy.space import Choice
from pfstudy.supernet.network import build_supernet
from pfstudy.supernet.one_shot import evaluate_path
from pfstudy.worker.progress import Report
from pfstudy.worker.trainer import choose_device, derive_seeds, open_loaders

Evaluate = Callable[[Choice], float]


@contextmanager
def opened(directory: Path, asked: Asked) -> Iterator[Evaluate]:
    """Open the supernet of a search that has trained it.

    Args:
        directory: That of the search.
        asked: What it was asked for.

    Yields:
        Gives the accuracy of a path on the validation split, in percent.
    """
    config, search = asked.space.config, asked.space.search
    assert isinstance(search, OneShot)
    torch.set_num_threads(config.trainer.num_threads)
    device = choose_device(config)
    supernet = build_supernet(asked.space, derive_seeds(config.seed)["init"], mixes=False)
    load_checkpoint(supernet, str(directory / store.WEIGHTS))
    supernet.to(device)
    with open_loaders(config, config.seed, Share(), device) as loaders:
        calibration = list(itertools.islice(loaders.train, search.recalibration_batches))

        def evaluate(choice: Choice) -> float:
            return evaluate_path(
                supernet, choice, calibration, loaders.validation, config.data.num_classes
            )

        yield evaluate


def evaluate_proposed(
    directory: Path, asked: Asked, limits: Limits, report: Report
) -> list[Evaluation]:
    """Evaluate what a sampler proposes, on from where it was before.

    The sampler is told again what it has proposed before, and is then as it was.

    Args:
        directory: That of the search.
        asked: What it was asked for.
        limits: What may be proposed.
        report: Told how far it is.
    """
    search = asked.space.search
    assert isinstance(search, OneShot)
    sampler = make_sampler(
        search.sampler,
        limits,
        population=search.population,
        tournament=search.tournament,
        seed=asked.space.config.seed,
    )
    done = searches.read_evaluations(directory, asked.space)
    known = {each.choice: each.val_top1_percent for each in done}
    found = [each for each in done if each.by == "search"]
    for each in found:
        sampler.ask()
        sampler.tell(each.choice, each.val_top1_percent)
    if len(found) == search.num_evaluations:
        return found
    with opened(directory, asked) as evaluate:
        while len(found) < search.num_evaluations:
            started = time.perf_counter()
            choice = sampler.ask()
            if choice not in known:
                known[choice] = evaluate(choice)
            sampler.tell(choice, known[choice])
            seconds = time.perf_counter() - started
            found.append(Evaluation(choice, known[choice], "search", seconds))
            done.append(found[-1])
            searches.write_evaluations(directory, asked.space, done)
            report("step", {"completed": len(found), "total": search.num_evaluations})
    return found


def evaluate_given(
    directory: Path, choices: Sequence[Choice], report: Report
) -> dict[Choice, float]:
    """Evaluate networks with the shared weights of a search; what was evaluated is not again.

    Args:
        directory: That of the search, which has ended.
        choices: The networks.
        report: Told how far it is.

    Returns:
        Accuracy on the validation split in percent, by network.
    """
    asked = searches.read_asked(directory)
    done = searches.read_evaluations(directory, asked.space)
    known = {each.choice: each.val_top1_percent for each in done}
    left = [choice for choice in dict.fromkeys(choices) if choice not in known]
    by: By = "report"
    if left:
        with opened(directory, asked) as evaluate:
            for number, choice in enumerate(left, 1):
                known[choice] = evaluate(choice)
                done.append(Evaluation(choice, known[choice], by))
                searches.write_evaluations(directory, asked.space, done)
                report("step", {"completed": number, "total": len(left)})
    return {choice: known[choice] for choice in choices}
