"""Constitutional AI as a run: revise, learn the revisions, ask for preferences, learn those by DPO, judge.

Source: Bai et al. 2022 (arXiv:2212.08073). Differences: DPO (Rafailov et al. 2023) stands where the paper
trains a preference model and then PPO; no human preferences for helpfulness are mixed in; and the prompts are
lines of a thread instead of dialogues.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.files import write_json
from rlhf_lite.pipeline.cai.config import CAIConfig
from rlhf_lite.pipeline.cai.phases import dpo_phase, evaluation_phase, feedback_phase, revise_phase, sft_phase
from rlhf_lite.pipeline.cai.report import write_report
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.run import metrics_of, prepare_folder, run_phases
from rlhf_lite.tracking import run_info

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
    prepare_folder(config, output, resume=resume)
    run, info = Run(config, output, visible=visible), run_info(seed=config.seed)
    judged = run_phases(run, CAI_PHASES, CAI_TRAINING, evaluation_phase)
    records = {phase: read_phase(output / phase) or {} for phase in CAI_PHASES[:-1]}
    seconds = {phase: record.get("seconds") for phase, record in records.items()} | run.seconds
    metrics = metrics_of(
        info, command,
        settings=config.model_dump(mode="json", exclude={"output", "checkpoint"}),
        rounds=json.loads((output / "revise" / "rounds.json").read_text(encoding="utf-8")),
        feedback=json.loads((output / "feedback" / "stats.json").read_text(encoding="utf-8")),
        **judged,
        counts={"chains": records["revise"].get("chains"), "sft_examples": records["sft"].get("examples"),
                "dpo_pairs": records["dpo"].get("pairs")},
        seconds={name: value and round(value, 1) for name, value in seconds.items()},
    )
    write_json(output / "metrics.json", metrics)
    write_report(output, metrics, shown=config.evaluation.samples_shown)
    run.log.close()
    return metrics
