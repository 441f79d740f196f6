"""Models rewritten for OpenVINO before they are compiled: the same functions in operators that run faster there.

`rewrite` runs passes over a model whose shapes are all fixed. A pass changes the places that it recognises, and leaves
the rest as it is. `share_rows` joins two such models. What each gains: `python -m bench.speed.rewriting`.
"""

from __future__ import annotations

from typing import Any

from .exchange import exchange_axes
from .polyphase import split_transposed, split_upsampling
from .products import multiply_by_keys, separate_products
from .sharing import share_rows

VERSION = 2  #: of the passes. A compiled model on disk is read again only by the version that made it.

__all__ = [
    "VERSION",
    "exchange_axes",
    "fold_constants",
    "multiply_by_keys",
    "rewrite",
    "separate_products",
    "share_rows",
    "split_transposed",
    "split_upsampling",
]


def rewrite(model: Any, bfloat16: bool) -> dict[str, int]:
    """Rewrite `model`, whose shapes are fixed, for computing in bfloat16 or float32.

    Returns the number of places that each pass changed, by its name.
    """
    fold_constants(model)
    changed = {
        "separate_products": separate_products(model),
        "multiply_by_keys": multiply_by_keys(model),
        "exchange_axes": exchange_axes(model),
        "split_upsampling": split_upsampling(model),
        "split_transposed": split_transposed(model, bfloat16),
    }
    model.validate_nodes_and_infer_types()
    return changed


def fold_constants(model: Any) -> None:
    """Compute what does not depend on the inputs, such as what the export computes from shapes."""
    from openvino.passes import ConstantFolding, Manager

    manager = Manager()
    manager.register_pass(ConstantFolding())
    manager.run_passes(model)
