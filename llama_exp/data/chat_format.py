"""The wording around a message, the same in training, evaluation, simulation, chat and cards: `chat_format(tokenizer)`.

The tokenizer's own chat template decides where it has one. Without one, Llama 2's format is used where the tokenizer
has <s> and </s>, else a plain one. Llama 2's format has an encoder of its own, whatever its template says:

    <s>[INST] <<SYS>>\nsystem\n<</SYS>>\n\nuser [/INST] earlier reply </s><s>[INST] user [/INST] reply</s>

`<s>` and `</s>` above are ids, never text: written into the text, "<s>[INST]" tokenises to 29961 where Meta's reference
has 518 (https://github.com/meta-llama/llama, `chat_completion`), and the model would be asked in words it never learnt.
An earlier reply ends in a space, as in that reference; the reply that is learnt ends directly in `</s>`.

What people and models write is encoded as text alone: "</s>" in a message never ends a turn. The message itself is a
dataset's template (`dataset.template`), filled in.
"""

import functools
import hashlib
import re
from collections.abc import Iterable, Sequence
from string import Formatter
from typing import Any, Protocol

from llama_exp.errors import UserError
from llama_exp.formatting import plural
from llama_exp.records import Example, Tokens, Turn

PLAIN = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ message['content'] + '\n\n' }}"
    "{% elif message['role'] == 'user' %}{{ 'User:\n' + message['content'] + '\n\nAssistant:\n' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}{% endfor %}"
)
# A template may ask for today's date: it gets Llama 3.1's own default instead, so that all runs read the same prompt.
DATE = {"d": "26", "m": "07", "Y": "2024", "y": "24", "b": "Jul", "B": "July", "a": "Fri", "A": "Friday"}
FIXED_DATE = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f"|replace('%{key}', '{value}')" for key, value in DATE.items())
    + " }}{% endmacro %}\n"
)
SLOT = "\ue000{}\ue001"  # stands for a message while a template is rendered
SLOTS = re.compile("\ue000(\\d+)\ue001")


class ChatFormat(Protocol):
    """How a conversation becomes ids. end: the id that ends a reply, where generation stops."""

    end: int

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        """The ids that generation starts from."""

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids to learn, `end` included; [] for an empty text."""

    def is_whole(self, item: Tokens) -> bool:
        """Whether each turn of an encoded Example begins and ends once, and only the last end is learnt."""

    def audit(self, items: Sequence[Tokens]) -> str:
        """The marks of turns in a training set and what is learnt, in a line."""

    def describe(self) -> dict[str, Any]:
        """What is stored with a run."""


def chat_format(tokenizer) -> ChatFormat:
    """The format of a tokenizer's model. Raises UserError for a template that cannot be learnt from."""
    return _chat_format(tokenizer, repr(tokenizer.chat_template))


