"""The backends on NVIDIA GPUs: the loop's coefficients, the solver's kernel, whole decodes, and their errors.

No GPU is needed. Memory is the host's, kernels/solver.cu is compiled for the CPU, and ONNX Runtime runs the graphs
behind the interfaces of TensorRT (which a test compares with the real one) and of the CUDA provider.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from sc_runtime import Codec, DecodeOptions
from sc_runtime.backends import onnxruntime_cuda, select
from sc_runtime.backends.base import Backend
from sc_runtime.backends.lstm_choice import LIBRARY_LSTM
from sc_runtime.backends.onnxruntime import FP16_LSTM_DISABLED, OnnxRuntimeBackend
from sc_runtime.backends.onnxruntime_cuda import OnnxRuntimeCudaBackend, Provider
from sc_runtime.backends.tensorrt import backend as tensorrt
from sc_runtime.backends.tensorrt.plans import (
    PlanEntry,
    Target,
    hash_source,
    list_planned,
    list_profiles,
    locate_plan,
    read_entry,
    record,
)
from sc_runtime.bundle.store import Bundle, hash_file
from sc_runtime.cli.examine import examine
from sc_runtime.cuda import device
from sc_runtime.cuda import source as cuda_source
from sc_runtime.cuda.graph import RECENT
from sc_runtime.cuda.solver import SolverKernel
from sc_runtime.cuda.source import compile_source, find_source, load_cubin
from sc_runtime.errors import BackendError, BundleError, MissingExtraError
from sc_runtime.loaded import LoadedBundle
from sc_runtime.once import OnceEach
from sc_runtime.semanticodec.coefficients import find_multistep
from sc_runtime.semanticodec.config import LATENT_SHAPE, Schedule
from sc_runtime.semanticodec.noise import PHILOX_DOMAIN, SeededNoise, WindowNoise
from sc_runtime.semanticodec.presets import Sampling
from sc_runtime.semanticodec.resident import DEPTH, LATENT_SIZE, ResidentDecoder, tabulate
from sc_runtime.semanticodec.samplers import SOLVERS
from sc_runtime.semanticodec.schedule import choose_timesteps, compute_alphas_cumprod
from tests.emulated_device import EmulatedDevice, Emulations
from tests.test_backends import error_of_variation
from tests.test_samplers import mixture_velocity
from tests.test_threads import list_tasks

ABSENCE = device.explain_absence()
has_core = pytest.mark.skipif("cuda-core" in (ABSENCE or ""), reason=f"not compiled: {ABSENCE}")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="NOT EMULATED: there is no g++")
SAMPLINGS = [
    Sampling(),
    Sampling(eta=0.3, steps=20),
    Sampling("dpm", 12, 2.0, 0.0),
    Sampling("dpm", 12, 2.0, 1.0, (100, 800)),
    Sampling("unipc", 9, 1.0, 0.0),
    Sampling("unipc", 2, 1.5, 0.0),
]


# --- the coefficients -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_table_gives_what_the_solver_gives(sampling: Sampling) -> None:
    """A loop that uses only the table equals the solver, on a velocity that is not linear."""
    table, guided = tabulate(sampling, Schedule())
    low, high = sampling.interval
    solver = SOLVERS[sampling.solver]
    nodes = choose_timesteps(sampling.steps, Schedule(), solver.spacing)
    assert guided == [sampling.guidance != 1 and low <= step <= high for step in nodes[:-1]]
    assert table["step"].tolist() == [*nodes[:-1], 0]
    draws = np.random.default_rng(0).standard_normal((len(table), 500))
    latents, velocities = [draws[0]], []
    for row in table[1:]:
        velocities.append(mixture_velocity(latents[-1], int(nodes[len(velocities)])))
        latents.append(
            sum(a * x for a, x in zip(row["latents"], latents[::-1], strict=False))
            + sum(b * v for b, v in zip(row["velocities"], velocities[::-1], strict=False))
            + row["noise"] * draws[len(latents)]
        )
    exact = solver.sample(
        mixture_velocity, draws[0], lambda draw: draws[draw], nodes, compute_alphas_cumprod(Schedule()), sampling.eta
    )
    assert error_of_variation(latents[-1], exact) < 1e-6


@pytest.mark.parametrize(("solver", "depth"), [("ddim", 1), ("dpm", 2), ("unipc", 3)])
def test_recurrences_are_as_short_as_the_solvers(solver: str, depth: int) -> None:
    recurrence = find_multistep(Sampling(solver, 10, 2.0, 0.0), Schedule())
    looked = (np.abs(recurrence.latents) + np.abs(recurrence.velocities)).max(axis=0)
    assert (looked > 1e-6).tolist() == [j < depth for j in range(DEPTH)]


# --- the kernel -------------------------------------------------------------------------------------------------------


@has_core
@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_120"])
def test_the_solver_compiles(arch: str) -> None:
    assert compile_source(find_source("solver.cu"), arch).startswith(b"\x7fELF")


def test_a_kernel_that_does_not_compile_is_one_line() -> None:
    if ABSENCE and "cuda-core" in ABSENCE:
        pytest.skip(ABSENCE)
    with pytest.raises(BackendError, match=r"kernels/solver.cu cannot be compiled for sm_7 .*NVRTC"):
        compile_source(find_source("solver.cu"), "sm_7")


@has_core
def test_what_the_compiler_says_is_stated(tmp_path: Path) -> None:
    source = tmp_path / "bad.cu"
    source.write_text("__device__ int find() { return missing; }\n")
    with pytest.raises(BackendError, match=r'bad.cu cannot be compiled for sm_90 \(.*"missing" is undefined'):
        compile_source(source, "sm_90")


def test_the_solvers_cubin_is_kept_for_each_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compilations: list[tuple[str, str]] = []

    def compile_stub(source: Path, arch: str, macro: object) -> bytes:
        compilations.append((source.name, arch))
        return b"\x7fELF" + arch.encode()

    monkeypatch.setattr(cuda_source, "compile_source", compile_stub)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        for arch in ("sm_90", "sm_80"):
            assert load_cubin(find_source("solver.cu"), arch) == b"\x7fELF" + arch.encode()
    assert compilations == [("solver.cu", "sm_90"), ("solver.cu", "sm_80")]
    kept = sorted(path.name for path in (tmp_path / "sc-runtime" / "kernels").iterdir())
    assert [name.rsplit("-", 1)[0] for name in kept] == ["solver-sm_80", "solver-sm_90"]


@needs_compiler
def test_the_kernels_noise_is_that_of_the_cpu(emulations: Emulations) -> None:
    emulated = EmulatedDevice(emulations)
    solver = SolverKernel(emulated, LATENT_SIZE, PHILOX_DOMAIN)  # type: ignore[arg-type]
    table, _ = tabulate(Sampling(), Schedule())
    latent, steps = np.zeros((4, *LATENT_SHAPE), np.float32), np.zeros(4, np.int64)
    rings = np.zeros((2, DEPTH, 2, *latent.shape[1:]), np.float32)
    sources = np.array([[2**64 - 1, 3, 0], [5, 2**40, 0]], np.uint64)
    counter = np.zeros(2, np.int32)
    parts = (latent, latent, steps, rings[0], rings[1], table, sources, counter)
    with emulated.lock:
        solver.advance([part.ctypes.data for part in parts], 2)
    expected = np.stack([SeededNoise(2**64 - 1)(3, 0), SeededNoise(5)(2**40, 0)])
    np.testing.assert_allclose(latent, np.concatenate([expected, expected]), rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(rings[0, 0], latent[:2])
    assert steps.tolist() == [981] * 4
    assert counter.tolist() == [1, 0]


# --- TensorRT's interface over ONNX Runtime ---------------------------------------------------------------------------


class Engine:
    """A plan here holds the path of its ONNX file and the shapes that it is for."""

    def __init__(self, blob: bytes, listener: Any = None) -> None:
        raw, self.listener = json.loads(blob), listener
        self.shapes = raw["shapes"]
        self.session = onnxruntime.InferenceSession(raw["path"], providers=["CPUExecutionProvider"])
        self.inputs = [entry.name for entry in self.session.get_inputs()]
        self.names = self.inputs + [entry.name for entry in self.session.get_outputs()]
        self.num_io_tensors, self.num_optimization_profiles = len(self.names), len(self.shapes)

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> str:
        return "INPUT" if name in self.inputs else "OUTPUT"

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return self.shapes[index][name]

    def create_execution_context(self, given: Any) -> Context:
        if isinstance(given, Config):
            lengths = any(least[1:] != most[1:] for least, _, most in self.shapes[-1].values())
            assert given.dynamic_shapes_kernel_specialization_strategy == ("LAZY" if lengths else "EAGER")
        else:
            assert given == "USER_MANAGED"
        return Context(self)

    def create_runtime_config(self) -> Config:
        return Config()


class Context:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.shapes: dict[str, list[int]] = {}
        self.addresses: dict[str, int] = {}
        self.memory: tuple[int, int] | None = None
        self.profile = 0

    def set_optimization_profile_async(self, index: int, stream_handle: int) -> bool:
        assert stream_handle == EmulatedDevice.stream and 0 < index < len(self.engine.shapes) and not self.shapes
        self.profile = index
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self.engine.shapes[self.profile][name]
        self.shapes[name] = list(shape)
        return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory % 256 == 0
        self.addresses[name] = memory
        return True

    def update_device_memory_size_for_shapes(self) -> int:
        assert set(self.shapes) == set(self.engine.inputs)
        return 1000

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        self.memory = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == EmulatedDevice.stream
        assert self.memory
        binding = self.engine.session.io_binding()
        types = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}
        for entry in self.engine.session.get_inputs():
            kind, shape = types[entry.type], self.shapes[entry.name]
            binding.bind_input(entry.name, "cpu", 0, kind, shape, self.addresses[entry.name])
        for entry in self.engine.session.get_outputs():
            binding.bind_output(entry.name, "cpu")
        self.engine.session.run_with_iobinding(binding)
        for entry, array in zip(self.engine.session.get_outputs(), binding.copy_outputs_to_cpu(), strict=True):
            ctypes.memmove(self.addresses[entry.name], np.ascontiguousarray(array).ctypes.data, array.nbytes)
        return True


class Config:
    """Of TensorRT-RTX."""

    dynamic_shapes_kernel_specialization_strategy = "undecided"

    def set_execution_context_allocation_strategy(self, strategy: str) -> None:
        assert strategy == "USER_MANAGED"

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        return True


class Cache:
    def serialize(self) -> bytes:
        return b"kernels"

    def deserialize(self, blob: bytes) -> bool:
        return blob == b"kernels"


class Listener:
    INTERNAL_ERROR, ERROR = "INTERNAL_ERROR", "ERROR"

    def __init__(self) -> None: ...


class Runtime:
    def __init__(self, listener: Any) -> None:
        self.listener = listener

    def deserialize_cuda_engine(self, blob: bytes) -> Engine | None:
        try:
            return Engine(blob, self.listener)
        except ValueError:
            self.listener.log("ERROR", "magicTag failed\nin a stack")
            return None


LIBRARY = {
    "__version__": "1.2.3",
    "ILogger": Listener,
    "Runtime": Runtime,
    "TensorIOMode": SimpleNamespace(INPUT="INPUT"),
    "ExecutionContextAllocationStrategy": SimpleNamespace(USER_MANAGED="USER_MANAGED"),
}
RTX = {
    "ComputeCapability": SimpleNamespace(SM89="SM89"),
    "DynamicShapesKernelSpecializationStrategy": SimpleNamespace(EAGER="EAGER", LAZY="LAZY"),
}


def test_the_interface_is_that_of_the_real_library() -> None:
    real = pytest.importorskip("tensorrt_rtx")
    classes = {"ICudaEngine": Engine, "IExecutionContext": Context, "IRuntimeConfig": Config, "IRuntimeCache": Cache}
    for name, ours in (classes | {"ILogger": Listener, "Runtime": Runtime}).items():
        for attribute in vars(ours):
            assert attribute.startswith("__") or hasattr(getattr(real, name), attribute), f"{name}.{attribute}"
    for attribute in ("num_io_tensors", "num_optimization_profiles"):
        assert hasattr(real.ICudaEngine, attribute)
    for name, ours in (LIBRARY | RTX).items():
        for attribute in vars(ours) if isinstance(ours, SimpleNamespace) else ():
            assert hasattr(getattr(real, name), attribute)


def test_messages_of_the_real_library_are_kept() -> None:
    pytest.importorskip("tensorrt_rtx")
    loaded = tensorrt.load("rtx")
    assert loaded.runtime.deserialize_cuda_engine(b"no plan" * 100) is None
    assert "magicTag" in loaded.reason


# --- backends, emulated -----------------------------------------------------------------------------------------------


def save_plans(bundle: Bundle, target: Target) -> None:
    for graph in list_planned(bundle):
        plan = locate_plan(bundle, graph, target)
        plan.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"path": str(bundle.find_graph(graph)), "shapes": list_profiles(bundle, graph)}))
        entry = PlanEntry(hash_source(bundle, graph), plan.stat().st_size, hash_file(plan), 0.0)
        plan.with_suffix(".json").write_text(json.dumps(dataclasses.asdict(entry)))
        record(plan, entry)


BUNDLES = {
    "float32": "tiny_bundle",
    "fp16": "tiny_fp16_bundle",
    "mixed": "tiny_mixed_bundle",
    "unicodec": "tiny_unicodec",
    "unicodec fp16": "tiny_fp16_unicodec",
}


@pytest.fixture
def bundle(request: pytest.FixtureRequest, tmp_path: Path) -> Bundle:
    """A copy of a bundle that tests put plans into: the one of BUNDLES that the test asks for, else the first."""
    built = request.getfixturevalue(BUNDLES[getattr(request, "param", "float32")])
    return Bundle.load(Path(shutil.copytree(built, tmp_path / "bundle", copy_function=shutil.copy)))


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """TensorRT, emulated, on a GPU of compute capability 8.9."""
    module = dict(LIBRARY)
    monkeypatch.setattr(tensorrt, "list_libraries", lambda: ["rtx"] if "ComputeCapability" in module else ["tensorrt"])
    monkeypatch.setattr(tensorrt, "import_library", lambda name: SimpleNamespace(**module))
    monkeypatch.setattr(tensorrt, "find_capability", lambda: (8, 9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


PROCESSOR = Provider("CPUExecutionProvider", "cpu")


def open_backend(name: str, emulations: Emulations | None) -> Backend:
    """A backend for GPUs on an emulated one; the CUDA provider is the CPU's."""
    gpu: Any = EmulatedDevice(emulations, quick_search=True)
    return OnnxRuntimeCudaBackend(gpu, PROCESSOR) if name == "onnxruntime-cuda" else tensorrt.TensorRtBackend(gpu)


