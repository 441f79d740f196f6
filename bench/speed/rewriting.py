"""What each rewriting of a graph for OpenVINO gains alone, and all together.

    python -m bench.speed.rewriting --bundle tps100-v16384-seeded1

The forms of a graph take turns. Medians of seconds, and of the CPU time of all cores, which other programs on the
machine disturb less, go to bench/results/rewriting-BUNDLE.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.printing import make_table, open_console
from bench.harness.results import RESULTS, describe_run, write_results
from sc_runtime.backends.openvino import rewriting
from sc_runtime.backends.openvino.graphs import read_for
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.networks import Arrays

from .levers import WHOLE, draw_feeds

SHARING = "share_rows"
SHARED_FORMS = (SHARING, "all")  #: forms in which both branches share the inputs that are the same for them
BATCHES = {"tunet_step": 2, "vae_decoder": 1, "hifigan": 1}
Pass = Callable[[Any], object]

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle's folder or name.")] = None,
    precision: Annotated[str, typer.Option(help="Comma-separated: bf16, f32.")] = "bf16,f32",
    repeats: Annotated[int, typer.Option(help="Timed runs of each form.")] = 5,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Time every form of every graph; print a table of each, write JSON."""
    loaded = Bundle.load(locate_bundle(bundle))
    results: dict[str, Any] = describe_run() | {"bundle": loaded.name, "graphs": {}}
    for chosen in precision.split(","):
        for graph, batch in BATCHES.items():
            times = time_forms(loaded, graph, draw_feeds(loaded, graph, batch, WHOLE), chosen, repeats)
            results["graphs"][f"{graph}, batch {batch}, {chosen}"] = times
            table = make_table(f"{graph}, {chosen}", "form", "s", "CPU s", "error", "less CPU %", left=("form",))
            whole = times["as exported"]["cpu_s"]
            for form, row in times.items():
                cells = (f"{row['s']:.3f}", f"{row['cpu_s']:.3f}", f"{row['error']:.1e}")
                table.add_row(form, *cells, f"{100 * (1 - row['cpu_s'] / whole):.1f}")
            open_console().print(table)
            write_results(out or RESULTS / f"rewriting-{loaded.name}.json", results)


def list_forms(precision: str) -> dict[str, Pass | None]:
    lower = precision == "bf16"
    return {
        "as exported": None,
        SHARING: None,
        "separate_products": rewriting.separate_products,
        "multiply_by_keys": rewriting.multiply_by_keys,
        "exchange_axes": rewriting.exchange_axes,
        "split_upsampling": rewriting.split_upsampling,
        "split_transposed": partial(rewriting.split_transposed, bfloat16=lower),
        "all": partial(rewriting.rewrite, bfloat16=lower),
    }


def time_forms(bundle: Bundle, graph: str, feeds: Arrays, precision: str, repeats: int) -> Mapping[str, Any]:
    """Form -> medians of seconds and of CPU time, and the largest error relative to the exported graph in float32.

    A form that changes nothing is left out.
    """
    import openvino

    core, shared = openvino.Core(), bundle.spec.graphs[graph].shared_inputs
    few = {name: array[: len(array) // 2] if name in shared else array for name, array in feeds.items()}
    whole = {name: np.concatenate([few[name]] * 2) if name in shared else array for name, array in feeds.items()}

    def build(form: str, change: Pass | None, kind: str) -> Any:
        given = few if form in SHARED_FORMS else whole
        shapes = {name: list(array.shape) for name, array in given.items()}
        model = read_for(lambda: core.read_model(bundle.find_graph(graph)), shapes, shared)
        if form == SHARING and not shared:
            return None
        rewriting.fold_constants(model)
        if change is not None and not change(model):
            return None
        model.validate_nodes_and_infer_types()
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": kind}
        request = core.compile_model(model, "CPU", settings).create_infer_request()
        return partial(run, request, dict(given))

    def run(request: Any, given: Arrays) -> np.ndarray:
        request.infer(given)
        return np.array(request.get_output_tensor(0).data)

    truth = build("as exported", None, "f32")()
    listed = list_forms(precision)
    forms = {form: made for form, change in listed.items() if (made := build(form, change, precision))}
    spent: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
    errors = {}
    for turn in range(repeats + 1):
        for form, run_form in forms.items():
            started, worked = time.perf_counter(), time.process_time()
            found = run_form()
            if turn:
                spent[form].append((time.perf_counter() - started, time.process_time() - worked))
            errors[form] = float(np.abs(found - truth).max() / np.abs(truth).max())
    return {
        form: {"s": median(s for s, _ in times), "cpu_s": median(cpu for _, cpu in times), "error": errors[form]}
        for form, times in spent.items()
    }


if __name__ == "__main__":
    run_app(app)
