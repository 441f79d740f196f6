"""The results of `bench.quality.run` as charts: the rows side by side, and quality against the sampler's settings."""

from __future__ import annotations

from itertools import cycle
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

ROW_COLOURS = {
    "ceiling": GREEN,
    "codec": BLUE,
    "no acoustic tokens": SKY,
    "floor": GREY,
    "Opus 6k": RED,
    "Codec2 1200": ORANGE,
    "Codec2 700C": YELLOW,
}
#: (solver, eta) -> colour
SOLVER_COLOURS = {("ddim", 1.0): BLUE, ("ddim", 0.0): SKY, ("dpm", 0.0): RED, ("unipc", 0.0): GREEN}
AXES = {
    "mel": "mel distance (lower is nearer)",
    "stft": "STFT distance (lower is nearer)",
    "stoi": "STOI (higher is clearer)",
    "pesq": "PESQ, wide band (higher is better)",
    "visqol": "ViSQOL, speech (higher is better)",
    "visqol_audio": "ViSQOL, audio (higher is better)",
    "dnsmos": "DNSMOS, overall (higher is better)",
    "plcmos": "PLCMOS (higher is better)",
    "wer": "word error rate, PocketSphinx (lower is better)",
}
SPREAD = 0.92  #: width of a group of bars; groups are 1 apart
HARMLESS = 3.0  #: loss on the yardstick, in percent, that a preset called balanced may have


def draw_quality(results: dict[str, Any], path: Path) -> None:
    """Write the rows of `bench.quality.run` as a PNG."""
    from matplotlib.patches import Patch

    pyplot = load_pyplot()
    cells = [cell for cell in results["rows"] if "metrics" in cell]
    metrics = [metric for metric in AXES if any(metric in cell["metrics"] for cell in cells)]
    lines = -(-len(metrics) // 2)
    figure, panels = pyplot.subplots(lines, 2, figsize=(13.2, 1.4 + 3.8 * lines), squeeze=False)
    for axes in panels.flat[len(metrics) :]:
        axes.axis("off")
    for axes, metric in zip(panels.flat, metrics, strict=False):
        draw_rows(axes, metric, cells)
    bundle = results["task"]["bundle"]
    counts = ", ".join(f"{entry['clips']} of {name}" for name, entry in results["task"]["clips"].items())
    title = f"What comes back at {bundle['tps']} tokens per second ({bundle['bitrate'] / 1000:.3g} kbit/s)"
    notes = "Bars: means over the clips. Whiskers: standard errors. Codec2 and Opus keep next to nothing above 4 kHz."
    rows = {cell["row"] for cell in cells}
    handles = [Patch(facecolor=colour, label=row) for row, colour in ROW_COLOURS.items() if row in rows]
    height = figure.get_figheight()
    figure.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.3 / height), ncols=7, **LEGEND)
    subtitle = f"{describe(results)} · held-out clips: {counts}"
    finish_figure(figure, path, title, subtitle, notes, bottom=1.0)


def draw_rows(axes: Any, metric: str, cells: list[dict[str, Any]]) -> None:
    """One metric: for each domain, one bar per row."""
    domains = list(dict.fromkeys(cell["domain"] for cell in cells if metric in cell["metrics"]))
    rows = [row for row in ROW_COLOURS if any(cell["row"] == row and metric in cell["metrics"] for cell in cells)]
    width = SPREAD / len(rows)
    for cell in cells:
        score = cell["metrics"].get(metric)
        if score is None or score["mean"] is None:
            continue
        x = domains.index(cell["domain"]) + (rows.index(cell["row"]) - (len(rows) - 1) / 2) * width
        axes.bar(x, score["mean"], width * 0.94, color=ROW_COLOURS[cell["row"]])
        if score["standard_error"]:
            axes.errorbar(x, score["mean"], score["standard_error"], color="black", capsize=2, linewidth=0.8)
        place = {"xytext": (0, 2), "textcoords": "offset points", "ha": "center", "va": "bottom"}
        axes.annotate(f"{score['mean']:.3g}", (x, score["mean"] + (score["standard_error"] or 0)), fontsize=7, **place)
    axes.set_xticks(range(len(domains)), domains, fontsize=10)
    axes.set_xlim(-0.55, len(domains) - 0.45)
    axes.margins(y=0.12)
    style_axes(axes, AXES[metric])


