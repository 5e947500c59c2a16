"""The answer of a sweep on Weights & Biases, from report/answer.json: a saved view, a report, and a summary run."""
