"""Before training: what a cell would learn, what it would take, whether it fits; and what its test set has in
common."""

import json
import re
import subprocess
import sys
import time

import pytest

from llama_exp.config.compose import load_config
from llama_exp.data.chat_format import chat_format
from llama_exp.errors import UserError
from llama_exp.overlap import audit as leaks
from llama_exp.preflight import measurement
from llama_exp.preflight.forecast import preflight
from llama_exp.preflight.inspection import decode_mask
from llama_exp.records import Tokens
from llama_exp.report import loss_page
from llama_exp.sanitize import visible
from llama_exp.session import Session
from tests.conftest import ROOT, python, small

BOS, EOS = 1, 2


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A cell that was trained and evaluated on data with planted overlaps: (outputs, words, what was printed)."""
    folder = tmp_path_factory.mktemp("leaky") / "data"
    folder.mkdir()
    for name, rows in planted().items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = folder.parent / "outputs"
    words = [w for w in small(sample="16", eval_sample="null") if not w.startswith(("dataset.source", "dataset.rows"))]
    words += [f"dataset.path={folder}", "dataset.validation=0.2", f"outputs={outputs}"]
    done = subprocess.run(
        python("train.py", *words, "evaluate=true", "dataset.max_new_tokens=8"),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return outputs, [*words, "dataset.max_new_tokens=8"], done.stdout


def planted() -> dict[str, list[dict]]:
    """20 training questions; 6 test questions of other articles, two of which are training's in capitals."""

    def row(number: int, title: str, shout: bool = False) -> dict:
        context = f"The gate of town number {number} was built by mason number {number} from stone of quarry {number}."
        question = f"Who built the gate of town number {number}?"
        if shout:
            context, question = context.upper(), question.upper()
        return {
            "id": f"{title}{number}",
            "title": title,
            "context": context,
            "question": question,
            "answers": {"text": [f"mason number {number}"], "answer_start": [0]},
        }

    return {
        "train": [row(i, f"train{i}") for i in range(20)],
        "validation": [row(i, "test", shout=i < 2) for i in (0, 1, 30, 31, 32, 33)],
    }


def test_one_cell_is_shown_and_nothing_is_written(command, tmp_path):
    done = command("train.py", *small(sample="8"), "preflight=true", f"outputs={tmp_path}/o")
    assert "8 requested, 8 sampled; all of them reach training; 0 prompts shortened (0 lost the answer)" in done.stdout
    assert "one BOS and one EOS in each of 8 turns" in done.stdout
    assert "Question:" in done.stdout and "</s>]]" in done.stdout and "[/INST][[" in done.stdout
    assert "Overlap with training: 0 of 4 validation, 0 of 6 test items." in done.stdout
    assert "tokens/s on the longest rows" in done.stdout
    assert "8 Examples, 2 steps," in done.stdout and "GiB, about" in done.stdout
    assert not (tmp_path / "o").exists()


def test_the_replies_of_validation_scores_are_part_of_the_time(monkeypatch, capsys):
    monkeypatch.setattr(measurement, "time_replies", lambda *_: 1000.0)
    session = Session()
    without, answering, again = (
        preflight(load_config(*small(sample="8"), "logger=none", *words), session).forecast.seconds
        for words in ([], ["validation_scores=2"], ["validation_scores=2"])
    )
    assert without < 1000 and 2000 < answering < 3000 and again == answering  # two validations
    assert "validation_scores take 1000.0 s at each validation" in capsys.readouterr().out


def test_the_folder_is_the_one_that_training_will_write_also_where_the_sample_is_all_there_is(command, tmp_path):
    done = command("train.py", *small(sample="5000"), "preflight=true", f"outputs={tmp_path}/o")
    [line] = [line for line in done.stdout.splitlines() if "2 steps" in line or " steps, " in line]
    assert line.startswith(f"{tmp_path}/o/squad/tiny-all-r2-") and "tiny-5000" not in done.stdout


def test_a_sweep_that_begins_with_the_untuned_model_shows_an_example_all_the_same(command, tmp_path):
    words = [word for word in small(sample="8") if not word.startswith("lora.r")]
    done = command("train.py", "-m", *words, "lora.r=0,2", "preflight=true", f"outputs={tmp_path}/o")
    assert done.stdout.count("[/INST][[") == 1 and done.stdout.count("Examples: ") == 1


