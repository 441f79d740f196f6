"""The stages as parts of `bench.harness.parts`: processes that share the card, each with a budget of seconds.

The VAE, AudioMAE and the vocoder begin at once. The vocoder takes over the VAE's weights whenever they are written.
AudioMAE's process then makes features, centroids and semantic tokens. The BiLSTM and the codebook begin when VAE and
AudioMAE have ended: latents of a VAE that changes would be of no use. The T-UNet begins when the tokens are trained.

`work`/state has the full states, `work`/returned the averaged weights as float16, of which `out` has copies.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bench.harness.parts import Session, Skipped
from sc_runtime.export.embedded.corpus.speeds import list_sets
from sc_runtime.export.embedded.training.assembly import AUTOENCODER, take_encoder
from sc_runtime.export.embedded.training.caching import drop
from sc_runtime.export.embedded.training.diffusion import DiffusionStage
from sc_runtime.export.embedded.training.loop import Average, Stage, choose_device, fit, read_clock
from sc_runtime.export.embedded.training.masked_autoencoder import MaskedAutoencoderStage
from sc_runtime.export.embedded.training.mel import LogMel
from sc_runtime.export.embedded.training.mel_vae import MelVaeStage, VaeEncoder
from sc_runtime.export.embedded.training.preparation import (
    CENTROIDS,
    SCALE_FACTOR,
    load_clips,
    load_weights,
    prepare_context,
    prepare_latents,
    prepare_semantic,
)
from sc_runtime.export.embedded.training.sizes import TRAINED
from sc_runtime.export.embedded.training.states import read_state
from sc_runtime.export.embedded.training.tokens import Features, TokensStage
from sc_runtime.export.embedded.training.vocoder import VocoderStage
from sc_runtime.export.semanticodec.networks.acoustic_encoder import AcousticEncoder
from sc_runtime.export.semanticodec.networks.audiomae import AudioMAE
from sc_runtime.export.semanticodec.networks.vae_decoder import VaeDecoder

from .captured import ALL, Captured, CaptureFailed, prepare_cuda, prepare_optimizers
from .clip_files import read_held_out
from .packing import STAGES, Networks, copy_whole, read_inputs, write_halves
from .plan import RESERVE, Plan

STATE, RETURNED, EAGER = "state", "returned", "eager"  #: folders in `work`; EAGER: choices that cannot be captured
LOSSES = "losses.jsonl"  #: of all stages, in `out`
LOG_SECONDS = 5.0
ENTRY = "sc_runtime.export.embedded.gpu.stages"  #: module of the parts


class Worker:
    """What the parts have in common: the plan, the device, and where weights are read and written."""

    def __init__(self, session: Session) -> None:
        self.session, self.plan = session, Plan.read(session.work)
        self.state, self.returned = session.work / STATE, session.work / RETURNED
        self.device = torch.device("cpu") if session.rehearsal else choose_device()
        if self.device.type == "cuda":
            prepare_cuda()
        torch.manual_seed(STAGES.index(session.part))

    def train(self, stage: Stage, review: Callable[[Mapping[str, Average], int, float], bool]) -> dict[str, Any]:
        """Train `stage` for its seconds, or as long as the call lasts; `review` is called with each writing."""
        if self.device.type == "cuda":
            prepare_optimizers(stage, self.device)
        file = self.session.work / EAGER / f"{stage.name}.json"
        failed: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"choices": [], "ends": 0.0}
        eager = [*failed["choices"], *([ALL] if stage.name in self.plan.eager else [])]
        before = read_head(self.state / f"{stage.name}.pt", "seconds")
        seconds = min(self.plan.seconds[stage.name], self.session.seconds_left - RESERVE)
        if failed["ends"] > time.time():  # this process has started again
            seconds = min(seconds, failed["ends"] - time.time())
        ends = time.time() + seconds

        def review_and_send(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
            ended = review(averages, steps, spent)
            self.send_losses(stage.name)
            self.session.keep({"steps": steps, "seconds": round(spent, 1)})
            return ended

        try:
            fit(
                *(stage, self.state, seconds / 60, (before + seconds) / 60, self.report),
                clock=read_clock if self.session.rehearsal else time.monotonic,
                log_seconds=min(LOG_SECONDS, seconds / 10),
                save_seconds=self.plan.every,
                wrap=lambda advance: Captured(advance, eager, self.report),
                review=review_and_send,
            )
        except CaptureFailed as failure:
            self.report(f"no CUDA graph, {failure}; this process starts again and runs these updates without one")
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps({"choices": [*failed["choices"], str(failure.choice)], "ends": ends}))
            restart()
        return {"eager": eager}

    def report(self, line: str) -> None:
        print(
            f"{time.strftime('%H:%M:%S')} {self.session.part}: {line.removeprefix(f'{self.session.part}: ')}",
            flush=True,
        )

    def write(self, averages: Networks, networks: Networks, steps: int, spent: float, **more: Any) -> None:
        """Write the weights of this part's stage to be returned: averaged ones where there are any."""
        path = self.returned / f"{self.session.part}.pt"
        write_halves(path, averages, networks, steps, spent, **more)
        copy_whole(path, self.plan.out / path.name)

    def load(self, stage: str, network: str) -> dict[str, Tensor] | None:
        """The averaged weights of `network` that were last written, or came with the pack; None if there are none.

        The VAE of a pack that was made from a bundle has no encoder.
        """
        path = self.returned / f"{stage}.pt"
        if not path.exists():
            return None
        return read_state(path)["averages"].get(network)

    def need(self, stage: str, network: str) -> dict[str, Tensor]:
        """`load`; raises Skipped if there are none."""
        if (weights := self.load(stage, network)) is None:
            raise Skipped(f"{stage} has no weights")
        return weights

    def wait_for(self, part: str) -> None:
        """Wait until the process of `part` has ended, however it ended."""
        try:
            self.session.wait_for(part)
        except Skipped as reason:
            self.report(f"goes on, though {reason}")

    def count_steps(self, stage: str) -> int:
        """The updates in this call of the weights that `load` gives; 0 for those of the pack."""
        return int(read_head(self.returned / f"{stage}.pt", "steps"))

    def send_losses(self, stage: str) -> None:
        """Append the new lines of the stage's curve to those of all stages in `out`."""
        path, sent = self.state / f"{stage}.jsonl", self.plan.out / LOSSES
        head = f'{{"stage": "{stage}", '
        lines = [head + line[1:] for line in path.read_text().splitlines()] if path.exists() else []
        count = sum(line.startswith(head) for line in sent.read_text().splitlines()) if sent.exists() else 0
        with sent.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines[count:]))


