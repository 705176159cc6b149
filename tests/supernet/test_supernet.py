from collections.abc import Callable
from typing import Any

import pytest
import torch

from pfstudy.network.surgery import build_network, image_shape
from pfstudy.schema.config import Config
from pfstudy.space import Choice, Space, make_space
from pfstudy.supernet.mixture import Mixture
from pfstudy.supernet.network import batch_norms, build_supernet

Make = Callable[..., Config]

CASES = {
    "bottlenecks": ("model=resnet_digits", "[conv,dilated_conv,dwconv,maxpool,identity]"),
    "basic blocks": ("model=resnet20", "[original,dwconv,avgpool]"),
    "norm with its activation": ("model=mobilenet_digits", "[dwconv,maxpool,shift]"),
    "tokens": ("model=vit_digits", "[original,maxpool_mlp,avgpool,identity]"),
    "a window of its own": ("block.kernel_size=5", "[conv,dwconv,avgpool]"),
}


@pytest.fixture(params=CASES)
def space(request: pytest.FixtureRequest, make_config: Make) -> Space:
    override, operations = CASES[request.param]
    data = ["data=synthetic"] if "resnet20" in override else []
    arguments = [override, *data, "search=evolution", f"search.operations={operations}"]
    return make_space(make_config(*arguments))


def images_of(space: Space) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(4, *image_shape(space.config.data), generator=generator)


def opened(network: torch.nn.Module) -> Any:
    """Open what is closed at the start, such as the norm at the end of a residual branch."""
    with torch.no_grad():
        for parameter in network.parameters():
            if not parameter.any():
                parameter.fill_(0.3)
    return network


def some_choices(space: Space) -> list[Choice]:
    number = len(space.operations)
    shifted = tuple(index % number for index in range(len(space.sites)))
    return [(k,) * len(space.sites) for k in range(number)] + [shifted]


class TestPath:
    def test_is_the_network_that_is_trained(self, space: Space) -> None:
        supernet = opened(build_supernet(space, 3, mixes=False))
        images = images_of(space)
        for training in (False, True):  # which changes the running statistics
            for choice in some_choices(space):
                network = opened(build_network(space.place(choice), 3))
                supernet.take(choice)
                ours, theirs = supernet.train(training)(images), network.train(training)(images)
                torch.testing.assert_close(ours, theirs)

    def test_what_is_found_keeps_the_norm(self, space: Space) -> None:
        for site in space.place((1,) * len(space.sites)).sites:
            assert site.norm_act == "keep"


class TestMixture:
    def test_of_one_operation_is_that(self, space: Space) -> None:
        supernet = opened(build_supernet(space, 3, mixes=False))
        images = images_of(space)
        for choice in some_choices(space):
            supernet.take(choice)
            alone = supernet.eval()(images)
            supernet.mix([torch.eye(len(space.operations))[k] for k in choice])
            torch.testing.assert_close(supernet(images), alone)

    def test_is_the_weighted_sum(self) -> None:
        mixture = Mixture([torch.nn.Identity(), torch.nn.Flatten(0, 0)], [0, 1, 0])
        mixture.weights_K = torch.tensor([0.2, 0.5, 0.3])
        x = torch.randn(2, 3)
        torch.testing.assert_close(mixture(x), x)

    def test_every_weight_gets_a_gradient(self, space: Space) -> None:
        supernet = opened(build_supernet(space, 3, mixes=True))
        number = len(space.operations)
        weights = torch.full((len(space.sites), number), 1 / number, requires_grad=True)
        supernet.mix(weights.unbind())
        supernet(images_of(space)).square().sum().backward()
        assert weights.grad is not None
        assert (weights.grad != 0).all()
        missing = [name for name, p in supernet.named_parameters() if p.grad is None]
        assert not missing

    def test_candidates_share_no_weights(self, space: Space) -> None:
        supernet = build_supernet(space, 3, mixes=True)
        places = [p.data_ptr() for p in supernet.parameters()]
        assert len(places) == len(set(places))

    def test_scales_are_comparable(self, make_config: Make) -> None:
        """Tokens have no norm of their own, and attention begins with tiny weights."""
        operations = "search.operations=[original,maxpool]"
        space = make_space(make_config("model=vit_digits", "search=darts", operations))
        supernet = build_supernet(space, 0, mixes=True).train()
        found: dict[int, list[float]] = {0: [], 1: []}
        for mixture in supernet.modules():
            if isinstance(mixture, Mixture):
                for index, candidate in enumerate(mixture.candidates):
                    candidate.register_forward_hook(
                        lambda _, __, y, index=index: found[index].append(float(y.detach().std()))
                    )
        supernet.mix([torch.full((2,), 0.5)] * len(space.sites))
        supernet(images_of(space))
        assert all(0.8 < scale < 1.2 for scales in found.values() for scale in scales)


def test_batch_norms_of_a_network_without_any(make_config: Make) -> None:
    space = make_space(make_config("model=vit_digits", "search=evolution"))
    assert not list(batch_norms(build_supernet(space, 0, mixes=False)))
    mixed = build_supernet(space, 0, mixes=True)
    assert len(list(batch_norms(mixed))) == len(space.sites) * len(space.operations)
