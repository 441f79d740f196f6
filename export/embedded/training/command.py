"""`python -m export.embedded.training`: the networks of the embedded model, stage by stage, in pieces.

The stages, each with what must be trained before it: audiomae, mel_vae, vocoder (mel_vae), tokens (audiomae, mel_vae),
diffusion (tokens), sound (a bundle that was built from all of these, `--bundle`: VAE decoder and vocoder are trained
further, together, on what the T-UNet draws). `restore` starts from the weights of a built bundle instead of random
ones. A bundle has no VAE encoder: vae_encoder trains one. `assemble` writes a checkpoint in the published layout,
`ceilings` the clips that `bench.quality.run` compares with, and `curves` a picture of the losses.
"""

from __future__ import annotations

import json
import math
import signal
import threading
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import EMBEDDED as EMBEDDED_BUNDLE
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError
from sc_runtime.export.embedded.corpus.speeds import list_sets
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE
from sc_runtime.export.semanticodec.networks.sizes import EMBEDDED
from sc_runtime.export.weights import read_weights

from .assembly import assemble, load_audiomae
from .diffusion import DiffusionStage
from .loop import Stage, choose_device, fit, scale_rates
from .masked_autoencoder import MaskedAutoencoderStage
from .mel_vae import MelVaeStage, VaeEncoder, VaeEncoderStage
from .outcome import draw_curves, write_ceilings
from .preparation import SCALE_FACTOR, load_clips, load_weights, prepare_context, prepare_fbanks, prepare_latents
from .restoring import restore_bundle
from .samples import COUNT, prepare_samples
from .sizes import TRAINED
from .sound import SoundStage
from .states import load_average, load_encoder, read_state
from .tokens import TokensStage
from .vocoder import VocoderStage

RESULTS = ("restore", "assemble", "ceilings", "curves")
BUDGETS = {
    "audiomae": 20.0,
    "mel_vae": 20.0,
    "vae_encoder": 10.0,
    "vocoder": 60.0,
    "tokens": 20.0,
    "diffusion": 60.0,
    "sound": 60.0,
}  #: minutes
BEFORE_SOUND = ("audiomae", "mel_vae", "vocoder", "tokens", "diffusion")  #: stages that stage `sound` builds on

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    stage: Annotated[str, typer.Argument(help=f"One of {', '.join((*BUDGETS, *RESULTS))}.")],
    folder: Annotated[Path, typer.Argument(help="The state of the training, its curves and cached features.")],
    corpus: Annotated[Path, typer.Option(help="The folder that `python -m export.embedded.corpus` wrote.")],
    minutes: Annotated[float, typer.Option(help="Length of this piece, in minutes of CPU time.")] = 9.0,
    budget: Annotated[float | None, typer.Option(help="Length of the whole stage, in minutes.")] = None,
    threads: Annotated[int | None, typer.Option(help="Number of CPU threads.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Clips, or pieces of clips, of an update.")] = None,
    rate: Annotated[
        float | None,
        typer.Option(min=1e-3, max=10, help="Highest learning rate, over the stage's own. For a first piece."),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(help="Folder or name, for `restore` (by default the shipped model) and sound."),
    ] = None,
) -> None:
    """Train one STAGE of the embedded model for a piece of its budget. Run it again to continue.

    SIGTERM ends the piece after the current update, with its state saved; the exit code is then 143.
    """
    console = Console(stderr=True, highlight=False)
    if stage not in (*BUDGETS, *RESULTS):
        raise SettingsError(f"stage {stage!r}", f"one of {', '.join((*BUDGETS, *RESULTS))}")
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    if stage in RESULTS:
        finish(stage, folder, corpus, bundle, console)
        return
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopping.set())
    opened = open_stage(stage, folder, corpus, choose_device(), bundle)
    opened.batch = batch or opened.batch
    if rate is not None and has_begun(folder / f"{stage}.pt"):
        console.print(f"{stage}: has begun and keeps its learning rate; --rate is for a first piece")
    elif rate is not None:
        scale_rates(opened, rate)
    complete = fit(opened, folder, minutes, budget or BUDGETS[stage], console.print, stopped=stopping.is_set)
    console.print(f"{stage}: {'complete' if complete else 'not yet complete: run it again'}")
    if stopping.is_set():
        raise typer.Exit(128 + signal.SIGTERM)


