"""The evaluation phase: judge every policy of the run, and judge the judges."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lite.evaluation.answers import Answers, measure
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.gold import agreement_with_humans
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.evaluation.summary import compare, summarise
from rlhf_lite.files import write_json_lines
from rlhf_lite.models.policy import Policy, load_policy
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.evaluation_cache import EvaluationCache
from rlhf_lite.pipeline.phases import (
    DPO,
    POLICY,
    REFERENCE,
    build_adapter_policies,
    load_run_reward,
    shared_reward,
)
from rlhf_lite.pipeline.progress_bar import bar
from rlhf_lite.pipeline.run_judges import fit_run_judge, judge_reward_model

_COMPARED = (
    ("ppo", "sft"),
    ("ppo", "reference"),
    ("sft", "reference"),
    ("dpo", "sft"),
    ("dpo", "reference"),
    ("dpo", "ppo"),
)
_ADAPTERS = {"sft": REFERENCE, "ppo": POLICY, "dpo": DPO}


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
    started, config, texts, seed = time.monotonic(), run.config, run.texts, run.config.seed
    policy = load_policy(config.model.name, precision=run.precision)
    settings, gap, cache = config.evaluation, config.reward.eval_min_gap, EvaluationCache(shared)
    has_reward = run.finished("reward")
    best_of = settings.best_of_n if has_reward else 0
    trained = [name for name in _ADAPTERS if run.finished(name)]
    judged: dict[str, Any] = {}
    with bar("evaluation", 3 + len(trained) + bool(best_of), visible=run.visible) as show:
        gold = fit_run_judge(run, policy, cache)
        judged["gold_judge"] = cache.record(
            "gold_judge", lambda: agreement_with_humans(gold, texts.gold_check, min_gap=gap)
        )
        judged["gold_judge"]["n_fitted"] = len(texts.gold)
        show(1, f"gold judge agrees with people at r = {judged['gold_judge']['pearson']:.2f}")
        raw = None
        if has_reward:
            reward = load_run_reward(run)
            reward.eval()
            judged["reward_model"] = cache.record(
                "reward_model", lambda: judge_reward_model(reward, texts.test_pairs, min_gap=gap)
            )
            raw = shared_reward(run, reward, policy)
            show(2, f"reward model accuracy {judged['reward_model']['accuracy']:.3f}")
        policies = _policies(run, policy, trained, best_of)
        base = policies["reference"]
        judges = Judges(reference=policies.get("sft", base), fluency=base, gold=gold, reward=raw)
        answers: dict[str, Answers] = {}
        for name, one in policies.items():
            ask = partial(
                measure,
                one,
                texts.test_prompts,
                judges,
                max_new_tokens=settings.max_new_tokens,
                temperature=settings.temperature,
                perplexity_temperature=settings.temperature,
                seed=seed,
            )
            answers[name] = ask() if name in ("ppo", "dpo") else cache.answers(one, ask)
            gold_reward = answers[name].scores["gold"].mean()
            show(2 + len(answers), f"{name}: gold reward {gold_reward:+.2f}")
    judged["policies"] = {name: summarise(own, seed=seed) for name, own in answers.items()}
    judged["comparisons"] = {
        f"{a}_minus_{b}": compare(answers[a], answers[b], seed=seed)
        for a, b in (*_COMPARED, ("ppo", f"best_of_{best_of}"), ("dpo", f"best_of_{best_of}"))
        if a in answers and b in answers
    }
    write_samples(run, texts.test_prompts, answers)
    run.seconds["evaluation"] = time.monotonic() - started
    return judged


def _policies(run: Run, policy: Policy, trained: Sequence[str], best_of: int) -> dict[str, EvalPolicy]:
    """The policies of the run by name, on one network; the best of n last, if n is not 0."""
    adapters = build_adapter_policies(run, policy, trained="ppo" in trained)
    make = partial(EvalPolicy, model=adapters.model, tokenizer=policy.tokenizer)
    policies = {name: make(name, adapter=_ADAPTERS.get(name)) for name in ("reference", *trained)}
    if best_of:
        control = f"best_of_{best_of}"
        policies[control] = make(control, adapter=adapters.reference, best_of=best_of)
    return policies


def write_samples(run: Run, prompts: Sequence[str], answers: Mapping[str, Answers]) -> None:
    """Every prompt with each policy's continuation and scores, one JSON object per line, atomically."""
    rows = []
    for i, prompt in enumerate(prompts):
        row: dict[str, Any] = {}
        for name, own in answers.items():
            score = {measure: float(values[i]) for measure, values in own.scores.items()}
            row[name] = {
                "text": own.texts[i],
                **{measure: score[measure] for measure in ("gold", "vader", "toxicity")},
                "rm": score.get("reward"),
                "kl_nats": score["kl"],
                "tokens": len(own.ids[i]),
            }
        rows.append({"prompt": prompt, "policies": row})
    write_json_lines(run.output / "samples.jsonl", rows)
