"""UniCodec on a GPU: a waveform goes there and tokens come back, or the other way round; nothing else is copied."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from sc_runtime.cuda.device import Device, Memory
from sc_runtime.cuda.graph import RECENT, Call, RunStage, enqueue_stage
from sc_runtime.cuda.join import GROUP, RowJoiner
from sc_runtime.networks import Networks, open_device_graph, open_device_search, upload_codebook
from sc_runtime.once import OnceEach

from .config import CODEBOOK

HALVES = 2  #: that `RowJoiner` takes of a vector: a row of the codebook is two rows of half its width


@dataclass(frozen=True)
class Prepared:
    """A graph of one length, bound to memory that is kept: what goes in, what comes out, and tokens as row numbers."""

    call: Call
    given: Memory
    made: Memory
    rows: Memory
    shape: tuple[int, ...]  #: of what comes out


class ResidentUniCodec:
    """Encodes and decodes on `device`, with graphs of `networks` that run there.

    Several threads may use it; their windows run one after the other. Every method raises BundleError or BackendError.
    """

    def __init__(self, device: Device, networks: Networks, run_stage: RunStage = enqueue_stage) -> None:
        self.device, self._networks, self._run_stage = device, networks, run_stage
        self._encoders: OnceEach[int, Prepared] = OnceEach(RECENT)  #: by the number of samples
        self._decoders: OnceEach[int, Prepared] = OnceEach(RECENT)  #: by the number of positions
        self._codebooks: OnceEach[str, Memory] = OnceEach()
        self._joiner = RowJoiner(device, find_width(networks) // HALVES)

    def encode(self, waveform: np.ndarray, entries: slice) -> np.ndarray:
        """Waveform float32 [n] -> indices int32 [T] of the nearest of `entries`, counted from their start.

        Raises BackendError for features that are not finite.
        """
        search = open_device_search(self._networks, CODEBOOK, entries)
        with self.device.lock:
            held = self._encoders.get(len(waveform), partial(self._prepare_encoder, len(waveform)))
            positions = held.shape[1]
            found = np.empty(positions, np.int32)

            def run() -> None:
                self.device.write(held.given.address, waveform)
                held.call.enqueue()

            self._run_stage("encoder", run)
            run_search = partial(search.search_on_device, held.made.address, positions, held.rows.address)
            self._run_stage("centroids", run_search)
            self.device.read(held.rows.address, found)
            search.check_found(found, held.made.address)
        return found

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes [T] -> waveform float32 [n]."""
        with self.device.lock:
            held = self._decoders.get(len(codes), partial(self._prepare_decoder, len(codes)))
            upload = partial(upload_codebook, self._networks, self.device, CODEBOOK)
            codebook, waveform = self._codebooks.get(CODEBOOK, upload).address, np.empty(held.shape, np.float32)
            rows = (HALVES * codes[:, np.newaxis] + np.arange(HALVES)).astype(np.int32)

            def run() -> None:
                self.device.write(held.rows.address, rows)
                first, second = held.rows.address, held.rows.address + rows.itemsize
                self._joiner.join(codebook, first, codebook, second, held.given.address, len(rows), step=HALVES)
                held.call.enqueue()

            self._run_stage("decoder", run)
            self.device.read(held.made.address, waveform)
        return waveform[0]

    def _prepare_encoder(self, samples: int) -> Prepared:
        return self._prepare("encoder", "waveform", "features", samples=samples)

    def _prepare_decoder(self, positions: int) -> Prepared:
        return self._prepare("decoder", "vectors", "waveform", positions=positions)

    def _prepare(self, name: str, given: str, made: str, **length: int) -> Prepared:
        """The graph `name` for one window. The number of tokens is axis 1 of the features or of the vectors."""
        graph = open_device_graph(self._networks, name)
        shapes, sizes = graph.resolve(batch=1, **length), graph.count_bytes(batch=1, **length)
        memories = {key: self.device.allocate(sizes[key]) for key in (given, made)}
        positions = shapes[made if name == "encoder" else given][1]
        rows = self.device.allocate(HALVES * np.dtype(np.int32).itemsize * positions)
        call = graph.bind({key: memory.address for key, memory in memories.items()}, batch=1, **length)
        return Prepared(call, memories[given], memories[made], rows, shapes[made])


def find_width(networks: Networks) -> int:
    """The number of values of a vector of the codebook."""
    width = networks.describe_inputs("decoder")["vectors"].shape[2]
    assert isinstance(width, int)
    return width


def can_run(networks: Networks) -> bool:
    """Whether `RowJoiner` can copy vectors of the codebook. It can for those of the published network."""
    return find_width(networks) % (HALVES * GROUP) == 0
