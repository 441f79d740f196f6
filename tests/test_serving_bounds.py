"""The server under load: batches across clients, bounds, clients that leave, the API key, and the end."""

from __future__ import annotations

import io
import logging
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens
from sc_runtime.cli.app import app
from sc_runtime.cli.program import run_command

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")
import httpx  # noqa: E402

RATE = 16000
LONG = "steps=500"  #: of a decoding that outlasts its test


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Any]:
    settings = served_in_thread.ServeSettings(
        str(tiny_bundle),
        backend="onnxruntime",
        batch_ms=50,
        limits=served_in_thread.Limits(
            audio_bytes=2**20,
            token_bytes=2**16,
            seconds=20,
            positions=600,
            requests=8,
            streams=2,
            upload_seconds=3,
            request_seconds=60,
            connections=40,
        ),
    )
    with served_in_thread.serving(settings) as served:
        yield served


@pytest.fixture
def client(served: Any) -> Iterator[Any]:
    with served.client() as client:
        yield client
    served.wait_idle()


@pytest.fixture(scope="module")
def tokens(codec: Codec) -> Tokens:
    """3 s."""
    generator = np.random.default_rng(0)
    count = codec.config.count_positions(3 * RATE)
    return Tokens.from_array(generator.integers(0, [32768, 8192], (count, 2)), codec.config, 3 * RATE)


@pytest.fixture(scope="module")
def clips(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """8 recordings of different lengths, of 1 or 2 windows."""
    sound, _ = soundfile.read(golden / "speech_12s.wav", dtype="int16")
    folder = tmp_path_factory.mktemp("clips")
    found = []
    for number, seconds in enumerate([1, 2, 3, 11, 1.5, 2.5, 12, 0.1]):
        path = folder / f"{number}.wav"
        soundfile.write(path, sound[1000 * number : 1000 * number + int(seconds * RATE)], RATE)
        found.append(path.read_bytes())
    return found


def read_metric(client: Any, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"sc_runtime_{name}"))


def test_windows_of_several_clients_share_batches(served: Any, client: Any, codec: Codec, clips: list[bytes]) -> None:
    expected = [codec.encode(clip).to_bytes() for clip in clips]
    windows, batches = read_metric(client, "batch_windows_sum"), read_metric(client, "batch_windows_count")
    broken = [clips[0][:-100], b"nothing"]

    def post(body: bytes) -> Any:
        return httpx.post(f"{served.url}/v1/tokens?format=sct", content=body, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, clips))
    assert [answer.content for answer in answers] == expected
    with ThreadPoolExecutor(4) as pool:  # one that is bad fails alone
        answers = list(pool.map(post, [broken[0], clips[0], broken[1], clips[1]]))
    assert [answer.status_code for answer in answers] == [422, 200, 422, 200]
    assert [answers[1].content, answers[3].content] == expected[:2]
    windows = read_metric(client, "batch_windows_sum") - windows
    batches = read_metric(client, "batch_windows_count") - batches
    assert windows == 12
    assert batches < windows


def test_encoding_passes_a_decoding(served: Any, client: Any, tokens: Tokens, clips: list[bytes]) -> None:
    with begin_request(served, f"/v1/audio?{LONG}", tokens.to_bytes()):
        served_in_thread.wait_until(lambda: any(job.begun for job in served.service.worker.jobs), 20)
        assert client.post("/v1/tokens", content=clips[0]).status_code == 200
        assert served.service.worker.jobs, "the decoding had ended before the recording was encoded"


def test_decodings_take_turns(served: Any, client: Any, codec: Codec) -> None:
    """A short one does not wait for all windows of a long one that came first."""
    long = Tokens.from_array(np.zeros((codec.config.count_positions(15 * RATE), 2), np.int32), codec.config)
    short = Tokens.from_array(np.zeros((10, 2), np.int32), codec.config)
    with begin_request(served, "/v1/audio?solver=dpm&eta=0&steps=8", long.to_bytes()):
        served_in_thread.wait_until(lambda: any(job.begun for job in served.service.worker.jobs), 20)
        assert client.post("/v1/audio?steps=2", content=short.to_bytes()).status_code == 200
        assert served.service.worker.jobs, "the long one had ended"


