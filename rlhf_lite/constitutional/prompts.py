"""Prompts that invite rude text: a few rude remarks about films, and the next line is the policy's.

The answer is a whole remark of its own, so a text and its revision are two answers to the same prompt. Other
forms were tried with SmolLM2-135M-Instruct: it seldom goes on rudely after a rude beginning alone, or when it
is asked in the form of a chat; after rude lines it does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from rlhf_lite.config.reading import read_model

Text = Annotated[str, Field(min_length=1)]
# Not strict: YAML has lists only.
Remarks = Annotated[tuple[Text, ...], Field(min_length=2, strict=False)]

# Stems of words that are not printed in full. The prompts hold none of them; a model's answers may.
_STRONG = re.compile(
    r"\b(\w*f)u(ck\w*)|\b(\w*sh)i(t\w*)|\b(c)u(nts?)\b|\b(b)i(tch\w*)|\b(wh)o(res?)\b|\b(sl)u(ts?)\b"
    r"|\b(f)a(g(?:s|gots?)?)\b|\b(n)i(gg\w+)|\b(d)i(ck\w*)|\b(p)u(ss(?:y|ies))\b|\b(ret)a(rd\w*)|\b(r)a(p(?:e|ed|ist)s?)\b",
    re.IGNORECASE,
)


class PromptSet(BaseModel):
    """Remarks in two splits, and the prompts made of them.

    Attributes:
        name, source: what it is, and whose.
        head: first line of every prompt.
        shown: remarks in a prompt.
        remarks_train, remarks_test: ``train`` and ``test`` of the file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, populate_by_name=True)

    name: Text
    source: Text
    head: Text
    shown: Annotated[int, Field(ge=1)] = 2
    remarks_train: Remarks = Field(alias="train")
    remarks_test: Remarks = Field(alias="test")

    @model_validator(mode="after")
    def _splits_differ(self) -> PromptSet:
        both = {r.lower() for r in self.remarks_train} & {r.lower() for r in self.remarks_test}
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
