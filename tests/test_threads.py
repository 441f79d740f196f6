"""One codec in several threads, and in another process: the results are those of one thread."""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime import Codec, Tokens
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import AudioError
from sc_runtime.loaded import LoadedBundle
from sc_runtime.networks import Arrays
from sc_runtime.once import OnceEach

BACKENDS = ["openvino", "onnxruntime", "auto"] if importlib.util.find_spec("openvino") else ["onnxruntime"]
SECONDS = (0.05, 1.3, 11)  #: of the recordings; the last is two windows of one of the codecs
THREADS = 8

Task = Callable[[Codec], bool]


def draw_recordings(rate: int, seconds: Sequence[float] = SECONDS) -> list[np.ndarray]:
    generator = np.random.default_rng(0)
    return [0.1 * generator.standard_normal(int(rate * length), np.float32) for length in seconds]


def list_tasks(codec: Codec, seconds: Sequence[float], **options: Any) -> list[Task]:
    """Encoding, decoding, streams and embedding of recordings. Each task compares with the result of one thread."""

    def make(recording: np.ndarray) -> list[Task]:
        tokens = codec.encode(recording)
        sound, features = codec.decode(tokens, **options), codec.embed(tokens)
        first = next(iter(codec.decode_stream(tokens, **options)))

        def abandon(other: Codec) -> bool:
            """A stream of which only the first piece is taken."""
            return np.array_equal(next(other.decode_stream(tokens, **options)), first)

        return [
            lambda other: other.encode(recording) == tokens,
            lambda other: np.array_equal(other.decode(tokens, **options), sound),
            lambda other: np.array_equal(np.concatenate(list(other.decode_stream(tokens, **options))), sound),
            lambda other: np.array_equal(other.embed(tokens), features),
            abandon,
        ]

    return [task for recording in draw_recordings(codec.sample_rate, seconds) for task in make(recording)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("bundle", "seconds", "options"),
    [("tiny_bundle", (0.05, 11), {"steps": 1, "guidance": 1.0}), ("tiny_unicodec", SECONDS, {})],
    ids=["fixed shapes", "free lengths"],
)
@pytest.mark.slow
def test_eight_threads_get_what_one_gets(
    backend: str, bundle: str, seconds: tuple[float, ...], options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(bundle)
    tasks = list_tasks(Codec.load(folder, backend=backend), seconds, **options)
    codec = Codec.load(folder, backend=backend)  # whose graphs are opened by the threads
    order = np.random.default_rng(1).permutation(2 * len(tasks)) % len(tasks)
    with ThreadPoolExecutor(THREADS) as pool:
        right = list(pool.map(lambda number: tasks[number](codec), order))
    assert all(right), [int(number) for number, good in zip(order, right, strict=True) if not good]


def test_asyncio(tiny_unicodec: Path) -> None:
    codec = Codec.load(tiny_unicodec)
    recordings = draw_recordings(codec.sample_rate)
    expected = [codec.encode(recording) for recording in recordings]

    async def encode_all() -> list[Tokens]:
        return await asyncio.gather(*(asyncio.to_thread(codec.encode, recording) for recording in recordings))

    assert asyncio.run(encode_all()) == expected


def test_an_iterator_may_pass_from_thread_to_thread(tiny_unicodec: Path) -> None:
    codec = Codec.load(tiny_unicodec)
    recordings = draw_recordings(codec.sample_rate)
    expected = list(codec.encode_many(recordings))
    found = codec.encode_many(recordings)
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        turns = [(one, other)[number % 2].submit(next, found).result() for number in range(len(recordings))]
    assert turns == expected


class SlowBackend:
    """Opens every graph slowly, and counts."""

    name, device, gpu, encode_batch = "slow", "CPU", None, 1

    def __init__(self) -> None:
        self.opened: list[str] = []

    def open(self, bundle: Bundle, graph: str) -> SlowBackend:
        time.sleep(0.02)
        self.opened.append(graph)
        return self

    def run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return {}

    def open_search(self, codebook: np.ndarray) -> NearestCentroid:
        time.sleep(0.02)
        self.opened.append("search")
        return NearestCentroid(codebook)


def test_every_part_is_opened_once() -> None:
    backend = SlowBackend()
    parts = LoadedBundle(Bundle.load(EMBEDDED), backend)
    start = threading.Barrier(THREADS)

    def use(number: int) -> tuple[object, ...]:
        start.wait()
        return (parts.open_graph("hifigan"), parts.load_codebook("acoustic"), parts.open_search("acoustic"))

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(use, range(THREADS)))
    assert backend.opened == ["hifigan", "search"]
    assert all(mine is theirs for each in found for mine, theirs in zip(each, found[0], strict=True))


