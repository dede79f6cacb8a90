"""GRPO and RLOO: advantages by hand, gradients by enumeration, trajectories that nothing should change."""

from __future__ import annotations

import itertools
import sys
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import llama, naive_logps, token_rows

sys.path.insert(0, str(Path(__file__).parent))
from runners import TOKENS, WANTED_TOKEN, assert_resume_is_exact, policy_setup, weights

from rlhf_lite.errors import NonFiniteError
from rlhf_lite.models.policy import PolicyScorer, TokenScores, ValueHead
from rlhf_lite.training import rollouts
from rlhf_lite.training.batches import minibatch_rows
from rlhf_lite.training.grpo import GRPO, METHODS, GRPOSettings, train_grpo
from rlhf_lite.training.policy_gradient import collect, update
from rlhf_lite.training.rollouts import PolicyGradientSetup, frozen_reference, trainable_module
from rlhf_lite.training.settings import Hooks, OptimiserSettings, Resume, RunSettings, split
from rlhf_lite.training.step import Optimisation

ACCELERATOR = Accelerator(cpu=True)
PROMPTS = token_rows([3, 1, 4, 2, 5, 2], vocab=TOKENS, seed=1)


def count_wanted(batch):
    return 10 * ((batch.ids == WANTED_TOKEN) & batch.response_mask).sum(1) / batch.response_mask.sum(1)


new_setup = partial(policy_setup, reward=count_wanted)

OPTIONS = {
    "steps": 3,
    "batch_size": 3,
    "group_size": 4,
    "max_new_tokens": 6,
    "temperature": 1.0,
    "epochs": 2,
    "minibatches": 2,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "max_grad_norm": 1.0,
    "clip": 0.2,
    "kl_coef": 0.1,
    "seed": 0,
}
EVERY_METHOD = pytest.mark.parametrize("method", list(METHODS))


def train(parts: PolicyGradientSetup, *, hooks: Hooks | None = None, resume: Resume | None = None, **changes):
    lines: list[dict[str, float]] = []
    hooks = hooks or Hooks(lambda step, metrics: lines.append(dict(metrics)))
    train_on(parts, PROMPTS, hooks, resume=resume, **changes)
    return lines


def train_on(parts: PolicyGradientSetup, prompts, hooks: Hooks, **changes) -> None:
    options = OPTIONS | {"accelerator": ACCELERATOR, "hooks": hooks} | changes
    settings, optimiser, run = split(options, GRPOSettings, OptimiserSettings, RunSettings)
    train_grpo(parts, prompts, settings, optimiser=optimiser, run=run)


def collect_groups(parts: PolicyGradientSetup, prompts, *, seeds, **settings):
    return collect(GRPO(GRPOSettings(**settings)), parts, prompts, seeds=seeds)


