"""Errors of the server: every one states what was given, what was expected and what an HTTP client does about it."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens
from sc_runtime.errors import AudioError, SettingsError, TokensError

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")
websockets = pytest.importorskip("websockets.sync.client", reason="needs websockets")

from sc_runtime.serving.problems import ProblemError, explain_error, shorten  # noqa: E402

RATE = 16000
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data"}
#: Words of pydantic, and of the command line and Python, which say nothing to an HTTP client.
FOREIGN = re.compile(r"Input should|Invalid JSON|Field required|parse|Tuple|(^|\W)--?[a-z]|sc-runtime |in Python")
CURL = re.compile(r"as curl does with -F \S+")  #: the one option that a remedy may name


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Any]:
    with served_in_thread.serving(served_in_thread.ServeSettings(str(tiny_bundle), backend="onnxruntime")) as served:
        yield served


@pytest.fixture(scope="module")
def client(served: Any) -> Iterator[Any]:
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def tokens(codec: Codec) -> bytes:
    zeros = np.zeros((codec.config.count_positions(RATE), 2), np.int32)
    return Tokens.from_array(zeros, codec.config, RATE).to_bytes()


def check_problem(problem: dict[str, Any]) -> None:
    """Every part is there, short, one line, and in the words of this project."""
    for name in ("given", "expected", "remedy"):
        text = problem[name]
        assert text and text == text.strip() and text.isprintable(), problem
        assert len(text) <= 160, problem
        assert not FOREIGN.search(CURL.sub("", text)), problem
    assert problem["detail"] == f"{problem['given']}; expected {problem['expected']}: {problem['remedy']}"


@pytest.mark.parametrize(
    ("body", "given", "expected"),
    [
        ("{", "a document that is not JSON (EOF", "a JSON document"),
        ("x" * 5000, "a document that is not JSON (expected value at line 1 column 1)", "a JSON document"),
        ("[]", "a document that is []", "a JSON object"),
        ('"' + "x" * 5000 + '"', "a document that is 'xxx", "a JSON object"),
        ("{}", "a document without codes", "codes"),
        ('{"codes": 1}', "codes 1", "a list"),
        ('{"codes": [[1, 2], [3]]}', "a list that cannot become an array", "integers [T, C] or [1, T, C]"),
        ('{"codes": [[1e400, 1]]}', "codes.0.0 inf", "a finite number"),
        ('{"codes": [[1.5, 1]]}', "codes.0.0 1.5", "a whole number"),
        ('{"codes": [["a", 1]]}', "codes.0.0 'a'", "a whole number"),
        ('{"codes": [[1, 2]], "stream": "maybe"}', "stream 'maybe'", "true or false"),
        ('{"codes": [[1, 2]], "codec": 5}', "codec 5", "a text"),
        ('{"codes": [[1, 2]], "codec": "' + "a" * 5000 + '"}', "tokens of codec 'aaa", "one of semanticodec"),
        ('{"codes": [[1, 2]], "vocabularies": [1]}', "vocabularies [1]", "a JSON object"),
        ('{"codes": [[1, 2]], "interval": [1]}', "interval with 1 of its values", "all of them"),
        ('{"codes": [[1, 2]], "interval": [1, 2, 3]}', "interval [1, 2, 3]", "2 values"),
        ('{"codes": [[1, 2]], "' + "k" * 5000 + '": 1}', "parameter kkk", "a parameter of /docs"),
        ('{"codes": [[1, 2]], "steps": ' + "9" * 5000 + "}", "a document that is not JSON (number", "a JSON document"),
    ],
)
def test_documents(client: Any, body: str, given: str, expected: str) -> None:
    answer = client.post("/v1/audio", content=body, headers=JSON)
    problem = answer.json()
    assert answer.status_code == 422
    assert problem["given"].startswith(given) and problem["expected"].startswith(expected), problem
    check_problem(problem)


@pytest.mark.parametrize(
    ("query", "given", "expected"),
    [
        ("steps=many", "steps 'many'", "a whole number"),
        ("steps=", "steps ''", "a whole number"),
        ("steps=100000", "100000 steps", "1 to 999"),
        ("guidance=x", "guidance 'x'", "a number"),
        ("guidance=nan", "guidance nan", "a finite number"),
        ("eta=-1", "eta -1.0", "0 "),
        ("stream=7", "stream '7'", "true or false"),
        ("interval=1", "interval with 1 of its values", "all of them"),
        ("seed=-1", "seed -1", "a whole number"),
        ("solver=x", "solver 'x'", "one of ddim"),
        ("response_format=xyz", "response_format 'xyz'", "'wav', 'flac'"),
        ("response_format=pcm&bit_depth=5", "bit_depth 5", "16 or 24 or 32"),
        ("vocab=5", "vocabulary 5", "one that"),
        ("vocab=" + "9" * 5000, "vocab '999", "a whole number of fewer digits"),
        ("preset=" + "p" * 5000, "preset 'ppp", "one of reference"),
        ("domain=" + "d" * 5000, "parameter domain", "a parameter of /docs"),
    ],
)
def test_parameters(client: Any, tokens: bytes, query: str, given: str, expected: str) -> None:
    answer = client.post(f"/v1/audio?{query}", content=tokens)
    problem = answer.json()
    assert answer.status_code == 422
    assert problem["given"].startswith(given) and problem["expected"].startswith(expected), problem
    check_problem(problem)


@pytest.mark.parametrize(
    ("method", "path", "status", "expected"),
    [
        ("GET", "/v1/tokens", 405, "POST for this address"),
        ("PUT", "/v1/audio", 405, "POST for this address"),
        ("POST", "/v1/models", 405, "GET for this address"),
        ("DELETE", "/", 405, "GET for this address"),
        ("GET", "/v1/nothing", 404, "an address of /docs"),
        ("GET", "/" + "x" * 5000, 404, "an address of /docs"),
        ("GET", "/%0d%0aline", 404, "an address of /docs"),
        ("GET", "/v1/stream", 426, "a WebSocket there"),
        ("POST", "/v1/stream", 426, "a WebSocket there"),
    ],
)
def test_addresses_and_methods(client: Any, method: str, path: str, status: int, expected: str) -> None:
    answer = client.request(method, path)
    problem = answer.json()
    assert (answer.status_code, problem["expected"]) == (status, expected)
    check_problem(problem)
    if status == 426:
        assert answer.headers["upgrade"] == "websocket"
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("address", ["/v1/tokens", "/v1/audio"])
def test_forms(client: Any, address: str) -> None:
    text = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'
    bounded = {"content-type": "multipart/form-data; boundary=x"}
    several = [("file", ("a", b"x")), ("file", ("b", b"x"))]
    many = {f"field{number}": "1" for number in range(40)}
    for sent, status, given in (
        ({"content": b"abc", "headers": FORM}, 400, "a form that cannot be read (Missing boundary in multipart)"),
        ({"content": b"abc", "headers": bounded}, 400, "a form that cannot be read"),
        ({"files": several}, 400, "a form that cannot be read (Too many files"),
        ({"files": {"file": ("a", b"x")}, "data": many}, 400, "a form that cannot be read (Too many fields"),
        ({"files": {"other": ("a", b"x")}}, 422, "a form without the file 'file'"),
        ({"content": text, "headers": bounded}, 422, "a form without the file 'file'"),
    ):
        answer = client.post(address, **sent)
        assert answer.status_code == status, given
        assert answer.json()["given"].startswith(given), answer.json()
        check_problem(answer.json())


def test_recordings(client: Any) -> None:
    """The remedy for a recording that was cut short names no option of the command line."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE), RATE, format="WAV")
    whole = file.getvalue()
    for body in (whole[:20000], b"", b"no sound", whole[:44]):
        answer = client.post("/v1/tokens", content=body)
        assert answer.status_code == 422
        check_problem(answer.json())
    refused = client.post("/v1/tokens", content=whole, headers={"accept": "image/" + "p" * 5000})
    assert refused.status_code == 406
    check_problem(refused.json())


