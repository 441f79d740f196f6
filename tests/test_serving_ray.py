"""Replicas on Ray Serve: the same answers, a replica that is killed under load, `serve run`, and autoscaling."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime import Codec, Tokens

pytestmark = pytest.mark.heavy
httpx = pytest.importorskip("httpx")
psutil = pytest.importorskip("psutil")
click = pytest.importorskip("click")
pytest.importorskip("fastapi", reason="needs the extra serve")
pytest.importorskip("ray.serve", reason="needs the extra ray")

COMMAND = [sys.executable, "-m", "sc_runtime.serving.ray"]
SERVE_RUN = [str(Path(sys.executable).with_name("serve")), "run", "sc_runtime.serving.ray:build"]
SERVE_PORT = 8000  #: of `serve run`, which has no option for it
REPLICAS = 2
START_SECONDS = 600  #: Ray starts eight processes of Python, each of which imports it
#: Ray gives its workers niceness 15. On a busy machine a replica then gets one part in thirty of a core.
ENVIRONMENT = {**os.environ, "RAY_worker_niceness": "0"}


@pytest.fixture(scope="module")
def cluster(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """The address of the command, which is ready, and its process. At the end it gets SIGTERM and must exit with 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--bundle", str(tiny_bundle), "--backend", "onnxruntime", "--port", str(port)]
    options += ["--min-replicas", str(REPLICAS), "--max-replicas", str(REPLICAS), "--limit", "token_bytes=262144"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with start_command([*COMMAND, *options], port, log, ENVIRONMENT) as process:
        yield f"http://127.0.0.1:{port}", process.pid
        process.terminate()
        assert process.wait(120) == 0, log.read_text()[-3000:]


@contextmanager
def start_command(
    command: list[str], port: int, log: Path, environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """A server's command, when it is ready at `port`. It is killed after the block, if it has not ended."""
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_ready(port):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(1)
            yield process
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
        page = client.get("/docs")
        assert page.headers["content-type"].startswith("text/html") and "openapi.json" in page.text


class Load:
    """Clients that each send one request after the other, until the block ends. None may lose its connection.

    answers: those that came so far.
    """

    def __init__(self, address: str, body: bytes, clients: int) -> None:
        self.address, self.body = address, body
        self.answers: list[Any] = []
        self.errors: list[Exception] = []
        self.ended = threading.Event()
        self.clients = [threading.Thread(target=self.send) for _ in range(clients)]

    def send(self) -> None:
        while not self.ended.is_set():
            try:
                self.answers.append(httpx.post(self.address, content=self.body, timeout=300))
            except httpx.TransportError as error:
                self.errors.append(error)
                return

    def __enter__(self) -> Load:
        for each in self.clients:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        for each in self.clients:
            each.join()
        assert not self.errors, self.errors


def test_a_replica_killed_under_load(cluster: tuple[str, int], tokens: Tokens) -> None:
    """It loses at most what it was doing, for which clients get problem documents. The other answers are right."""
    url, command = cluster
    body, address = tokens.to_bytes(), f"{url}/v1/audio?steps=10&seed=1&response_format=pcm"
    expected = httpx.post(address, content=body, timeout=300).content
    with Load(address, body, 4) as load:
        wait_until(lambda: len(load.answers) >= 4)
        killed = find_busiest(find_replicas(command))
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: len(load.answers) >= 16)
    failed = [answer for answer in load.answers if answer.status_code != 200]
    assert 1 <= len(failed) <= 4, "none, or more than the replica was doing"
    for answer in failed:
        assert answer.status_code == 503 and answer.headers["retry-after"]
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert problem["type"] == "urn:sc-runtime:problem:replica" and problem["remedy"] == "send it again"
    assert all(answer.content == expected for answer in load.answers if answer.status_code == 200)
    wait_until(lambda: len(set(find_replicas(command)) - {killed}) == REPLICAS)  # one was started in its place
    for _ in range(2 * REPLICAS):
        assert httpx.post(address, content=body, timeout=300).content == expected


def test_serve_run_and_autoscaling(tiny_bundle: Path, tokens: Tokens, tmp_path: Path) -> None:
    """The other command of the module's docstring. A second replica starts while the first has too many requests."""
    with socket.socket() as other:
        if other.connect_ex(("127.0.0.1", SERVE_PORT)) == 0:
            pytest.skip(f"another program uses port {SERVE_PORT}")
    options = [f"bundle={tiny_bundle}", "backend=onnxruntime", "threads=1"]
    options += [f"max_replicas={REPLICAS}", "target_ongoing_requests=1", "limits=token_bytes=262144,requests=32"]
    environment = {**ENVIRONMENT, "RAY_ADDRESS": "local"}  # else it joins any cluster of this machine
    environment.pop("RAY_USAGE_STATS_ENABLED", None)
    with start_command([*SERVE_RUN, *options], SERVE_PORT, tmp_path / "log", environment) as process:
        (first,) = find_replicas(process.pid)
        assert psutil.Process(first).environ()["RAY_USAGE_STATS_ENABLED"] == "0"
        address = f"http://127.0.0.1:{SERVE_PORT}/v1/audio?steps=10&seed=1&response_format=pcm"
        expected = httpx.post(address, content=tokens.to_bytes(), timeout=300).content
        with Load(address, tokens.to_bytes(), 6) as load:
            wait_until(lambda: len(find_replicas(process.pid)) == REPLICAS)
            wait_until(lambda: len(find_served(SERVE_PORT)) == REPLICAS)
        assert load.answers and all(answer.content == expected for answer in load.answers)
        process.terminate()
        process.wait(120)  # with the exit code of Ray's own handler


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


def test_arguments_of_serve_run() -> None:
    """`serve run` gives texts. What it gives wrong is one line."""
    from sc_runtime.serving.ray import RayArguments, build, read_arguments

    limits = "seconds=2.5,requests=16"
    found = read_arguments({"bundle": "embedded", "threads": "8", "gpus": "0.5", "max_replicas": "4", "limits": limits})
    expected = RayArguments(
        bundle="embedded", threads=8, gpus=0.5, max_replicas=4, limits={"seconds": 2.5, "requests": 16}
    )
    assert found == expected
    assert (found.make_settings().limits.seconds, found.make_settings().limits.requests) == (2.5, 16)
    for wrong, message in (
        ({"threads": "many"}, "threads 'many'; expected a whole number: the arguments are bundle"),
        ({"threads": "0"}, "threads '0'; expected at least 1: "),
        ({"replicas": "2"}, "parameter replicas; expected a parameter of build: "),
        ({"limits": "seconds"}, "the limit 'seconds'; expected NAME=NUMBER"),
        ({"limits": "seconds=2,colour=5"}, "setting colour; expected one of audio_bytes"),
        ({"limits": "seconds=0"}, "seconds 0; expected more than 0"),
        ({"min_replicas": "3"}, "3 replicas at least and 1 at most; expected"),
    ):
        with pytest.raises(click.ClickException) as caught:
            build(wrong)
        assert caught.value.message.startswith(message) and len(caught.value.message.splitlines()) == 1


def test_serve_run_prints_no_traceback() -> None:
    run = subprocess.run([*SERVE_RUN, "threads=many"], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("Error: threads 'many'; expected a whole number")
    assert "Traceback" not in run.stderr + run.stdout


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


def find_busiest(replicas: list[int]) -> int:
    """The one of these processes that computed most in half a second."""
    found = [psutil.Process(each) for each in replicas]
    before = [each.cpu_times().user for each in found]
    time.sleep(0.5)
    return max(zip(found, before, strict=True), key=lambda entry: entry[0].cpu_times().user - entry[1])[0].pid


def find_served(port: int) -> set[str]:
    """When each of the replicas that answer began, as its metrics state it."""
    names = set()
    for _ in range(20):
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text.splitlines()
        names |= {line for line in lines if line.startswith("sc_runtime_abandoned_created ")}
    return names


def find_replicas(command: int) -> list[int]:
    """Ids of the replicas among the processes that the process `command` started."""
    found = psutil.Process(command).children(recursive=True)
    return [each.pid for each in found if "ServeReplica" in " ".join(each.cmdline())]
