"""The published weights are fetched from the hub once, resumed and found again. Errors are one line.

A server on this machine stands in for the hub; `huggingface_hub` reads its settings when it is imported, so every
client is a process of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch

from sc_runtime.export.registry import read_tensors
from sc_runtime.export.semanticodec.checkpoint import Folder
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from tests.conftest import ROOT
from tests.golden.seeded_weights import centroids, fill
from tests.published_layout import PARTS, make_state, write_codebook

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "haoheliu/SemantiCodec"
TPS, RATE = 50, "semanticodec_tokenrate_50"
SIZES, FULL = choose_sizes("tiny", TPS, 4096), choose_sizes("full", TPS, 4096)
CODEBOOK = "codebook_idx/combine_256_audioset_dominate/codebook_{}_0.npy"

FETCH = """
import json, os, sys
import huggingface_hub.constants
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = 10_000  # or files as small as these arrive in one piece
from sc_runtime.export.semanticodec.checkpoint import fetch_published
folder = fetch_published(50, tuple(map(int, sys.argv[1:])), os.environ.get("REVISION", "main"))
print(json.dumps([str(folder.folder), folder.identity, folder.description, folder.arguments, folder.label]))
"""


class Hub(ThreadingHTTPServer):
    """Serves `root` as the repository; refuses the paths of `refusals`; breaks off `cut` once, half way."""

    daemon_threads = True

    def __init__(
        self,
        root: Path,
        refusals: dict[str, int] | None = None,
        cut: str | None = None,
        repository: str = REPOSITORY,
        revisions: tuple[str, ...] = ("main", COMMIT),
    ) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.root, self.refusals, self.cut = root, refusals or {}, cut
        self.prefixes = tuple(f"/{repository}/resolve/{revision}/" for revision in revisions)
        self.requests: list[tuple[str, str, str | None]] = []  #: (method, path in the repository or /path, range)
        self.paths: list[tuple[str, str, str | None]] = []  #: the same with whole paths

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def list_downloads(self) -> list[tuple[str, str | None]]:
        return [(path, span) for method, path, span in self.requests if method == "GET" and not path.startswith("/")]


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        prefix = next(filter(self.path.startswith, self.server.prefixes), None)
        name, span = self.path.removeprefix(prefix or ""), self.headers["Range"]
        self.server.requests.append((self.command, name, span))
        self.server.paths.append((self.command, self.path, span))
        if status := self.server.refusals.get(name):
            self.refuse(status)
        elif prefix is None or not (self.server.root / name).is_file():
            self.refuse(404, "EntryNotFound")
        else:
            self.send_file(name, (self.server.root / name).read_bytes(), span, with_body)

    def refuse(self, status: int, code: str = "") -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_file(self, name: str, data: bytes, span: str | None, with_body: bool) -> None:
        start = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not with_body:
            return
        if self.server.cut == name:
            self.server.cut = None
            self.wfile.write(data[start : len(data) // 2])
            self.close_connection = True
        else:
            self.wfile.write(data[start:])

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    Thread(target=hub.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hub's repository, with tiny networks: codebooks at its root, checkpoints in a folder of each rate."""
    root = tmp_path_factory.mktemp("repository")
    (root / RATE).mkdir()
    for part in PARTS:
        torch.save(make_state(part, SIZES, FULL), root / RATE / f"{part}.ckpt")
    for vocab in (4096, 8192):
        write_codebook(root, TPS, vocab, SIZES.config.feature_width)
    return root


