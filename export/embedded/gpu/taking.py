"""What came back from the GPU becomes a state that the training continues from and that `assemble` reads."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.training.assembly import AUTOENCODER, take_encoder
from sc_runtime.export.embedded.training.caching import drop, write_record
from sc_runtime.export.embedded.training.preparation import (
    CENTROIDS,
    CONTEXT,
    SCALE_FACTOR,
    describe_audiomae,
    describe_vae,
)
from sc_runtime.export.embedded.training.states import FURTHER
from sc_runtime.files import replacing, write_atomically

from .packing import STAGES
from .stages import LOSSES

RETURNED_TAR = "trained.tar."  #: before the numbers of the parts that come back
COPY_AGAIN = "copy all parts there again, or make the last call again"
END_BYTES = 1024  #: zeros, at least, at the end of a tar archive
CACHES = ("features.npy", "semantic.npy", "latents.npy", CENTROIDS, CONTEXT, SCALE_FACTOR)  #: of other weights


@contextmanager
def join_parts(folder: Path) -> Iterator[Path]:
    """A folder with the files that came back in parts in `folder`; `folder` itself if there are no parts.

    Raises SettingsError if a part is missing or is not whole.
    """
    parts = find_parts(folder)
    if not parts:
        yield folder
        return
    archive = b"".join(part.read_bytes() for part in parts)
    with TemporaryDirectory() as place:
        try:
            unpack_whole(archive, Path(place))
        except tarfile.TarError as error:
            given = f"{folder} with {len(parts)} parts of {RETURNED_TAR}* ({error})"
            raise SettingsError(given, "a whole archive", COPY_AGAIN) from None
        yield Path(place)


def find_parts(folder: Path) -> list[Path]:
    """The parts in `folder`, in order. Raises SettingsError if their numbers have a gap."""
    found = {path.name.removeprefix(RETURNED_TAR): path for path in folder.glob(f"{RETURNED_TAR}*")}
    parts = {int(number): path for number, path in found.items() if number.isdecimal()}
    if missing := set(range(max(parts, default=0))) - set(parts):
        given = f"{folder} with no part {min(missing)} of {RETURNED_TAR}*"
        raise SettingsError(given, f"parts 0 to {max(parts)}", COPY_AGAIN)
    return [parts[number] for number in sorted(parts)]


def unpack_whole(archive: bytes, place: Path) -> None:
    """Unpack `archive` to the folder `place`. Raises TarError if it is not whole.

    `tarfile` stops without an error where the archive is cut between two files, and at a header that is none.
    """
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
        opened.extractall(place, filter="data")
        rest = archive[opened.offset :]  # after the last file that was read
    if len(rest) < END_BYTES or rest.strip(b"\0"):
        raise tarfile.ReadError("the end of the archive is not where its files end")


def take_back(folder: Path, state: Path, came: Path | None = None) -> tuple[list[str], list[str]]:
    """Copy the stages in `folder` to `state`; returns the names of those that were there and of those that were not.

    came: the folder that errors name, if `folder` is only where its parts were joined.

    All that `state` keeps of other weights is removed. The tokens and the T-UNet bring the centroids and the scale
    factor with which they were trained. Raises SettingsError if nothing came back, if `state` holds a stage that came
    back, or if the tokens or the T-UNet were trained with other weights than those that are beside them.
    """
    came = came or folder
    found = {stage: read_stage(folder, stage, came) for stage in STAGES if (folder / f"{stage}.pt").is_file()}
    if not found:
        raise SettingsError(f"{came}", f"a folder with one of {', '.join(f'{stage}.pt' for stage in STAGES)}")
    if there := [stage for stage in (*found, *FURTHER) if (state / f"{stage}.pt").exists()]:
        raise SettingsError(f"{state} with {there[0]}.pt", "a folder without a training", "give a new one")
    for made in [stage for stage in ("tokens", "diffusion") if stage in found]:
        for stage, steps in found[made].get("made_with", {}).items():
            if stage not in found or found[stage]["steps"] != steps:
                have = found[stage]["steps"] if stage in found else "none"
                raise SettingsError(
                    f"{stage}.pt of {have} updates",
                    f"of {steps}, with which {made}.pt was trained",
                    f"take the files of one call, or remove {made}.pt",
                )
    state.mkdir(parents=True, exist_ok=True)
    for name in CACHES:
        drop(state / name)
    for stage in found:
        with replacing(state / f"{stage}.pt") as temporary:
            torch.save(found[stage], temporary)
    makers = [found[stage] for stage in ("diffusion", "tokens") if "centroids" in found.get(stage, {})]
    if makers:
        lay_inputs(state, makers[0], found)
    split_losses(folder / LOSSES, state)
    return list(found), [stage for stage in STAGES if stage not in found]


def lay_inputs(state: Path, made: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the centroids and the scale factor that `made` brings, and with which of the stages `found` they belong."""
    if "audiomae" in found:
        audiomae = take_encoder(found["audiomae"]["averages"][AUTOENCODER])
        write_record(state / CENTROIDS, describe_audiomae(audiomae))
    with replacing(state / CENTROIDS) as temporary, temporary.open("wb") as file:
        np.save(file, made["centroids"].float().numpy())
    if "mel_vae" in found:
        write_record(state / SCALE_FACTOR, describe_vae(found["mel_vae"]["averages"]["decoder"]))
    write_atomically(state / SCALE_FACTOR, json.dumps(made["scale_factor"]).encode())


def read_stage(folder: Path, stage: str, came: Path) -> dict[str, Any]:
    """The state of a stage in `folder`. Raises SettingsError, which names the folder `came`, if it is none."""
    try:
        return torch.load(folder / f"{stage}.pt", map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, KeyError, pickle.UnpicklingError):
        raise SettingsError(f"{stage}.pt of {came}", "a whole state of a stage", "remove it, or take another") from None


def split_losses(path: Path, state: Path) -> None:
    """Write the curve of each stage, `state`/STAGE.jsonl, from the lines of all stages."""
    curves: dict[str, list[str]] = {}
    for line in path.read_text().splitlines() if path.is_file() else []:
        entry = json.loads(line)
        curves.setdefault(entry.pop("stage"), []).append(json.dumps(entry))
    for stage, lines in curves.items():
        (state / f"{stage}.jsonl").write_text("".join(f"{line}\n" for line in lines))
