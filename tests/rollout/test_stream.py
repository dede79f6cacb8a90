"""Stop strings in the sampling loop, and text while it is written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, llama

from rlhf_lite.data.collate import pad_left
from rlhf_lite.rollout.decoder import Generic, prepare
from rlhf_lite.rollout.sampler import cut_at_stop, row_seeds, sample, stream

TOKENIZER = byte_tokenizer()
END = TOKENIZER.eos_token_id
IDS, MASK = pad_left(TOKENIZER(["One day", "é", "The cat", "x y z"])["input_ids"], END)
LENGTH = 24


@pytest.fixture(scope="module")
def model():
    return llama(vocab=len(TOKENIZER))


def rollout_of(model, *, seed=0, repeats=1, eos=END, **options):
    return sample(
        model,
        IDS,
        MASK,
        max_new_tokens=LENGTH,
        eos_token_id=eos,
        pad_token_id=END,
        seeds=row_seeds(seed, rows=len(IDS) * repeats),
        repeats=repeats,
        tokenizer=TOKENIZER,
        **options,
    )


def texts_of(rollout) -> list[str]:
    rows = [row[mask].tolist() for row, mask in zip(rollout.response_ids, rollout.response_mask, strict=True)]
    return [TOKENIZER.decode(row, skip_special_tokens=True) for row in rows]


def stops_of(texts: list[str]) -> list[str]:
    """Two stop strings: one of two characters out of a text, one that no text has."""
    found = next(
        text[i : i + 2] for text in texts for i in range(3, len(text) - 2) if text[i : i + 2].isascii()
    )
    return [found, "never written"]


def test_a_stop_string_ends_its_row_after_the_token_that_completes_it(model):
    free = rollout_of(model)
    stop = stops_of(texts_of(free))
    stopped = rollout_of(model, stop=stop)
    before, after = texts_of(free), texts_of(stopped)
    assert sum(stop[0] in text for text in before) > 0
    for row in range(len(free)):
        found = stop[0] in before[row]
        assert bool(stopped.ended[row]) == (found or bool(free.ended[row]))
        assert after[row].endswith(stop[0]) if found else after[row] == before[row]
        assert cut_at_stop(after[row], stop) == cut_at_stop(before[row], stop)
        # Without gaps, and the same tokens as without a stop string
        length = int(stopped.response_mask[row].sum())
        assert stopped.response_mask[row, :length].all()
        assert torch.equal(stopped.response_ids[row, :length], free.response_ids[row, :length])
    assert (stopped.response_ids[~stopped.response_mask] == END).all()
    assert (stopped.logps[~stopped.response_mask] == 0).all()


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("stopping", [False, True])
def test_the_stream_is_the_text_of_the_rollout(model, repeats, stopping):
    plain = rollout_of(model, repeats=repeats, temperature=0.9, top_k=50)
    stop = stops_of(texts_of(plain)) if stopping else []
    rollout = rollout_of(model, repeats=repeats, temperature=0.9, top_k=50, stop=stop)
    found: dict[int, list] = {row: [] for row in range(len(rollout))}
    for piece in stream(
        model,
        TOKENIZER,
        IDS,
        MASK,
        max_new_tokens=LENGTH,
        seeds=row_seeds(0, rows=len(rollout)),
        repeats=repeats,
        temperature=0.9,
        top_k=50,
        stop=stop,
    ):
        found[piece.row].append(piece)
    for text, mask, ended, row in zip(
        texts_of(rollout), rollout.response_mask, rollout.ended, found.values(), strict=True
    ):
        assert "".join(piece.text for piece in row) == cut_at_stop(text, stop)
        assert [piece.finish for piece in row[:-1]] == [None] * (len(row) - 1)
        assert row[-1].finish == ("stop" if ended else "length")
        assert row[-1].tokens == int(mask.sum())
        assert all(piece.text for piece in row[:-1])
    assert sum(map(len, found.values())) > 4 * len(rollout)  # it comes in pieces
    assert not stopping or any(stop[0] in text for text in texts_of(plain))


def counted(ready):
    """A prepared model that lists its decoding steps."""
    steps = []
    real = ready.decoder

    class Watched:
        device = torch.device("cpu")

        def decoder(self):
            state = real()
            step = state.step
            state.step = lambda tokens: (steps.append(len(tokens)), step(tokens))[1]
            return state

    return Watched(), steps


@pytest.mark.parametrize("way", [prepare, Generic])
def test_closing_the_stream_stops_decoding(model, way):
    ready, steps = counted(way(model))
    pieces = stream(
        ready, TOKENIZER, IDS, MASK, max_new_tokens=50, seeds=row_seeds(0, rows=4), eos_token_id=()
    )
    next(pieces)
    early = len(steps)
    pieces.close()
    assert early < 5 and len(steps) == early
    assert list(pieces) == []


def test_two_streams_do_not_disturb_each_other(model):
    ready = prepare(model)

    def start(seed):
        return stream(ready, TOKENIZER, IDS, MASK, max_new_tokens=12, seeds=row_seeds(seed, rows=4))

    alone = [list(start(seed)) for seed in (1, 2)]
    first, second, mixed = start(1), start(2), ([], [])
    for a in first:
        mixed[0].append(a)
        mixed[1].extend(next(second, None) for _ in range(2))
    mixed[1].extend(second)
    assert mixed[0] == alone[0] and [piece for piece in mixed[1] if piece is not None] == alone[1]


def test_between_pieces_gradients_are_as_the_caller_wants_them(model):
    for _ in stream(model, TOKENIZER, IDS, MASK, max_new_tokens=3, seeds=row_seeds(0, rows=4)):
        assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
