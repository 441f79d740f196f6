"""The clips of a pack: Opus and FLAC in archives, and the corpus that they become. No torch: many processes run this.

Speech and music travel. Environmental sound is made on the machine, by the programs of `corpus/environment.py`. What
is mixed into a quarter of its clips comes from the first piece of the pack, as do the recordings of one program. A pack
that was made without recordings leaves this program out.
"""

from __future__ import annotations

import io
import json
import zipfile
from functools import cache, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.arrays import ArrayPlan
from sc_runtime.export.embedded.corpus.clips import Generators, make_clip
from sc_runtime.export.embedded.corpus.command import make_pcm
from sc_runtime.export.embedded.corpus.effects import PROGRAM, make_recordings
from sc_runtime.export.embedded.corpus.environment import TRAINED_PROGRAMS, Program, make_sound
from sc_runtime.export.embedded.corpus.signals import Signal
from sc_runtime.export.embedded.corpus.speeds import list_sets, locate_clips, plan_sped
from sc_runtime.export.embedded.corpus.splits import DOMAINS, Domain, Split, pick
from sc_runtime.export.embedded.training.filterbanks import choose_lengths, compute_fbank
from sc_runtime.semanticodec.config import MEL_BINS, SAMPLE_RATE, SEGMENT_FRAMES, SEGMENT_SAMPLES

CARRIED: tuple[Domain, ...] = ("speech", "music")  #: domains whose clips travel
#: In the first piece: how many clips there are of each carried domain, whether there are recordings, and the updates
#: of the weights.
INDEX = "pack.json"
HELD_OUT = "held-out.zip"
RECORDINGS = "recordings.zip"  #: the training recordings of `corpus/effects.py`
SLOWEST, FASTEST = 6, 256  #: kbit/s at libsndfile's compression levels 1 and 0


def encode_opus(rate: float, clip: np.ndarray) -> bytes:
    """`clip` int16 [n] at 16 kHz as Opus of about `rate` kbit/s."""
    import soundfile

    file = io.BytesIO()
    level = 1 - (rate - SLOWEST) / (FASTEST - SLOWEST)
    soundfile.write(file, clip, SAMPLE_RATE, format="OGG", subtype="OPUS", compression_level=level)
    return file.getvalue()


def decode(content: bytes) -> np.ndarray:
    """The clip int16 [n] in an Opus or FLAC file."""
    import soundfile

    return soundfile.read(io.BytesIO(content), dtype="int16")[0]


