"""What trainings have left in a state's folder: averaged weights and curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sc_runtime.errors import SettingsError

FURTHER = ("vae_encoder", "sound")  #: stages that train further what a bundle or a GPU's pack brings


def load_average(folder: Path, stage: str, network: str) -> dict[str, Tensor]:
    """The averaged weights of `network` after the training of `stage`. Raises SettingsError if it was not trained."""
    path = folder / f"{stage}.pt"
    if not path.exists():
        raise SettingsError(f"no {path}", f"a trained stage {stage}", f"train stage {stage} first")
    return read_state(path)["averages"][network]


def read_state(path: Path) -> dict[str, Any]:
    """The state of a stage in `path`, its tensors mapped from the file."""
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state


def load_encoder(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the VAE's encoder: of stage `vae_encoder` if that was trained, else of `mel_vae`.

    Raises SettingsError if the state was restored from a bundle, which holds none.
    """
    if (folder / "vae_encoder.pt").exists():
        return load_average(folder, "vae_encoder", "encoder")
    try:
        return load_average(folder, "mel_vae", "encoder")
    except KeyError:
        raise SettingsError(
            f"{folder}: a VAE without encoder", "both halves", "train stage vae_encoder first"
        ) from None


def load_decoder(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the VAE's decoder: of stage `sound` if that was trained, else of `mel_vae`."""
    return load_average(folder, choose_last(folder, "mel_vae"), "decoder")


def load_hifigan(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the vocoder: of stage `sound` if that was trained, else of `vocoder`."""
    return load_average(folder, choose_last(folder, "vocoder"), "hifigan")


def choose_last(folder: Path, stage: str) -> str:
    """The stage that trained the networks of `stage` last: `sound`, if that was trained."""
    return "sound" if (folder / "sound.pt").exists() else stage


def read_curves(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of `folder`/STAGE.jsonl; none if the stage was not trained there."""
    path = folder / f"{stage}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
