#!/usr/bin/env bash
# scipy.stats.dunnett turns one NaN into a p-value of 0 or 1 for every variant.
#
# Version:  scipy 1.17.1 (numpy 2.4.6)
# Setting:  a baseline and two variants, three seeds each. One seed of variant A diverged, so its
#           accuracy is NaN. Variant B is complete and about ten points worse than the baseline.
# Expected: p = NaN, at least for A. Most SciPy tests propagate NaN, and tukey_hsd does so here.
# Seen:     both statistics are NaN, yet both p-values are ordinary numbers: 1 for "two-sided" and
#           "less", 0 for "greater". No warning is given. With alternative="greater", the clearly
#           worse B is "better than the baseline, p = 0".
# Matters:  a column of p-values from Dunnett's test looks complete, and a script that compares
#           p with 0.05 reports that every variant wins. Drop failed runs before the test.
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

baseline = [91.0, 91.2, 91.4]
variant_a = [90.8, np.nan, 91.1]
variant_b = [80.9, 81.2, 81.3]

warnings.simplefilter("error")
seen = {}
for alternative in ("two-sided", "less", "greater"):
    result = stats.dunnett(
        variant_a, variant_b, control=baseline, alternative=alternative, rng=0
    )
    seen[alternative] = result.pvalue.tolist()
    print(f"dunnett {alternative:9}  statistic {result.statistic}  p {result.pvalue}")
    if not np.isnan(result.statistic).all():
        sys.exit("changed: the statistics are not NaN any more")

tukey = stats.tukey_hsd(baseline, variant_a, variant_b).pvalue
print(f"tukey_hsd, the same data: all p-values are NaN: {np.isnan(tukey).all()}")

expected = {"two-sided": [1.0, 1.0], "less": [1.0, 1.0], "greater": [0.0, 0.0]}
if seen != expected or not np.isnan(tukey).all():
    sys.exit(f"changed: p-values are {seen}, recorded were {expected}")
PY
