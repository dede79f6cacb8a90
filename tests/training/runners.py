"""Small runs of each trainer, for tests: same options, same way to save, interrupt and resume."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import HIDDEN, byte_tokenizer, llama, naive_logps, shake, token_rows

from rlhf_lite.checkpoint import load_step, save_step, saved_steps
from rlhf_lite.data.formatting import EncodedPair
from rlhf_lite.models.adapters import add_adapter, lora_config, using_adapter
from rlhf_lite.models.policy import PolicyScorer, ValueHead
from rlhf_lite.models.reward_model import RewardModel, new_reward_model
from rlhf_lite.pipeline.phases import AdapterPolicies
from rlhf_lite.rollout.rewards import Reward
from rlhf_lite.training.batches import epoch_steps
from rlhf_lite.training.dpo import DPOSettings, train_dpo
from rlhf_lite.training.pairs import encode_texts
from rlhf_lite.training.reward import RewardSettings, train_reward
from rlhf_lite.training.rollouts import PolicyGradientSetup
from rlhf_lite.training.settings import Hooks, OptimiserSettings, Resume, RunSettings, split
from rlhf_lite.training.sft import Example, train_sft
from rlhf_lite.types import Preference

__all__ = ["byte_tokenizer", "llama", "shake", "token_rows"]

_accelerator: list[Accelerator] = []


def accelerator() -> Accelerator:
    """One for all tests of a process: accelerate keeps its state globally anyway."""
    if not _accelerator:
        _accelerator.append(Accelerator(cpu=True))
    return _accelerator[0]


EXAMPLES = [
    Example(prompt, completion)
    for prompt, completion in zip(
        token_rows([3, 1, 4, 2, 6, 2, 3, 5], seed=1),
        token_rows([5, 7, 1, 3, 2, 6, 4, 8], seed=2),
        strict=True,
    )
]
# Token 7 is liked and token 9 is not, among tokens that say nothing.
PAIRS = [
    EncodedPair(prompt, [*good, 7], [9, *bad])
    for prompt, good, bad in zip(
        token_rows([3, 1, 4, 2, 6, 2, 3, 5], seed=1),
        token_rows([4, 6, 1, 2, 1, 5, 3, 7], seed=2),
        token_rows([2, 3, 4, 1, 6, 2, 7, 1], seed=3),
        strict=True,
    )
]
WORDS = ("film", "a plot", "it", "the music", "one hour", "her role", "an end", "some story")
ENDS = ((" is AAA", " is zz"), (" is A", " is zzz"))
PREFERENCES = [Preference(word, good, bad) for word in WORDS for good, bad in ENDS]

COMMON = {
    "batch_size": 4,
    "accumulation": 1,
    "learning_rate": 0.01,
    "warmup_steps": 1,
    "max_grad_norm": 1.0,
    "weight_decay": 0.0,
    "seed": 0,
}


def new_scorer(
    dropout: float = 0.0, *, top_layers: int | None = 2, dtype: torch.dtype | None = None
) -> PolicyScorer:
    """A tiny Llama with a fresh LoRA adapter; everything drawn from fixed seeds."""
    model = llama()
    if dtype is not None:
        model = model.to(dtype)
    shape = lora_config(model, rank=4, alpha=8.0, dropout=dropout, top_layers=top_layers)
    return PolicyScorer(add_adapter(model, shape, "policy", seed=0), top_layers=top_layers)


def new_reward(base: str, dropout: float = 0.0) -> RewardModel:
    """A reward model on the tiny base in folder ``base``."""
    return new_reward_model(
        base,
        precision="fp32",
        rank=4,
        alpha=8.0,
        dropout=dropout,
        top_layers=2,
        target_modules="all-linear",
        max_tokens=40,
        seed=0,
    )


class Recorder:
    """Collects what a trainer reports, and may interrupt it.

    Attributes:
        lines: metrics of each step.
        saved: step → (tensors, numbers) of each checkpoint.
    """

    def __init__(self, *, save_every: int = 2, fail_at: int | None = None, **hooks: Any) -> None:
        self.lines: list[dict[str, float]] = []
        self.steps: list[int] = []
        self.saved: dict[int, tuple[dict[str, torch.Tensor], dict[str, float]]] = {}
        self._fail_at = fail_at
        self.hooks = Hooks(self._on_step, self._save, save_every, **hooks)

    def _on_step(self, step: int, metrics) -> None:
        self.steps.append(step)
        self.lines.append(dict(metrics))
        if step == self._fail_at:
            raise KeyboardInterrupt

    def _save(self, step: int, tensors, numbers) -> None:
        self.saved[step] = ({name: t.clone() for name, t in tensors.items()}, dict(numbers))

    def resume(self, step: int) -> Resume:
        """Continue after ``step``."""
        return Resume(step, *self.saved[step])


def records(recorder: Recorder, options: dict[str, Any], *kinds: type) -> tuple[Any, ...]:
    """The records of a trainer, its own first, from options by name."""
    options = {"accelerator": accelerator(), "hooks": recorder.hooks} | options
    return split(options, *kinds, OptimiserSettings, RunSettings)


def run_sft(
    scorer: PolicyScorer, examples=EXAMPLES, *, recorder: Recorder | None = None, **changes
) -> Recorder:
    recorder = recorder or Recorder()
    validation = changes.pop("validation", ())
    options = COMMON | {"steps": 4, "validate_every": 2} | changes
    optimiser, run = records(recorder, options)
    train_sft(scorer, examples, pad_token_id=0, optimiser=optimiser, run=run, validation=validation)
    return recorder


def run_reward(
    model: RewardModel, pairs=PREFERENCES, *, recorder: Recorder | None = None, **changes
) -> Recorder:
    recorder = recorder or Recorder()
    validation, epochs = changes.pop("validation", ()), changes.pop("epochs", 1)
    options = COMMON | {"centre": 0.01} | changes
    encoded = encode_texts(model.tokenizer, pairs, max_tokens=model.max_tokens).pairs
    options["steps"] = epoch_steps(len(encoded), batch_size=options["batch_size"], epochs=epochs)
    settings, optimiser, run = records(recorder, options, RewardSettings)
    train_reward(model, encoded, settings, optimiser=optimiser, run=run, validation=validation)
    return recorder


def run_dpo(scorer: PolicyScorer, data=PAIRS, *, recorder: Recorder | None = None, **changes) -> Recorder:
    recorder = recorder or Recorder()
    given = {name: changes.pop(name) for name in ("known_reference", "validation") if name in changes}
    given["reference"] = changes.pop("reference", bare(scorer))
    settings, optimiser, run = records(recorder, COMMON | {"steps": 4, "beta": 0.5} | changes, DPOSettings)
    train_dpo(scorer, data, settings, pad_token_id=0, optimiser=optimiser, run=run, **given)
    return recorder


# The policy-gradient tests: few tokens, so that a batch holds the wanted one.
EOS, PAD, WANTED_TOKEN, TOKENS = 2, 0, 7, 16


def policy_setup(
    *, reward: Reward, trained: bool = False, top_layers: int | None = 2, critic: bool = False
) -> PolicyGradientSetup:
    """A tiny policy with an adapter, its bare model as the reference, and perhaps a critic."""
    model = llama(vocab=TOKENS, initializer_range=0.1)
    shape = lora_config(model, rank=4, alpha=8.0, dropout=0.0, top_layers=top_layers)
    adapters = AdapterPolicies(add_adapter(model, shape, "policy", seed=0).eval(), None)
    if trained:
        shake(adapters.model, "policy", scale=0.05)
    head = ValueHead(HIDDEN) if critic else None
    return PolicyGradientSetup(
        scorer=PolicyScorer(adapters.model, top_layers=top_layers, value_head=head),
        reference=adapters.scoring(None),
        sampling=adapters.sampling("policy"),
        reward=reward,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )


def bare(scorer: PolicyScorer) -> Callable:
    """The reference: the model without its adapter."""
    return lambda: using_adapter(scorer.model, None)


def sequence_sums(model, rows: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Summed log-probability of each completion, row by row, without padding."""
    found = naive_logps(model, [prompt + completion for prompt, completion in rows])
    return torch.stack([logps[-len(rows[i][1]) :].sum() for i, logps in enumerate(found)])


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the trainable weights, by name."""
    return {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}


def assert_same_run(
    got: list[dict[str, float]], expected: list[dict[str, float]], *, rel: float, abs: float
) -> None:
    """Two runs' metrics agree step by step and name by name."""
    assert len(got) == len(expected)
    for step, (a, b) in enumerate(zip(got, expected, strict=True)):
        assert a.keys() == b.keys()
        for name in b:
            tolerance = max(abs, rel * max(1.0, b[name] if b[name] > 0 else -b[name]))
            assert -tolerance <= a[name] - b[name] <= tolerance, (step + 1, name, a[name], b[name])


