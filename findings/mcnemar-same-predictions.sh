#!/usr/bin/env bash
# mlxtend's McNemar test says "different, p = 0" of two networks with the same predictions.
#
# Version:  mlxtend 0.25.0 (numpy 2.4.6)
# Setting:  two networks are right and wrong on exactly the same test images: 90 and 10 of 100.
# Expected: p = 1. No image speaks for either network.
# Seen:     chi2 = inf and p = 0 with the default arguments, plus a divide-by-zero warning from
#           numpy. The continuity correction subtracts 1 from |b - c| = 0, squares it, and divides
#           by b + c = 0. For b = c = 1 the correction gives p = 0.48 although b equals c.
#           exact=True gives p = 1 in both cases.
# Matters:  a variant can equal its backbone (a replacement that found no site, a rewrite that keeps
#           all outputs). The test then reports the strongest difference there is.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q mlxtend==0.25.0 numpy==2.4.6
"$dir/venv/bin/python" - <<'PY'
import sys
import warnings

import numpy as np
from mlxtend.evaluate import mcnemar, mcnemar_table

warnings.simplefilter("ignore")  # the division by zero
labels = np.arange(100) % 10
same = np.where(np.arange(100) < 10, (labels + 1) % 10, labels)
table = mcnemar_table(labels, same, same)
print("both right, only one right, both wrong:", table.ravel().tolist())
chi2, p = mcnemar(table)
print(f"same predictions, defaults      chi2 {chi2}  p {p}")
exact = mcnemar(table, exact=True)[1]
print(f"same predictions, exact=True    p {exact}")
balanced = mcnemar(np.array([[89, 1], [1, 9]]))[1]
print(f"one image each way, defaults    p {balanced:.3f}")

if (chi2, p, exact) != (np.inf, 0.0, 1.0) or abs(balanced - 0.4795) > 1e-4:
    sys.exit("changed: identical predictions do not give p = 0 any more")
PY
