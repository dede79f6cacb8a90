"""One line of the ablation: the same policy-gradient step, done one way. Started by ``ablation.py``."""

from __future__ import annotations

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Gate, e_share
from rlhf_lite.data.collate import pad_left
from rlhf_lite.functional import masked_mean, reinforce_loss, rloo_advantages
from rlhf_lite.models.adapters import add_adapter, lora_config, merged, using_adapter
from rlhf_lite.models.policy import PolicyScorer, load_policy
from rlhf_lite.models.runtime import keep_freed_memory
from rlhf_lite.rollout.decoder import Generic
from rlhf_lite.rollout.sampler import row_seeds, sample

POLICY = "policy"


class VariantStep:
    """The step of one variant."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        policy = load_policy(spec["model"], precision=spec["precision"])
        self.tokenizer = policy.tokenizer
        shape = lora_config(
            policy.model,
            rank=spec["rank"],
            alpha=2.0 * spec["rank"],
            dropout=0.0,
            top_layers=spec["top_layers"],
            target_modules=spec["target_modules"],
        )
        self.model = add_adapter(policy.model, shape, POLICY, seed=spec["seed"]).eval()
        layers = spec["top_layers"] if spec["shared_trunk"] else None
        self.scorer = PolicyScorer(self.model, top_layers=layers) if spec["wanted_only"] else None
        trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=spec["learning_rate"])

    def __call__(self, number: int) -> dict[str, float]:
        """One step; returns the seconds of its parts."""
        spec, started = self.spec, time.perf_counter()
        groups = spec["batch_size"] // spec["group_size"]
        texts = [row["prompt"] for row in spec["rows"][number * groups : (number + 1) * groups]]
        rows = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        rows = [row for row in rows for _ in range(spec["group_size"])]
        prompt_ids, prompt_mask = pad_left(rows, self.tokenizer.pad_token_id)
        completions = self.sample(prompt_ids, prompt_mask, number)
        sampled = time.perf_counter()

        ids = torch.cat([prompt_ids, completions], 1)
        mask = torch.cat([prompt_mask, torch.ones_like(completions, dtype=torch.bool)], 1)
        response_mask = torch.zeros_like(mask)
        response_mask[:, prompt_ids.shape[1] :] = True
        hidden = None
        if spec["shared_trunk"]:
            hidden = self.scorer.body.trunk(ids, mask)
        with torch.no_grad(), using_adapter(self.model, None):
            reference = self.logps(ids, mask, response_mask, hidden)
        texts = self.tokenizer.batch_decode(completions, skip_special_tokens=True)
        rewards = torch.tensor([e_share(text) for text in texts])
        scored = time.perf_counter()

        logps = self.logps(ids, mask, response_mask, hidden)
        kl = (logps.detach() - reference).where(response_mask, 0.0).sum(1)
        advantages = rloo_advantages(rewards - spec["kl_coef"] * kl, group_size=spec["group_size"])
        loss = masked_mean(reinforce_loss(logps, advantages.unsqueeze(1).expand_as(logps)), response_mask)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "sampling_seconds": sampled - started,
            "scoring_seconds": scored - sampled,
            "update_seconds": time.perf_counter() - scored,
        }

    def sample(self, prompt_ids: Tensor, prompt_mask: Tensor, number: int) -> Tensor:
        """Completions ``[B, T]``, all of the same length."""
        spec = self.spec
        length = spec["new_tokens"]
        folded = spec["sampling"] != "generate"
        with merged(self.model, POLICY) if folded else nullcontext():
            if spec["sampling"].startswith("generate"):
                with torch.no_grad():
                    full = self.model.generate(
                        input_ids=prompt_ids,
                        attention_mask=prompt_mask.long(),
                        do_sample=True,
                        top_k=0,
                        max_new_tokens=length,
                        min_new_tokens=length,
                        pad_token_id=self.tokenizer.pad_token_id,
                    )
                return full[:, prompt_ids.shape[1] :]
            model = self.model.get_base_model()
            return sample(
                Generic(model) if spec["sampling"] == "ours_generic" else model,
                prompt_ids,
                prompt_mask,
                max_new_tokens=length,
                eos_token_id=[],
                pad_token_id=self.tokenizer.pad_token_id,
                seeds=row_seeds(spec["seed"], number, rows=len(prompt_ids)),
            ).response_ids

    def logps(self, ids: Tensor, mask: Tensor, response_mask: Tensor, hidden: Tensor | None) -> Tensor:
        """Log-probabilities ``[B, S]`` of the completions' tokens, 0 elsewhere."""
        if self.scorer is None:
            logits = self.model(input_ids=ids, attention_mask=mask.long()).logits[:, :-1].float()
            picked = logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
            return torch.nn.functional.pad(picked, (1, 0)).where(response_mask, 0.0)
        if hidden is None:
            hidden = self.scorer.body.trunk(ids, mask)
        return self.scorer(hidden, ids, mask, response_mask).logps


def main() -> None:
    """Run steps until the parent says stop."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(spec["threads"])
    if spec["keep_memory"]:
        keep_freed_memory()
    step, gate = VariantStep(spec), Gate()
    gate.ready()
    number = 0
    while True:
        parts = step(number)
        gate.report(**parts)
        number += 1


if __name__ == "__main__":
    main()
