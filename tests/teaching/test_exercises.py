"""Each exercise passes on its solution, and fails, with the right explanation, on everything else."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf_lite.teaching.exercises import (
    Case,
    CheckResult,
    Exercise,
    ExerciseFailed,
    WrongAnswer,
    check,
    exercise_names,
    get_exercise,
)
from rlhf_lite.teaching.exercises.core import NOT_SOLVED, _examine

ALL = [get_exercise(name) for name in exercise_names()]
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong_answers]


@pytest.fixture(autouse=True)
def no_grader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    monkeypatch.delenv("RLHF_LITE_EXERCISES", raising=False)


def stub(*_: object) -> float:
    raise NotImplementedError()


def test_chapter_00_has_its_three_exercises() -> None:
    assert exercise_names()[:3] == ["pairwise_accuracy", "kl_per_sequence", "bradley_terry"]


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_solution_passes(exercise, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(exercise.name, exercise.solution, strict=True)
    assert "solved" in capsys.readouterr().out


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_stub_is_reported_as_not_solved(exercise, capsys: pytest.CaptureFixture[str]) -> None:
    result = check(exercise.name, stub)
    assert not result
    assert NOT_SOLVED in capsys.readouterr().out
    with pytest.raises(ExerciseFailed, match=NOT_SOLVED):
        check(exercise.name, stub, strict=True)


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_at_least_five_known_wrong_answers(exercise) -> None:
    assert len(exercise.wrong_answers) >= 5
    assert len({wrong.explanation for wrong in exercise.wrong_answers}) == len(exercise.wrong_answers)


@pytest.mark.parametrize(("exercise", "wrong"), WRONG, ids=lambda x: x.name.replace(" ", "-"))
def test_each_wrong_answer_is_recognised(exercise, wrong) -> None:
    """The message must be the explanation of this misconception, not of another one."""
    result = check(exercise.name, wrong.function)
    assert not result.passed
    assert result.wrong_answer == wrong.name
    assert wrong.explanation in result.message


@pytest.mark.parametrize(
    "answer",
    [0.123, math.nan, None, "half", torch.zeros(3), object()],
    ids=["number", "nan", "nothing", "text", "tensor", "object"],
)
@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_nonsense_fails_with_a_hint(exercise, answer: object) -> None:
    result = check(exercise.name, lambda *_: answer)
    assert not result.passed
    assert exercise.cases[0].title in result.message
    assert exercise.cases[0].hint in result.message


@pytest.mark.parametrize("exercise", ALL, ids=lambda e: e.name)
def test_an_exception_of_the_reader_is_reported(exercise) -> None:
    result = check(exercise.name, lambda: 0.0)
    assert not result.passed
    assert "raised TypeError" in result.message


def test_changing_the_inputs_is_noticed() -> None:
    def in_place(logp: torch.Tensor, ref_logp: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask, logp.sub_(ref_logp), 0.0).sum(1).mean()

    result = check("kl_per_sequence", in_place)
    assert not result.passed
    assert "changed the tensors" in result.message


def test_other_right_solutions_pass() -> None:
    assert check("bradley_terry", lambda a, b: torch.sigmoid(torch.tensor(a - b)))
    assert check("kl_per_sequence", lambda p, q, m: (p - q).masked_fill(~m, 0).sum(-1).mean())
    assert check("pairwise_accuracy", lambda c, r: (0.5 * (torch.sign(c - r) + 1)).mean())


def test_a_grader_makes_failures_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBGRADER_EXECUTION", "autograde")
    with pytest.raises(ExerciseFailed):
        check("bradley_terry", stub)
    monkeypatch.setenv("RLHF_LITE_EXERCISES", "lenient")
    assert not check("bradley_terry", stub)
    monkeypatch.setenv("RLHF_LITE_EXERCISES", "sometimes")
    with pytest.raises(ValueError, match="sometimes"):
        check("bradley_terry", stub)


def test_unknown_exercise_suggests_the_nearest() -> None:
    with pytest.raises(ValueError, match="bradley_terry"):
        check("bradly_tery", stub)


def test_not_a_function() -> None:
    assert "needs the function itself" in check("bradley_terry", 0.5).message  # type: ignore[arg-type]  # wrong on purpose


def test_result_is_quiet_in_a_notebook() -> None:
    assert CheckResult("x", True, "fine")._ipython_display_() is None


def make_exercise(expected: object, *wrong: object) -> Exercise:
    case = Case("one input", lambda: (torch.tensor([1.0, 2.0]),), expected, "Think again.")  # type: ignore[arg-type]  # any answer
    answers = tuple(
        WrongAnswer(f"wrong {i}", lambda _, w=w: w, f"Reason {i}.") for i, w in enumerate(wrong)
    )
    return Exercise("e", "E", "00_quickstart", "easy", 1, (case,), answers, lambda _: expected, "Well done.")


@pytest.mark.parametrize(
    ("expected", "answer", "passed"),
    [
        ([1.0, 2.0], torch.tensor([1.0, 2.0]), True),
        ([1.0, 2.0], torch.tensor([1.0, 2.1]), False),
        ([1.0, 2.0], torch.tensor([[1.0, 2.0]]), False),  # the values are right, the shape is not
        ([1.0, 2.0], 1.0, False),
        ([[1.0], [0.0]], torch.tensor([[True], [False]]), True),
        ([1.0, math.nan], [1.0, math.nan], True),
        ([1.0, 2.0], [[1.0], [2.0, 3.0]], False),
        (3.0, torch.tensor([3.0]), True),  # a tensor of one entry is a number
        ("lora", " LoRA ", True),
        ("lora", "ppo", False),
        ("lora", 1.0, False),
    ],
)
def test_tensors_and_choices(expected: object, answer: object, passed: bool) -> None:
    assert bool(_examine(make_exercise(expected), lambda _: answer)) is passed


def test_a_wrong_shape_is_named() -> None:
    message = _examine(make_exercise([1.0, 2.0]), lambda _: torch.ones(2, 1)).message
    assert "shape (2, 1)" in message and "shape (2,)" in message


def test_a_wrong_tensor_is_recognised() -> None:
    result = _examine(make_exercise([1.0, 2.0], [2.0, 1.0]), lambda _: torch.tensor([2.0, 1.0]))
    assert result.wrong_answer == "wrong 0" and "Reason 0." in result.message
