"""PPO: rewards per token by hand, a first ratio of one, a toy that is learned, runs that survive a stop."""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import HIDDEN, llama, naive_logps, token_rows

sys.path.insert(0, str(Path(__file__).parent))
from runners import TOKENS, WANTED_TOKEN, assert_resume_is_exact, policy_setup, weights

from rlhf_lite.errors import RewardError
from rlhf_lite.models.adapters import add_adapter, lora_config
from rlhf_lite.models.policy import PolicyScorer, ValueHead
from rlhf_lite.rollout.rewards import Mixture, Part, Scale
from rlhf_lite.training import rollouts
from rlhf_lite.training.policy_gradient import collect
from rlhf_lite.training.ppo import PPO, PPOSettings, token_rewards, train_ppo
from rlhf_lite.training.rollouts import PolicyGradientSetup, frozen_reference
from rlhf_lite.training.settings import Hooks, OptimiserSettings, Resume, RunSettings, split

ACCELERATOR = Accelerator(cpu=True)
PROMPTS = token_rows([3, 1, 4, 2, 5, 2, 3, 5, 1, 2, 4, 6], vocab=TOKENS, seed=1)


def test_token_rewards_by_hand():
    logp = torch.tensor([[0.0, -1.0, -2.0, 0.0], [0.0, -1.0, -3.0, -5.0]])
    ref = torch.tensor([[0.0, -1.5, -1.0, 0.0], [9.0, -1.0, -1.0, -6.0]])
    wanted = torch.tensor([[False, True, True, False], [False, True, True, True]])
    rewards = token_rewards(logp, ref, torch.tensor([10.0, -10.0]), wanted, kl_coef=0.5)
    expected = torch.tensor([[0.0, -0.25, 0.5 + 10.0, 0.0], [0.0, 0.0, 1.0, -0.5 - 10.0]])
    torch.testing.assert_close(rewards, expected)
    # A row's sum is its score minus β times its KL estimate: score 10, log-ratio 0.5 - 1.
    assert rewards[0].sum().item() == pytest.approx(10 - 0.5 * (-0.5))


def fraction_wanted(batch):
    """The fraction of a row's tokens, without the end token, that are the wanted one."""
    return ((batch.ids == WANTED_TOKEN) & batch.text_mask).sum(1) / batch.text_mask.sum(1)


# Scaled for PPO, raw for the log.
count_wanted = Mixture({"wanted": Part(fraction_wanted, scale=Scale(std=0.1))})


new_setup = partial(policy_setup, reward=count_wanted, critic=True)

OPTIONS = {
    "steps": 4,
    "batch_size": 6,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "max_grad_norm": 1.0,
    "clip": 0.2,
    "value_clip": 0.2,
    "value_coef": 0.1,
    "gamma": 1.0,
    "lam": 0.95,
    "kl_coef": 0.1,
    "kl_target": 2.0,
    "kl_horizon": 20.0,
    "whiten_advantages": True,
    "seed": 0,
}


def train(parts: PolicyGradientSetup, *, hooks: Hooks | None = None, resume: Resume | None = None, **changes):
    lines: list[dict[str, float]] = []
    hooks = hooks or Hooks(lambda step, metrics: lines.append(dict(metrics)))
    train_on(parts, PROMPTS, hooks, resume=resume, **changes)
    return lines


def train_on(parts: PolicyGradientSetup, prompts, hooks: Hooks, **changes) -> None:
    options = OPTIONS | {"accelerator": ACCELERATOR, "hooks": hooks} | changes
    settings, optimiser, run = split(options, PPOSettings, OptimiserSettings, RunSettings)
    train_ppo(parts, prompts, settings, optimiser=optimiser, run=run)


COLLECT = PPOSettings(
    max_new_tokens=6, temperature=0.7, kl_coef=0.1, gamma=1.0, lam=0.95, whiten_advantages=False
)


