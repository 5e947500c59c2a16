"""What a training set consists of, for a person: counts, BOS and EOS of its turns, and one Example with its mask."""

from rich.console import Console
from rich.text import Text

from llama_exp.errors import UserError
from llama_exp.formatting import join_list, plural
from llama_exp.records import Tokens
from llama_exp.sanitize import visible

SHOWN = 1200  # characters of a prompt that are printed; the middle of a longer one is left out


def show_data(data, tokenizer, with_example: bool) -> None:
    """Print what reaches training, check BOS and EOS of every turn, and print the first Example as the model sees
    it."""
    tokens, counts, sample = data.encoded("train"), data.counts["encoded"]["train"], data.counts["sample"]
    requested = "all" if sample["asked"] is None else f"{sample['asked']:,}"
    print(data.describe())
    say(
        f"  {requested} requested, {sample['used']:,} sampled; {data.reaching_training() or 'all of them reach training'}; "
        f"{plural(counts['shortened'], 'prompt')} shortened ({counts['answers_lost']:,} lost the answer)"
    )
    say(
        f"  an epoch has {plural(counts['tokens'], 'token')}, {counts['label_tokens']:,} of them to learn "
        f"({counts['label_tokens'] / max(counts['tokens'], 1):.1%})"
    )
    wrong = [item.id for item in tokens if not has_whole_turns(item, tokenizer.bos_token_id, tokenizer.eos_token_id)]
    if wrong:
        raise UserError(
            f"{len(wrong):,} of {len(tokens):,} Examples do not have one BOS and one EOS per turn, the last EOS to "
            f"learn: {join_list(wrong)}. Their prompts contain special tokens of another format."
        )
    turns = sum(item.input_ids.count(tokenizer.bos_token_id) for item in tokens)
    say(f"  one BOS and one EOS in each of {plural(turns, 'turn')}; the last EOS of each Example is learnt")
    if with_example:
        say(f"\nThe first Example ({tokens[0].id}); what is learnt is [[in double brackets]], the rest is masked:")
        Console(highlight=False, markup=False, emoji=False).print(decode_mask(tokens[0], tokenizer), soft_wrap=True)
        print(flush=True)


def has_whole_turns(item: Tokens, bos: int, eos: int) -> bool:
    """<s> … </s><s> … </s>: each BOS comes first or after an EOS, each EOS comes last or before a BOS."""
    ids, end = item.input_ids, len(item.input_ids) - 1
    starts = [index for index, token in enumerate(ids) if token == bos]
    ends = [index for index, token in enumerate(ids) if token == eos]
    paired = starts[:1] == [0] and ends[-1:] == [end] and [index + 1 for index in ends[:-1]] == starts[1:]
    return paired and item.labels[end] == eos and item.labels.count(eos) == 1 and bos not in item.labels


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
