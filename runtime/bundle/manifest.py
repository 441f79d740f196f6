"""The manifest of a bundle: its codec, graphs and codebooks, with the size and the SHA-256 of every file.

A manifest may come from a stranger. Every value is checked for its type and range, names of files stay inside the
folder, and the manifest states a SHA-256 of itself.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import from_json

from sc_runtime.config import CodecConfig
from sc_runtime.registry import find_model
from sc_runtime.spec import CodecSpec, GraphSpec, TensorSpec

FORMAT = 2  #: of the manifest; a reader refuses any other
LINE = 200  #: characters of its JSON that a list or an object may have on one line
MANIFEST = "manifest.json"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  #: what `Manifest.from_json` raises
DTYPES = ("float16", "float32", "int64")  #: of inputs, outputs and weights
BUILD = "sc-runtime build"  #: how every command that builds a bundle begins
EARLIER_BUILD = "python -m export.build"  #: how it began in earlier versions
#: What may follow in a manifest's command. It is printed as advice, so it has no other options and nothing for a shell.
BUILD_OPTIONS = ("--codec", "--tps", "--vocab", "--checkpoint", "--seeded", "--size", "--precision", "--revision")
OWN_HASH = "sha256"  #: the key of the manifest's own hash

#: A file or a graph: a plain name, which cannot lead out of the bundle's folder.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=100)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Size = Annotated[int, Field(ge=1, lt=2**63)]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
STRICT = {"extra": "forbid", "strict": True}  #: no unknown keys, no "1" for 1


@dataclass(frozen=True)
class WeightEntry:
    """The place of one tensor of the exported module in the files of its graph.

    file: one of the graph's files.
    offset: of the first byte.
    shape: of the module's tensor.
    dtype: NumPy's name of the stored type, little-endian.
    permutation: the file holds the tensor with its axes in this order, row-major. None: in the tensor's own order.
    """

    __pydantic_config__: ClassVar = STRICT

    file: Name
    offset: Count
    shape: tuple[Count, ...]
    dtype: str = "float32"
    permutation: tuple[Count, ...] | None = None


@dataclass(frozen=True)
class GraphEntry:
    """One exported network: its files (the graph, then its data), its inputs and outputs in order, and its origin."""

    __pydantic_config__: ClassVar = STRICT

    files: Annotated[tuple[Name, ...], Field(min_length=1)]
    inputs: dict[Name, TensorSpec]
    outputs: dict[Name, TensorSpec]
    recipe: str  #: a hash of everything that the graph was made from
    #: The largest relative error when it was built: against the torch network, or for int8 against the float32 graph.
    error: float
    #: Name of the tensor in the exported module -> its place. Equal tensors may share a place. Empty for int8 graphs,
    #: and in bundles of versions that wrote no table.
    weights: dict[str, WeightEntry] = field(default_factory=dict)
    #: Engine ("cuda", "tensorrt") -> one of `files`: the same function in operators that the engine runs faster.
    variants: dict[Name, Name] = field(default_factory=dict)


@dataclass(frozen=True)
class FileEntry:
    __pydantic_config__: ClassVar = STRICT

    bytes: Count
    sha256: Hash


@dataclass(frozen=True)
class Manifest:
    """The content of a bundle: the codec's name, its settings without the vocabulary, and every graph and file.

    The bundle has a codebook for each of `vocabularies`; the last one is the default.
    """

    __pydantic_config__: ClassVar = STRICT

    codec: Any
    settings: dict[str, Any]
    vocabularies: Annotated[tuple[int, ...], Field(min_length=1)]
    weights: str  #: where the weights come from, in words
    command: str  #: the command that builds this bundle again
    graphs: dict[Name, GraphEntry]
    files: dict[Name, FileEntry]
    trained: bool = False  #: False for stand-in weights
    #: Arithmetic of the graphs: "float32"; "fp16", with float32 islands; "mixed", which is float32 for graphs that make
    #: tokens and FP16 for the rest; or "int8" for some of them, for OpenVINO.
    precision: Annotated[str, Field(pattern="^(float32|mixed|fp16|int8)$")] = "float32"
    #: Share of the demo recording's tokens that stay equal when encoding in bfloat16. None if it was not measured.
    equal_in_bfloat16: Annotated[float, Field(ge=0, le=1)] | None = None
    #: Share of the tokens of the demo and the held-out clips that the FP16 graphs of this bundle make as the float32
    #: networks do. None if it was not measured.
    equal_in_fp16: Annotated[float, Field(ge=0, le=1)] | None = None
    made_with: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  #: file of the checkpoint -> its SHA-256
    format: int = FORMAT

    def to_json(self) -> str:
        raw = asdict(self)
        return format_json({**raw, OWN_HASH: hash_content(raw)}) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises one of MALFORMED if `text` is not a manifest of this format, or was altered."""
        raw = from_json(text)
        if not isinstance(raw, dict):
            raise ValueError("no JSON object")
        if raw.get("format") != FORMAT:
            raise ValueError(f"manifest format {raw.get('format')}, this version reads {FORMAT}")
        stated = raw.pop(OWN_HASH, None)  # bundles of earlier versions have none
        if stated is not None and stated != hash_content(raw):
            raise ValueError("the manifest has been altered: its SHA-256 differs from the one that it states")
        try:
            manifest = make_adapter().validate_json(json.dumps(raw))
        except ValidationError as error:
            first = error.errors()[0]
            place, given = ".".join(map(str, first["loc"])), repr(first["input"])[:80]
            raise ValueError(f"{place}: {first['msg']}, not {given}") from None
        if manifest.command.startswith(EARLIER_BUILD):
            manifest = replace(manifest, command=BUILD + manifest.command.removeprefix(EARLIER_BUILD))
        manifest.check()
        return manifest

    def check(self) -> None:
        """Raises one of MALFORMED if parts of the manifest contradict each other."""
        for name, graph in self.graphs.items():
            if name not in self.spec.graphs:
                raise ValueError(f"graph {name!r}, which {self.codec} does not have")
            unlisted = [file for file in graph.files if file not in self.files]
            if unlisted:
                raise ValueError(f"no size and hash of {', '.join(unlisted)}")
            strange = [file for file in graph.variants.values() if file not in graph.files]
            if strange:
                raise ValueError(f"{name}: variant {strange[0]} is none of its files")
            for tensor, spec in {**graph.inputs, **graph.outputs}.items():
                if spec.dtype not in DTYPES or any(isinstance(size, int) and size < 1 for size in spec.shape):
                    raise ValueError(f"{name}.{tensor}: {spec.dtype} {list(spec.shape)}")
            for weight, entry in graph.weights.items():
                axes = entry.permutation
                if entry.file not in graph.files or entry.dtype not in DTYPES:
                    raise ValueError(f"weight {weight} of {entry.dtype} in {entry.file}")
                if axes and sorted(axes) != list(range(len(entry.shape))):
                    raise ValueError(f"weight {weight} of shape {list(entry.shape)} with axes {list(axes)}")
        for vocab in self.vocabularies:
            self.configure(vocab)
        check_command(self.command)

    def is_half(self, graph: str) -> bool:
        """Whether `graph` is an FP16 graph."""
        return lowers(self.precision, self.spec.graphs[graph])

    @property
    def spec(self) -> CodecSpec:
        """The codec's facts. Raises SettingsError if this version has no codec of that name."""
        return find_model(self.codec).spec

    def configure(self, vocab: int | None = None) -> CodecConfig:
        """The codec's settings with the vocabulary `vocab`, by default the last."""
        return self.spec.config.from_settings(self.vocabularies[-1] if vocab is None else vocab, self.settings)


