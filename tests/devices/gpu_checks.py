"""Every part that computes, once on the CPU and once on a pretended GPU; run by ``test_gpu.py``.

Usage: ``python gpu_checks.py RESULTS.json [CHECK ...]``. The pretended device is registered for a whole
process, so that this is one. The results hold for every check an empty text or a traceback.
"""

from __future__ import annotations

import json
import math
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

import tiny_models
import torch
from pretend_gpu import GPU, GpuTensor, pretend_gpu
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

CHECKS: dict[str, Callable[[], None]] = {}
HOME = Path(tempfile.mkdtemp(prefix="gpu-", dir=Path(sys.argv[1]).parent))  # beside the results


def check(function: Callable[[], None]) -> Callable[[], None]:
    CHECKS[function.__name__] = function
    return function


@contextmanager
def same_kernels() -> Iterator[None]:
    """On the CPU what a GPU computes with: no decoder of our own, and attention written out."""
    with ExitStack() as stack:
        for module in ("rollout.decoder", "models.trunk"):
            stack.enter_context(mock.patch(f"rlhf_lite.{module}.layers_fit", lambda *_, **__: False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


def both(make: Callable[[str], Any], *, tolerance: float = 2e-5) -> Any:
    """What ``make`` gives on the GPU, which must be what it gives on the CPU."""
    with same_kernels():
        here = make("cpu")
    with pretend_gpu():
        there = make("gpu")
    assert_same(there, here, tolerance, "result")
    return there


def assert_same(got: Any, wanted: Any, tolerance: float, place: str) -> None:
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys(), (place, got.keys() ^ wanted.keys())
        for key in wanted:
            if "seconds" not in str(key):
                assert_same(got[key], wanted[key], tolerance, f"{place}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted), place
        for number, pair in enumerate(zip(got, wanted, strict=True)):
            assert_same(*pair, tolerance, f"{place}[{number}]")
    elif isinstance(wanted, torch.Tensor):
        assert_same(got.tolist(), wanted.tolist(), tolerance, place)
    elif isinstance(wanted, float) and not isinstance(wanted, bool):
        close = got is not None and math.isclose(got, wanted, rel_tol=tolerance, abs_tol=tolerance)
        assert close or (math.isnan(got) and math.isnan(wanted)), (place, got, wanted)
    else:
        assert got == wanted, (place, got, wanted)


# --- The checker itself


@check
def planted_faults_are_caught() -> None:
    with pretend_gpu():
        there, here = torch.ones(3, device="cuda"), torch.ones(3)
        index = torch.tensor([0, 1], device="cuda")
        faults: list[Callable[[], object]] = [
            lambda: there + here, lambda: here + there, lambda: here * torch.tensor(2.0, device="cuda"),
            lambda: there.add_(here), lambda: torch.cat([there, here]),
            lambda: torch.where(there > 0, here, there),
            lambda: here[index], lambda: here.index_copy(0, index, there[:2]),
            lambda: there.index_copy(0, index.cpu(), there[:2]), lambda: there.gather(0, index.cpu()),
            lambda: there.index_put_((index,), here[:2]), lambda: there.masked_fill(here > 0, 0.0),
            lambda: nn.Linear(3, 2)(there), lambda: nn.Embedding(3, 2).to("cuda")(torch.tensor([0])),
            lambda: there.numpy(), lambda: torch.stack([there, here]),
            lambda: torch.rand(2, device="cuda", generator=torch.Generator()),
            lambda: setattr(nn.Parameter(there), "data", here),
        ]  # fmt: skip
        for number, fault in enumerate(faults):
            try:
                fault()
            except (RuntimeError, TypeError):
                continue
            raise AssertionError(f"fault {number} passed")


@check
def what_cuda_allows_passes() -> None:
    def make(place: str) -> list[Any]:
        device = "cpu" if place == "cpu" else "cuda"
        torch.manual_seed(0)
        layer = nn.Linear(3, 2)
        kept = layer.weight
        layer.to(device)
        assert kept is layer.weight and layer.weight.is_leaf  # an optimiser made before keeps its parameters
        assert isinstance(layer.weight, GpuTensor) == (place == "gpu")
        optimiser = torch.optim.AdamW(layer.parameters(), lr=0.1)
        x = torch.arange(6.0).view(2, 3).to(device)
        for _ in range(3):
            loss = (layer(x) ** 2).mean() * torch.tensor(2.0)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimiser.step()
            optimiser.zero_grad()
        x[torch.tensor([1])] = 5.0
        x[:, 1] = torch.tensor([7.0, 8.0])  # a copy into a slice
        x[0].view(3).mul_(torch.tensor(3.0))
        y = x.new_zeros(2).copy_(torch.ones(2))
        return [float(loss.detach()), layer.weight.detach(), x, y.cpu().numpy().tolist(), bool(y.any()),
                x[torch.tensor([1, 0])], x[x > 5], torch.zeros_like(x).masked_scatter(x > 5, x)]

    both(make, tolerance=0.0)


# --- Runs


@cache
def base() -> str:
    return str(tiny_models.save_base(HOME / "base", initializer_range=0.1))


@cache
def pairs_file() -> str:
    words, draw = ["good", "fine", "film", "plot", "bad", "poor"], random.Random(0)
    rows = [{"prompt": f"film {i} was ", "chosen": " ".join(draw.choices(words[:4], k=3)),
             "rejected": " ".join(draw.choices(words[2:], k=3))} for i in range(300)]
    path = HOME / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def run_settings(*changes: str) -> Any:
    from rlhf_lite.config import load_config

    return load_config(None, [
        f"model.name={base()}", f"data.source={pairs_file()}", "model.precision=fp32", "model.threads=1",
        "lora.rank=2", "lora.top_layers=2", "data.max_tokens=40", "sft.steps=3", "sft.batch_size=4",
        "reward.pairs=24", "reward.batch_size=4", "reward.eval_pairs=20", "method=both", "ppo.steps=3",
        "ppo.prompts_per_step=4", "ppo.max_new_tokens=4", "ppo.minibatches=2", "dpo.source=policy",
        "dpo.pairs=12", "dpo.batch_size=4", "dpo.max_new_tokens=4", "dpo.candidates=3",
        "evaluation.prompts=8", "evaluation.max_new_tokens=4", "evaluation.gold_texts=24",
        "evaluation.best_of_n=2", "checkpoint.every_steps=2", *changes])  # fmt: skip


def logged(folder: Path) -> list[dict[str, Any]]:
    from rlhf_lite.tracking import read_metrics

    return read_metrics(folder / "metrics.jsonl")


JUDGED = ("policies", "comparisons", "reward_model", "gold_judge")


@cache
def finished_run() -> Path:
    """The folder of a run of all phases on the GPU, the same as one on the CPU."""
    from rlhf_lite.pipeline import run_pipeline

    def make(place: str) -> list[Any]:
        metrics = run_pipeline(run_settings(), output=HOME / f"run-{place}", visible=False)
        samples = (HOME / f"run-{place}" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        return [logged(HOME / f"run-{place}"), [json.loads(line) for line in samples],
                *(metrics[name] for name in JUDGED)]

    both(make, tolerance=1e-4)
    return HOME / "run-gpu"


@check
def a_run_of_all_phases() -> None:
    assert (finished_run() / "report.md").is_file()


@check
def cai_and_its_feedback() -> None:
    from rlhf_lite.pipeline.cai.config import load_cai_config
    from rlhf_lite.pipeline.cai.run import run_cai

    config = load_cai_config(None, [
        f"model.name={base()}", "model.precision=fp32", "model.threads=1", "lora.rank=2", "lora.top_layers=2",
        "data.max_tokens=400", "data.principles=[no-insults]", "revise.prompts=3", "revise.max_new_tokens=4",
        "revise.rounds=1", "revise.temperature=1.0", "revise.first_temperature=1.0", "sft.steps=2",
        "sft.batch_size=2", "feedback.prompts=3", "feedback.candidates=3", "feedback.max_new_tokens=4",
        "feedback.temperature=1.0", "dpo.batch_size=2", "evaluation.prompts=3", "evaluation.samples=2",
        "evaluation.max_new_tokens=4", "evaluation.temperature=1.0"])  # fmt: skip

    def make(place: str) -> list[Any]:
        found = run_cai(config, output=HOME / f"cai-{place}", visible=False)
        return [logged(HOME / f"cai-{place}"), found["policies"], found["comparisons"], found["feedback"]]

    both(make, tolerance=1e-4)


# --- The tools on a finished run


@check
def eval_of_several_policies() -> None:
    from rlhf_lite.pipeline.compare import evaluate_models

    run, prompts = finished_run(), HOME / "prompts.txt"
    prompts.write_text("The film\nA plot\nThis is\n", encoding="utf-8")
    other = tiny_models.save_base(HOME / "other", seed=1)

    def make(place: str) -> list[Any]:
        found = evaluate_models([f"ppo={run}", f"dpo={run}/dpo", f"other={other}"], str(prompts),
                                HOME / f"eval-{place}", reward=run, with_gold=False, max_new_tokens=4,
                                precision="fp32", visible=False)
        return [found["policies"], found["judges"]]

    both(make, tolerance=1e-4)


@check
def score_generate_and_train_on_a_file() -> None:
    from rlhf_lite.pipeline import generate_text, score_file, train_reward_file

    def make(place: str) -> list[Any]:
        options = {"max_new_tokens": 4, "temperature": 1.0, "samples": 2, "seed": 0, "precision": "fp32"}
        return [generate_text(str(finished_run()), "A film", **options),
                score_file(finished_run(), pairs_file(), precision="fp32"),
                train_reward_file(pairs_file(), base(), HOME / f"reward-{place}", run_settings())]

    both(make, tolerance=1e-4)


@check
def a_setup_loaded_again_as_the_notebooks_do() -> None:
    from rlhf_lite.data.formatting import encode_prompts
    from rlhf_lite.pipeline.context import Run
    from rlhf_lite.pipeline.phases import build_ppo_setup
    from rlhf_lite.training.policy_gradient import collect
    from rlhf_lite.training.ppo import PPO, PPOSettings

    def make(place: str) -> list[Any]:
        run = Run(run_settings(), finished_run(), visible=False)
        assert run.device.type == ("cpu" if place == "cpu" else "cuda")
        setup = build_ppo_setup(run, trained=True)
        prompts = encode_prompts(setup.policy.tokenizer, ["A film", "The plot is"])
        batch, metrics = collect(PPO(PPOSettings(max_new_tokens=4, kl_coef=0.1)), setup.training, prompts,
                                 seeds=[1, 2])
        assert batch.advantages.device == setup.training.scorer.device
        return [metrics, batch.advantages, setup.reward.score_texts(["a film", "b"]).numpy().tolist()]

    both(make, tolerance=1e-4)


@check
def judges_and_writers() -> None:
    from rlhf_lite.constitutional import PolicyWriter
    from rlhf_lite.data.collate import pad_left
    from rlhf_lite.data.formatting import encode_prompts
    from rlhf_lite.evaluation.gold import fit_gold_judge
    from rlhf_lite.evaluation.readiness.check import sample_pool
    from rlhf_lite.models.policy import load_policy
    from rlhf_lite.models.runtime import compute_device
    from rlhf_lite.pipeline.cai.feedback import measure_judge
    from rlhf_lite.rollout.best_of_n import best_of_n
    from rlhf_lite.rollout.sampler import stream
    from rlhf_lite.types import Preference

    pairs = [Preference("A film ", f"good {i}", f"bad {i} {i}") for i in range(6)]

    def make(place: str) -> list[Any]:
        policy = load_policy(base(), precision="fp32", device=compute_device())
        tokenizer, pad = policy.tokenizer, policy.tokenizer.pad_token_id
        gold = fit_gold_judge(policy.model, tokenizer, pairs, max_tokens=20)
        ids = pad_left(encode_prompts(tokenizer, ["A film", "The plot is"]), pad)  # on the CPU, as users do
        common = {"max_new_tokens": 4, "eos_token_id": tokenizer.eos_token_id}
        best = best_of_n(policy.model, *ids, n=3, reward=lambda batch: batch.response_mask.sum(1),
                         pad_token_id=pad, seeds=range(6), **common)
        text = [piece.text for piece in stream(policy.model, tokenizer, *ids, seeds=[1, 2], stop=["x"],
                                               top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2,
                                               **common)]
        pool = sample_pool(policy.model, tokenizer, ["A film"], n=2, max_new_tokens=4)
        judged = measure_judge(PolicyWriter(policy), pairs)
        return [gold(["a film", "dull"]).tolist(), best.scores, best.rollout.response_ids, text, pool, judged]

    both(make, tolerance=1e-4)


# --- The trainers by themselves: built on the CPU, placed by accelerate


def trained(job: str, place: str) -> list[Any]:
    """Metrics and last weights of a small training."""
    import rank_script
    import runners
    import test_rejection
    from accelerate import Accelerator

    from rlhf_lite.training.settings import EarlyStopping

    runners._accelerator[:] = [accelerator := Accelerator(cpu=place == "cpu")]
    rank_script.test_ppo.ACCELERATOR = rank_script.test_grpo.ACCELERATOR = accelerator
    if job == "rejection":
        setup = test_rejection.new_setup()
        lines, module = test_rejection.train(setup, accelerator=accelerator, steps=2), setup.scorer
    elif job == "rloo":
        lines, module = rank_script.policy_gradient(rank_script.test_grpo, steps=2, estimator="rloo",
                                                    aggregation="sequence", kl_in="reward")
    elif job == "ipo":
        lines, module = rank_script.dpo(loss="ipo", sft_coef=0.1, cache_megabytes=0)
    elif job == "resume":
        whole = runners.run_sft(runners.new_scorer(0.1), validation=runners.EXAMPLES[:3])
        module = runners.new_scorer(0.1)
        lines = runners.run_sft(module, validation=runners.EXAMPLES[:3], resume=whole.resume(2)).lines
        assert lines == whole.lines[2:]
    elif job == "early stopping":
        rule = EarlyStopping("loss/nats_per_token", patience=1)
        module = runners.new_scorer()
        lines = runners.run_sft(module, recorder=runners.Recorder(early_stopping=rule), steps=6,
                                gradient_checkpointing=True).lines
    else:
        lines, module = rank_script.jobs(base())[job]()
    places = {parameter.device.type for parameter in module.parameters()}
    assert places == {"cpu" if place == "cpu" else GPU.type}, places
    return [runners.timeless(lines), runners.weights(module)]


for _job in ("sft", "reward", "dpo", "kto", "ipo", "ppo", "grpo", "rloo", "rejection", "resume",
             "early stopping"):
    CHECKS[f"trainer: {_job}"] = partial(both, partial(trained, _job), tolerance=2e-4)


@check
def a_model_trained_as_a_whole_and_a_lab_beside_it() -> None:
    from rlhf_lite.lab import make_world
    from rlhf_lite.pipeline.context import make_accelerator
    from rlhf_lite.pipeline.lab.run import run_lab

    world = make_world("dense", tokens=4, length=3, prompts=2, seed=100)

    def make(place: str) -> list[Any]:
        make_accelerator(None)  # of a run in the same process
        found = [run_lab(name, world=world, seed=3, steps=3, rows=16, learning_rate=3e-3, evaluate_every=3,
                         pretraining_steps=5) for name in ("ppo", "grpo")]
        return [one.fraction for one in found]

    both(make, tolerance=1e-4)


@check
def a_reward_on_the_other_device_is_asked_where_it_is() -> None:
    import runners

    from rlhf_lite.rollout.rewards import Completions, evaluate, model_reward

    with pretend_gpu():
        reward, ids = runners.new_reward(base()), torch.tensor([[5, 6, 7], [8, 9, 4]])
        mask = torch.ones_like(ids, dtype=torch.bool)
        here = [ids, mask, mask]
        there = [tensor.to("cuda") for tensor in here]
        trunk = reward.body.trunk(ids, mask)
        decode = lambda rows: ["ab" * len(row) for row in rows]  # noqa: E731
        for hidden in (trunk, None):
            batches = [Completions(*tensors, 1, tensors[1][:, 0], hidden=hidden if hidden is None else
                                   hidden.to(tensors[0].device), decode=decode) for tensors in (here, there)]
            found = [evaluate(model_reward(reward, shared_trunk=True), batch).scores for batch in batches]
            assert isinstance(found[1], GpuTensor) and found[0].tolist() == found[1].tolist()


@check
def a_machine_with_a_gpu_can_be_kept_on_its_cpu() -> None:
    from rlhf_lite.models.runtime import compute_device
    from rlhf_lite.pipeline.context import make_accelerator

    with pretend_gpu():
        assert compute_device() == torch.device("cuda", 0)
        with mock.patch.dict("os.environ", {"ACCELERATE_USE_CPU": "true"}):
            assert compute_device().type == make_accelerator(None).device.type == "cpu"


def main(results: Path, wanted: list[str]) -> None:
    found = {}
    for name in wanted or CHECKS:
        started = time.process_time()
        try:
            CHECKS[name]()
            found[name] = ""
        except BaseException:
            found[name] = traceback.format_exc()
        print(f"{name}: {time.process_time() - started:.1f} s")
        results.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
