"""Some cases of each fuzzer, drawn by a seed. `python -m tests.fuzz` runs any number."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import FUZZERS, run_case

CASES = {"container": 300, "npy": 200, "audio": 60, "manifest": 20, "bundle": 8, "checkpoint": 40}


@pytest.mark.parametrize("name", FUZZERS)
def test_every_case_ends_in_a_value_or_one_line(name: str, tmp_path: Path) -> None:
    for number in range(CASES[name]):
        try:
            run_case(name, 0, number, tmp_path)
        except Exception as error:
            raise AssertionError(f"python -m tests.fuzz --only {name} --seed 0 --case {number}") from error
