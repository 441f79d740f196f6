"""TensorRT and TensorRT-RTX on an NVIDIA GPU: the plans of a bundle, run through one code path.

TensorRT proper loads kernels that were chosen when the plan was built. TensorRT-RTX compiles them when a plan is first
run for some shapes, and keeps them in the user's cache folder.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sc_runtime.backends.base import ENCODE_BATCH
from sc_runtime.backends.lstm_choice import MEASURED, open_kernel
from sc_runtime.bundle.store import Bundle
from sc_runtime.caches import Cache
from sc_runtime.cuda import device
from sc_runtime.cuda.device import Device, find_capability
from sc_runtime.cuda.graph import Addresses, DeviceGraph, Shapes
from sc_runtime.cuda.nearest import CudaNearestCentroid
from sc_runtime.errors import TRY_ANOTHER, BackendError, CodecError, MissingExtraError, first_line, ran_out_of_memory
from sc_runtime.once import OnceEach

from .plans import (
    FOLDER,
    MODULES,
    Target,
    find_plan,
    import_library,
    is_recorded,
    list_planned,
    locate_plan,
    read_entry,
)

NOT_INSTALLED = "neither tensorrt nor tensorrt_rtx is installed"
KERNELS = Cache("tensorrt", ".kernels")  #: that TensorRT-RTX compiles
INSTALL = "pip install 'sc-runtime[tensorrt]', or 'sc-runtime[rtx]' for an RTX GPU"


def explain_absence() -> str | None:
    """Why this backend cannot run here, or None."""
    if not list_libraries():
        return f"{NOT_INSTALLED}: {INSTALL}"
    return device.explain_absence()


def list_libraries() -> list[str]:
    """The libraries that are installed, of "tensorrt" and "rtx"."""
    return [library for library, module in MODULES.items() if importlib.util.find_spec(module)]


def choose_target(bundle: Bundle) -> Target:
    """The GPU and an installed library; if several are installed, one that `bundle` has plans for.

    Raises BackendError.
    """
    installed = list_libraries()
    if not installed:
        raise MissingExtraError(NOT_INSTALLED, "TensorRT or TensorRT-RTX", INSTALL)
    planned = [
        library
        for library in installed
        if any(is_recorded(plan, read_entry(plan)) for plan in bundle.path.glob(f"{FOLDER}/{library}-*/*.plan"))
    ]
    library = (planned or installed)[0]
    module, capability = import_library(library), find_capability()
    if capability is None:
        raise BackendError("no GPU that CUDA finds", "an NVIDIA GPU and its driver", "use --backend onnxruntime")
    target = Target(library, module.__version__, capability)
    if library == "rtx" and not hasattr(module.ComputeCapability, "SM{}{}".format(*capability)):
        raise BackendError(
            f"TensorRT-RTX {target.version} on a GPU of compute capability {capability[0]}.{capability[1]}",
            "a GPU that it is made for",
            "install tensorrt, or use --backend onnxruntime-cuda",
        )
    return target


def has_plans(bundle: Bundle) -> bool:
    """Whether every graph for GPUs has a plan for what is installed, built by this user.

    Corruption is detected when a plan is opened.
    """
    if not (bundle.path / FOLDER).is_dir():
        return False  # before TensorRT and CUDA are imported
    try:
        target = choose_target(bundle)
    except CodecError:
        return False
    plans = [locate_plan(bundle, graph, target) for graph in list_planned(bundle)]
    return all(plan.is_file() and is_recorded(plan, read_entry(plan)) for plan in plans)


class TensorRtBackend:
    """`gpu` is the first GPU by default.

    Raises MissingExtraError without TensorRT or cuda-core, BackendError without a GPU.
    """

    name = "tensorrt"
    encode_batch = ENCODE_BATCH

    def __init__(self, gpu: Device | None = None) -> None:
        if not list_libraries():
            raise MissingExtraError(NOT_INSTALLED, "TensorRT or TensorRT-RTX", INSTALL)
        self.gpu = gpu or Device()
        self.device = self.gpu.name
        self.lstm = MEASURED  #: how a BiLSTM runs, see `lstm_choice`
        self._loaded: OnceEach[str, LoadedLibrary] = OnceEach()

    def __reduce__(self) -> tuple[type[TensorRtBackend], tuple[()]]:
        """The first GPU of the other process, not this one's."""
        return type(self), ()

    def open(self, bundle: Bundle, graph: str) -> DeviceGraph:
        target = choose_target(bundle)
        if kernel := open_kernel(self.gpu, bundle, graph, self.lstm, self.name, str(target)):
            return kernel
        plan = find_plan(bundle, graph, target)
        loaded = self._loaded.get(target.library, partial(load, target.library))
        with self.gpu.lock:
            loaded.messages.clear()
            engine = loaded.runtime.deserialize_cuda_engine(plan.read_bytes())
            if engine is None:
                raise BackendError(
                    f"{plan}: {MODULES[target.library]} {target.version} refuses it ({loaded.reason})",
                    "a plan for this library and driver",
                    f"delete {plan} and build it again",
                )
        profile = bundle.spec.graphs[graph].profile
        most = {axis: sizes[-1] for axis, sizes in profile.items()}
        contexts = Contexts(loaded.module, engine, name_kernels(target, graph), profile.keys() > {"batch"})
        prepare = partial(TensorRtCall, self.gpu, plan, loaded, contexts, most)
        entry = bundle.manifest.graphs[graph]
        return DeviceGraph(self.gpu, bundle.spec.graphs[graph], entry.inputs, entry.outputs, prepare)

    def open_search(self, codebook: np.ndarray) -> CudaNearestCentroid:
        return CudaNearestCentroid(codebook, self.gpu)


