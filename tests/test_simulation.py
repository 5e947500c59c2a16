"""Two who talk, through the command, on one small run that learnt to speak; its pages in a real browser."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from llama_exp.config.compose import default_config
from llama_exp.data.dialogue import AGENT, CLIENT
from llama_exp.runs.files import write_jsonl
from llama_exp.simulation.command import SimulateOptions
from llama_exp.simulation.conversations import (
    CLOSING,
    ENDINGS,
    LIMIT,
    REPEAT,
    SCRIPT,
    SILENCE,
    Conversation,
    Utterance,
    find_ending,
    read_conversations,
)
from llama_exp.simulation.openings import Opening
from llama_exp.simulation.results import Simulation, compare, summarize, write_results
from llama_exp.simulation.scores import score, with_scores
from llama_exp.simulation.simulate import simulate_conversations
from llama_exp.simulation.speakers import Speaker
from tests.conftest import ROOT

HOSTILE = "Where is it? <script>alert(1)</script><img src=x onerror=alert(2)> \u202egnirts " + "x" * 150


def talk(*texts: str) -> list[Utterance]:
    """Client first, in turn."""
    return [Utterance((CLIENT, AGENT)[place % 2], text, made=place > 0) for place, text in enumerate(texts)]


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        (["Bye!"], None),  # an opening alone ends nothing
        (["Where is it?", "Which number?"], None),
        (["Where is it?", "Have a great day"], CLOSING),
        (["Where is it?", "You're welcome"], CLOSING),
        (["Where is it?", "Goodbye, or is there more?"], None),  # who asks is not done
        (["Where is it?", "In Dera", "Thank you", "We are glad"], CLOSING),
        (["Where is it?", "In Dera", "Thanks, and when does it come?", "Tomorrow"], None),
        (["Thanks for nothing", "We are sorry"], None),
        (["Where is it?", "Which number?", "where is it"], REPEAT),
        (["Where is it?", "..."], SILENCE),
    ],
)
def test_a_conversation_ends_on_a_closing_a_repeat_or_silence(texts, why):
    assert find_ending(talk(*texts)) == why


def test_the_scores_of_a_conversation_can_be_counted_by_hand():
    turns = (*talk("Hi", "a b a b", "c", "a b d"),)
    found = score(Conversation("1", "g", LIMIT, turns, real={AGENT: (6.0, 4), CLIENT: (0.0, 0)}))
    assert found == {
        "turns": 4.0,
        "closing": 0.0,
        "words": 8.0,
        "distinct_1": 4 / 8,
        "distinct_2": 3 / 5,
        "self_repetition": 1 / 2,
        "real_loss_agent": 1.5,
    }


def test_a_share_of_nothing_is_no_score_and_counts_in_no_mean_and_no_pair(tmp_path):
    def held(*texts: str):
        """One conversation a text: the client's opening, then the model's only turn."""
        return [with_scores(Conversation(str(n), str(n), LIMIT, (*talk("Hi", text),))) for n, text in enumerate(texts)]

    mine, theirs = held("...", "Yes", "go on, go on now"), held("no no no", "no no no no no", "")
    assert [sorted(one.scores.keys() - {"turns", "closing", "words"}) for one in mine] == [
        [],
        ["distinct_1"],
        ["distinct_1", "distinct_2"],
    ]
    config = default_config({"dataset": "tweetsumm", "model": "tiny"})
    speakers = {side: Speaker(side, "tuned", config, "") for side in (CLIENT, AGENT)}
    first, second = (
        write_results(tmp_path / name, config, SimulateOptions(), speakers, found, 32)
        for name, found in (("mine", mine), ("theirs", theirs))
    )
    assert first["scores"] == {"turns": 2.0, "closing": 0.0, "words": 2.0, "distinct_1": 0.8, "distinct_2": 0.75}
    assert "(3 by turn limit, 1 without a word from a model)" in summarize(first)
    assert "distinct_1 0.8 (n = 2), distinct_2 0.75 (n = 1)" in summarize(first)
    told = compare(Simulation(tmp_path / "mine", first, mine), Simulation(tmp_path / "theirs", second, theirs))
    found = json.loads((tmp_path / "mine" / "comparison.json").read_text())["differences"]
    assert (found["distinct_1"]["items"], found["distinct_1"]["difference"]) == (1, pytest.approx(1 - 1 / 5))
    assert found["words"]["items"] == 3 and "distinct_2" not in found, "no opening has pairs of words on both sides"
    assert [line.endswith("(n = 1)") for line in told.split("\n") if "distinct_1" in line] == [True]
    page = (tmp_path / "mine" / "comparison.html").read_text()
    assert "<td>of all, without a word from a model</td><td>1</td><td>1</td>" in page and "0.75 (n = 1)" in page


def test_conversations_of_before_are_scored_as_today(tmp_path):
    """A file from when silence scored 0."""
    before = dataclasses.replace(Conversation("1", "g", SILENCE, (*talk("Hi", ""),)), scores={"distinct_1": 0.0})
    write_jsonl(tmp_path / "conversations.jsonl", [before])
    assert read_conversations(tmp_path / "conversations.jsonl") == [before]
    config = default_config({"dataset": "tweetsumm", "model": "tiny"})
    [now] = simulate_conversations(tmp_path, config, SimulateOptions(), {}, [Opening("1", "g", "Hi")])
    assert "distinct_1" not in now.scores


@pytest.fixture
def simulate(speaker, command):
    """Run the command on the small run; `found()` are the folders of the simulations, the latest last."""
    words, outputs = speaker

    def run(*more: str, **how):
        return command("llama-exp", "simulate", *words, *more, **how)

    [home] = outputs.glob("tweetsumm/tiny-16-r2*")
    run.home = home
    run.found = lambda: sorted((home / "simulation").glob("*"), key=lambda folder: folder.stat().st_mtime_ns)
    shutil.rmtree(home / "simulation", ignore_errors=True)
    return run


def held(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "conversations.jsonl").read_text().splitlines()]


def test_two_simulations_over_the_same_openings_are_compared(simulate, browse, tmp_path):
    openings = tmp_path / "openings.txt"
    openings.write_text(f"{HOSTILE}\nMy order has not arrived\nIs your shop open?\n", encoding="utf-8")
    done = simulate(f"opening={openings}", "against=untuned", "turns=4")
    second, first = sorted(simulate.found(), key=lambda folder: folder.name, reverse=True)
    assert (first.name[:14], second.name[:18]) == ("tuned-tuned-3-", "untuned-untuned-3-")
    mine, theirs = held(first), held(second)
    assert [one["turns"][0] for one in mine] == [one["turns"][0] for one in theirs]
    assert {one["turns"][0]["text"] for one in mine} == set(openings.read_text(encoding="utf-8").splitlines())
    assert [one["turns"][1:] for one in mine] != [one["turns"][1:] for one in theirs]
    for one in mine + theirs:
        assert one["ending"] in ENDINGS and 2 <= len(one["turns"]) <= 4
        assert one["ending"] != LIMIT or len(one["turns"]) == 4
        assert [turn["speaker"] for turn in one["turns"]] == [CLIENT, AGENT, CLIENT, AGENT][: len(one["turns"])]
    told = json.loads((first / "comparison.json").read_text())
    assert (told["first"], told["second"]) == (first.name, second.name)
    for name in ("turns", "distinct_2", "words"):
        by_hand = [sum(one["scores"][name] for one in each) / 3 for each in (mine, theirs)]
        assert told["differences"][name]["difference"] == pytest.approx(by_hand[0] - by_hand[1])
        assert f"{name}: " in done.stdout and told["differences"][name]["p_adjusted"] <= 1
    for folder in (first, second):
        results = json.loads((folder / "simulation.json").read_text())
        assert all(results["intervals"][name]["low"] >= 0 for name in results["scores"])

    page = browse((first / "comparison.html").as_uri())
    assert page.locator("h1").inner_text() == "Two simulations over the same openings"
    assert page.locator("script, img").count() == 0
    [row] = [n for n in range(3) if mine[n]["turns"][0]["text"] == HOSTILE]
    shown = page.locator(".talk").nth(row).locator(".column")
    assert [shown.nth(n).locator(".words").first.inner_text() for n in (0, 1)] == [
        HOSTILE.replace("\u202e", "[U+202E]")
    ] * 2
    assert shown.nth(1).locator(".end").inner_text().startswith(f"Ended by {theirs[row]['ending']} after")
    left, right = (shown.nth(n).bounding_box() for n in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"], "side by side"
    assert page.evaluate("document.documentElement.scrollWidth") == 1200
    small = browse((first / "comparison.html").as_uri(), viewport={"width": 390, "height": 844}, is_mobile=True)
    assert small.evaluate("document.documentElement.scrollWidth") == 390
    left, right = (small.locator(".talk").first.locator(".column").nth(n).bounding_box() for n in (0, 1))
    assert right["y"] >= left["y"] + left["height"], "one below the other"
    assert small.locator(".talk").first.locator("h4").all_inner_texts() == ["First", "Second"]


def test_a_score_that_is_the_same_throughout_gets_no_interval_without_a_width(simulate, tmp_path):
    (tmp_path / "lines.txt").write_text("Where is it?\nAnd when?\n", encoding="utf-8")
    done = simulate(f"client=script:{tmp_path}/lines.txt", "against=untuned", "turns=2", "conversations=3")
    assert "  turns: the same in every conversation" in done.stdout
    [comparison] = simulate.home.glob("simulation/*/comparison.html")
    assert comparison.read_text(encoding="utf-8").count('<td class="number">the same in every conversation</td>') >= 2


def test_a_killed_simulation_goes_on_with_the_words_that_it_would_have_said(simulate, speaker):
    words = ["conversations=8", "turns=4", "eval_batch=2"]
    simulate(*words)
    [folder] = simulate.found()
    whole = (folder / "conversations.jsonl").read_text()
    assert len(whole.splitlines()) == 8
    shutil.rmtree(folder)
    process = subprocess.Popen(
        [sys.executable, "-m", "llama_exp", "simulate", *speaker[0], *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env=os.environ,
    )
    path = folder / "conversations.jsonl"
    while not path.is_file() or path.read_text().count("\n") < 3:
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    half = path.read_text()
    assert 3 <= half.count("\n") < 8 and not (folder / "simulation.json").exists()
    path.write_text(half[:-20])  # the last line is cut short: its whole batch is held again
    done = simulate(*words)
    assert "continuing: " in done.stdout and path.read_text() == whole
    assert "simulated" not in simulate(*words).stdout, "typed again, there is nothing left to do"
    assert path.read_text() == whole
    simulate(*words, "sampling_seed=1")
    assert [one["turns"][0] for one in held(simulate.found()[-1])] == [one["turns"][0] for one in held(folder)]
    assert held(simulate.found()[-1]) != held(folder), "another seed, other words after the same openings"


def test_a_script_speaks_its_lines_and_what_ends_a_conversation_is_said(simulate, tmp_path):
    openings, script = tmp_path / "openings.txt", tmp_path / "client.txt"
    openings.write_text("Where is my parcel?\nMy phone is dead\n")
    script.write_text("Where is my parcel?\nThank you and goodbye\n")
    words = [f"opening={openings}", f"client=script:{script}", "temperature=0"]
    endings = {}
    for more, lines in (([], 2), (["turns=3"], 2), ([], 1)):
        script.write_text("\n".join(script.read_text().splitlines()[:lines]))
        simulate(*words, *more)
        for one in held(simulate.found()[-1]):
            endings[one["turns"][0]["text"], *more, lines] = one["ending"]
            said = [turn["text"] for turn in one["turns"][2::2]]
            assert said == script.read_text().splitlines()[: len(said)]
            assert [turn["made"] for turn in one["turns"]] == [False, True, False, True, False][: len(one["turns"])]
    assert endings == {
        ("Where is my parcel?", 2): REPEAT,
        ("My phone is dead", 2): CLOSING,
        ("Where is my parcel?", "turns=3", 2): REPEAT,
        ("My phone is dead", "turns=3", 2): LIMIT,
        ("Where is my parcel?", 1): REPEAT,
        ("My phone is dead", 1): SCRIPT,
    }


def test_the_likelihood_of_real_turns_is_that_of_each_turn_alone_under_the_run(simulate):
    from llama_exp.data import DATASETS
    from llama_exp.data.encoding import encode_all
    from llama_exp.model import base, lora
    from llama_exp.model.tokenizer import load_tokenizer
    from llama_exp.runs.run import Run

    simulate("conversations=3", "turns=2")
    config = Run.load(simulate.home).config
    tokenizer = load_tokenizer(config.model)
    tuned = lora.load_lora(base.load_base(config.model, torch.device("cpu")), simulate.home / "adapter").eval()
    data = DATASETS.of(config)
    data.setup()
    try:
        for conversation in held(simulate.found()[-1]):
            turns = [e for e in data.held_out("test") if e.group == conversation["group"]]
            turns = [
                e for e in turns if e.history or e.tags["speaker"] == AGENT
            ]  # without the opening, which was given
            for side in (CLIENT, AGENT):
                tokens, _ = encode_all(
                    [e for e in turns if e.tags["speaker"] == side],
                    tokenizer,
                    config.max_length,
                    config.dataset.max_new_tokens,
                )
                nll = 0.0
                for one in tokens:
                    with torch.inference_mode():
                        logits = tuned(input_ids=torch.tensor([one.input_ids])).logits[0, :-1].float()
                    nll += float(
                        torch.nn.functional.cross_entropy(logits, torch.tensor(one.labels[1:]), reduction="sum")
                    )
                count = sum(one.label_tokens for one in tokens)
                assert conversation["real"].get(side, [0.0, 0])[1] == count
                if count:
                    assert conversation["real"][side][0] == pytest.approx(nll, rel=1e-4)
                    assert conversation["scores"][f"real_loss_{side}"] == pytest.approx(nll / count, rel=1e-4)
    finally:
        lora.detach_lora(tuned)


def test_a_run_that_learnt_to_summarise_is_no_voice(simulate, tmp_path):
    """The small run, as if it had learnt summaries: what it learnt stands in its config."""
    run = shutil.copytree(simulate.home, tmp_path / "tweetsumm" / "summaries")
    config = run / "config.yaml"
    text = config.read_text()
    assert text.count("task: turns") == 1
    config.write_text(text.replace("task: turns", "task: summary"))
    for words in ([f"agent={run}"], [f"against={run}"], [f"out={run}", "dataset.task=summary"]):
        done = simulate(*words, "conversations=2", "turns=2", check=None)
        assert done.returncode == 2, done.stdout
        assert (
            "tweetsumm/summaries was trained with dataset.task=summary, not to continue a conversation" in done.stderr
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["against=nowhere"], "=nowhere: wanted tuned, untuned, script:FILE or the folder of a finished run."),
        (["client=untuned", "agent=untuned", "against=untuned"], "neither client nor agent is tuned"),
        (["client=script:missing.txt"], "client=script:missing.txt: No such file"),
        (["turns=1"], "turns=1: wanted 2 or more."),
        (["opening=missing.txt"], "wanted held_out, client or a file of first messages"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_words(simulate, words, told):
    done = simulate(*words, check=None)
    assert done.returncode == 2 and told in done.stderr and "Traceback" not in done.stderr
