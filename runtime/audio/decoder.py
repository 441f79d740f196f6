"""libsndfile, read from start to end. Imported where it is needed, because it imports soundfile."""

from __future__ import annotations

import soundfile


class Decoder(soundfile.SoundFile):
    """A sound file that is read from start to end without a seek.

    soundfile 0.14 seeks after each read. libmpg123 then decodes 4 frames before the place, to fill its reservoir of
    bits. In an MP3 of a low bitrate these are too few, and up to 0.2 s after each block were silent. The test is
    `test_blocks_of_an_mp3_join`.
    """

    def seekable(self) -> bool:
        return False
