#!/usr/bin/env bash
# mlxtend's test of two accuracies gives a p-value near 1 when the first network is clearly better.
#
# Version:  mlxtend 0.25.0 (numpy 2.4.6)
# Setting:  two networks with accuracies of 95 % and 90 % on 1,000 images each.
# Expected: a two-sided p-value: the same whichever network comes first, here about 2e-5. The
#           docstring names "the p-value" and no direction.
# Seen:     p = 0.99999 with the better network first and p = 0.00001 with the worse one first. The
#           function returns the lower tail, so the two orders add up to 1. Equal accuracies give
#           p = 0.5, not 1.
# Matters:  `p < 0.05` never holds for variants that improve on the baseline if they are the first
#           argument; if they are the second, the test is one-sided at 5 % without saying so.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mlxtend==0.25.0 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import sys

from mlxtend.evaluate import proportion_difference
from scipy.stats import norm

z, better_first = proportion_difference(0.95, 0.90, 1000)
_, worse_first = proportion_difference(0.90, 0.95, 1000)
_, equal = proportion_difference(0.90, 0.90, 1000)
two_sided = 2 * norm.sf(abs(z))
print(f"95 % against 90 %: z {z:.3f}  p {better_first:.5f}")
print(f"90 % against 95 %:           p {worse_first:.5f}")
print(f"90 % against 90 %:           p {equal:.5f}")
print(f"two-sided p for the same z:    {two_sided:.5f}")

if not (better_first > 0.9999 and worse_first < 0.0001 and equal == 0.5):
    sys.exit("changed: the p-value is not the lower tail any more")
PY
