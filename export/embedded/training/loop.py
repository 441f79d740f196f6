"""The loop that every stage of training runs in: resumable pieces, a budget of minutes, averaged weights, a log.

Time is CPU time, divided by the number of threads. A piece that shares its cores, or that is paused (`kill -STOP`),
loses nothing of its budget, and the learning rate falls with the work that was done.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sc_runtime.files import replacing

LOG_SECONDS = 20.0  #: between two points of a curve
SAVE_SECONDS = 60.0  #: between two checkpoints of a piece
AVERAGE_DECAY = 0.999  #: of the moving average of the weights, reached after some thousand steps
WARM_UP = 0.02  #: share of a stage over which the learning rate rises


class Stage(Protocol):
    """One stage of training: `networks` are trained and saved, and a moving average of each of `averaged` is kept."""

    @property
    def name(self) -> str: ...

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def averaged(self) -> tuple[str, ...]: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    def step(self, progress: float, generator: torch.Generator) -> dict[str, float]:
        """One update at `progress` (0 to 1) of the stage; returns the losses by name."""
        ...


def read_clock() -> float:
    """Seconds of work of this process: its CPU time over the number of its threads."""
    return process_time() / torch.get_num_threads()


def fit(
    stage: Stage,
    folder: Path,
    minutes: float,
    budget: float,
    report: Callable[[str], None] = lambda line: None,
    *,
    stopped: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = read_clock,
    log_seconds: float = LOG_SECONDS,
) -> bool:
    """Train `stage` for `minutes`, of `budget` in all; returns whether the budget is used up.

    `folder`/NAME.pt holds the stage's state. It is written whole every minute and at the end of a piece, and the
    next piece starts from it. `folder`/NAME.jsonl holds the curves, a line every `log_seconds` of training. The
    learning rate follows the share of the budget that is used: it rises, then falls as a cosine. The piece ends
    after the update during which `stopped` becomes true. Raises FloatingPointError for a loss that is not finite.
    """
    path = folder / f"{stage.name}.pt"
    averages = {name: Average(stage.networks[name]) for name in stage.averaged}
    steps, spent = 0, 0.0
    if path.exists():
        steps, spent = restore(path, stage, averages)
    generator = torch.Generator().manual_seed(steps)
    started = clock()
    begun, logged, saved = spent, spent, spent
    rates = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in stage.optimizers.items()}
    sums: dict[str, list[float]] = {}
    for network in stage.networks.values():
        network.train()
    while spent < budget * 60 and spent - begun < minutes * 60 and not stopped():
        progress = spent / (budget * 60)
        for name, optimizer in stage.optimizers.items():
            for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
                group["lr"] = rate * schedule_rate(progress)
        for name, loss in stage.step(progress, generator).items():
            sums.setdefault(name, []).append(loss)
        steps += 1
        for average in averages.values():
            average.update(steps)
        spent = begun + clock() - started
        if spent - logged > log_seconds:
            means = {name: float(f"{sum(losses) / len(losses):.5g}") for name, losses in sums.items()}
            line = {"step": steps, "seconds": round(spent, 1), **means}
            with (folder / f"{stage.name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(f"{stage.name}: " + ", ".join(f"{key} {value:g}" for key, value in line.items()))
            if not all(map(math.isfinite, line.values())):
                raise FloatingPointError(f"{stage.name}: a loss is not finite at step {steps}")
            sums, logged = {}, spent
        if spent - saved > SAVE_SECONDS:
            save(path, stage, averages, rates, steps, spent)
            saved = spent
    save(path, stage, averages, rates, steps, spent)
    return spent >= budget * 60


def schedule_rate(progress: float) -> float:
    """Learning rate at `progress` of a stage, relative to its highest: a linear rise, then half a cosine to 2 %."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


class Average:
    """A moving average of a network's weights. Its window is short at first and grows with the number of steps."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network
        self.state = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}

    @torch.no_grad()
    def update(self, steps: int) -> None:
        decay = min(AVERAGE_DECAY, (1 + steps) / (10 + steps))
        followed = {name: tensor for name, tensor in self.network.state_dict().items() if tensor.is_floating_point()}
        torch._foreach_lerp_([self.state[name] for name in followed], list(followed.values()), 1 - decay)
        for name, tensor in self.network.state_dict().items():
            if name not in followed:
                self.state[name].copy_(tensor)


def save(
    path: Path,
    stage: Stage,
    averages: Mapping[str, Average],
    rates: Mapping[str, list[float]],
    steps: int,
    spent: float,
) -> None:
    for name, optimizer in stage.optimizers.items():
        for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
            group["lr"] = rate
    state = {
        "steps": steps,
        "seconds": spent,
        "networks": {name: network.state_dict() for name, network in stage.networks.items()},
        "averages": {name: average.state for name, average in averages.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in stage.optimizers.items()},
    }
    with replacing(path) as temporary:
        torch.save(state, temporary)


def restore(path: Path, stage: Stage, averages: Mapping[str, Average]) -> tuple[int, float]:
    """Load the state in `path` into `stage`; returns the steps and the seconds that it was trained for.

    A state that was made from a bundle (`restoring.py`) holds some of the networks and no optimiser.
    """
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, weights in state["networks"].items():
        stage.networks[name].load_state_dict(weights)
    for name, optimizer in state["optimizers"].items():
        stage.optimizers[name].load_state_dict(optimizer)
    for name, weights in state["averages"].items():
        for key, tensor in weights.items():
            averages[name].state[key].copy_(tensor)
    return state["steps"], state["seconds"]


def load_average(folder: Path, stage: str, network: str) -> dict[str, Tensor]:
    """The averaged weights of `network` after the training of `stage`."""
    return torch.load(folder / f"{stage}.pt", map_location="cpu", weights_only=True, mmap=True)["averages"][network]


def load_encoder(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the VAE's encoder: of stage `vae_encoder` if that was trained, else of `mel_vae`."""
    return load_average(folder, "vae_encoder" if (folder / "vae_encoder.pt").exists() else "mel_vae", "encoder")


def read_curves(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of `folder`/STAGE.jsonl; none if the stage was not trained there."""
    path = folder / f"{stage}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in bfloat16, the rest in float32."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


def pick(rows: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` row numbers below `rows`, with repetition."""
    return torch.randint(rows, (count,), generator=generator)
