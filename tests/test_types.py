"""The shared records: what they compute, what they refuse, and that importing them is cheap."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from rlhf_lite.types import Judge, Preference, Rating, RewardFn, Rollout


def test_rating_statistics_by_hand() -> None:
    rating = Rating("1", "fine", (1, 2, 4, 1), "movie")
    assert (rating.n, rating.mean) == (4, 2.0)
    # deviations -1, 0, 2, -1: squares 1 + 0 + 4 + 1 = 6, over n = 4
    assert rating.std == pytest.approx(1.5**0.5)


def test_a_rating_needs_a_rater() -> None:
    with pytest.raises(ValueError, match="'7' of 'movie' has no raters"):
        Rating("7", "text", (), "movie")


def test_records_are_frozen_and_hashable() -> None:
    preference = Preference("a", " b", " c", meta={"list": [1]})
    assert len({preference, Preference("a", " b", " c", meta={"list": [1]})}) == 1
    assert preference != Preference("a", " b", " c")
    with pytest.raises(dataclasses.FrozenInstanceError):
        preference.prompt = "x"  # type: ignore[misc]  # frozen: that is the test


def test_protocols_accept_plain_functions() -> None:
    def reward(prompts: list[str], completions: list[str]) -> list[float]:
        return [0.0 for _ in prompts]

    def judge(prompts: list[str], first: list[str], second: list[str]) -> list[float]:
        return [0.5 for _ in prompts]

    assert isinstance(reward, RewardFn) and isinstance(judge, Judge)
    assert not isinstance("no function", RewardFn)


def _rollout(**changes: object) -> Rollout:
    import torch

    parts: dict[str, object] = {
        "prompt_ids": torch.zeros(2, 3, dtype=torch.long),
        "prompt_mask": torch.ones(2, 3, dtype=torch.bool),
        "response_ids": torch.zeros(2, 4, dtype=torch.long),
        "response_mask": torch.ones(2, 4, dtype=torch.bool),
        "logps": torch.zeros(2, 4),
    }
    return Rollout(**{**parts, **changes})  # type: ignore[arg-type]  # wrong on purpose


def test_rollout_checks_shapes_and_mask_type() -> None:
    import torch

    assert len(_rollout()) == 2
    with pytest.raises(ValueError, match=r"logps has shape \(2, 3\), expected \(2, 4\)"):
        _rollout(logps=torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"ended has shape \(2, 1\)"):
        _rollout(ended=torch.ones(2, 1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"response_mask has type torch.int64, expected bool"):
        _rollout(response_mask=torch.ones(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="prompt_ids has 3 rows"):
        _rollout(prompt_ids=torch.zeros(3, 3, dtype=torch.long))


def test_data_room_imports_no_heavy_library() -> None:
    code = (
        "import sys, rlhf_lite.types, rlhf_lite.data, rlhf_lite.data.files.schema, rlhf_lite.data.pairs, "
        "rlhf_lite.data.sources, rlhf_lite.data.formatting\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_rows_of_a_rollout_are_rows_of_everything_that_it_holds() -> None:
    import torch

    rollout = _rollout(response_ids=torch.arange(8).view(2, 4), ended=torch.tensor([True, False]))
    part = rollout.rows(torch.tensor([1]))
    assert len(part) == 1 and part.response_ids.tolist() == [[4, 5, 6, 7]]
    assert part.ended.tolist() == [False] and part.ref_logps is None
