"""Tokens to waveform on a GPU; nothing but tokens goes there, and nothing but sound comes back."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sc_runtime.cuda.device import Device, Memory, Replay
from sc_runtime.cuda.graph import RECENT, Call, DeviceGraph
from sc_runtime.cuda.join import RowJoiner
from sc_runtime.cuda.solver import SolverKernel
from sc_runtime.networks import Networks, open_device_graph, upload_codebook
from sc_runtime.once import OnceEach

from .coefficients import DEPTH, find_multistep
from .config import ACOUSTIC_CODEBOOK, LATENT_SHAPE, Schedule, SemantiCodecConfig
from .noise import PHILOX_DOMAIN, SeededNoise, WindowNoise
from .presets import Sampling
from .spec import GPU_WINDOWS
from .vocode import choose_frames

DECODER_GRAPHS = ("conditioning", "tunet_step", "vae_decoder", "hifigan")
LATENT_SIZE = int(np.prod(LATENT_SHAPE))
LATENT_BYTES = 4 * LATENT_SIZE
MOST_ROWS = 1000  #: of a table: 999 steps and z_T
NOTHING = -1  #: in place of the tokens of a position that a short window lacks

log = logging.getLogger(__name__)


class ResidentDecoder:
    """Decodes on `device`, with graphs of `networks` that run there. Raises BundleError or BackendError."""

    batch = GPU_WINDOWS  #: windows that are worth decoding together

    def __init__(self, device: Device, networks: Networks) -> None:
        self.device, self._networks = device, networks
        self._solver = SolverKernel(device, LATENT_SIZE, PHILOX_DOMAIN)
        self._graphs = {name: open_device_graph(networks, name) for name in DECODER_GRAPHS}
        self._codebooks: OnceEach[str, Memory] = OnceEach()
        self._groups: OnceEach[int, Group] = OnceEach(RECENT)

    def run(
        self,
        codes: list[np.ndarray],
        config: SemantiCodecConfig,
        sampling: Sampling,
        noises: Sequence[WindowNoise],
        samples: int,
    ) -> np.ndarray:
        """codes [<= L, 2] and noise of each window -> waveforms [B, n], of which the first `samples` are wanted.

        The windows may be of several recordings. The result is that of running the stages one by one, up to rounding.
        Several threads may call this; their windows run one group after the other.
        """
        with self.device.lock:
            group = self.prepare(len(codes))
            self.condition(group, codes, config)
            group.denoise(sampling, config.schedule, noises)
            group.decode_latent()
            return group.vocode(samples)

    def prepare(self, batch: int) -> Group:
        """The group that decodes `batch` windows; it is made if there is none yet."""
        return self._groups.get(batch, partial(Group, self.device, self._solver, self._graphs, batch))

    def condition(self, group: Group, codes: list[np.ndarray], config: SemantiCodecConfig) -> None:
        """Enqueue tokens -> keys and values of every window."""
        acoustic, semantic = (
            self._codebooks.get(name, partial(upload_codebook, self._networks, self.device, name))
            for name in (ACOUSTIC_CODEBOOK, config.semantic_codebook)
        )
        group.condition(codes, acoustic.address, semantic.address)


@dataclass(frozen=True)
class Vocoder:
    """HiFi-GAN for one number of frames. `mel` is None for a whole window, whose mel lies where the VAE puts it."""

    call: Call
    mel: Memory | None
    waveform: Memory


class Group:
    """`batch` windows decoded together: their memory on the GPU, and one denoising step as a CUDA graph.

    The step is a T-UNet call and the solver's update. The update reads a table, and a counter on the GPU names the row.
    So every step of every preset is the same graph, launched again. Where guidance acts, the call computes 2 `batch`
    windows: first those without conditioning, then those with it, as in `guidance.guide`. Elsewhere it computes only
    those with conditioning. That is a second graph, made when it is first needed. Only `vocode` waits for the GPU.
    """

    def __init__(self, device: Device, solver: SolverKernel, graphs: dict[str, DeviceGraph], batch: int) -> None:
        self._device, self._solver, self._graphs, self._batch = device, solver, graphs, batch
        self._held: list[Memory] = []
        conditioning = graphs["conditioning"]
        sizes = conditioning.count_bytes(batch=batch)
        self._features = self._allocate(sizes.pop("features"))
        self._positions, width = conditioning.inputs["features"].resolve(batch=batch)[1:]
        self._joiner = RowJoiner(device, width // 2)
        self._codes = self._allocate(8 * batch * self._positions)
        context = {name: self._allocate(2 * size) for name, size in sizes.items()}
        given = {name: context[name] + size for name, size in sizes.items()}
        self._contexts = {True: context, False: given}
        self._latent, v = (self._allocate(2 * batch * LATENT_BYTES) for _ in range(2))
        steps, rings = self._allocate(16 * batch), [self._allocate(DEPTH * batch * LATENT_BYTES) for _ in range(2)]
        self._table, self._sources = self._allocate(MOST_ROWS * ROW.itemsize), self._allocate(24 * batch)
        self._counter = self._allocate(8)
        self._inner = {"latent": self._latent, "step": steps, "v": v}
        self._arguments = (v, self._latent, steps, *rings, self._table, self._sources, self._counter)
        self._condition = conditioning.bind({"features": self._features, **given}, batch=batch)
        self._steps: dict[bool, Replay] = {}
        self._vocoders: OnceEach[int, Vocoder] = OnceEach(RECENT)
        self._mel = self._allocate(graphs["vae_decoder"].count_bytes(batch=batch)["mel"])
        self._vae = graphs["vae_decoder"].bind({"latent": self._latent, "mel": self._mel}, batch=batch)

    @property
    def refusals(self) -> list[str]:
        """Why steps that have run are no CUDA graphs; empty if all are."""
        return [step.refusal for step in self._steps.values() if step.refusal]

    @property
    def latents(self) -> int:
        """The address of z_0, float32 [B, 8, 256, 16], after `denoise`."""
        return self._latent

    def condition(self, codes: list[np.ndarray], acoustic: int, semantic: int) -> None:
        """Enqueue codes [<= L, 2] of each window -> keys and values. The codebooks are given by their addresses."""
        filled = np.full((self._batch, self._positions, 2), NOTHING, np.int32)
        for row, few in zip(filled, codes, strict=True):
            row[: len(few)] = few
        self._device.write(self._codes, filled)
        count = self._batch * self._positions
        self._joiner.join(acoustic, self._codes + 4, semantic, self._codes, self._features, count, step=2)
        self._condition.enqueue()

    def denoise(self, sampling: Sampling, schedule: Schedule, noises: Sequence[WindowNoise]) -> None:
        """Enqueue the whole loop, from z_T to z_0. Seeded noise is made on the GPU; any other noise is copied there."""
        table, guided = tabulate(sampling, schedule)
        for kind in dict.fromkeys(guided):
            self.prepare_step(kind)
        self._start(table)
        sources = np.zeros((len(noises), 3), np.uint64)
        copied = [i for i, noise in enumerate(noises) if not isinstance(noise.source, SeededNoise)]
        for row, noise in zip(sources, noises, strict=True):
            if isinstance(noise.source, SeededNoise):
                row[:2] = noise.source.seed, noise.window
        if copied:
            wanted = table["noise"] != 0
            nothing = np.zeros(LATENT_SHAPE, np.float32)
            draws = [[noises[i](k) if wanted[k] else nothing for k in range(len(wanted))] for i in copied]
            drawn = np.array(draws, np.float32)
            self._drawn = self._device.allocate(drawn.nbytes)  # kept until the next call: the loop reads it
            self._device.write(self._drawn.address, drawn)
            sources[copied, 2] = self._drawn.address + np.arange(len(copied)) * len(wanted) * LATENT_BYTES
        self._device.write(self._sources, sources)
        self._solver.advance(self._arguments, self._batch)
        for kind in guided:
            self._steps[kind].launch()

    def decode_latent(self) -> None:
        """Enqueue z_0 -> log-mel."""
        self._vae.enqueue()

    def vocode(self, samples: int) -> np.ndarray:
        """log-mel -> waveforms float32 [B, n] on the host, as `vocode.vocode` makes them."""
        frames = choose_frames(samples)
        vocoder = self._vocoders.get(frames, partial(self._open_vocoder, frames))
        if vocoder.mel is not None:
            bins, whole = self._graphs["vae_decoder"].outputs["mel"].resolve(batch=self._batch)[1:]
            self._device.copy_rows(self._mel, vocoder.mel.address, self._batch * bins, 4 * whole, 4 * frames)
        vocoder.call.enqueue()
        waveforms = np.empty(self._graphs["hifigan"].resolve(batch=self._batch, frames=frames)["waveform"], np.float32)
        self._device.read(vocoder.waveform.address, waveforms)
        return waveforms

    def prepare_step(self, guided: bool, capture: bool = True) -> Replay:
        """One step, with both branches or one, as a CUDA graph that is made when it is first asked for.

        Libraries choose kernels in a first run, and may allocate once more in a second: neither can be recorded. A
        library that records itself makes a graph of the T-UNet alone. Where the T-UNet's library must not be recorded,
        or `capture` is False, the step is launched call by call.
        """
        if guided in self._steps:
            return self._steps[guided]
        tunet, batch = self._graphs["tunet_step"], self._batch * (2 if guided else 1)
        addresses = self._inner | self._contexts[guided]
        assert addresses.keys() == tunet.inputs.keys() | tunet.outputs.keys()
        refusal = tunet.explain_capture(batch=batch) if capture else "not wanted"
        bind = tunet.bind_recorded if tunet.records_itself and not refusal else tunet.bind
        call = bind(addresses, batch=batch)
        if guided:
            self._condition_on_nothing()

        def step() -> None:
            call.enqueue()
            self._solver.advance(self._arguments, self._batch)

        self._device.write(self._sources, np.zeros((self._batch, 3), np.uint64))
        self._start(np.zeros(MOST_ROWS, ROW))
        self._solver.advance(self._arguments, self._batch)
        for _ in range(2):
            step()
        made = Replay(step, refusal) if refusal or tunet.records_itself else self._device.capture(step)
        self._steps[guided] = made
        if capture and made.refusal:
            log.warning("the denoising loop runs without a CUDA graph, which is slower: %s", made.refusal)
        return made

    def _allocate(self, size: int) -> int:
        self._held.append(self._device.allocate(size))
        return self._held[-1].address

    def _start(self, table: np.ndarray) -> None:
        """Write `table`, and let the next launch of the solver take its first row."""
        self._device.write(self._table, table)
        self._device.write(self._counter, np.zeros(2, np.int32))

    def _condition_on_nothing(self) -> None:
        """Keys and values of the empty conditioning, for the unconditional branch: computed once."""
        conditioning = self._graphs["conditioning"]
        held = self._device.upload(np.zeros(conditioning.inputs["features"].resolve(batch=self._batch), np.float32))
        call = conditioning.bind({"features": held.address, **self._contexts[True]}, batch=self._batch)
        call.enqueue()
        self._device.sync()  # before `call` and `held` are freed

    def _open_vocoder(self, frames: int) -> Vocoder:
        hifigan = self._graphs["hifigan"]
        sizes = hifigan.count_bytes(batch=self._batch, frames=frames)
        whole = frames == self._graphs["vae_decoder"].outputs["mel"].shape[2]
        waveform, mel = self._device.allocate(sizes["waveform"]), None if whole else self._device.allocate(sizes["mel"])
        addresses = {"mel": mel.address if mel else self._mel, "waveform": waveform.address}
        return Vocoder(hifigan.bind(addresses, batch=self._batch, frames=frames), mel, waveform)


#: A row of kernels/solver.cu's table.
ROW = np.dtype(
    [
        ("latents", np.float32, DEPTH),
        ("velocities", np.float32, DEPTH),
        ("noise", np.float32),
        ("scale", np.float32),
        ("step", np.float32),
    ]
)


def tabulate(sampling: Sampling, schedule: Schedule) -> tuple[np.ndarray, list[bool]]:
    """The table `ROW` [N + 1] of kernels/solver.cu, and for each of N T-UNet calls whether guidance acts in it."""
    multistep = find_multistep(sampling, schedule)
    low, high = sampling.interval
    guided = [sampling.guidance != 1.0 and low <= step <= high for step in multistep.timesteps.tolist()]
    table = np.zeros(len(guided) + 1, ROW)
    table["noise"][0] = 1  # z_T
    table["step"][:-1] = multistep.timesteps
    for name in ("latents", "velocities", "noise"):
        table[name][1:] = getattr(multistep, name)
    table["scale"][1:] = np.where(guided, sampling.guidance, 1.0)
    return table, guided
