"""The chat page: a run answers in the browser, with the untuned model beside it.

    GET  /            the page
    POST /ask         {"message", "system", "history": {"tuned": […], "untuned": […]}}
                      -> JSON lines: {"side": "tuned", "piece": "Hel"} … {"side": "tuned", "finished": true, …}

The browser keeps the conversation and sends it with every message. The server keeps nothing: a restart loses nothing,
and two people never meet in one conversation. The models answer one after the other.
"""

import base64
import binascii
import json
import os
import secrets
import socket
from collections.abc import AsyncIterator, Generator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llama_exp.chat.session import ChatReply, ChatSession, parse_history
from llama_exp.errors import UserError
from llama_exp.programs import install
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
    raise UserError(f"The chat page needs {error.name}. Install it: {install('ui')}") from None

PAGES = Path(__file__).parent / "pages"
STATIC = {"chat.css": "text/css", "chat.js": "text/javascript"}
MAX_REQUEST_BYTES = 1024 * 1024  # a message with its history
MIN_PASSWORD_LENGTH = 8
PASSWORD = "LLAMA_EXP_PASSWORD"
TEMPLATES = Environment(loader=FileSystemLoader(PAGES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters["visible"] = visible


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the page is served, and the password it asks for."""

    socket: socket.socket
    host: str
    password: str | None

    @classmethod
    def open(cls, host: str, port: int) -> "Endpoint":
        """Raises UserError for a host that others can reach without a password, or a port that is taken."""
        password = os.environ.get(PASSWORD) or None
        if password is None and not is_loopback(host):
            raise UserError(
                f"host={host}: others on the network could talk to the model. Put a password into the environment "
                f"({PASSWORD}=…), or leave host out."
            )
        if password is not None and len(password) < MIN_PASSWORD_LENGTH:
            raise UserError(f"{PASSWORD} is shorter than {MIN_PASSWORD_LENGTH} characters: too easy to guess.")
        return cls(open_socket(host, port), host, password)

    @property
    def address(self) -> str:
        return f"http://{url_host(self.host)}:{self.socket.getsockname()[1]}"


def serve(session: ChatSession, endpoint: Endpoint) -> int:
    """Serve until interrupted."""
    print(f"Talk to {session.name}: {endpoint.address}", flush=True)
    if endpoint.password:
        print(f"Log in with any name and the password in {PASSWORD}.", flush=True)
        if not is_loopback(endpoint.host):
            print("The connection is not encrypted: put TLS in front of what leaves the building.", flush=True)
    print("Stop with Ctrl-C.", flush=True)
    app = create_app(session, endpoint)
    config = uvicorn.Config(app, access_log=False, log_level="warning", server_header=False)
    try:
        uvicorn.Server(config).run(sockets=[endpoint.socket])
    except KeyboardInterrupt:
        print("\nStopped.")
    return 0


def create_app(session: ChatSession, endpoint: Endpoint) -> Starlette:
    """The web application. On loopback it answers to this machine's names only; elsewhere it asks for the password."""
    handlers = ChatHandlers(session)
    routes = [
        Route("/", handlers.page),
        Route("/ask", handlers.ask, methods=["POST"]),
        Route("/static/{name}", static_file),
    ]
    names = LOOPBACK_NAMES if is_loopback(endpoint.host) else None
    middleware = [Middleware(BaseHTTPMiddleware, dispatch=same_site_only(names, PlainTextResponse))]
    if endpoint.password:
        middleware.append(Middleware(BaseHTTPMiddleware, dispatch=require_password(endpoint.password)))
    return Starlette(routes=routes, middleware=middleware)


class ChatHandlers:
    """What the routes call, around one session."""

    def __init__(self, session: ChatSession):
        self.session = session
        self.sides = ("untuned",) if session.run.is_untuned else ("tuned", "untuned")

    def page(self, request: Request) -> Response:
        page = TEMPLATES.get_template("chat.html").render(session=self.session, sides=self.sides)
        return HTMLResponse(page)

    async def ask(self, request: Request) -> Response:
        try:
            message, system, histories = parse_request(await read_json_body(request), self.sides)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        return JsonLinesResponse(self._replies(message, system, histories), request)

    def _replies(
        self, message: str, system: str, histories: dict[str, tuple[Turn, ...]]
    ) -> Generator[dict[str, Any], None, None]:
        for side in self.sides:
            try:
                for piece in self.session.ask(message, histories[side], system=system, tuned=side == "tuned"):
                    if isinstance(piece, ChatReply):
                        yield {"side": side, "message": self.session.turns(message, "")[0].text, **asdict(piece)}
                    else:
                        yield {"side": side, "piece": piece}
            except UserError as error:
                yield {"side": side, "error": str(error)}


class JsonLinesResponse(StreamingResponse):
    """JSON lines as they are generated. Generation stops when the browser goes away or the user presses Stop."""

    def __init__(self, lines: Generator[dict[str, Any], None, None], request: Request):
        self.lines = lines
        super().__init__(self.encode_lines(request), media_type="application/x-ndjson")

    async def encode_lines(self, request: Request) -> AsyncIterator[str]:
        while (line := await anyio.to_thread.run_sync(next, self.lines, None)) is not None:
            yield json.dumps(line) + "\n"
            if await request.is_disconnected():
                break

    async def __call__(self, *connection) -> None:
        try:
            await super().__call__(*connection)
        finally:  # not in `encode_lines`: an abandoned generator is closed at garbage collection, not when it ends
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self.lines.close)


async def read_json_body(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise UserError("wanted JSON")  # a form of another site can send no JSON
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_REQUEST_BYTES:
            raise UserError("The conversation is too long. Start a new one.")
    try:
        return json.loads(body)
    except ValueError:
        raise UserError("wanted JSON") from None


def parse_request(body: Any, sides: tuple[str, ...]) -> tuple[str, str, dict[str, tuple[Turn, ...]]]:
    """(message, system prompt, history by side) sent by a browser, checked."""
    if not isinstance(body, dict) or not isinstance(body.get("message"), str) or not body["message"].strip():
        raise UserError("The message is empty.")
    histories, system = body.get("history") or {}, body.get("system", "")
    if not isinstance(histories, dict) or not isinstance(system, str):
        raise UserError('wanted "history" as an object and "system" as text')
    history_by_side = {side: parse_history(histories.get(side) or []) for side in sides}
    return valid_unicode(body["message"]), valid_unicode(system), history_by_side


def require_password(password: str):
    """HTTP basic authentication with any name: nothing is answered without the password."""

    async def dispatch(request: Request, call_next) -> Response:
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True).partition(b":")[2] if scheme.lower() == "basic" else b""
        except binascii.Error:
            given = b""
        if secrets.compare_digest(given, password.encode()):
            return await call_next(request)
        if encoded:
            await anyio.sleep(1)  # slows guessing down
        challenge = {"WWW-Authenticate": 'Basic realm="llama_exp", charset="UTF-8"'}
        return Response("A password is needed.", 401, {**challenge, **SECURITY_HEADERS})

    return dispatch


def static_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("There is no such file.", 404)
    return Response((PAGES / name).read_bytes(), media_type=STATIC[name])