def encode_flac(clip: np.ndarray) -> bytes:
    """`clip` int16 [n] at 16 kHz as FLAC, which loses nothing."""
    import soundfile

    file = io.BytesIO()
    soundfile.write(file, clip, SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def name_clip(domain: str, row: int) -> str:
    return f"{domain}-{row:05}.opus"


def name_archive(piece: int) -> str:
    """The archive of a piece's clips. Pieces are numbered from 0."""
    return f"clips-{piece:02}.zip"


def read_held_out(pack: Path) -> np.ndarray:
    """The held-out clips of a pack, int16 [3 M, 163840], the domains one after another."""
    with zipfile.ZipFile(pack / HELD_OUT) as archive:
        return np.stack([decode(archive.read(name)) for name in archive.namelist()])


def read_index(pack: Path) -> tuple[int, bool]:
    """(training clips of each domain, whether the pack has recordings).

    Raises SettingsError if `pack` is none, or lacks its first piece.
    """
    try:
        index = json.loads((pack / INDEX).read_text())
        return int(index["clips"]), bool(index["recordings"])
    except (OSError, ValueError, KeyError):
        raise SettingsError(f"--pack {pack}", f"a folder with {INDEX}: the pieces that `pack` wrote") from None


def read_count(pack: Path) -> int:
    """The number of training clips of each domain. Raises SettingsError if `pack` is none, or lacks a piece."""
    return read_index(pack)[0]


def check_pieces(pack: Path) -> None:
    """Raises SettingsError if clips are missing: a piece has not come."""
    names = open_archives(pack)
    wanted = [name_clip(domain, row) for domain in CARRIED for row in range(read_count(pack))]
    if missing := [name for name in wanted if name not in names]:
        raise SettingsError(
            f"{len(missing)} clips are not in {pack}, {missing[0]} for one",
            f"{len(wanted)} clips",
            "copy the other pieces there",
        )


@cache
def open_archives(pack: Path) -> dict[str, zipfile.ZipFile]:
    """The archive that holds each clip, by the clip's name, of the pieces that are there at the first call."""
    archives = [zipfile.ZipFile(path) for path in sorted(pack.glob("clips-*.zip"))]
    return {name: archive for archive in archives for name in archive.namelist()}


def read_clip(pack: Path, domain: str, row: int) -> npt.NDArray[np.int16]:
    name = name_clip(domain, row)
    return decode(open_archives(pack)[name].read(name))


def make_sound_clip(pack: Path, index: int) -> npt.NDArray[np.int16]:
    """Clip `index` of environmental sound, as `make_clip` makes it, but with carried clips for the other domains."""
    sound = partial(make_sound, programs=list_programs(pack))
    carried: Generators = {domain: partial(draw_carried, pack, domain) for domain in CARRIED}
    return make_pcm(partial(make_clip, "sound", "train", generators={"sound": sound, **carried}), index)


def list_programs(pack: Path) -> dict[str, Program]:
    """The sound programs of training. The one that plays recordings reads those of the pack, or is left out."""
    programs = dict(TRAINED_PROGRAMS)
    if read_index(pack)[1]:
        programs[PROGRAM] = partial(make_recordings, read=partial(read_recording, pack))
    else:
        del programs[PROGRAM]
    return programs


def read_recording(pack: Path, name: str) -> Signal:
    """A recording of the pack: float32 [samples] at 16 kHz, the samples that `effects.read_recording` gives."""
    with zipfile.ZipFile(pack / RECORDINGS) as archive:
        return decode(archive.read(f"{name}.flac")).astype(np.float32) / np.float32(32768)


def draw_carried(pack: Path, domain: str, rng: np.random.Generator, split: Split, length: int) -> Signal:
    """A random clip of the pack's first piece, its first `length` samples."""
    with zipfile.ZipFile(pack / name_archive(0)) as archive:
        name = pick(rng, [name for name in archive.namelist() if name.startswith(f"{domain}-")])
        return decode(archive.read(name))[:length].astype(np.float32) / np.float32(32768)


def plan_sound(pack: Path, corpus: Path) -> ArrayPlan:
    """The array of environmental sound, which needs the first piece alone."""
    make = partial(make_sound_clip, pack)
    return ArrayPlan(locate_clips(corpus, "sound"), read_count(pack), (SEGMENT_SAMPLES,), np.int16, make)


def plan_carried(pack: Path, corpus: Path, versions: int) -> list[ArrayPlan]:
    """The arrays of the carried domains, of all clips at `versions` other speeds, and of the filterbanks of all clips.

    `training` looks for them there.
    """
    count = read_count(pack)
    plans = [
        ArrayPlan(locate_clips(corpus, domain), count, (SEGMENT_SAMPLES,), np.int16, partial(read_clip, pack, domain))
        for domain in CARRIED
    ]
    rows = len(DOMAINS) * count * (1 + versions)
    fbank = partial(make_fbank, corpus, count, rows)
    fbanks = ArrayPlan(corpus / "fbanks.npy", rows, (SEGMENT_FRAMES, MEL_BINS), np.float16, fbank)
    return [*plans, *plan_sped(corpus, count, versions), fbanks]


def make_fbank(corpus: Path, count: int, rows: int, row: int) -> npt.NDArray[np.float16]:
    """The filterbank of clip `row` of all `rows` clips, in the order of `list_sets`; `count` is that of each array."""
    paths = [path for paths in list_sets(corpus) for path in paths]
    clips = np.load(paths[row // count], mmap_mode="r")
    return compute_fbank(clips[row % count], int(choose_lengths(rows)[row]))
