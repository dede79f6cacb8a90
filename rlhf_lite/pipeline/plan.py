"""What can be known before the first phase: whether settings and data allow every phase that is planned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf_lite.config import PipelineConfig
from rlhf_lite.errors import ConfigError, RlhfLiteError
from rlhf_lite.evaluation.gold import as_ratings
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.dpo import human_preferences
from rlhf_lite.pipeline.texts import Texts, thin
from rlhf_lite.training.dpo import DPOSettings
from rlhf_lite.training.settings import pick


def check_plan(run: Run, phases: Sequence[str]) -> None:
    """Read the data, and try what the phases that are still to be run will ask of it and of the settings.

    Raises:
        ConfigError: with every problem, each naming the setting.
        DataError: if a row is broken.
    """
    waiting = [phase for phase in phases if not run.finished(phase)]
    problems = [*_combination(run, waiting), *loss_problems(run.config, waiting)]
    try:
        problems += _too_few(run, run.texts, waiting)
    except ConfigError as error:
        problems += error.problems
    except RlhfLiteError:
        raise
    except ValueError as error:
        problems.append(str(error))
    if problems:
        raise ConfigError(problems)


def _combination(run: Run, phases: Sequence[str]) -> Iterator[str]:
    """What a phase needs of another one that is neither planned nor there."""
    for phase, when in (("ppo", True), ("dpo", run.config.dpo.source == "policy")):
        if when and phase in phases and "reward" not in phases and not run.finished("reward"):
            detail = " with dpo.source=policy" if phase == "dpo" else ""
            yield (f"phase {phase}{detail} needs the phase reward, which is neither planned nor finished in "
                   f"{run.output}: run it too")


def loss_problems(config: PipelineConfig, phases: Sequence[str]) -> Iterator[str]:
    """What is wrong with DPO's loss, its name or its options, if that phase is among ``phases``."""
    if "dpo" in phases:
        try:
            pick(DPOSettings, config.dpo).try_loss()
        except Exception as error:  # whatever torch says of a text or a truth value where a number is due
            yield f"dpo.loss={config.dpo.loss} with dpo.loss_options={config.dpo.loss_options}: {error}"


def _too_few(run: Run, texts: Texts, phases: Sequence[str]) -> Iterator[str]:
    """Batches that cannot be filled, and measurements that nothing can be measured on."""
    config, pairs = run.config, thin(texts.train_pairs, run.config.reward.pairs)
    learned = pairs
    if "dpo" in phases:
        pairs = human_preferences(run) if config.dpo.source == "human" else texts.ppo_prompts
    source = config.data.source
    for phase, rows, what, fewest, why in (
        ("sft", texts.sft_train, "training texts", config.sft.batch_size, "sft.batch_size"),
        ("reward", learned, "training pairs", config.reward.batch_size, "reward.batch_size"),
        ("reward", texts.scale_texts, "texts that fix the reward's scale", 2, ""),
        ("ppo", texts.ppo_prompts, "training prompts", config.ppo.prompts_per_step, "ppo.prompts_per_step"),
        ("dpo", pairs, "pairs for DPO", config.dpo.batch_size, "dpo.batch_size"),
        ("evaluation", texts.test_prompts, "test prompts", 1, ""),
        ("evaluation", texts.test_pairs, "test pairs", 1, ""),
        ("evaluation", as_ratings(texts.gold), "texts to fit the gold judge on", 2, ""),
        ("evaluation", texts.gold_check, "texts to measure the gold judge on", 1, ""),
    ):
        if phase in phases and len(rows) < fewest:
            lower = f"lower {why}, or bring" if why else "bring"
            yield f"{source} gives {len(rows)} {what}, phase {phase} needs {fewest}: {lower} more rows"
