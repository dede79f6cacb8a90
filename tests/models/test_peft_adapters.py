"""Adapters of other people: sampled and scored as PEFT computes with them, or refused.

PEFT's own forward pass on a fresh copy of the model says what is right.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import (
    IA3Config,
    LNTuningConfig,
    LoHaConfig,
    LoraConfig,
    OFTConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import family, token_rows

from rlhf_lite.errors import PhaseError, RlhfLiteError
from rlhf_lite.evaluation.eval_policy import Network
from rlhf_lite.models.adapters import checksums, is_classifier, load_adapter, merged, using_adapter
from rlhf_lite.rollout.sampler import row_seeds, sample

PROMPT, ANSWER = token_rows([6, 5], seed=3)
Q = {"target_modules": ["q_proj"]}
SOME = Q | {"layers_to_transform": [3], "layers_pattern": "layers"}
LORA = {
    "plain": Q,
    "rslora": Q | {"use_rslora": True},
    "patterns": {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 2},
                 "alpha_pattern": {"v_proj": 3}},
    "some layers": SOME,
    "head": {"target_modules": ["q_proj", "lm_head"]},
    "embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "embedding, one layer": {"target_modules": ["embed_tokens", "model.layers.3.self_attn.q_proj"]},
    "own head": Q | {"modules_to_save": ["lm_head"]},
    "own embedding": SOME | {"modules_to_save": ["embed_tokens"]},
    "own norm": SOME | {"modules_to_save": ["norm"]},
    "own layer norms": SOME | {"modules_to_save": ["input_layernorm"]},
    "dora": {"target_modules": ["q_proj", "down_proj"], "use_dora": True},
    "dora on the head": {"target_modules": ["q_proj", "lm_head"], "use_dora": True},
    "lora_bias": Q | {"lora_bias": True},
    "tokens": SOME | {"trainable_token_indices": {"embed_tokens": [*range(3, 64)]}},
    "parameters": {"target_modules": [], "target_parameters": ["q_proj.weight"]},
}  # fmt: skip
OTHER = {
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "loha": LoHaConfig(r=2, alpha=4, **Q),
    "oft": OFTConfig(r=0, oft_block_size=4, **Q),
    "norms": LNTuningConfig(target_modules=["input_layernorm", "norm"]),
}  # fmt: skip
REFUSED = {
    "bias": (LoraConfig(r=2, bias="lora_only", **Q), "bias='lora_only'.* the bare model would be gone"),
    "pissa": (LoraConfig(r=2, init_lora_weights="pissa", **Q), "init_lora_weights='pissa'.* would be gone"),
    "copied layers": (LoraConfig(r=2, layer_replication=[[0, 3], [1, 4]], **Q), "layer_replication"),
    "prompt": (PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PROMPT_TUNING.* the input"),
    "prefix": (PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), "PREFIX_TUNING.* the input"),
}  # fmt: skip


def model(kind="llama", **changes):
    return family(kind, **{"tie_word_embeddings": False} | changes)


def made(folder: Path, config, base, *, seed=0) -> PeftModel:
    """An adapter as a user brings it: every trained number is far from where it began."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        peft_model = get_peft_model(base, config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator).to(parameter)
    peft_model.save_pretrained(str(folder))
    return peft_model.eval()


