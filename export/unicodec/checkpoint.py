"""UniCodec's published checkpoint, from the hub or a local copy of its file."""

from __future__ import annotations

import re
import shlex
from functools import cached_property
from pathlib import Path

import torch

from sc_runtime.bundle.store import hash_file
from sc_runtime.errors import CheckpointError
from sc_runtime.export.checkpoint import REVISION, check_state, download, explain, find_revision, read_state
from sc_runtime.export.spec import Shapes, Tensors

HUB_REPOSITORY, FILE = "Yidiii/UniCodec_ckpt", "unicode.ckpt"
PREFIXES = ("feature_extractor.", "backbone.", "head.")  #: of inference; the rest are discriminators and losses

#: Tensors that have one of PREFIXES and that inference does not use.
UNUSED = re.compile(
    r"feature_extractor\.encodec\.(decoder\.|encoder\.mask_emb$"
    r"|encoder\.transformer_enocoder\.transformer\.layers\.\d+\.(linear[12]\.weight|layer_scale_2\.scale)$)"
)


class CheckpointFile:
    """One .ckpt file in the published layout. Raises CheckpointError if there is none."""

    trained = True

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            path = path / FILE
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file", f"UniCodec's checkpoint, published as {FILE}")
        self.path = path
        self.label = path.resolve().stem
        self.description = f"checkpoint {path.name}"
        self.arguments = f"--checkpoint {shlex.quote(str(path))}"
        try:
            self.identity = hash_file(path)
            self.sources = {path.name: self.identity}
        except OSError as error:
            raise CheckpointError(f"{path}: {explain(error)}", "a file that can be read") from error

    @cached_property
    def half(self) -> bool:
        return all(tensor.dtype == torch.float16 for tensor in read_state(self.path).values())

    def read(self, file: str, shapes: Shapes) -> Tensors:
        state = {name: tensor for name, tensor in read_state(self.path).items() if name.startswith(PREFIXES)}
        return check_state(self.path, state, shapes, UNUSED)


def fetch_published(revision: str = REVISION) -> CheckpointFile:
    """The published checkpoint from the hub, kept in the hub's own cache and not fetched again."""
    path = download(HUB_REPOSITORY, FILE, revision)
    weights = CheckpointFile(path)
    weights.label, weights.description = "", f"{HUB_REPOSITORY}/{FILE}"
    weights.arguments = f"--revision {find_revision(path)}"
    return weights
