"""Exercise: position ids of a packed row."""

from __future__ import annotations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _packed_positions(lengths: list[int], width: int) -> list[int]:
    found = [place for length in lengths for place in range(length)]
    return found + [0] * (width - len(found))


def _straight_on(lengths: list[int], width: int) -> list[int]:
    return list(range(sum(lengths))) + [0] * (width - sum(lengths))


def _text_numbers(lengths: list[int], width: int) -> list[int]:
    found = [number for number, length in enumerate(lengths) for _ in range(length)]
    return found + [0] * (width - len(found))


def _overlapping(lengths: list[int], width: int) -> list[int]:
    """Each text begins with the last position of the one before."""
    found: list[int] = []
    for length in lengths:
        start = found[-1] if found else 0
        found += range(start, start + length)
    return found + [0] * (width - len(found))


def _case(title: str, lengths: list[int], width: int, expected: list[int], hint: str) -> Case:
    return Case(title, lambda: (list(lengths), width), expected, hint)


PACKED_POSITIONS = Exercise(
    name="packed_positions",
    title="Positions in a packed row",
    chapter="03_supervised_fine_tuning",
    difficulty="easy",
    minutes=5,
    cases=(
        _case(
            "two texts that fill the row",
            [2, 4],
            6,
            [0, 1, 0, 1, 2, 3],
            "Every text counts its own tokens, from 0.",
        ),
        _case(
            "room left over",
            [3, 1],
            6,
            [0, 1, 2, 0, 0, 0],
            "Padding gets position 0; the row has `width` entries.",
        ),
        _case("one text alone", [4], 5, [0, 1, 2, 3, 0], "A single text is an ordinary padded row."),
        _case(
            "three texts of one length",
            [2, 2, 2],
            7,
            [0, 1, 0, 1, 0, 1, 0],
            "The position starts again at 0 with each text, however many there are.",
        ),
        _case("texts of one token", [1, 1, 2], 4, [0, 0, 0, 1], "A text of one token has the position 0."),
    ),
    wrong_answers=(
        WrongAnswer(
            "positions that run on",
            _straight_on,
            "Your positions run on through the whole row. The second text would look to the model as if it "
            "stood far from any beginning. Start again at 0 with each text.",
        ),
        WrongAnswer(
            "counting from one",
            lambda lengths, width: (
                [p + 1 for length in lengths for p in range(length)] + [0] * (width - sum(lengths))
            ),
            "You count from 1. The first token of a text has position 0, as when the model was trained.",
        ),
        WrongAnswer(
            "the padding goes on counting",
            lambda lengths, width: (
                [p for length in lengths for p in range(length)]
                + list(range(lengths[-1], lengths[-1] + width - sum(lengths)))
            ),
            "Your padding continues the last text. It belongs to no text: give it position 0.",
        ),
        WrongAnswer(
            "the padding forgotten",
            lambda lengths, width: [p for length in lengths for p in range(length)],
            "Your row ends where the texts end. It must have `width` entries: fill up with 0.",
        ),
        WrongAnswer(
            "the number of the text",
            _text_numbers,
            "You return which text a position belongs to. That is what the attention mask is made of; the "
            "position says which place a token has within its text.",
        ),
        WrongAnswer(
            "starts that overlap",
            _overlapping,
            "Your second text begins with the last position of the first. Positions do not run on from text "
            "to text: start again at 0.",
        ),
        WrongAnswer(
            "longest first",
            lambda lengths, width: _packed_positions(sorted(lengths, reverse=True), width),
            "You sort the texts. That is the packer's business; the positions must follow the order in which "
            "the texts stand in the row.",
        ),
        WrongAnswer(
            "padding on the left",
            lambda lengths, width: (
                [0] * (width - sum(lengths)) + [p for length in lengths for p in range(length)]
            ),
            "You put the padding in front. Sampling wants that; training rows are padded on the right.",
        ),
    ),
    solution=_packed_positions,
    praise="Half of what packing needs. The other half is the attention mask.",
)