DECODES: list[dict[str, Any]] = [
    {"steps": 2},
    {"steps": 2, "solver": "dpm", "eta": 1.0, "guidance": 1.0},
    {"steps": 3, "solver": "unipc", "eta": 0.0, "batch": 1},
    {"steps": 2, "noise": lambda window, draw: np.full((8, 256, 16), 0.1 * (window + draw), np.float32)},
]


@needs_compiler
@pytest.mark.parametrize(
    ("name", "bundle", "tolerance"),
    [
        ("tensorrt", "float32", 1e-4),
        pytest.param("rtx", "fp16", 0.05, marks=pytest.mark.slow),
        pytest.param("onnxruntime-cuda", "fp16", 0.05, marks=pytest.mark.slow),
        pytest.param("tensorrt", "mixed", 0.05, marks=pytest.mark.slow),
    ],
    indirect=["bundle"],
)
def test_decoding_on_the_device_is_decoding(
    name: str, bundle: Bundle, tolerance: float, library: dict[str, Any], emulations: Emulations, tmp_path: Path
) -> None:
    """Buffers, order, guidance, solvers, noise and the last window's frames, against the stages one by one."""
    library |= RTX if name == "rtx" else {}
    save_plans(bundle, Target("rtx" if name == "rtx" else "tensorrt", "1.2.3", (8, 9)))
    codec, reference = Codec(bundle, open_backend(name, emulations)), Codec.load(bundle.path, backend="onnxruntime")
    codes = np.random.default_rng(0).integers(0, 4096, (300, 2))  # two windows, the second a short one
    for settings in DECODES if name == "tensorrt" else DECODES[:1]:
        calls: list[tuple[int, int]] = []
        sound = codec.decode(codes, seed=3, progress=lambda *call, calls=calls: calls.append(call), **settings)
        expected = reference.decode(codes, seed=3, **settings)
        assert sound.shape == expected.shape
        assert error_of_variation(sound, expected) < tolerance, settings
        assert calls[-1][0] == calls[-1][1]
    assert (tmp_path / "cache" / "sc-runtime" / "tensorrt").exists() == (name == "rtx")
    if name == "tensorrt":
        noise = np.random.default_rng(0).standard_normal(40_000, np.float32)
        assert codec.encode(noise) == reference.encode(noise)


