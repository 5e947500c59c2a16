"""What a training set is made of, for a person: counts, the marks of its turns, and one Example with its mask."""

import unicodedata

from rich.console import Console
from rich.text import Text

from llama_exp.errors import UserError
from llama_exp.formatting import join_list, plural
from llama_exp.records import Tokens

SHOWN = 1200  # characters of a prompt that are printed; the middle of a longer one is left out


def show_data(data, tokenizer, with_example: bool) -> None:
    """What reaches training; the turns' marks; the first Example as the model sees it."""
    tokens, counts = data.encoded("train"), data.counts["encoded"]["train"]
    asked = data.counts["sample"]["asked"]
    print(data.describe())
    say(
        f"  {'all' if asked is None else format(asked, ',')} asked for, {data.counts['sample']['used']:,} sampled, "
        f"{counts['encoded']:,} reach training; {counts['dropped_response_too_long']:,} dropped (their response does not "
        f"fit), {counts['dropped_no_response']:,} without a response, {counts['shortened']:,} prompts shortened "
        f"({counts['answers_lost']:,} lost the answer)"
    )
    say(
        f"  an epoch has {plural(counts['tokens'], 'token')}, {counts['label_tokens']:,} of them to learn "
        f"({counts['label_tokens'] / max(counts['tokens'], 1):.1%})"
    )
    wrong = [item.id for item in tokens if not whole_turns(item, tokenizer.bos_token_id, tokenizer.eos_token_id)]
    if wrong:
        raise UserError(
            f"{len(wrong):,} of {len(tokens):,} Examples do not have one BOS and one EOS a turn, the last EOS to "
            f"learn: {join_list(wrong)}. Their prompts hold marks of another format."
        )
    turns = sum(item.input_ids.count(tokenizer.bos_token_id) for item in tokens)
    say(f"  one BOS and one EOS in each of {plural(turns, 'turn')}; the last EOS of each Example is learnt")
    if with_example:
        say(f"\nThe first Example ({tokens[0].id}); what is learnt stands [[like this]], the rest is masked:")
        Console(highlight=False, markup=False, emoji=False).print(decoded(tokens[0], tokenizer), soft_wrap=True)
        print(flush=True)


def whole_turns(item: Tokens, bos: int, eos: int) -> bool:
    """<s> … </s><s> … </s>: each BOS is the first id or follows an EOS, each EOS is the last or stands before a BOS."""
    ids, end = item.input_ids, len(item.input_ids) - 1
    starts = [place for place, token in enumerate(ids) if token == bos]
    ends = [place for place, token in enumerate(ids) if token == eos]
    paired = starts[:1] == [0] and ends[-1:] == [end] and [place + 1 for place in ends[:-1]] == starts[1:]
    return paired and item.labels[end] == eos and item.labels.count(eos) == 1 and bos not in item.labels


def decoded(item: Tokens, tokenizer) -> Text:
    """The ids as text: masked parts dim, what is learnt green and in [[ ]], so that it can be read without colour."""
    shown, start = Text(), 0
    learnt = [label != -100 for label in item.labels]
    for end in range(1, len(learnt) + 1):
        if end < len(learnt) and learnt[end] == learnt[start]:
            continue
        text = visible(tokenizer.decode(item.input_ids[start:end]))
        if learnt[start]:
            shown.append(f"[[{text}]]", style="bold green")
        else:
            left_out = f" … {len(text) - SHOWN:,} characters … "
            text = text if len(text) <= SHOWN else text[: SHOWN // 2] + left_out + text[-SHOWN // 2 :]
            shown.append(text, style="dim")
        start = end
    return shown


def visible(text: str) -> str:
    """Data must not steer the terminal: control characters become a replacement sign."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf") else "\ufffd" for c in text)


def say(text: str, style: str = "") -> None:
    Console(highlight=False, markup=False, emoji=False).print(Text(text, style=style), soft_wrap=True)
