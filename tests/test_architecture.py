"""The house rules of the package: who may import whom, cheap imports, short files.

Imports are read from the source, so an import inside a function counts as well.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "rlhf_lite"
MAX_LINES = 400
# Of the whole package. Who brings a new room raises it by what the room needs, in the same commit.
MAX_PACKAGE_LINES = 28_600
MAX_MODULES = 15

# Top floor last. A module may import from its own room and from lower floors; rooms on one floor do
# not import each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("types", "errors", "files", "lazy"),
    ("config", "outputs", "tracking", "plotting", "functional", "lab"),
    ("checkpoint",),
    ("models", "data"),
    ("rollout",),
    ("serving", "training", "constitutional", "evaluation"),
    ("pipeline",),
    ("teaching",),
    ("cli",),
)
# The one way across a floor: the default policy is an asset, and how a text becomes tokens and a padded batch
# is the same for everybody.
# `data` never imports `models`, so there is no circle.
ACROSS = {("models", f"rlhf_lite.data.{name}") for name in ("assets.ensure", "collate", "formatting")}
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
# Below everything: only the version number is imported from here.
ROOT_ROOM = ""
HEAVY = {"torch", "transformers", "peft", "accelerate", "datasets", "numpy", "pandas", "sklearn"}


@dataclass(frozen=True)
class Import:
    """One imported module: who imports it, where, and whether only a type checker sees it."""

    importer: str
    line: int
    target: str
    typing_only: bool


def module_name(path: Path, root: Path) -> str:
    parts = list(path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, importer: str) -> list[Import]:
    """Every import of a file, relative ones resolved; ``from a import b`` counts as a.b and as a."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_lines = {
        inner.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    }
    package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            targets = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [Import(importer, node.lineno, target, node.lineno in typing_lines) for target in targets]
    return found


def room_of(module: str) -> str | None:
    """The room of ``rlhf_lite.data.pairs`` is ``data``; None for modules that are not ours."""
    if module != "rlhf_lite" and not module.startswith("rlhf_lite."):
        return None
    first = module.split(".")[1] if "." in module else ROOT_ROOM
    return first if first in FLOOR else ROOT_ROOM


def all_imports(root: Path = ROOT) -> list[Import]:
    files = sorted((root / "rlhf_lite").rglob("*.py"))
    return [found for path in files for found in imports_of(path, module_name(path, root))]


def wrong_directions(found: list[Import]) -> list[str]:
    """Imports that go up, or across a floor."""
    wrong = []
    for item in found:
        importer, target = room_of(item.importer), room_of(item.target)
        if importer is None or target is None or item.typing_only or ROOT_ROOM in (importer, target):
            continue
        if any((importer, name) in ACROSS for name in (item.target, item.target.rpartition(".")[0])):
            continue
        if importer != target and FLOOR[importer] <= FLOOR[target]:
            wrong.append(f"{item.importer}:{item.line} imports {item.target}")
    return wrong


def test_imports_go_one_way() -> None:
    assert wrong_directions(all_imports()) == []


def test_every_module_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in PACKAGE.rglob("*.py")}
    assert rooms - {"__init__"} <= set(FLOOR), "give the new room a floor in FLOORS"


def test_functional_sees_torch_and_types_only() -> None:
    allowed = {"torch", "rlhf_lite.types", "rlhf_lite.functional"}
    wrong = []
    for item in all_imports():
        if not item.importer.startswith("rlhf_lite.functional"):
            continue
        top = item.target.split(".")[0]
        ours = any(item.target == name or item.target.startswith(f"{name}.") for name in allowed)
        if not ours and top not in sys.stdlib_module_names:
            wrong.append(f"{item.importer}:{item.line} imports {item.target}")
    assert wrong == []


@pytest.mark.parametrize(
    ("library", "rooms"),
    [("trl", ()), ("nbgrader", ()), *((name, ("serving",)) for name in ("fastapi", "gradio", "uvicorn"))],
)
def test_some_libraries_stay_in_their_rooms(library: str, rooms: tuple[str, ...]) -> None:
    wrong = [
        f"{item.importer}:{item.line}"
        for item in all_imports()
        if item.target.split(".")[0] == library and room_of(item.importer) not in rooms
    ]
    assert wrong == []


