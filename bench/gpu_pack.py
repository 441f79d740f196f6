"""What `bench/gpu.py` needs where nothing can be fetched: graphs without weights, wheels, ONNX Runtime's CUDA part.

    python bench/gpu_pack.py                      # everything, into .carry, and the calls to make, ready to paste
    python bench/gpu_pack.py --wheels no          # the graphs alone
    python bench/gpu_pack.py --onnxruntime WHEEL  # with a wheel of onnxruntime-gpu that is here already

A call takes 64 MiB with the repository itself, so the wheel of ONNX Runtime travels in pieces, without the machine code
of GPUs other than `--arch`. `bench/gpu_install.py` joins the pieces there. Sizes are checked before a call is printed.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import onnx_ir as ir
import torch
import typer

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python puts the folder of this file there

from bench.gpu_calls import Call, count_bytes, enter_copy, print_calls
from bench.gpu_fill import UNKNOWN
from bench.gpu_wheel import LIMIT, count_tracked, cut_pieces, fetch_wheels, shrink_wheel
from bench.harness.machine import ROOT
from bench.harness.printing import log
from sc_runtime.bundle.manifest import MANIFEST, FileEntry, GraphEntry, Manifest
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.cli.program import run_app
from sc_runtime.export.builder import describe_command, find_tensor
from sc_runtime.export.precision import lower_precision, lower_specs
from sc_runtime.export.registry import find_export
from sc_runtime.export.rewrite import save_variants
from sc_runtime.export.seeded import SeededWeights
from sc_runtime.export.spec import CodecExport, Sizes, list_origins, read_file
from sc_runtime.export.trace import trace
from sc_runtime.export.weights import locate_weights

SEED = 1
CODECS = {"semanticodec": (50, 32768), "unicodec": (None, 16384)}  #: codec -> tokens a second and vocabulary
ALIGNMENT = 64  #: bytes, of a tensor in a data file
INLINE = 256  #: bytes; a smaller tensor stays in the ONNX file
INPUTS = "graphs"  #: folder in .carry

#: Tracked files that the GPU's parts do not read. They are moved aside for the calls, to make room.
ASIDE = ("runtime/embedded/*.data", "runtime/embedded/*.npy", "tests/golden/*.npz", "tests/held_out", "bench/results")

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of everything that travels.")] = ROOT / ".carry",
    size: Annotated[str, typer.Option(help="Of the networks: full or tiny.")] = "full",
    wheels: Annotated[str, typer.Option(help="yes, or no for the graphs alone.")] = "yes",
    onnxruntime: Annotated[Path | None, typer.Option(help="A wheel of onnxruntime-gpu; else it is fetched.")] = None,
    keep: Annotated[str, typer.Option(help="Codecs whose graphs stay as they were made before.")] = "",
    arch: Annotated[int, typer.Option(help="The GPU's compute capability, times 10.")] = 90,
) -> None:
    """Make what travels, check its size, and print the calls."""
    torch.set_grad_enabled(False)
    out = out.absolute()
    for codec in CODECS:
        if codec not in keep.split(","):
            pack_graphs(codec, size, out / INPUTS / codec)
    pieces: list[Path] = []
    if wheels == "yes":
        fetch_wheels(out / "wheels")
        archive = out / "fetched" / f"onnxruntime-sm{arch}.tar.xz"
        if not archive.is_file():  # compressing takes minutes
            archive.parent.mkdir(parents=True, exist_ok=True)
            wheel = onnxruntime or fetch_wheels(archive.parent, ("onnxruntime-gpu",))[0]
            archive.write_bytes(shrink_wheel(wheel, arch))
        room = LIMIT - count_tracked(ASIDE) - count_bytes(out / INPUTS)
        pieces = cut_pieces(archive.read_bytes(), out, room - count_bytes(out / "wheels"), room)
    print_calls(list_calls(out, pieces), ASIDE, "the results are in gpu.json")


def pack_graphs(codec: str, size: str, folder: Path) -> None:
    """Trace the FP16 graphs of `codec` to `folder`. Their data files are planned, not written."""
    export, (tps, vocab) = find_export(codec), CODECS[codec]
    sizes, weights = export.choose_sizes(size, tps, vocab), SeededWeights(SEED)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    manifest = Manifest(
        codec=codec,
        settings=sizes.config.settings,
        vocabularies=(vocab,),
        weights=weights.description,
        command=describe_command(sizes, (vocab,), weights, size, "fp16"),
        graphs={},
        files={},
        precision="fp16",
    )
    for name, graph in export.graphs.items():
        if not graph.shares:
            log.print(f"{codec}: tracing {name}")
            manifest.graphs[name] = pack_graph(export, name, sizes, weights, folder, manifest.files)
    for name, array in export.make_codebooks(sizes, (vocab,), weights):
        manifest.files[f"{name}.npy"] = FileEntry(array.nbytes, UNKNOWN)
    (folder / MANIFEST).write_text(manifest.to_json())


def pack_graph(
    export: CodecExport, name: str, sizes: Sizes, weights: Any, folder: Path, files: dict[str, FileEntry]
) -> GraphEntry:
    """Trace one graph and write its ONNX file; `files` gets its files."""
    graph = export.graphs[name]
    tensors = read_file(export, export.networks[graph.network].file, weights, sizes)
    inputs, outputs = graph.inputs(sizes), graph.outputs(sizes)
    traced = trace(
        partial(graph.build, sizes), inputs, outputs, partial(find_tensor, list_origins(graph, sizes), tensors)
    )
    lower_precision(traced.model)
    path = folder / f"{name}.onnx"
    data = f"{path.name}.data"
    files[data] = FileEntry(plan_data(traced.model, data), UNKNOWN)
    ir.save(traced.model, path)
    table = locate_weights(path, traced.weights)
    variants = save_variants(path)
    for written in (path, *variants.values()):
        files[written.name] = FileEntry(written.stat().st_size, hash_file(written))
    check_table(traced.model, data, {entry.offset for entry in table.values() if entry.file == data})
    names = {engine: variant.name for engine, variant in variants.items()}
    own = (path.name, *names.values(), data)
    return GraphEntry(own, lower_specs(inputs), lower_specs(outputs), "packed", 0.0, table, names)


def plan_data(model: ir.Model, data: str) -> int:
    """Give every larger initializer a place in the file `data`, which is not written. Returns the file's size."""
    end = 0
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is None or tensor.nbytes <= INLINE or not isinstance(tensor, ir.LazyTensor):
            continue
        start = -(-end // ALIGNMENT) * ALIGNMENT
        shape = ir.Shape(tensor.shape.numpy())
        value.const_value = ir.ExternalTensor(data, start, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        end = start + tensor.nbytes
    return end


def check_table(model: ir.Model, data: str, offsets: set[int]) -> None:
    """Every tensor that lies in `data` must be in the manifest's table: else nobody could fill it."""
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor) and tensor.offset not in offsets:
            raise AssertionError(f"{name} in {data} is no weight of the module")


def strip_bundle(bundle: Bundle, folder: Path) -> None:
    """The pack of a bundle that is built: its graphs, and the sizes of everything else."""
    folder.mkdir(parents=True)
    files = {}
    for name, entry in bundle.manifest.files.items():
        if name.endswith(".onnx"):
            shutil.copyfile(bundle.path / name, folder / name)
        files[name] = entry if name.endswith(".onnx") else FileEntry(entry.bytes, UNKNOWN)
    (folder / MANIFEST).write_text(dataclasses.replace(bundle.manifest, files=files).to_json())


def list_calls(out: Path, pieces: list[Path]) -> list[Call]:
    """The calls, in order. All run from one copy of the checkout: the filling outlives its call."""
    carry = out.relative_to(ROOT) if out.is_relative_to(ROOT) else out
    common = [f"{carry}/{INPUTS}", f"{carry}/wheels"]
    places = [f"{carry}/{piece.name}" for piece in pieces]
    prepare = f"{enter_copy(carry)}export SITE=/tmp/site PYTHONPATH=/tmp/site PYTHONUNBUFFERED=1; "
    install = f"{prepare}python3 bench/gpu_install.py $CARRY $SITE; cp -rn $CARRY/graphs /tmp/; "
    bench = "python3 bench/gpu.py --pack /tmp/graphs --work /tmp/gpu --out"
    fill = f"(setsid nohup {bench} /tmp/fill --only fill-semanticodec,fill-unicodec >/tmp/fill.log 2>&1 </dev/null &); "
    end = "tail -c 4000 /tmp/fill.log $OUT/gpu.log"
    first = Call(150, [*common, *places[:1]], f"{install}{fill}{bench} $OUT --only ceilings,solver --minutes 2")
    others = [Call(60, [*common[:1], place], f"{install}nvidia-smi") for place in places[1:]]
    return [first, *others, Call(460, common, f"{install}{bench} $OUT --minutes 7; {end}")]


if __name__ == "__main__":
    run_app(app)
