"""What a training set consists of, for a person: counts, marks of turns, and one Example with its mask."""

from rich.console import Console
from rich.text import Text

from llama_exp.data.chat_format import chat_format
from llama_exp.errors import UserError
from llama_exp.formatting import join_list, plural
from llama_exp.records import Tokens
from llama_exp.sanitize import visible

SHOWN = 1200  # characters of a prompt that are printed; the middle of a longer one is left out


def show_data(data, tokenizer, with_example: bool) -> None:
    """Print what reaches training, check the marks of every turn, and print the first Example as the model sees
    it."""
    tokens, counts, sample = data.encoded("train"), data.counts["encoded"]["train"], data.counts["sample"]
    requested = "all" if sample["asked"] is None else f"{sample['asked']:,}"
    print(data.describe())
    say(
        f"  {requested} requested, {sample['used']:,} sampled; "
        f"{data.reaching_training() or 'all of them reach training'}; {plural(counts['shortened'], 'prompt')} "
        f"shortened ({counts['answers_lost']:,} lost the answer)"
    )
    say(
        f"  an epoch has {plural(counts['tokens'], 'token')}, {counts['label_tokens']:,} of them to learn "
        f"({counts['label_tokens'] / max(counts['tokens'], 1):.1%})"
    )
    marks = chat_format(tokenizer)
    if wrong := [item.id for item in tokens if not marks.is_whole(item)]:
        raise UserError(
            f"{len(wrong):,} of {len(tokens):,} Examples do not have one beginning and one end per turn, the last end "
            f"to learn: {join_list(wrong)}. Their prompts contain special tokens of another format."
        )
    say(f"  {marks.audit(tokens)}")
    if with_example:
        say(f"\nThe first Example ({tokens[0].id}); what is learnt is [[in double brackets]], the rest is masked:")
        Console(highlight=False, markup=False, emoji=False).print(decode_mask(tokens[0], tokenizer), soft_wrap=True)
        print(flush=True)


def decode_mask(item: Tokens, tokenizer) -> Text:
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


def say(text: str, style: str = "") -> None:
    """Print one line, unwrapped, with nothing in it taken for markup."""
    Console(highlight=False, markup=False, emoji=False).print(Text(text, style=style), soft_wrap=True)
