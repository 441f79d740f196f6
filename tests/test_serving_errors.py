"""Errors of the server: every one states what was given, what was expected and what an HTTP client does about it."""

from __future__ import annotations

import ast
import errno
import io
import json
import logging
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens
from sc_runtime.centroids import NearestCentroid
from sc_runtime.errors import AudioError, CodecError, SettingsError, TokensError, choose_remedy
from tests.conftest import ROOT

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")
websockets = pytest.importorskip("websockets.sync.client", reason="needs websockets")

from sc_runtime.serving.problems import ProblemError, explain_error, shorten  # noqa: E402

RATE = 16000
JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data"}
#: Words of pydantic, and of the command line and Python, which say nothing to an HTTP client.
FOREIGN = re.compile(r"Input should|Invalid JSON|Field required|parse|Tuple|(^|\W)--?[a-z]|sc-runtime |in Python")
LONG = (
    2**16 + 1
)  #: bytes of headers that are refused; of a longer request some bytes may stay unread, which cuts the answer
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
        ('{"codes": [[1, 2]], "body": 1}', "parameter body", "a parameter of /docs"),
        ('{"codes": [[1, 2]], "query": 1}', "parameter query", "a parameter of /docs"),
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
        ("query=1", "parameter query", "a parameter of /docs"),
        ("body=1", "parameter body", "a parameter of /docs"),
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
        ('{"task": "encode", "query": 1}', [], "parameter query"),
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


