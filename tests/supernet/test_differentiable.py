from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.func import functional_call
from torch.nn import functional

from pfstudy.errors import DivergedError
from pfstudy.schema.config import Config
from pfstudy.schema.search import Differentiable
from pfstudy.space import make_space
from pfstudy.supernet.architecture import Architecture
from pfstudy.supernet.differentiable import DifferentiableSearch
from pfstudy.supernet.network import build_supernet

Make = Callable[..., Config]
Batch = tuple[torch.Tensor, torch.Tensor]

TIMES = ((0.3, 0.1), (0.3, 0.1), (0.3, 0.1), (0.3, 0.1))
TINY = ("model=resnet_digits", "model.args.channels=[2,2]", "model.args.stem_channels=2")


def make_module(make_config: Make, *overrides: str) -> DifferentiableSearch:
    config = make_config(
        *TINY, "search=darts", "search.operations=[conv,avgpool]", "recipe.lr=0.1", *overrides
    )
    space, search = make_space(config), config.search
    assert isinstance(search, Differentiable)
    supernet = build_supernet(space, 0, mixes=True)
    torch.manual_seed(0)
    architecture = Architecture(len(space.groups), 2, space.group_of, TIMES, rest=-0.2)
    with torch.no_grad():
        architecture.alpha_GK.normal_()
        for parameter in supernet.parameters():
            if not parameter.any():
                parameter.fill_(0.3)
    recipe = replace(config.recipe, epochs=search.epochs)
    return DifferentiableSearch(supernet, architecture, recipe, search, 10, 5)


def batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(16, 1, 8, 8, generator=generator)
    return images, torch.randint(10, (16,), generator=generator)


def at_epoch(module: DifferentiableSearch, epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DifferentiableSearch, "current_epoch", epoch)