def test_a_sweep_ends_in_a_table_with_a_row_a_cell_and_their_sum(trained, command, tmp_path):
    outputs, words, _ = trained
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}
    words = [word for word in words if not word.startswith(("lora.r", "sample", "seed"))]
    done = command(
        "train.py", "-m", *words, "sample=16", "lora.r=0,2", "seed=0,1,2", "preflight=true", env={"COLUMNS": "160"}
    )
    assert "6 cells before training" in done.stdout
    rows = {line[:15]: re.split(r"  +", line.strip()) for line in done.stdout.splitlines()}
    assert rows["lora.r=0 seed=1"][-1] == "untuned: nothing to train"
    assert rows["lora.r=2 seed=0"][-1] == "already trained"
    assert rows["lora.r=2 seed=1"][-1] == "measured"
    assert rows["lora.r=2 seed=2"][-1] == "derived", "a seed costs what another does"
    assert "2 cells to train: about" in done.stdout
    assert "unknown" in rows["lora.r=2 seed=1"] and rows["lora.r=0 seed=1"].count("–") == 6
    assert "Cost is unknown: it takes a GPU" in done.stdout
    assert done.stdout.count("Examples: ") == 1, "cells with the same data show it once"
    assert before == {path: path.stat().st_mtime_ns for path in outputs.rglob("*")}, "nothing is written"


