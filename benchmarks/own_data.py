"""Does a reward model learn from somebody's own file, and DPO a policy, with nothing set?

    python -m benchmarks.own_data              # bare reviews and long dialogues, seeds 0, 1 and 2
    python -m benchmarks.own_data --seed 1
    python -m benchmarks.own_data forms        # one file in four forms, seed 0
    python -m benchmarks.own_data policy       # DPO on one of them, and its evaluation, seed 0

People's ratings of movie reviews as two preference files: the bare reviews, and dialogues of the form and
length of Anthropic's HH-RLHF (median about 500 characters, a tenth above 1,500) with the review as the last
answer. Everything before it is the same for both answers and says nothing about them. The command is
`rlhf-lite reward --data FILE` with its defaults, but for the seed; the accuracy is measured on pairs of
reviews that are in neither file. If length or cutting hid the answers, it would be one half. The forms are
those of `benchmarks/example_files.py`. Records go into results/own_data/; the book's page "Your own data"
shows them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.example_files import FORMS, review_pairs, write_files
from rlhf_lite.config import load_config
from rlhf_lite.data import load_ratings, make_pairs, split_ratings
from rlhf_lite.files import write_json, write_json_lines
from rlhf_lite.pipeline import run_pipeline, score_file, train_reward_file
from rlhf_lite.tracking import run_info
from rlhf_lite.types import Preference, Rating

RESULTS = ROOT / "results" / "own_data"
TRAIN_PAIRS, TEST_PAIRS = 200, 100
_QUESTIONS = ("And the other one?", "Tell me more.", "What else did they say?", "Is there another opinion?")


def dialogue(pair: Preference, others: Sequence[Rating], draw: random.Random, *,
             median: float = 260, spread: float = 1.3) -> Preference:
    """The two texts of a pair as last answers of one transcript about other films.

    Args:
        pair: texts to stand at the end.
        others: what the assistant says before.
        draw: draws everything.
        median: of the characters before the last turns.
        spread: of their logarithm.
    """
    wanted, text = min(4000, draw.lognormvariate(math.log(median), spread)), ""
    while True:
        question = draw.choice(_QUESTIONS) if text else f"What do they say of film {draw.randrange(1000)}?"
        text += f"\n\nHuman: {question}\n\nAssistant: "
        if len(text) >= wanted:
            return Preference("", text + pair.prompt + pair.chosen, text + pair.prompt + pair.rejected)
        text += " ".join(draw.choice(others).text for _ in range(draw.choice((1, 1, 1, 2))))


def write(path: Path, pairs: Sequence[Preference]) -> str:
    """Chosen and rejected as whole texts, without a prompt, as HH-RLHF has them."""
    write_json_lines(path, [{"chosen": p.chosen, "rejected": p.rejected} for p in pairs])
    return str(path)


def measure(seed: int, *, train: int = TRAIN_PAIRS, test: int = TEST_PAIRS,
            settings: Sequence[str] = ()) -> dict[str, Any]:
    """Train and measure on bare reviews and on dialogues; returns the record of one seed."""
    splits, draw = split_ratings(load_ratings("movie")), random.Random(f"own data {seed}")
    ratings = {"train": [*splits["train"], *splits["test"]], "test": splits["validation"]}
    pairs = {name: make_pairs(ratings[name], n=n, min_gap=1.5, prompt_words=0, seed=seed)
             for name, n in (("train", train), ("test", test))}
    bare = {name: [Preference("", p.prompt + p.chosen, p.prompt + p.rejected) for p in rows]
            for name, rows in pairs.items()}
    talks = {name: [dialogue(p, splits["gold"], draw) for p in rows] for name, rows in pairs.items()}
    lengths = sorted(len(p.chosen) for p in talks["train"])
    record: dict[str, Any] = {"median_characters": statistics.median(lengths),
                              "ninth_decile_characters": lengths[int(0.9 * len(lengths))]}
    with tempfile.TemporaryDirectory() as place:
        for name, rows in (("bare", bare), ("dialogues", talks)):
            data = {split: write(Path(place) / f"{name}-{split}.jsonl", rows[split]) for split in rows}
            record[name] = trained_on(data["train"], data["test"], Path(place) / name, seed, settings)
    return record


def trained_on(train: str, test: str, folder: Path, seed: int, settings: Sequence[str]) -> dict[str, Any]:
    """A reward model by default settings: its accuracy on another file, what became of the rows, the time."""
    trained = train_reward_file(train, None, folder, load_config(None, [f"seed={seed}", *settings]))
    found = score_file(folder, test)
    record = {key: found[key] for key in ("accuracy", "ci95", "n_pairs")}
    record["rows"] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["rows"]
    return record | {key: trained[key] for key in ("n_train_pairs", "max_tokens", "seconds")}


def measure_forms(seed: int, *, sizes: Mapping[str, int] | None = None,
                  settings: Sequence[str] = ()) -> dict[str, Any]:
    """The same for one file in each of the forms that people use; returns the record of one seed."""
    with tempfile.TemporaryDirectory() as place:
        write_files(Path(place), review_pairs(seed=seed, sizes=sizes))
        return {form: trained_on(f"{place}/{form}.jsonl", f"{place}/fresh-{form}.jsonl", Path(place) / form,
                                 seed, settings) for form in FORMS}


def measure_policy(seed: int, *, sizes: Mapping[str, int] | None = None,
                   settings: Sequence[str] = ()) -> dict[str, Any]:
    """DPO on the conversations of the same file; returns the record of the run."""
    data, output = "my-data/messages.jsonl", "runs/my-dpo"
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):  # the record names relative paths
        write_files(Path(data).parent, review_pairs(seed=seed, sizes=sizes))
        config = load_config(None, ["method=dpo", f"data.source={data}", f"seed={seed}", *settings])
        command = f"rlhf-lite dpo --data {data} --output {output} --seed {seed}"
        return run_pipeline(config, output=Path(output), command=command)


def main() -> None:
    """Write one record for each seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", nargs="?", choices=("dialogues", "forms", "policy"), default="dialogues")
    parser.add_argument("--seed", type=int, action="append", help="only this seed (repeatable)")
    given = parser.parse_args()
    for seed in given.seed or ((0, 1, 2) if given.what == "dialogues" else (0,)):
        info = run_info(seed=seed) | {"command": f"python -m benchmarks.own_data {given.what} --seed {seed}"}
        if given.what == "policy":
            write_json(RESULTS / f"policy-seed{seed}.json", measure_policy(seed))
            continue
        record = measure(seed) if given.what == "dialogues" else measure_forms(seed)
        write_json(RESULTS / f"{given.what}-seed{seed}.json", info | record)
        for name, found in record.items():
            if isinstance(found, dict):
                low, high = found["ci95"]
                print(f"seed {seed}, {name}: accuracy {found['accuracy']:.3f} ({low:.3f} to {high:.3f})")


if __name__ == "__main__":
    main()
