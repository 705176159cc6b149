"""The typed settings of a search: by gradients, or by evaluating a supernet's paths."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveInt
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Operations = Annotated[tuple[str, ...], Field(min_length=2)]

_FROZEN = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_FROZEN)
class Differentiable:
    """Search by gradients: every site is a mixture over the operations (Liu et al. 2019).

    Attributes:
        method: Tells this search from others.
        preset: Name of the preset, for people.
        operations: What may stand at a site.
        epochs: Number of passes over the images that weights are trained on.
        sharing: Who shares architecture parameters: no sites, those of a stage, or all.
        relaxation: ``softmax``, or ``gumbel``: a softmax of parameters with Gumbel noise (Jang et
            al. 2017), drawn anew at every step.
        order: Gradients of the architecture parameters: 1 takes weights for constants, 2 looks a
            step of theirs ahead.
        arch_share: Share of the training images that architecture parameters are trained on; the
            weights are trained on the others.
        arch_lr: Learning rate of Adam on architecture parameters.
        arch_weight_decay: L2 penalty on them.
        warmup_epochs: Number of first epochs in which weights alone are trained.
        entropy_weight: What the mean entropy, as a share of the largest, counts in the loss of the
            architecture: from minus this behind the warm-up (be undecided) to plus this at the
            end (decide).
        temperature: Of the softmax, at the start.
        final_temperature: Of the softmax, at the end; in between it falls exponentially.
        latency: Most time as a share of the unsubstituted backbone's; ``None`` for any.
        latency_weight: What a share of time beyond that counts in the loss of the architecture.
        patience: The search ends when what is chosen has stayed for so many epochs behind the
            warm-up (Liang et al. 2019); ``None`` for never.
        collapse_operations: Operations that searches are known to collapse to.
        collapse_share: The search ends when these have more than this share of the probability, on
            average over the sites, and what an epoch before had is found (after Liang et al. 2019).
        name: Of the search and of what is found; ``None`` makes one of its settings.
    """

    method: Literal["differentiable"]
    preset: str
    operations: Operations
    epochs: PositiveInt
    sharing: Literal["individual", "stage", "unified"]
    relaxation: Literal["softmax", "gumbel"]
    order: Literal[1, 2]
    arch_share: Share
    arch_lr: Positive
    arch_weight_decay: NonNegative
    warmup_epochs: NonNegativeInt
    entropy_weight: NonNegative
    temperature: Positive
    final_temperature: Positive
    latency_weight: NonNegative
    collapse_operations: tuple[str, ...]
    collapse_share: Annotated[float, Field(gt=0, le=1)]
    latency: Positive | None = None
    patience: PositiveInt | None = None
    name: Name | None = None


@dataclass(frozen=True, config=_FROZEN)
class OneShot:
    """Search by evaluation: paths of a supernet with shared weights (Guo et al. 2020).

    Attributes:
        method: Tells this search from others.
        preset: Name of the preset, for people.
        operations: What may stand at a site.
        epochs: Number of passes over the training images; every batch goes through one path,
            drawn uniformly.
        sampler: How paths are proposed: ``evolution`` (regularised, Real et al. 2019),
            ``random``, or a sampler of Optuna's.
        num_evaluations: Number of paths that are evaluated on the validation split.
        population: Number of members of the evolution.
        tournament: Number of members of which the best is mutated.
        recalibration_batches: Number of training batches that a path's batch norms see anew before
            it is evaluated.
        latency: Most time as a share of the unsubstituted backbone's; ``None`` for any.
        name: Of the search and of what is found; ``None`` makes one of its settings.
    """

    method: Literal["one_shot"]
    preset: str
    operations: Operations
    epochs: PositiveInt
    sampler: str
    num_evaluations: PositiveInt
    population: PositiveInt
    tournament: PositiveInt
    recalibration_batches: PositiveInt
    latency: Positive | None = None
    name: Name | None = None


Search = Annotated[Differentiable | OneShot, Field(discriminator="method")]
