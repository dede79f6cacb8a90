"""Supervised fine-tuning: the loss is that of the completion, however the batch is cut."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from runners import (
    EXAMPLES,
    Recorder,
    assert_same_run,
    assert_same_weights,
    new_scorer,
    run_sft,
    weights,
)
from tiny_models import byte_tokenizer, shake

from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training import sft
from rlhf_lite.training.sft import Example, collate_examples, completion_loss, encode_chats, encode_examples
from rlhf_lite.types import Message


def cross_entropy(policy: PolicyScorer, examples) -> torch.Tensor:
    """The usual way: labels of -100 on the prompt, and transformers' own shift."""
    total, count = 0.0, 0
    for example in examples:
        ids = torch.tensor([example.prompt + example.completion])
        labels = ids.clone()
        labels[0, : len(example.prompt)] = -100
        total += policy.model(input_ids=ids, labels=labels).loss * len(example.completion)
        count += len(example.completion)
    return total / count


def test_loss_is_cross_entropy_on_the_completion():
    policy = new_scorer()
    with torch.no_grad():
        expected = cross_entropy(policy, EXAMPLES).item()
    for size in (3, 32):
        measured = completion_loss(policy, EXAMPLES, pad_token_id=0, batch_size=size)
        assert measured == pytest.approx(expected, rel=1e-5)
    first = run_sft(policy, batch_size=8, steps=1).lines[0]
    assert first["loss/nats_per_token"] == pytest.approx(expected, rel=1e-5)


