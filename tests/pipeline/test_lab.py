"""Every algorithm in a tiny world: it gets better, never better than possible, and ends where it should."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from benchmarks import lab as lab_report
from rlhf_lite.lab import (
    TabularPolicy,
    World,
    exact_kl,
    make_world,
    pretrained_world,
    sequence_probs,
    win_rates,
)
from rlhf_lite.pipeline.lab import trainers as lab_trainers
from rlhf_lite.pipeline.lab.preferences import PREFERENCE_CASES, _kto_objective, _pair_objective, _Pairs
from rlhf_lite.pipeline.lab.results import BeyondOptimumError, Point, measured
from rlhf_lite.pipeline.lab.run import ALGORITHMS, run_best_of_n, run_lab
from rlhf_lite.pipeline.lab.trainers import POLICY_CASES, _WorldReward, sampled_pairs
from rlhf_lite.rollout.rewards import Completions
from rlhf_lite.training.grpo import GRPOSettings
from rlhf_lite.training.ppo import PPOSettings

TINY = make_world("dense", tokens=4, length=3, prompts=2, seed=100)
QUICK = {"steps": 15, "rows": 64, "learning_rate": 3e-3, "evaluate_every": 5, "pretraining_steps": 20}


def check_report(found, *, algorithm: str) -> None:
    """What holds for every result."""
    assert (found.algorithm, found.world, found.seed, found.beta) == (algorithm, "dense", 3, TINY.beta)
    assert found.curve[0].fraction == pytest.approx(0.0, abs=1e-9) and found.curve[0].step in (0, 1)
    assert all(p.fraction <= 1 + 1e-9 for p in found.curve)
    e = found.evaluation
    assert e.objective <= e.best_objective + 1e-9
    assert e.objective == pytest.approx(e.expected_reward - found.beta * e.kl_to_reference)
    assert e.objective == pytest.approx(e.best_objective - found.beta * e.kl_to_optimum)
    assert found.aims_at and found.seconds >= 0
    assert json.loads(json.dumps(found.as_json(), allow_nan=False))["evaluation"]["fraction"] == e.fraction


@pytest.mark.parametrize("algorithm", POLICY_CASES)
def test_policy_gradients_climb(algorithm: str) -> None:
    found = run_lab(algorithm, world=TINY, seed=3, **QUICK)
    check_report(found, algorithm=algorithm)
    assert [p.step for p in found.curve] == [0, 5, 10, 15]
    assert found.fraction == found.curve[-1].fraction > 0.4
    assert found.extra["largest_first_ratio_error"] < 1e-4
    assert found.settings["steps"] == 15 and found.settings["temperature"] == 1.0
    # The seed draws the network too.
    assert (found.kl_to_target is None) == (algorithm == "grpo_kl_in_loss")


@pytest.mark.parametrize("algorithm", PREFERENCE_CASES)
def test_preference_losses_climb(algorithm: str) -> None:
    found = run_lab(algorithm, world=TINY, seed=3, steps=60)
    check_report(found, algorithm=algorithm)
    assert found.fraction > 0.02
    assert found.win_rate > 0.5  # all of them prefer what wins
    assert found.settings["pairs"] == "all"


@pytest.mark.parametrize("name", ["dense", "sparse", "table"])
def test_dpo_on_infinite_data_reaches_the_optimum(name: str) -> None:
    world = make_world(name, tokens=4, length=3, prompts=2, seed=100)
    found = run_lab("dpo", world=world, steps=250)
    assert found.fraction > 0.99
    assert found.kl_to_target == pytest.approx(found.evaluation.kl_to_optimum)
    assert found.target is None  # its target is the optimum itself


@pytest.mark.parametrize("algorithm", ["ipo", "simpo"])
def test_others_reach_the_optimum_of_their_own(algorithm: str) -> None:
    """IPO tilts by win rate, SimPO forgets the reference: each gets there, and there is not π*."""
    found = run_lab(algorithm, world=TINY, steps=400)
    assert found.kl_to_target < 0.02
    assert found.fraction == pytest.approx(found.target.fraction, abs=0.02)
    assert found.target.fraction < 0.97
    assert found.evaluation.kl_to_optimum > 10 * found.kl_to_target


def test_the_dpo_trainer_learns_from_verdicts() -> None:
    found = run_lab("dpo_transformer", world=TINY, seed=3, **QUICK | {"steps": 30})
    check_report(found, algorithm="dpo_transformer")
    assert found.fraction > 0.9
    assert found.settings["pairs"] == 30 * 32 and found.settings["loss_beta"] == pytest.approx(1.0)


def test_sampled_verdicts_follow_bradley_terry() -> None:
    """Who wins, how often who is drawn, and for which prompt."""
    reference = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.1, 0.1, 0.7]], dtype=torch.float64)
    rewards = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    world = World("hand", 2, 2, ((0,), (1, 1)), reference, rewards, 0.5)
    pairs = sampled_pairs(world, 40_000, sharpness=2.0, seed=0)
    assert [pair.prompt_ids for pair in pairs[:3]] == [[0], [1, 1], [0]]
    first = [pair for pair in pairs if pair.prompt_ids == [0]]
    count = Counter((tuple(pair.chosen_ids), tuple(pair.rejected_ids)) for pair in first)
    words = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for a, b in itertools.product(range(4), repeat=2):
        wins = 1 / (1 + math.exp(2.0 * float(rewards[0, b] - rewards[0, a])))
        expected = 2 * float(reference[0, a] * reference[0, b]) * wins  # a was drawn first or second
        assert count[words[a], words[b]] / len(first) == pytest.approx(expected, abs=0.012)


def test_drawn_pairs_also_lead_to_the_optimum() -> None:
    found = run_lab("dpo", world=TINY, steps=300, pairs_per_prompt=512)
    assert found.settings["pairs"] == 512
    assert found.fraction > 0.97
    again = run_lab("dpo", world=TINY, steps=300, pairs_per_prompt=512)
    other = run_lab("dpo", world=TINY, steps=300, pairs_per_prompt=512, seed=1)
    assert again.fraction == found.fraction != other.fraction


def two_answers() -> World:
    """One prompt; the words 00, 01, 10, 11 of a world of two tokens, probabilities and strengths by hand."""
    reference = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
    rewards = torch.tensor([[0.0, 1.0, 2.0, 3.0]], dtype=torch.float64)
    return World("hand", 2, 2, ((0,),), reference, rewards, 0.5)


def test_all_pairs_are_infinite_data() -> None:
    """The expected loss equals a double loop over who is drawn and who wins."""
    world, beta = two_answers(), 0.5
    policy = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    ref, strengths = world.reference[0], world.rewards[0]
    expected = 0.0
    for a, b in itertools.product(range(4), repeat=2):
        wins = 1 / (1 + math.exp(strengths[b] - strengths[a]))
        gap = beta * ((policy[a] / ref[a]).log() - (policy[b] / ref[b]).log())
        for chance, margin in ((wins, gap), (1 - wins, -gap)):
            expected += float(ref[a] * ref[b]) * chance * math.log1p(math.exp(-float(margin)))
    got = _pair_objective("dpo", world, _Pairs(world, drawn=None, seed=0), beta, {})(policy.log()[None])
    assert got.item() == pytest.approx(expected)
    _, _, weights = _Pairs(world, drawn=None, seed=0)()
    assert weights.sum(-1).tolist() == pytest.approx([1.0])


def test_drawn_pairs_have_the_same_mean() -> None:
    world, logp = two_answers(), torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64).log()
    exact = _pair_objective("ipo", world, _Pairs(world, drawn=None, seed=0), 0.5, {})(logp)
    drawn = _pair_objective("ipo", world, _Pairs(world, drawn=40_000, seed=0), 0.5, {})(logp)
    assert drawn.item() == pytest.approx(exact.item(), rel=0.02)


def test_the_optimum_is_where_dpo_has_no_gradient() -> None:
    world = two_answers()
    pairs = _Pairs(world, drawn=None, seed=0)
    for probs, flat in ((world.optimum, True), (world.reference, False)):
        logits = probs.log().requires_grad_()
        _pair_objective("dpo", world, pairs, world.beta, {})(logits.log_softmax(-1)).backward()
        assert (logits.grad.abs().max().item() < 1e-12) is flat


def test_kto_by_hand() -> None:
    """At the reference every log-ratio and the KL are zero, so that each answer costs ½ either way."""
    world = two_answers()
    expected = _kto_objective(world, 0.5)
    assert expected(world.reference.log()).item() == pytest.approx(0.5)
    policy = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    kl = exact_kl(policy, world.reference).item()
    total = 0.0
    for y in range(4):
        gain = 0.5 * ((policy[0, y] / world.reference[0, y]).log().item() - kl)
        wins = win_rates(world.rewards, world.reference)[0, y].item()
        cost = wins / (1 + math.exp(gain)) + (1 - wins) / (1 + math.exp(-gain))
        total += world.reference[0, y].item() * cost
    assert expected(policy.log()).item() == pytest.approx(total)


@pytest.mark.parametrize("name", ["dense", "sparse", "table", "deceptive"])
def test_best_of_n_stays_under_its_bound(name: str) -> None:
    """For every n and every prompt; ties only make it smaller."""
    world = make_world(name, tokens=5, length=3, prompts=3, seed=100)
    found = run_best_of_n(world, ns=tuple(range(1, 40)))
    rows = found.extra["by_n"]
    for row in rows:
        assert row["largest_kl_nats_per_seq"] <= row["kl_bound_nats_per_seq"] + 1e-9
    assert rows[0]["fraction"] == pytest.approx(0.0, abs=1e-9)
    rewards = [row["expected_reward"] for row in rows]
    assert rewards == sorted(rewards) and rewards[-1] > rewards[0]
    assert 0 < found.fraction == max(row["fraction"] for row in rows) < 1


def test_the_reward_reads_prompts_through_their_padding() -> None:
    world = make_world("table", tokens=4, length=2, prompts=3)
    width = max(map(len, world.prompts))
    ids, mask = torch.zeros(3, width + 2, dtype=torch.long), torch.ones(3, width + 2, dtype=torch.bool)
    answers = torch.tensor([[3, 1], [0, 0], [2, 3]])
    for row, prompt in enumerate(world.prompts):
        ids[row, width - len(prompt) : width] = torch.tensor(prompt)
        mask[row, : width - len(prompt)] = False
        ids[row, : width - len(prompt)] = 3  # whatever padding holds
    ids[:, width:] = answers
    response = torch.zeros_like(mask)
    response[:, width:] = True
    batch = Completions(ids, mask, response, width, torch.zeros(3, dtype=torch.bool))
    expected = [world.rewards[0, 13], world.rewards[1, 0], world.rewards[2, 11]]
    assert _WorldReward(world)(batch).tolist() == expected


def test_the_trainer_pays_the_worlds_price() -> None:
    """With a hundred times the price of a nat the policy stays where it is."""
    dear = make_world("dense", tokens=4, length=3, prompts=2, seed=100, beta=10.0)
    found = run_lab("rloo", world=dear, seed=3, **QUICK)
    cheap = run_lab("rloo", world=TINY, seed=3, **QUICK)
    assert found.evaluation.kl_to_reference < 0.1 * cheap.evaluation.kl_to_reference


@pytest.mark.parametrize("algorithm", POLICY_CASES)
def test_the_trainer_is_told_the_price_that_the_optimum_has(algorithm: str, monkeypatch) -> None:
    """Half the price would still climb in a short run, to another optimum."""
    told: list[PPOSettings | GRPOSettings] = []

    def train(setup: object, prompts: object, settings: PPOSettings | GRPOSettings, **given: object) -> None:
        told.append(settings)

    case = replace(POLICY_CASES[algorithm], train=train)
    monkeypatch.setattr(lab_trainers, "POLICY_CASES", {algorithm: case})
    run_lab(algorithm, world=TINY, seed=3, **QUICK)
    [settings] = told
    assert (settings.kl_coef, settings.temperature, settings.max_new_tokens) == (TINY.beta, 1.0, TINY.length)
    if isinstance(settings, PPOSettings):
        assert settings.kl_target is None and settings.gamma == 1.0
    else:
        assert settings.kl_in == ("loss" if algorithm == "grpo_kl_in_loss" else "reward")


def test_the_reference_is_the_network_before_training() -> None:
    found = run_lab("ppo", world=TINY, seed=3, **QUICK | {"steps": 1})
    model, world = pretrained_world(TINY, seed=3, steps=20)
    assert found.evaluation.reference_objective == world.evaluate(sequence_probs(model, world)).objective


def test_points_are_told_as_they_are_measured() -> None:
    heard: list[Point] = []
    found = run_lab("grpo", world=TINY, seed=3, on_point=heard.append, **QUICK | {"steps": 2})
    assert tuple(heard) == found.curve and [p.step for p in heard] == [0, 2]
    assert found.seconds_measuring > 0


def test_two_runs_are_the_same() -> None:
    first, again = (run_lab("grpo", world=TINY, seed=3, **QUICK | {"steps": 3}) for _ in range(2))
    other = run_lab("grpo", world=TINY, seed=4, **QUICK | {"steps": 3})
    assert first.evaluation == again.evaluation != other.evaluation
    assert first.curve == again.curve


def test_more_than_the_possible_is_an_error() -> None:
    too_good = SimpleNamespace(objective=1.1, best_objective=1.0, fraction=1.2)
    with pytest.raises(BeyondOptimumError, match=r"J = 1.1 is above J\* = 1.0"):
        measured(SimpleNamespace(evaluate=lambda probs: too_good, name="broken"), torch.ones(1))
    assert measured(TINY, TINY.optimum).fraction == pytest.approx(1.0)


def test_a_table_that_is_the_optimum_gets_full_marks() -> None:
    policy = TabularPolicy(TINY.with_reference(TINY.optimum))
    assert measured(TINY, policy.log_probs().exp().detach()).fraction == pytest.approx(1.0)


def test_the_report_judges_by_its_bars(tmp_path, monkeypatch, capsys) -> None:
    calls = []

    def run(algorithm, *, world, seed, quick):
        calls.append((algorithm, world, seed))
        tiny = make_world(world, tokens=4, length=3, prompts=2, seed=100)
        return run_lab(algorithm, world=tiny, seed=seed, steps=120 if seed < 2 else 1)

    monkeypatch.setattr(lab_report, "run_lab", run)
    arguments = ["--algorithms", "dpo", "hinge", "--worlds", "dense", "--output", str(tmp_path)]
    assert lab_report.main([*arguments, "--seeds", "0", "1"]) == 0
    assert calls == [(name, "dense", seed) for name in ("dpo", "hinge") for seed in (0, 1)]
    assert "bar 0.99 reached" in capsys.readouterr().out
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert [row["algorithm"] for row in summary["rows"]] == ["dpo", "hinge"]
    assert summary["rows"][1]["bar_reached"] is None  # hinge promises nothing
    record = json.loads((tmp_path / "dpo_dense.json").read_text(encoding="utf-8"))
    fractions = [run_["evaluation"]["fraction"] for run_ in record["runs"]]
    assert record["summary"]["fraction"]["mean"] == pytest.approx(sum(fractions) / 2)
    assert record["summary"]["commit"] == record["run"]["commit"]
    # Hardly trained: the bar is missed, and the exit code says so; a quick run is not judged.
    assert lab_report.main([*arguments, "--seeds", "2"]) == 1
    assert lab_report.main([*arguments, "--seeds", "2", "--quick"]) == 0
    assert lab_report.main([*arguments, "--seeds", "9", "--missing"]) == 0
    assert (9 not in {seed for _, _, seed in calls}) and len(calls) == 8


def test_the_plan_covers_every_algorithm_and_bar() -> None:
    plan = lab_report.cases(ALGORITHMS, None)
    assert {algorithm for algorithm, _ in plan} == set(ALGORITHMS)
    assert set(lab_report.BARS) <= set(plan)


def test_intervals_by_hand() -> None:
    """Three values, two degrees of freedom: t = 4.302653 (any table)."""
    got = lab_report.interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)
    assert (got["mean"], got["low"], got["high"]) == pytest.approx((2.0, 2 - half, 2 + half), abs=1e-6)
    assert lab_report.interval([1.0]) == {"mean": 1.0, "low": None, "high": None}


def test_errors_name_the_thing() -> None:
    with pytest.raises(ValueError, match=r"no algorithm 'alchemy'; choose one of dpo, .*best_of_n"):
        run_lab("alchemy")
    with pytest.raises(ValueError, match="no world 'utopia'"):
        run_lab("dpo", world="utopia")
    with pytest.raises(ValueError, match="multiple of the 2 prompts, got 7"):
        run_lab("rloo", world=TINY, **QUICK | {"rows": 7})
    assert len(set(ALGORITHMS)) == len(ALGORITHMS)
