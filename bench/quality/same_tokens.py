"""Where the tokens of two programs differ, and how near a tie each such token is.

    python -m bench.quality.same_tokens --bundle tps100-v16384-seeded1 --minutes 10

ONNX Runtime, OpenVINO and the published procedure in PyTorch eager encode the same varied clips, each of one window.
Every pair of programs is compared, and the margin of every token that differs is measured in float64. The variants of
one backend (`VARIANTS`) must be equal. Writes bench/results/same-tokens-BUNDLE.json.

A semantic token that differs changes the input of the BiLSTM. So acoustic tokens of such a clip may differ without a
near-tie of their own: they follow from that of the semantic token. They are counted apart, as "following".
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from bench.harness.arguments import check_positive, require_package
from bench.harness.printing import log, make_table, open_console, warn_if_busy
from bench.harness.processes import Child
from bench.harness.results import RESULTS, describe_command, describe_run, write_results
from sc_runtime.bundle.locate import locate_bundle
from sc_runtime.bundle.store import Bundle
from sc_runtime.cli.program import run_app
from sc_runtime.errors import MissingExtraError

from .margins import Column, Difference, list_differences, summarise_differences
from .programs import PUBLISHED, EncodingProgram, Variant
from .varied import FOLDER, make_clips

SECONDS = 10.0  #: of a clip: one window of either codec
BACKENDS = ("openvino", "onnxruntime")
#: Name -> what is varied within one backend. Tokens must be equal to those of its first run.
VARIANTS = {
    "batch of 1": Variant(batch=1),
    "batch of 5": Variant(batch=5),
    "one thread": Variant(threads=1),
    "other order": Variant(is_shuffled=True),
}
#: Bound on the margin of a token that differs between two programs. The results say whether it holds.
NEAR_TIE = 1e-5

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def main(
    bundle: Annotated[str | None, typer.Option(help="A bundle of stand-in weights, its folder or name.")] = None,
    minutes: Annotated[float, typer.Option(help="Sound that every program encodes.")] = 10,
    variant_clips: Annotated[int, typer.Option(help="Clips for the variants of a backend; 0 to skip them.")] = 12,
    sound: Annotated[Path, typer.Option(help="The folder of recordings that the clips are mixed from.")] = FOLDER,
    out: Annotated[Path | None, typer.Option(help="The JSON.")] = None,
) -> None:
    """Encode by every program, compare all pairs, print tables, write JSON."""
    loaded = Bundle.load(locate_bundle(bundle))
    count = round(minutes * 60 / SECONDS)
    check_positive("--minutes", count)
    require_package("torch", "export")
    clips = list(make_clips(count, SECONDS, loaded.choose_config().sample_rate, sound))
    run = describe_run()
    warn_if_busy(run["machine"])
    results: dict[str, Any] = run | {
        "command": describe_command("-m", "bench.quality.same_tokens"),
        "bundle": {"name": loaded.name, "weights": loaded.manifest.weights},
        "minutes": count * SECONDS / 60,
        "bound": NEAR_TIE,
        "absent": {},
        "variants": [],
        "pairs": [],
    }
    with tempfile.TemporaryDirectory() as folder:
        encoded: dict[str, Path] = {}
        for program in (*BACKENDS, PUBLISHED):
            try:
                encoded[program] = encode(loaded, program, Variant(), clips, Path(folder))
            except MissingExtraError as error:
                results["absent"][program] = str(error)
                log.print(f"{program}: skipped, {error}")
                continue
            if program != PUBLISHED and variant_clips:
                results["variants"] += compare_variants(loaded, program, clips[:variant_clips], Path(folder))
        for first, second in combinations(encoded, 2):
            results["pairs"].append(compare_programs(first, second, encoded, loaded))
    print_results(results)
    write_results(out or RESULTS / f"same-tokens-{loaded.name}.json", results)


def encode(bundle: Bundle, program: str, variant: Variant, clips: Sequence[np.ndarray], folder: Path) -> Path:
    """Encode `clips` in a process of its own. Returns the file of codes and features. Raises MissingExtraError."""
    out = folder / f"{program}-{len(list(folder.iterdir()))}.npz"
    log.print(f"{program}, {variant}: {len(clips)} clips")
    with Child(program, EncodingProgram, bundle.path, program, variant) as child:
        child.ask(f"encoding {len(clips)} clips", list(clips), str(out))
    return out


def compare_variants(bundle: Bundle, backend: str, clips: Sequence[np.ndarray], folder: Path) -> list[dict[str, Any]]:
    """For each variant the number of tokens that differ from those of the backend's defaults, and of features."""
    plain = np.load(encode(bundle, backend, Variant(), clips, folder))
    rows = []
    for name, variant in VARIANTS.items():
        with np.load(encode(bundle, backend, variant, clips, folder)) as found:
            features = [key for key in plain if key.startswith("queries")]
            equal = all(np.array_equal(found[key], plain[key]) for key in features)
            different = int((found["codes"] != plain["codes"]).sum())
        rows.append(
            {
                "backend": backend,
                "variant": name,
                "tokens": plain["codes"].size,
                "different": different,
                "features_are_bit_equal": equal,
            }
        )
    return rows


