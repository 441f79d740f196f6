"""The wheel and the source distribution hold what they need, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.slow

BUILD = "import setuptools.build_meta as backend, sys; print(getattr(backend, sys.argv[1])(sys.argv[2]))"
SOURCES = ("export", "kernels", "runtime")


def build(kind: str, source: Path, target: Path) -> Path:
    """Build a `kind` ("sdist" or "wheel") of the files in `source` with the build backend that pip calls."""
    target.mkdir(exist_ok=True)
    command = [sys.executable, "-c", BUILD, f"build_{kind}", str(target)]
    output = subprocess.run(command, cwd=source, check=True, capture_output=True, text=True).stdout
    return target / output.splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git tracks, and new ones that it does not ignore."""
    folder = tmp_path_factory.mktemp("checkout")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listing, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def test_a_wheel_built_of_the_source_distribution_is_the_same(checkout: Path, tmp_path: Path) -> None:
    sdist = build("sdist", checkout, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
        archive.extractall(tmp_path / "unpacked", filter="data")
    wanted = {path.relative_to(checkout).as_posix() for folder in SOURCES for path in (checkout / folder).rglob("*.py")}
    wanted |= {"pyproject.toml", "LICENSE", "README.md", "runtime/embedded/manifest.json", "kernels/nearest.cu"}
    wanted -= {name for name in wanted if name.startswith("export/embedded/")}  # it trains the embedded model
    assert not wanted - set(names)
    assert not [name for name in names if name.startswith(("tests", "bench", "engines", "build", ".ci", "shared"))]
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    wheels = [build("wheel", source, tmp_path / name) for source, name in ((checkout, "a"), (unpacked, "b"))]
    contents = []
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            contents.append({name: archive.read(name) for name in archive.namelist() if not name.endswith("RECORD")})
    assert contents[0] == contents[1]
    files = set(contents[0])
    modules = {name.replace("runtime/", "sc_runtime/", 1) for name in wanted if name.startswith("runtime/")}
    modules |= {f"sc_runtime/{name}" for name in wanted if name.startswith("export/")}
    assert not modules - files, "packages that pyproject.toml does not list"
    assert {"sc_runtime/export/build.py", "sc_runtime/cli/build.py", "sc_runtime/embedded/manifest.json"} <= files
    assert {"sc_runtime/kernels/nearest.cu", "sc_runtime/py.typed"} <= files
    assert b"sc-runtime = sc_runtime.cli.app:main" in next(
        data for name, data in contents[0].items() if name.endswith("entry_points.txt")
    )
    assert all(name.startswith("sc_runtime/") or ".dist-info/" in name for name in files)
