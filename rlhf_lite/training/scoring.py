"""Log-probabilities of given completions, with everything that never changes computed once.

Two things about a completion stay the same for a whole run: what the frozen layers below the adapters make of
it, and how likely the reference finds it. Both are computed in one pass before training.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from rlhf_lite.functional import sequence_logps
from rlhf_lite.models.policy import PolicyScorer
from rlhf_lite.training.batches import compute_by_length, micro_batches
from rlhf_lite.training.sft import Example, collate_examples
from rlhf_lite.training.step import evaluating

Reference = Callable[[], AbstractContextManager[object]]
# Completions in one forward pass without gradient.
_ROWS = 16


class CompletionScorer:
    """Scores the same completions again and again.

    Args:
        scorer: the policy.
        examples: prompts and completions; every prompt has at least one token.
        pad_token_id: fills rows.
        accelerator: its processes share the reference pass.
        cache_megabytes: memory for the frozen layers' states; what does not fit is computed for every batch.
            With several processes nothing is kept: each sees other rows in every epoch.
        name: of the reference's log-probabilities in a checkpoint.

    Raises:
        ValueError: if a prompt or a completion is empty.
    """

    def __init__(self, scorer: PolicyScorer, examples: Sequence[Example], *, pad_token_id: int,
                 accelerator: Accelerator, cache_megabytes: int = 0, name: str = "reference") -> None:
        for i, example in enumerate(examples):
            if not example.prompt or not example.completion:
                raise ValueError(f"row {i} lacks a prompt or a completion: nothing predicts a first token")
        self.examples = examples
        self.lengths = torch.tensor([example.counted for example in examples], device=scorer.device)
        """Tokens of each completion ``[N]``."""
        self.reference_logps: Tensor | None = None
        """Summed log-probabilities ``[N]`` under the reference, in nats; NaN where nobody asked."""
        self._names = (f"{name}/logps", f"{name}/key")
        self._scorer, self._pad, self._accelerator = scorer, pad_token_id, accelerator
        self._states: dict[int, Tensor] = {}
        # With no layer below the adapters the states are embeddings: a look-up costs nothing.
        keep = accelerator.num_processes == 1 and scorer.body.depth > 0
        self._room = cache_megabytes * 2**20 if keep else 0

    def logps(self, rows: Sequence[int], module: nn.Module | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Summed log-probabilities ``[B]`` of some completions, and the tokens they were computed from.

        Args:
            rows: indices of the completions.
            module: what to call; the scorer itself by default, or the optimiser's view of it.
        """

        def compute(places: list[int]) -> tuple[Tensor, dict[str, Tensor]]:
            part = [rows[place] for place in places]
            ids, mask, score_mask = self._batch(part)
            logps = (module or self._scorer)(self._hidden(part, ids, mask), ids, mask, score_mask).logps
            return sequence_logps(logps, score_mask), {"ids": ids, "mask": mask, "score_mask": score_mask}

        return compute_by_length([self.examples[row].size for row in rows], compute)

    def _batch(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        return collate_examples([self.examples[row] for row in rows], self._pad, device=self._scorer.device)

    def _hidden(self, rows: Sequence[int], ids: Tensor, mask: Tensor) -> Tensor:
        """The frozen layers' states ``[B, S, H]``, from memory if every row is there."""
        if not all(row in self._states for row in rows):
            return self._scorer.body.trunk(ids, mask)
        # Padding is masked out above, so that any state will do there.
        return nn.utils.rnn.pad_sequence([self._states[row] for row in rows], batch_first=True)

    @torch.no_grad()
    def prepare(self, reference: Reference | None, *, rows: Sequence[int],
                known: Tensor | None = None) -> None:
        """Compute what never changes, without dropout, for the completions that the run will use.

        Every process takes its share of the reference pass. Its order depends on the data alone, so that a
        resumed run computes the same numbers in the same batches.

        Args:
            reference: a context in which the scorer computes the reference policy; None if there is none.
            rows: the completions that will be used.
            known: the reference's log-probabilities ``[N]`` as far as they have been computed before, NaN
                elsewhere.

        Raises:
            ValueError: if ``known`` has another length, or lacks a row and there is no reference to ask.
        """
        n, device = len(self.examples), self._scorer.device
        if known is not None and known.shape != (n,):
            raise ValueError(f"the reference log-probabilities have shape {tuple(known.shape)}, for {n} "
                             "completions")
        order = sorted(rows, key=lambda row: self.examples[row].size)
        for start in range(0, len(order), _ROWS):
            self._keep(order[start : start + _ROWS])
        if known is None and reference is None:
            return
        logps = torch.full((n,), torch.nan, device=device) if known is None else known.to(device, copy=True)
        missing = [row for row in order if bool(logps[row].isnan())]
        if missing and reference is None:
            raise ValueError(f"known_reference lacks {len(missing)} of the rows, and there is no reference "
                             "to ask")
        if missing:
            logps[missing] = self._ask(reference, missing)
        self.reference_logps = logps

    def _ask(self, reference: Reference, rows: Sequence[int]) -> Tensor:
        """The reference's log-probabilities of some completions, each process computing its share."""
        sums = torch.zeros(len(rows), device=self._scorer.device)
        with evaluating(self._scorer):
            for places in micro_batches(list(range(len(rows))), size=_ROWS, accelerator=self._accelerator):
                with reference():
                    sums[places] = self.logps([rows[place] for place in places])[0]
        return self._accelerator.reduce(sums, "sum")

    def _keep(self, rows: Sequence[int]) -> None:
        """Put the frozen layers' states of some rows into memory, while there is room."""
        if self._room <= 0:
            return
        ids, mask, _ = self._batch(rows)
        with evaluating(self._scorer):
            hidden = self._scorer.body.trunk(ids, mask)
        for row, states in zip(rows, hidden, strict=True):
            # A copy: a slice would keep the whole padded batch alive.
            own = states[: self.examples[row].size].clone()
            self._room -= own.numel() * own.element_size()
            if self._room < 0:
                break
            self._states[row] = own

    def key(self) -> Tensor:
        """A number that tells these completions from others."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(repr((example.prompt, example.completion)).encode())
        return torch.tensor(int.from_bytes(digest.digest()[:7], "big"))

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint holds, so that a resumed run need not ask the reference again."""
        if self.reference_logps is None:
            return {}
        return dict(zip(self._names, (self.reference_logps, self.key()), strict=True))

    def saved_reference(self, tensors: Mapping[str, Tensor]) -> Tensor | None:
        """The reference log-probabilities in a checkpoint, or None if it has none.

        Raises:
            ValueError: if they belong to other data.
        """
        logps, key = self._names
        if logps not in tensors:
            return None
        if int(tensors[key]) != int(self.key()):
            raise ValueError("the checkpoint was made with other completions than these: resume with the "
                             "data it was made with, or start anew")
        return tensors[logps].clone()
