#!/usr/bin/env bash
# autorank: adding a third network makes a difference found between the first two disappear.
#
# Version:  autorank 1.3.0 (numpy 2.4.6, scipy 1.17.1, pandas 3.1.1, statsmodels 0.15.0)
# Setting:  networks on the same eight data sets, whose accuracies lie between 78 and 96 %. On every
#           one of them B is about 0.3 points above A, and C about 0.3 points above B.
# Expected: A and B differ with two networks and with three, at a somewhat larger p-value. autorank
#           calls the samples paired, and its omnibus test for three is a repeated-measures ANOVA.
# Seen:     A and B alone: a paired t-test, p below 1e-6. A, B and C: the repeated-measures ANOVA
#           also has a tiny p-value, but the post-hoc test is Tukey's HSD for independent samples.
#           Its intervals include the spread between data sets, so all three overlap, and the
#           report says that there are no significant differences among A, B and C.
# Matters:  the verdict on one pair depends on whether a third network is in the table, and the
#           pairing by data set (or by seed) is lost just where the pairs are compared.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q autorank==1.3.0 numpy==2.4.6 scipy==1.17.1 pandas==3.1.1 \
  statsmodels==0.15.0
"$dir/venv/bin/python" - <<'PY'
import contextlib
import io
import sys
from itertools import combinations

import pandas as pd
from autorank import autorank, create_report
from scipy import stats

a = pd.Series([78.2, 93.5, 85.1, 88.9, 91.7, 82.4, 95.6, 86.8])
b = a + [0.28, 0.33, 0.25, 0.31, 0.36, 0.29, 0.27, 0.32]
c = b + [0.31, 0.26, 0.30, 0.34, 0.28, 0.27, 0.33, 0.29]
three = pd.DataFrame({"A": a, "B": b, "C": c})

with contextlib.redirect_stdout(io.StringIO()):
    pair, result = autorank(three[["A", "B"]]), autorank(three)
report = io.StringIO()
with contextlib.redirect_stdout(report):
    create_report(result)
verdict = report.getvalue().strip().splitlines()[-1]
print(f"A, B:    {pair.omnibus}, p {pair.pvalue:.1e}")
print(f"A, B, C: {result.omnibus}, p {result.pvalue:.1e}, then {result.posthoc}")
for name, row in result.rankdf.iterrows():
    print(f"  {name}  mean {row['mean']:.2f}  [{row['ci_lower']:.2f}, {row['ci_upper']:.2f}]")
print("report:", verdict)
smallest = [stats.ttest_rel(three[i], three[j]).pvalue for i, j in combinations(three, 2)]
print(f"paired t-tests with Bonferroni's correction: p at most {3 * max(smallest):.1e}")

if not (
    pair.pvalue < 1e-6
    and (result.omnibus, result.posthoc) == ("anova", "tukeyhsd")
    and result.pvalue < 1e-6
    and "no significant differences within the following groups: A, B, and C" in verdict
):
    sys.exit("changed: the three networks are not lumped together any more")
PY
