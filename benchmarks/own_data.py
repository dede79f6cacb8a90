"""Does a reward model learn from somebody's own file, and DPO a policy, with nothing set?

    python -m benchmarks.own_data                       # all that is not recorded yet
    python -m benchmarks.own_data messages --seed 0     # one of them

People's ratings of movie reviews as preference files: the four forms of `benchmarks/example_files.py`; fewer
bare reviews; and these as the last answers of dialogues of the form and length of Anthropic's HH-RLHF (median
about 500 characters, a tenth above 1,500). What is said before is the same for both answers and says nothing
about them. The command is `rlhf-lite reward --data FILE` with its defaults, but for the seed; the accuracy is
measured on pairs of reviews that are in no training file. If length or cutting hid the answers, it would be
one half. `policy` is `rlhf-lite dpo` on the conversations, with its evaluation.

Each run writes one file into results/own_data/, which the book's page "Your own data" shows. One that was
stopped goes on where it was: it works in build/own_data/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT
from benchmarks.example_files import FORMS, review_pairs, write_files
from rlhf_lite.config import load_config
from rlhf_lite.data import load_ratings, make_pairs, split_ratings
from rlhf_lite.files import write_json, write_json_lines
from rlhf_lite.pipeline import run_pipeline, score_file, train_reward_file
from rlhf_lite.types import Preference, Rating

RESULTS = ROOT / "results" / "own_data"
PAIRS = {"": 200, "fresh-": 100}  # of the bare reviews and the dialogues
SEEDS = {**dict.fromkeys(FORMS, (0,)), "bare": (0, 1, 2), "dialogues": (0, 1, 2), "policy": (0,)}
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


def dialogue_files(folder: Path, seed: int) -> dict[str, Any]:
    """Write the bare reviews and the dialogues, each with fresh ones; returns how long the dialogues are."""
    splits, draw = split_ratings(load_ratings("movie")), random.Random(f"own data {seed}")
    ratings = {"": [*splits["train"], *splits["test"]], "fresh-": splits["validation"]}
    for start, n in PAIRS.items():
        pairs = make_pairs(ratings[start], n=n, min_gap=1.5, prompt_words=0, seed=seed)
        talks = [dialogue(pair, splits["gold"], draw) for pair in pairs]
        write(folder / f"{start}bare.jsonl", pairs)
        write(folder / f"{start}dialogues.jsonl", talks)
        if not start:
            lengths = sorted(len(pair.chosen) for pair in talks)
    return {"median_characters": statistics.median(lengths),
            "ninth_decile_characters": lengths[int(0.9 * len(lengths))]}


def record_reward(name: str, seed: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """A reward model by default settings: accuracy on fresh pairs, what became of the rows, seconds."""
    files, output = Path("my-data"), Path("runs") / name
    if name in FORMS:
        write_files(files, review_pairs(seed=seed))
    lengths = {} if name in FORMS else dialogue_files(files, seed)
    config = load_config(None, [f"seed={seed}", *settings])
    trained = train_reward_file(str(files / f"{name}.jsonl"), None, output, config, resume=True)
    found = score_file(output, str(files / f"fresh-{name}.jsonl"))
    made = json.loads((output / "metrics.json").read_text(encoding="utf-8"))
    kept = ((made, ("commit", "dirty", "versions", "hardware", "precision", "split", "rows")),
            (found, ("accuracy", "ci95", "n_pairs")), (trained, ("n_train_pairs", "max_tokens", "seconds")))
    return lengths | {key: values[key] for values, keys in kept for key in keys}


def record_policy(seed: int, settings: Sequence[str] = ()) -> dict[str, Any]:
    """DPO on the conversations by default settings, and its evaluation: ``metrics.json`` of the run."""
    write_files(Path("my-data"), review_pairs(seed=seed))
    given = ["method=dpo", "data.source=my-data/messages.jsonl", f"seed={seed}", *settings]
    return run_pipeline(load_config(None, given), output=Path("runs/my-dpo"), resume=True)


def record(name: str, seed: int, settings: Sequence[str] = ()) -> Path:
    """Make one record, in a folder of its own, so that it names relative paths only."""
    place, path = ROOT / "build" / "own_data" / f"{name}-seed{seed}", RESULTS / f"{name}-seed{seed}.json"
    for folder in (place / "my-data", place / "runs", RESULTS):
        folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(place):
        made = record_policy(seed, settings) if name == "policy" else record_reward(name, seed, settings)
    command = f"python -m benchmarks.own_data {name} --seed {seed}"
    write_json(path, made | {"command": command, "file": name, "seed": seed})
    return path


def main() -> None:
    """Make the records that the command names, or all that are missing."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("name", nargs="?", choices=list(SEEDS))
    parser.add_argument("--seed", type=int)
    given = parser.parse_args()
    for name, seeds in SEEDS.items():
        for seed in seeds if given.seed is None else [given.seed]:
            there = (RESULTS / f"{name}-seed{seed}.json").is_file()
            if given.name == name or (given.name is None and not there):
                print(record(name, seed))


if __name__ == "__main__":
    main()
