"""The key=value words of the study's commands, taken as they are: any text may follow the first "="."""

import shlex
import sys

from llama_exp.records import Problem


def given(typed: list[str], program: str, known: tuple[str, ...] | None = None) -> dict[str, str]:
    """key=value words as a dict; with `known`, no other key. Values are taken as they are, whatever they hold."""
    keys = [f"[{key}=…]" for key in known[1:]] if known else ["NAME=EVALUATION NAME=reference [items=50] [raters=2] …"]
    usage = " ".join([f"python -m {program} study=FOLDER", *keys])
    if {"-h", "--help"} & set(typed):
        print(usage if known else f"{usage}\nThe keys, with what they mean: conf/study.yaml")
        sys.exit(0)
    wrong = [word for word in typed if "=" not in word or (known and word.split("=")[0] not in known)]
    if wrong:
        raise Problem(f"{shlex.join(wrong)}: wanted key=value words. Type: {usage}")
    values = dict(word.split("=", 1) for word in typed)
    if not values.get("study"):
        raise Problem(f"Which study? Type: {usage}")
    return values
