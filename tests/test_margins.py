"""Margins of tokens that differ: by hand, against the bound that features set, and `bench.quality.same_tokens`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.quality import same_tokens
from bench.quality.margins import (
    Column,
    Difference,
    RecordingBackend,
    list_differences,
    measure_distances,
    summarise_differences,
)
from bench.quality.same_tokens import name_codebooks, split_following
from bench.quality.varied import make_clips
from bench.speed.differences import DifferencesProgram
from bench.speed.inputs import make_sound
from bench.speed.sides import Settings
from sc_runtime.backends.select import choose_backend
from sc_runtime.bundle.store import Bundle
from sc_runtime.centroids import NearestCentroid
from sc_runtime.cli.program import run_command
from sc_runtime.codec import Codec
from sc_runtime.errors import BackendError, SettingsError


def test_margins_by_hand() -> None:
    """The entries are 3, 4 and 10 away from the first query, and 0, 5 and 8 from the second."""
    codebook = np.array([[3, 0], [0, 4], [-6, -8]], np.float32)
    column = Column(np.array([[0, 0], [3, 0]], np.float32), codebook)
    first, second = np.array([[0], [0]]), np.array([[1], [0]])
    assert list_differences(first, second, [column]) == [Difference(0, 0, pytest.approx(1 / 3), 1)]
    assert list_differences(second, first, [column]) == [Difference(0, 0, pytest.approx(1 / 4), 0)]
    assert list_differences(first, np.array([[2], [0]]), [column]) == [Difference(0, 0, pytest.approx(7 / 3), 2)]
    (exact,) = list_differences(first, np.array([[0], [1]]), [column])
    assert (exact.margin, exact.position) == (float("inf"), 1)
    assert list_differences(first, first, [column]) == []
    found = summarise_differences([Difference(0, 0, 0.1, 2), Difference(4, 1, 0.3, 1)], 9)
    assert found == {"tokens": 9, "different": 2, "largest_margin": 0.3, "largest_rank": 2}


def test_distances_are_those_of_float64_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    codebook, query = generator.standard_normal((50, 7)).astype(np.float32), generator.standard_normal(7)
    monkeypatch.setattr("bench.quality.margins.BLOCK", 70)  # ten rows
    truth = [np.linalg.norm(vector.astype(np.float64) - query) for vector in codebook]
    np.testing.assert_allclose(measure_distances(query, codebook), truth, rtol=1e-14)


def test_a_margin_is_at_most_twice_the_distance_of_the_features() -> None:
    """The bound of the module's docstring. Features that differ more do make tokens differ."""
    generator = np.random.default_rng(1)
    codebook = generator.standard_normal((4096, 8)).astype(np.float32)
    features = generator.standard_normal((2000, 8)).astype(np.float32)
    others = features + 5e-3 * generator.standard_normal(features.shape).astype(np.float32)
    search = NearestCentroid(codebook)
    first, second = search.search(features)[:, None], search.search(others)[:, None]
    found = list_differences(first, second, [Column(features, codebook)])
    assert len(found) > 5
    for entry in found:
        distance = measure_distances(features[entry.position], codebook).min()
        error = np.linalg.norm(features[entry.position].astype(np.float64) - others[entry.position])
        assert 0 <= entry.margin * distance <= 2 * error


def test_acoustic_tokens_after_a_semantic_one_are_counted_apart() -> None:
    entries = [Difference(0, 0, 0.1, 1), Difference(3, 1, 0.2, 9), Difference(5, 1, 0.3, 1), Difference(7, 0, 0.4, 1)]
    own, following = split_following(entries, np.array([0, 0, 0, 0, 1, 1, 2, 2]))
    assert own == [entries[0], entries[2], entries[3]]
    assert following == [entries[1]]


@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_unicodec"])
def test_recorded_features_give_the_tokens(name: str, request: pytest.FixtureRequest) -> None:
    bundle = Bundle.load(request.getfixturevalue(name))
    backend = RecordingBackend(choose_backend("onnxruntime", 1))
    codec = Codec(bundle, backend)
    codes = codec.encode(make_sound(12, codec.sample_rate)).codes
    columns = backend.take_columns()
    assert len(columns) == codes.shape[1] == len(name_codebooks(bundle))
    for i, (column, book) in enumerate(zip(columns, name_codebooks(bundle), strict=True)):
        np.testing.assert_array_equal(column.codebook, bundle.load_codebook(book))
        nearest = [measure_distances(query, column.codebook).argmin() for query in column.queries[: len(codes) : 7]]
        assert nearest == codes[::7, i].tolist()
    assert backend.take_columns() == []


def test_the_margins_of_rtf_are_those_of_its_own_tokens(tiny_bundle: Path) -> None:
    program = DifferencesProgram(Settings(tiny_bundle, backend="onnxruntime", threads=1))
    codec = Codec.load(tiny_bundle, backend="onnxruntime", threads=1)
    ours = codec.encode(make_sound(2, codec.sample_rate)).codes
    theirs = ours.copy()
    theirs[5, 1] = (theirs[5, 1] + 1) % 8192
    found = program.answer(2, ours, theirs)
    assert (found["tokens"], found["different"]) == (ours.size, 1)
    assert found["largest_margin"] > 0 and found["largest_rank"] >= 1
    with pytest.raises(BackendError, match="1 tokens that differ between two runs"):
        program.answer(2, theirs, ours)


def test_clips_are_varied_and_the_same_every_time(tmp_path: Path) -> None:
    clips, again = (list(make_clips(4, 1.5, 16_000)) for _ in range(2))
    for clip, other in zip(clips, again, strict=True):
        assert clip.shape == (24_000,) and clip.dtype == np.float32
        assert 1e-3 < np.abs(clip).max() <= 1
        np.testing.assert_array_equal(clip, other)
    assert len({clip.tobytes() for clip in clips}) == 4
    with pytest.raises(SettingsError, match=r"--sound .*; expected a folder with \.flac"):
        next(make_clips(1, 1, 16_000, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny_bundle", "tiny_unicodec"])
def test_tokens_are_the_same_but_for_near_ties(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    out = tmp_path / "same.json"
    arguments = ["--bundle", str(request.getfixturevalue(name)), "--minutes", "0.5", "--out", str(out)]
    assert run_command(same_tokens.app, [*arguments, "--variant-clips", "3"]) == 0
    found = json.loads(out.read_text())
    programs = [name for name in ("openvino", "onnxruntime", "published") if name not in found["absent"]]
    assert len(found["pairs"]) == len(programs) * (len(programs) - 1) / 2
    for row in found["pairs"]:
        assert row["holds"] and row["tokens"] > 700
        assert 0 < row["largest_feature_error"] < 1e-4  # they are different programs
    assert {row["variant"] for row in found["variants"]} == set(same_tokens.VARIANTS)
    assert all(row["different"] == 0 for row in found["variants"])