@pytest.mark.parametrize("stream", ["true", "false"])
def test_a_client_that_leaves_stops_its_work(served: Any, client: Any, tokens: Tokens, stream: str) -> None:
    before = read_metric(client, "abandoned_total")
    body = tokens.to_bytes()
    with begin_request(served, f"/v1/audio?steps=500&stream={stream}", body):
        served_in_thread.wait_until(lambda: any(job.begun for job in served.service.worker.jobs), 20)
    served.wait_idle(10)  # 500 steps take longer
    assert read_metric(client, "abandoned_total") == before + 1


def test_bounds(served: Any, client: Any, codec: Codec, tokens: Tokens) -> None:
    too_large = client.post("/v1/tokens", content=bytes(2**21))
    assert (too_large.status_code, too_large.json()["expected"]) == (413, "at most 1048576 bytes")
    assert "retry-after" not in too_large.headers  # a client that obeyed it would send the same body again

    def lie() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(2**16)

    assert client.post("/v1/tokens", content=lie()).status_code == 413  # chunked: without a length
    assert client.post("/v1/audio", content=bytes(2**18)).status_code == 413
    silence = np.zeros(21 * 8000, np.int16)
    assert post_sound(client, silence, 8000).json()["given"] == "sound of more than 20 s"
    assert post_sound(client, np.zeros(10, np.int16), 500).status_code == 422
    many = Tokens.from_array(np.zeros((601, 2), np.int32), codec.config)
    assert client.post("/v1/audio?steps=2", content=many.to_bytes()).json()["given"] == "601 positions"


def test_a_small_file_of_hours_is_refused(client: Any) -> None:
    """FLAC holds hours of silence in a few kilobytes, so that the body's size does not bound the work."""
    answer = post_sound(client, np.zeros(3600 * 8000, np.int16), 8000, "FLAC")
    assert answer.status_code == 422
    assert answer.json()["given"] == "sound of more than 20 s"


def test_slow_clients_fill_the_queue_and_are_refused(served: Any, client: Any, tokens: Tokens) -> None:
    slow = [begin_request(served, "/v1/audio", b"SCTK", length=1000) for _ in range(8)]
    served_in_thread.wait_until(lambda: len(served.service.admission.tickets) == 8, 5)
    answer = client.post("/v1/audio", content=tokens.to_bytes())
    assert answer.status_code == 429
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.json()["type"] == "urn:sc-runtime:problem:busy"
    for connection in slow:
        assert connection.recv(100).startswith(b"HTTP/1.1 408 "), "a body that does not arrive"
        connection.close()
    assert client.post("/v1/audio?steps=2", content=tokens.to_bytes()).status_code == 200


def test_too_many_streams(served: Any, client: Any, tokens: Tokens) -> None:
    body = tokens.to_bytes()
    streams = [begin_request(served, "/v1/audio?steps=500&stream=true", body) for _ in range(2)]
    served_in_thread.wait_until(lambda: served.service.admission.streams == 2, 5)
    answer = client.post("/v1/audio?stream=true", content=body)
    assert (answer.status_code, answer.json()["type"]) == (429, "urn:sc-runtime:problem:streams")
    assert "retry-after" in answer.headers
    for connection in streams:
        connection.close()
    served.wait_idle()
    assert served.service.admission.streams == 0


