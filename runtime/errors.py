"""Errors that a user can cause. Each states in one line what was given, what was expected and what to do.

Every class also subclasses the builtin a caller would expect, so `except ValueError` keeps working.
"""

from __future__ import annotations

import errno
import math
from typing import SupportsFloat, SupportsIndex

#: Phrases, in lower case, of the out-of-memory messages of NumPy, ONNX Runtime, OpenVINO, CUDA and TensorRT.
OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",
    "outofmemory",
    "bad_alloc",
    "bad allocation",
    "not enough memory",
    "cannot allocate memory",
    "failed to allocate",
    "unable to allocate",
    "could not allocate",
)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  #: of a disk, a quota, or a limit of the size of files
OUT_OF_FILES = (errno.EMFILE, errno.ENFILE)  #: of this process, of this machine
MAKE_ROOM = "make room there, or name another folder in $TMPDIR"  #: the remedy for a full folder of temporary files
TRY_ANOTHER = "try another backend (--backend)"  #: the remedy for a network that fails or gives no number
#: Errors of a name or its permissions, as classes and, where there is none, as numbers.
WRONG_NAME = (FileNotFoundError, FileExistsError, PermissionError, NotADirectoryError, IsADirectoryError)
WRONG_NAME_CODES = (errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP)


class CodecError(Exception):
    """Base of every error this package raises on purpose.

    `given` is the offending value, `expected` what would have been accepted, `remedy` the next step.
    """

    def __init__(self, given: str, expected: str, remedy: str = "") -> None:
        self.given, self.expected, self.remedy = given, expected, remedy
        text = f"{given}; expected {expected}"
        super().__init__(one_line(f"{text}: {remedy}" if remedy else text))

    def __reduce__(self) -> tuple[type[CodecError], tuple[str, str, str]]:
        """Make the error picklable: the default would call the class with the message alone."""
        return type(self), (self.given, self.expected, self.remedy)


class AudioError(CodecError, ValueError):
    """Audio that cannot be read, is empty, or holds samples that are not finite."""


class AudioWarning(UserWarning):
    """Audio that can be read, but may not be what it seems: cut short, or not scaled."""


class TokensError(CodecError, ValueError):
    """Tokens of the wrong shape, dtype, range or rate, or a token file that is damaged."""


class SettingsError(CodecError, ValueError):
    """A parameter (steps, guidance, vocabulary, ...) that cannot work."""


class BundleError(CodecError, ValueError):
    """A bundle that is missing, incomplete, altered, or made by another version."""


class CheckpointError(CodecError, ValueError):
    """A checkpoint that cannot be downloaded, or whose tensors are missing, extra, misshapen or of another rate."""


class VerificationError(CodecError, RuntimeError):
    """An exported graph that does not compute what its torch network computes."""


class BackendError(CodecError, RuntimeError):
    """A backend that was asked for by name and cannot run."""


class MissingExtraError(CodecError, ImportError):
    """A package of one of the optional extras is not installed."""


class OutputError(CodecError, OSError):
    """An output that cannot be written (exists already, no permission, disk full)."""


def one_line(text: str) -> str:
    """`text` with line breaks, control characters and lone surrogates escaped."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def check_whole(name: str, value: object, expected: str) -> int:
    """`value` as an int. Raises SettingsError for what is not a whole number: 1.5, True, "1"."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise SettingsError(f"{name} {value!r}", expected)
    return value.__index__()


def check_finite(name: str, value: object, expected: str) -> float:
    """`value` as a float. Raises SettingsError for what is not a finite number: NaN, True, "1"."""
    if isinstance(value, bool) or not isinstance(value, SupportsFloat) or not math.isfinite(float(value)):
        raise SettingsError(f"{name} {value!r}", expected)
    return float(value)


def ran_out_of_memory(error: BaseException | str) -> bool:
    """Whether a library's error reports that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in OUT_OF_MEMORY)


def choose_remedy(error: BaseException) -> str:
    """What to do about a file or an object that could not be read or written. Empty if `error` does not show it."""
    code = error.errno if isinstance(error, OSError) else None
    if code in FULL:
        return "make room there, or name another place"
    if code in OUT_OF_FILES:
        return "allow more open files (ulimit -n)"
    if timed_out(error) or code == errno.EBUSY or "connect" in type(error).__name__.lower():
        return "check the connection, or try again later"
    if isinstance(error, WRONG_NAME) or code in WRONG_NAME_CODES:
        return "check its name and permissions"
    return ""


def timed_out(error: BaseException) -> bool:
    """Whether `error`, of Python or of a library, is a timeout."""
    return isinstance(error, TimeoutError) or "timeout" in type(error).__name__.lower()


def first_line(error: BaseException | str) -> str:
    """The message of a library's error, without its stack."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
