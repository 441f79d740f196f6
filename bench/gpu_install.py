"""Install what `bench/gpu_pack.py` made, on the machine with the GPU: `python3 bench/gpu_install.py CARRY SITE`.

It uses the standard library alone. Wheels and `sc_runtime` itself go to the folder SITE, for PYTHONPATH. The package
is linked to the checkout that this file lies in: run it from a copy that later calls do not replace. Pieces of ONNX
Runtime are kept there until the last one has come; then they are joined and unpacked. A second call installs what the
first one lacked.
"""

from __future__ import annotations

import importlib.util
import io
import lzma
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ARCHIVE = "onnxruntime.tar.xz"
INSIDE = {"export": "export", "kernels": "kernels"}  #: part of sc_runtime -> its folder in the checkout


def main(carry: Path, site: Path) -> None:
    site.mkdir(parents=True, exist_ok=True)
    link_package(site)
    link_cuda(site)
    for wheel in sorted(carry.glob("wheels/*.whl")):
        with zipfile.ZipFile(wheel) as opened:
            opened.extractall(site)
    pieces = site / "pieces"
    pieces.mkdir(exist_ok=True)
    for path in carry.glob(f"piece*/{ARCHIVE}.*"):
        shutil.copyfile(path, pieces / path.name)
    print(join_pieces(pieces, site))


def link_package(site: Path) -> None:
    """`sc_runtime` as links to the checkout: nothing is built.

    Links stay as they are if they are those of this checkout: a process may use them.
    """
    package = site / "sc_runtime"
    links = {path.name: path for path in (ROOT / "runtime").iterdir() if path.name != "__pycache__"}
    links |= {name: ROOT / folder for name, folder in INSIDE.items()}
    there = list(package.iterdir()) if package.is_dir() else []
    if {path.name: path.readlink() for path in there if path.is_symlink()} == links:
        return
    made = site / "sc_runtime.new"
    for old in (made, package):
        shutil.rmtree(old, ignore_errors=True)
    made.mkdir()
    for name, path in links.items():
        (made / name).symlink_to(path)
    made.rename(package)


def link_cuda(site: Path) -> None:
    """The CUDA libraries that pip installed with torch, beside ONNX Runtime: it looks for them nowhere else."""
    found = importlib.util.find_spec("nvidia")
    places = [Path(place) for place in (found and found.submodule_search_locations) or () if Path(place).parent != site]
    if places and not (site / "nvidia").exists():
        (site / "nvidia").symlink_to(places[0])


def join_pieces(pieces: Path, site: Path) -> str:
    """Unpack ONNX Runtime if every piece is there. Returns what was done, in words."""
    size = pieces / f"{ARCHIVE}.size"
    parts = sorted(pieces.glob(f"{ARCHIVE}.[0-9]*"))
    have = sum(part.stat().st_size for part in parts)
    if not size.exists() or have < int(size.read_text()):
        return f"ONNX Runtime: {have} bytes so far"
    if (site / "onnxruntime").exists():
        return "ONNX Runtime is installed"
    archive = b"".join(part.read_bytes() for part in parts)
    with lzma.open(io.BytesIO(archive)) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
        tar.extractall(site, filter="data")
    return f"ONNX Runtime: installed from {len(parts)} pieces"


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
