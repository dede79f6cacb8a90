"""Adapters written here load in PEFT and the reverse, with the same logits, gradients and merged weights."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import family, token_rows

from rlhf_lite.models import adapters
from rlhf_lite.models.lora.files import TENSOR_FILE, load_lora, save_lora
from rlhf_lite.models.lora.model import add_lora, lora_layers, lora_parameters, merged

IDS = torch.tensor(token_rows([8, 8]))
pytestmark = [
    # PEFT looks for the base model's settings (there are none), and warns of tied embeddings.
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::FutureWarning:transformers"),
]


def fill(named) -> None:
    """Make every part of an adapter random, the same for the same order."""
    generator = torch.Generator().manual_seed(1)
    for parameter in named:
        parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.2).to(parameter.dtype)


def gradients(model, parameters) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(input_ids=IDS).logits.float()
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    return logits, list(torch.autograd.grad((logits * weights).sum(), parameters))


def peft_parameters(model: PeftModel) -> dict[str, torch.nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if "lora_" in name}


def in_pefts_order(ours, theirs: PeftModel, name: str) -> list[torch.nn.Parameter]:
    """Our A or B for each of PEFT's parameters."""
    layers = lora_layers(ours)
    found = []
    for key in peft_parameters(theirs):
        path, _, rest = key.removeprefix("base_model.model.").partition(".lora_")
        half = "A" if "A" in rest.split(".")[0] else "B"
        found.append(getattr(layers[path], half)[name])
    return found


def assert_same(ours, theirs: PeftModel, *, name: str = "default", exact: bool = True) -> None:
    """The same logits, and the same gradient of every A and B."""
    for p in [*lora_parameters(ours, name), *peft_parameters(theirs).values()]:
        p.requires_grad_(True)
    logits, mine = gradients(ours, in_pefts_order(ours, theirs, name))
    wanted, other = gradients(theirs, list(peft_parameters(theirs).values()))
    assert len(mine) == len(lora_parameters(ours, name)) > 0
    tolerance = {"atol": 0.0, "rtol": 0.0} if exact else {}
    torch.testing.assert_close(logits, wanted, **tolerance)
    for a, b in zip(mine, other, strict=True):
        torch.testing.assert_close(a, b, **tolerance)
    assert all(g.any() for g in mine)


TARGETS = {
    "llama": ["q_proj", "down_proj", "embed_tokens"],
    "qwen2": "all-linear",
    "gpt2": ["c_attn", "c_proj", "wte"],
    "gpt_neox": "all-linear",
    "gemma2": "all-linear",
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", TARGETS)
def test_ours_loads_in_peft(kind, dtype, tmp_path):
    model = add_lora(
        family(kind).to(dtype), rank=4, alpha=6.0, rslora=kind == "gpt2", target_modules=TARGETS[kind],
        top_layers=2, dropout=0.1,
    ).eval()  # fmt: skip
    fill(lora_parameters(model))
    save_lora(model, tmp_path / "adapter", base=str(tmp_path))
    theirs = PeftModel.from_pretrained(family(kind).to(dtype), str(tmp_path / "adapter")).eval()
    assert_same(model, theirs)
    production = adapters.load_adapter(family(kind).to(dtype), tmp_path / "adapter", "policy").eval()
    with torch.no_grad():
        assert torch.equal(production(input_ids=IDS).logits, model(input_ids=IDS).logits)


# Each is a way to say which layers, or how strong, that PEFT writes into its settings.
CONFIGS = {
    "plain": {"target_modules": ["q_proj", "v_proj"]},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [1, 3], "layers_pattern": "layers"},
    "one layer, no pattern": {"target_modules": ["q_proj"], "layers_to_transform": 2},
    "all linear": {"target_modules": "all-linear"},
    "a regular expression": {"target_modules": r".*\.[02]\.(self_attn\.q_proj|mlp\.up_proj)"},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    "excluded by expression": {"target_modules": ["q_proj"], "exclude_modules": r".*layers\.0\..*"},
    "embedding": {"target_modules": ["embed_tokens", "o_proj"]},
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "rank-stabilised": {"target_modules": ["q_proj"], "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "v_proj", "up_proj"],
        "rank_pattern": {"q_proj": 2, r"layers\.[01]\.mlp\.up_proj": 6},
        "alpha_pattern": {"v_proj": 11, r"^model.layers.3.self_attn.q_proj": 5},
        "use_rslora": True,
    },
    "gaussian start": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("which", CONFIGS)
def test_pefts_loads_here(which, dtype, tmp_path):
    config = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=6, lora_dropout=0.1, **CONFIGS[which])
    options = {"tie_word_embeddings": which != "head"}
    theirs = get_peft_model(family("llama", **options).to(dtype), config).eval()
    fill(peft_parameters(theirs).values())
    theirs.save_pretrained(str(tmp_path))
    ours = load_lora(family("llama", **options).to(dtype), tmp_path).eval()
    assert_same(ours, theirs)
    save_lora(ours, tmp_path / "again", base="b")
    first, again = (load_file(str(folder / TENSOR_FILE)) for folder in (tmp_path, tmp_path / "again"))
    own = {key: tensor for key, tensor in first.items() if ".lora_" in key}
    assert own.keys() == again.keys() and all(torch.equal(own[key], again[key]) for key in own)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_pefts_of_other_families_load_here(kind, tmp_path):
    model = family(kind)
    theirs = adapters.add_adapter(
        model, adapters.lora_config(model, rank=4, alpha=8.0, dropout=0.0, top_layers=3), "policy", seed=0
    ).eval()
    fill(peft_parameters(theirs).values())
    adapters.save_adapter(theirs, tmp_path, "policy", base="b")
    assert_same(load_lora(family(kind), tmp_path).eval(), theirs)


