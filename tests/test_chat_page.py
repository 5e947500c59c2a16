"""The chat page through its real interface: the command in a process of its own, and Chromium driven by Playwright."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from benchmarks.soak.chat import storm
from benchmarks.soak.odd_requests import fuzz, is_cut_off, slow_clients
from llama_exp.chat.answers import MAX_WAIT, MAX_WAITING, AnswerQueue, BusyError
from llama_exp.chat.terminal import read_conversation
from tests.conftest import ROOT

httpx = pytest.importorskip("httpx", reason="the page is asked over HTTP")
pytest.importorskip("starlette", reason="the chat page is not installed: pip install -e '.[ui]'")
pytest.importorskip("uvicorn", reason="the chat page is not installed: pip install -e '.[ui]'")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> \u202egnirts \x1b[31m" + "x" * 120
SHOWN = "<script>alert(1)</script><img src=x onerror=alert(2)> [U+202E]gnirts [U+001B][31m" + "x" * 120
PASSWORD = "a long enough one"


class Server:
    """`llama-exp chat … ui=true port=0` in a process of its own."""

    def __init__(self, *words: str, env: dict[str, str] | None = None):
        command = [sys.executable, "-m", "llama_exp", "chat", *words, "ui=true", "port=0"]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            text=True,
            env={**os.environ, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.told = []
        for line in self.process.stdout:
            self.told.append(line)
            if line.startswith("Stop with"):
                break
        else:
            raise AssertionError(self.process.stderr.read())
        self.address = re.search(r"http://\S+", "".join(self.told)).group()
        self.port = int(self.address.rpartition(":")[2])

    def stop(self) -> str:
        self.process.terminate()
        return self.process.communicate(timeout=20)[1]


@pytest.fixture(scope="module")
def started():
    """Start servers that live as long as the module; none has complained of a bug at the end."""
    servers = []

    def start(*words: str, env: dict[str, str] | None = None) -> Server:
        servers.append(Server(*words, env=env))
        return servers[-1]

    yield start
    for server in servers:
        told = server.stop()
        assert "Traceback" not in told, told


@pytest.fixture(scope="module")
def server(speaker, started):
    return started(*speaker[0])


def say(page, message: str, wait: bool = True) -> None:
    page.fill("#message", message)
    page.keyboard.press("Enter")
    if wait:
        page.wait_for_selector("#send:visible")


def replies(page, exchange: int) -> list[str]:
    return page.locator(".exchange").nth(exchange).locator(".reply .words").all_inner_texts()


def by_lines(words: list[str], messages: list[str]) -> list[str]:
    """What the same run says through a pipe, each message after the ones before it and their replies."""
    told, history = [], []
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_exp", "chat", *words],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    for message in messages:
        process.stdin.write(json.dumps({"prompt": message, "history": history}) + "\n")
        process.stdin.flush()
        told.append(json.loads(process.stdout.readline())["reply"])
        history += [{"role": "user", "text": message}, {"role": "assistant", "text": told[-1]}]
    process.communicate(timeout=60)
    return told


def test_the_tuned_and_the_untuned_model_answer_side_by_side_each_after_its_own_words(server, speaker, browse):
    messages = ["Where is my parcel?", "And when does it come?"]
    page = browse(server.address)
    for message in messages:
        say(page, message)
    shown = [replies(page, 0), replies(page, 1)]
    assert page.locator(".exchange").first.locator("h2").all_inner_texts() == ["Tuned", "Untuned"]
    assert [tuned for tuned, _ in shown] == by_lines(speaker[0], messages)
    assert [untuned for _, untuned in shown] == by_lines([*speaker[0], "lora.r=0"], messages)
    left, right = (page.locator(".exchange").first.locator(".reply").nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] < right["x"], "side by side"


def test_hostile_words_of_a_person_and_of_a_model_are_shown_as_text(server, browse):
    page = browse(server.address)
    say(page, HOSTILE)
    assert page.locator(".mine").inner_text() == SHOWN
    # No model can be relied on to write a script: this one answer is put into the browser in the server's form.
    lines = [
        {"side": side, **line}
        for side in ("tuned", "untuned")
        for line in (
            {"piece": HOSTILE[:30]},
            {"piece": HOSTILE[30:]},
            {"message": "m", "text": HOSTILE, "finished": True, "shortened": False, "tokens": 9},
        )
    ]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    page.route("**/ask", lambda route: route.fulfill(body=body, content_type="application/x-ndjson"))
    say(page, "again")
    assert replies(page, 1) == [SHOWN, SHOWN]
    assert page.locator("#log script, #log img, #log a").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth") == 1200, "a word without an end is broken"


def test_on_a_phone_nothing_is_cut_off_and_a_finger_finds_the_button(server, browse):
    page = browse(server.address, viewport={"width": 360, "height": 640}, is_mobile=True, has_touch=True)
    page.fill("#message", HOSTILE)
    page.tap("#send")
    page.wait_for_selector("#send:visible")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    one, two = (page.locator(".reply").nth(n).bounding_box() for n in (0, 1))
    assert two["y"] >= one["y"] + one["height"] and two["x"] == one["x"], "answers lie one below the other"
    assert page.locator("header").bounding_box()["height"] < 100, "the conversation has the screen"
    for name in ("#message", "#send", "#reset"):
        box = page.locator(name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 360 and 0 <= box["y"] <= 640 - box["height"], name
    assert page.locator("#send").bounding_box()["height"] >= 44


def test_with_the_keyboard_alone_one_writes_sends_and_begins_anew(server, browse):
    page = browse(server.address)
    page.keyboard.type("one line")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("and another")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:visible")
    assert page.locator(".mine").inner_text() == "one line\nand another"
    assert page.evaluate("document.activeElement.id") == "message", "one can go on writing"
    page.focus("#reset")
    page.keyboard.press("Enter")
    assert page.locator(".exchange").count() == 0 and page.locator("#hint").is_visible()


def test_the_conversation_can_be_saved_and_another_system_prompt_begins_a_new_one(server, browse):
    page = browse(server.address)
    say(page, "Hello?")
    told = replies(page, 0)
    with page.expect_download() as download:
        page.click("text=Save")
    saved = json.loads(download.value.path().read_text())
    assert read_conversation(download.value.path())[1]["tuned"][1].text == told[0], "the terminal's /load takes it"
    assert saved["conversations"]["tuned"] == [
        {"role": "user", "text": "Hello?"},
        {"role": "assistant", "text": told[0]},
    ]
    assert saved["conversations"]["untuned"][1]["text"] == told[1]
    assert "customer service" in saved["system"] and saved["model"].startswith("tweetsumm/tiny-16-r2")
    page.click("summary")
    page.fill("#system", "You are a pirate.")
    say(page, "Ahoy?")
    assert page.locator(".mine").all_inner_texts() == ["Ahoy?"]


def idle(server: Server) -> bool:
    """Whether the model is silent a second from now, when it would still have 400 tokens to say on one side or both."""
    process = psutil.Process(server.process.pid)
    time.sleep(1)
    spent = process.cpu_times().user
    time.sleep(0.5)
    return process.cpu_times().user - spent < 0.2


def test_stop_ends_the_answer_and_the_next_message_is_answered(speaker, started, browse):
    server = started(*speaker[0], "max_new_tokens=400", "temperature=5")  # at random, it does not find an end
    page = browse(server.address)
    say(page, "Tell me everything.", wait=False)
    page.wait_for_selector(".reply.tuned .words:not(:empty)")
    page.click("#stop")
    page.wait_for_selector("#send:visible")
    assert page.locator("#status").inner_text() == "Stopped."
    assert page.locator(".reply .note").all_inner_texts() == ["Stopped here.", "No answer."]
    kept = replies(page, 0)[0]
    assert idle(server), "the model stopped too, on both sides"
    say(page, "Go on.", wait=False)
    page.wait_for_selector(".exchange:nth-child(2) .reply.tuned .words:not(:empty)")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:visible")
    assert replies(page, 0)[0] == kept, "what was said before the stop stays"
    assert idle(server)


def test_sixty_people_at_once_get_whole_answers_or_busy_first_and_the_page_is_there_afterwards(speaker, started):
    server = started(*speaker[0], "max_new_tokens=2")
    with ThreadPoolExecutor(1) as thread:  # a browser of another test keeps this one's event loop
        result = thread.submit(asyncio.run, storm(server.port, 60, prompt=30)).result()
    assert result.problems == [] and result.answered == 60
    assert result.refused and result.farthest == MAX_WAITING - 1


@pytest.mark.parametrize(("each", "wait"), [(0.001, 1), (2.5, 80), (3600, MAX_WAIT)])
def test_a_refused_message_is_told_to_come_back_when_those_before_it_are_answered(each, wait):
    queue = AnswerQueue()
    queue.seconds = each
    for _ in range(MAX_WAITING):
        queue.join(lambda: iter(()))
    with pytest.raises(BusyError) as busy:
        queue.join(lambda: iter(()))
    assert busy.value.seconds == wait


def test_people_who_wait_see_their_place_a_closed_tab_frees_it_and_ctrl_c_ends_the_server(speaker, started, browse):
    server = started(*speaker[0], "max_new_tokens=400", "temperature=5")
    first, second, third = (browse(server.address) for _ in range(3))
    say(first, "I talk for long.", wait=False)
    first.wait_for_selector(".reply.tuned .words:not(:empty)")
    for page, place in ((second, "1 message is"), (third, "2 messages are")):
        say(page, "And I?", wait=False)
        page.wait_for_selector(f"#status:has-text('{place} answered before yours')")
    second.close()
    third.wait_for_selector("#status:has-text('1 message is answered before yours')")
    first.close()  # while its text streams
    third.wait_for_selector(".reply.tuned .words:not(:empty)")
    assert third.locator("#status").inner_text() == ""
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=120) == 0
    third.wait_for_selector("#send:visible")
    assert server.process.stderr.read() == ""


def test_the_page_asks_again_by_itself_when_the_server_was_busy(server, browse):
    page, asked = browse(server.address, quiet=False), []  # the browser itself logs the 503

    def busy_once(route) -> None:
        asked.append(route.request.post_data)
        if len(asked) > 1:
            return route.continue_()
        route.fulfill(status=503, headers={"Retry-After": "2"}, body="{}")

    page.route("**/ask", busy_once)
    say(page, "Hello?", wait=False)
    page.wait_for_selector("#status:has-text('Your message is sent again in 2 s')")
    page.wait_for_selector("#send:visible")
    assert len(asked) == 2 and asked[0] == asked[1] and all(replies(page, 0))


def test_rank_0_is_one_model_in_one_column_and_a_server_that_went_away_is_told(speaker, started, browse):
    server = started(*speaker[0], "lora.r=0")
    page = browse(server.address, quiet=False)  # the browser itself logs that nobody answers
    say(page, "Hello?")
    assert page.locator("h1").inner_text() == "tiny, untuned"
    assert page.locator(".reply h2").all_inner_texts() == ["Model"]
    server.process.kill()
    server.process.wait()
    say(page, "Are you there?")
    assert page.locator("#status").inner_text().startswith("The server cannot be reached.")
    assert page.input_value("#message") == "Are you there?" and page.locator(".exchange").count() == 2


def test_from_elsewhere_the_page_takes_a_password(speaker, started, browse):
    server = started(*speaker[0], "host=0.0.0.0", env={"LLAMA_EXP_PASSWORD": PASSWORD})
    assert PASSWORD not in "".join(server.told) and "put TLS in front" in "".join(server.told)
    address = f"http://127.0.0.1:{server.port}"
    for path in ("/", "/static/chat.js", "/nothing"):
        assert httpx.get(address + path).status_code == 401
        assert httpx.get(address + path, auth=("any", "a wrong one")).status_code == 401
    assert httpx.post(f"{address}/ask", json={"message": "hello"}).status_code == 401
    page = browse(address, http_credentials={"username": "any", "password": PASSWORD})
    say(page, "Hello?")
    assert len(replies(page, 0)) == 2


@pytest.mark.parametrize(
    ("words", "password", "told"),
    [
        (["host=0.0.0.0"], "", "Put a password into the environment (LLAMA_EXP_PASSWORD=…), or leave host out."),
        (["host=192.0.2.7"], "", "others on the network could talk to the model"),
        (["host=0.0.0.0"], "short", "LLAMA_EXP_PASSWORD is shorter than 8 characters"),
        (["password=secret-words"], "", "Put it into the environment: LLAMA_EXP_PASSWORD"),
        (["port=70000"], "", "port=70000: wanted a number from 0"),
    ],
)
def test_the_command_refuses_in_words_before_a_model_is_loaded(speaker, command, words, password, told):
    env = {"LLAMA_EXP_PASSWORD": password}
    done = command("llama-exp", "chat", *speaker[0], "ui=true", *words, env=env, check=None)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr


def test_other_sites_other_names_and_broken_messages_are_refused(server):
    say = f"{server.address}/ask"
    good = {"message": "Hello?"}
    refused = [
        (httpx.post(say, json=good, headers={"Origin": "http://evil.example"}), 403),
        (httpx.post(say, json=good, headers={"Sec-Fetch-Site": "cross-site"}), 403),
        (httpx.post(say, json=good, headers={"Host": "evil.example"}), 400),
        (httpx.post(say, data={"message": "a form"}), 400),
        (httpx.post(say, content=b"{", headers={"Content-Type": "application/json"}), 400),
        (httpx.post(say, json={"message": "  "}), 400),
        (httpx.post(say, json={**good, "system": 3}), 400),
        (httpx.post(say, json={**good, "history": {"tuned": [{"role": "user", "text": "alone"}]}}), 400),
        (httpx.post(say, json={"message": "x" * 1_100_000}), 400),
        (httpx.get(f"{server.address}/static/../../../pyproject.toml"), 404),
    ]
    assert [answer.status_code for answer, _ in refused] == [status for _, status in refused]
    headers = httpx.get(server.address).headers
    assert "default-src 'none'" in headers["content-security-policy"] and headers["cache-control"] == "no-store"


@pytest.mark.parametrize("password", ["", PASSWORD])
def test_odd_requests_get_no_500_and_slow_clients_are_cut_off(speaker, started, password):
    server = started(*speaker[0], "lora.r=0", "max_new_tokens=1", env={"LLAMA_EXP_PASSWORD": password})
    slow = slow_clients(server.port, b"/ask")
    assert fuzz(server.port, [b"/", b"/ask", b"/ask", b"/static/x"], 60, seed=1) == []
    assert [one for one in slow if not is_cut_off(one)] == []


def test_without_the_extra_the_message_names_it(speaker, tmp_path, command):
    (tmp_path / "starlette.py").write_text("raise ModuleNotFoundError('gone', name='starlette')")
    env = {"PYTHONPATH": str(tmp_path)}
    done = command("llama-exp", "chat", *speaker[0], "ui=true", env=env, check=None)
    assert done.returncode == 2 and "The chat page needs starlette. Install it: pip install -e '.[ui]'" in done.stderr
