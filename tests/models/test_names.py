"""A model is found where it is, and never replaced by another one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import save_base

from rlhf_lite.data.assets.ensure import MODEL
from rlhf_lite.errors import PhaseError
from rlhf_lite.models import names
from rlhf_lite.models.names import base_of, loading, resolve_model
from rlhf_lite.models.policy import load_policy, load_tokenizer


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A project with a model; the current folder is another one."""
    (tmp_path / "project" / "models" / "llama").mkdir(parents=True)
    (tmp_path / "project" / "models" / "llama" / "config.json").write_text("{}")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def adapter(folder: Path, base: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {} if base is ... else {"base_model_name_or_path": base}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def test_resolve_model(home, monkeypatch):
    monkeypatch.setattr(names, "ensure_model", lambda: Path("/cache/smollm2"))
    assert resolve_model(None) == "/cache/smollm2"
    assert resolve_model("some/model") == "some/model" and resolve_model("gpt2") == "gpt2"
    place = str(home / "project" / "models" / "llama")
    assert Path(resolve_model("../project/models/llama")).resolve() == Path(place).resolve()
    monkeypatch.setenv("HOME", str(home))
    assert resolve_model("~/project/models/llama") == place
    monkeypatch.chdir(home / "project")
    assert resolve_model("models/llama") == place
    (home / "file.jsonl").write_text("{}")
    with pytest.raises(PhaseError, match=r"file\.jsonl is a file; a model is a folder"):
        resolve_model(str(home / "file.jsonl"))
    for path in ("models/other", "./x", "/nowhere/x", "a/b/c", "~/x"):
        with pytest.raises(PhaseError, match="is not there"):
            resolve_model(path)


def test_a_relative_base_of_earlier_versions_is_found(home, monkeypatch):
    run = adapter(home / "project" / "runs" / "x" / "ppo" / "adapter", "models/llama")
    model = str(home / "project" / "models" / "llama")
    assert base_of(run) == model  # from the adapter's folder upwards
    adapter(run, "./models/llama")
    assert base_of(run) == model
    moved = adapter(home / "moved", "models/llama")
    with pytest.raises(PhaseError, match=r"adapter_config\.json names the model models/llama, and"):
        base_of(moved)
    monkeypatch.chdir(home / "project")
    assert base_of(moved) == model
    for hub in ("owner/name", "gpt2"):
        assert base_of(adapter(home / "moved", hub)) == hub


@pytest.mark.parametrize("base", [None, "", " ", 3, ...])
def test_an_adapter_without_a_base_gets_none(home, base):
    with pytest.raises(PhaseError, match=r"adapter_config\.json does not say which model .* base_model_name"):
        base_of(adapter(home / "a", base))


def test_a_base_that_is_gone_is_an_error_and_the_bundled_one_is_found(home, monkeypatch):
    monkeypatch.setattr(names, "ensure_model", lambda: Path("/here/smollm2"))
    assert base_of(adapter(home / "a", f"/other/machine/{MODEL.name}")) == "/here/smollm2"
    with pytest.raises(PhaseError, match=r"/gone/model, and that folder"):
        base_of(adapter(home / "a", "/gone/model"))
    (home / "a" / "adapter_config.json").write_text("[")
    with pytest.raises(PhaseError, match=r"adapter_config\.json cannot be read"):
        base_of(home / "a")


def test_whatever_a_library_raises_becomes_one_message(tmp_path):
    place = str(tmp_path)
    for error in (OSError("a\nb"), KeyError("a"), ImportError("a")):
        told = rf"^{place} cannot be loaded as a model \(\w+: '?a'?\)$"
        with pytest.raises(PhaseError, match=told), loading(place):
            raise error
    told = r"\(RuntimeError: in loading: of h\.0\)\. There is no folder x here"
    with pytest.raises(PhaseError, match=told), loading("x"):
        raise RuntimeError("in loading:\n\tof h.0\n\tof h.1")
    with pytest.raises(PhaseError, match=r"^mine$"), loading("x"):
        raise PhaseError("mine")
    with pytest.raises(PhaseError, match=r"no/such cannot be loaded as a model \(OSError: "):
        load_policy("no/such")


def test_a_tokenizer_without_an_end_token_is_an_error(tmp_path):
    folder = save_base(tmp_path)
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / file).is_file():
            content = json.loads((folder / file).read_text())
            content.pop("eos_token", None)
            (folder / file).write_text(json.dumps(content))
    with pytest.raises(PhaseError, match="has no end token, so that no text could end"):
        load_tokenizer(str(folder))


def test_a_tokenizer_of_another_model_is_an_error(tmp_path):
    with pytest.raises(PhaseError, match="its end token has the id 256, and the model has 64 tokens"):
        load_policy(str(save_base(tmp_path, vocab=64)), precision="fp32")
