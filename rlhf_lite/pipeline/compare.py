"""``rlhf-lite eval``: load policies by name, let them write on the same prompts, judge them, report."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.evaluation.compare import Comparison, ComparisonError, Scores, compare_policies
from rlhf_lite.evaluation.comparison_report import check_output, write_comparison
from rlhf_lite.evaluation.entrants import Entrant
from rlhf_lite.evaluation.gold import GoldJudge, agreement_with_humans, fit_gold_judge
from rlhf_lite.evaluation.prompts import Prompts, read_prompts
from rlhf_lite.evaluation.statistics import calibration_bins
from rlhf_lite.evaluation.toxicity import toxicity_judge
from rlhf_lite.models.adapters import load_adapter, using_adapter
from rlhf_lite.models.policy import Policy, load_policy, resolve_model
from rlhf_lite.models.reward_model import RewardModel, load_reward_model
from rlhf_lite.models.runtime import use_cpu
from rlhf_lite.pipeline.files import find_reward_model
from rlhf_lite.pipeline.judging import judge_reward_model
from rlhf_lite.pipeline.locate import Located, locate_policy
from rlhf_lite.pipeline.progress import bar
from rlhf_lite.pipeline.run import PhaseError
from rlhf_lite.pipeline.sources import Texts, review_texts
from rlhf_lite.tracking import run_info
from rlhf_lite.training.reward import score_pairs

__all__ = ["Named", "evaluate_models", "load_entrants", "parse_models"]

_NAME = re.compile(r"([A-Za-z0-9][\w .+-]*)=(.+)", re.DOTALL)
_BINS = 5


@dataclass(frozen=True)
class Named:
    """A policy that was asked for: its name in the report, and where it is."""

    name: str
    spec: str
    place: Located


def parse_models(specs: Sequence[str]) -> list[Named]:
    """MODEL or NAME=MODEL, found. Names that would be equal are told apart by a number, unless typed.

    Raises:
        ComparisonError: if two typed names are equal.
        PhaseError: if a model is not there.
    """
    found, taken = [], set()
    for spec in specs:
        match = None if Path(spec).exists() else _NAME.fullmatch(spec)
        name, model = match.groups() if match else (None, spec)
        place = locate_policy(model)
        if name is not None and name in taken:
            raise ComparisonError(f"two policies are called {name!r}: give each its own NAME=")
        plain = name or place.label
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain} ({number})", number + 1
        taken.add(name)
        found.append(Named(name, model, place))
    return found


@dataclass
class _Loader:
    """Models by base, each loaded once, with every adapter that is wanted on it."""

    policies: dict[str, Policy] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)

    def base(self, name: str) -> Policy:
        """The bare model; loaded when it is first asked for.

        Raises:
            PhaseError: if there is no such model here.
        """
        if name not in self.policies:
            try:
                self.policies[name] = load_policy(name)
            except (OSError, ValueError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise PhaseError(f"{name} cannot be loaded as a model ({reason})") from error
        return self.policies[name]

    def entrant(self, named: Named, reward: Path | None) -> Entrant:
        """The policy, on the one network of its base model."""
        place = named.place
        policy, adapter = self.base(place.base), None
        if place.adapter is not None:
            adapter = f"entrant_{len(getattr(self.networks.get(place.base), 'peft_config', ()))}"
            network = self.networks.get(place.base, policy.model)
            self.networks[place.base] = load_adapter(network, place.adapter, adapter)
        # A Hub id or a folder's name; never the path of somebody's machine.
        source = place.label if Path(place.base).exists() or place.adapter else place.base
        return Entrant(
            named.name, policy.model, policy.tokenizer, adapter, source, optimised_by(place, reward)
        )

    def settle(self, entrant: Entrant, base: str) -> Entrant:
        """The entrant on the network with adapters, if any adapter was attached to its model."""
        return replace(entrant, model=self.networks[base]) if base in self.networks else entrant


def optimised_by(place: Located, reward: Path | None) -> tuple[str, ...]:
    """("reward",) if the policy was trained by the very reward model that now judges it."""
    if place.run is None or reward is None:
        return ()
    own = place.run / "reward" / "adapter"
    if not own.is_dir() or own.resolve() != reward.resolve():
        return ()
    by_reward = place.phase == "ppo" or (
        place.phase == "dpo" and load_config(place.run / "config.yaml", []).dpo.source == "policy"
    )
    return ("reward",) if by_reward else ()


def load_entrants(models: Sequence[Named], *, reward: Path | None = None) -> list[Entrant]:
    """Load policies; adapters of one base model share one network.

    Raises:
        PhaseError: if a model is not there or does not load.
    """
    return _load(_Loader(), models, reward)


def _load(loader: _Loader, models: Sequence[Named], reward: Path | None) -> list[Entrant]:
    loaded = [loader.entrant(named, reward) for named in models]
    return [loader.settle(one, named.place.base) for one, named in zip(loaded, models, strict=True)]


def evaluate_models(
    models: Sequence[str],
    prompts: str,
    output: Path,
    *,
    limit: int | None = None,
    baseline: str | None = None,
    reference: str | None = None,
    reward: Path | None = None,
    with_gold: bool = True,
    judge: str | None = None,
    tie_margin: float = 0.0,
    toxicity: str | None = None,
    chat: bool = False,
    max_new_tokens: int = 40,
    temperature: float = 1.0,
    n_samples: int = 1,
    seed: int = 0,
    on_error: Literal["raise", "skip"] = "raise",
    command: str | None = None,
    visible: bool = True,
) -> dict[str, Any]:
    """Compare policies and write the report. See `evaluation.compare.compare_policies` for the measures.

    Args:
        models: MODEL or NAME=MODEL each; MODEL as in `pipeline.locate.locate_policy`.
        prompts: a text file, a .jsonl file, or "reviews".
        output: folder of the report; new, empty, or an earlier report of this kind.
        limit: at most this many prompts, spread evenly.
        baseline: a NAME; the first model if None.
        reference: a NAME or a MODEL; the base model of the first one if None.
        reward: a run or a reward model.
        with_gold: fit the gold judge to human ratings. In a chat it is left out: it knows reviews only.
        judge, tie_margin, chat, max_new_tokens, temperature, n_samples, seed: see `compare_policies`.
        toxicity: see `evaluation.toxicity.toxicity_judge`.
        on_error: "raise" at a broken row of the prompts, or "skip" and list it.
        command: what the user typed.
        visible: show progress.

    Returns:
        The content of ``report.json``.

    Raises:
        ComparisonError, DataError, PhaseError, ToxicityError, AssetError: with what to change.
    """
    started = time.monotonic()
    check_output(output)
    use_cpu()
    named = parse_models(models)
    place = None if reward is None else find_reward_model(Path(reward))
    tox = toxicity_judge(toxicity)
    given = read_prompts(prompts, limit=limit, on_error=on_error)
    known = {one.name for one in named}
    extra = None
    if reference is not None and reference not in known:
        extra = Named(f"reference {reference}", reference, locate_policy(reference))
    with bar("eval", len(named) + 2, visible=visible) as show:
        loader = _Loader()
        for one in named:
            loader.base(one.place.base)
        texts = review_texts(PipelineConfig(seed=seed)) if with_gold and not chat else None
        gold, judges = _gold(loader, texts)
        show(1, "gold judge" if gold else "models loaded")
        entrants = _load(loader, [*named, *([extra] if extra else [])], place)
        anchor = entrants.pop() if extra else reference
        scores, reward_notes = _reward(place, texts)
        judges |= reward_notes
        show(2, "policies loaded")
        comparison = compare_policies(
            entrants,
            given.texts,
            baseline=baseline,
            reference=anchor,
            gold=None if gold is None else _bare(gold, loader),
            reward=scores,
            toxicity=tox,
            judge=judge,
            tie_margin=tie_margin,
            chat=chat,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            n_samples=n_samples,
            seed=seed,
            on_policy=lambda done, name: show(2 + done, name),
        )
    info = run_info(seed=seed) | {"seconds": round(time.monotonic() - started, 1), "command": command}
    _note(comparison, given, judges, info, with_gold=with_gold, chat=chat)
    write_comparison(comparison, output)
    return comparison.metrics


def _gold(loader: _Loader, texts: Texts | None) -> tuple[GoldJudge | None, dict[str, Any]]:
    """The gold judge on the bundled model, and how far it agrees with people."""
    if texts is None:
        return None, {}
    policy = loader.base(resolve_model(None))
    max_tokens = PipelineConfig().data.max_tokens
    judge = fit_gold_judge(policy.model, policy.tokenizer, texts.gold, max_tokens=max_tokens)
    found = agreement_with_humans(judge, texts.gold_check, min_gap=PipelineConfig().reward.eval_min_gap)
    found |= {"n_fitted": len(texts.gold), "bins": _rating_bins(judge, texts)}
    return judge, {"gold_judge": found}


def _rating_bins(judge: GoldJudge, texts: Texts) -> list[dict[str, float]]:
    """Mean predicted and mean human rating in groups of equal size, by prediction."""
    predicted = judge([row.text for row in texts.gold_check])
    actual = np.array([row.mean for row in texts.gold_check])
    groups = np.array_split(np.argsort(predicted, kind="stable"), _BINS)
    return [
        {"predicted": float(predicted[rows].mean()), "observed": float(actual[rows].mean()), "n": len(rows)}
        for rows in groups
        if len(rows)
    ]


def _bare(judge: GoldJudge, loader: _Loader) -> Scores:
    """The judge with all adapters of its network off, whoever calls it."""
    network = loader.networks.get(resolve_model(None))

    def scores(texts: Sequence[str]) -> np.ndarray:
        if network is None:
            return judge(texts)
        with using_adapter(network, None):
            return judge(texts)

    return scores


def _reward(place: Path | None, texts: Texts | None) -> tuple[Scores | None, dict[str, Any]]:
    """The reward model's scores, and its calibration on held-out human pairs."""
    if place is None:
        return None, {}
    model: RewardModel = load_reward_model(place)
    found: dict[str, Any] = {}
    if texts is not None:
        found = judge_reward_model(model, texts.test_pairs, min_gap=PipelineConfig().reward.eval_min_gap)
        chosen, rejected = score_pairs(model, texts.test_pairs)
        p_chosen = torch.sigmoid((chosen - rejected).double()).numpy()
        # Which text comes first says nothing, so each pair enters both ways round.
        forecast = np.concatenate([p_chosen, 1 - p_chosen])
        outcome = np.repeat([1.0, 0.0], len(p_chosen))
        found["bins"] = [part._asdict() for part in calibration_bins(forecast, outcome, bins=2 * _BINS)]
    return lambda texts: model.score_texts(texts).double().numpy(), {"reward_model": found}


def _note(
    comparison: Comparison,
    given: Prompts,
    judges: dict[str, Any],
    info: dict[str, Any],
    *,
    with_gold: bool,
    chat: bool,
) -> None:
    """Add what the caller knows to the metrics: judges, prompts, versions."""
    metrics = comparison.metrics
    metrics["settings"]["prompt_source"] = given.source
    metrics |= {"judges": judges, **info}
    if chat and with_gold:
        metrics["problems"].append("No gold reward: the gold judge knows movie reviews, and these are chats.")
    metrics["problems"] += [f"Left out: {error}" for error in given.skipped]
