"""One bidirectional LSTM layer on the CPU: what runs it fastest, for how many windows at once, in what precision.

    python -m bench.kernels.recurrence                          # the layers of 100 tps, batches of 1, 6 and 12
    python -m bench.kernels.recurrence --width 6144 --batch 6   # those of 25 tps; takes 5 GB of memory

The weights are random and have the real shapes. The windows have fewer positions than real ones, as all positions cost
the same. The cases take turns. The fastest turn of each counts, as other programs can only slow a turn down. The floor
is the larger of two times: the arithmetic at the rate of a large float32 product, and reading the recurrent weights
once for each position. Results go to bench/results/recurrence-WIDTH.json.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import onnx
import typer
from onnx import helper, numpy_helper

from bench.harness.machine import count_cores
from bench.harness.printing import make_table, open_console
from bench.harness.results import RESULTS, describe_run, write_results
from bench.harness.timing import time_in_turns
from sc_runtime.backends.openvino.recurrence import OUTPUT, RecurrentGraph
from sc_runtime.cli.program import run_app
from sc_runtime.libraries import import_onnxruntime, import_openvino

onnxruntime, openvino = import_onnxruntime(), import_openvino()

Run = Callable[[np.ndarray], object]


@dataclass(frozen=True)
class Row:
    """One case: milliseconds for one position of all windows, both directions."""

    batch: int
    case: str
    best_ms: float
    median_ms: float
    float32_floor_ms: float


app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    width: Annotated[int, typer.Option(help="H: 1536 at 100 tps, 3072 at 50, 6144 at 25.")] = 1536,
    batch: Annotated[str, typer.Option(help="Windows at once, comma-separated.")] = "1,6,12",
    positions: Annotated[int, typer.Option(help="Positions of each window.")] = 64,
    repeats: Annotated[int, typer.Option(help="Turns of each case.")] = 5,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time every way to run the layer; print milliseconds for a position, write JSON."""
    started = describe_run()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        cases = open_cases(Path(folder), width, positions)
        speed, bandwidth = measure_product(), measure_reading()
        for windows in (int(count) for count in batch.split(",")):
            x = np.random.default_rng(windows).standard_normal((windows, positions, 2 * width), np.float32)
            products = 2 * windows * 2 * 4 * width * 3 * width
            floor = max(products / speed, 2 * 16 * width**2 / bandwidth)
            ready = {case: partial(run, x) for case, run in cases.items()}
            for case, spent in time_in_turns(ready, repeats).items():
                best, middle = (1e3 * seconds / positions for seconds in (min(spent), median(spent)))
                rows.append(Row(windows, case, best, middle, 1e3 * floor))
    columns = ("windows", "case", "ms a position", "ms a position and window", "of the float32 floor")
    table = make_table(f"H {width}", *columns, left=("case",))
    for row in rows:
        each, share = row.best_ms / row.batch, row.float32_floor_ms / row.best_ms
        table.add_row(f"{row.batch}", row.case, f"{row.best_ms:.2f}", f"{each:.3f}", f"{share:.0%}")
    open_console().print(table)
    results = started | {
        "width": width,
        "positions": positions,
        "repeats": repeats,
        "float32_flops": speed,
        "bytes_per_second": bandwidth,
        "rows": [asdict(row) for row in rows],
    }
    write_results(out or RESULTS / f"recurrence-{width}.json", results)


def open_cases(folder: Path, width: int, positions: int) -> dict[str, Run]:
    """Case -> a function of x [B, L, 2H] that runs the layer."""
    generator = np.random.default_rng(0)
    weights = {
        "w0": generator.standard_normal((2, 4 * width, 2 * width), np.float32),
        "r0": generator.standard_normal((2, 4 * width, width), np.float32),
        "b0": generator.standard_normal((2, 8 * width), np.float32),
    }
    for array in weights.values():
        array /= np.float32(np.sqrt(3 * width))
    weights[OUTPUT] = np.zeros((1, 2 * width), np.float32)  # one row, so that the layer takes nearly all of the time
    whole = save_layer(folder / "both.onnx", weights, "bidirectional")
    halves = [
        save_layer(
            folder / f"{name}.onnx",
            {key: array[side : side + 1] for key, array in weights.items() if key != OUTPUT},
            name,
        )
        for side, name in enumerate(("forward", "reverse"))
    ]
    core = openvino.Core()
    session = open_session(whole, count_cores())
    sessions = [open_session(half, 1) for half in halves]
    pool = ThreadPoolExecutor(2)
    sequence: dict[int, Any] = {}

    def run_halves(x: np.ndarray) -> object:
        return list(pool.map(lambda half: half.run(None, {"x": x}), sessions))

    def run_sequence(x: np.ndarray) -> object:
        if len(x) not in sequence:
            model = core.read_model(whole)
            model.reshape(x.shape)
            sequence[len(x)] = core.compile_model(model, "CPU", configure("f32")).create_infer_request()
        return sequence[len(x)].infer([x])

    graphs = {name: RecurrentGraph(core, weights, configure(name)) for name in ("f32", "bf16")}
    apart = RecurrentGraph(core, weights, {**configure("f32"), "INFERENCE_NUM_THREADS": "1"})

    def run_apart(x: np.ndarray) -> object:
        time_first = np.ascontiguousarray(x.transpose(1, 0, 2))
        return list(pool.map(lambda direction: direction.run(time_first), apart.layers[0]))

    return {
        "onnxruntime LSTM": lambda x: session.run(None, {"x": x}),
        "onnxruntime LSTM, one direction a thread": run_halves,
        "openvino LSTMSequence": run_sequence,
        "openvino, taken apart": lambda x: graphs["f32"].run({"features": x}),
        "openvino, taken apart, one direction a thread": run_apart,
        "openvino, taken apart, bfloat16": lambda x: graphs["bf16"].run({"features": x}),
    }


def configure(precision: str) -> dict[str, str]:
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}


def open_session(path: Path, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def save_layer(path: Path, weights: dict[str, np.ndarray], direction: str) -> Path:
    """x [B, L, I] -> hidden states [L, directions, B, H], by one LSTM node."""
    width = weights["r0"].shape[2]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("LSTM", ["t", "w0", "r0", "b0"], ["y"], hidden_size=width, direction=direction),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", "L", weights["w0"].shape[2]])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["L", len(weights["w0"]), "B", width])
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "layer", [x], [y], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=0)
    return path


def measure_product() -> float:
    """FLOP/s of a large float32 matrix product."""
    a = np.ones((2048, 2048), np.float32)
    spent = time_in_turns({"product": lambda: a @ a}, 5)["product"]
    return 2 * 2048**3 / min(spent)


def measure_reading() -> float:
    """Bytes/s that all cores together read from memory."""
    block = np.ones(1 << 26, np.float32)
    parts = np.array_split(block, count_cores())
    with ThreadPoolExecutor(len(parts)) as pool:
        spent = time_in_turns({"sum": lambda: list(pool.map(np.max, parts))}, 5)["sum"]
    return block.nbytes / min(spent)


if __name__ == "__main__":
    run_app(app)