@pytest.mark.slow
@needs_compiler
def test_windows_of_several_recordings_run_together(
    bundle: Bundle, library: dict[str, Any], emulations: Emulations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups are full, also across recordings; each recording has its own noise, seeded or not, and its own sound."""
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    codec = Codec(bundle, open_backend("tensorrt", emulations))
    reference = Codec.load(bundle.path, backend="onnxruntime")
    generator = np.random.default_rng(0)
    recordings = [generator.integers(0, 4096, (count, 2)) for count in (300, 20, 400, 9)]  # 2, 1, 2 and 1 windows
    noise = DECODES[-1]["noise"]
    each = [DecodeOptions(seed=5), DecodeOptions(noise=noise), DecodeOptions(seed=7), DecodeOptions(steps=2)]
    groups: list[int] = []
    run = codec.model.decoder.run  # type: ignore[attr-defined]
    monkeypatch.setattr(codec.model.decoder, "run", lambda codes, *rest: groups.append(len(codes)) or run(codes, *rest))  # type: ignore[attr-defined, func-returns-value]
    for batch, expected in ((4, [4, 1, 1]), (None, [5, 1])):
        groups.clear()
        given = [dataclasses.replace(options, steps=options.steps or 1) for options in each]
        calls: list[tuple[int, int, int]] = []
        sounds = list(
            codec.decode_many(recordings, given, batch=batch, progress=lambda *call, calls=calls: calls.append(call))
        )
        assert groups == expected
        assert [number for number, done, total in calls if done == total] == [0, 1, 2, 3]
        for codes, options, sound in zip(recordings, given, sounds, strict=True):
            assert error_of_variation(np.asarray(sound), reference.decode(codes, options)) < 1e-4, options
    noisy = reference.decode(recordings[0], steps=1, seed=6)
    assert error_of_variation(np.asarray(sounds[0]), noisy) > 1e-3, "seeds differ in what is compared"


@needs_compiler
@pytest.mark.parametrize("name", ["tensorrt", pytest.param("onnxruntime-cuda", marks=pytest.mark.slow)])
def test_several_threads_on_one_gpu(name: str, bundle: Bundle, library: dict[str, Any], emulations: Emulations) -> None:
    """Work of one thread never mixes with another's: the emulated device checks that each holds its lock."""
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    tasks = list_tasks(Codec(bundle, open_backend(name, emulations)), (0.05, 11), steps=1, guidance=1.0)
    codec = Codec(bundle, open_backend(name, emulations))
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda task: task(codec), tasks))
    assert len(codec.model.decoder._groups) == 2  # type: ignore[attr-defined]  # of one window and of two


