"""Rewards through one door: what they see, what they may return, and how parts are mixed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, save_base, start_tokenizer

from rlhf_lite.errors import RewardError
from rlhf_lite.models.reward_model import new_reward_model
from rlhf_lite.rollout.rewards import (
    Completions,
    Mixture,
    Part,
    Rewards,
    Scale,
    evaluate,
    length_penalty,
    measure_scale,
    missing_end_penalty,
    model_reward,
    text_decoder,
    text_reward,
)
from rlhf_lite.types import Rollout

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id


def completions(texts: list[tuple[str, str, bool]], *, decode=TOKENIZER.batch_decode, pad: int = 0, **extra):
    """(prompt, completion, ended) as a left-padded batch with ``pad`` columns of padding on either side."""
    prompts = [TOKENIZER(p)["input_ids"] for p, _, _ in texts]
    answers = [TOKENIZER(c)["input_ids"] + ([END] if ended else []) for _, c, ended in texts]
    wide, long = max(map(len, prompts)) + pad, max(map(len, answers)) + pad
    rollout = Rollout(
        prompt_ids=torch.tensor([[END] * (wide - len(p)) + p for p in prompts]),
        prompt_mask=torch.tensor([[False] * (wide - len(p)) + [True] * len(p) for p in prompts]),
        response_ids=torch.tensor([a + [END] * (long - len(a)) for a in answers]),
        response_mask=torch.tensor([[True] * len(a) + [False] * (long - len(a)) for a in answers]),
        logps=torch.zeros(len(texts), long),
        ended=torch.tensor([ended for _, _, ended in texts]),
    )
    return Completions.of(rollout, eos_token_id=END, decode=decode, **extra)


TEXTS = [("ab", "cde", True), ("f", "gh", False), ("ijk", "", True)]


@pytest.mark.parametrize("pad", [0, 3])
def test_texts_are_what_was_written(pad):
    batch = completions(TEXTS, pad=pad)
    assert batch.prompts == ["ab", "f", "ijk"]
    assert batch.completions == ["cde", "gh", ""]
    assert batch.texts == ["abcde", "fgh", "ijk"]
    assert len(batch) == 3
    # The end token is a token of the response, and no text.
    assert batch.response_mask.sum(1).tolist() == [4, 2, 1]
    assert (batch.text_mask & batch.response_mask).sum(1).tolist() == [3, 2, 0]
    assert batch.response_ids.shape == batch.response_mask[:, batch.prompt_width :].shape
    assert batch.response_ids[0, :4].tolist() == [*TOKENIZER("cde")["input_ids"], END]


def test_texts_hold_no_special_token_unless_asked():
    """A reward that counts words must not count ``<turn>``; a chat model's other end is an end as well."""
    tokenizer = start_tokenizer()
    start, turn = tokenizer.convert_tokens_to_ids(["<start>", "<turn>"])
    words = tokenizer("ab", add_special_tokens=False)["input_ids"]
    ids, answer = torch.tensor([[start, *words]]), torch.tensor([[turn, *words, turn]])
    rollout = Rollout(ids, ids > -1, answer, answer > -1, torch.zeros(1, 4))
    batch = Completions.of(rollout, eos_token_id=END, decode=text_decoder(tokenizer))
    assert (batch.prompts, batch.completions) == (["ab"], ["ab"])
    marked = Completions.of(rollout, eos_token_id=END, decode=tokenizer.batch_decode)
    assert (marked.prompts, marked.completions) == (["<start>ab"], ["<turn>ab<turn>"])
    two = Completions.of(rollout, eos_token_id=[END, turn])
    assert two.text_mask.tolist() == [[True, True, True, False, True, True, False]]


def test_an_end_token_inside_a_prompt_is_text():
    rollout = Rollout(
        prompt_ids=torch.tensor([[END, 5]]),
        prompt_mask=torch.ones(1, 2, dtype=torch.bool),
        response_ids=torch.tensor([[6, END]]),
        response_mask=torch.ones(1, 2, dtype=torch.bool),
        logps=torch.zeros(1, 2),
    )
    batch = Completions.of(rollout, eos_token_id=END)
    assert batch.text_mask.tolist() == [[True, True, True, False]]
    assert Completions.of(rollout, eos_token_id=None).text_mask.all()
    assert batch.ended.tolist() == [False]


