"""Exercise: how many bits does a quantised number take, its constants included?"""

from __future__ import annotations

from rlhf_lite.teaching.exercises.core import Case, Exercise, WrongAnswer


def _bits_per_parameter(bits: int, block: int, constant_bits: int, outer_block: int) -> float:
    constant = constant_bits + (32 / outer_block if outer_block else 0)
    return bits + constant / block


def _case(
    title: str, bits: int, block: int, constant_bits: int, outer_block: int, expected: float, hint: str
) -> Case:
    return Case(title, lambda: (bits, block, constant_bits, outer_block), expected, hint)


BITS_PER_PARAMETER = Exercise(
    name="bits_per_parameter",
    title="Bits per parameter",
    chapter="04_lora",
    difficulty="medium",
    minutes=10,
    cases=(
        _case(
            "4 bits, blocks of 64, one float32 constant for each",  # 4 + 32 / 64
            4,
            64,
            32,
            0,
            4.5,
            "Each block stores one constant: share its bits among the numbers of the block.",
        ),
        _case(
            "double quantisation as in the paper",  # 4 + 8 / 64 + 32 / (64 · 256) = 4 + 0.125 + 0.001953125
            4,
            64,
            8,
            256,
            4.126953125,
            "256 constants of 8 bits share one float32 of their own: 32 / (64 · 256) for each number.",
        ),
        _case(
            "8 bits, blocks of 4096",  # 8 + 32 / 4096
            8,
            4096,
            32,
            0,
            8.0078125,
            "Large blocks make the constants cheap (and the rounding coarse).",
        ),
        _case(
            "tiny blocks in tiny groups",  # 2 + 4 / 8 + 32 / (8 · 2)
            2,
            8,
            4,
            2,
            4.5,
            "With small blocks the constants cost more than the numbers themselves. Count them all.",
        ),
    ),
    wrong_answers=(
        WrongAnswer(
            "the constants forgotten",
            lambda bits, block, constant, outer: bits,
            "You count the numbers alone. Every block also stores the constant it was divided by.",
        ),
        WrongAnswer(
            "the outer constants forgotten",
            lambda bits, block, constant, outer: bits + constant / block,
            "You leave out the second level: if the constants are quantised, a group of them shares one "
            "float32.",
        ),
        WrongAnswer(
            "constants not shared by the block",
            lambda bits, block, constant, outer: bits + constant + (32 / outer if outer else 0),
            "You charge every number for a whole constant. A block of numbers shares one.",
        ),
        WrongAnswer(
            "outer constants shared by constants only",
            lambda bits, block, constant, outer: bits + constant / block + (32 / outer if outer else 0),
            "You share the outer float32 among the constants of its group only. Each constant stands for a "
            "whole "
            "block, so divide by block * outer_block.",
        ),
        WrongAnswer(
            "outer block counted in numbers",
            lambda bits, block, inner, outer: bits + inner / block + (32 * block / outer if outer else 0),
            "You multiply where the second level shares: a group holds outer_block constants, that is "
            "block * outer_block numbers.",
        ),
        WrongAnswer(
            "bytes",
            lambda bits, block, constant, outer: _bits_per_parameter(bits, block, constant, outer) / 8,
            "You return bytes. The exercise asks for bits.",
        ),
        WrongAnswer(
            "always a float32 constant",
            lambda bits, block, constant, outer: bits + 32 / block,
            "You take every constant as 32 bits wide. With double quantisation it has constant_bits.",
        ),
        WrongAnswer(
            "division by the missing level",
            lambda bits, block, constant, outer: bits + constant / block + 32 / (block * outer),
            "outer_block = 0 means that the constants are not quantised again. There is no second level "
            "then, "
            "and nothing to divide by.",
        ),
    ),
    solution=_bits_per_parameter,
    praise="This is why QLoRA is said to need a little more than 4 bits per parameter.",
)
