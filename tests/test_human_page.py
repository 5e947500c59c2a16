"""The rating page through its real interface: a server process, real HTTP, and Chromium driven by Playwright."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from benchmarks.soak.odd_requests import fuzz, is_cut_off, slow_clients
from benchmarks.soak.raters import make_study, rate_with_kills
from llama_exp.human.store import RatingStore, StoredRating
from llama_exp.human.study import Trial, read_study
from llama_exp.web import MAX_CONNECTIONS
from tests.conftest import ROOT
from tests.test_human_study import HOSTILE, conversation, evaluation, make, two

httpx = pytest.importorskip("httpx", reason="the page is asked over HTTP")
pytest.importorskip("starlette", reason="the rating page is not installed: pip install -e '.[ui]'")
pytest.importorskip("uvicorn", reason="the rating page is not installed: pip install -e '.[ui]'")

NAMES = re.compile(r"zebra|uned7|ident\d|article\d")
KINDS = ("repeat", "control", "judged", "wrong")


class Server:
    """`llama-exp study serve` in a process of its own."""

    def __init__(self, folder: Path, port: int = 0):
        words = [f"study={folder}", f"port={port}"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "llama_exp", "study", "serve", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.folder, self.links = folder, []
        for line in self.process.stdout:
            self.links += re.findall(r"rated: (http\S+)", line)
            if line.startswith("Stop with"):
                break
        else:
            raise AssertionError(self.process.stderr.read())
        self.port = int(re.search(r":(\d+)/", self.links[0]).group(1))

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.communicate(timeout=20)[1]

    def ratings(self, rater: int) -> dict[int, StoredRating]:
        return RatingStore(self.folder).ratings(rater)


@pytest.fixture
def serve(tmp_path):
    """Make a study of a few items and serve it; every server is ended with the test, and none has complained."""
    running = []

    def start(items: int = 8, of: int = 24, folder: Path | None = None, port: int = 0, **words: str) -> Server:
        if folder is None:
            folder, _ = make({**two(tmp_path, of), "items": str(items), "repeats": "0.1", "controls": "0.1", **words})
        running.append(Server(folder, port))
        return running[-1]

    yield start
    for server in running:
        assert server.stop() == ""


def client(link: str, agree: bool = True):
    """A browser without a script; `link` is a rater's."""
    made = httpx.Client(follow_redirects=True, timeout=20)
    if agree:
        assert made.post(f"{link}/consent", data={"name": "Ada", "agree": "yes"}).status_code == 200
    return made


def queue(server: Server, rater: int) -> tuple[Trial, ...]:
    return read_study(server.folder).queues[rater - 1]


# Over HTTP


def test_nothing_that_a_browser_receives_names_a_condition_an_item_or_the_kind_of_a_trial(serve):
    server = serve(12, raters="2")
    received = []
    for link in server.links:
        browser, base = client(link, agree=False), link.split("/r/")[0]
        received += [
            browser.get(url) for url in (link, f"{base}/static/style.css", f"{base}/static/page.js", f"{link}/999")
        ]
        received.append(browser.post(f"{link}/consent", data={"name": "Ada", "agree": "yes"}))
        for place in range(1, len(queue(server, 1)) + 1):
            received.append(browser.get(f"{link}/{place}"))
            received.append(browser.post(f"{link}/{place}", data={"verdict": "tie"}))
    assert len(received) == 2 * (5 + 2 * 16)
    for answer in received:
        told = answer.text + str(answer.headers) + str(answer.url) + str([r.headers for r in answer.history])
        assert not NAMES.findall(told), answer.url
        if re.search(r"/\d+$", str(answer.url)):
            assert not [word for word in KINDS if word in answer.text], answer.url


def test_every_answer_has_the_headers_that_keep_a_page_to_itself(serve):
    server = serve()
    link, base = server.links[0], server.links[0].split("/r/")[0]
    for url in (link, f"{base}/static/page.js", f"{base}/nothing", f"{base}/r/unknown"):
        headers = httpx.get(url).headers
        assert (
            "default-src 'none'" in headers["content-security-policy"]
            and "unsafe" not in headers["content-security-policy"]
        )
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store" and headers["referrer-policy"] == "same-origin"
        assert "server" not in headers and "set-cookie" not in headers


