"""The sections that let a reader go on: where time went, loading the checkpoints, repeating the run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rlhf_lite.evaluation.report.blocks import Block, Code, Heading, Note, Paragraph, text
from rlhf_lite.evaluation.report.data import Run, number, numeric

__all__ = ["loading", "reproducing"]

_MERGED = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{folder}")
model = AutoModelForCausalLM.from_pretrained("{folder}")
inputs = tokenizer("This film", return_tensors="pt")
tokens = model.generate(**inputs, max_new_tokens=20, do_sample=True, top_k=0)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
"""
_ADAPTER = """\
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(PeftConfig.from_pretrained("{folder}").base_model_name_or_path)
policy = PeftModel.from_pretrained(base, "{folder}")
"""
_REWARD = """\
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

name = PeftConfig.from_pretrained("reward/adapter").base_model_name_or_path
base = AutoModelForSequenceClassification.from_pretrained(name, num_labels=1)
reward = PeftModel.from_pretrained(base, "reward/adapter")
tokenizer = AutoTokenizer.from_pretrained(name)
with torch.no_grad():
    print(reward(**tokenizer("This film is a joy.", return_tensors="pt")).logits.item())
"""


def _is_adapter(run: Run, folder: str) -> bool:
    return (run.folder / folder / "adapter_config.json").is_file()


def _is_classifier(run: Run, folder: str) -> bool:
    try:
        config = json.loads((run.folder / folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no adapter, or a broken one: not a classifier that the page could name
        return False
    return isinstance(config, dict) and config.get("task_type") == "SEQ_CLS"


def loading(run: Run) -> list[Block]:
    """Listings of plain transformers and peft code for the checkpoints that are in the folder."""
    blocks: list[Block] = [Heading("Load the checkpoints")]
    listings: list[Block] = []
    for name in ("ppo", "dpo"):
        if (run.folder / name / "merged" / "config.json").is_file():
            listings.append(Paragraph(text("The {name} policy as one model:", name=name.upper())))
            listings.append(Code(_MERGED.format(folder=f"{name}/merged"), "python"))
    wanted = ("ppo/adapter", "dpo/adapter", "sft/adapter")
    adapters = [folder for folder in wanted if _is_adapter(run, folder)]
    if adapters:
        words = "The LoRA weights of the {name} policy on top of the model they were trained on:"
        listings.append(Paragraph(text(words, name=adapters[0].split("/")[0].upper())))
        listings.append(Code(_ADAPTER.format(folder=adapters[0]), "python"))
        if len(adapters) > 1:
            others = ", ".join(f"`{folder}`" for folder in adapters[1:])
            listings.append(Paragraph(text(f"In the same way load {others}.")))
    if _is_classifier(run, "reward/adapter"):
        listings.append(Paragraph(text("The reward model, which answers with one number per text:")))
        listings.append(Code(_REWARD, "python"))
    if not listings:
        return [*blocks, Note(text("There is no checkpoint in the run folder."))]
    intro = "Plain `transformers` and `peft`, run inside the run folder; this package is not needed."
    return [*blocks, Paragraph(text(intro)), *listings]


def _time_sentence(run: Run) -> str:
    seconds = run.get("seconds")
    if not isinstance(seconds, Mapping):
        return ""
    names = {
        "load": "loading",
        "sft": "SFT",
        "reward": "reward model",
        "ppo": "PPO",
        "dpo": "DPO",
        "evaluation": "evaluation",
    }
    parts = [
        f"{names.get(name, name)} {number(value, 0)} s"
        for name, value in seconds.items()
        if name != "total" and numeric(value) is not None
    ]
    return ", ".join(parts)


def _listed(entry: Any) -> str:
    if not isinstance(entry, Mapping):
        return ""
    return "\n".join(f"{key}: {'not installed' if value is None else value}" for key, value in entry.items())


def reproducing(run: Run) -> list[Block]:
    """Command, settings, versions, time per phase."""
    blocks: list[Block] = [Heading("Repeat this run")]
    command = run.get("command")
    if isinstance(command, str) and command:
        blocks += [Paragraph(text("The command that was run:")), Code(command, "bash")]
    else:
        blocks.append(Note(text("The command was not recorded.")))
    if run.config_text:
        blocks.append(Paragraph(text("The same from the saved settings, into another folder:")))
        blocks.append(Code("rlhf-lite pipeline --config config.yaml --output another-folder", "bash"))
        blocks.append(Code(run.config_text, "yaml", summary="All settings (config.yaml)"))
    if listed := _listed(run.get("versions")):
        blocks.append(Code(listed, summary="Versions"))
    if listed := _listed(run.get("hardware")):
        blocks.append(Code(listed, summary="Hardware"))
    times = _time_sentence(run)
    if times:
        blocks.append(Paragraph(text("Where the time went: {times}.", times=times)))
    else:
        blocks.append(Note(text("The time per phase was not recorded.")))
    if run.problems:
        blocks.append(
            Note(text("Missing while this report was written: {problems}.", problems="; ".join(run.problems)))
        )
    return blocks
