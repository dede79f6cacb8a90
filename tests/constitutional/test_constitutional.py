"""Principles, critique and revision, and a model's feedback, with a writer whose every answer is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import save_base

from rlhf_lite.constitutional import (
    PolicyWriter,
    default_constitution,
    find_problem,
    judge_pairs,
    judge_texts,
    kept_words,
    load_constitution,
    load_prompts,
    point_preferences,
    preferences,
    printable,
    revise,
    sentiment_questions,
)
from rlhf_lite.constitutional.feedback import pair_prompt, single_prompt
from rlhf_lite.constitutional.writer import batches_to_write
from rlhf_lite.data.quality import near_duplicates
from rlhf_lite.errors import ConfigError
from rlhf_lite.models import load_policy

RULE = """
name: one
source: a test
principles:
  - id: no-insults
    text: Be kind.
    critique_request: Who is insulted?
    revision_request: Rewrite it.
    question: Which is kinder?
    yes_question: Is it kind?
    examples: [{before: You fool., critique: It says fool., after: I disagree.}]
"""


class Scripted:
    """Writes what it was told to, and likes texts by a known score, plus a known liking for the letter A."""

    name = "scripted"

    def __init__(
        self, answers: Sequence[str] = (), *, liking: dict[str, float] | None = None, bias: float = 0
    ) -> None:
        self.answers, self.liking, self.bias = list(answers), liking or {}, bias
        self.asked: list[tuple[str, int]] = []

    def write(self, prompts: Sequence[str], *, seed: int, **_: object) -> list[str]:
        self.asked += [(prompt, seed) for prompt in prompts]
        return [self.answers.pop(0) for _ in prompts]

    def log_probabilities(self, prompts: Sequence[str], continuations: Sequence[str]) -> Tensor:
        return torch.tensor([self._one(p, c) for p, c in zip(prompts, continuations, strict=True)])

    def _one(self, prompt: str, word: str) -> float:
        lines = dict(line.split(": ", 1) for line in prompt.split("\n") if ": " in line)
        if word in (" Yes", " No"):
            return self.liking[lines["Text"]] if word == " Yes" else 0.0
        text = lines[f"Text{word}"]
        return self.liking[text] + (self.bias if word == " A" else 0.0)


def test_the_default_constitution_is_whole() -> None:
    constitution = default_constitution()
    assert len(constitution.principles) >= 6
    assert len(constitution.principle("no-insults").examples) >= 4
    assert all(len(principle.examples) >= 3 for principle in constitution.principles)
    for principle in constitution.principles:  # an example that nothing was done to teaches nothing
        assert all(
            find_problem(principle, e.before, "", e.after) == "copied example" for e in principle.examples
        )
        assert all(e.before != e.after for e in principle.examples)
    assert not any(principle.examples for principle in sentiment_questions().principles)
    with pytest.raises(KeyError, match="no principle 'kind'"):
        constitution.principle("kind")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("text: Be kind.", "txt: Be kind.", r"principles.0.txt"),
        ("text: Be kind.", "text: ''", r"principles.0.text"),
        ("id: no-insults", "id: No Insults", r"principles.0.id.*'No Insults'"),
        ("examples: [{before: You fool.,", "examples: [{beforee: You fool.,", r"examples.0.beforee"),
        ("name: one", "name: [one", "not valid YAML"),
    ],
)
def test_a_broken_constitution_names_file_and_entry(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULE.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_constitution(path)
    assert "rules.yaml" in str(caught.value)


def test_two_principles_may_not_share_an_id(tmp_path: Path) -> None:
    path = tmp_path / "rules.yaml"
    path.write_text(RULE + RULE[RULE.index("  - id") :], encoding="utf-8")
    with pytest.raises(ConfigError, match="two principles have the id 'no-insults'"):
        load_constitution(path)


@pytest.fixture
def rule(tmp_path: Path):
    path = tmp_path / "rules.yaml"
    path.write_text(RULE, encoding="utf-8")
    return load_constitution(path)


def test_each_round_works_on_what_the_last_one_left(rule) -> None:
    writer = Scripted(["rude", "a kinder text", "still rude", ""])
    (chain,) = revise(writer, ["a rude text"], rule, rounds=2, seed=5, prompts=["say:"])
    assert chain.texts == ("a rude text", "a kinder text", "a kinder text")
    assert [step.kept for step in chain.steps] == [True, False]  # an empty revision changes nothing
    first, second = chain.steps
    assert first.critique_prompt.endswith("Text: a rude text\nCritique:")
    assert "Text: You fool.\nCritique: It says fool.\nBetter: I disagree." in first.revision_prompt
    assert first.revision_prompt.endswith("Text: a rude text\nCritique: rude\nBetter:")
    assert "a kinder text" in second.critique_prompt and second.principle == "no-insults"
    assert (chain.prompt, chain.writer, chain.constitution, chain.seed) == ("say:", "scripted", "one", 5)
    assert len({seed for _, seed in writer.asked}) == 4  # no draw uses the random numbers of another


def test_what_cannot_be_revised_is_refused(rule) -> None:
    with pytest.raises(ValueError, match="text 1 is empty"):
        revise(Scripted(), ["a", " "], rule, rounds=1, seed=0)
    with pytest.raises(ValueError, match="2 texts and 1 prompts"):
        revise(Scripted(), ["a", "b"], rule, rounds=1, seed=0, prompts=["x"])
    assert revise(Scripted(), ["a"], rule, rounds=0, seed=0)[0].texts == ("a",)


def test_both_orders_cancel_a_liking_for_a_letter(rule) -> None:
    """Likings 2 and 0.5, bias 1.5: as A the first wins by 3, as B it is tied; the mean is the true 1.5."""
    writer = Scripted(liking={"x": 2.0, "y": 0.5}, bias=1.5)
    found = judge_pairs(writer, [("", "x", "y"), ("", "y", "x")], rule)
    assert found.as_given[:, 0].tolist() == [3.0, 0.0]
    assert found.swapped[:, 0].tolist() == [0.0, -3.0]
    assert found.combined.tolist() == [1.5, -1.5]
    assert found.position_bias.tolist() == [1.5]
    assert found.probability[0].item() == pytest.approx(0.8175745, abs=1e-6)  # 1 / (1 + e^-1.5)


def test_records_say_who_judged_and_how(rule) -> None:
    pairs = [("p", "x", "y"), ("p", "y", "x"), ("p", "x", "z"), ("p", "x", "x")]
    found = judge_pairs(Scripted(liking={"x": 2.0, "y": 0.5, "z": 1.9}), pairs, rule)
    records = preferences(pairs, found, min_log_odds=0.5)
    assert [(r.chosen, r.rejected) for r in records] == [("x", "y"), ("x", "y")]
    assert records[0].margin == 1.5 and records[0].meta["judge"] == "scripted"
    assert records[1].meta["log_odds_as_given"] == [-1.5] and records[1].meta["principles"] == ["no-insults"]
    with pytest.raises(ValueError, match="1 pairs and 4 judgements"):
        preferences(pairs[:1], found)


def test_single_texts(rule) -> None:
    odds = judge_texts(Scripted(liking={"x": 2.0, "y": -0.5}), [("", "x"), ("", "y")], rule)
    assert odds.tolist() == [[2.0], [-0.5]]
    with pytest.raises(ValueError, match="no texts"):
        judge_texts(Scripted(), [], rule)


def test_a_policy_writes_and_scores_whatever_its_neighbours(tmp_path: Path) -> None:
    policy = load_policy(str(save_base(tmp_path / "base")), precision="fp32")
    writer = PolicyWriter(policy, batch_size=2)
    prompts = ["ab", "a much longer prompt", "c"]
    together = writer.write(prompts, max_new_tokens=4, seed=1)
    assert together[0] == writer.write(prompts[:1], max_new_tokens=4, seed=1)[0]
    scores = writer.log_probabilities(prompts, [" x", " yes", " z"])
    # The sum over tokens, computed plainly.
    tokenizer, total = policy.tokenizer, 0.0
    head = tokenizer("a much longer prompt")["input_ids"]
    ids = head + tokenizer(" yes", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logps = policy.model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    for place in range(len(head), len(ids)):
        total += float(logps[place - 1, ids[place]])
    assert float(scores[1]) == pytest.approx(total, abs=1e-3)
    with pytest.raises(ValueError, match="no token"):
        writer.log_probabilities(["a"], [""])


def test_a_head_that_many_share_is_read_once_and_scores_the_same(tmp_path: Path) -> None:
    policy = load_policy(str(save_base(tmp_path / "base")), precision="fp32")
    writer = PolicyWriter(policy, batch_size=2)
    tails = [" yes", " a longer one", " no and", " abc"]
    heads = ["a heading:", "a heading:", "a heading:", "another one"]
    alone = [float(writer.log_probabilities([h], [t])[0]) for h, t in zip(heads, tails, strict=True)]
    assert writer.log_probabilities(heads, tails).tolist() == pytest.approx(alone, abs=1e-3)


def test_prompts_with_a_long_common_beginning_are_written_together() -> None:
    one, two = [1] * 40, [2] * 40
    prompts = [[*one, 3], [9], [*two, 4], [*one, 5, 6], [8, 8], [*two, 7], [*one, 6]]
    # Three rows share 40 tokens: 80 need not be read. That is worth 5 steps (75), but not 6 (90).
    assert batches_to_write(prompts, 8, steps=5) == [[0, 6, 3], [1, 4, 2, 5]]
    assert batches_to_write(prompts, 8, steps=6) == [[1, 4, 0, 2, 5, 6, 3]]
    # Two rows save 40, worth 2 steps (30). No batch is larger than asked for.
    assert batches_to_write(prompts, 2, steps=2) == [[0, 6], [3], [2, 5], [1, 4]]
    assert batches_to_write([], 4, steps=1) == []


def test_the_prompts_of_the_two_splits_have_no_wording_in_common() -> None:
    prompts = load_prompts()
    assert (len(prompts.train), len(prompts.test)) == (120, 60)
    assert len({*prompts.train, *prompts.test}) == 180
    remarks = [*prompts.remarks_train, *prompts.remarks_test]
    assert near_duplicates(remarks, threshold=0.3) == []
    for prompt, remark in zip(prompts.test, prompts.remarks_test, strict=True):
        lines = prompt.splitlines()
        assert lines[0] == prompts.head and lines[-2:] == [f"- {remark}", "-"]
        assert len(lines) == prompts.shown + 2 and len(set(lines[1:-1])) == prompts.shown
        assert not {line[2:] for line in lines[1:-1]} & {*prompts.remarks_train}
    assert all(printable(remark) == remark for remark in remarks)  # nothing in them has to be masked


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{name: n, source: s, head: h, train: [a, b], test: [B, c]}", "in train and in test: b"),
        ("{name: n, source: s, head: h, train: [a, b], test: [c, d], shown: 3}", "shown is 3"),
        ("{name: n, source: s, head: h, train: [a, 3], test: [c, d]}", r"train.1: .*got '3'"),
        ("{name: n, source: s, train: [a, b], test: [c, d]}", "head"),
        ("{name: [", "not valid YAML"),
    ],
)
def test_a_broken_prompt_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        load_prompts(path)
    assert "prompts.yaml" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_prompts(tmp_path / "none.yaml")


def test_strong_words_are_masked_and_others_are_not() -> None:
    assert printable("Fuck this shitty film") == "F*ck this sh*tty film"
    assert (
        printable("a shiitake cuckoo, scunthorpe, classic idiots")
        == "a shiitake cuckoo, scunthorpe, classic idiots"
    )


@pytest.mark.parametrize(
    ("revision", "problem"),
    [
        ("", "empty"),
        (" ... ", "empty"),
        ("The movie is BAD, and its fans are fools!", "unchanged"),
        ("I disagree", "copied example"),
        ("You, fool.", "copied example"),
        ("It says fools.", "critique again"),
        ("The fans are called fools", "critique again"),
        ("Text: the film", "critique again"),
        ("bad bad bad bad bad film bad bad", "loop"),
        ("I went swimming", "off topic"),
        ("I think that the film is bad", ""),
        ("That picture is not for me", ""),
    ],
)
def test_faults_of_revisions_are_found(rule, revision: str, problem: str) -> None:
    before = "The movie is bad, and its fans are fools!"
    principle = rule.principles[0]
    assert find_problem(principle, before, "The fans are called fools.", revision) == problem


def test_kept_words_by_hand() -> None:
    # Content words: movie (= film), bad, fans, fools; kept: film and bad.
    assert kept_words("The movie is bad, and its fans are fools!", "A bad film.") == 0.5
    assert kept_words("It is what it is", "anything") == 1.0


def test_a_copied_example_is_thrown_away_and_recorded(rule) -> None:
    writer = Scripted(["It says bad.", "I disagree.", "It says bad.", "I swim"])
    (chain,) = revise(writer, ["a bad film"], rule, rounds=2, seed=0)
    first, second = chain.steps
    assert (first.problem, first.kept, first.text, first.overlap) == (
        "copied example",
        False,
        "a bad film",
        0.0,
    )
    assert (second.problem, second.kept, second.text) == ("off topic", True, "I swim")


def test_revision_without_critique(rule) -> None:
    writer = Scripted(["a kinder film"])
    (chain,) = revise(writer, ["a rude film"], rule, rounds=1, seed=0, critique=False)
    (step,) = chain.steps
    assert (step.critique, step.critique_prompt, step.text) == ("", "", "a kinder film")
    assert step.revision_prompt.endswith("Text: You fool.\nBetter: I disagree.\n\nText: a rude film\nBetter:")


def test_the_examples_of_a_question_are_balanced() -> None:
    principle = default_constitution().principle("no-insults")
    asked = single_prompt(principle, "", "x", examples=True)
    assert asked.count("Answer: Yes") == asked.count("Answer: No") == len(principle.examples)
    assert asked.endswith(single_prompt(principle, "", "x"))
    asked = pair_prompt(principle, "", "x", "y", examples=True)
    assert asked.count("Answer: Text A") == asked.count("Answer: Text B") == len(principle.examples) // 2
    best = principle.examples[0]
    assert asked.startswith(
        f"Text A: {best.before}\nText B: {best.after}\n{principle.question}\nAnswer: Text B\n"
    )


def test_the_best_and_the_worst_candidate_become_a_pair(rule) -> None:
    odds = torch.tensor([[0.5], [2.0], [-1.0], [0.1], [0.2]])
    texts = [[" a", " b", " c"], [" d", " e"]]
    records = point_preferences(["p", "q"], texts, odds, rule, judge="j", min_log_odds=0.5)
    assert [(r.prompt, r.chosen, r.rejected, r.margin) for r in records] == [("p", " b", " c", 3.0)]
    assert records[0].meta["log_odds_rejected"] == [-1.0] and records[0].meta["candidates"] == 3
    with pytest.raises(ValueError, match=r"5 texts.*\(4, 1\)"):
        point_preferences(["p", "q"], texts, odds[:4], rule, judge="j")


def test_words_of_one_token_are_scored_in_one_pass_as_in_two(tmp_path: Path) -> None:
    policy = load_policy(str(save_base(tmp_path / "base")), precision="fp32")
    writer = PolicyWriter(policy, batch_size=2)
    prompts = ["ab", "a much longer prompt", "ab", "abc"]
    found = writer.log_probabilities(prompts, ["x", "y", "y", "x"])
    with torch.no_grad():
        for prompt, word, value in zip(prompts, ["x", "y", "y", "x"], found.tolist(), strict=True):
            head = policy.tokenizer(prompt, add_special_tokens=False)["input_ids"]
            (token,) = policy.tokenizer(word, add_special_tokens=False)["input_ids"]
            logps = policy.model(torch.tensor([head])).logits[0, -1].log_softmax(-1)
            assert value == pytest.approx(float(logps[token]), abs=1e-3)
