"""The report of a run, rendered from a synthetic folder: every number from the files, nothing invented."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import synthetic_run

from rlhf_lite.evaluation.report.render import integer, number, ratio
from rlhf_lite.evaluation.report.run import summary_lines, write_report

VOID = {"meta", "link", "img", "br", "source"}


class Page(HTMLParser):
    """Collects what the tests ask about, and fails on tags that do not close."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = synthetic_run.write_run(tmp_path_factory.mktemp("runs") / "synthetic")
    page, document = write_report(folder)
    assert (page, document) == (folder / "report.html", folder / "report.md")
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def document(run) -> str:
    return (run / "report.md").read_text(encoding="utf-8")


def test_head_and_verdict(page, document):
    for part in (
        "0123456789abcdef0123456789abcdef01234567",
        "Synthetic CPU, 2 cores, 8 GB memory",
        "4.7 minutes",
    ):
        assert part in page.text and part in document
    assert "All 4 checks passed." in page.text
    assert "uncommitted" not in page.text


def test_the_headline_states_size_interval_and_number(page, document):
    sentence = (
        "On 200 unseen openings, PPO's gold reward is 0.77 rating points above SFT's "
        "(95 % interval of the difference +0.66 to +0.88): a gain by a judge that training never used."
    )
    assert sentence in page.text
    assert sentence in document.replace("\\", "")


def test_table_has_every_measure_with_its_explanation(page):
    table = page.text[page.text.index("Measure Reference SFT PPO") :]
    for cell in (
        "Gold reward rating points −0.02 −0.10 to 0.07 0.06 −0.02 to 0.15 0.83 0.75 to 0.92",
        "KL from PPO's start nats per sequence 0.00",
        "Toxicity probability 0.041",
        "Distinct-2 fraction 0.87 0.91 0.84",
        "Length tokens 19.3",
        "Perplexity under the reference 17.9 21.4 24.8",
        "Reward-model score its own scale 0.02 0.11 1.42",
    ):
        assert cell in table
    assert "It is no proof of success" in table


def test_sections_for_reward_model_gold_judge_and_limits(page):
    assert "87.8 % of 400 held-out pairs (95 % interval of the fraction 0.842 to 0.906)" in page.text
    assert "r = 0.71 (95 % interval 0.68 to 0.74), and at 0.70 in rank order, on 1,200 texts" in page.text
    assert "another kind of model than the reward model" in page.text
    assert "about 540 times as likely" in page.text  # exp(6.3) = 544.6, to two digits
    assert "This is a single run (seed 0)" in page.text


def test_every_picture_is_inside_the_page_and_has_a_sentence(page, run, document):
    images = page.all("img")
    assert len(images) == 14
    for image in images:
        assert image["src"].startswith("data:image/svg+xml;base64,")
        assert base64.b64decode(image["src"].split(",")[1]).startswith(b"<svg")
        assert len(image["alt"].split()) >= 8 and image["alt"].endswith(".")
    assert len({image["alt"] for image in images}) == len(images)
    assert page.all("source")[0]["media"] == "(max-width: 46rem)"
    named = re.findall(r'<img src="(figures/[^"]+)" width="[^"]+" alt="([^"]+)">', document)
    assert len(named) == len(images)
    for path, alt in named:
        assert (run / path).read_bytes().startswith(b"<svg" if path.endswith(".svg") else b"\x89PNG")
        assert alt.endswith(".")
    assert {path.name for path in (run / "figures").iterdir()} == {path.split("/")[1] for path, _ in named}


def test_alt_text_reads_the_curve(page):
    alts = " ".join(image["alt"] for image in page.all("img"))
    rows = [row for row in synthetic_run.step_rows() if row["phase"] == "ppo"]
    first, last = rows[0]["reward/rm_raw"], rows[-1]["reward/rm_raw"]
    assert f"goes from {number(first)} at step 1 to {number(last)} at step 20" in alts
    assert "The controller's target is 6." in alts


def test_the_page_asks_for_nothing_and_runs_nothing(page, run):
    source = (run / "report.html").read_text(encoding="utf-8")
    outside = re.sub(r"base64,[A-Za-z0-9+/=]+", "", source)
    assert not page.all("script") and not page.all("iframe")
    assert [tag["href"] for tag in page.all("link")] == ["data:,"]
    assert not re.search(r"@import|url\(|https?://(?!example\.invalid)", outside)
    assert not [attributes for _, attributes in page.tags for key in attributes if key.startswith("on")]
    anchors = {tag["href"] for tag in page.all("a")}
    headings = {"#" + tag["id"] for tag in page.all("h2")}
    assert anchors == headings