def test_collected_numbers_equal_the_naive_computation():
    parts = new_setup(trained=True)
    seen: list[torch.Tensor] = []

    def reward(batch):
        seen.append(batch.text_mask)
        return count_wanted(batch)

    # An end token that occurs, so that rows have different lengths.
    parts = replace(parts, reward=reward, eos_token_id=frequent_token(parts))
    batch, metrics = collect(PPO(COLLECT), parts, PROMPTS, seeds=range(len(PROMPTS)))
    lengths = batch.response_mask.sum(1)
    assert len(set(lengths.tolist())) > 1
    rows = [row[keep].tolist() for row, keep in zip(batch.ids, batch.mask, strict=True)]
    model = parts.scorer.model
    with torch.no_grad():
        own = naive_logps(model, rows, temperature=0.7)
        with parts.reference():
            ref = naive_logps(model, rows, temperature=0.7)
    kls = []
    for i, prompt in enumerate(PROMPTS):
        assert rows[i][: len(prompt)] == prompt
        n = len(rows[i]) - len(prompt)
        assert int(lengths[i]) == n
        torch.testing.assert_close(
            batch.old_logps[i][batch.response_mask[i]], own[i][-n:], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            batch.ref_logps[i][batch.response_mask[i]], ref[i][-n:], atol=1e-4, rtol=1e-4
        )
        kls.append((own[i][-n:] - ref[i][-n:]).sum().item())
        # The reward sees everything but the end token.
        ended = rows[i][-1] == parts.eos_token_id
        assert int(seen[0][i].sum()) == len(rows[i]) - ended
        # The critic starts at zero, so that with λ = 0.95 and γ = 1 advantages are discounted sums.
        raw = sum(t == WANTED_TOKEN for t in rows[i][: len(rows[i]) - ended]) / (len(rows[i]) - ended)
        rewards = -0.1 * (own[i][-n:] - ref[i][-n:])
        rewards[-1] += 10 * raw
        sums = [sum(0.95 ** (k - t) * rewards[k].item() for k in range(t, n)) for t in range(n)]
        torch.testing.assert_close(
            batch.advantages[i][batch.response_mask[i]], torch.tensor(sums), atol=1e-3, rtol=1e-3
        )
    assert metrics["kl/nats_per_seq"] == pytest.approx(sum(kls) / len(kls), abs=1e-3)
    assert metrics["length/tokens"] == pytest.approx(lengths.float().mean().item())
    assert metrics["reward/score"] == pytest.approx(10 * metrics["reward/rm_raw"])
    for tensor in (batch.old_logps, batch.ref_logps, batch.advantages, batch.returns, batch.old_values):
        assert (tensor[~batch.response_mask] == 0).all()


def frequent_token(parts: PolicyGradientSetup) -> int:
    algorithm, endless = PPO(replace(COLLECT, max_new_tokens=4)), replace(parts, eos_token_id=-1)
    batch, _ = collect(algorithm, endless, PROMPTS, seeds=range(len(PROMPTS)))
    return int(batch.ids[batch.response_mask].bincount(minlength=TOKENS).argmax())


@pytest.mark.parametrize(("temperature", "top_layers"), [(1.0, 2), (1.0, None), (0.7, 2)])
def test_the_first_ratio_is_one(temperature, top_layers):
    parts = new_setup(trained=True, top_layers=top_layers)
    parts = replace(parts, eos_token_id=frequent_token(parts))
    lines = train(parts, steps=2, temperature=temperature)
    for line in lines:  # the policy has moved before the second
        assert line["ratio/first_error"] < 1e-5
    assert lines[0]["kl/nats_per_seq"] != 0.0


def test_a_policy_that_is_the_reference_has_no_kl():
    lines = train(new_setup(), steps=2)
    assert lines[0]["kl/nats_per_seq"] == pytest.approx(0.0, abs=1e-6)
    assert lines[1]["kl/nats_per_seq"] != 0.0
    assert lines[0]["kl_coef"] == pytest.approx(0.1)


