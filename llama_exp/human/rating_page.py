"""The web application for raters: the conversation so far, the prompt, and the answers as "Answer 1" and "Answer 2".

    /r/TOKEN          consent and name, then on to the first page that is not rated
    /r/TOKEN/7        the seventh trial of this rater's queue: read, rate, change the rating
    /r/TOKEN/done     thanks

The token in the path identifies the rater: nobody can open another rater's page without that rater's token. Nothing
here sends the name of a condition, the id of an item or the kind of a trial: a browser learns only page numbers.
"""

import hashlib
import json
import math
import sys
from pathlib import Path
from urllib.parse import parse_qs

from jinja2 import Environment, FileSystemLoader
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from llama_exp.errors import UserError
from llama_exp.human.store import Rater, RatingStore, StoredRating
from llama_exp.human.study import Study, Trial
from llama_exp.records import Rating
from llama_exp.sanitize import visible
from llama_exp.web import LOOPBACK_NAMES, SECURITY_HEADERS, Guard

HERE = Path(__file__).parent
STATIC_FILES = {"style.css": "text/css", "page.js": "text/javascript"}
MAX_FORM_BYTES = 64 * 1024
MAX_FIELDS = 50
MAX_COMMENT, MAX_NAME = 5000, 80  # characters
MAX_SECONDS = 3600.0  # that one look at a page counts
VERDICTS = ("left", "tie", "right")
SCORES = ("1", "2", "3", "4", "5")


def create_app(study: Study, store: RatingStore, hosts: set[str] | None = LOOPBACK_NAMES) -> Starlette:
    """The application. `hosts`: the names it answers to (None: any), so that no other site can be pointed at it."""
    page = RatingPage(study, store)
    routes = [
        Route("/static/{name}", static_file),
        Route("/r/{token}", page.start),
        Route("/r/{token}/consent", page.consent, methods=["POST"]),
        Route("/r/{token}/done", page.done),
        Route("/r/{token}/{page}", page.show),
        Route("/r/{token}/{page}", page.rate, methods=["POST"]),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Guard, hosts=hosts, refuse=message_page)],
        exception_handlers={  # each gets its own class alone, which the hint cannot say
            HTTPException: http_error,  # type: ignore[dict-item]
            UserError: store_error,  # type: ignore[dict-item]
            Exception: internal_error,
        },
    )
    app.router.redirect_slashes = False  # it would send raters to whatever name a request carries
    return app


