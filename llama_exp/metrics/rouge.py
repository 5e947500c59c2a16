"""ROUGE-1, ROUGE-2 and ROUGE-L F1 through Google's `rouge-score`, with English (Porter) stemming. In percent.

Lin (2004), "ROUGE: A Package for Automatic Evaluation of Summaries". Of several references the best counts, for each of
the three by itself (`RougeScorer.score_multi`). The library keeps only a-z and 0-9: a text in another script has no
words to it and scores 0; how many such there are is among the facts.
"""

import logging
from collections.abc import Sequence
from functools import lru_cache

from llama_exp.errors import UserError
from llama_exp.metrics.declaration import PERCENT, Score, metric
from llama_exp.records import Prediction

KINDS = ("rouge1", "rouge2", "rougeL")


@lru_cache(maxsize=1)
def scorer():
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UserError(
            f"metric rouge needs the package rouge-score ({error}). Type: pip install rouge-score"
        ) from None
    logging.getLogger("absl").setLevel(logging.WARNING)  # it announces its tokenizer
    return RougeScorer(KINDS, use_stemmer=True)


def facts(predictions: Sequence[Prediction]) -> dict[str, int]:
    """Replies without a word that the library knows: empty ones, and those in other scripts."""
    from rouge_score.tokenize import tokenize

    return {"wordless_replies": sum(not tokenize(p.reply, None) for p in predictions)}


@metric(
    Score(
        "rouge/rouge1",
        meaning="single words that reply and reference share, in percent of their length",
        label="ROUGE-1",
        bounds=PERCENT,
    ),
    Score(
        "rouge/rouge2",
        meaning="pairs of neighbouring words that reply and reference share, in percent of their length",
        label="ROUGE-2",
        bounds=PERCENT,
    ),
    Score(
        "rouge/rougeL",
        meaning="the longest sequence of words that reply and reference share, in percent of their length",
        label="ROUGE-L",
        bounds=PERCENT,
        primary=True,
    ),
    facts=facts,
    ready=scorer,
    label="ROUGE",
)
def rouge(predictions: Sequence[Prediction]) -> dict[str, list[float]]:
    """Per prediction, in percent: rouge/rouge1, rouge/rouge2, rouge/rougeL."""
    scored = [scorer().score_multi(p.references, p.reply) for p in predictions]
    return {f"rouge/{kind}": [100.0 * float(scores[kind].fmeasure) for scores in scored] for kind in KINDS}
