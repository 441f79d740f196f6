"""`WS /v1/stream`, and the end of the process on SIGTERM."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")
client_module = pytest.importorskip("websockets.sync.client")
websockets = pytest.importorskip("websockets")

RATE = 16000
DECODE = {"task": "decode", "steps": 2, "seed": 7}


@pytest.fixture(scope="module")
def speech(golden: Path) -> np.ndarray:
    """12 s of int16: two windows."""
    samples: np.ndarray = soundfile.read(golden / "speech_12s.wav", dtype="int16")[0]
    return samples


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Any]:
    limits = served_in_thread.Limits(idle_seconds=1, seconds=60, token_bytes=2**17)
    settings = served_in_thread.ServeSettings(
        str(tiny_bundle), backend="onnxruntime", limits=limits, origins=("https://example.org",)
    )
    with served_in_thread.serving(settings) as served:
        yield served
        served.wait_idle()


def connect(served: Any, **arguments: Any) -> Any:
    return client_module.connect(served.socket_url, **arguments)


def send_all(connection: Any, messages: Iterable[str | bytes]) -> None:
    """Sends the messages, or as many as the server reads: it may refuse one and close while the next is sent."""
    with contextlib.suppress(websockets.ConnectionClosed):
        for message in messages:
            connection.send(message)


def read_all(connection: Any) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Text messages and binary messages, until the server closes."""
    texts, binaries = [], []
    try:
        while True:
            message = connection.recv(timeout=60)
            binaries.append(message) if isinstance(message, bytes) else texts.append(json.loads(message))
    except websockets.ConnectionClosed:
        return texts, binaries


def test_tokens_in_and_sound_out(served: Any, codec: Codec, speech: np.ndarray) -> None:
    tokens = codec.encode(speech[: 6 * RATE], RATE)
    with connect(served) as connection:
        connection.send(json.dumps({**DECODE, "bit_depth": 32}))
        connection.send(tokens.to_bytes())
        texts, pieces = read_all(connection)
    assert texts[0] == {"type": "start", "sample_rate": RATE, "channels": 1, "bit_depth": 32, "samples": 6 * RATE}
    assert texts[-1]["type"] == "end"
    assert connection.close_code == 1000
    assert len(pieces) > 1
    expected = codec.decode(tokens, steps=2, seed=7)
    np.testing.assert_array_equal(np.frombuffer(b"".join(pieces), "<f4"), np.clip(expected, -1, 1))


@pytest.mark.parametrize("channels", [1, 2])
def test_sound_in_and_tokens_out(served: Any, codec: Codec, speech: np.ndarray, channels: int) -> None:
    samples = speech if channels == 1 else np.stack([speech, speech[::-1]], 1)
    expected = codec.encode(samples, RATE)
    data = samples.tobytes()
    with connect(served) as connection:
        connection.send(json.dumps({"task": "encode", "sample_rate": RATE, "channels": channels}))
        for start in range(0, len(data), 50_001):  # messages need not end with a frame
            connection.send(data[start : start + 50_001])
        connection.send(json.dumps({"type": "end"}))
        texts, (file,) = read_all(connection)
    assert file == expected.to_bytes()
    windows = [text for text in texts if text["type"] == "window"]
    assert [text["windows"] for text in windows] == [2, 2]
    codes = np.concatenate([text["codes"] for text in windows])
    np.testing.assert_array_equal(codes[: len(expected)], expected.codes)
    assert texts[-2]["samples"] == expected.samples and texts[-1] == {"type": "end", "segments": 1}


def test_segments_are_encoded_as_they_arrive(served: Any, codec: Codec, speech: np.ndarray) -> None:
    with connect(served) as connection:
        connection.send(json.dumps({"task": "encode", "sample_rate": RATE, "segment_seconds": 2, "bit_depth": 32}))
        sound = (speech[: 5 * RATE] / 32768).astype("<f4")
        files = []
        for start in range(0, len(sound), RATE):
            connection.send(sound[start : start + RATE].tobytes())
            if start % (2 * RATE) == RATE:  # two seconds have arrived: their tokens come before anything else is sent
                message = connection.recv(timeout=60)
                while not isinstance(message, bytes):
                    message = connection.recv(timeout=60)
                files.append(message)
        connection.send(json.dumps({"type": "end"}))
        texts, rest = read_all(connection)
    files += rest
    assert texts[-1] == {"type": "end", "segments": 3}
    for number, file in enumerate(files):
        part = speech[2 * RATE * number : min(2 * RATE * (number + 1), 5 * RATE)]
        assert Tokens.from_bytes(file) == codec.encode(part, RATE)


