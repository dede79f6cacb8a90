"""Preference training: ln 2 at the start, the loss by hand, trajectories that depend on nothing else."""

from __future__ import annotations

import math
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from runners import (
    PAIRS,
    Recorder,
    accelerator,
    assert_same_run,
    assert_same_weights,
    bare,
    byte_tokenizer,
    new_scorer,
    run_dpo,
    shake,
    weights,
)
from tiny_models import naive_logps

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.functional import PREFERENCE_LOSSES
from rlhf_lite.training.dpo import reference_logps
from rlhf_lite.training.preference_data import (
    JudgedAnswer,
    JudgedText,
    encode_judged,
    encode_preferences,
    judged_from_pairs,
    mismatched,
)
from rlhf_lite.types import Preference

ANSWERS = judged_from_pairs(PAIRS)


def sums(model, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Summed log-probability of each completion, row by row, without padding."""
    found = naive_logps(model, [prompt + completion for prompt, completion in rows])
    return torch.stack([logps[-len(rows[i][1]) :].sum() for i, logps in enumerate(found)])


def trained_scorer():
    scorer = new_scorer()
    shake(scorer.model, "policy", scale=0.05)
    return scorer


# --- The loss


def test_the_first_dpo_loss_is_ln_2():
    line = run_dpo(new_scorer(), steps=1).lines[0]
    assert line["loss/per_pair"] == pytest.approx(math.log(2), abs=1e-6)
    assert line["margin/implicit_reward"] == pytest.approx(0.0, abs=1e-5)
    assert line["accuracy/fraction"] == 0.5
    assert line["log_ratio/chosen_nats_per_seq"] == pytest.approx(0.0, abs=1e-5)
    assert line["grad_norm"] > 0


@pytest.mark.parametrize("batch_size", [4, 8])
def test_loss_and_gradient_are_those_of_plain_autograd(batch_size):
    """The whole batch as eight rows without padding: -log σ(β h), through the full model's logits."""
    scorer = trained_scorer()
    with torch.no_grad(), bare(scorer)():
        ref_good, ref_bad = (sums(scorer.model, rows(PAIRS, name)) for name in ("chosen_ids", "rejected_ids"))
    good, bad = (sums(scorer.model, rows(PAIRS, name)) for name in ("chosen_ids", "rejected_ids"))
    h = (good - ref_good) - (bad - ref_bad)
    loss = -torch.nn.functional.logsigmoid(0.5 * h).mean()
    named = [(n, p) for n, p in scorer.named_parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, [p for _, p in named])
    norm = torch.cat([g.flatten() for g in gradients]).norm().item()
    before = weights(scorer)
    line = run_dpo(scorer, steps=1, batch_size=8, accumulation=8 // batch_size, warmup_steps=0).lines[0]
    assert line["loss/per_pair"] == pytest.approx(loss.item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
    assert line["margin/implicit_reward"] == pytest.approx(0.5 * h.mean().item(), rel=1e-4)
    assert line["reward/implicit_chosen"] == pytest.approx(0.5 * (good - ref_good).mean().item(), rel=1e-4)
    assert line["reward/implicit_rejected"] == pytest.approx(0.5 * (bad - ref_bad).mean().item(), rel=1e-4)
    assert line["log_ratio/chosen_nats_per_seq"] == pytest.approx((good - ref_good).mean().item(), rel=1e-4)
    assert line["logp/chosen_nats_per_seq"] == pytest.approx(good.mean().item(), rel=1e-5)
    assert line["logp/rejected_nats_per_seq"] == pytest.approx(bad.mean().item(), rel=1e-5)
    assert line["accuracy/fraction"] == pytest.approx((h > 0).float().mean().item())
    assert line["length/chosen_tokens"] == sum(len(p.chosen_ids) for p in PAIRS) / 8
    assert line["length/rejected_tokens"] == sum(len(p.rejected_ids) for p in PAIRS) / 8
    for (name, parameter), gradient in zip(named, gradients, strict=True):
        clear = gradient.abs() > 1e-4  # where Adam's first step is lr * sign(gradient)
        moved = parameter.detach() - before[name]
        torch.testing.assert_close(moved[clear], -0.01 * gradient[clear].sign(), atol=2e-4, rtol=0)


def rows(pairs, name: str) -> list[tuple[list[int], list[int]]]:
    return [(pair.prompt_ids, getattr(pair, name)) for pair in pairs]


@pytest.mark.parametrize("loss", [*PREFERENCE_LOSSES, "kto"])
def test_every_loss_trains_and_falls(loss):
    """On separable pairs; apo_down lowers both answers, so only its loss must fall."""
    name = "loss/per_answer" if loss == "kto" else "loss/per_pair"
    needs = loss == "kto" or PREFERENCE_LOSSES[loss].needs_reference
    scorer = new_scorer()
    reference = bare(scorer) if needs else None
    lines = run_dpo(scorer, steps=8, batch_size=8, loss=loss, reference=reference).lines
    values = [line[name] for line in lines]
    assert values[-1] < values[0] - 0.02 * abs(values[0])
    if loss not in ("kto", "apo_down"):
        assert lines[-1]["accuracy/fraction"] >= 0.75
    assert ("log_ratio/chosen_nats_per_seq" in lines[0]) is (needs and loss != "kto")


def test_options_reach_the_loss():
    plain = run_dpo(trained_scorer(), steps=1).lines[0]["loss/per_pair"]
    smooth = run_dpo(trained_scorer(), steps=1, loss_options={"label_smoothing": 0.3}).lines[0][
        "loss/per_pair"
    ]
    assert smooth != pytest.approx(plain, rel=1e-3)
    with pytest.raises(ValueError, match="smoothing"):
        run_dpo(new_scorer(), steps=1, loss_options={"smoothing": 0.3})
    with pytest.raises(ValueError, match="weight"):
        run_dpo(new_scorer(), steps=1, loss="kto", loss_options={"weight": 0.3})


def test_the_sft_term_by_hand():
    scorer = trained_scorer()
    with torch.no_grad():
        good = sums(scorer.model, rows(PAIRS, "chosen_ids"))
    lengths = torch.tensor([len(p.chosen_ids) for p in PAIRS])
    expected = (-good / lengths).mean().item()
    line = run_dpo(trained_scorer(), steps=1, batch_size=8, sft_coef=2.0).lines[0]
    assert line["loss/sft_nats_per_token"] == pytest.approx(expected, rel=1e-5)
    # It acts: with it, the chosen answers become more likely than without.
    with_term = run_dpo(new_scorer(), steps=10, batch_size=8, sft_coef=2.0).lines[-1]
    without = run_dpo(new_scorer(), steps=10, batch_size=8).lines[-1]
    assert with_term["logp/chosen_nats_per_seq"] > without["logp/chosen_nats_per_seq"] + 0.5


def test_swapping_the_answers_negates_the_margin():
    swapped = [replace(p, chosen_ids=p.rejected_ids, rejected_ids=p.chosen_ids) for p in PAIRS]
    one = run_dpo(trained_scorer(), steps=1, batch_size=8).lines[0]
    two = run_dpo(trained_scorer(), swapped, steps=1, batch_size=8).lines[0]
    assert two["margin/implicit_reward"] == pytest.approx(-one["margin/implicit_reward"], rel=1e-4)


# --- KTO


def test_kto_by_hand():
    scorer = trained_scorer()
    others = mismatched(ANSWERS, seed=0)
    own_rows = [(a.prompt_ids, a.completion_ids) for a in ANSWERS]
    other_rows = [(e.prompt, e.completion) for e in others]
    with torch.no_grad():
        policy, z_policy = sums(scorer.model, own_rows), sums(scorer.model, other_rows)
        with bare(scorer)():
            ref, z_ref = sums(scorer.model, own_rows), sums(scorer.model, other_rows)
    z = max(0.0, (z_policy - z_ref).mean().item())
    ratio = policy - ref
    liked = torch.tensor([a.desirable for a in ANSWERS])
    losses = torch.where(
        liked, 1.5 * (1 - torch.sigmoid(0.5 * (ratio - z))), 1 - torch.sigmoid(0.5 * (z - ratio))
    )
    line = run_dpo(
        scorer, ANSWERS, steps=1, batch_size=16, loss="kto", loss_options={"desirable_weight": 1.5}
    ).lines[0]
    assert line["loss/per_answer"] == pytest.approx(losses.mean().item(), rel=1e-5)
    assert line["kl/baseline_nats_per_seq"] == pytest.approx(z, abs=1e-5)
    assert line["reward/implicit_desirable"] == pytest.approx(0.5 * ratio[liked].mean().item(), rel=1e-4)
    assert line["reward/implicit_undesirable"] == pytest.approx(0.5 * ratio[~liked].mean().item(), rel=1e-4)


def test_kto_takes_pairs_as_two_answers():
    pairs = run_dpo(new_scorer(), PAIRS, loss="kto").lines
    assert pairs == run_dpo(new_scorer(), ANSWERS, loss="kto").lines
    assert pairs[0]["loss/per_answer"] == pytest.approx(0.5, abs=1e-6)


def test_a_batch_of_liked_answers_only_has_no_metric_of_the_others():
    line = run_dpo(new_scorer(), [a for a in ANSWERS if a.desirable], loss="kto", steps=1).lines[0]
    assert "reward/implicit_desirable" in line and "reward/implicit_undesirable" not in line


def test_mismatched_completions_belong_to_other_prompts():
    found = mismatched(ANSWERS, seed=3)
    assert [e.prompt for e in found] == [
        a.prompt_ids[-len(e.prompt) :] for a, e in zip(ANSWERS, found, strict=True)
    ]
    own = {tuple(a.prompt_ids): [] for a in ANSWERS}
    for a in ANSWERS:
        own[tuple(a.prompt_ids)].append(a.completion_ids)
    assert all(e.completion not in own[tuple(a.prompt_ids)] for a, e in zip(ANSWERS, found, strict=True))
    longest = max(len(a.prompt_ids) + len(a.completion_ids) for a in ANSWERS)
    assert max(len(e.prompt) + len(e.completion) for e in found) <= longest
    assert [e.completion for e in found] != [e.completion for e in mismatched(ANSWERS, seed=4)]
    same = [JudgedAnswer([5], [6], True), JudgedAnswer([5], [7], False)]  # nothing to choose from
    assert [e.completion for e in mismatched(same, seed=0)] == [[7], [6]]


# --- What must not change the trajectory

CASES = [
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "sft_coef": 0.5},
    {"loss": "simpo", "reference": None},
    {"loss": "ipo_mean"},
    {"loss": "kto"},
]


@pytest.mark.parametrize(("case", "accumulation"), [*((case, 3) for case in CASES), (CASES[0], 8)], ids=str)
def test_accumulation_changes_nothing(case, accumulation):
    one, other = new_scorer(), new_scorer()
    expected = run_dpo(one, batch_size=8, steps=5, **case).lines
    got = run_dpo(other, batch_size=8, steps=5, accumulation=accumulation, **case).lines
    assert_same_run(got, expected, rel=2e-4, abs=2e-5)
    assert_same_weights(other, one, atol=2e-4)


@pytest.mark.parametrize("case", [CASES[0], CASES[-1]], ids=str)
def test_the_memory_for_frozen_states_changes_nothing(case):
    one, other = new_scorer(), new_scorer()
    expected = run_dpo(one, steps=5, cache_megabytes=64, **case).lines
    got = run_dpo(other, steps=5, cache_megabytes=0, **case).lines
    assert_same_run(got, expected, rel=2e-4, abs=2e-5)


def test_longer_padding_changes_nothing(monkeypatch):
    from rlhf_lite.training import preference_scoring

    expected = run_dpo(new_scorer(), steps=5, cache_megabytes=0).lines
    collate = preference_scoring.collate_examples

    def longer(examples, pad):
        ids, mask, wanted = collate(examples, pad)
        tail = torch.zeros(len(ids), 7, dtype=torch.bool)
        return torch.cat([ids, tail.long() + 5], 1), torch.cat([mask, tail], 1), torch.cat([wanted, tail], 1)

    monkeypatch.setattr(preference_scoring, "collate_examples", longer)
    got = run_dpo(new_scorer(), steps=5, cache_megabytes=0).lines
    assert_same_run(got, expected, rel=2e-4, abs=2e-5)


def test_same_seed_same_numbers_other_seed_other_numbers():
    first, again, other = (run_dpo(new_scorer(0.1), steps=3, seed=seed).lines for seed in (0, 0, 1))
    assert again == first and other != first


@pytest.mark.parametrize(
    ("case", "dropout"), [*((case, 0.0) for case in CASES[1:]), (CASES[0], 0.2)], ids=str
)
def test_an_interrupted_run_ends_where_the_other_ends(case, dropout):
    whole = new_scorer(dropout)
    options = {"steps": 6, "validation": PAIRS[:3], "validate_every": 2, **case}
    expected = run_dpo(whole, **options).lines
    broken = Recorder(fail_at=5)
    with pytest.raises(KeyboardInterrupt):
        run_dpo(new_scorer(dropout), recorder=broken, **options)
    scorer = new_scorer(dropout)
    torch.manual_seed(99)  # another process
    asked = []
    if case.get("reference", ...) is not None:
        options["reference"] = counted(scorer, asked)
    got = run_dpo(scorer, resume=broken.resume(4), **options).lines
    assert got == expected[4:]
    assert_same_weights(scorer, whole)
    assert asked == []  # the checkpoint knows what the reference said


def counted(scorer, asked: list[int]):
    @contextmanager
    def context():
        asked.append(1)
        with bare(scorer)():
            yield

    return context


# --- The reference


def test_the_reference_is_asked_once_per_completion():
    scorer, asked = new_scorer(), []
    run_dpo(scorer, steps=8, reference=counted(scorer, asked))  # four epochs
    assert len(asked) == 1  # sixteen completions are one batch


def test_known_reference_values_are_used():
    scorer, asked = trained_scorer(), []
    known = reference_logps(scorer, PAIRS, reference=bare(scorer), pad_token_id=0, accelerator=accelerator())
    with torch.no_grad(), bare(scorer)():
        expected = sums(scorer.model, rows(PAIRS, "chosen_ids") + rows(PAIRS, "rejected_ids"))
    torch.testing.assert_close(known, expected, atol=1e-4, rtol=1e-5)
    expected = run_dpo(trained_scorer()).lines
    got = run_dpo(scorer, reference=counted(scorer, asked), known_reference=known).lines
    assert_same_run(got, expected, rel=1e-5, abs=1e-5)
    assert asked == []
    with pytest.raises(ValueError, match=r"shape \(3,\), for 16"):
        run_dpo(new_scorer(), known_reference=known[:3])


def test_the_reference_knows_no_dropout():
    scorer = new_scorer(0.5)
    shake(scorer.model, "policy")
    options = {"pad_token_id": 0, "accelerator": accelerator()}

    @contextmanager
    def itself():
        yield

    one, two = (reference_logps(scorer, PAIRS, reference=itself, **options) for _ in range(2))
    assert torch.equal(one, two)
    assert any(module.training for module in scorer.modules())


def test_resuming_with_other_data_is_an_error():
    first = run_dpo(new_scorer(), steps=2)
    with pytest.raises(ValueError, match="other completions"):
        run_dpo(new_scorer(), [*PAIRS[:-1], EncodedPair([4], [5], [6])], steps=4, resume=first.resume(2))


def test_validation_is_the_same_measurement_on_other_rows():
    scorer = trained_scorer()
    lines = run_dpo(
        scorer, PAIRS[4:], steps=3, validation=PAIRS[:4], validate_every=2, learning_rate=1e-9
    ).lines
    assert ["val_loss/per_pair" in line for line in lines] == [False, True, True]
    expected = run_dpo(trained_scorer(), PAIRS[:4], steps=1).lines[0]
    for name in ("loss/per_pair", "accuracy/fraction", "margin/implicit_reward"):
        assert lines[1][f"val_{name}"] == pytest.approx(expected[name], rel=1e-4)


# --- Errors


def test_wrong_names_and_data_are_refused():
    with pytest.raises(ValueError, match="no loss 'dpoo': choose one of sigmoid"):
        run_dpo(new_scorer(), loss="dpoo")
    with pytest.raises(ValueError, match="use 'kto'"):
        run_dpo(new_scorer(), ANSWERS)
    with pytest.raises(ValueError, match="sft_coef"):
        run_dpo(new_scorer(), ANSWERS, loss="kto", sft_coef=0.1)
    with pytest.raises(ValueError, match="give reference"):
        run_dpo(new_scorer(), reference=None)
    with pytest.raises(ValueError, match="row 0 lacks a prompt"):
        run_dpo(new_scorer(), [EncodedPair([], [5], [6])] * 4)


def test_an_adapter_below_the_split_is_refused():
    scorer = new_scorer(top_layers=None)
    wrong = type(scorer)(scorer.model, top_layers=2)
    with pytest.raises(ValueError, match="below the split at layer 2"):
        run_dpo(wrong)


def test_recomputing_the_top_layers_changes_nothing():
    expected = run_dpo(new_scorer(0.1), steps=3).lines
    assert_same_run(
        run_dpo(new_scorer(0.1), steps=3, gradient_checkpointing=True).lines, expected, rel=1e-6, abs=1e-7
    )


# --- Encoding


def test_a_prompt_is_cut_and_an_answer_never():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    texts = [
        Preference("abcdef", "gh", "i"),  # 6 + 3: fits
        Preference("abcdefghij", "klm", "n"),  # the prompt loses its first five
        Preference("abc", "d" * 8, "e"),  # the chosen answer and its end fill everything: refused
        Preference("abc", "d", "e" * 9),  # so does the rejected one
        Preference("", "a", "b"),  # sampling would start at the start token
        Preference("x", "y", "y"),  # no preference at all
    ]
    found = encode_preferences(tokenizer, texts, max_tokens=9)
    decode = tokenizer.decode
    assert [(decode(p.prompt_ids), decode(p.chosen_ids), decode(p.rejected_ids)) for p in found.pairs] == [
        ("abcdef", f"gh{end}", f"i{end}"),
        ("fghij", f"klm{end}", f"n{end}"),
        (end, f"a{end}", f"b{end}"),
    ]
    assert found.refused == [2, 3, 5]
    bare_ends = encode_preferences(tokenizer, texts[:1], max_tokens=9, end=False).pairs[0]
    assert decode(bare_ends.chosen_ids) == "gh"
    with pytest.raises(ValueError, match="max_tokens must be at least 2"):
        encode_preferences(tokenizer, texts, max_tokens=1)


def test_an_end_that_is_there_is_not_doubled():
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token
    pair = encode_preferences(tokenizer, [Preference("a", f"b{end}", "c")], max_tokens=9).pairs[0]
    assert tokenizer.decode(pair.chosen_ids) == f"b{end}" and tokenizer.decode(pair.rejected_ids) == f"c{end}"


def test_judged_texts():
    tokenizer = byte_tokenizer()
    texts = [JudgedText("abcdefgh", "ij", True), JudgedText("a", "b" * 9, False), JudgedText("a", "c", False)]
    found = encode_judged(tokenizer, texts, max_tokens=6)
    decode = tokenizer.decode
    assert [(decode(a.prompt_ids), decode(a.completion_ids), a.desirable) for a in found.answers] == [
        ("fgh", f"ij{tokenizer.eos_token}", True),
        ("a", f"c{tokenizer.eos_token}", False),
    ]
    assert found.refused == [1]
