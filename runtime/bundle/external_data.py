"""The files that an ONNX graph reads its weights from.

Runtimes open whatever external data a graph names. So every location in a graph is compared with the files that the
manifest lists for it. The messages below are the part of onnx.proto3 that leads to a location; the rest is skipped.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

#: Message -> field -> (number, type of a message, or None for bytes). Every field counts as repeated.
MESSAGES: dict[str, dict[str, tuple[int, str | None]]] = {
    "Model": {"graph": (7, "Graph"), "training": (20, "Training"), "functions": (25, "Function")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Function": {"nodes": (7, "Node"), "attributes": (11, "Attribute")},
    "Graph": {"nodes": (1, "Node"), "initializers": (5, "Tensor"), "sparse": (15, "Sparse")},
    "Node": {"attributes": (5, "Attribute")},
    "Attribute": {
        "tensor": (5, "Tensor"),
        "graph": (6, "Graph"),
        "tensors": (10, "Tensor"),
        "graphs": (11, "Graph"),
        "sparse": (22, "Sparse"),
        "sparse_tensors": (23, "Sparse"),
    },
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external": (13, "Entry")},
    "Entry": {"key": (1, None), "value": (2, None)},
}
PACKAGE = "sc_runtime.external_data"


def list_locations(path: Path) -> set[str]:
    """Every location of external data in the ONNX file `path`. Raises ValueError if it is no ONNX file."""
    from google.protobuf.message import DecodeError

    model = find_message("Model")()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise ValueError(f"no ONNX graph ({error})") from error
    found: set[str] = set()
    collect_locations(model, found)
    return found


def collect_locations(message: Any, found: set[str]) -> None:
    """Add to `found` the locations in `message` and in the messages inside it."""
    for field, parts in message.ListFields():
        if field.message_type is None:
            continue
        for part in parts:
            if field.message_type.name == "Entry":
                if b"location" in part.key:
                    found |= {value.decode(errors="replace") for value in part.value}
            else:
                collect_locations(part, found)


@cache
def find_message(name: str) -> Any:
    """The class of the message `name`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f"{PACKAGE}.proto", package=PACKAGE)
    kinds = descriptor_pb2.FieldDescriptorProto
    for message, fields in MESSAGES.items():
        declared = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            declared.field.add(
                name=field,
                number=number,
                label=kinds.LABEL_REPEATED,
                type=kinds.TYPE_MESSAGE if kind else kinds.TYPE_BYTES,
                type_name=f".{PACKAGE}.{kind}" if kind else None,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}"))
