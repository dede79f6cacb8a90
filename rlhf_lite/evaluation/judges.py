"""What answers are measured with: a reference, a gold judge, a reward model, word lists.

A judge of toxicity is anything with a ``name`` that maps texts to probabilities; there is one door to them::

    judge = toxicity_judge()                                  # alt-profanity-check, needs no download
    judge = toxicity_judge("detoxify")                        # pip install detoxify; fetches its weights
    judge = toxicity_judge("unitary/toxic-bert#toxic")        # MODEL#LABEL, a folder or a Hub id
    judge(["What a film.", "What an idiot."])                 # [n] probabilities

The first is a linear model of words: it sees an insult, and it sees no irony, no threat without a bad word
and no quotation. The other two read sentences and need weights that do not come with this package. Their path
through here is tested with stand-ins and with a tiny classifier saved to disk; the published weights
themselves were not run by the authors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rlhf_lite.data.formatting import Template, chat_template, plain_text, prompt_turns
from rlhf_lite.data.words import normalise_for_judges
from rlhf_lite.errors import ComparisonError, ToxicityError
from rlhf_lite.evaluation.eval_policy import EvalPolicy
from rlhf_lite.evaluation.text_metrics import toxicity_scores, vader_scores
from rlhf_lite.files import at_home
from rlhf_lite.models.reward_model import RewardModel
from rlhf_lite.rollout.rewards import Reward

# Whole texts to one number each, ``[n]``; NaN means that the judge has no answer. A judge with the attribute
# ``takes_prompts`` is called with what the texts begin with as well: it cuts texts that are too long for it.
Scores = Callable[..., NDArray[np.float64]]
# Scores that may decide who wins a prompt.
DECIDING = ("gold", "vader", "reward")
# What published classifiers call the label that is meant; the first that a model has is taken.
_LABELS = ("toxic", "toxicity", "offensive", "hate", "hateful", "abusive")
_BATCH = 32


class ToxicityJudge(Protocol):
    """A judge of how offensive texts are."""

    name: str
    """For reports."""

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Probability that each text is offensive, ``[n]`` in [0, 1]."""
        ...


class ProfanityJudge:
    """``alt-profanity-check``: a linear model of words, offline; see `text_metrics.toxicity_scores`."""

    name = "alt-profanity-check"

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """See `ToxicityJudge`.

        Raises:
            ToxicityError: if the package is not installed.
        """
        try:
            scores = toxicity_scores(texts)
        except ImportError as error:
            raise ToxicityError(f"{self.name} cannot be used ({error}): pip install {self.name}") from error
        return _probabilities(scores, len(texts), self.name)


class DetoxifyJudge:
    """Detoxify's score "toxicity".

    Source: the package ``detoxify``; Hanu and Unitary team 2020, trained on the Jigsaw comments.

    Args:
        kind: "original", "unbiased" or "multilingual".
        model: an object with Detoxify's ``predict``; None loads the package.

    Raises:
        ToxicityError: if the package is missing or its weights cannot be fetched.
    """

    def __init__(self, kind: str = "original", *, model: Any = None) -> None:
        self.name = f"detoxify:{kind}"
        self._model = _load_detoxify(kind) if model is None else model

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """See `ToxicityJudge`."""
        scores: list[float] = []
        for start in range(0, len(texts), _BATCH):
            batch = [normalise_for_judges(text) for text in texts[start : start + _BATCH]]
            scores += list(self._model.predict(batch)["toxicity"])
        return _probabilities(scores, len(texts), self.name)


