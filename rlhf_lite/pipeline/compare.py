"""``rlhf-lite eval``: load policies by name, let them write on the same prompts, judge them, report."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.data.chat import read_template
from rlhf_lite.errors import ComparisonError
from rlhf_lite.evaluation.compare import compare_policies
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.gold import GoldJudge, agreement_with_humans, fit_gold_judge
from rlhf_lite.evaluation.judges import ModelJudge, Scores, deciding_judge, toxicity_judge
from rlhf_lite.evaluation.prompts import read_prompts
from rlhf_lite.evaluation.report.comparison import check_output, write_comparison
from rlhf_lite.models.adapters import load_adapter
from rlhf_lite.models.names import resolve_model
from rlhf_lite.models.policy import Policy, Precision, load_policy, resolve_precision, tokenizer_of
from rlhf_lite.models.reward_model import load_reward_model
from rlhf_lite.models.runtime import compute_device, use_cpu
from rlhf_lite.pipeline.commands import Located, find_reward_model, locate_policy
from rlhf_lite.pipeline.context import bar
from rlhf_lite.pipeline.judging import judge_reward_model
from rlhf_lite.pipeline.texts import Texts, review_texts
from rlhf_lite.tracking import run_info

_BINS = 5  # of the reliability diagram of the gold judge
_NAME = re.compile(r"(\w[\w .+-]*)=(.+)", re.DOTALL)


@dataclass(frozen=True)
class Named:
    """A policy that was asked for: its name in the report, and where it is."""

    name: str
    place: Located


def parse_models(specs: Sequence[str]) -> list[Named]:
    """MODEL or NAME=MODEL, found. Names that would be equal are told apart by a number, unless typed.

    Raises:
        ComparisonError: if two typed names are equal.
        PhaseError: if a model is not there.
    """
    models, taken = [], set()
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
        models.append(Named(name, place))
    return models


@dataclass
class ModelLoader:
    """Models by base, each loaded once, with every adapter that is wanted on it."""

    precision: Precision = "auto"
    bases: dict[str, Policy] = field(default_factory=dict)

    def base(self, name: str) -> Policy:
        """The bare model; loaded when it is first asked for.

        Raises:
            PhaseError: if there is no such model here.
        """
        if name not in self.bases:
            self.bases[name] = load_policy(name, precision=self.precision, device=compute_device())
        return self.bases[name]

    def policies(self, models: Sequence[Named], *, reward: Path | None = None) -> list[EvalPolicy]:
        """Load policies; adapters of one base model share one network. ``reward`` will judge them.

        Raises:
            PhaseError: if a model is not there or does not load.
        """
        networks: dict[str, Any] = {}
        adapters: list[str | None] = []
        for place in (named.place for named in models):
            network, name = networks.setdefault(place.base, self.base(place.base).model), None
            if place.adapter is not None:
                name = f"policy_{len(getattr(network, 'peft_config', ()))}"
                networks[place.base] = load_adapter(network, place.adapter, name)
            adapters.append(name)
        loaded = []
        for named, adapter in zip(models, adapters, strict=True):
            place = named.place
            tokenizer = tokenizer_of(self.base(place.base), place.adapter)
            # A Hub id or a folder's name; never the path of somebody's machine.
            source = place.label if Path(place.base).exists() or place.adapter else place.base
            trained_by = optimised_by(place, reward)
            network = networks[place.base]
            loaded.append(EvalPolicy(named.name, network, tokenizer, adapter, source, trained_by))
        return loaded


def optimised_by(place: Located, reward: Path | None) -> tuple[str, ...]:
    """("reward",) if the policy was trained by the very reward model that now judges it."""
    if place.run is None or reward is None:
        return ()
    own = place.run / "reward" / "adapter"
    if not own.is_dir() or own.resolve() != reward.resolve():
        return ()
    by_reward = place.phase == "ppo"
    if place.phase == "dpo":
        by_reward = load_config(place.run / "config.yaml", []).dpo.source == "policy"
    return ("reward",) if by_reward else ()


def evaluate_models(models: Sequence[str], prompts: str, output: Path, *, limit: int | None = None,
                    baseline: str | None = None, reference: str | None = None, reward: Path | None = None,
                    with_gold: bool = True, judge: str | None = None, toxicity: str | None = None,
                    chat: bool | None = None, seed: int = 0, on_error: Literal["raise", "skip"] = "raise",
                    precision: Precision = "auto", command: str | None = None, visible: bool = True,
                    **sampling: Any) -> dict[str, Any]:
    """Compare policies and write the report. See `evaluation.compare.compare_policies` for the measures.

    Args:
        models: MODEL or NAME=MODEL each; MODEL as in `pipeline.commands.locate_policy`.
        prompts: a text file, any kind of preference file, or "reviews".
        output: folder of the report; new, empty, or an earlier report of this kind.
        limit: at most this many prompts, spread evenly.
        baseline: a NAME; the first model if None.
        reference: a NAME or a MODEL; the base model of the first one if None.
        reward: a run or a reward model.
        with_gold: fit the gold judge to human ratings. In a chat it is left out: it knows reviews only.
        toxicity: see `evaluation.judges.toxicity_judge`.
        on_error: "raise" at a broken row of the prompts, or "skip" and list it.
        precision: of all models' weights; what it was is in the report.
        chat: see `compare_policies`; None is a chat if a policy was trained on its chat template.
        command: what the user typed.
        visible: show progress.
        judge, seed: see `compare_policies`.
        **sampling: ``tie_margin``, ``max_new_tokens``, ``temperature``, ``n_samples`` of `compare_policies`.

    Returns:
        The content of ``report.json``.

    Raises:
        ComparisonError, DataError, PhaseError, ToxicityError, AssetError: with what to change.
    """
    started, precision = time.monotonic(), resolve_precision(precision)
    check_output(output)
    use_cpu()
    named = parse_models(models)
    place = None if reward is None else find_reward_model(Path(reward))
    tox = toxicity_judge(toxicity)
    if chat is None:
        chat = any(read_template(one.place.adapter or Path(one.place.base)) == "chat" for one in named)
    given = read_prompts(prompts, limit=limit, on_error=on_error, chat=chat)
    known = [one.name for one in named]
    if baseline is not None and baseline not in known:
        raise ComparisonError(f"baseline {baseline!r} is none of the policies: {', '.join(known)}")
    deciding_judge(judge, has_gold=with_gold and not chat, has_reward=place is not None)
    extra = None
    if reference is not None and reference not in known:
        extra = Named(f"reference {reference}", locate_policy(reference))
    remarks = [f"Left out: {error}" for error in given.skipped]
    if chat and with_gold:
        remarks.insert(0, "No gold reward: the gold judge knows movie reviews, and these are chats.")
    with bar("eval", len(named) + 2, visible=visible) as show:
        loader = ModelLoader(precision)
        for one in named:
            loader.base(one.place.base)
        texts = review_texts(PipelineConfig(seed=seed)) if with_gold and not chat else None
        gold, gold_quality = (None, {}) if texts is None else _gold(loader, texts)
        show(1, "gold judge" if gold else "models loaded")
        policies = loader.policies([*named, *([extra] if extra else [])], reward=place)
        measured_from = policies.pop() if extra else reference
        scores, reward_quality = (None, {}) if place is None else _reward(place, texts, precision)
        show(2, "policies loaded")
        comparison = compare_policies(policies, given.texts, baseline=baseline, reference=measured_from,
                                      gold=gold, reward=scores, toxicity=tox, judge=judge, chat=chat,
                                      seed=seed, **sampling, prompt_source=given.source, remarks=remarks,
                                      on_policy=lambda done, name: show(2 + done, name))
    info = run_info(seed=seed) | {"precision": precision, "judges": gold_quality | reward_quality}
    info |= {"command": command, "seconds": round(time.monotonic() - started, 1)}
    write_comparison(comparison, output, info=info)
    return {**comparison.metrics, **info}


def _gold(loader: ModelLoader, texts: Texts) -> tuple[GoldJudge, dict[str, Any]]:
    """The gold judge on the bundled model, and how far it agrees with people."""
    policy, config = loader.base(resolve_model(None)), PipelineConfig()
    judge = fit_gold_judge(policy.model, policy.tokenizer, texts.gold, max_tokens=config.data.max_tokens)
    quality = agreement_with_humans(judge, texts.gold_check, min_gap=config.reward.eval_min_gap, bins=_BINS)
    return judge, {"gold_judge": quality | {"n_fitted": len(texts.gold)}}


def _reward(place: Path, texts: Texts | None, precision: Precision) -> tuple[Scores, dict[str, Any]]:
    """The reward model's scores, and how it does on held-out human pairs."""
    model = load_reward_model(place, precision=precision, device=compute_device())
    quality: dict[str, Any] = {}
    if texts is not None:
        gap = PipelineConfig().reward.eval_min_gap
        quality = judge_reward_model(model, texts.test_pairs, min_gap=gap, bins=2 * _BINS)
    return ModelJudge(model), {"reward_model": quality}