def test_texts_are_decoded_only_when_asked_for():
    calls = []

    def decode(rows):
        calls.append(rows)
        return TOKENIZER.batch_decode(rows)

    batch = completions(TEXTS, decode=decode)
    evaluate(lambda b: b.ids.sum(1), batch)
    assert calls == []
    evaluate(text_reward(lambda prompts, texts: [len("".join(prompts + texts))] * 3), batch)
    assert len(calls) == 2
    assert batch.completions and len(calls) == 2
    without = completions(TEXTS, decode=None)
    with pytest.raises(RewardError, match="no tokenizer"):
        evaluate(text_reward(lambda prompts, texts: [0.0] * len(texts)), without)


@pytest.mark.parametrize(
    "found",
    [
        [1, 2.5, -3],
        (1.0, 2.5, -3.0),
        np.array([1, 2.5, -3]),
        torch.tensor([1, 2.5, -3]).double(),
        [True, 2.5, -3],
    ],
)
def test_any_list_of_numbers_will_do(found):
    rewards = evaluate(lambda batch: found, completions(TEXTS))
    assert rewards.scores.dtype == torch.float32
    assert rewards.scores.tolist() == rewards.raw.tolist() == [1.0, 2.5, -3.0]
    assert rewards.parts == {}


NAN = float("nan")


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([1.0, 2.0], "'judge' gave 2 scores; expected 3 numbers"),
        ([], "'judge' gave 0 scores"),
        (torch.zeros(3, 1), r"'judge' gave a float32 tensor \(3, 1\); expected 3"),
        (torch.zeros(2), r"float32 tensor \(2,\)"),
        (torch.zeros(3, dtype=torch.complex64), "complex64 tensor"),
        (1.0, "'judge' gave a float; expected 3"),
        (None, "'judge' gave a NoneType"),
        ("abc", "'judge' gave a str"),
        ({0: 1.0, 1: 1.0, 2: 1.0}, "'judge' gave a dict"),
        ([1.0, None, 2.0], r"'judge' gave None \(NoneType\) for row 1, prompt 'f', completion 'gh'"),
        ([1.0, 2.0, "3"], r"'judge' gave '3' \(str\) for row 2, prompt 'ijk', completion ''"),
        ([1.0, [2.0], 3.0], "for row 1"),
        (np.zeros((3, 1)), "for row 0"),
        ([1.0, 2.0, NAN], "'judge' gave nan for row 2"),
        (torch.tensor([1.0, -torch.inf, 0.0]), "'judge' gave -inf for row 1, prompt 'f'"),
        (Rewards(torch.tensor([1.0, NAN, 0.0]), torch.zeros(3)), "'judge' gave nan for row 1"),
    ],
)
def test_anything_else_is_an_error_that_names_part_and_row(found, said):
    with pytest.raises(RewardError, match=said):
        evaluate(lambda batch: found, completions(TEXTS), name="judge")
    # In a mixture the part's own name is given.
    mixture = Mixture({"fine": Part(lambda batch: [0.0] * 3), "judge": Part(lambda batch: found)})
    with pytest.raises(RewardError, match=said):
        evaluate(mixture, completions(TEXTS))


def test_without_a_tokenizer_an_error_shows_the_tokens():
    with pytest.raises(RewardError, match=r"nan for row 1, tokens \["):
        evaluate(lambda batch: [0.0, NAN, 0.0], completions(TEXTS, decode=None))


def test_an_error_inside_a_reward_says_which_part_it_was():
    def broken(batch):
        raise KeyError("lexicon")

    with pytest.raises(KeyError) as found:
        evaluate(Mixture({"vader": Part(broken)}), completions(TEXTS))
    assert any("'vader'" in note and "3 completions" in note for note in found.value.__notes__)


