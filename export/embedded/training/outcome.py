"""Results of a training: a picture of its curves, and the clips that VAE and vocoder alone reconstruct."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from sc_runtime.export.embedded.corpus.splits import DOMAINS
from sc_runtime.export.semanticodec.networks.hifigan import HifiGan
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder
from sc_runtime.files import replacing

from .loop import choose_device
from .mel import LogMel
from .mel_vae import VaeEncoder
from .preparation import load_weights
from .states import load_decoder, load_encoder, load_hifigan, read_curves

SKIPPED = ("step", "seconds")  #: columns of a curve that are no losses


def draw_curves(folder: Path, stages: tuple[str, ...], path: Path) -> None:
    """Write a PNG of the losses of every stage that was trained in `folder`, against its minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    curves = {stage: points for stage in stages if (points := read_curves(folder, stage))}
    figure, panels = pyplot.subplots(
        1, len(curves), figsize=(4.2 * len(curves), 3.8), layout="constrained", squeeze=False
    )
    for axes, (stage, points) in zip(panels[0], curves.items(), strict=True):
        for name in dict.fromkeys(key for point in points for key in point if key not in SKIPPED):
            known = [(point["seconds"] / 60, point[name]) for point in points if name in point]
            axes.plot(*zip(*known, strict=True), label=name, linewidth=1.2)
        axes.set(title=f"{stage}, {points[-1]['step']} steps", xlabel="minutes", yscale="log")
        axes.grid(True, which="both", linewidth=0.3)
        axes.legend(fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    pyplot.close(figure)


@torch.inference_mode()
def write_ceilings(folder: Path, corpus: Path, sizes: NetworkSizes) -> dict[str, float]:
    """Write CORPUS/ceiling-NAME.npy, int16 [M, 163840]: the clips of every evaluation array after VAE and vocoder.

    The latent of each clip is the encoder's, without quantisation or diffusion. Decoder and vocoder are the shipped
    ones, also where stage `sound` has adapted them to latents that decoding draws.
    NAME is that of held-out-NAME.npy, or the whole name of an array of recordings. Returns the mean absolute
    difference between the log-mels of the clips and of the VAE's reconstruction, by NAME.
    """
    device = choose_device()
    log_mel = LogMel().to(device)
    encoder = load_weights(VaeEncoder(sizes), load_encoder(folder), device)
    decoder = load_weights(VaeDecoder(sizes), load_decoder(folder), device)
    hifigan = load_weights(HifiGan(sizes), load_hifigan(folder), device)
    errors = {}
    for path in list_evaluation(corpus):
        clips = np.load(path)
        made = np.empty_like(clips)
        differences = []
        for row, clip in enumerate(clips):
            mel = log_mel(torch.from_numpy(clip.astype(np.float32) / 32768)[None].to(device))
            reconstructed = decoder(encoder(mel)[0])
            differences.append(float((reconstructed - mel).abs().mean()))
            sound = hifigan(reconstructed)[0, : clips.shape[1]]
            made[row] = (sound.clamp(-1, 1) * 32767).round().cpu().numpy().astype(np.int16)
        name = path.stem.removeprefix("held-out-")
        errors[name] = float(np.mean(differences))
        with replacing(corpus / f"ceiling-{name}.npy") as temporary:
            np.save(temporary, made)
    return errors


def list_evaluation(corpus: Path) -> list[Path]:
    """The arrays of clips for evaluation: the domains, and melodies and recordings if they exist."""
    further = [*corpus.glob("held-out-melody.npy"), *sorted(corpus.glob("recorded-*.npy"))]
    return [*(corpus / f"held-out-{domain}.npy" for domain in DOMAINS), *further]
