"""The LightningModule that trains weights and architecture by turns, on images of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional

from pfstudy.data.order import Batch
from pfstudy.errors import DivergedError
from pfstudy.module import Classifier
from pfstudy.schema.recipe import Recipe
from pfstudy.schema.search import Differentiable
from pfstudy.supernet.architecture import Architecture
from pfstudy.supernet.network import Supernet

_PERTURBATION = 0.01


class DifferentiableSearch(Classifier):
    r"""Bilevel search (Liu et al. 2019, Algorithm 1).

    .. math:: \min_\alpha L_a(w^*(\alpha), \alpha) \quad \text{with} \quad
              w^*(\alpha) = \mathrm{argmin}_w L_w(w, \alpha)

    by a step on :math:`\alpha` and one on :math:`w` in turn. The loss of the architecture has two
    terms besides the cross entropy: the entropy of its probabilities, and the expected time beyond
    the budget, as a share of the budget.

    Args:
        supernet: The mixtures, ``(N, C, H, W) -> (N, num_classes)``.
        architecture: Their weights.
        recipe: How the weights of the network are trained; its epochs are those of the search.
        search: How the architecture is.
        num_classes: Number of classes.
        steps_per_epoch: Number of steps in an epoch.
    """

    def __init__(
        self,
        supernet: Supernet,
        architecture: Architecture,
        recipe: Recipe,
        search: Differentiable,
        num_classes: int,
        steps_per_epoch: int,
    ) -> None:
        super().__init__(supernet, recipe, num_classes, steps_per_epoch)
        self.automatic_optimization = False
        self.architecture = architecture
        self.search = search
        self.weights: list[torch.Tensor] = [p for p in supernet.parameters() if p.requires_grad]

    @property
    def supernet(self) -> Supernet:
        """The mixtures."""
        assert isinstance(self.network, Supernet)
        return self.network

    def configure_optimizers(self) -> Any:
        """The recipe's optimizer for the weights, and Adam for the architecture."""
        found = super().configure_optimizers()
        alphas = torch.optim.Adam(
            self.architecture.parameters(),
            lr=self.search.arch_lr,
            betas=(0.5, 0.999),  # Liu et al. 2019, Sec. A.1.1
            weight_decay=self.search.arch_weight_decay,
        )
        return [
            {key: found[key] for key in ("optimizer", "lr_scheduler")},
            {"optimizer": alphas},
        ]

    @property
    def temperature(self) -> float:
        """That of this epoch; it stays until the warm-up has ended."""
        search = self.search
        ratio = search.final_temperature / search.temperature
        return float(search.temperature * ratio ** self._share_of_search())

    def training_step(self, batch: tuple[Batch, Batch], batch_index: int) -> None:  # type: ignore[override]
        """A step on the architecture, behind the warm-up, and one on the weights."""
        for_weights, for_architecture = batch
        of_weights, of_architecture = self.optimizers()  # type: ignore[attr-defined]
        if self.current_epoch >= self.search.warmup_epochs:
            alpha = self.architecture.alpha_GK
            alpha.grad = self._gradient(for_weights, for_architecture, of_weights.optimizer)
            of_architecture.step()
        with torch.no_grad():
            self._mix(self._draw_noise())
        loss = self._loss(for_weights)
        of_weights.zero_grad()
        self.manual_backward(loss)
        of_weights.step()
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.train_losses[batch_index] = loss.detach()

    def on_validation_start(self) -> None:
        """Validate the mixture as it is, without noise."""
        self._mix()

    def check_architecture(self, epoch: int) -> None:
        """Stop a search whose architecture parameters are no numbers any more.

        Raises:
            DivergedError: They are not.
        """
        if not bool(torch.isfinite(self.architecture.alpha_GK).all()):
            raise DivergedError(
                f"architecture parameters became NaN or infinite in epoch {epoch}; lower "
                "search.arch_lr or recipe.lr, or lengthen search.warmup_epochs."
            )

    def _share_of_search(self) -> float:
        """How much of the search behind the warm-up has passed."""
        warmup, epochs = self.search.warmup_epochs, self.recipe.epochs
        return max(0.0, min(1.0, (self.current_epoch - warmup) / max(1, epochs - 1 - warmup)))

    def _draw_noise(self) -> torch.Tensor | None:
        return self.architecture.draw_noise() if self.search.relaxation == "gumbel" else None

    def _mix(self, noise_GK: torch.Tensor | None = None) -> None:
        """Mix the operations of every site by their probabilities."""
        log_p_GK = self.architecture.log_probabilities(self.temperature, noise_GK)
        self.supernet.mix(self.architecture.by_site(log_p_GK))

    def _loss(self, batch: Batch) -> torch.Tensor:
        """The recipe's loss of the mixture that is set; images are not mixed."""
        images, labels = batch
        return self.objective.of_targets(self.supernet(images), labels)

    def _loss_of_architecture(self, batch: Batch, noise_GK: torch.Tensor | None) -> torch.Tensor:
        self._mix(noise_GK)
        loss = self._loss(batch)
        log_p_GK = self.architecture.log_probabilities(self.temperature)
        weight = self.search.entropy_weight * (2 * self._share_of_search() - 1)
        loss = loss + weight * self.architecture.entropy(log_p_GK)
        time = self.architecture.expected_time(log_p_GK)
        if time is not None and self.search.latency is not None:
            beyond = functional.relu(time / self.search.latency - 1)
            loss = loss + self.search.latency_weight * beyond
        return loss

    def _gradient(
        self, for_weights: Batch, for_architecture: Batch, optimizer: Any
    ) -> torch.Tensor:
        """Gradient of the architecture parameters, of first or second order."""
        noise_GK = self._draw_noise()
        if self.search.order == 2:
            return self._second_order(for_weights, for_architecture, noise_GK, optimizer)
        loss = self._loss_of_architecture(for_architecture, noise_GK)
        (gradient_GK,) = torch.autograd.grad(loss, self.architecture.alpha_GK)
        return gradient_GK

    def _second_order(
        self,
        for_weights: Batch,
        for_architecture: Batch,
        noise_GK: torch.Tensor | None,
        optimizer: Any,
    ) -> torch.Tensor:
        r"""Gradient a step of the weights ahead (Liu et al. 2019, Eqs. 7 and 8).

        .. math:: \nabla_\alpha L_a(w', \alpha) - \xi \,
                  \frac{\nabla_\alpha L_w(w^+, \alpha) - \nabla_\alpha L_w(w^-, \alpha)}{2\epsilon}
        """
        alpha, weights = self.architecture.alpha_GK, self.weights

        def gradients(loss: torch.Tensor, of: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            return list(torch.autograd.grad(loss, of, materialize_grads=True))

        def loss_of_weights() -> torch.Tensor:
            self._mix(noise_GK)
            return self._loss(for_weights)

        ahead = self._step_ahead(gradients(loss_of_weights(), weights), optimizer)
        before = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            torch._foreach_sub_(weights, ahead)
        loss = self._loss_of_architecture(for_architecture, noise_GK)
        of_alpha, *of_weights = gradients(loss, [alpha, *weights])
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(of_weights)))
        epsilon = _PERTURBATION / float(norm.clamp_min(1e-12))
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                torch._foreach_copy_(weights, before)
                torch._foreach_add_(weights, of_weights, alpha=sign * epsilon)
            sides.append(gradients(loss_of_weights(), [alpha])[0])
        with torch.no_grad():
            torch._foreach_copy_(weights, before)
        step_size = optimizer.param_groups[0]["lr"]
        gradient_GK: torch.Tensor = of_alpha - step_size * (sides[0] - sides[1]) / (2 * epsilon)
        return gradient_GK

    def _step_ahead(self, gradients: Sequence[torch.Tensor], optimizer: Any) -> list[torch.Tensor]:
        """What a step of SGD with this momentum and weight decay takes from the weights.

        As in the paper, without the look ahead of Nesterov's that the optimizer may take.
        """
        group = optimizer.param_groups[0]
        steps = []
        for weight, gradient in zip(self.weights, gradients, strict=True):
            step = gradient + group["weight_decay"] * weight.detach()
            buffer = optimizer.state.get(weight, {}).get("momentum_buffer")
            if buffer is not None:
                step = step + group["momentum"] * buffer
            steps.append(group["lr"] * step)
        return steps
