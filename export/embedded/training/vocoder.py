"""HiFi-GAN: spectral losses at several resolutions, then period discriminators (Kong et al. 2020).

Half of each batch is vocoded from the VAE's reconstruction of the log-mel, because that is the vocoder's input in
decoding.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.semanticodec.config import FRAME_SHIFT

from .loop import half_precision
from .mel import FLOOR, LogMel
from .mel_vae import VaeEncoder, crop_clips
from .rows import use_rows

BATCH = 4
FRAMES = 48  #: of a training crop
LEARNING_RATE = 6e-4
RESOLUTIONS = (  #: (FFT, hop, mel bins) of the losses, as in DAC's mel distance (`bench.quality.metrics.mel_distance`)
    (32, 8, 5),
    (64, 16, 10),
    (128, 32, 20),
    (256, 64, 40),
    (512, 128, 80),
    (1024, 256, 160),
    (2048, 512, 320),
)
SHORTEST = 256  #: FFT whose single bins are compared; shorter ones have mel bins only
LEVEL_FFT = 1024  #: of the resolution whose levels are compared
LEVEL_BINS, LEVEL_FRAMES = 8, 6  #: of its mel spectrogram, over which a level is taken
MEL_WEIGHT, MAGNITUDE_WEIGHT, CONVERGENCE_WEIGHT, LEVEL_WEIGHT = 0.6, 0.5, 0.6, 0.5
POWER_FLOOR = 1e-6  #: of a mean power, before its logarithm
PERIODS = (2, 3, 5, 7, 11)
ADVERSARIAL_FROM = 0.6  #: of the stage
ADVERSARIAL_WEIGHT, FEATURE_WEIGHT = 0.1, 0.2  #: beside 1 for the spectral losses
MAXIMAL_NORM = 5.0  #: of the gradient of a network
SLOPE = 0.1
SILENCE = 0.1  #: added to the denominator of the spectral convergence, for silent batches


class PeriodDiscriminator(nn.Module):
    """waveform [B, n], folded to rows of one period (Kong et al. 2020) -> the maps of all layers, scores last."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.period = period
        channels = (1, 16, 32, 64, 64)
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, (5, 1), (3, 1), (2, 0)) for inputs, outputs in itertools.pairwise(channels)
        )
        self.score = nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0))

    def forward(self, waveform: Tensor) -> list[Tensor]:
        padded = functional.pad(waveform, (0, -waveform.shape[1] % self.period))
        x = padded.reshape(len(waveform), 1, -1, self.period)
        maps = []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
            maps.append(x)
        return [*maps, self.score(x).float()]


