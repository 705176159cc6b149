#!/usr/bin/env bash
# statsmodels: one missing p-value erases all adjusted p-values, or is itself called significant.
#
# Version:  statsmodels 0.15.0 (numpy 2.4.6, scipy 1.17.1)
# Setting:  four variants are compared with a baseline. One of them diverged, so its p is NaN.
# Expected: an error, or the other three adjusted as three (as R's p.adjust does), or NaN for the
#           diverged one alone.
# Seen:     it depends on the method, and no warning is given.
#           fdr_bh:  all four adjusted p are NaN, yet three are marked as rejected.
#           hommel:  all four adjusted p are NaN, and none is rejected, not even p = 0.001.
#           holm:    three are adjusted as if four tests had been made (0.045 instead of 0.03), and
#                    all four are rejected: the diverged one, too, whose adjusted p is NaN.
# Matters:  one failed run changes or erases the verdicts on all others, and may itself be reported
#           as a significant difference. A table built from the adjusted values and one built from
#           `reject` contradict each other.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q statsmodels==0.15.0 numpy==2.4.6 scipy==1.17.1
"$dir/venv/bin/python" - <<'PY'
import sys
import warnings

import numpy as np
from statsmodels.stats.multitest import multipletests

warnings.simplefilter("error")
p_values = [0.001, 0.015, 0.02, np.nan]
print("p-values", p_values)
found = {}
for method in ("fdr_bh", "hommel", "holm"):
    reject, adjusted = multipletests(p_values, method=method)[:2]
    found[method] = reject.tolist(), adjusted
    print(f"{method:7} adjusted {adjusted.round(4)}  rejected {reject}")
three = multipletests(p_values[:3], method="holm")[1]
print(f"holm without the missing one   {three.round(4)}")

changed = (
    found["fdr_bh"][0] != [True, True, True, False]
    or not np.isnan(found["fdr_bh"][1]).all()
    or found["hommel"][0] != [False] * 4
    or not np.isnan(found["hommel"][1]).all()
    or found["holm"][0] != [True] * 4
    or not np.allclose(found["holm"][1], [0.004, 0.045, 0.045, np.nan], equal_nan=True)
)
if changed:
    sys.exit("changed: missing p-values are treated in another way")
PY
