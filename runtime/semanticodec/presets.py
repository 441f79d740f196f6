"""How to sample: the solver's settings in one record, and the named choices of them."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from ..errors import SettingsError
from .samplers import SOLVERS


@dataclass(frozen=True)
class Sampling:
    """Settings of the diffusion loop.

    `solver` of `samplers.SOLVERS`; `steps` of it; `guidance` s of classifier-free guidance, 1 being none; `eta` 0
    (deterministic) to 1 (fresh noise each step); `interval` the diffusion steps (0 to 1000) in which guidance acts:
    outside it the conditional branch runs alone, at half the cost. Raises SettingsError for what cannot work.
    """

    solver: str = "ddim"
    steps: int = 50
    guidance: float = 2.0
    eta: float = 1.0
    interval: tuple[int, int] = (0, 1000)

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise SettingsError(f"solver {self.solver!r}", f"one of {', '.join(SOLVERS)}")
        if not math.isfinite(self.guidance):
            raise SettingsError(f"guidance {self.guidance}", "a finite number (published: 2)")
        if not 0 <= self.eta <= 1:
            raise SettingsError(f"eta {self.eta}", "0 (deterministic) to 1 (published)")
        if self.eta > 0 and not SOLVERS[self.solver].stochastic:
            raise SettingsError(f"eta {self.eta} with the solver {self.solver}", "eta 0, as it is deterministic")
        try:
            low, high = (int(bound) for bound in self.interval)
        except (TypeError, ValueError):
            low, high = 0, -1
        if not 0 <= low <= high <= 1000:
            raise SettingsError(f"guidance interval {self.interval}", "two diffusion steps, 0 to 1000, in order")
        object.__setattr__(self, "interval", (low, high))  # of a list, too


#: T-UNet branches each preset runs in a window: 100, 40 and 16. On a Gaussian mixture 8 steps of `dpm` are the fewest
#: that are nearer to the exact solution than 50 of `ddim` (test_samplers.py). On the embedded model neither loses
#: anything (bench/results/quality-embedded.json); on the published weights they were not measured.
PRESETS = {
    "reference": Sampling(),
    "balanced": Sampling("dpm", 20, 2.0, 0.0),
    "fast": Sampling("dpm", 8, 2.0, 0.0),
}


def choose_sampling(preset: str, **changes: Any) -> Sampling:
    """The settings of `preset` with what of `changes` is not None.

    Raises SettingsError.
    """
    if preset not in PRESETS:
        raise SettingsError(f"preset {preset!r}", f"one of {', '.join(PRESETS)}")
    return dataclasses.replace(PRESETS[preset], **{name: value for name, value in changes.items() if value is not None})
