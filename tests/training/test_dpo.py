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
    new_scorer,
    run_dpo,
    sequence_sums,
    shake,
    weights,
)

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.functional import PREFERENCE_LOSSES
from rlhf_lite.models.adapters import using_adapter
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.dpo import reference_logps
from rlhf_lite.training.pairs import judged_from_pairs

ANSWERS = judged_from_pairs(PAIRS)


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
        ref_good, ref_bad = (
            sequence_sums(scorer.model, rows(PAIRS, name)) for name in ("chosen_ids", "rejected_ids")
        )
    good, bad = (sequence_sums(scorer.model, rows(PAIRS, name)) for name in ("chosen_ids", "rejected_ids"))
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
        good = sequence_sums(scorer.model, rows(PAIRS, "chosen_ids"))
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
    from rlhf_lite.training import scoring

    expected = run_dpo(new_scorer(), steps=5, cache_megabytes=0).lines
    collate = scoring.collate_examples

    def longer(examples, pad, **place):
        ids, mask, wanted = collate(examples, pad, **place)
        tail = torch.zeros(len(ids), 7, dtype=torch.bool)
        return torch.cat([ids, tail.long() + 5], 1), torch.cat([mask, tail], 1), torch.cat([wanted, tail], 1)

    monkeypatch.setattr(scoring, "collate_examples", longer)
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


def test_the_reference_is_asked_about_the_rows_that_are_drawn():
    first = run_dpo(new_scorer(), steps=1, batch_size=2, schedule="constant", warmup_steps=0)
    known = first.saved[1][0]["reference/logps"]
    assert int(known.isnan().sum()) == 12  # of sixteen completions, two pairs were drawn
    # A run that is made longer asks about the rest.
    longer = run_dpo(
        new_scorer(), steps=4, batch_size=2, schedule="constant", warmup_steps=0, resume=first.resume(1)
    )
    assert not longer.saved[4][0]["reference/logps"].isnan().any()
    expected = run_dpo(new_scorer(), steps=4, batch_size=2, schedule="constant", warmup_steps=0).lines
    assert_same_run(longer.lines, expected[1:], rel=1e-4, abs=1e-5)
    with pytest.raises(ValueError, match="lacks 12 of the rows"):
        run_dpo(new_scorer(), steps=8, known_reference=known, reference=None)


def test_the_reference_may_be_another_adapter():
    """As after SFT: the policy starts as a copy of the adapter that it is compared with."""
    model = new_scorer().model
    model.add_adapter("copy", model.peft_config["policy"])
    shake(model, "policy", scale=0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".copy." in name:
                parameter.copy_(model.get_parameter(name.replace(".copy.", ".policy.")))
    scorer = PolicyScorer(model, top_layers=2)
    line = run_dpo(scorer, steps=1, reference=lambda: using_adapter(model, "copy")).lines[0]
    assert line["loss/per_pair"] == pytest.approx(math.log(2), abs=1e-5)
    assert all(".policy." in name for name in weights(scorer))
    assert run_dpo(scorer, steps=1).lines[0]["loss/per_pair"] != pytest.approx(math.log(2), abs=1e-2)


def test_known_reference_values_are_used():
    scorer, asked = trained_scorer(), []
    known = reference_logps(scorer, PAIRS, reference=bare(scorer), pad_token_id=0, accelerator=accelerator())
    with torch.no_grad(), bare(scorer)():
        expected = sequence_sums(scorer.model, rows(PAIRS, "chosen_ids") + rows(PAIRS, "rejected_ids"))
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
