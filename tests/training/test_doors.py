"""What a trainer refuses before it begins, and numbers at the edge that it must stand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer

from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.rollout.sampler import step_seed
from rlhf_lite.training.batches import minibatch_rows
from rlhf_lite.training.dpo import DPOSettings
from rlhf_lite.training.grpo import GRPOSettings
from rlhf_lite.training.pairs import JudgedAnswer, mismatched
from rlhf_lite.training.settings import Hooks, RunSettings

RUN = {"steps": 1, "batch_size": 1, "seed": 0, "hooks": Hooks(print)}


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"accumulation": 0}, {"validate_every": 0},
                                   {"steps": -1}, {"micro_batch_size": 0}])
def test_a_run_without_rows_or_steps_is_refused(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name}={value}: expected 1 or more"):
        RunSettings(**RUN | wrong, accelerator=Accelerator(cpu=True))


def test_settings_that_cannot_work_are_refused_at_the_door():
    with pytest.raises(ValueError, match="group_size must be at least 2"):
        GRPOSettings(group_size=1, max_new_tokens=3, kl_coef=0.0)
    for loss in ("sigmoid", "kto"):
        with pytest.raises(ValueError, match="nothing to learn from"):
            DPOSettings(beta=0.1, loss=loss).task([], seed=0)
    for wrong in ({"minibatches": 4}, {"minibatches": 0}, {"epochs": 0}):
        with pytest.raises(ValueError, match="3 rows cannot make"):
            next(minibatch_rows(3, **{"epochs": 1, "minibatches": 2, "seed": 0} | wrong))
    bare = byte_tokenizer()
    bare.bos_token = bare.eos_token = None
    with pytest.raises(ValueError, match="neither a start nor an end token"):
        encode_prompts(bare, ["a", ""])


def test_seeds_of_seeds_stay_within_what_torch_takes():
    assert step_seed(7, 3) == 7_000_024  # as recorded runs drew it
    for seed in (0, 20_250_101, 2**32 - 1):
        once = step_seed(seed, 999)
        assert once == seed * 1_000_003 + 999
        torch.manual_seed(step_seed(once, 999))
        torch.Generator().manual_seed(step_seed(step_seed(once, 1), 1))
    assert step_seed(step_seed(4_000_000_000, 0), 0) != step_seed(step_seed(4_000_000_000, 0), 1)


def slowly(answers, *, seed):
    """The definition: in a random circle, the completion of the next answer whose prompt is another."""
    n = len(answers)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    found = {}
    for place, row in enumerate(order):
        ahead = [order[(place + k) % n] for k in range(1, n)] or [row]
        other = [i for i in ahead if answers[i].prompt_ids != answers[row].prompt_ids]
        found[row] = answers[(other or ahead)[0]].completion_ids
    return [found[row] for row in range(n)]


@pytest.mark.parametrize("prompts", [1, 2, 3, 7])
@pytest.mark.parametrize("n", [1, 2, 9, 40])
def test_the_partners_are_those_of_the_definition(prompts, n):
    answers = [JudgedAnswer([i * i % prompts], [i], True) for i in range(n)]
    for seed in range(4):
        assert [e.completion for e in mismatched(answers, seed=seed)] == slowly(answers, seed=seed)


def test_partners_of_many_answers_to_few_prompts_are_found_in_linear_time():
    """Nearly all answers belong to one prompt: looking ahead from each took the square of their number."""
    compared = []

    class Prompt(list):
        def __eq__(self, other):
            compared.append(1)
            return list.__eq__(self, other)

        __hash__ = None

    answers = [JudgedAnswer(Prompt([int(i == 0)]), [i], True) for i in range(500)]
    assert len(mismatched(answers, seed=0)) == len(answers)
    assert len(compared) <= 2 * len(answers)