@needs_compiler
def test_guidance_in_an_interval_and_one_captured_step_for_all_presets(
    bundle: Bundle, library: dict[str, Any], emulations: Emulations
) -> None:
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    gpu: Any = EmulatedDevice(emulations)
    decoder = ResidentDecoder(gpu, LoadedBundle(bundle, tensorrt.TensorRtBackend(gpu)))
    config, codes = bundle.choose_config(), np.random.default_rng(0).integers(0, 4096, (100, 2))

    def decode(
        guidance: float, interval: tuple[int, int] = (0, 1000), solver: str = "dpm", steps: int = 2
    ) -> np.ndarray:
        sampling = Sampling(solver, steps, guidance, 0.0, interval)
        return decoder.run([codes], config, sampling, [WindowNoise(SeededNoise(0), 0)], 1000)

    plain, everywhere, first, nowhere = decode(1.0), decode(3.0), decode(3.0, (900, 1000)), decode(3.0, (2, 3))
    assert error_of_variation(nowhere, plain) < 1e-6
    assert error_of_variation(first, plain) > 1e-3
    assert error_of_variation(first, everywhere) > 1e-3
    np.testing.assert_array_equal(decode(1.0), plain)  # nothing of the runs between stays
    assert error_of_variation(decode(3.0, solver="unipc", steps=3), everywhere) > 1e-3
    assert gpu.captured == 2  # one step with both branches and one with the conditional branch alone, for all presets
    group = decoder.prepare(1)
    with gpu.lock:
        sounds = [group.vocode(samples) for samples in (1000, 20_000, 40_000, 60_000, 80_000, 163_840, 1000)]
    assert np.array_equal(sounds[0], sounds[-1])  # prepared again
    assert len(group._vocoders) == RECENT