def assert_close(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


COLLECT = {"group_size": 4, "max_new_tokens": 6, "temperature": 0.7, "kl_coef": 0.3, "seeds": range(24)}


@pytest.mark.parametrize("kl_in", ["reward", "loss"])
@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
def test_collected_numbers_equal_the_naive_computation(estimator, kl_in):
    parts = new_setup(trained=True)
    # An end token that occurs, so that rows have different lengths.
    plain, _ = collect_groups(
        replace(parts, eos_token_id=None), PROMPTS, estimator="rloo", kl_in="loss", **COLLECT
    )
    common = plain.ids[plain.response_mask].bincount(minlength=TOKENS).argmax()
    parts = replace(parts, eos_token_id=int(common))
    batch, metrics = collect_groups(parts, PROMPTS, estimator=estimator, kl_in=kl_in, **COLLECT)
    lengths = batch.response_mask.sum(1)
    assert len(set(lengths.tolist())) > 1
    rows = [row[keep].tolist() for row, keep in zip(batch.ids, batch.mask, strict=True)]
    with torch.no_grad():
        own = naive_logps(parts.scorer.model, rows, temperature=0.7)
        with parts.reference():
            ref = naive_logps(parts.scorer.model, rows, temperature=0.7)
    rewards, kls = [], []
    for i, row in enumerate(rows):
        assert row[: len(PROMPTS[i // 4])] == PROMPTS[i // 4]  # groups are adjacent
        n = int(lengths[i])
        torch.testing.assert_close(
            batch.old_logps[i][batch.response_mask[i]], own[i][-n:], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(
            batch.ref_logps[i][batch.response_mask[i]], ref[i][-n:], atol=1e-4, rtol=1e-4
        )
        kls.append((own[i][-n:] - ref[i][-n:]).sum().item())
        rewards.append(10 * row[-n:].count(WANTED_TOKEN) / n - (0.3 * kls[-1] if kl_in == "reward" else 0))
    for start in range(0, len(rows), 4):
        group = rewards[start : start + 4]
        mean = sum(group) / 4
        std = (sum((r - mean) ** 2 for r in group) / 3) ** 0.5
        for i, r in enumerate(group):
            expected = {
                "grpo": (r - mean) / (std + 1e-4),
                "dr_grpo": r - mean,
                "rloo": r - (sum(group) - r) / 3,
            }[estimator]
            assert batch.advantages[start + i].item() == pytest.approx(expected, abs=2e-3)
    assert metrics["kl/nats_per_seq"] == pytest.approx(sum(kls) / len(kls), abs=1e-3)
    assert metrics["length/tokens"] == pytest.approx(lengths.float().mean().item())
    flat = [len(set(batch.advantages[i : i + 4].tolist())) == 1 for i in range(0, 24, 4)]
    assert metrics["group/zero_variance_fraction"] == pytest.approx(sum(flat) / 6)


def test_groups_without_a_difference_are_counted_and_teach_nothing():
    parts = new_setup(
        reward=lambda batch: torch.where(batch.ids[:, batch.prompt_width - 1] == PROMPTS[0][-1], 3.0, 5.0)
    )
    before = weights(parts.scorer)
    lines = train(parts, kl_coef=0.0, **METHODS["rloo"])
    assert all(line["group/zero_variance_fraction"] == 1.0 and line["grad_norm"] == 0.0 for line in lines)
    assert_close(weights(parts.scorer), before, atol=0, rtol=0)


@pytest.mark.parametrize("method", ["grpo", "rloo"])
def test_a_constant_on_every_reward_changes_nothing(method):
    plain, shifted = new_setup(), new_setup(reward=lambda batch: count_wanted(batch) + 1000)
    first, second = train(plain, **METHODS[method]), train(shifted, **METHODS[method])
    assert_close(weights(plain.scorer), weights(shifted.scorer), atol=2e-4, rtol=2e-3)
    for one, other in zip(first, second, strict=True):
        assert other["reward/score"] == pytest.approx(one["reward/score"] + 1000, abs=1e-2)
        assert other["advantage/std"] == pytest.approx(one["advantage/std"], rel=1e-3)


@pytest.mark.parametrize("method", ["dapo", "rloo"])
@pytest.mark.parametrize(("temperature", "top_layers"), [(1.0, None), (0.7, 2)])
def test_the_first_ratio_is_one(method, temperature, top_layers):
    parts = new_setup(trained=True, top_layers=top_layers)
    for line in train(parts, steps=2, temperature=temperature, **METHODS[method]):
        assert line["ratio/first_error"] < 5e-5  # of a whole sequence, for RLOO
        assert abs(line["kl/sampler_nats_per_token"]) < 1e-4


@EVERY_METHOD
def test_a_toy_task_is_learned(method):
    lines = train(
        new_setup(), steps=10, learning_rate=0.03, kl_coef=0.02, epochs=3, batch_size=5, **METHODS[method]
    )
    raw = [line["reward/rm_raw"] for line in lines]
    assert max(raw[-3:]) > raw[0] + 2.0
    assert lines[0]["kl/nats_per_seq"] == pytest.approx(0.0, abs=1e-5)
    assert lines[-1]["kl/nats_per_seq"] > 0.5


@pytest.mark.parametrize("kl_in", ["reward", "loss", "weighted_loss"])
def test_a_high_price_keeps_the_policy_near_the_reference(kl_in):
    options = {"steps": 6, "learning_rate": 0.02, "estimator": "dr_grpo", "kl_in": kl_in}
    free = train(new_setup(), kl_coef=0.0, **options)[-1]["kl/nats_per_seq"]
    dear = train(new_setup(), kl_coef=20.0, **options)[-1]["kl/nats_per_seq"]
    assert dear < 0.5 * free


def test_only_the_adapter_changes():
    parts = new_setup()
    before = {n: p.detach().clone() for n, p in parts.scorer.named_parameters()}
    train(parts, steps=1)
    moved = {n for n, p in parts.scorer.named_parameters() if not torch.equal(p, before[n])}
    assert moved and all(".policy." in n for n in moved)


@pytest.mark.parametrize(("method", "size"), [("grpo", 1), ("dapo", 4), ("rloo", 3)])
def test_micro_batches_do_not_change_the_trajectory(method, size):
    whole, parts = new_setup(), new_setup()
    expected = train(whole, **METHODS[method])
    found = train(parts, micro_batch_size=size, **METHODS[method])
    assert_close(weights(parts.scorer), weights(whole.scorer), atol=1e-4, rtol=1e-3)
    for one, other in zip(expected, found, strict=True):
        for name in one:
            if not name.startswith("seconds/"):
                assert other[name] == pytest.approx(one[name], abs=2e-3, rel=2e-3), name


@pytest.mark.parametrize("method", ["dapo", "grpo", "rloo"])
def test_a_minibatch_is_weighed_by_itself(method):
    """A learning rate of almost nothing: the gradients of both minibatches are those at the start."""
    parts, chosen = new_setup(trained=True), METHODS[method]
    options = {"estimator": chosen["estimator"], "kl_in": chosen["kl_in"]}
    batch, _ = collect_groups(parts, PROMPTS, **COLLECT | {"temperature": 1.0}, **options)
    free = {"learning_rate": 1e-30, "steps": 9, "max_grad_norm": 1e9, "batch_size": 1, "seed": 0}
    free |= {"accelerator": ACCELERATOR, "hooks": Hooks(lambda *_: None)}
    optimisation = Optimisation(parts.scorer, *split(free, OptimiserSettings, RunSettings))
    how = {"aggregation": chosen["aggregation"], "kl_in": chosen["kl_in"], "kl_coef": 0.3, "clip": 0.2}
    sizes = {"epochs": 1, "minibatches": 2, "max_new_tokens": 6, "temperature": 1.0, "group_size": 4}
    algorithm = GRPO(GRPOSettings(**how, **sizes))
    found = update(algorithm, batch, optimisation, seed=5)
    norms, trained = [], [p for p in parts.scorer.parameters() if p.requires_grad]
    for index in minibatch_rows(len(batch.ids), epochs=1, minibatches=2, seed=5):
        part = batch.rows(index)
        now = parts.scorer(part.hidden, part.ids, part.mask, part.response_mask)
        loss = (algorithm.losses(part, now).loss * algorithm.weights(part.response_mask)).sum()
        gradients = torch.autograd.grad(loss, trained)
        norms.append(float(torch.cat([g.flatten() for g in gradients]).norm()))
    assert norms[0] != pytest.approx(norms[1], rel=1e-2)
    assert found["grad_norm"] == pytest.approx(sum(norms) / 2, rel=1e-3)


@EVERY_METHOD
def test_padding_does_not_change_the_loss(method):
    """More columns of padding on the left of the prompts and on the right of the responses."""
    parts, chosen = new_setup(trained=True), METHODS[method]
    options = COLLECT | {"temperature": 1.0}
    batch, _ = collect_groups(parts, PROMPTS, estimator=chosen["estimator"], kl_in=chosen["kl_in"], **options)
    algorithm = GRPO(GRPOSettings(**chosen, group_size=4, max_new_tokens=6, kl_coef=0.1, clip_high=0.3))

    def loss_of(extra: int) -> tuple[torch.Tensor, list[torch.Tensor]]:
        def wide(t):
            return torch.nn.functional.pad(t, (extra, extra)) if t.dim() == 2 else t

        wider = replace(batch.map(wide), hidden=None)
        now = parts.scorer.score(wider.ids, wider.mask, wider.response_mask)
        wider = replace(wider, old_logps=wider.old_logps - 0.1 * wider.response_mask)  # as after an update
        loss = (algorithm.losses(wider, now).loss * algorithm.weights(wider.response_mask)).sum()
        return loss, list(
            torch.autograd.grad(loss, [p for p in parts.scorer.parameters() if p.requires_grad])
        )

    (plain, gradients), (padded, others) = loss_of(0), loss_of(3)
    torch.testing.assert_close(padded, plain, atol=1e-6, rtol=1e-5)
    for one, other in zip(gradients, others, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-3)


def test_an_interrupted_run_ends_where_the_other_ends(tmp_path):
    assert_resume_is_exact(new_setup, train, tmp_path, stop=3, steps=4)


def test_the_same_seed_gives_the_same_numbers():
    runs = []
    for seed in (0, 0, 1):
        parts = new_setup()
        train(parts, steps=1, seed=seed)
        runs.append(weights(parts.scorer))
    assert_close(runs[0], runs[1], atol=0, rtol=0)
    assert not all(torch.equal(runs[0][name], runs[2][name]) for name in runs[0])


@pytest.mark.parametrize("kl_in", ["loss", "weighted_loss"])
def test_which_way_a_kl_in_the_loss_pulls(kl_in):
    """One token, eight outcomes, each with its probability: the expected gradient, exactly."""
    generator = torch.Generator().manual_seed(0)
    theta = torch.randn(8, generator=generator, dtype=torch.float64).requires_grad_()
    ref = torch.randn(8, generator=generator, dtype=torch.float64).log_softmax(0)
    logps, zero = theta.log_softmax(0), torch.zeros(8, dtype=torch.float64)
    rows = SimpleNamespace(
        old_logps=logps.detach().unsqueeze(1),
        ref_logps=ref.unsqueeze(1),
        advantages=zero,
        response_mask=torch.ones(8, 1, dtype=torch.bool),
    )
    price = {"kl_in": kl_in, "kl_coef": 0.5}
    algorithm = GRPO(GRPOSettings(aggregation="dapo", group_size=2, max_new_tokens=1, **price))
    losses = algorithm.losses(rows, TokenScores(logps.unsqueeze(1))).loss
    (found,) = torch.autograd.grad((losses[:, 0] * logps.detach().exp()).sum(), theta, retain_graph=True)
    reverse, forward = (logps.exp() * (logps - ref)).sum(), (ref.exp() * (ref - logps)).sum()
    aim = reverse if kl_in == "weighted_loss" else forward
    (expected,) = torch.autograd.grad(0.5 * aim, theta)
    torch.testing.assert_close(found, expected)


# --- A model without adapters, tokenizer or end token


def whole_model(reward, *, reference: bool = True) -> tuple[PolicyGradientSetup, torch.nn.Module]:
    model = llama(vocab=8, num_hidden_layers=1, initializer_range=0.1).requires_grad_(True)
    parts = PolicyGradientSetup(
        scorer=PolicyScorer(model, top_layers=None),
        reference=frozen_reference(model) if reference else None,
        sampling=lambda: nullcontext(model),
        reward=reward,
        eos_token_id=None,
        pad_token_id=0,
    )
    return parts, model


def exact_gradient(model, table, ref_logps, *, beta):
    """Gradient of E[r] - β KL over all 8 x 8 answers of two tokens to the prompt [5], by autograd."""
    answers = list(itertools.product(range(8), repeat=2))
    ids = torch.tensor([[5, *answer] for answer in answers])
    logps = model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).sum(1)
    value = (logps.exp() * (table.flatten() - beta * (logps - ref_logps))).sum()
    return torch.autograd.grad(value, list(model.parameters()))


def all_logps(model):
    with torch.no_grad():
        ids = torch.tensor([[5, *answer] for answer in itertools.product(range(8), repeat=2)])
        return model(ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1).sum(1)


def test_the_expected_step_of_rloo_is_the_exact_policy_gradient():
    """Over many samples, with embeddings and all layers trained, and a reference that has been left."""
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    parts, model = whole_model(lambda batch: table[tuple(batch.response_ids.T)])
    with torch.no_grad():
        reference = all_logps(model)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    exact = torch.cat([g.flatten() for g in exact_gradient(model, table, reference, beta=0.5)])
    n = 16384
    algorithm = GRPO(GRPOSettings(**METHODS["rloo"], group_size=n, max_new_tokens=2, kl_coef=0.5))
    batch, _ = collect(algorithm, parts, [[5]], seeds=range(n))
    module = trainable_module(parts.scorer)
    now = module(batch.hidden, batch.ids, batch.mask, batch.response_mask)
    loss = (algorithm.losses(batch, now).loss * algorithm.weights(batch.response_mask)).sum()
    found = torch.autograd.grad(loss, list(model.parameters()))
    found = -torch.cat([g.flatten() for g in found])
    # The standard error of a mean over 16,384 samples is below one part in a hundred here.
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_all_weights_may_be_trained_and_the_reference_stays():
    """The optimum of a reward on two tokens, by enumeration: RLOO comes near it."""
    table = torch.randn(8, 8, generator=torch.Generator().manual_seed(3))
    parts, model = whole_model(lambda batch: table[tuple(batch.response_ids.T)])
    ref = all_logps(model)
    embedding = model.get_input_embeddings().weight.detach().clone()
    lines: list[dict[str, float]] = []
    train_on(
        parts, [[5]], Hooks(lambda step, m: lines.append(dict(m))),
        **METHODS["rloo"] | {
            "steps": 60, "batch_size": 1, "group_size": 64, "max_new_tokens": 2, "epochs": 1,
            "minibatches": 1, "learning_rate": 0.01, "kl_coef": 0.5,
        },
    )  # fmt: skip

    def objective(logps):
        return float((logps.exp() * (table.flatten() - 0.5 * (logps - ref))).sum())

    best = 0.5 * float(torch.logsumexp(ref + table.flatten() / 0.5, 0))
    start = objective(ref)
    assert (objective(all_logps(model)) - start) / (best - start) > 0.9
    assert not torch.equal(model.get_input_embeddings().weight, embedding)
    with parts.reference(), torch.no_grad():
        torch.testing.assert_close(all_logps(model), ref)
    assert all(line["ratio/first_error"] < 1e-4 for line in lines)
    assert all(line["length/tokens"] == 2 and line["ended/fraction"] == 0 for line in lines)


def test_without_a_reference_nothing_is_paid_and_nothing_measured():
    parts, _ = whole_model(lambda batch: batch.response_ids.sum(1), reference=False)
    options = {"batch_size": 2, "steps": 1, "max_new_tokens": 3}
    lines = train_lab(parts, kl_coef=0.0, **options)
    assert "kl/nats_per_seq" not in lines[0]
    with pytest.raises(ValueError, match="no reference"):
        train_lab(parts, kl_coef=0.1, **options)


def train_lab(parts, **changes):
    lines = []
    hooks = Hooks(lambda step, metrics: lines.append(dict(metrics)))
    train_on(parts, [[5], [6, 7]], hooks, **changes)
    return lines


def test_trained_layers_under_a_cached_trunk_are_refused():
    model = llama(vocab=8).requires_grad_(True)
    parts = replace(whole_model(lambda b: [0.0] * len(b))[0], scorer=PolicyScorer(model, top_layers=2))
    with pytest.raises(ValueError, match="top_layers=None"):
        train_lab(parts, kl_coef=0.0)


# --- Refusals


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"estimator": "ppo"}, "estimator must be one of grpo, dr_grpo, rloo, got 'ppo'"),
        ({"aggregation": "mean"}, "aggregation must be one of"),
        ({"kl_in": "both"}, "kl_in must be one of reward, loss, weighted_loss"),
        ({"aggregation": "sequence", "kl_in": "loss"}, "kl_in='reward'"),
        ({"minibatches": 13}, "3 x 4 completions cannot make 13 minibatches"),
        ({"temperature": 0.0}, "temperature > 0"),
        ({"group_size": 1}, "group_size must be at least 2"),
    ],
)
def test_choices_that_do_not_fit_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        train(new_setup(), **changes)


