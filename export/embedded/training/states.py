"""What trainings have left in a state's folder: averaged weights and curves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sc_runtime.errors import SettingsError


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
    """The averaged weights of the VAE's decoder; if stage `vae_decoder` was trained, halfway between before and after.

    Weights between a network and its further training can have the virtues of both (Wortsman et al. 2022, "Robust
    fine-tuning of zero-shot models"). Measured on 2026-11-27, over 12 clips of speech: before, halfway, after: STOI
    0.75, 0.77, 0.78; words that PocketSphinx mistakes, of 12 sentences with two seeds: 67, 68, 76 %.
    """
    before = load_average(folder, "mel_vae", "decoder")
    if not (folder / "vae_decoder.pt").exists():
        return before
    return blend(before, load_average(folder, "vae_decoder", "decoder"), 0.5)


def load_hifigan(folder: Path) -> dict[str, Tensor]:
    """The averaged weights of the vocoder; if `vocoder_before.pt` is there, most of the way from it to `vocoder.pt`.

    It is the state from which a trained vocoder was trained on with other losses. Measured on 2026-11-27, 6 clips a
    domain, before, 0.7 and 0.85 of the way, after: STOI of speech 0.750, 0.754, 0.753, 0.751; mel distance of speech
    2.08, 2.03, 2.03, 2.04, of music 2.49, 2.29, 2.27, 2.26.
    """
    after = load_average(folder, "vocoder", "hifigan")
    if not (folder / "vocoder_before.pt").exists():
        return after
    return blend(load_average(folder, "vocoder_before", "hifigan"), after, 0.8)


def blend(before: dict[str, Tensor], after: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights between those of a network and those of its further training, float32; `share` 1 is after it."""
    return {name: torch.lerp(tensor.float(), after[name].float(), share) for name, tensor in before.items()}


def read_curves(folder: Path, stage: str) -> list[dict[str, Any]]:
    """The lines of `folder`/STAGE.jsonl; none if the stage was not trained there."""
    path = folder / f"{stage}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
