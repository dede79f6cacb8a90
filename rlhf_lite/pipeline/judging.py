"""The evaluation phase: judge every policy of the run, and judge the judges."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlhf_lite.evaluation.gold import GoldJudge, agreement_with_humans, fit_gold_judge, judge_body
from rlhf_lite.evaluation.policies import Contender, Judges, Measured, measure, summarise
from rlhf_lite.evaluation.statistics import brier_score, paired_difference_ci, wilson_interval
from rlhf_lite.files import write_json_lines
from rlhf_lite.models.adapters import using_adapter
from rlhf_lite.models.policy import Policy, PolicyScorer, load_policy
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.evaluation_cache import Kept
from rlhf_lite.pipeline.phases import DPO, POLICY, build_adapter_policies, load_run_reward, shared_reward
from rlhf_lite.pipeline.progress_bar import bar
from rlhf_lite.training.reward import score_pairs
from rlhf_lite.types import Preference

_GAPS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
_COMPARED = (
    ("ppo", "sft"),
    ("ppo", "reference"),
    ("sft", "reference"),
    ("dpo", "sft"),
    ("dpo", "reference"),
    ("dpo", "ppo"),
)


def judge_reward_model(model: RewardModel, pairs: list[Preference], *, min_gap: float) -> dict[str, Any]:
    """Held-out accuracy with Wilson's interval, Brier score, and accuracy by rating gap; ties count half."""
    chosen, rejected = score_pairs(model, pairs)
    right = (chosen > rejected).double() + 0.5 * (chosen == rejected).double()
    interval = wilson_interval(float(right.sum()), len(pairs))
    by_gap = []
    gaps = np.array([np.nan if pair.margin is None else pair.margin for pair in pairs])
    for low, high in pairwise(_GAPS):
        inside = (gaps > low) & (gaps <= high)
        if inside.any():
            accuracy = float(right.numpy()[inside].mean())
            n = int(inside.sum())
            by_gap.append({"gap_low": low, "gap_high": high, "accuracy": accuracy, "n_pairs": n})
    p_chosen = torch.sigmoid((chosen - rejected).double()).numpy()
    return {
        "accuracy": interval.estimate,
        "ci95": interval.ends,
        "n_pairs": len(pairs),
        "min_gap": min_gap,
        # The order within a pair carries no information, so each pair enters both ways round.
        "brier": brier_score(np.concatenate([p_chosen, 1 - p_chosen]), np.repeat([1.0, 0.0], len(pairs))),
        "accuracy_by_gap": by_gap,
    }


def compare(a: Measured, b: Measured, *, seed: int) -> dict[str, Any]:
    """Difference a - b, prompt by prompt, with paired bootstrap intervals."""
    gold = paired_difference_ci(a.gold, b.gold, seed=seed)
    vader = paired_difference_ci(a.vader, b.vader, seed=seed)
    return {
        "gold_reward": gold.estimate,
        "gold_ci95": gold.ends,
        "vader": vader.estimate,
        "vader_ci95": vader.ends,
        "n_prompts": len(a.texts),
    }


