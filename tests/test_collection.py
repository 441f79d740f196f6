"""Collections to shards: rows, formats, and the readers that people have."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import pyarrow
from pyarrow import parquet

from bench.kills import read_folder, start_command
from sc_runtime import Codec, Tokens
from sc_runtime.collection.formats import FORMATS
from sc_runtime.collection.reader import read_collection
from sc_runtime.collection.rows import Counts, Row, ShardHeader, describe_codec, hash_codes, name_kind
from sc_runtime.collection.webdataset import make_key
from sc_runtime.errors import OutputError, SettingsError, TokensError
from tests.collections import run_command, tokenize, write_with_a_broken_one


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.load("embedded", backend="onnxruntime")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven recordings, of which one spans two windows, and two files that are none."""
    folder = write_with_a_broken_one(tmp_path_factory.mktemp("recordings"), 7, (0.4, 0.9, 0.2, 11.0))
    (folder / "speaker1" / "empty.flac").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def shards(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    outcome = tokenize(recordings, folder, shard_files=4)
    assert (outcome.files, outcome.shards, len(outcome.failures)) == (9, 3, 2)
    return folder


@pytest.fixture(scope="module")
def tars(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    tokenize(recordings, folder, shard_files=4, format="webdataset")
    return folder


@pytest.fixture(scope="module")
def expected(codec: Codec, recordings: Path) -> dict[str, Tokens]:
    """The tokens of each recording, encoded alone."""
    paths = sorted(path for path in recordings.rglob("0*.flac"))
    return {str(path.relative_to(recordings).with_suffix("")): codec.encode(path, batch=1) for path in paths}


def test_rows_hold_the_tokens_of_each_recording_alone(
    codec: Codec, shards: Path, recordings: Path, expected: dict[str, Tokens]
) -> None:
    table = parquet.read_table(sorted(shards.glob("shard-*.parquet"))[0])
    assert table.column_names == ["id", "source", "codes", "positions", "samples", "seconds", "sha256", "error"]
    rows = [row for path in sorted(shards.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    good = {row["id"]: row for row in rows if row["error"] is None}
    assert good.keys() == expected.keys()
    for name, row in good.items():
        tokens = expected[name]
        assert row["codes"] == tokens.codes.ravel().tolist()
        assert (row["positions"], row["samples"], row["seconds"]) == (len(tokens), tokens.samples, tokens.seconds)
        assert row["sha256"] == hashlib.sha256(tokens.codes.astype("<i4").tobytes()).hexdigest()
        assert row["source"] == str(recordings / f"{name}.flac")
    bad = {row["id"]: row for row in rows if row["error"] is not None}
    assert {name: row["error"] for name, row in bad.items()} == {
        "speaker0/broken": "Format not recognised",
        "speaker1/empty": "empty file",
    }
    assert all(row[name] is None for row in bad.values() for name in ("codes", "positions", "samples", "sha256"))


def test_the_metadata_state_what_rows_do_not(codec: Codec, shards: Path) -> None:
    metadata = parquet.read_metadata(shards / "shard-000000.parquet").metadata
    header = json.loads(metadata[b"sc_runtime"])
    assert header["codec"] == {
        "codec": "semanticodec",
        "tps": 100,
        "sample_rate": 16000,
        "codebooks": ["semantic", "acoustic"],
        "vocabularies": codec.config.codebook_sizes,
    }
    assert header["settings"]["shard_files"] == 4
    assert header["version"] and len(header["bundle"]) == 64
    assert json.loads(metadata[b"sc_runtime.counts"])["rows"] == 4


def test_codes_have_the_smallest_type(shards: Path) -> None:
    assert str(parquet.read_schema(shards / "shard-000000.parquet").field("codes").type) == "list<element: uint16>"
    types = {256: np.uint8, 257: np.uint16, 2**16: np.uint16, 2**16 + 1: np.uint32}
    for entries, expected in types.items():
        assert ShardHeader({"vocabularies": {"a": 2, "b": entries}}, "", "", {}, "").dtype == expected


def test_columns_have_their_types_and_are_compressed_by_zstd(shards: Path) -> None:
    file = parquet.ParquetFile(shards / "shard-000000.parquet")
    types = {field.name: str(field.type) for field in file.schema_arrow}
    assert types.pop("codes").startswith("list<")
    strings = dict.fromkeys(("id", "source", "sha256", "error"), "string")
    assert types == {**strings, "positions": "int32", "samples": "int64", "seconds": "double"}
    group = file.metadata.row_group(0)
    assert {group.column(number).compression for number in range(group.num_columns)} == {"ZSTD"}


def test_the_reader_yields_tokens(shards: Path, tars: Path, expected: dict[str, Tokens]) -> None:
    for folder in (shards, tars):
        assert dict(read_collection(folder)) == expected
    first = dict(read_collection(shards / "shard-000000.parquet"))
    assert first and first.items() <= expected.items()


def test_decode_takes_a_row(codec: Codec, shards: Path, expected: dict[str, Tokens]) -> None:
    row = parquet.read_table(shards / "shard-000000.parquet").to_pylist()[0]
    sound = codec.decode(row, steps=1)
    assert np.array_equal(sound, codec.decode(expected[row["id"]], steps=1))
    with pytest.raises(TokensError, match=r"a row without codes \(empty file\)"):
        codec.decode({"codes": None, "error": "empty file"})
    with pytest.raises(TokensError, match="a row of 3 codes; expected 2 a position"):
        codec.decode({"codes": [1, 2, 3]})


def test_webdataset_shards_hold_the_same(tars: Path, shards: Path, expected: dict[str, Tokens]) -> None:
    members = {}
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as tar:
            assert json.loads(tar.pax_headers["SC_RUNTIME.header"])["codec"]["tps"] == 100 if tar.next() else False
            for member in tar:
                assert (member.mtime, member.uid, member.uname) == (0, 0, "")
                members[member.name] = tar.extractfile(member).read()
    assert {name for name in members if name.endswith(".sct")} == {f"{name}.sct" for name in expected}
    assert Tokens.from_bytes(members["speaker0/0000.sct"]) == expected["speaker0/0000"]
    facts = json.loads(members["speaker1/empty.json"])
    assert (facts["error"], facts["sha256"]) == ("empty file", None)


def test_counts_are_read_without_the_members(tmp_path: Path) -> None:
    codec = {"codec": "semanticodec", "sample_rate": 16000, "tps": 50}
    codec |= {"codebooks": ["semantic", "acoustic"], "vocabularies": {"semantic": 4096, "acoustic": 8192}}
    header = ShardHeader(codec, "bundle", "version", {}, "plan")
    rows = [Row(f"{number:04}", "a.wav", np.zeros((29, 2), np.uint16), 16000) for number in range(200)]
    rows.append(Row("9999", "b.wav", error="empty file"))
    for format in FORMATS.values():
        path = tmp_path / f"shard{format.suffix}"
        format.write(path, rows, header)
        with path.open("rb") as file:
            assert format.read_counts(file) == Counts(201, 1, 200.0)
    data = (tmp_path / "shard.tar").read_bytes()
    assert FORMATS["webdataset"].read_counts(io.BytesIO(data[: len(data) // 20])) == Counts(201, 1, 200.0)


def test_duckdb_reads_shards(shards: Path, expected: dict[str, Tokens]) -> None:
    duckdb = pytest.importorskip("duckdb")
    ((seconds, rows),) = duckdb.sql(f"SELECT sum(seconds), count(*) FROM '{shards}/*.parquet'").fetchall()
    assert seconds == pytest.approx(sum(tokens.seconds for tokens in expected.values()))
    assert rows == 9


@pytest.mark.heavy
def test_datasets_reads_shards(shards: Path, expected: dict[str, Tokens], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    for where in ({"data_dir": str(shards)}, {"data_files": f"{shards}/*.parquet"}):
        found = datasets.load_dataset("parquet", split="train", cache_dir=str(tmp_path), **where)
        rows = {row["id"]: row for row in found}
        assert len(rows) == 9
        assert rows["speaker0/0000"]["codes"] == expected["speaker0/0000"].codes.ravel().tolist()


def test_pyarrow_reads_the_folder(shards: Path) -> None:
    dataset = pytest.importorskip("pyarrow.dataset")
    assert dataset.dataset(shards, format="parquet").count_rows() == 9  # the plan is hidden


@pytest.mark.heavy
def test_webdataset_reads_tars(tars: Path, expected: dict[str, Tokens]) -> None:
    webdataset = pytest.importorskip("webdataset")
    urls = [str(path) for path in sorted(tars.glob("*.tar"))]
    found = {}
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        facts = json.loads(sample["json"])
        if "sct" in sample:
            found[facts["id"]] = Tokens.from_bytes(sample["sct"])
        else:
            assert facts["error"]
    assert found == expected


def test_keys_of_tars_are_distinct_and_hold_no_dot_in_the_last_name() -> None:
    names = ["a/b", "a.b/c", "a/b.c", "a/b%2Ec", "a/b%c"]
    assert [make_key(name) for name in names] == ["a/b", "a.b/c", "a/b%2Ec", "a/b%252Ec", "a/b%25c"]


@pytest.mark.parametrize("options", [{"workers": 2}, {"batch": 1}, {"batch": 3}])
def test_bytes_do_not_depend_on_workers_or_batch(
    recordings: Path, shards: Path, tmp_path: Path, options: dict[str, int]
) -> None:
    tokenize(recordings, tmp_path, shard_files=4, **options)
    assert read_folder(tmp_path) == read_folder(shards)


def test_verification_compares_rows_encoded_alone(recordings: Path, shards: Path, tmp_path: Path) -> None:
    outcome = tokenize(recordings, shards, shard_files=4, verify=4)
    assert outcome.verification.rows == 4
    assert (outcome.encoded, outcome.verification.differing) == (0, [])
    tokenize(recordings, tmp_path, shard_files=4)
    path = tmp_path / "shard-000000.parquet"
    table = parquet.read_table(path)
    column = table.schema.field("codes")
    codes = [[code ^ 1 for code in row] if row else row for row in table["codes"].to_pylist()]
    changed = table.set_column(2, column, pyarrow.array(codes, column.type))
    parquet.write_table(changed.replace_schema_metadata(table.schema.metadata), path)
    wrong = tokenize(recordings, tmp_path, shard_files=4, verify=9).verification
    assert wrong.rows == 7
    assert sorted(wrong.differing) == [row["id"] for row in table.to_pylist() if row["error"] is None]


def test_the_command_reports(recordings: Path, tmp_path: Path) -> None:
    code, output, errors = run_command(recordings, "-o", tmp_path, "--shard-files", 5, "--verify", 2, "--json")
    assert code == 0, errors
    document = json.loads(output)
    assert (document["files"], document["errors"], document["shards"]) == (9, 2, 2)
    assert document["verification"] == {"rows": 2, "differing": []}
    assert document["errors_by_kind"]["empty file"][0]["source"].endswith("speaker1/empty.flac")
    assert errors.splitlines() == [
        "1 recordings: Format not recognised",
        f"  {recordings}/speaker0/broken.wav: Format not recognised",
        "1 recordings: empty file",
        f"  {recordings}/speaker1/empty.flac: empty file",
    ]


def test_the_command_takes_a_list_with_tabs(recordings: Path, tmp_path: Path, expected: dict[str, Tokens]) -> None:
    """As Common Voice has it: a sentence may begin with a quote that does not end, or hold commas."""
    rows = ["client_id\tpath\tsentence", 'x\tspeaker0/0000.flac\t"Yes, he said', 'x\tspeaker1/0001.flac\tNo", she said']
    source = recordings / "validated.tsv"
    source.write_text("\n".join(rows) + "\n")
    try:
        code, output, errors = run_command(source, "-o", tmp_path, "--json")
    finally:
        source.unlink()
    assert (code, errors) == (0, "")
    assert (json.loads(output)["files"], json.loads(output)["errors"]) == (2, 0)
    found = {row_id: tokens.codes.tolist() for row_id, tokens in read_collection(tmp_path)}
    assert found == {row_id: expected[row_id].codes.tolist() for row_id in ("speaker0/0000", "speaker1/0001")}


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_progress_is_shown_on_a_terminal(recordings: Path, tmp_path: Path) -> None:
    """A pipe gets none: `test_the_command_reports` compares all that is printed there."""
    import pty

    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    process = start_command(recordings, "-o", tmp_path, errors=theirs, variables={"COLUMNS": "200"})
    os.close(theirs)
    seen = b""
    while process.poll() is None:  # the terminal must be read, or the command waits
        seen += read_terminal(ours)
        time.sleep(0.01)
    seen += read_terminal(ours)
    os.close(ours)
    process.communicate()
    assert process.returncode == 0
    last = max(seen.decode().split("\r"), key=lambda line: line.count("9/9"))
    assert "9/9, 2 errors, ETA 0:00:00, " in last and " × real time, " in last and " files/s" in last


def read_terminal(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 1 << 16)
    except OSError:  # nothing there, or closed by the other side
        return b""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing"], "error: missing: No such file or directory; expected a file, a folder, a pattern or a list"),
        ([".", "--part", "2"], "error: part '2'; expected I/N, such as 3/16"),
        ([".", "--engine", "slurm"], "error: engine 'slurm'; expected one of local, ray"),
    ],
)
def test_the_command_refuses_in_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    code, output, errors = run_command(*arguments, "-o", tmp_path / "out")
    assert (code, output) == (1, "")
    (line,) = errors.splitlines()
    assert line.startswith(message)
    assert not (tmp_path / "out").exists()


def test_kinds_of_errors_leave_numbers_out() -> None:
    assert name_kind("truncated, 10 bytes of 2000") == name_kind("truncated, 7 bytes of 31")


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    import subprocess
    import sys

    heavy = {"ray", "pyarrow", "fsspec", "soundfile", "pandas"}
    code = f"import sys, sc_runtime.collection.tokenize; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "dask"}, "engine 'dask'; expected one of local, ray"),
        ({"format": "csv"}, "format 'csv'; expected one of parquet, webdataset"),
        ({"part": (3, 2)}, "part 3/2"),
        ({"shard_files": 0}, "shard_files 0"),
        ({"shard_hours": float("nan")}, "shard_hours nan"),
        ({"shard_hours": 1.0, "shard_files": 3}, "both hours and files"),
        ({"workers": 0}, "workers 0"),
        ({"threads": 0}, "threads 0; expected a whole number, at least 1"),
        ({"verify": -1}, "verify -1"),
        ({"gpus_per_worker": -1.0}, "-1.0 GPUs"),
        ({"batch": 0}, "batch 0"),
        ({"vocab": 17}, "vocabulary 17"),
        ({"domain": "speech"}, "domain speech"),
    ],
)
def test_arguments_that_cannot_work(options: dict[str, object], message: str, recordings: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=message):
        tokenize(recordings, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_reader_refuses_what_is_no_shard(tmp_path: Path) -> None:
    (tmp_path / "shard-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(TokensError, match=r"shard-000000\.parquet"):
        list(read_collection(tmp_path))
    (tmp_path / "nothing").mkdir()
    with pytest.raises(TokensError, match="no shards in this folder"):
        list(read_collection(tmp_path / "nothing"))
    with pytest.raises(TokensError, match="No such file"):
        list(read_collection(tmp_path / "missing"))


def test_hashes_do_not_depend_on_the_type_of_codes(codec: Codec) -> None:
    codes = np.arange(10).reshape(5, 2)
    assert hash_codes(codes.astype(np.uint16)) == hash_codes(np.asfortranarray(codes.astype(np.int64)))
    assert hash_codes(None) is None
    assert describe_codec(codec.config)["codebooks"] == ["semantic", "acoustic"]
    assert Row("a", "b").codes is None


def test_another_program_s_folder_is_refused(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "shard-000000.parquet").write_bytes(b"")
    with pytest.raises(OutputError, match="shards without a plan"):
        tokenize(recordings, tmp_path)
