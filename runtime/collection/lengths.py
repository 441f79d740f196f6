"""The lengths of recordings, from their headers: what shards of hours are cut by."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

from sc_runtime.audio.files import native_path
from sc_runtime.errors import CodecError, OutputError

from .fetch import Fetcher
from .files import is_remote, open_uri
from .items import Item

THREADS = 16


def measure_items(items: list[Item]) -> list[Item]:
    """`items`, each with its length in seconds if that is known or can be read. Others count as 0."""
    fetcher = Fetcher(16000, "first")
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda item: measure_item(item, fetcher), items))


def measure_item(item: Item, fetcher: Fetcher) -> Item:
    """`item` with its length. Of a whole object only the header is read; a member or a row is fetched.

    Raises OutputError if this machine cannot write a copy.
    """
    import soundfile

    if item.seconds is not None or item.problem:
        return item
    try:
        if is_remote(item.uri) and item.member is None and item.row is None:
            with open_uri(item.uri) as file:
                facts = soundfile.info(file)
        else:
            with fetcher.fetched(dataclasses.replace(item, start=None, duration=None)) as path:
                facts = soundfile.info(native_path(path))
    except OutputError:
        raise
    except (CodecError, OSError, RuntimeError):  # reported when it is encoded
        return item
    return dataclasses.replace(item, seconds=max(0.0, facts.frames / facts.samplerate - (item.start or 0.0)))