def test_different_values_are_made_side_by_side() -> None:
    made: OnceEach[int, int] = OnceEach()
    together = threading.Barrier(2)  # which breaks where one waits for the other to be made

    def make(number: int) -> int:
        together.wait(10)
        return number

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda number: made.get(number, lambda: make(number)), (1, 2))) == [1, 2]


def test_an_error_is_not_kept() -> None:
    made: OnceEach[str, int] = OnceEach()
    with pytest.raises(ZeroDivisionError):
        made.get("key", lambda: 1 // 0)
    assert "key" not in made
    assert made.get("key", lambda: 1) == made.get("key", lambda: 2) == 1


def test_the_latest_used_values_stay() -> None:
    made: OnceEach[int, int] = OnceEach(3)
    for key in (1, 2, 3, 1, 4):
        made.get(key, lambda key=key: 10 * key)  # type: ignore[misc]
    assert made.keys() == [3, 1, 4]


@pytest.mark.skipif("openvino" not in BACKENDS, reason="openvino is not installed")
def test_outputs_outlive_the_next_run(tiny_bundle: Path) -> None:
    for precision in ("float32", "auto"):
        graph = choose_backend("openvino", precision=precision).open(Bundle.load(tiny_bundle), "hifigan")
        mels = np.random.default_rng(0).standard_normal((2, 1, 64, 64), np.float32)
        first = graph.run({"mel": mels[0]})["waveform"]
        kept = first.copy()
        second = graph.run({"mel": mels[1]})["waveform"]
        np.testing.assert_array_equal(first, kept)
        assert not np.array_equal(first, second)
        assert not np.shares_memory(first, second)


# --- other processes --------------------------------------------------------------------------------------------------


def encode(codec: Codec, recording: np.ndarray) -> Tokens:
    return codec.encode(recording)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_codec_pickles_as_what_opens_it_again(
    backend: str, tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    codec = Codec.load(tiny_bundle.name, backend=backend, threads=1)
    pickled = pickle.dumps(codec)
    assert len(pickled) < 1000
    recording = draw_recordings(codec.sample_rate)[1]
    expected = codec.encode(recording)
    monkeypatch.chdir("/")  # the other process may have another working directory
    again = pickle.loads(pickled)
    assert again.bundle.path == tiny_bundle.absolute()
    assert again.backend.name == codec.backend.name
    assert getattr(again.backend, "threads", 1) == 1
    assert again.encode(recording) == expected


def test_a_spawned_process_encodes(tiny_unicodec: Path) -> None:
    codec = Codec.load(tiny_unicodec)
    recording = draw_recordings(codec.sample_rate)[2]
    expected = codec.encode(recording)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(encode, (codec, recording)) == expected


# --- tensors of other libraries ---------------------------------------------------------------------------------------


class Tensor:
    """What a library of tensors offers to NumPy."""

    def __init__(self, array: np.ndarray, error: Exception | None = None) -> None:
        self.array, self.error = array, error

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if self.error:
            raise self.error
        return self.array


def test_a_tensor_is_an_array(tiny_unicodec: Path) -> None:
    codec = Codec.load(tiny_unicodec)
    recording = draw_recordings(codec.sample_rate)[1]
    expected = codec.encode(recording)
    assert codec.encode(Tensor(recording)) == expected
    assert list(codec.encode_many([Tensor(recording), recording])) == [expected, expected]
    refused = Tensor(recording, TypeError("can't convert cuda:0 device type tensor to numpy"))
    with pytest.raises(AudioError, match=r"type Tensor \(can't convert cuda:0.*CPU's memory: tensor.detach"):
        codec.encode(refused)
    found = list(codec.encode_many([refused, recording]))
    assert isinstance(found[0], AudioError)
    assert found[1] == expected


def test_tensors_of_torch(tiny_unicodec: Path) -> None:
    torch = pytest.importorskip("torch")
    codec = Codec.load(tiny_unicodec)
    recording = draw_recordings(codec.sample_rate)[1]
    tokens = codec.encode(recording)
    assert codec.encode(torch.from_numpy(recording)) == tokens
    integers = (recording * 32767).astype(np.int16)
    assert codec.encode(torch.from_numpy(integers)) == codec.encode(integers)
    with torch.enable_grad(), pytest.raises(AudioError, match="requires grad"):
        codec.encode(torch.from_numpy(recording).requires_grad_())
    codes = torch.tensor(tokens.codes)
    np.testing.assert_array_equal(codec.decode(codes), codec.decode(tokens.codes))
