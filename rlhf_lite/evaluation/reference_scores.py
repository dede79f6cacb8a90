"""What the reference says about the texts of a policy: KL, surprise, and coherence with the prompt."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.formatting import encode_prompts
from rlhf_lite.evaluation.coherence import coherence
from rlhf_lite.evaluation.entrants import Continuations, Entrant, Network, PromptRows, same_vocabulary

__all__ = ["under_reference"]


def under_reference(
    entrant: Entrant,
    anchor: Entrant,
    network: Callable[[Entrant], Network],
    rows: PromptRows,
    written: Continuations,
    *,
    samples: int,
    temperature: float,
    with_coherence: bool,
    seed: int,
) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """KL, perplexity and coherence of what one policy wrote, and the reasons for what cannot be had.

    Args:
        entrant: who wrote.
        anchor: the reference.
        network: gives the network of a policy, made once.
        rows: the prompts, as the policy read them.
        written: what it wrote.
        samples: texts per prompt.
        temperature: of the sampling. The KL is that of the tempered policies; perplexity and coherence are
            those of the untempered reference.
        with_coherence: two more passes over every text.
        seed: draws the other prompts that coherence needs.

    Returns:
        Arrays ``[n]`` by measure (see `compare.Answers`), and by measure the reason why it is missing.
    """
    prompts = [row for row in rows.ids for _ in range(samples)]
    shared = same_vocabulary(entrant.tokenizer, anchor.tokenizer)
    judge, missing, kl = network(anchor), {}, None
    if temperature == 0:
        missing["kl"] = "greedy decoding gives its one text probability 1: the log-ratio says nothing"
    elif not shared:
        missing["kl"] = (
            f"its vocabulary is not that of the reference {anchor.name}: log-probabilities of different "
            "tokens cannot be compared"
        )
    if shared:
        ids, heads = written.ids, prompts
    else:  # the reference reads the text with its own tokens
        ids = [list(row) for row in anchor.tokenizer(written.texts, add_special_tokens=False)["input_ids"]]
        heads = [row for row in encode_prompts(anchor.tokenizer, rows.texts) for _ in range(samples)]
    heads, ids = _fitted(heads, ids, anchor.window())
    if entrant.model is anchor.model:
        pair = [entrant.adapter, anchor.adapter]
        own, right = judge.logps(heads, ids, adapters=pair, temperature=temperature or 1.0)
    else:
        (right,) = judge.logps(heads, ids, adapters=[anchor.adapter], temperature=temperature or 1.0)
        own = right
        if "kl" not in missing:
            (own,) = network(entrant).logps(heads, ids, adapters=[entrant.adapter], temperature=temperature)
    if "kl" not in missing:
        kl = own - right
    if temperature not in (0, 1):  # perplexity and coherence are those of the untempered reference
        (right,) = judge.logps(heads, ids, adapters=[anchor.adapter])
    lengths = np.array([len(row) for row in ids], dtype=np.float64)
    found = {"reference_nats": -right, "reference_tokens": lengths}
    if kl is not None:
        found["kl"] = kl
    if not with_coherence:
        missing["coherence"] = "it was switched off"
    elif len({tuple(head) for head in heads}) < 3:
        missing["coherence"] = "it needs at least three different prompts"
    else:
        score, control = coherence(
            lambda a, b: judge.logps(a, b, adapters=[anchor.adapter])[0], heads, ids, seed=seed, own=right
        )
        found |= {"coherence": score, "coherence_control": control}
    return found, missing


def _fitted(
    heads: list[list[int]], ids: list[list[int]], window: int | None
) -> tuple[list[list[int]], list[list[int]]]:
    """Rows that fit the reference's window: a prompt loses its beginning, as everywhere."""
    if window is None:
        return heads, ids
    ids = [row[: window - 1] for row in ids]
    return [head[-(window - len(row)) :] for head, row in zip(heads, ids, strict=True)], ids
