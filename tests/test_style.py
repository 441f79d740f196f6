"""ruff and mypy have nothing to say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run_tool(*command: str, **variables: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}{result.stderr}"


def test_ruff() -> None:
    pytest.importorskip("ruff")
    run_tool("ruff", "check", ".")
    run_tool("ruff", "format", "--check", ".")


def test_mypy(tmp_path: Path) -> None:
    """The package as package-dir maps it, which mypy is shown by links."""
    pytest.importorskip("mypy")
    package = tmp_path / "sc_runtime"
    package.mkdir()
    for source in [*(ROOT / "runtime").iterdir(), ROOT / "export"]:
        (package / source.name).symlink_to(source)
    run_tool("mypy", "-p", "sc_runtime", "-p", "bench", MYPYPATH=f"{tmp_path}{os.pathsep}{ROOT}")


def test_no_machine_paths_or_large_files_are_tracked() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    assert sum(sizes.values()) < 45e6
    secret = "/" + "root" + "/"
    for file in sizes:
        if file.suffix in {".py", ".md", ".toml", ".json"}:
            assert secret not in file.read_text(encoding="utf-8"), file