def assert_same_weights(got: nn.Module, expected: nn.Module, *, atol: float = 0.0) -> None:
    """Trainable weights agree; exactly, by default."""
    wanted = weights(expected)
    for name, weight in weights(got).items():
        torch.testing.assert_close(
            weight, wanted[name], atol=atol, rtol=0.0, msg=lambda m, n=name: f"{n}: {m}"
        )


def timeless(lines: list[dict[str, float]]) -> list[dict[str, float]]:
    """Metrics without the measured seconds."""
    return [{k: v for k, v in line.items() if not k.startswith("seconds/")} for line in lines]


def assert_resume_is_exact(
    setup: Callable[[], Any],
    train: Callable[..., list[dict[str, float]]],
    folder: Path,
    *,
    stop: int,
    **length: int,
) -> None:
    """A policy-gradient run that is stopped and resumed from disk ends where the other ends.

    Args:
        setup: makes what ``train`` trains; has a ``scorer``.
        train: takes it, ``hooks`` and ``resume``, and returns the metrics of its steps.
        folder: for the saved states.
        stop: the step that is interrupted before it is saved; the resumed run repeats it.
        **length: the argument of ``train`` that says how long the run is.
    """
    whole = setup()
    expected = train(whole, **length)

    def on_step(step: int, metrics) -> None:
        if step == stop:
            raise KeyboardInterrupt

    def save(step, tensors, numbers) -> None:
        save_step(folder, step, tensors, numbers, keep=1)

    with pytest.raises(KeyboardInterrupt):
        train(setup(), hooks=Hooks(on_step, save, 1), **length)
    assert saved_steps(folder) == [stop - 1]
    parts = setup()
    torch.manual_seed(99)  # another process
    got = train(parts, resume=Resume(stop - 1, *load_step(folder, stop - 1)), **length)
    assert timeless(got) == timeless(expected[stop - 1 :])
    assert_same_weights(parts.scorer, whole.scorer)


# --- Several processes

ROOT = Path(__file__).parents[2]
SECONDS = 150


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(processes: int, script: Path, *arguments: str) -> None:
    """Run a script under ``accelerate launch``; whatever it started is gone afterwards."""
    options = [
        "--num_processes",
        str(processes),
        "--num_machines",
        "1",
        "--main_process_port",
        str(free_port()),
    ]
    options += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", *options]
    # accelerate would set the number of threads itself; one per process, or they wait for each other.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    started = subprocess.Popen(
        [*command, str(script), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = started.communicate(timeout=SECONDS)
    finally:
        # The launcher leads a group of its own: this reaches its ranks, even if it ended before them.
        with suppress(ProcessLookupError):  # all of them have ended
            os.killpg(started.pid, signal.SIGKILL)
        started.wait()
    assert started.returncode == 0, output[-4000:]
