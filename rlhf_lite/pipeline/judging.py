"""The evaluation phase: judge every policy of the run, and judge the judges.

Arms of a sweep often differ in one policy only: the judge, the reference and the SFT policy, and what the
reward model does on held-out pairs are then the same, to the last digit, and need not be measured again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.evaluation.answers import Answers, measure
from rlhf_lite.evaluation.compare import compare, summarise
from rlhf_lite.evaluation.eval_policy import EvalPolicy, PromptRows
from rlhf_lite.evaluation.gold import GoldJudge, agreement_with_humans, fit_gold_judge, judge_body
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.evaluation.report.render import number
from rlhf_lite.evaluation.statistics import pair_accuracy, pair_quality, units_of
from rlhf_lite.files import atomic_file, write_json, write_json_lines
from rlhf_lite.models.policy import Policy
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.pipeline import phases
from rlhf_lite.pipeline.context import Run, bar
from rlhf_lite.training.pairs import encode_texts
from rlhf_lite.training.reward import score_pairs
from rlhf_lite.types import Preference

_COMPARED = (("ppo", "sft"), ("ppo", "reference"), ("sft", "reference"), ("dpo", "sft"), ("dpo", "reference"),
             ("dpo", "ppo"))
_ADAPTERS = {"sft": phases.REFERENCE, "ppo": phases.POLICY, "dpo": phases.DPO}
_GAPS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


class EvaluationCache:
    """A folder of results of earlier evaluations; without a folder nothing is kept.

    Args:
        folder: where they are; whoever gives it sees to it that settings and seed are the same.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """Something JSON can hold, made by ``make`` if it is not there."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.json"
        if not path.is_file():
            write_json(path, make())
        return json.loads(path.read_text(encoding="utf-8"))

    def arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays by name, made by ``make`` if they are not there."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npz"
        if not path.is_file():
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **make())
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    def answers(self, policy: EvalPolicy, make: Callable[[], Answers]) -> Answers:
        """What a policy wrote and what judges said about it, made by ``make`` if it is not there."""
        if self._folder is None:
            return make()

        def texts() -> dict[str, Any]:
            made = make()
            self.arrays(policy.name, lambda: {"ended": made.ended, **made.scores})
            stored = {name: getattr(made, name) for name in ("samples", "texts", "ids", "missing")}
            return stored | {"prompts": asdict(made.prompts)}

        stored = self.record(policy.name, texts)
        arrays, prompts = self.arrays(policy.name, dict), PromptRows(**stored.pop("prompts"))
        return Answers(policy=policy, prompts=prompts, ended=arrays.pop("ended"), scores=arrays, **stored)


def fit_run_judge(run: Run, policy: Policy, cache: EvaluationCache) -> GoldJudge:
    """The gold judge of a run: fitted now, or before on the same texts and then found in the cache."""
    max_tokens = run.max_tokens

    def fit() -> dict[str, np.ndarray]:
        judge = fit_gold_judge(policy.model, policy.tokenizer, run.texts.gold, max_tokens=max_tokens)
        return {"weights": judge.weights, "bias": np.array(judge.bias)}

    line = cache.arrays("gold", fit)
    body = judge_body(policy.model)
    return GoldJudge(body, policy.tokenizer, line["weights"], float(line["bias"]), max_tokens)


def scorable(model: RewardModel, pairs: Sequence[Preference]) -> tuple[list[Preference], RowCounts]:
    """The pairs whose texts still differ where the reward model cuts them, and what became of all of them."""
    counts = RowCounts(model.max_tokens)
    refused = encode_texts(model.tokenizer, pairs, max_tokens=model.max_tokens, counts=counts).refused
    return [pair for i, pair in enumerate(pairs) if i not in set(refused)], counts


def judge_reward_model(model: RewardModel, pairs: list[Preference], *, min_gap: float,
                       bins: int | None = None) -> dict[str, Any]:
    """`statistics.pair_quality` of a reward model on held-out pairs, and its accuracy by rating gap.

    Pairs that share a text or a prompt are not independent, see `statistics.units_of`.

    Args:
        model: the reward model.
        pairs: preferences that it was not trained on.
        min_gap: of these pairs, for the record.
        bins: of the reliability diagram; None leaves it out.
    """
    chosen, rejected = score_pairs(model, pairs)
    difference = (chosen - rejected).double().numpy()
    units = units_of(pairs)
    quality = pair_quality(difference, units=units, bins=bins)
    gaps = np.array([np.nan if pair.margin is None else pair.margin for pair in pairs])
    by_gap = []
    for low, high in pairwise(_GAPS):
        inside = (gaps > low) & (gaps <= high)
        if inside.any():
            rows = np.flatnonzero(inside)
            found = pair_accuracy(difference[rows], units=[units[row] for row in rows])
            by_gap.append({"gap_low": low, "gap_high": high, "accuracy": found.estimate, "ci95": found.ends,
                           "n_pairs": len(rows)})
    return quality | {"min_gap": min_gap, "accuracy_by_gap": by_gap}


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
    policy = run.load_policy()
    settings, gap, cache = config.evaluation, config.reward.eval_min_gap, EvaluationCache(shared)
    has_reward = run.finished("reward")
    best_of = settings.best_of_n if has_reward else 0
    trained = [name for name in _ADAPTERS if run.finished(name)]
    judged: dict[str, Any] = {}
    with bar("evaluation", 3 + len(trained) + bool(best_of), visible=run.visible) as show:
        gold = fit_run_judge(run, policy, cache)
        agreement = partial(agreement_with_humans, gold, texts.gold_check, min_gap=gap)
        judged["gold_judge"] = cache.record("gold_judge", agreement) | {"n_fitted": len(texts.gold)}
        show(1, f"gold judge agrees with people at r = {number(judged['gold_judge']['pearson'])}")
        raw = None
        if has_reward:
            reward = phases.load_run_reward(run)
            test, counts = scorable(reward, texts.test_pairs)
            run.account("evaluation", counts, refuse=False)
            quality = partial(judge_reward_model, reward, test, min_gap=gap)
            judged["reward_model"] = cache.record("reward_model", quality)
            raw = phases.shared_reward(run, reward, policy)
            show(2, f"reward model accuracy {judged['reward_model']['accuracy']:.3f}")
        policies = _policies(run, policy, trained, best_of)
        base = policies["reference"]
        judges = Judges(reference=policies.get("sft", base), fluency=base, gold=gold, reward=raw)
        answers: dict[str, Answers] = {}
        for name, one in policies.items():
            ask = partial(measure, one, texts.test_prompts, judges, max_new_tokens=settings.max_new_tokens,
                          max_tokens=run.max_tokens, temperature=settings.temperature, seed=seed)
            answers[name] = ask() if name in ("ppo", "dpo") else cache.answers(one, ask)
            gold_reward = answers[name].scores["gold"].mean()
            show(2 + len(answers), f"{name}: gold reward {gold_reward:+.2f}")
    judged["policies"] = {name: summarise(own, seed=seed) for name, own in answers.items()}
    judged["comparisons"] = {
        f"{a}_minus_{b}": compare(answers[a], answers[b], seed=seed)
        for a, b in (*_COMPARED, ("ppo", f"best_of_{best_of}"), ("dpo", f"best_of_{best_of}"))
        if a in answers and b in answers
    }
    if run.is_main:
        write_samples(run.output / "samples.jsonl", texts.test_prompts, answers, _sample)
    run.seconds["evaluation"] = time.monotonic() - started
    return judged


def _policies(run: Run, policy: Policy, trained: Sequence[str], best_of: int) -> dict[str, EvalPolicy]:
    """The policies of the run by name, on one network; the best of n last, if n is not 0."""
    adapters = phases.build_adapter_policies(run, policy, trained="ppo" in trained)
    make = partial(EvalPolicy, model=adapters.model, tokenizer=policy.tokenizer)
    policies = {name: make(name, adapter=_ADAPTERS.get(name)) for name in ("reference", *trained)}
    if best_of:
        control = f"best_of_{best_of}"
        policies[control] = make(control, adapter=adapters.reference, best_of=best_of)
    return policies


def _sample(own: Answers, i: int) -> dict[str, Any]:
    """The continuation of prompt ``i``, and its scores."""
    score = {name: float(values[i]) for name, values in own.scores.items()}
    judged = {name: score[name] for name in ("gold", "vader", "toxicity")}
    rest = {"rm": score.get("reward"), "kl_nats": score["kl"], "tokens": len(own.ids[i])}
    return {"text": own.texts[i], **judged, **rest}


def write_samples(path: Path, prompts: Sequence[str], answers: Mapping[str, Answers],
                  sample: Callable[[Answers, int], Any]) -> None:
    """Every prompt with what ``sample`` says of each policy's answer, one JSON object a line, atomically."""
    rows = [{"prompt": prompt, "policies": {name: sample(own, i) for name, own in answers.items()}}
            for i, prompt in enumerate(prompts)]
    write_json_lines(path, rows)
