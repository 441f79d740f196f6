"""Which weights a training on a GPU continues from, and which of them come back though they were not trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.training.assembly import AUTOENCODER
from sc_runtime.export.embedded.training.states import read_state

from .packing import INPUTS, STAGES, copy_whole
from .stages import RETURNED, STATE, read_head

TOKENS_COME_FROM = ("audiomae", "mel_vae")  #: stages whose outputs the tokens are made of

#: Stage -> the other stages whose weights it computes with, and the network of each that must be there.
NEEDED = {
    "vocoder": {"mel_vae": "encoder"},
    "tokens": {"audiomae": AUTOENCODER, "mel_vae": "encoder"},
    "diffusion": {"audiomae": AUTOENCODER, "mel_vae": "encoder", "tokens": "acoustic_encoder"},
}


def check_starts(only: str, folder: Path) -> None:
    """Raises SettingsError if a stage of `only` would lack weights: none in `folder`, none trained before.

    The shipped model is one example: it has no encoder of the VAE. `only`: stages, comma-separated; "" trains all.
    """
    trained = tuple(filter(None, only.split(",")))
    for stage in trained:
        for needed, network in NEEDED.get(stage, {}).items():
            if needed not in trained and not has_average(folder / f"{needed}.pt", network):
                raise SettingsError(
                    f"--only {only}: {stage} needs the {network} of {needed}, which the weights to start from lack",
                    "stages whose weights are there or are trained",
                    f"add {needed} to --only, or give a --state that has them",
                )
    if "diffusion" in trained and "tokens" not in trained and set(TOKENS_COME_FROM) & set(trained):
        raise SettingsError(
            f"--only {only}", "tokens too: those that are there were made of another AudioMAE or VAE", "add tokens"
        )


def has_average(path: Path, network: str) -> bool:
    """Whether the state of a stage has averaged weights of `network`."""
    return path.exists() and network in read_state(path)["averages"]


def lay_starts(pack: Path, work: Path, out: Path, trained: Sequence[str]) -> None:
    """Lay the weights of the pack where training continues from, unless an earlier call has done so.

    Those of an earlier call, or of the pack, come back too, so that what comes back is complete. The T-UNet's do not
    before they have been trained on this call's latents. The tokens' do if they are not `trained` now.

    The pack's tokens, with their centroids and scale factor, belong to the pack's AudioMAE and VAE. They are left out
    if one of these is trained now, or was by an earlier call.
    """
    state, returned = work / STATE, work / RETURNED
    for folder in (state, returned):
        folder.mkdir(parents=True, exist_ok=True)
    if not (state / "fbanks.npy").exists():
        (state / "fbanks.npy").symlink_to(work / "corpus" / "fbanks.npy")
    steps = {stage: read_head(returned / f"{stage}.pt", "steps") for stage in STAGES}
    changed = {stage for stage in TOKENS_COME_FROM if stage in trained or steps[stage]}
    inputs_are_kept = (pack / "tokens.pt").exists() and not changed
    if changed and not steps["tokens"]:
        for folder in (returned, out):
            (folder / "tokens.pt").unlink(missing_ok=True)
    tokens_are_kept = inputs_are_kept and "tokens" not in trained
    made_now = {"diffusion"} if tokens_are_kept else {"tokens", "diffusion"}
    for name in INPUTS if inputs_are_kept else ():
        if not (state / name).exists():
            copy_whole(pack / name, state / name)
    for stage in STAGES:
        start = pack / f"{stage}.pt"
        for folder in (state,) if stage in made_now else (state, returned):
            if start.exists() and not (folder / start.name).exists():
                copy_whole(start, folder / start.name)
        if (returned / start.name).exists():
            copy_whole(returned / start.name, out / start.name)