def test_one_step_is_the_step_of_that_gradient():
    policy = new_scorer()
    named = [(n, p) for n, p in policy.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(cross_entropy(policy, EXAMPLES), [p for _, p in named])
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    before = weights(policy)
    line = run_sft(policy, batch_size=8, steps=1, warmup_steps=0, max_grad_norm=1e9).lines[0]
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    for (name, parameter), gradient in zip(named, gradients, strict=True):
        clear = gradient.abs() > 1e-4  # where Adam's first step is lr * sign(gradient)
        moved = parameter.detach() - before[name]
        torch.testing.assert_close(moved[clear], -0.01 * gradient[clear].sign(), atol=2e-4, rtol=0)


def test_collate_marks_the_completion():
    ids, mask, wanted = collate_examples([Example([5, 6], [7]), Example([8], [9, 10, 11])], 0)
    assert ids.tolist() == [[5, 6, 7, 0], [8, 9, 10, 11]]
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert wanted.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_tokens_that_do_not_count_are_context_only():
    some = Example([8], [9, 10, 11], [True, False, True])
    assert (some.counted, Example([8], [9, 10]).counted) == (2, 2)
    wanted = collate_examples([Example([5, 6], [7]), some], 0)[2]
    assert wanted.tolist() == [[False, False, True, False], [False, True, False, True]]
    # The loss of a three-token answer is the token-weighted mean of its parts.
    policy = new_scorer()
    parts = [
        completion_loss(policy, [Example([8], [9, 10, 11], counts)], pad_token_id=0)
        for counts in ([True, False, True], [False, True, False], None)
    ]
    assert (2 * parts[0] + parts[1]) / 3 == pytest.approx(parts[2], rel=1e-5)
    line = run_sft(new_scorer(), [some], batch_size=1, steps=1).lines[0]
    assert line["loss/nats_per_token"] == pytest.approx(parts[0], rel=1e-5)


# --- What must not change the trajectory


@pytest.mark.parametrize("accumulation", [2, 3, 8])
def test_accumulation_changes_nothing(accumulation):
    whole, parts = new_scorer(), new_scorer()
    first = run_sft(whole, batch_size=8, steps=5).lines
    second = run_sft(parts, batch_size=8, steps=5, accumulation=accumulation).lines
    assert_same_run(second, first, rel=1e-4, abs=1e-5)
    assert_same_weights(parts, whole, atol=1e-4)


def test_longer_padding_changes_nothing(monkeypatch):
    expected = run_sft(new_scorer(), steps=5).lines
    collate = collate_examples

    def longer(examples, pad, **place):
        ids, mask, wanted = collate(examples, pad, **place)
        tail = torch.zeros(len(ids), 7, dtype=torch.bool)
        return torch.cat([ids, tail.long() + 5], 1), torch.cat([mask, tail], 1), torch.cat([wanted, tail], 1)

    monkeypatch.setattr(sft, "collate_examples", longer)
    assert_same_run(run_sft(new_scorer(), steps=5).lines, expected, rel=1e-4, abs=1e-5)


def test_same_seed_same_numbers_other_seed_other_numbers():
    first, again, other = (run_sft(new_scorer(0.1), seed=seed).lines for seed in (0, 0, 1))
    assert again == first and other != first


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_interrupted_run_ends_where_the_other_ends(dropout):
    whole = new_scorer(dropout)
    torch.manual_seed(0)
    expected = run_sft(whole, steps=6).lines
    broken = Recorder(fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        run_sft(new_scorer(dropout), steps=6, recorder=broken)
    assert sorted(broken.saved) == [2, 4]
    policy, rest = new_scorer(dropout), Recorder()
    torch.manual_seed(123)  # another process
    assert run_sft(policy, steps=6, resume=broken.resume(4), recorder=rest).lines == expected[4:]
    assert rest.steps == [5, 6]
    assert_same_weights(policy, whole)


def test_recomputing_the_top_layers_changes_nothing():
    expected = run_sft(new_scorer(0.1)).lines
    got = run_sft(new_scorer(0.1), gradient_checkpointing=True).lines
    assert_same_run(got, expected, rel=1e-6, abs=1e-7)


# --- Precision


def test_trained_weights_stay_float32_on_a_bfloat16_model():
    policy = new_scorer(dtype=torch.bfloat16)
    kinds = {name: p.dtype for name, p in policy.named_parameters()}
    assert {kinds[name] for name in weights(policy)} == {torch.float32}
    assert {kind for name, kind in kinds.items() if "lora" not in name} == {torch.bfloat16}
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    recorder = Recorder()
    # Too small a step for bfloat16, whose neighbours of 0.1 are 0.0005 apart.
    run_sft(policy, recorder=recorder, learning_rate=1e-5, schedule="constant")
    saved = recorder.saved[4][0]
    assert {t.dtype for name, t in saved.items() if name != "steps"} == {torch.float32}
    for name, parameter in policy.named_parameters():
        assert parameter.dtype == kinds[name]
        if name not in weights(policy):
            assert torch.equal(parameter, before[name])
        elif "lora_A" in name:
            moved = (parameter.detach() - before[name]).abs()
            assert 0 < moved.max() < 1e-4


# --- Validation


def test_the_loss_falls_and_validation_is_measured_when_asked():
    policy = new_scorer()
    lines = run_sft(
        policy, steps=30, batch_size=8, learning_rate=0.05, validation=EXAMPLES, validate_every=12
    ).lines
    losses = [line["loss/nats_per_token"] for line in lines]
    assert losses[-1] < 0.5 * losses[0]
    measured = {i + 1: line["val_loss/nats_per_token"] for i, line in enumerate(lines) if len(line) > 3}
    assert sorted(measured) == [12, 24, 30]
    assert measured[30] == pytest.approx(completion_loss(policy, EXAMPLES, pad_token_id=0), rel=1e-5)
    assert lines[0]["learning_rate"] == pytest.approx(0.05)


def test_validation_is_measured_without_dropout():
    policy = new_scorer(dropout=0.5)
    shake(policy.model, "policy")
    first, again = (completion_loss(policy, EXAMPLES, pad_token_id=0) for _ in range(2))
    assert first == again
    assert any(module.training for module in policy.modules())
    with torch.no_grad():
        policy.model.eval()
        assert first == pytest.approx(cross_entropy(policy, EXAMPLES).item(), rel=1e-5)


def test_an_adapter_below_the_split_is_refused():
    policy = new_scorer(top_layers=None)
    with pytest.raises(ValueError, match=r"below the split at layer 3.*top_layers"):
        run_sft(PolicyScorer(policy.model, top_layers=1))


# --- Encoding


def test_encode_examples():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    texts = [("ab", " cd"), ("", "x"), ("abcdef", "gh"), ("abcdefgh", "z"), ("abc", "defg")]
    found = encode_examples(tokenizer, texts, max_tokens=7)
    decoded = [(tokenizer.decode(e.prompt), tokenizer.decode(e.completion)) for e in found]
    # Without a prompt the start token is the context. A prompt loses its beginning, down to four of the seven
    # tokens, and an answer then its end: it does not end there.
    expected = [("ab", " cd<end>"), (tokenizer.bos_token, "x<end>"), ("cdef", "gh<end>"), ("defgh", "z<end>"),
                ("abc", "defg")]
    assert decoded == expected
    assert [e.completion[-1] == end for e in found] == [True, True, True, True, False]
    counts = RowCounts(7)
    encode_examples(tokenizer, texts, max_tokens=7, counts=counts)
    assert counts.record() == {"read": 5, "left_out": {}, "prompts_cut": 2, "answers_cut": 1, "used": 5,
                               "max_tokens": 7, "longest_tokens": 10}
    assert encode_examples(tokenizer, texts[:1], max_tokens=7, end=False)[0].completion[-1] != end


TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.role == 'assistant' %}{% generation %}{{ m.content }}/{% endgeneration %}"
    "{% else %}{{ m.content }}/{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
CHAT = [
    Message("system", "be kind"),
    Message("user", "hi"),
    Message("assistant", "hello"),
    Message("user", "bye"),
    Message("assistant", "see you"),
]


def spoken(tokenizer, example: Example) -> tuple[str, str]:
    """The context before the first answer, and the counted tokens."""
    counts = example.counts or [True] * len(example.completion)
    return tokenizer.decode(example.prompt), tokenizer.decode(
        [t for t, counted in zip(example.completion, counts, strict=True) if counted]
    )


def test_chats_count_the_assistants_turns():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    (example,) = encode_chats(tokenizer, [CHAT], max_tokens=200)
    assert spoken(tokenizer, example) == ("[system]be kind/[user]hi/[assistant]", "hello/see you/")
    # transformers marks the same tokens, where a template says what is generated.
    plain = [{"role": m.role, "content": m.content} for m in CHAT]
    theirs = tokenizer.apply_chat_template(
        plain, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert theirs["input_ids"] == example.prompt + example.completion
    ours = [False] * len(example.prompt) + (example.counts or [])
    assert [bool(m) for m in theirs["assistant_masks"]] == ours
    assert sum(ours) == example.counted == len("hello/see you/")


@pytest.mark.parametrize(
    ("max_tokens", "context", "answers"),
    [
        (47, "/[assistant]", "hello/see you/"),
        (34, "ello/[user]bye/[assistant]", "see you/"),  # half an answer is no answer to learn
        (24, "]bye/[assistant]", "see you/"),
        (10, "stant]", "see "),
    ],
)
def test_chats_that_are_cut_lose_their_beginning(max_tokens, context, answers):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE
    counts = RowCounts()
    (cut,) = encode_chats(tokenizer, [CHAT], max_tokens=max_tokens, counts=counts)
    assert spoken(tokenizer, cut) == (context, answers) and cut.size == max_tokens
    assert (counts.used, counts.prompts_cut, counts.answers_cut) == (1, 1, answers == "see ")


def test_chats_without_an_answer_and_without_a_template():
    tokenizer, counts = byte_tokenizer(), RowCounts()
    tokenizer.chat_template = TEMPLATE
    assert encode_chats(tokenizer, [CHAT[:2]], max_tokens=99, counts=counts) == []
    assert (counts.read, counts.used) == (1, 0)
    # Without a template of its own: the plain transcript.
    plain = byte_tokenizer()
    (example,) = encode_chats(plain, [CHAT[1:3]], max_tokens=99)
    assert spoken(plain, example) == ("\n\nHuman: hi\n\nAssistant:", " hello")


def test_a_template_that_rewrites_the_past_is_refused():
    def forgetful(messages, answer_next):
        return "".join(f"{m.content}|" for m in messages[-2:]) + ("A:" if answer_next else "")

    with pytest.raises(ValueError, match=r"no boundary around turn 3: from character 0"):
        encode_chats(byte_tokenizer(), [CHAT], max_tokens=99, template=forgetful)


def test_training_on_chats_learns_the_answers_only():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("[", "").replace("]", "")
    (example,) = encode_chats(tokenizer, [CHAT[1:]], max_tokens=99)
    small = Example(
        [t % 61 + 3 for t in example.prompt], [t % 61 + 3 for t in example.completion], example.counts
    )
    policy = new_scorer()
    lines = run_sft(policy, [small], batch_size=1, steps=12, learning_rate=0.05).lines
    assert lines[-1]["loss/nats_per_token"] < 0.7 * lines[0]["loss/nats_per_token"]
    silent = Example(small.prompt, small.completion, [not counted for counted in small.counts])
    before, after = (completion_loss(scorer, [silent], pad_token_id=0) for scorer in (new_scorer(), policy))
    assert after > 0.8 * before