class ClassifierJudge:
    """One label of a text classifier, through transformers' pipeline.

    Args:
        name: folder or Hub id.
        label: the label whose probability counts; None takes the first of toxic, toxicity, offensive, hate,
            hateful, abusive that the model has, or the only label there is.
        classify: texts to a list of ``{"label", "score"}`` each; None loads the model.

    Raises:
        ToxicityError: if the model cannot be loaded, or it is not clear which label is meant.
    """

    def __init__(self, name: str, label: str | None = None, *,
                 classify: Callable[..., Any] | None = None) -> None:
        self._classify = _load_classifier(name) if classify is None else classify
        probe = self._labels(["a text"])[0]
        self._label = _pick_label(list(probe), label, name)
        self.name = f"{name}#{self._label}"

    def _labels(self, texts: Sequence[str]) -> list[dict[str, float]]:
        plain = [normalise_for_judges(text) for text in texts]
        answers = self._classify(plain, top_k=None, truncation=True, batch_size=_BATCH)
        return [{entry["label"]: float(entry["score"]) for entry in answer} for answer in answers]

    def __call__(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """See `ToxicityJudge`."""
        scores = [labels[self._label] for labels in self._labels(texts)] if texts else []
        return _probabilities(scores, len(texts), self.name)


def toxicity_judge(spec: str | None = None) -> ToxicityJudge:
    """A judge by name.

    Args:
        spec: None or "profanity-check"; "detoxify" or "detoxify:KIND"; else MODEL or MODEL#LABEL, where MODEL
            is a folder or a Hub id of a text classifier.

    Raises:
        ToxicityError: if it cannot be had on this machine; the message says how to get it.
    """
    if spec is None or spec in ("profanity-check", ProfanityJudge.name):
        return ProfanityJudge()
    kind, _, rest = spec.partition(":")
    if kind == "detoxify":
        return DetoxifyJudge(rest or "original")
    name, _, label = at_home(spec).partition("#")
    return ClassifierJudge(name, label or None)


def _load_detoxify(kind: str) -> Any:
    try:
        from detoxify import Detoxify
    except ImportError as error:
        raise ToxicityError("detoxify is not installed: pip install detoxify, or "
                            "use --toxicity profanity-check") from error
    try:
        return Detoxify(kind)
    except Exception as error:  # whatever the download raises, the reader needs the same advice
        raise ToxicityError(f"detoxify could not load its model {kind!r} ({type(error).__name__}: {error}); "
                            "it is fetched once from the network, or "
                            "use --toxicity profanity-check") from error


def _load_classifier(name: str) -> Callable[..., Any]:
    from transformers import pipeline

    from rlhf_lite.models.runtime import quiet_loading

    try:
        with quiet_loading():
            return pipeline("text-classification", model=name, device="cpu")
    except (OSError, ValueError, KeyError) as error:
        where = "folder" if Path(name).exists() else "folder or Hub id"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ToxicityError(
            f"{name} is no {where} with a text classifier that can be loaded here ({reason}); "
            "check the name, go online once (unset HF_HUB_OFFLINE), or use --toxicity profanity-check"
        ) from error


def _pick_label(labels: list[str], asked_for: str | None, name: str) -> str:
    """The label as the model spells it."""
    if asked_for is None and len(labels) == 1:
        return labels[0]
    by_lower = {label.lower(): label for label in labels}
    for candidate in _LABELS if asked_for is None else (asked_for.lower(),):
        if candidate in by_lower:
            return by_lower[candidate]
    asked = "does not say which label means toxic" if asked_for is None else f"has no label {asked_for!r}"
    raise ToxicityError(f"{name} {asked}; its labels are {', '.join(labels)}: "
                        f"write {name}#LABEL with one of them")


def _probabilities(values: Any, n: int, name: str) -> NDArray[np.float64]:
    """``values`` as ``[n]``; a NaN passes, for the report counts it, but nothing outside [0, 1]."""
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (n,):
        raise ToxicityError(f"{name} gave {scores.shape} scores for {n} texts; expected one per text")
    outside = np.flatnonzero((scores < 0) | (scores > 1))
    if outside.size:
        raise ToxicityError(f"{name} gave {scores[outside[0]]:g} for text {outside[0]}; "
                            "expected a probability from 0 to 1")
    return scores


def ask(judge: Scores, texts: Sequence[str], prompts: Sequence[str]) -> NDArray[np.float64]:
    """What a judge says of whole texts, which begin with their prompts."""
    return judge(texts, prompts) if getattr(judge, "takes_prompts", False) else judge(texts)


@dataclass(frozen=True)
class ModelJudge:
    """Raw scores of a reward model; the texts are cut as in its training.

    Attributes:
        model: the reward model.
    """

    model: RewardModel

    takes_prompts = True

    @property
    def template(self) -> Template | None:
        """The chat template that the model was trained on; None if that was plain text."""
        return chat_template(self.model.tokenizer) if self.model.template == "chat" else None

    def __call__(self, texts: Sequence[str], prompts: Sequence[str] | None = None) -> NDArray[np.float64]:
        """Scores ``[n]`` of whole texts, which begin with their prompts."""
        return self.model.score_texts(texts, prompts).double().numpy()


@dataclass(frozen=True)
class Judges:
    """Who judges the answers of a policy. VADER and a toxicity judge are always there.

    Attributes:
        reference: the policy that the KL is measured from.
        gold: whole texts to estimated human ratings, such as a `gold.GoldJudge`; adapters are off around it.
        reward: raw scores of completions as they were sampled, see `rollout.rewards`: it may read the states
            of the policy's trunk, and it chooses the best of n.
        reward_of_texts: whole texts to raw scores of a reward model, where there is no ``reward``.
        fluency: whose perplexity tells whether text still reads as language; the reference if None.
        toxicity: see `toxicity_judge`.
        chat: prompts are a user's messages, or transcripts of conversations; judges of whole texts read the
            plain transcript, or the chat template that they were trained on.
    """

    reference: EvalPolicy
    gold: Scores | None = None
    reward: Reward | None = None
    reward_of_texts: Scores | None = None
    fluency: EvalPolicy | None = None
    toxicity: ToxicityJudge = field(default_factory=ProfanityJudge)
    chat: bool = False

    def of_texts(self, prompts: Sequence[str], texts: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Scores ``[n]`` by judge, of those that read texts.

        Args:
            prompts: n prompts.
            texts: n answers to them.

        Raises:
            ComparisonError: if a judge gives another number of scores.
        """
        scores = {"vader": vader_scores(texts), "toxicity": self.toxicity(texts)}
        for name, judge in (("gold", self.gold), ("reward", self.reward_of_texts)):
            if judge is not None:
                heads = self._heads(judge, prompts)
                whole = [head + text for head, text in zip(heads, texts, strict=True)]
                scores[name] = _checked(ask(judge, whole, heads), len(texts), name)
        return scores

    def _heads(self, judge: Scores, prompts: Sequence[str]) -> list[str]:
        """The prompts as a judge reads them: in a chat by the template it knows, or as a transcript."""
        template = getattr(judge, "template", None)
        if not self.chat:
            return list(prompts)
        if template is not None:
            return [template(prompt_turns(prompt), True) for prompt in prompts]
        return [plain_text(prompt_turns(prompt), True) + " " for prompt in prompts]


def deciding_judge(judge: str | None, *, has_gold: bool, has_reward: bool) -> str:
    """The judge that decides win rates; by default gold, or VADER without it.

    Raises:
        ComparisonError: if it is unknown or was not given.
    """
    there = {"gold": has_gold, "vader": True, "reward": has_reward}
    if judge is None:
        return "gold" if has_gold else "vader"
    if not there.get(judge, False):
        known = ", ".join(name for name in DECIDING if there[name])
        raise ComparisonError(f"no judge {judge!r} in this comparison; there is {known}")
    return judge


def _checked(values: Any, n: int, name: str) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != (n,):
        raise ComparisonError(f"the judge {name!r} gave scores of shape {scores.shape} for {n} "
                              "texts; expected one number per text")
    return np.where(np.isfinite(scores), scores, np.nan)