@needs_compiler
@pytest.mark.parametrize(
    ("name", "bundle", "tolerance"),
    [("tensorrt", "unicodec", 1e-4), ("rtx", "unicodec fp16", 0.02), ("onnxruntime-cuda", "unicodec fp16", 0.02)],
    indirect=["bundle"],
)
def test_a_codec_of_free_lengths_on_the_device(
    name: str, bundle: Bundle, tolerance: float, library: dict[str, Any], emulations: Emulations
) -> None:
    """Lengths that are no multiple of a position, windows and domains give the CPU's results."""
    library |= RTX if name == "rtx" else {}
    save_plans(bundle, Target("rtx" if name == "rtx" else "tensorrt", "1.2.3", (8, 9)))
    codec = Codec(bundle, open_backend(name, emulations))
    reference = Codec.load(bundle.path, backend="onnxruntime")
    for samples in (1, 320, 7777, 7777, 24_000 * 31):
        sound = np.random.default_rng(samples).standard_normal(samples, np.float32)
        tokens = codec.encode(sound, domain="music")
        assert tokens == reference.encode(sound, domain="music")
        expected = reference.decode(tokens)
        assert np.linalg.norm(codec.decode(tokens) - expected) < tolerance * np.linalg.norm(expected)
    assert len(codec.model.resident._encoders) == RECENT  # type: ignore[union-attr]
    assert "routed_encoder" not in codec.networks.graphs  # which is for processors, and has no plan
    if name != "onnxruntime-cuda":
        assert tensorrt.has_plans(bundle)


