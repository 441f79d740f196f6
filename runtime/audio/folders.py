"""Audio files in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from sc_runtime.errors import AudioError

#: Suffixes of the files that a folder scan finds, with libsndfile's name of the format.
AUDIO_SUFFIXES = {
    ".aif": "AIFF",
    ".aifc": "AIFF",
    ".aiff": "AIFF",
    ".au": "AU",
    ".caf": "CAF",
    ".flac": "FLAC",
    ".mp3": "MP3",
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


def find_audio(folder: str | os.PathLike[str]) -> list[Path]:
    """Audio files in `folder` and the folders in it, by suffix, sorted. Hidden files are left out.

    Raises AudioError if there are none.
    """
    import soundfile

    formats = soundfile.available_formats()
    suffixes = {suffix for suffix, name in AUDIO_SUFFIXES.items() if name in formats}
    found = sorted(
        path
        for path in Path(folder).rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not found:
        raise AudioError(f"{folder}: no audio in this folder", "files in " + " ".join(sorted(suffixes)))
    return found
