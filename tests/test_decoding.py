"""Several recordings decoded together: which windows share a group, and that nobody's sound depends on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sc_runtime import Codec, DecodeOptions, Tokens
from sc_runtime.decoding import Decoding, decode_recordings, run_group
from sc_runtime.errors import BackendError, SettingsError, TokensError
from sc_runtime.model import DecodePlan

OVERLAP = 2


class FakeModel:
    """A window is a number below 100, and its waveform 10 times the number. It keeps the groups that it decoded."""

    def __init__(self, decode_batch: int) -> None:
        self.decode_batch = decode_batch
        self.groups: list[list[int]] = []

    def decode_windows(self, windows: list[int], report: Callable[[], None]) -> Iterator[Iterable[np.ndarray]]:
        self.groups.append(windows)
        report()
        if min(windows) < 0:
            raise BackendError("a window below 0", "another")
        return iter([[np.full(OVERLAP, window, np.float32)] * 5 for window in windows])


def make_plan(*windows: int, key: str = "") -> DecodePlan:
    return DecodePlan(windows, key, 2, 8 * len(windows) + OVERLAP, OVERLAP)


def describe(found: Iterator[np.ndarray] | TokensError) -> set[int] | str:
    """The windows that a sound holds, or the error."""
    return str(found) if isinstance(found, TokensError) else set(np.concatenate(list(found)).astype(int).tolist())


WRONG = TokensError("no tokens", "tokens")
Found = list[Any]


@pytest.mark.parametrize(
    ("batch", "groups"),
    [(16, [[1, 2, 3, 4, 5]]), (4, [[1, 2, 3, 4], [5]]), (2, [[1, 2], [3, 4], [5]]), (1, [[1], [2], [3], [4], [5]])],
)
def test_windows_of_recordings_that_follow_form_full_groups(batch: int, groups: list[list[int]]) -> None:
    model: Any = FakeModel(16)
    plans = [make_plan(1), make_plan(2, 3), make_plan(4, 5)]
    found = [describe(each) for each in decode_recordings(model, plans, batch, None)]
    assert model.groups == groups
    assert found[0] == {1}
    assert {2, 3} <= found[1] and {4, 5} <= found[2]  # type: ignore[operator]


def test_no_group_holds_two_recordings_where_a_group_does_not_pay() -> None:
    model: Any = FakeModel(1)
    plans = [make_plan(1), make_plan(2, 3, 4), make_plan(5)]
    assert len([describe(each) for each in decode_recordings(model, plans, 2, None)]) == 3
    assert model.groups == [[1], [2, 3], [4], [5]]


def test_only_equal_settings_share_a_group() -> None:
    model: Any = FakeModel(16)
    plans = [make_plan(1, key="a"), make_plan(2, key="b"), make_plan(3, key="b"), make_plan(4, key="a")]
    assert [describe(each) for each in decode_recordings(model, plans, None, None)] == [{1}, {2}, {3}, {4}]
    assert model.groups == [[1], [2, 3], [4]]


def test_an_error_stands_in_its_place_and_recordings_are_taken_when_their_windows_come_due() -> None:
    model: Any = FakeModel(4)
    taken: list[int] = []
    calls: list[tuple[int, int, int]] = []

    def plans() -> Iterator[DecodePlan | TokensError]:
        for number in range(9):
            taken.append(number)
            yield WRONG if number in (1, 2) else make_plan(number)

    streams = decode_recordings(model, plans(), None, lambda *call: calls.append(call))
    assert taken == []
    found, counts = [], []
    for each in streams:
        found.append(describe(each))
        counts.append(len(taken))
    assert found == [{0}, str(WRONG), str(WRONG), {3}, {4}, {5}, {6}, {7}, {8}]
    assert counts == [4, 4, 4, 4, 8, 8, 8, 8, 9], "an error takes the place of a window"
    assert model.groups == [[0, 3], [4, 5, 6, 7], [8]]
    assert [call for call in calls if call[1] == 2] == [(number, 2, 2) for number in (0, 3, 4, 5, 6, 7, 8)]


def test_streams_may_be_abandoned_or_taken_late() -> None:
    model: Any = FakeModel(2)
    plans = [make_plan(1, 2, 3), make_plan(4, 5), make_plan(6)]
    streams = decode_recordings(model, plans, None, None)
    first: Any = next(streams)
    next(first)
    assert [describe(each) for each in streams][-1] == {6}, "the first one's windows are no longer waited for"
    assert model.groups == [[1, 2], [4, 5], [6]]
    assert 3 in np.concatenate(list(first)), "it goes on alone"
    late: Any = list(decode_recordings(model, plans, None, None))
    assert [len(np.concatenate(list(each))) for each in late] == [26, 18, 10]


def test_a_group_that_fails_changes_nothing_so_that_each_can_be_tried_alone() -> None:
    model: Any = FakeModel(4)
    units: list[int] = []

    def alone(decoding: Decoding) -> None:
        run_group(model, [(decoding, 1)])

    good = Decoding(make_plan(1, 2), alone, lambda done, total: units.append(done))
    bad = Decoding(make_plan(-1), alone)
    with pytest.raises(BackendError):
        run_group(model, [(good, 2), (bad, 1)])
    assert (good.left, bad.left, len(good.ready)) == (2, 1, 0)
    assert {1, 2} <= describe(good.pieces)  # type: ignore[operator]
    with pytest.raises(BackendError):
        next(bad.pieces)
    assert units == sorted(set(units)) and units[-1] == 4, "progress never goes back"


# --- the codecs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bundle", ["tiny_bundle", "tiny_unicodec"])
def test_a_cpu_gives_the_sound_of_decoding_alone(
    bundle: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = Codec.load(request.getfixturevalue(bundle), backend="onnxruntime")
    generator = np.random.default_rng(0)
    sizes = list(codec.config.codebook_sizes.values())
    recordings: list[Any] = [
        Tokens.from_array(generator.integers(0, sizes, (count, len(sizes))), codec.config) for count in (20, 270, 3)
    ]
    recordings[0].save(tmp_path / "a.sct")
    recordings[2].save(tmp_path / "c.npy")
    is_diffusion = "seed" in codec.model.spec.decode_options
    each = [DecodeOptions(seed=number) if is_diffusion else DecodeOptions() for number in range(3)]
    changes: dict[str, Any] = {"steps": 1, "guidance": 1.0} if is_diffusion else {}
    expected = [codec.decode(tokens, chosen, **changes) for tokens, chosen in zip(recordings, each, strict=True)]
    given = [tmp_path / "a.sct", recordings[1], tmp_path / "c.npy"]
    calls: list[tuple[int, int, int]] = []
    found = list(codec.decode_many(given, each, progress=lambda *call: calls.append(call), **changes))
    for sound, alone in zip(found, expected, strict=True):
        np.testing.assert_array_equal(sound, alone)
    assert [number for number, done, total in calls if done == total] == [0, 1, 2]
    mixed = list(codec.decode_many([recordings[0], tmp_path / "none.sct", recordings[2]], **changes))
    assert isinstance(mixed[1], TokensError) and "none.sct" in str(mixed[1])
    np.testing.assert_array_equal(mixed[0], expected[0])
    assert list(codec.decode_many([])) == []
    streams = list(codec.decode_many_streams(recordings[:2], each[:2], **changes))
    np.testing.assert_array_equal(np.concatenate(list(streams[1])), expected[1])  # type: ignore[arg-type]


def test_options_are_checked(tiny_bundle: Path) -> None:
    codec = Codec.load(tiny_bundle, backend="onnxruntime")
    with pytest.raises(SettingsError, match="0 steps"):
        codec.decode_many([], steps=0)
    with pytest.raises(SettingsError, match="batch 0"):
        codec.decode_many([], batch=0)
    codes = np.zeros((3, 2), np.int64)
    found = codec.decode_many([codes, codes], [DecodeOptions(steps=1), DecodeOptions(eta=2)])
    assert isinstance(next(found), np.ndarray)
    with pytest.raises(SettingsError, match="eta 2"):
        next(found)
