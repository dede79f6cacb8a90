"""One side of the sampling benchmark, in a process of its own. Started by ``sampling.py``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.common import Gate
from rlhf_lite.data.collate import pad_left
from rlhf_lite.models.adapters import add_adapter, lora_config, lora_layers, merged
from rlhf_lite.models.policy import load_policy
from rlhf_lite.models.runtime import keep_freed_memory
from rlhf_lite.rollout.decoder import Generic, prepare, prepare_llama
from rlhf_lite.rollout.draw import LogitRules
from rlhf_lite.rollout.sampler import decode, row_seeds, sample

POLICY = "policy"


class Work:
    """The model, an adapter on all of its linear layers, and prompts of 5 to 8 tokens.

    Args:
        spec: ``batch``, ``tokens`` (per row), ``group`` (rows per prompt), ``early`` (whether half of the
            rows end before the limit), ``precision``, ``seed``.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.tokens, self.group = spec, spec["tokens"], spec["group"]
        policy = load_policy(precision=spec["precision"])
        shape = lora_config(policy.model, rank=16, alpha=32.0, dropout=0.0, top_layers=None)
        self.peft = add_adapter(policy.model, shape, POLICY, seed=0).eval()
        self.model, self.pad = policy.model, policy.tokenizer.pad_token_id
        generator = torch.Generator().manual_seed(spec["seed"])
        for layer in lora_layers(self.peft):  # B is zero in a new adapter
            layer.lora_B[POLICY].weight.data.normal_(0, 0.01, generator=generator)
        rows = [
            torch.randint(1000, 40000, (5 + row % 4,), generator=generator).tolist()
            for row in range(spec["batch"] // self.group)
        ]
        self.prompts = pad_left(rows, self.pad)
        self.rows = tuple(tensor.repeat_interleave(self.group, 0) for tensor in self.prompts)
        self.seeds = row_seeds(spec["seed"], rows=spec["batch"])
        # Half of the rows end somewhere between the first token and the last, the others at the last.
        ends = torch.randint(1, self.tokens + 1, (spec["batch"],), generator=generator)
        late = torch.arange(spec["batch"]) % 2 == 0
        self.limits = ends.where(~late, self.tokens) if spec["early"] else torch.full_like(ends, self.tokens)

    def generate(self, model: torch.nn.Module, *, greedy: bool = False) -> Tensor:
        """The new tokens ``[B, T]`` of ``transformers.generate``."""
        ids, mask = self.rows
        with torch.no_grad():
            full = model.generate(
                input_ids=ids,
                attention_mask=mask.long(),
                do_sample=not greedy,
                **({} if greedy else {"top_k": 0, "top_p": 1.0}),
                max_new_tokens=self.tokens,
                min_new_tokens=self.tokens,
                pad_token_id=self.pad,
            )
        return full[:, ids.shape[1] :]

    def by_hand(self, model: torch.nn.Module) -> int:
        """The loop that one writes first: all logits, softmax, multinomial. Returns tokens that count."""
        ids, mask = self.rows
        attention, cache = mask.long(), None
        with torch.no_grad():
            for _ in range(self.tokens):
                place = (attention.cumsum(1) - 1).clamp_min(0)[:, -ids.shape[1] :]
                output = model(
                    input_ids=ids,
                    attention_mask=attention,
                    position_ids=place,
                    past_key_values=cache,
                    use_cache=True,
                )
                cache = output.past_key_values
                ids = torch.multinomial(output.logits[:, -1].float().softmax(-1), 1)
                attention = torch.cat([attention, torch.ones_like(ids)], 1)
        return int(self.limits.sum())

    def with_decoder(self, ready: Generic) -> int:
        """Our decoder, without our loop around it: nobody leaves."""
        ids, mask = self.rows
        with torch.no_grad():
            decoder = ready.decoder()
            logits = decoder.prefill(ids, mask, repeats=1, room=self.tokens)
            for left in reversed(range(self.tokens)):
                tokens = torch.multinomial(logits.float().softmax(-1), 1).squeeze(-1)
                if left:
                    logits = decoder.step(tokens)
        return int(self.limits.sum())

    def loop(self, make: Callable[[], Any], *, idle: float, shared: bool = False) -> int:
        """Our loop over a decoder; rows end at their limits."""
        drawn = torch.zeros_like(self.limits)  # tokens of each row

        def stops(rows: Tensor, tokens: Tensor) -> Tensor:
            drawn[rows] += 1
            return drawn[rows] >= self.limits[rows]

        ids, mask = self.prompts if shared else self.rows
        for _ in decode(
            make(),
            ids,
            mask,
            max_new_tokens=self.tokens,
            eos_token_id=(),
            seeds=self.seeds,
            rules=LogitRules(),
            repeats=self.group if shared else 1,
            stops=stops,
            idle=idle,
        ):
            pass
        return int(drawn.sum())


def run_of(name: str, work: Work) -> Callable[[], int]:
    """What one turn of a side does; it returns the number of tokens that count."""
    model = work.model

    def folded(run: Callable[[], int]) -> Callable[[], int]:
        def inner() -> int:
            with merged(work.peft, POLICY):
                return run()

        return inner

    def shipped() -> int:
        ids, mask = work.prompts
        rollout = sample(
            model,
            ids,
            mask,
            max_new_tokens=work.tokens,
            eos_token_id=(),
            pad_token_id=work.pad,
            seeds=work.seeds,
            repeats=work.group,
        )
        return int(rollout.response_mask.sum())

    packed = folded(lambda: work.loop(lambda: prepare(model, steps=work.tokens), idle=0.1, shared=True))
    runs = {
        "generate, adapters as they are": lambda: work.generate(work.peft).numel(),
        "generate, adapters merged": folded(lambda: work.generate(model).numel()),
        "ours": folded(shipped),
        "by hand, adapters as they are": lambda: work.by_hand(work.peft),
        "adapters merged": folded(lambda: work.by_hand(model)),
        "head on the last position only": folded(lambda: work.with_decoder(Generic(model))),
        "one uniform number per draw": folded(lambda: work.loop(lambda: Generic(model), idle=1.0)),
        "rows that have ended leave": folded(lambda: work.loop(lambda: Generic(model), idle=0.1)),
        "a loop of our own": folded(lambda: work.loop(lambda: prepare_llama(model, pack=False), idle=0.1)),
        "a prompt is read once per group": folded(
            lambda: work.loop(lambda: prepare_llama(model, pack=False), idle=0.1, shared=True)
        ),
        "weights packed once per call": packed,
        "freed memory kept: as shipped": packed,
    }
    return runs[name]


def agreement(work: Work) -> dict[str, float]:
    """How often greedy decoding agrees with ``generate``, token by token and row by row."""
    with merged(work.peft, POLICY):
        theirs = work.generate(work.model, greedy=True)
        ids, mask = work.rows
        ours = sample(
            work.model,
            ids,
            mask,
            max_new_tokens=work.tokens,
            eos_token_id=(),
            pad_token_id=work.pad,
            seeds=work.seeds,
            temperature=0.0,
        ).response_ids
    return {
        "tokens": float((ours == theirs).float().mean()),
        "rows": float((ours == theirs).all(1).float().mean()),
    }


def main() -> None:
    """Wait for turns."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if spec["name"] in ("ours", "freed memory kept: as shipped"):
        keep_freed_memory()
    work, gate = Work(spec), Gate()
    if spec["name"] == "agreement":
        gate.ready()
        gate.report(**agreement(work))
    run = run_of(spec["name"], work)
    gate.ready()
    while True:
        count = run()
        gate.stop_clock()
        gate.report(counted_tokens=count)


if __name__ == "__main__":
    main()
