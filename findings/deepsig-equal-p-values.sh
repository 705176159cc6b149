#!/usr/bin/env bash
# deepsig.bonferroni_correction gives equal p-values different corrections, by their order.
#
# Version:  deepsig 1.2.8 (numpy 2.4.6)
# Setting:  three variants are compared with a baseline, and each comparison has p = 0.02.
# Expected: Bonferroni's correction, as name and docstring say: every p times 3, so 0.06 each.
# Seen:     0.06, 0.04 and 0.02. The sorted p-values are multiplied by 3, 2 and 1, as Holm's method
#           does, but without its second step that keeps the order. So the largest p is never
#           corrected, ties are resolved by position, and a smaller p can end above a larger one:
#           0.010, 0.011, 0.012 become 0.030, 0.022, 0.012.
# Matters:  at 0.05 the first of three equal variants is not significant and the other two are.
#           Listing the variants in another order changes which one fails.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q deepsig==1.2.8 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import sys

import numpy as np
from deepsig import bonferroni_correction

cases = {
    (0.02, 0.02, 0.02): [0.06, 0.04, 0.02],
    (0.010, 0.011, 0.012): [0.030, 0.022, 0.012],
    (0.012, 0.011, 0.010): [0.012, 0.022, 0.030],
}
for p_values, recorded in cases.items():
    corrected = bonferroni_correction(np.array(p_values))
    bonferroni = np.minimum(1, np.array(p_values) * len(p_values))
    print(f"p {p_values}  corrected {corrected.round(4)}  p times 3 {bonferroni.round(4)}")
    if not np.allclose(corrected, recorded):
        sys.exit(f"changed: {corrected} instead of {recorded}")
PY
