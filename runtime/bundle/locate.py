"""Where bundles lie, and which of them a command uses."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import chain
from pathlib import Path

from sc_runtime.caches import find_user_folder
from sc_runtime.config import CodecConfig
from sc_runtime.errors import BundleError

from .manifest import MANIFEST, read_manifest
from .store import BUILD_COMMAND, EMBEDDED

BUNDLE_VARIABLE = "SC_RUNTIME_BUNDLE"


def bundles_folder() -> Path:
    """The folder of built bundles: `engines/` of a checkout, else one in the user's cache folder.

    Raises BundleError where there is neither.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if (root / "pyproject.toml").is_file() and (root / "export" / "build.py").is_file():
        return root / "engines"
    folder = find_user_folder()
    if folder is None:
        raise BundleError("no cache folder for bundles", "HOME or XDG_CACHE_HOME", "name the bundle's folder")
    return folder / "bundles"


def list_bundles(folder: Path | None = None) -> list[Path]:
    """Built bundles in `folder` (default `bundles_folder()`), newest first."""
    try:
        manifests = (folder or bundles_folder()).glob(f"*/{MANIFEST}")
    except BundleError:  # there is no folder for them
        return []
    found = []
    for path in manifests:
        if not path.parent.name.startswith("."):
            with suppress(OSError):  # a build replaces a bundle at any time
                found.append((path.stat().st_mtime, path.parent))
    return [folder for _, folder in sorted(found, key=lambda dated: dated[0], reverse=True)]


def locate_bundle(bundle: str | Path | None = None, config: CodecConfig | None = None) -> Path:
    """The folder of `bundle` (a path, a built bundle's name, or "embedded"), or of $SC_RUNTIME_BUNDLE.

    With neither, the candidates are the built bundles of trained weights that are not in int8, newest first, and then
    the embedded one. The result is the first candidate that decodes tokens of `config`, or the first of all if
    `config` is None or no candidate does. Raises BundleError, which names the bundles there are.
    """
    wanted = bundle or os.environ.get(BUNDLE_VARIABLE)
    if not wanted:
        candidates = chain(filter(is_candidate, list_bundles()), [EMBEDDED])
        first = next(candidates)
        if config is None:
            return first
        return next((path for path in chain([first], candidates) if suits(path, config)), first)
    with suppress(RuntimeError, BundleError):  # no home folder
        for candidate in (Path(wanted).expanduser(), bundles_folder() / wanted):
            if candidate.is_dir():
                return candidate
    if str(wanted) == EMBEDDED.name:
        return EMBEDDED
    names = ", ".join([*(path.name for path in list_bundles()), EMBEDDED.name])
    raise BundleError(
        f"bundle {str(wanted)!r} not found", f"a folder or the name of a built bundle ({names})", BUILD_COMMAND
    )


def is_candidate(path: Path) -> bool:
    """Whether a command without --bundle may use this one: trained weights, and not int8, which one backend runs."""
    manifest = read_manifest(path)
    return manifest is not None and manifest.trained and manifest.precision != "int8"


def suits(path: Path, config: CodecConfig) -> bool:
    """Whether the bundle in `path` decodes tokens of `config`."""
    manifest = read_manifest(path)
    own = map(manifest.configure, manifest.vocabularies) if manifest else ()
    return any(mine.identity == config.identity for mine in own)
