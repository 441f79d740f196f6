"""The loop that every stage of training runs in: resumable pieces, a budget of minutes, averaged weights, a log.

Time is CPU time, divided by the number of threads. A piece that shares its cores, or that is paused (`kill -STOP`),
loses nothing of its budget, and the learning rate falls with the work that was done. On a GPU that is lent for minutes
(`export.embedded.gpu`) time is the clock's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterator, Mapping
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

Losses = dict[str, Tensor]
Advance = Callable[[Any], Losses]  #: one update of a choice, with the moving averages: what a CUDA graph can capture


class Stage(Protocol):
    """One stage of training: `networks` are trained and saved, and a moving average of each of `averaged` is kept.

    `batch` is the number of clips, or of pieces of clips, of an update.

    An update is in two parts. What the host decides comes first, so that the rest is the same work on the device for
    equal choices.
    """

    batch: int

    @property
    def name(self) -> str: ...

    @property
    def networks(self) -> Mapping[str, nn.Module]: ...

    @property
    def averaged(self) -> tuple[str, ...]: ...

    @property
    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]: ...

    def choose(self, progress: float, generator: torch.Generator) -> Hashable:
        """What the host decides about the update at `progress` (0 to 1) of the stage; `generator` is the CPU's."""
        ...

    def update(self, choice: Any, generator: torch.Generator | None) -> Losses:
        """One update; returns the losses by name. It reads nothing back from the device.

        generator: the device's; None is PyTorch's own.
        """
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
    save_seconds: float = SAVE_SECONDS,
    wrap: Callable[[Advance], Advance] = lambda advance: advance,
    review: Callable[[Mapping[str, Average], int, float], bool] = lambda averages, steps, seconds: False,
) -> bool:
    """Train `stage` for `minutes`, of `budget` in all; returns whether the budget is used up.

    `folder`/NAME.pt holds the stage's state. It is written whole every `save_seconds` and at the end of a piece, and
    the next piece starts from it. `folder`/NAME.jsonl holds the curves, a line every `log_seconds` of training. The
    learning rate follows the share of the budget that is used: it rises, then falls as a cosine. The piece ends
    after the update during which `stopped` becomes true. Raises FloatingPointError for a loss that is not finite.

    wrap: given the function that does an update, returns the one to call.
    review: called after each writing of the state with the averages, the number of updates and the seconds; the piece
        ends if it returns true.
    """
    path = folder / f"{stage.name}.pt"
    averages = {name: Average(stage.networks[name]) for name in stage.averaged}
    steps, spent = 0, 0.0
    if path.exists():
        steps, spent = restore(path, stage, averages)
    generator = torch.Generator().manual_seed(steps)
    own = generator if find_device(stage).type == "cpu" else None

    def advance(choice: Any) -> Losses:
        losses = stage.update(choice, own)
        for average in averages.values():
            average.follow()
        return losses

    run = wrap(advance)
    ended = False
    started = clock()
    begun, logged, saved = spent, spent, spent
    rates = {
        name: [float(group["lr"]) for group in optimizer.param_groups] for name, optimizer in stage.optimizers.items()
    }
    sums: Losses = {}
    counts: dict[str, int] = {}
    for network in stage.networks.values():
        network.train()
    while spent < budget * 60 and spent - begun < minutes * 60 and not ended and not stopped():
        progress = spent / (budget * 60)
        for name, optimizer in stage.optimizers.items():
            for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
                set_rate(group, rate * schedule_rate(progress))
        steps += 1
        for average in averages.values():
            average.prepare(steps)
        for name, loss in run(stage.choose(progress, generator)).items():
            sums[name] = sums.get(name, 0.0) + loss
            counts[name] = counts.get(name, 0) + 1
        spent = begun + clock() - started
        if spent - logged > log_seconds:
            means = {name: float(f"{float(total) / counts[name]:.5g}") for name, total in sums.items()}
            line = {"step": steps, "seconds": round(spent, 1), **means}
            with (folder / f"{stage.name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            report(f"{stage.name}: " + ", ".join(f"{key} {value:g}" for key, value in line.items()))
            if not all(map(math.isfinite, line.values())):
                raise FloatingPointError(f"{stage.name}: a loss is not finite at step {steps}")
            sums, counts, logged = {}, {}, spent
        if spent - saved > save_seconds:
            save(path, stage, averages, rates, steps, spent)
            ended = review(averages, steps, spent)
            saved = spent
    save(path, stage, averages, rates, steps, spent)
    review(averages, steps, spent)
    return spent >= budget * 60


def schedule_rate(progress: float) -> float:
    """Learning rate at `progress` of a stage, relative to its highest: a linear rise, then half a cosine to 2 %."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


class Average:
    """A moving average of a network's weights. Its window is short at first and grows with the number of steps."""

    def __init__(self, network: nn.Module) -> None:
        tensors = {name: tensor.detach() for name, tensor in network.state_dict().items()}
        self.state = {name: tensor.clone() for name, tensor in tensors.items()}
        pairs = [(self.state[name], tensor) for name, tensor in tensors.items()]
        self.followed = [pair for pair in pairs if pair[0].is_floating_point()]
        self.copied = [pair for pair in pairs if not pair[0].is_floating_point()]
        self.share = torch.zeros((), device=pairs[0][0].device)  # of the new weights in the next average

    def prepare(self, steps: int) -> None:
        """Set the window for update number `steps`."""
        self.share.fill_(1 - min(AVERAGE_DECAY, (1 + steps) / (10 + steps)))

    @torch.no_grad()
    def follow(self) -> None:
        averages, weights = ([pair[i] for pair in self.followed] for i in range(2))
        changes = torch._foreach_sub(weights, averages)
        torch._foreach_mul_(changes, self.share)
        torch._foreach_add_(averages, changes)
        for average, tensor in self.copied:
            average.copy_(tensor)


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
            set_rate(group, rate)
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


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def half_precision(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in bfloat16, the rest in float32."""
    with torch.autocast(device.type, torch.bfloat16):
        yield


def pick(rows: int, count: int, generator: torch.Generator | None, device: torch.device | None = None) -> Tensor:
    """`count` row numbers below `rows`, with repetition."""
    return torch.randint(rows, (count,), generator=generator, device=device)


def scale_rates(stage: Stage, factor: float) -> None:
    """Multiply the highest learning rates of `stage`. `fit` replaces them by those of a state with optimisers."""
    for optimizer in stage.optimizers.values():
        for group in optimizer.param_groups:
            set_rate(group, float(group["lr"]) * factor)


def set_rate(group: dict[str, Any], rate: float) -> None:
    """Set the learning rate of a parameter group. A CUDA graph reads it from a tensor."""
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def find_device(stage: Stage) -> torch.device:
    """Where the weights of `stage` are."""
    return next(iter(next(iter(stage.networks.values())).parameters())).device
