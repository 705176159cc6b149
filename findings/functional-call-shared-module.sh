#!/usr/bin/env bash
# torch.func.functional_call changes a network whose layer stands at two paths, and says nothing.
#
# Version:  torch 2.13.0, and 2.15.0 (numpy 2.4.6); https://github.com/pytorch/pytorch/issues/164759
# Setting:  one nn.Linear at two paths of a network, as in timm's coat_lite_tiny; functional_call
#           with doubled weights for every name of named_parameters().
# Expected: functional_call is pure: it computes with the given weights, and the network has its
#           own afterwards. One layer at one path shows just that.
# Seen:     the layer keeps the doubled weights for good. They are plain tensors, no parameters, so
#           an optimizer made before trains tensors that the network no longer has: ten steps change
#           nothing. With weights on the meta device, the network stays there.
#           tie_weights=False avoids it, but then two layers with one tied weight (w1 is w2) compute
#           with one new and one old weight.
# Matters:  functional_call is used to count FLOPs on meta, for ensembles and for gradients per
#           sample; each is taken to leave the network alone. Nothing raises or warns.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q torch==2.13.0 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import sys

import torch
from torch import nn
from torch.func import functional_call


class Block(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)


def changed_by_a_call(num_paths):
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    network = nn.Sequential(*(Block(layer) for _ in range(num_paths)))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    x = torch.ones(1, 4)
    before = network(x).detach()
    doubled = {name: 2 * weight.detach() for name, weight in network.named_parameters()}
    functional_call(network, doubled, (x,))
    after = network(x).detach()
    for _ in range(10):
        optimizer.zero_grad()
        out = network(x)
        if out.requires_grad:
            out.square().sum().backward()
        optimizer.step()
    trained = network(x).detach()
    kind = type(layer.weight).__name__
    print(f"{num_paths} path(s): changed by the call {not torch.equal(before, after)}, "
          f"weight is a {kind}, ten steps train {not torch.equal(after, trained)}")
    return not torch.equal(before, after), torch.equal(after, trained), kind


alone, shared = changed_by_a_call(1), changed_by_a_call(2)

first, second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
second.weight = first.weight
tied = nn.Sequential(first, second)
nn.init.ones_(first.weight)
(name, _), = tied.named_parameters()
out = functional_call(tied, {name: torch.full((1, 1), 2.0)}, (torch.ones(1, 1),), tie_weights=False)
print(f"two layers, one tied weight, 1 replaced by 2, tie_weights=False: {out.item():g} and not 4")

if alone != (False, False, "Parameter") or shared != (True, True, "Tensor") or out.item() != 2:
    sys.exit("changed: functional_call leaves a shared layer as it was")
PY
