"""The HTTP interface: its answers are the command line's, and every error is a problem document."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from sc_runtime import Codec, Tokens
from sc_runtime.audio import save_audio

served_in_thread = pytest.importorskip("tests.served", reason="needs the extra serve, and httpx")

RATE = 16000
OPTIONS = "steps=2&seed=7"


@pytest.fixture(scope="module")
def client(tiny_bundle: Path) -> Iterator[Any]:
    settings = served_in_thread.ServeSettings(str(tiny_bundle), backend="onnxruntime")
    with served_in_thread.serving(settings) as served, served.client() as client:
        yield client


@pytest.fixture(scope="module")
def speech(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 s: a window, which is decoded in two pieces."""
    samples, _ = soundfile.read(golden / "speech_12s.wav", dtype="float32")
    path = tmp_path_factory.mktemp("speech") / "speech.wav"
    save_audio(path, samples[: 6 * RATE], RATE)
    return path


@pytest.fixture(scope="module")
def tokens(codec: Codec, speech: Path) -> Tokens:
    return codec.encode(speech)


@pytest.fixture(scope="module")
def sound(codec: Codec, tokens: Tokens) -> np.ndarray:
    return codec.decode(tokens, steps=2, seed=7)


def test_tokens_are_those_of_the_command_line(client: Any, speech: Path, tokens: Tokens, tmp_path: Path) -> None:
    body = speech.read_bytes()
    answer = client.post("/v1/tokens?format=sct", content=body)
    assert answer.status_code == 200
    assert answer.content == tokens.to_bytes()
    tokens.save(tmp_path / "a.npy")
    assert (
        client.post("/v1/tokens", content=body, headers={"accept": "application/x-npy"}).content
        == (tmp_path / "a.npy").read_bytes()
    )
    document = client.post("/v1/tokens", files={"file": ("a.wav", body)}).json()
    assert document["codes"] == tokens.codes.tolist()
    assert (document["positions"], document["samples"]) == (len(tokens), tokens.samples)
    assert (document["codec"], document["rate"]) == ("semanticodec", 50)
    assert document["vocabularies"] == {"semantic": 32768, "acoustic": 8192}
    again = client.post(f"/v1/audio?{OPTIONS}&response_format=wav", json=document)
    assert again.status_code == 200
    document["vocabularies"] = {"acoustic": 8192, "semantic": 32768}  # as a client that sorts its keys sends it
    assert client.post(f"/v1/audio?{OPTIONS}&response_format=wav", json=document).content == again.content


def test_a_recording_of_several_windows(client: Any, codec: Codec, golden: Path) -> None:
    sound, _ = soundfile.read(golden / "speech_12s.wav", dtype="int16")
    file = io.BytesIO()
    soundfile.write(file, np.stack([np.tile(sound, 4), np.zeros(4 * len(sound), np.int16)], 1), 16000, format="FLAC")
    answer = client.post("/v1/tokens?format=sct", content=file.getvalue())
    assert answer.content == codec.encode(file.getvalue()).to_bytes()


def test_vocabulary_and_form_fields(client: Any, codec: Codec, speech: Path) -> None:
    body = speech.read_bytes()
    expected = codec.encode(speech, vocab=4096).to_bytes()
    assert client.post("/v1/tokens?vocab=4096&format=sct", content=body).content == expected
    form = {"vocab": "4096", "format": "sct"}
    assert client.post("/v1/tokens", data=form, files={"file": ("a.wav", body)}).content == expected


@pytest.mark.parametrize("name", ["wav", "flac"])
def test_sound_is_byte_for_byte_the_command_lines(
    client: Any, tokens: Tokens, sound: np.ndarray, tmp_path: Path, name: str
) -> None:
    path = tmp_path / f"a.{name}"
    save_audio(path, sound, RATE)
    answer = client.post(f"/v1/audio?{OPTIONS}&response_format={name}", content=tokens.to_bytes())
    assert answer.status_code == 200
    assert answer.headers["x-samples"] == str(tokens.samples)
    if name == "wav":
        assert answer.content == path.read_bytes()
    np.testing.assert_array_equal(read_sound(answer.content), read_sound(path.read_bytes()))


@pytest.mark.parametrize("name", ["ogg", "opus", "mp3"])
def test_compressed_sound(client: Any, tokens: Tokens, name: str) -> None:
    answer = client.post(f"/v1/audio?{OPTIONS}&response_format={name}", content=tokens.to_bytes())
    assert answer.status_code == 200
    assert len(read_sound(answer.content)) == tokens.samples


