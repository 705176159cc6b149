#!/usr/bin/env bash
# scipy.stats.levene with two seeds per network always says "unequal variances, p = 0".
#
# Version:  scipy 1.17.1 (numpy 2.4.6)
# Setting:  three networks, two seeds each, with nearly equal spreads (0.30, 0.31 and 0.32 points).
# Expected: a large p-value, or NaN, or an error that two values per group are too few. Bartlett's
#           test gives p of about 1 for these data.
# Seen:     statistic of practically infinity and p = 0; at most a divide-by-zero warning. Two
#           values lie at the same distance from their median, so the deviations do not vary within
#           a group, and the test divides by 0. Any two spreads that differ at all are "unequal".
# Matters:  Levene's test is the usual check before a pooled test such as Dunnett's or Tukey's.
#           With two seeds it always rejects, and it rejects with the smallest p-value there is.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q scipy==1.17.1 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import sys
import warnings

import numpy as np
from scipy import stats

warnings.simplefilter("ignore")  # the division by zero
networks = [[90.10, 90.40], [89.00, 89.31], [91.20, 91.52]]
levene, bartlett = stats.levene(*networks), stats.bartlett(*networks)
print("spreads of about 0.30, 0.31 and 0.32 points")
print(f"levene    statistic {levene.statistic:.3g}  p {levene.pvalue:.3g}")
print(f"bartlett  statistic {bartlett.statistic:.3g}  p {bartlett.pvalue:.3g}")

# The level of the test: all networks have the same variance, so 5 % should be rejected.
generator = np.random.default_rng(0)
trials = generator.normal(size=(200, 3, 2))
rejected = np.mean([stats.levene(*trial).pvalue < 0.05 for trial in trials])
print(f"equal variances, 200 trials, 3 networks with 2 seeds: levene rejects {rejected:.0%}")

if levene.pvalue > 1e-12 or bartlett.pvalue < 0.9 or rejected != 1.0:
    sys.exit("changed: levene does not reject with p = 0 at two seeds any more")
PY
