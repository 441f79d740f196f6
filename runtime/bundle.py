"""A bundle: a folder of graphs, codebooks and `manifest.json`, checked before anything in it is used.

The manifest carries shapes, dtypes, sizes and SHA-256 hashes. Sizes are checked when the bundle is loaded, hashes when
a file is first used; `.verified.json` remembers what was hashed, so that gigabytes are not read twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from .codecs import Model, find_model
from .config import CodecConfig
from .errors import BundleError, SettingsError

FORMAT = 2  #: of the manifest; a reader refuses any other
MANIFEST = "manifest.json"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  #: what `Manifest.from_json` raises
VERIFIED = ".verified.json"
BUNDLE_VARIABLE = "SC_RUNTIME_BUNDLE"
BUILD_COMMAND = "python -m export.build --tps 50"
BUILD_AGAIN = "build the bundle again with this version's export.build"
EMBEDDED = Path(__file__).with_name("embedded")  #: the trained model that comes with the package


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph: NumPy dtype name and shape, with a name in place of a dynamic axis."""

    dtype: str
    shape: tuple[int | str, ...]

    def resolve(self, **axes: int) -> tuple[int, ...]:
        """The shape with its dynamic axes ("batch", "frames") as given."""
        return tuple(axes[axis] if isinstance(axis, str) else axis for axis in self.shape)


@dataclass(frozen=True)
class GraphEntry:
    """One exported network: its files (the graph first, then external data), its tensors in order, how it was made."""

    files: tuple[str, ...]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    recipe: str  #: hash of everything the graph was made from
    #: Largest relative error when it was built: against the torch network, of an int8 graph against the float32 one.
    error: float