class TestGradient:
    def test_of_first_order_is_that_of_the_loss(
        self, make_config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = make_module(make_config, "search.entropy_weight=0").double()
        at_epoch(module, 20, monkeypatch)
        alpha = module.architecture.alpha_GK
        images, labels = batch(2)
        gradient = module._gradient(batch(1), (images.double(), labels), None)

        def loss() -> float:
            module._mix()
            return float(module._loss((images.double(), labels)))

        with torch.no_grad():
            alpha[1, 0] += 1e-5
            above = loss()
            alpha[1, 0] -= 2e-5
            below = loss()
        assert float(gradient[1, 0]) == pytest.approx((above - below) / 2e-5, rel=1e-3)

    def test_of_second_order_is_the_exact_one(
        self, make_config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An independent reference: through a step of SGD, differentiated by autograd."""
        extra = ("search.order=2", "search.entropy_weight=0", "recipe.weight_decay=1e-3")
        module = make_module(make_config, *extra).double()
        at_epoch(module, 20, monkeypatch)
        for_weights, for_architecture = (
            (images.double(), labels) for images, labels in (batch(1), batch(2))
        )
        optimizer = torch.optim.SGD(module.weights, lr=0.1, weight_decay=1e-3)
        before = [weight.detach().clone() for weight in module.weights]
        monkeypatch.setattr("pfstudy.supernet.differentiable._PERTURBATION", 1e-6)  # no ReLU's kink
        found = module._gradient(for_weights, for_architecture, optimizer)
        for weight, kept in zip(module.weights, before, strict=True):
            assert torch.equal(weight, kept)

        weights = dict(module.supernet.named_parameters())
        buffers = dict(module.supernet.named_buffers())

        def loss(tensors: dict[str, torch.Tensor], of: Batch) -> torch.Tensor:
            module._mix()
            logits = functional_call(module.supernet, {**tensors, **buffers}, (of[0],))
            return functional.cross_entropy(logits, of[1], label_smoothing=0.1)

        inner = torch.autograd.grad(
            loss(weights, for_weights), list(weights.values()), create_graph=True
        )
        ahead = {
            name: weight - 0.1 * (gradient + 1e-3 * weight)
            for (name, weight), gradient in zip(weights.items(), inner, strict=True)
        }
        alpha = module.architecture.alpha_GK
        (exact,) = torch.autograd.grad(loss(ahead, for_architecture), alpha)
        (first,) = torch.autograd.grad(loss(weights, for_architecture), alpha)
        torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-6)
        assert not torch.allclose(first, exact, rtol=0.05)  # so the test can tell them apart

    def test_of_the_time_pulls_to_what_is_fast(
        self, make_config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        over = ("search.latency=0.3", "search.latency_weight=1000", "search.entropy_weight=0")
        module = make_module(make_config, *over)
        at_epoch(module, 20, monkeypatch)
        gradient = module._gradient(batch(1), batch(2), None)
        assert (gradient[:, 0] > 0).all()  # away from the slow one
        within = make_module(make_config, "search.latency=2", *over[1:])
        free = make_module(make_config, *over[2:])
        torch.testing.assert_close(
            within._gradient(batch(1), batch(2), None), free._gradient(batch(1), batch(2), None)
        )


class TestArchitecture:
    def test_noise_is_gumbels(self) -> None:
        architecture = Architecture(20_000, 3, [0])
        with torch.no_grad():
            architecture.alpha_GK.copy_(torch.tensor([1.0, 0.0, -1.0]).expand(20_000, 3))
        torch.manual_seed(0)
        chosen = (architecture.alpha_GK + architecture.draw_noise()).argmax(1)
        shares = torch.bincount(chosen, minlength=3) / len(chosen)
        expected = torch.tensor([1.0, 0.0, -1.0]).softmax(0)  # the Gumbel-max trick
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)

    def test_entropy_is_a_share(self) -> None:
        architecture = Architecture(2, 4, [0, 1])
        with torch.no_grad():
            architecture.alpha_GK.zero_()
        undecided = architecture.log_probabilities(1.0)
        assert float(architecture.entropy(undecided).detach()) == pytest.approx(1.0)
        with torch.no_grad():
            architecture.alpha_GK[:, 0] = 50
        assert float(architecture.entropy(architecture.log_probabilities(1.0)).detach()) < 1e-6

    def test_expected_time_of_shared_parameters(self) -> None:
        architecture = Architecture(1, 2, [0, 0], ((0.2, 0.1), (0.4, 0.3)), rest=0.3)
        with torch.no_grad():
            architecture.alpha_GK.zero_()
        time = architecture.expected_time(architecture.log_probabilities(1.0))
        assert time is not None
        assert float(time.detach()) == pytest.approx(0.3 + 0.15 + 0.35)

    def test_a_low_temperature_decides(self) -> None:
        architecture = Architecture(1, 2, [0])
        with torch.no_grad():
            architecture.alpha_GK.copy_(torch.tensor([[0.2, 0.0]]))
        warm, cold = (architecture.log_probabilities(t).exp()[0, 0] for t in (5.0, 0.01))
        assert float(warm.detach()) < 0.52
        assert float(cold.detach()) > 0.99


class TestSchedule:
    @pytest.mark.parametrize(("epoch", "expected"), [(0, 5.0), (8, 5.0), (39, 0.5)])
    def test_temperature_falls_behind_the_warm_up(
        self, epoch: int, expected: float, make_config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        settings: Any = ("search.temperature=5", "search.final_temperature=0.5")
        module = make_module(make_config, *settings, "search.epochs=40", "search.warmup_epochs=8")
        at_epoch(module, epoch, monkeypatch)
        assert module.temperature == pytest.approx(expected)

    def test_entropy_is_wanted_first_and_not_at_the_end(
        self, make_config: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        module = make_module(make_config, "search.entropy_weight=100")
        signs = []
        for epoch in (8, 39):
            at_epoch(module, epoch, monkeypatch)
            gradient = module._gradient(batch(1), batch(2), None)
            p = module.architecture.log_probabilities(1.0).exp().detach()
            likelier = p.argmax(1, keepdim=True)
            signs.append(gradient.gather(1, likelier).sign())
        assert (signs[0] > 0).all()  # a step makes what is likelier less so
        assert (signs[1] < 0).all()


def test_nan_is_one_sentence(make_config: Make) -> None:
    module = make_module(make_config)
    module.check_architecture(3)
    with torch.no_grad():
        module.architecture.alpha_GK[0, 0] = float("nan")
    with pytest.raises(DivergedError, match=r"became NaN or infinite in epoch 3; lower search"):
        module.check_architecture(3)
