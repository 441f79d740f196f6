"""kernels/*.cu → cubins, compiled at run time and cached. cuda-core is imported when it is first needed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from sc_runtime.caches import Cache
from sc_runtime.errors import BackendError, MissingExtraError, first_line

CUBINS = Cache("kernels", ".cubin")
Macro = tuple[str, str]  #: name and value


def find_source(name: str) -> Path:
    """kernels/`name`, beside this package in a checkout and inside it when installed."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "kernels" / name
    return inside if inside.is_file() else package.parent / "kernels" / name


def load_cubin(source: Path, arch: str, macro: Macro | None = None) -> bytes:
    """The cubin of `source` for `arch` ("sm_90"), from the user's cache folder, else compiled and kept there.

    The key holds a hash of the source and the macro. Raises as `compile_source` does.
    """
    digest = hash_source(source, macro)
    key = f"{source.stem}-{arch}-{digest}"
    if (kept := CUBINS.read(key)) is not None:
        return kept.tobytes()
    cubin = compile_source(source, arch, macro)
    CUBINS.write(key, cubin)
    return cubin


def hash_source(source: Path, macro: Macro | None = None) -> str:
    """16 hexadecimal digits of a hash of everything that the compiler reads."""
    return hashlib.sha256(read_whole(source) + "=".join(macro or ()).encode()).hexdigest()[:16]


def read_whole(source: Path) -> bytes:
    """`source`, and the files beside it that it includes."""
    content = source.read_bytes()
    names = re.findall(rb'^#include "(.+)"', content, re.MULTILINE)
    included = [source.parent / name.decode() for name in names]
    return b"".join([content, *(path.read_bytes() for path in included if path.is_file())])


def compile_source(source: Path, arch: str, macro: Macro | None = None) -> bytes:
    """`source` as a cubin for `arch`, such as "sm_90", with one macro defined; needs NVRTC, but no GPU and no driver.

    Raises MissingExtraError without cuda-core, BackendError when NVRTC refuses.
    """
    core = import_core()
    try:
        options = core.ProgramOptions(
            name=source.name, arch=arch, std="c++17", define_macro=macro, include_path=str(source.parent)
        )
        return bytes(core.Program(source.read_text(encoding="utf-8"), "c++", options).compile("cubin").code)
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if "error: " in line), error)
        given = f"kernels/{source.name} cannot be compiled for {arch} ({first_line(reason)})"
        raise BackendError(given, "NVRTC of CUDA 13", "pip install --upgrade 'sc-runtime[gpu]'") from error


def import_core() -> Any:
    """The module cuda.core, imported when it is first needed. Raises MissingExtraError."""
    try:
        import cuda.core as core
        from cuda.core import Program  # noqa: F401  # the first versions have it in another module
    except ImportError as error:
        given = f"cuda-core is not installed ({first_line(error)})"
        raise MissingExtraError(given, "the extra `gpu`", "pip install 'sc-runtime[gpu]'") from error
    return core


def check(result: tuple[Any, ...]) -> tuple[Any, ...]:
    """The results of a call of cuda.bindings.driver, without its status. Raises BackendError for a failure."""
    if int(result[0]):
        name = result[0].name
        if "OUT_OF_MEMORY" in name:
            raise BackendError(f"the GPU failed: {name}", "enough free memory there", "end other programs on it")
        raise BackendError(f"the GPU failed: {name}", "a GPU in working order", "restart the program")
    return result[1:]
