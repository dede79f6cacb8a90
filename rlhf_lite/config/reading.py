"""Reading, checking and writing settings: the machinery under ``rlhf_lite.config``.

Everything is read from the pydantic models: keys, types, ranges and descriptions.
"""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import annotated_types
import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from rlhf_lite.errors import ConfigError
from rlhf_lite.files import write_text

ModelT = TypeVar("ModelT", bound=BaseModel)
# What PyYAML raises of a text: its own errors, those of an impossible date or number, and of nesting. Our
# own error for a key given twice is a ValueError.
_NOT_YAML = (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError, AttributeError)


# --- Reading -----------------------------------------------------------------


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice: plain YAML silently keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                continue  # no setting has such a key, which is reported as an unknown key
            if key in seen:
                raise ConfigError([f"line {line}: {key} is already set on line {seen[key]}; keep one"])
            seen[key] = line
        return super().construct_mapping(node, deep=deep)


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; check the path given to --config"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as UTF-8 text ({error})"]) from error
    try:
        values = yaml.load(text, Loader=_UniqueKeyLoader)
    except ConfigError as error:
        raise ConfigError([f"{path}, {line}" for line in error.problems]) from None
    except _NOT_YAML as error:
        raise ConfigError([f"{path}: not valid YAML: {' '.join(str(error).split())}"]) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError([f"{path}: got {_show(values)}; expected settings as 'key: value' lines"])
    return values


def read_model(model: type[ModelT], path: Path) -> ModelT:
    """A YAML file that holds no settings but one thing of its own, such as principles or a sweep.

    Raises:
        ConfigError: naming the file, the entry, the value received and what was expected.
    """
    try:
        return model.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: cannot be read as UTF-8 text ({error})"]) from error
    except ValidationError as error:
        problems = [
            f"{path}: {'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}, got {str(e['input'])[:60]!r}"
            for e in error.errors()
        ]
        raise ConfigError(problems) from error
    except _NOT_YAML as error:  # after its kind, a wrong value
        raise ConfigError([f"{path}: is not valid YAML: {error}"]) from error


def build(model: type[ModelT], path: Path | None, overrides: Sequence[str]) -> ModelT:
    """Merge defaults, file and overrides and validate them. See ``config.load_config``."""
    problems: list[str] = []
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    if path is not None:
        for key, value in _flatten(model, model, _read_yaml(path), str(path), problems):
            _put(merged, key, value)
            origin[key] = str(path)
    for text in overrides:
        parsed = _parse_override(model, text, problems)
        if parsed is not None:
            _put(merged, *parsed)
            origin[parsed[0]] = "command line"
    try:
        config = model.model_validate(merged)
    except ValidationError as error:
        problems.extend(_explain(model, error, merged, origin))
    if problems:
        raise ConfigError(problems)
    return config


