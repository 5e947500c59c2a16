"""The key=value words of the study's commands, taken as they are: any text may follow the first "="."""

import re
import shlex
import sys
from collections.abc import Mapping

from llama_exp.errors import UserError

MAKING = "NAME=EVALUATION NAME=reference [items=50] [raters=2] …"


def given(typed: list[str], program: str, known: Mapping[str, tuple[str, str]] | None = None) -> dict[str, str]:
    """key=value words as a dict; with `known`, {key: (its default, what it means)}, no other key. Values are taken as they are."""
    keys = [f"[{key}=…]" for key in list(known)[1:]] if known else [MAKING]
    usage = " ".join([f"python -m {program} study=FOLDER", *keys])
    if {"-h", "--help"} & set(typed):
        words = {
            f"{key}={value if value == '…' else shlex.quote(value)}": means
            for key, (value, means) in (known or settings()).items()
        }
        print("\n".join([usage, "", *(f"    {word:<27} {means}" for word, means in words.items())]))
        sys.exit(0)
    wrong = [word for word in typed if "=" not in word or (known and word.split("=")[0] not in known)]
    if wrong:
        raise UserError(f"{shlex.join(wrong)}: wanted key=value words. Type: {usage}")
    values = dict(word.split("=", 1) for word in typed)
    if not values.get("study"):
        raise UserError(f"Which study? Type: {usage}")
    return values


def settings() -> dict[str, tuple[str, str]]:
    """The words that make a study, {key: (its default, what it means)}: conditions, and what conf/study.yaml itself says."""
    from llama_exp.config.compose import CONF

    lines = re.findall(r"^(\w+): *(.*?) *(?:# (.*))?$", (CONF / "study.yaml").read_text(encoding="utf-8"), re.MULTILINE)
    words = {
        "study": ("FOLDER", "where the study goes"),
        "NAME": (
            "EVALUATION",
            "a condition: a folder that evaluate.py wrote, outputs/…/eval/…; two or more of them, or one and",
        ),
        "human": ("reference", "the human reference"),
    }
    for key, value, means in lines:
        if value in ("", ">-") or value.startswith("["):  # several lines
            words[key] = "…", f"{means} (see conf/study.yaml)"
        else:
            words[key] = (value, means) if len(value) < 20 else ("…", f"{means} (default: {value})")
    return words
