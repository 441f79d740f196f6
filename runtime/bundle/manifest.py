"""The manifest of a bundle: its codec, graphs and codebooks, with the size and the SHA-256 of every file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sc_runtime.config import CodecConfig
from sc_runtime.registry import find_model
from sc_runtime.spec import CodecSpec, TensorSpec

FORMAT = 2  #: of the manifest; a reader refuses any other
LINE = 200  #: characters of its JSON that a list or an object may have on one line
MANIFEST = "manifest.json"
MALFORMED = (ValueError, KeyError, TypeError, AttributeError)  #: what `Manifest.from_json` raises


@dataclass(frozen=True)
class WeightEntry:
    """Where a graph's files hold one tensor of the exported module."""

    file: str  #: one of the graph's
    offset: int  #: of its first byte in the file
    shape: tuple[int, ...]  #: of the module's tensor
    dtype: str = "float32"  #: NumPy's name of the stored type, little-endian
    #: The file holds the tensor with its axes in this order, row-major; None: in their own order.
    permutation: tuple[int, ...] | None = None


@dataclass(frozen=True)
class GraphEntry:
    """One exported network: its files (the graph first, then external data), its tensors in order, how it was made."""

    files: tuple[str, ...]
    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    recipe: str  #: hash of everything the graph was made from
    #: Largest relative error when it was built: against the torch network, of an int8 graph against the float32 one.
    error: float
    #: The table of weights: name in the exported module -> place. Equal tensors may lie in the same place. Empty for
    #: int8 graphs, and in bundles of versions that wrote no table.
    weights: dict[str, WeightEntry] = field(default_factory=dict)


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
        return format_json(asdict(self)) + "\n"

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
                parse_weights(entry),
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
    def spec(self) -> CodecSpec:
        """The codec's facts. Raises SettingsError if this version has no codec of that name."""
        return find_model(self.codec).spec

    def configure(self, vocab: int | None = None) -> CodecConfig:
        """The codec's settings with the vocabulary `vocab`, by default the last."""
        return self.spec.config.from_settings(self.vocabularies[-1] if vocab is None else vocab, self.settings)


def parse_weights(graph: Mapping[str, Any]) -> dict[str, WeightEntry]:
    """The table of weights of a graph's entry in the JSON. Raises one of MALFORMED."""
    weights = {}
    for name, entry in graph.get("weights", {}).items():
        order = entry["permutation"]
        weight = WeightEntry(**entry | {"shape": tuple(entry["shape"]), "permutation": order and tuple(order)})
        if weight.file not in graph["files"] or weight.offset < 0:
            raise ValueError(f"weight {name} at byte {weight.offset} of {weight.file}")
        if weight.permutation and sorted(weight.permutation) != list(range(len(weight.shape))):
            raise ValueError(f"weight {name} of shape {list(weight.shape)} with axes {list(weight.permutation)}")
        weights[name] = weight
    return weights


def format_json(value: Any, depth: int = 0) -> str:
    """`value` as JSON, one space deeper at each level; what fits in a LINE stands on one."""
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
        return Manifest.from_json((path / MANIFEST).read_text())
    except (OSError, *MALFORMED):
        return None