def test_the_conversation_stands_above_what_was_asked_whole_in_its_order_and_as_text(serve, tmp_path):
    made = {name: evaluation(tmp_path / name, [conversation(n, f"{name} {n}") for n in range(6)]) for name in "ab"}
    server = serve(
        folder=make({"study": str(tmp_path / "s"), "controls": "0", **{k: str(v) for k, v in made.items()}})[0]
    )
    text = client(server.links[0]).get(f"{server.links[0]}/1").text  # no script has run
    n = queue(server, 1)[0].item[5:]
    wanted = [
        "You are an agent.",
        "Message",
        "@12 my &lt;b&gt;parcel&lt;/b&gt;?",
        "Reply",
        "Which number?",
        "The message to answer",
        f"It is {n}.",
        "Answer 1",
    ]
    places = [text.index(part) for part in wanted]
    assert places == sorted(places) and "<b>parcel" not in text


def test_forms_of_other_sites_other_names_and_broken_forms_are_refused_and_nothing_is_stored(serve):
    server = serve()
    link = server.links[0]
    browser = client(link)
    refused = [
        (browser.post(f"{link}/1", data={"verdict": "left"}, headers={"Origin": "http://evil.example"}), 403),
        (browser.post(f"{link}/1", data={"verdict": "left"}, headers={"Origin": "null"}), 403),
        (browser.post(f"{link}/1", data={"verdict": "left"}, headers={"Sec-Fetch-Site": "cross-site"}), 403),
        (browser.post(f"{link}/1", data={"verdict": "left"}, headers={"Host": "evil.example"}), 400),
        (browser.get(link, headers={"Host": "evil.example"}), 400),
        (browser.post(f"{link}/1", json={"verdict": "left"}), 415),
        (browser.post(f"{link}/1", data={"verdict": "left", "comment": "x" * 70_000}), 413),
        (browser.post(f"{link}/1", data={"verdict": "zebra_tuned"}), 400),
        (browser.post(f"{link}/1", data={"comment": "no verdict"}), 400),
        (browser.post(f"{link}/2", data={"verdict": "left"}), 409),
        (browser.post(f"{link}/99", data={"verdict": "left"}), 404),
        (browser.post(f"{link[:-1]}/1", data={"verdict": "left"}), 404),
        (browser.post(f"{server.links[1]}/1", data={"verdict": "left"}), 403),  # has not agreed yet
        (browser.get(f"{link}/0"), 404),
        (browser.get(f"{link}/../../etc/passwd"), 404),
    ]
    assert [answer.status_code for answer, _ in refused] == [status for _, status in refused]
    assert all("<h1>Rating page</h1>" in answer.text for answer, _ in refused)
    assert server.ratings(1) == {} and server.ratings(2) == {}


def test_odd_requests_get_no_500_and_slow_clients_are_cut_off(serve):
    server = serve()
    rater = server.links[0].partition("/r/")[2].encode()
    client(server.links[0])
    slow = slow_clients(server.port, b"/r/" + rater + b"/1")
    paths = [b"/r/" + rater + rest for rest in (b"", b"/1", b"/1", b"/2", b"/consent", b"/done")]
    assert fuzz(server.port, paths, 150, seed=1) == []
    assert httpx.get(f"{server.links[0]}/{'9' * 5000}").status_code == 404
    many = httpx.post(f"{server.links[0]}/1", data={f"field{n}": "x" for n in range(100)})
    assert many.status_code == 400 and "too many fields" in many.text
    assert [one for one in slow if not is_cut_off(one)] == []


def test_more_connections_than_the_bound_cut_off_the_oldest_unfinished_one(serve):
    server = serve()
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(MAX_CONNECTIONS)]
    assert httpx.get(server.links[0], timeout=60).status_code == 200
    assert is_cut_off(idle[0])
    for one in idle:
        one.close()


def test_a_request_that_comes_twice_is_written_once(serve):
    server = serve()
    link, browser = server.links[0], client(server.links[0])

    def post(**form: str) -> StoredRating:
        assert browser.post(f"{link}/1", data=form).is_success
        return server.ratings(1)[1]

    first = {"verdict": "left", "comment": "c", "seconds": "3"}
    assert [post(**first).rating.seconds for _ in range(3)] == [3, 3, 3]
    draft = {"draft": "1", "comment": "more", "seconds": "2", "request": "7"}
    assert [post(**draft).rating.seconds for _ in range(2)] == [5, 5]
    assert post(**{**draft, "request": "8"}).rating.seconds == 7, "as much time again is another request"
    assert [post(verdict="right", seconds="1").changes for _ in range(2)] == [1, 1]
    assert post(**first).changes == 2, "and back again"


