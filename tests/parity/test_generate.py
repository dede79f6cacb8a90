"""The sampling engine against transformers: greedy tokens of ``generate``, and every logits processor."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import VOCAB, gpt2, llama, qwen2, token_rows

from rlhf_lite.data.collate import pad_left
from rlhf_lite.rollout.decoder import Generic, Llama, prepare
from rlhf_lite.rollout.draw import LogitRules
from rlhf_lite.rollout.sampler import row_seeds, sample

PAD, LENGTH = 0, 14
ROWS = token_rows([6, 1, 3, 5, 2, 4, 6, 3])
IDS, MASK = pad_left(ROWS, PAD)


def mistral():
    """Without a sliding window, and with heads that are wider than hidden size / heads."""
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        sliding_window=None,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MistralForCausalLM(config).eval().requires_grad_(False)


def gemma2():
    """An architecture that changes the logits after the head, and has sliding windows."""
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        final_logit_softcapping=0.5,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma2ForCausalLM(config).eval().requires_grad_(False)


def llama3():
    """Rotary frequencies of Llama 3, and no weights shared between embedding and head."""
    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    }
    return llama(rope_parameters=rope, tie_word_embeddings=False, attention_bias=True, mlp_bias=True)


KINDS = {
    "llama": llama,
    "llama3": llama3,
    "qwen2": qwen2,
    "mistral": mistral,
    "gpt2": gpt2,
    "gemma2": gemma2,
}


def ours(model, *, eos, ids=IDS, mask=MASK, **options):
    return sample(
        model,
        ids,
        mask,
        max_new_tokens=LENGTH,
        eos_token_id=eos,
        pad_token_id=PAD,
        seeds=row_seeds(0, rows=len(ids) * options.get("repeats", 1)),
        temperature=0.0,
        **options,
    )


def theirs(model, *, eos, ids=IDS, mask=MASK, **options):
    return model.generate(
        input_ids=ids,
        attention_mask=mask.long(),
        do_sample=False,
        max_new_tokens=LENGTH,
        eos_token_id=eos,
        pad_token_id=PAD,
        **options,
    )[:, ids.shape[1] :]


def frequent_tokens(model, count: int) -> list[int]:
    """Tokens that greedy decoding meets in some rows early, in some late, in some never."""
    rows = ours(model, eos=()).response_ids.tolist()
    hits = {token: sum(token in row for row in rows) for row in rows for token in row}
    return sorted(hits, key=lambda token: (abs(hits[token] - len(rows) // 2), token))[:count]


def test_the_kinds_go_the_ways_that_they_should():
    fast = {name for name, make in KINDS.items() if isinstance(prepare(make()), Llama)}
    assert fast == {"llama", "llama3", "qwen2", "mistral"}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize(("ends", "way"), [(0, "best"), (1, "best"), (2, "best"), (1, "generic")])
def test_greedy_tokens_on_a_padded_batch(kind, ends, way):
    model = KINDS[kind]()
    eos = frequent_tokens(model, ends)
    rollout = ours(model if way == "best" else Generic(model), eos=eos)
    generated = theirs(model, eos=eos or -1)
    assert len(set(map(tuple, generated.tolist()))) > 2  # the prompts matter
    width = generated.shape[1]
    assert torch.equal(rollout.response_ids[:, :width], generated)
    assert (rollout.response_ids[:, width:] == PAD).all()
    for row, mask, ended in zip(
        rollout.response_ids.tolist(), rollout.response_mask.tolist(), rollout.ended.tolist(), strict=True
    ):
        places = [place for place, token in enumerate(row) if token in eos]
        length = places[0] + 1 if places else LENGTH
        assert mask == [True] * length + [False] * (LENGTH - length)
        assert ended == bool(places)
    if ends:
        assert int(rollout.ended.sum()) > 0


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_greedy_tokens_with_a_repetition_penalty(kind):
    model = KINDS[kind]()
    rollout = ours(model, eos=(), repetition_penalty=1.7)
    assert not torch.equal(rollout.response_ids, ours(model, eos=()).response_ids)
    assert torch.equal(rollout.response_ids, theirs(model, eos=-1, repetition_penalty=1.7))


def test_padding_does_not_count_as_repetition():
    model = llama()
    free = ours(model, eos=(), repetition_penalty=1e4).response_ids
    # The padding of row 1 holds the token that its law prefers.
    ids = torch.where(MASK, IDS, int(free[1, 0]))
    assert torch.equal(ours(model, eos=(), ids=ids, repetition_penalty=1e4).response_ids, free)
    assert torch.equal(theirs(model, eos=-1, ids=ids, repetition_penalty=1e4), free)


def test_greedy_tokens_of_groups():
    model = qwen2()
    rollout = ours(model, eos=(), repeats=2)
    assert torch.equal(rollout.response_ids, theirs(model, eos=-1).repeat_interleave(2, dim=0))


LAWS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.9},
    {"top_k": 1},
    {"top_k": 5},
    {"top_k": 10_000},
    {"top_p": 0.01},
    {"top_p": 0.6},
    {"top_p": 0.999},
    {"min_p": 0.05},
    {"min_p": 1.0},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"temperature": 0.6, "top_k": 40, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("vocab", [60, 3000])
@pytest.mark.parametrize("scale", [0.3, 4.0])
def test_the_processed_distribution(law, vocab, scale):
    generator = torch.Generator().manual_seed(vocab)
    logits = torch.randn(16, vocab, generator=generator) * scale
    seen = torch.randint(0, vocab, (16, 9), generator=generator)
    seen[:, -1] = logits.argmax(-1)  # the penalty must matter
    processors = LogitsProcessorList()
    if "repetition_penalty" in law:
        processors.append(RepetitionPenaltyLogitsProcessor(law["repetition_penalty"]))
    if "temperature" in law:
        processors.append(TemperatureLogitsWarper(law["temperature"]))
    if "top_k" in law:
        processors.append(TopKLogitsWarper(law["top_k"]))
    if "top_p" in law:
        processors.append(TopPLogitsWarper(law["top_p"]))
    if "min_p" in law:
        processors.append(MinPLogitsWarper(law["min_p"]))
    expected = processors(seen, logits.clone())
    before = logits.clone()
    got = LogitRules(**law).apply(logits, seen)
    assert torch.equal(logits, before)  # the model's logits are left alone
    # They add probabilities from the least likely up, we from the most likely down: a token that rounding
    # puts on the edge of top-p may fall on either side. It is one in a row at most, and a rare one.
    differ = (got.isinf() != expected.isinf()).sum(1)
    assert (differ <= ("top_p" in law and vocab == 3000)).all() and int(differ.sum()) <= 2
    same = differ == 0
    torch.testing.assert_close(got.softmax(-1)[same], expected.softmax(-1)[same], atol=1e-7, rtol=1e-5)


def test_top_k_keeps_ties_as_transformers_does():
    logits = torch.tensor([[3.0, 1.0, 1.0, 1.0, 0.0]])
    expected = TopKLogitsWarper(2)(None, logits)
    assert torch.equal(LogitRules(top_k=2).apply(logits), expected)
    assert int(expected.isfinite().sum()) == 4


def test_the_first_sampled_tokens_follow_the_law_of_generate():
    """One prompt, many seeds: our frequencies and the distribution that generate reports as its scores."""
    model = llama(vocab=12, initializer_range=0.1)
    law = {"temperature": 0.8, "top_k": 9, "top_p": 0.95, "repetition_penalty": 1.2}
    ids = torch.tensor([[3, 7, 4]])
    output = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        max_new_tokens=1,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
        **law,
    )
    expected = output.scores[0][0].softmax(-1)
    n = 4000
    rollout = sample(
        model,
        ids,
        torch.ones_like(ids, dtype=torch.bool),
        max_new_tokens=1,
        eos_token_id=(),
        pad_token_id=PAD,
        seeds=row_seeds(3, rows=n),
        repeats=n,
        **law,
    )
    share = rollout.response_ids[:, 0].bincount(minlength=12) / n
    assert set(share.nonzero().squeeze(-1).tolist()) == set(expected.nonzero().squeeze(-1).tolist())
    # Four standard errors of a share; the seeds are fixed.
    assert ((share - expected).abs() <= 4 * (expected * (1 - expected) / n).sqrt() + 1e-9).all()
    torch.testing.assert_close(
        rollout.logps[:, 0].exp(), expected[rollout.response_ids[:, 0]], rtol=1e-4, atol=1e-6
    )