def test_overlap_is_said_before_training_stored_and_the_clean_items_are_scored_apart(trained):
    outputs, _, said = trained
    [run] = [path.parent for path in outputs.glob("squad/*/summary.json")]
    assert "2 of 6 test items (identical but for case and punctuation 2" in said and said.index(
        "Overlap with training"
    ) < said.index("validation loss")
    audit = json.loads((run / "audit.json").read_text())
    assert sorted(audit["test"]["clean"]) == ["test30", "test31", "test32", "test33"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["audit"]["test"] == {"clean": 4, "overlapping": 2}
    assert summary["audit"]["by_group"] == [{"group": "test", "items": 6, "overlapping": 2}] == audit["by_group"]
    assert "By group: test (2 of 6).\n" in said
    assert summary["audit"]["kinds"]["normalised"] >= 2
    assert "energy_joules" in summary
    [results] = run.glob("eval/*-test-*/results.json")
    results = json.loads(results.read_text())
    assert results["items"] == 6 and results["clean"]["items"] == 4
    assert set(results["clean"]["scores"]) == set(results["scores"])
    assert results["clean"]["scores"]["loss"] != results["scores"]["loss"]


def test_the_losses_are_drawn_at_the_end_of_a_run(trained):
    outputs, _, said = trained
    [page] = outputs.glob("squad/*/losses.html")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    text = page.read_text()
    assert "<svg" in text and "Validation " in text and "<script" not in text
    assert f"See {page}" in said


def test_an_interrupted_run_leaves_its_reason_and_its_curves_and_goes_on(tmp_path):
    import signal
    import time

    words = small(**{"trainer.max_epochs": "2000", "checkpoint_every": "2", "validations": "4000"})
    process = subprocess.Popen(
        [sys.executable, "train.py", *words, f"outputs={tmp_path}/o"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        files = list((tmp_path / "o").glob("squad/*/metrics.csv"))
        if files and len(files[0].read_text().splitlines()) > 8:
            break
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 130 and "The same command continues" in said
    [run] = (tmp_path / "o").glob("squad/*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted" and "Ctrl-C" in summary["reason"]
    assert 4 <= summary["steps"] < summary["planned_steps"] == 8000
    assert f"Interrupted after step {summary['steps']:,} of 8,000" in (run / "losses.html").read_text()
    assert (run / "losses.png").is_file() and (run / "checkpoints/last.ckpt").is_file()


def test_what_does_not_fit_is_refused_before_it_runs_and_says_what_would(llama, monkeypatch):
    import torch

    from llama_exp.config.compose import default_config
    from llama_exp.model.base import load_base
    from llama_exp.model.lora import attach_lora, detach_lora
    from llama_exp.preflight import measurement

    config = default_config({"dataset": "squad", "model": "tiny"})
    config.model.path, config.lora.r, config.batch = str(llama), 2, 64
    tokens = [Tokens(str(i), [1] * 400 + [2], [-100] * 400 + [2]) for i in range(64)]
    ran = []
    monkeypatch.setattr(measurement, "available", lambda device: 3 * 2**30)
    peaks = iter([(2**30, 2**30 + 2**27, 0.1)])  # a row takes 128 MiB: 64 rows would need 9 GiB
    monkeypatch.setattr(measurement, "_peak", lambda device, work: ran.append(work) or next(peaks))
    model = attach_lora(load_base(config.model, torch.device("cpu")), config.lora, 0)
    try:
        with pytest.raises(
            UserError, match=r"64 of the longest Examples at once need about 9.0 GiB; there are 3.0 GiB"
        ):
            measurement.measure(model, config, tokens, 64)
        peaks = iter([(2**30, 2**30 + 2**27, 0.1)])
        with pytest.raises(UserError, match=r"Type micro_batch=8 \(the same steps"):
            measurement.measure(model, config, tokens, 64)
    finally:
        detach_lora(model)
    assert len(ran) == 2, "64 rows at once were never tried"


def test_a_process_that_had_memory_before_is_not_fooled(llama, monkeypatch):
    """Its second step grows by nothing, since the first one's memory is used again: the model's shape tells all the
    same."""
    import psutil
    import torch

    from llama_exp.config.compose import default_config
    from llama_exp.model.base import load_base
    from llama_exp.model.lora import attach_lora, detach_lora
    from llama_exp.preflight import measurement

    config = default_config({"dataset": "squad", "model": "tiny"})
    config.model.path, config.lora.r, config.batch = str(llama), 2, 2000
    tokens = [Tokens(str(i), [1] * 400 + [2], [-100] * 400 + [2]) for i in range(2000)]
    model = attach_lora(load_base(config.model, torch.device("cpu")), config.lora, 0)
    monkeypatch.setattr(measurement, "available", lambda device: psutil.Process().memory_info().rss + 2**30)
    began = time.perf_counter()
    try:
        with pytest.raises(
            UserError, match=r"2000 of the longest Examples at once need about .* GiB.*Type micro_batch=\d+"
        ):
            measurement.measure(model, config, tokens, 2000)
    finally:
        detach_lora(model)
    assert time.perf_counter() - began < 60


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "1000", "memory.current": "400", "memory.stat": "anon 1\ninactive_file 50\n"}, 650),
        ({"memory.max": "max\n", "memory.current": "400", "memory.stat": "inactive_file 50\n"}, float("inf")),
        (
            {
                "memory/memory.limit_in_bytes": "1000",
                "memory/memory.usage_in_bytes": "100",
                "memory/memory.stat": "total_inactive_file 7\n",
            },
            907,
        ),
        ({}, float("inf")),
    ],
)
def test_a_containers_own_limit_counts(files, free, tmp_path):
    from llama_exp.model.memory import free_in_cgroup

    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_in_cgroup(tmp_path) == free


@pytest.mark.parametrize(
    ("ids", "learnt", "good"),
    [
        ([BOS, 7, 8, 9, EOS], 2, True),
        ([BOS, 7, 8, EOS, BOS, 7, 9, EOS], 2, True),
        ([BOS, BOS, 7, 9, EOS], 2, False),
        ([BOS, 7, 9, EOS, EOS], 1, False),
        ([7, 9, EOS], 2, False),
        ([BOS, 7, 9], 1, False),
        ([BOS, 7, EOS, 9, EOS], 1, False),
        ([BOS, 7, EOS, BOS, 9, EOS], 5, False),
    ],
    ids=[
        "one turn",
        "two turns",
        "BOS twice",
        "EOS twice",
        "no BOS",
        "no EOS",
        "EOS without a turn",
        "an EOS too many learnt",
    ],
)
def test_one_bos_and_one_eos_a_turn(tokenizer, ids, learnt, good):
    item = Tokens("x", ids, [-100] * (len(ids) - learnt) + ids[len(ids) - learnt :])
    assert chat_format(tokenizer).is_whole(item) is good


