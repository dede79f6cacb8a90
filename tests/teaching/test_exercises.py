"""Each exercise passes on its solution, and fails, with the right explanation, on everything else."""

from __future__ import annotations

import math
import subprocess
import sys
from importlib.resources import files
from types import SimpleNamespace

import pytest
import torch
import yaml

from rlhf_lite.teaching.exercises import (
    Case,
    Exercise,
    ExerciseDataError,
    ExerciseFailed,
    WrongAnswer,
    check,
    exercise_names,
    get_exercise,
)
from rlhf_lite.teaching.exercises.core import NOT_SOLVED, examine
from rlhf_lite.teaching.exercises.loading import load_chapter
from rlhf_lite.teaching.exercises.notation import build, read

ALL = [get_exercise(name) for name in exercise_names()]
WRONG = [(exercise, wrong) for exercise in ALL for wrong in exercise.wrong_answers]
KINDS_OF_ANSWER = ["bradley_terry", "shifted_logps", "diagnose_ppo"]  # a number, a tensor, a choice


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
@pytest.mark.parametrize("name", KINDS_OF_ANSWER)
def test_nonsense_fails_with_a_hint(name: str, answer: object) -> None:
    result = check(name, lambda *_: answer)
    assert not result.passed
    assert get_exercise(name).cases[0].title in result.message
    assert get_exercise(name).cases[0].hint in result.message


@pytest.mark.parametrize("name", KINDS_OF_ANSWER)
def test_an_exception_of_the_reader_is_reported(name: str) -> None:
    result = check(name, lambda: 0.0)
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


def make_exercise(expected: object, *wrong: object) -> Exercise:
    case = Case("one input", lambda: (torch.tensor([1.0, 2.0]),), expected, "Think again.")  # type: ignore[arg-type]  # any answer
    answers = tuple(WrongAnswer(f"wrong {i}", lambda _, w=w: w, f"Reason {i}.") for i, w in enumerate(wrong))
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
    assert bool(examine(make_exercise(expected), lambda _: answer)) is passed


def test_a_wrong_shape_is_named() -> None:
    message = examine(make_exercise([1.0, 2.0]), lambda _: torch.ones(2, 1)).message
    assert "shape (2, 1)" in message and "shape (2,)" in message


def test_a_wrong_tensor_is_recognised() -> None:
    result = examine(make_exercise([1.0, 2.0], [2.0, 1.0]), lambda _: torch.tensor([2.0, 1.0]))
    assert result.wrong_answer == "wrong 0" and "Reason 0." in result.message


def test_names_are_those_of_the_data_files() -> None:
    """The names are found without parsing the files; parsing must give the same ones."""
    parsed = [
        name
        for path in sorted(
            files("rlhf_lite.teaching.exercises").joinpath("data").iterdir(), key=lambda p: p.name
        )
        for name in yaml.safe_load(path.read_text(encoding="utf-8"))
        if name != "chapter"
    ]
    assert exercise_names() == parsed


