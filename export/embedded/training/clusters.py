"""Semantic codebook: k-means on AudioMAE features, a model for each domain, joined (paper, section III-B)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sc_runtime.export.embedded.corpus.splits import DOMAINS, Domain

SHARES: dict[Domain, int] = {"speech": 1, "music": 1, "sound": 2}  #: of the vocabulary
MAX_ROWS = 120_000  #: at most this many features of a domain are clustered


def cluster_domains(features: Mapping[Domain, np.ndarray], vocab: int, seed: int = 0) -> np.ndarray:
    """Stacked features [n, D] of each domain -> centroids float32 [vocab, D], domains one after another."""
    from sklearn.cluster import MiniBatchKMeans

    generator = np.random.default_rng(seed)
    parts = []
    for domain in DOMAINS:
        rows = features[domain]
        if len(rows) > MAX_ROWS:
            rows = rows[np.sort(generator.choice(len(rows), MAX_ROWS, replace=False))]
        clusters = vocab * SHARES[domain] // sum(SHARES.values())
        model = MiniBatchKMeans(
            clusters, batch_size=8192, n_init=1, init="random", max_iter=20, random_state=seed, reassignment_ratio=0.01
        )
        parts.append(model.fit(np.asarray(rows, np.float32)).cluster_centers_)
    return np.concatenate(parts).astype(np.float32)
