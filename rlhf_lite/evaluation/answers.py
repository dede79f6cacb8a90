"""Let a policy answer prompts, and measure every answer: the one way from a policy to scores per text.

    sft = EvalPolicy("sft", network, tokenizer, "reference")
    ppo = EvalPolicy("ppo", network, tokenizer, "policy")
    judges = Judges(reference=sft, gold=gold_judge)
    answers = measure(ppo, prompts, judges, max_new_tokens=16, seed=0)
    answers.scores["gold"], answers.scores["kl"]

Row i draws from the same random numbers for every policy, so that differences between policies can be tested
prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from rlhf_lite.data.formatting import encode_prompts, keep_end, start_tokens, token_ids
from rlhf_lite.data.words import words
from rlhf_lite.evaluation.eval_policy import (
    EvalPolicy,
    PromptRows,
    bare,
    decoded,
    encode_for,
    same_vocabulary,
    write,
)
from rlhf_lite.evaluation.judges import Judges
from rlhf_lite.evaluation.statistics import Interval, mean_ci
from rlhf_lite.evaluation.text_metrics import coherence
from rlhf_lite.functional import best_of_n_kl_bound
from rlhf_lite.rollout.rewards import Completions, Reward, evaluate, text_decoder
from rlhf_lite.rollout.sampler import row_seeds
from rlhf_lite.types import Rollout

# The seeds of evaluation samples are far from those of training steps.
_EVALUATION = 1_000_000
# Most answer tokens that are scored at once: each needs a row of logits over the vocabulary.
_SCORED = 4096


@dataclass(frozen=True, eq=False)
class Answers:
    """What one policy wrote and what every judge says; n = prompts x samples rows, samples adjacent.

    Attributes:
        policy: who wrote.
        prompts: how the policy read the prompts.
        samples: answers to each prompt.
        texts: n answers, without end token.
        ids: their tokens, the end token included.
        ended: bool ``[n]``; False where the length limit cut the text.
        scores: by measure ``[n]``, NaN where missing: gold, vader, toxicity, reward, kl (nats per sequence),
            reference_nats (minus log-probability under the judges' ``fluency``), reference_tokens, coherence
            and coherence_control (nats per token).
        missing: why a measure is not there at all.
    """

    policy: EvalPolicy
    prompts: PromptRows
    samples: int
    texts: list[str]
    ids: list[list[int]]
    ended: NDArray[np.bool_]
    scores: dict[str, NDArray[np.float64]]
    missing: dict[str, str]

    @cached_property
    def tokens(self) -> NDArray[np.float64]:
        """``[n]`` tokens of the policy's own tokenizer; another tokenizer's are another unit."""
        return np.array([len(row) for row in self.ids], dtype=np.float64)

    @cached_property
    def words(self) -> NDArray[np.float64]:
        """``[n]`` words: the unit in which lengths of different policies are compared."""
        return np.array([len(words(text)) for text in self.texts], dtype=np.float64)

    @cached_property
    def groups(self) -> NDArray[np.int64]:
        """``[n]`` the number of each answer's prompt; equal prompts are one."""
        numbers: dict[str, int] = {}
        each = [numbers.setdefault(text, len(numbers)) for text in self.prompts.texts]
        return np.repeat(each, self.samples)

    def mean(self, values: ArrayLike, *, seed: int) -> Interval | None:
        """Mean of the finite ``values`` ``[n]`` over prompts, with its interval; None if there is none."""
        array = np.asarray(values, dtype=np.float64)
        there = np.isfinite(array)
        return mean_ci(array[there], groups=self.groups[there], seed=seed) if there.any() else None

    def subset(self, prompts: slice) -> Answers:
        """The answers to some of the prompts."""
        chosen = np.arange(len(self.prompts.ids))[prompts]
        rows = (chosen[:, None] * self.samples + np.arange(self.samples)).ravel()
        read = PromptRows([self.prompts.ids[i] for i in chosen], [self.prompts.texts[i] for i in chosen],
                          [place for place, i in enumerate(chosen) if i in self.prompts.cut],
                          self.prompts.template)
        return replace(self, prompts=read, texts=[self.texts[i] for i in rows],
                       ids=[self.ids[i] for i in rows], ended=self.ended[rows],
                       scores={name: values[rows] for name, values in self.scores.items()})


@torch.no_grad()
def measure(policy: EvalPolicy, prompts: Sequence[str], judges: Judges, *, max_new_tokens: int,
            max_tokens: int | None = None, temperature: float = 1.0, samples: int = 1, seed: int,
            stop: Sequence[str] = (), with_coherence: bool = False, batch_size: int = 100) -> Answers:
    """Let a policy answer prompts, and ask every judge.

    The KL is that of the policies as they sample, at ``temperature``; perplexity and coherence are those of
    the model itself, at temperature 1, whatever wrote the text. The best of n has a distribution of its
    own, whose log-probabilities nobody can read off: its KL is given as the upper bound log n - (n - 1)/n,
    the same for every row.

    Args:
        policy: who writes.
        prompts: opening words, or in a chat a user's messages.
        judges: who judges.
        max_new_tokens: length limit of an answer.
        max_tokens: most tokens of prompt and answer, as in training; None is the model's window.
        temperature: of the sampling; 0 is greedy decoding, which has no KL.
        samples: answers to each prompt.
        seed: of every random number.
        stop: strings that end an answer.
        with_coherence: measure coherence too, at the price of two more passes over every text.
        batch_size: rows in memory at once, candidates of a best of n included.

    Raises:
        ValueError: if the policy is a best of n and the judges have no reward to choose by, or it is not the
            reference that it chooses from.
        ComparisonError: see `encode_for` and `Judges.of_texts`.
    """
    own, reference = (policy.model, policy.adapter), (judges.reference.model, judges.reference.adapter)
    if policy.best_of > 1 and (judges.reward is None or own != reference or samples > 1):
        raise ValueError(
            f"{policy.name} is a best of {policy.best_of}: that needs a reward to choose by, one answer to "
            "each prompt, and is measured for the reference policy only, from which its KL is known"
        )
    read = encode_for(policy, prompts, max_new_tokens=max_new_tokens, max_tokens=max_tokens, chat=judges.chat)
    rollouts = write(policy, read.ids, max_new_tokens=max_new_tokens, temperature=temperature,
                     seeds=row_seeds(seed, _EVALUATION, rows=len(prompts) * samples * policy.best_of),
                     samples=samples, stop=stop, reward=judges.reward, batch_size=batch_size)
    texts, ids = decoded(policy, rollouts, stop=stop)
    reading = _Reading(policy, read, samples, rollouts, texts, ids)
    scores, missing = _under_reference(reading, judges, temperature)
    if not with_coherence:
        missing["coherence"] = "it was switched off"
    elif coherent := reading.coherence(judges, -scores["reference_nats"], seed=seed):
        scores |= coherent
    else:
        missing["coherence"] = "it needs at least three different prompts"
    with bare([policy, judges.reference]):
        scores |= judges.of_texts([prompt for prompt in prompts for _ in range(samples)], texts)
    for name in ("gold", "reward"):
        if name not in scores:
            missing[name] = "no such judge was given"
    ended = np.concatenate([rollout.ended.cpu().numpy() for rollout in rollouts])
    return Answers(policy, read, samples, texts, ids, ended, scores, missing)


@dataclass(frozen=True)
class _Reading:
    """Answers to be read by the policy itself and by others."""

    policy: EvalPolicy
    prompts: PromptRows
    samples: int
    rollouts: Sequence[Rollout]
    texts: Sequence[str]
    ids: list[list[int]]

    def together(
        self, wanted: Sequence[tuple[str | None, float]], reward: Reward | None
    ) -> tuple[dict[tuple[str | None, float], NDArray[np.float64]], NDArray[np.float64] | None]:
        """One pass over all answers on the policy's own network.

        Args:
            wanted: adapters, each with a temperature.
            reward: scores the completions from the states of the same pass; or None.

        Returns:
            Log-probabilities ``[n]`` of the answers, by adapter and temperature, and the raw scores ``[n]``.
        """
        if not wanted and reward is None:
            return {}, None
        raw = []
        logps: dict[tuple[str | None, float], list[Tensor]] = {key: [] for key in wanted}
        for rollout in _pieces(self.rollouts):
            scored, hidden = self.policy.network.score(rollout, wanted)
            for key, values in scored.items():
                logps[key].append(values)
            if reward is not None:
                batch = Completions.of(rollout, eos_token_id=self.policy.end_tokens(),
                                       decode=text_decoder(self.policy.tokenizer),
                                       trunk=lambda *_, hidden=hidden: hidden)
                raw.append(evaluate(reward, batch, name="rm").raw.double())
        table = {key: torch.cat(parts).cpu().numpy() for key, parts in logps.items()}
        return table, torch.cat(raw).cpu().numpy() if raw else None

    def rows_for(self, reader: EvalPolicy) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and answers in the tokens of another policy, cut to its window: a prompt keeps its end."""
        prompts, ids = self.prompts.ids, self.ids
        if not same_vocabulary(self.policy.tokenizer, reader.tokenizer):
            ids = token_ids(reader.tokenizer, self.texts, start=False)
            prompts = encode_prompts(reader.tokenizer, self.prompts.texts)
        heads = [row for row in prompts for _ in range(self.samples)]
        window = reader.window()
        if window is None:
            return heads, ids
        ids, start = [row[: window - 1] for row in ids], start_tokens(reader.tokenizer)
        rows = zip(heads, ids, strict=True)
        return [keep_end(head, window - len(row), start) for head, row in rows], ids

    def coherence(self, judges: Judges, own: NDArray[np.float64], *,
                  seed: int) -> dict[str, NDArray[np.float64]]:
        """Coherence of every answer with its prompt, and the control; empty with too few prompts."""
        reader = judges.fluency or judges.reference
        heads, ids = self.rows_for(reader)
        if len(set(map(tuple, heads))) < 3:  # prompts that lost their beginning may have become equal
            return {}
        logps = partial(reader.network.logps, adapter=reader.adapter)
        score, control = coherence(logps, heads, ids, seed=seed, own=own)
        return {"coherence": score, "coherence_control": control}


def _pieces(rollouts: Sequence[Rollout]) -> Iterator[Rollout]:
    """The rollouts, cut where one pass over all rows would need too many logits."""
    for rollout in rollouts:
        count, width = rollout.response_ids.shape
        step = max(1, _SCORED // width)
        if count <= step:
            yield rollout
            continue
        fields = {name: value for name, value in vars(rollout).items() if value is not None}
        for start in range(0, count, step):
            yield Rollout(**{name: value[start : start + step] for name, value in fields.items()})


def _under_reference(reading: _Reading, judges: Judges,
                     temperature: float) -> tuple[dict[str, NDArray[np.float64]], dict[str, str]]:
    """KL, reward and perplexity of what one policy wrote, and the reasons for what cannot be had."""
    policy, reference, fluency = reading.policy, judges.reference, judges.fluency or judges.reference
    missing: dict[str, str] = {}
    if temperature == 0:
        missing["kl"] = "greedy decoding gives its one text probability 1: the log-ratio says nothing"
    elif not same_vocabulary(policy.tokenizer, reference.tokenizer):
        missing["kl"] = (f"its vocabulary is not that of the reference {reference.name}: log-probabilities "
                         "of different tokens cannot be compared")
    asked = [] if "kl" in missing else [(policy, temperature), (reference, temperature)]
    asked.append((fluency, 1.0))
    here = [(reader.adapter, heat) for reader, heat in asked if reader.model is policy.model]
    table, raw = reading.together(list(dict.fromkeys(here)), judges.reward)

    def logps(reader: EvalPolicy, heat: float) -> NDArray[np.float64]:
        if reader.model is policy.model:
            return table[reader.adapter, heat]
        heads, ids = reading.rows_for(reader)
        return reader.network.logps(heads, ids, adapter=reader.adapter, temperature=heat)

    lengths = np.array([len(row) for row in reading.rows_for(fluency)[1]], dtype=np.float64)
    scores = {"reference_nats": -logps(fluency, 1.0), "reference_tokens": lengths}
    if "kl" not in missing:
        ratio = logps(policy, temperature) - logps(reference, temperature)
        scores["kl"] = ratio + best_of_n_kl_bound(policy.best_of)
    if raw is not None:
        scores["reward"] = raw
    return scores, missing