def draw_curves(results: dict[str, Any], path: Path) -> None:
    """Write the curves of `bench.quality.run` as a PNG: mel distance above, STOI below where there is speech."""
    pyplot = load_pyplot()
    entries = results["samplings"]
    base = entries[0]
    metrics = [metric for metric in ("mel", "stoi") if metric in base]
    figure, panels = pyplot.subplots(len(metrics), 4, figsize=(17.6, 1.4 + 3.9 * len(metrics)), squeeze=False)
    same = [e for e in entries if (e["backend"], e["precision"]) == (base["backend"], base["precision"])]
    for row, metric in zip(panels, metrics, strict=True):
        draw_steps(row[0], metric, [e for e in same if is_same(e, base, "solver", "steps", "eta")])
        intervals = [e for e in same if is_same(e, base, "interval") and e is not base]
        draw_guidance(row[1], metric, [e for e in same if is_same(e, base, "guidance")], intervals)
        draw_precision(row[2], metric, [e for e in entries if is_same(e, base)])
        draw_presets(row[3], metric, [e for e in same if e["presets"]])
        for axes in row[:3]:
            axes.axhline(base[metric]["mean"], color="black", linewidth=1, linestyle="--", zorder=1)
    clips = {cell["domain"]: cell["clips"] for cell in results["curves"] if "metrics" in cell}
    counts = ", ".join(f"{count} of {name}" for name, count in clips.items())
    settings = base["sampling"]
    notes = (
        f"Dashed: the yardstick, {settings['steps']} steps of {settings['solver']}, guidance {settings['guidance']:g}, "
        f"η {settings['eta']:g}. Mel distance: mean over the domains. STOI: speech. "
        "Losses are of the yardstick; whiskers: standard errors of the clips' differences."
    )
    subtitle = f"{describe(results)} · clips: {counts}"
    finish_figure(figure, path, "Quality against cost", subtitle, notes, bottom=0.95)


def is_same(entry: dict[str, Any], base: dict[str, Any], *but: str) -> bool:
    """Whether two samplings are equal, apart from the settings `but`."""
    return all(entry["sampling"][name] == value for name, value in base["sampling"].items() if name not in but)


def draw_steps(axes: Any, metric: str, entries: list[dict[str, Any]]) -> None:
    for (solver, eta), colour in SOLVER_COLOURS.items():
        line = [e for e in entries if (e["sampling"]["solver"], e["sampling"]["eta"]) == (solver, eta)]
        points = sorted((e["sampling"]["steps"], e[metric]["mean"]) for e in line)
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=f"{solver}, η {eta:g}")
    axes.set_xscale("log")
    ticks = sorted({e["sampling"]["steps"] for e in entries})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("steps")
    axes.legend(**LEGEND)
    style_axes(axes, AXES[metric])


def draw_guidance(axes: Any, metric: str, entries: list[dict[str, Any]], intervals: list[dict[str, Any]]) -> None:
    points = sorted((e["sampling"]["guidance"], e[metric]["mean"]) for e in entries)
    axes.plot(*zip(*points, strict=True), "o-", color=BLUE)
    for entry, colour in zip(intervals, cycle(SOLVER_COLOURS.values()), strict=False):
        low, high = entry["sampling"]["interval"]
        point = entry["sampling"]["guidance"], entry[metric]["mean"]
        axes.plot(*point, "D", color=colour, markersize=5, label=f"in steps {low} to {high}")
    if intervals:
        axes.legend(**LEGEND)
    axes.set_xlabel("guidance")
    style_axes(axes, AXES[metric])


def draw_precision(axes: Any, metric: str, entries: list[dict[str, Any]]) -> None:
    for x, entry in enumerate(entries):
        axes.plot(x, entry[metric]["mean"], "o", color=BLUE)
        text = f"{entry[metric]['mean']:.3f}"
        axes.annotate(text, (x, entry[metric]["mean"]), (0, 6), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xticks(range(len(entries)), [f"{e['backend']}\n{e['precision']}" for e in entries], fontsize=9)
    axes.set_xlim(-0.6, len(entries) - 0.4)
    axes.margins(y=0.6)
    style_axes(axes, AXES[metric])


def draw_presets(axes: Any, metric: str, entries: list[dict[str, Any]]) -> None:
    labels = []
    for x, entry in enumerate(entries):
        loss, error = entry[metric]["loss_percent"], entry[metric]["standard_error_percent"]
        axes.bar(x, loss, 0.6, color=BLUE)
        if error:
            axes.errorbar(x, loss, error, color="black", capsize=3, linewidth=1)
        axes.annotate(f"{loss:+.1f}", (x, max(loss, 0)), (0, 3), textcoords="offset points", ha="center", fontsize=9)
        labels.append(f"{', '.join(entry['presets'])}\n{entry['branches']} branches")
    axes.axhline(HARMLESS, color=RED, linewidth=1, linestyle=":")
    axes.set_xticks(range(len(entries)), labels, fontsize=9)
    axes.margins(y=0.15)
    style_axes(axes, f"loss of {'STOI' if metric == 'stoi' else 'mel distance'}, %")


def describe(results: dict[str, Any]) -> str:
    """The bundle, the sampling, the device and the date, in one line."""
    bundle, sampling = results["task"]["bundle"], results["task"]["sampling"]
    return (
        f"{bundle['name']} ({bundle['weights']}) · {sampling['solver']} {sampling['steps']} steps, guidance "
        f"{sampling['guidance']:g}, η {sampling['eta']:g} · {results['device']} · {results['date'][:10]}"
    )
