"""The typed settings of training: recipe, augmentation, trainer, tuning."""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, PositiveFloat, PositiveInt
from pydantic.dataclasses import dataclass

Fraction = Annotated[float, Field(ge=0, lt=1)]
Probability = Annotated[float, Field(ge=0, le=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Factor = Annotated[float, Field(ge=1, allow_inf_nan=False)]

_FROZEN = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_FROZEN)
class Augmentation:
    """What is done at random to training images; what is ``None`` is not done.

    Attributes:
        flip: Whether half of the images are mirrored; ``None`` mirrors those of folders alone.
        translate: Images that lie on the device are shifted by up to so many pixels in each
            direction; what comes in is mirrored at the border.
        cutout: Side of a square of pixels that is blanked in images that lie on the device
            (DeVries and Taylor 2017).
        crop_scale: Least and greatest share of an image file's area that is cropped and resized;
            ``None`` is 0.08 to 1 (Szegedy et al. 2015).
        train_image_size: Height and width of training images of folders; ``None`` for
            ``data.image_size``.
        random_augment: RandAugment of image files, as timm names it: ``rand-m9-mstd0.5-inc1``.
        color_jitter: Strength of changes of brightness, contrast and saturation of image files.
        random_erasing: Probability with which a rectangle becomes noise (Zhong et al. 2020).
        mixup: Both parameters of the beta distribution of Mixup (Zhang et al. 2018).
        cutmix: Those of CutMix (Yun et al. 2019); with Mixup, each step does one of them.
        mixup_probability: Share of the steps that do.
        repeats: How often an image stands in a batch, each time augmented anew (Hoffer et al.
            2020); an epoch then sees so many times fewer images.
    """

    flip: bool | None = None
    translate: PositiveInt | None = None
    cutout: PositiveInt | None = None
    crop_scale: tuple[PositiveFloat, PositiveFloat] | None = None
    train_image_size: PositiveInt | None = None
    random_augment: str | None = None
    color_jitter: PositiveFloat | None = None
    random_erasing: Probability | None = None
    mixup: PositiveFloat | None = None
    cutmix: PositiveFloat | None = None
    mixup_probability: Probability = 1.0
    repeats: PositiveInt = 1

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, two by two."""
        return bool(self.mixup or self.cutmix)


@dataclass(frozen=True, config=_FROZEN)
class Recipe:
    """How a network is trained.

    Attributes:
        name: Name of the preset, for people.
        epochs: Number of passes over the training split.
        batch_size: Number of images per step over all devices (the effective batch).
        lr: Largest learning rate.
        momentum: Momentum of the optimizer, where it has one.
        weight_decay: L2 penalty; decoupled where the optimizer decouples it.
        schedule: ``cosine`` (linear warm-up, then half a cosine to 0), ``one_cycle`` (Smith and
            Topin 2018, as in torch), ``linear`` (to 0), ``step`` or ``constant``.
        warmup_epochs: Length of the warm-up, or of the rising part of the cycle.
        label_smoothing: Share of the target spread over all classes.
        lr_batch_size: ``lr`` is for so many images per step, and grows in proportion with
            ``batch_size`` (Goyal et al. 2017); ``None`` takes it as it is.
        optimizer: As timm names it, such as ``sgd`` (with Nesterov momentum), ``adamw``, ``lamb``.
        betas: Decay rates of the moments, of optimizers of Adam's kind.
        epsilon: What is added to the denominator of their step.
        decay_all: Whether norms and biases are decayed, too.
        step_epochs: Number of epochs between two steps of the schedule ``step``.
        step_factor: What each of them multiplies the learning rate with.
        min_lr: Where the schedules ``cosine`` and ``linear`` end.
        warmup_lr: Where the warm-up begins; ``None`` for one step's share of it.
        clip_norm: Largest norm of the gradient.
        ema_decay: Evaluates an exponential moving average of weights and buffers.
        loss: ``cross_entropy``, or ``binary_cross_entropy`` over the classes (Wightman et al.
            2021).
        drop_path: Largest probability of leaving a block's branch out (Huang et al. 2016).
        sync_batch_norm: Whether batch norms see the batches of all devices.
        teacher: Network to learn from: a run directory, or ``timm:NAME`` with its weights.
        distillation: ``soft`` (Hinton et al. 2015), or ``hard`` (Touvron et al. 2021).
        distillation_weight: Share of the teacher in the loss.
        distillation_temperature: What logits are divided by in soft distillation.
        augmentation: What is done at random to training images.
    """

    name: str
    epochs: PositiveInt
    batch_size: PositiveInt
    lr: PositiveFloat
    momentum: Fraction
    weight_decay: NonNegativeFloat
    schedule: Literal["cosine", "one_cycle", "linear", "step", "constant"]
    warmup_epochs: NonNegativeFloat
    label_smoothing: Fraction = 0.0
    lr_batch_size: PositiveInt | None = None
    optimizer: str = "sgd"
    betas: tuple[Fraction, Fraction] | None = None
    epsilon: PositiveFloat | None = None
    decay_all: bool = True
    step_epochs: PositiveInt | None = None
    step_factor: PositiveFloat = 0.1
    min_lr: NonNegativeFloat = 0.0
    warmup_lr: NonNegativeFloat | None = None
    clip_norm: PositiveFloat | None = None
    ema_decay: Fraction | None = None
    loss: Literal["cross_entropy", "binary_cross_entropy"] = "cross_entropy"
    drop_path: Fraction = 0.0
    sync_batch_norm: bool = False
    teacher: str | None = None
    distillation: Literal["soft", "hard"] = "soft"
    distillation_weight: Probability = 0.5
    distillation_temperature: PositiveFloat = 1.0
    augmentation: Augmentation = field(default_factory=Augmentation)

    @property
    def scaled_lr(self) -> float:
        """Largest learning rate for the batch size that is set."""
        return self.lr * self.batch_size / (self.lr_batch_size or self.batch_size)


@dataclass(frozen=True, config=_FROZEN)
class Trainer:
    """Where and in which precision a run is trained.

    Attributes:
        accelerator: ``auto`` takes a GPU if there is one.
        devices: Number of devices that train one run together; ``auto`` for all GPUs.
        num_nodes: Number of machines that do; more than one under srun or torchrun only.
        precision: As Lightning names it.
        num_threads: CPU threads of each device's process.
        checkpoint_minutes: A checkpoint to go on from is written that often.
        keep: The weights that a finished run keeps.
        accumulation: Number of steps by which the gradient of a batch is accumulated.
        channels_last: Whether images and weights lie in memory as NHWC.
        compile: Mode of ``torch.compile``; ``reduce-overhead`` replays CUDA graphs.
    """

    accelerator: Literal["auto", "cpu", "gpu"]
    devices: PositiveInt | Literal["auto"]
    num_nodes: PositiveInt
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    num_threads: PositiveInt
    checkpoint_minutes: PositiveFloat
    keep: tuple[Literal["last", "best"], ...]
    accumulation: PositiveInt = 1
    channels_last: bool = False
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = None


@dataclass(frozen=True, config=_FROZEN)
class Tune:
    """How learning rate and weight decay are chosen for every variant, each at the same cost.

    Attributes:
        trials: Number of pairs that are tried, the recipe's own first; ``None`` takes that.
        epochs: Number of epochs of a trial; ``None`` for those of the recipe.
        lr_factor: Learning rates are drawn from the recipe's divided by this to it times this.
        weight_decay_factor: The same of the weight decay; one of 0 stays 0.
        seed: Seed of the points, which are the same for every variant, and of the trials' runs.
    """

    trials: PositiveInt | None = None
    epochs: PositiveInt | None = None
    lr_factor: Factor = 4.0
    weight_decay_factor: Factor = 4.0
    seed: NonNegativeInt = 0
