"""Exercise: how many numbers does an adapter train?"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer

Shapes = Sequence[tuple[int, int]]


def _lora_parameters(shapes: Shapes, rank: int, layers: int) -> int:
    return layers * sum(rank * (inputs + outputs) for outputs, inputs in shapes)


def _case(title: str, shapes: Shapes, rank: int, layers: int, expected: int, hint: str) -> Case:
    return Case(title, lambda: (shapes, rank, layers), float(expected), hint)


LORA_PARAMETERS = Exercise(
    name="lora_parameters",
    title="How many numbers are trained?",
    chapter="04_lora",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "one matrix",  # A: 4 · 100, B: 50 · 4
            [(50, 100)],
            4,
            1,
            600,
            "A has r × in entries, and B has out × r.",
        ),
        _case(
            "two matrices of different shape in three layers",  # 3 · 2 · ((10 + 30) + (20 + 30))
            [(10, 30), (20, 30)],
            2,
            3,
            540,
            "Count each matrix with its own shape, then multiply by the number of layers.",
        ),
        _case(
            "the attention of SmolLM2, top 8 layers, rank 16",  # 8 · 16 · (1152 + 768 + 768 + 1152)
            [(576, 576), (192, 576), (192, 576), (576, 576)],
            16,
            8,
            491_520,
            "q and o are 576 × 576; k and v are 192 × 576, because they have fewer heads.",
        ),
        _case(
            "a rank as high as the matrix",  # 8 · (8 + 8): twice the matrix itself
            [(8, 8)],
            8,
            1,
            128,
            "Nothing stops the adapter from being larger than the matrix. Count, and do not cap.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the full matrices",
            lambda shapes, rank, layers: layers * sum(o * i for o, i in shapes),
            "You count W itself. W is frozen; only A and B are trained.",
        ),
        WrongAnswer(
            "A only",
            lambda shapes, rank, layers: layers * sum(rank * i for o, i in shapes),
            "You count A alone. B has out × r more.",
        ),
        WrongAnswer(
            "B only",
            lambda shapes, rank, layers: layers * sum(rank * o for o, i in shapes),
            "You count B alone. A has r × in more.",
        ),
        WrongAnswer(
            "one layer",
            lambda shapes, rank, layers: sum(rank * (o + i) for o, i in shapes),
            "You count one layer. Every adapted layer has its own A and B.",
        ),
        WrongAnswer(
            "square matrices",
            lambda shapes, rank, layers: layers * sum(2 * rank * o for o, i in shapes),
            "You take every matrix as square. Here k and v have fewer outputs than inputs.",
        ),
        WrongAnswer(
            "the product as stored",
            lambda shapes, rank, layers: layers * sum(rank * o * i for o, i in shapes),
            "You multiply in, out and r. A and B are stored apart: r × in and out × r, which are added.",
        ),
        WrongAnswer(
            "base and adapter together",
            lambda shapes, rank, layers: layers * sum(rank * (o + i) + o * i for o, i in shapes),
            "You count W too. It is there, but frozen: it gets no gradient and needs no optimiser state.",
        ),
        WrongAnswer(
            "bytes",
            lambda shapes, rank, layers: 4 * layers * sum(rank * (o + i) for o, i in shapes),
            "You count bytes of float32. The exercise asks for numbers.",
        ),
    ),
    solution=_lora_parameters,
    praise="The count grows with the sides of a matrix, not with its area: the larger the model, the larger "
    "the saving.",
)
