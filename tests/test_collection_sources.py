"""Where recordings come from: files, folders, patterns, lists, tars, Parquet; and what is wrong with them."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

import fsspec
import pyarrow
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import parquet

from sc_runtime.audio import Audio
from sc_runtime.collection.fetch import Fetcher, cut
from sc_runtime.collection.items import Item
from sc_runtime.collection.lengths import measure_items
from sc_runtime.collection.sources import find_items
from sc_runtime.errors import AudioError, OutputError, SettingsError
from tests.collections import RATE, make_sound, write_recordings


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    write_recordings(folder, 4)
    return folder


def list_ids(*sources: object) -> list[str]:
    return [item.id for item in find_items(map(str, sources))]


def read(item: Item) -> np.ndarray:
    """The sound of an item, float32 [n] at 16 kHz."""
    with Fetcher(RATE, "first").open(item) as audio:
        return np.concatenate(list(audio.blocks()))


def read_file(path: Path) -> np.ndarray:
    with Audio(path, rate=RATE) as audio:
        return np.concatenate(list(audio.blocks()))


def pack_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def test_folders_are_searched_to_the_end(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("no sound")
    expected = ["speaker0/0000", "speaker0/0002", "speaker1/0001", "speaker1/0003"]
    assert list_ids(recordings) == expected
    assert list_ids(f"{recordings}/") == expected
    (items,) = [item for item in find_items([str(recordings)]) if item.id == "speaker0/0002"]
    assert items.source == str(recordings / "speaker0" / "0002.flac")


def test_hidden_files_are_left_out(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "a.flac").write_bytes((recordings / "speaker0" / "0000.flac").read_bytes())
    (tmp_path / "._a.flac").write_bytes(b"")
    assert list_ids(tmp_path) == ["a"]


def test_patterns_and_files(recordings: Path) -> None:
    assert list_ids(f"{recordings}/*/*.flac") == list_ids(recordings)
    assert list_ids(f"{recordings}/**/000[01].flac") == ["speaker0/0000", "speaker1/0001"]
    assert list_ids(f"{recordings}/speaker*") == list_ids(recordings)
    assert list_ids(recordings / "speaker0" / "0000.flac", recordings / "speaker1") == ["0000", "0001", "0003"]


def test_a_name_of_pattern_letters_that_exists_is_no_pattern(recordings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "take [1]"
    folder.mkdir()
    (folder / "a*.flac").write_bytes((recordings / "speaker0" / "0000.flac").read_bytes())
    assert list_ids(folder) == ["a*"]
    assert list_ids(folder / "a*.flac") == ["a*"]


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "tsv", "TSV", "parquet"])
def test_lists_name_recordings(recordings: Path, suffix: str) -> None:
    paths = ["speaker0/0000.flac", str(recordings / "speaker1" / "0001.flac")]
    target = recordings / f"list.{suffix}"
    rows = [{"path": path, "id": f"r{number}", "speaker": "x"} for number, path in enumerate(paths)]
    if suffix == "txt":
        target.write_text("\n".join(paths) + "\n\n")
    elif suffix == "jsonl":
        target.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == "csv":
        target.write_text("id,path,speaker\n" + "".join(f"{row['id']},{row['path']},x\n" for row in rows))
    elif suffix.lower() == "tsv":
        target.write_text("id\tpath\tspeaker\n" + "".join(f"{row['id']}\t{row['path']}\tx\n" for row in rows))
    else:
        parquet.write_table(pyarrow.Table.from_pylist(rows), target)
    items = find_items([str(target)])
    expected = ["speaker0/0000", paths[1][1:-5]] if suffix == "txt" else ["r0", "r1"]
    assert [item.id for item in items] == sorted(expected)
    assert {item.uri for item in items} == {str(recordings / paths[0]), paths[1]}
    target.unlink()


def test_parts_of_recordings(tmp_path: Path) -> None:
    sound = make_sound(1, 3.0, 22050)
    soundfile.write(tmp_path / "a.wav", np.stack([sound, -sound], axis=1), 22050, "FLOAT")
    lines = [{"audio_filepath": "a.wav", "offset": 0.5, "duration": 1.25}, {"audio_filepath": "a.wav", "offset": 2.5}]
    lines += [{"audio_filepath": "a.wav", "duration": 0.5}, {"audio_filepath": "a.wav", "offset": 3.5}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    items = {item.id: item for item in find_items([str(tmp_path / "list.jsonl")])}
    assert sorted(items) == ["a@0.0+0.5", "a@0.5+1.25", "a@2.5", "a@3.5"]
    assert Item("a", "a.wav", start=0.1, duration=0.2).source == "a.wav#t=0.1,0.3"
    assert items["a@0.5+1.25"].source == f"{tmp_path}/a.wav#t=0.5,1.75"
    for name, start, stop in (("a@0.0+0.5", 0.0, 0.5), ("a@0.5+1.25", 0.5, 1.75), ("a@2.5", 2.5, 3.0)):
        part = sound[round(start * 22050) : round(stop * 22050)]
        with Audio(part, 22050, rate=RATE) as audio:
            assert np.array_equal(read(items[name]), np.concatenate(list(audio.blocks())))
    with pytest.raises(AudioError, match=r"^a part from 3\.5 s on that holds no sample"):
        read(items["a@3.5"])


@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_only_line_ends_end_lines(tmp_path: Path, suffix: str) -> None:
    """A JSON string may hold U+2028, U+0085 and the like; so may a path."""
    paths = ["a\u2028b.wav", "c\x85d.wav"]
    lines = paths if suffix == "txt" else [json.dumps({"path": path}, ensure_ascii=False) for path in paths]
    target = tmp_path / f"list.{suffix}"
    target.write_bytes("\r\n".join(lines).encode())
    assert {item.uri for item in find_items([str(target)])} == {f"{tmp_path}/{path}" for path in paths}


def test_tars(recordings: Path, tmp_path: Path) -> None:
    path = recordings / "speaker0" / "0000.flac"
    members = {"./000.flac": path.read_bytes(), "000.json": b"{}", "x/001.flac": b"no sound", ".hidden.flac": b""}
    items = find_items([str(pack_tar(tmp_path / "train-0.tar", members))])
    assert [item.id for item in items] == ["train-0/000", "train-0/x/001"]
    assert items[0].source == f"{tmp_path}/train-0.tar#./000.flac"
    assert np.array_equal(read(items[0]), read_file(path))
    with pytest.raises(AudioError, match=r"^Format not recognised"):
        read(items[1])


@pytest.mark.parametrize("kept", [3000, 10240 + 512, 10240 + 700, 20480 - 1024])
def test_a_tar_cut_short_gives_its_whole_members_and_one_error(tmp_path: Path, kept: int) -> None:
    path = pack_tar(tmp_path / "cut.tar", {"a.flac": bytes(9728), "b.flac": bytes(8704)})
    data = path.read_bytes()[:kept]
    path.write_bytes(data)
    items = find_items([str(path)])
    assert [item.id for item in items if not item.problem] == [
        name for name, end in (("cut/a", 10240), ("cut/b", 19456)) if end <= kept
    ]
    (cut,) = (item for item in items if item.problem)
    assert cut.member in ("a.flac", "b.flac")
    with pytest.raises(AudioError, match=r"^the tar is cut short, in this member or after it;"):
        read(cut)  # the text names no file, so that errors of many tars are of one kind


@pytest.mark.parametrize("kept", [100, 511])
def test_a_tar_whose_first_header_is_cut_has_no_members(tmp_path: Path, kept: int) -> None:
    path = pack_tar(tmp_path / "cut.tar", {"a.flac": bytes(9728)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(SettingsError, match=r"not a tar \(truncated header\).* copy one again that was cut short$"):
        find_items([str(path)])


def write_dataset(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    """A Parquet file as Hugging Face datasets write audio: a struct of bytes and path."""
    audio = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    fields = [("audio", audio), ("text", pyarrow.string())]
    if "id" in rows[0]:
        fields.append(("id", pyarrow.string()))
    parquet.write_table(pyarrow.Table.from_pylist(rows, pyarrow.schema(fields)), path, row_group_size=group)
    return path


def test_parquet_with_audio_bytes(recordings: Path, tmp_path: Path) -> None:
    paths = sorted(recordings.rglob("*.flac"))
    rows = [{"audio": {"bytes": path.read_bytes(), "path": path.name}, "text": "x"} for path in paths]
    rows.append({"audio": {"bytes": None, "path": str(paths[0])}, "text": ""})
    rows.append({"audio": None, "text": ""})
    items = find_items([str(write_dataset(tmp_path / "train-00000.parquet", rows))])
    assert [item.id for item in items] == [f"train-00000/{row:08d}" for row in range(6)]
    assert items[1].source == f"{tmp_path}/train-00000.parquet#1"
    for item, path in zip(items, [*paths, paths[0]], strict=False):
        assert np.array_equal(read(item), read_file(path))
    with pytest.raises(AudioError, match=r"^neither bytes nor a path in this row"):
        read(items[5])
    named = write_dataset(tmp_path / "named.parquet", [{**rows[0], "id": "first"}])
    assert list_ids(named) == ["first"]


def test_lengths_come_from_headers(recordings: Path, tmp_path: Path) -> None:
    path = recordings / "speaker0" / "0000.flac"
    tar = pack_tar(tmp_path / "t.tar", {"a.flac": path.read_bytes(), "b.flac": b"none"})
    assert [item.seconds for item in measure_items(find_items([str(path)]))] == [0.4]
    assert [item.seconds for item in measure_items(find_items([str(tar)]))] == [0.4, None]


Write = Callable[[Path], Path]


def write_file(name: str, data: bytes) -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return write


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder / "missing.wav", r"missing\.wav: No such .*: check its name and permissions"),
        (lambda folder: folder / "missing*.wav", r"missing\*\.wav: no file matches"),
        (lambda folder: folder, "no audio in this folder"),
        (write_file("empty.txt", b"\n"), r"empty\.txt: an empty list"),
        (write_file("no.csv", b"name,text\na,b\n"), r"no\.csv: no column of paths \(it has name, text\)"),
        (write_file("no.jsonl", b'{"name": 1}\n'), r"no\.jsonl, line 1: no column of paths \(it has name\)"),
        (write_file("bad.jsonl", b'{"path": "a.wav"}\n{"path"\n'), r"bad\.jsonl, line 2: not a JSON object"),
        (write_file("bad.txt", b"\xff\xfe"), r"bad\.txt: not UTF-8"),
        (write_file("time.jsonl", b'{"path": "a.wav", "start": "x"}'), r"line 1: start 'x'"),
        (write_file("time.csv", b"path,duration\na.wav,-1\n"), r"line 2: duration '-1'"),
        (write_file("zero.csv", b"path,duration\na.wav,0\n"), r"line 2: a duration of 0"),
        (write_file("open.csv", b'path,text\na.wav,"b\nb.wav,c\n'), r"open\.csv, line 3: unexpected end of data"),
        (write_file("no.tsv", b"name\ttext\na\tb\n"), r"no\.tsv: no column of paths \(it has name, text\)"),
        (write_file("commas.tsv", b"path,text\na.wav,b\n"), r"no column of paths \(it has path,text\)"),
        (write_file("empty.tsv", b"path\ttext\n"), r"empty\.tsv: an empty list"),
        (write_file("bad.tsv", b"path\n\xff"), r"bad\.tsv: not UTF-8"),
        (write_file("time.tsv", b"path\tduration\na.wav\t-1\n"), r"line 2: duration '-1'"),
        (write_file("less.tsv", b"text\tpath\na\n"), r"less\.tsv, line 2: the path None"),
        (write_file("long.tsv", b"path\n" + b"a" * 200_000), r"long\.tsv, line 2: field larger than field limit"),
        (write_file("none.jsonl", b'{"path": null}'), r"line 1: the path None"),
        (write_file("same.txt", b"a.wav\na.flac\n"), r"two recordings of the id 'a': .*a\.flac and .*a\.wav"),
        (write_file("no.tar", b"no tar"), r"no\.tar: not a tar"),
        (write_file("x.tar.gz", b"\x1f\x8b0000"), r"x\.tar\.gz: not a tar .*unpack a compressed tar"),
        (write_file("no.parquet", b"PAR1"), r"no\.parquet: not a Parquet file"),
        (lambda folder: pack_tar(folder / "text.tar", {"a.txt": b""}), r"text\.tar: no audio in this tar"),
        (lambda folder: "nowhere://a/b", "nowhere://a/b: Protocol not known"),
        (lambda folder: "", "a source without a name"),
    ],
)
def test_what_is_wrong_with_a_source_is_one_line(tmp_path: Path, write: Write, message: str) -> None:
    with pytest.raises((AudioError, SettingsError, ImportError), match=message) as caught:
        find_items([str(write(tmp_path))])
    assert len(str(caught.value).splitlines()) == 1


def test_a_parquet_list_needs_a_column_of_paths(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(SettingsError, match=r"no column of paths \(it has text\)"):
        find_items([str(tmp_path / "a.parquet")])


def test_errors_do_not_name_the_file(tmp_path: Path) -> None:
    """A row has its source already, and one kind of error has one text."""
    (tmp_path / "a.wav").write_bytes(b"")
    with pytest.raises(AudioError, match=r"^empty file;"):
        read(Item("a", str(tmp_path / "a.wav")))
    with pytest.raises(AudioError, match=r"^No such file or directory;"):
        read(Item("a", str(tmp_path / "b.wav")))
    with pytest.raises(AudioError, match=r"^No such file or directory;"):
        read(Item("a", "memory://nothing/b.wav"))


def test_a_copy_that_cannot_be_written_is_no_error_of_the_recording(recordings: Path, tmp_path: Path) -> None:
    """Whatever the reason: here the folder is missing."""
    path, gone = recordings / "speaker0" / "0000.flac", tmp_path / "gone" / "audio"
    data = path.read_bytes()
    (member,) = find_items([str(pack_tar(tmp_path / "t.tar", {"a.flac": data}))])
    (row,) = find_items([str(write_dataset(tmp_path / "d.parquet", [{"audio": {"bytes": data}, "text": ""}]))])
    fsspec.filesystem("memory").pipe_file("/copies/a.flac", data)
    for item in (member, row, Item("a", "memory://copies/a.flac")):
        with pytest.raises(OutputError, match=r"expected a folder that takes temporary files: .*\$TMPDIR"):
            Fetcher(RATE, "first").fetch(item, gone)
    with pytest.raises(OutputError, match="expected a folder that takes temporary files"):
        cut(path, gone.with_suffix(".wav"), 0.0, 0.1, "first")
    with pytest.raises(AudioError, match="No such file or directory"):
        cut(tmp_path / "gone.flac", tmp_path / "part.wav", 0.0, 0.1, "first")


class FailingFileSystem(MemoryFileSystem):
    """A filesystem whose copies fail with `error`."""

    protocol = "failing"
    error: OSError

    def get_file(self, rpath: str, lpath: str, *arguments: Any, **options: Any) -> None:
        if self.error.errno == errno.EACCES:
            self.error.filename = lpath
        raise self.error


def answer(error: OSError) -> OSError:
    """`error` as s3fs makes it of a store's answer."""
    error.__cause__ = RuntimeError("503")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        *((OSError(code, os.strerror(code)), OutputError) for code in (errno.ENOSPC, errno.EIO, errno.EROFS)),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), OutputError),
        (OSError(errno.EACCES, os.strerror(errno.EACCES)), OutputError),  # of the copy, which it names
        (answer(OSError(errno.EIO, "unknown")), AudioError),
        (PermissionError("Forbidden"), AudioError),
        (OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), AudioError),
    ],
)
def test_which_errors_of_a_copy_are_those_of_the_recording(error: OSError, kind: type[Exception]) -> None:
    fsspec.register_implementation("failing", FailingFileSystem, clobber=True)
    FailingFileSystem.error = error
    with pytest.raises(kind) as caught, Fetcher(RATE, "first").open(Item("a", "failing://bucket/a.flac")):
        pass
    assert type(caught.value) is kind
    assert "sc-runtime-" not in str(caught.value)  # a folder that is gone when the error is read


OUT_OF_FILES = """
import resource, sys
from sc_runtime.collection.fetch import Fetcher
from sc_runtime.collection.items import Item
from sc_runtime.errors import OutputError
fetcher, used = Fetcher(16000, "first"), []
with fetcher.open(Item("a", sys.argv[1])) as audio:  # the libraries are loaded
    list(audio.blocks())
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
try:
    while True:
        used.append(open(sys.argv[1], "rb"))
except OSError:
    pass
try:
    with fetcher.open(Item("a", sys.argv[1])):
        pass
except OutputError as error:
    message = str(error)
used.clear()
print(message)
"""


@pytest.mark.skipif(os.name == "nt", reason="no limit of open files")
def test_too_many_open_files_are_no_error_of_the_recording(recordings: Path) -> None:
    command = [sys.executable, "-c", OUT_OF_FILES, str(recordings / "speaker0" / "0000.flac")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Too many open files" in done.stdout and "allow more open files (ulimit -n)" in done.stdout
