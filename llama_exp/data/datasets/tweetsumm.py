"""TweetSumm: a conversation between a customer and a company's agents on Twitter -> its summary, or its turns."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_exp.data import sources
from llama_exp.data.datamodule import ExampleDataModule, text
from llama_exp.data.dialogue import AGENT, CLIENT, SIDES, SYSTEM, SpokenTurn, next_turn_example
from llama_exp.records import Example
from llama_exp.runs.files import parse_json

SPEAKERS = (("user utterance", CLIENT), ("system response", AGENT))
NAMES = {CLIENT: "Customer", AGENT: "Agent"}  # in a dialogue to sum up
TURNS = {"turns": SIDES, "agent_turns": (AGENT,), "client_turns": (CLIENT,)}  # task -> whose turns are learnt
BREAK = re.compile(r"\s*\n\s*")


class TweetSummDataModule(ExampleDataModule):
    """A row of `Salesforce/dialogstudio`, `TweetSumm`:

        {"new dialog id": "TweetSumm--train--7", "original dialog id": "9f2c…",
         "original dialog info": "{\\"summaries\\": {\\"abstractive_summaries\\":
             [[\\"Customer asks where the parcel is.\\", \\"Agent asks for the order number.\\"], …]}}",
         "log": [{"user utterance": "@115850 where is my parcel??", "system response": "@264 Sorry! ^AB"}]}

    Quirks: the info is a string of JSON on the hub and an object on disk, where a file is one object keyed by the new
    dialog id; a "turn" is often several tweets run together. A summary is two sentences, the customer's side and the
    agent's; there are one to five summaries. All are references, and the first is the response to learn.

    task=summary (the default): the dialogue, in the template's words -> its summary.
    task=turns, agent_turns, client_turns: what was said before -> what the agent or the client says next. Each side
    sees the conversation from its own side (dialogue.py) and is told who it is; the template is not used. Several
    tweets of one side in a row are one turn; what an agent says before the client is dropped.
    """

    conf = "tweetsumm"
    columns = ("new dialog id", "original dialog id", "original dialog info", "log")
    fields = ("dialogue",)
    tasks = ("summary", *TURNS)
    splits = {"train": "train", "validation": "validation", "test": "test"}

    def read(self, row: dict) -> list[Example]:
        return self.summary(row) if self.dataset.task == "summary" else self.turns(row)

    def summary(self, row: dict) -> list[Example]:
        references = summaries(row["original dialog info"])
        dialogue = "\n".join(self.lines(row["log"]))
        if not references:
            return self.drop("no summary")
        if not dialogue:
            return self.drop("no conversation")
        name, group = text(row["new dialog id"]), text(row["original dialog id"])
        return [Example(name, self.fill(dialogue=dialogue), references[0], references, group, context=dialogue)]

    def turns(self, row: dict) -> list[Example]:
        turns = joined(self.spoken(row["log"]))
        if turns and turns[0][0].speaker == AGENT:
            self.drop("an agent's words before the client's")
            turns = turns[1:]
        if not turns:
            return self.drop("no conversation")
        name, group = text(row["new dialog id"]), text(row["original dialog id"])
        return [
            self.turn(f"{name}-{index}", [before for before, _ in turns[:index]], *turns[index], group)
            for index in range(len(turns))
            if turns[index][0].speaker in TURNS[self.dataset.task]
        ]

    def turn(self, name: str, before: list[SpokenTurn], utterance: SpokenTurn, written: str, group: str) -> Example:
        system = self.dataset.system or SYSTEM[utterance.speaker]
        return next_turn_example(name, before, utterance.speaker, system, utterance.text, written, group)

    def lines(self, log: Any) -> list[str]:
        """["Customer: where is my parcel??", "Agent: Sorry!"]: a line a turn, cleaned."""
        return [f"{NAMES[utterance.speaker]}: {utterance.text}" for utterance, _ in self.spoken(log)]

    def spoken(self, log: Any) -> Iterator[tuple[SpokenTurn, str]]:
        """Who said what, cleaned and on one line, and as it was written; what cleaning leaves empty is left out."""
        for turn in unpacked(log) or ():
            for key, speaker in SPEAKERS:
                written = text(turn.get(key))
                words = self.clean(written, agent=speaker == AGENT).strip()
                if words:
                    yield SpokenTurn(speaker, BREAK.sub(" ", words)), written

    def rows_on_disk(self) -> sources.Rows:
        """Rows from DialogStudio's own files (train.json, val.json, test.json); else what `load_dataset` reads."""
        location = sources.find_path(self.dataset.path)
        if location.is_file():
            files = {"train": location}
        else:
            files = {
                split: location / f"{name}.json"
                for split, name in (
                    ("train", "train"),
                    ("validation", "val"),
                    ("validation", "validation"),
                    ("test", "test"),
                )
                if (location / f"{name}.json").exists()
            }
        rows = {split: keyed_rows(path) for split, path in files.items() if path.suffix == ".json"}
        return rows if rows and all(rows.values()) else super().rows_on_disk()


def joined(spoken: Iterator[tuple[SpokenTurn, str]]) -> list[tuple[SpokenTurn, str]]:
    """Turns that alternate: what one side says in a row is one turn, a line each."""
    turns: list[tuple[SpokenTurn, str]] = []
    for utterance, written in spoken:
        if turns and turns[-1][0].speaker == utterance.speaker:
            before, raw = turns.pop()
            utterance, written = SpokenTurn(utterance.speaker, f"{before.text}\n{utterance.text}"), f"{raw}\n{written}"
        turns.append((utterance, written))
    return turns


def summaries(info: Any) -> tuple[str, ...]:
    """Every human summary as one text, as written."""
    found = (((unpacked(info) or {}).get("summaries")) or {}).get("abstractive_summaries") or ()
    found = (found,) if isinstance(found, str) else found
    joined = (s if isinstance(s, str) else " ".join(text(sentence) for sentence in s or ()) for s in found)
    return tuple(summary.strip() for summary in joined if summary.strip())


def unpacked(value: Any) -> Any:
    """JSON kept in a string, or the thing itself; None for a string that is no JSON."""
    if not isinstance(value, str):
        return value
    try:
        return parse_json(value)
    except ValueError:
        return None


def keyed_rows(path: Path) -> list[dict]:
    """Rows of a file that is one object {dialog id: row}; [] for any other JSON."""
    rows = unpacked(path.read_text(encoding="utf-8"))
    if not isinstance(rows, dict) or not all(isinstance(row, dict) and "log" in row for row in rows.values()):
        return []
    return [
        {"new dialog id": name, "original dialog id": name, "original dialog info": None, **row}
        for name, row in rows.items()
    ]