def start(address: str, cache: Path, *command: str, **variables: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": address, "HF_HOME": str(cache), "NO_PROXY": "127.0.0.1", **variables}
    return subprocess.Popen(
        [sys.executable, *command],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(address: str, cache: Path, *vocabularies: int, **variables: str) -> list[str]:
    client = start(address, cache, "-c", FETCH, *map(str, vocabularies), **variables)
    output, errors = client.communicate(timeout=120)
    assert client.returncode == 0, errors
    return json.loads(output)


STATUSES = {4096: 401, 8192: 403, 16384: 404, 32768: 500}  #: what the hub answers, by codebook
TRY_ALL = """
from sc_runtime.errors import CheckpointError
from sc_runtime.export.semanticodec.checkpoint import fetch_published
for vocab in (4096, 8192, 16384, 32768):
    try:
        fetch_published(50, (vocab,))
    except CheckpointError as error:
        print(error)
"""


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Clients that are refused, all at once: the hub's library waits and asks again, half a minute in all."""
    refusals = {CODEBOOK.format(vocab // 2): status for vocab, status in STATUSES.items()}
    home, other = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("home")
    build = ("-m", "sc_runtime.export.build", "--tps", "50", "--vocab", "4096", "--out", str(home / "bundle"))
    with serving(Hub(Path("nowhere"), refusals)) as hub:
        closed = Hub(Path("nowhere"))
        closed.server_close()
        clients = {
            "statuses": start(hub.address, home, "-c", TRY_ALL),
            "closed port": start(closed.address, other, *build),
            "offline": start(hub.address, other, *build, HF_HUB_OFFLINE="1"),
        }
        yield clients
        for client in clients.values():
            client.kill()
            client.communicate()


def test_what_is_fetched_is_what_was_published(
    refused: dict[str, subprocess.Popen[str]], repository: Path, tmp_path: Path
) -> None:
    """The fixture `refused` is requested so that its clients begin to wait now."""
    with serving(Hub(repository)) as hub:
        path, identity, *words = fetch(hub.address, tmp_path, 4096)
        names = [CODEBOOK.format(2048), f"{RATE}/encoder.ckpt", f"{RATE}/decoder.ckpt"]
        assert hub.list_downloads() == [(name, None) for name in names]
    folder = Folder(Path(path), TPS)
    assert identity == Folder(repository / RATE, TPS).identity
    assert words == ["haoheliu/SemantiCodec/semanticodec_tokenrate_50", f"--revision {COMMIT}", ""]
    for part in PARTS:
        for name, tensor in read_tensors(part, folder, SIZES).items():
            if name != "scale_factor":
                assert np.array_equal(tensor.numpy(), fill(1, name, tuple(tensor.shape))), name
    np.testing.assert_array_equal(
        folder.centroids(4096, SIZES.config.feature_width), centroids(1, 4096, SIZES.config.feature_width)
    )


@pytest.mark.slow
def test_nothing_is_fetched_twice(repository: Path, tmp_path: Path) -> None:
    with serving(Hub(repository)) as hub:
        first = fetch(hub.address, tmp_path, 4096)
        hub.requests.clear()
        assert fetch(hub.address, tmp_path, 4096, 8192) == first
        assert hub.list_downloads() == [(CODEBOOK.format(4096), None)]
    assert fetch(hub.address, tmp_path, 4096, HF_HUB_OFFLINE="1") == first


def test_all_files_are_of_one_commit_which_is_found_again(repository: Path, tmp_path: Path) -> None:
    """The branch moves after the first file. The other files come from the commit of the first."""
    with serving(Hub(repository)) as hub:
        first = fetch(hub.address, tmp_path, 4096)
        downloads = [path for method, path, _ in hub.paths if method == "GET" and path.startswith(f"/{REPOSITORY}/")]
        revisions = [path.split("/")[4] for path in downloads]
    assert revisions == ["main", COMMIT, COMMIT]
    with serving(Hub(repository, revisions=(COMMIT,))) as hub:
        again = fetch(hub.address, tmp_path / "another cache", 4096, REVISION=COMMIT)
    assert again[1:] == first[1:]


def test_a_file_that_is_damaged_in_the_hubs_cache_is_refused(repository: Path, tmp_path: Path) -> None:
    with serving(Hub(repository)) as hub:
        path = Path(fetch(hub.address, tmp_path, 4096)[0], "decoder.ckpt")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.resolve().write_bytes(data)
        client = start(hub.address, tmp_path, "-c", FETCH, "4096")
        _, errors = client.communicate(timeout=120)
    line = errors.strip().splitlines()[-1]
    assert re.search(r"CheckpointError: .*decoder\.ckpt differs from what the hub announced; expected SHA-256", line)
    assert line.endswith(f"delete {path.resolve()}: it is fetched again")


def test_a_broken_download_is_resumed(repository: Path, tmp_path: Path) -> None:
    name = f"{RATE}/decoder.ckpt"
    with serving(Hub(repository, cut=name)) as hub:
        path = Path(fetch(hub.address, tmp_path, 4096)[0])
        spans = [span for requested, span in hub.list_downloads() if requested == name]
    size = (repository / name).stat().st_size
    assert spans[0] is None
    assert spans[1] is not None
    assert size // 4 < int(spans[1].removeprefix("bytes=").rstrip("-")) <= size // 2
    assert (path / "decoder.ckpt").read_bytes() == (repository / name).read_bytes()


def test_a_codebook_that_is_not_published_is_named(repository: Path, tmp_path: Path) -> None:
    with serving(Hub(repository)) as hub:
        client = start(hub.address, tmp_path, "-c", FETCH, "16384")
        _, errors = client.communicate(timeout=120)
        assert hub.list_downloads() == []
    line = errors.strip().splitlines()[-1]
    assert line.startswith(f"sc_runtime.errors.CheckpointError: cannot download {CODEBOOK.format(8192)} of haoheliu/")
    assert "404" in line


def check_refusal(line: str, vocab: int, reason: str) -> None:
    assert line.startswith(f"cannot download {CODEBOOK.format(vocab // 2)} of haoheliu/SemantiCodec from the hub (")
    assert line.endswith("use a local copy with --checkpoint, or stand-in weights with --seeded 1")
    said = line.partition("hub (")[2].partition("); expected a connection to the hub: ")[0]
    assert re.search(reason, said), said


@pytest.mark.parametrize(
    ("case", "reason"),
    [("offline", r"offline mode"), pytest.param("closed port", r"[Cc]onnect", marks=pytest.mark.slow)],
)
def test_the_build_command_without_a_hub_says_what_was_wanted(
    refused: dict[str, subprocess.Popen[str]], case: str, reason: str
) -> None:
    output, errors = refused[case].communicate(timeout=120)
    assert (refused[case].returncode, output) == (1, "")
    (line,) = errors.splitlines()
    check_refusal(line.removeprefix("error: "), 4096, reason)


def test_every_refusal_says_what_was_wanted(refused: dict[str, subprocess.Popen[str]]) -> None:
    output, errors = refused["statuses"].communicate(timeout=120)
    assert errors == ""
    lines = output.splitlines()
    assert len(lines) == len(STATUSES)
    for line, (vocab, status) in zip(lines, STATUSES.items(), strict=True):
        check_refusal(line, vocab, str(status))
