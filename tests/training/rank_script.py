"""What test_ranks.py runs: small trainings, once in one process and once in several.

    accelerate launch --multi_gpu --num_processes 2 rank_script.py BASE_FOLDER OUTPUT.json

``--multi_gpu`` is accelerate's name for torchrun on one machine; without a GPU the processes talk over gloo.
(``accelerate launch --cpu --num_processes 2`` starts one process only, unless there is an MPI.)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
import test_grpo
import test_ppo
from runners import (
    PREFERENCES,
    Recorder,
    accelerator,
    bare,
    new_reward,
    new_scorer,
    records,
    run_dpo,
    run_reward,
    run_sft,
    weights,
)

from rlhf_lite.errors import NonFiniteError
from rlhf_lite.training.step import Optimisation

Job = tuple[list[dict[str, float]], nn.Module]


def sft(**options) -> Job:
    scorer = new_scorer()
    return run_sft(scorer, **options).lines, scorer


def dpo(**options) -> Job:
    scorer = new_scorer()
    return run_dpo(scorer, reference=bare(scorer), **options).lines, scorer


def reward(base: str, **options) -> Job:
    model = new_reward(base)
    return run_reward(model, **options).lines, model


def policy_gradient(module, **options) -> Job:
    parts, recorder = module.new_setup(), Recorder()
    module.train(parts, hooks=recorder.hooks, **options)
    return recorder.lines, parts.scorer


def jobs(base: str) -> dict[str, Callable[[], Job]]:
    """A batch of three rows is cut unevenly by two processes; of a batch of one, the second gets nothing."""
    return {
        "sft": lambda: sft(batch_size=3, accumulation=2),
        "sft, one row": lambda: sft(batch_size=1),
        "reward": lambda: reward(base, batch_size=3),
        "reward, one row": lambda: reward(base, batch_size=1, pairs=PREFERENCES[:4]),
        "dpo": lambda: dpo(batch_size=3, accumulation=2),
        "dpo, one row": lambda: dpo(batch_size=1),
        "kto": lambda: dpo(batch_size=3, loss="kto"),
        "ppo": lambda: policy_gradient(test_ppo, steps=2),
        "grpo": lambda: policy_gradient(test_grpo, steps=2),
    }


def stops_everywhere() -> int:
    """How many processes stop when the loss of the last one is NaN."""
    scorer, main = new_scorer(), accelerator()
    options = {"steps": 1, "batch_size": 1, "seed": 0, "learning_rate": 0.1}
    optimisation = Optimisation(scorer, *records(Recorder(), options))
    loss = sum(p.sum() for p in scorer.parameters() if p.requires_grad)
    last = main.process_index == main.num_processes - 1
    try:
        optimisation.backward(loss * (float("nan") if last else 1.0))
        optimisation.step()
        stopped = 0.0
    except NonFiniteError:
        stopped = 1.0
    return int(main.reduce(torch.tensor(stopped), "sum"))


def run_all(base: str) -> dict[str, object]:
    """Metrics and final weights of every job, as plain lists; and whether all processes hold the same."""
    found: dict[str, object] = {"processes": accelerator().num_processes, "stopped": stops_everywhere()}
    for name, job in jobs(base).items():
        lines, module = job()
        flat = torch.cat([w.flatten() for w in weights(module).values()])
        apart = accelerator().gather(flat.unsqueeze(0)) - flat
        lines = [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]
        found[name] = {"lines": lines, "weights": flat.tolist(), "apart": float(apart.abs().max())}
    return found


if __name__ == "__main__":
    result = run_all(sys.argv[1])
    if accelerator().is_main_process:
        Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")