@pytest.mark.parametrize("name", ["wav", "pcm", "ogg", "opus"])
def test_a_stream_joined_is_the_whole(client: Any, tokens: Tokens, name: str) -> None:
    address = f"/v1/audio?{OPTIONS}&response_format={name}"
    whole = client.post(address, content=tokens.to_bytes()).content
    with client.stream("POST", f"{address}&stream=true", content=tokens.to_bytes()) as answer:
        pieces = list(answer.iter_raw())
    assert len(pieces) > 1
    joined = b"".join(pieces)
    if name in ("wav", "pcm"):
        assert joined == whole
    else:  # the serial number of an Ogg stream is a random one
        np.testing.assert_array_equal(read_sound(joined), read_sound(whole))


def test_pcm_states_its_form(client: Any, tokens: Tokens, sound: np.ndarray) -> None:
    for depth, dtype in ((None, "<i2"), (16, "<i2"), (32, "<f4")):
        chosen = f"&bit_depth={depth}" if depth else ""
        answer = client.post(f"/v1/audio?{OPTIONS}&response_format=pcm{chosen}", content=tokens.to_bytes())
        names = ("x-sample-rate", "x-channels", "x-bit-depth", "x-samples")
        assert [answer.headers[name] for name in names] == ["16000", "1", str(depth or 16), str(tokens.samples)]
        samples = np.frombuffer(answer.content, dtype)
        assert len(samples) == tokens.samples
        if depth == 32:
            np.testing.assert_array_equal(samples, np.clip(sound, -1, 1))
    assert client.post("/v1/audio?bit_depth=16", content=tokens.to_bytes()).status_code == 422
    assert client.post("/v1/audio?response_format=pcm&bit_depth=7", content=tokens.to_bytes()).status_code == 422


def test_tokens_as_json_and_as_an_array(client: Any, speech: Path, tokens: Tokens, tmp_path: Path) -> None:
    expected = client.post(f"/v1/audio?{OPTIONS}", content=tokens.to_bytes()).content
    document = client.post("/v1/tokens", content=speech.read_bytes()).json()
    assert client.post(f"/v1/audio?{OPTIONS}", json=document).content == expected
    assert client.post("/v1/audio", json={**document, "steps": 2, "seed": 7}).content == expected
    assert client.post("/v1/audio?seed=7", json={**document, "steps": 2, "seed": 1}).content == expected
    tokens.save(tmp_path / "a.npy")  # an array does not state the length of the original
    answer = client.post(f"/v1/audio?{OPTIONS}", content=(tmp_path / "a.npy").read_bytes())
    assert read_sound(answer.content)[: tokens.samples - 1].tolist() == read_sound(expected)[:-1].tolist()
    wrong = client.post("/v1/audio", json={**document, "sha256": "0" * 64})
    assert wrong.status_code == 422 and "sha256" in wrong.json()["given"]


def test_every_decode_option_is_a_parameter(client: Any, codec: Codec, tokens: Tokens) -> None:
    query = "preset=fast&steps=4&guidance=1.5&eta=0.5&solver=ddim&interval=100&interval=900&seed=18446744073709551615"
    answer = client.post(f"/v1/audio?{query}", content=tokens.to_bytes())
    options = {"guidance": 1.5, "eta": 0.5, "solver": "ddim", "interval": (100, 900), "seed": 2**64 - 1}
    expected = codec.decode(tokens, preset="fast", steps=4, **options)
    np.testing.assert_allclose(read_sound(answer.content), np.clip(expected, -1, 1), atol=2 / 32768)
    form = {"steps": "4", "interval": ["100", "900"]}
    assert client.post("/v1/audio", data=form, files={"file": ("a.sct", tokens.to_bytes())}).status_code == 200


