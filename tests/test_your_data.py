"""dataset=table: any table through the commands that a user types, and the metrics that suit its responses."""

import csv
import json
import re
import shlex
import subprocess

import pytest
import yaml

from llama_exp.config.compose import default_config, load_config
from llama_exp.data import DATASETS
from llama_exp.data.datasets.table import turns
from llama_exp.errors import UserError
from llama_exp.evaluation.scoring import format_scores
from llama_exp.metrics import default_metrics, measure
from llama_exp.records import Prediction, Turn
from llama_exp.runs.results import Results

from .conftest import ROOT


def write_csv(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(rows[0])
        writer.writerows(row.values() for row in rows)
    return path


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tickets(count=60):
    return [
        {"nr": f"{n:04d}", "ticket_text": f"Printer {n} blinks red, please help.", "resolution": f"Open lid {n}."}
        for n in range(count)
    ]


def table(path, **keys):
    data = DATASETS["table"](path=str(path), max_length=256, **keys)
    data.setup()
    return data


def everything(data):
    return [*data.available, *data.validation, *data.test]


SMALL = ["model=tiny", "batch=4", "trainer.max_epochs=1", "validations=2", "validation_sample=2", "eval_sample=4"]


# -- through the command line ------------------------------------------------------------------------------------------


def test_a_sweep_over_ones_own_csv_trains_evaluates_and_reports(command, tmp_path):
    path = write_csv(tmp_path / "tickets.csv", tickets())
    words = ["dataset=table", f"dataset.path={path}", "dataset.prompt=ticket_text", "dataset.response=resolution"]
    sweep = ["-m", *words, "sample=8,16", "lora.r=0,2", "evaluate=true", *SMALL, f"outputs={command.outputs}"]
    done = command("train.py", *sweep)
    assert "4 cells, 0 failed" in done.stdout and "table (rows from tickets.csv), test split" in done.stdout
    assert "metrics: squad (nearly all responses have at most 40 characters)" in done.stdout
    results = [json.loads(file.read_text()) for file in command.outputs.glob("table/*/eval/*-test-*/results.json")]
    assert len(results) == 3 and all(one["metrics"] == ["squad"] for one in results)
    # evaluating by the fewest words takes the columns and the metrics from the run
    again = command(
        "evaluate.py", "dataset=table", f"dataset.path={path}", "sample=8", "lora.r=2", *SMALL[:1], "eval_sample=4",
        f"outputs={command.outputs}",
    )  # fmt: skip
    assert "already evaluated: F1" in again.stdout
    assert "dataset.prompt=ticket_text" in again.stdout


def test_preflight_shows_the_first_example_as_it_is_learnt(command, tmp_path):
    path = write_csv(tmp_path / "tickets.csv", tickets())
    words = ["dataset=table", f"dataset.path={path}", "dataset.prompt=ticket_text", "dataset.response=resolution"]
    done = command(
        "train.py", *words, "dataset.template='Ticket {nr}: {ticket_text}'", "preflight=true", *SMALL,
        f"outputs={command.outputs}",
    )  # fmt: skip
    assert "The first Example" in done.stdout and "[INST] Ticket 00" in done.stdout
    assert "[[Open lid" in done.stdout and not command.outputs.exists()


REFUSED = {
    "a wrong column": (
        ["dataset.prompt=ticket", "dataset.response=solution"],
        [
            "dataset.prompt=ticket and dataset.response=solution: ",
            "  nr           0000 · 0001 · 0002",
            "dataset.prompt=ticket_text dataset.response=resolution",
        ],
    ),
    "no column named": (
        [],
        [
            "that holds what is asked and the answer: dataset.prompt=COLUMN and dataset.response=COLUMN. Its columns",
            "dataset.prompt=ticket_text dataset.response=resolution",
        ],
    ),
    "one column named": (
        ["dataset.prompt=ticket_text"],
        ["that holds the answer: dataset.response=COLUMN. Its columns", "dataset.response=resolution"],
    ),
    "a wrong one and none": (
        ["dataset.prompt=ticket"],
        ["dataset.prompt=ticket: ", "has no such column. Name the column", "dataset.response=COLUMN. Its columns"],
    ),
    "the answer in the question": (
        ["dataset.prompt=nr", "dataset.response=resolution", "dataset.template='{nr} {resolution}'"],
        ["names {resolution}, the response: the answer would be shown"],
    ),
    "a conversation and a prompt": (
        ["dataset.messages=nr", "dataset.prompt=ticket_text"],
        ["dataset.messages=nr is a whole conversation"],
    ),
    "a field that is no column": (
        ["dataset.prompt=nr", "dataset.response=resolution", "dataset.template='{text}'"],
        ["dataset.template names {text}", "{ticket_text}"],
    ),
    "a column as the system prompt": (
        ["dataset.prompt=ticket_text", "dataset.response=resolution", "dataset.system=nr"],
        ["For the column type dataset.system_column=nr"],
    ),
}


def test_sizes_beyond_what_there_is_are_answered_once_with_sizes_that_make_a_curve(command, tmp_path):
    path = write_csv(tmp_path / "tickets.csv", tickets(58))
    words = ["dataset=table", f"dataset.path={path}", "dataset.prompt=ticket_text", "dataset.response=resolution"]
    words += ["-m", "sample=50,100,200", "lora.r=2", *SMALL, f"outputs={command.outputs}"]
    for more in (["preflight=true"], []):
        said = command("train.py", *words, *more).stdout
        assert "sample=50 is all 49 Examples there are: the cell sample=null. Smaller sizes" in said, said
        assert said.count("make a curve: sample=12,24,null\n") == 1 and "sample=200 is all 49" in said


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_meant_is_refused_in_words_and_nothing_is_written(name, command, tmp_path):
    keys, said = REFUSED[name]
    path = write_csv(tmp_path / "tickets.csv", tickets())
    words = ["dataset=table", f"dataset.path={path}", *keys, *SMALL, f"outputs={command.outputs}"]
    done = command("train.py", *words, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert all(words in done.stderr for words in said), done.stderr
    assert not command.outputs.exists()


@pytest.mark.parametrize(
    "keys",
    [
        ["sample=20", "dataset.response=solution", "dataset.system='Be brief.'", "dataset.prompt=ticket_text"],
        ["-m", "dataset.prompt=ticket", "dataset.response=resolution", "lora.r=4,8"],
        ["dataset.split_seed=3"],
    ],
)
def test_the_probable_command_keeps_every_key_that_was_typed(keys, command, tmp_path):
    words = ["dataset=table", f"dataset.path={write_csv(tmp_path / 'tickets.csv', tickets())}", *keys]
    done = command("train.py", *words, "model=tiny", f"outputs={command.outputs}", check=None)
    [line] = [line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Probably: ")]
    meant = shlex.split(line)[3:]
    columns = {"dataset.prompt=ticket_text", "dataset.response=resolution"}
    kept = {word for word in words if not word.startswith(("dataset.prompt=", "dataset.response="))}
    assert set(meant) == {*kept, *columns, "model=tiny", f"outputs={command.outputs}"} and len(meant) == len(set(meant))


def test_a_table_without_a_file_and_a_column_of_another_dataset_are_refused(command):
    done = command("train.py", "dataset=table", "model=tiny", f"outputs={command.outputs}", check=False)
    assert (
        done.returncode == 2
        and "dataset=table has no data yet. Give a file or folder (dataset.path=FILE)" in done.stderr
    )
    with pytest.raises(UserError, match="dataset=table has no data yet"):
        DATASETS["table"]().setup()
    with pytest.raises(UserError, match="dataset=table has no synthetic rows: give your own"):
        DATASETS["table"](source="synthetic").setup()
    words = ["dataset=squad", "dataset.source=synthetic", "dataset.prompt=question", "model=tiny"]
    done = command("train.py", *words, f"outputs={command.outputs}", check=False)
    assert done.returncode == 2 and "dataset=squad reads the columns id, title" in done.stderr


def test_the_same_keys_as_a_file_of_ones_own(command, tmp_path):
    path = write_csv(tmp_path / "tickets.csv", tickets())
    (tmp_path / "conf/dataset").mkdir(parents=True)
    (tmp_path / "conf/dataset/tickets.yaml").write_text(
        f"defaults: [table, _self_]\nname: tickets\npath: {path}\nprompt: ticket_text\nresponse: resolution\n"
    )
    words = ["--config-dir", str(tmp_path / "conf"), "dataset=tickets", "sample=8", "lora.r=2", *SMALL]
    command("train.py", *words, f"outputs={command.outputs}")
    done = command("evaluate.py", *words, f"outputs={command.outputs}")
    assert "F1" in done.stdout and list(command.outputs.glob("tickets/tiny-8-r2-seed0*/eval/*/results.json"))


def test_the_card_names_their_data_and_their_licence_and_few_groups_are_printed(command, tmp_path):
    rows = [{**row, "customer": str(n % 40)} for n, row in enumerate(tickets(240))]
    path = write_csv(tmp_path / "tickets.csv", rows)
    words = ["dataset=table", f"dataset.path={path}", "dataset.prompt=ticket_text", "dataset.response=resolution"]
    words += ["dataset.group=customer", "dataset.licence='our own'", "sample=8", "lora.r=2", *SMALL]
    words[words.index("eval_sample=4")] = "eval_sample=20"
    done = command("train.py", *words, "evaluate=true", f"outputs={command.outputs}")
    assert "20 items in only 4 groups" in done.stdout
    command("llama-exp", "publish", *words, f"outputs={command.outputs}", "dry_run=true", "agreement=0")
    [card] = [path.read_text() for path in command.outputs.glob("table/*/hub/adapter/README.md")]
    assert "Examples of tickets.csv" in card and "- tickets.csv, a local file" in card
    assert "The training data is under: our own." in card
    assert "medical" not in card and str(tmp_path) not in card


@pytest.mark.parametrize(
    ("items", "groups", "said"),
    [(6, 6, "F1 50.0; only 6 items"), (11, 11, "F1 50.0; only 11 items"), (12, 12, "F1 50.0")],
)
def test_few_items_are_printed_where_every_item_is_a_group_of_its_own(items, groups, said):
    assert format_scores(Results(scores={"squad/f1": 50.0}, items=items, groups=groups)) == said


def test_a_preset_with_another_file_says_what_it_gives_and_its_licence_is_not_taken(command, tmp_path):
    rows = [{"qtype": "x", "Question": f"What is {n}?", "Answer": f"It is {n}."} for n in range(60)]
    path = write_jsonl(tmp_path / "mine.jsonl", rows)
    words = ["dataset=medical", f"dataset.path={path}", "sample=8", "lora.r=2", *SMALL, f"outputs={command.outputs}"]
    done = command("train.py", *words)
    assert "but not its licence (CC BY 4.0) nor advice on its use" in done.stdout
    command("llama-exp", "publish", *words, "dry_run=true", "agreement=0")
    [card] = [path.read_text() for path in command.outputs.glob("medical/*/hub/adapter/README.md")]
    assert "Licence of the data: not stated" in card
    assert "CC BY" not in card and "medical advice" not in card
    typed = command("train.py", *words, "dataset.licence='CC BY 4.0'", "lora.r=3")
    assert "but not its licence" not in typed.stdout


def test_the_comparison_in_the_docs_counts_the_characters_that_it_shows_and_its_files_are_valid():
    section = (
        (ROOT / "docs/your_data.md").read_text(encoding="utf-8").split("## From tickets.csv to a learning curve")[1]
    )
    table, *parts = section.split("\n**")
    typed = {row.split(" | ")[0].strip("| "): int(row.split(" | ")[1]) for row in re.findall(r"^\| \w.*", table, re.M)}
    blocks = {part.split("**")[0]: re.findall(r"```\w*\n(.*?)```", part, re.S) for part in parts}
    assert typed == {tool: sum(map(len, files)) for tool, files in blocks.items()}
    assert json.loads(f"{{{blocks['LLaMA-Factory'][0].strip().rstrip(',')}}}").keys() == {"train", "test"}
    assert yaml.safe_load(blocks["Axolotl"][0])["datasets"][0]["type"]["field_output"] == "resolution"
    compile(blocks["TRL"][0], "trl", "exec")
    for script in (blocks["LLaMA-Factory"][1], blocks["Axolotl"][2]):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    words = blocks["llama_exp"][0].split()[3:]
    assert load_config(*(word.replace("50,100,200", "50").replace("4,16,64", "4") for word in words)).lora.r == 4


# -- rows to Examples --------------------------------------------------------------------------------------------------


def test_columns_become_an_example(tmp_path):
    rows = [
        {
            "q": f"Who dug {n}?",
            "a": ["Miners", "the miners"],
            "text": f"Dug by miners {n}.",
            "who": f"g{n % 7}",
            "s": "",
        }
        for n in range(40)
    ]
    keys = {"prompt": "q", "response": "a", "context": "text", "group": "who", "system_column": "s", "system": "Short."}
    example = next(
        e for e in everything(table(write_jsonl(tmp_path / "r.jsonl", rows), **keys)) if "dug 3?" in e.prompt
    )
    assert (example.prompt, example.context) == ("Who dug 3?\n\nDug by miners 3.", "Dug by miners 3.")
    assert (example.response, example.references) == ("Miners", ("Miners", "the miners"))
    assert (example.group, example.system) == ("g3", "Short.")
    placed = table(tmp_path / "r.jsonl", **keys, template="{context}\nQ: {q}")
    assert "Dug by miners 3.\nQ: Who dug 3?" in {e.prompt for e in everything(placed)}


def test_alpaca_and_sharegpt_and_messages_are_recognised_and_said(tmp_path):
    alpaca = [{"instruction": f"Add {n}", "input": f"1 and {n}" * (n % 2), "output": str(n + 1)} for n in range(40)]
    data = table(write_jsonl(tmp_path / "alpaca.jsonl", alpaca))
    assert "read as Alpaca's instruction, input and output" in data.describe()
    assert {"Add 3\n\n1 and 3", "Add 4"} < {e.prompt for e in everything(data)}
    talk = [
        [("system", "Be brief."), ("human", f"Hello {n}"), ("gpt", "Hi"), ("human", "And?"), ("gpt", "Bye")]
        for n in range(40)
    ]
    share = [{"conversations": [{"from": who, "value": what} for who, what in one]} for one in talk]
    names = {"human": "user", "gpt": "assistant", "system": "system"}
    chat = [{"messages": [{"role": names[who], "content": what} for who, what in one]} for one in talk]
    first = table(write_jsonl(tmp_path / "share.jsonl", share))
    second = table(write_jsonl(tmp_path / "chat.jsonl", chat))
    assert "ShareGPT's conversations" in first.describe() and "(column messages)" in second.describe()
    assert first.available == second.available
    example = next(e for e in everything(first) if e.history and e.history[0].text == "Hello 7")
    assert (example.prompt, example.response, example.system) == ("And?", "Bye", "Be brief.")
    assert example.history == (Turn("user", "Hello 7"), Turn("assistant", "Hi"))


def test_turns_of_one_speaker_are_joined_and_what_is_no_conversation_is_counted(tmp_path):
    good = [[("user", "a"), ("user", f"b{n}"), ("assistant", "c")] for n in range(40)]
    bad = [[("assistant", "Hi"), ("user", "Hello"), ("assistant", "x")], [("user", "alone")], [("tool", "x")]]
    rows = [{"messages": [{"role": r, "content": c} for r, c in one]} for one in good + bad]
    data = table(write_jsonl(tmp_path / "r.jsonl", rows))
    assert "a\nb3" in {e.prompt for e in everything(data)}
    assert data.counts["dropped"]["train"] == {
        "an assistant's words before the user's": 1,
        "no answer of an assistant": 1,
        "a turn by 'tool', who is neither user nor assistant": 1,
    }
    assert turns('[{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]') == [("user", "Hi")]


def test_rows_that_share_a_prompt_or_a_long_response_are_one_group_and_short_responses_join_nothing(tmp_path):
    long = "The lid was opened and closed again, after which it worked."
    rows = [{"prompt": f"p{n}", "response": "yes"} for n in range(40)]
    rows += [{"prompt": "P0!", "response": "no"}, {"prompt": "x", "response": long}, {"prompt": "y", "response": long}]
    groups = {e.prompt: e.group for e in everything(table(write_jsonl(tmp_path / "r.jsonl", rows)))}
    assert groups["p0"] == groups["P0!"] and groups["x"] == groups["y"] and len(set(groups.values())) == 41


def test_one_group_alone_says_which_key_would_help(tmp_path):
    rows = [{"prompt": "p", "response": f"r{n}"} for n in range(5)]
    with pytest.raises(UserError, match="one group of 5.*another dataset.group=COLUMN"):
        table(write_jsonl(tmp_path / "r.jsonl", rows))


@pytest.mark.parametrize("count", [1, 2])
def test_a_table_with_too_few_rows_says_how_many_are_needed(count, tmp_path):
    rows = [{"prompt": f"p{n}", "response": f"r{n}"} for n in range(3)]
    with pytest.raises(UserError, match=f"for train: {count}. Wanted 3 or more, one each for train, test, validation"):
        table(write_jsonl(tmp_path / "r.jsonl", rows[:count]))
    assert len(everything(table(write_jsonl(tmp_path / "r.jsonl", rows)))) == 3


def test_a_train_file_beside_a_test_file_needs_two_rows(tmp_path):
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "q", "response": "r"}])
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": "p", "response": "r"}])
    with pytest.raises(UserError, match="Wanted 2 or more, one each for train, validation"):
        table(tmp_path)


