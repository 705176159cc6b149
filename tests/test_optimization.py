from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler
from torch import nn

from configs import plain_recipe
from pfstudy.errors import PfstudyError
from pfstudy.optimization import check_optimization, lr_share, make_optimizer, make_schedule
from pfstudy.schema.recipe import Recipe

RECIPE = plain_recipe(epochs=20)


def make_network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 7))


def shares(recipe: Recipe, steps_per_epoch: int = 1) -> list[float]:
    number = recipe.epochs * steps_per_epoch
    return [lr_share(recipe, step, steps_per_epoch) for step in range(number + 1)]


class TestShare:
    def test_cosine_without_warmup_is_that_of_torch(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
        reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20, eta_min=0.2)
        for share in shares(replace(RECIPE, lr=1.0, min_lr=0.2)):
            assert share == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
            optimizer.step()
            reference.step()

    def test_cosine_behind_a_warmup_from_a_rate_is_that_of_timm(self) -> None:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        reference = CosineLRScheduler(
            optimizer, 15, lr_min=1e-3, warmup_t=5, warmup_lr_init=1e-2, warmup_prefix=True
        )
        recipe = replace(RECIPE, warmup_epochs=5, warmup_lr=1e-2, min_lr=1e-3)
        for step, share in enumerate(shares(recipe)[:-1]):
            reference.step(step)
            assert 0.1 * share == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)

    def test_warmup_rises_evenly_to_the_peak(self) -> None:
        found = shares(replace(RECIPE, warmup_epochs=4))[:5]
        np.testing.assert_allclose(found, [0.2, 0.4, 0.6, 0.8, 1.0])

    def test_cosine_falls_after_the_peak_to_zero(self) -> None:
        found = shares(replace(RECIPE, warmup_epochs=4))[4:]
        assert all(a > b for a, b in itertools.pairwise(found))
        assert found[-1] == 0

    def test_linear_falls_evenly(self) -> None:
        found = shares(replace(RECIPE, epochs=4, schedule="linear"))
        np.testing.assert_allclose(found, [1, 0.75, 0.5, 0.25, 0])

    def test_step_counts_epochs_from_the_start(self) -> None:
        recipe = replace(RECIPE, epochs=3, schedule="step", step_epochs=1, warmup_epochs=0.5)
        found = shares(recipe, steps_per_epoch=2)
        np.testing.assert_allclose(found[:-1], [0.5, 1, 0.1, 0.1, 0.01, 0.01])

    def test_constant_stays(self) -> None:
        assert set(shares(replace(RECIPE, schedule="constant"))) == {1.0}


class TestOptimizer:
    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            pytest.param("sgd", "SGD", id="sgd"),
            pytest.param("adamw", "AdamW", id="adamw"),
            pytest.param("lamb", "Lamb", id="lamb"),
        ],
    )
    def test_is_the_one_asked_for(self, name: str, kind: str) -> None:
        optimizer = make_optimizer(make_network(), replace(RECIPE, optimizer=name))
        assert type(optimizer).__name__ == kind
        assert {group["lr"] for group in optimizer.param_groups} == {0.1}
        assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-3}

    def test_those_of_torch_are_fused(self) -> None:
        assert make_optimizer(make_network(), RECIPE).defaults["fused"]

    def test_weights_may_come_to_their_first_step_late(self) -> None:
        """As those of the paths of a supernet do."""
        networks = [nn.ModuleList([nn.Linear(3, 2), nn.Linear(3, 2)]) for _ in range(2)]
        networks[1].load_state_dict(networks[0].state_dict())
        ours = make_optimizer(networks[0], RECIPE)
        plain = torch.optim.SGD(
            networks[1].parameters(), 0.1, momentum=0.9, weight_decay=1e-3, nesterov=True
        )
        for path in (0, 1, 0, 1):
            for network, optimizer in zip(networks, (ours, plain), strict=True):
                optimizer.zero_grad()
                network[path](torch.ones(4, 3)).square().sum().backward()
                optimizer.step()
        for one, other in zip(*(network.parameters() for network in networks), strict=True):
            torch.testing.assert_close(one, other)

    def test_norms_and_biases_need_not_be_decayed(self) -> None:
        network = make_network()
        optimizer = make_optimizer(network, replace(RECIPE, decay_all=False))
        decayed = [
            parameter
            for group in optimizer.param_groups
            if group["weight_decay"]
            for parameter in group["params"]
        ]
        assert {id(parameter) for parameter in decayed} == {
            id(network[0].weight),
            id(network[3].weight),
        }

    def test_takes_decay_rates_and_epsilon(self) -> None:
        recipe = replace(RECIPE, optimizer="adamw", betas=(0.8, 0.95), epsilon=1e-5)
        (group,) = make_optimizer(make_network(), recipe).param_groups
        assert (group["betas"], group["eps"]) == ((0.8, 0.95), 1e-5)

    def test_rate_grows_with_the_batch(self) -> None:
        recipe = replace(RECIPE, batch_size=512, lr_batch_size=256)
        (group,) = make_optimizer(make_network(), recipe).param_groups
        assert group["lr"] == 0.2

    def test_without_momentum_is_plain_sgd(self) -> None:
        (group,) = make_optimizer(make_network(), replace(RECIPE, momentum=0)).param_groups
        assert (group["momentum"], group["nesterov"]) == (0, False)

    def test_the_schedule_changes_every_group(self) -> None:
        recipe = replace(RECIPE, decay_all=False, epochs=4, schedule="linear")
        optimizer = make_optimizer(make_network(), recipe)
        schedule = make_schedule(optimizer, recipe, steps_per_epoch=1)
        optimizer.step()
        schedule.step()
        np.testing.assert_allclose([g["lr"] for g in optimizer.param_groups], [0.075, 0.075])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param(
            {"optimizer": "adamww"}, r"optimizer 'adamww'.*Did you mean 'adamw'", id="unknown"
        ),
        pytest.param(
            {"schedule": "step"}, r"recipe\.schedule=step needs recipe\.step_epochs", id="step"
        ),
        pytest.param(
            {"optimizer": "fusedadam"}, r"recipe\.optimizer=fusedadam cannot be used", id="GPU"
        ),
        pytest.param({"optimizer": "adahessian"}, r"adahessian cannot be used", id="second order"),
        pytest.param({"min_lr": 0.2}, r"recipe\.min_lr is 0\.2, above .* 0\.1\.", id="min_lr"),
    ],
)
def test_what_cannot_be_is_said(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(PfstudyError, match=sentence):
        check_optimization(replace(RECIPE, **changes))
