"""Critique and revision: the supervised half of constitutional AI, with the provenance of every step.

Source: Bai et al. 2022 (arXiv:2212.08073), section 3: a text is criticised in the light of a principle drawn
at random and then revised, several times over; the model is fine-tuned on the last revisions.

Two forms of asking. ``few_shot`` shows the principle's examples and leaves the next revision to be continued:
a small model follows examples. ``chat`` asks in words through the model's chat template, as the published
system did with a model of 52 billion parameters.

What goes wrong with revisions of a small model is found by plain rules, so that it can be counted and shown.
The rules see words, not meaning: a revision that says the opposite in the same words passes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rlhf_lite.constitutional.principles import Constitution, Principle
from rlhf_lite.constitutional.writer import Writer
from rlhf_lite.data.formatting import Template, plain_text
from rlhf_lite.data.words import words as words_of
from rlhf_lite.rollout.sampler import step_seed
from rlhf_lite.types import Message

Form = Literal["few_shot", "chat"]
# A revision ends with its line: the examples are lines, and a small model would go on with a next example.
_END = ("\n",)

EMPTY, UNCHANGED, COPIED = "empty", "unchanged", "copied example"
ECHO, LOOP, OFF_TOPIC = "critique again", "loop", "off topic"
PROBLEMS = (EMPTY, UNCHANGED, COPIED, ECHO, LOOP, OFF_TOPIC)
# These revisions are thrown away, and the text from before stays. One that left the subject is kept and
# counted: a small model does it often, and only a reader can tell whether it matters.
REFUSED = frozenset({EMPTY, COPIED, ECHO, LOOP})

# One word for the subject, however it is called.
_SAME = dict.fromkeys(("movie", "movies", "films", "picture"), "film")
_EMPTY_WORDS = frozenset(re.findall(r"\S+", """
    a an the and or but if so as at by for from in into of on to with about than then that this these those it
    its it's i i'm me my you you're your he his him she her they them their we our us who what which is are
    was were be been being am do does did don't not no just very too all any some one there here will would
    can could should have has had more most like think
"""))
_LABELS = ("text:", "critique:", "better:", "beginning:", "answer:")


@dataclass(frozen=True)
class RevisionStep:
    """One critique and revision.

    Attributes:
        principle: id of the principle that was drawn.
        critique_prompt, critique: what was asked and answered.
        revision_prompt, revision: the same for the revision.
        kept: False if the revision was thrown away; then ``text`` is the text from before.
        text: the text after this step.
        problem: what is wrong with the revision, one of :data:`PROBLEMS`; empty if none was found.
        overlap: share of the text's content words that the revision keeps, see :func:`kept_words`.
    """

    principle: str
    critique_prompt: str
    critique: str
    revision_prompt: str
    revision: str
    kept: bool
    text: str
    problem: str = ""
    overlap: float = 1.0


@dataclass(frozen=True)
class Chain:
    """A text and its revisions.

    Attributes:
        prompt: what the text answers or continues; may be empty.
        first: the text before any revision.
        steps: in their order.
        writer: name of the model.
        constitution: name of the constitution.
        seed: of the draws.
    """

    prompt: str
    first: str
    steps: tuple[RevisionStep, ...]
    writer: str
    constitution: str
    seed: int

    @property
    def texts(self) -> tuple[str, ...]:
        """The first text and the text after each step."""
        return (self.first, *(step.text for step in self.steps))


def _words(text: str) -> list[str]:
    return [_SAME.get(word, word) for word in words_of(text)]


def _likeness(a: Sequence[str], b: Sequence[str]) -> float:
    """Jaccard likeness of two lists of words; 0 if both are empty."""
    return len({*a} & {*b}) / len({*a} | {*b}) if a or b else 0.0


def kept_words(before: str, after: str) -> float:
    """Share of the content words of ``before`` that ``after`` still has; 1 if ``before`` has none.

    A polite revision must lose the insults, so the best value is below 1; at 0 nothing of the text is left.
    """
    content = {*_words(before)} - _EMPTY_WORDS
    return len(content & {*_words(after)}) / len(content) if content else 1.0


def find_problem(principle: Principle, before: str, critique: str, revision: str) -> str:
    """The first of :data:`PROBLEMS` that a revision has, or an empty string.

    - ``empty``: no word;
    - ``unchanged``: the same words as before;
    - ``copied example``: nearly all words are those of a text that the principle's examples show;
    - ``critique again``: the critique, or another one, instead of a revision, or the form's own labels;
    - ``loop``: more than half of its words are repetitions;
    - ``off topic``: it shares no content word with the text.

    Args:
        principle: with the examples that were shown.
        before: the text to be revised.
        critique: of that text, or an empty string.
        revision: what the model wrote.
    """
    words = _words(revision)
    if not words:
        return EMPTY
    if words == _words(before):
        return UNCHANGED
    shown = [text for e in principle.examples for text in (e.before, e.after)]
    if any(_likeness(words, _words(text)) >= 0.8 for text in shown):
        return COPIED
    critiques = [e.critique for e in principle.examples]
    # "It calls ..." and "It insults ..." begin a critique; a revision speaks of the film.
    verbs = {tuple(_words(text)[:2]) for text in critiques}
    echoes = [critique, *critiques, principle.critique_request, principle.revision_request]
    if (tuple(words[:2]) in verbs or any(text and _likeness(words, _words(text)) >= 0.8 for text in echoes)
            or revision.lower().startswith(_LABELS)):
        return ECHO
    if len(words) >= 6 and len({*words}) < len(words) / 2:
        return LOOP
    if kept_words(before, revision) == 0:
        return OFF_TOPIC
    return ""


def few_shot_critique(principle: Principle, text: str) -> str:
    """The principle's examples as lines, ending where the critique of ``text`` begins."""
    shown = [f"Text: {e.before}\nCritique: {e.critique}" for e in principle.examples]
    return "\n\n".join([principle.critique_request, *shown, f"Text: {text}\nCritique:"])


