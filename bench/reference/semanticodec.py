"""The published procedure in PyTorch eager, as its users run it: the baseline of every speed-up and of every test.

It runs in float32, one window at a time, with two T-UNet calls a step, each of which projects keys and values anew. It
shares the torch networks with the export, and no code with the runtime.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import kaldi_native_fbank
import numpy as np
import torch
from torch import Tensor

from sc_runtime.export.registry import read_tensors
from sc_runtime.export.semanticodec.checkpoint import ACOUSTIC_CODEBOOK, SemantiCodecWeights
from sc_runtime.export.semanticodec.graphs import NETWORKS
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.tunet import Conditioning
from sc_runtime.export.spec import load_network

Noise = Callable[[int, int], np.ndarray]
Lap = Callable[[str], None]  #: called with a stage's name when the stage ends


class PublishedCodec:
    """The published codec on given weights.

    lap: called with a stage's name when the stage ends.
    device: torch's name of the device that the networks and the searches run on.
    """

    def __init__(
        self, sizes: NetworkSizes, weights: SemantiCodecWeights, lap: Lap = lambda stage: None, device: str = "cpu"
    ) -> None:
        self.sizes, self.config, self.lap, self.device = sizes, sizes.config, lap, device
        encoder = read_tensors("encoder", weights, sizes)
        decoder = read_tensors("decoder", weights, sizes)
        self.audiomae = load_network(NETWORKS["audiomae"], sizes, encoder).to(device)
        self.lstm = load_network(NETWORKS["acoustic_encoder"], sizes, encoder).to(device)
        self.tunet = load_network(NETWORKS["tunet"], sizes, decoder).to(device)
        self.project = Conditioning(self.tunet, sizes).to(device)  # type: ignore[arg-type]
        self.vae = load_network(NETWORKS["vae_decoder"], sizes, decoder).to(device)
        self.vocoder = load_network(NETWORKS["hifigan"], sizes, decoder).to(device)
        self.acoustic = encoder[ACOUSTIC_CODEBOOK][0].to(device)
        self.semantic = torch.from_numpy(weights.centroids(sizes.config.vocab, sizes.config.feature_width)).to(device)
        betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
        self.alphas = torch.cumprod(1 - betas, dim=0)

    @torch.inference_mode()
    def encode(self, waveform: np.ndarray) -> np.ndarray:
        """waveform float32 [n] at 16 kHz -> codes [T, 2]."""
        stack, length = self.config.stack, self.config.positions
        seconds = len(waveform) / 16000
        seconds = seconds + (0.16 - seconds % 0.16)
        count = math.ceil(8 * seconds / 0.16 / stack)
        fbank = compute_whole_fbank(waveform)
        self.lap("fbank")
        codes = []
        for segment in torch.from_numpy(fbank).to(self.device).split(1024):
            features = self.audiomae(segment[None])[0]
            self.lap("audiomae")
            semantic = torch.cdist(features, self.semantic).argmin(dim=1)
            self.lap("centroids")
            joined = torch.cat([features, self.semantic[semantic]], dim=1)
            filled = torch.nonzero(segment.double().std(dim=1) > 1e-7)
            frames = int(filled[-1]) + 1 if len(filled) else 0
            joined[math.ceil(length * frames / 1024) :] = -1.0
            encoded = self.lstm(joined[None])[0]
            self.lap("acoustic_encoder")
            acoustic = torch.cdist(encoded, self.acoustic).argmin(dim=1)
            self.lap("centroids")
            codes.append(torch.stack([semantic, acoustic], dim=1))
        return torch.cat(codes)[:count].cpu().numpy()

    @torch.inference_mode()
    def decode(self, codes: np.ndarray, *, steps: int, guidance: float, eta: float, noise: Noise) -> np.ndarray:
        """codes [T, 2] -> waveform float32 [n] at 16 kHz: all windows joined, cut to the codes' length."""
        length = self.config.positions
        hop = length - int(length * 0.0625)
        starts = [0]
        while starts[-1] + length < len(codes):
            starts.append(starts[-1] + hop)
        waveform = np.zeros(0, np.float32)
        for window, start in enumerate(starts):
            latent = self.denoise(codes[start : start + length], window, steps, guidance, eta, noise)
            mel = self.vae(latent)
            self.lap("vae_decoder")
            sound = self.vocoder(mel)[0].cpu().numpy()
            self.lap("hifigan")
            waveform = sound if window == 0 else cross_fade(waveform, sound)
        return waveform[: int(len(codes) / 8 * 16 * 0.01 * self.config.stack * 16000)]

    def denoise(self, codes: np.ndarray, window: int, steps: int, guidance: float, eta: float, noise: Noise) -> Tensor:
        """codes [<= L, 2] of one window -> latent [1, 8, 256, 16]."""
        tokens = torch.from_numpy(np.asarray(codes, np.int64)).to(self.device)
        given = torch.cat([self.acoustic[tokens[:, 1]], self.semantic[tokens[:, 0]]], dim=1)
        filling = torch.full((self.config.positions - len(given), given.shape[1]), -1.0, device=self.device)
        given = torch.cat([given, filling])[None]
        stride = 1000 // steps
        timesteps = torch.arange(0, 1000, stride) + 1
        latent = torch.from_numpy(noise(window, 0)).to(self.device)[None]
        for i, step in enumerate(reversed(timesteps.tolist())):
            above = self.alphas[step]
            below = self.alphas[step - stride] if i + 1 < len(timesteps) else self.alphas[0]
            v = self.predict(latent, step, given)
            if guidance != 1.0:
                without = self.predict(latent, step, torch.zeros_like(given))
                v = without + guidance * (v - without)
            clean = above.sqrt() * latent - (1 - above).sqrt() * v
            direction = above.sqrt() * v + (1 - above).sqrt() * latent
            sigma = eta * ((1 - below) / (1 - above) * (1 - above / below)).sqrt()
            latent = below.sqrt() * clean + (1 - below - sigma**2).sqrt() * direction
            latent = (latent + sigma * torch.from_numpy(noise(window, 1 + i)).to(self.device)[None]).float()
            self.lap("tunet")
        return latent

    def predict(self, latent: Tensor, step: int, features: Tensor) -> Tensor:
        with torch.device(self.device):  # the device of the step's sinusoids
            return self.tunet(latent, torch.tensor([step]), *self.project(features))