class VocoderStage:
    """Trains HiFi-GAN on `clips`, int16 [N, 163840].

    `encoder` and `decoder` are the weights of the trained VAE; without them all log-mels are true ones.
    """

    name = "vocoder"
    averaged: tuple[str, ...] = ("hifigan",)

    def __init__(
        self,
        sizes: NetworkSizes,
        clips: np.ndarray,
        encoder: dict[str, Tensor] | None,
        decoder: dict[str, Tensor] | None,
        device: torch.device,
        batch: int = BATCH,
    ) -> None:
        self.clips, self.device, self.batch = torch.from_numpy(clips).to(device), device, batch
        self.through_vae = False
        self.log_mel = LogMel().to(device)
        self.resolutions = nn.ModuleList(LogMel(*resolution) for resolution in RESOLUTIONS).to(device)
        self.encoder, self.decoder = VaeEncoder(sizes).to(device), VaeDecoder(sizes).to(device)
        if encoder and decoder:
            self.load_vae(encoder, decoder)
        self.hifigan = HifiGan(sizes).to(device)
        use_rows(self.hifigan)
        self.discriminators = nn.ModuleList(PeriodDiscriminator(period) for period in PERIODS).to(device)
        self.networks = {"hifigan": self.hifigan, "discriminators": self.discriminators}
        self.optimizers: dict[str, Any] = {
            "hifigan": torch.optim.AdamW(self.hifigan.parameters(), LEARNING_RATE, betas=(0.8, 0.95)),
            "discriminators": torch.optim.AdamW(self.discriminators.parameters(), 3e-4, betas=(0.8, 0.95)),
        }

    def load_vae(self, encoder: dict[str, Tensor], decoder: dict[str, Tensor]) -> None:
        """From now on half of each batch goes through the VAE of these weights."""
        self.encoder.load_state_dict(encoder)
        self.decoder.load_state_dict(decoder)
        self.through_vae = True

    def choose(self, progress: float, generator: torch.Generator) -> tuple[bool, bool]:
        """Whether the discriminators judge, and whether half of the batch goes through the VAE."""
        return progress > ADVERSARIAL_FROM, self.through_vae

    def update(self, choice: tuple[bool, bool], generator: torch.Generator | None) -> dict[str, Tensor]:
        adversarial, through_vae = choice
        real = crop_clips(self.clips, self.batch, FRAMES * FRAME_SHIFT, generator)
        mel = self.log_mel(real)
        if through_vae:
            with torch.no_grad(), half_precision(self.device):
                mel[::2] = self.decoder(self.encoder(mel[::2])[0]).float()
        loss, losses = self.compare(real, mel, adversarial)
        self.step(loss, "hifigan")
        return losses

    def compare(self, real: Tensor, mel: Tensor, adversarial: bool) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of what the vocoder makes of `mel` [B, 64, frames] beside `real` [B, n], and its parts.

        adversarial: whether the discriminators judge. Then they are trained first.
        """
        with half_precision(self.device):
            made = self.hifigan(mel)[:, : real.shape[1]].float()
        losses: dict[str, Tensor] = {}
        if adversarial:
            losses["discriminator"] = self.train_discriminators(real, made.detach())
        loss = self.compare_spectra(real, made)
        losses["spectral"] = loss.detach()
        if adversarial:
            adversary, features = self.judge(real, made)
            loss = loss + ADVERSARIAL_WEIGHT * adversary + FEATURE_WEIGHT * features
            losses["adversary"] = adversary.detach()
        return loss, losses

    def step(self, loss: Tensor, *networks: str) -> None:
        """Change the weights of `networks` to lower `loss`."""
        for name in networks:
            self.optimizers[name].zero_grad(set_to_none=True)
        loss.backward()
        for name in networks:
            nn.utils.clip_grad_norm_(self.networks[name].parameters(), MAXIMAL_NORM)
            self.optimizers[name].step()

    def compare_spectra(self, real: Tensor, made: Tensor) -> Tensor:
        """The weighted sum of four losses, each averaged over its resolutions.

        Log-mels and log-magnitudes are compared by their mean absolute difference. Spectral convergence (Arik et al.
        2018) is the norm of the difference over the norm of the real magnitudes. The loudest partials dominate it; the
        logarithms alone would be small for noise of the right colour too. The fourth is `compare_levels`, of bands and
        of the whole spectrum.
        """
        mels, bins, convergences = [], [], []
        level = torch.zeros((), device=self.device)
        for resolution in self.resolutions:
            log_mel: Any = resolution
            a, b = log_mel.magnitudes(made), log_mel.magnitudes(real)
            mels.append(compare_logarithms(log_mel.filters @ a, log_mel.filters @ b))
            if log_mel.fft_size >= SHORTEST:
                bins.append(compare_logarithms(a, b))
                convergences.append(torch.linalg.vector_norm(a - b) / (torch.linalg.vector_norm(b) + SILENCE))
            if log_mel.fft_size == LEVEL_FFT:
                a, b = a.square(), b.square()
                bands = compare_levels(log_mel.filters @ a, log_mel.filters @ b, LEVEL_BINS)
                level = bands + compare_levels(a.sum(dim=1, keepdim=True), b.sum(dim=1, keepdim=True), 1)
        mel, magnitude, convergence = (torch.stack(losses).mean() for losses in (mels, bins, convergences))
        spectra = MEL_WEIGHT * mel + MAGNITUDE_WEIGHT * magnitude + CONVERGENCE_WEIGHT * convergence
        return spectra + LEVEL_WEIGHT * level

    def train_discriminators(self, real: Tensor, made: Tensor) -> Tensor:
        """One update by the least-squares loss; returns the loss."""
        loss = torch.zeros((), device=self.device)
        with half_precision(self.device):
            for discriminator in self.discriminators:
                real_score, made_score = discriminator(real)[-1], discriminator(made)[-1]
                loss = loss + (real_score - 1).square().mean() + made_score.square().mean()
        optimizer = self.optimizers["discriminators"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()

    def judge(self, real: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        """The least-squares adversarial loss of `made`, and the feature-matching loss: the L1 distance of the maps."""
        adversary = features = torch.zeros((), device=self.device)
        with half_precision(self.device):
            for discriminator in self.discriminators:
                with torch.no_grad():
                    real_maps = discriminator(real)
                maps = discriminator(made)
                adversary = adversary + (maps[-1] - 1).square().mean()
                for a, b in zip(maps[:-1], real_maps[:-1], strict=True):
                    features = features + (a - b).abs().mean().float()
        return adversary, features


def compare_logarithms(a: Tensor, b: Tensor) -> Tensor:
    """The mean absolute difference of the natural logarithms of two arrays of magnitudes."""
    return (a.clamp(min=FLOOR).log() - b.clamp(min=FLOOR).log()).abs().mean()


def compare_levels(a: Tensor, b: Tensor, bins: int) -> Tensor:
    """The mean absolute difference of the levels of two powers [B, all bins, frames], as logarithms of magnitudes.

    A level is the mean power of so many `bins` and of LEVEL_FRAMES. Bin by bin, a sound whose partials are spread is
    nearest when it is too quiet.
    """
    area = (bins, LEVEL_FRAMES)
    here, there = (functional.avg_pool2d(power[:, None], area).clamp(min=POWER_FLOOR).log() / 2 for power in (a, b))
    return (here - there).abs().mean()
