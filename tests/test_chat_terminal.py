"""The conversation in a terminal and the one through a pipe, each by its command in a process of its own."""

import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT, python

PROMPT = "> "
HOSTILE = "<script>alert(1)</script> \x1b[31mred\x07 \u202egnirts =1+1"


class Terminal:
    """`llama-exp chat …` with a person at its keyboard; what is typed is not echoed."""

    def __init__(self, words: list[str]):
        self.pid, self.screen = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, "-m", "llama_exp", "chat", *words])
        self.pieces: list[tuple[float, str]] = []
        self.greeting = self.until_asked()

    def until_asked(self) -> str:
        """What is said until the prompt stands at the start of a line."""
        said, self.pieces = "", []
        while not re.search(r"(^|\n)(> |\. )$", said):
            try:
                piece = os.read(self.screen, 65536).decode(errors="replace")
            except OSError:  # the program has ended
                break
            self.pieces.append((time.monotonic(), piece))
            said += piece.replace("\r\n", "\n")
        return said

    def type(self, line: str) -> str:
        """What is said to a line, without the echo of it and the next prompt."""
        os.write(self.screen, line.encode() + b"\n")
        said = self.until_asked()
        return re.sub(r"(^|\n)(> |\. )$", "", said.partition("\n")[2]).strip()

    def ask(self, line: str) -> str:
        """The reply to a line, without the notes that stand below it in brackets."""
        return re.sub(r"\n\[[^\n]*\]$", "", self.type(line))

    def ended(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@pytest.fixture(scope="module")
def words(speaker):
    return speaker[0]


def by_pipe(words: list[str], *asked: dict | str, code: int = 0) -> list[dict]:
    lines = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in asked)
    done = subprocess.run(
        python("-m", "llama_exp", "chat", *words), cwd=ROOT, input=lines, text=True, capture_output=True
    )
    assert done.returncode == code, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_in_a_terminal_one_talks_saves_forgets_and_takes_up_what_was_saved(words, tmp_path):
    here = Terminal(words)
    assert "tweetsumm/tiny-16-r2" in here.greeting and "system: You are" in here.greeting
    first = here.ask("Where is my parcel?")
    second = here.ask("And when does it come?")
    saved = tmp_path / "talk.json"
    assert here.type(f"/save {saved}") == f"[saved: {saved}]"
    kept = json.loads(saved.read_text(encoding="utf-8"))
    said = [turn["text"] for turn in kept["turns"]]
    assert [text.strip() for text in said] == ["Where is my parcel?", first, "And when does it come?", second]
    wanted = by_pipe(words, {"prompt": said[0]}, {"prompt": said[2], "history": kept["turns"][:2]})
    assert [one["reply"] for one in wanted] == [said[1], said[3]]
    assert here.type("/save").endswith("/chats/001.json]") and here.type("/save").endswith("/chats/002.json]")
    assert here.type("/reset") == "[new conversation]" and here.type("/history") == ""
    assert here.ask("Where is my parcel?") == first, "nothing of before is left"
    assert "And when does it come?" in here.type(f"/load {saved}")
    assert "No command /nothing." in here.type("/nothing")
    assert here.type("/load nowhere") == "nowhere: No such file or directory." and "Which file?" in here.type("/load")
    history = here.type("/history")
    page = {"system": "Be brief.", "conversations": {"tuned": kept["turns"][:2], "untuned": kept["turns"][2:]}}
    saved.write_text(json.dumps(page), encoding="utf-8")  # as the page writes it
    assert here.type(f"/load {saved}").startswith(f"[saved on the page: its tuned side]\nyou: {said[0]}\nmodel: ")
    assert here.type("/system") == "system: Be brief." and history != here.type("/history")
    assert here.type(f"/save {saved}") == f"[saved: {saved}]", "a conversation may be written anew"
    for text in ("my own notes\n", '{"turns": []}', '{"system": "", "turns": [{"role": "user", "text": "alone"}]}'):
        saved.write_text(text, encoding="utf-8")
        assert (
            f"{saved}: not a saved conversation" in (told := here.type(f"/save {saved}"))
            and "It was not overwritten" in told
        )
        assert saved.read_text(encoding="utf-8") == text and "not a saved conversation" in here.type(f"/load {saved}")
    assert here.type("/system You are a pirate.") == "system: You are a pirate." and here.type("/history") == ""
    os.write(here.screen, b"/quit\n")
    assert here.ended() == 0


