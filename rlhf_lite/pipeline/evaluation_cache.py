"""What one evaluation measured and the next one, with the same judges and policies, need not measure again.

Arms of a sweep often differ in one policy only: the judge, the reference and the SFT policy, and what the
reward model does on held-out pairs are then the same, to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.eval_policy import EvalPolicy, PromptRows
from rlhf_lite.files import atomic_file, write_json


class EvaluationCache:
    """A folder of results; without a folder nothing is kept.

    Args:
        folder: where they are; whoever gives it sees to it that settings and seed are the same.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def record(self, name: str, make: Callable[[], Any]) -> Any:
        """Something JSON can hold, made by ``make`` if it is not there."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.json"
        if not path.is_file():
            write_json(path, make())
        return json.loads(path.read_text(encoding="utf-8"))

    def arrays(self, name: str, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
        """Arrays by name, made by ``make`` if they are not there."""
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npz"
        if not path.is_file():
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **make())
        with np.load(path, allow_pickle=False) as stored:
            return dict(stored)

    def answers(self, policy: EvalPolicy, make: Callable[[], Answers]) -> Answers:
        """What a policy wrote and what judges said about it, made by ``make`` if it is not there."""
        if self._folder is None:
            return make()
        place = self._folder / f"{policy.name}.json"
        if not place.is_file():
            made = make()
            self.arrays(policy.name, lambda: {"ended": made.ended, **made.scores})
            stored = {name: getattr(made, name) for name in ("samples", "texts", "ids", "missing")}
            write_json(place, stored | {"prompts": asdict(made.prompts)})
        arrays = self.arrays(policy.name, dict)
        stored = json.loads(place.read_text(encoding="utf-8"))
        read = PromptRows(**stored.pop("prompts"))
        return Answers(policy=policy, prompts=read, ended=arrays.pop("ended"), scores=arrays, **stored)
