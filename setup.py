"""Puts the recorded runs that chapters replay into the wheel; everything else stands in pyproject.toml."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecordedRuns(build_py):
    """Copies ``results/`` to ``rlhf_lite/recorded/``, where ``teaching.notebook.recorded`` finds it."""

    def run(self) -> None:
        """Build as usual, then copy. An editable install reads ``results/`` itself."""
        super().run()
        if not self.editable_mode:
            source = Path(__file__).parent / "results"
            target = Path(self.build_lib) / "rlhf_lite" / "recorded"
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("bench"))


setup(cmdclass={"build_py": BuildWithRecordedRuns})
