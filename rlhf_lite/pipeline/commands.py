"""The tools around a run: find its models, train a reward model on a file, score a file, continue a text."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf_lite.checkpoint import read_phase
from rlhf_lite.config import PipelineConfig, load_config
from rlhf_lite.data import load_preferences, refuse_leaks, split_preferences
from rlhf_lite.data.chat import read_template, render_chats
from rlhf_lite.data.row_counts import rows_line
from rlhf_lite.errors import PhaseError
from rlhf_lite.evaluation.eval_policy import EvalPolicy, encode_for
from rlhf_lite.files import at_home, write_json, write_json_lines
from rlhf_lite.models.adapters import is_classifier, load_adapter
from rlhf_lite.models.names import base_of, find_model, resolve_model
from rlhf_lite.models.policy import Precision, load_policy, resolve_precision, tokenizer_of
from rlhf_lite.models.reward_model import SCALE_FILE, load_reward_model
from rlhf_lite.models.runtime import compute_device
from rlhf_lite.outputs import require_file, require_folder
from rlhf_lite.pipeline.context import Run
from rlhf_lite.pipeline.folder import METRICS, open_run
from rlhf_lite.pipeline.judging import judge_reward_model, scorable
from rlhf_lite.pipeline.phases import check_model, load_run_reward, run_reward
from rlhf_lite.pipeline.run import run_phases
from rlhf_lite.pipeline.source import read_source
from rlhf_lite.pipeline.texts import Texts, thin, whole_texts
from rlhf_lite.rollout.sampler import row_seeds, sample
from rlhf_lite.tracking import run_info
from rlhf_lite.training.reward import score_pairs

_SCALE_TEXTS = 200
# The built-in model by its short name, and where it comes from.
BUNDLED, BUNDLED_ID = "smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
# Phases that make a policy, the furthest trained first.
_PHASES = ("ppo", "dpo", "sft")
# RUN/reference is the model that a run began with.
_BARE = ("reference", "base")


@dataclass(frozen=True)
class Located:
    """Where a policy is.

    Attributes:
        label: a short name for it.
        base: folder or Hub id of the model.
        adapter: folder of the adapter on it; None for the bare model.
        run: the run it belongs to, if it is in one.
        phase: the phase that made it.
    """

    label: str
    base: str
    adapter: Path | None = None
    run: Path | None = None
    phase: str | None = None


def locate_policy(spec: str) -> Located:
    """Find a policy.

    Args:
        spec: "smollm2"; a run folder (its PPO policy, else DPO, else SFT); RUN/PHASE, also RUN/reference for
            the model that the run began with; an adapter folder; a model folder; or a Hub id.

    Raises:
        PhaseError: if the folder holds no policy, or a reward model.
        AssetError: if the bundled model is wanted and cannot be fetched.
    """
    if spec.lower() == BUNDLED:
        return Located(BUNDLED, resolve_model(None))
    spec = at_home(spec)
    folder = Path(spec)
    if folder.name in _BARE and not folder.exists() and (run := _run_of(folder.parent)):
        named = load_config(run / "config.yaml", []).model.name
        base = resolve_model(None) if named is None else find_model(named, run, said_by=run / "config.yaml")
        return Located(f"{run.name}/{folder.name}", base, run=run)
    places = [*(folder / name / "adapter" for name in _PHASES), folder / "adapter", folder]
    adapter = next((place for place in places if (place / "adapter_config.json").is_file()), None)
    if adapter is not None:
        return _adapter(folder, adapter)
    if (folder / "config.json").is_file():
        return Located(folder.resolve().name, resolve_model(spec))
    if folder.is_file():
        raise PhaseError(f"{folder} is a file; a policy is a folder or a Hub id")
    if inner := sorted(str(file.parent) for file in folder.glob("*/adapter_config.json")):  # PEFT's, by name
        raise PhaseError(f"{folder} holds adapters in folders of their own: give one of them, "
                         f"{' or '.join(inner)}")
    if folder.is_dir():
        raise PhaseError(f"{folder} holds neither a run, nor an adapter, nor a model (no config.json)")
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1 or _run_of(folder.parent):
        raise PhaseError(f"{spec} is not there; give a run folder, RUN/PHASE, an adapter or model folder, a "
                         f"Hub id such as {BUNDLED_ID}, or {BUNDLED}")
    return Located(spec.split("/")[1], spec)


def _adapter(folder: Path, adapter: Path) -> Located:
    base = base_of(adapter)
    if is_classifier(adapter):
        raise PhaseError(f"{adapter} is a reward model, it cannot write; give the folder of a policy")
    home = adapter.parent if adapter.name == "adapter" else adapter  # RUN/PHASE/adapter
    run = _run_of(home.parent)
    phase = home.name if run else None
    label = f"{run.resolve().name}/{phase}" if run else folder.resolve().name
    return Located(label, base, adapter, run, phase)


def _run_of(folder: Path) -> Path | None:
    """The folder, if it is a run."""
    return folder if (folder / "config.yaml").is_file() else None


def find_reward_model(folder: Path) -> Path:
    """The reward model in a run folder, in its ``reward`` folder, or in the folder itself.

    Raises:
        PhaseError: if there is none.
    """
    for place in (folder, folder / "adapter", folder / "reward" / "adapter"):
        if (place / SCALE_FILE).is_file():
            return place
    raise PhaseError(f"{folder} holds no reward model ({SCALE_FILE} is missing there and in reward/adapter); "
                     "give the folder of a run, or make one with: rlhf-lite reward --data FILE --output DIR")


def train_reward_file(data: str, model: str | None, output: Path, config: PipelineConfig, *,
                      resume: bool = False) -> dict[str, Any]:
    """Train a reward model on a preference file and measure it on the file's own test split.

    No text and no prompt is on both sides (``data.splits``); 15 % are test pairs.

    Args:
        data: preference file, ``datasets`` folder or Hub id.
        model: base model; None for the settings' own.
        output: folder of the run; the model is in ``output/reward/adapter``.
        config: settings; the sections model, lora, data and reward count.
        resume: continue in a folder that already holds this run, after its last saved step.

    Returns:
        ``{"accuracy", "ci95", "n_pairs", ...}`` as in ``metrics.json``, with ``n_train_pairs`` and
        ``seconds``.

    Raises:
        OutputError: if nothing can be written to the folder.
        PhaseError: if there are too few pairs, or the folder holds another run.
        DataError: if a row is broken and ``data.on_error`` is "raise", or the file cannot be split.
    """
    require_folder(output)
    config = config.on_file(at_home(data), model=model and at_home(model))
    pairs, source = read_source(config, skip_with="--on-error skip")
    divided = split_preferences(pairs, source=str(data), held_out=("test",))
    train, test = (source.render(divided.pairs[name]) for name in ("train", "test"))
    if len(train) < config.reward.batch_size:
        raise PhaseError(f"{data} gives {len(train)} training pairs, fewer than one batch of "
                         f"{config.reward.batch_size}: add pairs, or lower that number with "
                         f"reward.batch_size=N ({divided.report.summary()})")
    refuse_leaks({name: [text for pair in rows for text in whole_texts(pair)]
                  for name, rows in (("training", train), ("testing", test))}, source=str(data))
    scale = [(pair.prompt, text) for pair in thin(train, _SCALE_TEXTS)
             for text in (pair.chosen, pair.rejected)]

    def judge(run: Run) -> dict[str, Any]:
        reward = load_run_reward(run)
        kept, counts = scorable(reward, test)
        run.account("evaluation", counts, refuse=False)
        return judge_reward_model(reward, kept, min_gap=0.0)

    check_model(config.model.name, config.lora, reward=True)
    with open_run(config, output, resume=resume) as run:
        # Taken now: by the end somebody may have changed the checkout.
        info = run_info(seed=config.seed) | {"precision": run.precision}
        if run.is_main:
            source.tell()
        _ = run.identity  # loads the model, as the end of a phase must: one that is not whole is found now
        run.texts = Texts([], [], train, test, [], [], scale, [], [], divided.report, source)
        run.keep_split()
        quality = run_phases(run, ("reward", "evaluation"), {"reward": run_reward}, judge)
        record = read_phase(output / "reward") or {}
        rows = {"data": source.record(), "reward": record.get("rows"), "evaluation": run.rows["evaluation"]}
        quality |= {"n_train_pairs": (record.get("rows") or {}).get("used"), "max_tokens": run.max_tokens,
                    "seconds": round(record["seconds"], 1)}
        if run.is_main:
            write_json(output / METRICS, {"schema": 1, **info, "split": asdict(divided.report), "rows": rows,
                                         "reward_model": quality})
    return quality


def score_file(model_dir: Path, data: str, *, on_error: str = "raise", output: Path | None = None,
               precision: Precision = "auto") -> dict[str, Any]:
    """Accuracy and scores of a reward model on a preference file.

    Args:
        model_dir: a run, or a reward model.
        data: preference file.
        on_error: "raise" or "skip" broken rows.
        output: where to write one JSON line per pair (texts, both rewards, probability); or None. A pair
            whose texts are equal where the model cuts them is there, but not in the accuracy.
        precision: of the weights; what it was is in the result.
    """
    if output is not None:
        require_file(output)
    loaded = load_preferences(data, on_error=on_error, skip_with="--on-error skip")
    if loaded.report.skipped or loaded.report.unused:
        print(loaded.report.summary(), file=sys.stderr)
    precision = resolve_precision(precision)
    place = find_reward_model(Path(model_dir))
    model = load_reward_model(place, precision=precision, device=compute_device())
    pairs = render_chats(loaded.records, model.tokenizer, model.template, source=loaded.report.source)
    kept, counts = scorable(model, pairs)
    print(f"score: {rows_line(counts.record())}", file=sys.stderr)
    quality = judge_reward_model(model, kept, min_gap=0.0) | {"precision": precision, "rows": counts.record()}
    if output is not None:
        chosen, rejected = score_pairs(model, pairs)
        # Not called scores or ratings: read again as data, a model's opinion must not pass for people's.
        rows = [{"prompt": row.prompt, "chosen": row.chosen, "rejected": row.rejected,
                 "reward_chosen": float(a), "reward_rejected": float(b), "p_chosen": float((a - b).sigmoid())}
                for row, a, b in zip(loaded.records, chosen, rejected, strict=True)]
        write_json_lines(output, rows)
    return quality


def generate_text(model_dir: str, prompt: str, *, max_new_tokens: int, temperature: float, samples: int,
                  seed: int, precision: Precision = "auto") -> list[str]:
    """Continue a prompt.

    Args:
        model_dir: what `locate_policy` understands: a run folder (its PPO policy, else its DPO
            policy, else its SFT policy), RUN/PHASE, a PEFT adapter, a model folder, a Hub id, or "smollm2".
        prompt: opening words; may be empty. For a policy that was trained on its chat template, a user's
            message, or a transcript with several turns.
        max_new_tokens: length limit.
        temperature: 0 takes the likeliest token each time.
        samples: how many continuations.
        seed: same seed, same text, on machines where ``precision`` means the same.
        precision: of the weights.

    Returns:
        Whole texts, prompt and continuation; in a chat the answers.

    Raises:
        PhaseError: if the folder holds no policy, or a reward model.
    """
    place = locate_policy(model_dir)
    policy = load_policy(place.base, precision=precision, device=compute_device())
    adapter = None if place.adapter is None else "policy"
    tokenizer = tokenizer_of(policy, place.adapter)
    network = policy.model if place.adapter is None else load_adapter(policy.model, place.adapter, "policy")
    chat = read_template(place.adapter or Path(place.base)) == "chat"
    writer = EvalPolicy(place.label, network, tokenizer, adapter)
    rows = encode_for(writer, [prompt], max_new_tokens=max_new_tokens, chat=chat)
    if rows.cut:
        print(f"The prompt does not fit the {writer.window()} tokens of the model: its beginning was cut "
              "off.", file=sys.stderr)
    prompt_ids = torch.tensor(rows.ids * samples)
    with writer.sampling() as model:
        rollout = sample(model, prompt_ids, torch.ones_like(prompt_ids, dtype=torch.bool),
                         max_new_tokens=max_new_tokens, eos_token_id=writer.end_tokens(),
                         pad_token_id=tokenizer.pad_token_id, seeds=row_seeds(seed, rows=samples),
                         temperature=temperature)
    tokens = rollout.response_ids.where(rollout.response_mask, tokenizer.pad_token_id)
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts if chat else [prompt + text for text in texts]
