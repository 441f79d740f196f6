"""Sound in files, streams and arrays: reading it as a codec takes it, and writing it.

`recording` is what a codec reads; `arrays` and `files` are its sources, `blocks` the steps that all sources share.
`folders` finds files. `writing` is the way back.
"""

from .blocks import check_seconds, count_resampled
from .folders import AUDIO_SUFFIXES, find_audio
from .recording import Audio, AudioSource, measure
from .writing import OUTPUT_FORMATS, AudioWriter, audio_writer, save_audio

__all__ = [
    "AUDIO_SUFFIXES",
    "OUTPUT_FORMATS",
    "Audio",
    "AudioSource",
    "AudioWriter",
    "audio_writer",
    "check_seconds",
    "count_resampled",
    "find_audio",
    "measure",
    "save_audio",
]
