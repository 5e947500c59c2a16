"""Raters at work while the server is killed again and again: no rating is lost and none is counted twice.

    python benchmarks/soak/raters.py raters=10 items=1000 kills=5

Makes a study of its own in a temporary folder, serves it, lets every rater judge every page, and kills the server
(SIGKILL) at random moments; it is started again on the same port. A rater who gets no answer sends the same form again,
as the page does. At the end every page must hold the verdict, the comment and the seconds that were sent, once.
Prints a row: name, tried, ok, failed, seconds; what failed goes to standard error.
"""

import random
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.soak.servers import Server, arguments, print_row
from llama_exp.human.store import RatingStore
from llama_exp.human.study import Condition, Item, Mode, Study, StudySettings, Trial, fingerprint, write_study

VERDICTS = ("left", "tie", "right")


def make_study(folder: Path, raters: int, items: int) -> None:
    """A study of two conditions with one page for each item."""
    settings = StudySettings(
        items, raters, Mode.pairs, 0.0, 0.0, 0, "Soak", "Which is better?", "Do you agree?", {}, ["bad", "good"], ""
    )
    texts = {str(n): Item(str(n), f"Question {n}", (), str(n), {"a": f"yes {n}", "b": f"no {n}"}) for n in range(items)}
    queue = tuple(Trial("judged", id, *(("a", "b") if int(id) % 2 else ("b", "a"))) for id in texts)
    conditions = {"a": Condition("a"), "b": Condition("b")}
    study = Study(settings, conditions, items, texts, {}, (queue,) * raters)
    write_study(folder, Study(settings, conditions, items, texts, {}, (queue,) * raters, fingerprint(study)))
    RatingStore(folder).invite(raters)


def form(rater: int, page: int) -> dict[str, str]:
    """What a rater says of a page: the same whenever it is sent again."""
    comment = f"rater {rater}, page {page}"
    return {"verdict": VERDICTS[(rater + page) % 3], "seconds": f"{1 + page % 7}", "comment": comment, "script": "1"}


def rate_all(link: str, rater: int, pages: int, patience: float, saved: list[int]) -> int:
    """Judge every page, adding to `saved` as one is; how often a form was sent again because no answer came."""
    again = 0
    with httpx.Client(timeout=20) as client:
        for path, data in [
            ("/consent", {"name": f"R{rater}", "agree": "yes"}),
            *((f"/{page}", form(rater, page)) for page in range(1, pages + 1)),
        ]:
            deadline = time.monotonic() + patience
            while True:
                try:
                    if client.post(link + path, data=data).status_code in (200, 303):
                        break
                except httpx.HTTPError:
                    pass
                if time.monotonic() > deadline:
                    raise TimeoutError(f"rater {rater}: {path} was never saved")
                again += 1
                time.sleep(0.2)
            saved.append(rater)
    return again


def wrong_ratings(folder: Path, raters: int, pages: int) -> list[str]:
    """The pages that do not hold exactly what was sent."""
    problems, store = [], RatingStore(folder)
    for rater in range(1, raters + 1):
        ratings = store.ratings(rater)
        for page in range(1, pages + 1):
            sent, stored = form(rater, page), ratings.get(page)
            if stored is None or not stored.complete:
                problems.append(f"rater {rater}, page {page}: lost")
                continue
            rating = stored.rating
            kept = (rating.verdict, rating.comment, rating.seconds, stored.changes)
            if kept != (sent["verdict"], sent["comment"], float(sent["seconds"]), 0):
                problems.append(f"rater {rater}, page {page}: {kept} instead of {sent}")
    return problems


def rate_with_kills(
    folder: Path, raters: int, items: int, kills: int, seed: int = 0, patience: float = 120
) -> list[str]:
    """Let the raters work through a study whose server is killed `kills` times; what went wrong."""
    draw, problems, saved = random.Random(seed), [], list[int]()
    moments = sorted(draw.sample(range(1, raters * items), kills))  # kills come after so many ratings
    with ThreadPoolExecutor(raters) as pool:
        server = Server("study", "serve", f"study={folder}", "port=0")
        links = [address for address in server.addresses if "/r/" in address]
        work = [pool.submit(rate_all, link, rater, items, patience, saved) for rater, link in enumerate(links, 1)]
        for moment in moments:
            while len(saved) < moment and not all(w.done() for w in work):
                time.sleep(0.02)
            server.end(signal.SIGKILL)
            server = Server("study", "serve", f"study={folder}", f"port={server.port}")
        for rater, one in enumerate(work, 1):
            if error := one.exception():
                problems.append(f"rater {rater}: {error}")
        print(f"{sum(one.result() for one in work if not one.exception())} forms sent again", file=sys.stderr)
        if errors := server.end(signal.SIGINT):
            problems.append(errors)
    return problems + wrong_ratings(folder, raters, items)


def main(raters: int = 10, items: int = 1000, kills: int = 5, seed: int = 0) -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_study(Path(folder), raters, items)
        problems = rate_with_kills(Path(folder), raters, items, kills, seed)
    print(*problems[:20], sep="\n", file=sys.stderr)
    tried = raters * items
    name = f"ratings by {raters} raters, {kills} server kills"
    print_row(name, tried, tried - len(problems), len(problems), time.monotonic() - started)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(**arguments(sys.argv[1:])))
