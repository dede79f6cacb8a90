"""What an evaluation keeps for the next one: made once, read back to the last digit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rlhf_lite.evaluation.policies import Measured
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.evaluation_cache import Kept
from rlhf_lite.pipeline.judging import run_evaluation
from rlhf_lite.pipeline.run import run_pipeline


def never() -> dict:
    raise AssertionError("made again")


@pytest.mark.parametrize("rm", [None, np.array([0.1, 1 / 3])])
def test_what_is_kept_is_read_back_to_the_last_digit(tmp_path: Path, rm: np.ndarray | None) -> None:
    numbers = {
        name: np.array([1 / 3, -2e-17]) for name in ("gold", "vader", "toxicity", "kl_nats", "bare_nats")
    }
    made = Measured(
        texts=["so so\n", "“quoted”"],
        rm=rm,
        tokens=np.array([3, 4]),
        ended=np.array([True, False]),
        **numbers,
    )
    first = Kept(tmp_path / "kept").measured("sft", lambda: made)
    again = Kept(tmp_path / "kept").measured("sft", never)
    for found in (first, again):
        assert found.texts == made.texts and (found.rm is None) == (rm is None)
        for name in numbers:
            assert np.array_equal(getattr(found, name), numbers[name])
    assert not list((tmp_path / "kept").glob(".*"))


def test_without_a_folder_everything_is_made(tmp_path: Path) -> None:
    calls: list[int] = []
    kept = Kept(None)
    for _ in range(2):
        kept.record("a", lambda: calls.append(1))
    assert calls == [1, 1] and not list(tmp_path.iterdir())


def test_an_evaluation_with_kept_parts_says_the_same(settings, tmp_path: Path, monkeypatch) -> None:
    config = settings()
    run_pipeline(config, output=tmp_path / "run", visible=False, skip=["evaluation"])
    plain = run_evaluation(Run(config, tmp_path / "run", visible=False))
    shared = tmp_path / "shared"
    first = run_evaluation(Run(config, tmp_path / "run", visible=False), shared=shared)
    monkeypatch.setattr("rlhf_lite.pipeline.judging.fit_gold_judge", never)
    monkeypatch.setattr("rlhf_lite.pipeline.judging.judge_reward_model", never)
    again = run_evaluation(Run(config, tmp_path / "run", visible=False), shared=shared)
    assert first == again == plain
    assert sorted(path.stem for path in shared.glob("*.npz")) == ["gold", "reference", "sft"]