class RatingPage:
    """The endpoints around one study and its ratings."""

    def __init__(self, study: Study, store: RatingStore):
        self.study, self.store = study, store

    def start(self, request: Request) -> Response:
        rater = self._rater(request)
        if not rater.consented:
            return self._render("consent", token=rater.token, pages=len(self._queue(rater)))
        return self._to_first_open_page(rater)

    async def consent(self, request: Request) -> Response:
        form = await read_form(request)
        rater = await run_in_threadpool(self._rater, request)
        name = " ".join(form.get("name", "").split())[:MAX_NAME]
        if not name or form.get("agree") != "yes":
            raise HTTPException(400, "Please go back, enter your name and tick the box.")
        if not rater.consented:
            await run_in_threadpool(self.store.consent, rater.number, name)
        return RedirectResponse(f"/r/{rater.token}", 303)

    def show(self, request: Request) -> Response:
        rater, page, trial = self._trial(request)
        stored = self.store.ratings(rater.number)
        if page > self._first_open_page(rater, stored):
            return self._to_first_open_page(rater)
        return self._render(
            "trial",
            token=rater.token,
            page=page,
            pages=len(self._queue(rater)),
            item=self.study.item(trial),
            answers=self.study.answers(trial),
            stored=stored.get(page),
            rated=sum(one.complete for one in stored.values()),
        )

    async def rate(self, request: Request) -> Response:
        form = await read_form(request)
        return await run_in_threadpool(self._save, request, form)

    def _save(self, request: Request, form: dict[str, str]) -> Response:
        rater, page, _ = self._trial(request)
        if page > self._first_open_page(rater, self.store.ratings(rater.number)):
            raise HTTPException(409, "Please rate the items in their order.")
        rating, complete = self._parse_rating(rater, page, form)
        if not complete and "draft" not in form:
            raise HTTPException(400, "Please choose one of the answers, or a number on every scale.")
        self.store.save(rater.number, page, rating, complete, request_name(form))
        next_page = f"/r/{rater.token}/{page + 1 if page < len(self._queue(rater)) else 'done'}"
        return JSONResponse({"next": next_page}) if "script" in form else RedirectResponse(next_page, 303)

    def done(self, request: Request) -> Response:
        rater = self._rater(request)
        pages = len(self._queue(rater))
        if self._first_open_page(rater, self.store.ratings(rater.number)) <= pages:
            return self._to_first_open_page(rater)
        return self._render("done", token=rater.token, pages=pages)

    def _parse_rating(self, rater: Rater, page: int, form: dict[str, str]) -> tuple[Rating, bool]:
        """The rating in a form, checked; and whether it is complete."""
        verdict, scores = form.get("verdict", ""), {}
        if self.study.on_scales:
            verdict = ""
            fields = {scale: form.get(f"scale{i}", "") for i, scale in enumerate(self.study.settings.scales)}
            scores = {scale: value for scale, value in fields.items() if value}
        if verdict not in ("", *VERDICTS) or any(value not in SCORES for value in scores.values()):
            raise HTTPException(400, "That is not one of the choices.")
        complete = len(scores) == len(self.study.settings.scales) if self.study.on_scales else bool(verdict)
        comment = form.get("comment", "").replace("\r\n", "\n")[:MAX_COMMENT]
        numbers = {scale: int(value) for scale, value in scores.items()}
        return Rating(str(rater.number), str(page), verdict, numbers, comment, seconds_on_page(form)), complete

    def _rater(self, request: Request) -> Rater:
        rater = self.store.rater(request.path_params["token"])
        if rater is None or rater.number > len(self.study.queues):
            raise HTTPException(404, "This link is not known. Please use the whole link that you were given.")
        return rater

    def _trial(self, request: Request) -> tuple[Rater, int, Trial]:
        rater, path = self._rater(request), request.path_params["page"]
        page = int(path) if path.isascii() and path.isdecimal() and len(path) < 10 else 0
        if not rater.consented:
            raise HTTPException(403, "Please open your link and agree first.")
        if not 1 <= page <= len(self._queue(rater)):
            raise HTTPException(404, "There is no such item.")
        return rater, page, self._queue(rater)[page - 1]

    def _queue(self, rater: Rater) -> tuple[Trial, ...]:
        return self.study.queues[rater.number - 1]

    def _first_open_page(self, rater: Rater, stored: dict[int, StoredRating]) -> int:
        """The first page without a complete rating; one beyond the last page when all are rated."""
        pages = len(self._queue(rater))
        return next((n for n in range(1, pages + 1) if n not in stored or not stored[n].complete), pages + 1)

    def _to_first_open_page(self, rater: Rater) -> Response:
        page = self._first_open_page(rater, self.store.ratings(rater.number))
        return RedirectResponse(f"/r/{rater.token}/{page if page <= len(self._queue(rater)) else 'done'}", 303)

    def _render(self, template: str, **values) -> Response:
        """A page from its template. Of the settings only what raters may read."""
        readable = ("title", "question", "consent", "scales", "scale_ends")
        settings = {key: getattr(self.study.settings, key) for key in readable}
        page = TEMPLATES.get_template(f"{template}.html.jinja")
        return HTMLResponse(page.render(**settings, on_scales=self.study.on_scales, **values))


def seconds_on_page(form: dict[str, str]) -> float:
    """How long the page was looked at, as the script measured it; 0 without a script."""
    try:
        seconds = float(form.get("seconds", "0"))
    except ValueError:
        return 0.0
    return 0.0 if math.isnan(seconds) else min(max(seconds, 0.0), MAX_SECONDS)


def request_name(form: dict[str, str]) -> str:
    """What is equal where a request came twice. The script numbers its requests; without it, equal forms are one."""
    return hashlib.sha256(json.dumps(form, sort_keys=True).encode()).hexdigest()


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form of at most MAX_FORM_BYTES, without a parser for uploads."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > MAX_FORM_BYTES:
            raise HTTPException(413, "That is too long.")
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        raise HTTPException(415, "Wanted a form.")
    text = body.decode("utf-8", "replace")
    try:
        fields = parse_qs(text, keep_blank_values=True, errors="replace", max_num_fields=MAX_FIELDS)
    except ValueError:
        raise HTTPException(400, "That form has too many fields.") from None
    return {name: values[-1] for name, values in fields.items()}


def static_file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC_FILES:
        raise HTTPException(404, "There is no such file.")
    return Response((HERE / "static" / name).read_bytes(), media_type=STATIC_FILES[name])


def http_error(request: Request, error: HTTPException) -> Response:
    text = "There is no such page." if error.detail == "Not Found" else error.detail
    return message_page(text, error.status_code)


def store_error(request: Request, error: UserError) -> Response:
    """The ratings file is locked for too long, full or gone. The page's script tries again by itself."""
    print(error, file=sys.stderr, flush=True)
    page = message_page("This was not saved: the ratings cannot be written just now. Please try again.", 503)
    page.headers["Retry-After"] = "5"
    return page


def internal_error(request: Request, error: Exception) -> Response:
    return message_page("Something went wrong, and this was not saved. Please try again in a moment.", 500)


def message_page(text: str, status: int) -> Response:
    page = TEMPLATES.get_template("message.html.jinja").render(text=text)
    return HTMLResponse(page, status, headers=SECURITY_HEADERS)


TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
TEMPLATES.filters["visible"] = visible
