"""Files in a folder, found by their suffixes."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from sc_runtime.errors import AudioError, AudioWarning

#: Suffixes of the files that a folder scan finds, with libsndfile's name of the format.
AUDIO_SUFFIXES = {
    ".aif": "AIFF",
    ".aifc": "AIFF",
    ".aiff": "AIFF",
    ".au": "AU",
    ".caf": "CAF",
    ".flac": "FLAC",
    ".mp1": "MP3",
    ".mp2": "MP3",
    ".mp3": "MP3",
    ".mpga": "MP3",
    ".oga": "OGG",
    ".ogg": "OGG",
    ".opus": "OGG",
    ".rf64": "RF64",
    ".snd": "AU",
    ".sph": "NIST",
    ".w64": "W64",
    ".wav": "WAV",
    ".wave": "WAV",
}
#: Suffixes of audio files that libsndfile does not read.
UNREADABLE_SUFFIXES = (
    *(".3gp", ".aac", ".ac3", ".amr", ".ape", ".asf", ".avi", ".dff", ".dsf", ".dts", ".eac3", ".flv", ".m4a", ".m4b"),
    *(".m4v", ".mka", ".mkv", ".mov", ".mp4", ".mpc", ".mpeg", ".mpg", ".ra", ".shn", ".spx", ".tak", ".tta", ".vob"),
    *(".webm", ".wma", ".wmv", ".wv"),
)
#: Endings of the names that `sc-runtime` gives to decoded sound, by default.
DECODED, ROUNDTRIP = ".decoded.wav", ".roundtrip.wav"


@dataclass
class Scan:
    """The result of searching a folder.

    files: the files that were found, sorted.
    left_out: kind -> the number of files and folders that were left out and that the user may expect.
    errors: why a folder in it cannot be listed, a sentence each.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def describe_left_out(self) -> str:
        """Such as "1 hidden file, 2 unreadable .m4a files". "" if there are none."""
        return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(self.left_out.items()))

    def explain(self) -> str:
        """Why there may be fewer files than expected. "" if nothing is known."""
        left_out = self.describe_left_out()
        return ", ".join([*self.errors, f"left out {left_out}"] if left_out else self.errors)


def scan_folder(
    folder: str | os.PathLike[str],
    suffixes: Iterable[str],
    unreadable: Iterable[str] = (),
    outputs: tuple[str, ...] = (),
) -> Scan:
    """Find the files with one of `suffixes` in `folder` and the folders in it.

    Hidden files, hidden folders and linked folders are left out: a link may lead back to a folder above it. Files with
    a suffix in `unreadable`, and files whose name ends with one of `outputs`, are left out too.
    """
    scan, suffixes, unreadable = Scan(), frozenset(suffixes), frozenset(unreadable)

    def fail(error: OSError) -> None:
        scan.errors.append(f"{error.filename}: {error.strerror}")

    for root, folders, names in os.walk(folder, onerror=fail):
        for name in list(folders):
            path = Path(root, name)
            kind = "hidden folder" if name.startswith(".") else "linked folder" if path.is_symlink() else ""
            if kind:
                scan.left_out[kind] += 1
                folders.remove(name)
        for name in names:
            path = Path(root, name)
            suffix = path.suffix.lower()
            if suffix in unreadable and not name.startswith("."):
                scan.left_out[f"unreadable {suffix} file"] += 1
            if suffix not in suffixes:
                continue
            if name.startswith("."):
                scan.left_out["hidden file"] += 1
            elif name.lower().endswith(outputs):
                scan.left_out["earlier output"] += 1
            elif path.is_file():
                scan.files.append(path)
            else:
                scan.left_out["broken link" if path.is_symlink() else "special file"] += 1
    scan.files.sort()
    return scan


def scan_audio(folder: str | os.PathLike[str]) -> Scan:
    """Find the audio files in `folder`. Raises AudioError if there are none."""
    import soundfile

    formats = soundfile.available_formats()
    suffixes = [suffix for suffix, name in AUDIO_SUFFIXES.items() if name in formats]
    scan = scan_folder(folder, suffixes, UNREADABLE_SUFFIXES, (DECODED, ROUNDTRIP))
    if not scan.files:
        given = f"{folder}: no audio in this folder"
        if detail := scan.explain():
            given += f" ({detail})"
        raise AudioError(given, "files in " + " ".join(sorted(suffixes)))
    return scan


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Audio files in `folder` and the folders in it, by suffix, sorted. Hidden files and linked folders are left out.

    An AudioWarning states what was left out that the user may expect. Raises AudioError if there is no audio file, or
    if a folder cannot be listed.
    """
    scan = scan_audio(folder)
    if scan.errors:
        raise AudioError(scan.errors[0], "folders that can be listed")
    if scan.left_out:
        warnings.warn(f"{folder}: left out {scan.describe_left_out()}", AudioWarning, stacklevel=2)
    return scan.files