def test_one_exercise_loads_one_chapter_and_no_torch_for_plain_numbers() -> None:
    code = (
        "import sys; from rlhf_lite.teaching.exercises import check; check('comparisons_for', max); "
        "print([m.rpartition('.')[2] for m in sys.modules if '.chapters.' in m], 'torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "['chapter17'] False"


# --- Data files --------------------------------------------------------------

DATA = """
chapter: 00_quickstart

scaled:
  title: Scale it
  difficulty: easy
  minutes: 5
  praise: Well done.
  arguments: {x: float64 tensor, by: number}

  cases:
    - title: two numbers
      inputs: {x: [ln(e), 6 / 3], by: -2 ** 2 + 2 * (2 + 1)}
      expected: [2, 2 * 2.0]
      hint: Multiply.

  mistakes:
    a sum: You add.
"""
FUNCTIONS = SimpleNamespace(
    scaled=lambda x, by: x * by,
    doubled=lambda x: (x, 2),
    MISTAKES={"scaled": {"a sum": lambda x, by: x + by}},
)


def test_an_exercise_is_made_of_its_data() -> None:
    exercise = load_chapter(DATA, "chapter00.yaml", FUNCTIONS)["scaled"]
    assert (exercise.name, exercise.chapter, exercise.minutes) == ("scaled", "00_quickstart", 5)
    assert exercise.tolerance == 1e-5
    assert exercise.cases[0].inputs()[0].dtype == torch.float64
    assert exercise.cases[0].inputs()[0] is not exercise.cases[0].inputs()[0]
    assert examine(exercise, lambda x, by: by * x)
    assert examine(exercise, FUNCTIONS.MISTAKES["scaled"]["a sum"]).wrong_answer == "a sum"


def test_a_builder_makes_the_arguments() -> None:
    text = DATA.replace(", by: number}", "}\n  builder: doubled").replace(", by: -2 ** 2 + 2 * (2 + 1)", "")
    assert examine(load_chapter(text, "chapter00.yaml", FUNCTIONS)["scaled"], FUNCTIONS.scaled)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("chapter: 00_quickstart", "", "chapter00.yaml: lacks 'chapter: '"),
        ("minutes: 5", "minutes: [5", "chapter00.yaml: not valid YAML"),
        ("minutes: 5", "minutes: 5\n  minutes: 6", "minutes is given twice"),
        ("minutes: 5", "minutes: five", "exercise scaled, minutes: .*valid integer"),
        ("minutes: 5", "minutes: 0", "exercise scaled, minutes: .*greater than 0"),
        ("  praise: Well done.\n", "", "exercise scaled, praise: Field required"),
        ("praise:", "prase:", "exercise scaled, (praise|prase): "),
        (
            "difficulty: easy",
            "difficulty: simple",
            "exercise scaled, difficulty: .*'easy', 'medium' or 'hard'",
        ),
        ("hint: Multiply.", "hint: 5", "exercise scaled, cases.0.hint: .*valid string"),
        ("  cases:", "  cases: []\n  others:", "exercise scaled, cases: .*at least 1"),
        ("scaled:", "scale:", "exercise scale: the chapter's module has no function scale"),
        (
            "a sum: You add.",
            "a product: You add.",
            "exercise scaled: mistakes .* one lacks for a product, a sum",
        ),
        ("by: number}", "factor: number}", "exercise scaled: arguments are x, factor; parameters: x, by"),
        (
            "float64 tensor",
            "float65 tensor",
            r"case 1 \(two numbers\), inputs, x: 'float65 tensor' is not a kind",
        ),
        ("x: [ln(e), 6 / 3]", "y: [1]", r"case 1 \(two numbers\): inputs are y, by; needed: x, by"),
        ("6 / 3]", "[6]]", r"case 1 \(two numbers\), inputs, x: rows of different lengths"),
        ("6 / 3]", "6 / 0]", r"inputs, x: '6 / 0' is not a number; arithmetic may use"),
        ("6 / 3]", "len(e)]", r"inputs, x: 'len\(e\)' is not a number"),
        ("6 / 3]", "true]", "inputs, x: True is not a number"),
        ("2 * 2.0]", "healthy]", "expected: 'healthy' is not a number"),
        ("cases:", "choices: [one, two]\n  cases:", None),
        ("expected: [2, 2 * 2.0]", "expected: three", "expected: 'three' is not a number"),
    ],
)
def test_a_malformed_file_is_reported_with_its_place(right: str, wrong: str, message: str | None) -> None:
    assert DATA.count(right) == 1
    text = DATA.replace(right, wrong)
    if message is None:
        assert load_chapter(text, "chapter00.yaml", FUNCTIONS)
        return
    with pytest.raises(ExerciseDataError, match=message):
        load_chapter(text, "chapter00.yaml", FUNCTIONS)


@pytest.mark.parametrize(
    ("kind", "value", "argument"),
    [
        ("number", 3, 3),
        ("number", "sqrt(4) * exp(0) - log1p(0)", 2.0),
        ("numbers", [[1, "1 / 4"], []], [[1, 0.25], []]),
        ("text", "2 / 3", "2 / 3"),
        ("texts", ["a", "b"], ["a", "b"]),
        ("pairs", [["a", "b"], [1, 2]], [("a", "b"), (1, 2)]),
        ("mapping", {"a": 1, "b": "ln(e)"}, {"a": 1, "b": 1.0}),
        ("anything", "2e-4", "2e-4"),
        ("int64 tensor", [1, 2], torch.tensor([1, 2])),
        ("bool tensor", [1, False], torch.tensor([True, False])),
        ("float32 tensor", [[1], ["1 / 2"]], torch.tensor([[1.0], [0.5]])),
    ],
)
def test_kinds_of_arguments(kind: str, value: object, argument: object) -> None:
    built = build(kind, read(kind, value))
    if isinstance(argument, torch.Tensor):
        assert built.dtype == argument.dtype and torch.equal(built, argument)
    else:
        assert built == argument and repr(built) == repr(argument)


def test_lists_of_tensors() -> None:
    parts = build("bool tensors", read("bool tensors", [[[1, 0]], [[1]]]))
    assert [part.tolist() for part in parts] == [[[True, False]], [[True]]]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("number", "2 +"),
        ("number", None),
        ("number", "__import__('os')"),
        ("number", "e.real"),
        ("text", 5),
        ("texts", "a"),
        ("pairs", [["a", "b", "c"]]),
        ("mapping", ["a"]),
        ("int64 tensor", [1.5]),
        ("bool tensor", [2]),
        ("float32 tensors", 1.0),
    ],
)
def test_values_of_another_kind_are_refused(kind: str, value: object) -> None:
    with pytest.raises(ValueError, match="is not a"):
        read(kind, value)
