"""A bundle on disk: every file is checked before it is used.

Sizes are checked when the bundle is loaded, hashes when a file is first used. The cache "verified" records which files
were hashed, so that gigabytes are not read twice. It lies in the user's cache folder: nothing is written to a bundle,
and no record in a bundle is trusted. Without a cache folder every process hashes again.
"""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sc_runtime.caches import HASHED, name_record
from sc_runtime.config import CodecConfig
from sc_runtime.errors import BundleError, SettingsError, first_line
from sc_runtime.spec import CodecSpec

from .external_data import list_locations
from .manifest import BUILD, FORMAT, MALFORMED, MANIFEST, GraphEntry, Manifest

VERIFIED = ".verified.json"  #: earlier versions wrote this file to bundles; it is ignored
BUILD_COMMAND = f"{BUILD} --tps 50"
BUILD_AGAIN = f"build the bundle again with this version: {BUILD}"
EMBEDDED = Path(__file__).parent.parent / "embedded"  #: the trained model that comes with the package


class Bundle:
    """A folder with a manifest, in which every file is present and has the stated size."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest
        self._verified: set[str] = set()  #: keys in HASHED
        self._examined: set[str] = set()  #: graphs whose external data were checked

    def __reduce__(self) -> tuple[Callable[[Path], Bundle], tuple[Path]]:
        """Another process loads the bundle again from its folder."""
        return type(self).load, (self.path.absolute(),)

    @classmethod
    def load(cls, path: Path) -> Bundle:
        """Raises BundleError for a folder without a manifest of this format, and for a missing or resized file."""
        manifest_path = path / MANIFEST
        try:
            manifest = Manifest.from_json(manifest_path.read_text(encoding="utf-8"))
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
        bundle = cls(path.absolute(), manifest)  # files are opened later, perhaps from another working folder
        for name, entry in manifest.files.items():
            file = path / name
            if file.is_symlink() and not file.resolve().is_relative_to(path.resolve()):
                given = f"{file} is a link that leads out of the bundle"
                raise BundleError(given, "a file in it", "copy the file in place of the link")
            size = file.stat().st_size if file.is_file() else None
            if size != entry.bytes:
                found = "is missing" if size is None else f"holds {size} bytes"
                raise BundleError(f"{file} {found}", f"{entry.bytes} bytes", bundle.remedy)
        return bundle

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def spec(self) -> CodecSpec:
        """The facts of the bundle's codec."""
        return self.manifest.spec

    @property
    def remedy(self) -> str:
        if self.path == EMBEDDED:
            return "it came with the package: pip install --force-reinstall sc-runtime"
        return f"rebuild it: {self.manifest.command} --out {shlex.quote(str(self.path))} --force"

    def choose_config(self, vocab: int | None = None) -> CodecConfig:
        """The settings with the vocabulary `vocab`; None is the bundle's default. Raises SettingsError."""
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

    def find_graph(self, name: str, engine: str | None = None) -> Path:
        """The file of the graph `name`, verified: ONNX, or OpenVINO's format if it is in int8. Raises BundleError.

        If the graph has a variant for `engine` ("cuda", "tensorrt"), it is that one's file.
        """
        entry = self.manifest.graphs.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: no graph {name!r}", "every graph of the codec", self.remedy)
        for file in entry.files:
            self.verify(file)
        path = self.path / entry.variants.get(engine or "", entry.files[0])
        if path.suffix == ".onnx" and path.name not in self._examined:
            self.check_external_data(path, entry)
            self._examined.add(path.name)
        return path

    def check_external_data(self, path: Path, entry: GraphEntry) -> None:
        """Raises BundleError if the ONNX file `path` reads other files than those of `entry`."""
        try:
            unlisted = sorted(list_locations(path) - set(entry.files))
        except ValueError as error:
            raise BundleError(f"{path}: {error}", "an ONNX graph", self.remedy) from error
        if unlisted:
            given = f"{path} reads {', '.join(map(repr, unlisted))}"
            raise BundleError(given, f"no other files than {', '.join(entry.files)}", self.remedy)

    def list_hashes(self, graph: str) -> list[str]:
        """The SHA-256 of each file of the graph `graph`."""
        return [self.manifest.files[file].sha256 for file in self.manifest.graphs[graph].files]

    def count_bytes(self, graph: str) -> int:
        """Bytes of the graph `graph`, weights included."""
        return sum(self.manifest.files[file].bytes for file in self.manifest.graphs[graph].files)

    def load_codebook(self, name: str) -> np.ndarray:
        """The codebook `name` ("acoustic", "semantic-32768", ...), float32 [entries, D], verified.

        A codebook in float32 is mapped from disk. One that is stored, without loss, in float16 is converted.
        """
        file = f"{name}.npy"
        self.verify(file)
        shapes: dict[str, tuple[int, int]] = {}
        for vocab in self.manifest.vocabularies:
            shapes |= self.manifest.configure(vocab).codebook_shapes
        try:
            codebook = np.lib.format.open_memmap(self.path / file, mode="r")
        except Exception as error:  # NumPy's reader raises more than it documents, of a foreign file
            raise BundleError(f"{self.path / file}: {first_line(error)}", "a codebook", self.remedy) from error
        if codebook.shape != shapes.get(name) or codebook.dtype not in (np.float16, np.float32):
            given = f"{self.path / file}: {codebook.dtype} {list(codebook.shape)}"
            raise BundleError(given, f"float32 {list(shapes.get(name, ()))}, as the settings state", self.remedy)
        return codebook.astype(np.float32, copy=False)

    def verify(self, file: str) -> None:
        """Compare the hash of `file` with the manifest's. Raises BundleError, which names the file."""
        entry = self.manifest.files.get(file)
        if entry is None:
            raise BundleError(f"{self.path}: {file} is not in the manifest", "a complete bundle", self.remedy)
        self.verify_hash(file, entry.sha256, self.remedy)

    def verify_hash(self, file: str, sha256: str, remedy: str) -> None:
        """Compare the hash of `file` with `sha256`, once. Raises BundleError, which names the file."""
        path = self.path / file
        key = name_record(path, sha256)
        if key in self._verified:
            return
        if HASHED.read(key) is None:
            if hash_file(path) != sha256:
                raise BundleError(f"{path} has been altered or swapped", f"SHA-256 {sha256[:12]}…", remedy)
            HASHED.write(key, sha256.encode())
        self._verified.add(key)


def hash_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
