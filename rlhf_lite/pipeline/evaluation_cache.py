"""What one evaluation measured and the next one, with the same judges and policies, need not measure again.

Arms of a sweep often differ in one policy only: the judge, the reference and the SFT policy, and what the
reward model does on held-out pairs are then the same, to the last digit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_lite.evaluation.policies import Measured
from rlhf_lite.files import atomic_file, write_json


class Kept:
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
        with np.load(path, allow_pickle=False) as found:
            return dict(found)

    def measured(self, name: str, make: Callable[[], Measured]) -> Measured:
        """What judges said about a policy, made by ``make`` if it is not there."""
        if self._folder is None:
            return make()
        texts = self._folder / f"{name}.json"
        if not texts.is_file():
            found = make()
            parts = {f.name: getattr(found, f.name) for f in fields(Measured) if f.name != "texts"}
            self.arrays(name, lambda: {key: value for key, value in parts.items() if value is not None})
            write_json(texts, found.texts)
        arrays = self.arrays(name, dict)
        return Measured(texts=json.loads(texts.read_text(encoding="utf-8")), **({"rm": None} | arrays))