@pytest.mark.parametrize(
    ("sent", "status", "given"),
    [
        (b"\x16\x03\x01" + bytes(200), 400, "a request that is not HTTP/1.1"),  # a browser that opens https://
        (b"GET / HTTP/9\r\n\r\n", 400, "a request that is not HTTP/1.1"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "a request without the header Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400, "a request with several headers Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nx: ".ljust(LONG, b"a"), 431, "a request whose headers take more than 65536"),
        (b"GET /".ljust(LONG, b"a"), 431, "a request whose headers take more than 65536"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -4\r\n\r\n", 400, "a header Content-Length that is no number"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 5\r\n\r\n", 400, "headers Content-Length that differ"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "a body in a Transfer-Encoding"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length 5\r\n\r\n", 400, "a header that cannot be read"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nbad name: 5\r\n\r\n", 400, "a header that cannot be read"),
    ],
)
def test_requests_that_h11_refuses(served: Any, sent: bytes, status: int, given: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(sent)
        problem, _ = read_problem(connection, status)
    assert problem["given"].startswith(given), problem
    assert ("TLS" in problem["remedy"]) == (given == "a request that is not HTTP/1.1")


def test_a_chunk_that_cannot_be_read(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The request, which had begun, ends as if its client had left. Its id is that of the answer."""
    logged: list[object] = []
    for name in ("uvicorn.error", "sc_runtime.serving", "asyncio"):
        monkeypatch.setattr(logging.getLogger(name), "error", lambda *texts, **given: logged.append(texts))
    head = b"POST /v1/tokens HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine\r\nTransfer-Encoding: chunked\r\n\r\n"
    for pause in (0.0, 0.5):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
            connection.sendall(head + b"2\r\nab\r\n")
            time.sleep(pause)
            connection.sendall(b"no number\r\n")
            problem, sent = read_problem(connection, 400)
        assert problem["given"] == "a body whose chunks cannot be read"
        assert problem["request_id"] == "mine" and b"x-request-id: mine" in sent
    served.wait_idle()
    assert not logged


def read_problem(connection: socket.socket, status: int) -> tuple[dict[str, Any], bytes]:
    """The problem document of an answer after which the connection is closed, and its headers."""
    head, _, body = b"".join(iter(lambda: connection.recv(4096), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    problem: dict[str, Any] = json.loads(body)
    check_problem(problem)
    assert b"content-type: application/problem+json" in head and problem["status"] == status
    assert b"x-request-id: " + problem["request_id"].encode() in head
    return problem, head


def test_a_client_that_leaves_within_a_form_leaves_no_traceback(served: Any, client: Any, monkeypatch: Any) -> None:
    logged: list[object] = []
    for name in ("uvicorn.error", "sc_runtime.serving"):
        monkeypatch.setattr(logging.getLogger(name), "error", lambda *texts, **given: logged.append(texts))
    head = (
        "POST /v1/tokens HTTP/1.1\r\nHost: x\r\nContent-Length: 9999\r\nContent-Type: multipart/form-data; boundary=x"
    )
    with socket.create_connection(("127.0.0.1", served.port)) as leaving:
        leaving.sendall(f"{head}\r\n\r\n--x\r\n".encode())
        served_in_thread.wait_until(lambda: served.service.admission.tickets, 10)
    served.wait_idle()
    time.sleep(0.2)  # the error would be logged after the ticket is returned
    assert client.get("/healthz").status_code == 200
    assert not logged


#: Remedies in the code that an HTTP client can follow; "…" is a value.
FOLLOWED = {
    "choose the vocabulary of …, or …",
    "choose the vocabulary that the tokens were made with, if it is not …",
    "convert it if its values are tokens",
    "convert it to WAV",
    "decode them with a bundle of … tps, or …",
    "decode them with a bundle of …, or …",
    "encode audio first",
    "encode the audio again",
    "get the file again",
    "get the whole file",
    "give the …tokens of one recording at a time",
    "leave `samples` out for tokens that were cut or joined",
    "leave it out",
    "leave vocab out: it is for arrays and .npy files",
    "parts of the file are damaged or missing",
    "pickled files are never opened; save int64",
    "save integers with numpy.save",
    "save it as .npy",
    "scale other integers yourself",
    "split it into its files",
    "split the file",
    "the file is damaged, cut short, or not audio",
    "the file is damaged; copy or encode it again",
    "the tokens are damaged",
    "the tokens are damaged, or of another codec or another bundle",
    "transpose it",
    "use 30 or fewer",
    "use ddim or dpm",
    "use …",
}
#: Those that it cannot.
REPLACED = {
    "add it: … --vocab …",
    "convert it, with `ffmpeg -i IN OUT.flac` for example",
    "do not write to the file while it is read",
    "get the whole file, or accept what is left with --allow-truncated (in Python, allow_truncated=True)",
    "give what Codec.encode returns",
    "it was written by a newer version: upgrade sc-runtime",
    "make room there, or name another folder in $TMPDIR",
    "name the bundle, or use .sct",
    "rename the output",
    "repair its header, or convert it with `sox --ignore-length IN OUT`",
    "split it, or raise the limit (max_seconds)",
    "tensor.detach().cpu()",
    "upgrade sc-runtime if it is newer",
}
#: What `errors.choose_remedy` returns where it has a remedy.
CHOSEN = {
    "make room there, or name another place",
    "allow more open files (ulimit -n)",
    "check the connection, or try again later",
    "check its name and permissions",
}
REPLACED |= CHOSEN
#: What raises no error in a request.
APART = ("cli", "collection", "drop_in.py", "ray.py", "settings.py")
#: Errors that become problems of status 422 -> the place of the remedy among their arguments.
CLASSES = {"AudioError": 2, "TokensError": 2, "SettingsError": 2, "LayoutError": 1}


def collect_remedies() -> set[str]:
    """The remedies in the code of the package, as `FOLLOWED` has them."""
    files = [file for file in (ROOT / "runtime").rglob("*.py") if set(file.relative_to(ROOT).parts).isdisjoint(APART)]
    modules = [list(ast.walk(ast.parse(file.read_text(encoding="utf-8")))) for file in files]
    everywhere = [collect_names(nodes) for nodes in modules]
    constants = {name: values for names in everywhere for name, values in names.items() if name.isupper()}
    found: set[str] = set()
    for nodes, names in zip(modules, everywhere, strict=True):
        for node in nodes:
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CLASSES:
                place = CLASSES[node.func.id]
                named = [keyword.value for keyword in node.keywords if keyword.arg == "remedy"]
                for remedy in [*node.args[place : place + 1], *named]:
                    found |= list_texts(remedy, {**constants, **names})
    return found


def collect_names(nodes: list[ast.AST]) -> dict[str, list[ast.expr]]:
    """Names of a module -> what is assigned to them."""
    names: dict[str, list[ast.expr]] = {}
    for node in nodes:
        for target in node.targets if isinstance(node, ast.Assign) else []:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = list(zip(target.elts, node.value.elts, strict=True))
            for name, value in pairs:
                if isinstance(name, ast.Name):
                    names.setdefault(name.id, []).append(value)
    return names


def list_texts(node: ast.expr, names: dict[str, list[ast.expr]]) -> set[str]:
    """The texts that `node` can be; none if it is the remedy of another error."""
    if isinstance(node, ast.Constant):
        return {node.value}
    if isinstance(node, ast.JoinedStr):
        return {"".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)}
    if isinstance(node, ast.IfExp):
        return list_texts(node.body, names) | list_texts(node.orelse, names)
    if isinstance(node, ast.BoolOp):
        return set().union(*(list_texts(value, names) for value in node.values))
    if isinstance(node, ast.Attribute) and node.attr == "remedy":
        return set()
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "choose_remedy":
        return CHOSEN
    assert isinstance(node, ast.Name) and node.id in names, f"a remedy that this test cannot read: {ast.unparse(node)}"
    return set().union(*(list_texts(value, names) for value in names[node.id]))


def test_the_chosen_remedies_are_those_of_the_function() -> None:
    codes = {errno.ENOSPC, errno.EMFILE, errno.EBUSY, errno.ENOENT, errno.EIO}
    assert {choose_remedy(OSError(code, "")) for code in codes} == CHOSEN | {""}


def test_remedies_of_the_codecs_errors() -> None:
    """One that an HTTP client can follow stays; one of the command line or of Python, and none, is replaced."""
    assert collect_remedies() == FOLLOWED | REPLACED, "a new remedy belongs in one of the two; one that is gone in none"
    for kind in (AudioError, TokensError, SettingsError):
        for remedy in FOLLOWED:
            assert explain_error(kind("x", "y", remedy), "").remedy == remedy
        for remedy in ("", *REPLACED):
            found = explain_error(kind("x", "y", remedy), "").remedy
            assert found and found != remedy and found not in REPLACED, remedy


def test_a_full_disk_is_not_the_clients_fault(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on the size of files stands for it: of the copy that libsndfile reads, and of the body itself."""
    resource = pytest.importorskip("resource")
    logged: list[object] = []
    log = logging.getLogger("sc_runtime.serving")
    monkeypatch.setattr(log, "error", lambda *texts, **given: logged.append(texts))
    file = io.BytesIO()
    soundfile.write(file, np.zeros(20 * RATE), RATE, format="WAV")
    copied, long = file.getvalue(), file.getvalue() * 3  # in memory while it arrives; in a temporary file
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
    try:
        answers = [client.post("/v1/tokens", content=body) for body in (copied, long)]
        answers += [client.post("/v1/tokens", files={"file": ("a", body)}) for body in (copied, long)]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for answer in answers:
        problem = answer.json()
        assert (answer.status_code, problem["type"]) == (507, "urn:sc-runtime:problem:storage"), problem
        assert answer.headers["retry-after"] and tempfile.gettempdir() not in answer.text
        assert problem["request_id"] in str(logged)
        check_problem(problem)
    assert client.post("/v1/tokens", content=copied).status_code == 200


def test_networks_that_give_no_numbers_are_not_the_clients_fault(served: Any, client: Any, monkeypatch: Any) -> None:
    """Features that are not finite come from the encoder. The log says what the client need not know."""
    logged: list[object] = []
    log = logging.getLogger("sc_runtime.serving")
    monkeypatch.setattr(log, "error", lambda *texts, **given: logged.append((texts, given)))
    file = io.BytesIO()
    soundfile.write(file, np.zeros(RATE), RATE, format="WAV")
    networks = served.service.require_codec().networks
    run = networks.run

    def spoil(graph: str, **feeds: np.ndarray) -> dict[str, np.ndarray]:
        return {name: np.full_like(array, np.nan) for name, array in run(graph, **feeds).items()}

    with monkeypatch.context() as patch:
        patch.setattr(networks, "run", spoil)
        answer = client.post("/v1/tokens", content=file.getvalue())
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (500, "urn:sc-runtime:problem:internal"), problem
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] in str(logged) and "query of norm nan" in str(logged)
    check_problem(problem)
    assert client.post("/v1/tokens", content=file.getvalue()).status_code == 200


def test_a_bundle_and_a_backend_are_not_the_clients_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("sc_runtime.serving"), "error", lambda *texts, **given: None)
    codebook = np.zeros((3, 8), np.float32)
    calls: list[Callable[[], object]] = [
        lambda: NearestCentroid(codebook[0]),
        lambda: NearestCentroid(codebook + np.float32(np.inf)),
        lambda: NearestCentroid(codebook).search(codebook[:, :7]),
        lambda: NearestCentroid(codebook).search(codebook + np.float32(np.nan)),
    ]
    for call in calls:
        with pytest.raises(CodecError) as raised:
            call()
        assert explain_error(raised.value, "").status == 500, raised.value


def test_other_errors_of_the_system_are_not_the_clients_fault() -> None:
    for cause, status in ((errno.ENOSPC, 507), (errno.EDQUOT, 507), (errno.EIO, 500), (errno.EMFILE, 500)):
        error = AudioError("the recording: x", "a file that can be read", "check its name and permissions")
        error.__cause__ = OSError(cause, "x")
        assert explain_error(error, "").status == explain_error(error.__cause__, "").status == status


def test_what_is_echoed_is_short_and_one_line() -> None:
    assert shorten("a" * 80) == "a" * 80
    assert shorten("a" * 81) == "a" * 79 + "…"
    assert shorten("a\n\ud800") == "a\\n\\ud800"
    assert len(shorten("\n" * 80)) == 80
    problem = ProblemError(422, "settings", "x" * 5000, "y", "z").to_document("1")
    assert len(problem["given"]) == 160 and len(problem["detail"]) < 200
