"""The wording around a message: Llama 2's chat format, the same in training, evaluation, simulation and chat.

    <s>[INST] <<SYS>>\\nsystem\\n<</SYS>>\\n\\nuser [/INST] earlier reply </s><s>[INST] user [/INST] reply</s>

`<s>` and `</s>` above are ids, never text: written into the text, "<s>[INST]" tokenises to 29961 where Meta's reference
has 518 (https://github.com/meta-llama/llama, `chat_completion`), and the model would be asked in words it never learnt.
An earlier reply ends in a space, as in that reference; the reply that is learnt ends directly in `</s>`.
The message itself is a dataset's template (`dataset.template`), filled in.
"""

from collections.abc import Iterable
from string import Formatter

from llama_exp.errors import UserError
from llama_exp.records import Example, Turn


def user_text(message: str, system: str = "") -> str:
    """The text of one user turn, as it is tokenised after BOS."""
    if system:
        message = f"<<SYS>>\n{system}\n<</SYS>>\n\n{message}"
    return f"[INST] {message.strip()} [/INST]"


def prompt_texts(example: Example) -> list[str]:
    """All texts before the response, in order: user, reply, user, reply, …, user.

    Even indices are user turns (a BOS before each), odd indices are earlier replies (an EOS after each).
    The system prompt stands in the first user turn only.
    """
    texts = [turn.text.strip() for turn in example.history] + [example.prompt]
    return [
        user_text(text, "" if index else example.system) if index % 2 == 0 else f"{text} "
        for index, text in enumerate(texts)
    ]


def check_alternation(turns: Iterable[Turn]) -> None:
    """History must be user, assistant, user, assistant …: Llama 2's format has no other order."""
    for index, turn in enumerate(turns):
        wanted = ("user", "assistant")[index % 2]
        if turn.role != wanted:
            raise ValueError(f"turn {index} of the history is by {turn.role!r}, wanted {wanted!r}")


def check_template(template: str, fields: tuple[str, ...]) -> None:
    """Raise a UserError for a template that `str.format` would refuse, or that names a field the dataset has not."""
    try:
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise UserError(f"dataset.template: {error}. Write a literal brace twice: {{{{ or }}}}.\n{template}") from None
    unknown = sorted(named - set(fields))
    if unknown:
        raise UserError(
            f"dataset.template names {', '.join('{' + name + '}' for name in unknown)}; "
            f"the fields there are: {', '.join('{' + field + '}' for field in fields)}."
        )
