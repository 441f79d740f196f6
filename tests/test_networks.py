"""The networks' tensors are the published ones. Stand-in weights equal the golden ones. Tracing keeps no weights."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from sc_runtime.export.registry import read_tensors
from sc_runtime.export.seeded import CHUNK, SeededWeights, draw_centroids
from sc_runtime.export.semanticodec.checkpoint import UNUSED
from sc_runtime.export.semanticodec.graphs import GRAPHS, NETWORKS
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from sc_runtime.export.spec import list_origins, list_shapes, make_tensor
from sc_runtime.export.trace import save_model, trace
from tests.conftest import ROOT
from tests.golden import seeded_weights
from tests.published_layout import PARTS, list_needed, list_training_only

RATES = (25, 50, 100)
rates = pytest.mark.parametrize("tps", RATES)
parts = pytest.mark.parametrize("part", PARTS)


@rates
@parts
def test_every_published_tensor_is_used_or_known_to_be_unused(part: str, tps: int) -> None:
    sizes = choose_sizes("full", tps, 4096)
    published = {name: shape for name, (shape, _) in seeded_weights.layout(part, tps).items()}
    needed = list_needed(part, sizes)
    assert needed == {name: shape for name, shape in published.items() if name in needed}
    rest = list_training_only(part, tps, sizes)
    assert rest == {name for name in published if UNUSED.match(name)}
    for name in needed:
        assert not re.match(r"model_ema|audiomae\.model\.(decoder|mask)|first_stage_model\.(encoder|quant_conv)", name)


@pytest.mark.parametrize(
    "name",
    [
        "first_stage_model.loss.logvar",
        "first_stage_model.encoder2.conv_in.weight",
        "cond_stage_models.0.model.norm.weight",
        "audiomae.model.decoder_future.weight",
        "audiomae.model.mask_token.weight",
        "audiomae.model.blocks.12.norm1.weight",
        "posterior_",
        "sqrt_betas",
        "betas2",
        "quantizer._codebook.embed_avg2",
        "model_ema2.decay",
        "model.diffusion_model.out.3.weight",
    ],
)
def test_a_name_that_is_not_published_does_not_count_as_unused(name: str) -> None:
    assert not UNUSED.match(name)


def choose_samples(part: str, tps: int) -> dict[str, tuple[int, ...]]:
    """The smallest tensor of every kind (a name without its numbers) that inference reads."""
    samples: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name, shape in list_needed(part, choose_sizes("full", tps, 4096)).items():
        kind = re.sub(r"\d+", "#", name)
        if kind not in samples or math.prod(shape) < math.prod(samples[kind][1]):
            samples[kind] = (name, shape)
    return {name: shape for name, shape in samples.values() if math.prod(shape) < 1 << 20}


@rates
@parts
def test_stand_in_weights_are_the_golden_ones(part: str, tps: int) -> None:
    samples = choose_samples(part, tps)
    assert len(samples) > 15
    tensors = SeededWeights(1).read(part, samples)
    assert set(tensors) == set(samples)
    for name, shape in samples.items():
        truth = np.float32(0.9227) if name == "scale_factor" else seeded_weights.fill(1, name, shape)
        np.testing.assert_array_equal(tensors[name].numpy(), truth, err_msg=name, strict=True)


def test_stand_in_weights_drawn_in_several_pieces_are_the_golden_ones() -> None:
    name, shape = "encoder.weight_ih_l1", (6144, 3072)
    assert math.prod(shape) > CHUNK
    found = SeededWeights(7).read("encoder", {name: shape})[name].numpy()
    assert np.array_equal(found, seeded_weights.fill(7, name, shape))


@pytest.mark.parametrize(("vocab", "width"), [(4096, 3072), (32768, 768)])
def test_stand_in_centroids_are_the_golden_ones(vocab: int, width: int) -> None:
    assert np.array_equal(draw_centroids(1, vocab, width), seeded_weights.centroids(1, vocab, width))


def test_seeds_differ() -> None:
    shapes = {"audiomae.model.norm.weight": (768,)}
    first, second = (SeededWeights(seed).read("encoder", shapes)["audiomae.model.norm.weight"] for seed in (1, 2))
    assert not torch.equal(first, second)


class Finder:
    """The `find` of a graph. It records the tensors that are asked for, and how many of them are still alive."""

    def __init__(self, find: Callable[[str], torch.Tensor]) -> None:
        self.find = find
        self.sizes: list[int] = []
        self.given: list[weakref.ref] = []
        self.most_alive = 0

    def __call__(self, name: str) -> torch.Tensor:
        self.given = [reference for reference in self.given if reference() is not None]
        self.most_alive = max(self.most_alive, len(self.given))
        array = self.find(name).numpy().copy()
        self.sizes.append(array.size)
        self.given.append(weakref.ref(array))
        return torch.from_numpy(array)


def test_weights_are_asked_for_one_by_one_when_the_graph_is_written(tmp_path: Path) -> None:
    sizes = choose_sizes("tiny", 50, 4096)
    graph = GRAPHS["vae_decoder"]
    network = NETWORKS[graph.network]
    tensors = read_tensors(network.file, SeededWeights(1), sizes)
    origins = list_origins(graph, sizes)
    finder = Finder(lambda name: make_tensor(origins[name], tensors))
    model = trace(partial(graph.build, sizes), graph.inputs(sizes), graph.outputs(sizes), finder).model
    assert max(finder.sizes) <= 1024, "more than a bias was read before it was to be written"
    finder.sizes.clear()
    finder.most_alive = 0
    save_model(model, tmp_path / "vae_decoder.onnx")
    assert sum(finder.sizes) > 0.9 * sum(math.prod(shape) for shape in list_shapes(network, sizes).values())
    assert finder.most_alive == 0, "a weight was kept after it was written"


TRACE_THE_LARGEST = """
import torch
from functools import partial
from bench.harness.machine import measure_peak_memory
from sc_runtime.export.semanticodec.graphs import GRAPHS
from sc_runtime.export.semanticodec.networks.sizes import choose_sizes
from sc_runtime.export.spec import list_origins, list_shapes, make_tensor
from sc_runtime.export.trace import trace

sizes, graph, largest = choose_sizes("full", 25, 4096), GRAPHS["acoustic_encoder"], 0
with torch.device("meta"):
    shapes = {name: tensor.shape for name, tensor in graph.build(sizes).state_dict().items()}

def find(name):
    global largest
    largest = max(largest, shapes[name].numel())
    return torch.zeros(()).expand(shapes[name])

before = measure_peak_memory()
trace(partial(graph.build, sizes), graph.inputs(sizes), graph.outputs(sizes), find)
after = measure_peak_memory()
print(sum(shape.numel() for shape in shapes.values()), largest, after - before)
"""


@pytest.mark.slow
def test_tracing_the_largest_network_takes_no_memory_for_its_weights() -> None:
    """6 GB of LSTM at 25 tps."""
    result = subprocess.run(
        [sys.executable, "-c", TRACE_THE_LARGEST], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr
    weights, largest_read, taken = map(int, result.stdout.split())
    assert weights > 1.5e9
    assert largest_read < 1e5
    assert taken < 500_000 * 1024