def lowers(precision: str, graph: GraphSpec) -> bool:
    """Whether `graph` is an FP16 graph in a bundle of `precision`."""
    return precision == "fp16" or (precision == "mixed" and not graph.makes_tokens)


def check_command(command: str) -> None:
    """Raises ValueError unless `command` builds a bundle and does nothing else."""
    words = shlex.split(command)
    options = words[2::2]
    is_quoted = shlex.join(words) == command and command.isprintable()
    if words[:2] != BUILD.split() or not is_quoted or not set(options) <= set(BUILD_OPTIONS):
        raise ValueError(f"command {command[:100]!r}, which is not one that builds a bundle")


@cache
def make_adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def hash_content(raw: dict[str, Any]) -> str:
    """The SHA-256 of a manifest, whatever the order of its keys and its white space."""
    return hashlib.sha256(json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def format_json(value: Any, depth: int = 0) -> str:
    """`value` as JSON, one space deeper at each level. A list or an object of up to LINE characters is one line."""
    line = json.dumps(value)
    if not isinstance(value, dict | list | tuple) or (depth and len(line) <= LINE):
        return line
    if isinstance(value, dict):
        parts = [f"{json.dumps(key)}: {format_json(part, depth + 1)}" for key, part in value.items()]
    else:
        parts = [format_json(part, depth + 1) for part in value]
    opening, closing = line[0], line[-1]
    indent = "\n" + " " * depth
    return opening + ",".join(f"{indent} {part}" for part in parts) + indent + closing


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of the bundle in `path`, or None if it cannot be read."""
    try:
        return Manifest.from_json((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, *MALFORMED):
        return None