def test_raters_who_work_while_the_server_is_killed_lose_nothing_and_count_once(tmp_path):
    make_study(tmp_path, raters=3, items=30)
    assert rate_with_kills(tmp_path, raters=3, items=30, kills=2) == []


def test_consent_comes_first_and_needs_a_name_and_a_tick(serve):
    server = serve()
    link = server.links[0]
    browser = client(link, agree=False)
    assert "I have read this and agree to take part" in browser.get(link).text
    for data in ({"name": "  ", "agree": "yes"}, {"name": "Ada"}):
        assert browser.post(f"{link}/consent", data=data).status_code == 400
    assert RatingStore(server.folder).raters()[0].consented == ""
    browser.post(f"{link}/consent", data={"name": " Ada <b>\n Lovelace ", "agree": "yes"})
    assert RatingStore(server.folder).raters()[0].name == "Ada <b> Lovelace"


def test_a_rater_may_change_their_mind_and_nobody_elses(serve):
    server = serve()
    ada, bob = (client(link) for link in server.links)
    ada.post(f"{server.links[0]}/1", data={"verdict": "left", "comment": "first", "seconds": "3"})
    bob.post(f"{server.links[1]}/1", data={"verdict": "tie", "seconds": "nan"})
    after = ada.post(f"{server.links[0]}/1", data={"verdict": "right", "comment": "after all", "seconds": "1e9"})
    assert str(after.url) == f"{server.links[0]}/2"
    mine, theirs = server.ratings(1)[1], server.ratings(2)[1]
    assert (mine.rating.verdict, mine.rating.comment, mine.changes, mine.rating.seconds) == (
        "right",
        "after all",
        1,
        3603.0,
    )
    assert (theirs.rating.verdict, theirs.changes, theirs.rating.seconds) == ("tie", 0, 0.0)
    assert "after all" not in bob.get(f"{server.links[1]}/1").text


def test_many_raters_at_once_lose_nothing(serve):
    server = serve(24, raters="8", repeats="0", controls="0")
    start = threading.Barrier(8)

    def rate(link: str) -> int:
        browser = client(link)
        start.wait()
        return sum(
            browser.post(f"{link}/{n}", data={"verdict": ("left", "tie", "right")[n % 3], "comment": link}).is_success
            for n in range(1, 25)
        )

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(rate, server.links)) == [24] * 8
    for number, link in enumerate(server.links, 1):
        ratings = server.ratings(number)
        assert [ratings[n].rating.verdict for n in range(1, 25)] == [
            ("left", "tie", "right")[n % 3] for n in range(1, 25)
        ]
        assert {one.rating.comment for one in ratings.values()} == {link}


@pytest.mark.skipif(os.name == "nt", reason="permissions of a Unix file system")
def test_the_file_with_the_links_is_its_owners_alone(serve):
    server = serve()
    client(server.links[0]).post(f"{server.links[0]}/1", data={"verdict": "left"})
    kept = list(server.folder.glob("ratings.sqlite*"))
    assert len(kept) == 3, "WAL: the file, its log and its index"
    assert {path.stat().st_mode & 0o077 for path in kept} == {0}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["host=0.0.0.0"], "others on the network could reach the page"),
        (["host=192.0.2.7"], "type host=192.0.2.7 open=true"),
        (["port=99999"], "wanted a number from 0"),
        (["address=rate.example"], "what raters type"),
        (["prot=1"], "No option 'prot'. Did you mean port?"),
        (["study=nowhere"], "No study at nowhere/study.json. Create it first: llama-exp study create"),
    ],
)
def test_the_command_refuses_in_words(tmp_path, command, words, told):
    folder, _ = make({**two(tmp_path), "items": "4"})
    done = command("llama-exp", "study", "serve", f"study={folder}", *words, check=None)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_a_port_that_is_taken_is_told_with_another(serve, command):
    server = serve()
    done = command("llama-exp", "study", "serve", f"study={server.folder}", f"port={server.port}", check=None)
    assert done.returncode == 2 and f"port {server.port}" in done.stderr and "port=0 for any" in done.stderr


def test_without_the_extra_the_message_names_it(tmp_path, command):
    folder, _ = make({**two(tmp_path), "items": "4"})
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "starlette.py").write_text("raise ModuleNotFoundError('gone', name='starlette')")
    done = command(
        "llama-exp", "study", "serve", f"study={folder}", env={"PYTHONPATH": str(tmp_path / "absent")}, check=None
    )
    assert done.returncode == 2 and "needs starlette. Install it: pip install -e '.[ui]'" in done.stderr


