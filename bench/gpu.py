"""Everything that a GPU is for, on the GPU at hand: `python bench/gpu.py --pack .carry/graphs --out DIR`.

`PARTS` is the list. Each part runs in a process of its own with a limit, and `gpu.json` in the folder `--out` is
written after each, so a crash or the end of the time loses one part. A second call with the same `--work` goes on with
the parts that have not run. `--rehearse` runs every part without a GPU: ONNX Runtime's CPU provider, the tests'
emulation of a GPU, and networks of tiny size stand in for it. README.md beside this says how to use fifteen minutes.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # Python puts the folder of this file there

from bench.harness.gpu import describe_gpu
from bench.harness.parts import PATIENCE, RAN, Part, Parts, Session
from bench.harness.printing import log, open_console
from bench.harness.results import describe_command, describe_run
from bench.kernels.nearest import PACKAGES
from bench.speed.on_gpu import compare_speeds
from sc_runtime.backends.select import ABSENCES
from sc_runtime.cli.program import run_app
from sc_runtime.errors import SettingsError

FORMAT = 2  #: of the JSON

#: In the order of what would be lost most. The sum of the limits is more than there is time for: most take far less.
PARTS = (
    Part("fill-semanticodec", "bench.gpu_fill:fill_semanticodec", 240, background=True),
    Part("fill-unicodec", "bench.gpu_fill:fill_unicodec", 240, background=True),
    Part("compile", "bench.kernels.compiling:compile_kernels", 90, background=True),
    Part("machine", "bench.gpu:describe_backends", 30),
    Part("ceilings", "bench.kernels.on_gpu:measure_ceilings", 40),
    Part("solver", "bench.kernels.on_gpu:check_solver", 40),
    Part("kernels", "bench.kernels.on_gpu:check_kernels", 150),
    Part("kernels-time", "bench.kernels.on_gpu:time_kernels", 60),
    Part("work", "bench.speed.on_gpu:count_floors", 60),
    Part("peer-compile", "bench.speed.on_gpu:warm_peer", 240, background=True),
    Part("lstm-choice", "bench.kernels.lstm:choose_lstm", 120),
    Part("graphs", "bench.quality.on_gpu:check_graphs", 90),
    Part("loop", "bench.speed.on_gpu:time_loop", 90),
    Part("decode", "bench.speed.on_gpu:time_runtime", 150),
    Part("published", "bench.speed.on_gpu:time_published", 90),
    Part("levers", "bench.speed.graphs_on_gpu:try_levers", 90),
    Part("profile", "bench.speed.graphs_on_gpu:profile_graphs", 60),
    Part("release", "bench.speed.graphs_on_gpu:release_sessions", 40),
    Part("tokens", "bench.quality.on_gpu:compare_tokens", 60),
    Part("lstm", "bench.kernels.lstm:time_lstm", 90),
    Part("unicodec-graphs", "bench.quality.on_gpu:check_unicodec_graphs", 40),
    Part("unicodec", "bench.quality.on_gpu:check_unicodec", 40),
    Part("unicodec-time", "bench.speed.on_gpu:time_unicodec", 30),
    Part("peer", "bench.speed.on_gpu:time_peer", 110),
)

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    out: Annotated[Path, typer.Option(help="Folder of gpu.json and gpu.log.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder that a later call goes on from; by default in --out.")
    ] = None,
    pack: Annotated[Path | None, typer.Option(help="The graphs without weights, of bench/gpu_pack.py.")] = None,
    only: Annotated[str, typer.Option(help="Parts to run, again too, comma-separated.")] = "",
    minutes: Annotated[float, typer.Option(help="For all parts together; a rehearsal takes what it needs.")] = 7.0,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="Without a GPU, at tiny size.")] = False,
) -> None:
    """Run every part that can run here, print what came out, and write it to --out."""
    chosen = [name for name in only.split(",") if name]
    if unknown := set(chosen) - {part.name for part in PARTS}:
        raise SettingsError(f"--only {','.join(sorted(unknown))}", f"of {', '.join(part.name for part in PARTS)}")
    out, work = out.absolute(), (work or out / "work").absolute()
    if rehearse and pack is None:
        pack = work / "graphs"
        if not (pack / "unicodec" / "manifest.json").is_file():
            pack_tiny(pack)
    deadline = time.time() + 60 * minutes * (PATIENCE if rehearse else 1)
    session = Session("", work, deadline, rehearse, pack.absolute() if pack else None)
    parts = Parts(session, out, describe_head(rehearse))
    parts.run(PARTS, chosen)
    print_summary(parts.collect())
    log.print(f"Wrote {out / 'gpu.json'}", soft_wrap=True)


def pack_tiny(folder: Path) -> None:
    """Trace the graphs of a rehearsal to `folder`."""
    import torch

    from bench.gpu_pack import CODECS, pack_graphs

    torch.set_grad_enabled(False)
    for codec in CODECS:
        pack_graphs(codec, "tiny", folder / codec)


def describe_head(rehearsal: bool) -> dict[str, Any]:
    """What is measured on what, for the JSON."""
    return {
        "format": FORMAT,
        **describe_run(*PACKAGES, "onnx", "onnx-ir", "onnxscript"),
        "command": describe_command("bench/gpu.py"),
        "rehearsal": rehearsal,
        "gpu": describe_gpu(),
    }


def describe_backends(session: Session) -> dict[str, Any]:
    """Part: which backends can run here, what ONNX Runtime offers, and the GPU."""
    from contextlib import suppress

    with suppress(ImportError):
        import torch  # noqa: F401  # first, so that ONNX Runtime finds the CUDA libraries that torch loads
    import onnxruntime

    absences = {name: explain() for name, explain in ABSENCES.items()}
    found = {"onnxruntime": onnxruntime.__version__, "providers": onnxruntime.get_available_providers()}
    return found | {"absences": absences, "gpu": describe_gpu()}


def print_summary(document: dict[str, Any]) -> None:
    """The state of every part, its results in a line each, and the ratios to the published procedure."""
    console = open_console()
    for name, state in document["states"].items():
        console.print(f"{name}: {state} ({document['took_s'][name]:.1f} s)", soft_wrap=True)
        for key, value in document["results"].get(name, {}).items():
            for row in value if isinstance(value, list) else [value]:
                console.print(f"    {key}: {shorten(row)}", soft_wrap=True)
    for row in compare_speeds(document["results"])["rows"]:
        console.print(f"times as fast as published: {shorten(row)}")
    ran = sum(state == RAN for state in document["states"].values())
    console.print(f"{ran} of {len(document['states'])} parts ran")


def shorten(value: Any) -> str:
    """A value as JSON with numbers of four digits, without quotation marks."""

    def round_number(found: re.Match[str]) -> str:
        return f"{float(found[0]):.4g}"

    return re.sub(r"-?\d+\.\d+(e-?\d+)?", round_number, json.dumps(value, ensure_ascii=False)).replace('"', "")


if __name__ == "__main__":
    run_app(app)
