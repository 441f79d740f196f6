"""Reading a published checkpoint: fetched from the hub, opened as data, its tensors checked before use.

A checkpoint is data, never code: `torch.load(weights_only=True)`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sc_runtime.errors import CheckpointError

from .spec import Shapes


def download(repository: str, name: str) -> Path:
    """One file from the hub, kept in the hub's own cache and not fetched again. Raises CheckpointError."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError:
        raise CheckpointError(
            "huggingface_hub is not installed", "the extra `export`", "pip install 'sc-runtime[export]'"
        ) from None
    logging.set_verbosity_error()  # it retries by itself, and would print a warning each time
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except Exception as error:  # the hub's client passes on errors of the HTTP library and of the disk
        raise CheckpointError(
            f"cannot download {name} of {repository} from the hub ({explain(error)})",
            "a connection to the hub",
            "use a local copy with --checkpoint, or stand-in weights with --seeded 1",
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt file, mapped from the disk where its format allows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = load_tensors(path)
    except Exception as error:  # damaged bytes can make the unpickler raise anything
        raise CheckpointError(
            f"{path}: {explain(error)}",
            "a file of tensors that torch.load(weights_only=True) reads",
            "download it again",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds {type(state).__name__}", "a dictionary of tensors by name")
    return state


def load_tensors(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # saved in the format before 2020


def explain(error: BaseException) -> str:
    """The first sentence of the first cause of `error`, without torch's advice to load the file unsafely."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).split("WeightsUnpickler error: ")[-1].strip()
    sentence = text.splitlines()[0].split(". ")[0] if text else ""
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def check_state(path: Path, state: Mapping[str, Tensor], shapes: Shapes, unused: re.Pattern[str]) -> dict[str, Tensor]:
    """The tensors of `shapes` as float32; those that `unused` matches may be there too.

    Raises CheckpointError naming what is missing, extra or misshapen.
    """
    problems = {
        "missing": [name for name in shapes if name not in state],
        "extra": [name for name in state if name not in shapes and not unused.match(name)],
        "misshapen": [
            f"{name} {list(state[name].shape)} for {list(shape)}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != tuple(shape)
        ],
        "not floating-point": [
            f"{name} {state[name].dtype}" for name in shapes if name in state and not state[name].is_floating_point()
        ],
    }
    named = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if named:
        raise CheckpointError(
            f"{path}: tensors {'; '.join(named)}",
            "the published layout of this rate and size",
            "check --tps and --size",
        )
    return {name: state[name].detach().to(torch.float32) for name in shapes}