def _flatten(root: type[BaseModel], model: type[BaseModel], values: Mapping[Any, Any], where: str,
             problems: list[str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, value) for known keys; put a problem down for every other key."""
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        field = model.model_fields.get(key) if isinstance(key, str) else None
        if field is None:
            problems.append(_unknown(root, dotted, where))
        elif (section := _section(field)) is None:
            yield dotted, value
        elif isinstance(value, Mapping):
            yield from _flatten(root, section, value, where, problems, f"{dotted}.")
        elif value is not None:  # a section whose lines are all commented out is empty, not wrong
            problems.append(f"{where}: {dotted}: got {_show(value)}; expected a section, with keys such as "
                            f"{dotted}.{next(iter(section.model_fields))}")


def _parse_override(model: type[BaseModel], text: str, problems: list[str]) -> tuple[str, Any] | None:
    key, equals, raw = text.partition("=")
    key = key.strip()
    if not equals or not key:
        problems.append(f"command line: got {text!r}; expected key=value, such as seed=1 or ppo.clip=0.1")
        return None
    field = find_field(model, key)
    if field is None:
        problems.append(_unknown(model, key, "command line"))
        return None
    if (section := _section(field)) is not None:
        example = next(iter(section.model_fields))
        problems.append(f"command line: {key} is a section; set one of its keys, such as {key}.{example}=...")
        return None
    try:
        value = yaml.load(raw, Loader=_UniqueKeyLoader)
    except _NOT_YAML:  # the text itself; its type is checked later
        value = raw
    # On the command line everything is text, so output=2024, output=no and output=a #1 mean those texts.
    if value is not None and raw.lstrip()[:1] not in "'\"" and _takes_only_text(field.annotation):
        value = raw.strip()
    return key, value


def _put(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, name = dotted.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
    tree[name] = value


# --- Looking into the models -------------------------------------------------


def _section(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def find_field(model: type[BaseModel], dotted: str) -> FieldInfo | None:
    """The field behind a dotted key such as ``ppo.clip``, or None if there is none."""
    name, _, rest = dotted.partition(".")
    field = model.model_fields.get(name)
    if field is None or not rest:
        return field
    section = _section(field)
    return None if section is None else find_field(section, rest)


def dotted_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Every key that can be set, in the order of the models: ``seed``, ..., ``ppo.clip``, ..."""
    keys: list[str] = []
    for name, field in model.model_fields.items():
        section = _section(field)
        keys += [f"{prefix}{name}"] if section is None else dotted_keys(section, f"{prefix}{name}.")
    return keys


def _options(annotation: Any) -> list[Any]:
    """The alternatives of a union (``X | None`` -> [X, None type]); a single type -> [it]."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [option for part in get_args(annotation) for option in _options(part)]
    return [annotation]


def _bare(annotation: Any) -> tuple[Any, list[Any]]:
    """Split ``Annotated`` into its type and its constraints, however deep."""
    if hasattr(annotation, "__metadata__"):
        kind, inner = _bare(annotation.__origin__)
        constraints = [item for meta in annotation.__metadata__ for item in getattr(meta, "metadata", [meta])]
        return kind, inner + constraints
    return annotation, []


def _takes_only_text(annotation: Any) -> bool:
    kinds = {_bare(option)[0] for option in _options(annotation)}
    return str in kinds and kinds <= {str, type(None)}


_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}
_BOUNDS = {
    annotated_types.Ge: (">=", "ge"),
    annotated_types.Gt: (">", "gt"),
    annotated_types.Le: ("<=", "le"),
    annotated_types.Lt: ("<", "lt"),
}


def expected(field: FieldInfo) -> str:
    """What a setting accepts, in words: ``a number > 0``, ``a whole number >= 1 or null``."""
    return " or ".join(_describe(option, field.metadata) for option in _options(field.annotation))


def _describe(annotation: Any, outer: Sequence[Any] = ()) -> str:
    kind, constraints = _bare(annotation)
    if get_origin(kind) is Literal:
        return " or ".join(f'"{value}"' for value in get_args(kind))
    if get_origin(kind) is list:
        return f"a list of {_describe(get_args(kind)[0]).removeprefix('a ')}"
    bounds = [f"{sign} {getattr(item, name)}" for item in [*constraints, *outer]
              for cls, (sign, name) in _BOUNDS.items() if isinstance(item, cls)]
    if kind is type(None):
        bounds = []
    return " ".join([_NAMES.get(kind, str(kind)), " and ".join(bounds)]).strip()


# --- Explaining --------------------------------------------------------------


def _show(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else "null" if value is None else repr(value)
    if isinstance(value, bool):
        text = text.lower()
    kind = {str: "text", bool: "true/false", int: "a whole number", float: "a number"}.get(type(value))
    text = text if len(text) <= 80 else f"{text[:77]}..."
    return text if value is None else f"{text} ({kind or 'a ' + type(value).__name__})"


def _unknown(root: type[BaseModel], dotted: str, where: str) -> str:
    names = suggest(dotted, [*dotted_keys(root), *(n for n, f in root.model_fields.items() if _section(f))])
    hint = f"did you mean {', '.join(names)}?" if names else "a run's saved config.yaml lists all keys"
    return f"{where}: {dotted}: unknown key; {hint}"


def suggest(dotted: str, known: Sequence[str]) -> list[str]:
    """Up to three known keys that were probably meant, best first.

    The same name in another section counts most (``sft.clip`` -> ``ppo.clip``), then a longer name
    in the same section (``ppo.kl`` -> ``ppo.kl_coef``), then spelling.
    """
    section, _, name = dotted.rpartition(".")

    def likeness(key: str) -> float:
        key_section, _, key_name = key.rpartition(".")
        spelling = difflib.SequenceMatcher(None, name, key_name).ratio()
        return spelling + 0.1 * difflib.SequenceMatcher(None, section, key_section).ratio()

    same_name = [key for key in known if key.rpartition(".")[2] == name]
    longer = [key for key in known if key.startswith(f"{dotted}_")]
    if same_name or longer:
        return sorted(same_name or longer, key=likeness, reverse=True)[:3]
    best = max(known, key=likeness, default=None)
    return [best] if best is not None and likeness(best) >= 0.75 else []


def _explain(model: type[BaseModel], error: ValidationError, merged: Mapping[str, Any],
             origin: Mapping[str, str]) -> Iterator[str]:
    seen: set[str] = set()
    for item in error.errors():
        dotted, value = "", merged
        for part in item["loc"]:  # below a field, pydantic adds union members and list indices
            key = f"{dotted}.{part}" if dotted else str(part)
            if find_field(model, key) is None:
                break
            dotted = key
            value = value.get(part) if isinstance(value, Mapping) else None
        if dotted in seen:
            continue
        seen.add(dotted)
        field = find_field(model, dotted)
        if field is None or _section(field) is not None:  # a rule over several fields of a section
            places = {place for key, place in origin.items() if key.startswith(dotted)}
            yield f"{' and '.join(sorted(places))}: {dotted}: {item['msg'].removeprefix('Value error, ')}"
        else:
            place = origin.get(dotted, "defaults")
            yield f"{place}: {dotted}: got {_show(value)}; expected {expected(field)}"


# --- Writing -----------------------------------------------------------------


def write(config: BaseModel, path: Path) -> None:
    """Write settings as YAML with each field's description as a comment, atomically."""
    lines = ["# Settings of this run: defaults, file and command line resolved.", ""]
    lines += _lines(config, indent="")
    write_text(path, "\n".join(lines) + "\n")


def _lines(config: BaseModel, indent: str) -> list[str]:
    lines: list[str] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, BaseModel):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
            continue
        # safe_dump writes 2e-4 as 0.0002 and 1e-07 as 1.0e-07: both read back as floats.
        first, *rest = yaml.safe_dump({name: value}, allow_unicode=True, width=1_000_000).splitlines()
        on_one_line = not rest or first.endswith(":")  # else a comment would fall inside a text
        comment = f"  # {field.description}" if field.description and on_one_line else ""
        lines += [indent + first + comment, *(indent + line for line in rest)]
    return lines
