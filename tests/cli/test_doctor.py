"""``rlhf-lite doctor``: true on a good machine, useful on a broken one."""

from __future__ import annotations

import json
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from rlhf_lite.cli import doctor
from rlhf_lite.data.assets import ensure as assets


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in report["checks"]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the package says it needs; tests put lines in."""
    lines: list[str] = []
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: lines)
    return lines


def test_here_everything_needed_is_found() -> None:
    report = doctor.examine()
    missing = [check for check in report["checks"] if check["state"] == "missing"]
    assert missing == []
    assert report["ok"] is True
    assert by_name(report)["torch"]["value"] == metadata.version("torch")
    assert by_name(report)["runs and commands use"]["value"] in ("cpu", "cuda:0")
    groups = [check["group"] for check in report["checks"]]
    assert list(dict.fromkeys(groups)) == ["Machine", "Python", "Libraries", "Extras", "Cache", "Tools"]
    json.dumps(report, allow_nan=False)


def test_everything_that_is_not_ok_says_how_to_mend_it() -> None:
    for check in doctor.examine()["checks"]:
        assert check["state"] in ("ok", "note", "missing")
        assert bool(check["fix"]) == (check["state"] != "ok"), check


def test_requirements_are_read_as_written(asked: list[str]) -> None:
    asked += ["torch>=2.6", "Some.Thing[extra] (>=1.0,<3)", "plain"]
    asked += ['trl>=1.12 ; extra == "dev"', "x==1.post1;extra=='b'"]
    read = {
        extra: [(item.name, str(item.specifier)) for item in items]
        for extra, items in doctor.requirements().items()
    }
    assert read == {
        "": [("torch", ">=2.6"), ("Some.Thing", "<3,>=1.0"), ("plain", "")],
        "dev": [("trl", ">=1.12")],
        "b": [("x", "==1.post1")],
    }


def test_a_checkout_that_is_not_installed_reads_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(doctor.metadata, "requires", missing)
    by_extra = doctor.requirements()
    assert "torch" in [item.name for item in by_extra[""]]
    assert "nbgrader" in [item.name for item in by_extra["teach"]]


def test_a_missing_library_is_needed_and_named(asked: list[str]) -> None:
    asked += ["no-such-library-here>=1.0", "pytest>=1.0"]
    report = doctor.examine()
    found = by_name(report)["no-such-library-here"]
    assert (found["state"], found["value"]) == ("missing", "not installed")
    assert found["fix"] == 'pip install "no-such-library-here>=1.0"'
    assert by_name(report)["pytest"]["state"] == "ok"
    assert report["ok"] is False


def test_a_library_that_is_too_old_is_needed_and_named(asked: list[str]) -> None:
    asked += ["pytest>=9999.1"]
    found = by_name(doctor.examine())["pytest"]
    assert found["state"] == "missing"
    assert found["value"].endswith("wanted >=9999.1")


def test_a_missing_extra_is_only_a_note(asked: list[str]) -> None:
    asked += ["pytest>=1", "no-such-library-here>=1.0 ; extra == 'demo'", "pytest>=1 ; extra == 'dev'"]
    report = doctor.examine()
    assert by_name(report)["demo"]["state"] == "note"
    assert "no-such-library-here" in by_name(report)["demo"]["value"]
    assert "rlhf-lite[demo]" in by_name(report)["demo"]["fix"]
    assert by_name(report)["dev"]["state"] == "ok"
    assert report["ok"] is True


@pytest.mark.parametrize(
    ("version", "bound", "fits"),
    [
        ("2.13.0+cpu", "2.6", True),
        ("2.6", "2.6.0", True),
        ("2.6.0", "2.6", True),
        ("10.0", "9.1", True),
        ("1.9.9", "1.10", False),
        ("3.1rc1", "3", True),
    ],
)
def test_versions_are_compared_as_numbers(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, version: str, bound: str, fits: bool
) -> None:
    asked += [f"some-library>={bound}"]
    monkeypatch.setattr(doctor.metadata, "version", lambda _: version)
    assert (by_name(doctor.examine())["some-library"]["state"] == "ok") is fits


def test_without_packaging_there_is_still_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "packaging.requirements", None)
    report = doctor.examine()
    assert report["ok"] is False
    assert by_name(report)["packaging"]["state"] == "missing"


def test_a_torch_that_does_not_import_is_found(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked += ["torch>=2.6"]
    monkeypatch.setitem(sys.modules, "torch", None)
    report = doctor.examine()
    assert "does not import" in by_name(report)["torch"]["value"]
    assert report["ok"] is False


def test_with_hardly_any_library_there_is_still_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(metadata, "requires", missing)
    for name in ("torch", "numpy", "platformdirs", "filelock", "gguf", "pydantic", "yaml", "psutil"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(assets, "cache_dir", lambda: missing("platformdirs"))
    monkeypatch.setenv("PATH", "")
    report = doctor.examine()
    assert report["ok"] is False
    found = by_name(report)
    assert found["torch"]["fix"].startswith("pip install")
    assert found["git"]["state"] == "note"
    assert found["assets"]["state"] == "missing"
    doctor.show(report)
    assert "Something needed is missing" in capsys.readouterr().out


def test_an_empty_cache_is_a_note_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLHF_LITE_CACHE", str(tmp_path / "none"))
    report = doctor.examine()
    assert by_name(report)["ratings"]["state"] == "note"
    assert "rlhf-lite assets" in by_name(report)["ratings"]["fix"]
    assert not (tmp_path / "none").exists()
    assert report["ok"] is True


def test_little_space_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_GB_WANTED", 1e9)
    found = by_name(doctor.examine())["free space"]
    assert found["state"] == "note"
    assert "RLHF_LITE_CACHE" in found["fix"]


def test_markup_in_values_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"group": "G", "name": "n", "value": "[red]x[/red]", "state": "ok", "fix": ""}
    doctor.show({"ok": True, "checks": [check], "run_info": {}})
    assert "[red]x[/red]" in capsys.readouterr().out


def test_the_browser_is_found_as_the_tests_of_the_site_find_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools.website import browser

    monkeypatch.setenv("RLHF_LITE_CHROMIUM", "/chosen/chrome")
    monkeypatch.setenv("RLHF_LITE_CHROMEDRIVER", "/chosen/driver")
    found = by_name(doctor.examine())
    programs = browser.find_browser()
    assert programs is not None
    assert found["Chromium"]["value"] == "/chosen/chrome" == programs.chromium
    assert found["ChromeDriver"]["value"] == "/chosen/driver" == programs.chromedriver
