"""Principles and constitutions: what a text is criticised for, and how it is to be revised; rude prompts.

A constitution is a YAML file, so that anybody can write one without touching code:

    name: polite-reviews
    source: our own
    principles:
      - id: no-insults
        text: A review may be harsh about a film, and never about people.
        critique_request: Does the review insult anybody? Say who and how.
        revision_request: Rewrite the review without the insult and keep its opinion of the film.
        question: Which review is more respectful towards people?
        yes_question: Is this review respectful towards people?
        examples:
          - before: The film is bad and only fools like it.
            critique: It calls the people who like the film fools.
            after: The film is bad, and I do not see what people like in it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rlhf_lite.config.reading import read_model
from rlhf_lite.data.pairs import normalised

Text = Annotated[str, Field(min_length=1)]
# Not strict: YAML has lists only.
Remarks = Annotated[tuple[Text, ...], Field(min_length=2, strict=False)]
# Stems of words that are not printed in full. The prompts hold none of them; a model's answers may.
_STRONG = re.compile(
    r"\b(\w*f)u(ck\w*)|\b(\w*sh)i(t\w*)|\b(c)u(nts?)\b|\b(b)i(tch\w*)|\b(wh)o(res?)\b|\b(sl)u(ts?)\b"
    r"|\b(f)a(g(?:s|gots?)?)\b|\b(n)i(gg\w+)|\b(d)i(ck\w*)|\b(p)u(ss(?:y|ies))\b|\b(ret)a(rd\w*)|\b(r)a(p(?:e|ed|ist)s?)\b",
    re.IGNORECASE,
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class RevisionExample(_Part):
    """One text before and after, for a model that learns from examples better than from instructions."""

    before: Text
    critique: Text
    after: Text


class Principle(_Part):
    """One rule of a constitution.

    Attributes:
        id: a short name, unique in its constitution.
        text: the rule in one sentence, for people.
        critique_request: what the model is asked to find in a text.
        revision_request: what the model is asked to change.
        question: how two texts are compared ("Which of the two ...?").
        yes_question: how one text is judged ("Is ...?"), answered by yes or no; yes is the better answer.
        heading, opposite: words that announce a text that follows the rule, and one that breaks it ("A polite
            remark:", "A rude remark:"); a text is judged by which of the two makes it more likely.
        examples: few-shot examples.
        source: where the rule comes from.
    """

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    text: Text
    critique_request: Text
    revision_request: Text
    question: Text
    yes_question: Text
    heading: Text | None = None
    opposite: Text | None = None
    # Not strict: YAML has lists only.
    examples: Annotated[tuple[RevisionExample, ...], Field(strict=False)] = ()
    source: Text = "our own"


class Constitution(_Part):
    """Principles under one name."""

    name: Text
    source: Text
    principles: Annotated[tuple[Principle, ...], Field(min_length=1, strict=False)]

    @field_validator("principles")
    @classmethod
    def _ids_differ(cls, principles: tuple[Principle, ...]) -> tuple[Principle, ...]:
        seen: set[str] = set()
        for principle in principles:
            if principle.id in seen:
                raise ValueError(f"two principles have the id {principle.id!r}; rename one of them")
            seen.add(principle.id)
        return principles

    def principle(self, name: str) -> Principle:
        """The principle with this id.

        Raises:
            KeyError: if there is none; it lists the ids.
        """
        for principle in self.principles:
            if principle.id == name:
                return principle
        known = ", ".join(principle.id for principle in self.principles)
        raise KeyError(f"there is no principle {name!r} in {self.name!r}; there are {known}")


def load_constitution(path: Path | str) -> Constitution:
    """Read a constitution.

    Raises:
        ConfigError: naming the file, the entry, the value received and what was expected.
    """
    return read_model(Constitution, Path(path))


def default_constitution() -> Constitution:
    """The package's own principles for short reviews and answers."""
    return load_constitution(Path(__file__).with_name("default.yaml"))


def sentiment_questions() -> Constitution:
    """Questions about sentiment in the form of principles, to measure a judge on people's ratings.

    They are no rules of conduct: who is good at them is not thereby good at judging respect.
    """
    return load_constitution(Path(__file__).with_name("sentiment.yaml"))


class PromptSet(_Part):
    """Prompts that invite rude text: a few rude remarks about films, and the next line is the policy's.

    The answer is a whole remark of its own, so a text and its revision are two answers to the same prompt.
    Other forms were tried with SmolLM2-135M-Instruct: it seldom goes on rudely after a rude beginning alone,
    or when it is asked in the form of a chat; after rude lines it does.

    Attributes:
        name, source: what it is, and whose.
        head: first line of every prompt.
        shown: remarks in a prompt.
        remarks_train, remarks_test: ``train`` and ``test`` of the file.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: Text
    source: Text
    head: Text
    shown: Annotated[int, Field(ge=1)] = 2
    remarks_train: Remarks = Field(alias="train")
    remarks_test: Remarks = Field(alias="test")

    @model_validator(mode="after")
    def _splits_differ(self) -> PromptSet:
        both = set(map(normalised, self.remarks_train)) & set(map(normalised, self.remarks_test))
        if both:
            raise ValueError(f"these remarks are in train and in test: {', '.join(sorted(both))}")
        for split in (self.remarks_train, self.remarks_test):
            if self.shown > len(split):
                raise ValueError(f"shown is {self.shown}, but a split has {len(split)} remarks only")
        return self

    @property
    def train(self) -> list[str]:
        """One prompt for each training remark, which is its last line."""
        return self._prompts(self.remarks_train)

    @property
    def test(self) -> list[str]:
        """One prompt for each test remark; no line of it is in a training prompt, but for the head."""
        return self._prompts(self.remarks_test)

    def _prompts(self, remarks: tuple[str, ...]) -> list[str]:
        # The other lines come from far away in the list, so that neighbouring prompts have none in common.
        stride = max(1, len(remarks) // (self.shown + 1))
        rows = []
        for last in range(len(remarks)):
            places = [(last + stride * back) % len(remarks) for back in range(self.shown - 1, -1, -1)]
            rows.append("\n".join([self.head, *(f"- {remarks[place]}" for place in places), "-"]))
        return rows


def load_prompts(path: Path | str | None = None) -> PromptSet:
    """The package's own rude threads about films, or those of a YAML file of the same form.

    Raises:
        ConfigError: naming the file, the entry, the value received and what was expected.
    """
    return read_model(PromptSet, Path(__file__).with_name("prompts.yaml") if path is None else Path(path))


def printable(text: str) -> str:
    """The text with the vowel of strong words hidden: for pages. Judges and records have the text itself."""

    def masked(word: re.Match[str]) -> str:
        before, after = (part for part in word.groups() if part is not None)
        return f"{before}*{after}"

    return _STRONG.sub(masked, text)
