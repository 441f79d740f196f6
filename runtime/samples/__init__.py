"""The recording that the demo encodes and that exports are calibrated on."""

from pathlib import Path

#: Six seconds of speech, then six of music, mono at 16 kHz. No embedded model was trained on it.
SPEECH_AND_MUSIC = Path(__file__).with_name("speech_and_music.flac")
