"""One tiny model, one small preference file, and one finished run that the tests of this folder look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

from rlhf_lite.config import PipelineConfig, load_config

GOOD = (" good", " great fun", " lovely", " a joy")
BAD = (" bad", " so dull", " a bore", " poor")
SMALL = {
    "model.precision": "fp32",
    "model.threads": 1,
    "lora.rank": 2,
    "lora.top_layers": 2,
    "data.max_tokens": 24,
    "sft.steps": 3,
    "sft.batch_size": 4,
    "reward.pairs": 16,
    "reward.batch_size": 4,
    "reward.eval_pairs": 20,
    "ppo.steps": 5,
    "ppo.prompts_per_step": 4,
    "ppo.max_new_tokens": 5,
    "ppo.epochs": 1,
    "evaluation.prompts": 12,
    "evaluation.gold_texts": 30,
    "evaluation.max_new_tokens": 5,
    "evaluation.samples_shown": 2,
    "checkpoint.every_steps": 2,
    "checkpoint.keep": 1,
}


def rows(n: int = 300) -> list[dict[str, str]]:
    return [
        {"prompt": f"film {i} was", "chosen": GOOD[i % 4], "rejected": BAD[(i // 4) % 4]} for i in range(n)
    ]


def write_rows(path: Path, content: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    return save_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "pairs.jsonl", rows())


@pytest.fixture(scope="session")
def settings(base: Path, data: Path) -> Callable[..., PipelineConfig]:
    """Settings of a run of seconds; ``settings({"ppo.clip": 0.1})`` changes some."""

    def make(changes: dict[str, object] | None = None) -> PipelineConfig:
        values = SMALL | {"model.name": str(base), "data.source": str(data)} | (changes or {})
        return load_config(None, [f"{key}={value}" for key, value in values.items()])

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory, settings) -> Path:
    """The folder of an uninterrupted run."""
    from rlhf_lite.pipeline import run_pipeline

    output = tmp_path_factory.mktemp("run") / "whole"
    run_pipeline(settings(), output=output, command="the command", visible=False)
    return output
