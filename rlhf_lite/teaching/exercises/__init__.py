"""The checks behind the book's exercises.

A reader writes a function in a notebook and calls ``check("name", function)``. The check tries the
function on hard inputs. When it fails, it compares the reader's answers with those of well-known wrong
solutions, and explains the misunderstanding instead of only saying "wrong".

    from rlhf_lite.teaching.exercises import check
    check("bradley_terry", bradley_terry)

An exercise is data: ``data/chapter05.yaml`` holds its texts, inputs and answers, ``chapters/chapter05.py``
its solution and the known mistakes.
"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.core import CheckResult, ExerciseFailed, check
from rlhf_lite.teaching.exercises.loading import (
    Case,
    Exercise,
    ExerciseDataError,
    WrongAnswer,
    exercise_names,
    get_exercise,
)
