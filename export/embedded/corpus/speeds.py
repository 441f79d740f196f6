"""Training clips again at other speeds: other voices, keys and rooms, for the price of a resampling.

Speed perturbation (Ko et al. 2015, "Audio augmentation for speech recognition") moves pitch, formants and tempo
together.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sc_runtime.semanticodec.config import SAMPLE_RATE, SEGMENT_SAMPLES

from .arrays import ArrayPlan
from .clips import seed_generator
from .splits import DOMAINS, Domain

SLOWER, FASTER = (0.8, 0.94), (1.06, 1.25)  #: ranges of the speeds; half of the clips are slower


def locate_clips(corpus: Path, domain: Domain) -> Path:
    """The array of the training clips of a domain."""
    return corpus / f"train-{domain}.npy"


def locate_sped(corpus: Path, domain: Domain, version: int) -> Path:
    """The array of the same clips at other speeds. Versions are numbered from 0 and differ in their speeds."""
    return corpus / f"sped{version}-{domain}.npy"


def list_sets(corpus: Path) -> list[list[Path]]:
    """The arrays of all training clips: those of each domain, then those of each version at other speeds."""
    sets = [[locate_clips(corpus, domain) for domain in DOMAINS]]
    while (sped := [locate_sped(corpus, domain, len(sets) - 1) for domain in DOMAINS])[0].exists():
        sets.append(sped)
    return sets


def plan_sped(corpus: Path, count: int, versions: int) -> list[ArrayPlan]:
    """The arrays at other speeds, of `count` clips each. Those of the training clips must be written before them."""
    return [
        ArrayPlan(
            locate_sped(corpus, domain, version),
            count,
            (SEGMENT_SAMPLES,),
            np.int16,
            partial(make_sped_clip, corpus, domain, version),
        )
        for version in range(versions)
        for domain in DOMAINS
    ]


def make_sped_clip(corpus: Path, domain: Domain, version: int, index: int) -> npt.NDArray[np.int16]:
    """Training clip `index` at another speed, int16 [163840]. A faster clip ends with the beginning of the next one.

    A pure function of its arguments and of both clips.
    """
    import soxr

    clips = np.load(locate_clips(corpus, domain), mmap_mode="r")
    rng = seed_generator("speed", domain, version * len(clips) + index)
    speed = float(rng.uniform(*(SLOWER if rng.random() < 0.5 else FASTER)))
    taken = np.concatenate([clips[index], clips[(index + 1) % len(clips)]])[: round(SEGMENT_SAMPLES * speed) + 2]
    sped = soxr.resample(taken.astype(np.float32), SAMPLE_RATE * speed, SAMPLE_RATE, quality="HQ")
    return np.clip(np.round(sped[:SEGMENT_SAMPLES]), -32768, 32767).astype(np.int16)
