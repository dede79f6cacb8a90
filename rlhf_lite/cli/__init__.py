"""The command ``rlhf-lite``."""

from rlhf_lite.cli.app import main

__all__ = ["main"]
