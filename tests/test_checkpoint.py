"""Steps are saved and found again, and one phase trusts another only by its record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlhf_lite.checkpoint import load_step, read_phase, save_step, saved_steps, verify_phase, write_phase
from rlhf_lite.errors import CheckpointError


def test_a_saved_step_comes_back_bit_for_bit(tmp_path):
    tensors = {
        "weight/a": torch.randn(3, 4, generator=torch.Generator().manual_seed(0)),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "steps": torch.tensor(7),
        "strided": torch.arange(6.0).view(2, 3).t(),
    }
    place = save_step(tmp_path, 12, tensors, {"kl_coef": 0.1 + 0.2}, keep=2)
    assert place == tmp_path / "step-000012"
    got, numbers = load_step(tmp_path, 12)
    assert numbers == {"kl_coef": 0.1 + 0.2}
    assert got.keys() == tensors.keys()
    for name in tensors:
        assert got[name].dtype == tensors[name].dtype and torch.equal(got[name], tensors[name])


def test_only_the_last_steps_are_kept(tmp_path):
    for step in (5, 10, 15, 20):
        save_step(tmp_path, step, {"x": torch.tensor(step)}, {}, keep=2)
    assert saved_steps(tmp_path) == [15, 20]
    save_step(tmp_path, 20, {"x": torch.tensor(-20)}, {}, keep=2)  # again
    assert saved_steps(tmp_path) == [15, 20] and int(load_step(tmp_path, 20)[0]["x"]) == -20


def test_saved_steps_sees_only_complete_ones(tmp_path):
    assert saved_steps(tmp_path / "nowhere") == []
    for name in ("step-000003", ".step-000004.x.tmp", "step-5", "notes", "step-000009.old"):
        (tmp_path / name).mkdir()
    assert saved_steps(tmp_path) == [3]


def damage(place: Path, how: str) -> None:
    state = place / "state.safetensors"
    if how == "cut":
        state.write_bytes(state.read_bytes()[:-5])
    elif how == "empty":
        state.write_bytes(b"")
    elif how == "header":
        state.write_bytes(b"\xff" * 64)
    elif how == "missing":
        state.unlink()
    elif how == "json":
        (place / "state.json").write_text('{"step": 1, "numb')
    elif how == "json missing":
        (place / "state.json").unlink()
    elif how == "key":
        (place / "state.json").write_text('{"step": 1}')


@pytest.mark.parametrize("how", ["cut", "empty", "header", "missing", "json", "json missing", "key"])
def test_a_damaged_step_is_named(tmp_path, how):
    place = save_step(tmp_path, 1, {"x": torch.ones(100)}, {"a": 1.0}, keep=2)
    damage(place, how)
    with pytest.raises(CheckpointError, match="delete that folder") as found:
        load_step(tmp_path, 1)
    assert str(place) in str(found.value)


# --- Records of phases

RECORD = {"phase": "sft", "model": "abc", "lora": {"rank": 4}, "settings": {"steps": 3}}


def test_a_record_is_read_back_and_verified(tmp_path):
    assert read_phase(tmp_path) is None
    write_phase(tmp_path, RECORD)
    assert read_phase(tmp_path) == RECORD
    assert verify_phase(tmp_path, {"model": "abc", "lora": {"rank": 4}}) == RECORD
    assert verify_phase(tmp_path, {}) == RECORD


def test_every_entry_that_differs_is_listed_with_both_values(tmp_path):
    write_phase(tmp_path, RECORD)
    with pytest.raises(CheckpointError) as found:
        verify_phase(tmp_path, {"model": "xyz", "lora": {"rank": 8}, "phase": "sft", "tokenizer": "t"})
    message = str(found.value)
    for part in ("model is 'abc' there and 'xyz' here", "{'rank': 4}", "{'rank': 8}", "tokenizer is None"):
        assert part in message
    assert str(tmp_path) in message and "phase is" not in message


def test_a_phase_that_has_not_finished_or_cannot_be_read(tmp_path):
    with pytest.raises(CheckpointError, match="run that phase first"):
        verify_phase(tmp_path, {})
    (tmp_path / "phase.json").write_text('{"phase": "s')
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_phase(tmp_path)