def test_the_mask_can_be_read_with_colour_and_without(tokenizer):
    prompt, reply = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("[INST] Who? [/INST]", "Me"))
    item = Tokens("x", [BOS, *prompt, *reply, EOS], [-100] * (len(prompt) + 1) + [*reply, EOS])
    text = decode_mask(item, tokenizer)
    assert text.plain.startswith("<s>") and text.plain.endswith("[[Me</s>]]")
    assert [str(span.style) for span in text.spans] == ["dim", "bold green"]


def test_data_cannot_steer_the_terminal():
    assert visible("a\x1b[2Jb\u202ec\n") == "a[U+001B][2Jb[U+202E]c\n"


@pytest.mark.parametrize(
    ("validation", "said"),
    [
        ([], "measured less than twice"),
        (
            [(1, 3.0), (2, 2.0), (3, 2.5)],
            "Overfitting from step 2 on: validation loss was 2.000 there and is 2.500 at the end",
        ),
        ([(1, 3.0), (2, 2.5), (3, 2.0)], "still falling: from 2.500 at step 2 to 2.000 at step 3"),
        ([(10, 3.0), (20, 2.01), (30, 2.0)], "is flat at 2.000: since step 20"),
        ([(10, 3.0), (20, 2.0), (30, 2.01)], "is flat at 2.010: it was lowest at step 20 (2.000)"),
        ([(10, 0.745), (20, 0.714), (30, 0.718)], "is flat at 0.718: it was lowest at step 20 (0.714)"),
        ([(10, 3.0), (20, 2.5), (30, 1.99), (40, 2.0)], "is flat at 2.000: it was lowest at step 30 (1.990)"),
    ],
)
def test_the_note_says_whether_more_steps_would_help(validation, said):
    assert said in loss_page.note(validation)


@pytest.mark.parametrize(
    ("training", "said"),
    [
        ([(1, 3.0), (2, 2.0), (3, 1.5), (4, 1.2)], "Overfitting from step 2 on"),
        ([(1, 3.0), (2, 2.0), (3, 2.5), (4, 3.5)], "training loss with it, so this is not overfitting"),
    ],
)
def test_validation_that_rises_with_the_training_loss_is_not_called_overfitting(training, said):
    assert said in loss_page.note([(1, 3.0), (2, 2.0), (4, 2.5)], training)


def test_a_name_with_markup_is_shown_as_text(tmp_path):
    folder = tmp_path / "<script>alert(1)"
    folder.mkdir()
    (folder / "metrics.csv").write_text("step,loss,validation_loss\n1,2.0,\n2,1.5,\n3,1.")
    assert loss_page.write(folder, "failed: <b>") == loss_page.note([])
    text = (folder / "losses.html").read_text()
    assert "<script" not in text and "failed: &lt;b&gt;" in text


def test_a_turn_is_compared_with_its_history():
    from llama_exp.records import Example, Turn

    asked = Example(
        "h", "Thanks!", "You are welcome.", (), "g", history=(Turn("user", "Hi"), Turn("assistant", "Hello"))
    )
    assert leaks.rows([asked]) == [("h", "g", "Hi Hello Thanks!", "You are welcome.")]


def test_overlap_by_construction_is_said_to_be_that():
    """Every opening of a conversation answers the same prompt, and rows made by rule repeat their few patterns."""
    from llama_exp.config.compose import default_config
    from llama_exp.config.schema import Source
    from llama_exp.data.dialogue import CLIENT, SpokenTurn, next_turn_example

    opening = next_turn_example("a-0", [], CLIENT, "", "Where is my parcel?")
    later = next_turn_example("a-1", [SpokenTurn("agent", "Hello")], CLIENT, "", "Thanks!")
    config = default_config({"dataset": "tweetsumm", "model": "tiny"})
    found = {"test": {"overlapping": ["a-0", "a-1"], "clean": []}}
    said = ["Openings of a conversation among them: 1; all have the same prompt (“Begin the conversation.”)."]
    assert leaks.expected_overlap(config, {"test": [opening, later]}, found) == said
    config.dataset.source = Source.synthetic
    assert [line.split()[0] for line in leaks.expected_overlap(config, {"test": [opening, later]}, found)] == [
        "Openings",
        "Synthetic",
    ]
    assert leaks.expected_overlap(config, {"test": [later]}, {"test": {"overlapping": [], "clean": ["a-1"]}}) == []
