"""Replicas on Ray Serve: the same answers, and a replica that is killed under load."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime import Codec, Tokens

pytestmark = pytest.mark.heavy
httpx = pytest.importorskip("httpx")
pytest.importorskip("fastapi", reason="needs the extra serve")
ray = pytest.importorskip("ray", reason="needs the extra ray")
serve = pytest.importorskip("ray.serve", reason="needs the extra ray")

REPLICAS = 2


@pytest.fixture(scope="module")
def url(tiny_bundle: Path) -> Iterator[str]:
    from sc_runtime.serving.ray import RayArguments, build

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",
        num_cpus=REPLICAS + 1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        arguments = RayArguments(
            bundle=str(tiny_bundle),
            backend="onnxruntime",
            min_replicas=REPLICAS,
            max_replicas=REPLICAS,
            limits={"token_bytes": 2**18},
        )
        serve.run(build(arguments))
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()
        ray.shutdown()


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


def test_a_replica_killed_under_load(url: str, tokens: Tokens) -> None:
    """It loses at most what it was doing, for which the client gets a 5xx; the others' answers are right."""
    body, address = tokens.to_bytes(), f"{url}/v1/audio?steps=2&seed=1&response_format=pcm"
    expected = httpx.post(address, content=body, timeout=60).content
    answers: list[Any] = []
    ends = time.monotonic() + 20

    def load() -> None:
        while time.monotonic() < ends:
            answer = httpx.post(address, content=body, timeout=120)
            answers.append((answer.status_code, answer.content == expected))

    clients = [threading.Thread(target=load) for _ in range(4)]
    for each in clients:
        each.start()
    time.sleep(4)
    killed = find_replicas()[0]
    os.kill(killed, signal.SIGKILL)
    for each in clients:
        each.join()
    failed = [status for status, right in answers if status != 200]
    assert all(500 <= status < 600 for status in failed), failed
    assert len(failed) <= 4, "more than what the replica was doing"
    assert all(right for status, right in answers if status == 200)
    assert len(answers) > len(failed)
    deadline = time.monotonic() + 60
    while len(set(find_replicas()) - {killed}) < REPLICAS:
        assert time.monotonic() < deadline, "no replica was started in its place"
        time.sleep(0.5)


def find_replicas() -> list[int]:
    """Process ids of the replicas."""
    import psutil

    return [
        each.pid for each in psutil.process_iter(["cmdline"]) if "ServeReplica" in " ".join(each.info["cmdline"] or [])
    ]
