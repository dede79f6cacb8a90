"""A preference file looked at before any training: ``rlhf-lite check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from transformers import AutoConfig

from rlhf_lite.config import PipelineConfig
from rlhf_lite.data import load_preferences, split_preferences
from rlhf_lite.data.chat import pick_template, render_chats
from rlhf_lite.data.check import check_preferences, cues, lengths
from rlhf_lite.data.formatting import token_ids
from rlhf_lite.data.pairs import Split
from rlhf_lite.data.row_counts import RowCounts
from rlhf_lite.errors import DataError
from rlhf_lite.evaluation.statistics import pair_accuracy, units_of
from rlhf_lite.models.policy import load_tokenizer, resolve_model, resolve_precision
from rlhf_lite.pipeline.limits import limit_from_texts
from rlhf_lite.training.pairs import encode_texts
from rlhf_lite.types import Preference

# Where a cue that reads no text finds this share of the chosen answers for certain, it is worth a warning.
_EASY = 0.6
# What the training of a run, and of a reward model alone, leaves to others.
_USES: dict[str, tuple[Split, ...]] = {"run": ("validation", "test", "gold"), "reward": ("test",)}
_SIDES = {"longer": ("longer", "shorter"),
          "first_in_alphabet": ("alphabetically first", "alphabetically last")}


def check_file(config: PipelineConfig, *, model: bool = False) -> dict[str, Any]:
    """What a run would understand of its file, with lengths, repetitions, splits and easy cues.

    Args:
        config: the settings of a run on a file.
        model: also say how the model reads the file, and what length limit a run would choose; this loads
            the model's tokenizer.

    Returns:
        What ``data.check.check_preferences`` finds, with ``cues``, the accuracy with 95 % interval of rules
        that read no text; ``splits``; with ``model`` also ``template``, ``rendered``, ``tokens``,
        ``max_tokens`` and ``fit``; and ``warnings``, what deserves a look, a sentence each.

    Raises:
        DataError: the file cannot be read, or none of its rows can be used.
    """
    loaded = load_preferences(config.data.source, on_error="skip")
    pairs, source = loaded.records, loaded.report.source
    found, train = check_preferences(loaded), pairs
    units = units_of(pairs)
    accuracies = {name: pair_accuracy(values, units=units) for name, values in cues(pairs).items()}
    found["cues"] = {name: {"accuracy": accuracy.estimate, "ci95": list(accuracy.ends)}
                     for name, accuracy in accuracies.items()}
    found["splits"] = {}
    for use, held_out in _USES.items():
        try:
            divided = split_preferences(pairs, source=source, held_out=held_out)
        except DataError as error:
            found["splits"][use] = {"error": str(error)}
            continue
        found["splits"][use] = asdict(divided.report) | {"summary": divided.report.summary()}
        train = divided.pairs["train"] if use == "run" else train
    if model:
        found |= _as_the_model_reads(config, pairs, train, source)
    return found | {"warnings": list(_warnings(found))}


def _as_the_model_reads(config: PipelineConfig, pairs: Sequence[Preference], train: Sequence[Preference],
                        source: str) -> dict[str, Any]:
    name = resolve_model(config.model.name)
    tokenizer = load_tokenizer(name)
    template = pick_template(config.data.template, tokenizer, pairs)
    rendered = render_chats(pairs, tokenizer, template, source=source)

    def count(texts: list[str]) -> list[int]:
        return [len(row) for row in token_ids(tokenizer, texts, start=False)]

    limit, max_tokens = None, config.data.max_tokens
    if max_tokens is None:
        precision = resolve_precision(config.model.precision)
        limit = limit_from_texts(tokenizer, render_chats(train, tokenizer, template, source=source),
                                 AutoConfig.from_pretrained(name), config, precision=precision)
        max_tokens = limit.tokens
    counts = RowCounts(max_tokens=max_tokens)
    encode_texts(tokenizer, rendered, max_tokens=max_tokens, counts=counts)
    return {"model": name, "template": template, "rendered": rendered[0].prompt + rendered[0].chosen,
            "tokens": lengths(rendered, count), "max_tokens": max_tokens,
            "limit": None if limit is None else str(limit),
            "fit": counts.record(), "fit_warning": counts.check(source, refuse=False)}


def _warnings(found: dict[str, Any]) -> Iterator[str]:
    rows, repeats, source = found["rows"], found["repeats"], found["file"]["source"]
    if rows["skipped"]:
        yield (f"{rows['skipped']:,} of {rows['read']:,} rows cannot be used: training stops at the first "
               "one, or leaves them out with --on-error skip (in a run: data.on_error=skip)")
    if repeats["both_ways"]:
        yield (f"{repeats['both_ways_rows']:,} rows contradict each other: of {repeats['both_ways']:,} pairs "
               "of texts, either one is called the better")
    if repeats["equal"]:
        yield f"{repeats['equal']:,} rows have two texts that differ in case, punctuation or spacing only"
    if repeats["repeated"]:
        yield f"{repeats['repeated']:,} rows repeat an earlier row, and count again in training"
    if repeats["tied"]:
        yield (f"{repeats['tied']:,} rows have equal ratings (a margin of 0): which answer is the chosen "
               "one is chance there; leave ties out")
    if repeats["no_value"]:
        yield (f"{repeats['no_value']:,} rows have an answer such as 'nan', 'None' or '#NAME?', which "
               "programs write where a text is missing")
    if repeats["run_together"]:
        yield (f"{repeats['run_together']:,} rows have no space between prompt and answer, which are joined "
               "as they are: begin the answers with a space or a line feed, or call the prompt 'question'")
    for name, sides in _SIDES.items():
        share, (low, high) = found["cues"][name]["accuracy"], found["cues"][name]["ci95"]
        if low > _EASY or high < 1 - _EASY:
            known = percent(max(share, 1 - share))
            yield (f"the {sides[share < 0.5]} answer is the chosen one in {known} of the pairs: a reward "
                   "model that sees nothing else is right as often")
    for gap in found["openings"]:
        yield (f"{percent(gap['chosen'])} of the chosen and {percent(gap['rejected'])} of the rejected "
               f"answers begin with {gap['words']!r}")
    if found.get("fit_warning"):
        yield found["fit_warning"]
    for split in found["splits"].values():
        if "error" in split:
            yield split["error"].removeprefix(f"{source}: ")


def percent(share: float) -> str:
    """A share in per cent, with one decimal."""
    return f"{100 * share:.1f} %"