def test_model_text_cannot_become_markup(page, run, document):
    assert '</b><script>alert("x")</script> | **bold** `code` $x$ [link]' in page.text
    source = (run / "report.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;" in source and "<script" not in source
    assert "<script" not in document
    row = next(line for line in document.splitlines() if "script" in line)
    assert r"\| \*\*bold\*\* \`code\` \$x\$ \[link\]" in row
    assert len(re.findall(r"(?<!\\)\|", row)) == 9  # still one row of eight columns


def test_samples_are_the_first_ones_and_the_extremes(page):
    rows = synthetic_run.sample_rows()
    ppo = [row["policies"]["ppo"] for row in rows]
    best = max(range(len(rows)), key=lambda index: ppo[index]["gold"]) + 1
    worst = min(range(len(rows)), key=lambda index: ppo[index]["gold"]) + 1
    furthest = max(range(len(rows)), key=lambda index: ppo[index]["kl_nats"]) + 1
    for label in ("Sample 1 ", "Sample 2 ", "Sample 3 "):
        assert label in page.text
    assert f"Sample {best}: best PPO text by gold reward of all 24" in page.text
    assert f"Sample {worst}: worst PPO text by gold reward of all 24" in page.text
    assert f"Sample {furthest}: PPO text furthest from its start of all 24" in page.text
    assert len(page.all("article")) == len({1, 2, 3, best, worst, furthest})
    assert f"gold {number(ppo[0]['gold'])}" in page.text


def test_one_sample_can_be_several_extremes(tmp_path):
    rows = synthetic_run.sample_rows(1)
    (tmp_path / "samples.jsonl").write_text(json.dumps(rows[0]) + "\n", encoding="utf-8")
    page = Page(write_report(tmp_path)[0].read_text(encoding="utf-8"))
    assert len(page.all("article")) == 1
    assert "Sample 1: best PPO text by gold reward of all 1; worst PPO text" in page.text


def test_an_empty_folder_gives_a_report_of_what_is_missing(tmp_path):
    page_path, document = write_report(tmp_path)
    page = Page(page_path.read_text(encoding="utf-8"))
    for words in (
        "This run recorded no checks.",
        "No policy has been evaluated",
        "saved no samples",
        "logged no steps of this phase",
        "no reward-model evaluation",
        "no checkpoint in the run folder",
        "metrics.json is not in the run folder",
        "The command was not recorded",
    ):
        assert words in page.text
    assert "nan" not in page.text.lower().split()
    assert "0.00" not in page.text
    assert len(page.all("img")) == 1  # the picture of the pipeline needs no numbers
    assert document.is_file()


def test_a_run_without_ppo_says_so(tmp_path):
    folder = synthetic_run.write_run(tmp_path / "run")
    content = synthetic_run.metrics()
    del content["policies"]["ppo"], content["comparisons"]
    content["policies"]["sft"]["toxicity"] = content["policies"]["reference"]["toxicity"] = float("nan")
    content["checks"][2] |= {"passed": False, "value": None}
    content["dirty"] = True
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    lines = [json.dumps(row) for row in synthetic_run.step_rows() if row["phase"] != "ppo"]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"phase": "rew', encoding="utf-8")
    page = Page(write_report(folder)[0].read_text(encoding="utf-8"))
    assert "1 of 4 checks not met: gold reward, PPO − SFT (lower end)." in page.text
    assert "No trained policy is compared with SFT" in page.text
    assert "Not in this run: Toxicity." in page.text
    assert "metrics.jsonl has 1 unreadable line, left out here" in page.text
    assert "with uncommitted changes" in page.text
    assert "This run logged no steps of this phase." in page.text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.json", "{", "metrics.json is not valid JSON"),
        ("metrics.json", "[1]", "metrics.json holds a list, expected an object"),
        ("metrics.json", '{"policies": 3, "checks": {"a": 1}, "seconds": [], "hardware": 7}', "No policy"),
        (
            "metrics.json",
            '{"policies": {"ppo": {"gold_reward": "high", "gold_ci95": [1]}}}',
            "Not in this run: Gold",
        ),
        ("config.yaml", "a: [", "config.yaml is not valid YAML"),
        (
            "samples.jsonl",
            '{"prompt": 3, "policies": {}}\n{"prompt": "a", "policies": {"ppo": 1}}',
            "Sample 1",
        ),
    ],
)
def test_damaged_files_are_named_and_do_no_harm(tmp_path, name, content, words):
    folder = synthetic_run.write_run(tmp_path / "run")
    (folder / "metrics.jsonl").unlink()  # drawing curves takes time and is not at stake here
    (folder / name).write_text(content, encoding="utf-8")
    assert words in Page(write_report(folder)[0].read_text(encoding="utf-8")).text


