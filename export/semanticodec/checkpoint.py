"""Where weights come from (hub, folder or seed), as named tensors read one at a time, checked before use.

A checkpoint is data, never code: `torch.load(weights_only=True)`, `numpy.load(allow_pickle=False)`.
"""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from sc_runtime.bundle.store import hash_file
from sc_runtime.errors import CheckpointError
from sc_runtime.export.registry import Shapes, Tensors, Weights
from sc_runtime.export.seeded import SeededTensors, draw_centroids
from sc_runtime.export.semanticodec.networks.sizes import NetworkSizes
from sc_runtime.semanticodec.config import TOKEN_RATES, Schedule

HUB_REPOSITORY = "haoheliu/SemantiCodec"
ENCODER, DECODER = "encoder.ckpt", "decoder.ckpt"
ACOUSTIC_CODEBOOK = "quantizer._codebook.embed"  #: [1, entries, D] of the encoder file

#: What the published files carry besides: halves that only training uses, the EMA copy, the schedule's tables.
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
    def centroids(self, vocab: int, sizes: NetworkSizes) -> np.ndarray:
        """The semantic codebook float32 [vocab, D]."""
        ...


class SeededWeights:
    """Stand-in weights made from (seed, tensor name); the right sizes, no download, no meaning."""

    trained = False
    half = False

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise CheckpointError(f"--seeded {seed}", "0 to 2^64 - 1")
        self.seed = seed
        self.description = f"stand-in weights, seed {seed}"
        self.label = f"seeded{seed}"
        self.arguments = f"--seeded {seed}"
        self.identity = f"seeded {seed} {hash_file(Path(__file__).parent.parent.joinpath('seeded.py'))}"

    def read(self, file: str, shapes: Shapes) -> Tensors:
        return SeededTensors(self.seed, shapes)

    def centroids(self, vocab: int, sizes: NetworkSizes) -> np.ndarray:
        return draw_centroids(self.seed, vocab, sizes.config.feature_width)


class Folder:
    """A local folder in the published layout: encoder.ckpt, decoder.ckpt, codebook_idx/combine_*/codebook_*.npy.

    The hub keeps one codebook_idx/ beside the folders of its three rates, so it is looked for there too.
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
            self.identity = " ".join(hash_file(folder / name) for name in (ENCODER, DECODER))
        except OSError as error:
            raise CheckpointError(f"{folder}: {explain(error)}", "files that can be read") from error

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

    def centroids(self, vocab: int, sizes: NetworkSizes) -> np.ndarray:
        """The codebook whose array is [vocab, D]; the number in a file's name is not to be trusted."""
        wanted = (vocab, sizes.config.feature_width)
        found = []
        for file in self.list_codebooks(vocab):
            try:
                codebook = np.lib.format.open_memmap(file, mode="r")
            except Exception as error:  # a foreign file: NumPy's reader raises more than it documents
                found.append(f"{file.parent.name}/{file.name} {explain(error)}")
                continue
            if codebook.shape == wanted and codebook.dtype.kind == "f":
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


def fetch_published(tps: int, vocabularies: tuple[int, ...]) -> Folder:
    """The published checkpoint of `tps` from the hub."""
    rate = f"semanticodec_tokenrate_{tps}"
    for name in (*(name_codebook(tps, vocab) for vocab in vocabularies), f"{rate}/{ENCODER}", f"{rate}/{DECODER}"):
        path = download(HUB_REPOSITORY, name)
    folder = Folder(path.parent, tps)
    folder.label = ""
    folder.description = f"{HUB_REPOSITORY}/{rate}"
    folder.arguments = ""
    return folder


def download(repository: str, name: str) -> Path:
    """One file from the hub, kept in the hub's own cache and not fetched again. Raises CheckpointError."""
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError:
        raise CheckpointError(
            "huggingface_hub is not installed", "the extra `export`", "pip install 'sc-runtime[export]'"
        ) from None
    logging.set_verbosity_error()  # it asks again by itself: what it says meanwhile is not the user's concern
    try:
        return Path(huggingface_hub.hf_hub_download(repository, name))
    except Exception as error:  # of the hub's client, of the HTTP library below it, or of the disk
        raise CheckpointError(
            f"cannot download {name} of {repository} from the hub ({explain(error)})",
            "a connection to the hub",
            "use a local copy with --checkpoint, or stand-in weights with --seeded 1",
        ) from error


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt file, mapped from the disk where its format allows."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = load_tensors(path)
    except Exception as error:  # a foreign file: the unpickler raises whatever damaged bytes lead to
        raise CheckpointError(
            f"{path}: {explain(error)}",
            "a file of tensors that torch.load(weights_only=True) reads",
            "download it again",
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds {type(state).__name__}", "a dictionary of tensors by name")
    return state


def load_tensors(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # saved in the format before 2020


def explain(error: BaseException) -> str:
    """The first sentence of what lies at the bottom of `error`, without torch's advice on how to trust the file."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).split("WeightsUnpickler error: ")[-1].strip()
    sentence = text.splitlines()[0].split(". ")[0] if text else ""
    return f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__


def check_state(path: Path, state: Mapping[str, Tensor], shapes: Shapes, unused: re.Pattern[str]) -> dict[str, Tensor]:
    """The tensors of `shapes` as float32; those that `unused` matches may be there too.

    Raises CheckpointError naming what is missing, extra or misshapen.
    """
    problems = {
        "missing": [name for name in shapes if name not in state],
        "extra": [name for name in state if name not in shapes and not unused.match(name)],
        "misshapen": [
            f"{name} {list(state[name].shape)} for {list(shape)}"
            for name, shape in shapes.items()
            if name in state and tuple(state[name].shape) != tuple(shape)
        ],
        "not floating-point": [
            f"{name} {state[name].dtype}" for name in shapes if name in state and not state[name].is_floating_point()
        ],
    }
    named = [
        f"{len(names)} {kind} ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
        for kind, names in problems.items()
        if names
    ]
    if named:
        raise CheckpointError(
            f"{path}: tensors {'; '.join(named)}",
            "the published layout of this rate and size",
            "check --tps and --size",
        )
    return {name: state[name].detach().to(torch.float32) for name in shapes}


def check_rate(path: Path, state: Mapping[str, Tensor], tps: int, shapes: Shapes) -> None:
    """Name the rate when the whole encoder is of another one, rather than its hundred misshapen tensors."""
    name = ACOUSTIC_CODEBOOK
    if name not in state or state[name].ndim != 3:
        return
    width = shapes[name][2] * tps // 100
    for rate in TOKEN_RATES:
        if rate != tps and state[name].shape[2] == width * 100 // rate:
            raise CheckpointError(f"{path} is a checkpoint of {rate} tps", f"one of {tps} tps", f"use --tps {rate}")


def check_schedule(path: Path, state: Mapping[str, Tensor]) -> None:
    """The decoder file carries its noise schedule: it must be the one the runtime computes."""
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
