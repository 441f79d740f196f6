"""Collections on S3: sources and shards in buckets of a moto server on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("s3fs")
pytest.importorskip("moto")

from pyarrow import parquet

from bench.kills import read_folder
from sc_runtime.collection.containers import read_tar
from sc_runtime.collection.fetch import Fetcher
from sc_runtime.collection.folder import OutputFolder
from sc_runtime.collection.items import Item
from sc_runtime.collection.reader import read_collection
from sc_runtime.errors import AudioError, OutputError
from tests.collections import RATE, run_command, tokenize, write_with_a_broken_one
from tests.test_collection_sources import pack_tar, write_dataset

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of an S3 server, which the environment names, so that other processes find it too."""
    from moto.server import ThreadedMotoServer

    moto = ThreadedMotoServer("127.0.0.1", 0)
    moto.start()
    host, port = moto.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        yield f"http://{host}:{port}"
    moto.stop()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_a_broken_one(tmp_path_factory.mktemp("recordings"), 6)


@pytest.fixture
def bucket(server: str, recordings: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of its own with the recordings under in/."""
    import s3fs

    name = request.node.name.replace("_", "-").strip("[]")[:60].rstrip("-")
    filesystem = s3fs.S3FileSystem()
    filesystem.mkdir(name)
    filesystem.put(f"{recordings}/", f"{name}/in/", recursive=True)
    yield f"s3://{name}"
    filesystem.rm(name, recursive=True)


def read_bucket(uri: str) -> dict[str, bytes]:
    import s3fs

    filesystem = s3fs.S3FileSystem(use_listings_cache=False)
    root = uri.removeprefix("s3://")
    return {path.removeprefix(f"{root}/"): filesystem.cat_file(path) for path in filesystem.find(root)}


def without_sources(data: bytes) -> list[dict[str, object]]:
    import io

    return [{**row, "source": None} for row in parquet.read_table(io.BytesIO(data)).to_pylist()]


def test_shards_on_s3_are_those_of_a_local_folder(bucket: str, recordings: Path, tmp_path: Path) -> None:
    import s3fs

    tokenize(recordings, tmp_path, shard_files=3)
    outcome = tokenize(recordings, f"{bucket}/out", shard_files=3, verify=3)
    assert (outcome.files, outcome.verification.differing) == (7, [])
    assert read_bucket(f"{bucket}/out") == read_folder(tmp_path)
    assert dict(read_collection(f"{bucket}/out")) == dict(read_collection(tmp_path))
    for name in ("shard-000000.parquet", "shard-000001.parquet"):
        facts = s3fs.S3FileSystem().info(f"{bucket}/out/{name}")
        assert "-" not in facts["ETag"]  # one PUT: an upload in pieces has their number behind the hash


def test_sources_on_s3(bucket: str, recordings: Path, tmp_path: Path) -> None:
    tokenize(recordings, tmp_path, shard_files=3)
    outcome = tokenize(f"{bucket}/in", f"{bucket}/out", shard_files=3)
    assert [failure.source for failure in outcome.failures] == [f"{bucket}/in/speaker0/broken.wav"]
    for name, data in read_bucket(f"{bucket}/out").items():
        if name.startswith("shard"):
            assert without_sources(data) == without_sources((tmp_path / name).read_bytes())
    again = tokenize(f"{bucket}/in", f"{bucket}/out", shard_files=3)
    assert (again.files, again.encoded) == (7, 0)


def test_a_command_goes_on_and_takes_new_objects(bucket: str, recordings: Path) -> None:
    import s3fs

    code, output, errors = run_command(f"{bucket}/in/*/*.flac", "-o", f"{bucket}/out", "--shard-files", 4, "--json")
    assert code == 0, errors
    assert json.loads(output)["files"] == 6
    s3fs.S3FileSystem().rm(f"{bucket}/out/shard-000001.parquet")
    s3fs.S3FileSystem().put(str(recordings / "speaker0" / "0000.flac"), f"{bucket}/in/new/a.flac")
    pattern = [f"{bucket}/in/*/*.flac", "-o", f"{bucket}/out", "--shard-files", 4]
    assert run_command(*pattern)[0] == 1
    code, output, errors = run_command(*pattern, "--extend", "--json")
    assert code == 0, errors
    assert (json.loads(output)["files"], json.loads(output)["encoded"]) == (7, 3)


def test_tars_parquet_and_lists_on_s3(bucket: str, recordings: Path, tmp_path: Path) -> None:
    import s3fs

    paths = sorted(recordings.rglob("*.flac"))
    pack_tar(tmp_path / "t.tar", {path.name: path.read_bytes() for path in paths})
    write_dataset(
        tmp_path / "d.parquet", [{"audio": {"bytes": path.read_bytes(), "path": None}, "text": ""} for path in paths]
    )
    (tmp_path / "list.csv").write_text("path,start,duration\nin/speaker0/0000.flac,0.1,0.2\n")
    filesystem = s3fs.S3FileSystem()
    for name in ("t.tar", "d.parquet", "list.csv"):
        filesystem.put(str(tmp_path / name), f"{bucket}/{name}")
    remote = tokenize([f"{bucket}/{name}" for name in ("t.tar", "d.parquet", "list.csv")], tmp_path / "remote")
    (tmp_path / "list.csv").write_text(f"path,start,duration,id\n{paths[0]},0.1,0.2,in/speaker0/0000@0.1+0.2\n")
    local = [str(tmp_path / name) for name in ("t.tar", "d.parquet", "list.csv")]
    assert (remote.files, remote.failures) == (13, [])
    tokenize(local, tmp_path / "local")
    rows = [without_sources((tmp_path / name / "shard-000000.parquet").read_bytes()) for name in ("remote", "local")]
    assert rows[0] == rows[1]


def test_of_two_plans_on_s3_one_is_first(bucket: str) -> None:
    folder = OutputFolder(f"{bucket}/out")
    assert folder.create(".plan/plan.json", b"first")
    assert not folder.create(".plan/plan.json", b"second")
    assert read_bucket(f"{bucket}/out") == {".plan/plan.json": b"first"}


def test_lost_objects_are_rows(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(f"{bucket}/in/speaker0/0000.flac\n{bucket}/in/gone.flac\n{bucket}x/no.flac\n")
    outcome = tokenize(tmp_path / "list.txt", tmp_path / "out")
    assert {failure.reason for failure in outcome.failures} == {"No such file or directory"}
    assert (outcome.files, len(outcome.failures)) == (3, 2)


def test_a_bucket_that_is_missing_is_one_line(bucket: str, recordings: Path) -> None:
    with pytest.raises(AudioError, match="no-such-bucket/in: No such file or directory"):
        tokenize("s3://no-such-bucket/in", f"{bucket}/out")
    with pytest.raises(OutputError, match="no-such-bucket/out"):
        tokenize(recordings, "s3://no-such-bucket/out")


class Answers:
    """An HTTP server that answers every request alike, and counts them. Without a status it never answers."""

    def __init__(self, *statuses: int | None) -> None:
        self.statuses, self.requests = list(statuses), 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection:
            while connection.recv(65536):
                status = self.statuses[min(self.requests, len(self.statuses) - 1)]
                self.requests += 1
                if status is None:
                    time.sleep(60)
                connection.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("status", "reason", "retried"),
    [
        (403, "Permission denied", False),
        (404, "No such file or directory", False),
        (503, None, True),
        (None, "timed out", True),
    ],
)
def test_what_a_store_answers_becomes_the_reason(
    status: int | None, reason: str | None, retried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """s3fs and botocore try again with backoff where that may help: when the store is busy or silent."""
    import s3fs

    server = Answers(status)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(s3fs.S3FileSystem, "read_timeout", 0.3)
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 2)
    with pytest.raises(AudioError) as caught, Fetcher(RATE, "first").open(Item("a", "s3://bucket/a.flac")):
        pass
    s3fs.S3FileSystem.clear_instance_cache()
    server.socket.close()
    if reason is not None:
        assert caught.value.given == reason
    assert "\n" not in caught.value.given and "bucket" not in caught.value.given
    assert (server.requests > 2) == retried


def test_a_tar_on_s3_that_was_cut_short(bucket: str, tmp_path: Path) -> None:
    import s3fs

    path = pack_tar(tmp_path / "cut.tar", {"a.flac": bytes(9728), "b.flac": bytes(8704)})
    path.write_bytes(path.read_bytes()[:12000])
    s3fs.S3FileSystem().put(str(path), f"{bucket}/cut.tar")
    assert [bool(item.problem) for item in read_tar(f"{bucket}/cut.tar")] == [False, True]