def test_a_reply_comes_in_pieces_a_line_may_go_on_and_what_is_typed_cannot_steer_the_terminal(words):
    here = Terminal([*words, "max_new_tokens=120", "temperature=3"])
    here.type("Tell me everything.\\")
    here.type("And more.")
    assert len(here.pieces) > 5 and here.pieces[-1][0] - here.pieces[0][0] > 0.05, "as it is thought"
    assert here.type("/system \x16\x1b[31mred") == "system: [U+001B][31mred"
    os.write(here.screen, b"\x04")
    assert here.ended() == 0


def test_ctrl_c_stops_a_reply_and_what_was_said_so_far_is_part_of_the_conversation(words):
    here = Terminal([*words, "max_new_tokens=400", "temperature=5"])  # at random, it does not find an end
    os.write(here.screen, b"Tell me everything.\n")
    said = ""
    while len(said.partition("\n")[2]) < 40:
        said += os.read(here.screen, 65536).decode(errors="replace").replace("\r\n", "\n")
    os.write(here.screen, b"\x03")
    said += here.until_asked()
    assert "[stopped]" in said
    history = here.type("/history")
    assert history.startswith("you: Tell me everything.\nmodel: ") and 20 < len(history) < 3000
    os.write(here.screen, b"half a line\x03")
    assert "[type /quit or Ctrl-D to leave]" in here.until_asked()
    os.write(here.screen, b"\x04")
    assert here.ended() == 0


def test_a_reader_who_leaves_in_the_middle_of_a_reply_ends_the_chat(words):
    keyboard, terminal = pty.openpty()
    chat = subprocess.Popen(
        python("-m", "llama_exp", "chat", *words, "max_new_tokens=400", "temperature=5"),
        cwd=ROOT,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.write(keyboard, b"Tell me everything.\n")
    said = b""
    while len(said) < 300:
        said += os.read(chat.stdout.fileno(), 64)
    chat.stdout.close()
    assert chat.wait(120) == 141, chat.stderr.read()
    os.close(keyboard), os.close(terminal)


def test_a_line_that_cannot_be_answered_is_told_by_its_id_and_the_next_one_is_answered(words):
    told = by_pipe(
        words,
        "{bad",
        {"id": 7, "prompt": 3},
        {"id": "x", "prompt": "a", "colour": "red"},
        {"prompt": "a", "history": [{"role": "user", "text": "alone"}]},
        {"id": 8},
        {"id": HOSTILE, "prompt": HOSTILE, "system": "Be brief."},
        code=1,
    )
    assert [one.get("id") for one in told] == [None, 7, "x", None, 8, HOSTILE]
    assert ["error" in one for one in told] == [True, True, True, True, True, False]
    assert told[0]["error"].startswith("not JSON") and "prompt: wanted text" in told[1]["error"]
    assert "unknown 'colour'; known: id, prompt, history, system" in told[2]["error"]
    assert "ends with a user's turn" in told[3]["error"] and told[5]["tokens"] >= 1


def test_a_prompt_from_a_file_is_the_prompt_and_nothing_but_the_answer_is_on_standard_output(words, tmp_path, command):
    file = tmp_path / "asked.txt"
    file.write_text("Where is my parcel?", encoding="utf-8")
    done = command("llama-exp", "chat", *words, f"prompt_file={file}")
    [wanted] = by_pipe(words, {"prompt": "Where is my parcel?"})
    assert done.stdout.strip() == wanted["reply"].strip() != ""
    both = command("llama-exp", "chat", *words, f"prompt_file={file}", "prompt=x", check=None)
    assert both.returncode == 2 and "are both given" in both.stderr
    none = command("llama-exp", "chat", *words, f"prompt_file={tmp_path}/nowhere", check=None)
    assert none.returncode == 2 and "No such file" in none.stderr
