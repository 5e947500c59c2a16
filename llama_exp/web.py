"""What the chat page and the rating page share: a listening socket, a guard before the routes, a server with limits."""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llama_exp.errors import UserError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LOOPBACK_NAMES = {"127.0.0.1", "localhost", "::1"}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src data:; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # an address may hold a token; `no-referrer` would send forms with Origin: null
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",  # going back shows what is saved, and a shared computer keeps nothing
    "X-Robots-Tag": "noindex",
}

MAX_CONNECTIONS = 512  # below the usual limit of 1,024 open files
REQUEST_SECONDS = 15.0  # that a client may take to send a request, or to read on
STOP_SECONDS = 3  # that open answers may take to end after Ctrl-C


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. UserError where the port is taken or the host is not of this machine."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)  # before the address is printed: an early visitor waits instead of being refused
    except OSError as error:
        raise UserError(
            f"Cannot listen on {host}, port {port}: {error.strerror}. Another port: port={port + 1}, or "
            f"port=0 for any that is free."
        ) from None
    return listening


def url_host(host: str) -> str:
    """The host part of the address to type: this machine's name where the server listens on every interface."""
    return f"[{host}]" if ":" in host else socket.gethostname() if host == "0.0.0.0" else host


class Guard:
    """ASGI middleware that puts SECURITY_HEADERS on every response and refuses forms from other sites.

    hosts     the names to answer to (None: any), so that no other site's name can be pointed at this server
    refuse    (message, status code) -> response
    """

    def __init__(self, app, hosts: set[str] | None, refuse: Callable[[str, int], "Response"]):
        self.app, self.hosts, self.refuse = app, hosts, refuse

    async def __call__(self, scope, receive, send) -> None:
        from starlette.requests import ClientDisconnect, Request

        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = {name.lower().encode(): value.encode() for name, value in SECURITY_HEADERS.items()}
                others = [(name, value) for name, value in message["headers"] if name.lower() not in headers]
                message = {**message, "headers": [*others, *headers.items()]}
            await send(message)

        # It went away in the middle of its request, or the server stops: nobody to answer.
        with contextlib.suppress(ClientDisconnect, asyncio.CancelledError):
            await (self._refusal(Request(scope)) or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: "Request") -> "Response | None":
        host = request.headers.get("host", "")
        if self.hosts is not None and _host_name(host) not in self.hosts:
            return self.refuse("This page does not answer to that name.", 400)
        if request.method not in ("GET", "HEAD") and _is_cross_site(request, host):
            return self.refuse("That came from another site, so it was not saved.", 403)
        return None


def _host_name(host: str) -> str | None:
    """The name in a Host header; None where it is none, as in `[`."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _is_cross_site(request: "Request", host: str) -> bool:
    """Whether a browser says that another site sent this. Programs that are no browsers send neither header."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if origin is None:
        return site not in ("same-origin", "none")
    try:
        return site not in ("same-origin", "none") or urlsplit(origin).netloc != host
    except ValueError:
        return True


def run_server(app, listening: socket.socket, on_stop: Callable[[], None] = lambda: None) -> None:
    """Serve until interrupted, then raise KeyboardInterrupt. `on_stop` is called before answers are waited for.

    A client that is slower than REQUEST_SECONDS with a request, or reads nothing of its answer for as long, is cut off.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            on_stop()
            for connection in [*self.server_state.connections]:
                if getattr(connection, "is_incomplete", False):
                    connection.transport.abort()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=_limited_protocol(),
        ws="none",
        access_log=False,  # a log would hold the tokens in addresses
        log_level="error",  # anybody can make it warn of invalid requests, line by line
        server_header=False,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    Server(config).run(sockets=[listening])


def _limited_protocol() -> type[asyncio.Protocol]:
    """uvicorn's HTTP/1.1 protocol with what it leaves open: a time limit for requests and readers, a bound."""
    import h11
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class LimitedProtocol(H11Protocol):
        request_timer: asyncio.TimerHandle | None = None
        reader_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._time_request()
            if len(self.connections) > MAX_CONNECTIONS:
                self._make_room()

        def data_received(self, data: bytes) -> None:
            try:
                super().data_received(data)
            except h11.LocalProtocolError:  # nonsense behind a request that is answered already: no answer to that
                self.transport.abort()
            self._time_request()

        def send_400_response(self, msg: str) -> None:
            """Answer nonsense; the route that may be at work on the request's beginning is told that nobody listens."""
            if self.cycle:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
            with contextlib.suppress(h11.LocalProtocolError):  # an answer was begun, or asked for by HEAD
                super().send_400_response(msg)
            self.transport.close()

        def connection_lost(self, exc: Exception | None) -> None:
            for timer in (self.request_timer, self.reader_timer):
                if timer:
                    timer.cancel()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            self.reader_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            if self.reader_timer:
                self.reader_timer.cancel()

        @property
        def is_incomplete(self) -> bool:
            return self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

        def _time_request(self) -> None:
            """One limit from the first to the last byte of a request, however they drip."""
            if not self.is_incomplete and self.request_timer:
                self.request_timer.cancel()
                self.request_timer = None
            elif self.is_incomplete and not self.request_timer:
                self.request_timer = self.loop.call_later(REQUEST_SECONDS, self.transport.abort)

        def _make_room(self) -> None:
            """Cut off the connection that has been sending its request for the longest time, or this one."""
            timed = [c for c in self.connections if isinstance(c, LimitedProtocol) and c.request_timer]
            oldest = min(timed, key=lambda c: c.request_timer.when() if c.request_timer else 0.0, default=self)
            oldest.transport.abort()

    return LimitedProtocol
