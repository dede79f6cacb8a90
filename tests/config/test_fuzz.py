"""Whatever is typed or written for settings ends in settings or in one `ConfigError`."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st

from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.config.reading import dotted_keys
from rlhf_lite.errors import ConfigError
from rlhf_lite.pipeline.cai.config import load_cai_config
from rlhf_lite.pipeline.sweep import load_sweep

KEYS = dotted_keys(PipelineConfig)
SECTIONS = [*PipelineConfig.model_fields]
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 1e308]))
LEAVES = st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=8), st.binary(max_size=4), st.dates())
NAMES = st.one_of(st.sampled_from([*SECTIONS, *KEYS, "steps", "name", "loss_options"]), st.text(max_size=6))
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(NAMES, st.integers()), inner, max_size=3)
    ),
    max_leaves=8,
)
RAW = st.one_of(st.text(max_size=20), LEAVES.map(str), TREES.map(lambda tree: yaml.safe_dump(tree)))


def only_config_errors(load, path, overrides=()) -> None:
    with contextlib.suppress(ConfigError):
        load(path, overrides) if overrides else load(path)


@limits(max_examples=150, deadline=None)
@given(st.lists(st.tuples(NAMES, RAW).map("=".join), max_size=3) | st.lists(st.text(max_size=12), max_size=2))
def test_overrides(overrides: list[str]) -> None:
    for load in (load_config, load_cai_config):
        only_config_errors(load, None, overrides)


@limits(max_examples=120, deadline=None)
@given(st.dictionaries(NAMES, TREES, max_size=3).map(yaml.safe_dump) | TREES.map(yaml.safe_dump) | RAW)
def test_files(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.yaml"
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        for load in (load_config, load_cai_config, load_sweep):
            only_config_errors(load, path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xef\xbb\xbfseed: 1\n",
        b"\xff\xfes\x00e\x00",
        b"\tseed: 1",
        b"seed: 2024-99-99",
        b"seed: " + b"9" * 5000,
        b"sft: {steps: !!int x}",
        b"seed: !!float x",
        b"a: &a [*a]",
        b"sft: &a {steps: *a}",
        b"<<: [1]",
        b"? [1, 2]\n: 3",
        b"? {a: 1}\n: 3",
        b"- seed",
        b"--- \nseed: 1\n---\nseed: 2",
        b"!!python/object/apply:os.system [ls]",
        b"[" * 3000,
        b"{a: " * 1500,
        b'output: "a\\0b"',
        b"sft: {steps: 1, steps: 2}",
        b"dpo: {loss_options: {a: {b: 1}}}",
        b"dpo: {loss_options: {1: 2}}",
        b"lora: {target_modules: [1]}",
    ],
    ids=lambda content: repr(content[:16]),
)
@pytest.mark.parametrize("load", [load_config, load_cai_config, load_sweep])
def test_files_that_people_and_editors_make(load, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    try:
        load(path)
    except ConfigError as error:
        assert str(path) in str(error) and len(str(error)) < 2000