def test_a_difference_that_includes_zero_is_called_none():
    content = synthetic_run.metrics()
    content["comparisons"]["ppo_minus_sft"] |= {"gold_reward": -0.03, "gold_ci95": [-0.12, 0.06]}
    lines = " ".join(summary_lines(content))
    assert "0.03 rating points below SFT's" in lines
    assert "the interval includes zero, so this run shows no difference" in lines
    content["comparisons"]["ppo_minus_sft"]["gold_ci95"] = [-0.12, -0.01]
    assert "a loss by a judge that training never used" in " ".join(summary_lines(content))


def test_summary_lines_line_up():
    lines = summary_lines(synthetic_run.metrics())
    table = [line for line in lines if line.split()[0] in ("policy", "Reference", "SFT", "PPO")]
    assert len(table) == 4
    assert len({len(line) for line in table}) == 1
    assert table[3].split() == ["PPO", "0.83", "0.52", "6.3", "19.3", "0.84"]
    assert lines[-1] == "All 4 checks passed."
    assert summary_lines({}) == ["Time: – minutes", "This run recorded no checks."]


def test_other_policies_come_after_the_three(tmp_path):
    content = synthetic_run.metrics()
    content["policies"] = {"mine": content["policies"]["ppo"], **content["policies"]}
    (tmp_path / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
    text = Page(write_report(tmp_path)[0].read_text(encoding="utf-8")).text
    assert "Measure Reference SFT PPO mine" in text


def test_a_second_report_replaces_the_first_and_leaves_nothing_behind(tmp_path):
    write_report(tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    write_report(tmp_path)
    assert (
        sorted(path.name for path in tmp_path.rglob("*"))
        == before
        == [
            "figures",
            "pipeline.svg",
            "report.html",
            "report.md",
        ]
    )


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="pass the --output folder"):
        write_report(tmp_path / "nowhere")


def test_numbers():
    assert number(-0.001) == "0.00"
    assert number(-1.5) == "−1.50"
    assert number(math.nan) == number(None) == number(True) == number("3") == "–"
    assert number(0.5, sign=True) == "+0.50"
    assert integer(12345) == "12,345"
    assert ratio(6.3) == "540" and ratio(1000.0) == "10 to the power 304"


def test_reward_listing_appears_only_for_a_classifier(page, tmp_path):
    assert "AutoModelForSequenceClassification" in page.text
    folder = synthetic_run.write_run(tmp_path / "run")
    (folder / "reward" / "adapter" / "adapter_config.json").write_text("{}", encoding="utf-8")
    shutil.rmtree(folder / "ppo" / "merged")
    (folder / "metrics.jsonl").unlink()
    text = Page(write_report(folder)[0].read_text(encoding="utf-8")).text
    assert "AutoModelForSequenceClassification" not in text
    assert "ppo/merged" not in text


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium) to measure the page")
@pytest.mark.parametrize("width", [390, 1300])
def test_nothing_sticks_out_of_the_screen(run, tmp_path, width):
    # A frame of the wanted width: headless Chromium will not make its own window narrower than 500 px.
    probe = tmp_path / "probe.html"
    probe.write_text(
        f'<iframe src="{(run / "report.html").as_uri()}" style="width:{width}px;height:900px;border:0">'
        "</iframe><script>onload = () => {"
        "const page = document.querySelector('iframe').contentDocument.documentElement;"
        "document.body.dataset.spare = page.clientWidth - page.scrollWidth;"
        "document.body.dataset.pictures = [...page.querySelectorAll('img')].every(i => i.naturalWidth > 0);"
        "}</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--window-size=1400,1000",
            "--dump-dom",
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert 'data-spare="0"' in done.stdout
    assert 'data-pictures="true"' in done.stdout