@dataclass(frozen=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds: a codec, by name, and its settings but for the vocabulary (`CodecConfig.settings`).

    `vocabularies` are those it has a codebook of, the last one the default.
    """

    codec: str
    settings: dict[str, Any]
    vocabularies: tuple[int, ...]
    weights: str  #: where the weights came from, in words
    command: str  #: that builds this bundle again
    graphs: dict[str, GraphEntry]
    files: dict[str, FileEntry]
    trained: bool = False  #: whether the weights mean anything: stand-in weights do not
    #: Of the graphs' arithmetic: "float32", "fp16" with float32 islands, or "int8" of some, for OpenVINO.
    precision: str = "float32"
    #: Share of the tokens that stay equal when encoding in bfloat16, on the demo's sample; None: not measured.
    equal_in_bfloat16: float | None = None
    made_with: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises one of MALFORMED on what is no manifest of this format."""
        raw = json.loads(text)
        if raw["format"] != FORMAT:
            raise ValueError(f"manifest format {raw['format']}, this version reads {FORMAT}")

        def tensors(entries: Mapping[str, Any]) -> dict[str, TensorSpec]:
            return {name: TensorSpec(spec["dtype"], tuple(spec["shape"])) for name, spec in entries.items()}

        graphs = {
            name: GraphEntry(
                tuple(entry["files"]),
                tensors(entry["inputs"]),
                tensors(entry["outputs"]),
                entry["recipe"],
                entry["error"],
            )
            for name, entry in raw["graphs"].items()
        }
        files = {name: FileEntry(**entry) for name, entry in raw["files"].items()}
        unlisted = {file for entry in graphs.values() for file in entry.files} - files.keys()
        if unlisted:
            raise ValueError(f"no size and hash of {', '.join(sorted(unlisted))}")
        raw.update(graphs=graphs, files=files, vocabularies=tuple(raw["vocabularies"]))
        manifest = cls(**raw)
        if not manifest.vocabularies:
            raise ValueError("no vocabularies")
        for vocab in manifest.vocabularies:
            manifest.configure(vocab)
        return manifest

    @property
    def model(self) -> type[Model]:
        """The codec. Raises SettingsError where this version has none of that name."""
        return find_model(self.codec)

    def configure(self, vocab: int | None = None) -> CodecConfig:
        """The codec's settings with the vocabulary `vocab`, by default the last."""
        return self.model.config.from_settings(self.vocabularies[-1] if vocab is None else vocab, self.settings)


class Bundle:
    """A folder with a manifest, its files present and of the stated sizes."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Raises BundleError when the folder is no bundle, of another format, or a file is missing or resized."""
        manifest_path = path / MANIFEST
        try:
            manifest = Manifest.from_json(manifest_path.read_text())
        except OSError as error:
            raise BundleError(
                f"{path}: no readable {MANIFEST} ({error.strerror})", "the folder of a built bundle", BUILD_COMMAND
            ) from None
        except SettingsError as error:
            raise BundleError(f"{manifest_path}: {error.given}", error.expected, BUILD_AGAIN) from None
        except MALFORMED as error:
            raise BundleError(
                f"{manifest_path}: {type(error).__name__} {error}", f"a manifest of format {FORMAT}", BUILD_AGAIN
            ) from None
        bundle = cls(path, manifest)
        for name, entry in manifest.files.items():
            file = path / name
            size = file.stat().st_size if file.is_file() else None
            if size != entry.bytes:
                found = "is missing" if size is None else f"holds {size} bytes"
                raise BundleError(f"{file} {found}", f"{entry.bytes} bytes", bundle.remedy)
        return bundle

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def remedy(self) -> str:
        if self.path == EMBEDDED:
            return "it came with the package: pip install --force-reinstall sc-runtime"
        return f"rebuild it: {self.manifest.command} --out {shlex.quote(str(self.path))} --force"

    def choose_config(self, vocab: int | None = None) -> CodecConfig:
        """The codec with semantic vocabulary `vocab`, or the bundle's default one."""
        available = self.manifest.vocabularies
        if vocab is None:
            vocab = available[-1]
        if vocab not in available:
            raise SettingsError(
                f"vocabulary {vocab}",
                f"one that {self.name} holds ({', '.join(map(str, available))})",
                f"add it: {self.manifest.command} --vocab {','.join(map(str, sorted({*available, vocab})))}",
            )
        return self.manifest.configure(vocab)

    def find_graph(self, name: str) -> Path:
        """The verified file of graph `name`: ONNX, or OpenVINO's if it is in int8."""
        entry = self.manifest.graphs.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: no graph {name!r}", "every graph of the codec", self.remedy)
        for file in entry.files:
            self.verify(file)
        return self.path / entry.files[0]

    def count_bytes(self, graph: str) -> int:
        """Bytes of the graph `graph` with its weights."""
        return sum(self.manifest.files[file].bytes for file in self.manifest.graphs[graph].files)

    def load_codebook(self, name: str) -> np.ndarray:
        """The codebook `name` ("acoustic", "semantic-32768", ...), float32 [entries, D], verified.

        Mapped from disk, but for one that is stored as float16 because that holds it exactly.
        """
        file = f"{name}.npy"
        self.verify(file)
        return np.load(self.path / file, mmap_mode="r", allow_pickle=False).astype(np.float32, copy=False)

    def verify(self, file: str) -> None:
        """Compare one file's hash with the manifest's. Raises BundleError naming the file."""
        entry = self.manifest.files.get(file)
        if entry is None:
            raise BundleError(f"{self.path}: {file} is not in the manifest", "a complete bundle", self.remedy)
        self.verify_hash(file, entry.sha256, self.remedy)

    def verify_hash(self, file: str, sha256: str, remedy: str) -> None:
        """Compare one file's hash with `sha256`, unless it was before. Raises BundleError naming the file."""
        path = self.path / file
        stamp = take_stamp(path)
        if self._verified.get(file) == [sha256, stamp]:
            return
        if hash_file(path) != sha256:
            raise BundleError(f"{path} has been altered or swapped", f"SHA-256 {sha256[:12]}…", remedy)
        self._verified[file] = [sha256, stamp]
        self._remember()

    @cached_property
    def _verified(self) -> dict[str, list[Any]]:
        """File -> [hash, stamp] of what was hashed before; empty when nothing can be read."""
        try:
            raw = json.loads((self.path / VERIFIED).read_text())
        except (OSError, ValueError):
            return {}
        return raw if isinstance(raw, dict) else {}

    def _remember(self) -> None:
        """Keep what was verified. A bundle in a read-only place is hashed again each time instead."""
        temporary = self.path / f"{VERIFIED}.{os.getpid()}"
        try:
            temporary.write_text(json.dumps(self._verified))
            temporary.replace(self.path / VERIFIED)
        except OSError:
            temporary.unlink(missing_ok=True)


def take_stamp(path: Path) -> list[int]:
    """What changes when a file is written or replaced: size, modification time, inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ino]


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def bundles_folder() -> Path:
    """Where bundles are built and found: `engines/` of a checkout, else the user's cache folder."""
    root = Path(__file__).resolve().parent.parent
    if (root / "pyproject.toml").is_file() and (root / "export" / "build.py").is_file():
        return root / "engines"
    return Path(platformdirs.user_cache_dir("sc-runtime")) / "bundles"


def list_bundles(folder: Path | None = None) -> list[Path]:
    """Built bundles in `folder` (default `bundles_folder()`), newest first."""
    manifests = (folder or bundles_folder()).glob(f"*/{MANIFEST}")
    found = [path for path in manifests if not path.parent.name.startswith(".")]
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def locate_bundle(bundle: str | Path | None = None, config: CodecConfig | None = None) -> Path:
    """The folder of `bundle` (a path, a built bundle's name, or "embedded"), or of $SC_RUNTIME_BUNDLE.

    With neither, the newest built bundle of trained weights that is not in int8, and the embedded one where none is
    built; with `config`, of these the first that decodes tokens of it, if there is one. Raises BundleError naming what
    there is.
    """
    wanted = bundle or os.environ.get(BUNDLE_VARIABLE)
    if not wanted:
        trained = [*filter(is_candidate, list_bundles()), EMBEDDED]
        return next((path for path in trained if config is None or suits(path, config)), trained[0])
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
    """Whether the bundle in `path` may be taken unnamed: of trained weights, not in int8, which one backend runs."""
    manifest = read_manifest(path)
    return manifest is not None and manifest.trained and manifest.precision != "int8"


def suits(path: Path, config: CodecConfig) -> bool:
    """Whether the bundle in `path` decodes tokens of `config`."""
    manifest = read_manifest(path)
    own = map(manifest.configure, manifest.vocabularies) if manifest else ()
    return any(mine.identity == config.identity for mine in own)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the bundle in `path`, where it can be read."""
    try:
        return Manifest.from_json((path / MANIFEST).read_text())
    except (OSError, *MALFORMED):
        return None
