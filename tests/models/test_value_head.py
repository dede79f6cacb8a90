"""Value heads and their files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
from tiny_models import HIDDEN

from rlhf_lite.models.policy import VALUE_FILE, ValueHead, load_value_head


def trained() -> ValueHead:
    head = ValueHead(HIDDEN)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    return head


def test_what_is_saved_is_loaded(tmp_path):
    head = trained()
    head.save(tmp_path / "new")
    head.save(tmp_path / "new")
    assert [p.name for p in (tmp_path / "new").iterdir()] == [VALUE_FILE]
    loaded = load_value_head(tmp_path / "new", hidden_size=HIDDEN)
    hidden = torch.randn(2, 3, HIDDEN)
    assert torch.equal(loaded(hidden), head(hidden)) and loaded(hidden).std() > 0
    assert all(p.requires_grad for p in loaded.parameters())


def test_an_interrupted_save_keeps_the_old_file(tmp_path, monkeypatch):
    head = trained()
    head.save(tmp_path)
    before = (tmp_path / VALUE_FILE).read_bytes()

    def fails(tensors, path):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("rlhf_lite.models.policy.save_file", fails)
    with pytest.raises(KeyboardInterrupt):
        ValueHead(HIDDEN).save(tmp_path)
    assert (tmp_path / VALUE_FILE).read_bytes() == before


def test_what_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=VALUE_FILE):
        load_value_head(tmp_path, hidden_size=HIDDEN)
    trained().save(tmp_path)
    with pytest.raises(ValueError, match=rf"hidden size {HIDDEN + 1}"):
        load_value_head(tmp_path, hidden_size=HIDDEN + 1)
    weights = {"linear.weight": torch.ones(1, HIDDEN), "linear.bias": torch.tensor([torch.nan])}
    save_file(weights, str(tmp_path / VALUE_FILE))
    with pytest.raises(ValueError, match="not finite"):
        load_value_head(tmp_path, hidden_size=HIDDEN)
    save_file(weights | {"more": torch.ones(1)}, str(tmp_path / VALUE_FILE))
    with pytest.raises(ValueError, match="more"):
        load_value_head(tmp_path, hidden_size=HIDDEN)
    (tmp_path / VALUE_FILE).write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="damaged"):
        load_value_head(tmp_path, hidden_size=HIDDEN)
