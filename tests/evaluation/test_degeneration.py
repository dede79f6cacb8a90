"""Empty, looping and cut texts, by hand."""

from __future__ import annotations

import pytest

from rlhf_lite.evaluation.text_metrics import degeneration, loops


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("so good, so good, so good", True),  # three times two words
        ("So good. So GOOD! so good", True),
        ("very very very good", False),  # three words only
        ("no no no no no no", True),  # one word, six times
        ("no no no no no", False),
        ("a b c a b c", False),  # twice only
        ("It was a b c a b c a b c then it ended", True),  # in the middle
        ("so good, so good, so nice", False),
        ("", False),
        ("...", False),
        ("the film was a joy from its first minute to its last", False),
    ],
)
def test_loops(text, expected):
    assert loops(text) is expected


def test_loops_is_adjustable():
    assert loops("a b c a b c", repeats=2)
    assert not loops("no no no no no no", at_least=7)
    with pytest.raises(ValueError, match="repeats >= 2"):
        loops("a", repeats=1)


def test_shares():
    found = degeneration(["", " \n", "fine", "ha ha ha ha ha ha"], [True, True, True, False])
    assert (found.n, found.empty.estimate, found.looping.estimate, found.cut.estimate) == (4, 0.5, 0.25, 0.25)
    assert 0 < found.empty.low < 0.5 < found.empty.high < 1


def test_texts_of_one_prompt_are_no_new_evidence():
    once = degeneration(["", "a"] * 5, [True] * 10)
    twice = degeneration(["", "", "a", "a"] * 5, [True] * 20, groups=[i // 2 for i in range(20)])
    assert twice.empty == pytest.approx(once.empty)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        degeneration([], [])
    with pytest.raises(ValueError, match="got 1 and 2"):
        degeneration(["a"], [True, False])
