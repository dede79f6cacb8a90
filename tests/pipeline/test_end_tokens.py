"""A model with a start token and two end tokens is read and ended as transformers does, at every door."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base, start_tokenizer

from rlhf_lite.constitutional import PolicyWriter
from rlhf_lite.evaluation.answers import measure
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.evaluation.readiness.check import sample_pool
from rlhf_lite.models.policy import end_tokens, load_policy
from rlhf_lite.pipeline import generate_text, phases, run_pipeline
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import policy_pairs
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.training.policy_gradient import collect
from rlhf_lite.training.ppo import PPO, PPOSettings

PROMPT = "The film"


def written(folder: Path, **options) -> list[int]:
    """What transformers' own generate writes, greedily, after what the tokenizer makes of the text."""
    tokenizer, model = start_tokenizer(), AutoModelForCausalLM.from_pretrained(folder)
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    return model.generate(ids, do_sample=False, max_new_tokens=12, **options)[0, ids.shape[1] :].tolist()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model whose generation settings name, besides the tokenizer's, its own fourth word as an end."""
    folder = save_base(tmp_path_factory.mktemp("chat"), seed=5, tokenizer=start_tokenizer())
    free, end = written(folder), start_tokenizer().eos_token_id
    assert end not in free and free.index(free[3]) == 3, "choose another seed: the fourth word came before"
    GenerationConfig(eos_token_id=[end, free[3]], pad_token_id=end).save_pretrained(folder)
    return folder


def test_generate_writes_what_transformers_writes(folder):
    expected = written(folder)
    assert len(expected) == 4
    options = {"max_new_tokens": 12, "temperature": 0.0, "samples": 1, "seed": 0, "precision": "fp32"}
    assert generate_text(str(folder), PROMPT, **options) == [PROMPT + start_tokenizer().decode(expected)]


def test_every_other_door_ends_there_too(folder):
    policy = load_policy(str(folder), precision="fp32")
    ends, text = end_tokens(policy.model, policy.tokenizer), policy.tokenizer.decode(written(folder))
    assert len(ends) == 2
    writer = PolicyWriter(policy).write([PROMPT], max_new_tokens=12, seed=0, temperature=0)
    assert writer == [text.strip()]
    (pool,) = sample_pool(policy.model, policy.tokenizer, [PROMPT], n=2, max_new_tokens=12, temperature=0)
    assert pool == [PROMPT + text] * 2
    seen = []

    def reward(batch):
        seen.append(batch)
        return torch.arange(len(batch)).float()

    best = EvalPolicy("best", policy.model, policy.tokenizer, best_of=2)
    judges = Judges(reference=EvalPolicy("base", policy.model, policy.tokenizer), reward=reward)
    answers = measure(best, [PROMPT, "A"], judges, max_new_tokens=12, temperature=0.01, seed=0)
    assert answers.ended[0] and len(answers.ids[0]) == 4
    for batch in seen:
        # No end is text, whichever it is; a reward that reads texts sees no special token.
        assert not torch.isin(batch.ids[batch.text_mask & batch.response_mask], torch.tensor(ends)).any()
        assert batch.prompts[0] == PROMPT and "<start>" not in "".join(batch.texts)


def test_the_phases_of_a_run_end_there_too(folder, settings, tmp_path):
    config = settings({"model.name": str(folder), "sft.steps": 1, "ppo.steps": 1, "reward.pairs": 4,
                       "dpo.source": "policy", "dpo.max_new_tokens": 12})
    run_pipeline(config, output=tmp_path, only=["sft", "reward"], visible=False)
    run = Run(config, tmp_path, visible=False)
    setup, policy = phases.build_ppo_setup(run, trained=False), load_policy(str(folder), precision="fp32")
    ends = end_tokens(policy.model, policy.tokenizer)
    assert setup.training.eos_token_id == ends
    adapters = phases.build_adapter_policies(run, policy, trained=False)
    prompts = run.texts.ppo_prompts[:40]
    pairs, texts = policy_pairs(run, policy, adapters, prompts)
    # The readiness check looks at other texts than those that DPO learns from.
    with adapters.sampling(adapters.reference)() as model:
        pool = sample_pool(model, policy.tokenizer, prompts, n=config.dpo.candidates, max_new_tokens=12)
    assert not {pair.prompt + pair.chosen for pair in texts} & {text for group in pool for text in group}
    answers = [ids for pair in pairs for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert all(token not in ends for ids in answers for token in ids[:-1])
    assert {ids[-1] for ids in answers} & set(ends[1:])  # some ended at the second one
    start = start_tokenizer().bos_token_id
    assert all(pair.prompt_ids[0] == start and pair.prompt_ids.count(start) == 1 for pair in pairs)
    assert isinstance(setup.training.decode([[start, *answers[0]]])[0], str)
    batch, _ = collect(PPO(PPOSettings(max_new_tokens=12, kl_coef=0.1)), setup.training,
                       [pair.prompt_ids for pair in pairs], seeds=row_seeds(0, rows=len(pairs)))
    assert not torch.isin(batch.ids[:, :-1][batch.response_mask[:, 1:]], torch.tensor(ends)).any()


def test_end_tokens_are_the_tokenizers_and_the_models(folder):
    model, tokenizer, _ = load_policy(str(folder), precision="fp32")
    end, other = end_tokens(model, tokenizer)
    cases = ((other, [end, other]), ([other, end], [end, other]), (None, [end]), (end, [end]))
    for listed, expected in cases:
        model.generation_config.eos_token_id = listed
        assert end_tokens(model, tokenizer) == expected
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    assert end_tokens(model, tokenizer) == []
    ids = torch.tensor([[1, 2]])
    free = sample(model, ids, torch.ones_like(ids, dtype=torch.bool), max_new_tokens=3, eos_token_id=None,
                  pad_token_id=0, seeds=[0])
    assert not free.ended.any()
