"""Features to waveform on a GPU; nothing comes back to the host in between."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np

from sc_runtime.cuda.device import Device, Memory, Replay
from sc_runtime.cuda.graph import Call, DeviceGraph, keep_recent
from sc_runtime.cuda.solver import SolverKernel
from sc_runtime.networks import Networks
from sc_runtime.spec import Noise

from .coefficients import DEPTH, find_multistep
from .config import LATENT_SHAPE, Schedule
from .noise import PHILOX_DOMAIN, SeededNoise
from .presets import Sampling
from .spec import GPU_WINDOWS
from .vocode import choose_frames

DECODER_GRAPHS = ("conditioning", "tunet_step", "vae_decoder", "hifigan")
LATENT_SIZE = int(np.prod(LATENT_SHAPE))
LATENT_BYTES = 4 * LATENT_SIZE


class ResidentDecoder:
    """Decodes on `device`, with graphs of `networks` that run there. Raises BundleError or BackendError."""

    batch = GPU_WINDOWS  #: windows that are worth decoding together

    def __init__(self, device: Device, networks: Networks) -> None:
        self.device = device
        self._solver = SolverKernel(device, LATENT_SIZE, PHILOX_DOMAIN)
        self._graphs = {name: open_device_graph(networks, name) for name in DECODER_GRAPHS}
        self._groups: dict[tuple[int, Sampling, Schedule], Group] = {}

    def run(
        self, features: np.ndarray, sampling: Sampling, schedule: Schedule, noise: Noise, windows: range, samples: int
    ) -> np.ndarray:
        """features float32 [B, L, 2D] of `windows` -> waveforms [B, n], of which the first `samples` are wanted.

        `noise` is called for these windows. The result is that of running the stages one by one, up to rounding.
        Several threads may call this; their windows run one group after the other.
        """
        with self.device.lock:
            group = self.prepare(len(features), sampling, schedule)
            group.condition(features)
            group.denoise(noise, windows)
            group.decode_latent()
            return group.vocode(samples)

    def prepare(self, batch: int, sampling: Sampling, schedule: Schedule) -> Group:
        """The group that decodes `batch` windows with `sampling`; it is made and captured if there is none yet."""
        make = partial(Group, self.device, self._solver, self._graphs, batch, sampling, schedule)
        return keep_recent(self._groups, (batch, sampling, schedule), make)


def open_device_graph(networks: Networks, name: str) -> DeviceGraph:
    graph = networks.open_graph(name)
    assert isinstance(graph, DeviceGraph), name
    return graph


@dataclass(frozen=True)
class Vocoder:
    """HiFi-GAN for one number of frames. `mel` is None for a whole window, whose mel lies where the VAE puts it."""

    call: Call
    mel: Memory | None
    waveform: Memory


class Group:
    """`batch` windows decoded together: their memory on the GPU, and their denoising loop as one CUDA graph.

    Where guidance acts, a T-UNet call computes 2 `batch` windows: first those without conditioning, then those with
    it, as in `guidance.guide`. Elsewhere it computes only those with conditioning. Only `vocode` waits for the GPU.
    """

    def __init__(
        self,
        device: Device,
        solver: SolverKernel,
        graphs: dict[str, DeviceGraph],
        batch: int,
        sampling: Sampling,
        schedule: Schedule,
    ) -> None:
        self._device, self._solver, self._graphs, self._batch = device, solver, graphs, batch
        self._table, guided = tabulate(sampling, schedule)
        self._guided = guided
        branches = 2 if any(guided) else 1

        def allocate(size: int) -> int:
            self._held.append(device.allocate(size))
            return self._held[-1].address

        self._held: list[Memory] = []
        conditioning, tunet = graphs["conditioning"], graphs["tunet_step"]
        sizes = conditioning.count_bytes(batch=batch)
        self._features = allocate(sizes.pop("features"))
        context = {name: allocate(branches * size) for name, size in sizes.items()}
        given = {name: context[name] + (branches - 1) * size for name, size in sizes.items()}
        self._latent, v = allocate(2 * batch * LATENT_BYTES), allocate(2 * batch * LATENT_BYTES)
        steps, rings = allocate(16 * batch), [allocate(DEPTH * batch * LATENT_BYTES) for _ in range(2)]
        table = allocate(self._table.nbytes)
        self._sources = allocate(24 * batch)
        self._arguments = (v, self._latent, steps, *rings, table, self._sources)
        device.write(table, self._table)
        device.write(self._sources, np.zeros((batch, 3), np.uint64))  # the first launch must find no addresses

        inner = {"latent": self._latent, "step": steps, "v": v}
        assert inner.keys() | context.keys() == tunet.inputs.keys() | tunet.outputs.keys()
        self._calls = {
            True: graphs["tunet_step"].bind(inner | context, batch=2 * batch) if True in guided else None,
            False: graphs["tunet_step"].bind(inner | given, batch=batch) if False in guided else None,
        }
        self._condition = graphs["conditioning"].bind({"features": self._features, **given}, batch=batch)
        if branches == 2:  # keys and values of the empty conditioning, computed once
            nothing = graphs["conditioning"].bind({"features": self._features, **context}, batch=batch)
            self.condition(np.zeros(conditioning.inputs["features"].resolve(batch=batch), np.float32), nothing)
            device.sync()  # before `nothing` is freed
        self._vocoders: dict[int, Vocoder] = {}
        self._mel = allocate(graphs["vae_decoder"].count_bytes(batch=batch)["mel"])
        self._vae = graphs["vae_decoder"].bind({"latent": self._latent, "mel": self._mel}, batch=batch)
        self.loop = self._capture()

    def condition(self, features: np.ndarray, call: Call | None = None) -> None:
        """Enqueue features float32 [B, L, 2D] -> keys and values."""
        self._device.write(self._features, features)
        (call or self._condition).enqueue()

    def denoise(self, noise: Noise, windows: range) -> None:
        """Enqueue the whole loop, from z_T to z_0. Seeded noise is made on the GPU; any other noise is copied there."""
        sources = np.zeros((len(windows), 3), np.uint64)
        if isinstance(noise, SeededNoise):
            sources[:, 0], sources[:, 1] = noise.seed, windows
        else:
            wanted = self._table["noise"] != 0
            nothing = np.zeros(LATENT_SHAPE, np.float32)
            draws = [[noise(window, k) if wanted[k] else nothing for k in range(len(wanted))] for window in windows]
            drawn = np.array(draws, np.float32)
            self._drawn = self._device.allocate(drawn.nbytes)  # kept until the next call: the loop reads it
            self._device.write(self._drawn.address, drawn)
            sources[:, 2] = self._drawn.address + np.arange(len(windows)) * len(wanted) * LATENT_BYTES
        self._device.write(self._sources, sources)
        self.loop.launch()

    def decode_latent(self) -> None:
        """Enqueue z_0 -> log-mel."""
        self._vae.enqueue()

    def vocode(self, samples: int) -> np.ndarray:
        """log-mel -> waveforms float32 [B, n] on the host, as `vocode.vocode` makes them."""
        frames = choose_frames(samples)
        vocoder = keep_recent(self._vocoders, frames, lambda: self._open_vocoder(frames))
        if vocoder.mel is not None:
            bins, whole = self._graphs["vae_decoder"].outputs["mel"].resolve(batch=self._batch)[1:]
            self._device.copy_rows(self._mel, vocoder.mel.address, self._batch * bins, 4 * whole, 4 * frames)
        vocoder.call.enqueue()
        waveforms = np.empty(self._graphs["hifigan"].resolve(batch=self._batch, frames=frames)["waveform"], np.float32)
        self._device.read(vocoder.waveform.address, waveforms)
        return waveforms

    def _open_vocoder(self, frames: int) -> Vocoder:
        hifigan = self._graphs["hifigan"]
        sizes = hifigan.count_bytes(batch=self._batch, frames=frames)
        whole = frames == self._graphs["vae_decoder"].outputs["mel"].shape[2]
        waveform, mel = self._device.allocate(sizes["waveform"]), None if whole else self._device.allocate(sizes["mel"])
        addresses = {"mel": mel.address if mel else self._mel, "waveform": waveform.address}
        return Vocoder(hifigan.bind(addresses, batch=self._batch, frames=frames), mel, waveform)

    def _capture(self) -> Replay:
        """The loop as one CUDA graph.

        Libraries choose kernels in a first run, and may allocate once more in a second: neither can be recorded.
        """
        self._solver.advance(self._arguments, self._batch, 0)
        for call in 2 * [call for call in self._calls.values() if call]:
            call.enqueue()
        return self._device.capture(self._run_loop)

    def _run_loop(self) -> None:
        self._solver.advance(self._arguments, self._batch, 0)
        for row, guided in enumerate(self._guided, 1):
            call = self._calls[guided]
            assert call is not None
            call.enqueue()
            self._solver.advance(self._arguments, self._batch, row)


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
