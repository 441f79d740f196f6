"""Numbers derived from the rate: exactly those of the published code and the paper."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_runtime.config import CodecConfig
from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import TOKEN_RATES, Schedule, SemantiCodecConfig
from sc_runtime.unicodec.config import UniCodecConfig
from tests.conftest import ROOT

RATES = (25, 50, 100)


@pytest.mark.parametrize(
    ("tps", "stack", "positions", "width"), [(100, 1, 512, 768), (50, 2, 256, 1536), (25, 4, 128, 3072)]
)
def test_geometry(tps: int, stack: int, positions: int, width: int) -> None:
    config = SemantiCodecConfig(tps, 32768)
    assert (config.stack, config.positions, config.feature_width) == (stack, positions, width)
    assert config.positions - config.hop == positions // 16


@pytest.mark.parametrize(
    ("tps", "vocab", "kbps"),
    [(25, 4096, 0.31), (25, 32768, 0.35), (50, 4096, 0.63), (50, 32768, 0.70), (100, 4096, 1.25), (100, 32768, 1.40)],
)
def test_bitrates_of_table_1(tps: int, vocab: int, kbps: float) -> None:
    assert SemantiCodecConfig(tps, vocab).bitrate / 1000 == pytest.approx(kbps, abs=0.0051)


@given(samples=st.integers(1, 10**9), tps=st.sampled_from(RATES))
def test_positions_cover_the_samples_and_little_more(samples: int, tps: int) -> None:
    config = SemantiCodecConfig(tps, 4096)
    positions = config.count_positions(samples)
    patches = Fraction(samples, 2560)
    exact = [math.ceil(Fraction(8 * p, config.stack)) for p in (math.floor(patches), math.floor(patches) + 1)]
    assert positions in {*exact, exact[1] + 1}  # one more where float64 falls just above a whole number
    assert config.count_samples(positions) >= samples or patches.denominator == 1


def test_no_more_positions_than_the_padded_segments_hold() -> None:
    """For 71.68 s less a sample the published expression gives 3585 positions, but seven segments of 512 hold 3584."""
    samples = 7 * 163_840 - 1
    seconds = samples / 16000
    assert math.ceil(8 * (seconds + (0.16 - seconds % 0.16)) / 0.16) == 3585
    assert SemantiCodecConfig(100, 4096).count_positions(samples) == 3584


def test_positions_of_the_golden_lengths() -> None:
    assert SemantiCodecConfig(100, 16384).count_positions(196_800) == 616
    assert SemantiCodecConfig(25, 4096).count_positions(196_800) == 154
    assert SemantiCodecConfig(100, 16384).count_samples(616) == 197_120


def test_exact_multiples_gain_a_patch_or_not_by_float64_luck() -> None:
    """Evaluated with the published expression, in plain floats; both outcomes occur."""
    gains = set()
    for patches in range(1, 200):
        seconds = patches * 2560 / 16000
        padded = seconds + (0.16 - seconds % 0.16)
        expected = math.ceil(8 * padded / 0.16 / 1)
        assert SemantiCodecConfig(100, 4096).count_positions(patches * 2560) == expected
        gains.add(expected > 8 * patches)
    assert gains == {True, False}


def test_a_config_is_restored_from_settings_or_codebooks() -> None:
    config = SemantiCodecConfig(25, 8192, 1024, width=96, schedule=Schedule(steps=500))
    assert SemantiCodecConfig.from_settings(8192, json.loads(json.dumps(config.settings))) == config
    assert "vocab" not in config.settings
    assert config.codebook_sizes == {"semantic": 8192, "acoustic": 1024}
    assert config.bits == (13, 10)
    assert SemantiCodecConfig.from_codebook_sizes(25, (8192, 1024)) == SemantiCodecConfig(25, 8192, 1024)


@pytest.mark.parametrize("entries", [(), (4096,), (4096, 8192, 8192)])
def test_other_numbers_of_codebooks_are_refused(entries: tuple[int, ...]) -> None:
    with pytest.raises(SettingsError, match=f"{len(entries)} codebooks; expected a semantic and an acoustic one"):
        SemantiCodecConfig.from_codebook_sizes(25, entries)


@pytest.mark.parametrize(
    "settings", [{}, {"tps": 25}, {"tps": 25, "schedule": {"steps": "x", "none": 1}}, {"schedule": 5}]
)
def test_invalid_settings_are_refused(settings: dict) -> None:
    with pytest.raises((KeyError, TypeError, SettingsError)):
        SemantiCodecConfig.from_settings(4096, settings)


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(SettingsError, match="tps 75; expected 25, 50 or 100"):
        SemantiCodecConfig(75, 4096)
    with pytest.raises(SettingsError, match="vocab 0"):
        SemantiCodecConfig(50, 0)


def test_the_readme_states_the_numbers_of_positions() -> None:
    """The table's row for 1, 5, 10.24 and 30 s, at every rate."""
    line = next(line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if "for 1, 5" in line)
    _, _, semanticodec, unicodec, _ = line.split("|")
    seconds = (1, 5, 10.24, 30)

    def count(config: CodecConfig) -> str:
        return ", ".join(str(config.count_positions(round(length * config.sample_rate))) for length in seconds)

    stated = "; ".join(f"{tps} tps: {count(SemantiCodecConfig(tps, 4096))}" for tps in TOKEN_RATES)
    assert (semanticodec.strip(), unicodec.strip()) == (stated, count(UniCodecConfig()))
