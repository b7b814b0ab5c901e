# SPDX-License-Identifier: Apache-2.0
"""dino-curate cluster reaches an inertia as low as that of FAISS's k-means."""

import os
import tempfile

import faiss
import h5py
import numpy as np
from common import clustered_rows, run

ROWS, WIDTH, CLUSTERS, ITERATIONS, TOLERANCE = 20000, 64, 100, 20, 0.02


def inertia(x, centroids):
    """Sum of squared distances to the nearest centroid, in f64, the same way for both sides."""
    x, centroids = x.astype(np.float64), centroids.astype(np.float64)
    distance = (x**2).sum(1)[:, None] - 2 * x @ centroids.T + (centroids**2).sum(1)
    return float(distance.min(1).sum()), distance.argmin(1)


def ours(path, work, spherical):
    output = os.path.join(work, f"spherical-{spherical}")
    run("dino-curate", "cluster", "--embeddings", path, "--levels", CLUSTERS, "--iterations", ITERATIONS,
        "--resample", 0, "--spherical", str(spherical).lower(), "--output", output)  # fmt: skip
    with h5py.File(os.path.join(output, "clusters.h5")) as f:
        return f["level1/centroids"][:], f["level1/assignment"][:], f["level1/distance"][:]


def main():
    # 300 groups for 100 centroids: no partition is obviously right, and luck averages out.
    x = clustered_rows(ROWS, WIDTH, 300, 0.6, seed=5)
    report = []
    with tempfile.TemporaryDirectory() as work:
        path = os.path.join(work, "rows.npy")
        np.save(path, x)
        for spherical in (True, False):
            centroids, assignment, distance = ours(path, work, spherical)
            our_inertia, nearest = inertia(x, centroids)
            # Ties may be settled differently after rounding, so a few rows may differ.
            if (nearest != assignment).mean() > 1e-3:
                raise SystemExit(f"spherical={spherical}: {(nearest != assignment).sum()} rows are not with their nearest centroid")
            if abs(distance.astype(np.float64).sum() - our_inertia) > 1e-4 * our_inertia:
                raise SystemExit(f"spherical={spherical}: stored distances sum to {distance.sum():.3f}, not {our_inertia:.3f}")
            kmeans = faiss.Kmeans(WIDTH, CLUSTERS, niter=ITERATIONS, seed=1, spherical=spherical)
            kmeans.cp.max_points_per_centroid = ROWS  # all rows, as ours
            kmeans.train(x)
            their_inertia, _ = inertia(x, kmeans.centroids)
            ratio = our_inertia / their_inertia
            if not ratio <= 1 + TOLERANCE:
                raise SystemExit(f"spherical={spherical}: inertia {our_inertia:.1f} is {ratio:.4f} times FAISS's {their_inertia:.1f}")
            report.append(f"{'spherical' if spherical else 'Euclidean'} {our_inertia:.1f} / {their_inertia:.1f} = {ratio:.4f}")
    print("inertia, ours / FAISS: " + ", ".join(report))


if __name__ == "__main__":
    main()
