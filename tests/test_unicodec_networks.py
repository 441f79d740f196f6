"""UniCodec's torch networks: equal to the published procedure, at any length, in torch and as ONNX graphs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.reference.unicodec import DOMAINS, PublishedUniCodec
from sc_runtime.accuracy import relative_error
from sc_runtime.errors import CheckpointError
from sc_runtime.export.seeded import SeededTensors
from sc_runtime.export.spec import Graph, Shapes, list_needed, list_origins, load_network, make_tensor
from sc_runtime.export.trace import save_model, trace
from sc_runtime.export.unicodec.checkpoint import FILE, PREFIXES, UNUSED, CheckpointFile
from sc_runtime.export.unicodec.export import EMBEDDING, PROJECTION, UNICODEC, make_codebook
from sc_runtime.export.unicodec.graphs import GRAPHS, WINDOW
from sc_runtime.export.unicodec.networks.decoder import InverseStft, make_basis, make_power
from sc_runtime.export.unicodec.networks.encoder import Mixture, RoutedMixture, fold_norm
from sc_runtime.export.unicodec.networks.sizes import TINY, UniCodecSizes
from sc_runtime.spec import TensorSpec
from tests.conftest import GOLDEN
from tests.golden import seeded_weights

HOP = 320
LENGTHS = (*range(1, 12), 63, 64, 65, 159, 161, 319, 320, 321, 639, 641, 961, 1279, 1921, 7777)  #: samples
COUNTS = (1, 2, 3, 4, 5, 40)  #: positions


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    return dict(SeededTensors(1, list_all(TINY)))


@pytest.fixture(scope="module")
def published(tensors: dict[str, Tensor]) -> PublishedUniCodec:
    return PublishedUniCodec(TINY, tensors)


def list_all(sizes: UniCodecSizes) -> Shapes:
    return list_needed(UNICODEC, FILE, sizes)


def draw(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(shape).standard_normal(shape, np.float32))


def test_every_published_tensor_is_used_or_known_to_be_unused() -> None:
    layout = {name: shape for name, (shape, _) in seeded_weights.layout("unicodec", 75).items()}
    needed = list_all(UniCodecSizes())
    assert needed == {name: shape for name, shape in layout.items() if name in needed}
    assert set(layout) - set(needed) == {name for name in layout if UNUSED.match(name)}
    assert all(name.startswith(PREFIXES) for name in layout)


def test_stand_in_weights_are_the_golden_ones() -> None:
    """The smallest tensor of every kind."""
    samples: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in list_all(UniCodecSizes()).items():
        kind = re.sub(r"\d+", "#", name)
        if kind not in samples or math.prod(shape) < math.prod(samples[kind][1]):
            samples[kind] = (name, shape)
    drawn = SeededTensors(1, dict(samples.values()))
    for name, shape in samples.values():
        if name != EMBEDDING and name != WINDOW:
            truth = seeded_weights.fill(1, name, shape)
            np.testing.assert_array_equal(drawn[name].numpy(), truth, err_msg=name, strict=True)
    torch.testing.assert_close(drawn[WINDOW], torch.hann_window(1280), rtol=0, atol=1e-6)


def test_weight_normalisation_is_folded() -> None:
    gain, direction = draw(6, 1, 1), draw(6, 4, 3)
    torch.testing.assert_close(fold_norm(gain, direction), torch._weight_norm(direction, gain, 0))


def test_the_codebook_is_the_projected_embedding(tensors: dict[str, Tensor]) -> None:
    truth = functional.linear(tensors[EMBEDDING], tensors[f"{PROJECTION}.weight"], tensors[f"{PROJECTION}.bias"])
    codebook = make_codebook(tensors)
    assert codebook.shape == (16384, TINY.width) and codebook.dtype == np.float32
    assert relative_error(codebook, truth.numpy()) < 1e-6


@torch.inference_mode()
def test_convolutions_mirror_every_length_as_published(
    tensors: dict[str, Tensor], published: PublishedUniCodec
) -> None:
    """To rounding; where a signal is shorter than its mirror image too."""
    encoder = load_network(GRAPHS["encoder"], TINY, tensors)
    for samples in (*range(1, 330), *LENGTHS):
        waveform = draw(1 + samples % 2, 1, samples)
        found = encoder.convolutions(waveform)  # type: ignore[operator]
        assert found.shape == (len(waveform), TINY.width, -(-samples // HOP))
        assert relative_error(found.numpy(), published.run_convolutions(waveform).numpy()) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("network", ["encoder", "routed_encoder"])
def test_encoder_equals_the_published_procedure(
    tensors: dict[str, Tensor], published: PublishedUniCodec, network: str
) -> None:
    encoder = load_network(GRAPHS[network], TINY, tensors)
    for samples in LENGTHS:
        waveform = 0.3 * draw(1 + samples % 3, samples)
        assert relative_error(encoder(waveform).numpy(), published.embed(waveform).numpy()) < 1e-5


@torch.inference_mode()
@pytest.mark.parametrize("kind", [Mixture, RoutedMixture])
def test_a_mixture_is_a_loop_over_positions(kind: type[Mixture]) -> None:
    torch.manual_seed(0)
    mixture = kind(TINY)
    x = draw(2, 30, TINY.width)
    x[1] = x[1, :1]  # all positions of one expert
    expected = torch.empty_like(x)
    chosen = set()
    for row in range(2):
        for position in range(30):
            one = x[row, position]
            probabilities = torch.softmax(mixture.gate.weight @ one, dim=0)
            likeliest = int(probabilities.argmax())
            chosen.add(likeliest)
            expert = mixture.experts[likeliest]
            expected[row, position] = probabilities[likeliest] * expert(one) + mixture.shared_experts(one)
    assert chosen == {0, 1, 2}
    torch.testing.assert_close(mixture(x), expected)
    torch.testing.assert_close(mixture(x[1:, :5]), expected[1:, :5])  # two experts have nothing to do


@torch.inference_mode()
def test_decoder_equals_the_published_procedure(tensors: dict[str, Tensor], published: PublishedUniCodec) -> None:
    decoder = load_network(GRAPHS["decoder"], TINY, tensors)
    for count in COUNTS:
        vectors = draw(1 + count % 3, count, TINY.width)
        truth = published.run_head(published.run_backbone(vectors.transpose(1, 2)))
        found = decoder(vectors)
        assert found.shape == (len(vectors), HOP * count)
        assert relative_error(found.numpy(), truth.numpy()) < 1e-5


def invert(spectrum: np.ndarray, window: np.ndarray, hop: int) -> np.ndarray:
    """Complex [T, bins] -> float64 [hop T]: frames by their definition, added at their places, over the envelope."""
    size, count = len(window), len(spectrum)
    angles = 2 * np.pi * np.outer(np.arange(size // 2 + 1), np.arange(size)) / size
    weights = np.r_[1, np.full(size // 2 - 1, 2), 1] / size
    frames = (spectrum * weights).real @ np.cos(angles) - (spectrum * weights).imag @ np.sin(angles)
    total, envelope = np.zeros((2, hop * (count - 1) + size))
    for start, frame in zip(range(0, hop * count, hop), frames * window, strict=True):
        total[start : start + size] += frame
        envelope[start : start + size] += window**2
    cut = (size - hop) // 2
    return (total[cut:-cut] / envelope[cut:-cut])[: hop * count]


@torch.inference_mode()
@pytest.mark.parametrize("count", COUNTS)
def test_inverse_stft_is_exact(count: int) -> None:
    size = 4 * HOP
    window = torch.hann_window(size)
    istft = InverseStft(size, HOP)
    istft.basis.copy_(make_basis(window))
    istft.power.copy_(make_power(window))
    parts = draw(2, count, size + 2)
    found = istft(parts).numpy()
    real, imaginary = parts.double().numpy().reshape(2, count, 2, -1).transpose(2, 0, 1, 3)
    for row in range(2):
        truth = invert(real[row] + 1j * imaginary[row], window.double().numpy(), HOP)
        assert relative_error(found[row], truth) < 1e-6


Run = Callable[[Tensor], np.ndarray]


def export(
    build: Callable[[], nn.Module], find: Callable[[str], Tensor], inputs: TensorSpec, output: TensorSpec, path: Path
) -> Run:
    save_model(trace(build, {"x": inputs}, {"y": output}, find).model, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x.numpy()})[0]


def spec(*shape: int | str) -> TensorSpec:
    return TensorSpec("float32", ("batch", *shape))


@pytest.mark.slow
@torch.inference_mode()
@pytest.mark.parametrize("network", ["encoder", "decoder"])
def test_graphs_equal_the_networks_at_any_length(tmp_path: Path, network: str) -> None:
    sizes = dataclasses.replace(TINY, layers=1, blocks=1)
    tensors = dict(SeededTensors(1, list_all(sizes)))
    graph: Graph = GRAPHS[network]
    module, origins = load_network(graph, sizes, tensors), list_origins(graph, sizes)
    audio, positions = spec("samples"), spec("positions", sizes.width)
    specs = (audio, positions) if network == "encoder" else (positions, audio)
    build = partial(graph.build, sizes)

    def find(name: str) -> Tensor:
        return make_tensor(origins[name], tensors)

    # inference mode and tracing do not go together
    with torch.inference_mode(False):
        run = export(build, find, *specs, tmp_path / "graph.onnx")
    for length in LENGTHS if network == "encoder" else COUNTS:
        batch = 1 + length % 3
        x = 0.3 * draw(batch, length) if network == "encoder" else draw(batch, length, sizes.width)
        assert relative_error(run(x), module(x).numpy()) < 1e-5


@torch.inference_mode()
def test_a_routed_mixture_is_exported_too(tmp_path: Path) -> None:
    mixture = RoutedMixture(TINY)
    state = mixture.state_dict()
    positions = spec("positions", TINY.width)
    with torch.inference_mode(False):
        run = export(partial(RoutedMixture, TINY), state.__getitem__, positions, positions, tmp_path / "graph.onnx")
    for count in COUNTS:
        x = draw(1 + count % 3, count, TINY.width)
        assert relative_error(run(x), mixture(x).numpy()) < 1e-5


@pytest.fixture
def checkpoint(tensors: dict[str, Tensor], tmp_path: Path) -> Callable[[dict[str, Tensor]], Path]:
    """Writes a file in the published layout: what inference needs, what it does not, and the discriminators."""

    def write(changes: dict[str, Tensor]) -> Path:
        layout = seeded_weights.layout("unicodec", 75)
        state = {name: torch.zeros(1) for name in layout if UNUSED.match(name)}
        state |= tensors | {"multiperioddisc.discriminators.0.convs.0.weight_v": torch.zeros(1)} | changes
        path = tmp_path / FILE
        torch.save({"state_dict": state, "epoch": 3}, path)
        return path

    return write


def test_a_published_checkpoint_is_read(checkpoint: Callable, tensors: dict[str, Tensor]) -> None:
    found = CheckpointFile(checkpoint({}).parent).read(FILE, list_all(TINY))
    assert set(found) == set(tensors)
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [("head.out.bias", (3,), "1 misshapen"), ("backbone.convnext.12.gamma", (768,), "1 extra")],
)
def test_another_layout_is_named(checkpoint: Callable, name: str, shape: tuple[int, ...], message: str) -> None:
    path = checkpoint({name: torch.zeros(shape)})
    with pytest.raises(CheckpointError, match=rf"{message} \({re.escape(name)}"):
        CheckpointFile(path).read(FILE, list_all(TINY))


@pytest.mark.full_size
@torch.inference_mode()
def test_networks_give_the_recorded_outputs() -> None:
    """float32, against golden/unicodec.npz: 1e-6 was measured; the bound is 1e-3."""
    truth, sizes = np.load(GOLDEN / "unicodec.npz"), UniCodecSizes()
    tensors = SeededTensors(1, list_all(sizes))
    sound, _ = soundfile.read(GOLDEN / str(truth["wav"]), dtype="float32")
    encoder = load_network(GRAPHS["encoder"], sizes, tensors)
    cnn = encoder.convolutions(torch.from_numpy(sound)[None, None])  # type: ignore[operator]
    assert relative_error(cnn[0, :8].T.numpy(), truth["cnn"]) < 1e-5
    features = encoder.transformer(cnn.transpose(1, 2))[0].numpy()  # type: ignore[operator]
    assert relative_error(features, truth["emb"].T) < 1e-5
    codebook = make_codebook(tensors)
    exact, entries = codebook.astype(np.float64), len(codebook)
    distances = (exact**2).sum(axis=1) - 2 * features.astype(np.float64) @ exact.T
    for domain, (first, last) in DOMAINS.items():
        searched = slice(first * entries // 4, last * entries // 4)
        codes = searched.start + distances[:, searched].argmin(axis=1)
        np.testing.assert_array_equal(codes, truth[f"codes_{domain or 'all'}"])
    decoder = load_network(GRAPHS["decoder"], sizes, tensors)
    waveform = decoder(torch.from_numpy(codebook[truth["codes_all"]])[None])[0].numpy()
    assert relative_error(waveform, truth["waveform"]) < 1e-5