# In a browser


@pytest.fixture
def visit(browse):
    """Open a rater's link in a browser of their own."""

    def open_page(link: str, agree: bool = True, quiet: bool = True, **how):
        page = browse(link, quiet, **how)
        if agree:
            page.fill("#name", "Ada")
            page.check("[name=agree]")
            page.click("text=Start")
        return page

    return open_page


def at(page, place: int) -> None:
    """Wait until the page of this place takes clicks and keys (it ignores the first instants: double clicks)."""
    page.wait_for_url(f"**/{place}")
    page.wait_for_selector("[data-ready]", state="attached")


def test_two_raters_at_once_each_stop_and_go_on_where_they_were(serve, visit):
    server = serve()
    ada, bob = (visit(link) for link in server.links)
    for place in (1, 2, 3):
        at(ada, place)
        at(bob, place)
        ada.click("text=Answer 1 is better")
        bob.click("text=Answer 2 is better")
    at(ada, 4)
    ada.fill("#comment", 'half a "thought" <i>')
    ada.wait_for_selector("#status:has-text('Saved.')")
    ada.reload()
    assert ada.input_value("#comment") == 'half a "thought" <i>'
    ada.goto(server.links[0])
    at(ada, 4)
    assert ada.locator("h1").inner_text() == "Item 4 of 10"
    assert ada.locator("progress").get_attribute("value") == "3"
    ada.click("#back")
    at(ada, 3)
    assert ada.locator("button.chosen").inner_text().startswith("Answer 1 is better")
    ada.click("text=Equally good")
    at(ada, 4)
    assert [one.rating.verdict for one in server.ratings(1).values() if one.complete] == ["left", "left", "tie"]
    assert [one.rating.verdict for one in server.ratings(2).values()] == ["right"] * 3
    assert server.ratings(1)[3].changes == 1 and server.ratings(1)[1].rating.seconds > 0.2


def test_what_is_on_the_page_is_what_was_judged_on_the_side_where_it_stood(serve, visit):
    server = serve()
    study, page = read_study(server.folder), visit(server.links[0])
    for place, trial in enumerate(study.queues[0][:4], 1):
        at(page, place)
        shown = [one.inner_text() for one in page.locator(".answer .words").all()]
        clear = [re.sub(r"\[U\+[0-9A-F]{4}\]", "", text) for text in shown]
        hidden = re.compile(r"[\x00-\x08\x1b\u202a-\u202e]")
        assert clear == [hidden.sub("", text) for text in study.answers(trial)]
        page.click("text=Answer 2 is better")
    at(page, 5)
    assert {one.rating.verdict for one in server.ratings(1).values()} == {"right"}


def test_a_killed_server_loses_no_rating_and_the_open_page_saves_what_was_given_meanwhile(serve, visit):
    server = serve()
    page = visit(server.links[0], quiet=False)  # the browser itself logs that nobody answers
    at(page, 1)
    page.click("text=Answer 1 is better")
    at(page, 2)
    server.kill()
    assert server.ratings(1)[1].rating.verdict == "left"
    page.fill("#comment", "typed while it was away")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.wait_for_selector("#status.lost:has-text('tries again by itself')")
    assert page.locator("#status").bounding_box()["y"] < 800, "the warning is in sight"
    again = serve(folder=server.folder, port=server.port)
    at(page, 3)
    assert again.links == server.links
    assert (again.ratings(1)[2].rating.verdict, again.ratings(1)[2].rating.comment) == (
        "right",
        "typed while it was away",
    )


