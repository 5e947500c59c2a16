"""Loss and perplexity of any dataset: evaluation/scoring.py computes them from each prediction's log-likelihood."""

from llama_exp.metrics.declaration import Score

LOSS = Score(
    "loss",
    meaning="surprise per token at the right answer, in nats",
    label="loss",
    better="lower",
    lowest=0.0,
    decimals=3,
)
PERPLEXITY = Score("perplexity", meaning="e to the loss", label="perplexity", better="lower", lowest=1.0, decimals=2)
SCORES = {score.name: score for score in (LOSS, PERPLEXITY)}

LOSS_ONLY = "loss only, as dataset.metrics is empty: 'dataset.metrics=[auto]' chooses by the responses"
