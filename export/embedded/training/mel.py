"""The log-mel spectrogram between VAE and vocoder, in torch and differentiable."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sc_runtime.export.semanticodec.networks.hifigan import MEL_BINS
from sc_runtime.semanticodec.config import FRAME_SHIFT

from .mel_filters import mel_filters

FFT_SIZE = 1024
FLOOR = 1e-5  #: of a mel magnitude, before its logarithm


class LogMel(nn.Module):
    """waveform [B, 160 frames] at 16 kHz -> log-mel [B, bins, frames]: natural logarithm of mel magnitudes.

    AudioLDM's spectrogram: Hann window and FFT of 1024, hop 160, 64 bins of Slaney's scale and norm from 0 to 8
    kHz. Other sizes serve as losses at other resolutions.
    """

    def __init__(self, fft_size: int = FFT_SIZE, hop: int = FRAME_SHIFT, bins: int = MEL_BINS) -> None:
        super().__init__()
        self.fft_size, self.hop = fft_size, hop
        self.window: Tensor
        self.filters: Tensor
        self.register_buffer("window", torch.hann_window(fft_size), persistent=False)
        self.register_buffer("filters", torch.from_numpy(mel_filters(fft_size, bins)).float(), persistent=False)

    def forward(self, waveform: Tensor) -> Tensor:
        return torch.log((self.filters @ self.magnitudes(waveform)).clamp(min=FLOOR))

    def magnitudes(self, waveform: Tensor) -> Tensor:
        """waveform [B, hop * frames] -> STFT magnitudes [B, fft_size / 2 + 1, frames]."""
        margin = (self.fft_size - self.hop) // 2
        padded = functional.pad(waveform[:, None], (margin, self.fft_size - self.hop - margin), mode="reflect")[:, 0]
        spectrum = torch.stft(
            padded.float(), self.fft_size, self.hop, window=self.window, center=False, return_complex=True
        )
        return (spectrum.real.square() + spectrum.imag.square() + 1e-9).sqrt()
