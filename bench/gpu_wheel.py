"""Wheels for the machine with the GPU: fetching them, and making ONNX Runtime's small enough to travel in pieces.

`libonnxruntime_providers_cuda.so` holds machine code (cubins) for six kinds of GPU. The driver loads the code of the
GPU at hand alone, so the others are overwritten with zeros, which compress to nothing. Sizes and offsets stay, so the
library is otherwise as it was. A container ("fatbin", in the section .nv_fatbin) is a header of 16 bytes with the size
of what follows, then entries, each a header with the kind, the size and the architecture, and the code.
"""

from __future__ import annotations

import io
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from bench.harness.machine import ROOT
from bench.harness.printing import log

LIMIT = 64 * 2**20  #: bytes that travel in a call
SPARE = 2**20  #: bytes of it that are left free
#: Python packages that the machine lacks, at the versions of this environment's lower bounds or newest.
WHEELS = (
    "soundfile",
    "cffi",
    "pycparser",
    "soxr",
    "kaldi-native-fbank<1.23",
    "platformdirs",
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
)
PYTHON = "3.12"
PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")
CUDA_PROVIDER = "libonnxruntime_providers_cuda.so"
#: Files of the wheel that the machine does not need: TensorRT's provider, C's library, tools.
LEFT_OUT = ("providers_tensorrt", "libonnxruntime.so", "onnxruntime/transformers", "onnxruntime/quantization")
CONTAINER, ENTRY = struct.Struct("<IHHQ"), struct.Struct("<HHIQIIHHI")  #: headers of a fatbin and of an entry in it
MAGIC = 0xBA55ED50
CUBIN = 2  #: kind of an entry
ARCHIVE = "onnxruntime.tar.xz"


def fetch_wheels(folder: Path, packages: Sequence[str] = WHEELS) -> list[Path]:
    """Fetch wheels of `packages` for the machine, without what they depend on. Returns all wheels of the folder."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder)]
    command += ["--python-version", PYTHON, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", f"{platform}_x86_64"]
    for package in packages:
        name = package.partition("<")[0].replace("-", "_")
        if not list(folder.glob(f"{name}-*.whl")):
            log.print(f"Fetching {package}")
            subprocess.run([*command, package], check=True)
    return sorted(folder.glob("*.whl"))


def shrink_wheel(wheel: Path, arch: int) -> bytes:
    """What the machine needs of the wheel of onnxruntime-gpu, as a compressed tar archive."""
    log.print(f"Compressing {wheel.name} for sm_{arch}")
    archive = io.BytesIO()
    with (
        zipfile.ZipFile(wheel) as opened,
        lzma.open(archive, "wb", preset=6) as packed,
        tarfile.open(fileobj=packed, mode="w|") as tar,
    ):
        for name in opened.namelist():
            if name.endswith("/") or any(part in name for part in LEFT_OUT):
                continue
            content = opened.read(name)
            if name.endswith(CUDA_PROVIDER):
                content, kept, cleared = clear_cubins(content, arch)
                log.print(f"{name}: {kept / 1e6:.0f} MB of code kept, {cleared / 1e6:.0f} MB cleared")
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o755
            tar.addfile(entry, io.BytesIO(content))
    return archive.getvalue()


def clear_cubins(library: bytes, arch: int) -> tuple[bytes, int, int]:
    """`library` with zeros for the machine code of other GPUs, and the bytes of code that stay and that go.

    A container without code for `arch` stays whole.
    """
    content, kept, cleared = bytearray(library), 0, 0
    position = 0
    while (position := library.find(MAGIC.to_bytes(4, "little"), position)) >= 0:
        _, version, header, size = CONTAINER.unpack_from(library, position)
        if (version, header) != (1, CONTAINER.size) or position + header + size > len(library):
            position += 4
            continue
        entries = list_entries(library, position + header, position + header + size)
        wanted = any(kind == CUBIN and number == arch for kind, number, _, _ in entries)
        for kind, number, start, end in entries:
            if wanted and kind == CUBIN and number != arch:
                content[start:end] = bytes(end - start)
                cleared += end - start
            else:
                kept += end - start
        position += header + size
    return bytes(content), kept, cleared


def list_entries(library: bytes, start: int, end: int) -> list[tuple[int, int, int, int]]:
    """Kind, architecture, start and end of the code of each entry between two places of a library."""
    entries = []
    while start < end:
        kind, _, header, size, *_, number = ENTRY.unpack_from(library, start)
        entries.append((kind, number, start + header, start + header + size))
        start += header + size
    return entries


def cut_pieces(archive: bytes, folder: Path, first: int, others: int) -> list[Path]:
    """Write `archive` in pieces of at most `first` bytes, then `others`; each in a folder of its own."""
    pieces: list[Path] = []
    start = 0
    while start < len(archive):
        size = (others if pieces else first) - SPARE
        piece = folder / f"piece{len(pieces)}" / f"{ARCHIVE}.{len(pieces):02}"
        piece.parent.mkdir(parents=True, exist_ok=True)
        piece.write_bytes(archive[start : start + size])
        pieces.append(piece)
        start += size
    (pieces[-1].parent / f"{ARCHIVE}.size").write_text(str(len(archive)))
    return [piece.parent for piece in pieces]


def count_tracked(aside: Sequence[str] = ()) -> int:
    """Bytes of the files that git tracks, without those that match a pattern of `aside`."""
    excluded = [f":(exclude,glob){pattern}" for pattern in aside]
    excluded += [f":(exclude,glob){pattern}/**" for pattern in aside]
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", ".", *excluded]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return sum((ROOT / name).stat().st_size for name in names if name and (ROOT / name).is_file())
