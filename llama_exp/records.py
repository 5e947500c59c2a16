"""What flows through an experiment: frozen records of built-in types, and their files on disk.

    row -> Example -> Tokens -> Batch -> adapter -> Prediction -> results.json

The same records cross every module border and lie on disk as JSON lines, so that `predictions.jsonl` can be read,
joined and scored without this package. Nothing here imports torch.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Turn:
    """What one speaker says. `role` is "user" or "assistant"."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Example:
    """One thing to learn or to be evaluated on.

    prompt      the user's message, whole, already in the dataset's wording
    response    the answer to learn; never shortened
    references  every answer that counts as right
    group       the cluster it belongs to (SQuAD: the article); never on two sides of a split
    context     the part of `prompt` that may be shortened when it is too long ("" = any of it may)
    history     earlier turns, user first, alternating, ending with an assistant's
    tags        labels to break scores down by ({"qtype": "treatment"})
    """

    id: str
    prompt: str
    response: str
    references: tuple[str, ...]
    group: str
    context: str = ""
    history: tuple[Turn, ...] = ()
    system: str = ""
    tags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tokens:
    """An encoded Example. `labels` is -100 over the prompt and equals `input_ids` over the response and its EOS."""

    id: str
    input_ids: list[int]
    labels: list[int]

    @property
    def label_tokens(self) -> int:
        return sum(label != -100 for label in self.labels)


@dataclass(frozen=True, slots=True)
class Prediction:
    """A reply to a held-out Example.

    nll         summed negative log-likelihood of the response and its EOS under the model, in nats (None: not measured)
    tokens      how many tokens that sum runs over
    finished    whether the reply ended by itself (EOS) before the limit
    shortened   whether the prompt had to be shortened to fit
    response    the answer to learn, cleaned as the model learns it; `references` are as written
    system, history    what the model read before `prompt`: the system prompt and the turns before

    Files of earlier versions have none of the last three.
    """

    id: str
    prompt: str
    references: tuple[str, ...]
    reply: str
    group: str
    nll: float | None = None
    tokens: int = 0
    finished: bool = True
    shortened: bool = False
    tags: dict[str, str] = field(default_factory=dict)
    response: str = ""
    system: str = ""
    history: tuple[Turn, ...] = ()

    @property
    def has_context(self) -> bool:
        """Whether it records the response and what the model read before the prompt: files of earlier versions do
        not."""
        return bool(self.response or self.system or self.history)


@dataclass(frozen=True, slots=True)
class Rating:
    """A rater's verdict on one item of a study: "left", "right", "tie", or scores on named scales."""

    rater: str
    item: str
    verdict: str
    scores: dict[str, int] = field(default_factory=dict)
    comment: str = ""
    seconds: float = 0.0
