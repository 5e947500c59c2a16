"""What a rater's browser is sent: the conversation so far, the prompt, the answers as "Answer 1" and "Answer 2", and what they gave before.

    /r/TOKEN          consent and name, then on to where one stopped
    /r/TOKEN/7        the seventh trial of this rater's queue: look, judge, change one's mind
    /r/TOKEN/done     thanks

The token in the path is who one is: a page of another rater cannot be named without theirs. Nothing here sends the name
of a condition, the id of an item or the kind of a trial; all that a browser learns is a place in its own queue.
"""

import unicodedata
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from llama_exp.human.store import Given, Rater, Store
from llama_exp.human.study import Study, Trial
from llama_exp.records import Rating
from llama_exp.sanitize import BIDI
from llama_exp.web import LOOPBACK_NAMES, SECURITY_HEADERS, same_site_only

HERE = Path(__file__).parent
LARGEST = 64 * 1024  # bytes of a form
COMMENT, NAME = 5000, 80  # characters
LONGEST = 3600.0  # seconds that one look may count
VERDICTS = ("left", "tie", "right")


def create_app(study: Study, store: Store, hosts: set[str] | None = LOOPBACK_NAMES) -> Starlette:
    """The application. `hosts`: the names it answers to (None: any), so that no other site can be pointed at it."""
    rooms = Rooms(study, store)
    routes = [
        Route("/static/{name}", static),
        Route("/r/{token}", rooms.start),
        Route("/r/{token}/consent", rooms.consent, methods=["POST"]),
        Route("/r/{token}/done", rooms.done),
        Route("/r/{token}/{place:int}", rooms.look),
        Route("/r/{token}/{place:int}", rooms.judge, methods=["POST"]),
    ]
    guard = Middleware(BaseHTTPMiddleware, dispatch=same_site_only(hosts, message))
    return Starlette(routes=routes, middleware=[guard], exception_handlers={HTTPException: refused, Exception: broken})


class Rooms:
    """The handlers, around one study and its ratings."""

    def __init__(self, study: Study, store: Store):
        self.study, self.store = study, store

    def start(self, request: Request) -> Response:
        rater = self._rater(request)
        if not rater.consented:
            return page("consent.html.jinja", self.study, token=rater.token, most=len(self._queue(rater)))
        return RedirectResponse(self._resume(rater), 303)

    async def consent(self, request: Request) -> Response:
        form = await fields(request)
        rater = await run_in_threadpool(self._rater, request)
        name = " ".join(form.get("name", "").split())[:NAME]
        if not name or form.get("agree") != "yes":
            raise HTTPException(400, "Please go back, give a name and tick the box.")
        if not rater.consented:
            await run_in_threadpool(self.store.consent, rater.number, name)
        return RedirectResponse(f"/r/{rater.token}", 303)

    def look(self, request: Request) -> Response:
        rater, place, trial = self._trial(request)
        given = self.store.ratings(rater.number)
        if place > self._first(rater, given):
            return RedirectResponse(self._resume(rater), 303)
        return page(
            "trial.html.jinja",
            self.study,
            token=rater.token,
            place=place,
            most=len(self._queue(rater)),
            item=self.study.item(trial),
            texts=self.study.texts(trial),
            given=given.get(place),
            rated=sum(g.done for g in given.values()),
        )

    async def judge(self, request: Request) -> Response:
        form = await fields(request)
        return await run_in_threadpool(self._save, request, form)

    def _save(self, request: Request, form: dict[str, str]) -> Response:
        rater, place, _ = self._trial(request)
        if place > self._first(rater, self.store.ratings(rater.number)):
            raise HTTPException(409, "Please rate the items in their order.")
        rating, done = self._read(rater, place, form)
        if not done and "draft" not in form:
            raise HTTPException(400, "Please choose one of the answers, or a number on every scale.")
        self.store.save(rater.number, place, rating, done)
        onwards = f"/r/{rater.token}/{place + 1 if place < len(self._queue(rater)) else 'done'}"
        return JSONResponse({"next": onwards}) if "script" in form else RedirectResponse(onwards, 303)

    def done(self, request: Request) -> Response:
        rater = self._rater(request)
        most = len(self._queue(rater))
        if self._first(rater, self.store.ratings(rater.number)) <= most:
            return RedirectResponse(self._resume(rater), 303)
        return page("done.html.jinja", self.study, token=rater.token, most=most)

    def _read(self, rater: Rater, place: int, form: dict[str, str]) -> tuple[Rating, bool]:
        """What a form says, checked; and whether the rating is complete."""
        verdict, scores = form.get("verdict", ""), {}
        if self.study.on_scales:
            verdict = ""
            scores = {name: form.get(f"scale{i}", "") for i, name in enumerate(self.study.settings["scales"])}
            scores = {name: value for name, value in scores.items() if value}
        if verdict not in ("", *VERDICTS) or any(value not in ("1", "2", "3", "4", "5") for value in scores.values()):
            raise HTTPException(400, "That is not one of the choices.")
        done = len(scores) == len(self.study.settings["scales"]) if self.study.on_scales else bool(verdict)
        rating = Rating(
            str(rater.number),
            str(place),
            verdict,
            {name: int(value) for name, value in scores.items()},
            form.get("comment", "").replace("\r\n", "\n")[:COMMENT],
            seconds(form),
        )
        return rating, done

    def _rater(self, request: Request) -> Rater:
        rater = self.store.rater(request.path_params["token"])
        if rater is None or rater.number > len(self.study.queues):
            raise HTTPException(404, "This link is not known. Please use the whole link that you were given.")
        return rater

    def _trial(self, request: Request) -> tuple[Rater, int, Trial]:
        rater, place = self._rater(request), request.path_params["place"]
        if not rater.consented:
            raise HTTPException(403, "Please open your link and agree first.")
        if not 1 <= place <= len(self._queue(rater)):
            raise HTTPException(404, "There is no such item.")
        return rater, place, self._queue(rater)[place - 1]

    def _queue(self, rater: Rater) -> tuple[Trial, ...]:
        return self.study.queues[rater.number - 1]

    def _first(self, rater: Rater, given: dict[int, Given]) -> int:
        """The first place without a complete rating; one beyond the queue when all are rated."""
        most = len(self._queue(rater))
        return next((n for n in range(1, most + 1) if n not in given or not given[n].done), most + 1)

    def _resume(self, rater: Rater) -> str:
        first = self._first(rater, self.store.ratings(rater.number))
        return f"/r/{rater.token}/{first if first <= len(self._queue(rater)) else 'done'}"


