"""What a phase needed in memory goes when it ends: models, optimisers, and all that hangs on them."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import run_dpo
from rlhf_lite.pipeline.judging import run_evaluation
from rlhf_lite.pipeline.phases import run_ppo, run_reward, run_sft


def whole_models() -> int:
    """Models with a head in this process."""
    gc.collect()
    kinds, ends = map(type, gc.get_objects()), ("ForCausalLM", "ForSequenceClassification")
    return sum(issubclass(kind, PreTrainedModel) and kind.__name__.endswith(ends) for kind in kinds)


@pytest.mark.slow
def test_a_finished_phase_leaves_no_model_behind(settings: Callable, tmp_path: Path) -> None:
    config = settings({"dpo.source": "policy", "dpo.pairs": 8, "dpo.batch_size": 4})
    run = Run(config, tmp_path, visible=False)
    before = whole_models()
    for phase in (run_sft, run_reward, run_ppo, run_dpo, run_evaluation):
        phase(run)
        assert whole_models() == before, phase.__name__
    run.policy.model.eval()  # what a notebook asks for stays
    assert whole_models() == before + 1
    assert run.policy is run.policy
