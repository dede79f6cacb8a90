"""record(), note() and budget(): what notebooks use to talk to the book."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import transformers

from rlhf_lite.models.runtime import compute_device
from rlhf_lite.teaching import notebook


def test_budget_is_fast_unless_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_LITE_BUDGET", raising=False)
    assert notebook.budget() == "fast"
    monkeypatch.setenv("RLHF_LITE_BUDGET", "full")
    assert notebook.budget() == "full"
    monkeypatch.setenv("RLHF_LITE_BUDGET", "ful")
    with pytest.raises(ValueError, match="'ful'"):
        notebook.budget()


def test_a_chapter_stays_on_the_cpu_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells put their tensors there; models that were loaded elsewhere could not read them."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")  # so that it is put back
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("set_verbosity_error", "disable_progress_bar"):
        monkeypatch.setattr(transformers.utils.logging, name, lambda: None)
    assert compute_device().type == "cuda"
    notebook.quiet()
    assert compute_device().type == "cpu"


@pytest.mark.parametrize("value", [0.5, np.float64(0.5), torch.tensor(0.5)])
def test_record_outside_ipython_prints_a_plain_number(value, capsys: pytest.CaptureFixture[str]) -> None:
    assert notebook.record("kl_final", value) == 0.5
    assert capsys.readouterr().out == "kl_final = 0.5\n"


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("kl final", 1.0, ValueError),
        ("kl", float("nan"), ValueError),
        ("kl", float("inf"), ValueError),
        ("kl", [], TypeError),
    ],
)
def test_record_refuses_what_a_page_cannot_quote(name: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        notebook.record(name, value)


def test_record_is_what_myst_nb_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output must be one that MyST-NB's own reader takes out of a cell."""
    nbformat = pytest.importorskip("nbformat", reason="the book's tools are not installed (extra 'book')")
    glue = pytest.importorskip("myst_nb.ext.glue", reason="the book's tools are not installed (extra 'book')")
    shown: list[tuple[dict, dict]] = []
    monkeypatch.setattr(notebook, "_in_ipython", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw, metadata: shown.append((data, metadata)))
    notebook.record("n_pairs", np.int64(400))
    data, metadata = shown[0]
    output = nbformat.v4.new_output("display_data", data=data, metadata=metadata)
    cell = nbformat.v4.new_code_cell("", outputs=[output])
    [(key, found)] = glue.extract_glue_data_cell(cell)
    assert key == "n_pairs"
    assert found["data"] == {"text/plain": "400"}
    assert cell.outputs == []  # nothing is shown on the page where it is recorded


def test_note_outside_ipython(capsys: pytest.CaptureFixture[str]) -> None:
    notebook.note("The model is **right**.")
    assert capsys.readouterr().out == "The model is **right**.\n"


def test_a_table_rounds_its_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"arm": "<full>", "loss (nats)": 3.21449, "change": (-0.5, -0.75, -0.25), "n": 1234},
        {"arm": "rank 1", "loss (nats)": torch.tensor(2.0), "n": np.int64(9)},
    ]
    formats = {"loss (nats)": ".3f", "change": "+.2f", "n": ","}
    notebook.show_table(rows, formats, caption="Seed 0.")
    printed = capsys.readouterr().out
    words = " ".join(printed.split())
    assert words.startswith("arm loss (nats) change n <full> 3.214 -0.50 [-0.75, -0.25] 1,234 rank 1 2.000 9")
    assert printed.endswith("Seed 0.\n")


def test_a_table_on_a_page_is_escaped_and_captioned(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr(notebook, "_in_ipython", lambda: True)
    monkeypatch.setattr("IPython.display.display", shown.append)
    rows = [{"text": "<b>", "n": 1}, {"text": "none", "n": None}]
    notebook.show_table(rows, caption="Two texts.")
    html = shown[0].to_html()
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert "<caption>Two texts.</caption>" in html and "row_heading" not in html
    assert "NaN" not in html and "None" not in html
    assert "col0 {\n  text-align: left" in html and "col1 {\n  text-align: right" in html
    assert 'class="dataframe"' in html, "in the dark the theme would put it on white"


def test_helpers_import_nothing_heavy() -> None:
    code = "import sys, rlhf_lite.teaching.notebook, rlhf_lite.teaching.exercises as e; e.exercise_names(); "
    code += "print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_recorded_runs_are_found_beside_the_package() -> None:
    runs = notebook.recorded("quickstart")
    assert [run["seed"] for run in runs] == [0, 1, 2]
    line = notebook.replay_line(runs)
    assert "seeds 0 to 2" in line and runs[0]["commit"][:10] in line and runs[0]["hardware"]["cpu"] in line


def test_replay_line_reads_files_that_hold_several_seeds() -> None:
    run = {
        "run": {"seed": None, "commit": "abcdef0123456", "hardware": {"cpu": "X", "physical_cores": 2}},
        "summary": {"seeds": [0, 2, 5]},
    }
    line = notebook.replay_line([run])
    assert line == "Replay of recorded runs: commit abcdef0123; seeds 0, 2, 5; X, 2 cores."
    with pytest.raises(ValueError, match="at least one"):
        notebook.replay_line([])


def test_an_unknown_record_names_what_there_is() -> None:
    with pytest.raises(FileNotFoundError, match=r"'quickstrat'.*quickstart"):
        notebook.recorded("quickstrat")


def test_a_picture_is_a_png_of_the_wanted_width() -> None:
    from matplotlib.figure import Figure

    image = notebook.picture(Figure(figsize=(2, 1)), width=300)
    assert image.data.startswith(b"\x89PNG") and image.width == 300
