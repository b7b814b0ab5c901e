# SPDX-License-Identifier: Apache-2.0
"""Logistic regression ends at scikit-learn's optimum, and how long both take.

The peer solves in f64 by Newton steps until its gradient is 1e-8; objectives are compared at every C of a sweep. The time is that of one
cold fit of 10,000 x 384 in 100 classes at C = 1; the peer's ends at its usual tolerance (1e-4) in f32 by L-BFGS (its Newton
solver would hold a Hessian of 38,500 squared), which is far from the optimum. Runs in turn, medians of processor time."""

import json
import os
import statistics
import subprocess
import tempfile
import time
import warnings

import numpy as np
from common import BIN
from sklearn.linear_model import LogisticRegression

SWEEP = (1e-4, 1e-2, 1.0, 100.0)
TOLERANCE = 1e-6
ROUNDS = 3


def samples(rows, width, classes, seed):
    """Overlapping classes, columns correlated, their spectrum falling off."""
    rng = np.random.default_rng(seed)
    spectrum = 6 * np.arange(1, width + 1) ** -0.5
    basis = np.linalg.qr(rng.normal(size=(width, width)))[0]
    labels = rng.integers(0, classes, rows)
    centres = 0.35 * rng.normal(size=(classes, width))
    x = ((centres[labels] + rng.standard_normal((rows, width))) * spectrum) @ basis + 0.5
    return x.astype(np.float32), labels


def ours(work, x, labels, values):
    features, truth = os.path.join(work, "x.npy"), os.path.join(work, "y.i32")
    np.save(features, x)
    labels.astype(np.int32).tofile(truth)
    command = [os.path.join(BIN, "logreg_bench"), features, truth, ",".join(map(str, values))]
    return [json.loads(line) for line in subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()]


def objective(model, x, labels, c):
    """C times the sum of losses + |W|^2 / 2, in f64."""
    x = x.astype(np.float64)
    logits = x @ model.coef_.astype(np.float64).T + model.intercept_
    if logits.shape[1] == 1:
        logits = np.hstack([np.zeros_like(logits), logits])
    top = logits.max(1)
    loss = np.log(np.exp(logits - top[:, None]).sum(1)) + top - logits[np.arange(len(x)), labels]
    return c * loss.sum() + 0.5 * (model.coef_.astype(np.float64) ** 2).sum()


def compare(work, rows, width, classes, seed):
    x, labels = samples(rows, width, classes, seed)
    worst = 0.0
    for result in ours(work, x, labels, SWEEP):
        model = LogisticRegression(C=result["c"], solver="newton-cholesky", tol=1e-8, max_iter=100).fit(x.astype(np.float64), labels)
        expected = objective(model, x, labels, result["c"])
        difference = (result["objective"] - expected) / expected
        if not result["converged"] or abs(difference) > TOLERANCE:
            raise SystemExit(f"{classes} classes, C = {result['c']}: objective {result['objective']:.9g}, scikit-learn {expected:.9g}")
        worst = max(worst, abs(difference))
    return worst


def main():
    warnings.filterwarnings("ignore")
    with tempfile.TemporaryDirectory() as work:
        worst = max(compare(work, 1000, 32, classes, classes) for classes in (2, 3, 20))
        x, labels = samples(10000, 384, 100, 1)
        mine, theirs = [], []
        for _ in range(ROUNDS):
            mine.append(ours(work, x, labels, (1.0,))[0])
            before = time.process_time()
            model = LogisticRegression(C=1.0, max_iter=1000).fit(x, labels)
            theirs.append(time.process_time() - before)
        excess = objective(model, x, labels, 1.0) / mine[0]["objective"] - 1
        seconds = statistics.median(run["processor_seconds"] for run in mine)
        peer = statistics.median(theirs)
    print(
        f"objectives within {worst:.1e} of scikit-learn's; 10,000 x 384, 100 classes: {seconds:.2f} s of processor time in "
        f"{mine[0]['iterations']} steps, scikit-learn {peer:.2f} ({peer / seconds:.1f} times ours, {100 * excess:.1f} % above the optimum)"
    )


main()