def test_garbage(served: Any, client: Any) -> None:
    for data in (
        b"\x16\x03\x01" + bytes(200),
        b"GET / HTTP/9\r\n\r\n",
        b"POST /v1/audio HTTP/1.1\r\ncontent-length: -4\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
            connection.sendall(data)
            assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 505", b"")
    assert client.get("/healthz").status_code == 200


@pytest.mark.slow
def test_silent_connections(served: Any) -> None:
    silent = socket.create_connection(("127.0.0.1", served.port), timeout=10)
    assert silent.recv(1) == b"", "a connection without a request is closed"
    silent.close()


def test_a_request_that_takes_too_long(tiny_bundle: Path, tokens: Tokens) -> None:
    limits = served_in_thread.Limits(request_seconds=0.5, drain_seconds=1)
    settings = served_in_thread.ServeSettings(str(tiny_bundle), backend="onnxruntime", limits=limits)
    with served_in_thread.serving(settings) as served, served.client() as client:
        late = client.post("/v1/audio?steps=500", content=tokens.to_bytes())
        assert (late.status_code, late.json()["type"]) == (504, "urn:sc-runtime:problem:timeout")
        served.wait_idle(5)


def test_api_key_and_origins(tiny_bundle: Path) -> None:
    settings = served_in_thread.ServeSettings(
        str(tiny_bundle), backend="onnxruntime", api_key="swordfish", origins=("https://example.org",)
    )
    with served_in_thread.serving(settings, wait_ready=False) as served, served.client() as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/").status_code == 200
        for headers in ({}, {"authorization": "Bearer swordfis"}, {"x-api-key": "swordfish2"}, {"x-api-key": b"\xe9"}):
            refused = client.get("/v1/models", headers=headers)
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
            assert refused.json()["type"] == "urn:sc-runtime:problem:key"
        assert client.get("/metrics").status_code == 401
        served_in_thread.wait_until(served.service.loaded.is_set, 60)
        for headers in ({"authorization": "Bearer swordfish"}, {"x-api-key": "swordfish"}):
            assert client.get("/v1/models", headers=headers).status_code == 200
        allowed = client.get("/healthz", headers={"origin": "https://example.org"})
        assert allowed.headers["access-control-allow-origin"] == "https://example.org"
        other = client.get("/healthz", headers={"origin": "https://example.com"})
        assert "access-control-allow-origin" not in other.headers
        asked = {"origin": "https://example.com", "access-control-request-method": "POST"}
        preflight = client.options("/v1/tokens", headers=asked)  # which browsers read, and Starlette answers
        assert (preflight.status_code, preflight.headers["content-type"][:10]) == (400, "text/plain")
        for origin, status in (("https://example.com", 403), ("https://example.org", 422), (served.url, 422)):
            headers = {"origin": origin, "x-api-key": "swordfish"}
            assert client.post("/v1/tokens", content=b"x", headers=headers).status_code == status
    assert "swordfish" not in repr(settings)


def test_a_server_without_its_bundle_is_not_ready(tmp_path: Path) -> None:
    settings = served_in_thread.ServeSettings(str(tmp_path / "nothing"))
    with served_in_thread.serving(settings) as served, served.client() as client:
        assert client.get("/healthz").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()) == (503, {"status": "failed"})
        answer = client.post("/v1/tokens", content=b"x")
        assert answer.status_code == 503
        assert str(tmp_path) not in answer.text


def begin_request(served: Any, address: str, body: bytes, length: int | None = None) -> socket.socket:
    """A connection on which a request was sent, whose body may be shorter than it declares."""
    connection = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    head = f"POST {address} HTTP/1.1\r\nhost: a\r\ncontent-length: {length or len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def post_sound(client: Any, samples: np.ndarray, rate: int, container: str = "WAV") -> Any:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container)
    return client.post("/v1/tokens", content=file.getvalue())


def test_a_client_that_leaves_within_an_upload_leaves_no_traceback(served: Any, client: Any, monkeypatch: Any) -> None:
    said: list[object] = []
    for name in ("uvicorn.error", "sc_runtime.serving"):
        monkeypatch.setattr(logging.getLogger(name), "error", lambda *texts, **given: said.append(texts))
    with socket.create_connection(("127.0.0.1", served.port)) as leaving:
        leaving.send(b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nabc")
        time.sleep(0.5)
    time.sleep(0.5)
    served.wait_idle()
    assert client.get("/healthz").status_code == 200
    assert not said


def test_an_address_where_nobody_can_listen_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run_command(app, ["serve", "--port", str(port)]) == 1
    assert capsys.readouterr().err.startswith(f"error: --host 127.0.0.1 --port {port} (Address already in use")
    assert run_command(app, ["serve", "--host", "nosuchhost.invalid"]) == 1
    assert "error: --host nosuchhost.invalid" in capsys.readouterr().err
