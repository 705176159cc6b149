"""A forward and backward pass of substituted networks against the same networks written by hand.

    python benchmarks/substituted.py

R50-max and ViT-Ti-max. The two take turns in one process, on the same images, with the same number
of parameters and equal logits (checked).
"""

from __future__ import annotations

import time

import torch
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Attention, Mlp
from torch import nn

import pfstudy
from _measuring import machine, show

NUM_ROUNDS = 25


class Bottleneck(nn.Module):
    """1x1 convolution, max-pool, 1x1 convolution, beside a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, projects: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(3, stride, 1)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module | None = None
        if projects:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NCHW = self.bn3(self.conv3(self.pool(self.relu(self.bn1(self.conv1(x_NCHW))))))
        y_NCHW += x_NCHW if self.shortcut is None else self.shortcut(x_NCHW)
        return self.relu(y_NCHW)


def r50_max() -> nn.Module:
    blocks: list[nn.Module] = []
    channels = 64
    for stage, depth in enumerate((3, 4, 6, 3)):
        for block in range(depth):
            stride = 2 if stage and not block else 1
            blocks.append(Bottleneck(channels, 64 * 2**stage, stride, projects=not block))
            channels = 256 * 2**stage
    return nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1),
        *blocks,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2048, 1000),
    )


class PoolMixer(nn.Module):
    """Linear, GELU, max-pool over the grid, GELU, linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Linear(width, 3 * width)
        self.reduce = nn.Linear(3 * width, width)
        self.gelu = nn.GELU()
        self.pool = nn.MaxPool2d(3, 1, 1)

    def forward(self, x_NLC: torch.Tensor) -> torch.Tensor:
        side = int(x_NLC.shape[1] ** 0.5)
        y_NLC = self.gelu(self.expand(x_NLC))
        y_NCHW = self.pool(y_NLC.transpose(1, 2).unflatten(2, (side, side)))
        return self.reduce(self.gelu(y_NCHW.flatten(2).transpose(1, 2)))


class TransformerBlock(nn.Module):
    """A mixer and an MLP, each behind a norm and beside a shortcut."""

    def __init__(self, width: int, mixer: nn.Module) -> None:
        super().__init__()
        self.norm1, self.mixer = nn.LayerNorm(width, eps=1e-6), mixer
        self.norm2, self.mlp = nn.LayerNorm(width, eps=1e-6), Mlp(width, 4 * width)

    def forward(self, x_NLC: torch.Tensor) -> torch.Tensor:
        x_NLC = x_NLC + self.mixer(self.norm1(x_NLC))
        return x_NLC + self.mlp(self.norm2(x_NLC))


class ViTMax(nn.Module):
    """ViT-Ti-max: a pool in the place of every second attention."""

    def __init__(self, width: int = 192, depth: int = 12, num_heads: int = 3) -> None:
        super().__init__()
        self.pos_embed = nn.Parameter(torch.zeros(1, 196, width))
        self.patch_embed = PatchEmbed(224, 16, 3, width)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(
                    width, PoolMixer(width) if b % 2 else Attention(width, num_heads, qkv_bias=True)
                )
                for b in range(depth)
            )
        )
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 1000)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        y_NLC = self.blocks(self.patch_embed(x_NCHW) + self.pos_embed)
        return self.head(self.norm(y_NLC).mean(1))


def same_weights(ours: nn.Module, by_hand: nn.Module) -> None:
    """Copy weights by position: both list them in the order of the layers, shapes included."""
    theirs = by_hand.state_dict()
    left = [(name, tensor) for name, tensor in ours.state_dict().items()]
    for name, tensor in theirs.items():
        position = next(i for i, (_, other) in enumerate(left) if other.shape == tensor.shape)
        theirs[name] = left.pop(position)[1]
    assert not left
    by_hand.load_state_dict(theirs)


def seconds(network: nn.Module, images: torch.Tensor) -> float:
    started = time.perf_counter()
    network(images).square().mean().backward()
    network.zero_grad()
    return time.perf_counter() - started


def main() -> None:
    print(machine())
    torch.set_num_threads(1)
    pairs = {"r50_max": (r50_max, (1, 8)), "vit_ti_max": (ViTMax, (1, 8))}
    for name, (write_by_hand, batch_sizes) in pairs.items():
        config = pfstudy.compose([f"paper={name}", "data=synthetic"])
        ours, by_hand = pfstudy.build_network(config, seed=0), write_by_hand()
        assert sum(p.numel() for p in ours.parameters()) == sum(
            p.numel() for p in by_hand.parameters()
        )
        same_weights(ours, by_hand)
        for batch_size in batch_sizes:
            images = torch.randn(batch_size, 3, 224, 224)
            with torch.no_grad():
                expected = by_hand.eval()(images)
                assert torch.allclose(ours.eval()(images), expected, rtol=1e-4, atol=1e-4)
            ours.train(), by_hand.train()
            found: list[float] = []
            reference: list[float] = []
            for number in range(NUM_ROUNDS + 2):
                pair = [(reference, by_hand), (found, ours)]
                for times, network in pair if number % 2 else reversed(pair):
                    times.append(seconds(network, images))
            show(f"{name}, batch {batch_size}, by hand", reference[2:], "s")
            ratios = [a / b for a, b in zip(found[2:], reference[2:], strict=True)]
            show("  substituted, ratio of pairs", ratios, "x", "1.02x")


if __name__ == "__main__":
    main()
