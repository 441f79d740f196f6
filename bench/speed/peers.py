"""Other neural codecs, which a user would pick instead: EnCodec, DAC, Mimi and WavTokenizer, from `transformers`.

Each runs in PyTorch eager in float32, as its users run it, in a process of its own. The weights are random, made from
the configuration, so that nothing is downloaded: speed does not depend on the values of weights. The configurations
are those of the published checkpoints.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np

from bench.harness.machine import measure_peak_memory

from .inputs import make_sound
from .sides import SETTLE_SECONDS, Run

STAGE = "network"  #: the one stage of a peer
SEED = 0
MIMI_CODEBOOKS = 8  #: of the 32 that Mimi has; Moshi uses 8
ENCODEC_KBPS = 6.0  #: the rate that EnCodec's paper evaluates most, 8 codebooks


class Network(Protocol):
    """A codec of transformers. Codes are what `encode` gives: integers whose last axis is time."""

    model: Any

    def encode(self, sound: Any) -> Any:
        """Sound [1, 1, n] -> codes."""
        ...

    def decode(self, codes: Any) -> Any:
        """Codes -> sound."""
        ...


class EnCodec:
    """facebook/encodec_24khz."""

    def __init__(self) -> None:
        from transformers import EncodecConfig, EncodecModel

        self.model: Any = EncodecModel(EncodecConfig())

    def encode(self, sound: Any) -> Any:
        return self.model.encode(sound, bandwidth=ENCODEC_KBPS).audio_codes

    def decode(self, codes: Any) -> Any:
        return self.model.decode(codes, [None]).audio_values


class Dac:
    """descript/dac_16khz and dac_24khz: `conf/final/16khz.yml` and `24khz.yml` of descript-audio-codec."""

    def __init__(self, rate: int, codebooks: int) -> None:
        from transformers import DacConfig, DacModel

        config = DacConfig(sampling_rate=rate, n_codebooks=codebooks, downsampling_ratios=[2, 4, 5, 8])
        self.model: Any = DacModel(config)

    def encode(self, sound: Any) -> Any:
        return self.model.encode(sound).audio_codes

    def decode(self, codes: Any) -> Any:
        return self.model.decode(audio_codes=codes).audio_values


class Mimi:
    """kyutai/mimi."""

    def __init__(self) -> None:
        from transformers import MimiConfig, MimiModel

        self.model: Any = MimiModel(MimiConfig())

    def encode(self, sound: Any) -> Any:
        return self.model.encode(sound, num_quantizers=MIMI_CODEBOOKS).audio_codes

    def decode(self, codes: Any) -> Any:
        return self.model.decode(codes).audio_values


class WavTokenizer:
    """WavTokenizer with 75 tokens a second, which Table 8 of the UniCodec paper has. transformers' default has 40."""

    def __init__(self) -> None:
        from transformers import WavTokenizerConfig, WavTokenizerModel

        self.model: Any = WavTokenizerModel(WavTokenizerConfig(upsampling_ratios=[8, 5, 4, 2]))

    def encode(self, sound: Any) -> Any:
        return self.model.encode(sound).audio_codes

    def decode(self, codes: Any) -> Any:
        return self.model.decode(codes).audio_values


#: Name -> how its network is made.
PEERS: dict[str, Callable[[], Network]] = {
    "EnCodec 24 kHz": EnCodec,
    "DAC 16 kHz": partial(Dac, 16_000, 12),
    "DAC 24 kHz": partial(Dac, 24_000, 32),
    "Mimi": Mimi,
    "WavTokenizer": WavTokenizer,
}


@dataclass(frozen=True)
class Facts:
    """What a peer is.

    parameters: all of them, of both directions.
    sample_rate, frame_rate: in Hz; the second is that of positions.
    shape: of the codes of one second, as `encode` gives them; the last axis is time.
    codebooks: tokens of one position.
    tokens_per_second: of all codebooks together.
    bitrate: in bits a second.
    """

    parameters: int
    sample_rate: int
    frame_rate: float
    shape: tuple[int, ...]
    codebooks: int
    tokens_per_second: float
    bitrate: float


