"""Loss and perplexity: made from each prediction's negative log-likelihood, whatever the dataset, by
evaluation/scoring.py."""

from llama_exp.metrics.declaration import Score

LOSS = Score(
    "loss", meaning="surprise per token at the right answer, in nats", label="loss", better="lower", decimals=3
)
PERPLEXITY = Score("perplexity", meaning="e to the loss", label="perplexity", better="lower", decimals=2)
SCORES = {score.name: score for score in (LOSS, PERPLEXITY)}
