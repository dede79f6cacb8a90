"""The phases of a constitutional run. Each builds on the verified result of the one before; see ``cai``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_lite.constitutional import (
    Constitution,
    PolicyWriter,
    PromptSet,
    default_constitution,
    load_constitution,
    load_prompts,
    revise,
)
from rlhf_lite.data import load_preferences
from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.summary import compare
from rlhf_lite.files import write_json, write_json_lines
from rlhf_lite.models.policy import load_policy
from rlhf_lite.pipeline.cai.config import CAIConfig
from rlhf_lite.pipeline.cai.feedback import ask_for_feedback
from rlhf_lite.pipeline.cai.rounds import (
    LINE_END,
    by_round,
    judge_answers,
    read_chains,
    summarise_answers,
    write_chains,
)
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import train_on_pairs
from rlhf_lite.pipeline.phases import DPO, REFERENCE, adapter_to_train, build_adapter_policies, fine_tune
from rlhf_lite.pipeline.run import without_nan
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


def prompts_of(config: CAIConfig) -> PromptSet:
    """The prompts of a run."""
    return load_prompts(config.data.prompts)


def revise_phase(run: Run) -> None:
    """The untouched model answers the training prompts and revises itself; writes ``revise/chains.jsonl``."""
    started, config, settings = time.monotonic(), run.config, run.config.revise
    policy = load_policy(config.model.name, precision=run.precision)
    writer = PolicyWriter(policy, batch_size=32)
    prompts = [p for p in prompts_of(config).train[: settings.prompts] for _ in range(settings.samples)]
    first = writer.write(prompts, max_new_tokens=settings.max_new_tokens, seed=config.seed + _FIRST,
                         temperature=settings.first_temperature, stop=LINE_END)
    answered = [(p, text) for p, text in zip(prompts, first, strict=True) if text.strip()]
    if not answered:
        raise ValueError("revise: the model answered no prompt with a text; there is nothing to revise")
    chains = revise(writer, [text for _, text in answered], constitution_of(config), rounds=settings.rounds,
                    seed=config.seed, prompts=[p for p, _ in answered], critique=settings.critique,
                    max_new_tokens=settings.max_new_tokens, temperature=settings.temperature)
    run.seconds["revise"] = time.monotonic() - started
    with run.result("revise", steps=settings.rounds, chains=len(chains)) as folder:
        write_chains(folder / "chains.jsonl", chains)
        write_json(folder / "rounds.json", without_nan(by_round(chains, seed=config.seed)))


def line(tokenizer, text: str, *, max_new_tokens: int) -> str:
    """An answer as it follows its prompt; one that the length limit cut gets no line end."""
    cut = len(tokenizer(text, add_special_tokens=False)["input_ids"]) >= max_new_tokens - 1
    return f" {text.strip()}" + ("" if cut else LINE_END[0])


def sft_phase(run: Run) -> None:
    """Learn the last revisions as answers to the prompts; writes ``sft/adapter``.

    Chains in which no revision changed anything are left out: they would teach the first answers.

    Raises:
        ValueError: if no text was changed, or ``data.max_tokens`` leaves no room for an answer.
    """
    run.verify("revise")
    chains = [chain for chain in read_chains(run.output) if chain.texts[-1] != chain.first]
    policy, model = adapter_to_train(run)
    limit, tokenizer = run.config.revise.max_new_tokens, policy.tokenizer
    texts = [(chain.prompt, line(tokenizer, chain.texts[-1], max_new_tokens=limit)) for chain in chains]
    max_tokens = run.config.data.max_tokens
    examples = encode_examples(tokenizer, texts, max_tokens=max_tokens, end=False) if texts else []
    if not examples:
        raise ValueError("sft: no revision to learn from; look at revise/chains.jsonl, or raise "
                         "data.max_tokens")
    fine_tune(run, policy, model, examples, examples=len(examples))


def feedback_phase(run: Run) -> None:
    """A model judges answers of the fine-tuned policy; writes ``feedback/pairs.jsonl`` and all judgements."""
    started, config = time.monotonic(), run.config
    policy = load_policy(config.model.name, precision=run.precision)
    adapters = build_adapter_policies(run, policy, trained=False)
    prompts = prompts_of(config).train[: config.feedback.prompts]
    asked = constitution_of(config, config.feedback.principles)
    feedback = ask_for_feedback(run, policy, adapters, prompts, asked)
    run.seconds["feedback"] = time.monotonic() - started
    with run.result("feedback", steps=len(feedback.records), judge=feedback.judge) as folder:
        feedback.save(folder)


def dpo_phase(run: Run) -> None:
    """Learn the model's preferences by DPO, with the fine-tuned policy as reference; writes ``dpo/adapter``.

    Raises:
        ValueError: if the feedback holds no pair.
    """
    run.verify("feedback")
    policy = load_policy(run.config.model.name, precision=run.precision)
    adapters, tokenizer = build_adapter_policies(run, policy, trained=False), policy.tokenizer
    place, limit = run.output / "feedback" / "pairs.jsonl", run.config.feedback.max_new_tokens
    pairs = []
    for record in load_preferences(place).records if place.is_file() else []:
        answers = [line(tokenizer, text, max_new_tokens=limit) for text in (record.chosen, record.rejected)]
        encoded = tokenizer([record.prompt, *answers], add_special_tokens=False)["input_ids"]
        pairs.append(EncodedPair(*encoded, record.margin))
    if not pairs:
        raise ValueError("dpo: the feedback holds no pair; lower feedback.min_log_odds or ask more prompts")
    train_on_pairs(run, policy, adapters, pairs)


def evaluation_phase(run: Run) -> dict[str, Any]:
    """Judge the start policy, the one fine-tuned on revisions and the one after DPO, on the test prompts.

    Writes ``samples.jsonl`` and returns the judged parts of ``metrics.json``.
    """
    started, config, settings = time.monotonic(), run.config, run.config.evaluation
    policy = load_policy(config.model.name, precision=run.precision)
    model = build_adapter_policies(run, policy, trained=False).model
    names = [name for name in POLICIES if name == "base" or run.finished({"cai": "dpo"}.get(name, name))]
    prompts = prompts_of(config).test[: settings.prompts]
    policies = {name: EvalPolicy(name, model, policy.tokenizer, POLICIES[name]) for name in names}
    answers = judge_answers(policies, prompts, samples=settings.samples,
                            max_new_tokens=settings.max_new_tokens, temperature=settings.temperature,
                            seed=config.seed)
    write_samples(run.output / "samples.jsonl", prompts, answers)
    pairs = [
        (a, b) for a, b in (("sft", "base"), ("cai", "base"), ("cai", "sft")) if a in names and b in names
    ]
    run.seconds["evaluation"] = time.monotonic() - started
    measures = ("toxicity", "vader")
    return {
        "policies": {name: summarise_answers(own, seed=config.seed) for name, own in answers.items()},
        "comparisons": {
            f"{a}_minus_{b}": compare(answers[a], answers[b], measures=measures, seed=config.seed)
            for a, b in pairs
        },
    }


def write_samples(path: Path, prompts: Sequence[str], answers: Mapping[str, Answers]) -> None:
    """Every test prompt with all answers of every policy, one JSON object a line."""
    rows = []
    for i, prompt in enumerate(prompts):
        row: dict[str, Any] = {}
        for name, own in answers.items():
            toxicity, vader = own.scores["toxicity"], own.scores["vader"]
            row[name] = [{"text": own.texts[j], "toxicity": float(toxicity[j]), "vader": float(vader[j])}
                         for j in range(i * own.samples, (i + 1) * own.samples)]
        rows.append({"prompt": prompt, "policies": row})
    write_json_lines(path, rows)
