"""Sentences for people are macros in templates/*.jinja, where they can be read and translated; here they are loaded."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from llama_exp.formatting import join_list, plural

TEMPLATES = Path(__file__).with_name("templates")  # page_style.jinja is the other pages' style too


class Sentences:
    """The macros of one template as functions that return a line of text: `Sentences("findings").best(metric=…)`."""

    def __init__(self, name: str):
        self._macros = load_template(f"{name}.jinja").module

    def __getattr__(self, name: str) -> Callable[..., str]:
        macro = getattr(self._macros, name)
        return lambda **values: re.sub(r"[ \n]+", " ", macro(**values)).strip()


@cache
def load_template(name: str) -> Template:
    """A template of this package. HTML is escaped, text is not."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=".html" in name, undefined=StrictUndefined)
    environment.filters |= {"plural": plural, "listed": join_list}
    return environment.get_template(name)
