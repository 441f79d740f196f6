"""Replicas on Ray Serve: the same answers, and a replica that is killed under load."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime import Codec, Tokens

pytestmark = pytest.mark.heavy
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("ray.serve", reason="needs the extra ray")

COMMAND = [sys.executable, "-m", "sc_runtime.serving.ray"]
REPLICAS = 2
START_SECONDS = 600  #: Ray starts eight processes of Python, each of which imports it


@pytest.fixture(scope="module")
def cluster(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of the command, which is ready, and its process. At the end it gets SIGTERM and must exit with 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--bundle", str(tiny_bundle), "--backend", "onnxruntime", "--port", str(port)]
    options += ["--min-replicas", str(REPLICAS), "--max-replicas", str(REPLICAS), "--limit", "token_bytes=262144"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with log.open("wb") as out, subprocess.Popen([*COMMAND, *options], stdout=out, stderr=out) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_ready(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            yield f"http://127.0.0.1:{port}", process.pid
            process.terminate()
            assert process.wait(120) == 0, log.read_text()[-3000:]
        finally:
            process.kill()


def is_ready(port: int) -> bool:
    try:
        return bool(httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10).status_code == 200)
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def url(cluster: tuple[str, int]) -> str:
    return cluster[0]


@pytest.fixture(scope="module")
def tokens(tiny_bundle: Path) -> Tokens:
    config = Codec.load(tiny_bundle, backend="onnxruntime").config
    generator = np.random.default_rng(0)
    return Tokens.from_array(generator.integers(0, [32768, 8192], (config.count_positions(64000), 2)), config, 64000)


def test_answers_are_the_same(url: str, tiny_bundle: Path, tokens: Tokens, golden: Path) -> None:
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    speech = golden / "speech_12s.wav"
    with httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/readyz").json() == {"status": "ok"}
        answer = client.post("/v1/tokens?format=sct", content=speech.read_bytes())
        assert answer.content == codec.encode(speech).to_bytes()
        whole = client.post("/v1/audio?steps=2&seed=3&response_format=pcm&bit_depth=32", content=tokens.to_bytes())
        expected = np.clip(codec.decode(tokens, steps=2, seed=3), -1, 1)
        np.testing.assert_allclose(np.frombuffer(whole.content, "<f4"), expected, atol=1e-5)
        streamed = client.post(
            "/v1/audio?steps=2&seed=3&response_format=pcm&bit_depth=32&stream=true", content=tokens.to_bytes()
        )
        assert streamed.content == whole.content
        wrong = client.post("/v1/audio?steps=0", content=tokens.to_bytes())
        assert wrong.headers["content-type"] == "application/problem+json"
        assert client.post("/v1/audio", content=bytes(2**20)).status_code == 413
        assert "POST" in client.get("/docs").text or client.get("/docs").status_code == 200


def test_a_replica_killed_under_load(cluster: tuple[str, int], tokens: Tokens) -> None:
    """It loses at most what it was doing, for which the client gets a 5xx; the others' answers are right."""
    url, command = cluster
    body, address = tokens.to_bytes(), f"{url}/v1/audio?steps=10&seed=1&response_format=pcm"
    started = time.monotonic()
    expected = httpx.post(address, content=body, timeout=300).content
    alone = time.monotonic() - started
    answers: list[Any] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            answer = httpx.post(address, content=body, timeout=300)
            answers.append((answer.status_code, answer.content == expected, answer.text[:5000]))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for each in clients:
        each.start()
    time.sleep(alone)  # two run on each replica, so that they take longer
    killed = find_replicas(command)[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: len(answers) >= 12)
    ended.set()
    for each in clients:
        each.join()
    failed = [(status, text) for status, _, text in answers if status != 200]
    assert all(500 <= status < 600 and "Traceback" not in text for status, text in failed), failed
    assert len(failed) <= 4, "more than what the replica was doing"
    assert all(right for status, right, _ in answers if status == 200)
    assert len(answers) > len(failed)
    wait_until(lambda: len(set(find_replicas(command)) - {killed}) == REPLICAS)  # one was started in its place


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bundle", "nowhere/at all"], "nowhere/at all"),
        (["--limit", "seconds=0"], "seconds 0; expected more than 0"),
        (["--min-replicas", "3"], "3 replicas at least and 1 at most"),
    ],
)
def test_what_cannot_start_is_one_line(options: list[str], message: str) -> None:
    run = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1
    assert message in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr


def test_a_cluster_that_does_not_answer_is_one_line() -> None:
    given = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}
    run = subprocess.run(COMMAND, capture_output=True, text=True, timeout=120, check=False, env=given)
    assert run.returncode == 1
    assert "Ray at 127.0.0.1:1" in run.stderr and len(run.stderr.splitlines()) == 1, run.stderr


def wait_until(condition: Callable[[], bool], seconds: float = START_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.1)


def find_replicas(command: int) -> list[int]:
    """Ids of the replicas among the processes that the process `command` started."""
    import psutil

    found = psutil.Process(command).children(recursive=True)
    return [each.pid for each in found if "ServeReplica" in " ".join(each.cmdline())]