@dataclass(frozen=True)
class LoadedLibrary:
    """A library that is in use. `messages` are the errors that it reports, collected instead of printed."""

    module: Any
    runtime: Any
    logger: Any  #: it must live as long as the runtime
    messages: list[str]

    @property
    def reason(self) -> str:
        return first_line(self.messages[0]) if self.messages else "it reports no reason"


def load(library: str) -> LoadedLibrary:
    module, messages = import_library(library), list[str]()
    errors = (module.ILogger.INTERNAL_ERROR, module.ILogger.ERROR)

    class Logger(module.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity in errors:
                messages.append(text)

    logger = Logger()
    return LoadedLibrary(module, module.Runtime(logger), logger, messages)


class Contexts:
    """Opens execution contexts of one engine. `kernels` is the key under which TensorRT-RTX's kernels are kept.

    The caller allocates a context's memory: CUDA graphs require that, and the size depends on the shapes. `lengths`:
    whether axes other than the batch are dynamic.
    """

    def __init__(self, module: Any, engine: Any, kernels: str, lengths: bool) -> None:
        self.engine, self._kernels, self._cache = engine, kernels, None
        self._given = module.ExecutionContextAllocationStrategy.USER_MANAGED
        if hasattr(module, "DynamicShapesKernelSpecializationStrategy"):  # TensorRT-RTX
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(self._given)
            # EAGER compiles kernels for the exact shapes before they run: a captured loop would otherwise repeat a
            # generic kernel for ever. There are too many lengths to wait for, so LAZY runs a generic kernel until the
            # exact one is compiled.
            strategies = module.DynamicShapesKernelSpecializationStrategy
            config.dynamic_shapes_kernel_specialization_strategy = strategies.LAZY if lengths else strategies.EAGER
            self._given, self._cache = config, config.create_runtime_cache()
            if (kept := KERNELS.read(kernels)) is not None:
                self._cache.deserialize(kept.tobytes())  # it ignores the kernels of another driver or GPU
            config.set_runtime_cache(self._cache)

    def open(self) -> Any:
        return self.engine.create_execution_context(self._given)

    def keep(self) -> None:
        if self._cache is not None:
            KERNELS.write(self._kernels, bytes(self._cache.serialize()))


def find_profile(engine: Any, shapes: Shapes) -> int:
    """The first profile of a plan that holds inputs of these shapes; the last one if none does."""
    last = engine.num_optimization_profiles - 1
    for index in range(last):
        limits = {name: engine.get_tensor_profile_shape(name, index) for name in shapes if is_input(engine, name)}
        if all(
            low <= size <= high
            for name, (least, _, most) in limits.items()
            for low, size, high in zip(least, shapes[name], most, strict=True)
        ):
            return index
    return last


def is_input(engine: Any, name: str) -> bool:
    return str(engine.get_tensor_mode(name)).endswith("INPUT")


def name_kernels(target: Target, graph: str) -> str:
    """The key of the kernels of `graph` for `target`."""
    return f"{str(target).replace('.', '_')}-{graph}"


class TensorRtCall:
    """One execution context with its shapes, its addresses and the memory that it works in."""

    def __init__(
        self,
        device: Device,
        plan: Path,
        loaded: LoadedLibrary,
        contexts: Contexts,
        most: dict[str, int],
        shapes: Shapes,
        addresses: Addresses,
    ) -> None:
        self._device, self._plan, self._loaded, self._contexts, self._most = device, plan, loaded, contexts, most
        loaded.messages.clear()
        self._context = context = contexts.open()
        if context is None:
            raise self._refuse("cannot be prepared")
        index = find_profile(contexts.engine, shapes)  # a context begins with profile 0
        if index and not context.set_optimization_profile_async(index, device.stream):
            raise self._refuse("does not take its profile")
        for i in range(contexts.engine.num_io_tensors):
            name = contexts.engine.get_tensor_name(i)
            takes = contexts.engine.get_tensor_mode(name) == loaded.module.TensorIOMode.INPUT
            if takes and not context.set_input_shape(name, shapes[name]):
                raise self._refuse(f"is not for {name} {list(shapes[name])}")
            if not context.set_tensor_address(name, addresses[name]):
                raise self._refuse(f"does not take {name}")
        loaded.messages.clear()
        size = context.update_device_memory_size_for_shapes()
        if size == 0 and loaded.messages:  # 0 is also the size of a plan that needs no memory
            raise self._refuse("cannot be given its shapes")
        self._memory = device.allocate(size)
        context.set_device_memory(self._memory.address, size)
        self._fresh = True

    def enqueue(self) -> None:
        if not self._context.execute_async_v3(self._device.stream):
            raise self._refuse("failed")
        if self._fresh:
            self._fresh = False
            self._contexts.keep()

    def _refuse(self, what: str) -> BackendError:
        most = ", ".join(f"{axis} of at most {size}" for axis, size in self._most.items())
        given = f"{self._plan} {what} ({self._loaded.reason})"
        if ran_out_of_memory(self._loaded.reason):
            return BackendError(given, "inputs that fit in the GPU's memory", "use a smaller batch")
        return BackendError(given, most, "use a smaller batch" if what.startswith("is not for") else TRY_ANOTHER)
