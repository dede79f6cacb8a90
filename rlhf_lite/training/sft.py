"""Supervised fine-tuning: cross-entropy on the completion, never on the prompt.

Several examples are not packed into one row. Batches of similar length do that work: on the movie reviews (6
to 40 tokens, batches of 16) padding is 7 % of the tokens, instead of 36 % in batches drawn at random, and a
packed row would need an attention mask with a block for each example.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_lite.data.collate import pad_right
from rlhf_lite.data.formatting import (
    Template,
    chat_template,
    common_length,
    encode_prompts,
    fit_lengths,
    keep_end,
    start_tokens,
    token_ids,
    with_end,
)
from rlhf_lite.data.row_counts import EMPTY, RowCounts
from rlhf_lite.functional import masked_sum
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.settings import OptimiserSettings, RunSettings
from rlhf_lite.training.step import Optimisation, Progress, evaluating, require_frozen_trunk
from rlhf_lite.types import Message


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its completion.

    Attributes:
        prompt: at least one token: nothing predicts the first.
        completion: what follows.
        counts: for each token of the completion, whether the loss includes it; None means all of them. A
            conversation goes on after its first answer with tokens that nobody should learn to say.
    """

    prompt: list[int]
    completion: list[int]
    counts: list[bool] | None = None

    @property
    def size(self) -> int:
        """Number of tokens of prompt and completion."""
        return len(self.prompt) + len(self.completion)

    @property
    def counted(self) -> int:
        """Number of tokens that the loss includes."""
        return len(self.completion) if self.counts is None else sum(self.counts)


def encode_examples(tokenizer, texts: Sequence[tuple[str, str]], *, max_tokens: int, end: bool = True,
                    counts: RowCounts | None = None) -> list[Example]:
    """Tokenise (prompt, completion) texts and append the end token.

    What is too long is cut by ``formatting.fit_lengths``. A completion that is cut gets no end token: the
    text does not end there. Without a prompt, the context is the start token.

    Args:
        tokenizer: adds no special tokens.
        texts: prompts, which may be empty, with completions.
        max_tokens: most tokens of both together.
        end: append the end token to completions that a chat template has not ended.
        counts: takes down what was cut and left out.
    """
    counts = RowCounts() if counts is None else counts
    prompts = encode_prompts(tokenizer, [p for p, _ in texts])
    completions = token_ids(tokenizer, [c for _, c in texts], start=False)
    completions = with_end(tokenizer, completions) if end else completions
    examples, head = [], start_tokens(tokenizer)
    for prompt, full in zip(prompts, completions, strict=True):
        if not full:
            counts.leave(EMPTY)
            continue
        before, after = fit_lengths(len(prompt), len(full), max_tokens)
        counts.measure(len(prompt) + len(full))
        counts.use(prompt_cut=before < len(prompt), answer_cut=after < len(full))
        examples.append(Example(keep_end(prompt, before, head), full[:after]))
    return examples


def encode_chats(tokenizer, chats: Sequence[Sequence[Message]], *, max_tokens: int,
                 template: Template | None = None, counts: RowCounts | None = None) -> list[Example]:
    """Tokenise conversations for a loss on every turn of the assistant, and on nothing else.

    What the template writes before an answer belongs to the context, and what it writes to end the answer
    belongs to the answer, so that the model learns to stop. The pieces are tokenised apart: no token spans
    the boundary.

    Args:
        tokenizer: its chat template is used, or the plain transcript if it has none.
        chats: messages from the first to the last.
        max_tokens: a longer conversation is cut by ``formatting.fit_lengths``, all before its last answer is
            the prompt. An answer that lost its beginning does not count.
        template: another template.
        counts: takes down what was cut, and conversations without an answer.

    Raises:
        ValueError: if the template writes a conversation differently once it goes on, so that there is no
            boundary between context and answer.
    """
    # A model's own template writes every special token itself.
    raw, template = bool(template) or not tokenizer.chat_template, template or chat_template(tokenizer)
    rows = RowCounts() if counts is None else counts
    examples, head = [], start_tokens(tokenizer)
    for chat in chats:
        ids: list[int] = []
        said: list[bool] = []
        last = 0  # where the last answer starts
        for text, counted in _chat_pieces(chat, template):
            (piece,) = token_ids(tokenizer, [text], start=raw and not ids)
            last = len(ids) if counted else last
            ids, said = ids + piece, said + [counted] * len(piece)
        if not last:
            rows.leave(EMPTY)
            continue
        before, after = fit_lengths(last, len(ids) - last, max_tokens)
        rows.measure(len(ids))
        rows.use(prompt_cut=before < last, answer_cut=last + after < len(ids))
        said = said[last - before : last + after]
        if before < last:  # an answer that stands first now may have lost its beginning
            broken = [*said[:before], False].index(False)
            said[:broken] = [False] * broken
        ids = keep_end(ids[:last], before, head) + ids[last : last + after]
        first = said.index(True)
        rest = said[first:]
        examples.append(Example(ids[:first], ids[first:], None if all(rest) else rest))
    return examples


