"""The results of `bench/rtf.py` as tables on standard output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bench.harness.printing import format_seconds, make_table, open_console

from .chart import format_ratio
from .peers_chart import choose_factor, list_systems
from .sides import DIRECTIONS

SIDES = ("runtime", "published")
HEADERS = {"acoustic_encoder": "acoustic\nencoder", "conditioning": "condi-\ntioning", "vae_decoder": "vae\ndecoder"}


def print_results(results: Mapping[str, Any]) -> None:
    """One table a direction, and what a reader must know about the figures."""
    console = open_console()
    for direction in DIRECTIONS:
        rows = [row for row in results["rows"] if row["direction"] == direction]
        stages = [*rows[0]["runtime"]["stages_s"]]
        title = f"{direction}, seconds by stage ({results['bundle']['name']})"
        names = ("audio", "side", *stages, "total", "min–max", "runs", "RTF", "peak MB", "how")
        table = make_table(title, *(HEADERS.get(name, name) for name in names), left=("side", "how"))
        for row in rows:
            for side in SIDES:
                if side in row:
                    table.add_row(*format_side(row, side, stages))
            if "ratio" in row:
                table.add_row(*format_ratios(row["ratio"], stages), style="bold")
            table.add_section()
        console.print(table)
    console.print(f"RTF: seconds of work per second of audio. The whole run took {results['took_s'] / 60:.1f} min.")
    hows = {row[side]["how"] for row in results["rows"] for side in SIDES if side in row}
    if hows != {"measured"}:
        console.print("“m of n”: the T-UNet loop was timed over m of its n steps and multiplied; all else in full.")
    if "peers" in results:
        console.print(tabulate_peers(results))
    tokens = [row["equal_tokens"] for row in results["rows"] if "equal_tokens" in row]
    errors = [row["relative_error"] for row in results["rows"] if "relative_error" in row]
    if tokens:
        console.print(f"Tokens that are equal on both sides: {min(tokens):.2%} in the worst row.")
    differences = [row["differences"] for row in results["rows"] if row.get("differences", {}).get("different")]
    if differences:
        count, margin = (
            sum(each["different"] for each in differences),
            max(each["largest_margin"] for each in differences),
        )
        console.print(f"{count} tokens differ. The margin of their two candidates is {margin:.1e} at most.")
    if errors:
        console.print(f"Decoded waveforms of both sides: relative error {max(errors):.1e} in the worst row.")


def tabulate_peers(results: Mapping[str, Any]) -> Table:
    """One line per codec: its facts, its real-time factors and the memory of its longest row."""
    rows = results["rows"]
    cells = [(direction, row) for direction in DIRECTIONS for row in rows if row["direction"] == direction]
    columns = [f"{direction}\n{row['seconds']:g} s" for direction, row in cells]
    memory = [f"{direction}\npeak MB" for direction in DIRECTIONS]
    field = choose_factor(results)
    kind = "CPU seconds" if field == "cpu_rtf" else "seconds"
    title = f"{results['bundle']['name']} among other codecs: {kind} a second of audio"
    table = make_table(title, "codec", "M para-\nmeters", "tokens/s", "kbit/s", *columns, *memory, left=("codec",))
    bundle = results["bundle"]
    facts = {name: {} for name in list_systems(rows[0])} | results["peers"]
    for name in ("this runtime", "published"):
        if name in facts:
            facts[name] = {key: bundle[key] for key in ("parameters", "bitrate")} | {"tokens_per_second": bundle["tps"]}
    for name, fact in facts.items():
        sides = [list_systems(row)[name] for _, row in cells]
        peaks = [
            max(list_systems(row)[name]["peak_rss_bytes"] for other, row in cells if other == direction)
            for direction in DIRECTIONS
        ]
        table.add_row(
            name,
            f"{fact['parameters'] / 1e6:.0f}" if fact["parameters"] else "",
            f"{fact['tokens_per_second']:g}",
            f"{fact['bitrate'] / 1000:.3g}",
            *(f"{side[field]:.3g}" for side in sides),
            *(f"{peak / 1e6:.0f}" for peak in peaks),
        )
    return table


def format_side(row: Mapping[str, Any], side: str, stages: list[str]) -> list[str]:
    entry = row[side]
    spread = "–".join(map(format_seconds, entry["spread_s"]))
    return [
        f"{row['seconds']:g} s" if side == "runtime" else "",
        side,
        *(format_seconds(entry["stages_s"][name]) if entry["stages_s"].get(name) else "" for name in stages),
        format_seconds(entry["total_s"]),
        spread if len(entry["runs"]) > 1 else "",
        str(len(entry["runs"])),
        f"{entry['rtf']:.3g}",
        f"{entry['peak_rss_bytes'] / 1e6:.0f}",
        entry["how"].removeprefix("extrapolated from ").removesuffix(" steps"),
    ]


def format_ratios(ratio: Mapping[str, Any], stages: list[str]) -> list[str]:
    shown = {name: format_ratio(value) for name, value in ratio["stages"].items() if name != "rest"}
    cells = [shown.get(name, "") for name in stages]
    return ["", "ratio", *cells, format_ratio(ratio["total"]), "", "", "", format_ratio(ratio["peak_rss"]), ""]
