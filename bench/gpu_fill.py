"""A bundle from graphs without weights: the weights are drawn from the seed and written where the manifest says.

`bench/gpu_pack.py` makes the graphs. Their manifest has a table of weights, which says for each tensor of the exported
module in which file it lies, where, in which type and in which order of axes. The export says which published tensors
it is made of. So nothing is traced here, and each tensor is a task of its own: the tasks share all cores.
"""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import shutil
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.harness.bundles import find_sizes, remake_weights
from bench.harness.gpu import NO_GPU
from bench.harness.machine import count_cores
from bench.harness.parts import Session, Skipped
from sc_runtime.bundle.manifest import MANIFEST, FileEntry, GraphEntry, Manifest, WeightEntry
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.export.registry import find_export
from sc_runtime.export.spec import Graph, list_needed, list_origins, make_tensor
from sc_runtime.export.storage import shrink

UNKNOWN = "0" * 64  #: SHA-256 in a pack of a file that is not there
POOLED_BYTES = 100_000_000  #: a smaller bundle is filled by this process alone


def fill_semanticodec(session: Session) -> dict[str, Any]:
    return fill(session, "semanticodec")


def fill_unicodec(session: Session) -> dict[str, Any]:
    return fill(session, "unicodec")


def fill(session: Session, codec: str) -> dict[str, Any]:
    """Part of `bench/gpu.py`: fill the pack of `codec`."""
    pack = session.pack / codec if session.pack else None
    if pack is None or not (pack / MANIFEST).is_file():
        raise Skipped(f"{NO_GPU} pack of {codec}: run bench/gpu_pack.py and give its folder with --pack")
    folder = session.work / "bundles" / codec
    bundle = fill_bundle(pack, folder)
    return {"bundle": str(bundle.path), "bytes": sum(entry.bytes for entry in bundle.manifest.files.values())}


def fill_bundle(pack: Path, folder: Path) -> Bundle:
    """Write to `folder` the bundle that `pack` is the graphs of. Its manifest is written last."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    manifest = Manifest.from_json((pack / MANIFEST).read_text(encoding="utf-8"))
    given = Bundle(folder, manifest)  # not loaded: its files are about to be written
    for path in pack.iterdir():
        if path.name != MANIFEST:
            shutil.copyfile(path, folder / path.name)
    missing = [name for name, entry in manifest.files.items() if entry.sha256 == UNKNOWN]
    for name in missing:
        with (folder / name).open("wb") as opened:
            opened.truncate(manifest.files[name].bytes)
    tasks = [
        (pack, folder, name, weight)
        for name, entry in manifest.graphs.items()
        for weight in list_stored(entry)
        if entry.weights[weight].file in missing
    ]
    tasks.sort(key=lambda task: -math.prod(manifest.graphs[task[2]].weights[task[3]].shape))
    size = sum(manifest.files[name].bytes for name in missing)
    if size < POOLED_BYTES:
        for task in tasks:
            write_weight(*task)
        write_codebooks(pack, folder)
        hashes = [hash_file(folder / name) for name in missing]
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(count_cores(), context, torch.set_num_threads, (1,)) as pool:
            books = pool.submit(write_codebooks, pack, folder)
            wait_for_all(pool.map(write_weight, *zip(*tasks, strict=True)))
            books.result()
            hashes = list(pool.map(hash_file, [folder / name for name in missing]))
    files = dict(manifest.files)
    for name, sha256 in zip(missing, hashes, strict=True):
        files[name] = FileEntry((folder / name).stat().st_size, sha256)
    (folder / MANIFEST).write_text(dataclasses.replace(given.manifest, files=files).to_json())
    return Bundle.load(folder)


def wait_for_all(done: Iterable[object]) -> None:
    for _ in done:
        pass


def list_stored(entry: GraphEntry) -> list[str]:
    """The weights of a graph that lie in its data file, without those that another one's place holds."""
    places = {(weight.file, weight.offset): name for name, weight in entry.weights.items()}
    return list(places.values())


def write_weight(pack: Path, folder: Path, graph: str, name: str) -> None:
    """Draw one tensor of the exported module and write it to its place in the file of `folder`."""
    bundle, origins, published = describe_graph(pack, graph)
    entry: WeightEntry = bundle.manifest.graphs[graph].weights[name]
    tensor = make_tensor(origins[name], published)
    array = tensor.detach().numpy().transpose(entry.permutation or range(tensor.ndim))
    with (folder / entry.file).open("r+b") as opened:
        opened.seek(entry.offset)
        with np.errstate(over="ignore"):
            opened.write(np.ascontiguousarray(array, entry.dtype).data)


#: What a process has read of a pack: by its folder and the graph.
_described: dict[tuple[Path, str], tuple[Bundle, Any, Any]] = {}


def describe_graph(pack: Path, name: str) -> tuple[Bundle, Any, Any]:
    """The pack, the origins of the graph's tensors, and the published tensors, which are drawn when they are read."""
    if (pack, name) not in _described:
        bundle = Bundle(pack, Manifest.from_json((pack / MANIFEST).read_text(encoding="utf-8")))
        sizes, export = find_sizes(bundle), find_export(bundle.manifest.codec)
        graph: Graph = export.graphs[name]
        file = export.networks[graph.network].file
        published = remake_weights(bundle).read(file, list_needed(export, file, sizes))
        _described[pack, name] = bundle, list_origins(graph, sizes), published
    return _described[pack, name]


def write_codebooks(pack: Path, folder: Path) -> None:
    bundle = Bundle(pack, Manifest.from_json((pack / MANIFEST).read_text(encoding="utf-8")))
    export, sizes = find_export(bundle.manifest.codec), find_sizes(bundle)
    for name, array in export.make_codebooks(sizes, bundle.manifest.vocabularies, remake_weights(bundle)):
        np.save(folder / f"{name}.npy", shrink(np.ascontiguousarray(array, np.float32)), allow_pickle=False)
