"""Conversations in the template of the model that reads them: decided once, the same in training and use."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rlhf_lite.data.formatting import chat_template, prompt_turns, render_preference
from rlhf_lite.errors import ConfigError, DataError
from rlhf_lite.files import write_json
from rlhf_lite.types import Dialogue, Message, Preference

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TemplateKind = Literal["chat", "plain"]
# Beside an adapter or a model that was trained on its chat template.
TEMPLATE_FILE = "template.json"


def pick_template(setting: Literal["auto", "chat", "plain"], tokenizer: PreTrainedTokenizerBase,
                  preferences: Sequence[Preference]) -> TemplateKind:
    """What ``data.template`` means for a model and some data.

    Raises:
        ConfigError: if the template is asked for and the model has none.
    """
    if setting == "chat" and not tokenizer.chat_template:
        raise ConfigError(["data.template: got 'chat', but the model has no chat template; use plain"])
    if setting != "auto":
        return setting
    whole = bool(preferences) and all(p.dialogue is not None for p in preferences)
    return "chat" if tokenizer.chat_template and whole else "plain"


def render_chats(preferences: Sequence[Preference], tokenizer: PreTrainedTokenizerBase,
                 kind: TemplateKind, *, source: str = "the data") -> list[Preference]:
    """Preferences as the model reads them.

    ``plain`` takes the texts as the source gave them. ``chat`` writes the model's template; a row that is no
    conversation becomes a question of the user and its answer. Answers end where their text ends, without the
    template's end of turn: training appends the end token, and a reward model reads answers without it, as
    it reads what a policy wrote.

    Raises:
        DataError: if the template does not take a conversation.
    """
    if kind == "plain":
        return list(preferences)
    template, end, rendered = chat_template(tokenizer), tokenizer.eos_token or "", []
    for number, preference in enumerate(preferences, start=1):
        try:
            chat = render_preference(_as_dialogue(preference), template)
        except Exception as error:  # templates raise what they like
            told = error.__cause__ or error
            raise DataError(f"conversation {number} does not fit the model's chat template: {told}",
                            file=source, fix="use data.template=plain") from error
        answers = (text.rstrip().removesuffix(end).rstrip() for text in (chat.chosen, chat.rejected))
        chosen, rejected = answers
        rendered.append(replace(chat, chosen=chosen, rejected=rejected))
    return rendered


def _as_dialogue(preference: Preference) -> Preference:
    if preference.dialogue is not None:
        return preference
    answers = (Message("assistant", text.strip()) for text in (preference.chosen, preference.rejected))
    return replace(preference, dialogue=Dialogue(prompt_turns(preference.prompt), *answers))


def write_template(folder: Path, kind: TemplateKind) -> None:
    """Remember beside a policy that it was trained on its chat template; nothing for plain text."""
    if kind == "chat" and folder.is_dir():
        write_json(folder / TEMPLATE_FILE, {"template": kind})


def read_template(folder: Path) -> TemplateKind:
    """How the policy in a folder was trained to read."""
    place = folder / TEMPLATE_FILE
    return json.loads(place.read_text(encoding="utf-8"))["template"] if place.is_file() else "plain"
