"""The results of `bench/rtf.py` as a chart: real-time factors by duration, stacked by stage, the two sides together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.harness.charts import (
    BLUE,
    GREEN,
    GREY,
    LEGEND,
    ORANGE,
    RED,
    SKY,
    YELLOW,
    finish_figure,
    load_pyplot,
    style_axes,
)

#: Colour of each stage, in the order in which the bars are stacked.
COLOURS = {
    "fbank": YELLOW,
    "audiomae": SKY,
    "centroids": GREEN,
    "acoustic_encoder": BLUE,
    "conditioning": YELLOW,
    "tunet": BLUE,
    "vae_decoder": ORANGE,
    "hifigan": RED,
    "encoder": SKY,
    "decoder": BLUE,
    "rest": GREY,
}
LABELS = {
    "fbank": "filterbank",
    "audiomae": "AudioMAE",
    "centroids": "centroid search",
    "acoustic_encoder": "acoustic encoder",
    "tunet": "T-UNet loop",
    "vae_decoder": "VAE decoder",
    "hifigan": "HiFi-GAN",
    "rest": "rest",
}
SIDE_LABELS = {"runtime": "runtime", "published": "PyTorch"}
BAR = 0.36  #: width of a bar; durations are 1 apart
SHOW_REAL_TIME = 0.2  #: real-time factor below which the line at 1 is left out, as it would flatten the bars
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}  #: behind a number, so that no line crosses it


def draw_chart(results: dict[str, Any], path: Path) -> None:
    """Write the results of `bench/rtf.py` as a PNG."""
    pyplot = load_pyplot()
    directions = list(dict.fromkeys(row["direction"] for row in results["rows"]))
    figure, panels = pyplot.subplots(1, len(directions), figsize=(6.6 * len(directions), 6), squeeze=False)
    for axes, direction in zip(panels[0], directions, strict=True):
        draw_panel(axes, direction, [row for row in results["rows"] if row["direction"] == direction])
    bundle, settings, machine = results["bundle"], results["settings"], results["machine"]
    threads = f"{settings['threads']} threads" if settings["threads"] else f"{machine['cores']} cores"
    device = results["rows"][0]["runtime"]["device"]
    title = f"{bundle['codec']} at {bundle['tps']} tokens per second: processing time per second of audio"
    subtitle = f"{bundle['name']} ({bundle['weights']}) · "
    if "steps" in settings:
        subtitle += f"{settings['steps']} steps, guidance {settings['guidance']:g}, η {settings['eta']:g} · "
    subtitle += f"{device} · {machine['cpu']}, {threads} · {results['date'][:10]}"
    notes = "Bars: medians. Whiskers: fastest and slowest run."
    if "published" in results["rows"][0]:
        notes += " ×: how many times faster than the published procedure in PyTorch eager."
    if any(side["how"] != "measured" for row in results["rows"] for side in list_sides(row).values()):
        notes += " Hatched: timed over a few of the steps and multiplied."
    finish_figure(figure, path, title, subtitle, notes, bottom=1.32, top=1.1)


def format_ratio(ratio: float) -> str:
    return f"{ratio:.1f}×" if ratio >= 1 else f"{ratio:.2f}×"


def list_sides(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: row[name] for name in SIDE_LABELS if name in row}


def draw_panel(axes: Any, direction: str, rows: list[dict[str, Any]]) -> None:
    """One direction: for each duration, one stacked bar per side."""
    from matplotlib.patches import Patch

    sides = list(list_sides(rows[0]))
    entries = [(side, row["seconds"]) for row in rows for side in list_sides(row).values()]
    stages = [stage for stage in COLOURS if any(side["stages_s"].get(stage) for side, _ in entries)]
    tallest = max(side["spread_s"][1] / seconds for side, seconds in entries)
    ceiling = tallest * 1.18 if tallest < SHOW_REAL_TIME else max(tallest * 1.18, 1.15)
    ticks, tick_labels = [], []
    for place, row in enumerate(rows):
        for i, name in enumerate(sides):
            side, x = row[name], place + (i - (len(sides) - 1) / 2) * (BAR + 0.04)
            draw_bar(axes, x, side, row["seconds"], stages)
            label = f"{side['rtf']:.3g}"
            if name == "runtime" and "ratio" in row:
                label += f"\n{format_ratio(row['ratio']['total'])}"
            top = side["spread_s"][1] / row["seconds"]
            axes.text(x, top + 0.012 * ceiling, label, ha="center", va="bottom", fontsize=9, zorder=4, bbox=PAPER)
            ticks.append(x)
            tick_labels.append(SIDE_LABELS[name])
        beneath = axes.get_xaxis_transform()
        duration = f"{row['seconds']:g} s"
        axes.text(place, -0.07, duration, ha="center", va="top", fontsize=11, weight="bold", transform=beneath)
    if tallest >= SHOW_REAL_TIME:
        axes.axhline(1, color="black", linewidth=1.2, linestyle="--", zorder=3)
        axes.text(1.008, 1, "real\ntime", va="center", fontsize=9, transform=axes.get_yaxis_transform())
    handles = [Patch(facecolor=COLOURS[stage], label=LABELS.get(stage, stage)) for stage in stages]
    axes.legend(handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=5, **LEGEND)
    axes.set_xticks(ticks, tick_labels, fontsize=8)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.55, len(rows) - 0.45)
    axes.set_ylim(0, ceiling)
    axes.set_title(direction, fontsize=12)
    style_axes(axes, "real-time factor (lower is faster)")


def draw_bar(axes: Any, x: float, side: dict[str, Any], seconds: float, stages: list[str]) -> None:
    """One side's stages, stacked in order, with a whisker from the fastest to the slowest run."""
    base = 0.0
    for stage in stages:
        height = side["stages_s"].get(stage, 0.0) / seconds
        extrapolated = stage == "tunet" and side["how"] != "measured"
        axes.bar(
            x,
            height,
            BAR,
            bottom=base,
            color=COLOURS[stage],
            edgecolor="white",
            linewidth=0.4,
            hatch="///" if extrapolated else None,
        )
        base += height
    low, high = (bound / seconds for bound in side["spread_s"])
    if high > low:
        axes.errorbar(
            x, side["rtf"], [[side["rtf"] - low], [high - side["rtf"]]], color="black", capsize=3, linewidth=1
        )
