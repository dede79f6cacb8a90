"""Run the phases in order, resume them, and write what a person reads afterwards."""

from __future__ import annotations

import datetime
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.config import PipelineConfig
from rlhf_lite.errors import PhaseError
from rlhf_lite.files import write_json, write_text
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import run_dpo
from rlhf_lite.pipeline.folder import ERROR_LOG, METRICS, open_run, write_settings
from rlhf_lite.pipeline.judging import run_evaluation
from rlhf_lite.pipeline.phases import check_model, run_ppo, run_reward, run_sft
from rlhf_lite.pipeline.plan import check_plan
from rlhf_lite.tracking import run_info

PHASES = ("sft", "reward", "ppo", "dpo", "evaluation")
TRAINING: dict[str, Callable[[Run], None]] = {"sft": run_sft, "reward": run_reward, "ppo": run_ppo,
                                              "dpo": run_dpo}


def planned_phases(config: PipelineConfig) -> tuple[str, ...]:
    """The phases that the chosen method needs; DPO on human pairs needs no reward model."""
    unneeded = {"ppo": {"dpo"}, "dpo": {"ppo"}, "both": set()}[config.method]
    if config.method == "dpo" and config.dpo.source == "human":
        unneeded.add("reward")
    return tuple(name for name in PHASES if name not in unneeded)


def run_pipeline(config: PipelineConfig, *, output: Path, resume: bool = False, skip: Sequence[str] = (),
                 only: Sequence[str] = (), command: str = "", visible: bool = True) -> dict[str, Any]:
    """Run the phases of the chosen method (SFT, reward model, PPO or DPO, evaluation) and write the report.

    Args:
        config: the settings; saved beside the results as ``config.yaml``.
        output: folder of the run.
        resume: continue in a folder that already holds this run: finished phases are kept, an interrupted one
            goes on after its last saved step.
        skip: phases to leave out. Without ``sft`` the reference is the untouched model.
        only: run just these phases; what they need must be in the folder already.
        command: how the run was started, for the record.
        visible: show progress.

    Returns:
        The content of ``metrics.json``.

    Raises:
        OutputError: if nothing can be written to the folder.
        ConfigError, DataError: if the data cannot be used, or a planned phase cannot be run with it.
        PhaseError: naming the phase, what went wrong and how to go on.
    """
    if unknown := [name for name in (*skip, *only) if name not in PHASES]:
        raise PhaseError(f"unknown phase {unknown[0]!r}; the phases are {', '.join(PHASES)}")
    planned = planned_phases(config)
    phases = [name for name in PHASES if name not in skip and (name in only if only else name in planned)]
    output, started = Path(output), time.monotonic()
    check_model(config.model.name, config.lora, reward="reward" in phases)
    with open_run(config, output, resume=resume, visible=visible) as run:
        run.keep_split()
        check_plan(run, phases)
        # Commit and versions of the code that runs: by the end somebody may have changed the checkout.
        info = run_info(seed=config.seed) | {"precision": run.precision}
        judged = run_phases(run, phases, TRAINING, run_evaluation)
        metrics = collect_metrics(run, judged, info=info, command=command, wall=time.monotonic() - started)
        if run.is_main:
            write_json(output / METRICS, metrics)
            if "evaluation" in phases:
                from rlhf_lite.evaluation.report.run import write_report

                with explained(run, "report"):
                    write_report(output)
    return metrics


def run_phases(run: Run, phases: Sequence[str], makers: Mapping[str, Callable[[Run], None]],
               evaluate: Callable[[Run], dict[str, Any]]) -> dict[str, Any]:
    """Run phases in their order; finished ones are checked and kept.

    Returns:
        What the phase "evaluation" found; empty without it.

    Raises:
        PhaseError: naming the phase, what went wrong and how to go on.
    """
    if run.is_main:
        write_settings(run.config, run.output)
    judged: dict[str, Any] = {}
    for phase in phases:
        with explained(run, phase):
            if phase == "evaluation":
                judged = evaluate(run)
            elif run.finished(phase):
                run.verify(phase)
            else:
                makers[phase](run)
    (run.output / ERROR_LOG).unlink(missing_ok=True)
    return judged


