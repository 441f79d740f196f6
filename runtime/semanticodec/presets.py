"""Settings of the diffusion loop, and the presets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from sc_runtime.errors import SettingsError, check_finite, check_whole
from sc_runtime.spec import DecodeOptions

from .samplers import SOLVERS


@dataclass(frozen=True)
class Sampling:
    """Settings of the diffusion loop.

    solver: a name of `samplers.SOLVERS`.
    steps: number of its steps.
    guidance: scale s of classifier-free guidance; 1 is none.
    eta: fresh noise at each step, from 0 (deterministic) to 1.
    interval: the first and the last timestep, of 0 to 1000, at which guidance acts. Elsewhere the conditional branch
        runs alone, at half the cost.

    Raises SettingsError for a value that cannot work.
    """

    solver: str = "ddim"
    steps: int = 50
    guidance: float = 2.0
    eta: float = 1.0
    interval: tuple[int, int] = (0, 1000)

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise SettingsError(f"solver {self.solver!r}", f"one of {', '.join(SOLVERS)}")
        check_whole("steps", self.steps, "a whole number of steps (published: 50)")
        check_finite("guidance", self.guidance, "a finite number (published: 2)")
        expected = "0 (deterministic) to 1 (published)"
        if not 0 <= check_finite("eta", self.eta, expected) <= 1:
            raise SettingsError(f"eta {self.eta}", expected)
        if self.eta > 0 and not SOLVERS[self.solver].stochastic:
            raise SettingsError(f"eta {self.eta} with the solver {self.solver}", "eta 0, as it is deterministic")
        try:
            low, high = (check_whole("interval", bound, "two diffusion steps") for bound in self.interval)
        except (TypeError, ValueError):
            low, high = 0, -1
        if not 0 <= low <= high <= 1000:
            raise SettingsError(f"guidance interval {self.interval}", "two diffusion steps, 0 to 1000, in order")
        object.__setattr__(self, "interval", (low, high))  # a list becomes a tuple


#: T-UNet branches each preset runs in a window: 100, 40 and 16. On a Gaussian mixture 8 steps of `dpm` are the fewest
#: that are nearer to the exact solution than 50 of `ddim` (test_samplers.py). On the embedded model neither loses
#: anything (bench/results/quality-embedded.json); on the published weights they were not measured.
PRESETS = {
    "reference": Sampling(),
    "balanced": Sampling("dpm", 20, 2.0, 0.0),
    "fast": Sampling("dpm", 8, 2.0, 0.0),
}


def choose_preset(name: str) -> Sampling:
    """The settings of the preset `name`. Raises SettingsError for an unknown name."""
    if name not in PRESETS:
        raise SettingsError(f"preset {name!r}", f"one of {', '.join(PRESETS)}")
    return PRESETS[name]


def resolve_sampling(options: DecodeOptions) -> Sampling:
    """The preset of `options` with the settings that `options` change. Raises SettingsError."""
    settings = {each.name: getattr(options, each.name) for each in dataclasses.fields(Sampling)}
    changes = {name: value for name, value in settings.items() if value is not None}
    return dataclasses.replace(choose_preset(options.preset or "reference"), **changes)
