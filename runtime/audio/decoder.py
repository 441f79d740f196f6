"""A sound file that libsndfile decodes from start to end. The module is imported late, because it imports soundfile."""

from __future__ import annotations

import soundfile


class Decoder(soundfile.SoundFile):
    """A sound file that is read from start to end without a seek.

    soundfile 0.14 seeks after each read. libmpg123 then decodes the 4 frames before the position to fill its bit
    reservoir. In an MP3 of a low bitrate 4 frames are too few: up to 0.2 s after each block were silent. The test is
    `test_blocks_of_an_mp3_join`.
    """

    def seekable(self) -> bool:
        return False
