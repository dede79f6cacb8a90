"""Check files before they are committed: size, YAML that parses, leftovers of a merge.

Called by pre-commit with file names, or with none for everything that git tracks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MAX_KILOBYTES = 1000
# "=======" alone is also an underline in plain text, so the two outer markers are looked for.
CONFLICT = ("<<<<<<< ", ">>>>>>> ")


def problems_of(path: Path) -> list[str]:
    """What is wrong with one file, in words that say how to mend it."""
    found = []
    kilobytes = path.stat().st_size / 1000
    if kilobytes > MAX_KILOBYTES:
        found.append(
            f"{path}: {kilobytes:.0f} kB; at most {MAX_KILOBYTES} kB are committed. Make it smaller or "
            "have it generated or fetched"
        )
        return found
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return found  # a picture, say
    for number, line in enumerate(text.splitlines(), start=1):
        if line.startswith(CONFLICT):
            found.append(f"{path}:{number}: a conflict marker is left over from a merge; resolve it")
    if path.suffix in (".yml", ".yaml", ".cff"):
        found += _yaml_problem(path, text)
    return found


def _yaml_problem(path: Path, text: str) -> list[str]:
    import yaml

    try:
        list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        return [f"{path}: not valid YAML: {' '.join(str(error).split())}"]
    return []


def tracked(root: Path) -> list[Path]:
    """Files that git tracks below ``root``."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=root, check=True, capture_output=True, text=True)
    return [root / name for name in done.stdout.split("\0") if name]


def main(names: list[str]) -> int:
    paths = [Path(name) for name in names] or tracked(Path(__file__).resolve().parents[1])
    found = [problem for path in paths if path.is_file() for problem in problems_of(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