def test_the_controller_follows_the_kl_and_may_be_switched_off():
    lines = train(new_setup(), steps=3)
    # KL 0 against a target of 2: the error is clipped at -0.2, and 6 of 20 completions react.
    assert lines[1]["kl_coef"] == pytest.approx(0.1 * (1 - 0.2 * 6 / 20))
    kl = lines[1]["kl/nats_per_seq"]
    error = min(max(kl / 2.0 - 1, -0.2), 0.2)
    assert lines[2]["kl_coef"] == pytest.approx(lines[1]["kl_coef"] * (1 + error * 6 / 20))
    for line in train(new_setup(), steps=3, kl_target=None):
        assert line["kl_coef"] == pytest.approx(0.1)


def test_a_toy_task_is_learned():
    lines = train(
        new_setup(), steps=12, batch_size=12, learning_rate=0.02, kl_coef=0.02, kl_target=None, epochs=3
    )
    raw = [line["reward/rm_raw"] for line in lines]
    assert max(raw[-3:]) > raw[0] + 0.2
    assert lines[-1]["kl/nats_per_seq"] > 1.0
    assert all(line["reward/score"] == pytest.approx(10 * line["reward/rm_raw"]) for line in lines)


def test_a_high_price_keeps_the_policy_near_the_reference():
    options = {"steps": 6, "batch_size": 12, "learning_rate": 0.02, "kl_target": None, "epochs": 2}
    free = train(new_setup(), kl_coef=0.0, **options)[-1]["kl/nats_per_seq"]
    dear = train(new_setup(), kl_coef=5.0, **options)[-1]["kl/nats_per_seq"]
    assert dear < 0.5 * free


def test_only_the_adapter_and_the_critic_change():
    parts = new_setup()
    before = {n: p.detach().clone() for n, p in parts.scorer.named_parameters()}
    train(parts, steps=1)
    moved = {n for n, p in parts.scorer.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".policy." in n or n.startswith("value_head.") for n in moved)
    assert any(n.startswith("value_head.") for n in moved)


def test_the_critic_may_have_an_adapter_of_its_own():
    parts = new_setup(trained=True)
    model = add_adapter(
        parts.scorer.model,
        lora_config(parts.scorer.model.get_base_model(), rank=4, alpha=8.0, dropout=0.0, top_layers=2),
        "critic",
        seed=1,
    )
    model.set_adapter("policy")
    head = ValueHead(HIDDEN)
    scorer = PolicyScorer(model, top_layers=2, value_head=head, values_from="critic")
    parts = replace(parts, scorer=scorer)
    before = {n: p.detach().clone() for n, p in scorer.named_parameters()}
    lines = train(parts, steps=2)
    moved = {n for n, p in scorer.named_parameters() if not torch.equal(p, before[n])}
    assert any(".critic." in n for n in moved) and any(".policy." in n for n in moved)
    assert all(line["ratio/first_error"] < 1e-5 for line in lines)


def test_an_interrupted_run_ends_where_the_other_ends(tmp_path):
    assert_resume_is_exact(new_setup, train, tmp_path, stop=4, steps=5)


def test_two_runs_are_the_same_and_another_seed_is_not():
    first, again = new_setup(), new_setup()
    train(first, steps=1)
    train(again, steps=1)
    other = new_setup()
    train(other, steps=1, seed=1)
    wanted = weights(first.scorer)
    assert all(torch.equal(w, wanted[n]) for n, w in weights(again.scorer).items())
    assert not all(torch.equal(w, wanted[n]) for n, w in weights(other.scorer).items())


@pytest.mark.parametrize(("rows", "minibatches"), [(5, 4), (9, 4), (6, 5)])
def test_the_number_of_updates_is_the_one_the_schedule_expects(rows, minibatches):
    """With steps=1 and no warm-up, the learning rate falls to a tenth over all updates."""
    states = []
    hooks = Hooks(lambda *_: None, lambda step, tensors, numbers: states.append(int(tensors["steps"])))
    once = {"steps": 1, "epochs": 1, "warmup_steps": 0}
    train(new_setup(), hooks=hooks, batch_size=rows, minibatches=minibatches, **once)
    assert states == [minibatches]