def test_a_column_that_one_file_of_several_lacks_is_named_with_the_file(tmp_path):
    write_jsonl(tmp_path / "train.jsonl", [{"prompt": f"p{n}", "response": "r"} for n in range(9)])
    write_jsonl(tmp_path / "test.jsonl", [{"prompt": "p", "answer": "r"}])
    with pytest.raises(UserError, match=r"\(test.jsonl\): wanted .* missing response; there are prompt, answer"):
        table(tmp_path)


@pytest.mark.parametrize(
    ("answer", "lost"),
    [
        ("The answer is word{}.", False),  # in the asker's words
        ("word{}", True),
        (["Word {}", "word{}"], True),  # the second reference lies in the context
        ("no", False),  # in no word of these contexts
    ],
)
def test_answers_that_were_cut_away_with_their_context_are_counted_where_answers_are_parts_of_it(
    answer, lost, tmp_path, tokenizer
):
    context = " ".join(f"word{n}" for n in range(200))

    def answer_to(n):
        return [one.format(n) for one in answer] if isinstance(answer, list) else answer.format(n)

    rows = [{"q": f"Which {n}?", "a": answer_to(4 * n), "c": context, "g": f"{n}"} for n in range(40)]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    data = table(path, prompt="q", response="a", context="c", group="g", tokenizer=tokenizer)
    counts = data.encoded("train") and data.counts["encoded"]["train"]
    assert counts["shortened"] == len(data.train) and (0 < counts["answers_lost"] < len(data.train)) == lost
    assert ("of them lost the answer with it" in data.shortened_prompts()) == lost


