"""The results of `bench.quality.run` as tables on standard output."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.table import Table

from bench.harness.printing import make_table, open_console

from .results import format_score, label_sampling

LABELS = {
    "mel": "mel",
    "stft": "STFT",
    "stoi": "STOI",
    "pesq": "PESQ",
    "visqol": "ViSQOL",
    "visqol_audio": "ViSQOL",
    "dnsmos": "DNSMOS",
    "plcmos": "PLCMOS",
    "wer": "WER",
}
LEFT = ("row", "codebook", "domain", "goal", "sampling", "preset")  #: columns of text


def print_results(document: dict[str, Any]) -> None:
    """Print the rows, the codebooks, the goals and the curves."""
    console = open_console()
    console.print(tabulate_rows(document))
    for cell in document["rows"]:
        if "skipped" in cell:
            console.print(f"{cell['domain']}, {cell['row']}: skipped, {cell['skipped']}")
    for metric, reason in document["absent"].items():
        console.print(f"{metric}: {reason}")
    table = make_table(
        "Codebooks", "codebook", "domain", "tokens", "entries", "used", "perplexity", "bits a token", left=LEFT
    )
    for cell in document["codebooks"]:
        figures = (f"{cell['share']:.1%}", f"{cell['perplexity']:.0f}", f"{cell['bits']:.2f}")
        table.add_row(cell["codebook"], cell["domain"], str(cell["tokens"]), str(cell["entries"]), *figures)
    console.print(table)
    if document["goals"]:
        table = make_table("Goals", "goal", "reached", "wanted", "", left=LEFT)
        for goal in document["goals"]:
            wanted = f"≥ {goal['at_least']:g}" if "at_least" in goal else f"≤ {goal['at_most']:g}"
            table.add_row(goal["goal"], f"{goal['reached']:.3f}", wanted, "reached" if goal["met"] else "missed")
        console.print(table)
    if document["samplings"]:
        console.print(tabulate_samplings(document))
        skipped = {(label_key(cell), cell["skipped"]) for cell in document["curves"] if "skipped" in cell}
        for label, reason in sorted(skipped):
            console.print(f"{label}: skipped, {reason}")


def tabulate_rows(document: dict[str, Any]) -> Table:
    """One line per row, the domains side by side."""
    cells = {(cell["row"], cell["domain"]): cell for cell in document["rows"] if "metrics" in cell}
    columns = [
        (domain, metric)
        for domain in document["task"]["clips"]
        for metric in LABELS
        if any(cell_domain == domain and metric in cell["metrics"] for (_, cell_domain), cell in cells.items())
    ]
    titles = [f"{domain}\n{LABELS[metric]}" for domain, metric in columns]
    table = make_table(f"Quality ({document['task']['bundle']['name']})", "row", "kbit/s", *titles, left=LEFT)
    for row in dict.fromkeys(row for row, _ in cells):
        found = [cell for (name, _), cell in cells.items() if name == row]
        if found:
            rates = [cell["bitrate"] for cell in found if cell["bitrate"] is not None]
            rate = f"{np.mean(rates) / 1000:.3g}" if rates else ""
            scores = [cells.get((row, domain), {}).get("metrics", {}).get(metric) for domain, metric in columns]
            shown = [
                format_score(metric, score["mean"]) if score else ""
                for (_, metric), score in zip(columns, scores, strict=True)
            ]
            table.add_row(row, rate, *shown)
    return table


def tabulate_samplings(document: dict[str, Any]) -> Table:
    """One line per sampling: its cost, the mean over the domains, the loss on the yardstick."""
    names = ("sampling", "preset", "branches", "mel", "loss %", "STFT", "loss %", "STOI", "loss %", "equal tokens")
    table = make_table(
        "Curves: mean over the domains, STOI of speech; loss on the yardstick, the first line", *names, left=LEFT
    )
    for entry in document["samplings"]:
        label, shown = label_key(entry), []
        for metric in ("mel", "stft", "stoi"):
            score = entry.get(metric)
            shown += [format_score(metric, score["mean"]), format_loss(score)] if score else ["", ""]
        equal = "" if entry["equal_tokens"] is None else f"{entry['equal_tokens']:.2%}"
        table.add_row(label, ", ".join(entry["presets"]), str(entry["branches"]), *shown, equal)
    return table


def label_key(entry: dict[str, Any]) -> str:
    """A sampling, and its precision if that was chosen."""
    backend = f", {entry['precision']}" if entry["precision"] != "auto" else ""
    return label_sampling(entry["sampling"]) + backend


def format_loss(score: dict[str, Any]) -> str:
    error = score["standard_error_percent"]
    return f"{score['loss_percent']:+.1f}" + (f" ± {error:.1f}" if error is not None else "")
