"""The typed configuration: one frozen dataclass per component, made from the composed config.

``conf/`` is the place where defaults stand, so required fields have none here; a field that is
``None`` by default is one that need not be used, and is then absent from a variant's identity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, field
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    TypeAdapter,
    ValidationError,
)
from pydantic.dataclasses import dataclass
from pydantic_core import PydanticCustomError

from pfstudy.errors import PfstudyError
from pfstudy.schema.recipe import Recipe, Trainer, Tune
from pfstudy.schema.search import Search

NormAct = Literal["auto", "keep", "drop"]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]

_FROZEN = ConfigDict(extra="forbid")


@dataclass(frozen=True, config=_FROZEN)
class SitePattern:
    """Where sites of a backbone are, as a pattern over stage and block.

    Attributes:
        layer: Path of the layer that mixes positions, with ``{stage}`` and ``{block}`` counted
            from 1 and ``{stage0}`` and ``{block0}`` from 0.
        original: The operation that the backbone has there.
        kernel_size: The kernel size that the backbone has there, or one for each stage; what an
            operation gets that is given none.
        norm_act: The norm and activation that belong to that layer, beside it in its parent, in
            the order in which they are called.
        layout: ``NCHW`` or ``NHWC`` for a feature map, ``NLC`` or ``NCL`` for tokens.
        prefix_tokens: Number of tokens in front of the grid, such as a class token.
        blocks: For each stage the number of its blocks that are sites, or a list of their numbers;
            ``None`` for all of them.
        parent: Attributes to set on the layer's parent when it is replaced; the strings
            ``{grid}`` and ``{area}`` stand for its height and width, and their product.
    """

    layer: str
    original: str
    kernel_size: PositiveInt | tuple[PositiveInt, ...]
    norm_act: tuple[str, ...] = ()
    layout: Literal["NCHW", "NHWC", "NLC", "NCL"] = "NCHW"
    prefix_tokens: NonNegativeInt = 0
    blocks: tuple[NonNegativeInt | tuple[PositiveInt, ...], ...] | None = None
    parent: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_FROZEN)
class Model:
    """A backbone, as declared in ``conf/model/NAME.yaml``.

    Attributes:
        name: The name of the declaration.
        timm: The name of the timm model.
        args: Keyword arguments of ``timm.create_model``.
        depths: Number of blocks in each stage.
        downsample: Addresses of the sites that reduce the resolution.
        sites: Where the sites are: one or more patterns.
        image_size: Height and width of the images that the backbone is made for.
        channels: Number of channels of those images.
        num_classes: Number of classes that it is made for.
    """

    name: str
    timm: str
    depths: tuple[PositiveInt, ...]
    sites: Annotated[tuple[SitePattern, ...], Field(min_length=1)]
    image_size: PositiveInt
    channels: PositiveInt
    num_classes: PositiveInt
    downsample: tuple[str, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_FROZEN)
class SiteSetting:
    """What a config asks for at one site.

    Attributes:
        address: ``stage2.block1``, both counted from 1.
        operation: Name of the operation.
        kernel_size: ``None`` for that of the replaced layer.
        norm_act: Whether the norm and activation stay: ``auto`` keeps them after a trainable
            operation and drops them after a parameter-free one.
    """

    address: str
    operation: str
    kernel_size: PositiveInt | None
    norm_act: NormAct


@dataclass(frozen=True, config=_FROZEN)
class Data:
    """A dataset and its split.

    Attributes:
        name: Name in the registry of datasets.
        image_size: Height and width of the images.
        channels: Number of channels of the images.
        num_classes: Number of classes.
        split_seed: Seed of the stratified split.
        num_validation: Number of images held out for validation; ``None`` where a folder of its
            own has them.
        num_test: Number of images held out for the test; ``None`` where a folder has them.
        num_train: Number of training images, for generated data only.
        path: File or folder of a dataset.
        crop_fraction: Share of the resized shorter side that the evaluation's crop takes.
        interpolation: How images of a folder are resized.
        mean: Mean of each channel that is subtracted, with values from 0 to 1.
        std: Standard deviation of each channel that is divided by.
        num_workers: Number of processes that read images, at most one per core; changes no result.
        download: Whether a dataset that is not there is downloaded.
        verify: Whether files must be the published ones.
        on_error: What an image that cannot be read does: ``stop`` fails the run; ``skip`` trains
            on the next image instead, leaves it out of accuracies, and counts it.
        background: What shows through transparent pixels of a folder's images.
        bit_depth: Number of bits that 16-bit images of a folder use; ``None`` for all 16.
    """

    name: str
    image_size: PositiveInt
    channels: PositiveInt
    num_classes: PositiveInt
    split_seed: int
    num_validation: PositiveInt | None = None
    num_test: PositiveInt | None = None
    num_train: PositiveInt | None = None
    path: str | None = None
    crop_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[PositiveFloat, ...] | None = None
    num_workers: NonNegativeInt | None = None
    download: bool | None = None
    verify: bool | None = None
    on_error: Literal["stop", "skip"] | None = None
    background: Literal["white", "black"] | None = None
    bit_depth: Annotated[int, Field(ge=8, le=16)] | None = None


@dataclass(frozen=True, config=_FROZEN)
class Logger:
    """Where runs are logged.

    Attributes:
        name: ``wandb`` or ``none``.
        mode: ``auto`` is online if somebody is logged in, else offline.
        project: Project of W&B.
        entity: User or team of W&B; ``None`` for the default one.
    """

    name: Literal["wandb", "none"]
    mode: Literal["auto", "online", "offline"] = "auto"
    project: str = "pfstudy"
    entity: str | None = None


@dataclass(frozen=True, config=_FROZEN)
class Speed:
    """How speed is measured.

    Attributes:
        enabled: Whether a sweep measures speed at all.
        device: ``auto`` measures where runs are trained.
        batch_size: Number of images per forward pass.
        num_threads: CPU threads of the forward pass.
        num_processes: Least number of fresh processes.
        max_processes: Number of processes after which measuring stops in any case.
        num_rounds: Most interleaved rounds over the networks in a process.
        num_warmup: Number of untimed rounds before them.
        interval_width: Measuring stops when every ratio's 95 % interval is this narrow.
        max_seconds: For how long to measure networks side by side; two processes run in any
            case, of three rounds at least.
        layout: How images and weights lie in memory: NCHW or NHWC.
        dtype: Of images and weights; ``tf32`` is float32 that GPUs may round in products.
        backend: ``eager``, ``torch.compile`` in its default mode or with ``max-autotune``, or
            ONNX Runtime.
        passes: The forward pass in evaluation mode, or forward and backward in training mode.
        cache: ``cold`` empties the last cache of the device before every pass.
        cuda_graph: Whether a pass on a GPU is replayed from a CUDA graph.
        fallback: Whether a network that the backend cannot compile is measured eagerly.
        max_load: Cores, or share of a GPU, that others may use; else the figure is marked.
    """

    enabled: bool
    device: Literal["auto", "cpu", "gpu"]
    batch_size: PositiveInt
    num_threads: PositiveInt
    num_processes: Annotated[int, Field(ge=2)]
    max_processes: PositiveInt
    num_rounds: PositiveInt
    num_warmup: NonNegativeInt
    interval_width: PositiveFloat
    max_seconds: PositiveFloat
    layout: Literal["contiguous", "channels_last"] = "contiguous"
    dtype: Literal["float32", "tf32", "bfloat16", "float16"] = "float32"
    backend: Literal["eager", "compile", "compile_max_autotune", "onnxruntime"] = "eager"
    passes: Literal["forward", "forward_backward"] = "forward"
    cache: Literal["warm", "cold"] = "warm"
    cuda_graph: bool = False
    fallback: bool = False
    max_load: PositiveFloat = 0.1


def _check_increasing(looks: tuple[int, ...]) -> tuple[int, ...]:
    if any(before >= after for before, after in pairwise(looks)):
        raise PydanticCustomError("looks", "each number of seeds must be larger than the last")
    return looks


@dataclass(frozen=True, config=_FROZEN)
class Study:
    """The study that a sweep belongs to, and the design of its variants.

    Attributes:
        name: ``None`` names it after its preset and its variants.
        preset: Name of the preset that it comes from.
        design: Which variants a sweep over `site` is made of; see `pfstudy.schema.designs`.
        num_samples: Number of variants that the design ``random`` draws.
        sample_seed: Seed of those.
        variants: Overrides of variants that are listed one by one.
        constraints: What variants must satisfy besides the baseline, such as ``sites <= 3`` or
            ``macs <= 2.5e9``; others are dropped.
        looks: Numbers of seeds at which the study is judged, strictly increasing; no part of a
            run's identity.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] | None = None
    preset: str | None = None
    design: tuple[str, ...] = ()
    num_samples: PositiveInt | None = None
    sample_seed: int = 0
    variants: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    looks: Annotated[tuple[PositiveInt, ...], AfterValidator(_check_increasing)] = ()


