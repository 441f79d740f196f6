"""Audio in files, streams and arrays: read in the form that a codec needs, and written.

`recording` opens a source, which `arrays` or `files` reads. `blocks` has the steps that all sources share. `layout`
lists the modules that find the length of a file. `folders` finds files, and `writing` writes them.
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
