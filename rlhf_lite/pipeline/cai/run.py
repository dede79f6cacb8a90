"""Constitutional AI as a run: revise, learn the revisions, ask for preferences, learn those by DPO, judge.

Each phase builds on the verified result of the one before.

Source: Bai et al. 2022 (arXiv:2212.08073). Differences: DPO (Rafailov et al. 2023) stands where the paper
trains a preference model and then PPO; no human preferences for helpfulness are mixed in; and the prompts are
lines of a thread instead of dialogues.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.constitutional import Constitution, PolicyWriter, default_constitution, load_constitution
from rlhf_lite.constitutional.principles import load_prompts
from rlhf_lite.constitutional.revise import revise
from rlhf_lite.data import load_preferences
from rlhf_lite.data.formatting import EncodedPair, encode_prompts, token_ids
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.compare import compare
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.files import write_json
from rlhf_lite.pipeline.cai import rounds
from rlhf_lite.pipeline.cai.config import CAIConfig
from rlhf_lite.pipeline.cai.feedback import ask_for_feedback
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import train_on_pairs
from rlhf_lite.pipeline.folder import METRICS, open_run
from rlhf_lite.pipeline.judging import write_samples
from rlhf_lite.pipeline.phases import (
    DPO,
    REFERENCE,
    adapter_to_train,
    build_adapter_policies,
    check_model,
    fine_tune,
)
from rlhf_lite.pipeline.run import explained, metrics_of, run_phases, without_nan
from rlhf_lite.tracking import run_info
from rlhf_lite.training.sft import encode_examples

# Names of the policies in the tables, and their adapters; None is the bare model.
POLICIES = {"base": None, "sft": REFERENCE, "cai": DPO}
_FIRST = 3_000_017  # keeps the seed of the first answers away from those of the revisions


def constitution_of(config: CAIConfig, names: Sequence[str] | None = None) -> Constitution:
    """The principles that a run uses: those with the given ids, or those of ``data.principles``, or all.

    Raises:
        KeyError: if one of the ids is not in the constitution.
    """
    place = config.data.constitution
    whole = default_constitution() if place is None else load_constitution(place)
    names = config.data.principles if names is None else names
    if names is None:
        return whole
    chosen = [whole.principle(name) for name in names]
    return Constitution(name=whole.name, source=whole.source, principles=chosen)


def revise_phase(run: Run) -> None:
    """The untouched model answers the training prompts and revises itself; writes ``revise/chains.jsonl``."""
    started, config, settings = time.monotonic(), run.config, run.config.revise
    policy = run.load_policy()
    writer = PolicyWriter(policy, batch_size=32)
    asked = load_prompts(config.data.prompts).train[: settings.prompts]
    prompts = [prompt for prompt in asked for _ in range(settings.samples)]
    first = writer.write(prompts, max_new_tokens=settings.max_new_tokens, seed=config.seed + _FIRST,
                         temperature=settings.first_temperature, stop=rounds.LINE_END)
    answered = [(p, text) for p, text in zip(prompts, first, strict=True) if text.strip()]
    if not answered:
        raise ValueError("revise: the model answered no prompt with a text; there is nothing to revise")
    chains = revise(writer, [text for _, text in answered], constitution_of(config), rounds=settings.rounds,
                    seed=config.seed, prompts=[p for p, _ in answered], critique=settings.critique,
                    max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    run.seconds["revise"] = time.monotonic() - started
    with run.result("revise", steps=settings.rounds, chains=len(chains)) as folder:
        rounds.write_chains(folder / "chains.jsonl", chains)
        write_json(folder / "rounds.json", without_nan(rounds.by_round(chains, seed=config.seed)))


def line(tokenizer, text: str, *, max_new_tokens: int) -> str:
    """An answer as it follows its prompt; one that the length limit cut gets no line end."""
    cut = len(token_ids(tokenizer, [text], start=False)[0]) >= max_new_tokens - 1
    return f" {text.strip()}" + ("" if cut else rounds.LINE_END[0])


def sft_phase(run: Run) -> None:
    """Learn the last revisions as answers to the prompts; writes ``sft/adapter``.

    Chains in which no revision changed anything are left out: they would teach the first answers.

    Raises:
        ValueError: if no text was changed.
    """
    run.verify("revise")
    chains = [chain for chain in rounds.read_chains(run.output) if chain.texts[-1] != chain.first]
    policy, model = adapter_to_train(run)
    limit, tokenizer = run.config.revise.max_new_tokens, policy.tokenizer
    texts = [(chain.prompt, line(tokenizer, chain.texts[-1], max_new_tokens=limit)) for chain in chains]
    if not texts:
        raise ValueError("sft: no revision to learn from; look at revise/chains.jsonl")
    max_tokens, counts = run.config.data.max_tokens, RowCounts(run.config.data.max_tokens)
    examples = encode_examples(tokenizer, texts, max_tokens=max_tokens, end=False, counts=counts)
    run.account("sft", counts)
    fine_tune(run, policy, model, examples, examples=len(examples))


def feedback_phase(run: Run) -> None:
    """A model judges answers of the fine-tuned policy; writes ``feedback/pairs.jsonl`` and all judgements."""
    started, config = time.monotonic(), run.config
    policy = run.load_policy()
    adapters = build_adapter_policies(run, policy, trained=False)
    prompts = load_prompts(config.data.prompts).train[: config.feedback.prompts]
    asked = constitution_of(config, config.feedback.principles)
    feedback = ask_for_feedback(run, policy, adapters, prompts, asked)
    run.seconds["feedback"] = time.monotonic() - started
    with run.result("feedback", steps=len(feedback.records), judge=feedback.stats["judge"]) as folder:
        feedback.save(folder)


def dpo_phase(run: Run) -> None:
    """Learn the model's preferences by DPO, with the fine-tuned policy as reference; writes ``dpo/adapter``.

    Raises:
        ValueError: if the feedback holds no pair.
    """
    run.verify("feedback")
    policy = run.load_policy()
    adapters, tokenizer = build_adapter_policies(run, policy, trained=False), policy.tokenizer
    place, limit = run.output / "feedback" / "pairs.jsonl", run.config.feedback.max_new_tokens
    pairs = []
    for record in load_preferences(place).records if place.is_file() else []:
        answers = [line(tokenizer, text, max_new_tokens=limit) for text in (record.chosen, record.rejected)]
        (prompt,) = encode_prompts(tokenizer, [record.prompt])
        pairs.append(EncodedPair(prompt, *token_ids(tokenizer, answers, start=False), record.margin))
    if not pairs:
        raise ValueError("dpo: the feedback holds no pair; lower feedback.min_log_odds or ask more prompts")
    train_on_pairs(run, policy, adapters, pairs)


def evaluation_phase(run: Run) -> dict[str, Any]:
    """Judge the start policy, the one fine-tuned on revisions and the one after DPO, on the test prompts.

    Writes ``samples.jsonl`` and returns the judged parts of ``metrics.json``.
    """
    started, config, settings = time.monotonic(), run.config, run.config.evaluation
    policy = run.load_policy()
    model = build_adapter_policies(run, policy, trained=False).model
    names = [name for name in POLICIES if name == "base" or run.finished({"cai": "dpo"}.get(name, name))]
    prompts = load_prompts(config.data.prompts).test[: settings.prompts]
    policies = {name: EvalPolicy(name, model, policy.tokenizer, POLICIES[name]) for name in names}
    answers = rounds.judge_answers(policies, prompts, samples=settings.samples,
                            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
                            seed=config.seed)
    if run.is_main:
        write_samples(run.output / "samples.jsonl", prompts, answers, _samples)
    pairs = [pair for pair in (("sft", "base"), ("cai", "base"), ("cai", "sft")) if {*pair} <= {*names}]
    difference = partial(compare, measures=("toxicity", "vader"), seed=config.seed)
    run.seconds["evaluation"] = time.monotonic() - started
    return {
        "policies": {name: rounds.summarise_answers(own, seed=config.seed) for name, own in answers.items()},
        "comparisons": {f"{a}_minus_{b}": difference(answers[a], answers[b]) for a, b in pairs},
    }


def _samples(own: Answers, i: int) -> list[dict[str, Any]]:
    """All answers to prompt ``i``, and their scores."""
    toxicity, vader = own.scores["toxicity"], own.scores["vader"]
    return [{"text": own.texts[j], "toxicity": float(toxicity[j]), "vader": float(vader[j])}
            for j in range(i * own.samples, (i + 1) * own.samples)]


CAI_PHASES = ("revise", "sft", "feedback", "dpo", "evaluation")
CAI_TRAINING: dict[str, Callable[[Run], None]] = {"revise": revise_phase, "sft": sft_phase,
                                                  "feedback": feedback_phase, "dpo": dpo_phase}


def run_cai(config: CAIConfig, *, output: Path, resume: bool = False, command: str = "",
            visible: bool = True) -> dict[str, Any]:
    """Run all phases and write ``metrics.json`` and ``report.md``.

    Args:
        config: the settings; saved beside the results as ``config.yaml``.
        output: folder of the run.
        resume: continue in a folder that already holds this run; finished phases are kept.
        command: how the run was started, for the record.
        visible: show progress.

    Returns:
        The content of ``metrics.json``.

    Raises:
        PhaseError: naming the phase, what went wrong and how to go on.
    """
    output = Path(output)
    check_model(config.model.name, config.lora, reward=False)
    with open_run(config, output, resume=resume, visible=visible) as run:
        info = run_info(seed=config.seed) | {"precision": run.precision}
        judged = run_phases(run, CAI_PHASES, CAI_TRAINING, evaluation_phase)
        records = {phase: read_phase(output / phase) or {} for phase in CAI_PHASES[:-1]}
        seconds = {phase: record.get("seconds") for phase, record in records.items()} | run.seconds
        metrics = metrics_of(
            info, command, settings=config.model_dump(mode="json", exclude={"output", "checkpoint"}),
            rounds=json.loads((output / "revise" / "rounds.json").read_text(encoding="utf-8")),
            feedback=json.loads((output / "feedback" / "stats.json").read_text(encoding="utf-8")),
            **judged,
            counts={"chains": records["revise"].get("chains"), "sft_examples": records["sft"].get("examples"),
                    "dpo_pairs": records["dpo"].get("pairs")},
            seconds={name: value and round(value, 1) for name, value in seconds.items()},
        )
        if run.is_main:
            write_json(output / METRICS, metrics)
            with explained(run, "report"):
                rounds.write_report(output, metrics, shown=config.evaluation.samples_shown)
    return metrics
