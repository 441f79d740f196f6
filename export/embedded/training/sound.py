"""The last stage: VAE decoder and vocoder are trained further together, on latents that decoding draws.

Before it each has been trained alone: the decoder on the encoder's latents, for the log-mel, and the vocoder on
log-mels that are true or nearly so. Here the losses of the sound train both on what they meet in use. Half of each
batch are true log-mels, so that the vocoder does not forget them.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.semanticodec.config import FRAME_SHIFT

from .loop import half_precision, pick
from .mel_vae import compare, crop_clips
from .samples import Samples, crop_latents
from .vocoder import FRAMES, VocoderStage

BATCH = 8
WIDE = 256  #: frames that the decoder is given: it normalises over them and attends to all of them
CROPS = 2  #: of the vocoder, in each of these
LOG_MEL_WEIGHT = 0.5  #: of the loss of the decoder's log-mel, beside those of the sound
DECODER_RATE = 3e-4  #: learning rate


class SoundStage(VocoderStage):
    """Trains `decoder` and `hifigan`, their weights so far, on `samples` and on true log-mels of `clips`, int16 [N, n].

    scale: the VAE's scale factor, by which latents were multiplied for the T-UNet.
    """

    name = "sound"
    averaged = ("hifigan", "decoder")

    def __init__(
        self,
        sizes: NetworkSizes,
        clips: np.ndarray,
        samples: Samples,
        scale: float,
        decoder: dict[str, Tensor],
        hifigan: dict[str, Tensor],
        device: torch.device,
        batch: int = BATCH,
    ) -> None:
        super().__init__(sizes, clips, None, None, device, batch)
        self.latents, self.sources = (torch.from_numpy(a).to(device) for a in (samples.latents, samples.clips))
        self.scale = scale
        self.decoder.load_state_dict(decoder)
        self.hifigan.load_state_dict(hifigan)
        self.decoder.scale_factor.requires_grad_(False)
        self.networks["decoder"] = self.decoder
        parameters = [p for p in self.decoder.parameters() if p.requires_grad]
        self.optimizers["decoder"] = torch.optim.AdamW(parameters, DECODER_RATE, betas=(0.9, 0.95), weight_decay=1e-4)

    def update(self, choice: tuple[bool, bool], generator: torch.Generator | None) -> dict[str, Tensor]:
        adversarial, _ = choice
        true = crop_clips(self.clips, -(-self.batch // 2), FRAMES * FRAME_SHIFT, generator)
        real, drawn, error, l1 = self.draw(max(self.batch // 2, 1), generator)
        mel = torch.cat([self.log_mel(true), drawn])
        loss, losses = self.compare(torch.cat([true, real]), mel, adversarial)
        self.step(loss + LOG_MEL_WEIGHT * error, "hifigan", "decoder")
        return {**losses, "l1": l1}

    def draw(self, count: int, generator: torch.Generator | None) -> tuple[Tensor, ...]:
        """`count` crops of sound [count, n], what the decoder makes of their latents [count, 64, FRAMES], its errors.

        The errors are the loss and the L1 of the log-mel, of all WIDE frames.
        """
        rows, starts, latents = crop_latents(self.latents, -(-count // CROPS), WIDE, generator)
        sources = self.sources[rows].float() / 32768
        with half_precision(self.device):
            drawn = self.decoder(latents / self.scale).float()
        error, l1 = compare(drawn, cut(self.log_mel(sources), starts, WIDE))
        clips = torch.arange(count, device=self.device) // CROPS
        places = pick(WIDE - FRAMES + 1, count, generator, self.device)
        begins = FRAME_SHIFT * (starts[clips] + places)
        real = cut(sources[clips, None], begins, FRAMES * FRAME_SHIFT)[:, 0]
        return real, cut(drawn[clips], places, FRAMES), error, l1


def cut(rows: Tensor, starts: Tensor, length: int) -> Tensor:
    """From each of `rows` [B, C, n] the piece of `length` that begins at its place of `starts` [B]: [B, C, length]."""
    places = starts[:, None] + torch.arange(length, device=rows.device)
    return rows.gather(2, places[:, None].expand(-1, rows.shape[1], -1))
