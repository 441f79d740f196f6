"""The measure of how far a result is from the truth. It needs no torch."""

from __future__ import annotations

import numpy as np


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """||found - truth|| / ||truth||, in float64, of two arrays of one shape. Raises ValueError if the shapes differ."""
    if found.shape != truth.shape:
        raise ValueError(f"shapes {list(found.shape)} and {list(truth.shape)} differ")
    difference = np.linalg.norm(np.subtract(found, truth, dtype=np.float64).ravel())
    return float(difference / max(np.linalg.norm(truth.astype(np.float64).ravel()), 1e-30))
