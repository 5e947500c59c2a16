"""The chat page: a run answers in the browser, with the untuned model beside it.

    GET  /            the page
    POST /ask         {"message", "system", "history": {"tuned": […], "untuned": […]}}
                      -> JSON lines: {"ahead": 2} while others wait before, then
         {"side": "tuned", "piece": "Hel"} … {"side": "tuned", "finished": true, …}
      -> 503 with Retry-After where MAX_WAITING messages wait already

There is a piece for each token, "" where its text waits for the next one, so that a browser that went away is noticed.
The browser keeps the conversation and sends it with every message. The server keeps nothing: a restart loses nothing,
and two people never meet in one conversation. The models answer one after the other.
"""

import base64
import json
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llama_exp.chat.answers import Answer, AnswerQueue, BusyError
from llama_exp.chat.session import ChatReply, ChatSession, parse_history
from llama_exp.errors import UserError
from llama_exp.programs import install
from llama_exp.records import Turn
from llama_exp.sanitize import reason, valid_unicode, visible
from llama_exp.web import LOOPBACK_NAMES, Guard, is_loopback, open_socket, run_server, url_host

try:
    import anyio
    import uvicorn  # noqa: F401  # run_server needs it: said now, not after the model is loaded
    from jinja2 import Environment, FileSystemLoader
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
    from starlette.routing import Route
except ImportError as error:
    raise UserError(f"The chat page needs {error.name}. Install it: {install('ui')}") from None

PAGES = Path(__file__).parent / "pages"
STATIC = {"chat.css": "text/css", "chat.js": "text/javascript"}
MAX_REQUEST_BYTES = 1024 * 1024  # a message with its history
MIN_PASSWORD_LENGTH = 8
# The event loop gives Python's lock up at every read and write, and gets it back from the model after this time: at the
# usual 5 ms, two hundred people who come at once wait for seconds.
SWITCH_SECONDS = 0.0002
STOP_SECONDS = 5.0  # for the model to reach its next token after Ctrl-C
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
    sys.setswitchinterval(SWITCH_SECONDS)
    queue = AnswerQueue()
    try:
        run_server(create_app(session, endpoint, queue), endpoint.socket, queue.stop)
    except KeyboardInterrupt:
        print("\nStopped.", flush=True)
    if not queue.join_model(STOP_SECONDS):
        os._exit(0)  # the model is deep in one long step; leaving in the middle of it is what Ctrl-C asks for
    return 0


def create_app(session: ChatSession, endpoint: Endpoint, queue: AnswerQueue) -> Starlette:
    """The web application. On loopback it answers to this machine's names only; elsewhere it asks for the password."""
    handlers = ChatHandlers(session, queue)
    routes = [
        Route("/", handlers.page),
        Route("/ask", handlers.ask, methods=["POST"]),
        Route("/static/{name}", static_file),
    ]
    names = LOOPBACK_NAMES if is_loopback(endpoint.host) else None
    middleware = [Middleware(Guard, hosts=names, refuse=PlainTextResponse)]
    if endpoint.password:
        middleware.append(Middleware(PasswordGuard, password=endpoint.password))
    app = Starlette(routes=routes, middleware=middleware)
    app.router.redirect_slashes = False  # it would send people to whatever name a request carries
    return app


class ChatHandlers:
    """What the routes call, around one session."""

    def __init__(self, session: ChatSession, queue: AnswerQueue):
        self.session, self.queue = session, queue
        self.sides = ("untuned",) if session.run.is_untuned else ("tuned", "untuned")

    async def page(self, request: Request) -> Response:
        page = TEMPLATES.get_template("chat.html").render(session=self.session, sides=self.sides)
        return HTMLResponse(page)

    async def ask(self, request: Request) -> Response:
        try:
            message, system, histories = parse_request(await read_json_body(request), self.sides)
            return AnswerResponse(self.queue.join(partial(self._replies, message, system, histories)))
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)
        except BusyError as busy:
            return JSONResponse({"error": str(busy)}, 503, {"Retry-After": str(busy.seconds)})

    def _replies(self, message: str, system: str, histories: dict[str, tuple[Turn, ...]]) -> Iterator[dict[str, Any]]:
        for side in self.sides:
            try:
                for piece in self.session.ask(message, histories[side], system=system, tuned=side == "tuned"):
                    if isinstance(piece, ChatReply):
                        yield {"side": side, "message": self.session.turns(message, "")[0].text, **asdict(piece)}
                    else:
                        yield {"side": side, "piece": piece}
            except UserError as error:
                yield {"side": side, "error": str(error)}
            except Exception as error:  # out of memory, or a bug: this answer is lost, the next one need not be
                print(f"An answer failed: {type(error).__name__}: {reason(error)}", file=sys.stderr, flush=True)
                yield {"side": side, "error": f"The model could not answer ({type(error).__name__})."}


class AnswerResponse(StreamingResponse):
    """JSON lines as they are generated. A browser that goes away, or Stop, frees the place in the queue."""

    def __init__(self, answer: Answer):
        self.answer = answer
        super().__init__(self._encode(), media_type="application/x-ndjson")

    async def _encode(self) -> AsyncIterator[str]:
        async for line in self.answer.lines():
            yield json.dumps(line) + "\n"

    async def __call__(self, *connection) -> None:
        try:
            await super().__call__(*connection)
        finally:  # not in `_encode`: an abandoned generator is closed at garbage collection, not when it ends
            self.answer.leave()


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
    except (ValueError, RecursionError):
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


class PasswordGuard:
    """ASGI middleware, HTTP basic authentication with any name: nothing is answered without the password."""

    def __init__(self, app, password: str):
        self.app, self.password = app, password.encode()

    async def __call__(self, scope, receive, send) -> None:
        given = _given_password(Request(scope).headers.get("authorization", "")) if scope["type"] == "http" else b""
        if scope["type"] == "lifespan" or secrets.compare_digest(given or b"", self.password):
            return await self.app(scope, receive, send)
        if given is not None:
            await anyio.sleep(1)  # slows guessing down
        challenge = {"WWW-Authenticate": 'Basic realm="llama_exp", charset="UTF-8"'}
        await PlainTextResponse("A password is needed.", 401, challenge)(scope, receive, send)


def _given_password(header: str) -> bytes | None:
    """The password in an Authorization header; None where there is no header, b"" where it cannot be read."""
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except ValueError:  # neither base64 nor, perhaps, ASCII
        decoded = b""
    return decoded.partition(b":")[2] if header else None


async def static_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("There is no such file.", 404)
    return Response((PAGES / name).read_bytes(), media_type=STATIC[name])
