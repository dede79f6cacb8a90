"""The listings of a report, run as a reader would: plain transformers and peft on a tiny model."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_run

from rlhf_lite.evaluation.report.run import write_report

WORDS = ["[UNK]", "[EOS]", "This", "film", "is", "a", "joy", ".", "slow", "and"]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("listings")
    base, folder = root / "base", synthetic_run.write_run(root / "run")
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]", eos_token="[EOS]")
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(base)
    tokenizer.save_pretrained(base)
    for name, task in (("sft", "CAUSAL_LM"), ("ppo", "CAUSAL_LM"), ("reward", "SEQ_CLS")):
        kind, extra = AutoModelForCausalLM, {}
        if task == "SEQ_CLS":
            kind, extra = AutoModelForSequenceClassification, {"num_labels": 1}
        lora = LoraConfig(task_type=task, r=2, target_modules=["q_proj"])
        model = get_peft_model(kind.from_pretrained(str(base), **extra), lora)
        model.save_pretrained(folder / name / "adapter")
        if name == "ppo":
            merged = model.merge_and_unload()
            merged.save_pretrained(folder / "ppo" / "merged")
            tokenizer.save_pretrained(folder / "ppo" / "merged")
    write_report(folder)
    return folder


def test_the_listings_run_and_answer(run, monkeypatch, capsys):
    listings = re.findall(r"```python\n(.*?)```", (run / "report.md").read_text(encoding="utf-8"), flags=re.S)
    assert len(listings) == 3
    monkeypatch.chdir(run)
    spaces = []
    for listing in listings:
        space: dict[str, object] = {}
        exec(compile(listing, "listing", "exec"), space)
        spaces.append(space)
    merged, adapter, reward = spaces
    assert merged["tokens"].shape[1] > 2  # "This film" and at least one more token
    assert type(adapter["policy"]).__name__ == "PeftModelForCausalLM"
    assert type(reward["reward"]).__name__ == "PeftModelForSequenceClassification"
    float(capsys.readouterr().out.splitlines()[-1])  # the last line printed is one score