def compare_programs(first: str, second: str, encoded: dict[str, Path], bundle: Bundle) -> dict[str, Any]:
    """One pair: the tokens that differ, their margins, and the largest difference of features."""
    with np.load(encoded[first]) as ours, np.load(encoded[second]) as theirs:
        columns = [
            Column(ours[f"queries{i}"], bundle.load_codebook(name)) for i, name in enumerate(name_codebooks(bundle))
        ]
        differences = list_differences(ours["codes"], theirs["codes"], columns)
        clip_of, tokens = ours["clips"], ours["codes"].size
        errors = [compare_features(column.queries, theirs[f"queries{i}"]) for i, column in enumerate(columns)]
    own, following = split_following(differences, clip_of)
    return {
        "first": first,
        "second": second,
        **summarise_differences(own, tokens),
        "margins": sorted((entry.margin for entry in own), reverse=True)[:50],
        "holds": all(entry.margin < NEAR_TIE for entry in own),
        "following": summarise_differences(following, tokens),
        "largest_feature_error": max(errors),
    }


def name_codebooks(bundle: Bundle) -> list[str]:
    """The codebook of each column of the codes."""
    names = list(bundle.choose_config().codebook_sizes)
    semantic = getattr(bundle.choose_config(), "semantic_codebook", None)
    return [semantic if name == "semantic" and semantic else name for name in names]


def compare_features(first: np.ndarray, second: np.ndarray) -> float:
    """The largest distance of two features [T, D] at one position, over the mean norm of the first."""
    distances = np.linalg.norm(first.astype(np.float64) - second, axis=1)
    return float(distances.max() / np.linalg.norm(first, axis=1).mean())


def split_following(
    differences: Sequence[Difference], clip_of: np.ndarray
) -> tuple[list[Difference], list[Difference]]:
    """The differences that are near-ties of their own, and those of later columns in clips where column 0 differs.

    clip_of: the clip of each position, [T].
    """
    changed = {int(clip_of[entry.position]) for entry in differences if entry.column == 0}
    following = [entry for entry in differences if entry.column > 0 and int(clip_of[entry.position]) in changed]
    return [entry for entry in differences if entry not in following], following


def print_results(results: dict[str, Any]) -> None:
    console = open_console()
    columns = ("first", "second", "tokens", "different", "largest margin", "rank", "following", "feature error")
    table = make_table(f"{results['bundle']['name']}: tokens of two programs", *columns, left=("first", "second"))
    for row in results["pairs"]:
        margin = "" if row["largest_margin"] is None else f"{row['largest_margin']:.1e}"
        rank = "" if row["largest_rank"] is None else str(row["largest_rank"])
        counts = (str(row["tokens"]), str(row["different"]), margin, rank, str(row["following"]["different"]))
        table.add_row(row["first"], row["second"], *counts, f"{row['largest_feature_error']:.1e}")
    console.print(table)
    names = ("backend", "variant", "tokens", "different", "features")
    table = make_table("Within one backend", *names, left=("backend", "variant", "features"))
    for row in results["variants"]:
        equal = "bit-equal" if row["features_are_bit_equal"] else "differ"
        table.add_row(row["backend"], row["variant"], str(row["tokens"]), str(row["different"]), equal)
    console.print(table)
    holds = all(row["holds"] for row in results["pairs"])
    console.print(f"All margins are below {results['bound']:g}: {'yes' if holds else 'no'}.")


if __name__ == "__main__":
    run_app(app)