@pytest.mark.parametrize(
    ("first", "then", "given"),
    [
        ("{", [], "a document that is not JSON"),
        ("[]", [], "a document that is []"),
        ("{}", [], "a document without task"),
        ('{"task": "sing"}', [], "task 'sing'"),
        ('{"task": "decode", "steps": "' + "x" * 5000 + '"}', [], "steps 'xxx"),
        ('{"task": "encode", "channels": 0}', [], "channels 0"),
        ('{"task": "encode", "bit_depth": 7}', [], "bit_depth 7 of samples"),
        ('{"task": "encode", "segment_seconds": -1}', [], "segment_seconds -1"),
        ('{"task": "encode", "sample_rate": 5}', [b"ab", '{"type": "end"}'], "array: sample rate 5"),
        ('{"task": "encode"}', [b"a", '{"type": "end"}'], "1 bytes of samples"),
        ('{"task": "encode"}', ['{"type": "stop"}'], "type 'stop'"),
        ('{"task": "decode"}', ["tokens"], "a text message"),
        (b"x", [], "a binary message"),
    ],
)
def test_sockets(served: Any, first: Any, then: list[Any], given: str) -> None:
    with websockets.connect(served.socket_url) as connection:
        for message in (first, *then):
            connection.send(message)
        problem = json.loads(connection.recv(timeout=60))
    assert problem["given"].startswith(given), problem
    check_problem(problem)


def test_bytes_that_are_no_http(served: Any) -> None:
    """A browser that opens https:// sends such bytes."""
    for data in (b"\x16\x03\x01" + bytes(200), b"GET / HTTP/9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(data)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ") and b"content-type: application/problem+json" in head
        check_problem(json.loads(body))


def test_a_client_that_leaves_within_a_form_leaves_no_traceback(served: Any, client: Any, monkeypatch: Any) -> None:
    logged: list[object] = []
    for name in ("uvicorn.error", "sc_runtime.serving"):
        monkeypatch.setattr(logging.getLogger(name), "error", lambda *texts, **given: logged.append(texts))
    head = (
        "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nContent-Type: multipart/form-data; boundary=x"
    )
    with socket.create_connection(("127.0.0.1", served.port)) as leaving:
        leaving.send(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
        served_in_thread.wait_until(lambda: served.service.admission.tickets, 10)
    served.wait_idle()
    time.sleep(0.2)  # the error would be logged after the ticket is returned
    assert client.get("/healthz").status_code == 200
    assert not logged


def test_remedies_of_the_codecs_errors() -> None:
    """One that an HTTP client can follow stays; one of the command line or of Python, and none, is replaced."""
    for kind in (AudioError, TokensError, SettingsError):
        assert explain_error(kind("x", "y", "split the file"), "").remedy == "split the file"
        for remedy in ("", "use --allow-truncated", "name a file with -o", "sc-runtime build --tps 50"):
            found = explain_error(kind("x", "y", remedy), "").remedy
            assert found and found != remedy


def test_what_is_echoed_is_short_and_one_line() -> None:
    assert shorten("a" * 80) == "a" * 80
    assert shorten("a" * 81) == "a" * 79 + "…"
    assert shorten("a\n\ud800") == "a\\n\\ud800"
    assert len(shorten("\n" * 80)) == 80
    problem = ProblemError(422, "settings", "x" * 5000, "y", "z").to_document("1")
    assert len(problem["given"]) == 160 and len(problem["detail"]) < 200
