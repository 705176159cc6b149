"""Architecture parameters: what each operation counts at each site, and what that takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Architecture(nn.Module):
    r"""Probabilities of the operations, by group of sites that share them.

    .. math:: p_{g,o} = \mathrm{softmax}_o ((\alpha_{g,o} + n_{g,o}) / T)

    with Gumbel noise :math:`n` where that is asked for, and none otherwise (Liu et al. 2019, Eq. 2;
    Jang et al. 2017, Eq. 2).

    Args:
        num_groups: Number of groups of sites.
        num_operations: Number of operations.
        group_of: Of every site, the index of its group.
        times_SK: Time of every operation at every site ``(S, K)``, as a share of the unsubstituted
            backbone's; ``None`` where time does not matter.
        rest: Share of the time beside the searched sites.
    """

    times_SK: torch.Tensor | None
    group_S: torch.Tensor

    def __init__(
        self,
        num_groups: int,
        num_operations: int,
        group_of: Sequence[int],
        times_SK: Sequence[Sequence[float]] | None = None,
        rest: float = 0.0,
    ) -> None:
        super().__init__()
        self.alpha_GK = nn.Parameter(1e-3 * torch.randn(num_groups, num_operations))
        self.register_buffer("group_S", torch.tensor(group_of), persistent=False)
        times = None if times_SK is None else torch.tensor(times_SK, dtype=torch.float32)
        self.register_buffer("times_SK", times, persistent=False)
        self.rest = rest

    def draw_noise(self) -> torch.Tensor:
        """Gumbel noise, ``(G, K)``."""
        return -torch.empty_like(self.alpha_GK).exponential_().log()

    def log_probabilities(
        self, temperature: float, noise_GK: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Logarithms of the probabilities, ``(G, K)``."""
        logits_GK = self.alpha_GK if noise_GK is None else self.alpha_GK + noise_GK
        return functional.log_softmax(logits_GK / temperature, dim=1)

    def by_site(self, log_p_GK: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The probabilities of every site, each ``(K,)``."""
        return log_p_GK.exp()[self.group_S].unbind()

    def entropy(self, log_p_GK: torch.Tensor) -> torch.Tensor:
        """Mean entropy of the groups, as a share of the largest possible."""
        entropy_G = -(log_p_GK.exp() * log_p_GK).sum(1)
        return entropy_G.mean() / math.log(log_p_GK.shape[1])

    def expected_time(self, log_p_GK: torch.Tensor) -> torch.Tensor | None:
        """Expected time as a share of the unsubstituted backbone's, if times are known."""
        if self.times_SK is None:
            return None
        return (log_p_GK.exp()[self.group_S] * self.times_SK).sum() + self.rest
