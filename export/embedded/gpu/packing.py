"""What travels to the machine with the GPU: clips as Opus, held-out clips as FLAC, the weights to continue from.

Clips and weights travel in pieces of at most what a call takes. Each piece is a folder of files. On the machine all
pieces are copied into one folder, the pack.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor

from sc_runtime.bundle.store import EMBEDDED as EMBEDDED_BUNDLE
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.effects import decode_recording, recordings_of
from sc_runtime.export.embedded.corpus.splits import DOMAINS, Domain
from sc_runtime.export.embedded.training.assembly import load_audiomae
from sc_runtime.export.embedded.training.caching import Sources, is_current
from sc_runtime.export.embedded.training.preparation import CENTROIDS, SCALE_FACTOR, describe_audiomae, describe_vae
from sc_runtime.export.embedded.training.restoring import restore_bundle
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.embedded.training.states import (
    load_average,
    load_decoder,
    load_encoder,
    load_hifigan,
    read_state,
)
from sc_runtime.export.semanticodec.networks.sizes import EMBEDDED
from sc_runtime.files import replacing

from .clip_files import encode_flac, encode_opus, name_archive, name_clip

STAGES = ("audiomae", "mel_vae", "vocoder", "tokens", "diffusion")
INPUTS = (CENTROIDS, SCALE_FACTOR)  #: files that belong to trained tokens
Networks = Mapping[str, Mapping[str, Tensor]]

ENTRY_BYTES = 200  #: of a file in an archive, at most, besides its name and content


def encode_clips(corpus: Path, domain: Domain, count: int, rate: float, folder: Path, progress: Progress) -> None:
    """Write `folder`/DOMAIN-ROW.opus for the first `count` training clips. Files of an earlier call are kept."""
    clips = np.load(find_array(corpus, f"train-{domain}"), mmap_mode="r")
    if count > len(clips):
        raise SettingsError(f"--clips {count}", f"at most {len(clips)}, the clips of {domain} in {corpus}")
    folder.mkdir(parents=True, exist_ok=True)
    task = progress.add_task(domain, total=count)
    missing = [row for row in range(count) if not (folder / name_clip(domain, row)).exists()]
    progress.update(task, completed=count - len(missing))
    for row in missing:
        with replacing(folder / name_clip(domain, row)) as temporary:
            temporary.write_bytes(encode_opus(rate, clips[row]))
        progress.advance(task)


def find_array(corpus: Path, name: str) -> Path:
    """The path of an array of the corpus. Raises SettingsError if it is not there."""
    path = corpus / f"{name}.npy"
    if not path.is_file():
        raise SettingsError(f"--corpus {corpus}", f"a folder with {path.name}", "run python -m export.embedded.corpus")
    return path


def encode_held_out(corpus: Path, count: int, path: Path) -> None:
    """Write the first `count` held-out clips of each domain as FLAC into the archive `path`."""
    with zipfile.ZipFile(path, "w") as archive:
        for domain in DOMAINS:
            for row, clip in enumerate(np.load(find_array(corpus, f"held-out-{domain}"))[:count]):
                archive.writestr(f"{domain}-{row:05}.flac", encode_flac(clip))


def encode_recordings(path: Path) -> None:
    """Write the training recordings of `corpus/effects.py` as FLAC into the archive `path`.

    Raises MissingExtraError if they are not installed.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name in recordings_of("train"):
            archive.writestr(f"{name}.flac", encode_flac(decode_recording(name)))


def copy_starts(state: Path | None, folder: Path) -> dict[str, int]:
    """Write `folder`/STAGE.pt: the averaged weights in `state`, or without it those of the shipped model, as float16.

    Returns the updates that each stage has had. A stage that has no weights is left out: it starts with random ones.
    Tokens bring the centroids and the scale factor with which they were trained. VAE and vocoder are those of the
    stages `vae_encoder` and `sound` where these were trained. Raises SettingsError.
    """
    steps = {}
    with TemporaryDirectory() as temporary:
        if state is None:
            state = Path(temporary)
            restore_bundle(Bundle.load(EMBEDDED_BUNDLE), EMBEDDED, TRAINED, state)
        elif not any((state / f"{stage}.pt").is_file() for stage in STAGES):
            raise SettingsError(f"--state {state}", "a folder with a state of the training, such as vocoder.pt")
        for stage in STAGES:
            if (state / f"{stage}.pt").is_file():
                found = read_state(state / f"{stage}.pt")
                averages = {**found["averages"], **load_last(state, stage)}
                more = check_inputs(state) if stage == "tokens" else {}
                write_halves(folder / f"{stage}.pt", averages, found["networks"], 0, 0.0, **more)
                steps[stage] = found["steps"]
        for name in INPUTS if "tokens" in steps else ():
            copy_whole(state / name, folder / name)
    return steps


