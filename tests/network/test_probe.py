from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune

from pfstudy.errors import PfstudyError
from pfstudy.network.probe import BATCH, forward_on_meta, probe


class Tokens(nn.Module):
    """Takes further arguments, as an attention does."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x_NLC: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x_NLC * self.scale


class Network(nn.Module):
    """A convolution, then tokens that are given whatever is asked for; one layer is not called."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__()
        self.arguments, self.named = arguments, named
        self.conv = nn.Conv2d(2, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.tokens = Tokens()
        self.dropout = nn.Dropout()
        self.unused = nn.Linear(4, 4)

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        x_NLC = self.norm(self.conv(x_NCHW)).flatten(2).transpose(1, 2)
        return self.dropout(self.tokens(x_NLC, *self.arguments, **self.named))


def hooks(network: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules())


def test_shapes_are_seen_on_the_meta_device() -> None:
    seen = probe(Network(), (2, 8, 6), ["conv", "tokens"])
    found = {path: (tuple(s.x.shape), tuple(s.out.shape), s.extra) for path, s in seen.items()}
    assert found == {
        "conv": ((BATCH, 2, 8, 6), (BATCH, 4, 4, 3), ()),
        "tokens": ((BATCH, 12, 4), (BATCH, 12, 4), ()),
    }
    assert {s.x.device.type for s in seen.values()} == {"meta"}


def test_what_one_layer_puts_out_is_what_the_next_one_takes() -> None:
    seen = probe(Network(), (2, 8, 6), ["conv", "norm"])
    assert seen["norm"].x is seen["conv"].out


def test_what_comes_into_the_parent_of_a_layer_is_seen() -> None:
    network = nn.Sequential(nn.Conv2d(2, 3, 3, stride=2), nn.Sequential(nn.Flatten(2), nn.ReLU()))
    seen = probe(network, (2, 9, 9), ["0", "1.1"])
    around = {path: tuple(s.around.shape) for path, s in seen.items() if s.around is not None}
    assert around == {"0": (BATCH, 2, 9, 9), "1.1": (BATCH, 3, 4, 4)}
    assert seen["1.1"].x.shape == (BATCH, 3, 16)


def test_a_layer_that_is_never_called_is_not_seen() -> None:
    assert probe(Network(), (2, 8, 6), ["unused"]) == {}


@pytest.mark.parametrize(
    ("arguments", "named", "extra"),
    [
        pytest.param((None,), {"mask": None, "causal": False}, (), id="nothing in them"),
        pytest.param((), {"mask": torch.ones(1)}, ("mask",), id="a mask"),
        pytest.param((), {"causal": True}, (), id="a flag"),
        pytest.param((torch.ones(1), None), {}, ("args",), id="a position"),
        pytest.param((torch.ones(2),), {"bias": [torch.ones(1)]}, ("bias", "args"), id="both"),
        pytest.param((4, 3), {"size": (4, 3), "offset": 1}, (), id="numbers"),
    ],
)
def test_further_arguments_are_named(
    arguments: tuple[Any, ...], named: dict[str, Any], extra: tuple[str, ...]
) -> None:
    seen = probe(Network(*arguments, **named), (2, 8, 6), ["tokens"])
    assert seen["tokens"].extra == extra


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_left_as_it_was_found(training: bool) -> None:
    network = Network().train(training)
    network.norm.train(not training)
    modes = [module.training for module in network.modules()]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    probe(network, (2, 8, 6), ["conv", "tokens"])
    assert hooks(network) == 0
    assert [module.training for module in network.modules()] == modes
    after = network.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_a_network_is_left_as_it_was_found_when_it_cannot_run() -> None:
    network = Network().train()
    with pytest.raises(RuntimeError):
        probe(network, (3, 8, 6), ["conv", "tokens"])
    assert hooks(network) == 0
    assert all(module.training for module in network.modules())


def test_the_generator_is_left_alone() -> None:
    network = Network().train()
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    probe(network, (2, 8, 6), ["tokens"])
    assert torch.equal(torch.rand(3), expected)


def test_images_have_the_dtype_of_the_weights() -> None:
    seen = probe(Network().to(torch.bfloat16), (2, 8, 6), ["conv"])
    assert (seen["conv"].x.dtype, seen["conv"].out.dtype) == (torch.bfloat16, torch.bfloat16)


def test_tensors_made_in_the_forward_pass_are_on_the_meta_device_as_well() -> None:
    class Positions(nn.Module):
        def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
            return x_NCHW + torch.arange(x_NCHW.shape[3])

    seen = probe(nn.Sequential(Positions()), (2, 8, 6), ["0"])
    assert seen["0"].out.device.type == "meta"


def test_only_the_forward_pass_is_watched() -> None:
    network, events = Network(), []
    network.register_forward_hook(lambda *_: events.append("forward"))

    @contextmanager
    def watch() -> Iterator[None]:
        events.append("from")
        yield
        events.append("to")

    forward_on_meta(network, (1, 2, 8, 6), watch())
    assert events == ["from", "forward", "to"]


class Branch(nn.Module):
    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.shared = shared

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        return x_NCHW + self.shared(x_NCHW)


class Sharing(nn.Module):
    """One module at three paths, a tied weight, a buffer that counts, and what passes leave."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.Dropout())
        self.first, self.second = Branch(self.shared), Branch(self.shared)
        self.into, self.out = nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.out.weight = self.into.weight
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("nothing", None)
        self.into.requires_grad_(False)
        self.last: torch.Tensor | None = None
        self.kept: dict[str, torch.Tensor] = {}
        self.seen: list[torch.Tensor] = []
        self.number = 0

    def forward(self, x_NCHW: torch.Tensor) -> torch.Tensor:
        self.num_calls += 1
        self.number += 1
        if self.last is None:
            self.last = torch.ones(8, device=x_NCHW.device)
        self.kept.setdefault("ones", torch.ones(8, device=x_NCHW.device))
        self.seen.append(x_NCHW)
        x_NCHW = self.second(self.first(x_NCHW))
        return self.out(self.into(x_NCHW)) * self.last * self.kept["ones"]


def state_of(network: nn.Module) -> dict[str, Any]:
    """Everything that a pass could change, tensors by identity, version and content."""
    named = [*network.named_parameters(remove_duplicate=False), *network.named_buffers()]
    return {
        "tensors": [(name, id(t), t._version, t.requires_grad, t.tolist()) for name, t in named],
        "types": [type(t) for _, t in named],
        "grads": [p.grad for p in network.parameters()],
        "training": [module.training for module in network.modules()],
        "hooks": hooks(network),
        "attributes": [sorted(vars(module)) for module in network.modules()],
    }


@pytest.mark.parametrize("training", [True, False])
def test_a_pass_harms_nothing(training: bool) -> None:
    network = Sharing().train(training)
    network.shared[1].eval()
    network.register_forward_pre_hook(lambda *_: None)
    torch.manual_seed(0)
    before, generator = state_of(network), torch.get_rng_state()
    forward_on_meta(network, (1, 2, 8, 8))
    assert state_of(network) == before
    assert torch.equal(torch.get_rng_state(), generator)
    assert (network.last, network.kept, network.seen, network.number) == (None, {}, [], 0)
    assert network.out.weight is network.into.weight
    assert network.first.shared is network.shared
    out = network.eval()(torch.randn(1, 2, 8, 8))
    assert out.device.type == "cpu"
    assert out.isfinite().all()


def test_a_pass_that_fails_harms_nothing() -> None:
    network = Sharing()
    before = state_of(network)
    with pytest.raises(RuntimeError):
        forward_on_meta(network, (1, 3, 8, 8))
    assert state_of(network) == before
    assert (network.last, network.kept, network.seen, network.number) == (None, {}, [], 0)


def test_the_evaluation_mode_of_the_user_is_not_entered() -> None:
    class Merging(nn.Conv2d):
        """As adapters do that add themselves to the weights when they are evaluated."""

        def train(self, mode: bool = True) -> Merging:
            with torch.no_grad():
                self.weight.mul_(2)
            return super().train(mode)

    network = nn.Sequential(Merging(2, 2, 1))
    before = state_of(network)
    forward_on_meta(network, (1, 2, 4, 4))
    assert state_of(network) == before


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda layer: nn.utils.parametrizations.weight_norm(layer), id="weight norm"),
        pytest.param(lambda layer: nn.utils.parametrizations.spectral_norm(layer), id="spectral"),
        pytest.param(lambda layer: prune.l1_unstructured(layer, "weight", 0.5), id="pruned"),
    ],
)
def test_weights_that_are_computed_stay(change: Any) -> None:
    network = nn.Sequential(change(nn.Conv2d(2, 2, 1))).eval()
    weight = network[0].weight.detach().clone()
    before = state_of(network.train())
    forward_on_meta(network, (1, 2, 4, 4))
    assert state_of(network) == before
    assert network.eval()[0].weight.device.type == "cpu"
    assert torch.allclose(network[0].weight, weight, atol=1e-5)


def test_timms_network_of_shared_modules_is_unharmed() -> None:
    network = timm.create_model("coat_lite_tiny", img_size=64).train()
    shared = network.serial_blocks1[0].cpe
    before = state_of(network)
    forward_on_meta(network, (1, 3, 64, 64))
    assert state_of(network) == before
    assert network.cpe1 is shared
    assert network.serial_blocks1[1].cpe is shared
    with torch.no_grad():
        assert network.eval()(torch.randn(1, 3, 64, 64)).isfinite().all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
def test_a_scripted_network_is_unharmed() -> None:
    network = torch.jit.script(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)).train())
    before = [tensor.clone() for tensor in network.state_dict().values()]
    forward_on_meta(network, (1, 2, 4, 4))
    assert all(map(torch.equal, network.state_dict().values(), before))
    assert network.training
    assert network(torch.randn(1, 2, 4, 4)).isfinite().all()


def test_lazy_layers_are_refused_and_stay_lazy() -> None:
    network = nn.Sequential(nn.LazyConv2d(4, 3))
    with pytest.raises(PfstudyError) as caught:
        forward_on_meta(network, (1, 2, 8, 8))
    assert str(caught.value) == (
        "the network's 0.weight has no shape yet; run the network once on an image."
    )
    assert type(network[0]) is nn.LazyConv2d
    assert network(torch.randn(1, 2, 8, 8)).shape == (1, 4, 6, 6)
