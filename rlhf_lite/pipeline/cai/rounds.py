"""The chains of revisions and the answers of a constitutional run: on disk, judged, and in its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.constitutional import PROBLEMS, Chain, RevisionStep, kept_words, printable
from rlhf_lite.data.words import words
from rlhf_lite.errors import DataError
from rlhf_lite.evaluation.answers import Answers, measure
from rlhf_lite.evaluation.compare import perplexity
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.evaluation.report.render import interval_text, number, render
from rlhf_lite.evaluation.statistics import Interval, mean_ci, paired_difference_ci, share_ci
from rlhf_lite.evaluation.text_metrics import distinct_n, toxicity_scores, vader_scores
from rlhf_lite.files import text_lines, write_json_lines, write_text

# An answer is one line of a thread.
LINE_END = ("\n",)
# The ways to ask a model for its judgement.
METHODS = ("likelihood", "pointwise", "pairwise")
# From here on the toxicity judge calls a text toxic.
TOXIC = 0.5
# Rows and columns of the report.
_TITLES = {"base": "start policy", "sft": "after SFT on revisions", "cai": "after DPO on AI feedback"}
_MEASURES = ("toxicity", "toxic_fraction", "vader", "length_words", "kl_nats_per_seq", "distinct_2",
             "perplexity_reference", "copied_fraction")


def write_chains(path: Path, chains: Sequence[Chain]) -> None:
    """The chains as JSON lines: everything that was asked, answered, kept and thrown away."""
    write_json_lines(path, map(asdict, chains))


def read_chains(path: Path) -> list[Chain]:
    """The chains of a file, or of a run's folder (``revise/chains.jsonl``).

    Raises:
        DataError: if a line is no chain; it names the line.
    """
    path = Path(path)
    path = path / "revise" / "chains.jsonl" if path.is_dir() else path
    chains = []
    for line_number, line in enumerate(text_lines(path), start=1):
        try:
            row = json.loads(line)
            steps = tuple(RevisionStep(**step) for step in row.pop("steps"))
            chains.append(Chain(steps=steps, **row))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            problem = f"is not a chain of revisions ({type(error).__name__}: {error})"
            fix = "make the file anew with rlhf-lite cai"
            raise DataError(problem, file=str(path), row=line_number, fix=fix) from error
    return chains


def copied(prompt: str, text: str) -> bool:
    """Whether an answer only repeats a line of its prompt."""
    own = words(text)
    return bool(own) and any(words(line) == own for line in prompt.splitlines())


def with_ends(name: str, interval: Interval | None) -> dict[str, Any]:
    """An estimate under its name, and its 95 % interval; None where there is none."""
    return {name: interval and interval.estimate, f"{name}_ci95": interval and interval.ends}


def judge_answers(policies: Mapping[str, EvalPolicy], prompts: Sequence[str], *, samples: int,
                  max_new_tokens: int, temperature: float, seed: int) -> dict[str, Answers]:
    """Let policies answer the same prompts in one line each, and measure the answers.

    Args:
        policies: the first one is the start policy, from which the KL is measured.
        prompts: threads that end where the answer begins.
        samples: answers to each.
        max_new_tokens: length limit of an answer.
        temperature: of the sampling; the KL is that of the policies at this temperature.
        seed: of the random numbers.
    """
    judges = Judges(reference=next(iter(policies.values())))
    return {name: measure(policy, prompts, judges, max_new_tokens=max_new_tokens, temperature=temperature,
                          samples=samples, seed=seed, stop=LINE_END, batch_size=96)
            for name, policy in policies.items()}


def summarise_answers(answers: Answers, *, seed: int) -> dict[str, Any]:
    """One policy's row of the table: means, 95 % intervals over prompts, units in the names.

    Args:
        answers: from `judge_answers`.
        seed: of the bootstrap.
    """
    texts, prompts = answers.texts, answers.prompts.texts
    row: dict[str, Any] = {"n_prompts": len(prompts), "n_answers": len(texts)}
    for name, values in (("toxicity", answers.scores["toxicity"]), ("vader", answers.scores["vader"]),
                         ("kl_nats_per_seq", answers.scores["kl"]), ("length_words", answers.words)):
        row |= with_ends(name, answers.mean(values, seed=seed))
    row |= with_ends("toxic_fraction", share_ci(answers.scores["toxicity"] > TOXIC, groups=answers.groups))
    each = [prompt for prompt in prompts for _ in range(answers.samples)]
    return row | {"length_tokens": float(answers.tokens.mean()), "distinct_2": distinct_n(texts, 2),
                  "unique_fraction": len(set(texts)) / len(texts),
                  "perplexity_reference": perplexity(answers),
                  "ended_fraction": float(answers.ended.mean()),
                  "empty_fraction": float((answers.words == 0).mean()),
                  "copied_fraction": float(np.mean([copied(p, t) for p, t in zip(each, texts, strict=True)]))}


def by_round(chains: Sequence[Chain], *, seed: int) -> list[dict[str, Any]]:
    """What the judges say about the texts after each round of revision, from 0 on.

    Returns:
        For each round ``toxicity``, ``vader`` and ``kept_words`` (share of the first text's content words
        that are left) with 95 % intervals over prompts, ``toxic_fraction``, ``words``, ``distinct_2``, the
        number of revisions with each problem in ``problems``, the share ``kept``, and from round 1 on
        ``minus_first``: the paired difference in toxicity to round 0.

    Raises:
        ValueError: if there is no chain, or the chains differ in length.
    """
    lengths = {len(chain.steps) for chain in chains}
    if len(lengths) != 1:
        raise ValueError(f"expected chains of one length, got {len(chains)} "
                         f"chains of lengths {sorted(lengths)}")
    rows: list[dict[str, Any]] = []
    first = toxicity_scores([chain.first for chain in chains])
    # Chains of one prompt are one unit of chance; a chain without a prompt is its own.
    groups = [chain.prompt or str(index) for index, chain in enumerate(chains)]
    for index in range(lengths.pop() + 1):
        texts = [chain.texts[index] for chain in chains]
        toxicity = toxicity_scores(texts)
        row = {"round": index, "n": len(chains), "toxic_fraction": float((toxicity > TOXIC).mean())}
        left = np.array([kept_words(chain.first, text) for chain, text in zip(chains, texts, strict=True)])
        for name, values in (("toxicity", toxicity), ("vader", vader_scores(texts)), ("kept_words", left)):
            row |= with_ends(name, mean_ci(values, groups=groups, seed=seed))
        row["words"] = float(np.mean([len(words(text)) for text in texts]))
        row["distinct_2"] = distinct_n(texts, 2)
        if index:
            steps = [chain.steps[index - 1] for chain in chains]
            counts = Counter(step.problem for step in steps)
            row["problems"] = {name: counts[name] for name in PROBLEMS}
            row["kept"] = float(np.mean([step.kept for step in steps]))
            gap = paired_difference_ci(toxicity, first, groups=groups, seed=seed)
            row["minus_first"] = with_ends("toxicity", gap)
        rows.append(row)
    return rows


def _cells(row: Mapping[str, Any], *names: str) -> list[str]:
    """Values with their intervals."""
    cells = []
    for name in names:
        ends = interval_text(row.get(f"{name}_ci95"))
        value = "missing" if row.get(name) is None else number(row[name])
        cells.append(f"{value} ({ends})" if ends else value)
    return cells


def _quoted(text: str) -> str:
    """Text of a model in one line."""
    return printable(" ".join(text.split())) or " "


def _round(row: Mapping[str, Any]) -> list[str]:
    problems = ", ".join(f"{name} {n}" for name, n in row.get("problems", {}).items() if n)
    cells = _cells(row, "toxicity", "vader", "kept_words")
    return [str(row["round"]), *cells, number(row["words"], 1), problems or "none"]


def _method(name: str, row: Mapping[str, Any], used: str) -> list[str]:
    agreement, gap = _cells(row, "agreement", "chosen_minus_rejected_toxicity")
    return [name, "yes" if name == used else "no", str(row.get("pairs", 0)), str(row["n_clear_pairs"]),
            agreement, gap]


def write_report(output: Path, metrics: Mapping[str, Any], *, shown: int) -> Path:
    """Write ``report.md`` from ``metrics.json``, the chains and the samples of a run.

    Args:
        output: folder of the run.
        metrics: the content of ``metrics.json``.
        shown: chains and prompts that are shown as they are.
    """
    policies, feedback = metrics["policies"], metrics["feedback"]
    counted = next(iter(policies.values()))
    lines = text_lines(output / "samples.jsonl")[:shown]
    context = {
        "title": "Constitutional AI: report of a run", "subtitle": "", "footer": "is also in metrics.json.",
        "metrics": metrics, "judge": Path(feedback["judge"]).name,
        "n_prompts": counted["n_prompts"], "n_answers": counted["n_answers"],
        "rounds": [_round(row) for row in metrics["rounds"]],
        "feedback": [_method(name, feedback[name], feedback["method"])
                     for name in METHODS if name in feedback],
        "bias": feedback.get("pairwise"),
        "policies": [[_TITLES[name], *_cells(row, *_MEASURES)] for name, row in policies.items()],
        "differences": [[name.replace("_", " "), *_cells(row, "toxicity", "vader")]
                        for name, row in metrics["comparisons"].items()],
        "chains": [(_quoted(chain.first),
                    [(step.principle, _quoted(step.revision), step.problem) for step in chain.steps])
                   for chain in read_chains(output)[:shown]],
        "samples": [(_quoted(row["prompt"].splitlines()[-2]),
                     [(_TITLES[name], _quoted(answers[0]["text"]))
                      for name, answers in row["policies"].items()])
                    for row in map(json.loads, lines)],
    }
    path = output / "report.md"
    write_text(path, render("report.md.j2", body="constitutional.j2", **context))
    return path
