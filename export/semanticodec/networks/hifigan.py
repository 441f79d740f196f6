"""HiFi-GAN, the vocoder: log-mel to waveform."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from .sizes import NetworkSizes

MEL_BINS = 64
UPSAMPLING = ((5, 16), (4, 16), (2, 8), (2, 4), (2, 4))  #: (rate, kernel) of each stage; rates multiply to 160
RESIDUAL_KERNELS = (3, 7, 11)
DILATIONS = (1, 3, 5)
SLOPE = 0.1  #: of every leaky ReLU but the last
LAST_SLOPE = 0.01


class HifiGan(nn.Module):
    """log-mel [B, 64, frames] -> waveform [B, 160 frames + 32] at 16 kHz, in [-1, 1]; 163 872 samples for 1024."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        channels = sizes.hifigan_channels
        self.conv_pre = nn.Conv1d(MEL_BINS, channels, 7, padding=3)
        self.ups = nn.ModuleList()
        self.resblocks = nn.ModuleList()
        for rate, kernel in UPSAMPLING:
            self.ups.append(
                nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=(kernel - rate) // 2)
            )
            channels //= 2
            self.resblocks.extend(ResidualBlock(channels, kernel) for kernel in RESIDUAL_KERNELS)
        self.conv_post = nn.Conv1d(channels, 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.conv_pre(mel)
        count = len(RESIDUAL_KERNELS)
        for i, up in enumerate(self.ups):
            x = up(functional.leaky_relu(x, SLOPE))
            branches = [block(x) for block in self.resblocks[count * i : count * (i + 1)]]
            x = sum(branches[1:], start=branches[0]) / count
        return self.conv_post(functional.leaky_relu(x, LAST_SLOPE)).tanh().squeeze(1)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()

        def convolution(dilation: int) -> nn.Conv1d:
            return nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel - 1) // 2)

        self.convs1 = nn.ModuleList(convolution(dilation) for dilation in DILATIONS)
        self.convs2 = nn.ModuleList(convolution(1) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for first, second in zip(self.convs1, self.convs2, strict=True):
            h = first(functional.leaky_relu(x, SLOPE))
            x = x + second(functional.leaky_relu(h, SLOPE))
        return x
