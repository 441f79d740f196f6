"""The mel-spectrogram VAE: reconstruction loss, a small KL divergence, and from 60 % on a patch discriminator."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.vae_decoder import Middle, ResidualBlock, VaeDecoder
from sc_runtime.semanticodec.config import FRAME_SHIFT, LATENT_SHAPE

from .loop import half_precision, pick
from .mel import LogMel

BATCH = 2  #: on a CPU, more updates are worth more than larger batches
FRAMES = 256  #: of a training crop
LEARNING_RATE = 1e-3
KL_WEIGHT = 1e-4
ADVERSARIAL_FROM = 0.6  #: of the stage
ADVERSARIAL_WEIGHT = 0.02
CENTRE, SPREAD = -6.0, 3.0  #: of the log-mel; the networks' inputs are normalised with them


class VaeEncoder(nn.Module):
    """log-mel [B, 64, frames] -> mean and log-variance of the latent, [B, 8, frames / 4, 16] each."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        base, groups = sizes.vae_channels, sizes.norm_groups
        layers: list[nn.Module] = [nn.Conv2d(1, base, 3, padding=1)]
        channels = base
        for level, multiplier in enumerate(sizes.vae_multipliers):
            for _ in range(sizes.vae_residual_blocks):
                layers.append(ResidualBlock(channels, base * multiplier, groups))
                channels = base * multiplier
            if level < len(sizes.vae_multipliers) - 1:
                layers.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        layers += [Middle(channels, groups), nn.GroupNorm(groups, channels, eps=1e-6), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 2 * LATENT_SHAPE[0], 3, padding=1))

    def forward(self, mel: Tensor) -> tuple[Tensor, Tensor]:
        x = (mel.transpose(1, 2)[:, None] - CENTRE) / SPREAD
        mean, log_variance = self.layers(x).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)


class PatchDiscriminator(nn.Module):
    """log-mel [B, 64, frames] -> scores of overlapping patches."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(64, 1, 3, padding=1))

    def forward(self, mel: Tensor) -> Tensor:
        return self.layers((mel[:, None] - CENTRE) / SPREAD).float()


class MelVaeStage:
    """Trains encoder and decoder on `clips`, int16 [N, 163840]."""

    name = "mel_vae"
    averaged = ("encoder", "decoder")

    def __init__(self, sizes: NetworkSizes, clips: np.ndarray, device: torch.device, batch: int = BATCH) -> None:
        self.clips, self.device, self.batch = torch.from_numpy(clips).to(device), device, batch
        self.log_mel = LogMel().to(device)
        self.encoder = VaeEncoder(sizes).to(device)
        self.decoder = VaeDecoder(sizes).to(device)
        with torch.no_grad():
            self.decoder.scale_factor.fill_(1.0)
            self.decoder.decoder.conv_out.bias.fill_(CENTRE)  # type: ignore[union-attr]
        self.discriminator = PatchDiscriminator().to(device)
        self.networks = {"encoder": self.encoder, "decoder": self.decoder, "discriminator": self.discriminator}
        self.decoder.scale_factor.requires_grad_(False)
        parameters = [*self.encoder.parameters(), *(p for p in self.decoder.parameters() if p.requires_grad)]
        self.optimizers: dict[str, Any] = {
            "autoencoder": torch.optim.AdamW(parameters, LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4),
            "discriminator": torch.optim.AdamW(self.discriminator.parameters(), 2e-4, betas=(0.5, 0.9)),
        }

    def choose(self, progress: float, generator: torch.Generator) -> tuple[bool, bool]:
        """Whether the discriminator judges the reconstruction, and whether it is trained."""
        return progress > ADVERSARIAL_FROM, progress > ADVERSARIAL_FROM - 0.05

    def update(self, choice: tuple[bool, bool], generator: torch.Generator | None) -> dict[str, Tensor]:
        judged, judging = choice
        mel = self.log_mel(crop_clips(self.clips, self.batch, FRAMES * FRAME_SHIFT, generator))
        drawn, kl = reconstruct(self.encoder, self.decoder, mel, generator)
        loss, l1 = compare(drawn, mel)
        loss = loss + KL_WEIGHT * kl
        losses = {"l1": l1, "kl": kl.detach()}
        if judged:
            with half_precision(self.device):
                loss = loss - ADVERSARIAL_WEIGHT * self.discriminator(drawn).mean()
        optimizer = self.optimizers["autoencoder"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        if judging:
            losses["discriminator"] = self.train_discriminator(mel, drawn.detach())
        return losses

    def train_discriminator(self, mel: Tensor, drawn: Tensor) -> Tensor:
        """One update by the hinge loss; returns the loss."""
        with half_precision(self.device):
            real, fake = self.discriminator(mel), self.discriminator(drawn)
        loss = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
        optimizer = self.optimizers["discriminator"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss.detach()


class VaeEncoderStage:
    """Trains an encoder for a fixed `decoder`, which was restored from a bundle, on `clips`, int16 [N, 163840]."""

    name = "vae_encoder"
    averaged = ("encoder",)

    def __init__(
        self, sizes: NetworkSizes, clips: np.ndarray, decoder: dict[str, Tensor], device: torch.device
    ) -> None:
        self.clips, self.device, self.batch = torch.from_numpy(clips).to(device), device, BATCH
        self.log_mel = LogMel().to(device)
        self.encoder = VaeEncoder(sizes).to(device)
        self.decoder = VaeDecoder(sizes).to(device)
        self.decoder.load_state_dict(decoder)
        self.decoder.requires_grad_(False)
        self.networks = {"encoder": self.encoder}
        self.optimizers: dict[str, Any] = {
            "encoder": torch.optim.AdamW(self.encoder.parameters(), LEARNING_RATE, betas=(0.9, 0.95), weight_decay=1e-4)
        }

    def choose(self, progress: float, generator: torch.Generator) -> None:
        """Every update is the same."""

    def update(self, choice: None, generator: torch.Generator | None) -> dict[str, Tensor]:
        mel = self.log_mel(crop_clips(self.clips, self.batch, FRAMES * FRAME_SHIFT, generator))
        drawn, kl = reconstruct(self.encoder, self.decoder, mel, generator)
        loss, l1 = compare(drawn, mel)
        optimizer = self.optimizers["encoder"]
        optimizer.zero_grad(set_to_none=True)
        (loss + KL_WEIGHT * kl).backward()
        nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        optimizer.step()
        return {"l1": l1, "kl": kl.detach()}


def reconstruct(
    encoder: nn.Module, decoder: nn.Module, mel: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Reconstruct `mel` from a latent that is sampled from the encoder's distribution.

    Returns the reconstruction and the KL divergence, a mean over the elements of the latent.
    """
    with half_precision(mel.device):
        mean, log_variance = encoder(mel)
        noise = torch.randn(mean.shape, generator=generator, device=mel.device)
        drawn = decoder(mean + noise * (0.5 * log_variance).exp()).float()
    return drawn, 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()


def compare(drawn: Tensor, mel: Tensor) -> tuple[Tensor, Tensor]:
    """The reconstruction loss, and its L1 part for the curves."""
    difference = drawn - mel
    l1 = difference.abs().mean()
    return l1 + 0.25 * difference.square().mean(), l1.detach()


def crop_clips(clips: Tensor, count: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """`count` random crops of int16 clips [N, n], float32 [count, samples] in [-1, 1), on the device of `clips`."""
    rows = pick(len(clips), count, generator, clips.device)
    starts = pick(clips.shape[1] - samples + 1, count, generator, clips.device)
    places = starts[:, None] + torch.arange(samples, device=clips.device)
    return clips[rows[:, None], places].float() / 32768
