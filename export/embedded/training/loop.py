"""The loop that every stage of training runs in: resumable pieces, a budget of minutes, averaged weights, a log."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter as read_clock
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sc_runtime.files import replacing

LOG_SECONDS = 20.0  #: between two points of a curve
SAVE_SECONDS = 60.0  #: between two checkpoints of a piece
AVERAGE_DECAY = 0.999  #: of the moving average of the weights, reached after some thousand steps
WARM_UP = 0.02  #: share of a stage over which the learning rate rises


class Stage(Protocol):
    """One stage of training. `networks` are what is trained and saved, `averaged` those that are kept as an average."""

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


def fit(
    stage: Stage, folder: Path, minutes: float, budget: float, report: Callable[[str], None] = lambda line: None
) -> bool:
    """Train `stage` for `minutes`, of `budget` in all; returns whether the budget is used up.

    The stage's state lies in `folder`/NAME.pt, written whole every minute, and a piece goes on where the last one
    stopped. Its curves lie in `folder`/NAME.jsonl, a line every 20 s of training. The learning rate follows the share
    of the budget that is used: it rises, then falls as a cosine.
    """
    path = folder / f"{stage.name}.pt"
    averages = {name: Average(stage.networks[name]) for name in stage.averaged}
    steps, spent = 0, 0.0
    if path.exists():
        steps, spent = restore(path, stage, averages)
    generator = torch.Generator().manual_seed(steps)
    started = read_clock()
    begun, logged, saved = spent, spent, spent
    rates = {name: [group["lr"] for group in optimizer.param_groups] for name, optimizer in stage.optimizers.items()}
    sums: dict[str, float] = {}
    counted = 0
    for network in stage.networks.values():
        network.train()
    while spent < budget * 60 and spent - begun < minutes * 60:
        progress = spent / (budget * 60)
        for name, optimizer in stage.optimizers.items():
            for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
                group["lr"] = rate * schedule_rate(progress)
        for name, loss in stage.step(progress, generator).items():
            sums[name] = sums.get(name, 0.0) + loss
        steps, counted = steps + 1, counted + 1
        for average in averages.values():
            average.update(steps)
        spent = begun + read_clock() - started
        if spent - logged > LOG_SECONDS:
            line = {
                "step": steps,
                "seconds": round(spent, 1),
                **{n: float(f"{s / counted:.5g}") for n, s in sums.items()},
            }
            with (folder / f"{stage.name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(f"{stage.name}: " + ", ".join(f"{key} {value:g}" for key, value in line.items()))
            if not all(map(math.isfinite, line.values())):
                raise FloatingPointError(f"{stage.name}: a loss is not finite at step {steps}")
            sums, counted, logged = {}, 0, spent
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
    """A moving average of a network's weights; early steps, which are soon forgotten, count less."""

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
    """Put the state in `path` into `stage`; returns the steps and seconds it has had.

    What begins with a bundle's weights (`restoring.py`) has some of its networks there and no optimiser.
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
    """The averaged weights of the VAE's encoder: the one fitted to a restored decoder, where there is one."""
    return load_average(folder, "vae_encoder" if (folder / "vae_encoder.pt").exists() else "mel_vae", "encoder")


def read_curves(folder: Path, stage: str) -> list[dict[str, Any]]:
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
