"""The reward model is transformers' own classifier with a PEFT adapter, computed in two halves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import save_base, shake

from rlhf_lite.models.reward_model import load_reward_model, new_reward_model

TEXTS = ["a fine film", "dull", "", "so very, very long that it has to be cut off on the right " * 2, "é"]
MAX_TOKENS = 60


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> str:
    return str(save_base(tmp_path_factory.mktemp("base")))


def new(base: str, **changes):
    options = {
        "precision": "fp32",
        "rank": 4,
        "alpha": 8.0,
        "dropout": 0.0,
        "top_layers": 2,
        "target_modules": "all-linear",
        "max_tokens": MAX_TOKENS,
        "seed": 0,
    }
    return new_reward_model(base, **options | changes)


def trained(base: str, **changes):
    model = new(base, **changes)
    shake(model.model, "default")
    head = next(p for n, p in model.model.named_parameters() if "score" in n and p.requires_grad)
    head.data = torch.randn(head.shape, generator=torch.Generator().manual_seed(7)).to(head.dtype)
    model.eval()
    return model


def test_an_untrained_model_scores_everything_zero(base):
    model = new(base)
    assert (model.score_texts(TEXTS) == 0).all()
    trainable = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any("score" in n for n in trainable)
    assert all("lora_" in n or "score" in n for n in trainable)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_equal_plain_transformers_and_peft(kind, base, tmp_path):
    if kind != "llama":
        base = str(save_base(tmp_path / "base", kind=kind))
    model = trained(base)
    model.mean, model.std = 0.25, 2.0
    scores = model.score_texts(TEXTS)
    assert scores.std() > 0.1
    model.save(tmp_path)

    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    plain = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    tokenizer = AutoTokenizer.from_pretrained(str(tmp_path))
    for text, score in zip(TEXTS, scores, strict=True):
        ids = tokenizer(text or tokenizer.eos_token)["input_ids"][:MAX_TOKENS]
        with torch.no_grad():
            expected = plain(input_ids=torch.tensor([ids])).logits.item()
        assert score.item() == pytest.approx(expected, abs=1e-5)

    loaded = load_reward_model(tmp_path, precision="fp32")
    torch.testing.assert_close(loaded.score_texts(TEXTS), scores)
    assert (loaded.mean, loaded.std, loaded.top_layers, loaded.max_tokens) == (0.25, 2.0, 2, MAX_TOKENS)
    assert loaded.name == base
    torch.testing.assert_close(loaded.normalise(scores), (scores - 0.25) / 2.0)


def test_order_batch_size_and_padding_change_nothing(base):
    model = trained(base)
    expected = model.score_texts(TEXTS, batch_size=1)
    for size in (2, 64):
        torch.testing.assert_close(model.score_texts(TEXTS, batch_size=size), expected, atol=1e-5, rtol=1e-5)
    backwards = model.score_texts(TEXTS[::-1])
    torch.testing.assert_close(backwards.flip(0), expected, atol=1e-5, rtol=1e-5)


def test_the_score_is_read_at_the_last_token_that_counts(base):
    model = trained(base)
    ids, mask = model.encode(["abcdef", "xy"])
    # The end token and padding behind the text, and padding before it, as in a PPO batch.
    wide = torch.nn.functional.pad(ids, (2, 3), value=1)
    wide_mask = torch.nn.functional.pad(mask, (2, 3))
    with torch.no_grad():
        got = model(model.body.trunk(wide, wide_mask), wide_mask)
    torch.testing.assert_close(got, model.score_texts(["abcdef", "xy"]), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(got[0], model.score_texts(["abcde"])[0], atol=1e-3)


def test_a_long_text_is_cut(base):
    model = trained(base, max_tokens=5)
    assert model.score_texts(["abcdefgh"]).item() == model.score_texts(["abcde"]).item()
    assert model.score_texts(["abcdefgh"]).item() != model.score_texts(["abcd"]).item()


def test_no_layers_below_the_adapters(base, tmp_path):
    model = trained(base, top_layers=None)
    model.save(tmp_path)
    loaded = load_reward_model(tmp_path, precision="fp32")
    assert loaded.top_layers is None
    torch.testing.assert_close(loaded.score_texts(TEXTS), model.score_texts(TEXTS))


@pytest.mark.parametrize("missing", ["adapter_config.json", "reward_scale.json"])
def test_a_folder_that_is_no_reward_model_is_an_error(base, tmp_path, missing):
    new(base).save(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(FileNotFoundError, match=missing):
        load_reward_model(tmp_path)


def test_the_scale_file_is_json(base, tmp_path):
    new(base).save(tmp_path)
    scale = json.loads((tmp_path / "reward_scale.json").read_text())
    expected = {"mean": 0.0, "std": 1.0, "top_layers": 2, "max_tokens": MAX_TOKENS, "template": "plain"}
    assert scale == expected
