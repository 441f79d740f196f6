"""The runtime among its peers as a chart: real-time factors over the duration, a line each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.charts import BLUE, GREEN, GREY, ORANGE, RED, SKY, finish_figure, load_pyplot, style_axes
from bench.harness.printing import is_busy

OURS = "this runtime"
COLOURS = {
    OURS: BLUE,
    "published": GREY,
    "EnCodec 24 kHz": GREEN,
    "DAC 16 kHz": ORANGE,
    "DAC 24 kHz": RED,
    "Mimi": SKY,
    "WavTokenizer": "#CC79A7",
}
LEAST_GAP = 0.05  #: between two labels, as a share of the panel's height


def list_systems(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Name -> its part of the row: this runtime, the published procedure if it was timed, and every peer."""
    sides = {OURS: row["runtime"]}
    if "published" in row:
        sides["published"] = row["published"]
    return sides | row["peers"]


def describe_threads(results: dict[str, Any]) -> str:
    threads = results["settings"]["threads"]
    return f"{threads} thread{'s' if threads > 1 else ''}" if threads else f"{results['machine']['cores']} cores"


def choose_factor(results: Mapping[str, Any]) -> str:
    """The field of the real-time factors to show: of CPU time where other programs kept the machine busy, else "rtf".

    CPU time needs one thread: threads that wait for each other spend it too. Extrapolated rows have none.
    """
    known = all(side["cpu_rtf"] is not None for row in results["rows"] for side in list_systems(row).values())
    return "cpu_rtf" if is_busy(results["machine"]) and results["settings"]["threads"] == 1 and known else "rtf"


def draw_peers(results: dict[str, Any], path: Path) -> None:
    """Write the rows of `bench/rtf.py --peers` as a PNG."""
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(13.2, 6), sharey=True)  # one scale for both
    field = choose_factor(results)
    factors = [side[field] for row in results["rows"] for side in list_systems(row).values()]
    limits = min(factors) / 1.5, max(*factors, 1) * 1.5
    for axes, direction in zip(panels, ("encode", "decode"), strict=True):
        rows = [row for row in results["rows"] if row["direction"] == direction]
        draw_panel(axes, rows, field, limits)
        axes.set_title(direction, fontsize=12)
    bundle, machine = results["bundle"], results["machine"]
    title = f"{bundle['codec']} at {bundle['tps']} tokens per second among other codecs"
    subtitle = f"{results['rows'][0]['runtime']['device']} · {machine['cpu']}, {describe_threads(results)} · "
    subtitle += f"load before: {machine['load_before']} · {results['date'][:10]}"
    notes = (
        "Medians. Peers: transformers in PyTorch eager, random weights. Published: PyTorch eager, on stand-in weights."
    )
    finish_figure(figure, path, title, subtitle, notes, bottom=0.85, top=1.1, right=0.87, wspace=0.5)


def draw_panel(axes: Any, rows: list[dict[str, Any]], field: str, limits: tuple[float, float]) -> None:
    """One direction: a line for each system, with its name and its last real-time factor at the right end."""
    durations = [row["seconds"] for row in rows]
    lines = {name: [list_systems(row)[name][field] for row in rows] for name in list_systems(rows[0])}
    for name, factors in lines.items():
        width = 2.6 if name == OURS else 1.4
        axes.plot(durations, factors, color=COLOURS[name], marker="o", markersize=4, linewidth=width)
    axes.set_yscale("log")
    axes.set_xscale("log")
    axes.set_xticks(durations, [f"{seconds:g} s" for seconds in durations])
    axes.minorticks_off()
    bottom, top = limits
    axes.set_ylim(bottom, top)
    ticks = [10.0**power for power in range(-4, 3) if bottom <= 10.0**power <= top]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.axhline(1, color="black", linewidth=1, linestyle="--")
    axes.text(0.01, 1, "real time", va="bottom", fontsize=8, transform=axes.get_yaxis_transform())
    for name, height in place_labels({name: factors[-1] for name, factors in lines.items()}, axes.get_ylim()).items():
        weight = "bold" if name == OURS else "normal"
        label = f"{name} {lines[name][-1]:.3g}"
        place = {"va": "center", "fontsize": 9, "transform": axes.get_yaxis_transform()}
        axes.text(1.02, height, label, color=COLOURS[name], weight=weight, **place)
    style_axes(axes, f"{'CPU' if field == 'cpu_rtf' else 'real'}-time factor (lower is faster)")


def place_labels(factors: dict[str, float], limits: tuple[float, float]) -> dict[str, float]:
    """Heights of labels on a logarithmic axis: near their factors, lowest first, and `LEAST_GAP` apart."""
    gap = (limits[1] / limits[0]) ** LEAST_GAP
    heights: dict[str, float] = {}
    for name, factor in sorted(factors.items(), key=lambda entry: entry[1]):
        heights[name] = max(factor, max(heights.values(), default=0.0) * gap)
    return heights
