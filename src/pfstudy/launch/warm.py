"""Preloaded: does once in the forkserver what every child would do first, without threads."""

from __future__ import annotations

from torch import nn

from pfstudy.complexity import cost

cost(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(1, 1)), (1, 1, 1))