@pytest.mark.parametrize("bundle", ["unicodec"], indirect=True)
def test_longer_sound_than_a_plan_is_for_is_one_line(bundle: Bundle, library: dict[str, Any]) -> None:
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    graph = open_backend("tensorrt", None).open(bundle, "encoder")
    with pytest.raises(BackendError, match=r"is not for waveform \[1, 720001\] .*samples of at most 720000"):
        graph.run({"waveform": np.zeros((1, 720_001), np.float32)})


@pytest.mark.parametrize("bundle", ["float32", "unicodec"], indirect=True)
def test_the_sizes_of_outputs_follow_from_those_of_inputs(bundle: Bundle) -> None:
    """They equal the graphs' output sizes, at the smallest and at other sizes of every profile."""
    backend = OnnxRuntimeBackend()
    for name in list_planned(bundle):
        entry, spec = bundle.manifest.graphs[name], bundle.spec.graphs[name]
        graph = backend.open(bundle, name)
        profile = spec.profile
        named = {axis for tensor in entry.inputs.values() for axis in tensor.shape if isinstance(axis, str)}
        assert profile.keys() == named
        for extra in (0, 1, 77):
            given = {axis: 2 if axis == "batch" else least + extra for axis, (least, _, _) in profile.items()}
            axes = spec.resolve_axes(given)
            feeds = {key: np.zeros(tensor.resolve(**axes), tensor.dtype) for key, tensor in entry.inputs.items()}
            found = graph.run(feeds)
            assert {key: found[key].shape for key in found} == {
                key: tensor.resolve(**axes) for key, tensor in entry.outputs.items()
            }
            if len(profile) == 1:
                break


def test_more_windows_than_a_plan_is_for_are_one_line(bundle: Bundle, library: dict[str, Any]) -> None:
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    graph = open_backend("tensorrt", None).open(bundle, "vae_decoder")
    with pytest.raises(BackendError, match=r"vae_decoder.plan is not for latent \[17, 8, 256, 16\] .*at most 16"):
        graph.run({"latent": np.zeros((17, 8, 256, 16), np.float32)})


