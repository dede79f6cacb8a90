"""What a policy-gradient trainer is handed, and how to train a model that has no adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from rlhf_lite.models.policy import PolicyScorer, TokenScores
from rlhf_lite.rollout.rewards import Decode, Reward


@dataclass(frozen=True)
class PolicyGradientSetup:
    """Policy, reference and reward of a policy-gradient trainer.

    With adapters, ``pipeline.phases`` builds it. For a small model all of whose weights are trained::

        model.requires_grad_(True)
        PolicyGradientSetup(
            scorer=PolicyScorer(model, top_layers=None),   # with value_head=ValueHead(hidden_size) for PPO
            reference=frozen_reference(model),             # a copy of the weights as they are now
            sampling=lambda: nullcontext(model),
            reward=lambda batch: table[batch.response_ids],
            eos_token_id=None,                             # every response has full length
            pad_token_id=0,
        )

    Attributes:
        scorer: the policy (for PPO with its value head); what has ``requires_grad`` is trained.
        reference: a context in which ``scorer`` computes the reference policy; None where nothing is paid for
            the distance to it, which then is not measured either.
        sampling: a context that yields a model ready to sample the current policy.
        reward: see ``rollout.rewards``; any function of ``Completions``.
        eos_token_id: ends a continuation; None where there is none.
        pad_token_id: fills rows.
        decode: rows of token ids to texts, for rewards that read texts; None without a tokenizer.
    """

    scorer: PolicyScorer
    reference: Callable[[], AbstractContextManager[None]] | None
    sampling: Callable[[], AbstractContextManager[object]]
    reward: Reward
    eos_token_id: int | None
    pad_token_id: int
    decode: Decode | None = None


class LiveScorer(nn.Module):
    """A scorer whose embeddings are trained too: it computes them anew instead of taking stored states."""

    def __init__(self, scorer: PolicyScorer) -> None:
        super().__init__()
        self.scorer = scorer

    def forward(
        self, hidden: Tensor, ids: Tensor, mask: Tensor, score_mask: Tensor, **options: float | bool
    ) -> TokenScores:
        """As ``PolicyScorer.forward``; ``hidden`` is ignored."""
        embedded = self.scorer.body.lower.get_input_embeddings()(ids)
        return self.scorer(embedded, ids, mask, score_mask, **options)


def trainable_module(scorer: PolicyScorer) -> nn.Module:
    """The module to optimise: the scorer, or a :class:`LiveScorer` if the embeddings are trained.

    Raises:
        ValueError: if layers of the trunk, which is computed once per batch, are trained.
    """
    body = scorer.body
    if not any(parameter.requires_grad for parameter in body.lower.parameters()):
        return scorer
    if body.depth > 0:
        raise ValueError(
            f"weights of the embedding or of the first {body.depth} layers are trained, but this trunk is "
            "computed once per batch: build the PolicyScorer with top_layers=None, or freeze them"
        )
    return LiveScorer(scorer)


def frozen_reference(model: nn.Module) -> Callable[[], AbstractContextManager[None]]:
    """A context in which ``model`` has the trainable weights that it has now, for runs without adapters."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    copies = [parameter.detach().clone() for parameter in trained]

    @contextmanager
    def reference() -> Iterator[None]:
        current = [parameter.data for parameter in trained]
        try:
            for parameter, copy in zip(trained, copies, strict=True):
                parameter.data = copy
            yield
        finally:
            for parameter, data in zip(trained, current, strict=True):
                parameter.data = data

    return reference