def load_last(state: Path, stage: str) -> Networks:
    """The averaged weights of those networks of `stage` that other stages may have trained further.

    A VAE from a bundle may have no encoder.
    """
    if stage == "vocoder":
        return {"hifigan": load_hifigan(state)}
    if stage != "mel_vae":
        return {}
    encoder_is_there = (state / "vae_encoder.pt").is_file() or "encoder" in read_state(state / "mel_vae.pt")["averages"]
    return {"decoder": load_decoder(state), **({"encoder": load_encoder(state)} if encoder_is_there else {})}


def check_inputs(state: Path) -> dict[str, Any]:
    """The centroids and the scale factor with which the tokens in `state` were trained. Raises SettingsError."""
    sources: dict[str, Sources] = {CENTROIDS: {}, SCALE_FACTOR: {}}
    if (state / "audiomae.pt").is_file():
        sources[CENTROIDS] = describe_audiomae(load_audiomae(state))
    if (state / "mel_vae.pt").is_file():
        sources[SCALE_FACTOR] = describe_vae(load_average(state, "mel_vae", "decoder"))
    for name in INPUTS:
        if not is_current(state / name, sources[name], may_be_given=True):
            found = "of another AudioMAE or VAE" if (state / name).exists() else "missing"
            given = f"--state {state}: tokens.pt, and {name} {found}"
            raise SettingsError(given, "what the tokens were trained with", "remove both, and train stage tokens there")
    return read_inputs(state)


def read_inputs(folder: Path) -> dict[str, Any]:
    """The centroids, float16, and the scale factor in `folder`, as the states of tokens and T-UNet bring them along."""
    return {
        "centroids": torch.from_numpy(np.load(folder / CENTROIDS)).half(),
        "scale_factor": json.loads((folder / SCALE_FACTOR).read_text()),
    }


def write_halves(path: Path, averages: Networks, networks: Networks, steps: int, seconds: float, **more: Any) -> None:
    """Write a stage's state of float16 weights, without an optimiser; `training.loop.restore` reads it.

    Networks that have averages are written as these. The others, the discriminators, are written as they are.
    """
    states = {**networks, **averages}
    halves = {name: {key: halve(tensor) for key, tensor in state.items()} for name, state in states.items()}
    kept = {"networks": halves, "averages": {name: halves[name] for name in averages}, "optimizers": {}}
    state = {"steps": steps, "seconds": seconds, **kept, **more}
    with replacing(path) as temporary:
        torch.save(state, temporary)


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that `target` is never half of one."""
    temporary = target.with_name(f"{target.name}.part")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def halve(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.half() if tensor.is_floating_point() else tensor.clone()


def cut_pieces(first: Iterable[Path], clips: Iterable[Path], folder: Path, room: int) -> list[Path]:
    """Write the pieces `folder`/piece0, piece1, ... of at most `room` bytes each; returns their folders.

    The first piece has the files `first` besides clips. Raises SettingsError if a file does not fit.
    """
    for old in folder.glob("piece*"):
        shutil.rmtree(old)
    pieces: list[Path] = []
    left = 0
    archive: zipfile.ZipFile | None = None

    def begin() -> zipfile.ZipFile:
        place = folder / f"piece{len(pieces)}"
        place.mkdir(parents=True)
        pieces.append(place)
        return zipfile.ZipFile(place / name_archive(len(pieces) - 1), "w")

    archive = begin()
    left = room
    for path in first:
        shutil.copyfile(path, pieces[0] / path.name)
        left -= path.stat().st_size
    if left < 0:
        raise SettingsError(f"weights and held-out clips of {room - left} bytes", f"at most {room}", "use --held-out 4")
    for path in clips:
        size = path.stat().st_size + 2 * len(path.name) + ENTRY_BYTES
        if size > left:
            archive.close()
            archive, left = begin(), room
        archive.write(path, path.name)
        left -= size
    archive.close()
    return pieces


def list_clips(folder: Path, domains: Sequence[str], count: int) -> list[Path]:
    """The Opus files in `folder`, the domains in turn, so that the first piece has some of each."""
    return [folder / name_clip(domain, row) for row in range(count) for domain in domains]


def write_index(path: Path, clips: int, recordings: bool, steps: Mapping[str, int]) -> None:
    path.write_text(json.dumps({"clips": clips, "recordings": recordings, "steps": dict(steps)}))
