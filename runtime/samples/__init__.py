"""The recording that the demo encodes and that exports are calibrated on."""

from pathlib import Path

#: A spoken sentence, then a tune: 10 s, mono at 16 kHz. The embedded model knows neither voice nor instrument.
SPEECH_AND_MUSIC = Path(__file__).with_name("speech_and_music.flac")
