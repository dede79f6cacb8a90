"""People's ratings of film reviews as preference files, in four forms that people use.

    python -m benchmarks.example_files my-data

Writes ``my-data/FORM.jsonl`` to train on, ``my-data/fresh-FORM.jsonl`` with reviews that are not in it, and
``my-data/flawed.jsonl``, which holds faults that people's files have.
The page "Your own data" shows this file and works on what it writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_lite.data import load_ratings, make_pairs, split_ratings
from rlhf_lite.files import write_json_lines
from rlhf_lite.types import Preference

PAIRS = {"": 1000, "fresh-": 200}


# [forms]
def explicit(pair: Preference) -> dict[str, object]:
    """TRL's form with a prompt: three texts that are joined as they are."""
    return {"prompt": pair.prompt, "chosen": pair.chosen, "rejected": pair.rejected}


def implicit(pair: Preference) -> dict[str, object]:
    """TRL's form without a prompt: two whole texts."""
    return {"chosen": pair.prompt + pair.chosen, "rejected": pair.prompt + pair.rejected}


def question(pair: Preference) -> str:
    """What a user would have to say to get such texts as answers."""
    return f"Write a sentence about a film that begins with: {pair.prompt}"


def messages(pair: Preference) -> dict[str, object]:
    """A conversation: a list of turns before the answer, and one for each answer."""
    asked = [{"role": "user", "content": question(pair)}]
    answers = {name: [{"role": "assistant", "content": text}]
               for name, text in implicit(pair).items()}
    return {"prompt": asked, **answers}


def transcript(pair: Preference) -> dict[str, object]:
    """The form of Anthropic's HH-RLHF: two whole conversations as text."""
    before = f"\n\nHuman: {question(pair)}\n\nAssistant: "
    return {name: before + str(text) for name, text in implicit(pair).items()}
# [end]


FORMS = {form.__name__: form for form in (explicit, implicit, messages, transcript)}
FLAWED = "flawed"


def flawed(pairs: Sequence[Preference]) -> list[dict[str, object]]:
    """The first form with an empty answer, longer chosen answers, repetitions and contradictions."""
    rows = [explicit(pair) for pair in pairs]
    for row in rows[::2]:
        row["chosen"] = f"{row['chosen']} It is well worth the price of the ticket and the time."
    rows[5]["rejected"] = ""
    swapped = [row | {"chosen": row["rejected"], "rejected": row["chosen"]} for row in rows[30:40]]
    return rows + rows[10:30] + swapped


def review_pairs(*, seed: int = 0) -> dict[str, list[Preference]]:
    """Pairs of reviews that begin with the same word; by the beginning of their files' names."""
    splits = split_ratings(load_ratings("movie"))
    ratings = {"": [*splits["train"], *splits["test"]], "fresh-": splits["validation"]}
    return {name: make_pairs(ratings[name], n=n, min_gap=1.5, prompt_words=1, seed=seed)
            for name, n in PAIRS.items()}


def write_files(folder: Path, pairs: Mapping[str, Sequence[Preference]]) -> list[Path]:
    """Write the pairs in every form."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for start, rows in pairs.items():
        for name, form in FORMS.items():
            written.append(folder / f"{start}{name}.jsonl")
            write_json_lines(written[-1], [form(row) for row in rows])
    written.append(folder / f"{FLAWED}.jsonl")
    write_json_lines(written[-1], flawed(pairs[""]))
    return written


def main() -> None:
    """Write the files into the folder that the command names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    for path in write_files(parser.parse_args().folder, review_pairs()):
        print(path)


if __name__ == "__main__":
    main()
