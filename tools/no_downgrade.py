"""Compare two outputs of ``pip freeze``: fail if a package became older.

Used by the workflow that runs the book in Colab's image: python tools/no_downgrade.py BEFORE AFTER
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.version import Version


def read(path: Path) -> dict[str, Version]:
    """Versions by name; lines that are not ``name==version`` are left out."""
    lines = path.read_text(encoding="utf-8").splitlines()
    matches = (re.fullmatch(r"([A-Za-z0-9._-]+)==(\S+)", line.strip()) for line in lines)
    return {match[1].lower(): Version(match[2]) for match in matches if match}


def downgraded(before: dict[str, Version], after: dict[str, Version]) -> list[str]:
    """One line for each package that became older."""
    return [
        f"{name}: {version} became {after[name]}"
        for name, version in sorted(before.items())
        if name in after and after[name] < version
    ]


def main(before: str, after: str) -> int:
    found = downgraded(read(Path(before)), read(Path(after)))
    print("\n".join(found) if found else "Nothing became older.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
