"""The table of weights: where the files of a bundle hold each tensor of an exported module.

The build writes the table into the manifest. Reading weights from a bundle needs neither ONNX nor the exporter.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor

from sc_runtime.bundle.manifest import WeightEntry
from sc_runtime.bundle.store import Bundle
from sc_runtime.bundle.weights import MappedWeights
from sc_runtime.errors import BundleError

from .trace import StoredWeight


def read_weights(bundle: Bundle, graph: str) -> dict[str, Tensor]:
    """Every weight that `graph` computes with, float32, by the name of the exported module's tensor.

    For `acoustic_encoder` these are the names of `OnnxAcousticEncoder`; `restore_lstm` gives PyTorch's. For
    `conditioning` they are those of `Conditioning`: "positions" and "tunet.*". Raises BundleError for a damaged bundle
    and for one without a table.
    """
    bundle.find_graph(graph)
    table = bundle.manifest.graphs[graph].weights
    if not table:
        raise BundleError(f"{bundle.path}: no table of the weights of {graph}", "a bundle with one", bundle.remedy)
    arrays = MappedWeights(bundle.path, table).arrays
    return {name: torch.tensor(array, dtype=torch.float32).contiguous() for name, array in arrays.items()}


def locate_weights(path: Path, weights: Mapping[str, StoredWeight]) -> dict[str, WeightEntry]:
    """The table of the `weights` of the ONNX file `path`.

    A small weight lies in the ONNX file itself. Its offset is found by searching the file for the bytes of its message,
    which holds a name that occurs once.
    """
    model, content = onnx.load(path, load_external_data=False), path.read_bytes()
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    table = {}
    for name, weight in weights.items():
        tensor = tensors[weight.initializer]
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            places = {entry.key: entry.value for entry in tensor.external_data}
            file, offset = places["location"], int(places.get("offset", 0))
        else:
            message = tensor.SerializeToString()
            file, offset = path.name, content.index(message) + message.rindex(tensor.raw_data)
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        table[name] = WeightEntry(file, offset, weight.shape, dtype, weight.permutation)
    return table