def few_shot_revision(principle: Principle, text: str, critique: str | None) -> str:
    """The principle's examples as lines, ending where the revision of ``text`` begins; None: no critiques."""

    def lines(before: str, criticism: str | None) -> str:
        return f"Text: {before}\n" + ("" if critique is None else f"Critique: {criticism}\n") + "Better:"

    shown = [f"{lines(e.before, e.critique)} {e.after}" for e in principle.examples]
    last = lines(text, critique)
    return "\n\n".join([principle.revision_request, *shown, last])


def chat_critique(principle: Principle, text: str, template: Template) -> str:
    """The critique asked for in words."""
    return template([Message("user", f"{principle.critique_request}\n\nText: {text}")], True)


def chat_revision(principle: Principle, text: str, critique: str | None, template: Template) -> str:
    """The revision asked for in words, after the critique if there is one."""
    criticism = "" if critique is None else f"Critique: {critique}\n\n"
    asked = f"Text: {text}\n\n{criticism}{principle.revision_request} Answer with the text only."
    return template([Message("user", asked)], True)


def revise(writer: Writer, texts: Sequence[str], constitution: Constitution, *, rounds: int, seed: int,
           prompts: Sequence[str] | None = None, form: Form = "few_shot", template: Template = plain_text,
           critique: bool = True, max_new_tokens: int = 40, temperature: float = 0.7) -> list[Chain]:
    """Criticise and revise each text ``rounds`` times, each time by a principle drawn from ``seed``.

    A revision that is empty, copies an example, repeats the critique or runs in a loop is recorded and thrown
    away: the chain goes on with the text from before.

    Args:
        writer: the model.
        texts: what is revised; none may be empty.
        constitution: where principles are drawn from, each equally likely, independently for every text and
            round.
        rounds: at least 0; 0 gives chains without steps.
        seed: of principles and samples.
        prompts: what the texts answer, for the records; one for each text.
        form: how the model is asked, see the module's text.
        template: for ``chat``; see ``data.formatting.chat_template``.
        critique: False asks for the revision at once; the records' critiques are empty then.
        max_new_tokens: length limit of a critique and of a revision.
        temperature: of the sampling.

    Raises:
        ValueError: if a text is empty, there are other than as many prompts, or ``rounds`` is negative.
    """
    prompts = [""] * len(texts) if prompts is None else list(prompts)
    if len(prompts) != len(texts):
        raise ValueError(f"got {len(texts)} texts and {len(prompts)} prompts; give one prompt for each text")
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}; use 0 or more")
    for i, text in enumerate(texts):
        if not text.strip():
            raise ValueError(f"text {i} is empty: there is nothing to revise")
    draw = random.Random(seed)
    current, steps = list(texts), [list[RevisionStep]() for _ in texts]
    options = {"max_new_tokens": max_new_tokens, "temperature": temperature,
               "stop": _END if form == "few_shot" else ()}
    for number in range(rounds):
        chosen = [draw.choice(constitution.principles) for _ in texts]
        critique_prompts, critiques = [""] * len(current), [""] * len(current)
        if critique:
            critique_prompts = [
                few_shot_critique(p, t) if form == "few_shot" else chat_critique(p, t, template)
                for p, t in zip(chosen, current, strict=True)
            ]
            critiques = writer.write(critique_prompts, seed=step_seed(seed, 2 * number), **options)
        shown = critiques if critique else [None] * len(current)
        revision_prompts = [
            few_shot_revision(p, t, c) if form == "few_shot" else chat_revision(p, t, c, template)
            for p, t, c in zip(chosen, current, shown, strict=True)
        ]
        revisions = writer.write(revision_prompts, seed=step_seed(seed, 2 * number + 1), **options)
        for i, revision in enumerate(revisions):
            problem = find_problem(chosen[i], current[i], critiques[i], revision)
            overlap, kept = kept_words(current[i], revision), problem not in REFUSED
            current[i] = revision.strip() if kept else current[i]
            step = RevisionStep(principle=chosen[i].id, critique_prompt=critique_prompts[i],
                                critique=critiques[i], revision_prompt=revision_prompts[i], revision=revision,
                                kept=kept, text=current[i], problem=problem, overlap=overlap)
            steps[i].append(step)
    return [Chain(prompt, text, tuple(done), writer.name, constitution.name, seed)
            for prompt, text, done in zip(prompts, texts, steps, strict=True)]
