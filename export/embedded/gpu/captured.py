"""Updates as CUDA graphs. The networks are so small that starting kernels from Python would take most of the time.

On an H200 (2026-11-27) the updates of the vocoder and of the T-UNet were captured, each in 0.1 s. Where capture fails,
the process says so and starts again; from then on the updates of that choice run without a graph (`stages.restart`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Hashable
from typing import Any

import torch

from sc_runtime.errors import first_line
from sc_runtime.export.embedded.training.loop import Advance, Losses, Stage

ALL = "all"  #: in place of choices
WARM_UPS = 4  #: updates without a graph before one is captured; cuDNN measures its algorithms meanwhile


class CaptureFailed(Exception):
    """An update of `choice` could not be captured."""

    def __init__(self, choice: Hashable, error: Exception) -> None:
        super().__init__(f"{choice}: {type(error).__name__}: {first_line(error)}")
        self.choice = choice


class Captured:
    """Runs `advance` from CUDA graphs, one for each choice. All of them share a pool of memory."""

    def __init__(self, advance: Advance, eager: Collection[str], report: Callable[[str], None]) -> None:
        """`eager`: the choices, as text, that run without a graph; ALL stands for every one."""
        self.advance, self.eager, self.report = advance, eager, report
        self.seen: Counter[Hashable] = Counter()
        self.graphs: dict[Hashable, tuple[Any, Losses]] = {}

    def __call__(self, choice: Hashable) -> Losses:
        self.seen[choice] += 1
        if ALL in self.eager or str(choice) in self.eager or self.seen[choice] <= WARM_UPS:
            losses = self.advance(choice)
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # or the host would run ahead of the clock that ends the stage
            return losses
        if choice not in self.graphs:
            self.graphs[choice] = self.capture(choice)
        graph, losses = self.graphs[choice]
        graph.replay()
        torch.cuda.synchronize()
        return losses

    def capture(self, choice: Hashable) -> tuple[Any, Losses]:
        """The graph of an update and the tensors of its losses. Raises CaptureFailed."""
        started = time.monotonic()
        pool = next(iter(self.graphs.values()))[0].pool() if self.graphs else None
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=torch.cuda.current_stream()):
                losses = self.advance(choice)
        except Exception as error:  # whatever it is, training goes on without a graph
            raise CaptureFailed(choice, error) from error
        self.report(f"captured the update of choice {choice} in {time.monotonic() - started:.1f} s")
        return graph, losses


def prepare_cuda() -> None:
    """Work in a stream of its own, which capture needs, with cuDNN's fastest algorithms."""
    torch.cuda.set_stream(torch.cuda.Stream())
    torch.backends.cudnn.benchmark = True


def prepare_optimizers(stage: Stage, device: torch.device) -> None:
    """Keep the learning rates and counts of updates of the optimisers on the device, where a graph reads them."""
    for optimizer in stage.optimizers.values():
        for group in optimizer.param_groups:
            group["capturable"] = True
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