def _chat_pieces(chat: Sequence[Message], template: Template) -> Iterator[tuple[str, bool]]:
    """The rendered conversation in pieces, each with whether the assistant says it."""
    done = ""
    for number, message in enumerate(chat):
        if message.role != "assistant":
            continue
        context, answered = template(chat[:number], True), template(chat[: number + 1], False)
        for text, counted in ((context, False), (answered, True)):
            if not text.startswith(done):
                place = common_length(text, done)
                raise ValueError(f"the chat template has no boundary around turn {number + 1}: from "
                                 f"character {place} it writes {text[place : place + 40]!r} where it wrote "
                                 f"{done[place : place + 40]!r} for the turns before. Use "
                                 "formatting.plain_text, or another template")
            if len(text) > len(done):
                yield text[len(done) :], counted
            done = text


def collate_examples(examples: Sequence[Example], pad_token_id: int, *,
                     device: torch.device | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask, and the completion's mask, each ``[B, S]``, padded on the right, on ``device``."""
    ids, mask = pad_right([e.prompt + e.completion for e in examples], pad_token_id)
    starts = torch.tensor([len(e.prompt) for e in examples]).unsqueeze(1)
    score_mask = mask & (torch.arange(ids.shape[1]).unsqueeze(0) >= starts)
    for row, example in enumerate(examples):
        if example.counts is not None:
            score_mask[row, len(example.prompt) : example.size] = torch.tensor(example.counts)
    return ids.to(device), mask.to(device), score_mask.to(device)


def completion_loss(scorer: PolicyScorer, examples: Sequence[Example], *, pad_token_id: int,
                    batch_size: int = 32) -> float:
    """Mean cross-entropy of the completions, in nats per token."""
    total, count = 0.0, 0
    with evaluating(scorer):
        for start in range(0, len(examples), batch_size):
            part = examples[start : start + batch_size]
            ids, mask, score_mask = collate_examples(part, pad_token_id, device=scorer.device)
            total -= float(scorer.score(ids, mask, score_mask).logps.sum())
            count += int(score_mask.sum())
    return total / count


def train_sft(scorer: PolicyScorer, examples: Sequence[Example], *, pad_token_id: int,
              optimiser: OptimiserSettings, run: RunSettings, validation: Sequence[Example] = ()) -> None:
    """Train the scorer's trainable parameters on the completions.

    Every rank of a distributed run draws the same batch and takes its own rows; the loss is divided by the
    number of completion tokens in the *whole* batch, so that neither padding, nor accumulation, nor the
    number of processes changes the gradient.

    Metrics: ``loss/nats_per_token``, ``grad_norm``, ``learning_rate`` and, with ``validation``, every
    ``run.validate_every`` steps and at the end, ``val_loss/nats_per_token``.
    """
    require_frozen_trunk(scorer.body)
    scorer.body.checkpoint_top(run.gradient_checkpointing)
    optimisation = Optimisation(scorer, optimiser, run)
    progress = Progress(optimisation, run)
    device = scorer.device
    for step, rows, parts in progress.batches([example.size for example in examples]):
        tokens = sum(examples[row].counted for row in rows)
        rate, total = optimisation.learning_rate, torch.zeros((), device=device)
        for part in parts:
            batch = collate_examples([examples[row] for row in part], pad_token_id, device=device)
            ids, mask, score_mask = batch
            hidden = scorer.body.trunk(ids, mask)
            scores = optimisation.module(hidden, ids, mask, score_mask)
            loss = -masked_sum(scores.logps, score_mask) / tokens
            seen = {"rows": torch.tensor(part), "ids": ids, "mask": mask, "score_mask": score_mask}
            optimisation.backward(loss, seen)
            total += loss.detach()
        norm = optimisation.step()
        total = float(run.accelerator.reduce(total, "sum"))
        metrics = {"loss/nats_per_token": total, "grad_norm": norm, "learning_rate": rate}
        if validation and progress.due(step, run.validate_every):
            loss = completion_loss(scorer, validation, pad_token_id=pad_token_id)
            metrics["val_loss/nats_per_token"] = loss
        progress.record(step, metrics)
