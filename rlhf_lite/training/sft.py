"""Supervised fine-tuning: cross-entropy on the completion, never on the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from rlhf_lite.data.collate import pad_right
from rlhf_lite.functional import masked_sum
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.step import Hooks, Optimisation, Resume, batch_rows, micro_batches


@dataclass(frozen=True)
class Example:
    """Token ids of a prompt and its completion."""

    prompt: list[int]
    completion: list[int]


def encode_examples(
    tokenizer, texts: Sequence[tuple[str, str]], *, max_tokens: int, end: bool = True
) -> list[Example]:
    """Tokenise (prompt, completion) texts and append the end token.

    Prompt and completion together have at most ``max_tokens`` tokens. A completion that is cut gets no end
    token: the text does not end there.
    """
    prompts = tokenizer([p for p, _ in texts], add_special_tokens=False)["input_ids"]
    completions = tokenizer([c for _, c in texts], add_special_tokens=False)["input_ids"]
    examples = []
    for prompt, completion in zip(prompts, completions, strict=True):
        full = completion + ([tokenizer.eos_token_id] if end else [])
        kept = full[: max(0, max_tokens - len(prompt))]
        if prompt and kept:
            examples.append(Example(prompt, kept))
    return examples


def collate_examples(examples: Sequence[Example], pad_token_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask, and the completion's mask, each ``[B, S]``, padded on the right."""
    ids, mask = pad_right([e.prompt + e.completion for e in examples], pad_token_id)
    starts = torch.tensor([len(e.prompt) for e in examples]).unsqueeze(1)
    return ids, mask, mask & (torch.arange(ids.shape[1]).unsqueeze(0) >= starts)


@torch.no_grad()
def completion_loss(
    scorer: PolicyScorer, examples: Sequence[Example], *, pad_token_id: int, batch_size: int = 32
) -> float:
    """Mean cross-entropy of the completions, in nats per token."""
    total, count = 0.0, 0
    modes = [(module, module.training) for module in scorer.modules()]
    scorer.eval()
    for start in range(0, len(examples), batch_size):
        ids, mask, wanted = collate_examples(examples[start : start + batch_size], pad_token_id)
        total -= float(scorer.score(ids, mask, wanted).logps.sum())
        count += int(wanted.sum())
    for module, mode in modes:
        module.training = mode
    return total / count


def train_sft(
    scorer: PolicyScorer,
    examples: Sequence[Example],
    *,
    validation: Sequence[Example],
    pad_token_id: int,
    steps: int,
    batch_size: int,
    accumulation: int,
    learning_rate: float,
    warmup_steps: int,
    max_grad_norm: float,
    weight_decay: float,
    validate_every: int,
    seed: int,
    accelerator: Accelerator,
    hooks: Hooks,
    resume: Resume | None = None,
) -> None:
    """Train the scorer's trainable parameters on the completions.

    Every rank of a distributed run draws the same batch and takes its own rows; the loss is divided by the
    number of completion tokens in the *whole* batch, so that neither padding, nor accumulation, nor the
    number of processes changes the gradient.

    Metrics: ``loss/nats_per_token``, ``grad_norm``, ``learning_rate`` and, every ``validate_every`` steps and
    at the end, ``val_loss/nats_per_token``.
    """
    optimisation = Optimisation(
        scorer,
        accelerator=accelerator,
        learning_rate=learning_rate,
        warmup_steps=warmup_steps,
        total_steps=steps,
        max_grad_norm=max_grad_norm,
        weight_decay=weight_decay,
    )
    lengths = [len(example.prompt) + len(example.completion) for example in examples]
    done = 0
    if resume is not None:
        optimisation.load(resume.tensors)
        done = resume.step
    for step in range(done, steps):
        # Dropout draws from torch's global generator; a resumed run must draw the same.
        torch.manual_seed(seed * 1_000_003 + step)
        rows = batch_rows(len(examples), batch_size, step, seed=seed, lengths=lengths)
        tokens = sum(len(examples[row].completion) for row in rows)
        rate, total = optimisation.learning_rate, 0.0
        for part in micro_batches(rows, accumulation=accumulation, accelerator=accelerator):
            ids, mask, wanted = collate_examples([examples[row] for row in part], pad_token_id)
            hidden = scorer.body.trunk(ids, mask)
            scores = optimisation.module(hidden, ids, mask, wanted)
            # Processes average their gradients; the factor turns that average back into a sum.
            loss = -masked_sum(scores.logps, wanted) / tokens * accelerator.num_processes
            optimisation.backward(loss)
            total += float(loss.detach())
        norm = optimisation.step()
        total = float(accelerator.reduce(torch.tensor(total), "mean"))
        metrics = {"loss/nats_per_token": total, "grad_norm": norm, "learning_rate": rate}
        if validation and ((step + 1) % validate_every == 0 or step + 1 == steps):
            metrics["val_loss/nats_per_token"] = completion_loss(
                scorer, validation, pad_token_id=pad_token_id
            )
        hooks.on_step(step + 1, metrics)
        if hooks.save is not None and ((step + 1) % hooks.save_every == 0 or step + 1 == steps):
            hooks.save(step + 1, optimisation.tensors(), {})
