"""The plan of a training on a GPU: seconds and batch of each stage, and where everything is."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from sc_runtime.errors import SettingsError
from sc_runtime.files import write_atomically

FILE = "plan.json"
SECONDS = {"mel_vae": 150.0, "audiomae": 90.0, "vocoder": 600.0, "tokens": 60.0, "diffusion": 600.0}  #: or to the end
BATCHES = {"mel_vae": 32, "audiomae": 64, "vocoder": 32, "tokens": 64, "diffusion": 64}
REHEARSED_SECONDS = dict.fromkeys(SECONDS, 2.0)  #: of CPU time
REHEARSED_BATCHES = dict.fromkeys(BATCHES, 2)
RESERVE = 15.0  #: seconds before the end of the call, at which training ends and the last weights are written
GOAL = 0.1  #: L1 of the VAE's log-mels on the held-out clips, at which its training ends


@dataclass(frozen=True)
class Plan:
    """seconds, batches: of each stage. A stage ends earlier if the call does.

    eager: stages that run without CUDA graphs.
    pack: the folder of all pieces.
    corpus: folder of the arrays that were made of them.
    out: folder of what comes back.
    every: seconds between two writings of the weights.
    """

    pack: Path
    corpus: Path
    out: Path
    seconds: dict[str, float]
    batches: dict[str, int]
    eager: tuple[str, ...] = ()
    every: float = 30.0
    goal: float = GOAL

    def write(self, work: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        write_atomically(work / FILE, json.dumps(dataclasses.asdict(self), default=str).encode())

    @classmethod
    def read(cls, work: Path) -> Plan:
        raw = json.loads((work / FILE).read_text())
        paths = {name: Path(raw[name]) for name in ("pack", "corpus", "out")}
        return cls(**raw | paths | {"eager": tuple(raw["eager"])})


def parse_numbers(option: str, text: str, defaults: dict[str, float]) -> dict[str, float]:
    """`defaults`, with the numbers of "stage=number,stage=number" in their places. Raises SettingsError."""
    numbers = dict(defaults)
    for item in filter(None, text.split(",")):
        name, _, number = item.partition("=")
        try:
            if name not in defaults or not float(number) > 0:
                raise ValueError
            numbers[name] = float(number)
        except ValueError:
            raise SettingsError(
                f"--{option} {item}", f"STAGE=NUMBER, more than 0, of {', '.join(defaults)}, separated by commas"
            ) from None
    return numbers
