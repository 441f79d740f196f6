"""The published UniCodec in PyTorch eager, as its users run it: the baseline of every speed-up and of every test.

It runs in float32, a whole file at once. It reads the published state dict, and shares no code with the exported
networks except the record of their sizes. Like the published code it computes these anew in every call: the weights of
weight-normalised convolutions, the rotary angles of every layer, the codebook from its embedding. Each routed expert
runs only on the positions that chose it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sc_runtime.export.unicodec.networks.sizes import UniCodecSizes

Lap = Callable[[str], None]  #: called with a stage's name when the stage ends

DOMAINS = {"speech": (0, 1), "music": (1, 2), "sound": (2, 4), None: (0, 4)}  #: quarters of the codebook searched
ENCODER = "feature_extractor.encodec.encoder."
QUANTIZER = "feature_extractor.encodec.quantizer.vq."


class PublishedUniCodec:
    """The published codec on `state`, a state dict in the published layout.

    lap: called with a stage's name when the stage ends.
    device: torch's name of the device.
    """

    def __init__(
        self, sizes: UniCodecSizes, state: Mapping[str, Tensor], lap: Lap = lambda stage: None, device: str = "cpu"
    ) -> None:
        self.sizes, self.lap, self.device = sizes, lap, device
        self.state = {name: tensor.to(device) for name, tensor in state.items()}

    @torch.inference_mode()
    def encode(self, waveform: np.ndarray, domain: str | None = None) -> np.ndarray:
        """waveform float32 [n] at 24 kHz -> codes int64 [T].

        domain: "speech", "music" or "sound" confines the search to that part of the codebook.
        """
        features = self.embed(torch.from_numpy(waveform).to(self.device)[None])
        codes = self.search(features, domain)[0].cpu().numpy()
        self.lap("search")
        return codes

    @torch.inference_mode()
    def decode(self, codes: np.ndarray) -> np.ndarray:
        """codes [T] -> waveform float32 [320 T]."""
        indices = torch.from_numpy(codes.astype(np.int64)).to(self.device)[None]
        embeddings = self.state[f"{QUANTIZER}embedding.weight"][indices]
        spectrum = self.run_backbone(self.linear(f"{QUANTIZER}embedding_proj", embeddings).transpose(1, 2))
        self.lap("backbone")
        waveform = self.run_head(spectrum)[0].cpu().numpy()
        self.lap("head")
        return waveform

    def embed(self, waveform: Tensor) -> Tensor:
        """[B, n] -> features [B, T, width]."""
        features = self.run_convolutions(waveform[:, None]).transpose(1, 2)
        self.lap("convolutions")
        features = self.run_transformer(features)
        self.lap("transformer")
        return features

    def search(self, features: Tensor, domain: str | None) -> Tensor:
        """[B, T, width] -> nearest entries [B, T]."""
        codebook = self.linear(f"{QUANTIZER}embedding_proj", self.state[f"{QUANTIZER}embedding.weight"])
        flat = features.reshape(-1, features.shape[-1])
        distances = (flat**2).sum(dim=1, keepdim=True) + (codebook**2).sum(dim=1) - 2 * (flat @ codebook.T)
        first, last = (quarter * self.sizes.entries // 4 for quarter in DOMAINS[domain])
        distances[:, :first] = math.inf
        distances[:, last:] = math.inf
        return distances.argmin(dim=1).reshape(features.shape[:2])

    def run_convolutions(self, x: Tensor) -> Tensor:
        x = self.convolve_mirrored("0", x)
        at = 1
        for stride in self.sizes.strides:
            h = self.convolve_mirrored(f"{at}.block.1", functional.elu(x))
            h = self.convolve_mirrored(f"{at}.block.3", functional.elu(h))
            x = self.convolve_mirrored(f"{at}.shortcut", x) + h
            x = self.convolve_mirrored(f"{at + 2}", functional.elu(x), stride)
            at += 3
        return self.convolve_mirrored(f"{at + 1}", functional.elu(x))

    def convolve_mirrored(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """A weight-normalised convolution, padded by reflection until its last window is full."""
        name = f"{ENCODER}model.{name}.conv.conv"
        weight = torch._weight_norm(self.state[f"{name}.weight_v"], self.state[f"{name}.weight_g"], 0)
        margin = weight.shape[2] - stride
        windows = math.ceil((x.shape[2] + margin - weight.shape[2]) / stride + 1)
        missing = (windows - 1) * stride + weight.shape[2] - margin - x.shape[2]
        padding = (margin - margin // 2, margin // 2 + missing)
        short = max(0, max(padding) + 1 - x.shape[2])  # reflection needs more positions than it mirrors
        x = functional.pad(functional.pad(x, (0, short)), padding, mode="reflect")
        return functional.conv1d(x[..., : x.shape[2] - short], weight, self.state[f"{name}.bias"], stride)

    def run_transformer(self, x: Tensor) -> Tensor:
        for i in range(self.sizes.layers):
            layer = f"{ENCODER}transformer_enocoder.transformer.layers.{i}."
            h = self.attend(layer, self.layer_norm(f"{layer}norm1", x, 1e-5))
            x = x + self.state[f"{layer}layer_scale_1.scale"] * h
            h = self.layer_norm(f"{layer}norm2", x, 1e-5)
            x = x + self.mix(f"{layer}FFNMOE.", h.reshape(-1, h.shape[-1])).view_as(h)
        return x

    def attend(self, layer: str, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        heads = self.sizes.heads
        projected = functional.linear(x, self.state[f"{layer}self_attn.in_proj_weight"])
        queries, keys, values = projected.view(batch, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        queries, keys = turn(queries), turn(keys)
        h = functional.scaled_dot_product_attention(queries, keys, values)
        return self.linear(f"{layer}self_attn.out_proj", h.transpose(1, 2).reshape(batch, length, width))

    def mix(self, mixture: str, x: Tensor) -> Tensor:
        """positions [P, width] -> [P, width]: the likeliest expert of each position, plus the shared expert."""
        probabilities = functional.linear(x, self.state[f"{mixture}gate.weight"]).softmax(dim=-1)
        chosen = probabilities.topk(1, dim=-1).indices
        shares = probabilities.gather(1, chosen)
        counts = torch.bincount(chosen.flatten(), minlength=self.sizes.experts).tolist()
        y = torch.zeros_like(x)
        for expert, count in enumerate(counts):
            if count:
                rows, columns = torch.where(chosen == expert)
                y[rows] += self.run_expert(f"{mixture}experts.{expert}.", x[rows]) * shares[rows, columns, None]
        return y + self.run_expert(f"{mixture}shared_experts.", x)

    def run_expert(self, expert: str, x: Tensor) -> Tensor:
        return self.linear(
            f"{expert}w2", functional.silu(self.linear(f"{expert}w1", x)) * self.linear(f"{expert}w3", x)
        )

    def run_backbone(self, vectors: Tensor) -> Tensor:
        """[B, width, T] -> [B, T, decoder width]."""
        x = self.convolve("backbone.embed", vectors, 3)
        for i in (0, 1, 2, 3, 4):
            x = self.attend_once("backbone.pos_net.2.", x) if i == 2 else self.add_residual(f"backbone.pos_net.{i}.", x)
        x = self.group_norm("backbone.pos_net.5", x)
        x = self.adaptive_norm("backbone.norm", x.transpose(1, 2)).transpose(1, 2)
        for i in range(self.sizes.blocks):
            block = f"backbone.convnext.{i}."
            h = self.convolve(f"{block}dwconv", x, 3, groups=x.shape[1]).transpose(1, 2)
            h = self.linear(f"{block}pwconv1", self.adaptive_norm(f"{block}norm", h))
            h = self.state[f"{block}gamma"] * self.linear(f"{block}pwconv2", functional.gelu(h))
            x = x + h.transpose(1, 2)
        return self.layer_norm("backbone.final_layer_norm", x.transpose(1, 2), 1e-6)

    def add_residual(self, block: str, x: Tensor) -> Tensor:
        h = x
        for i in (1, 2):
            h = self.group_norm(f"{block}norm{i}", h)
            h = self.convolve(f"{block}conv{i}", h * torch.sigmoid(h), 1)
        return x + h

    def attend_once(self, block: str, x: Tensor) -> Tensor:
        h = self.group_norm(f"{block}norm", x)
        queries, keys, values = (self.convolve(f"{block}{name}", h, 0) for name in "qkv")
        weights = (torch.bmm(queries.transpose(1, 2), keys) * x.shape[1] ** -0.5).softmax(dim=2)
        return x + self.convolve(f"{block}proj_out", torch.bmm(values, weights.transpose(1, 2)), 0)

    def run_head(self, x: Tensor) -> Tensor:
        """[B, T, decoder width] -> waveform [B, 320 T]."""
        window, hop = self.state["head.istft.window"], self.sizes.hop
        logarithms, phases = self.linear("head.out", x).transpose(1, 2).chunk(2, dim=1)
        magnitudes = logarithms.exp().clip(max=100)
        spectrum = magnitudes * (phases.cos() + 1j * phases.sin())
        frames = torch.fft.irfft(spectrum, len(window), dim=1) * window[:, None]
        squares = window.square().expand(1, frames.shape[2], -1).transpose(1, 2)
        return add_overlapping(frames, hop) / add_overlapping(squares, hop)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"))

    def convolve(self, name: str, x: Tensor, padding: int, groups: int = 1) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.conv1d(x, weight, bias, padding=padding, groups=groups)

    def layer_norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return functional.layer_norm(x, x.shape[-1:], self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def group_norm(self, name: str, x: Tensor) -> Tensor:
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return functional.group_norm(x, self.sizes.norm_groups, weight, bias, 1e-6)

    def adaptive_norm(self, name: str, x: Tensor) -> Tensor:
        """A layer norm whose scale and shift depend on a condition. Inference uses condition 0 alone."""
        scale, shift = self.state[f"{name}.scale.weight"][0], self.state[f"{name}.shift.weight"][0]
        return functional.layer_norm(x, x.shape[-1:], eps=1e-6) * scale + shift


def turn(x: Tensor) -> Tensor:
    """Rotary positions of x [B, heads, T, head width]; two neighbouring channels are a pair."""
    length, width = x.shape[2:]
    rates = torch.exp(torch.arange(width // 2, device=x.device) * (-math.log(10_000.0) * 2 / width))
    angles = torch.arange(length, device=x.device)[:, None] * rates
    pairs = torch.view_as_complex(x.reshape(*x.shape[:3], -1, 2).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(3)


def add_overlapping(frames: Tensor, hop: int) -> Tensor:
    """[B, n_fft, T] -> [B, hop T]: overlapping frames added, half of the overlap cut off at both ends."""
    n_fft, count = frames.shape[1:]
    cut = (n_fft - hop) // 2
    size = (count - 1) * hop + n_fft
    return functional.fold(frames, (1, size), (1, n_fft), stride=(1, hop))[:, 0, 0, cut : size - cut]