@pytest.mark.parametrize(
    ("address", "body", "status", "given"),
    [
        ("/v1/tokens", b"", 422, "the recording: empty file"),
        ("/v1/tokens", b"no sound at all", 422, "the recording"),
        ("/v1/tokens?vocab=5", b"x", 422, "vocabulary 5"),
        ("/v1/tokens?domain=speech", b"x", 422, "domain speech"),
        ("/v1/tokens?colour=red", b"x", 422, "parameter colour"),
        ("/v1/tokens?format=mp3", b"x", 422, "format 'mp3'"),
        ("/v1/audio", b"", 422, "a token file cut short: 0 bytes"),
        ("/v1/audio", b"SCTK", 422, "a token file cut short"),
        ("/v1/audio", b"\x80\x04N.", 422, "a file that begins with"),
        ("/v1/audio?steps=0", "tokens", 422, "0 steps"),
        ("/v1/audio?steps=many", "tokens", 422, "steps 'many'"),
        ("/v1/audio?eta=nan", "tokens", 422, "eta nan"),
        ("/v1/audio?preset=slow", "tokens", 422, "preset 'slow'"),
        ("/v1/audio?vocab=4096", "tokens", 422, "vocab 4096"),
        ("/v1/audio?response_format=mp3&stream=true", "tokens", 422, "stream=true with mp3"),
        ("/v1/nothing", b"", 404, "an address"),
    ],
)
def test_errors_are_problem_documents(
    client: Any, tokens: Tokens, address: str, body: Any, status: int, given: str
) -> None:
    content = tokens.to_bytes() if body == "tokens" else body
    answer = client.post(address, content=content, headers={"x-request-id": "from.the-client"})
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["given"].startswith(given), problem
    assert problem["expected"] and problem["title"] and problem["type"].startswith("urn:sc-runtime:problem:")
    assert problem["request_id"] == answer.headers["x-request-id"] == "from.the-client"


def test_json_that_is_none(client: Any) -> None:
    for body in (b"{", b"[]", b'{"codes": 1}', b'{"codes": [[1, 2], [3]]}', b'{"codes": [[1e400, 1]]}', b"[" * 50_000):
        answer = client.post("/v1/audio", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422, body[:40]
    huge = json.dumps({"codes": [[2**70, 1]]})
    assert client.post("/v1/audio", content=huge, headers={"content-type": "application/json"}).status_code == 422


def test_a_pickle_is_not_opened(client: Any) -> None:
    file = io.BytesIO()
    np.save(file, np.array([[print, 1]], dtype=object), allow_pickle=True)
    answer = client.post("/v1/audio", content=file.getvalue())
    assert answer.status_code == 422
    assert "Python objects" in answer.json()["given"]


def test_no_path_of_the_client_is_opened(client: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.wav"
    secret.write_bytes(b"RIFF")
    for body in (str(secret).encode(), f"file://{secret}".encode(), b"http://127.0.0.1:9/a.wav"):
        answer = client.post("/v1/tokens", content=body)
        assert answer.status_code == 422
        assert str(secret) not in answer.json()["detail"]
        named = {"file": (str(secret), b"")}
        assert client.post("/v1/tokens", files=named).status_code == 422


def test_accept(client: Any, speech: Path) -> None:
    body = speech.read_bytes()
    for accept, media_type in (
        ("text/html, application/x-sct;q=0.9", "application/x-sct"),
        ("application/x-npy;q=0.1, application/x-sct;q=0.5", "application/x-sct"),
        ("*/*", "application/json"),
        ("application/x-sct;q=nonsense, application/json", "application/json"),
    ):
        answer = client.post("/v1/tokens", content=body, headers={"accept": accept})
        assert answer.headers["content-type"] == media_type
    refused = client.post("/v1/tokens", content=body, headers={"accept": "image/png"})
    assert refused.status_code == 406


def test_state_of_the_server(client: Any) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ok"}
    (model,) = client.get("/v1/models").json()["data"]
    assert model["vocabularies"] == [4096, 32768]
    assert "noise" not in model["decode_options"] and "steps" in model["decode_options"]
    text = client.get("/metrics").text
    for name in ("requests_total", "request_seconds", "stage_seconds", "batch_windows", "queue", "rejected_total"):
        assert f"sc_runtime_{name}" in text
    for name in ("audio_seconds_total", "real_time_factor", "first_sound_seconds", "streams"):
        assert f"sc_runtime_{name}" in text


def test_the_pages_need_no_other_host(client: Any) -> None:
    for address in ("/", "/docs"):
        answer = client.get(address)
        assert answer.status_code == 200
        assert "content-security-policy" in answer.headers
        assert "http://" not in answer.text.replace("http://127.0.0.1:8000", "").replace("http://www.w3.org", "")
        assert "https://" not in answer.text and 'src="' not in answer.text


def test_openapi_describes_every_route_and_option(client: Any) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {"/v1/tokens", "/v1/audio", "/v1/models", "/healthz", "/readyz", "/metrics"}
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["summary"] and operation["description"]
    names = {each["name"] for each in document["paths"]["/v1/audio"]["post"]["parameters"]}
    assert names >= {"preset", "steps", "guidance", "eta", "solver", "interval", "seed", "vocab", "response_format"}
    assert "WS /v1/stream" in document["info"]["description"]


def read_sound(data: bytes) -> np.ndarray:
    samples: np.ndarray = soundfile.read(io.BytesIO(data), dtype="float32")[0]
    return samples