# -- metrics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("responses", "names"),
    [
        (["yes", "no"] * 30, ["label"]),
        ([f"in {year}" for year in range(1900, 1990)], ["squad"]),
        (["yes", "no"] * 3, ["squad"]),  # too few to call them labels
        ([f"A whole sentence about the matter number {n}." for n in range(50)], ["rouge", "bertscore"]),
        (
            [
                f"この問題についての長い文章はここに番号で示されますので、どうぞよろしくお願いいたします{'あ' * n}。"
                for n in range(50)
            ],
            ["bertscore"],
        ),
    ],
)
def test_metrics_follow_what_responses_look_like(responses, names):
    assert default_metrics(responses, encoder=True)[0] == names
    assert "bertscore" not in default_metrics(responses, encoder=False)[0]


def test_all_cells_of_a_sweep_choose_the_metrics_of_the_whole_training_split(tmp_path):
    from llama_exp.evaluation.auto_metrics import with_metrics
    from llama_exp.session import Session

    rows = [{"prompt": f"p{n}", "response": ["red", "blue"][n % 2]} for n in range(100)]
    path = write_jsonl(tmp_path / "r.jsonl", rows)
    for sample in (1, 50):
        config = load_config("dataset=table", f"dataset.path={path}", "model=tiny", f"sample={sample}")
        assert with_metrics(config, Session()).dataset.metrics == ["label"]
    named = load_config("dataset=table", f"dataset.path={path}", "dataset.metrics=[squad]")
    assert with_metrics(named, Session()) is named
    assert default_config({"dataset": "squad"}).dataset.metrics == ["squad"]


def test_accuracy_and_macro_f1_of_labels_equal_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    wanted = ["red", "blue", "green", "red", "blue", "red"]
    given = [" Red.", "red", "green", "BLUE", "blue", "red"]
    predictions = [Prediction(w + g, "p", (w,), g, "g") for w, g in zip(wanted, given, strict=True)]
    found, clean = measure("label", predictions, {}), [reply.strip(" .").lower() for reply in given]
    assert sum(found.items["label/accuracy"]) / 6 == pytest.approx(100 * metrics.accuracy_score(wanted, clean))
    macro_f1 = metrics.f1_score(wanted, clean, average="macro")
    assert found.corpus["label/macro_f1"](predictions) == pytest.approx(100 * macro_f1)
    unreadable = [*predictions, Prediction("x", "p", ("red",), "I do not know", "g")]
    assert measure("label", unreadable, {}).facts == {
        "labels": 3,
        "unreadable": 1,
        "commonest": "red",
        "always_commonest": pytest.approx(100 * 4 / 7),
    }
