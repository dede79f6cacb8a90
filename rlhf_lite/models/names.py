"""Which model a name means: a folder, a Hub id, or the bundled model; and one message if it does not load."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_lite.data.assets.ensure import MODEL, ensure_model
from rlhf_lite.errors import PhaseError, RlhfLiteError
from rlhf_lite.files import at_home

# A Hub id, with or without its owner. Folders that programs make have none as owner.
_HUB_ID = re.compile(r"(?!(?:checkpoints?|models?|outputs?|runs?)/)[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def resolve_model(name_or_path: str | None) -> str:
    """The folder of the bundled model for None; a folder's absolute path; a Hub id as it is.

    Raises:
        PhaseError: if it is a file, or a path at which there is nothing.
    """
    if name_or_path is None:
        return str(ensure_model())
    place = Path(at_home(name_or_path))
    if place.is_dir():
        return str(place.absolute())
    if place.is_file():
        raise PhaseError(f"{name_or_path} is a file; a model is a folder with a config.json, or a Hub id")
    if not _HUB_ID.fullmatch(name_or_path):
        raise PhaseError(f"{name_or_path} is not there; a model is a folder, or a Hub id such as owner/name")
    return name_or_path


def base_of(adapter: Path) -> str:
    """The model that an adapter was trained on, as :func:`find_model` finds it.

    Args:
        adapter: folder that holds ``adapter_config.json``.

    Raises:
        PhaseError: if the adapter names no base model, or a folder that is not there.
    """
    file = adapter / "adapter_config.json"
    try:
        base = json.loads(file.read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise PhaseError(f"{file} cannot be read ({error}): it must hold an adapter's settings") from error
    if not (isinstance(base, str) and base.strip()):
        raise PhaseError(f"{file} does not say which model the adapter belongs to: write that model's folder "
                         "or Hub id there, as base_model_name_or_path")
    return find_model(base.strip(), adapter, said_by=file)


def find_model(name: str, home: Path, *, said_by: Path) -> str:
    """A model that a file names: its folder, absolute, or its Hub id.

    A relative path (earlier versions wrote it as it was typed) is looked up from the current folder, and then
    from ``home`` upwards. The bundled model is found wherever this machine keeps it.

    Args:
        name: what the file says.
        home: the folder of the file.
        said_by: the file, for the message.

    Raises:
        PhaseError: if it is a folder that is not there.
    """
    for folder in (Path.cwd(), home.absolute(), *home.absolute().parents):
        if ((place := folder / at_home(name)) / "config.json").is_file():
            return resolve_model(str(place))
    if Path(name).is_absolute() and Path(name).name == MODEL.name:
        return resolve_model(None)  # it lay in the cache of another machine
    if not _HUB_ID.fullmatch(name):
        raise PhaseError(f"{said_by} names the model {name}, and that folder is not there: put the model "
                         "there, or write into the file where it is now")
    return name


@contextmanager
def loading(name: str, what: str = "a model") -> Iterator[None]:
    """Whatever goes wrong in a library while ``name`` is loaded becomes one message.

    Raises:
        PhaseError: with the library's first line; ``--debug`` shows the rest.
    """
    try:
        yield
    except RlhfLiteError:
        raise
    except Exception as error:  # what transformers and PEFT raise has no common kind
        lines = [line.strip() for line in str(error).strip().splitlines()]
        told = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])  # torch names the tensor below
        reason = f"{type(error).__name__}: {told}" if told else type(error).__name__
        hub = "" if Path(name).exists() else f". There is no folder {name} here: it was taken for a Hub id"
        raise PhaseError(f"{name} cannot be loaded as {what} ({reason}){hub}") from error