def test_the_whole_study_works_with_the_keyboard_alone_and_focus_is_seen(serve, visit):
    server = serve(3)
    page = visit(server.links[0], agree=False)
    page.keyboard.press("Tab")
    page.keyboard.type("Grace")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    at(page, 1)
    page.keyboard.press("0")
    at(page, 2)
    page.keyboard.press("b")
    at(page, 1)
    page.keyboard.press("n")
    at(page, 2)
    page.keyboard.press("c")
    page.keyboard.type("12 tons")  # digits in a comment are no verdict
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    at(page, 3)
    reached = []
    for _ in range(9):
        page.keyboard.press("Tab")
        look = (
            "e => [e.id || e.value || e.className, getComputedStyle(e).outlineStyle, e.getBoundingClientRect().x >= 0]"
        )
        name, outline, inside = page.evaluate(f"({look})(document.activeElement)")
        reached.append(name)
        assert outline == "solid" and inside, name
        if name == "tie":
            break
    assert reached == ["skip", "back", "left", "tie"]
    assert page.evaluate("scrollY") == 0, "focus on the verdicts, which stay in sight, does not move the page"
    page.keyboard.press("Enter")
    at(page, 4)
    page.focus("#shortcuts")
    page.keyboard.press("Enter")
    page.keyboard.press("1")  # keys are off now
    page.wait_for_timeout(100)
    assert page.locator("#shortcuts").inner_text() == "Keys are off"
    page.focus("button[value=right]")
    page.keyboard.press("Space")
    at(page, 5)
    page.click("text=Answer 1 is better")
    page.wait_for_selector("text=All 5 are rated")
    verdicts = [one.rating.verdict for one in server.ratings(1).values()]
    assert verdicts == ["tie", "left", "tie", "right", "left"] and server.ratings(1)[2].rating.comment == "12 tons"
    page.goto(server.links[0])
    assert page.url.endswith("/done")


def test_a_double_click_and_a_key_held_down_rate_one_item_only(serve, visit):
    server = serve()
    page = visit(server.links[0])
    at(page, 1)
    page.dblclick("text=Equally good")
    at(page, 2)
    assert list(server.ratings(1)) == [1]
    page.keyboard.down("1")
    for _ in range(12):
        page.keyboard.down("1")
        page.wait_for_timeout(50)
    page.keyboard.up("1")
    at(page, 3)
    assert list(server.ratings(1)) == [1, 2]


def test_on_a_phone_nothing_is_cut_off_and_fingers_find_the_buttons(serve, visit):
    server = serve()
    page = visit(server.links[0], viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    at(page, 1)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for button in page.locator("button[name=verdict]").all():
        box = button.bounding_box()
        assert box["height"] >= 44 and box["x"] >= 0 and box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 640, "the verdict stays in reach while one reads"
    one, two = (page.locator(f"#answer{n}").bounding_box() for n in (1, 2))
    assert two["y"] > one["y"] and two["x"] == one["x"], "answers lie one below the other"
    page.tap("text=Answer 2 is better")
    at(page, 2)
    assert server.ratings(1)[1].rating.verdict == "right"


def test_hostile_text_is_shown_as_text(serve, visit):
    server = serve(6, of=6, controls="0", repeats="0", raters="1")
    study, page = read_study(server.folder), visit(server.links[0])
    shown = {}
    for place, trial in enumerate(study.queues[0], 1):
        at(page, place)
        if trial.item in HOSTILE:
            side = 0 if trial.left == "zebra_tuned" else 1
            shown[trial.item] = page.locator(".answer .words").nth(side).inner_text()
            assert page.locator("main script, main img, main a").count() == 0
        assert page.title() == f"Item {place} of 6: Judging answers"
        page.keyboard.press("0")
    page.wait_for_url("**/done")
    assert shown["ident1"] == HOSTILE["ident1"]
    assert shown["ident2"] == "a[U+001B][31mred[U+0007] [U+202E]gnirts[U+202C] [U+0000] end"
    assert shown["ident3"] == HOSTILE["ident3"]


def test_on_scales_each_number_is_saved_as_it_is_given(serve, visit):
    server = serve(4, mode="scales", controls="0", repeats="0")
    page = visit(server.links[0])
    at(page, 1)
    assert page.locator(".answer").count() == 1
    page.keyboard.press("4")
    page.wait_for_selector("#status:has-text('Saved.')")
    assert server.ratings(1)[1].rating.scores == {"fluency": 4} and not server.ratings(1)[1].complete
    page.reload()
    assert page.is_checked("[name=scale0][value='4']")
    at(page, 1)
    page.keyboard.press("2")
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    at(page, 2)
    assert server.ratings(1)[1].rating.scores == {"fluency": 4, "faithfulness": 2, "helpfulness": 5}
    page.click("text=Save and go on")
    assert page.url.endswith("/2"), "all three scales are needed"


def test_without_javascript_every_form_still_works(serve, visit):
    server = serve()
    page = visit(server.links[0], java_script_enabled=False)
    page.fill("#comment", "no script")
    page.click("text=Answer 1 is better")
    page.wait_for_url("**/2")
    assert (server.ratings(1)[1].rating.verdict, server.ratings(1)[1].rating.comment) == ("left", "no script")
