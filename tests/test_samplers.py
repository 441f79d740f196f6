"""Schedule, DDIM and noise against formulas evaluated another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sc_runtime.errors import SettingsError
from sc_runtime.semanticodec.config import LATENT_SHAPE, Schedule
from sc_runtime.semanticodec.guidance import guide
from sc_runtime.semanticodec.noise import SeededNoise
from sc_runtime.semanticodec.presets import PRESETS, Sampling, choose_preset, resolve_sampling
from sc_runtime.semanticodec.samplers import SOLVERS, sample_ddim
from sc_runtime.semanticodec.schedule import choose_timesteps, compute_alphas_cumprod, half_log_snr
from sc_runtime.spec import DecodeOptions
from tests.golden import seeded_weights

SCHEDULE = Schedule()
ALPHAS = compute_alphas_cumprod(SCHEDULE)
RECORDED = [
    -0.27412763237953186,
    -0.8800255656242371,
    -0.013112369924783707,
]  #: first values of seed 0, window 0, draw 0


def test_schedule_is_that_of_the_published_checkpoint() -> None:
    truth = seeded_weights.schedule_buffers()["alphas_cumprod"]
    np.testing.assert_allclose(ALPHAS, truth, rtol=1e-6)


@given(steps=st.integers(-5, 1100))
def test_published_steps_are_published_or_refused(steps: int) -> None:
    expected = [] if steps < 1 or steps > 999 else [c + 1 for c in range(0, 1000, 1000 // steps)]
    if expected and max(expected) < 1000:
        assert choose_timesteps(steps, SCHEDULE).tolist() == [*reversed(expected), 0]
    else:
        with pytest.raises(SettingsError, match=f"{steps} steps"):
            choose_timesteps(steps, SCHEDULE)


def test_refused_step_counts_name_one_that_works() -> None:
    with pytest.raises(SettingsError, match=r"3 steps .*use 2$"):
        choose_timesteps(3, SCHEDULE)
    assert choose_timesteps(2, SCHEDULE).tolist() == [501, 1, 0]
    with pytest.raises(SettingsError, match=r"45 steps even in log-SNR.*use 30 or fewer"):
        choose_timesteps(45, SCHEDULE, "logsnr")
    assert len(choose_timesteps(30, SCHEDULE, "logsnr")) == 31


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 20, 25, 30])
def test_even_log_snr_has_exactly_the_steps_asked_for(steps: int) -> None:
    timesteps = choose_timesteps(steps, SCHEDULE, "logsnr")
    assert len(timesteps) == steps + 1
    assert (timesteps[0], timesteps[-1]) == (999, 0)
    assert (np.diff(timesteps) < 0).all()
    widths = np.diff(half_log_snr(ALPHAS)[timesteps])
    if steps <= 10:
        assert widths.max() / widths.min() == pytest.approx(1, abs=0.5)


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
        exact = data_width(ALPHAS[0], deviation) / data_width(ALPHAS[timesteps[0]], deviation)
        errors.append(abs(found.item() / exact - 1))
    assert errors[0] < 0.05
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(2.5, rel=0.1)


MEANS, SHARES, WIDTH = np.array([-1.0, 0.4, 1.2]), np.array([0.3, 0.5, 0.2]), 0.25  #: of a Gaussian mixture


def mixture_velocity(latent: np.ndarray, step: int) -> np.ndarray:
    """The exact v for data from the mixture: the posterior mean of the data given z_t, in closed form, float64."""
    alpha = ALPHAS[step]
    variance = alpha * WIDTH**2 + 1 - alpha
    distance = latent[:, None] - alpha**0.5 * MEANS
    weights = SHARES * np.exp(-0.5 * distance**2 / variance)
    weights /= weights.sum(axis=1, keepdims=True)
    clean = (weights * (MEANS + alpha**0.5 * WIDTH**2 / variance * distance)).sum(axis=1)
    noise = (latent - alpha**0.5 * clean) / (1 - alpha) ** 0.5
    return alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean


def solve_mixture(solver: str, timesteps: np.ndarray) -> np.ndarray:
    start = np.linspace(-2, 2, 41)
    return SOLVERS[solver].sample(mixture_velocity, start, lambda draw: start, timesteps, ALPHAS, 0.0)


@pytest.fixture(scope="module")
def exact_flow() -> np.ndarray:
    """The ODE's solution by Heun's method on dz/dlambda over all 1000 steps, without code of the solvers."""
    ratios, latent = half_log_snr(ALPHAS), np.linspace(-2, 2, 41)

    def slope(latent: np.ndarray, step: int) -> np.ndarray:
        alpha, v = ALPHAS[step], mixture_velocity(latent, step)
        clean = alpha**0.5 * latent - (1 - alpha) ** 0.5 * v
        return alpha**0.5 * clean - alpha * latent  # of z as lambda grows, variance preserving

    for step in range(999, 0, -1):
        width = ratios[step - 1] - ratios[step]
        first = slope(latent, step)
        latent = latent + width / 2 * (first + slope(latent + width * first, step - 1))
    return latent


@pytest.mark.parametrize(("solver", "low", "high"), [("ddim", 0.85, 1.2), ("dpm", 1.5, 2.3), ("unipc", 2.1, 3.3)])
def test_order_of_convergence(solver: str, low: float, high: float, exact_flow: np.ndarray) -> None:
    """Error against steps, even in log-SNR: slope 1, 2 and, with the corrector, between 2 and 3."""
    counts = np.array([10, 14, 20, 28])
    errors = [
        np.sqrt(np.mean((solve_mixture(solver, choose_timesteps(n, SCHEDULE, "logsnr")) - exact_flow) ** 2))
        for n in counts
    ]
    order = -np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert low < order < high, errors


def test_the_fast_preset_has_the_fewest_steps_that_beat_ddim_at_fifty(exact_flow: np.ndarray) -> None:
    def error(solver: str, timesteps: np.ndarray) -> float:
        return float(np.sqrt(np.mean((solve_mixture(solver, timesteps) - exact_flow) ** 2)))

    ddim = error("ddim", choose_timesteps(50, SCHEDULE))
    fast = PRESETS["fast"]
    assert error(fast.solver, choose_timesteps(fast.steps, SCHEDULE, "logsnr")) < ddim
    assert error(fast.solver, choose_timesteps(fast.steps - 1, SCHEDULE, "logsnr")) > ddim
    assert error("unipc", choose_timesteps(10, SCHEDULE, "logsnr")) < ddim


def test_the_stochastic_dpm_solver_samples_the_mixture() -> None:
    """Mean, deviation and the share of each component, from 20 000 samples at 30 steps with eta 1."""
    generator = np.random.default_rng(3)
    result = SOLVERS["dpm"].sample(
        mixture_velocity,
        generator.standard_normal(20_000),
        lambda draw: generator.standard_normal(20_000),
        choose_timesteps(30, SCHEDULE, "logsnr"),
        ALPHAS,
        1.0,
    )
    mean = SHARES @ MEANS
    assert result.mean() == pytest.approx(mean, abs=0.03)
    assert result.std() == pytest.approx((SHARES @ (MEANS**2 + WIDTH**2) - mean**2) ** 0.5, rel=0.03)
    assert (result < -0.3).mean() == pytest.approx(SHARES[0], abs=0.02)


def test_presets_and_their_changes() -> None:
    assert resolve_sampling(DecodeOptions()) == choose_preset("reference") == Sampling("ddim", 50, 2.0, 1.0)
    assert resolve_sampling(DecodeOptions("fast", steps=9, guidance=None)).steps == 9
    for sampling in PRESETS.values():
        choose_timesteps(sampling.steps, SCHEDULE, SOLVERS[sampling.solver].spacing)
    for changes, message in [
        ({"solver": "euler"}, "solver 'euler'; expected one of ddim, dpm, unipc"),
        ({"solver": "unipc"}, "eta 1.0 with the solver unipc"),
        ({"eta": -0.1}, "eta -0.1"),
        ({"guidance": float("nan")}, "guidance nan"),
        ({"interval": (500, 100)}, r"guidance interval \(500, 100\)"),
        ({"interval": (1, 2, 3)}, r"guidance interval \(1, 2, 3\)"),
        ({"interval": 5}, "guidance interval 5"),
        ({"interval": (1.5, 3.7)}, r"guidance interval \(1\.5, 3\.7\)"),
        ({"interval": ("1", "3")}, r"guidance interval \('1', '3'\)"),
    ]:
        with pytest.raises(SettingsError, match=message):
            resolve_sampling(DecodeOptions(**changes))  # type: ignore[arg-type]
    listed, paired = (resolve_sampling(DecodeOptions(interval=kind((200, 1000)))) for kind in (list, tuple))
    assert listed == paired
    with pytest.raises(SettingsError, match="preset 'best'; expected one of reference, balanced, fast"):
        resolve_sampling(DecodeOptions("best"))


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
    noise = SeededNoise(0)
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
    np.testing.assert_array_equal(SeededNoise(5)(2, 3), SeededNoise(5)(2, 3))
    different = [SeededNoise(5)(2, 4), SeededNoise(5)(3, 3), SeededNoise(6)(2, 3), SeededNoise(5)(3, 2)]
    for other in different:
        assert not np.array_equal(other, SeededNoise(5)(2, 3))


def test_noise_is_the_same_on_every_machine() -> None:
    """Values recorded once; NumPy guarantees the stream of Philox."""
    np.testing.assert_allclose(SeededNoise(0)(0, 0).ravel()[:3], RECORDED, rtol=1e-6)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_do_not_fit_are_refused(seed: int) -> None:
    with pytest.raises(SettingsError, match="seed"):
        SeededNoise(seed)


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


def test_guidance_outside_its_interval_is_one_branch() -> None:
    tunet = Linear()
    given_context = {"key_0": np.full((1, 1, 1, 1), 3.0, np.float32)}
    empty_context = {"key_0": np.full((1, 1, 1, 1), 1.0, np.float32)}
    predict = guide(tunet, given_context, empty_context, 2.0, (200, 800))
    latent = np.zeros((1, *LATENT_SHAPE), np.float32)
    values = [float(predict(latent, step)[0, 0, 0, 0]) for step in (999, 800, 500, 200, 199)]
    assert values == [3.0, 5.0, 5.0, 5.0, 3.0]
    assert tunet.batches == [1, 2, 2, 2, 1]