def test_nothing_in_the_package_imports_the_tools_or_the_tests() -> None:
    outside = {"tools", "tests", "benchmarks"}
    assert [item for item in all_imports() if item.target.split(".")[0] in outside] == []


def test_files_are_short() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES} == {}
    assert sum(lengths.values()) <= MAX_PACKAGE_LINES, "make room before you build"


# --- Rooms, not prefixes -----------------------------------------------------


def module_files(root: Path) -> list[Path]:
    """The package's modules without ``__init__``."""
    return [path for path in sorted((root / "rlhf_lite").rglob("*.py")) if path.name != "__init__.py"]


def crowded_folders(root: Path) -> dict[str, int]:
    """Folders with more modules than one looks through; ``__init__`` and data files do not count."""
    counts = Counter(str(path.parent.relative_to(root)) for path in module_files(root))
    return {folder: n for folder, n in counts.items() if n > MAX_MODULES}


def prefixes_for_folders(root: Path) -> list[str]:
    """Names such as ``a``, ``a_x``, ``a_y`` side by side, where a folder ``a`` would do."""
    siblings: dict[str, list[str]] = defaultdict(list)
    for path in module_files(root):
        siblings[str(path.parent.relative_to(root) / Path(path.stem.split("_")[0]))].append(path.stem)
    return [f"{place}: {', '.join(names)}" for place, names in siblings.items() if len(names) > 2]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports(root: Path) -> list[str]:
    """Private names that another file uses, and private modules that another room uses."""
    modules = {module_name(path, root) for path in (root / "rlhf_lite").rglob("*.py")}
    wrong = []
    for path in sorted((root / "rlhf_lite").rglob("*.py")):
        importer = module_name(path, root)
        used = {(item.line, item.target) for item in imports_of(path, importer)}
        aliases = {
            alias.asname or alias.name: f"{node.module}.{alias.name}"
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }
        used |= {
            (node.lineno, f"{aliases[node.value.id]}.{node.attr}")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and aliases.get(node.value.id) in modules
        }
        for line, target in sorted(used):
            home = next((m for m in prefixes(target) if m in modules), None)
            if home is None:
                continue
            name = target.removeprefix(home).strip(".")
            inside = room_of(home) == room_of(importer)
            if is_private(name) or (not inside and any(map(is_private, home.split(".")))):
                wrong.append(f"{importer}:{line} uses {target}")
    return wrong


def prefixes(dotted: str) -> Iterator[str]:
    """``a.b.c``, ``a.b``, ``a``."""
    while dotted:
        yield dotted
        dotted = dotted.rpartition(".")[0]


def test_no_folder_is_crowded() -> None:
    assert crowded_folders(ROOT) == {}


def test_no_prefix_does_a_folders_work() -> None:
    assert prefixes_for_folders(ROOT) == []


def test_nothing_private_crosses_a_file() -> None:
    assert private_imports(ROOT) == []


# --- Cheap imports -----------------------------------------------------------


def loaded_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nimport json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_after("import rlhf_lite")
    assert "rlhf_lite" in loaded
    assert not (HEAVY | {"matplotlib", "pydantic", "typer", "rich", "yaml"}) & loaded


LIGHT = [
    "cli", "cli.doctor", "config", "data", "teaching", "teaching.exercises", "teaching.notebook",
    "tracking", "errors", "files", "types",
]  # fmt: skip


@pytest.mark.parametrize("module", LIGHT)
def test_light_modules_load_nothing_heavy(module: str) -> None:
    assert not HEAVY & loaded_after(f"import rlhf_lite.{module}")


LAZY = ["rlhf_lite", "rlhf_lite.data", "rlhf_lite.pipeline", "rlhf_lite.teaching"]


def names_for_editors(source: str) -> set[str]:
    """What a module imports for type checkers only."""
    return {
        alias.name
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in node.body
        if isinstance(inner, ast.ImportFrom)
        for alias in inner.names
    }