def compute_whole_fbank(waveform: np.ndarray) -> np.ndarray:
    """Kaldi's filterbank over the whole zero-padded, mean-free waveform, normalised, float32 [1024 * segments, 128]."""
    padded = np.pad(waveform.astype(np.float32), (0, 163840 - len(waveform) % 163840))
    options = kaldi_native_fbank.FbankOptions()
    options.frame_opts.dither = 0
    options.frame_opts.window_type = "hanning"
    options.mel_opts.num_bins = 128
    options.htk_compat = True
    options.use_energy = False
    filterbank = kaldi_native_fbank.OnlineFbank(options)
    filterbank.accept_waveform(16000, (padded - padded.mean(dtype=np.float64)).astype(np.float32).tolist())
    filterbank.input_finished()
    fbank = np.zeros((len(padded) // 160, 128), np.float32)
    for frame in range(filterbank.num_frames_ready):
        fbank[frame] = filterbank.get_frame(frame)
    return (fbank + 4.2677393) / (2 * 4.5689974)


def cross_fade(waveform: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """`waveform` and `sound` joined over 10 240 samples by linear ramps."""
    rise = np.linspace(0, 1, 10240, dtype=np.float32)
    joined = waveform[-10240:] * rise[::-1] + sound[:10240] * rise
    return np.concatenate([waveform[:-10240], joined, sound[10240:]])
