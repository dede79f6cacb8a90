"""One process of a run that several share: ``rank_run.py FOLDER KEY=VALUE...``."""

import sys
from pathlib import Path

from rlhf_lite.config import load_config
from rlhf_lite.pipeline import run_pipeline

if __name__ == "__main__":
    run_pipeline(load_config(None, sys.argv[2:]), output=Path(sys.argv[1]), visible=False)