def restart() -> NoReturn:
    """Run this process's program again, in the same process: a failed capture can leave CUDA's state unusable."""
    sys.stdout.flush()
    os.execv(sys.executable, sys.orig_argv)


def read_head(path: Path, name: str) -> float:
    """The number `name` of a stage's state; 0 if there is no state."""
    return read_state(path)[name] if path.exists() else 0


def states_of(averages: Mapping[str, Average], stage: Stage) -> tuple[Networks, Networks]:
    return (
        {name: average.state for name, average in averages.items()},
        {name: network.state_dict() for name, network in stage.networks.items()},
    )


def train_vae(session: Session) -> dict[str, Any]:
    """Part: the mel VAE, until its held-out L1 is the goal. The best weights so far are written."""
    worker = Worker(session)
    drop(worker.state / SCALE_FACTOR)  # of other weights, if this is not the first call
    stage = MelVaeStage(TRAINED, load_clips(worker.plan.corpus), worker.device, worker.plan.batches["mel_vae"])
    held_out = LogMel()(torch.from_numpy(read_held_out(worker.plan.pack)).float() / 32768)
    encoder, decoder = VaeEncoder(TRAINED).to(worker.device), VaeDecoder(TRAINED).to(worker.device)
    best = float("inf")

    def review(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
        nonlocal best
        encoder.load_state_dict(averages["encoder"].state)
        decoder.load_state_dict(averages["decoder"].state)
        error = measure_l1(encoder, decoder, held_out.to(worker.device))
        worker.report(f"held-out L1 {error:.4f} after {steps} updates")
        if error < best:
            best = error
            worker.write(*states_of(averages, stage), steps, spent, held_out_l1=error)
        return error <= worker.plan.goal

    result = worker.train(stage, review)
    return {**result, "held_out_l1": best, "steps": worker.count_steps("mel_vae")}


@torch.inference_mode()
def measure_l1(encoder: torch.nn.Module, decoder: torch.nn.Module, mels: Tensor) -> float:
    """The mean absolute difference of log-mels [N, 64, 1024] and their reconstructions, one clip at a time."""
    return float(np.mean([float((decoder(encoder(mel[None])[0]) - mel).abs().mean()) for mel in mels]))


def train_vocoder(session: Session) -> dict[str, Any]:
    """Part: the vocoder, on true log-mels until there is a VAE, then half through the newest one."""
    worker = Worker(session)
    weights = [worker.load("mel_vae", name) for name in ("encoder", "decoder")]
    stage = VocoderStage(
        *(TRAINED, load_clips(worker.plan.corpus), weights[0], weights[1], worker.device),
        batch=worker.plan.batches["vocoder"],
    )
    taken = worker.count_steps("mel_vae")

    def review(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
        nonlocal taken
        if (newest := worker.count_steps("mel_vae")) > taken:
            stage.load_vae(worker.need("mel_vae", "encoder"), worker.need("mel_vae", "decoder"))
            worker.report(f"half of each batch through the VAE of {newest} updates")
            taken = newest
        worker.write(*states_of(averages, stage), steps, spent)
        return False

    return {**worker.train(stage, review), "vae_steps": taken, "steps": worker.count_steps("vocoder")}


def train_audiomae(session: Session) -> dict[str, Any]:
    """Part: AudioMAE; then the features, centroids and semantic tokens of all clips."""
    worker = Worker(session)
    drop(worker.state / CENTROIDS)  # of other weights, if this is not the first call
    fbanks = np.load(worker.state / "fbanks.npy", mmap_mode="c")
    stage = MaskedAutoencoderStage(TRAINED, fbanks, worker.device, worker.plan.batches["audiomae"])

    def review(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
        worker.write(*states_of(averages, stage), steps, spent)
        return False

    result = worker.train(stage, review)
    started = time.monotonic()
    audiomae = load_weights(AudioMAE(TRAINED), take_encoder(worker.need("audiomae", AUTOENCODER)), worker.device)
    prepare_semantic(worker.state, fbanks, audiomae, TRAINED.config, len(list_sets(worker.plan.corpus)))
    return {**result, "steps": worker.count_steps("audiomae"), "prepared_in_s": round(time.monotonic() - started, 1)}


def train_tokens(session: Session) -> dict[str, Any]:
    """Part: BiLSTM and acoustic codebook, on the latents of the VAE as it came out."""
    worker = Worker(session)
    worker.wait_for("audiomae")
    worker.wait_for("mel_vae")
    stage = TokensStage(TRAINED, load_features(worker), worker.device, worker.plan.batches["tokens"])
    inputs = describe_inputs(worker, "audiomae", "mel_vae")

    def review(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
        worker.write(*states_of(averages, stage), steps, spent, **inputs)
        return False

    return {**worker.train(stage, review), "steps": worker.count_steps("tokens")}


def train_diffusion(session: Session) -> dict[str, Any]:
    """Part: the T-UNet, on the tokens as they came out."""
    worker = Worker(session)
    worker.wait_for("tokens")
    started = time.monotonic()
    data = load_features(worker)
    encoder = load_weights(AcousticEncoder(TRAINED), worker.need("tokens", "acoustic_encoder"), worker.device)
    conditioned = prepare_context(worker.state, data, encoder, worker.need("tokens", "quantizer"))
    stage = DiffusionStage(TRAINED, conditioned, worker.device, worker.plan.batches["diffusion"])
    worker.report(f"features, latents and tokens in {time.monotonic() - started:.1f} s")
    inputs = describe_inputs(worker, "audiomae", "mel_vae", "tokens")

    def review(averages: Mapping[str, Average], steps: int, spent: float) -> bool:
        worker.write(*states_of(averages, stage), steps, spent, **inputs)
        return False

    return {**worker.train(stage, review), "steps": worker.count_steps("diffusion")}


def describe_inputs(worker: Worker, *stages: str) -> dict[str, Any]:
    """What tokens and the T-UNet bring back: their centroids and scale factor, and the updates of `stages`."""
    return {**read_inputs(worker.state), "made_with": {name: worker.count_steps(name) for name in stages}}


def load_features(worker: Worker) -> Features:
    """The outputs of AudioMAE, the centroids and the VAE for all clips."""
    audiomae = load_weights(AudioMAE(TRAINED), take_encoder(worker.need("audiomae", AUTOENCODER)), worker.device)
    encoder = load_weights(VaeEncoder(TRAINED), worker.need("mel_vae", "encoder"), worker.device)
    corpus = worker.plan.corpus
    return prepare_latents(
        *(worker.state, load_clips(corpus), audiomae, encoder, worker.need("mel_vae", "decoder")),
        *(TRAINED.config, len(list_sets(corpus))),
    )