class PeerProgram:
    """What the process of one peer runs (`bench.harness.processes.Program`)."""

    def __init__(self, name: str, direction: str, threads: int | None, device: str) -> None:
        """
        direction: "encode" or "decode".
        device: torch's name of it, "cpu" or "cuda".
        """
        import torch

        if threads:
            torch.set_num_threads(threads)
        self.network, self.direction, self.device = make_network(name), direction, device
        self.facts = find_facts(self.network)
        self.network.model.to(device)

    def answer(self, seconds: float, steps: int, settle_seconds: float = SETTLE_SECONDS) -> Run:
        """Wait, then encode or decode `seconds` of audio once. No peer has steps."""
        import torch

        with torch.inference_mode():
            run: Callable[[Any], Any] = self.network.decode
            if self.direction == "encode":
                given, run = make_input(seconds, self.facts), self.network.encode
            else:
                given = make_random_codes(seconds, self.facts, self.network.model.config.codebook_size)
            given = given.to(self.device)
            time.sleep(settle_seconds)
            started, cpu = time.perf_counter(), time.process_time()
            run(given).cpu()  # waits for a GPU
            stages, cpu = {STAGE: time.perf_counter() - started}, time.process_time() - cpu
        nothing = np.empty(0, np.float32)
        if self.device == "cpu":
            return Run(stages, measure_peak_memory(), "torch, CPU", nothing, cpu)
        device = f"torch, {torch.cuda.get_device_name()}"
        return Run(stages, torch.cuda.max_memory_allocated(), device, nothing, cpu)


class FactsProgram:
    """A process that states the facts and the arithmetic of every peer (`bench.harness.processes.Program`)."""

    def answer(self) -> dict[str, tuple[Facts, dict[str, int]]]:
        found = {}
        for name in PEERS:
            network = make_network(name)
            found[name] = find_facts(network), count_flop(network)
        return found


def make_input(seconds: float, facts: Facts) -> Any:
    """The sound to encode, a tensor [1, 1, n]."""
    import torch

    return torch.from_numpy(make_sound(seconds, facts.sample_rate))[None, None]


def make_random_codes(seconds: float, facts: Facts, entries: int) -> Any:
    """Codes to decode, in the shape that `encode` gives. The time of decoding does not depend on their values."""
    import torch

    shape = (*facts.shape[:-1], round(seconds * facts.frame_rate))
    return torch.randint(entries, shape, generator=torch.Generator().manual_seed(SEED))


def find_facts(network: Network) -> Facts:
    """The facts of a network on the CPU. It encodes one second, which shows the number of codebooks that are used."""
    import torch

    config = network.model.config
    with torch.inference_mode():
        shape = tuple(network.encode(torch.zeros(1, 1, config.sampling_rate)).shape)
    tokens = math.prod(shape[:-1]) * config.frame_rate
    parameters = sum(parameter.numel() for parameter in network.model.parameters())
    bitrate = tokens * math.log2(config.codebook_size)
    return Facts(parameters, config.sampling_rate, config.frame_rate, shape, math.prod(shape[:-1]), tokens, bitrate)


def count_flop(network: Network) -> dict[str, int]:
    """FLOP of one second of audio, "encode" and "decode", as torch counts them: products and convolutions, no LSTM.

    It changes the network: torch cannot count with weights that are normalised in every call.
    """
    import torch
    from torch.nn.utils.parametrize import remove_parametrizations
    from torch.utils.flop_counter import FlopCounterMode

    for module in network.model.modules():
        for weight in list(getattr(module, "parametrizations", {})):
            remove_parametrizations(module, weight)
    facts = find_facts(network)
    codes = make_random_codes(1.0, facts, network.model.config.codebook_size)
    flop = {}
    for direction, run, given in (
        ("encode", network.encode, make_input(1.0, facts)),
        ("decode", network.decode, codes),
    ):
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            run(given)
        flop[direction] = int(counter.get_total_flops())
    return flop


OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}  #: nothing is fetched


def make_network(name: str) -> Network:
    """The peer `name` with random weights, the same ones every time, and with random codebooks.

    transformers fills codebooks with zeros, with which every token would be 0.
    """
    os.environ |= OFFLINE
    import torch

    torch.manual_seed(SEED)
    network = PEERS[name]()
    network.model.eval()
    for buffer, values in network.model.named_buffers():
        if buffer.rsplit(".", 1)[-1] in ("embed", "embed_sum"):
            values.normal_()
    return network
