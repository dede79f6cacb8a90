"""The command ``rlhf-lite eval``: its options, in a file of their own because there are many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf_lite.cli.common import MaxNewTokens, OnError, SampleSeed, SkipBroken, Temperature, typed_command


def compare(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...", help="a run, RUN/PHASE, a folder, a Hub id, smollm2; or NAME=MODEL"
        ),
    ],
    prompts: Annotated[
        str, typer.Option("--prompts", help="text file, .jsonl file, or reviews (unseen openings)")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the report")],
    limit: Annotated[int | None, typer.Option(min=1, help="at most this many prompts, spread evenly")] = None,
    baseline: Annotated[
        str | None, typer.Option(help="NAME that win rates are against (default: the first)")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="NAME or MODEL that KL is from (default: the first one's base model)")
    ] = None,
    reward: Annotated[
        Path | None, typer.Option(help="run or reward model whose scores are shown too")
    ] = None,
    gold: Annotated[bool, typer.Option(help="judge by a model of human ratings (reviews only)")] = True,
    judge: Annotated[
        str | None, typer.Option(help="who decides win rates: gold, vader or reward (default: gold)")
    ] = None,
    tie_margin: Annotated[
        float, typer.Option(min=0.0, help="smaller differences are ties, judge's unit")
    ] = 0.0,
    toxicity: Annotated[
        str | None, typer.Option(help="profanity-check (default), detoxify, or MODEL#LABEL")
    ] = None,
    chat: Annotated[bool, typer.Option(help="put prompts into the chat template")] = False,
    n_samples: Annotated[int, typer.Option("--n-samples", "-n", min=1, help="texts per prompt")] = 1,
    max_new_tokens: MaxNewTokens = 40,
    temperature: Temperature = 1.0,
    seed: SampleSeed = 0,
    on_error: SkipBroken = OnError.stop,
) -> None:
    """Compare policies on the same prompts and seeds; writes a report with tables, plots and samples."""
    from rlhf_lite.pipeline.compare import evaluate_models

    metrics = evaluate_models(
        models,
        prompts,
        output,
        limit=limit,
        baseline=baseline,
        reference=reference,
        reward=reward,
        with_gold=gold,
        judge=judge,
        tie_margin=tie_margin,
        toxicity=toxicity,
        chat=chat,
        n_samples=n_samples,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
        on_error=on_error.value,
        command=typed_command(),
    )
    from rlhf_lite.evaluation.report.comparison import summary

    for line in summary(metrics):
        typer.echo(line)
    typer.echo(f"Report: {output / 'report.html'}")
