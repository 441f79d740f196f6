"""Bodies of requests: a file alone, or a form with a file and settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO, Any, BinaryIO, cast

import anyio
from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from .problems import ProblemError
from .settings import Limits

IN_MEMORY = 2**20  #: bytes of a body that are held in memory; a larger one goes to a temporary file
FILE_FIELD = "file"
MAX_FIELDS = 32


class NamedReader:
    """A stream without a name of its own, which error messages call `name`."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.file, self.name = file, name

    def read(self, size: int = -1) -> bytes:
        return self.file.read(size)


@dataclass
class Upload:
    """A body that has arrived.

    media_type: of the file, without parameters.
    fields: the settings of a form.
    """

    file: IO[bytes]
    media_type: str
    fields: Mapping[str, Any] = field(default_factory=dict)

    def as_stream(self, name: str) -> BinaryIO:
        return cast(BinaryIO, NamedReader(self.file, name))

    def close(self) -> None:
        self.file.close()


async def read_upload(request: Request, limits: Limits) -> Upload:
    """The body of `request`, whose size the middleware bounds. Raises ProblemError: 408 if it takes too long."""
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    with anyio.move_on_after(limits.upload_seconds), explaining_departure():
        if media_type == "multipart/form-data":
            return await read_form(request, limits)
        file: IO[bytes] = SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  (the caller closes it)
        try:
            async for chunk in request.stream():
                file.write(chunk)
        except BaseException:
            file.close()
            raise
        file.seek(0)
        return Upload(file, media_type)
    given, expected = "a body that did not arrive in time", f"the whole body within {limits.upload_seconds:g} s"
    raise ProblemError(408, "slow", given, expected, "send it faster, or in parts")


@contextmanager
def explaining_departure() -> Iterator[None]:
    """In the block, a client that leaves is a ProblemError. Nobody reads it, but otherwise the log has a traceback."""
    try:
        yield
    except ClientDisconnect:
        raise ProblemError(400, "left", "a body that ended early", "the whole body", "send it again") from None


async def read_form(request: Request, limits: Limits) -> Upload:
    """A form with one file. Its text fields are settings. Raises ProblemError for a form that cannot be read."""
    remedy = f"let an HTTP library write the form, as curl does with -F {FILE_FIELD}=@NAME"
    try:
        form = await request.form(max_files=1, max_fields=MAX_FIELDS, max_part_size=limits.token_bytes)
    except HTTPException as error:
        given = f"a form that cannot be read ({str(error.detail).rstrip('.')})"
        expected = f"multipart/form-data with a boundary, one file and at most {MAX_FIELDS} fields"
        raise ProblemError(400, "form", given, expected, remedy) from error
    file = form.get(FILE_FIELD)
    if not isinstance(file, UploadFile):
        await form.close()
        raise ProblemError(422, "form", f"a form without the file {FILE_FIELD!r}", "one file of that name", remedy)
    fields: dict[str, Any] = {}
    for name in form:
        values = [value for value in form.getlist(name) if isinstance(value, str)]
        if values:
            fields[name] = values if len(values) > 1 else values[0]
    return Upload(file.file, (file.content_type or "").split(";")[0].strip().lower(), fields)