@functools.lru_cache(maxsize=4)
def _chat_format(tokenizer, template: str) -> ChatFormat:
    if tokenizer.chat_template:
        return Llama2Format(tokenizer) if "<<SYS>>" in template else TemplateFormat(tokenizer)
    if (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>"):
        return Llama2Format(tokenizer)
    return TemplateFormat(tokenizer, PLAIN)


def text_ids(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of what people and models write; split_special_tokens: no special token is recognised in it."""
    if not texts:
        return []
    return tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]


class Llama2Format:
    """Meta's reference, by ids."""

    def __init__(self, tokenizer):
        self.tokenizer, self.bos, self.end = tokenizer, tokenizer.bos_token_id, tokenizer.eos_token_id

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        worded = [prompt_texts(example) for example in examples]
        encoded = iter(text_ids(self.tokenizer, [text for texts in worded for text in texts]))
        prompts = []
        for texts in worded:
            prompt: list[int] = []
            for index in range(len(texts)):  # even: a user turn after BOS; odd: an earlier reply before EOS
                ids = next(encoded)
                prompt += [self.bos, *ids] if index % 2 == 0 else [*ids, self.end]
            prompts.append(prompt)
        return prompts

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        return [[*ids, self.end] if ids else [] for ids in text_ids(self.tokenizer, [text.strip() for text in texts])]

    def is_whole(self, item: Tokens) -> bool:
        """<s> … </s><s> … </s>: each BOS comes first or after an EOS, each EOS comes last or before a BOS."""
        ids, last = item.input_ids, len(item.input_ids) - 1
        starts = [index for index, token in enumerate(ids) if token == self.bos]
        ends = [index for index, token in enumerate(ids) if token == self.end]
        paired = starts[:1] == [0] and ends[-1:] == [last] and [index + 1 for index in ends[:-1]] == starts[1:]
        learnt = item.labels[last] == self.end and item.labels.count(self.end) == 1
        return paired and learnt and self.bos not in item.labels

    def audit(self, items: Sequence[Tokens]) -> str:
        turns = sum(item.input_ids.count(self.bos) for item in items)
        return (
            f"Llama 2's chat format: one BOS and one EOS in each of {plural(turns, 'turn')}; "
            "the last EOS of each Example is learnt"
        )

    def describe(self) -> dict[str, Any]:
        return {"kind": "llama2", "end": self.tokenizer.eos_token}


class TemplateFormat:
    """A chat template, rendered in transformers' sandbox with slots in the place of messages.

    It is rendered once for each order of roles. The text between two of its special tokens is encoded as one piece,
    with messages in their slots, and in it no special token is recognised. For messages that hold none the ids are
    those of transformers' `apply_chat_template`, which is tried on a conversation before anything is encoded.
    """

    def __init__(self, tokenizer, template: str | None = None):
        self.tokenizer, self.kind = tokenizer, "plain" if template else "template"
        self._layouts: dict[tuple[bool, int, bool], list[str | int]] = {}
        added = tokenizer.added_tokens_decoder.items()
        self._special = {token.content: number for number, token in added if token.special}
        self._anchor = ""
        try:
            self.template = template or tokenizer.get_chat_template()
        except ValueError as error:  # several templates, and none of them the default
            raise self._refusal(str(error).split("\n")[0]) from None
        if "strftime_now" in self.template:
            self.template = FIXED_DATE + self.template
        self.has_system = self._has_system()
        self.end, self._before, self._lead, self._after = self._marks_of_a_reply()
        self._check()

    def prompts(self, examples: Sequence[Example]) -> list[list[int]]:
        conversations = [self._pieces(example) for example in examples]
        first = [parts[0] for parts in conversations if isinstance(parts[0], str)]
        rest = [part for parts in conversations for part in parts[1:] if isinstance(part, str)]
        firsts, rests = iter(text_ids(self.tokenizer, first)), iter(self._inner_ids(rest))
        prompts = []
        for parts in conversations:
            pieces = [
                [part] if isinstance(part, int) else next(rests if index else firsts)
                for index, part in enumerate(parts)
            ]
            prompts.append([token for piece in pieces for token in piece])
        return prompts

    def responses(self, texts: Sequence[str]) -> list[list[int]]:
        texts = [text.strip() for text in texts]
        head = self._inner_ids([self._before])[0]
        joined = self._inner_ids([f"{self._before}{self._lead}{text}{self._after}" for text in texts])
        return [
            [*self._without(head, ids, text), self.end] if text else [] for text, ids in zip(texts, joined, strict=True)
        ]

    def _without(self, head: list[int], ids: list[int], text: str) -> list[int]:
        if ids[: len(head)] == head:
            return ids[len(head) :]
        # The reply's first character would merge with the words before it, which generation has read already.
        return self._inner_ids([f"{self._lead}{text}{self._after}"])[0]

    def is_whole(self, item: Tokens) -> bool:
        """At most one BOS for each end of a turn; of the special ids only the last end is learnt."""
        special = set(self._special.values())
        learnt = [label for label in item.labels if label in special]
        bos = item.input_ids.count(self.tokenizer.bos_token_id)
        return learnt == [self.end] and item.labels[-1] == self.end and bos <= item.input_ids.count(self.end)

    def audit(self, items: Sequence[Tokens]) -> str:
        bos, ends = (
            sum(item.input_ids.count(mark) for item in items) for mark in (self.tokenizer.bos_token_id, self.end)
        )
        name = {"template": "the tokenizer's chat template", "plain": "a plain chat format"}[self.kind]
        end = self.tokenizer.convert_ids_to_tokens(self.end)
        return (
            f"{name}: {bos:,} BOS and {ends:,} {end} in {plural(len(items), 'Example')}; "
            f"each response and the {end} that ends it are learnt"
        )

    def describe(self) -> dict[str, Any]:
        end = self.tokenizer.convert_ids_to_tokens(self.end)
        date = {"date": "2024-07-26"} if self.template.startswith(FIXED_DATE) else {}
        digest = hashlib.sha256(self.template.encode()).hexdigest()
        return {"kind": self.kind, "end": end, "template_sha256": digest, "system": self.has_system, **date}

    # -- the template --------------------------------------------------------------------------------------------------

    def _render(self, messages: list[dict[str, str]], prompt: bool, **options: Any) -> Any:
        """transformers' own rendering: text, or ids with tokenize=True."""
        options = {"tokenize": False, **options}
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, add_generation_prompt=prompt, **options
            )
        except Exception as error:  # a template can raise anything
            raise self._refusal(str(error).split("\n")[0] or type(error).__name__) from None

    def _layout(self, system: bool, turns: int, prompt: bool) -> list[str | int]:
        """Text with slots, and ids of the template's special tokens, for one order of roles."""
        key = system, turns, prompt
        if key not in self._layouts:
            roles = ["system"] * system + [("user", "assistant")[index % 2] for index in range(turns)]
            messages = [{"role": role, "content": SLOT.format(index)} for index, role in enumerate(roles)]
            text = self._render(messages, prompt)
            if SLOTS.findall(text) != [str(index) for index in range(len(roles))]:
                raise self._refusal(f"of the messages by {', '.join(roles)} it does not show each once and in order")
            self._layouts[key] = [self._special.get(part, part) for part in self._split(text)]
        return self._layouts[key]

    def _split(self, text: str) -> list[str]:
        """A text cut before and after each special token."""
        longest_first = sorted(self._special, key=len, reverse=True)
        return [part for part in re.split(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})", text) if part]

    def _has_system(self) -> bool:
        self._layout(False, 1, True)
        try:
            self._layout(True, 1, True)
        except UserError:
            return False
        return True

    def _marks_of_a_reply(self) -> tuple[int, str, str, str]:
        """(the id that ends a reply, the text before it that generation starts from, blanks and text that are learnt
        with it before and after)."""
        prompt, whole = (
            "".join(part if isinstance(part, str) else f"\0{part}\0" for part in layout)
            for layout in (self._layout(False, 1, True), self._layout(False, 2, False))
        )
        lead, _, rest = whole.removeprefix(prompt).partition(SLOT.format(1))
        if not whole.startswith(prompt) or lead.strip():  # blanks before a reply can be learnt, marks cannot
            raise self._refusal("what generation starts from is not the beginning of the whole conversation")
        after, _, rest = rest.partition("\0")
        if not rest:
            raise self._refusal("no special token ends a reply, so generation would not stop")
        return int(rest.partition("\0")[0]), re.split("[\0\ue001]", prompt)[-1], lead, after

    def _check(self) -> None:
        """Find the anchor by which a conversation gets transformers' own ids; UserError where there is none."""
        turns = [Turn("user", "Hello there."), Turn("assistant", "Good day."), Turn("user", "Who dug the lake?")]
        messages = [{"role": turn.role, "content": turn.text} for turn in turns]
        answered = [*messages, {"role": "assistant", "content": "Miners did."}]
        example = Example("", turns[2].text, "", (), "", history=tuple(turns[:2]))
        as_ids = {"tokenize": True, "return_dict": False}
        if self._render(messages[:1], True, **as_ids).count(self.tokenizer.bos_token_id) > 1:
            raise self._refusal(f"it begins with {self.tokenizer.bos_token} twice, which the model has never read")
        prompt, whole = self._render(messages, True, **as_ids), self._render(answered, False, **as_ids)
        for self._anchor in ("", "\n"):
            ids, response = self.prompts([example])[0], self.responses([answered[-1]["content"]])[0]
            if ids == prompt and ids + response == whole[: len(ids + response)]:
                return
        raise self._refusal("with messages encoded as text alone its ids are not those of transformers")

    def _refusal(self, reason: str) -> UserError:
        return UserError(
            f"The chat template of {self.tokenizer.name_or_path} cannot be used: {reason}. Mend it in the model's "
            "folder (chat_template.jinja or tokenizer_config.json), or take the template, and nothing else, out of it "
            "for Llama 2's or a plain format."
        )

    # -- ids -----------------------------------------------------------------------------------------------------------

    def _pieces(self, example: Example) -> list[str | int]:
        """The layout of an Example's roles with its messages in the slots."""
        texts = [turn.text.strip() for turn in example.history] + [example.prompt.strip()]
        system = bool(example.system) and self.has_system
        if example.system and not system:  # no role for it: it opens the first message, as in Mistral's reference
            texts[0] = f"{example.system}\n\n{texts[0]}"
        contents = [example.system.strip()] * system + texts
        return [
            part if isinstance(part, int) else SLOTS.sub(lambda slot: contents[int(slot[1])], part)
            for part in self._layout(system, len(texts), True)
        ]

    def _inner_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts that do not open the conversation: SentencePiece puts a space before those that do."""
        skip = len(text_ids(self.tokenizer, [self._anchor])[0]) if self._anchor else 0
        return [ids[skip:] for ids in text_ids(self.tokenizer, [self._anchor + text for text in texts])]


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
