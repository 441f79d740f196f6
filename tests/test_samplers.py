"""Schedule, DDIM and noise against formulas evaluated another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_runtime.bundle import Schedule
from sc_runtime.config import LATENT_SHAPE
from sc_runtime.errors import SettingsError
from sc_runtime.guidance import guide
from sc_runtime.samplers import choose_timesteps, compute_alphas, sample_ddim, seeded_noise
from tests.golden import seeded_weights

SCHEDULE = Schedule()
ALPHAS = compute_alphas(SCHEDULE)
RECORDED = [
    -0.27412763237953186,
    -0.8800255656242371,
    -0.013112369924783707,
]  #: first values of seed 0, window 0, draw 0


def test_schedule_is_that_of_the_published_checkpoint() -> None:
    truth = seeded_weights.schedule_buffers()["alphas_cumprod"]
    np.testing.assert_allclose(ALPHAS, truth, rtol=1e-6)


@given(steps=st.integers(-5, 1100))
def test_timesteps_are_published_or_refused(steps: int) -> None:
    expected = [] if steps < 1 or steps > 1000 else [c + 1 for c in range(0, 1000, 1000 // steps)]
    if expected and max(expected) < 1000:
        assert choose_timesteps(steps, SCHEDULE).tolist() == expected
    else:
        with pytest.raises(SettingsError, match=f"{steps} steps"):
            choose_timesteps(steps, SCHEDULE)


def test_refused_step_counts_name_one_that_works() -> None:
    with pytest.raises(SettingsError, match=r"3 steps .*use 2$"):
        choose_timesteps(3, SCHEDULE)
    assert len(choose_timesteps(2, SCHEDULE)) == 2


def exact_velocity(latent: np.ndarray, step: int, deviation: float) -> np.ndarray:
    """v for data that is Gaussian with this deviation: E[v | z_t] is linear in z_t, known in closed form."""
    alpha = ALPHAS[step]
    variance = alpha * deviation**2 + 1 - alpha
    clean = alpha**0.5 * deviation**2 / variance * latent
    noise = (1 - alpha) ** 0.5 / variance * latent
    return (alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean).astype(np.float32)


def data_width(alpha: float, deviation: float) -> float:
    """Standard deviation of z_t for such data."""
    return (alpha * deviation**2 + 1 - alpha) ** 0.5


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_samples_a_gaussian_whose_velocity_is_known(eta: float) -> None:
    """With the exact v of Gaussian data, sampling must end in that Gaussian (500 steps: within a few percent)."""
    deviation, generator = 0.37, np.random.default_rng(1)
    result = sample_ddim(
        lambda latent, step: exact_velocity(latent, step, deviation),
        generator.standard_normal(100_000, np.float32),
        lambda draw: generator.standard_normal(100_000, np.float32),
        choose_timesteps(500, SCHEDULE),
        ALPHAS,
        eta,
    )
    assert result.std() == pytest.approx(data_width(ALPHAS[0], deviation), rel=0.04)
    assert abs(result.mean()) < 0.01


def test_deterministic_ddim_converges_with_order_one() -> None:
    """eta 0 integrates an ODE; for Gaussian data it multiplies z_T by a known ratio, with an error like 1 / steps."""
    deviation, errors = 0.37, []
    for steps in (100, 200, 500):
        timesteps = choose_timesteps(steps, SCHEDULE)
        found = sample_ddim(
            lambda latent, step: exact_velocity(latent, step, deviation),
            np.ones(1, np.float32),
            lambda draw: np.ones(1, np.float32),
            timesteps,
            ALPHAS,
            0.0,
        )
        exact = data_width(ALPHAS[0], deviation) / data_width(ALPHAS[timesteps[-1]], deviation)
        errors.append(abs(found.item() / exact - 1))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2.5, rel=0.1)


def test_eta_zero_asks_for_no_noise() -> None:
    asked = []
    latent = np.ones((1, *LATENT_SHAPE), np.float32)
    sample_ddim(lambda z, step: 0 * z, latent, asked.append, choose_timesteps(5, SCHEDULE), ALPHAS, 0.0)
    assert asked == []


def test_each_step_asks_for_its_own_noise() -> None:
    asked = []

    def draw(index: int) -> np.ndarray:
        asked.append(index)
        return np.zeros((1, *LATENT_SHAPE), np.float32)

    latent = np.ones((1, *LATENT_SHAPE), np.float32)
    sample_ddim(lambda z, step: 0 * z, latent, draw, choose_timesteps(5, SCHEDULE), ALPHAS, 1.0)
    assert asked == [1, 2, 3, 4, 5]


def test_noise_is_standard_normal_and_independent() -> None:
    noise = seeded_noise(0)
    draws = np.stack([noise(window, draw) for window in range(3) for draw in range(3)])
    assert draws.dtype == np.float32
    assert draws.shape == (9, *LATENT_SHAPE)
    flat = draws.reshape(9, -1).astype(np.float64)
    assert np.abs(flat.mean(axis=1)).max() < 0.03
    assert np.abs(flat.std(axis=1) - 1).max() < 0.02
    assert np.abs((flat**4).mean(axis=1) - 3).max() < 0.3
    correlations = np.corrcoef(flat) - np.eye(9)
    assert np.abs(correlations).max() < 0.03
    assert np.abs(np.corrcoef(flat[:, 1:].ravel(), flat[:, :-1].ravel())[0, 1]) < 0.01


def test_noise_is_a_function_of_seed_window_and_draw() -> None:
    np.testing.assert_array_equal(seeded_noise(5)(2, 3), seeded_noise(5)(2, 3))
    different = [seeded_noise(5)(2, 4), seeded_noise(5)(3, 3), seeded_noise(6)(2, 3), seeded_noise(5)(3, 2)]
    for other in different:
        assert not np.array_equal(other, seeded_noise(5)(2, 3))


def test_noise_is_the_same_on_every_machine() -> None:
    """Values recorded once; NumPy guarantees the stream of Philox."""
    np.testing.assert_allclose(seeded_noise(0)(0, 0).ravel()[:3], RECORDED, rtol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_do_not_fit_are_refused(seed: int) -> None:
    with pytest.raises(SettingsError, match="seed"):
        seeded_noise(seed)


class Linear:
    """A stand-in T-UNet: v is the latent plus the window's context."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def run(self, feeds):
        self.batches.append(len(feeds["latent"]))
        assert feeds["step"].dtype == np.int64
        return {"v": feeds["latent"] + feeds["key_0"][:, :1, :1, :1]}


@pytest.mark.parametrize(("scale", "batch"), [(1.0, 2), (2.0, 4), (0.0, 4)])
def test_guidance_mixes_both_branches_of_one_call(scale: float, batch: int) -> None:
    tunet = Linear()
    given_context = {"key_0": np.array([3.0, 5.0], np.float32).reshape(2, 1, 1, 1)}
    empty_context = {"key_0": np.full((1, 1, 1, 1), 1.0, np.float32)}
    latent = np.zeros((2, *LATENT_SHAPE), np.float32)
    v = guide(tunet, given_context, empty_context, scale)(latent, 1)
    expected = [1 + scale * (3 - 1), 1 + scale * (5 - 1)]
    np.testing.assert_allclose(v[:, 0, 0, 0], expected)
    assert tunet.batches == [batch]