def test_a_mixture_by_hand():
    batch = completions(TEXTS)
    parts = {
        "a": Part(lambda b: [1.0, 3.0, 11.0], weight=2.0, scale=Scale(mean=1.0, std=2.0), clip=4.0),
        "b": Part(lambda b: [1.0, 0.0, -1.0], weight=-0.5),
    }
    found = evaluate(Mixture(parts), batch)
    # a: (0, 1, 5), clipped (0, 1, 4), doubled (0, 2, 8); b: (-.5, 0, .5)
    assert found.scores.tolist() == pytest.approx([-0.5, 2.0, 8.5])
    assert found.raw.tolist() == pytest.approx([1.5, 6.0, 22.5])
    assert {name: part.tolist() for name, part in found.parts.items()} == {
        "a": [1.0, 3.0, 11.0],
        "b": [1.0, 0.0, -1.0],
    }
    assert evaluate(Mixture(parts, clip=2.0), batch).scores.tolist() == pytest.approx([-0.5, 2.0, 2.0])
    assert evaluate(Mixture(parts, clip=0.25), batch).scores.tolist() == pytest.approx([-0.25, 0.25, 0.25])


def test_penalties():
    batch = completions(TEXTS)  # 4, 2 and 1 response tokens; the second was cut
    assert evaluate(length_penalty(), batch).scores.tolist() == [-4, -2, -1]
    assert evaluate(length_penalty(free_tokens=2), batch).scores.tolist() == [-2, 0, 0]
    assert evaluate(missing_end_penalty(), batch).scores.tolist() == [0, -1, 0]


def test_scale():
    scores = torch.tensor([1.0, 2.0, 6.0])
    # mean 3, squares 4 + 1 + 9 over n - 1 = 2
    assert Scale(3.0, 7**0.5)(scores).tolist() == pytest.approx([-2 / 7**0.5, -1 / 7**0.5, 3 / 7**0.5])
    for wrong in ({"std": 0.0}, {"std": -1.0}, {"mean": NAN}, {"std": float("inf")}):
        with pytest.raises(ValueError, match="std > 0"):
            Scale(**wrong)


def test_a_scale_measured_in_batches_is_that_of_the_whole():
    values = iter([[1e6 + 1, 1e6 + 2, 1e6 + 6], [1e6 + 3, 1e6 - 1, 1e6 + 4]])
    found = measure_scale(lambda batch: next(values), [completions(TEXTS)] * 2)
    whole = np.array([1, 2, 6, 3, -1, 4])
    assert found.mean == pytest.approx(1e6 + whole.mean(), abs=1e-6)
    assert found.std == pytest.approx(whole.std(ddof=1), rel=1e-9)
    only = measure_scale(lambda batch: [1.0, 2.0, 6.0], [completions(TEXTS)], shift=False)
    assert (only.mean, only.std) == (0.0, pytest.approx(7**0.5))
    with pytest.raises(RewardError, match="'flat' gave 3 equal scores"):
        measure_scale(lambda batch: [0.3] * 3, [completions(TEXTS)], name="flat")
    with pytest.raises(RewardError, match="0 equal scores"):
        measure_scale(lambda batch: [0.3] * 3, [])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Part(len, weight=NAN),
        lambda: Part(len, clip=0.0),
        lambda: Mixture({}),
        lambda: Mixture({"a": Part(len)}, clip=-1.0),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError):
        make()


def test_a_reward_model_reads_trunk_states_or_texts_alike(tmp_path):
    name = str(save_base(tmp_path / "base"))
    shape = {"rank": 2, "alpha": 4.0, "dropout": 0.0, "top_layers": 2, "target_modules": "all-linear"}
    model = new_reward_model(name, precision="fp32", max_tokens=30, seed=0, **shape)
    torch.nn.init.normal_(
        model.model.get_base_model().score.weight, generator=torch.Generator().manual_seed(0)
    )
    model.eval()
    texts = [("ab", "cde", True), ("f", "gh", False), ("ijk", "lm", True)]
    batch = completions(texts, pad=2, trunk=model.body.trunk)
    shared = evaluate(model_reward(model, shared_trunk=True), batch).scores
    again = evaluate(model_reward(model, shared_trunk=False), batch).scores
    torch.testing.assert_close(shared, again, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, model.score_texts(["abcde", "fgh", "ijklm"]))
    assert shared.std() > 0.01
    without = completions(texts)  # no states to share: the texts are read
    assert torch.equal(evaluate(model_reward(model, shared_trunk=True), without).scores, again)
