"""SemantiCodec's published checkpoint, from the hub or in a local folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sc_runtime.bundle.store import hash_file
from sc_runtime.errors import CheckpointError
from sc_runtime.export.checkpoint import REVISION, check_state, download, explain, find_revision, read_state
from sc_runtime.export.spec import Shapes, Tensors, Weights
from sc_runtime.semanticodec.config import TOKEN_RATES, Schedule

HUB_REPOSITORY = "haoheliu/SemantiCodec"
ENCODER, DECODER = "encoder.ckpt", "decoder.ckpt"
ACOUSTIC_CODEBOOK = "quantizer._codebook.embed"  #: [1, entries, D] of the encoder file

#: Published tensors that inference does not use: halves for training, the EMA copy, the schedule's tables.
UNUSED = re.compile(
    r"audiomae\.model\.((mask_token|decoder_pos_embed)$|decoder_(embed|blocks|norm|pred)\.)"
    r"|quantizer\._codebook\.(initted|cluster_size|embed_avg)$"
    r"|model_ema\."
    r"|first_stage_model\.(encoder|quant_conv)\."
    r"|(logvar|betas|alphas_cumprod|alphas_cumprod_prev|(sqrt|log)_one_minus_alphas_cumprod)$"
    r"|sqrt_(alphas|recip_alphas|recipm1_alphas)_cumprod$"
    r"|posterior_(variance|log_variance_clipped|mean_coef1|mean_coef2)$"
)


class SemantiCodecWeights(Weights, Protocol):
    def centroids(self, vocab: int, width: int) -> np.ndarray:
        """The semantic codebook, float32 [vocab, width]. Raises CheckpointError."""
        ...


class Folder:
    """A local folder in the published layout: encoder.ckpt, decoder.ckpt, codebook_idx/combine_*/codebook_*.npy.

    The hub has one codebook_idx/ beside the folders of the three rates, so codebooks beside the folder count too.
    """

    trained = True

    def __init__(self, folder: Path, tps: int) -> None:
        self.folder, self.tps = folder, tps
        for name in (ENCODER, DECODER):
            if not (folder / name).is_file():
                raise CheckpointError(
                    f"{folder}: no {name}",
                    f"a checkpoint folder with {ENCODER}, {DECODER} and codebook_idx/",
                    f"the published one is semanticodec_tokenrate_{tps}/ of {HUB_REPOSITORY}",
                )
        self.label = folder.resolve().name
        self.description = f"checkpoint {self.label}"
        self.arguments = f"--checkpoint {shlex.quote(str(folder))}"
        try:
            self.sources = {name: hash_file(folder / name) for name in (ENCODER, DECODER)}
        except OSError as error:
            raise CheckpointError(f"{folder}: {explain(error)}", "files that can be read") from error
        self.identity = " ".join(self.sources.values())

    @cached_property
    def half(self) -> bool:
        tensors = (tensor for name in (ENCODER, DECODER) for tensor in read_state(self.folder / name).values())
        return all(tensor.dtype == torch.float16 for tensor in tensors)

    def read(self, file: str, shapes: Shapes) -> Tensors:
        path = self.folder / f"{file}.ckpt"
        state = read_state(path)
        if path.name == ENCODER:
            check_rate(path, state, self.tps, shapes)
        else:
            check_schedule(path, state)
        return check_state(path, state, shapes, UNUSED)

    def centroids(self, vocab: int, width: int) -> np.ndarray:
        """The codebook whose array is [vocab, width]. The numbers in the files' names are ignored: they are wrong."""
        wanted = (vocab, width)
        found = []
        for file in self.list_codebooks(vocab):
            try:
                codebook = np.lib.format.open_memmap(file, mode="r")
            except Exception as error:  # NumPy's reader raises more than it documents
                found.append(f"{file.parent.name}/{file.name} {explain(error)}")
                continue
            if codebook.shape == wanted and codebook.dtype.kind == "f":
                self.sources[f"{file.parent.name}/{file.name}"] = hash_file(file)
                return np.array(codebook, np.float32)
            found.append(f"{file.parent.name}/{file.name} {list(codebook.shape)} {codebook.dtype}")
        listed = ", ".join(found[:4]) + (", …" if len(found) > 4 else "")
        raise CheckpointError(
            f"{self.folder}: no codebook [{wanted[0]}, {wanted[1]}] (found: {listed or 'none'})",
            f"one for vocabulary {vocab} at {self.tps} tps under codebook_idx/",
            "choose another --vocab, or the checkpoint of another rate",
        )

    def list_codebooks(self, vocab: int) -> Iterator[Path]:
        """Codebook files in and beside the folder, those with the published name of `vocab` first."""
        files = [file for root in (self.folder, self.folder.parent) for file in root.glob("codebook_idx/*/*.npy")]
        published = name_codebook(self.tps, vocab)
        yield from sorted(files, key=lambda file: (not file.as_posix().endswith(published), file))


def name_codebook(tps: int, vocab: int) -> str:
    """The published path of a semantic codebook; the number in it is half the vocabulary."""
    return f"codebook_idx/combine_{512 * tps // 100}_audioset_dominate/codebook_{vocab // 2}_0.npy"


def fetch_published(tps: int, vocabularies: tuple[int, ...], revision: str = REVISION) -> Folder:
    """The published checkpoint of `tps` from the hub. All its files are of one commit, which `arguments` name."""
    rate = f"semanticodec_tokenrate_{tps}"
    for name in (*(name_codebook(tps, vocab) for vocab in vocabularies), f"{rate}/{ENCODER}", f"{rate}/{DECODER}"):
        path = download(HUB_REPOSITORY, name, revision)
        revision = find_revision(path)
    folder = Folder(path.parent, tps)
    folder.label = ""
    folder.description = f"{HUB_REPOSITORY}/{rate}"
    folder.arguments = f"--revision {revision}"
    return folder


def check_rate(path: Path, state: Mapping[str, Tensor], tps: int, shapes: Shapes) -> None:
    """Raises CheckpointError, which names the rate, if the encoder is of another rate."""
    name = ACOUSTIC_CODEBOOK
    if name not in state or state[name].ndim != 3:
        return
    width = shapes[name][2] * tps // 100
    for rate in TOKEN_RATES:
        if rate != tps and state[name].shape[2] == width * 100 // rate:
            raise CheckpointError(f"{path} is a checkpoint of {rate} tps", f"one of {tps} tps", f"use --tps {rate}")


def check_schedule(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises CheckpointError if the file's noise schedule is not the one that the runtime computes."""
    schedule = Schedule()
    if "betas" not in state:
        return
    roots = np.linspace(schedule.beta_start**0.5, schedule.beta_end**0.5, schedule.steps)
    betas = state["betas"].detach().double().numpy()
    if betas.shape != roots.shape or not np.allclose(betas, roots**2, rtol=1e-4, atol=0):
        ends = f" from {betas.min():.6g} to {betas.max():.6g}" if betas.size else ""
        raise CheckpointError(
            f"{path}: another noise schedule (betas {list(betas.shape)}{ends})",
            f"{schedule.steps} from {schedule.beta_start} to {schedule.beta_end}",
        )
