"""Speech: synthetic voices in many languages and a recorded one, saying words, numbers and invented words."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from sc_runtime.semanticodec.config import SAMPLE_RATE

from .prompts import TRAINED
from .signals import Signal
from .splits import Split, draw_within, pick, split_of
from .voices import EspeakVoice, FliteVoice, PiperVoice, trim
from .words import ACCENTS, HELD_OUT_LANGUAGES, TRAINED_LANGUAGES, syllables_of, words_of

#: Variants of espeak-ng's voices. No variant is in both lists, so no speaker is in both splits.
TRAINED_VARIANTS = (
    *("m1", "m2", "m3", "m4", "m5", "m6", "m8", "f1", "f2", "f3", "f5", "klatt", "klatt2", "klatt4", "klatt5", "Alex"),
    *("Alicia", "Andrea", "Andy", "Annie", "antonio", "aunty", "belinda", "benjamin", "boris", "caleb", "david"),
    *("Denis", "Diogo", "ed", "edward", "Gene", "grandma", "grandpa", "gustave", "Henrique", "Hugo", "iven", "iven2"),
    *("Jacky", "kaukovalta", "Lee", "linda", "Marco", "Mario", "max", "Michael", "michel", "mike", "Mr", "norbert"),
    *("paul", "pedro", "quincy", "RicishayMax", "RicishayMax2", "rob", "robert", "robosoft", "robosoft3", "robosoft5"),
    *("sandro", "shelby", "steph", "steph2", "travis", "Tweaky", "UniRobot", "victor", "whisper", "whisperf", "zac"),
    *("croak", "anikaRobot", "announcer"),
)
HELD_OUT_VARIANTS = ("m7", "f4", "klatt3", "adam", "anika", "iven3", "marcelo", "miguel", "Nguyen", "pablo", "steph3")
#: Voices that speak English naturally: flite's by name, and Piper's "joe".
TRAINED_VOICES = ("rms", "slt", "kal16", "joe", "joe")
HELD_OUT_VOICES = ("awb",)
NATURAL, RECORDED = 0.3, 0.25  #: shares of the training speakers; held-out speakers have no recorded ones


class Speaker(Protocol):
    """Someone whose speech a clip is made of."""

    def utter(self, rng: np.random.Generator, split: Split) -> Signal:
        """Some seconds of speech, with text of `split`: float32 [samples] at 16 kHz."""
        ...


@dataclass(frozen=True)
class Reader:
    """A synthetic voice that reads one or two sentences at a time."""

    voice: EspeakVoice | FliteVoice | PiperVoice

    def utter(self, rng: np.random.Generator, split: Split) -> Signal:
        sentences = [draw_sentence(rng, self.voice.language, split) for _ in range(int(rng.integers(1, 3)))]
        return trim(self.voice.speak(" ".join(sentences)))


def languages_of(split: Split) -> tuple[str, ...]:
    """The languages of a split. The held-out split also has the languages of training, by other speakers."""
    return TRAINED_LANGUAGES if split == "train" else TRAINED_LANGUAGES + HELD_OUT_LANGUAGES


def variants_of(split: Split) -> tuple[str, ...]:
    return TRAINED_VARIANTS if split == "train" else HELD_OUT_VARIANTS


def voices_of(split: Split) -> tuple[str, ...]:
    return TRAINED_VOICES if split == "train" else HELD_OUT_VOICES


def draw_speaker(rng: np.random.Generator, split: Split) -> Speaker:
    """A speaker of `split`: synthetic in any language, synthetic and natural in English, or recorded in Russian."""
    kind = rng.random()
    if kind < NATURAL:
        name = pick(rng, voices_of(split))
        stretch, tract = float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.9, 1.12))
        if name == "joe":
            return Reader(PiperVoice(int(rng.integers(2**31)), stretch, tract))
        return Reader(FliteVoice(name, stretch, tract))
    if split == "train" and kind < NATURAL + RECORDED:
        return TRAINED
    return Reader(draw_espeak(rng, split))


def draw_espeak(rng: np.random.Generator, split: Split) -> EspeakVoice:
    """A voice of espeak-ng. Half of the held-out ones speak a language that is never trained on."""
    unheard = split == "held-out" and rng.random() < 0.5
    language = pick(rng, HELD_OUT_LANGUAGES if unheard else TRAINED_LANGUAGES)
    if not unheard and rng.random() < 0.15:  # most recorded speech is English
        language = "en-us"
    return EspeakVoice(
        language=language,
        accent=pick(rng, (language, *ACCENTS.get(language, ()))),
        variant=pick(rng, variants_of(split)),
        pitch=int(rng.integers(20, 81)),
        speed=int(rng.integers(115, 225)),
        gap=int(rng.integers(0, 9)) if rng.random() < 0.4 else 0,
        tract=float(rng.uniform(0.88, 1.14)),
    )


@functools.cache
def vocabulary(language: str, split: Split) -> tuple[str, ...]:
    """The words of `language` that belong to `split`."""
    return tuple(word for word in words_of(language) if split_of(word) == split)


@functools.cache
def syllable_list(language: str) -> tuple[str, ...]:
    return tuple(syllables_of(language))


def draw_word(rng: np.random.Generator, language: str, split: Split) -> str:
    """A word of `split`: of the language (6 in 10), invented (3 in 10) or a number (1 in 10)."""
    kind = rng.random()
    if kind < 0.6:
        return pick(rng, vocabulary(language, split))

    def draw() -> str:
        if kind < 0.7:
            return str(int(rng.integers(0, 10 ** int(rng.integers(1, 6)))))
        syllables = syllable_list(language)
        return "".join(pick(rng, syllables) for _ in range(int(rng.integers(1, 4))))

    return draw_within(split, draw, str)


def draw_sentence(rng: np.random.Generator, language: str, split: Split) -> str:
    """Two to eleven words, some with a comma, and a final mark that shapes the intonation."""
    words = [draw_word(rng, language, split) for _ in range(int(rng.integers(2, 12)))]
    marked = [word + ("," if rng.random() < 0.12 else "") for word in words[:-1]]
    return " ".join([*marked, words[-1]]) + pick(rng, (".", ".", ".", "?", "!"))


def make_speech(rng: np.random.Generator, split: Split, length: int) -> Signal:
    """float32 [length] at 16 kHz: one speaker, or in one clip of four two or three who take turns."""
    count = 1 if rng.random() < 0.75 else int(rng.integers(2, 4))
    speakers = [draw_speaker(rng, split) for _ in range(count)]
    pause = float(rng.uniform(0.05, 0.9))
    parts: list[Signal] = []
    missing = length
    while missing > 0:
        speech = speakers[len(parts) // 2 % count].utter(rng, split)
        rest = np.zeros(int(SAMPLE_RATE * pause * rng.uniform(0.5, 1.5)), np.float32)
        parts += [speech * np.float32(0.1 / (np.sqrt(np.mean(np.square(speech))) + 1e-6)), rest]
        missing -= len(speech) + len(rest)
    return np.concatenate(parts)[:length]
