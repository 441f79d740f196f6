"""The code that a module depends on, found from its imports, and its hash without comments and docstrings."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

PACKAGE = "sc_runtime"
EXPORT = f"{PACKAGE}.export"
FOLDER = Path(__file__).parent  #: of EXPORT
PLAIN = (bool, int, float, str, bytes, type(None))


def hash_code(path: Path) -> str:
    """SHA-256 of the Python file without its comments, docstrings and layout."""
    return hash_source(path.read_bytes())


@cache
def hash_source(source: bytes) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()


def describe_code(roots: Iterable[str], apart: Iterable[str] = (), folder: Path = FOLDER) -> list[tuple[str, str]]:
    """What the modules `roots` depend on: (file, hash) of the export's files, (name, value) of other constants.

    `roots` and `apart` are modules of the export, named relative to it ("trace", "semanticodec.networks.tunet").
    Imports of modules in `apart`, and of the runtime, are not followed. The numbers, strings and tuples that are
    imported from them count by their values; their functions and classes do not count. `folder` is the export's.
    """
    found: dict[str, str] = {}
    values: dict[str, str] = {}
    waiting, closed = list(roots), set(apart)
    while waiting:
        module = waiting.pop()
        if module in found:
            continue
        path = locate(module, folder)
        found[module] = hash_code(path)
        for source, name in list_imports(path, module):
            if source.startswith(f"{EXPORT}."):
                inside = source.removeprefix(f"{EXPORT}.")
                if inside not in closed:
                    waiting.append(inside)
                    continue
            if is_plain(value := getattr(import_module(source), name, ...) if name else ...):
                values[f"{source}.{name}"] = repr(value)
    return sorted(found.items()) + sorted(values.items())


def locate(module: str, folder: Path) -> Path:
    """The file of a module of the export."""
    path = folder.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def list_imports(path: Path, module: str) -> Iterator[tuple[str, str]]:
    """(module, name in it) of every import from this package in the file `path` of `module`, nested ones too.

    The name is empty if the module itself is imported.
    """
    parents = f"{EXPORT}.{module}".split(".")
    if path.name != "__init__.py":
        parents.pop()
    for node in find_imports(path.read_bytes()):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        else:
            start = parents[: len(parents) - node.level + 1] if node.level else []
            source = ".".join([*start, *filter(None, [node.module])])
            for alias in node.names:
                inside = f"{source}.{alias.name}".removeprefix(f"{EXPORT}.")
                if source.split(".")[:2] == EXPORT.split(".") and locate(inside, FOLDER).is_file():
                    yield f"{EXPORT}.{inside}", ""
                elif source.startswith(f"{PACKAGE}."):
                    yield source, alias.name


@cache
def find_imports(source: bytes) -> list[ast.Import | ast.ImportFrom]:
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def is_plain(value: object) -> bool:
    return isinstance(value, PLAIN) or (isinstance(value, tuple) and all(map(is_plain, value)))