@pytest.mark.parametrize("size", [1, 2])
def test_micro_batches_do_not_change_the_trajectory(size):
    whole, parts = new_setup(), new_setup()
    expected, found = train(whole, steps=3), train(parts, steps=3, micro_batch_size=size)
    for one, other in zip(expected, found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if not name.startswith("seconds/"):
                assert other[name] == pytest.approx(value, abs=1e-4, rel=1e-3), name
    wanted = weights(whole.scorer)
    for name, weight in weights(parts.scorer).items():
        torch.testing.assert_close(weight, wanted[name], atol=1e-4, rtol=1e-3)


def test_a_batch_of_a_single_token_is_a_step_like_any_other():
    """One prompt whose answer ends at once: nothing to compare with, so nothing is learnt, and no crash."""
    one = {"steps": 1, "batch_size": 1, "max_new_tokens": 1, "minibatches": 1, "epochs": 1}
    lines = train(new_setup(), **one, warmup_steps=0)
    assert lines[0]["length/tokens"] == 1 and lines[0]["loss/policy"] == 0
    assert math.isnan(lines[0]["advantage/std"])


def test_a_model_without_adapters_tokenizer_or_end_token_is_trained_whole():
    """The exact value of the objective, by enumeration of all 8 x 8 answers, rises towards its maximum."""
    model = llama(vocab=8, num_hidden_layers=1, initializer_range=0.1).requires_grad_(True)
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    parts = PolicyGradientSetup(
        scorer=PolicyScorer(model, top_layers=None, value_head=ValueHead(HIDDEN)),
        reference=frozen_reference(model),
        sampling=lambda: nullcontext(model),
        reward=lambda batch: table[tuple(batch.response_ids.T)],
        eos_token_id=None,
        pad_token_id=0,
    )
    answers = torch.cartesian_prod(torch.arange(8), torch.arange(8))
    ids = torch.cat([torch.full((64, 1), 5), answers], dim=1)

    def logps():
        with torch.no_grad():
            law = model(ids).logits[:, :-1].log_softmax(-1)
        return law.gather(-1, ids[:, 1:, None]).squeeze(-1).sum(1)

    ref = logps()
    best = 0.5 * float(torch.logsumexp(ref + table.flatten() / 0.5, 0))

    def objective():
        now = logps()
        return float((now.exp() * (table.flatten() - 0.5 * (now - ref))).sum())

    start, lines = objective(), []
    changes = {
        "steps": 40, "batch_size": 64, "max_new_tokens": 2, "epochs": 2, "minibatches": 1, "lam": 1.0,
        "kl_coef": 0.5, "kl_target": None, "value_coef": 0.5, "value_clip": None,
    }  # fmt: skip
    hooks = Hooks(lambda step, metrics: lines.append(dict(metrics)))
    train_on(parts, [[5]] * 64, hooks, **changes)
    assert (objective() - start) / (best - start) > 0.85
    with parts.reference():
        torch.testing.assert_close(logps(), ref)
    assert all(line["ratio/first_error"] < 1e-4 for line in lines)
    assert all(line["length/tokens"] == 2 for line in lines)


def test_a_scorer_without_a_critic_and_a_missing_reference_are_refused():
    parts = new_setup()
    scorer = PolicyScorer(parts.scorer.model, top_layers=2)
    for wrong in (replace(parts, scorer=scorer), replace(parts, reference=None)):
        with pytest.raises(ValueError, match="value head and a reference"):
            train(wrong, steps=1)


def test_a_truncated_sampler_is_refused(monkeypatch):
    plain = rollouts.sample
    monkeypatch.setattr(rollouts, "sample", lambda *args, **options: plain(*args, **options, top_k=2))
    with pytest.raises(ValueError, match="against the wrong distribution"):
        train(new_setup(), steps=1)


def test_a_reward_that_is_not_finite_stops_the_run():
    def broken(batch):
        return torch.full((len(batch),), float("nan"))

    with pytest.raises(RewardError, match="'reward' gave nan for row 0"):
        train(new_setup(reward=broken), steps=1)
