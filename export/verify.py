"""Every exported graph against its torch network, on random inputs at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from sc_runtime.backends.onnxruntime import OnnxRuntimeBackend
from sc_runtime.bundle import Bundle, TensorSpec
from sc_runtime.errors import VerificationError

CASES = ({"batch": 1, "frames": 1024}, {"batch": 3, "frames": 160})  #: sizes of the dynamic axes
TOLERANCE = 1e-4  #: relative error ||a - b|| / ||b||, float32 graphs

Arrays = dict[str, np.ndarray]


def draw_inputs(inputs: dict[str, TensorSpec]) -> Iterator[Arrays]:
    """Random inputs for each of CASES: standard normal, diffusion steps for integers."""
    generator = np.random.default_rng(0)
    for axes in CASES:
        feeds: Arrays = {}
        for name, spec in inputs.items():
            shape = spec.resolve(**axes)
            if spec.dtype == "int64":
                feeds[name] = generator.integers(1, 1000, shape)
            else:
                feeds[name] = generator.standard_normal(shape, np.float32)
        yield feeds


def run_reference(module: nn.Module, feeds: Arrays, outputs: dict[str, TensorSpec]) -> Arrays:
    """What the torch network computes."""
    with torch.inference_mode():
        result = module(*map(torch.from_numpy, feeds.values()))
    result = result if isinstance(result, tuple) else (result,)
    return {name: tensor.numpy() for name, tensor in zip(outputs, result, strict=True)}


def measure_error(bundle: Bundle, name: str, cases: list[tuple[Arrays, Arrays]]) -> float:
    """Largest relative error of graph `name` over (feeds, expected) pairs. Raises VerificationError over TOLERANCE."""
    graph = OnnxRuntimeBackend().open(bundle, name)
    worst = 0.0
    for feeds, expected in cases:
        found = graph.run(feeds)
        for output, truth in expected.items():
            if found[output].shape != truth.shape or not np.isfinite(found[output]).all():
                raise VerificationError(
                    f"graph {name}, output {output}: shape {found[output].shape} or values not finite",
                    f"finite values of shape {truth.shape}",
                )
            worst = max(worst, relative_error(found[output], truth))
    if worst > TOLERANCE:
        raise VerificationError(
            f"graph {name}: relative error {worst:.2e} against its torch network",
            f"at most {TOLERANCE:.0e}",
            "no bundle was written; this is a bug of the export or of the backend",
        )
    return worst


def relative_error(found: np.ndarray, truth: np.ndarray) -> float:
    """||found - truth|| / ||truth||, in float64."""
    difference = np.linalg.norm(np.subtract(found, truth, dtype=np.float64).ravel())
    return float(difference / max(np.linalg.norm(truth.astype(np.float64).ravel()), 1e-30))
