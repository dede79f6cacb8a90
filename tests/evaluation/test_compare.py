"""Policies compared: what is measured by hand or by identity, and what happens to broken input."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy import stats

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer, gpt2, llama, naive_logps, shake

from rlhf_lite.data.collate import pad_left
from rlhf_lite.errors import ComparisonError, OutputError, PhaseError
from rlhf_lite.evaluation.answers import Answers
from rlhf_lite.evaluation.compare import compare, compare_policies, versus_baseline
from rlhf_lite.evaluation.eval_policy import EvalPolicy, Network, PromptRows, encode_for
from rlhf_lite.evaluation.report.comparison import (
    check_output,
    pick_rows,
    sample_rows,
    summary,
    write_comparison,
)
from rlhf_lite.evaluation.report.figures import draw_comparison, pareto
from rlhf_lite.evaluation.statistics import length_controlled_win_rate, outcomes, share_ci
from rlhf_lite.models.adapters import add_adapter, lora_config
from rlhf_lite.types import Rollout

PROMPTS = ["The film", "A plot", "This is", "What a", "Never"]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<a>{% endif %}"
)


def quiet(texts):
    """A toxicity judge for speed."""
    return np.zeros(len(texts))


quiet.name = "quiet"


def lengths(texts):
    """A gold judge that anybody can check: the longer, the better."""
    return np.array([len(text) for text in texts], dtype=float)


def tokenizer():
    made = byte_tokenizer()
    made.pad_token = made.eos_token
    return made


def model(seed=0, **changes):
    end = tokenizer().eos_token_id
    return llama(vocab=257, seed=seed, bos_token_id=end, eos_token_id=end, pad_token_id=None, **changes)


@pytest.fixture(scope="module")
def network():
    """A network with two adapters on its top layers."""
    shape = {"rank": 2, "alpha": 4, "dropout": 0.0, "top_layers": 2}
    base = model()
    made = add_adapter(base, lora_config(base, **shape), "one", seed=0)
    made = add_adapter(made, lora_config(base, **shape), "two", seed=1)
    shake(made, "one", seed=1)
    shake(made, "two", seed=2)
    return made.eval()


@pytest.fixture(scope="module")
def policies(network):
    return [
        EvalPolicy("base", network, tokenizer(), None, "somebody/base"),
        EvalPolicy("one", network, tokenizer(), "one"),
        EvalPolicy("two", network, tokenizer(), "two", optimised_by=("reward",)),
    ]


OPTIONS = {"toxicity": quiet, "max_new_tokens": 6, "seed": 0}


@pytest.fixture(scope="module")
def found(policies):
    return compare_policies(policies, PROMPTS, gold=lengths, reward=lengths, n_samples=2, **OPTIONS)


# --- Log-probabilities


def test_a_network_scores_as_plain_models_do(network):
    prompts, texts = [[3, 4], [5], [6, 7, 8]], [[9, 10], [], [11]]
    for adapter in ("one", None, "two"):
        got = Network(network, 0, batch_tokens=8).logps(prompts, texts, adapter=adapter)
        assert got[1] == 0
        with Network(network, 0).using(adapter):
            for row in (0, 2):
                expected = naive_logps(network, [prompts[row] + texts[row]])[0][len(prompts[row]) - 1 :].sum()
                assert got[row] == pytest.approx(float(expected.detach()), abs=1e-4)


def test_a_shared_network_computes_its_trunk_once(network):
    assert Network(network, 0).scorer.body.depth == 2


# --- What is measured


def test_the_bare_reference_has_no_kl_and_the_others_do(found):
    policies = found.metrics["policies"]
    assert found.metrics["settings"]["reference"] == "base"
    assert policies["base"]["kl_nats_per_seq"] == 0.0
    assert policies["one"]["kl_nats_per_seq"] != 0
    assert policies["base"]["n_texts"] == 10


def test_kl_is_the_log_ratio_of_the_policys_own_texts(found, network):
    answers = found.answers["one"]
    prompt, ids = answers.prompts.ids[2], answers.ids[4]
    ratios = []
    for adapter in ("one", None):
        with Network(network, 0).using(adapter):
            ratios.append(float(naive_logps(network, [prompt + ids])[0][len(prompt) - 1 :].sum()))
    assert len(ids) == answers.tokens[4]
    assert answers.scores["kl"][4] == pytest.approx(ratios[0] - ratios[1], abs=1e-3)


def test_gold_reads_whole_texts_and_wins_are_counted(found):
    base, one = found.answers["base"], found.answers["one"]
    expected = [len(PROMPTS[row // 2]) + len(text) for row, text in enumerate(one.texts)]
    assert one.scores["gold"].tolist() == expected
    row = found.metrics["versus_baseline"]["one"]["gold"]
    gaps = one.scores["gold"] - base.scores["gold"]
    assert (row["wins"], row["ties"], row["losses"]) == (
        (gaps > 0).sum(),
        (gaps == 0).sum(),
        (gaps < 0).sum(),
    )
    assert row["difference"] == pytest.approx(gaps.mean())
    assert row["win_rate"] == pytest.approx(((gaps > 0) + 0.5 * (gaps == 0)).mean())
    assert row["ci95"][0] <= row["win_rate"] <= row["ci95"][1]


def test_a_policy_against_its_copy_ties_everywhere(policies):
    base = policies[0]
    twin = EvalPolicy("twin", base.model, base.tokenizer)
    row = compare_policies([base, twin], PROMPTS, gold=lengths, **OPTIONS).metrics["versus_baseline"]["twin"][
        "gold"
    ]
    assert (row["wins"], row["ties"], row["losses"], row["win_rate"]) == (0, 5, 0, 0.5)


def test_the_same_seed_gives_the_same_texts_alone_or_in_company(found, policies):
    alone = compare_policies([policies[1]], PROMPTS, n_samples=2, with_coherence=False, **OPTIONS)
    assert alone.answers["one"].texts == found.answers["one"].texts
    assert alone.metrics["settings"]["reference"] == "its base model"
    assert alone.metrics["policies"]["one"]["missing"]["coherence"] == "it was switched off"
    other = compare_policies(
        [policies[1]], PROMPTS, n_samples=2, with_coherence=False, **OPTIONS | {"seed": 1}
    )
    assert other.answers["one"].texts != alone.answers["one"].texts


def test_a_tie_margin_applies_to_the_judge_alone(policies):
    both = compare_policies(
        policies[:2], PROMPTS, gold=lengths, reward=lengths, judge="gold", tie_margin=1e6, **OPTIONS
    ).metrics["versus_baseline"]["one"]
    assert both["gold"]["ties"] == 5
    assert both["reward"]["ties"] < 5


def test_means_are_over_prompts_and_equal_prompts_are_one(policies):
    def of(*prompts):
        read = PromptRows([[1]] * len(prompts), list(prompts), [], "none")
        return Answers(policies[0], read, 2, [""] * 6, [[1]] * 6, np.ones(6, bool), {}, {})

    values = np.array([1.0, 3.0, np.nan, 5.0, np.nan, np.nan])
    assert of("a", "b", "c").mean(values, seed=0).estimate == 3.5  # 2 and 5; nothing is known of "c"
    assert of("a", "a", "b").mean(values, seed=0).estimate == 3.0  # 1, 3 and 5 answer one prompt
    assert of("a", "b", "c").mean(np.full(6, np.nan), seed=0) is None


def test_intervals_count_prompts_and_lengths_are_words(found):
    one, base = found.answers["one"], found.answers["base"]
    assert one.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    entry = found.metrics["policies"]["one"]
    low, high = stats.t.interval(
        0.95, 4, one.words.reshape(5, 2).mean(1).mean(), stats.sem(one.words.reshape(5, 2).mean(1))
    )
    assert entry["length_words_ci95"] == pytest.approx([low, high])
    assert entry["cut_ci95"] == share_ci(~one.ended, groups=one.groups).ends
    row = found.metrics["versus_baseline"]["one"]["gold"]
    won = outcomes(one.scores["gold"], base.scores["gold"])
    expected = length_controlled_win_rate(won, one.words, base.words, clusters=one.groups)
    assert row["length_controlled"] == expected.estimate


def test_length_control_does_not_depend_on_the_tokenizers(policies):
    """A judge that likes length, and two equal policies: one half, also if one has twice as many tokens."""
    rng, rows = np.random.default_rng(0), 400
    prompts = PromptRows([[1]] * rows, [str(row) for row in range(rows)], [], "none")

    def wrote(tokens_per_word):
        n = rng.integers(12, 28, rows)
        texts, ids = [" ".join(["w"] * k) for k in n], [[1] * (k * tokens_per_word) for k in n]
        scores = {"vader": n / 4 + rng.logistic(size=rows)}
        return Answers(policies[0], prompts, 1, texts, ids, np.ones(rows, bool), scores, {})

    answers = {"fine": wrote(3), "coarse": wrote(1)}
    row = versus_baseline(answers, "fine", judge="vader", tie_margin=0, seed=0)["coarse"]["vader"]
    low, high = row["length_controlled_ci95"]
    assert low < 0.5 < high and row["length_controlled"] == pytest.approx(0.5, abs=0.06)
    assert row["length_effect"] > 1


def test_an_infinite_score_is_left_out_and_said(policies):
    def sometimes(texts):
        return np.concatenate([[np.inf], lengths(texts)[1:]])

    found = compare_policies(policies[:2], PROMPTS, gold=sometimes, **OPTIONS)
    entry, versus = found.metrics["policies"]["one"], found.metrics["versus_baseline"]["one"]["gold"]
    assert entry["not_a_number"] == {"gold": 1} and versus["n"] == 4 and np.isfinite(entry["gold_reward"])


def test_a_policy_without_an_interval_stays_on_the_frontier(found):
    # The KL of the reference to itself is 0 for every prompt: a number without an interval.
    base = found.metrics["policies"]["base"]
    assert base["kl_nats_per_seq"] == 0 and np.isnan(base["kl_ci95"]).all()
    assert "base" in draw_comparison(found.metrics)["frontier"].alt


def test_a_subset_is_what_was_answered_to_some_prompts(found):
    every = found.answers["one"].subset(slice(1, None, 2))
    assert every.prompts.texts == ["A plot", "What a"]
    assert every.texts == [found.answers["one"].texts[row] for row in (2, 3, 6, 7)]
    assert every.scores["kl"].tolist() == found.answers["one"].scores["kl"][[2, 3, 6, 7]].tolist()
    assert compare(every, found.answers["base"].subset(slice(1, None, 2)), seed=0)["n_prompts"] == 2


def test_temperature_is_that_of_the_kl_and_not_of_the_perplexity(policies):
    warm = compare_policies(policies[:2], PROMPTS, **OPTIONS | {"temperature": 0.5})
    assert warm.metrics["policies"]["base"]["kl_nats_per_seq"] == 0.0
    greedy = compare_policies(policies[:2], PROMPTS, **OPTIONS | {"temperature": 0.0})
    entry = greedy.metrics["policies"]["one"]
    assert entry["kl_nats_per_seq"] is None
    assert "greedy" in entry["missing"]["kl"]
    assert entry["perplexity_reference"] > 1


def test_pareto_points():
    points = [(0.0, 0.1), (2.0, 0.5), (1.0, 0.0), (3.0, 0.5), (4.0, 0.9), (2.0, 0.2)]
    assert pareto(points) == [(0.0, 0.1), (2.0, 0.5), (4.0, 0.9)]


# --- Degenerate input


def test_another_vocabulary_has_no_kl_but_a_perplexity(policies):
    other = byte_tokenizer()
    other.add_tokens(["<new>"])
    other.pad_token = other.eos_token
    end = other.eos_token_id
    alien = EvalPolicy(
        "alien", gpt2(vocab_size=258, bos_token_id=end, eos_token_id=end, pad_token_id=None), other
    )
    found = compare_policies([policies[0], alien], PROMPTS, **OPTIONS)
    entry = found.metrics["policies"]["alien"]
    assert entry["kl_nats_per_seq"] is None
    assert "vocabulary" in entry["missing"]["kl"]
    assert entry["perplexity_reference"] > 1
    assert any(said.startswith("alien: no KL, because its vocabulary") for said in found.metrics["problems"])


def test_a_nan_is_left_out_and_said(policies):
    def sometimes(texts):
        scores = lengths(texts)
        scores[0] = np.nan
        return scores

    found = compare_policies(policies[:2], PROMPTS, gold=sometimes, **OPTIONS)
    entry, versus = found.metrics["policies"]["one"], found.metrics["versus_baseline"]["one"]["gold"]
    assert entry["gold_reward"] == pytest.approx(found.answers["one"].scores["gold"][1:].mean())
    assert (entry["not_a_number"], versus["n"]) == ({"gold": 1}, 4)
    assert any("1 of 5 scores by gold are not a number" in said for said in found.metrics["problems"])
    never = compare_policies(policies[:2], PROMPTS, gold=lambda texts: np.full(len(texts), np.nan), **OPTIONS)
    assert never.metrics["policies"]["one"]["gold_reward"] is None
    assert "cannot be compared with base" in summary(never.metrics)[3]


def test_empty_answers_are_judged_and_said(policies, monkeypatch):
    def silent(policy, prompts, **_):
        ends, one = torch.full((5, 1), policy.tokenizer.eos_token_id), torch.ones(5, 1, dtype=torch.bool)
        return [Rollout(*pad_left(prompts, 0), ends, one, torch.zeros(5, 1), ended=one[:, 0])]

    monkeypatch.setattr("rlhf_lite.evaluation.answers.write", silent)
    found = compare_policies(policies[:1], PROMPTS, gold=lengths, **OPTIONS)
    entry = found.metrics["policies"]["base"]
    assert found.answers["base"].texts == [""] * 5
    assert (entry["empty_fraction"], entry["cut_fraction"], entry["distinct_2"]) == (1.0, 0.0, None)
    assert entry["gold_reward"] == pytest.approx(np.mean([len(prompt) for prompt in PROMPTS]))
    assert "base: 5 of 5 answers are empty" in " ".join(found.metrics["problems"])


def test_a_chat_template_that_refuses_a_prompt_is_one_message(policies):
    strict = tokenizer()
    strict.chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(PhaseError, match=r"not take .*turns user \(System role not supported\): go without"):
        encode_for(EvalPolicy("strict", policies[0].model, strict), ["Hi"], chat=True, max_new_tokens=4)


def test_chat_uses_the_template_or_says_that_there_is_none(policies):
    with_template = tokenizer()
    with_template.chat_template = TEMPLATE
    chatty = EvalPolicy("chatty", policies[0].model, with_template)
    assert encode_for(chatty, ["Hi"], chat=True, max_new_tokens=4).texts == ["<user>Hi<a>"]
    talk = "\n\nHuman: Hi\n\nAssistant: Yes?\n\nHuman: Go\n\nAssistant:"
    rendered = "<user>Hi<assistant>Yes?<user>Go<a>"
    assert encode_for(chatty, [talk], chat=True, max_new_tokens=4).texts == [rendered]
    assert encode_for(policies[0], [talk], chat=True, max_new_tokens=4).texts == [talk]
    seen = []

    def reward(texts):
        seen.extend(texts)
        return lengths(texts)

    found = compare_policies([policies[0], chatty], PROMPTS, chat=True, reward=reward, **OPTIONS)
    templates = [entry["template"] for entry in found.metrics["policies"].values()]
    assert templates == ["transcript", "chat"]
    assert "base has no chat template" in " ".join(found.metrics["problems"])
    assert seen[0].startswith("\n\nHuman: The film\n\nAssistant: ")


def test_a_long_prompt_keeps_its_end_and_is_said(policies):
    long = "x" * 200 + " end"
    found = compare_policies(policies[:1], ["short", long, "other"], **OPTIONS)
    assert "base: 1 prompts (number 2) are longer than its window" in " ".join(found.metrics["problems"])
    row = found.answers["base"].prompts.ids[1]
    assert len(row) == 128 - 6
    assert tokenizer().decode(row).endswith(" end")
    with pytest.raises(ValueError, match="leaves no room"):
        compare_policies(policies[:1], PROMPTS, **OPTIONS | {"max_new_tokens": 128})


def test_prompts_that_become_equal_when_they_are_cut_have_no_coherence(policies):
    found = compare_policies(policies[:1], [letter + "x" * 200 for letter in "abc"], **OPTIONS)
    assert "three different prompts" in found.metrics["policies"]["base"]["missing"]["coherence"]


def test_repeated_prompts_are_said(policies):
    found = compare_policies(policies[:1], ["a", "a", "b"], **OPTIONS)
    assert "1 of 3 prompts repeat" in found.metrics["problems"][0]
    assert "three different prompts" in found.metrics["policies"]["base"]["missing"]["coherence"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baseline": "none"}, "baseline 'none' is none of the policies: base, one"),
        ({"reference": "none"}, "reference 'none'"),
        ({"judge": "gold"}, "no judge 'gold' in this comparison; there is vader"),
        ({"n_samples": 0}, "at least 1"),
        ({"temperature": float("nan")}, "temperature must be 0 or more"),
        ({"temperature": 0.0, "n_samples": 2}, "same text every time"),
        ({"gold": lambda texts: np.zeros(2)}, r"scores of shape \(2,\) for 5 texts"),
    ],
)
def test_wrong_requests(policies, changes, words):
    with pytest.raises(ValueError, match=words):
        compare_policies(policies[:2], PROMPTS, **OPTIONS | changes)


def test_names_must_differ_and_there_must_be_something(policies):
    with pytest.raises(ComparisonError, match="two policies are called 'base'"):
        compare_policies([policies[0]] * 2, PROMPTS, **OPTIONS)
    with pytest.raises(ComparisonError, match="no policy"):
        compare_policies([], PROMPTS, **OPTIONS)
    with pytest.raises(ComparisonError, match="no prompt"):
        compare_policies(policies, [], **OPTIONS)


# --- The report


@pytest.fixture(scope="module")
def folder(found, tmp_path_factory):
    place = tmp_path_factory.mktemp("report") / "out"
    assert write_comparison(found, place, card="one") == place / "report.html"
    return place


def test_all_files_are_there_and_agree(folder, found):
    assert {path.name for path in folder.iterdir()} == {
        "report.html", "report.md", "report.json", "samples.jsonl", "model_card.md", "figures",
    }  # fmt: skip
    content = json.loads((folder / "report.json").read_text())
    assert content["kind"] == "rlhf-lite comparison"
    rows = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert len(rows) == 10
    assert (rows[3]["prompt"], rows[3]["sample"]) == ("A plot", 2)
    assert rows[3]["policies"]["two"]["text"] == found.answers["two"].texts[3]
    kl = [row["policies"]["one"]["kl"] for row in rows]
    assert np.mean(kl) == pytest.approx(content["policies"]["one"]["kl_nats_per_seq"])


def test_the_page_is_self_contained_and_marks_the_optimised_judge(folder):
    page = (folder / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("†") >= 2
    for title in ("Results", "Reward against KL", "Samples side by side", "What these numbers cannot say"):
        assert f">{title}</h2>" in page
    markdown = (folder / "report.md").read_text()
    pictures = {path.name for path in folder.glob("figures/*.png")}
    assert {"score_gold.png", "win_rate.png", "frontier.png"} <= pictures
    for picture in pictures:
        assert f'src="figures/{picture}"' in markdown


def test_the_card_is_valid_for_the_hub(folder):
    from huggingface_hub import ModelCard

    content = (folder / "model_card.md").read_text()
    matter = yaml.safe_load(content.split("---\n")[1])
    assert (matter["library_name"], matter["license"]) == ("peft", "unknown")
    card = ModelCard(content)
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    metrics = json.loads((folder / "report.json").read_text())["policies"]["one"]
    assert results["kl_nats_per_seq"] == pytest.approx(metrics["kl_nats_per_seq"], abs=1e-4)
    assert card.data.eval_results[0].task_type == "text-generation"


def test_samples_hold_the_first_and_the_extremes(found):
    picked = pick_rows(sample_rows(found), found.metrics["settings"], first=2)
    assert list(picked)[:2] == [0, 2]
    gaps = found.answers["one"].scores["gold"] - found.answers["base"].scores["gold"]
    if gaps.max() > 0:
        assert "largest gain of one over base by gold" in picked[int(gaps.argmax())]


def test_only_an_earlier_report_is_replaced(found, folder, tmp_path):
    write_comparison(found, folder, card="one")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ComparisonError, match=r"something else \(such as notes.txt\)"):
        write_comparison(found, folder)
    (folder / "notes.txt").unlink()
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ComparisonError, match="no report of a comparison"):
        check_output(tmp_path)
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "report.json")
    with pytest.raises(ComparisonError, match="card='none'"):
        write_comparison(found, tmp_path / "new", card="none")
    assert not (tmp_path / "new").exists()


def test_strange_names_and_texts_do_no_harm(policies, tmp_path):
    odd = EvalPolicy("<b>|`{x}`", policies[0].model, policies[0].tokenizer)
    found = compare_policies([policies[1], odd], ["<script>alert(1)</script>", "{y}", "|"], **OPTIONS)
    page = write_comparison(found, tmp_path / "out").read_text()
    assert "<script" not in page
    assert "&lt;b&gt;|`{x}`" in page