def run_evaluation(run: Run, *, shared: Path | None = None) -> dict[str, Any]:
    """Measure reference, SFT, PPO and DPO policies on the test prompts; writes ``samples.jsonl``.

    With ``evaluation.best_of_n`` and a reward model, the best of n samples of the policy that PPO started
    from is measured as well: what the reward model gives without any training.

    Args:
        run: what is evaluated.
        shared: a folder that keeps what does not depend on PPO and DPO, for evaluations of other runs with
            the same seed, data, SFT, reward model and evaluation settings.

    Returns:
        The parts of ``metrics.json`` that come from judging.
    """
    started, config, texts = time.monotonic(), run.config, run.texts
    policy = load_policy(config.model.name, precision=run.precision)
    top = config.lora.top_layers
    found: dict[str, Any] = {}
    has_ppo, has_reward = run.finished("ppo"), run.finished("reward")
    names = ["reference", *(name for name in ("sft", "ppo", "dpo") if run.finished(name))]
    control = f"best_of_{config.evaluation.best_of_n}"
    if config.evaluation.best_of_n and has_reward:
        names.append(control)
    with bar("evaluation", 2 + len(names), visible=run.visible) as show:
        kept, gap = Kept(shared), config.reward.eval_min_gap
        judge = fit_run_judge(run, policy, kept)
        found["gold_judge"] = kept.record(
            "gold_judge", lambda: agreement_with_humans(judge, texts.gold_check, min_gap=gap)
        )
        found["gold_judge"]["n_fitted"] = len(texts.gold)
        show(1, f"gold judge agrees with people at r = {found['gold_judge']['pearson']:.2f}")
        raw = None
        if has_reward:
            reward = load_run_reward(run)
            reward.eval()
            found["reward_model"] = kept.record(
                "reward_model", lambda: judge_reward_model(reward, texts.test_pairs, min_gap=gap)
            )
            raw = shared_reward(run, reward, policy)
            show(2, f"reward model accuracy {found['reward_model']['accuracy']:.3f}")
        actors = build_adapter_policies(run, policy, trained=has_ppo)
        adapters = {
            "reference": None,
            "sft": actors.reference,
            "ppo": POLICY,
            "dpo": DPO,
            control: actors.reference,
        }

        def gold(written: Sequence[str]) -> np.ndarray:
            with using_adapter(actors.model, None):
                return judge(written)

        judges = Judges(
            scorer=PolicyScorer(actors.model, top_layers=top),
            using=partial(using_adapter, actors.model),
            anchor=actors.reference,
            gold=gold,
            reward=raw,
        )
        measured: dict[str, Measured] = {}
        for number, name in enumerate(names):
            adapter = adapters[name]
            best_of = config.evaluation.best_of_n if name == control else 1
            make = partial(
                measure,
                Contender(name, adapter, actors.sampling(adapter), best_of),
                judges,
                texts.test_prompts,
                policy.tokenizer,
                max_new_tokens=config.evaluation.max_new_tokens,
                temperature=config.evaluation.temperature,
                seed=config.seed,
            )
            measured[name] = make() if name in ("ppo", "dpo") else kept.measured(name, make)
            show(3 + number, f"{name}: gold reward {measured[name].gold.mean():+.2f}")
    seed = config.seed
    found["policies"] = {name: summarise(rows, seed=seed) for name, rows in measured.items()}
    found["comparisons"] = {
        f"{a}_minus_{b}": compare(measured[a], measured[b], seed=seed)
        for a, b in (*_COMPARED, ("ppo", control), ("dpo", control))
        if a in measured and b in measured
    }
    write_samples(run, texts.test_prompts, measured)
    run.seconds["evaluation"] = time.monotonic() - started
    return found


def fit_run_judge(run: Run, policy: Policy, kept: Kept) -> GoldJudge:
    """The gold judge of a run: fitted now, or before on the same texts and then found in ``kept``."""
    max_tokens = run.config.data.max_tokens

    def fit() -> dict[str, np.ndarray]:
        judge = fit_gold_judge(policy.model, policy.tokenizer, run.texts.gold, max_tokens=max_tokens)
        return {"weights": judge.weights, "bias": np.array(judge.bias)}

    line = kept.arrays("gold", fit)
    body = judge_body(policy.model)
    return GoldJudge(body, policy.tokenizer, line["weights"], float(line["bias"]), max_tokens)


def write_samples(run: Run, prompts: list[str], measured: dict[str, Measured]) -> None:
    """Every prompt with each policy's continuation and scores, one JSON object per line, atomically."""
    rows = []
    for i, prompt in enumerate(prompts):
        policies = {
            name: {
                "text": m.texts[i],
                "gold": float(m.gold[i]),
                "vader": float(m.vader[i]),
                "rm": None if m.rm is None else float(m.rm[i]),
                "toxicity": float(m.toxicity[i]),
                "kl_nats": float(m.kl_nats[i]),
                "tokens": int(m.tokens[i]),
            }
            for name, m in measured.items()
        }
        rows.append({"prompt": prompt, "policies": policies})
    write_json_lines(run.output / "samples.jsonl", rows)