@pytest.mark.parametrize("name", LAZY)
def test_the_lazy_names_are_the_real_ones(name: str) -> None:
    package = importlib.import_module(name)
    public = set(package.__all__) - {"__version__"}
    assert public == names_for_editors(Path(package.__file__).read_text(encoding="utf-8"))
    assert set(package.__all__) <= set(dir(package))
    for lazy in public:
        assert getattr(package, lazy) is not None, lazy
    with pytest.raises(AttributeError, match=rf"has no attribute 'nonsense'; it has .*{min(public)}"):
        _ = package.nonsense


# --- The test of these tests -------------------------------------------------


@pytest.fixture
def house(tmp_path: Path) -> Path:
    for room in ("functional", "models", "data/assets", "plotting", "rollout", "training", "evaluation"):
        (tmp_path / "rlhf_lite" / room).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "source", "wrong"),
    [
        ("functional/kl.py", "from rlhf_lite.models import load_policy", True),
        ("functional/kl.py", "def f():\n    import rlhf_lite.models", True),
        ("functional/kl.py", "from rlhf_lite import models", True),
        ("plotting/curves.py", "import rlhf_lite.functional.kl", True),
        ("functional/kl.py", "from ..models import policy", True),
        ("functional/kl.py", "from .masking import masked_mean", False),
        ("models/policy.py", "from rlhf_lite.data.pairs import make_pairs", True),
        ("models/names.py", "from rlhf_lite.data.assets.ensure import ensure_model", False),
        ("models/policy.py", "from rlhf_lite.data import make_pairs", True),
        ("data/assets/ensure.py", "from rlhf_lite.models import load_policy", True),
        ("data/pairs.py", "from rlhf_lite.data.assets.ensure import ensure_ratings", False),
        ("training/ppo.py", "from rlhf_lite.evaluation import report", True),
        ("training/ppo.py", "from rlhf_lite.rollout import sample", False),
        ("rollout/sampler.py", "from rlhf_lite.training import ppo", True),
        ("models/x.py", "if TYPE_CHECKING:\n    from rlhf_lite.training import ppo", False),
        ("types.py", "from rlhf_lite.config import PipelineConfig", True),
        ("tracking.py", "from rlhf_lite import __version__", False),
    ],
)
def test_the_rule_finds_wrong_imports_only(house: Path, file: str, source: str, wrong: bool) -> None:
    (house / "rlhf_lite" / file).write_text(source, encoding="utf-8")
    assert bool(wrong_directions(all_imports(house))) is wrong


def plant(house: Path, *files: str, source: str = "") -> None:
    for file in files:
        path = house / "rlhf_lite" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")


@pytest.mark.parametrize(("n", "crowded"), [(15, False), (16, True)])
def test_the_rule_finds_crowded_folders(house: Path, n: int, crowded: bool) -> None:
    plant(house, "training/__init__.py", "training/loss.css", *(f"training/m{i}.py" for i in range(n)))
    assert crowded_folders(house) == ({"rlhf_lite/training": n} if crowded else {})


@pytest.mark.parametrize(
    ("names", "wrong"),
    [
        (("a_x", "a_y", "a_z"), True),
        (("a", "a_x", "a_y"), True),
        (("a_x", "a_y", "ab_z"), False),
        (("a_x", "a_y", "b/a_z"), False),
    ],
)
def test_the_rule_finds_prefixes(house: Path, names: tuple[str, ...], wrong: bool) -> None:
    plant(house, *(f"training/{name}.py" for name in names))
    assert bool(prefixes_for_folders(house)) is wrong


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("from rlhf_lite.training.ppo import _loss", True),
        ("from rlhf_lite.training import ppo\nppo._loss", True),
        ("from rlhf_lite.training import ppo as p\ndef f():\n    return p._loss()", True),
        ("from rlhf_lite.models._trunk import run", True),
        ("from rlhf_lite.models import _trunk", True),
        ("from rlhf_lite.training._steps import run", False),
        ("from rlhf_lite.training.ppo import train", False),
        ("from rlhf_lite.training import ppo\nppo.train().x._y", False),
        ("from rlhf_lite import __version__", False),
    ],
)
def test_the_rule_finds_what_is_private(house: Path, source: str, wrong: bool) -> None:
    plant(house, "__init__.py", "training/ppo.py", "training/_steps.py", "models/_trunk.py")
    plant(house, "training/dpo.py", source=source)
    assert bool(private_imports(house)) is wrong
