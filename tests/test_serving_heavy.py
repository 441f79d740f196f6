"""The server under hostile and heavy load: schemathesis, 500 connections, overload, a soak, every example with curl.

Short here; `python bench/serve.py --parts hostile,overload,soak` runs them long.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sc_runtime import Codec, Tokens

pytestmark = pytest.mark.heavy
bench = pytest.importorskip("bench.serve", reason="needs the extras serve and bench, and httpx")

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance,unsupported_method"
)


@pytest.fixture(scope="module")
def served(tiny_bundle: Path) -> Iterator[Any]:
    limits = {"request_seconds": 60, "upload_seconds": 3}
    with bench.serve_process(bundle=str(tiny_bundle), backend="onnxruntime", limits=limits) as served:
        yield served


@pytest.fixture(scope="module")
def tasks(served: Any, tiny_bundle: Path) -> list[Any]:
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    encode, decode, _ = bench.make_tasks(codec)
    for task in encode:
        assert bench.find_expected(served.url, task).expected == codec.encode(task.body).to_bytes()
    return [bench.find_expected(served.url, task) for task in (*encode[:4], *decode[:2])]


def test_schemathesis(served: Any) -> None:
    pytest.importorskip("schemathesis")
    address = f"{served.url}/openapi.json"
    options = ("--checks", CHECKS, "--max-examples", "40", "--request-timeout", "60", "--no-color")
    command = [sys.executable, "-m", "schemathesis.cli", "run", address, *options]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr


def test_500_hostile_connections(served: Any, tasks: list[Any]) -> None:
    found = bench.measure_hostile(served, tasks[-1], 500)
    assert found["right_afterwards"]
    assert found["healthz_s"] < 5
    assert found["after"]["descriptors"] <= found["before"]["descriptors"] + 5
    assert found["after"]["rss_bytes"] < 1.2 * found["before"]["rss_bytes"]


def test_overload(served: Any, tasks: list[Any]) -> None:
    """Far more than it can do: every answer is right or a clean refusal, and memory does not grow."""
    asyncio.run(bench.run_clients(served.url, tasks, 16, seconds=1))  # so that memory holds full batches
    found = bench.measure_overload(served, tasks, rate=100, seconds=10)
    assert found["wrong"] == 0, found
    assert set(found["statuses"]) <= {"200", "429", "503", "504"}
    assert found["statuses"]["200"] and found["statuses"]["429"]
    assert found["rss_after_to_before"] < 1.2
    assert httpx.get(f"{served.url}/healthz", timeout=30).status_code == 200


def test_soak(served: Any, tasks: list[Any]) -> None:
    found = bench.measure_soak(served, tasks, 30)
    assert found["wrong"] == 0
    assert found["rss_bytes_last_to_second_quarter"] < 1.1
    assert found["descriptors_last_to_second_quarter"] < 1.1


def test_many_clients_get_what_one_gets(served: Any, tasks: list[Any]) -> None:
    tally = asyncio.run(bench.run_clients(served.url, tasks, 32, seconds=1))
    assert tally.wrong == 0
    assert set(tally.statuses) == {"200"}


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_the_examples_work(served: Any, tmp_path: Path, golden: Path) -> None:
    """Every command of the interface's descriptions and of the README, in order."""
    shutil.copy(golden / "speech_12s.wav", tmp_path / "speech.wav")
    document = httpx.get(f"{served.url}/openapi.json").json()
    descriptions = [operation["description"] for each in document["paths"].values() for operation in each.values()]
    readme = (Path(__file__).parent.parent / "runtime" / "serving" / "README.md").read_text()
    blocks = re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
    found = [line.strip() for text in (*descriptions, *blocks) for line in text.splitlines()]
    commands = [line for line in found if line.startswith("curl ") and not line.endswith("|")]
    assert len(commands) > 6
    for command in commands:
        line = command.replace("http://127.0.0.1:8000", served.url)
        run = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, timeout=120, check=False)
        assert run.returncode == 0, (line, run.stderr)
        assert b"urn:sc-runtime:problem" not in run.stdout, (line, run.stdout)
    assert (tmp_path / "speech.wav").stat().st_size > 1000
    Tokens.load(tmp_path / "speech.sct")
