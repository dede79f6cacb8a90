"""The commands that use what was trained: scores, texts, comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_lite.cli.options import MaxNewTokens, OnError, Precision, SampleSeed, Temperature, typed_command
from rlhf_lite.cli.printing import show_numbers

MODEL_HELP = "a run, RUN/PHASE, a folder, a Hub id, smollm2; or NAME=MODEL"
BASELINE_HELP = "NAME that win rates are against (default: the first)"
REFERENCE_HELP = "NAME or MODEL that KL is from (default: the first one's base model)"
REWARD_HELP = "run or reward model whose scores are shown too"
JUDGE_HELP = "who decides win rates: gold, vader or reward (default: gold)"
TIE_HELP = "smaller differences are ties, judge's unit"
CHAT_HELP = "put prompts into the chat template (default: if a policy was trained on it)"
TOXICITY_HELP = "profanity-check (default), detoxify, or MODEL#LABEL"


def score(
    model_dir: Annotated[Path, typer.Argument(metavar="DIR", help="a reward model made by this program")],
    data: Annotated[str, typer.Argument(metavar="FILE", help="preference file")], on_error: OnError = "raise",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="scores of each row, JSONL")] = None,
    precision: Precision = "auto",
) -> None:
    """Accuracy and scores of a reward model on a preference file."""
    from rlhf_lite.pipeline import score_file

    numbers = score_file(model_dir, data, on_error=on_error, output=output, precision=precision)
    show_numbers(numbers, f"{model_dir} on {data}")
    if output is not None:
        typer.echo(f"Scores of each row: {output}")


def generate(
    model_dir: Annotated[str, typer.Argument(metavar="DIR", help="a run, a model or an adapter")],
    prompt: Annotated[str, typer.Argument(metavar="TEXT", help="opening words")],
    samples: Annotated[int, typer.Option("-n", "--samples", min=1, help="how many continuations")] = 1,
    max_new_tokens: MaxNewTokens = 40, temperature: Temperature = 1.0, seed: SampleSeed = 0,
    precision: Precision = "auto",
) -> None:
    """Continue some opening words with a trained policy."""
    from rlhf_lite.models.policy import resolve_precision
    from rlhf_lite.pipeline import generate_text

    precision = resolve_precision(precision)
    typer.echo(f"weights in {precision}", err=True)
    texts = generate_text(model_dir, prompt, max_new_tokens=max_new_tokens, temperature=temperature,
                          samples=samples, seed=seed, precision=precision)
    for text in texts:
        typer.echo(text)


def compare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help=MODEL_HELP)],
    prompts: Annotated[str, typer.Option(help="text or preference file, or reviews (unseen openings)")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the report")],
    limit: Annotated[int | None, typer.Option(min=1, help="at most this many prompts, spread evenly")] = None,
    baseline: Annotated[str | None, typer.Option(help=BASELINE_HELP)] = None,
    reference: Annotated[str | None, typer.Option(help=REFERENCE_HELP)] = None,
    reward: Annotated[Path | None, typer.Option(help=REWARD_HELP)] = None,
    gold: Annotated[bool, typer.Option(help="judge by a model of human ratings (reviews only)")] = True,
    judge: Annotated[str | None, typer.Option(help=JUDGE_HELP)] = None,
    tie_margin: Annotated[float, typer.Option(min=0.0, help=TIE_HELP)] = 0.0,
    toxicity: Annotated[str | None, typer.Option(help=TOXICITY_HELP)] = None,
    chat: Annotated[bool | None, typer.Option(help=CHAT_HELP)] = None,
    n_samples: Annotated[int, typer.Option("--n-samples", "-n", min=1, help="texts per prompt")] = 1,
    max_new_tokens: MaxNewTokens = 40, temperature: Temperature = 1.0, seed: SampleSeed = 0,
    on_error: OnError = "raise", precision: Precision = "auto",
) -> None:
    """Compare policies on the same prompts and seeds; writes a report with tables, plots and samples."""
    from rlhf_lite.pipeline.compare import evaluate_models

    metrics = evaluate_models(models, prompts, output, limit=limit, on_error=on_error, baseline=baseline,
                              reference=reference, reward=reward, with_gold=gold, judge=judge,
                              tie_margin=tie_margin, toxicity=toxicity, chat=chat, n_samples=n_samples,
                              max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
                              precision=precision, command=typed_command())
    from rlhf_lite.evaluation.report.comparison import summary

    for line in summary(metrics):
        typer.echo(line)
    typer.echo(f"Report: {output / 'report.html'}")
