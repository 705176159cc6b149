"""The networks of *Learning Features with Parameter-Free Layers* (Han et al. 2022).

Figures, tensor names and shapes are those of the authors' code (github.com/naver-ai/PfLayer, whose
README prints the figures rounded); the forward passes below are written from the paper.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F  # noqa: N812

import pfstudy
from configs import compose
from pfstudy.errors import PfstudyError
from pfstudy.variant import make_variant

State = dict[str, torch.Tensor]
Tensors = Iterator[tuple[str, str, tuple[int, ...]]]

IMAGE_SIZE = 224
NUM_CLASSES = 1000
RESNET_DEPTHS = (3, 4, 6, 3)


@dataclass(frozen=True)
class Transformer:
    """Sizes of a ViT (one stage, no ``stride``) or a PiT."""

    head_width: int
    heads: tuple[int, ...]
    depths: tuple[int, ...]
    patch_size: int = 16
    stride: int | None = None

    @property
    def widths(self) -> tuple[int, ...]:
        return tuple(self.head_width * number for number in self.heads)


TRANSFORMERS = {
    "vit_ti_max": Transformer(64, (3,), (12,)),
    "vit_s_max": Transformer(64, (6,), (12,)),
    "vit_b_max": Transformer(64, (12,), (12,)),
    "pit_ti_max": Transformer(32, (2, 4, 8), (2, 6, 4), stride=8),
    "pit_s_max": Transformer(48, (3, 6, 12), (2, 6, 4), stride=8),
    "pit_b_max": Transformer(64, (4, 8, 16), (3, 6, 4), patch_size=14, stride=7),
}

FIGURES = {  # parameters; MACs of convolutions, linear layers and attention products at 3x224x224
    "r50": (25_557_032, 4_089_184_256),
    "r50_max": (14_232_232, 2_239_496_192),
    "r50_hybrid": (17_330_600, 2_586_312_704),
    "vit_ti_max": (6_159_400, 1_244_757_504),
    "vit_s_max": (23_819_368, 4_743_822_336),
    "vit_b_max": (93_644_008, 18_504_873_984),
    "pit_ti_max": (5_174_504, 631_512_960),
    "pit_s_max": (25_119_784, 2_813_372_640),
    "pit_b_max": (79_005_928, 12_428_636_160),
}
ONE_OF_A_FAMILY = ["r50", "r50_max", "r50_hybrid", "vit_ti_max", "pit_ti_max"]


def build(name: str) -> nn.Module:
    return pfstudy.build_network(compose(f"paper={name}", "data=synthetic"), seed=0)


@cache
def build_on_meta(name: str) -> nn.Module:
    with torch.device("meta"):
        return pfstudy.build_network(compose(f"paper={name}", "data=synthetic"))


@pytest.mark.parametrize("name", FIGURES)
def test_a_network_has_the_published_cost(name: str) -> None:
    counted = pfstudy.cost(build_on_meta(name), IMAGE_SIZE)
    assert (counted.params, counted.macs) == FIGURES[name]


def middle_of(name: str, stage: int, block: int) -> str:
    """What stands in the middle of a bottleneck, stage and block from 1."""
    if name == "r50":
        return "original"
    reduces = stage > 1 and block == 1
    return "avgpool_conv" if name == "r50_hybrid" and reduces else "maxpool"


@pytest.mark.parametrize("name", FIGURES)
def test_operations_stand_where_the_paper_has_them(name: str) -> None:
    if name in TRANSFORMERS:
        depths = TRANSFORMERS[name].depths
        expected = {
            f"stage{stage}.block{block}": "original" if block % 2 else "maxpool_mlp"
            for stage, depth in enumerate(depths, 1)
            for block in range(1, depth + 1)
        }
    else:
        expected = {
            f"stage{stage}.block{block}": middle_of(name, stage, block)
            for stage, depth in enumerate(RESNET_DEPTHS, 1)
            for block in range(1, depth + 1)
        }
    config = compose(f"paper={name}", "data=synthetic")
    assert make_variant(config, "content").operations == expected


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_norms_of_a_transformer_have_the_papers_epsilon(name: str) -> None:
    norms = [m for m in build_on_meta(name).modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * sum(TRANSFORMERS[name].depths) + 1
    assert {layer.eps for layer in norms} == {1e-6}


def norm(published: str, ours: str, width: int) -> Tensors:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{published}.{part}", f"{ours}.{part}", (width,)
    yield f"{published}.num_batches_tracked", f"{ours}.num_batches_tracked", ()


def resnet_tensors(name: str) -> Tensors:
    """Published name, our name and shape of every tensor of a network of the R50 family."""
    yield "conv1.0.weight", "conv1.weight", (64, 3, 7, 7)
    yield from norm("conv1.1", "bn1", 64)
    in_width = 64
    for stage, depth in enumerate(RESNET_DEPTHS, 1):
        width = 32 * 2**stage
        for block in range(depth):
            here = f"layer{stage}.{block}"
            yield f"{here}.reduction_block.0.weight", f"{here}.conv1.weight", (
                width, in_width, 1, 1)  # fmt: skip
            yield from norm(f"{here}.reduction_block.1", f"{here}.bn1", width)
            middle = middle_of(name, stage, block + 1)
            if middle != "maxpool":
                theirs, ours = ("conv_block", "conv2") if middle == "original" else (
                    "conv_block.1", "conv2.1")  # fmt: skip
                yield f"{here}.{theirs}.0.weight", f"{here}.{ours}.weight", (width, width, 3, 3)
                yield from norm(f"{here}.{theirs}.1", f"{here}.bn2", width)
            yield f"{here}.expansion_block.0.weight", f"{here}.conv3.weight", (
                4 * width, width, 1, 1)  # fmt: skip
            yield from norm(f"{here}.expansion_block.1", f"{here}.bn3", 4 * width)
            if block == 0:
                shortcut = f"{here}.downsample"
                yield f"{shortcut}.0.weight", f"{shortcut}.0.weight", (4 * width, in_width, 1, 1)
                yield from norm(f"{shortcut}.1", f"{shortcut}.1", 4 * width)
            in_width = 4 * width
    yield from linear("fc", "fc", in_width, NUM_CLASSES)


def linear(published: str, ours: str, in_width: int, out_width: int) -> Tensors:
    yield f"{published}.weight", f"{ours}.weight", (out_width, in_width)
    yield f"{published}.bias", f"{ours}.bias", (out_width,)


def layer_norm(name: str, width: int) -> Tensors:
    for part in ("weight", "bias"):
        yield f"{name}.{part}", f"{name}.{part}", (width,)


def block_tensors(here: str, width: int, pools: bool) -> Tensors:
    yield from layer_norm(f"{here}.norm1", width)
    ours = ("operation.expand", "operation.reduce") if pools else ("qkv", "proj")
    yield from linear(f"{here}.attn.qkv", f"{here}.attn.{ours[0]}", width, 3 * width)
    mixed = 3 * width if pools else width
    yield from linear(f"{here}.attn.proj", f"{here}.attn.{ours[1]}", mixed, width)
    yield from layer_norm(f"{here}.norm2", width)
    yield from linear(f"{here}.mlp.fc1", f"{here}.mlp.fc1", width, 4 * width)
    yield from linear(f"{here}.mlp.fc2", f"{here}.mlp.fc2", 4 * width, width)


def transformer_tensors(sizes: Transformer) -> Tensors:
    """Published name, our name and shape of every tensor of a ViT or PiT."""
    widths, patch = sizes.widths, sizes.patch_size
    side = (IMAGE_SIZE - patch) // (sizes.stride or patch) + 1
    position = (widths[0], side, side) if sizes.stride else (side * side, widths[0])
    yield "pos_embed", "pos_embed", (1, *position)
    patches = "patch_embed.conv" if sizes.stride else "patch_embed.proj"
    yield f"{patches}.weight", f"{patches}.weight", (widths[0], 3, patch, patch)
    yield f"{patches}.bias", f"{patches}.bias", (widths[0],)
    for stage, (width, depth) in enumerate(zip(widths, sizes.depths, strict=True)):
        blocks = f"transformers.{stage}.blocks" if sizes.stride else "blocks"
        for block in range(depth):
            yield from block_tensors(f"{blocks}.{block}", width, pools=block % 2 == 1)
    for index, (_, width) in enumerate(pairwise(widths)):
        pool = f"pools.{index}.conv"
        yield f"{pool}.weight", f"{pool}.weight", (width, 1, 3, 3)
        yield f"{pool}.bias", f"{pool}.bias", (width,)
    yield from layer_norm("norm", widths[-1])
    yield from linear("head", "head", widths[-1], NUM_CLASSES)


def tensors(name: str) -> list[tuple[str, str, tuple[int, ...]]]:
    if name in TRANSFORMERS:
        return list(transformer_tensors(TRANSFORMERS[name]))
    return list(resnet_tensors(name))


def published_state(name: str, seed: int = 0) -> State:
    """Random weights with the published names, by which the signal neither vanishes nor grows."""
    generator = torch.Generator().manual_seed(seed)
    state: State = {}
    for published, _, shape in tensors(name):
        if published.endswith("num_batches_tracked"):
            state[published] = torch.tensor(len(state))
            continue
        drawn = torch.empty(shape).uniform_(-1, 1, generator=generator)
        if len(shape) > 1 and published != "pos_embed":
            drawn *= (3 / drawn[0].numel()) ** 0.5
        elif published.endswith(("weight", "running_var")):
            drawn = 1 + drawn / 2
        state[published] = drawn
    return state


def zeros(name: str) -> State:
    """Tensors with the published names and shapes that take no space."""
    return {published: torch.zeros(()).expand(shape) for published, _, shape in tensors(name)}


@pytest.mark.parametrize("name", FIGURES)
def test_a_published_checkpoint_has_a_place_for_every_tensor(name: str, tmp_path: Path) -> None:
    network = build_on_meta(name)
    ours = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert ours == {name: shape for _, name, shape in tensors(name)}
    torch.save(zeros(name), tmp_path / "published.pt")
    with pytest.warns(UserWarning, match="no-op"):
        pfstudy.load_checkpoint(network, tmp_path / "published.pt")


@pytest.mark.parametrize("name", ONE_OF_A_FAMILY)
def test_a_published_checkpoint_is_loaded(name: str, tmp_path: Path) -> None:
    network = build(name)
    for seed, ending in enumerate(("pth", "safetensors")):
        state, path = published_state(name, seed), tmp_path / f"published.{ending}"
        torch.save(state, path) if ending == "pth" else save_file(state, path)
        pfstudy.load_checkpoint(network, path)
        loaded = network.state_dict()
        assert len(loaded) == len(state)
        for published, ours, _ in tensors(name):
            assert torch.equal(loaded[ours], state[published]), published


def test_a_checkpoint_of_another_network_of_the_family_is_refused(tmp_path: Path) -> None:
    torch.save(zeros("r50_max"), tmp_path / "r50_max.pth")
    with pytest.raises(PfstudyError, match=r"18 missing \(layer2\.0\.bn2\..*none left over"):
        pfstudy.load_checkpoint(build_on_meta("r50_hybrid"), tmp_path / "r50_max.pth")


def normed(x: torch.Tensor, state: State, name: str) -> torch.Tensor:
    mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])


def resnet_logits(state: State, image: torch.Tensor, name: str) -> torch.Tensor:
    """The forward pass of a network of the R50 family, on the published names."""
    x = F.conv2d(image, state["conv1.0.weight"], stride=2, padding=3)
    x = F.max_pool2d(F.relu(normed(x, state, "conv1.1")), 3, 2, 1)
    for stage, depth in enumerate(RESNET_DEPTHS, 1):
        for block in range(depth):
            here, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            y = F.conv2d(x, state[f"{here}.reduction_block.0.weight"])
            y = F.relu(normed(y, state, f"{here}.reduction_block.1"))
            if name == "r50":
                y = F.conv2d(y, state[f"{here}.conv_block.0.weight"], stride=stride, padding=1)
                y = F.relu(normed(y, state, f"{here}.conv_block.1"))
            elif name == "r50_hybrid" and stride == 2:
                y = F.avg_pool2d(y, 2, 2)
                y = F.conv2d(y, state[f"{here}.conv_block.1.0.weight"], padding=1)
                y = F.relu(normed(y, state, f"{here}.conv_block.1.1"))
            else:
                y = F.max_pool2d(y, 3, stride, 1)
            y = F.conv2d(y, state[f"{here}.expansion_block.0.weight"])
            y = normed(y, state, f"{here}.expansion_block.1")
            if block == 0:
                x = F.conv2d(x, state[f"{here}.downsample.0.weight"], stride=stride)
                x = normed(x, state, f"{here}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])


def transformer_logits(state: State, image: torch.Tensor, sizes: Transformer) -> torch.Tensor:
    """The forward pass of a ViT or PiT, on the published names."""
    patches = "patch_embed.conv" if sizes.stride else "patch_embed.proj"
    weight, bias = state[f"{patches}.weight"], state[f"{patches}.bias"]
    x_NCHW = F.conv2d(image, weight, bias, stride=sizes.stride or sizes.patch_size)
    position = state["pos_embed"]
    if not sizes.stride:
        position = position.transpose(1, 2).reshape(x_NCHW.shape)
    x_NCHW = x_NCHW + position
    for stage, (depth, num_heads) in enumerate(zip(sizes.depths, sizes.heads, strict=True)):
        if stage > 0:
            pool = f"pools.{stage - 1}.conv"
            weight, bias = state[f"{pool}.weight"], state[f"{pool}.bias"]
            x_NCHW = F.conv2d(x_NCHW, weight, bias, 2, 1, groups=x_NCHW.shape[1])
        blocks = f"transformers.{stage}.blocks" if sizes.stride else "blocks"
        side = x_NCHW.shape[2:]
        x_NLC = x_NCHW.flatten(2).transpose(1, 2)
        for block in range(depth):
            x_NLC = block_output(state, f"{blocks}.{block}", x_NLC, side, num_heads, block % 2 == 1)
        x_NCHW = x_NLC.transpose(1, 2).unflatten(2, side)
    return linear_output(state, "head", layer_normed(state, "norm", x_NLC).mean(1))


def block_output(
    state: State, here: str, x_NLC: torch.Tensor, side: torch.Size, num_heads: int, pools: bool
) -> torch.Tensor:
    y_NLC = linear_output(state, f"{here}.attn.qkv", layer_normed(state, f"{here}.norm1", x_NLC))
    if pools:
        y_NCHW = F.gelu(y_NLC).transpose(1, 2).unflatten(2, side)
        y_NLC = F.gelu(F.max_pool2d(y_NCHW, 3, 1, 1)).flatten(2).transpose(1, 2)
    else:
        heads = []
        width = x_NLC.shape[2] // num_heads
        query, key, value = y_NLC.chunk(3, 2)
        for head in range(num_heads):
            own = slice(head * width, (head + 1) * width)
            scores_NLL = query[..., own] @ key[..., own].transpose(1, 2) * width**-0.5
            heads.append(scores_NLL.softmax(2) @ value[..., own])
        y_NLC = torch.cat(heads, 2)
    x_NLC = x_NLC + linear_output(state, f"{here}.attn.proj", y_NLC)
    y_NLC = linear_output(state, f"{here}.mlp.fc1", layer_normed(state, f"{here}.norm2", x_NLC))
    return x_NLC + linear_output(state, f"{here}.mlp.fc2", F.gelu(y_NLC))


def linear_output(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def layer_normed(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)


@pytest.mark.parametrize("name", ONE_OF_A_FAMILY)
def test_logits_are_those_of_a_plain_forward_pass(name: str, tmp_path: Path) -> None:
    state, network = published_state(name, seed=1), build(name).eval()
    save_file(state, tmp_path / "published.safetensors")
    pfstudy.load_checkpoint(network, tmp_path / "published.safetensors")
    image = torch.randn(1, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        if name in TRANSFORMERS:
            expected = transformer_logits(state, image, TRANSFORMERS[name])
        else:
            expected = resnet_logits(state, image, name)
        found = network(image)
        other = network(image.flip(3))
    scale = expected.abs().max()
    assert 0.1 < scale < 1e3
    assert (found - expected).abs().max() / scale <= 1e-5
    assert (found - other).abs().max() / scale > 1e-3
