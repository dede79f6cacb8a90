"""The DPO phase: learn from pairs of human texts, or of the policy's own texts, judged by the reward model.

*Human* pairs are offline: two reviews that people wrote and rated. *Policy* pairs are on-policy when training
begins: several continuations of one opening are sampled from the SFT policy, and the reward model calls one
the best and one the worst. Either way the reference is the SFT policy (the bare model without an SFT phase):
the same network with another adapter on, asked once, before the first step.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import torch
from accelerate.utils import broadcast_object_list

from rlhf_lite.data import load_ratings, save_preferences, split_ratings
from rlhf_lite.data.collate import pad_left
from rlhf_lite.data.formatting import EncodedPair, fit_prompts
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.models.policy import Policy, PolicyScorer, end_tokens
from rlhf_lite.pipeline import phases
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.texts import rating_pairs, thin
from rlhf_lite.rollout.rewards import Completions, evaluate, text_decoder
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.training.batches import epoch_steps
from rlhf_lite.training.dpo import KTO, DPOSettings, train_dpo
from rlhf_lite.training.pairs import encode_preferences
from rlhf_lite.training.settings import OptimiserSettings, pick
from rlhf_lite.types import Preference

# The seeds of these samples are far from those of PPO's steps and of the evaluation.
_PAIRS = 2_000_000
_ROWS = 48


def human_preferences(run: Run) -> list[Preference]:
    """Pairs of human texts for DPO, from the texts that training may see."""
    config = run.config
    if config.data.source != "reviews":
        return thin(run.texts.train_pairs, config.dpo.pairs)
    return rating_pairs(split_ratings(load_ratings("movie"))["train"],
                        "dpo.pairs, dpo.min_gap, reward.prompt_words", n=config.dpo.pairs,
                        min_gap=config.dpo.min_gap, prompt_words=max(1, config.reward.prompt_words),
                        seed=config.seed)


@torch.no_grad()
def policy_pairs(run: Run, policy: Policy, adapters: phases.AdapterPolicies, prompts: Sequence[str],
                 counts: RowCounts | None = None) -> tuple[list[EncodedPair], list[Preference]]:
    """One pair for each prompt: of several continuations the best and the worst for the reward model.

    Prompts whose candidates are all the same text give no pair. Responses keep the end token only where the
    policy wrote it, so that a text that was cut does not teach to stop. ``counts`` takes down the prompts
    that were cut.
    """
    settings, tokenizer = run.config.dpo, policy.tokenizer
    reward = phases.shared_reward(run, phases.load_run_reward(run), policy)
    trunk = PolicyScorer(adapters.model, top_layers=run.config.lora.top_layers).body.trunk
    encoded = fit_prompts(tokenizer, prompts, answer=settings.max_new_tokens, max_tokens=run.max_tokens,
                          counts=counts)
    ends, pairs, texts = end_tokens(*policy[:2]), [], []
    n, per_pass = settings.candidates, max(1, _ROWS // settings.candidates)
    seeds = row_seeds(run.config.seed, _PAIRS, rows=len(prompts) * n)
    for start in range(0, len(prompts), per_pass):
        part = encoded[start : start + per_pass]
        with adapters.sampling(adapters.reference)() as causal:
            rollout = sample(causal, *pad_left(part, tokenizer.pad_token_id),
                             max_new_tokens=settings.max_new_tokens, eos_token_id=ends,
                             pad_token_id=tokenizer.pad_token_id, temperature=settings.temperature,
                             seeds=seeds[start * n : (start + len(part)) * n], repeats=n)
        batch = Completions.of(rollout, eos_token_id=ends, decode=text_decoder(tokenizer), trunk=trunk)
        scores = evaluate(reward, batch, name="rm").raw.view(-1, n)
        written = zip(rollout.response_ids, rollout.response_mask, strict=True)
        responses = [ids[counts].tolist() for ids, counts in written]
        for i, prompt_ids in enumerate(part):
            best, worst = int(scores[i].argmax()), int(scores[i].argmin())
            chosen, rejected = responses[i * n + best], responses[i * n + worst]
            margin = float(scores[i, best] - scores[i, worst])
            if chosen and rejected and chosen != rejected and margin > 0:
                pairs.append(EncodedPair(prompt_ids, chosen, rejected, margin))
                words = tokenizer.batch_decode([chosen, rejected], skip_special_tokens=True)
                meta = {"judge": "reward model", "candidates": n}
                texts.append(Preference(prompts[start + i], *words, margin, meta))
    return pairs, texts


def with_label_noise(pairs: Sequence[EncodedPair], share: float, *, seed: int) -> list[EncodedPair]:
    """The pairs with this share of them (rounded) turned round; which ones is drawn from the seed."""
    turned = set(random.Random(f"{seed} label noise").sample(range(len(pairs)), round(share * len(pairs))))
    return [replace(pair, chosen_ids=pair.rejected_ids, rejected_ids=pair.chosen_ids) if i in turned else pair
            for i, pair in enumerate(pairs)]


def run_dpo(run: Run) -> None:
    """Train the policy on pairs; writes ``dpo/adapter``, a merged model, and the pairs that were sampled.

    Raises:
        ValueError: if no pair is left to learn from.
    """
    config, settings = run.config, run.config.dpo
    policy = run.load_policy()
    adapters = phases.build_adapter_policies(run, policy, trained=False)
    texts, counts = [], RowCounts(run.max_tokens)
    if settings.source == "human":
        human = human_preferences(run)
        pairs = encode_preferences(policy.tokenizer, human, max_tokens=run.max_tokens, counts=counts).pairs
    else:
        prompts = thin(run.texts.ppo_prompts, settings.pairs)
        made = policy_pairs(run, policy, adapters, prompts, counts)
        # What processes sample may differ by rounding: all of them learn from what the main one has.
        pairs, texts = broadcast_object_list([made])[0]
    run.account("dpo", counts)
    pairs = with_label_noise(pairs, settings.label_noise, seed=config.seed)
    if not pairs:
        raise ValueError("dpo: no pair is left to learn from; raise dpo.pairs or data.max_tokens")
    merged = config.checkpoint.save_merged
    train_on_pairs(run, policy, adapters, pairs, sampled=texts, merged=merged)


def train_on_pairs(run: Run, policy: Policy, adapters: phases.AdapterPolicies,
                   pairs: Sequence[EncodedPair], *, sampled: Sequence[Preference] = (),
                   merged: bool = False) -> None:
    """Train the adapter "policy" on pairs, and write it as the result of the phase ``dpo``.

    Args:
        run: the run.
        policy: the model and its tokenizer.
        adapters: where the policy starts, and the reference.
        pairs: at least one.
        sampled: the pairs as texts, to be written beside the adapter; none if people wrote them.
        merged: also write the policy as a plain model.
    """
    config, settings = run.config, run.config.dpo
    rows, status = len(pairs), "loss {loss/per_pair:.3f} per pair, accuracy {accuracy/fraction:.2f}"
    if getattr(settings, "loss", "sigmoid") == KTO:  # it sees single answers, two of each pair
        rows, status = 2 * len(pairs), "loss {loss/per_answer:.3f} per answer"
    steps = epoch_steps(rows, batch_size=settings.batch_size, epochs=settings.epochs)
    with run.training("dpo", status, steps=steps) as run_settings:
        train_dpo(PolicyScorer(adapters.model, top_layers=config.lora.top_layers), pairs,
                  pick(DPOSettings, settings), reference=adapters.scoring(adapters.reference),
                  pad_token_id=policy.tokenizer.pad_token_id, optimiser=pick(OptimiserSettings, settings),
                  run=run_settings)
    reference = "sft" if adapters.reference else "base"
    with run.result("dpo", steps=steps, reference=reference, pairs=len(pairs)) as folder:
        phases.save_policy(adapters.model, policy, folder)
        if sampled:
            save_preferences(folder / "pairs.jsonl", sampled)
        if merged and run.is_main:
            phases.save_merged(adapters, policy, folder / "merged")