def has_begun(path: Path) -> bool:
    """Whether the state of a stage holds optimisers, whose learning rates `fit` takes over."""
    return path.exists() and bool(read_state(path)["optimizers"])


def finish(name: str, folder: Path, corpus: Path, bundle: str | None, console: Console) -> None:
    """Run `restore`, `assemble`, `ceilings` or `curves`, and print what it wrote."""
    if name == "restore":
        made = folder
        kept = restore_bundle(Bundle.load(locate_bundle(bundle or EMBEDDED_BUNDLE.name)), EMBEDDED, TRAINED, folder)
        console.print(f"restored: {', '.join(kept)}")
    elif name == "assemble":
        made = assemble(folder, TRAINED)
    elif name == "ceilings":
        errors = write_ceilings(folder, corpus, TRAINED)
        console.print("L1 of the VAE: " + ", ".join(f"{name} {error:.3f}" for name, error in errors.items()))
        made = corpus
    else:
        made = folder / "curves.png"
        draw_curves(folder, tuple(BUDGETS), made)
    console.print(f"{name}: {made}", soft_wrap=True)


def open_stage(name: str, folder: Path, corpus: Path, device: torch.device, bundle: str | None) -> Stage:
    """The stage `name`, with its data and the trained networks that it needs. Raises SettingsError without them."""
    if name in BEFORE_SOUND and (folder / "sound.pt").exists():
        given = f"{folder}: sound.pt, which was trained on what {name}.pt and others make"
        raise SettingsError(given, f"stage {name} before stage sound", "remove sound.pt, and train it again afterwards")
    clips = load_clips(corpus)
    if name == "audiomae":
        return MaskedAutoencoderStage(TRAINED, prepare_fbanks(folder, clips), device)
    if name == "mel_vae":
        return MelVaeStage(TRAINED, clips, device)
    if name == "vae_encoder":
        return VaeEncoderStage(TRAINED, clips, load_average(folder, "mel_vae", "decoder"), device)
    if name == "sound":
        if bundle is None:
            raise SettingsError("sound without --bundle", "the bundle that was built from this state")
        decoder, hifigan = load_average(folder, "mel_vae", "decoder"), load_average(folder, "vocoder", "hifigan")
        if not (folder / SCALE_FACTOR).exists():
            raise SettingsError(f"no {folder / SCALE_FACTOR}", "the VAE's scale factor", "train stage tokens first")
        scale = json.loads((folder / SCALE_FACTOR).read_text())
        built = Bundle.load(locate_bundle(bundle))
        if not math.isclose(float(read_weights(built, "vae_decoder")["scale_factor"]), scale, rel_tol=1e-3):
            raise SettingsError(f"--bundle {bundle}, of another VAE", "the bundle that was built from this state")
        samples = prepare_samples(folder, clips, built, COUNT)
        return SoundStage(TRAINED, clips, samples, scale, decoder, hifigan, device)
    encoder = load_encoder(folder)
    if name == "vocoder":
        return VocoderStage(TRAINED, clips, encoder, load_average(folder, "mel_vae", "decoder"), device)
    audiomae = load_weights(AudioMAE(TRAINED), load_audiomae(folder), device)
    vae = load_weights(VaeEncoder(TRAINED), encoder, device)
    decoder = load_average(folder, "mel_vae", "decoder")
    data = prepare_latents(folder, clips, audiomae, vae, decoder, TRAINED.config, len(list_sets(corpus)))
    if name == "tokens":
        return TokensStage(TRAINED, data, device)
    acoustic_encoder = load_weights(
        AcousticEncoder(TRAINED), load_average(folder, "tokens", "acoustic_encoder"), device
    )
    quantizer = load_average(folder, "tokens", "quantizer")
    return DiffusionStage(TRAINED, prepare_context(folder, data, acoustic_encoder, quantizer), device)


def run() -> None:
    run_app(app)
