"""The Ray engine: Ray Data on a pool of actors, on one machine and on a cluster of several nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("ray.data")

from bench.kills import NICENESS, RAY_KINDS, ray_cluster, read_folder, start_command, survive
from tests.collections import run_command, tokenize, write_with_a_broken_one

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_with_a_broken_one(tmp_path_factory.mktemp("recordings"), 40)


@pytest.fixture(scope="module")
def undisturbed(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    tokenize(recordings, folder, shard_files=3)
    return read_folder(folder)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv(NICENESS, "0")


def test_a_ray_started_here_makes_the_same_folder(
    recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = [recordings, "-o", tmp_path, "--shard-files", 3, "--engine", "ray"]
    code, output, errors = run_command(*arguments, "--verify", 3)
    assert code == 0, errors
    assert "all codes equal" in output
    assert read_folder(tmp_path) == undisturbed
    assert errors.splitlines()[0] == "1 recordings: Format not recognised"  # nothing of Ray's is printed
    code, output, errors = run_command(*arguments, "--json")
    assert code == 0 and '"encoded": 0' in output


def test_kills_of_drivers_workers_and_nodes(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """The folder is byte for byte that of an undisturbed run. `bench/bulk.py` kills more."""
    out = tmp_path / "out"
    arguments = [recordings, "-o", out, "--shard-files", 3, "--engine", "ray"]
    with ray_cluster() as (address, find_victims):
        start = lambda: start_command(*arguments, variables={"RAY_ADDRESS": address})  # noqa: E731
        found = survive(start, find_victims, RAY_KINDS, out, undisturbed, kills=6, pause=2.0)
    assert sum(found["kills"].values()) == 6


def test_actors_declare_their_gpus(recordings: Path, undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    """The GPU is one that Ray only counts. Two workers share it, on a node without free processors."""
    arguments = [recordings, "-o", tmp_path, "--shard-files", 3, "--engine", "ray", "--gpus-per-worker"]
    with ray_cluster(nodes=1, num_gpus=1) as (address, _):
        variables = {"RAY_ADDRESS": address}
        code, _, errors = run_command(*arguments, 2, variables=variables)
        assert code == 1
        assert errors.startswith("error: workers of 2 GPUs on Ray, where a machine has at most 1 GPUs")
        code, _, errors = run_command(*arguments, 0.5, variables=variables)
        assert code == 0, errors
    assert read_folder(tmp_path) == undisturbed


def test_an_error_of_a_worker_is_one_line(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "shard-000002.parquet").mkdir()
    code, _, errors = run_command(recordings, "-o", tmp_path, "--shard-files", 8, "--engine", "ray")
    assert code == 1
    assert errors.splitlines()[-1].startswith(f"error: {tmp_path}/shard-000002.parquet: a folder or a device")


def test_a_cluster_that_does_not_answer_is_one_line(recordings: Path, tmp_path: Path) -> None:
    code, _, errors = run_command(
        recordings, "-o", tmp_path, "--engine", "ray", variables={"RAY_ADDRESS": "127.0.0.1:1"}
    )
    assert code == 1
    assert errors.startswith("error: Ray at 127.0.0.1:1: Connection refused")
