"""Scores while training: some validation items are answered at each validation, and scored as in an evaluation."""

import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torchmetrics import Metric

from llama_exp import metrics
from llama_exp.config.schema import Config
from llama_exp.data.encoding import encode_prompts
from llama_exp.evaluation.generation import answers
from llama_exp.evaluation.replies import prediction_of
from llama_exp.evaluation.request import metric_settings
from llama_exp.records import Example, Prediction
from llama_exp.runs.files import json_line, parse_prediction
from llama_exp.tracking import Trackers


class ReplyScores(Metric):
    """The scores of a dataset's metrics over replies, those of all ranks together.

    The state is the replies themselves, as bytes: what is no mean over items (macro-F1) needs all of them at once.
    """

    full_state_update = False

    def __init__(self, names: Sequence[str], settings: dict[str, Any]):
        super().__init__()
        self.names, self.settings = names, settings
        self.add_state("lines", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction]) -> None:
        text = "".join(map(json_line, predictions)).encode()
        self.lines.append(torch.frombuffer(bytearray(text), dtype=torch.uint8).to(self.device))

    def predictions(self) -> list[Prediction]:
        """In the order of their ids, whichever rank made them."""
        parts = self.lines if isinstance(self.lines, list) else [self.lines]
        text = b"".join(part.cpu().numpy().tobytes() for part in parts).decode()
        return sorted(map(parse_prediction, text.split("\n")[:-1]), key=lambda one: one.id)

    def compute(self) -> dict[str, torch.Tensor]:
        """{score: value}. `scored` is then (replies, {score: [value per reply]}), of all ranks."""
        predictions, values, items = self.predictions(), {}, {}
        for name in self.names:
            measured = metrics.measure(name, predictions, self.settings)
            items |= measured.items
            values |= {score: sum(of) / len(of) for score, of in measured.items.items()}
            values |= {score: statistic(predictions) for score, statistic in measured.corpus.items()}
        self.scored = predictions, items
        return {score: torch.tensor(value) for score, value in values.items()}


def score_names(config: Config) -> list[str]:
    """What a run with validation_scores measures at each validation."""
    names = config.dataset.metrics if config.validation_scores else []
    return metrics.by_importance(score for name in names for score in metrics.load(name).scores)


def replies(config: Config, tokenizer: Any, model: torch.nn.Module, examples: Sequence[Example]) -> list[Prediction]:
    """What the model answers now."""
    new = config.dataset.max_new_tokens
    prompts, shortened = encode_prompts(examples, tokenizer, config.max_length - new)
    nothing = [None] * len(prompts)
    found = answers(model, tokenizer, prompts, nothing, max_new_tokens=new, batch=config.eval_batch)
    return [
        prediction_of(examples[reply.index], reply, 0, reply.index in shortened) for batch in found for reply in batch
    ]


class ValidationScores(L.Callback):
    """Answers the same validation items at each validation. The scores are in trainer.callback_metrics, where early
    stopping, metrics.csv and callbacks of the user's find them."""

    def __init__(self, config: Config, data, trackers: Trackers):
        self.config, self.tokenizer, self.trackers = config, data.tokenizer, trackers
        self.examples = data.held_out("validation", config.validation_scores)
        self.announced = False

    def on_validation_end(self, trainer: L.Trainer, module) -> None:
        if trainer.sanity_checking or not trainer.global_step:
            return
        started = time.perf_counter()
        scores = ReplyScores(self.config.dataset.metrics, metric_settings(self.config)).to(module.device)
        mine = self.examples[trainer.global_rank :: trainer.world_size]
        scores.update(replies(self.config, self.tokenizer, module.model, mine))
        trainer.callback_metrics.update(scores.compute())
        predictions, items = scores.scored
        template, step = self.config.dataset.template, trainer.global_step
        self.trackers.log_replies("validation_scores/replies", predictions, items, template, step)
        self._announce(trainer, len(predictions), time.perf_counter() - started)

    def _announce(self, trainer: L.Trainer, count: int, seconds: float) -> None:
        """What it costs, once."""
        if trainer.is_global_zero and not self.announced:
            print(f"  validation_scores: {count} replies took {seconds:.1f} s, at each validation.", flush=True)
        self.announced = True
