"""Takes graphs from bundles that were built earlier, if their recipes are equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sc_runtime.bundle.locate import list_bundles
from sc_runtime.bundle.manifest import MALFORMED, MANIFEST, Manifest
from sc_runtime.bundle.store import Bundle
from sc_runtime.errors import CodecError
from sc_runtime.files import link_or_copy

from .registry import find_export
from .spec import Sizes, Weights


def find_finished(
    folder: Path, recipes: Mapping[str, str], vocabularies: tuple[int, ...], sizes: Sizes, weights: Weights
) -> Bundle | None:
    """The bundle in `folder` if it equals the one that would be built, else None."""
    if not (folder / MANIFEST).is_file():
        return None
    try:
        bundle = Bundle.load(folder)
        for file in bundle.manifest.files:
            bundle.verify(file)
        same = {name: entry.recipe for name, entry in bundle.manifest.graphs.items()} == recipes
        same &= bundle.manifest.vocabularies == vocabularies
        same = same and all(
            np.array_equal(bundle.load_codebook(name), array)
            for name, array in find_export(sizes.config.codec).make_codebooks(sizes, vocabularies, weights)
        )
    except (CodecError, OSError):  # building meets the same error again, or removes its cause
        return None
    return bundle if same else None


def list_donors(folder: Path) -> list[Bundle]:
    """Bundles in and beside `folder`, damaged ones too: the graphs they hold are checked one by one."""
    donors = []
    for path in [folder, *list_bundles(folder.parent)]:
        try:
            donors.append(Bundle(path, Manifest.from_json((path / MANIFEST).read_text())))
        except (OSError, *MALFORMED):
            continue
    return donors


def reuse_graphs(bundle: Bundle, donors: list[Bundle], recipes: Mapping[str, str]) -> list[str]:
    """Put every graph of `recipes` that a donor holds into `bundle`. Returns the names of the others."""
    missing = []
    for name, recipe in recipes.items():
        found = (donor for donor in donors if has_recipe(donor, name, recipe) and fits(bundle, donor, name))
        if donor := next(found, None):
            entry = donor.manifest.graphs[name]
            for file in entry.files:
                if file not in bundle.manifest.files:
                    link_or_copy(donor.path / file, bundle.path / file)
                    bundle.manifest.files[file] = donor.manifest.files[file]
            bundle.manifest.graphs[name] = entry
        else:
            missing.append(name)
    return missing


def has_recipe(bundle: Bundle, graph: str, recipe: str) -> bool:
    """Whether `bundle` holds `graph` made from the same recipe, unaltered."""
    entry = bundle.manifest.graphs.get(graph)
    if entry is None or entry.recipe != recipe:
        return False
    try:
        bundle.find_graph(graph)
    except (CodecError, OSError):
        return False
    return True


def fits(bundle: Bundle, donor: Bundle, graph: str) -> bool:
    """Whether `bundle` holds the files of another graph from which the donor's `graph` reads its weights."""
    shares = find_export(bundle.manifest.codec).graphs[graph].shares
    ours, theirs = bundle.manifest.files, donor.manifest
    return not shares or all(
        ours.get(file) == theirs.files[file] for file in theirs.graphs[graph].files if file.startswith(shares)
    )
