"""The ledger of one text: a bar for each token and quantity, readable on a phone."""

from __future__ import annotations

import pytest

from rlhf_lite.plotting import to_png, to_svg
from rlhf_lite.plotting.ledger import token_ledger

TOKENS = [" a", " good", " film", "\n"]
ROWS = {"KL (nats)": [0.0, 0.5, -0.25, 0.0], "reward": [0.0, -0.1, 0.1, 2.0]}


def test_every_token_has_a_bar_in_every_row_with_its_value():
    figure = token_ledger(TOKENS, ROWS)
    assert len(figure.axes) == 2
    for ax, values in zip(figure.axes, ROWS.values(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == values
    labels = [label.get_text() for label in figure.axes[-1].get_xticklabels()]
    assert labels == ["_a", "_good", "_film", "↵"]
    assert to_png(figure).startswith(b"\x89PNG")
    assert "+0.50" in to_text(figure) and "+2.00" in to_text(figure)
    assert figure.get_facecolor() == (1.0, 1.0, 1.0, 1.0)


def to_text(figure) -> str:
    to_svg(figure)
    return " ".join(text.get_text() for ax in figure.axes for text in ax.texts)


def test_limits_are_kept_so_that_two_ledgers_can_be_compared():
    figure = token_ledger(TOKENS, ROWS, limits={"reward": (-1.0, 3.0)}, title="before")
    assert figure.axes[1].get_ylim() == (-1.0, 3.0)
    assert figure.axes[0].get_ylim() != (-1.0, 3.0)


@pytest.mark.parametrize(("tokens", "rows"), [([], {}), (TOKENS, {}), (TOKENS, {"reward": [1.0]})])
def test_tokens_and_rows_must_fit(tokens, rows):
    with pytest.raises(ValueError, match=r"expected tokens|has 1 values for 4"):
        token_ledger(tokens, rows)
