"""Fuzzers of every input from an untrusted source: each case ends in a value or in an error of this package.

`python -m tests.fuzz --minutes 10 [--only NAME] [--seed 0]` runs them in turn and prints their figures. A case that
raises anything else is printed with its number: `python -m tests.fuzz --only NAME --case NUMBER` repeats it.
`tests/test_fuzz.py` runs a few cases of each.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import io
import json
import random
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sc_runtime.audio import Audio
from sc_runtime.bundle.manifest import MALFORMED, MANIFEST, Manifest
from sc_runtime.bundle.store import EMBEDDED, Bundle
from sc_runtime.errors import AudioError, AudioWarning, BundleError, CheckpointError, SettingsError, TokensError
from sc_runtime.semanticodec.config import SemantiCodecConfig
from sc_runtime.tokens import Tokens

RATE, MAX_SECONDS = 16_000, 60.0
#: Values that replace a value of a manifest.
FALSE_VALUES = (None, True, -1, 0, 1.5, "x", "", [], {}, [None], {"a": 1}, 1e400, 10**30, "../x", "\0", "\ud800")
#: Numbers that replace bytes.
EDGES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)

Case = Callable[[random.Random, Path], None]


def damage(data: bytes, generator: random.Random) -> bytes:
    """`data` with one to four changes: bits, numbers, pieces that are cut out, repeated, moved or made up."""
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        start = generator.randrange(len(changed) + 1) if generator.random() < 0.5 else generator.randrange(64)
        start = min(start, len(changed))
        length = generator.choice((1, 2, 4, 8, 100, 5000))
        kind = generator.randrange(6)
        if kind == 0 and start < len(changed):
            changed[start] ^= 1 << generator.randrange(8)
        elif kind == 1:
            width = generator.choice((1, 2, 4, 8))
            order = generator.choice(("little", "big"))
            changed[start : start + width] = (generator.choice(EDGES) % 256**width).to_bytes(width, order)
        elif kind == 2:
            del changed[start : start + length]
        elif kind == 3:
            changed[start:start] = changed[start : start + length]
        elif kind == 4:
            changed[start : start + length] = generator.randbytes(length)
        else:
            del changed[start:]
    return bytes(changed)


# Token files


def fuzz_container(generator: random.Random, folder: Path) -> None:
    """An .sct file with any header and the right CRC, so that the reader does not stop at the CRC."""
    config = SemantiCodecConfig(tps=generator.choice((25, 50, 100)), vocab=generator.choice((4096, 32768)))
    codes = np.random.default_rng(generator.randrange(2**32)).integers(0, 4096, (generator.randrange(1, 50), 2))
    data = bytearray(damage(Tokens(codes, config).to_bytes(), generator))
    if generator.random() < 0.9 and len(data) > 24:
        data[:5] = b"SCTK\2"
        struct.pack_into("<I", data, 20, zlib.crc32(data[:20] + data[24:]))
    try:
        tokens = Tokens.from_bytes(bytes(data))
    except TokensError as error:
        check_line(error)
    else:
        assert tokens.to_bytes() == bytes(data), "a second spelling of the same tokens"


def fuzz_npy(generator: random.Random, folder: Path) -> None:
    shapes = ("(1, 5, 2)", "(5, 2)", "()", "(1, 5, True)", "(-1, 2)", "(" + "9" * 3000 + ",)", "(0,)", "(1, 10**9, 2)")
    dtypes = ("'<i8'", "'>i8'", "'<f4'", "'|O'", "'<U5'", "[('a', '<i4')]", "'|b1'", "'<m8[s]'", "None", "'" + "x" * 99)
    dtype = generator.choice(dtypes if generator.random() < 0.5 else dtypes[:1])
    order = generator.choice(("False", "True", "0", "None"))
    shape = generator.choice(shapes if generator.random() < 0.7 else shapes[:2])
    header = f"{{'descr': {dtype}, 'fortran_order': {order}, 'shape': {shape}, }}"
    version = generator.choice((b"\1\0", b"\1\0", b"\2\0", b"\3\0", b"\xff\xff"))
    length = (len(header) + 1).to_bytes(2 if version == b"\1\0" else 4, "little")
    data = b"\x93NUMPY" + version + length + header.encode() + b"\n" + bytes(80)
    if generator.random() < 0.7:
        data = damage(data, generator)
    path = folder / "tokens.npy"
    path.write_bytes(data)
    try:
        Tokens.load(path, SemantiCodecConfig(tps=50, vocab=4096))
    except TokensError as error:
        check_line(error)


# Recordings


@cache
def make_recordings() -> list[bytes]:
    """A quarter of a second in every container that libsndfile writes and that the reader parses itself."""
    samples = np.sin(np.arange(RATE // 4) / 20).astype(np.float32)
    found = []
    for kind in ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU", "W64", "RF64", "NIST"):
        stream = io.BytesIO()
        soundfile.write(stream, samples, RATE, format=kind)
        found.append(stream.getvalue())
    return found


def fuzz_audio(generator: random.Random, folder: Path) -> None:
    data = generator.choice(make_recordings())
    data = damage(data, generator) + (generator.choice(make_recordings()) if generator.random() < 0.1 else b"")
    allows = generator.random() < 0.5
    warnings.simplefilter("ignore", AudioWarning)
    try:
        with Audio(data, rate=RATE, mono="mean", allow_truncated=allows, max_seconds=MAX_SECONDS) as audio:
            seen = sum(map(len, audio.blocks()))
            assert 0 < seen <= MAX_SECONDS * RATE * 1.01
    except AudioError as error:
        check_line(error)


# Bundles and checkpoints


@cache
def read_manifest_text() -> str:
    """The embedded manifest with two weights for each graph, so that a case is short."""
    raw = json.loads((EMBEDDED / MANIFEST).read_text())
    raw.pop("sha256", None)
    for graph in raw["graphs"].values():
        graph["weights"] = dict(list(graph["weights"].items())[:2])
    return json.dumps(raw)


def list_places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield from list_places(value[key], (*place, key))


def change_manifest(generator: random.Random) -> str:
    raw = json.loads(read_manifest_text())
    for _ in range(generator.choice((1, 1, 2, 5))):
        place = generator.choice(list(list_places(raw))[1:])
        owner = raw
        for key in place[:-1]:
            owner = owner[key]
        if generator.random() < 0.2:
            del owner[place[-1]]
        else:
            value = generator.choice((*FALSE_VALUES, read_manifest_text()[: generator.randrange(200)]))
            owner[place[-1]] = copy.deepcopy(value)
    text = json.dumps(raw)
    return damage(text.encode(), generator).decode(errors="replace") if generator.random() < 0.3 else text


def fuzz_manifest(generator: random.Random, folder: Path) -> None:
    try:
        manifest = Manifest.from_json(change_manifest(generator))
    except MALFORMED as error:
        assert str(error)
    else:
        assert Manifest.from_json(manifest.to_json()) == manifest


def fuzz_bundle(generator: random.Random, folder: Path) -> None:
    """A bundle with one damaged file. The manifest states the damaged file's hash."""
    bundle = folder / "bundle"
    if not bundle.exists():
        bundle.mkdir()
        for path in EMBEDDED.iterdir():
            (bundle / path.name).symlink_to(path.resolve())
    name = generator.choice([path.name for path in EMBEDDED.iterdir() if path.suffix in (".onnx", ".npy")])
    source = (EMBEDDED / name).read_bytes()
    data = damage(source, generator)
    raw = json.loads(read_manifest_text())
    raw["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (bundle / name).unlink()
    (bundle / MANIFEST).unlink()
    (bundle / name).write_bytes(data)
    (bundle / MANIFEST).write_text(json.dumps(raw))
    try:
        opened = Bundle(bundle, Manifest.from_json((bundle / MANIFEST).read_text()))  # not `load`: links lead outside
        if name.endswith(".npy"):
            opened.load_codebook(name.removesuffix(".npy"))
        else:
            opened.find_graph(name.removesuffix(".onnx"))
    except (BundleError, SettingsError) as error:
        check_line(error)
    finally:
        (bundle / name).unlink()
        (bundle / name).symlink_to((EMBEDDED / name).resolve())


def fuzz_checkpoint(generator: random.Random, folder: Path) -> None:
    import torch

    from sc_runtime.export.checkpoint import read_state

    path, state = folder / "state.ckpt", {"a": torch.arange(60.0), "b": torch.ones(4, 4, dtype=torch.float16)}
    torch.save({"state_dict": state, "epoch": 3}, path)
    if generator.random() < 0.2:
        compression = generator.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w", compression) as archive:
            for name, content in members.items():
                archive.writestr(name, damage(content, generator) if name.endswith("data.pkl") else content)
        exact = False
    else:
        path.write_bytes(damage(path.read_bytes(), generator))
        exact = True
    try:
        found = read_state(path)
    except CheckpointError as error:
        check_line(error)
    else:
        same = found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
        assert same or not exact, "other tensors than those that were saved"


def check_line(error: Exception) -> None:
    assert str(error) and "\n" not in str(error), "an error of several lines"


FUZZERS: dict[str, Case] = {
    "container": fuzz_container,
    "npy": fuzz_npy,
    "audio": fuzz_audio,
    "manifest": fuzz_manifest,
    "bundle": fuzz_bundle,
    "checkpoint": fuzz_checkpoint,
}


def run_case(name: str, seed: int, number: int, folder: Path) -> None:
    """Run one case of the fuzzer `name`. An exception that is no error of this package passes through."""
    FUZZERS[name](random.Random(f"{name} {seed} {number}"), folder)


def run_fuzzer(name: str, seed: int, seconds: float) -> tuple[int, int]:
    """Run cases for `seconds`. Returns their number, and that of cases with other exceptions, which are printed."""
    folder, end, number, raw = Path(tempfile.mkdtemp(prefix="sc-runtime-fuzz-")), time.monotonic() + seconds, 0, 0
    try:
        while time.monotonic() < end:
            try:
                run_case(name, seed, number, folder)
            except Exception:
                raw += 1
                print(f"--only {name} --seed {seed} --case {number}\n{traceback.format_exc(limit=-3)}", flush=True)
            number += 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return number, raw


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10, help="of all fuzzers together (10)")
    parser.add_argument("--only", choices=FUZZERS, help="one fuzzer")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="by default the time")
    parser.add_argument("--case", type=int, help="one case, which --only and --seed name")
    given = parser.parse_args()
    names = [given.only] if given.only else list(FUZZERS)
    if given.case is not None:
        with tempfile.TemporaryDirectory() as folder:
            run_case(names[0], given.seed, given.case, Path(folder))
        return
    raw = 0
    for name in names:
        cases, wrong = run_fuzzer(name, given.seed, 60 * given.minutes / len(names))
        raw += wrong
        print(f"{name}: {cases} cases, {wrong} raw exceptions (seed {given.seed})", flush=True)
    sys.exit(raw > 0)


if __name__ == "__main__":
    main()
