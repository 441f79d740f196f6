"""The nearest centroid, with OpenVINO's matrix product."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sc_runtime.centroids import BlockSearch, NearestCentroid
from sc_runtime.once import OnceEach

from .graphs import explained_failures
from .recurrence import infer, share


class OpenVinoNearestCentroid(NearestCentroid):
    """`NearestCentroid` with the same answers, which screens many queries in OpenVINO.

    OpenVINO returns the two largest t of each query. If the second is below the first by more than 2E, the first is the
    nearest centroid. NumPy searches the others again.

    least_queries: fewer are searched with NumPy. A window of 10 s has up to 512: their search takes 65 ms with NumPy,
        30 ms with OpenVINO, which takes 80 to 120 ms more at first (16384 × 768, two cores of an EPYC, Zen 5).
    """

    least_queries = 1024

    def __init__(self, codebook: npt.NDArray[np.float32], core: Any, settings: dict[str, Any]) -> None:
        """`settings` are OpenVINO's for the CPU, in float32. Raises BundleError."""
        super().__init__(codebook)
        self._centred = np.ascontiguousarray(self._centred)  # OpenVINO refers to its memory, row by row
        self.core, self.settings = core, settings
        self._models: OnceEach[str, Any] = OnceEach()

    def _choose_block_search(self, count: int) -> BlockSearch:
        few = count < self.least_queries or len(self.codebook) < 2
        return super()._choose_block_search(count) if few else self._screen_block

    def _screen_block(self, queries: npt.NDArray[np.float32], scores: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
        """As `_search_block`, which searches the queries that OpenVINO does not decide."""
        centred, norms = self._centre(queries)
        with explained_failures({"queries": centred.shape}):
            best, places = infer(self._models.get("model", self._compile), np.ascontiguousarray(centred))
        first, second = best.T.astype(np.float64)
        nearest = np.array(places[:, 0])
        unclear = np.flatnonzero(~(second < first - 2 * self._error_bound(norms)))
        if len(unclear):
            nearest[unclear] = self._search_block(queries[unclear], scores[: len(unclear)])
        return nearest

    def _compile(self) -> Any:
        from openvino import Model, opset13

        queries = opset13.parameter([-1, self.codebook.shape[1]], np.float32)
        scores = opset13.subtract(opset13.matmul(queries, share(self._centred), False, True), self._half_squares)
        best = opset13.topk(scores, opset13.constant(2), 1, "max", "value")
        return self.core.compile_model(Model(best.outputs(), [queries]), "CPU", self.settings)
