"""The page on which one talks to a run, with the untuned model beside it.

    GET  /            the page
    POST /say         {"message", "system", "history": {"tuned": […], "untuned": […]}}
                      -> a line of JSON a piece: {"side": "tuned", "piece": "Hel"} … {"side": "tuned", "finished": true, …}

The conversation lies in the browser and comes along with every message: the server keeps nothing, so a restart loses
nothing and two people never meet in one conversation. The models speak one after the other.
"""

import base64
import binascii
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_exp.chat.json_lines import past
from llama_exp.chat.session import Answer, Partner
from llama_exp.errors import UserError
from llama_exp.records import Turn
from llama_exp.sanitize import valid_unicode, visible
from llama_exp.web import LOOPBACK_NAMES, SECURITY_HEADERS, is_loopback, open_socket, same_site_only, url_host

try:
    import anyio
    import uvicorn
    from jinja2 import Environment, FileSystemLoader
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.base import BaseHTTPMiddleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise UserError(f"The chat page needs {error.name}. Install it: pip install -e '.[ui]'") from None

FILES = Path(__file__).parent / "pages"
STATIC = {"chat.css": "text/css", "chat.js": "text/javascript"}
LARGEST = 1024 * 1024  # bytes of a message with its history
SHORTEST = 8  # characters of a password
PASSWORD = "LLAMA_EXP_PASSWORD"


@dataclass(frozen=True, slots=True)
class Door:
    """Where the page is reached, and the password that others must know."""

    listening: socket.socket
    host: str
    password: str | None

    @classmethod
    def of(cls, host: str, port: int) -> "Door":
        """UserError for a host that others can reach without a password, or a port that is taken."""
        password = os.environ.get(PASSWORD) or None
        if password is None and not is_loopback(host):
            raise UserError(
                f"host={host}: others on the network could talk to the model. Put a password into the environment "
                f"({PASSWORD}=…), or leave host out."
            )
        if password is not None and len(password) < SHORTEST:
            raise UserError(f"{PASSWORD} is shorter than {SHORTEST} characters: too easy to guess.")
        return cls(open_socket(host, port), host, password)

    @property
    def address(self) -> str:
        return f"http://{url_host(self.host)}:{self.listening.getsockname()[1]}"

    @property
    def hosts(self) -> set[str] | None:
        """Names to answer to: on loopback no other site can be pointed at the page; elsewhere the password guards."""
        return LOOPBACK_NAMES if is_loopback(self.host) else None


def serve(partner: Partner, door: Door) -> int:
    """Serve until interrupted."""
    print(f"Talk to {partner.named()}: {door.address}", flush=True)
    if door.password:
        print(
            f"It asks for a name (any) and the password in {PASSWORD}."
            + (
                "" if is_loopback(door.host) else " Nothing is encrypted: put TLS in front of what leaves the building."
            ),
            flush=True,
        )
    print("Stop with Ctrl-C.", flush=True)
    config = uvicorn.Config(pages(partner, door), access_log=False, log_level="warning", server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[door.listening])
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def pages(partner: Partner, door: Door) -> Starlette:
    """The application."""
    room = Room(partner)
    routes = [Route("/", room.look), Route("/say", room.say, methods=["POST"]), Route("/static/{name}", static)]
    guards = [Middleware(BaseHTTPMiddleware, dispatch=same_site_only(door.hosts, PlainTextResponse))]
    if door.password:
        guards.append(Middleware(BaseHTTPMiddleware, dispatch=locked(door.password)))
    return Starlette(routes=routes, middleware=guards)


class Room:
    """The handlers, around one partner."""

    def __init__(self, partner: Partner):
        self.partner = partner
        self.sides = ("tuned", "untuned") if partner.run is not None else ("untuned",)

    def look(self, request: Request) -> Response:
        partner = self.partner
        template = TEMPLATES.get_template("chat.html")
        fields = partner.wording.fields if len(partner.wording.fields) > 1 and not partner.manner.raw else ()
        return HTMLResponse(
            template.render(
                named=partner.named(),
                model=partner.config.model.name,
                sides=self.sides,
                system=partner.system,
                fields=fields,
                template=partner.wording.template,
            )
        )

    async def say(self, request: Request) -> Response:
        try:
            message, system, histories = asked(await body(request), self.sides)
        except UserError as problem:
            return JSONResponse({"error": str(problem)}, 400)
        return Lines(self._lines(message, system, histories), request)

    def _lines(self, message: str, system: str, histories: dict[str, tuple[Turn, ...]]) -> Iterator[dict[str, Any]]:
        for side in self.sides:
            try:
                for piece in self.partner.ask(message, histories[side], system=system, tuned=side == "tuned"):
                    if isinstance(piece, Answer):
                        yield {
                            "side": side,
                            "message": self.partner.turns(message, "")[0].text,
                            "text": piece.text,
                            "finished": piece.finished,
                            "shortened": piece.shortened,
                            "tokens": piece.tokens,
                        }
                    else:
                        yield {"side": side, "piece": piece}
            except UserError as problem:
                yield {"side": side, "error": str(problem)}


class Lines(StreamingResponse):
    """Lines of JSON as they come. A browser that goes away, or presses Stop, stops the model too."""

    def __init__(self, lines: Iterator[dict[str, Any]], request: Request):
        self.lines = lines
        super().__init__(self.read(request), media_type="application/x-ndjson")

    async def read(self, request: Request) -> AsyncIterator[str]:
        while (line := await anyio.to_thread.run_sync(next, self.lines, None)) is not None:
            yield json.dumps(line) + "\n"
            if await request.is_disconnected():
                break

    async def __call__(self, *connection) -> None:
        try:
            await super().__call__(*connection)
        finally:  # here, not in `read`: an abandoned generator is closed when its memory is wanted, not when it ends
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.lines.close)


async def body(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise UserError("wanted JSON")  # a form of another site can send no JSON
    received = b""
    async for part in request.stream():
        received += part
        if len(received) > LARGEST:
            raise UserError("The conversation is too long. Begin a new one.")
    try:
        return json.loads(received)
    except ValueError:
        raise UserError("wanted JSON") from None


def asked(given: Any, sides: tuple[str, ...]) -> tuple[str, str, dict[str, tuple[Turn, ...]]]:
    """(message, system prompt, history by side) of what a browser sent, checked."""
    if not isinstance(given, dict) or not isinstance(given.get("message"), str) or not given["message"].strip():
        raise UserError("There is no message.")
    histories = given.get("history") or {}
    if not isinstance(histories, dict) or not isinstance(given.get("system", ""), str):
        raise UserError("history and system have not the shape wanted.")
    return (
        valid_unicode(given["message"]),
        valid_unicode(given.get("system", "")),
        {side: past(histories.get(side) or []) for side in sides},
    )


def locked(password: str):
    """HTTP's own login (any name): nothing is answered without the password."""

    async def dispatch(request: Request, onwards) -> Response:
        kind, _, coded = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(coded, validate=True).partition(b":")[2] if kind.lower() == "basic" else b""
        except binascii.Error:
            given = b""
        if secrets.compare_digest(given, password.encode()):
            return await onwards(request)
        if coded:
            await anyio.sleep(1)  # guessing takes time
        return Response(
            "A password is needed.",
            401,
            {"WWW-Authenticate": 'Basic realm="llama_exp", charset="UTF-8"', **SECURITY_HEADERS},
        )

    return dispatch


def static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("There is no such file.", 404)
    return Response((FILES / name).read_bytes(), media_type=STATIC[name])


TEMPLATES = Environment(loader=FileSystemLoader(FILES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters["visible"] = visible