def test_half_precision_files_load_alike(tmp_path):
    model = add_lora(family("llama"), rank=4, alpha=8.0).eval()
    fill(lora_parameters(model))
    save_lora(model, tmp_path / "a", base="b")
    path = tmp_path / "a" / TENSOR_FILE
    halved = {key: tensor.to(torch.bfloat16) for key, tensor in load_file(str(path)).items()}
    save_file(halved, str(path), metadata={"format": "pt"})
    ours = load_lora(family("llama"), tmp_path / "a").eval()
    theirs = PeftModel.from_pretrained(family("llama"), str(tmp_path / "a")).eval()
    assert_same(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_merged_weights_agree(kind, dtype, tmp_path):
    """Ours, our merge through PEFT, and PEFT's own, which rounds the update first in bfloat16."""
    ours = add_lora(family(kind).to(dtype), rank=4, alpha=8.0).eval()
    fill(lora_parameters(ours))
    save_lora(ours, tmp_path / "a", base="b")
    theirs = adapters.load_adapter(family(kind).to(dtype), tmp_path / "a", "policy").eval()
    with merged(ours, "default"), adapters.merged(theirs, "policy"):
        mine = {path: layer.weight.clone() for path, layer in lora_layers(ours).items()}
        production = {
            path: theirs.get_base_model().get_submodule(path).get_base_layer().weight.clone() for path in mine
        }
    assert all(torch.equal(mine[path], production[path]) for path in mine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = PeftModel.from_pretrained(family(kind).to(dtype), str(tmp_path / "a")).merge_and_unload()
    tolerance = 1e-6 if dtype == torch.float32 else 0.02
    for path, weight in mine.items():
        torch.testing.assert_close(weight, plain.get_submodule(path).weight, atol=tolerance, rtol=tolerance)


def test_the_same_dropout(tmp_path):
    ours = add_lora(family("llama"), rank=4, alpha=8.0, dropout=0.4)
    fill(lora_parameters(ours))
    save_lora(ours, tmp_path / "a", base="b")
    theirs = PeftModel.from_pretrained(family("llama"), str(tmp_path / "a"))
    found = []
    for model, training in ((ours, True), (theirs, True), (ours, False)):
        model.train(training)
        torch.manual_seed(0)
        with torch.no_grad():
            found.append(model(input_ids=IDS).logits)
    assert torch.equal(found[0], found[1]) and not torch.allclose(found[0], found[2], atol=0.05)


def test_the_same_steps_of_training(tmp_path):
    """Five steps of AdamW from the same start: the same adapter."""
    ours = add_lora(family("llama"), rank=4, alpha=8.0, seed=3)
    save_lora(ours, tmp_path / "a", base="b")
    theirs = PeftModel.from_pretrained(family("llama"), str(tmp_path / "a"), is_trainable=True)
    ours_all = in_pefts_order(ours, theirs, "default")
    losses = []
    for model, parameters in ((ours, ours_all), (theirs, list(peft_parameters(theirs).values()))):
        optimiser = torch.optim.AdamW(parameters, lr=0.01)
        for _ in range(5):
            loss = model(input_ids=IDS, labels=IDS).loss
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(loss.item())
    assert losses[:5] == pytest.approx(losses[5:], rel=1e-5) and losses[4] < losses[0]
    for mine, other in zip(ours_all, peft_parameters(theirs).values(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)
