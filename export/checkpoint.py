"""Reading a published checkpoint: fetched from the hub, opened as data, its tensors checked before use.

A checkpoint is data, never code: `torch.load(weights_only=True)`. torch maps tensors from the file, whatever bytes lie
there: it neither unpacks compressed members of the zip archive nor compares their CRCs. Both are checked here first.
"""

from __future__ import annotations

import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sc_runtime.bundle.store import hash_file
from sc_runtime.caches import take_stamp
from sc_runtime.errors import CheckpointError

from .spec import Shapes

REVISION = "main"  #: of a repository, if none is named
COMMIT = re.compile(r"[0-9a-f]{40}")
_checked: set[tuple[object, ...]] = set()  #: archives whose CRCs were found right, by path and stamp


def download(repository: str, name: str, revision: str = REVISION) -> Path:
    """One file of a `revision` from the hub, kept in the hub's own cache and not fetched again.

    Raises CheckpointError, also if the file differs from the one that the hub announced.
    """
    try:
        import huggingface_hub
        from huggingface_hub.utils import logging
    except ImportError:
        raise CheckpointError(
            "huggingface_hub is not installed", "the extra `export`", "pip install 'sc-runtime[export]'"
        ) from None
    logging.set_verbosity_error()  # it retries by itself, and would print a warning each time
    try:
        path = Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except Exception as error:  # the hub's client passes on errors of the HTTP library and of the disk
        raise CheckpointError(
            f"cannot download {name} of {repository} from the hub ({explain(error)})",
            "a connection to the hub",
            "use a local copy with --checkpoint, or stand-in weights with --seeded 1",
        ) from error
    announced = path.resolve().name  # the hub's cache names large files by their SHA-256
    if re.fullmatch(r"[0-9a-f]{64}", announced) and hash_file(path) != announced:
        given = f"{path} differs from what the hub announced"
        raise CheckpointError(given, f"SHA-256 {announced[:12]}…", f"delete {path.resolve()}: it is fetched again")
    return path


def find_revision(path: Path) -> str:
    """The commit of a file that `download` returned. The same file can be fetched again from that commit."""
    parts = path.parts
    commit = parts[parts.index("snapshots") + 1] if "snapshots" in parts[:-1] else ""
    return commit if COMMIT.fullmatch(commit) else REVISION


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .ckpt file, dense and in the CPU's memory, mapped from the disk where its format allows.

    Raises CheckpointError. Files in torch's format before 2020 hold no checksums: their bytes are taken as they are.
    """
    try:
        check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state = load_tensors(path)
    except Exception as error:  # damaged bytes can make the unpickler raise anything
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
    for name, tensor in state.items():
        if kind := describe_kind(tensor):
            raise CheckpointError(f"{path}: tensor {name} is {kind}", "dense tensors with their values")
    return state


def check_archive(path: Path) -> None:
    """Compare the CRC of every member of a zip archive, once. Other files are left to torch.

    Raises ValueError for compressed, encrypted or ambiguous members, zipfile's errors for damage.
    """
    key = (path.absolute(), *take_stamp(path))
    with path.open("rb") as file:
        if key in _checked or file.read(4) != b"PK\3\4":
            return
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        name, count = Counter(member.filename for member in members).most_common(1)[0] if members else ("", 0)
        if count > 1:
            raise ValueError(f"{count} members named {name}")
        for member in members:
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(f"the member {member.filename} is compressed or encrypted, as torch.save never does")
        if damaged := archive.testzip():
            raise ValueError(f"the CRC of {damaged} is wrong")
    _checked.add(key)


def describe_kind(tensor: Tensor) -> str:
    """Why `tensor` cannot be read as an array, or "" if it can."""
    if tensor.is_nested:
        return "nested"
    if tensor.layout is not torch.strided:
        return f"sparse ({tensor.layout})"
    if tensor.device.type != "cpu":
        return f"without values (on the device {tensor.device.type})"
    if tensor.is_quantized:
        return f"quantised ({tensor.dtype})"
    return "a view that negates or conjugates" if tensor.is_neg() or tensor.is_conj() else ""


def load_tensors(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError as error:
        if "mmap" not in str(error):
            raise
        return torch.load(path, map_location="cpu", weights_only=True)  # saved in the format before 2020


def explain(error: BaseException) -> str:
    """The first sentence of the first cause of `error`, without torch's advice to load the file unsafely."""
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