@torch.no_grad()
def logps(network, prompt=PROMPT, answer=ANSWER) -> float:
    logits = network(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
    return float(logits.log_softmax(-1).gather(-1, torch.tensor(answer)[:, None]).sum())


@torch.no_grad()
def greedy(network, n=8) -> list[int]:
    ids = torch.tensor([PROMPT])
    for _ in range(n):
        ids = torch.cat([ids, network(input_ids=ids).logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(PROMPT) :].tolist()


def written(causal) -> list[int]:
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": 8, "eos_token_id": 2, "pad_token_id": 0, "temperature": 0.0}
    rollout = sample(causal, ids, ids > -1, seeds=row_seeds(0, rows=1), **options)
    return rollout.response_ids[0][rollout.response_mask[0]].tolist()


def check(truth: PeftModel, network: PeftModel, name: str, bare, tolerance=1e-3) -> None:
    """Sampled, scored and switched off: all as PEFT has it, and afterwards every bit is as it was."""
    before = checksums(network)
    scores = Network(network, 0)
    assert scores.logps([PROMPT], [ANSWER], adapter=name)[0] == pytest.approx(logps(truth), abs=tolerance)
    assert scores.logps([PROMPT], [ANSWER])[0] == pytest.approx(logps(bare), abs=tolerance)
    expected = greedy(truth)
    expected = expected[: expected.index(2) + 1] if 2 in expected else expected
    with merged(network, name):
        assert written(network.get_base_model()) == expected
    with using_adapter(network, None):
        assert torch.equal(network.get_base_model()(input_ids=torch.tensor([PROMPT])).logits,
                           bare(input_ids=torch.tensor([PROMPT])).logits)  # fmt: skip
    assert checksums(network) == before


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", [*LORA, *OTHER])
def test_an_adapter_is_sampled_and_scored_as_peft_does(kind, tied, tmp_path):
    config = OTHER.get(kind) or LoraConfig(r=4, lora_alpha=8, **LORA[kind])
    truth = made(tmp_path, config, model(tie_word_embeddings=tied))
    bare = model(tie_word_embeddings=tied)
    assert abs(logps(truth) - logps(bare)) > 0.01
    network = load_adapter(model(tie_word_embeddings=tied), tmp_path, "mine").eval()
    check(truth, network, "mine", bare)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_had_is_refused_by_name(kind, tmp_path):
    config, words = REFUSED[kind]
    made(tmp_path, config, model(attention_bias=True))
    with pytest.raises(PhaseError, match=words):
        load_adapter(model(attention_bias=True), tmp_path, "mine")


def test_adapters_of_several_kinds_share_a_network(tmp_path):
    kinds = ("plain", "own head", "own embedding", "dora", "lora_bias")
    network, truths = model(), {}
    for seed, kind in enumerate(kinds):
        config = LoraConfig(r=4, lora_alpha=8, **LORA[kind])
        truths[kind] = made(tmp_path / kind, config, model(), seed=seed)
        network = load_adapter(network, tmp_path / kind, kind).eval()
    for kind, truth in truths.items():
        check(truth, network, kind, model())
    # PEFT itself cannot put these on the same network.
    for kind, config in (("ia3", OTHER["ia3"]), ("tokens", LoraConfig(r=4, **LORA["tokens"]))):
        made(tmp_path / kind, config, model())
        with pytest.raises(PhaseError, match=f"{kind} cannot be loaded as an adapter of this model"):
            load_adapter(network, tmp_path / kind, kind)


@pytest.mark.parametrize("kind", ["dora", "own head", "head"])
def test_in_bfloat16_every_bit_comes_back(kind, tmp_path):
    made(tmp_path, LoraConfig(r=4, lora_alpha=8, **LORA[kind]), model(tie_word_embeddings=True).bfloat16())
    network = load_adapter(model(tie_word_embeddings=True).bfloat16(), tmp_path, "mine").eval()
    before = checksums(network)
    with merged(network, "mine"):
        inside = network.get_base_model()(input_ids=torch.tensor([PROMPT])).logits
    with using_adapter(network, "mine"):
        outside = network(input_ids=torch.tensor([PROMPT])).logits
    torch.testing.assert_close(inside, outside, atol=0.5, rtol=0.1)
    assert checksums(network) == before


def test_an_adapter_that_does_not_fit_is_one_message(tmp_path):
    made(tmp_path, LoraConfig(r=4, **Q), model())
    with pytest.raises(PhaseError, match=r"cannot be loaded as an adapter of this model \("):
        load_adapter(family("gpt2"), tmp_path, "mine")  # nothing is called q_proj
    with pytest.raises(PhaseError, match="cannot be loaded as an adapter of this model"):
        load_adapter(model(hidden_size=64), tmp_path, "mine")
    with pytest.raises(PhaseError, match=r"does not fit this model: of .*layers.3.* and 1 other"):
        load_adapter(model(num_hidden_layers=3), tmp_path, "mine")
    tensors = load_file(str(tmp_path / "adapter_model.safetensors"))
    tensors.pop(next(key for key in tensors if "layers.2" in key))
    save_file(tensors, str(tmp_path / "adapter_model.safetensors"))
    with pytest.raises(PhaseError, match=r"does not fit this model: of .*layers.2.*q_proj"):
        load_adapter(model(), tmp_path, "mine")


def test_an_adapter_without_weights_or_with_broken_ones_is_one_message(tmp_path):
    made(tmp_path, LoraConfig(r=4, **Q), model())
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(str(file))
    first = next(iter(tensors))
    tensors[first][0, 0] = float("inf")
    save_file(tensors, str(file))
    with pytest.raises(PhaseError, match=rf"tensor {first} holds numbers that are infinite or NaN"):
        load_adapter(model(), tmp_path, "mine")
    file.unlink()
    with pytest.raises(PhaseError, match=r"has no weights: copy its adapter_model\.safetensors there"):
        load_adapter(model(), tmp_path, "mine")


def test_a_vocabulary_of_its_own_is_one_message(tmp_path):
    larger = model()
    larger.resize_token_embeddings(70)
    made(tmp_path, LoraConfig(r=4, modules_to_save=["embed_tokens", "lm_head"], **Q), larger)
    with pytest.raises(PhaseError, match="cannot be loaded as an adapter of this model"):
        load_adapter(model(), tmp_path, "mine")


def test_an_embedding_in_the_adapters_file_does_not_become_the_base_models(tmp_path):
    changed = get_peft_model(model(), LoraConfig(r=4, **Q))
    with torch.no_grad():
        changed.get_input_embeddings().weight[60] += 1
    changed.save_pretrained(str(tmp_path), save_embedding_layers=True)
    with pytest.raises(PhaseError, match=r"tensors=.*lm_head.weight.*the bare model would be gone"):
        load_adapter(model(), tmp_path, "mine")


def test_a_score_head_makes_a_reward_model(tmp_path):
    from transformers import AutoModelForSequenceClassification

    for task, score, expected in (("SEQ_CLS", True, True), (None, True, True), (None, False, False),
                                  ("CAUSAL_LM", False, False)):  # fmt: skip
        base = model()
        if score:
            base.save_pretrained(tmp_path / "base")
            base = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
        extra = {"modules_to_save": ["score"]} if score and task is None else {}
        made(tmp_path / "a", LoraConfig(r=2, task_type=task, **Q, **extra), base)
        assert json.loads((tmp_path / "a" / "adapter_config.json").read_text())["task_type"] == task
        assert is_classifier(tmp_path / "a") is expected


FAMILIES = {"llama": ["q_proj", "down_proj", "lm_head", "embed_tokens"],
            "qwen2": ["k_proj", "up_proj", "lm_head"],
            "gpt2": ["c_attn", "c_proj", "wte", "wpe"]}  # fmt: skip
PARTS = {"gpt2": ["ln_f", "wte", "lm_head"]}


@st.composite
def adapters(draw):
    kind = draw(st.sampled_from(sorted(FAMILIES)))
    targets = draw(st.lists(st.sampled_from(FAMILIES[kind]), min_size=1, unique=True))
    free = [part for part in PARTS.get(kind, ["norm", "embed_tokens", "lm_head"]) if part not in targets]
    config = {
        "r": draw(st.integers(1, 5)), "lora_alpha": draw(st.integers(1, 9)), "target_modules": targets,
        "use_rslora": draw(st.booleans()), "bias": draw(st.sampled_from(["none", "none", "none", "all"])),
        "modules_to_save": draw(st.lists(st.sampled_from(free), max_size=2, unique=True)) or None,
        "fan_in_fan_out": kind == "gpt2",
        draw(st.sampled_from(["use_dora", "lora_bias"])): draw(st.booleans()),
    }  # fmt: skip
    if draw(st.booleans()):
        config["layers_to_transform"] = draw(st.lists(st.integers(0, 3), min_size=1, unique=True))
    changes = {"tie_word_embeddings": draw(st.booleans())}
    if kind == "llama":
        changes["attention_bias"] = draw(st.booleans())
        changes["num_key_value_heads"] = draw(st.sampled_from([1, 2]))
    return kind, changes, config


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(adapters())
def test_any_adapter_is_right_or_refused(tmp_path_factory, case):
    kind, changes, config = case
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        truth = made(folder, LoraConfig(**config), model(kind, **changes))
    except (ValueError, TypeError, NotImplementedError, AttributeError):
        return  # PEFT itself does not make it
    try:
        network = load_adapter(model(kind, **changes), folder, "mine").eval()
    except RlhfLiteError:
        return
    check(truth, network, "mine", model(kind, **changes))
