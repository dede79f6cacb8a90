"""The package's own DPO trainer on the tiny transformer, with sampled verdicts instead of infinite data."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate import Accelerator

from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.lab import World, pretrained_world, sequence_probs
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.pipeline.lab.policies import SAME_OPTIMUM, Recorder
from rlhf_lite.pipeline.lab.results import LabResult, OnPoint, result
from rlhf_lite.training.dpo import DPOSettings, train_dpo
from rlhf_lite.training.settings import Hooks, OptimiserSettings, RunSettings, split
from rlhf_lite.training.setup import frozen_reference

DPO_TRAINER = "dpo_transformer"


def sampled_pairs(world: World, n: int, *, sharpness: float, seed: int) -> list[EncodedPair]:
    """Preferences as people would give them: two draws from the reference, one Bradley-Terry verdict.

    Args:
        world: prompts take turns; strengths are its rewards times ``sharpness``.
        n: number of pairs.
        sharpness: higher for more decided raters.
        seed: of draws and verdicts.
    """
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.arange(n) % len(world.prompts)
    first, second = torch.multinomial(world.reference[prompts], 2, True, generator=generator).unbind(1)
    gaps = world.rewards[prompts, first] - world.rewards[prompts, second]
    chances = torch.sigmoid(sharpness * gaps)
    swapped = torch.rand(n, generator=generator, dtype=torch.float64) >= chances
    chosen, rejected = torch.where(swapped, second, first), torch.where(swapped, first, second)
    rows = zip(
        prompts.tolist(), world.sequences[chosen].tolist(), world.sequences[rejected].tolist(), strict=True
    )
    return [EncodedPair(list(world.prompts[p]), good, bad) for p, good, bad in rows]


def run_dpo_trainer(
    world: World,
    *,
    seed: int,
    steps: int,
    rows: int,
    learning_rate: float,
    evaluate_every: int,
    on_point: OnPoint | None = None,
    sharpness: float = 10.0,
    pretraining_steps: int = 150,
    **changes: Any,
) -> LabResult:
    """Train the tiny transformer with the package's DPO trainer on sampled verdicts, each pair seen once.

    Unlike the table in ``preferences`` this has noise: a verdict is one bit. With rewards between 0 and 1
    most verdicts would be close to a coin flip, so the raters are made more decided, and β grows by the same
    factor: π ∝ π_ref exp(c r / (c β)) is the same optimum.

    Args:
        world: as in :func:`run_policy`.
        seed: of pre-training, pairs and order.
        steps: optimiser steps.
        rows: completions per step, so twice the number of pairs.
        learning_rate: peak.
        evaluate_every: steps between exact measurements.
        on_point: called with every point of the curve as it is measured, for progress displays.
        sharpness: the factor c.
        pretraining_steps: of the reference.
        **changes: other arguments of the trainer.
    """
    model, world = pretrained_world(world, seed=seed, steps=pretraining_steps)
    model.get_input_embeddings().requires_grad_(False)  # this trainer stores what lies below its top layers
    settings = {
        "loss": "sigmoid",
        "accumulation": 1,
        "warmup_steps": 0,
        "max_grad_norm": 1.0,
        "learning_rate": learning_rate,
        "steps": steps,
        "batch_size": rows // 2,
    } | changes
    pairs = sampled_pairs(world, steps * settings["batch_size"], sharpness=sharpness, seed=seed)
    recorder = Recorder(model, world, every=evaluate_every, last=steps, on_point=on_point)
    started = time.perf_counter()
    given = settings | {
        "beta": sharpness * world.beta,
        "cache_megabytes": 0,
        "seed": seed,
        "accelerator": Accelerator(cpu=True),
        "hooks": Hooks(recorder.on_step),
    }
    dpo, optimiser, run = split(given, DPOSettings, OptimiserSettings, RunSettings)
    train_dpo(
        PolicyScorer(model, top_layers=None),
        pairs,
        dpo,
        reference=frozen_reference(model),
        pad_token_id=0,
        optimiser=optimiser,
        run=run,
    )
    return result(
        world,
        sequence_probs(model, world),
        algorithm=DPO_TRAINER,
        policy="transformer",
        seed=seed,
        aims_at=SAME_OPTIMUM,
        target=world.optimum,
        seconds=time.perf_counter() - started,
        curve=recorder.curve,
        settings=settings
        | {
            "rows": rows,
            "pairs": len(pairs),
            "sharpness": sharpness,
            "loss_beta": sharpness * world.beta,
            "pretraining_steps": pretraining_steps,
        },
    )
