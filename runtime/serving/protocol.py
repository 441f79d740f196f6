"""HTTP/1.1 of a connection: uvicorn's, with a bound on silence, and with problem documents for what h11 refuses."""

from __future__ import annotations

import sys
from typing import Any

import h11
from starlette.datastructures import Headers
from uvicorn.protocols.http.h11_impl import H11Protocol

from .middleware import choose_id
from .problems import ProblemError, answer_problem, find_request_id

SILENT_SECONDS = 5.0  #: after which a connection without a request is closed
HEAD_BYTES = 2**16  #: of the first line and the headers of a request
WRITE = "let an HTTP library write it"

#: First words of h11's errors -> what was given and expected, and the remedy. Its other words may be a client's.
FAULTS = {
    "illegal request line": (
        "a request that is not HTTP/1.1",
        "HTTP/1.1",
        f"{WRITE}; for https:// put a proxy with TLS in front",
    ),
    "Missing mandatory Host": ("a request without the header Host", "one", "add it"),
    "Found multiple Host": ("a request with several headers Host", "one", "send one"),
    "bad Content-Length": ("a header Content-Length that is no number", "the number of bytes of the body", WRITE),
    "conflicting Content-Length": ("headers Content-Length that differ", "one", "send one"),
    "illegal chunk": ("a body whose chunks cannot be read", "chunks as RFC 9112 has them (section 7.1)", WRITE),
    "malformed chunk": ("a body whose chunks cannot be read", "chunks as RFC 9112 has them (section 7.1)", WRITE),
    "Illegal target": ("an address with characters that it cannot hold", "others as %XX", WRITE),
}
FAULTS["no request line"] = FAULTS["illegal request line"]
OTHER_FAULT = ("a header that cannot be read", "headers as RFC 9112 has them (section 5)", WRITE)


class BoundedProtocol(H11Protocol):
    """HTTP/1.1, whose connections are closed if no request has arrived after `SILENT_SECONDS`."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self.loop.call_later(SILENT_SECONDS, self.close_silent)

    def close_silent(self) -> None:
        if self.cycle is None and self.transport.get_protocol() is self:  # else it has become a WebSocket
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what h11 refuses with a problem document, and close the connection.

        uvicorn calls this in its handler of h11's error, which it does not pass. An answer that has begun is cut.
        """
        running = self.cycle if self.cycle is not None and not self.cycle.response_complete else None
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            scope: Any = running.scope if running else {"headers": []}
            request_id = find_request_id(scope) or choose_id(Headers(scope=scope))
            response = answer_problem(explain_protocol_error(sys.exc_info()[1]), request_id)
            headers = [*response.raw_headers, (b"x-request-id", request_id.encode()), (b"connection", b"close")]
            for event in (
                h11.Response(status_code=response.status_code, headers=headers),
                h11.Data(bytes(response.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        if running:  # it ends as if its client had left
            running.disconnected = True
            running.message_event.set()
        self.transport.close()


def explain_protocol_error(error: BaseException | None) -> ProblemError:
    """What h11 raised, as a problem."""
    status = error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400
    if status == 431:
        given, remedy = f"a request whose headers take more than {HEAD_BYTES} bytes", "send fewer or shorter headers"
        return ProblemError(431, "headers", given, f"at most {HEAD_BYTES}, with the address", remedy)
    if status == 501:
        given, remedy = "a body in a Transfer-Encoding that is not chunked", "send it as it is, or in chunks"
        return ProblemError(501, "encoding", given, "chunked, or none", remedy)
    text = str(error)
    found = next((fault for words, fault in FAULTS.items() if text.startswith(words)), OTHER_FAULT)
    return ProblemError(400, "http", *found)
