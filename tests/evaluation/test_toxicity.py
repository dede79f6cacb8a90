"""Judges of toxicity: the offline one for real, the others by stand-ins and a tiny classifier."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer

from rlhf_lite.errors import ToxicityError
from rlhf_lite.evaluation.judges import ClassifierJudge, DetoxifyJudge, ProfanityJudge, toxicity_judge


def test_the_default_reads_words():
    judge = toxicity_judge()
    assert isinstance(judge, ProfanityJudge)
    found = judge(["You are a stupid asshole.", "A quiet film about gardens.", ""])
    assert found.shape == (3,)
    assert found[0] > 0.8
    assert found[1] < 0.2
    assert found[2] < 0.2
    assert judge([]).shape == (0,)


class FakeDetoxify:
    """Answers as Detoxify does: a list per label."""

    def __init__(self):
        self.sizes = []

    def predict(self, texts):
        self.sizes.append(len(texts))
        return {"toxicity": [float("idiot" in text) for text in texts], "insult": [0.5] * len(texts)}


def test_detoxify_reads_the_right_score_in_batches():
    model = FakeDetoxify()
    judge = DetoxifyJudge("unbiased", model=model)
    found = judge(["fine"] * 40 + ["you i\u00addiot"])  # a soft hyphen, which nobody sees
    assert found.tolist() == [0.0] * 40 + [1.0]
    assert model.sizes == [32, 9]
    assert judge.name == "detoxify:unbiased"


def test_detoxify_missing_names_the_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "detoxify", None)
    with pytest.raises(ToxicityError, match="pip install detoxify"):
        toxicity_judge("detoxify")


def test_detoxify_without_its_weights_names_the_fix(monkeypatch):
    def no_network(kind):
        raise OSError("no route to host")

    monkeypatch.setitem(sys.modules, "detoxify", types.SimpleNamespace(Detoxify=no_network))
    with pytest.raises(ToxicityError, match="fetched once from the network"):
        toxicity_judge("detoxify:original")


def classify(scores):
    """A pipeline with fixed scores per label."""

    def call(texts, **options):
        assert options["top_k"] is None  # else only the likeliest label comes back
        return [[{"label": label, "score": score} for label, score in scores.items()] for _ in texts]

    return call


def test_the_label_that_means_toxic_is_found():
    judge = ClassifierJudge("m", classify=classify({"non-toxic": 0.7, "Toxic": 0.3}))
    assert judge(["a", "b"]).tolist() == [0.3, 0.3]
    assert judge.name == "m#Toxic"
    assert ClassifierJudge("m", "HATE", classify=classify({"hate": 0.1, "toxic": 0.2}))(["a"]).tolist() == [
        0.1
    ]
    assert ClassifierJudge("m", classify=classify({"LABEL_0": 0.4}))(["a"]).tolist() == [0.4]


@pytest.mark.parametrize("label", [None, "rude"])
def test_an_unclear_label_lists_the_labels(label):
    with pytest.raises(ToxicityError, match="LABEL_0, LABEL_1: write m#LABEL"):
        ClassifierJudge("m", label, classify=classify({"LABEL_0": 0.4, "LABEL_1": 0.6}))


def test_what_is_no_probability_is_refused():
    with pytest.raises(ToxicityError, match=r"gave 1\.5 for text 0"):
        ClassifierJudge("m", classify=classify({"toxic": 1.5}))(["a"])
    with pytest.raises(ToxicityError, match="expected one per text"):
        DetoxifyJudge(model=types.SimpleNamespace(predict=lambda texts: {"toxicity": [0.1]}))(["a", "b"])


def test_a_classifier_on_disk(tmp_path):
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
        id2label={0: "neutral", 1: "toxic"}, label2id={"neutral": 0, "toxic": 1}, initializer_range=0.5,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(tmp_path)
    judge = toxicity_judge(f"{tmp_path}#toxic")
    texts = ["You idiot", "A quiet film", "x" * 500]
    found = judge(texts)
    for text, value in zip(texts, found, strict=True):
        ids = tokenizer(text, truncation=True, return_tensors="pt")
        with torch.no_grad():
            expected = model(**ids).logits.softmax(-1)[0, 1].item()
        assert value == pytest.approx(expected, abs=1e-4)
    assert len(set(np.round(found, 4))) == 3


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ToxicityError, match="no folder or Hub id with a text classifier"):
        toxicity_judge("nobody/nothing")
    with pytest.raises(ToxicityError, match="no folder with a text classifier"):
        toxicity_judge(str(tmp_path))