def test_a_critic_is_refused():
    parts = new_setup()
    scorer = PolicyScorer(parts.scorer.model, top_layers=2, value_head=ValueHead(32))
    with pytest.raises(ValueError, match="without a value_head"):
        train(replace(parts, scorer=scorer))


@pytest.mark.parametrize("rule", [{"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}])
def test_a_truncated_sampler_is_refused(monkeypatch, rule):
    """Its distribution is not the policy's: every ratio would be wrong."""
    plain = rollouts.sample
    monkeypatch.setattr(rollouts, "sample", lambda *args, **options: plain(*args, **options, **rule))
    with pytest.raises(ValueError, match=r"no top-k, top-p"):
        train(new_setup())


def test_another_temperature_in_the_sampler_is_refused(monkeypatch):
    plain = rollouts.sample
    monkeypatch.setattr(rollouts, "sample", lambda *args, **o: plain(*args, **o | {"temperature": 0.2}))
    with pytest.raises(ValueError, match="wrong distribution"):
        train(new_setup())


def test_a_broken_weight_stops_the_run_and_leaves_the_batch(tmp_path):
    parts = new_setup()
    hooks = Hooks(lambda *_: None, bad_batches=tmp_path)

    def infinite(batch):
        found = count_wanted(batch)
        return torch.where(torch.arange(len(found)) == 1, 1e38, -1e38)

    with pytest.raises(NonFiniteError, match=str(tmp_path)):
        train(replace(parts, reward=infinite), hooks=hooks, estimator="dr_grpo", kl_in="reward")
    assert list(tmp_path.iterdir())
