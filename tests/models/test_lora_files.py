"""Files of adapters: complete, checked before anything changes, and clear about what is not supported.

That PEFT reads and writes the same files is tested in tests/parity/test_peft.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import family, llama, token_rows

from rlhf_lite.models.lora.files import CONFIG_FILE, TENSOR_FILE, load_lora, save_lora
from rlhf_lite.models.lora.layer import LoRALinear, LoRASpec
from rlhf_lite.models.lora.model import add_lora, lora_layers, lora_parameters, set_adapter

IDS = torch.tensor(token_rows([8, 8]))
SHAPE = {"rank": 4, "alpha": 8.0}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def adapted(model=None, **options):
    model = add_lora(llama() if model is None else model, **SHAPE | {"target_modules": ["q_proj"]} | options)
    generator = torch.Generator().manual_seed(0)
    for parameter in lora_parameters(model, options.get("name", "default")):
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return model


@pytest.fixture
def folder(tmp_path) -> Path:
    save_lora(adapted(), tmp_path / "adapter", base="the/base")
    return tmp_path / "adapter"


def settings(folder: Path, **changes) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def tensors(folder: Path, change) -> None:
    found = load_file(str(folder / TENSOR_FILE))
    change(found)
    save_file(found, str(folder / TENSOR_FILE))


KEY = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"rslora": True, "dropout": 0.25, "top_layers": 2}])
def test_what_is_saved_is_loaded(tmp_path, kind, options):
    targets = ["c_attn", "wte"] if kind == "gpt2" else ["q_proj", "embed_tokens"]
    model = adapted(family(kind), target_modules=targets, **options)
    save_lora(model, tmp_path / "a", base="b")
    loaded = load_lora(family(kind), tmp_path / "a", "other", trainable=True)
    assert torch.equal(logits(loaded), logits(model))
    layers = lora_layers(model)
    assert {path: layer.specs["other"] for path, layer in lora_layers(loaded).items()} == {
        path: layer.specs["default"] for path, layer in layers.items()
    }
    trainable = {id(p) for p in loaded.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in lora_parameters(loaded)}
    frozen = load_lora(loaded, tmp_path / "a", "third")
    assert not any(p.requires_grad for p in frozen.parameters())
    assert torch.equal(logits(frozen), logits(model))
    set_adapter(frozen, None)
    assert torch.equal(logits(frozen), logits(family(kind)))


def test_layers_with_ranks_and_scales_of_their_own(tmp_path):
    model = adapted()
    layer = next(iter(lora_layers(model).values()))
    layer.A["default"].data = layer.A["default"].data[:2].clone()
    layer.B["default"].data = layer.B["default"].data[:, :2].clone()
    layer.specs["default"] = LoRASpec(rank=2, alpha=5.0)
    save_lora(model, tmp_path / "a", base="b")
    config = json.loads((tmp_path / "a" / CONFIG_FILE).read_text())
    path = "model.layers.0.self_attn.q_proj"
    assert (config["rank_pattern"], config["alpha_pattern"]) == ({path: 2}, {path: 5.0})
    assert torch.equal(logits(load_lora(llama(), tmp_path / "a")), logits(model))
    layer.specs["default"] = LoRASpec(rank=2, alpha=5.0, rslora=True)
    with pytest.raises(ValueError, match="kinds of scaling"):
        save_lora(model, tmp_path / "b", base="b")


def test_the_files(folder):
    assert {p.name for p in folder.iterdir()} == {CONFIG_FILE, TENSOR_FILE}
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == "the/base"
    assert config["target_modules"] == [f"model.layers.{i}.self_attn.q_proj" for i in range(4)]
    found = load_file(str(folder / TENSOR_FILE))
    assert set(found) == {KEY.replace(".1.", f".{i}.").format(half) for i in range(4) for half in "AB"}
    layer = lora_layers(adapted())["model.layers.1.self_attn.q_proj"]
    assert torch.equal(found[KEY.format("A")], layer.A["default"])


def test_saving_replaces_the_whole_adapter_or_nothing(folder, monkeypatch):
    before = (folder / TENSOR_FILE).read_bytes()
    model = adapted(top_layers=1)

    def fails(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr("rlhf_lite.models.lora.files.write_json", fails)
        with pytest.raises(OSError, match="disk full"):
            save_lora(model, folder, base="b")
    assert (folder / TENSOR_FILE).read_bytes() == before
    assert [p.name for p in folder.parent.iterdir()] == ["adapter"]
    save_lora(model, folder, base="b")
    assert torch.equal(logits(load_lora(llama(), folder)), logits(model))


def test_saving_does_not_sweep_other_files_away(folder):
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"notes\.txt"):
        save_lora(adapted(), folder, base="b")
    assert (folder / "notes.txt").read_text() == "mine"


def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(folder):
    model = adapted()
    next(iter(lora_layers(model).values())).B["default"].data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"not finite, first in .*layers\.0\..*lora_B"):
        save_lora(model, folder, base="b")
    tensors(folder, lambda found: found[KEY.format("A")].fill_(torch.inf))
    with pytest.raises(ValueError, match=r"layers\.1\..*lora_A.* not finite"):
        load_lora(llama(), folder)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("use_dora", True),
        ("bias", "lora_only"),
        ("lora_bias", True),
        ("modules_to_save", ["lm_head"]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "olora"),
        ("peft_type", "IA3"),
        ("layer_replication", [[0, 2]]),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["experts"]),
        ("use_qalora", True),
        ("ensure_weight_tying", True),
        ("some_field_of_a_later_version", "on"),
    ],
)
def test_what_changes_the_numbers_and_is_not_supported_is_named(folder, field, value):
    settings(folder, **{field: value})
    with pytest.raises(ValueError, match=rf"not supported here: {field}=.*Load it with peft"):
        load_lora(llama(), folder)


@pytest.mark.parametrize(
    "harmless",
    [
        {"some_field_of_a_later_version": None, "another": False, "third": {}},
        {"init_lora_weights": "gaussian", "peft_version": "9.9", "task_type": "SEQ_CLS", "revision": "main"},
    ],
)
def test_what_changes_no_number_is_accepted(folder, harmless):
    settings(folder, **harmless)
    assert torch.equal(logits(load_lora(llama(), folder)), logits(adapted()))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: tensors(f, lambda t: t.pop(KEY.format("A"))), r"lacks 1 tensors, first .*\.1\..*lora_A"),
        (lambda f: tensors(f, lambda t: t.update(more=torch.ones(1))), r"1 tensors too many, first more"),
        (
            lambda f: tensors(f, lambda t: t.update({KEY.format("B"): torch.ones(32, 3)})),
            r"lora_B.* has shape \(32, 3\), and this model needs \(32, 4\)",
        ),
        (lambda f: settings(f, r=3), r"lora_A.* has shape \(4, 32\), and this model needs \(3, 32\)"),
        (lambda f: settings(f, target_modules=["nothing"]), "adapts no layer"),
        (lambda f: settings(f, target_modules=["q_proj", "v_proj"]), r"lacks 8 tensors"),
        (lambda f: settings(f, target_modules=["q_proj"], layers_to_transform=[2]), r"6 tensors too many"),
        (lambda f: (f / TENSOR_FILE).write_bytes(b"nonsense"), "cannot be read"),
        (lambda f: (f / CONFIG_FILE).write_text("nonsense"), "cannot be read"),
        (lambda f: (f / CONFIG_FILE).write_text('{"target_modules": ["q_proj"]}'), "no field 'r'"),
    ],
)
def test_files_that_do_not_fit_are_errors_and_change_nothing(folder, damage, message):
    damage(folder)
    model = llama()
    with pytest.raises(ValueError, match=message):
        load_lora(model, folder)
    assert not lora_layers(model)


def test_a_model_of_another_size_is_an_error(folder):
    with pytest.raises(ValueError, match=r"needs \(4, 16\)"):
        load_lora(llama(hidden_size=16), folder)


def test_missing_files_are_errors(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=CONFIG_FILE):
        load_lora(llama(), tmp_path)
    (folder / TENSOR_FILE).rename(folder / "adapter_model.bin")  # pickled: not read
    with pytest.raises(FileNotFoundError, match=TENSOR_FILE):
        load_lora(llama(), folder)
    save_lora(adapted(), tmp_path / "other", base="b")
    with pytest.raises(ValueError, match="'default' already"):
        load_lora(adapted(), tmp_path / "other")


def test_weights_of_the_base_must_be_the_models(tmp_path):
    model = adapted(target_modules=["embed_tokens"])
    save_lora(model, tmp_path / "a", base="b")
    key = "base_model.model.model.embed_tokens.base_layer.weight"
    weight = llama().model.embed_tokens.weight.data
    tensors(tmp_path / "a", lambda t: t.update({key: weight.clone()}))
    assert torch.equal(logits(load_lora(llama(), tmp_path / "a")), logits(model))
    with pytest.raises(ValueError, match=r"own weights for model\.embed_tokens"):
        load_lora(llama(seed=1), tmp_path / "a")


def test_only_linear_layers_have_names_with_weight(tmp_path):
    model = adapted(target_modules=["q_proj", "embed_tokens"])
    save_lora(model, tmp_path / "a", base="b")
    for key in load_file(str(tmp_path / "a" / TENSOR_FILE)):
        path = key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0]
        assert key.endswith(".weight") == isinstance(lora_layers(model)[path], LoRALinear)
