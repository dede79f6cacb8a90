"""Settings: precedence, strict types, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.config import reading as config_io
from rlhf_lite.errors import ConfigError
from rlhf_lite.pipeline.cai.config import load_cai_config


def write(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path | None, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return caught.value.problems


# --- The bug of the seed project ---------------------------------------------


def test_the_seed_projects_bug_exists_in_plain_yaml_and_torch() -> None:
    import torch

    value = yaml.safe_load("learning_rate: 2e-4")["learning_rate"]
    assert value == "2e-4"  # YAML 1.1 wants a decimal point, so this is a string
    weight = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(TypeError, match="'<=' not supported between instances of 'float' and 'str'"):
        torch.optim.AdamW([weight], lr=value)


@pytest.mark.parametrize("text", ["2e-4", "'2e-4'", "2.0e-4", "0.0002", "2E-4", "+2e-4", ".2e-3"])
def test_the_seed_projects_bug_does_not_exist_here(tmp_path: Path, text: str) -> None:
    import torch

    rate = load_config(write(tmp_path, f"sft:\n  learning_rate: {text}\n")).sft.learning_rate
    assert type(rate) is float
    assert rate == 2e-4
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=rate)


@pytest.mark.parametrize("text", ["fast", "2e-4x", "[2e-4]", "2e", "1_0e-4", "0x1p-3", "true", "null", "''"])
def test_a_wrong_learning_rate_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    found = problems(write(tmp_path, f"sft:\n  learning_rate: {text}\n"))
    assert len(found) == 1
    assert "sft.learning_rate: got" in found[0]
    assert "expected a number > 0" in found[0]
    assert "settings.yaml" in found[0]


def test_the_message_shows_the_value_received(tmp_path: Path) -> None:
    path = write(tmp_path, "sft: {learning_rate: fast}")
    assert problems(path) == (f'{path}: sft.learning_rate: got "fast" (text); expected a number > 0',)


# --- Precedence --------------------------------------------------------------


def test_defaults_then_file_then_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "ppo:\n  clip: 0.3\n  steps: 7\nseed: 1\n")
    config = load_config(path, ["ppo.clip=0.1", "seed=5"])
    assert (config.ppo.clip, config.ppo.steps, config.ppo.epochs, config.seed) == (0.1, 7, 2, 5)


def test_the_last_override_wins() -> None:
    assert load_config(None, ["seed=1", "seed=2"]).seed == 2


def test_without_anything_the_defaults_hold() -> None:
    assert load_config(None) == PipelineConfig()


@pytest.mark.parametrize("text", ["", "# nothing\n", "sft:\n  # steps: 3\n", "---\n"])
def test_an_empty_file_or_section_changes_nothing(tmp_path: Path, text: str) -> None:
    assert load_config(write(tmp_path, text)) == PipelineConfig()


# --- Types -------------------------------------------------------------------


def test_an_int_is_accepted_for_a_float_and_becomes_one() -> None:
    clip = load_config(None, ["ppo.clip=1"]).ppo.clip
    assert clip == 1.0
    assert type(clip) is float


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sft.steps=2.0", "a whole number >= 1"),
        ("sft.steps='2'", "a whole number >= 1"),
        ("sft.steps=0", "a whole number >= 1"),
        ("seed=true", "a whole number >= 0"),
        ("ppo.whiten_advantages=1", "true or false"),
        ("ppo.whiten_advantages='true'", "true or false"),
        ("ppo.lam=1.5", "a number >= 0 and <= 1"),
        ("ppo.lam=true", "a number >= 0 and <= 1"),
        ("ppo.kl_target=0", "a number > 0 or null"),
        ("lora.dropout=1", "a number >= 0 and < 1"),
        ("evaluation.best_of_n=-1", "a whole number >= 0"),
        ("lora.top_layers=0", "a whole number >= 1 or null"),
        ("model.precision=fp16", '"auto" or "fp32" or "bf16"'),
        ("model.precision=null", '"auto" or "fp32" or "bf16"'),
        ("lora.target_modules=[1]", '"all-linear" or a list of text'),
        ("lora.target_modules=[]", '"all-linear" or a list of text'),
        ("lora.target_modules=q_proj", '"all-linear" or a list of text'),
        ("output=null", "text"),
    ],
)
def test_wrong_types_and_ranges(override: str, expected: str) -> None:
    key, _, _ = override.partition("=")
    (found,) = problems(None, override)
    assert found.startswith(f"command line: {key}: got ")
    assert expected in found.partition("; expected ")[2]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf", "nan", "inf", "1e999"])
def test_nan_and_infinity_are_refused(value: str) -> None:
    (found,) = problems(None, f"sft.weight_decay={value}")
    assert "sft.weight_decay" in found


def test_null_where_it_has_a_meaning() -> None:
    config = load_config(None, ["lora.top_layers=null", "ppo.kl_target=null", "model.name="])
    assert (config.lora.top_layers, config.ppo.kl_target, config.model.name) == (None, None, None)


def test_a_text_setting_takes_command_line_text_as_it_stands() -> None:
    assert load_config(None, ["output=2024"]).output == "2024"
    assert load_config(None, ["output=no"]).output == "no"
    assert load_config(None, ["output=a=b: c"]).output == "a=b: c"
    assert load_config(None, ["model.name=null"]).model.name is None


def test_a_number_for_a_text_setting_in_a_file_is_an_error(tmp_path: Path) -> None:
    (found,) = problems(write(tmp_path, "output: 2024\n"))
    assert "output: got 2024 (a whole number); expected text" in found


def test_lists_come_from_both_places(tmp_path: Path) -> None:
    path = write(tmp_path, "lora:\n  target_modules: [q_proj]\n")
    assert load_config(path).lora.target_modules == ["q_proj"]
    config = load_config(path, ["lora.target_modules=[k_proj, v_proj]"])
    assert config.lora.target_modules == ["k_proj", "v_proj"]


def test_rules_over_several_settings() -> None:
    (found,) = problems(None, "data.prompt_words_min=9")
    assert found.startswith("command line: data: prompt_words_min (9) is above prompt_words_max (6)")
    (found,) = problems(None, "evaluation.best_of_n=1")
    assert found.startswith("command line: evaluation: best_of_n (1) is the policy itself")
    (found,) = problems(None, "ppo.minibatches=100")
    assert "prompts_per_step (40)" in found
    (found,) = problems(None, "data.source=mine.jsonl", "reward.eval_min_gap=2")
    assert "reward.eval_min_gap (2) must be below 2 for a preference file" in found


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_config(None).ppo.clip = 0.5  # type: ignore[misc]  # frozen: that is the test


# --- Unknown keys ------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("sft.stps", "did you mean sft.steps?"),
        ("sft.learnig_rate", "did you mean sft.learning_rate?"),
        ("sft.clip", "did you mean ppo.clip?"),
        ("clip", "did you mean ppo.clip?"),
        ("ppo.kl", "did you mean ppo.kl_coef, ppo.kl_target, ppo.kl_horizon?"),
        ("sfft.steps", "did you mean sft.steps, ppo.steps?"),
        ("sft.Steps", "did you mean sft.steps?"),
        ("seeed", "did you mean seed?"),
        ("xyzzy", "a run's saved config.yaml lists all keys"),
        ("sft.steps.more", "unknown key"),
    ],
)
def test_an_unknown_key_suggests_the_nearest(key: str, hint: str) -> None:
    (found,) = problems(None, f"{key}=1")
    assert found.startswith(f"command line: {key}: unknown key; ")
    assert hint in found


def test_the_same_suggestions_in_a_file(tmp_path: Path) -> None:
    found = problems(write(tmp_path, "sft: {clip: 0.3}\nmodle: {name: x}\n3: 4\n"))
    assert [line.partition(": ")[2] for line in found] == [
        "sft.clip: unknown key; did you mean ppo.clip?",
        "modle: unknown key; did you mean model?",
        "3: unknown key; a run's saved config.yaml lists all keys",
    ]


def test_every_key_finds_itself_when_one_letter_is_lost() -> None:
    known = config_io.dotted_keys(PipelineConfig)
    lost = [key for key in known if len(key.rpartition(".")[2]) >= 5]
    for key in lost:
        typo = key[:-3] + key[-2:]
        assert key in config_io.suggest(typo, known), typo


# --- All problems at once, and malformed input -------------------------------


def test_all_problems_come_at_once_with_their_place(tmp_path: Path) -> None:
    path = write(tmp_path, "sft: {learning_rate: fast, stps: 3}\nppo: {clip: -1}\n")
    found = problems(path, "ppo.steps=0", "nonsense", "sft=3", "=4")
    text = "\n".join(found)
    assert len(found) == 7
    for part in (
        f"{path}: sft.stps",
        f"{path}: sft.learning_rate",
        f"{path}: ppo.clip: got -1",
        "command line: ppo.steps",
        "got 'nonsense'; expected key=value",
        "sft is a section; set one of its keys, such as sft.steps=",
        "got '=4'; expected key=value",
    ):
        assert part in text
    with pytest.raises(ConfigError, match="7 problems in the settings"):
        load_config(path, ["ppo.steps=0", "nonsense", "sft=3", "=4"])


def test_an_override_mends_the_files_value(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "sft: {steps: -1}"), ["sft.steps=3"]).sft.steps == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: 1\nseed: 2\n", "line 2: seed is already set on line 1"),
        ("sft:\n  steps: 1\n  steps: 2\n", "line 3: steps is already set on line 2"),
        ("sft: {steps: 1}\nppo: {}\nsft: {}\n", "line 3: sft is already set on line 1"),
        ("sft: [\n", "not valid YAML"),
        ("- 1\n- 2\n", "expected settings as 'key: value' lines"),
        ("just text", "expected settings as 'key: value' lines"),
        ("sft: 3\n", "sft: got 3 (a whole number); expected a section, with keys such as sft.steps"),
        ("a: 1\n---\nb: 2\n", "not valid YAML"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
    ],
)
def test_malformed_files(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    (found,) = problems(path)
    assert message in found
    assert str(path) in found


def test_a_missing_file_and_a_wrong_encoding(tmp_path: Path) -> None:
    (found,) = problems(tmp_path / "none.yaml")
    assert "none.yaml: no such file" in found
    (tmp_path / "latin.yaml").write_bytes(b"output: caf\xe9\n")
    (found,) = problems(tmp_path / "latin.yaml")
    assert "UTF-8" in found


# --- Saving ------------------------------------------------------------------


AWKWARD = [
    "sft.learning_rate=1e-7",
    "reward.learning_rate=5",
    "ppo.kl_horizon=1e20",
    "ppo.clip=0.1",
    "ppo.kl_target=null",
    "lora.target_modules=[q_proj, 'yes', '#x']",
    "model.name=no",
    "output=runs/naïve: [1] # 3 'q' \"d\"",
]


def test_what_is_saved_is_read_back_unchanged(tmp_path: Path) -> None:
    config = load_config(None, [*AWKWARD, "output=" + "long name " * 50 + "\nsecond line"])
    config.save(tmp_path / "deep" / "config.yaml")
    assert load_config(tmp_path / "deep" / "config.yaml") == config


def test_saved_floats_are_floats_for_every_yaml_reader(tmp_path: Path) -> None:
    load_config(None, AWKWARD).save(tmp_path / "config.yaml")
    plain = yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))
    assert plain["sft"]["learning_rate"] == 1e-7
    for value in (plain["reward"]["learning_rate"], plain["ppo"]["kl_horizon"], plain["ppo"]["clip"]):
        assert type(value) is float


def test_saving_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    load_config(None, ["seed=1"]).save(path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        load_config(None, ["seed=2"]).save(path)
    assert load_config(path).seed == 1
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"]


# --- The settings as a whole -------------------------------------------------


def test_every_setting_is_described_and_has_a_valid_default(tmp_path: Path) -> None:
    keys = config_io.dotted_keys(PipelineConfig)
    assert len(keys) > 50
    for key in keys:
        field = config_io.find_field(PipelineConfig, key)
        assert field is not None
        assert field.description, key
        assert not field.is_required(), key
        assert config_io.expected(field), key


def test_every_float_setting_takes_numbers_that_yaml_reads_as_text() -> None:
    floats = [key for key in config_io.dotted_keys(PipelineConfig) if isinstance(default(key), float)]
    assert len(floats) > 15
    for key in floats:
        value = default(key)
        text = f"{value:.0e}"
        assert isinstance(yaml.safe_load(text), str)
        config: BaseModel = load_config(None, [f"{key}={text}"])
        for part in key.split("."):
            config = getattr(config, part)
        assert config == pytest.approx(float(text))
        assert type(config) is float, key


def test_numbers_among_the_options_of_a_loss_are_numbers() -> None:
    found = load_config(None, ["dpo.loss_options={label_smoothing: 1e-1, normalise: mean}"]).dpo.loss_options
    assert found == {"label_smoothing": 0.1, "normalise": "mean"}


def default(key: str) -> object:
    value: object = PipelineConfig()
    for part in key.split("."):
        value = getattr(value, part)
    return value


def test_every_settings_file_of_the_repository_loads() -> None:
    paths = sorted((Path(__file__).parents[2] / "configs").glob("*.y*ml"))
    assert paths, "configs/ holds at least one settings file"
    for path in paths:
        if path.stem == "cai":  # Constitutional AI has settings of its own
            load_cai_config(path)
        elif "\narms:" not in path.read_text(encoding="utf-8"):  # sweeps: see pipeline/test_sweep.py
            load_config(path)


def test_a_text_on_the_command_line_is_taken_as_it_stands():
    """An option such as --data arrives here too: a file's name is no YAML."""
    config = load_config(None, ["output=runs/a #1", "data.source=my: pairs #2.jsonl", "model.name=null"])
    assert (config.output, config.data.source, config.model.name) == ("runs/a #1", "my: pairs #2.jsonl", None)
    assert load_config(None, ["output='runs/a'"]).output == "runs/a"