def seconds(form: dict[str, str]) -> float:
    """How long the page was looked at, as the script measured it; 0 without a script."""
    try:
        spent = float(form.get("seconds", "0"))
    except ValueError:
        return 0.0
    return min(max(spent, 0.0), LONGEST) if spent == spent else 0.0


async def fields(request: Request) -> dict[str, str]:
    """A form's fields, read by hand: bounded, and without a parser for uploads."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST:
            raise HTTPException(413, "That is too long.")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HTTPException(415, "Wanted a form.")
    read = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, errors="replace", max_num_fields=50)
    return {name: values[-1] for name, values in read.items()}


def static(request: Request) -> Response:
    kinds = {"style.css": "text/css", "page.js": "text/javascript"}
    name = request.path_params["name"]
    if name not in kinds:
        raise HTTPException(404, "There is no such file.")
    return Response((HERE / "static" / name).read_bytes(), media_type=kinds[name])


def refused(request: Request, error: Exception) -> Response:
    told = getattr(error, "detail", "")
    return message("There is no such page." if told in ("", "Not Found") else told, getattr(error, "status_code", 500))


def broken(request: Request, error: Exception) -> Response:
    return message("Something went wrong, and this was not saved. Please try again in a moment.", 500)


def message(text: str, status: int) -> Response:
    return HTMLResponse(
        TEMPLATES.get_template("message.html.jinja").render(text=text), status, headers=SECURITY_HEADERS
    )


def page(template: str, study: Study, **values) -> Response:
    """A page from its template; of the study only what raters are to read."""
    told = {key: study.settings[key] for key in ("title", "question", "consent", "scales", "scale_ends")}
    return HTMLResponse(TEMPLATES.get_template(template).render(**told, on_scales=study.on_scales, **values))


def shown(text: str) -> str:
    """Text in which nothing hides: control characters, and what turns the direction of reading, stand as [U+001B]."""
    return "".join(c if c in "\n\t" else _visible(c) for c in text.replace("\r\n", "\n"))


def _visible(character: str) -> str:
    kind = unicodedata.category(character)
    if kind == "Cs":  # half a character: it cannot be sent
        return "\ufffd"
    return f"[U+{ord(character):04X}]" if kind == "Cc" or character in BIDI else character


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["shown"] = shown
