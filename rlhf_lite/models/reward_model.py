"""A reward model: a language model body, LoRA, and one linear score on the last token."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from rlhf_lite.data.collate import pad_right
from rlhf_lite.data.formatting import encode_whole
from rlhf_lite.files import write_json
from rlhf_lite.models.adapters import add_adapter, load_adapter, lora_config, save_adapter
from rlhf_lite.models.names import base_of, loading, resolve_model
from rlhf_lite.models.policy import Precision, load_tokenizer, pick_dtype
from rlhf_lite.models.trunk import SplitBody, split_body
from rlhf_lite.models.weights import load_weights

ADAPTER = "default"
SCALE_FILE = "reward_scale.json"


class RewardModel(nn.Module):
    """Scores texts with one number; higher means preferred.

    It is Hugging Face's sequence-classification model with one label and a PEFT adapter, so that plain
    ``transformers`` and ``peft`` code loads what :meth:`save` writes.

    Args:
        model: the PEFT model.
        tokenizer: pads with a token that :meth:`score_texts` never appends.
        name: folder or Hub id of the base model.
        top_layers: how many layers carry adapters.
        max_tokens: longer texts are cut by ``formatting.fit_lengths``.

    Attributes:
        template: how it was taught to read conversations, "chat" or "plain"; see ``data.chat``.
    """

    def __init__(self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, *, name: str,
                 top_layers: int | None, max_tokens: int) -> None:
        super().__init__()
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.top_layers, self.max_tokens = top_layers, max_tokens
        self.mean, self.std = 0.0, 1.0
        self.template: Literal["chat", "plain"] = "plain"
        base = model.get_base_model()
        self._shared: tuple[SplitBody, nn.Module] = (split_body(base.base_model, top_layers), base.score)

    @property
    def body(self) -> SplitBody:
        """The two halves of the transformer."""
        return self._shared[0]

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Raw scores ``[B]`` from trunk states ``[B, S, H]``, read at the last token that counts.

        Args:
            hidden: ``[B, S, H]`` from ``self.body.trunk`` (or from a policy with the same frozen trunk).
            mask: bool ``[B, S]``; True counts; at least one per row.
        """
        states = self.body.top(hidden, mask)
        last = mask.shape[1] - 1 - mask.long().flip(-1).argmax(-1)  # (B,)
        rows = torch.arange(len(last), device=last.device)
        return self._shared[1](states[rows, last].float()).squeeze(-1)

    def encode(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> tuple[Tensor, Tensor]:
        """Token ids and bool mask ``[B, S]``, padded on the right, where the model is; see `score_texts`."""
        rows = encode_whole(self.tokenizer, texts, prompts, max_tokens=self.max_tokens)
        return pad_right([row.ids for row in rows], self.tokenizer.pad_token_id, device=self.body.device)

    @torch.no_grad()
    def score_texts(self, texts: Sequence[str], prompts: Sequence[str] | None = None, *,
                    batch_size: int = 64) -> Tensor:
        """Raw scores ``[B]``, in order, on the CPU.

        Args:
            texts: whole texts, prompt and completion together.
            prompts: what each text begins with. A text that is too long then loses the beginning of its
                prompt before the end of its completion; without prompts it loses its end.
            batch_size: texts in one forward pass.
        """
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        scores = torch.empty(len(texts))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            heads = None if prompts is None else [prompts[i] for i in rows]
            ids, mask = self.encode([texts[i] for i in rows], heads)
            scores[rows] = self(self.body.trunk(ids, mask), mask).float().cpu()
        return scores

    def normalise(self, scores: Tensor) -> Tensor:
        """Raw scores on the scale where human text has mean 0 and standard deviation 1.

        Source: Ziegler et al. 2019.
        """
        return (scores - self.mean) / self.std

    def save(self, folder: Path) -> None:
        """Write adapter, score head, tokenizer and scale into ``folder``."""
        save_adapter(self.model, folder, ADAPTER, base=self.name)
        self.tokenizer.save_pretrained(str(folder))
        fields = ("mean", "std", "top_layers", "max_tokens", "template")
        write_json(folder / SCALE_FILE, {name: getattr(self, name) for name in fields})


def _classifier(name: str, precision: Precision,
                device: torch.device | None) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    model = load_weights(AutoModelForSequenceClassification, name, dtype=pick_dtype(precision), new_head=True,
                         num_labels=1)
    with loading(name, "a reward model"):
        model.to(device).requires_grad_(False)
        model.score.float()
    tokenizer = load_tokenizer(name, model=model)
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def new_reward_model(name_or_path: str | None, *, precision: Precision, rank: int, alpha: float,
                     dropout: float, top_layers: int | None, target_modules: Sequence[str] | str,
                     max_tokens: int, seed: int, device: torch.device | None = None) -> RewardModel:
    """An untrained reward model on ``device``; its score is zero everywhere until it is trained."""
    name = resolve_model(name_or_path)
    model, tokenizer = _classifier(name, precision, device)
    nn.init.zeros_(model.score.weight)
    config = lora_config(model, rank=rank, alpha=alpha, dropout=dropout, top_layers=top_layers,
                         target_modules=target_modules, task="SEQ_CLS")
    peft_model = add_adapter(model, config, ADAPTER, seed=seed)
    return RewardModel(peft_model, tokenizer, name=name, top_layers=top_layers, max_tokens=max_tokens)


def load_reward_model(folder: Path, *, precision: Precision = "auto",
                      device: torch.device | None = None) -> RewardModel:
    """Load what :meth:`RewardModel.save` wrote, onto ``device`` (None for the CPU).

    Raises:
        FileNotFoundError: if the folder holds no reward model.
        PhaseError: if its base model is not there, or something does not load.
    """
    settings, scale_file = folder / "adapter_config.json", folder / SCALE_FILE
    for file in (settings, scale_file):
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is not a reward model: {file.name} is missing")
    name = base_of(folder)
    scale = json.loads(scale_file.read_text(encoding="utf-8"))
    model, tokenizer = _classifier(name, precision, device)
    peft_model = load_adapter(model, folder, ADAPTER)
    peft_model.eval()
    reward = RewardModel(peft_model, tokenizer, name=name, top_layers=scale["top_layers"],
                         max_tokens=scale["max_tokens"])
    reward.mean, reward.std = scale["mean"], scale["std"]
    reward.template = scale.get("template", "plain")
    return reward
