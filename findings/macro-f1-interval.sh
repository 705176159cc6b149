#!/usr/bin/env bash
# confidenceinterval: the default interval of macro F1 is far too wide and reaches above 1.
#
# Version:  confidenceinterval 1.0.5 (numpy 2.4.6, scipy 1.17.1, scikit-learn 1.9.1)
# Setting:  three classes, 300 test images, 95 % interval by the default (analytic) method.
# Expected: for a network that is right on all images an interval of no width, as the same package
#           gives for macro precision and macro recall. In general, a coverage of about 95 %.
# Seen:     all 300 right: macro F1 of 1 with the interval [0.935, 1.065]. At an accuracy of 85 %,
#           over 300 repetitions: the interval is about 1.7 times as wide as the scores vary, and
#           it contains the true value every time.
# Matters:  such an interval hides real differences: at this size two networks would have to be
#           about 1.7 times as far apart to be distinguished. The bootstrap intervals of the same
#           package (method="bootstrap_percentile") are narrower.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install -q confidenceinterval==1.0.5 numpy==2.4.6 scipy==1.17.1 \
  scikit-learn==1.9.1
"$dir/venv/bin/python" - <<'PY'
import sys

import numpy as np
from confidenceinterval import f1_score, precision_score, recall_score

labels = np.arange(300) % 3
for score in (f1_score, precision_score, recall_score):
    value, (low, high) = score(labels, labels, average="macro")
    print(f"all right: macro {score.__name__:15} {value:.3f}  [{low:.3f}, {high:.3f}]")
low, high = f1_score(labels, labels, average="macro")[1]

generator = np.random.default_rng(0)
scores, widths, hits = [], [], 0
for _ in range(300):
    wrong = generator.random(300) < 0.15
    predicted = np.where(wrong, (labels + generator.integers(1, 3, 300)) % 3, labels)
    value, (lower, upper) = f1_score(labels, predicted, average="macro")
    scores.append(value)
    widths.append(upper - lower)
    hits += lower <= 0.85 <= upper  # the classes are alike, so the true macro F1 is 0.85
ratio = np.mean(widths) / (2 * 1.96 * np.std(scores))
print(f"accuracy 85 %: covers {hits} of 300; {ratio:.2f} times as wide as the scores vary")

if not (high > 1.05 and low < 0.95 and hits >= 297 and ratio > 1.5):
    sys.exit("changed: the interval is narrower than it was")
PY
