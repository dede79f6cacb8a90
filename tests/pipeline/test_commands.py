"""The tools around a run: a reward model from a file, scores for a file, and continuations."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from conftest import rows, write_rows

from rlhf_lite.data import split_of
from rlhf_lite.errors import DataError, PhaseError
from rlhf_lite.pipeline import generate_text, score_file, train_reward_file


@pytest.fixture(scope="module")
def reward(tmp_path_factory, settings, data, base):
    output = tmp_path_factory.mktemp("reward") / "run"
    config = settings({"reward.learning_rate": 0.01, "reward.pairs": 200, "reward.epochs": 2})
    return output, train_reward_file(str(data), str(base), output, config)


def test_train_reward_file(reward):
    output, found = reward
    held_out = sum(split_of(row["prompt"]) == "test" for row in rows())
    assert found["n_pairs"] == held_out > 20
    assert found["n_train_pairs"] == 200
    assert found["ci95"][0] <= found["accuracy"] <= found["ci95"][1]
    assert found["accuracy"] > 0.9  # eight words tell all
    assert json.loads((output / "metrics.json").read_text())["reward_model"]["accuracy"] == found["accuracy"]
    assert (output / "reward" / "adapter" / "adapter_config.json").is_file()


def test_training_into_a_folder_with_a_run_is_refused(reward, settings, data, base):
    with pytest.raises(PhaseError, match="already holds a run"):
        train_reward_file(str(data), str(base), reward[0], settings())


def test_too_few_pairs_are_refused_with_the_way_out(settings, base, tmp_path):
    few = write_rows(tmp_path / "few.jsonl", rows(4))
    with pytest.raises(DataError, match=r"4 usable pairs.*Fix: add pairs"):
        train_reward_file(str(few), str(base), tmp_path / "run", settings())
    some = write_rows(tmp_path / "some.jsonl", rows(30))
    with pytest.raises(PhaseError, match=r"reward\.batch_size"):
        train_reward_file(str(some), str(base), tmp_path / "run", settings({"reward.batch_size": 64}))
    assert not (tmp_path / "run").exists()


def test_a_ranking_of_few_texts_says_what_it_leaves_out(settings, base, tmp_path, capsys):
    chooser = random.Random(0)
    words = ["".join(chooser.choices("abcdefghijklmnop", k=5)) for _ in range(120)]
    drawn = [sorted(chooser.sample(range(120), 2)) for _ in range(3000)]
    content = [{"prompt": "", "chosen": words[a], "rejected": words[b]} for a, b in drawn]
    source = write_rows(tmp_path / "ranking.jsonl", content)
    found = train_reward_file(str(source), str(base), tmp_path / "run", settings())
    record = json.loads((tmp_path / "run" / "metrics.json").read_text())["split"]
    assert record["pairs"]["test"] == found["n_pairs"] > 20 and record["crossing"] > 500
    assert f"{record['crossing']} pairs left out" in capsys.readouterr().err


def test_score_file(reward, tmp_path, data):
    output = tmp_path / "scores.jsonl"
    found = score_file(reward[0], str(data), output=output)
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert found["n_pairs"] == len(lines) == 300
    right = sum(line["reward_chosen"] > line["reward_rejected"] for line in lines)
    assert found["accuracy"] == pytest.approx(right / 300, abs=1 / 300)
    assert [line["prompt"] for line in lines] == [row["prompt"] for row in rows()]
    for line in lines:
        assert (line["p_chosen"] > 0.5) == (line["reward_chosen"] > line["reward_rejected"])
    # What was written is read as the same pairs: the model's rewards are no evidence against the labels.
    assert score_file(reward[0], str(output)) == found
    # Swapped texts: the other way round.
    content = [{"prompt": r["prompt"], "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows()]
    swapped = score_file(reward[0] / "reward" / "adapter", str(write_rows(tmp_path / "s.jsonl", content)))
    assert swapped["accuracy"] == pytest.approx(1 - found["accuracy"], abs=1 / 300)


def test_score_file_works_on_a_whole_run(finished, data):
    found = score_file(finished, str(data), precision="fp32")
    assert (found["n_pairs"], found["precision"]) == (300, "fp32")


def test_broken_rows_are_raised_or_skipped(reward, tmp_path, capsys):
    content = rows(20)
    content[3] = {"prompt": "x"}
    broken = str(write_rows(tmp_path / "broken.jsonl", content))
    with pytest.raises(ValueError, match="chosen"):
        score_file(reward[0], broken)
    assert score_file(reward[0], broken, on_error="skip")["n_pairs"] == 19
    assert "19 of 20 rows kept" in capsys.readouterr().err


def test_a_folder_without_a_reward_model_is_refused(tmp_path, data):
    with pytest.raises(PhaseError, match="no reward model"):
        score_file(tmp_path, str(data))


OPTIONS = {"max_new_tokens": 6, "temperature": 1.0, "samples": 3, "seed": 0}


def test_generate_text(finished, base):
    texts = generate_text(str(finished), "film 7 was", **OPTIONS)
    assert len(texts) == 3 and len(set(texts)) > 1
    assert all(text.startswith("film 7 was") for text in texts)
    assert generate_text(str(finished), "film 7 was", **OPTIONS) == texts
    assert generate_text(str(finished), "film 7 was", **OPTIONS | {"seed": 1}) != texts
    # A run means its PPO policy: by adapter, or merged.
    for place in ("ppo/adapter", "ppo"):
        assert generate_text(str(finished / place), "film 7 was", **OPTIONS) == texts
    greedy = OPTIONS | {"temperature": 0.0}
    one = generate_text(str(finished), "film 7 was", **greedy)
    assert len(set(one)) == 1
    assert generate_text(str(finished / "ppo" / "merged"), "film 7 was", **greedy) == one
    assert len(generate_text(str(base), "", **OPTIONS)) == 3  # an empty prompt


def test_generate_refuses_what_cannot_write(finished, tmp_path):
    with pytest.raises(PhaseError, match="reward model"):
        generate_text(str(finished / "reward" / "adapter"), "film", **OPTIONS)
    with pytest.raises(PhaseError, match="neither a run"):
        generate_text(str(tmp_path), "film", **OPTIONS)