@dataclass(frozen=True, config=_FROZEN)
class Launcher:
    """How the runs of a sweep share one machine, and what is done when one fails.

    Attributes:
        num_workers: Number of runs at a time on the CPU; ``auto`` is the number of cores divided
            by the threads of a run.
        slots_per_gpu: Number of runs that share a GPU.
        slots: ``auto`` lets a short probe choose how many runs share a device.
        retries: How often a failed run is tried again within a sweep, unless it diverged.
        halve_batch: Whether a run that is out of memory is tried again with half the batch per
            step and twice the steps per update.
        hung_minutes: A run without any progress for this long is ended, and has failed.
        stop_seconds: What a run gets to write its checkpoint when it is asked to stop.
    """

    num_workers: PositiveInt | Literal["auto"]
    slots_per_gpu: PositiveInt
    retries: NonNegativeInt
    halve_batch: bool
    hung_minutes: PositiveFloat
    stop_seconds: PositiveFloat
    slots: Literal["auto"] | None = None


@dataclass(frozen=True, config=_FROZEN)
class Config:
    """Everything that is known about a variant before it is built.

    Attributes:
        sites: What is asked for at each site, in the order of the backbone.
        seed: First seed.
        seeds: Number of seeds, counted up from ``seed``; ``None`` for that seed alone.
        init_from: Checkpoint (safetensors or a state dict) that the network starts from.
        init_weights: Which to take from a checkpoint that has raw and averaged (EMA) weights.
        pretrained: Whether it starts from timm's weights, as far as they still have a place.
        pretrained_normalisation: ``match`` refuses timm's weights for images that are normalised
            differently from those they were trained on, ``any`` allows it. What was written before
            this key existed allows it.
        imports: The user's modules that register operations: names, or paths of files.
        runs_dir: Directory of the run directories.
        search: How to search for operations at the sites left ``original``; of a search alone.
        tune: How learning rate and weight decay are chosen for every variant.
    """

    model: Model
    sites: tuple[SiteSetting, ...]
    data: Data
    recipe: Recipe
    trainer: Trainer
    logger: Logger
    speed: Speed
    study: Study
    launcher: Launcher
    seed: NonNegativeInt
    runs_dir: Annotated[str, Field(min_length=1)]
    seeds: PositiveInt | None = None
    init_from: str | None = None
    init_weights: Literal["raw", "averaged"] = "raw"
    pretrained: bool = False
    pretrained_normalisation: Literal["match", "any"] = "any"
    imports: tuple[str, ...] = ()
    search: Search | None = None
    tune: Tune = Tune()


