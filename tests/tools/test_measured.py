"""The pages of measured results say what the files say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.measured import lab_page, speed_page

RUN = {
    "commit": "0123456789abcdef",
    "versions": {"torch": "2.13.0"},
    "hardware": {"cpu": "A processor", "physical_cores": 2, "memory_gb": 16.0},
}
MACHINE = {"read_gigabytes_per_second": 26.6, "fp32_gigaflops": 181.2, "bf16_gigaflops": 402.4}


def write(root: Path, name: str, record: dict[str, Any]) -> None:
    path = root / "results" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record), encoding="utf-8")


def readable(page: str) -> str:
    return page.replace("\u00a0", " ")


def spread(middle: float) -> dict[str, float]:
    return {"median": middle, "min": middle - 0.5, "max": middle + 0.5}


def lab_row(algorithm: str, policy: str, fraction: float, reached: bool | None) -> dict[str, Any]:
    def interval(value: float) -> dict[str, float]:
        return {"mean": value, "low": value - 0.001, "high": value + 0.001}

    return {
        "algorithm": algorithm,
        "world": "dense",
        "policy": policy,
        "fraction": interval(fraction),
        "kl_to_optimum_nats_per_seq": interval(0.0123),
        "kl_to_reference_nats_per_seq": interval(1.5),
        "seconds": {"mean": 12.3, "largest": 20.0},
        "aims_at": f"the goal of {algorithm}",
        "bar": None if reached is None else 0.97,
        "bar_reached": reached,
    }


def test_nothing_recorded(tmp_path: Path) -> None:
    assert "Nothing is recorded" in lab_page(tmp_path)
    assert "Nothing is recorded" in speed_page(tmp_path)


def test_lab_page(tmp_path: Path) -> None:
    rows = [
        lab_row("ppo", "transformer", 0.9876, True),
        lab_row("rloo", "transformer", 0.9, False),
        lab_row("ipo", "table", 0.8, None),
    ]
    write(tmp_path, "lab/summary.json", {"run": RUN, "rows": rows})
    page = readable(lab_page(tmp_path))
    assert (
        "| `ppo` | dense | 0.9876 (0.9866 to 0.9886) | 0.0123 | 1.500 | 12 | 0.97 reached |" in page
    )
    assert "0.97 **missed**" in page
    assert "- `ipo`: the goal of ipo." in page
    assert "A processor, 2 cores, 16 GB, torch 2.13.0, commit `0123456789`" in page
    assert "Best of n" not in page  # no such rows


def test_speed_page(tmp_path: Path) -> None:
    side = {"seconds_per_step": spread(2.0)}
    task = {
        **RUN,
        "settings": {"task": "dpo", "precision": "bf16", "top_layers": 8},
        "ours": side,
        "theirs": {"seconds_per_step": spread(5.0)},
        "speedup": spread(2.5),
        "memory_ratio": 1.25,
        "start_ratio": 1.5,
        "largest_relative_loss_difference": 0.00021,
    }
    write(tmp_path, "bench/dpo-bf16-top8.json", task)
    sampler = {"tokens_per_second": spread(600.0), "ours_is_faster": spread(4.0), "peak_megabytes": 1234.0}
    lever = {
        "tokens_per_second": spread(100.0),
        "times_the_line_above": spread(1.5),
        "times_the_first_line": spread(3.5),
        "peak_megabytes": 999.0,
    }
    sampling = {
        **RUN,
        "setting": {"tokens": 24, "precision": "bf16"},
        "machine": MACHINE,
        "peers": {"48": {"ours": {**sampler, "roofline_share": 0.42}}},
        "levers": {"by hand": lever},
    }
    write(tmp_path, "bench/sampling.json", sampling)
    variant = {
        "label": "written plainly",
        "sampling_seconds": 7.0,
        "scoring_seconds": 1.0,
        "update_seconds": 2.0,
        "seconds": spread(10.0),
        "times_faster_than_plain": spread(1.0),
        "peak_megabytes": 2000.0,
    }
    write(tmp_path, "bench/ablation.json", {**RUN, "machine": MACHINE, "variants": [variant]})
    page = readable(speed_page(tmp_path))
    assert "| `dpo` | bf16, top 8 | 2.00 | 5.00 | 2.50 (2.00 to 3.00) | 1.25 | 1.50 | 2e-04 |" in page
    assert "| ours | 48 | 600 | 4.00 (3.50 to 4.50) | 1234 | 42% |" in page
    assert "| by hand | 100 | 1.50 (1.00 to 2.00) | 3.50 (3.00 to 4.00) | 999 |" in page
    assert "| written plainly | 7.00 | 1.00 | 2.00 | 10.00 | 1.00 (0.50 to 1.50) | 2000 |" in page
    assert "27 GB/s" in page
