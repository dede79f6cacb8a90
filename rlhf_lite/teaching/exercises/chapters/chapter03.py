"""Chapter 3 (supervised fine-tuning): masks, accumulated losses, packing, perplexity."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlhf_lite.teaching.exercises.loading import Mistakes

Parts = list[Tensor]
MISTAKES: Mistakes = {}


def completion_mask(ids: Tensor, prompt_lengths: Tensor, end_id: int) -> Tensor:
    """Which tokens of a padded batch are in the loss?"""
    after = _after(ids, prompt_lengths)
    return after & _up_to_the_first((ids == end_id) & after)


def _up_to_the_first(ends: Tensor) -> Tensor:
    """True up to the first True of each row, which is included."""
    return ends.long().cumsum(1) - ends.long() == 0


def _after(ids: Tensor, prompt_lengths: Tensor) -> Tensor:
    """[B, S], True from the first token of the completion on."""
    return torch.arange(ids.shape[1]) >= prompt_lengths.unsqueeze(1)


MISTAKES["completion_mask"] = {
    "the end token dropped": lambda ids, p, end: _after(ids, p) & (ids != end),
    "padding counted": lambda ids, p, end: _after(ids, p),
    "the prompt counted": lambda ids, p, end: _up_to_the_first((ids == end) & _after(ids, p)),
    "an end token of the prompt ends the text": lambda ids, p, end:
        _after(ids, p) & _up_to_the_first(ids == end),
    "one position too early": lambda ids, p, end: completion_mask(ids, p - 1, end),
    "one position too late": lambda ids, p, end: completion_mask(ids, p, end) & _after(ids, p + 1),
    "the last position dropped": lambda ids, p, end:
        completion_mask(ids, p, end) & (torch.arange(ids.shape[1]) < ids.shape[1] - 1),
    "the mask inverted": lambda ids, p, end: ~completion_mask(ids, p, end),
}


def accumulated_loss(losses: Parts, masks: Parts) -> float:
    """The loss of a batch that was cut into micro-batches."""
    return sum(_sums(losses, masks)) / sum(_counts(masks))


def _sums(losses: Parts, masks: Parts) -> list[float]:
    return [float(torch.where(m, x, 0.0).sum()) for x, m in zip(losses, masks, strict=True)]


def _counts(masks: Parts) -> list[int]:
    return [int(m.sum()) for m in masks]


def _means(losses: Parts, masks: Parts) -> list[float]:
    return [total / n for total, n in zip(_sums(losses, masks), _counts(masks), strict=True)]


def _mean_of_texts(losses: Parts, masks: Parts) -> float:
    texts = [row for part in losses for row in part], [row for part in masks for row in part]
    return sum(_means(*texts)) / len(texts[0])


def _weighted_by_texts(losses: Parts, masks: Parts) -> float:
    weighted = [mean * len(part) for mean, part in zip(_means(losses, masks), losses, strict=True)]
    return sum(weighted) / sum(map(len, losses))


MISTAKES["accumulated_loss"] = {
    "a mean of means": lambda losses, masks: sum(_means(losses, masks)) / len(losses),
    "a sum of means": lambda losses, masks: sum(_means(losses, masks)),
    "a mean over texts": _mean_of_texts,
    "weighted by the number of texts": _weighted_by_texts,
    "padding counted": lambda losses, masks: accumulated_loss(losses, [m >= 0 for m in masks]),
    "divided by the padded size": lambda losses, masks:
        sum(_sums(losses, masks)) / sum(m.numel() for m in masks),
    "divided by the number of texts": lambda losses, masks: sum(_sums(losses, masks)) / sum(map(len, losses)),
    "multiplying by the mask": lambda losses, masks:
        sum(float((x * m).sum()) for x, m in zip(losses, masks, strict=True)) / sum(_counts(masks)),
}


def packed_positions(lengths: list[int], width: int) -> list[int]:
    """Position ids of a packed row."""
    return _filled(_within_texts(lengths), width)


def _within_texts(lengths: list[int]) -> list[int]:
    return [place for length in lengths for place in range(length)]


def _filled(positions: list[int], width: int) -> list[int]:
    return positions + [0] * (width - len(positions))


def _overlapping(lengths: list[int], width: int) -> list[int]:
    """Each text begins with the last position of the one before."""
    positions: list[int] = []
    for length in lengths:
        start = positions[-1] if positions else 0
        positions += range(start, start + length)
    return _filled(positions, width)


def _padding_goes_on(lengths: list[int], width: int) -> list[int]:
    return _within_texts([*lengths[:-1], lengths[-1] + width - sum(lengths)])


MISTAKES["packed_positions"] = {
    "positions that run on": lambda lengths, width: _filled(list(range(sum(lengths))), width),
    "counting from one": lambda lengths, width: _filled([p + 1 for p in _within_texts(lengths)], width),
    "the padding goes on counting": _padding_goes_on,
    "the padding forgotten": lambda lengths, width: _within_texts(lengths),
    "the number of the text": lambda lengths, width: _filled(
        [number for number, length in enumerate(lengths) for _ in range(length)], width
    ),
    "starts that overlap": _overlapping,
    "longest first": lambda lengths, width: packed_positions(sorted(lengths, reverse=True), width),
    "padding on the left": lambda lengths, width: [0] * (width - sum(lengths)) + _within_texts(lengths),
}


def packed_attention(texts: Tensor) -> Tensor:
    """The attention mask of a packed row."""
    return _same(texts) & _causal(texts)


def _causal(texts: Tensor) -> Tensor:
    return torch.ones(len(texts), len(texts)).tril().bool()


def _same(texts: Tensor) -> Tensor:
    return texts[:, None] == texts[None, :]


MISTAKES["packed_attention"] = {
    "causal, but across texts": _causal,
    "within texts, but not causal": _same,
    "transposed": lambda texts: packed_attention(texts).T,
    "not even oneself": lambda texts: _same(texts) & _causal(texts).tril(-1),
    "padding blotted out": lambda texts:
        packed_attention(texts) & (texts >= 0)[:, None] & (texts >= 0)[None, :],
    "earlier texts allowed": lambda texts: (texts[:, None] >= texts[None, :]) & _causal(texts),
    "the neighbour only": lambda texts: packed_attention(texts).triu(-1),
    "the mask inverted": lambda texts: ~packed_attention(texts),
}


def perplexity(losses: Tensor, counts: Tensor) -> float:
    """Perplexity of texts of different length."""
    return math.exp(_total(losses, counts) / int(counts.sum()))


def _total(losses: Tensor, counts: Tensor) -> float:
    return float(torch.where(counts > 0, losses * counts, 0.0).sum())


MISTAKES["perplexity"] = {
    "a mean over texts": lambda x, n: x[n > 0].mean().exp(),
    "the mean of the perplexities": lambda x, n: x[n > 0].exp().mean(),
    "the exponential before the mean": lambda x, n: (x.exp() * n)[n > 0].sum() / n.sum(),
    "no exponential": lambda x, n: _total(x, n) / int(n.sum()),
    "base two": lambda x, n: 2 ** (_total(x, n) / int(n.sum())),
    "the empty text spoils the sum": lambda x, n: ((x * n).sum() / n.sum()).exp(),
    "per text instead of per token": lambda x, n: math.exp(_total(x, n) / int((n > 0).sum())),
    "the sign": lambda x, n: math.exp(-_total(x, n) / int(n.sum())),
}
