"""What the chat page and the rating page share: a listening socket, security headers, a guard against other sites."""

import ipaddress
import socket
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING
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


def same_site_only(hosts: set[str] | None, refuse: Callable[[str, int], "Response"]) -> Callable:
    """A dispatch function for BaseHTTPMiddleware that puts SECURITY_HEADERS on every response and refuses forms from
    other sites.

    hosts     the names to answer to (None: any), so that no other site's name can be pointed at this server
    refuse    (message, status code) -> response
    """

    async def dispatch(request: "Request", call_next: Callable[["Request"], Awaitable["Response"]]) -> "Response":
        host = request.headers.get("host", "")
        if hosts is not None and urlsplit(f"//{host}").hostname not in hosts:
            response = refuse("This page does not answer to that name.", 400)
        elif request.method not in ("GET", "HEAD") and _is_cross_site(request, host):
            response = refuse("That came from another site, so it was not saved.", 403)
        else:
            response = await call_next(request)
        response.headers.update(SECURITY_HEADERS)
        return response

    return dispatch


def _is_cross_site(request: "Request", host: str) -> bool:
    """Whether a browser says that another site sent this. Programs that are no browsers send neither header."""
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    return site not in ("same-origin", "none") or (origin is not None and urlsplit(origin).netloc != host)
