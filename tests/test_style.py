"""Style, types, layers: ruff, mypy and import-linter find nothing, and no file is too long."""

from __future__ import annotations

import ast
import graphlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run_tool(*command: str, **variables: str) -> None:
    run_python("-m", *command, **variables)


def run_python(*command: str, **variables: str) -> None:
    result = subprocess.run(
        [sys.executable, *command],
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


@pytest.fixture
def linked_package(tmp_path: Path) -> Path:
    """A folder that holds the package as package-dir maps it, by links."""
    package = tmp_path / "sc_runtime"
    package.mkdir()
    for source in [*(ROOT / "runtime").iterdir(), ROOT / "export"]:
        (package / source.name).symlink_to(source)
    return tmp_path


def test_mypy(linked_package: Path) -> None:
    pytest.importorskip("mypy")
    run_tool("mypy", "-p", "sc_runtime", "-p", "bench", MYPYPATH=f"{linked_package}{os.pathsep}{ROOT}")


def test_layers(linked_package: Path) -> None:
    """The contracts of pyproject.toml: layers, independent codecs, backends that know no codec, no torch."""
    pytest.importorskip("importlinter")
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    run_python("-c", code, PYTHONPATH=str(linked_package))


def test_no_import_circles() -> None:
    """Not one file, in the package or in bench/, not even under TYPE_CHECKING or inside a function."""
    sources = [file for folder in ("runtime", "export", "bench") for file in list_sources(folder)]
    graph = graphlib.TopologicalSorter({file: set(list_imports(file)) for file in sources})
    graph.prepare()  # raises CycleError, which names a circle


def test_no_file_is_too_long_to_read() -> None:
    """300 lines; the synthetic corpus holds tables of sounds."""
    long = [
        str(file.relative_to(ROOT))
        for folder in ("runtime", "export", "bench")
        for file in list_sources(folder)
        if len(file.read_text(encoding="utf-8").splitlines()) > 300 and "corpus" not in file.parts
    ]
    assert long == []


def list_sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def list_imports(file: Path) -> Iterator[Path]:
    """The files of this project that `file` imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = name_module(file.parent if file.name == "__init__.py" else file).split(".")
                base = package[: len(package) - node.level + (file.name == "__init__.py")]
                module = ".".join([*base, *filter(None, [node.module])])
            modules = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for module in modules:
            found = find_module(module)
            if found and found != file and not (found.name == "__init__.py" and found.parent in file.parents):
                yield found


def name_module(path: Path) -> str:
    """The dotted name of a file or a package folder."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(
        {"runtime": ["sc_runtime"], "export": ["sc_runtime", "export"]}.get(parts[0], parts[:1]) + parts[1:]
    )


def find_module(name: str) -> Path | None:
    """The file of the module `name`; None for what is not of this project, or is no module."""
    parts = name.split(".")
    if parts[:2] == ["sc_runtime", "export"]:
        parts = parts[1:]
    elif parts[0] == "sc_runtime":
        parts = ["runtime", *parts[1:]]
    path = ROOT.joinpath(*parts)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if parts[0] in ("runtime", "export", "bench") and file.is_file():
            return file
    return None


def list_secrets(*folders: Path) -> list[str]:
    """What no file names: the home of the superuser, and `folders`, but for those like "/app", a word of any text."""
    return ["/" + "root" + "/", *(f"{folder}/" for folder in folders if len(folder.parts) > 2)]


def test_a_checkout_in_a_folder_of_the_root_forbids_no_words() -> None:
    home, anywhere = Path("/", "home", "user"), ["/" + "root" + "/"]  # in parts: this file names no folder either
    assert list_secrets(Path("/app"), Path("/")) == anywhere
    assert list_secrets(Path("/runtime"), home) == [*anywhere, f"{home}/"]
    checkout = Path("/", "work", "main")
    assert list_secrets(checkout, home) == [*anywhere, f"{checkout}/", f"{home}/"]


def test_no_machine_paths_or_large_files_are_tracked() -> None:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listing.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listing.stdout.decode().split("\0") if name]
    sizes = {file: file.stat().st_size for file in files if file.is_file()}
    assert sum(sizes.values()) < 60e6
    secrets = list_secrets(ROOT, Path.home())
    for file in sizes:
        if file.suffix in {".py", ".md", ".toml", ".json"}:
            text = file.read_text(encoding="utf-8")
            assert not [secret for secret in secrets if secret in text], file
