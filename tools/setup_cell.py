"""The first code cell of every notebook: one text, byte for byte the same everywhere.

The cell carries the tags ``skip-execution`` (our own runs have the package installed) and ``remove-cell``
(readers of the site need not see it). In Colab it installs the package from a release tag, once.
"""

from __future__ import annotations

REPOSITORY = "https://github.com/rlhf-lite/rlhf-lite"
RELEASE_TAG = "v0.1.0"
TAGS = ["skip-execution", "remove-cell"]

SOURCE = f"""\
# Set-up: installs rlhf_lite when this notebook runs in Colab. Elsewhere it does nothing.
import importlib.util
import subprocess
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("rlhf_lite") is None:
    package = "git+{REPOSITORY}@{RELEASE_TAG}"
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", package], check=True)"""


def main() -> None:
    """Print the cell, to be pasted into a new notebook."""
    print(SOURCE)


if __name__ == "__main__":
    main()