def test_a_context_that_is_not_given_its_memory_is_one_line(
    bundle: Bundle, library: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT returns 0 for an error, which only its log shows, and for a plan that needs no memory."""
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    graph: Any = open_backend("tensorrt", None).open(bundle, "hifigan")
    feeds = {"mel": np.zeros((1, 64, 64), np.float32)}

    def fail(context: Context) -> int:
        context.engine.listener.log("ERROR", "shapes are not specified\nin a stack")
        return 0

    monkeypatch.setattr(Context, "update_device_memory_size_for_shapes", fail)
    with pytest.raises(BackendError, match=r"hifigan.plan cannot be given its shapes \(shapes are not specified\)"):
        graph.run(feeds)
    monkeypatch.setattr(Context, "update_device_memory_size_for_shapes", lambda context: 0)
    assert graph.run(feeds)["waveform"].shape[0] == 1


def test_the_tunet_has_a_profile_for_a_single_window(bundle: Bundle, library: dict[str, Any]) -> None:
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    graph: Any = open_backend("tensorrt", None).open(bundle, "tunet_step")
    for batch, profile in ((1, 0), (2, 0), (4, 0), (5, 1), (32, 1)):
        addresses = dict.fromkeys(graph.resolve(batch=batch), 256)
        assert graph.bind(addresses, batch=batch)._context.profile == profile
    with pytest.raises(BackendError, match=r"is not for .* \[33, "):
        graph.bind(addresses, batch=33)


def test_a_few_sizes_stay_prepared() -> None:
    kept: OnceEach[int, str] = OnceEach(RECENT)
    for key in (1, 2, 3, 4, 1, 5):
        kept.get(key, lambda key=key: f"made {key}")
    assert kept.keys() == [3, 4, 1, 5]


# --- what stops them --------------------------------------------------------------------------------------------------


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorrt, "list_libraries", list)
    monkeypatch.setattr(onnxruntime_cuda, "is_installed", lambda: False)
    for name, extra in (("tensorrt", "tensorrt"), ("onnxruntime-cuda", "gpu")):
        assert f"sc-runtime[{extra}]" in (select.ABSENCES[name]() or "")
        with pytest.raises(MissingExtraError, match=rf"installed; expected .*sc-runtime\[{extra}\]"):
            select.choose_backend(name)


def test_no_gpu_is_named_by_the_backends_and_by_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    if not ABSENCE or "cuda-core" in ABSENCE:
        pytest.skip("there is a GPU, or no cuda-core")
    monkeypatch.setattr(tensorrt, "list_libraries", lambda: ["tensorrt"])
    monkeypatch.setattr(onnxruntime_cuda, "is_installed", lambda: True)
    states = {backend["name"]: backend for backend in examine()["backends"]}
    assert list(states) == ["tensorrt", "onnxruntime-cuda", "openvino", "onnxruntime"]
    for name in ("tensorrt", "onnxruntime-cuda"):
        assert not states[name]["works"]
        assert "no NVIDIA GPU" in states[name]["reason"]
        with pytest.raises(BackendError, match=r"no NVIDIA GPU .*; expected an NVIDIA GPU"):
            select.choose_backend(name)


def test_plans_that_do_not_fit_are_named_with_the_repair(
    bundle: Bundle, library: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = open_backend("tensorrt", None)
    command = re.escape(f"{bundle.manifest.command} --precision float32 --engines tensorrt --out {bundle.path}")
    with pytest.raises(BundleError, match=rf"no plan of hifigan .*there is none.*build it: {command}"):
        backend.open(bundle, "hifigan")
    save_plans(bundle, Target("tensorrt", "1.2.3", (9, 0)))
    with pytest.raises(BundleError, match=rf"there are plans for tensorrt-1.2.3-sm90.*{command}"):
        backend.open(bundle, "hifigan")
    assert not tensorrt.has_plans(bundle)
    save_plans(bundle, Target("tensorrt", "1.2.3", (8, 9)))
    assert tensorrt.has_plans(bundle)
    with monkeypatch.context() as patch:
        patch.setattr("sc_runtime.backends.tensorrt.plans.BUILDER", 0)
        with pytest.raises(BundleError, match=rf"built from another graph.*{command}"):
            backend.open(bundle, "hifigan")
    plan = locate_plan(bundle, "hifigan", Target("tensorrt", "1.2.3", (8, 9)))
    plan.write_text("not JSON")
    description = plan.with_suffix(".json")
    description.write_text(json.dumps(json.loads(description.read_text()) | {"sha256": hash_file(plan)}))
    record(plan, read_entry(plan))
    with pytest.raises(BackendError, match=r"refuses it \(magicTag failed\); .*delete .*hifigan.plan"):
        backend.open(bundle, "hifigan")


def test_a_gpu_that_tensorrt_rtx_is_not_for_is_named(bundle: Bundle, library: dict[str, Any]) -> None:
    library |= RTX | {"ComputeCapability": SimpleNamespace(SM75="SM75")}
    with pytest.raises(BackendError, match=r"RTX 1.2.3 on a GPU of compute capability 8.9.*onnxruntime-cuda"):
        tensorrt.choose_target(bundle)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_session_that_becomes_the_cpus_is_an_error(bundle: Bundle) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("ONNX Runtime has the CUDA provider")
    gpu: Any = EmulatedDevice(None)
    with pytest.raises(BackendError, match="took CPUExecutionProvider for hifigan; expected CUDAExecutionProvider"):
        OnnxRuntimeCudaBackend(gpu, Provider("CUDAExecutionProvider", "cuda")).open(bundle, "hifigan")


#: Graph -> the file that ONNX Runtime loads first, and options of its CUDA provider that depend on the graph.
#: TF32 is off where tokens are made. CUDA graphs are for the loop's graph, and keep an LSTM's memory.
CUDA_OPTIONS = {
    "audiomae": ("audiomae.cuda.onnx", {"use_tf32": "0", "enable_cuda_graph": "0", "fuse_conv_bias": "1"}),
    "acoustic_encoder": ("acoustic_encoder.onnx", {"use_tf32": "0", "enable_cuda_graph": "1", "fuse_conv_bias": "0"}),
    "conditioning": ("conditioning.onnx", {"use_tf32": "1", "enable_cuda_graph": "0", "fuse_conv_bias": "0"}),
    "tunet_step": ("tunet_step.cuda.onnx", {"use_tf32": "1", "enable_cuda_graph": "1", "fuse_conv_bias": "1"}),
    "vae_decoder": ("vae_decoder.cuda.onnx", {"use_tf32": "1", "enable_cuda_graph": "0", "fuse_conv_bias": "1"}),
    "hifigan": ("hifigan.onnx", {"use_tf32": "1", "enable_cuda_graph": "0", "fuse_conv_bias": "0"}),
}


def test_sessions_on_a_gpu_get_the_variant_and_the_options_of_their_graph(
    tiny_fp16_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, dict[str, str], list[str]]] = []

    class Session:
        def __init__(self, path: str, options: Any, providers: Any, disabled_optimizers: Any, **rest: Any) -> None:
            ((name, given),) = providers
            assert (name, rest) == ("CUDAExecutionProvider", {"enable_fallback": 0})
            opened.append((Path(path).name, given, disabled_optimizers))

        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider"]

    library = SimpleNamespace(__version__="1.31.1", InferenceSession=Session, SessionOptions=SimpleNamespace)
    monkeypatch.setattr(onnxruntime_cuda, "import_onnxruntime", lambda: library)
    gpu: Any = EmulatedDevice(None)
    backend = OnnxRuntimeCudaBackend(gpu, dataclasses.replace(onnxruntime_cuda.CUDA))
    backend.lstm = LIBRARY_LSTM
    bundle = Bundle.load(tiny_fp16_bundle)
    assert bundle.manifest.graphs.keys() == CUDA_OPTIONS.keys()
    for graph, (file, wanted) in CUDA_OPTIONS.items():
        opened.clear()
        backend.open(bundle, graph)
        common = {"cudnn_conv_algo_search": "HEURISTIC", "cudnn_conv1d_pad_to_nc1d": "1", "device_id": "0"}
        common |= {"user_compute_stream": str(gpu.stream), "enable_skip_layer_norm_strict_mode": "1"}
        disabled = FP16_LSTM_DISABLED if graph == "acoustic_encoder" else []
        assert opened == [(file, common | wanted, disabled)]


def test_auto_takes_the_fastest_that_can_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dict.fromkeys(select.ABSENCES, "gone")
    for name, absence in absent.items():
        monkeypatch.setitem(select.ABSENCES, name, lambda absence=absence: absence)
    assert select.choose_name("auto", bundle) == "onnxruntime"  # whose error says what to install
    monkeypatch.setitem(select.ABSENCES, "openvino", lambda: None)
    assert select.choose_name("auto", bundle) == "openvino"
    monkeypatch.setitem(select.ABSENCES, "onnxruntime", lambda: None)
    assert select.choose_name("auto", bundle) is None  # each graph where it runs better
    monkeypatch.setitem(select.ABSENCES, "tensorrt", lambda: None)
    assert select.choose_name("auto", bundle) is None  # there are no plans
    monkeypatch.setitem(select.ABSENCES, "onnxruntime-cuda", lambda: None)
    assert select.choose_name("auto", bundle) == "onnxruntime-cuda"
    assert select.choose_name("float32", bundle) is None  # a GPU computes as the graphs say
    monkeypatch.setattr(tensorrt, "has_plans", lambda bundle: True)
    assert select.choose_name("auto", bundle) == "tensorrt"
    assert select.choose_name("auto", None) == "onnxruntime-cuda"
    with pytest.raises(BackendError, match="precision float32 with the backend tensorrt"):
        select.choose_backend("tensorrt", precision="float32")


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tensorrt", "onnxruntime-cuda"])
def test_a_gpu_gives_the_cpus_sound(name: str, bundle: Bundle) -> None:
    reason = select.ABSENCES[name]()
    if reason:
        pytest.skip(f"NOT RUN ON A GPU: {reason}")
    if name == "tensorrt":
        from sc_runtime.export.plans import build_plans

        build_plans(bundle, tensorrt.choose_target(bundle))
    codec, reference = Codec.load(bundle.path, backend=name), Codec.load(bundle.path, backend="onnxruntime")
    codes = np.random.default_rng(0).integers(0, 4096, (300, 2))
    for settings in DECODES:
        error = error_of_variation(codec.decode(codes, **settings), reference.decode(codes, **settings))
        assert error < 0.1, settings  # half precision, a few steps, stand-in weights
    assert codec.model.decoder._groups  # type: ignore[union-attr]
    for group in codec.model.decoder._groups.values():  # type: ignore[union-attr]
        assert group.refusals == []