@pytest.mark.parametrize(
    ("messages", "code", "given"),
    [
        (["{"], 1007, ""),
        (['{"task": "sing"}'], 1007, "task 'sing'"),
        ([b"x"], 1007, "a binary message"),
        ([json.dumps({**DECODE, "colour": "red"})], 1007, "parameter colour"),
        ([json.dumps(DECODE), "text"], 1007, "a text message"),
        ([json.dumps(DECODE), b"SCTK"], 1007, "a token file cut short"),
        ([json.dumps({**DECODE, "steps": 0}), "tokens"], 1007, "0 steps"),
        ([json.dumps({**DECODE, "bit_depth": 9}), "tokens"], 1007, "bit_depth 9"),
        ([json.dumps({"task": "encode", "bit_depth": 24})], 1007, "bit_depth 24"),
        ([json.dumps({"task": "encode", "channels": 0})], 1007, "channels 0"),
        ([json.dumps({"task": "encode", "vocab": 3})], 1007, "vocabulary 3"),
        ([json.dumps({"task": "encode", "sample_rate": 5}), b"\0\0", '{"type": "end"}'], 1007, "array: sample rate 5"),
        ([json.dumps({"task": "encode"}), b"\0\0\0", '{"type": "end"}'], 1007, "3 bytes of samples"),
        ([json.dumps({"task": "encode"}), '{"type": "end"}'], 1007, "array of shape"),
        ([json.dumps({"task": "encode", "sample_rate": 1000}), bytes(130_000)], 1009, "130000 bytes of samples"),
        ([json.dumps(DECODE)], 4408, "a client that is silent for 1 s"),
    ],
)
def test_close_codes(served: Any, codec: Codec, messages: list[Any], code: int, given: str) -> None:
    tokens = Tokens.from_array(np.zeros((20, 2), np.int32), codec.config).to_bytes()
    with connect(served) as connection:
        send_all(connection, (tokens if message == "tokens" else message for message in messages))
        texts, _ = read_all(connection)
    assert connection.close_code == code, (texts, connection.close_reason)
    assert texts[-1]["given"].startswith(given)
    assert connection.close_reason.startswith(texts[-1]["given"][:50])


def test_a_client_that_leaves_or_talks(served: Any, codec: Codec) -> None:
    tokens = Tokens.from_array(np.zeros((200, 2), np.int32), codec.config).to_bytes()
    for message in (None, "what else?"):
        with connect(served) as connection:
            connection.send(json.dumps({**DECODE, "steps": 500}))
            connection.send(tokens)
            served_in_thread.wait_until(lambda: any(job.begun for job in served.service.worker.jobs), 20)
            if message is None:
                connection.socket.shutdown(socket.SHUT_RDWR)
            else:
                connection.send(message)
                read_all(connection)
                assert connection.close_code == 1007
            served.wait_idle(10)


def test_pages_of_other_origins(served: Any) -> None:
    for origin, accepted in ((served.url, True), ("https://example.org", True), ("https://example.com", False)):
        if accepted:
            with connect(served, origin=origin):
                pass
        else:
            with pytest.raises(websockets.InvalidStatus, match="403"), connect(served, origin=origin):
                pass


def test_an_unknown_address(served: Any) -> None:
    with pytest.raises(websockets.InvalidStatus, match="403"), client_module.connect(f"{served.socket_url}/other"):
        pass


@pytest.mark.slow
def test_api_key(tiny_bundle: Path) -> None:
    settings = served_in_thread.ServeSettings(str(tiny_bundle), backend="onnxruntime", api_key="swordfish")
    with served_in_thread.serving(settings) as served:
        for message, headers, code in (
            (DECODE, {}, 1008),
            ({**DECODE, "api_key": "no"}, {}, 1008),
            ({**DECODE, "api_key": "swordfish"}, {}, 1007),
            (DECODE, {"authorization": "Bearer swordfish"}, 1007),
        ):
            with connect(served, additional_headers=headers) as connection:
                send_all(connection, (json.dumps(message), "no tokens"))
                read_all(connection)
                assert connection.close_code == code


@pytest.mark.parametrize("drain_seconds", [30, pytest.param(1, marks=pytest.mark.slow)])
def test_sigterm(tiny_bundle: Path, codec: Codec, drain_seconds: int) -> None:
    """What runs is finished, if there is time; what waits and what comes is refused; the process ends with 0."""
    import httpx

    process_module = pytest.importorskip("bench.serving.process", reason="needs the extra bench")
    limits = {"drain_seconds": drain_seconds}
    with process_module.serve_process(bundle=str(tiny_bundle), backend="onnxruntime", limits=limits) as served:
        tokens = Tokens.from_array(np.zeros((200, 2), np.int32), codec.config).to_bytes()
        steps = 40 if drain_seconds > 1 else 500
        running = open_request(served.port, f"/v1/audio?steps={steps}", tokens)
        served_in_thread.wait_until(lambda: served.read_metrics()["sc_runtime_queue"] == 1, 10)
        time.sleep(0.5)  # so that it has begun before the next is queued
        waiting = open_request(served.port, f"/v1/audio?steps={steps}", tokens)
        served_in_thread.wait_until(lambda: served.read_metrics()["sc_runtime_queue"] == 2, 10)
        served.process.send_signal(signal.SIGTERM)
        started = time.monotonic()
        assert read_status(waiting) == 503
        assert read_status(running) == (200 if drain_seconds > 1 else 503)
        assert served.process.wait(drain_seconds + 5) == 0
        assert time.monotonic() - started < drain_seconds + 5
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{served.url}/healthz")


def open_request(port: int, address: str, body: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(f"POST {address} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    return connection


def read_status(connection: socket.socket) -> int:
    with connection:
        return int(connection.recv(1000).split()[1])
