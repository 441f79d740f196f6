"""Errors say what was given, what was expected and what to do, in one line, and survive a process boundary."""

from __future__ import annotations

import errno
import os
import pickle

import pytest

from sc_runtime import errors
from sc_runtime.errors import CodecError, choose_remedy

CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, CodecError)]


@pytest.mark.parametrize("cls", CLASSES)
def test_message_and_parts(cls: type[CodecError]) -> None:
    error = cls("7 apples", "6", "eat one")
    assert str(error) == "7 apples; expected 6: eat one"
    assert str(cls("7 apples", "6")) == "7 apples; expected 6"
    assert (error.given, error.expected, error.remedy) == ("7 apples", "6", "eat one")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.given) == (cls, str(error), "7 apples")


def test_every_error_is_also_the_builtin_a_caller_would_expect() -> None:
    builtins = {cls: cls.__bases__[1] for cls in CLASSES if cls is not CodecError}
    assert builtins[errors.AudioError] is ValueError
    assert builtins[errors.OutputError] is OSError
    assert builtins[errors.MissingExtraError] is ImportError


class ReadTimeoutError(Exception):
    """As botocore names it."""


class EndpointConnectionError(Exception):
    """As botocore names it."""


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (errno.ENOENT, "check its name and permissions"),
        (errno.EACCES, "check its name and permissions"),
        (errno.EISDIR, "check its name and permissions"),
        (errno.EROFS, "check its name and permissions"),
        (FileNotFoundError("bucket/key"), "check its name and permissions"),  # fsspec's have no number
        (errno.ENOSPC, "make room there, or name another place"),
        (errno.EFBIG, "make room there, or name another place"),
        (errno.EMFILE, "allow more open files (ulimit -n)"),
        (errno.EBUSY, "check the connection, or try again later"),  # what s3fs makes of SlowDown
        (errno.ECONNREFUSED, "check the connection, or try again later"),
        (TimeoutError(), "check the connection, or try again later"),
        (ReadTimeoutError(), "check the connection, or try again later"),
        (EndpointConnectionError(), "check the connection, or try again later"),
        (errno.EIO, ""),
        (ValueError("bytes"), ""),
    ],
)
def test_the_remedy_is_that_of_the_kind(error: int | Exception, remedy: str) -> None:
    given = OSError(error, os.strerror(error)) if isinstance(error, int) else error
    assert choose_remedy(given) == remedy
