"""Whatever a stored name holds, a terminal only prints it; what must be exact stays exact."""

import io
import json

import pytest

from llama_exp.sanitize import TerminalFilter, clean, escape_hidden, printable, unfiltered, visible
from tests.conftest import small

PLANTED = "F\x1b[2Jake\x1b]8;;http://evil.example\x1b\\link\x1b]0;t\x07 \u202egnirts\u202c a\u200bb\ufeff \x9b31m\x07\b"
ACTING = set("\x1b\x9b\x9d\x07\b\u202e\u202c\u200b\ufeff")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("a\x1b]8;;http://evil.example\x1b\\b\x1b]8;;\x07c", "abc"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1b", ""),
        ("a\u202eb\u2066c\u200bd\ufeffe\U000e0041f", "abcdef"),
        ("one\rtwo\nthree\r\n\t4", "one two\nthree\n\t4"),
        ("\r  answered 3/9", "\r  answered 3/9"),
        ("Zürich ±1 中\u200d", "Zürich ±1 中\u200d"),
    ],
)
def test_only_what_prints_comes_through_the_filter(written, shown):
    out = io.StringIO()
    print(written, end="", file=TerminalFilter(out))
    assert out.getvalue() == shown == printable(written)


def test_a_progress_bar_can_go_back_to_its_line_and_exact_output_goes_past_the_filter():
    out = io.StringIO()
    filtered = TerminalFilter(out)
    filtered.write("\x1b[A")
    unfiltered(filtered).write(PLANTED)
    assert out.getvalue() == "\x1b[A" + PLANTED and unfiltered(out) is out


def test_json_on_a_terminal_holds_the_same_value_and_nothing_that_acts():
    line = escape_hidden(json.dumps({"reply": PLANTED + "\U000e0041é"}, ensure_ascii=False))
    assert json.loads(line) == {"reply": PLANTED + "\U000e0041é"} and not ACTING & {*line} and "é" in line


def test_names_lose_what_has_no_width_and_texts_show_it():
    assert clean("a\u200bb\u2060c\ufeffd") == "abcd"
    assert visible("a\u200bb\U000e0041") == "a[U+200B]b[U+E0041]"


def test_what_an_evaluation_stores_reaches_no_terminal_as_more_than_text(command, tmp_path):
    words = [*small(), f"outputs={command.outputs}", "lora.r=0"]
    command("evaluate.py", *words)
    [path] = command.outputs.glob("**/results.json")
    stored = json.loads(path.read_text())
    loss = stored["intervals"].get("loss") or {}
    stored["scores"] |= {PLANTED: 1.0}
    stored["declared"] = {**(stored.get("declared") or {}), PLANTED: {"meaning": PLANTED}}
    stored["intervals"] |= {"loss": {**loss, "low": None, "note": PLANTED}}
    path.write_text(json.dumps(stored))
    for _ in range(2):
        done = command("evaluate.py", *words, check=None)
        assert "gnirts" in done.stdout + done.stderr and not ACTING & {*(done.stdout + done.stderr)}
        stored["identity"]["model.name"] = stored["identity"]["dataset.name"] = PLANTED
        path.write_text(json.dumps(stored))
    report = command("llama-exp", "report", str(command.outputs), check=None)
    assert not ACTING & {*(report.stdout + report.stderr)}
