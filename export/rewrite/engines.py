"""Engines and their passes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import onnx_ir as ir

from .attention import fuse_attention, use_attention_operator
from .editing import remove_unused
from .gates import split_gates
from .gelu import fuse_gelu
from .group_norm import fuse_group_norm, use_group_normalization
from .layer_norm import join_residuals, lower_layer_norms
from .layout import move_channels_last
from .step_embedding import join_step_products, tabulate_steps

Pass = Callable[[ir.Model], int]  #: changes a model; returns the number of places that it changed

ENGINES: Mapping[str, tuple[Pass, ...]] = {
    "cuda": (
        join_step_products,
        tabulate_steps,
        fuse_attention,
        fuse_gelu,
        split_gates,
        fuse_group_norm,
        move_channels_last,
        lower_layer_norms,
        join_residuals,
    ),
    "tensorrt": (join_step_products, use_attention_operator, use_group_normalization),
}


def rewrite(model: ir.Model, engine: str) -> dict[str, int]:
    """Rewrite `model` for `engine` ("cuda", "tensorrt"). Returns the places that each pass changed, by its name."""
    changed = {}
    for run in ENGINES[engine]:
        changed[run.__name__] = run(model)
        remove_unused(model)
    return changed


def save_variant(path: Path, engine: str) -> Path | None:
    """Write the graph in the file `path`, rewritten for `engine`, beside it. It reads the same data file.

    Returns the new file, or None if no pass found anything to change.
    """
    model = ir.load(path)
    if not any(rewrite(model, engine).values()):
        return None
    variant = path.with_name(f"{path.stem}.{engine}.onnx")
    ir.save(model, variant)
    return variant


def save_variants(path: Path) -> dict[str, Path]:
    """The variants of the graph in the file `path`, for every engine that gains from one, by its name."""
    saved = {engine: save_variant(path, engine) for engine in ENGINES}
    return {engine: variant for engine, variant in saved.items() if variant is not None}