@contextmanager
def explained(run: Run, phase: str) -> Iterator[None]:
    """Within it, whatever goes wrong becomes a :class:`PhaseError` that says how to go on."""
    try:
        yield
    except Exception as error:
        where = f". The traceback is in {ERROR_LOG} there"
        try:
            write_text(run.output / ERROR_LOG, traceback.format_exc())
        except OSError:  # of a full disk, for example, which may be the very cause
            where = ""
        raise PhaseError(f"phase {phase} failed: {error}\nFinished phases and checkpoints are kept in "
                         f"{run.output}; mend the cause and start the same command with --resume{where}"
                         ) from error


def collect_metrics(run: Run, judged: dict[str, Any], *, info: dict[str, Any], command: str,
                    wall: float) -> dict[str, Any]:
    """What ``metrics.json`` holds: where the numbers come from, the judgements, the checks and the times.

    ``info`` is what ``run_info`` said when the run started.

    The seconds of a phase count all its parts when it was interrupted and resumed; ``total`` is their sum
    plus loading and writing in this process.
    """
    records = {phase: read_phase(run.output / phase) for phase in PHASES[:-1]}
    records = {phase: record for phase, record in records.items() if record is not None}
    seconds = {phase: record.get("seconds") for phase, record in records.items()}
    if "evaluation" in run.seconds:
        seconds["evaluation"] = run.seconds["evaluation"]
    seconds["load"] = max(0.0, wall - sum(run.seconds.values()))
    seconds["total"] = sum(value for value in seconds.values() if value is not None)
    rows = {phase: record["rows"] for phase, record in records.items() if "rows" in record} | run.rows
    if run.texts.source is not None:
        rows = {"data": run.texts.source.record()} | rows
    split = {} if run.split is None else {"split": asdict(run.split)}
    return metrics_of(info, command, **judged, **split, rows=rows, checks=checks(judged),
                      seconds={name: value and round(value, 2) for name, value in seconds.items()},
                      steps={phase: record.get("steps") for phase, record in records.items()})


def metrics_of(info: Mapping[str, Any], command: str, **content: Any) -> dict[str, Any]:
    """The content of a ``metrics.json``: where and how it was made, and then the numbers."""
    finished = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return without_nan({"schema": 1, "command": command, **info, "finished": finished, **content})


def checks(judged: dict[str, Any]) -> list[dict[str, Any]]:
    """The bar that a run is held against: what was asked, what was found, and whether it holds."""
    results: list[dict[str, Any]] = []

    def check(name: str, target: str, value: float, passed: bool) -> None:
        results.append({"name": name, "target": target, "value": value, "passed": bool(passed)})

    if "reward_model" in judged:
        accuracy, n = judged["reward_model"]["accuracy"], judged["reward_model"]["n_pairs"]
        check(f"Reward-model accuracy on {n} held-out pairs", ">= 0.85", accuracy, accuracy >= 0.85)
    for name in ("ppo", "dpo"):
        gain, title = judged.get("comparisons", {}).get(f"{name}_minus_sft"), name.upper()
        if gain is None:
            continue
        policy, reference = judged["policies"][name], judged["policies"]["reference"]
        low, kl = gain["gold_ci95"][0], policy["kl_nats_per_seq"]
        check(f"Gold reward, {title} minus SFT, lower end of the 95 % interval", "> 0", low, low > 0)
        check(f"KL of {title} from the SFT policy, nats per sequence", "<= 10", kl, kl <= 10)
        for key, words, target, lowest, highest in (
            ("distinct_2", "Variety of {}'s text: distinct-2 relative to the reference", ">= 0.7",
             0.7, math.inf),
            ("length_tokens", "Length of {}'s text relative to the reference", "0.5 to 2", 0.5, 2),
            ("perplexity_reference", "Perplexity of {}'s text under the reference, relative", "0.2 to 3",
             0.2, 3),
        ):
            ratio = (policy[key] or math.nan) / (reference[key] or math.nan)  # None: no text has enough words
            check(words.format(title), target, ratio, lowest <= ratio <= highest)
    return results


def without_nan(value: Any) -> Any:
    """JSON has no NaN: it becomes null."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