_CONFIG = TypeAdapter(Config)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Turn a resolved config tree into a `Config`.

    Raises:
        PfstudyError: A value has the wrong type or lies out of range, or a key is unknown or
            missing.
    """
    try:
        return _CONFIG.validate_python(tree)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(e, tree) for e in error.errors())
        raise PfstudyError("; ".join(list(sentences)[:3]) + ".") from None


def config_tree(config: Config) -> dict[str, Any]:
    """The inverse of `parse_config`: plain data, as it stands in ``config.json``."""
    return asdict(config)


def _sentence(error: Any, tree: Mapping[str, Any]) -> str:
    path = _path(error["loc"], tree, error["type"])
    if path[0] == "sites":  # as it stands in the block tree
        path = ["block", tree["sites"][int(path[1])]["address"], *path[2:]]
    place = ".".join(path)
    if error["type"] == "unexpected_keyword_argument":
        return f"{place} is no key of the configuration"
    if error["type"] == "missing":
        return f"{place} is required"
    message = error["msg"][:1].lower() + error["msg"][1:]
    return f"{place}: {message}, but got {error['input']!r}"


def _path(location: Sequence[str | int], tree: Any, kind: str) -> list[str]:
    """The keys of an error's location; pydantic puts the members of a union among them."""
    path: list[str] = []
    for part in location:
        is_key = isinstance(tree, Mapping) and part in tree
        if is_key or (isinstance(tree, list | tuple) and isinstance(part, int)):
            tree = tree[part]
        elif kind != "missing" or part != location[-1]:
            continue
        path.append(str(part))
    return path
