"""A preference file as a run reads it: its rows, what was left out, and how conversations are written."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf_lite.config import PipelineConfig
from rlhf_lite.data import load_preferences
from rlhf_lite.data.chat import TemplateKind, pick_template, render_chats
from rlhf_lite.data.files.schema import LoadReport
from rlhf_lite.data.row_counts import BROKEN, rows_line
from rlhf_lite.models.names import resolve_model
from rlhf_lite.models.policy import load_tokenizer
from rlhf_lite.types import Preference

_SHOWN = 700  # characters of the first example


@dataclass(frozen=True)
class Source:
    """What a run says of its preference file.

    Attributes:
        report: how it was read.
        template: how its conversations are written.
        tokenizer: of the model, whose template that is.
        first: the first row as the model reads it, with the preferred answer.
    """

    report: LoadReport
    template: TemplateKind
    tokenizer: PreTrainedTokenizerBase
    first: str

    def render(self, preferences: Sequence[Preference]) -> list[Preference]:
        """Preferences of the file as the model reads them."""
        return render_chats(preferences, self.tokenizer, self.template, source=self.report.source)

    def record(self) -> dict[str, Any]:
        """As JSON, for ``metrics.json``."""
        broken = len(self.report.skipped)
        return {"file": self.report.source, "read": self.report.read, "used": self.report.kept,
                "left_out": {BROKEN: broken} if broken else {}, "repeated": self.report.repeated,
                "template": self.template, "first": self.first}

    def tell(self) -> None:
        """Print what was read, what was skipped, and the first example, on standard error."""
        if self.report.skipped or self.report.unused:
            print(self.report.summary(), file=sys.stderr)
        kind = "the model's chat template" if self.template == "chat" else "plain text"
        print(f"data: {self.report.source}: {rows_line(self.record())}; written as {kind}. The first row, as "
              f"the model reads it:\n{self.first}", file=sys.stderr)


def read_source(config: PipelineConfig, *,
                skip_with: str = "data.on_error=skip") -> tuple[list[Preference], Source]:
    """The rows of the settings' preference file as they are there, and how the model will read them.

    Args:
        config: its sections data and model count.
        skip_with: what a user types to pass over broken rows, for the error.

    Raises:
        DataError: if the file cannot be read.
        ConfigError: if the chat template is asked for and the model has none.
    """
    loaded = load_preferences(config.data.source, on_error=config.data.on_error, skip_with=skip_with)
    tokenizer = load_tokenizer(resolve_model(config.model.name))
    template = pick_template(config.data.template, tokenizer, loaded.records)
    (one,) = render_chats(loaded.records[:1], tokenizer, template, source=loaded.report.source)
    text = one.prompt + one.chosen
    if len(text) > _SHOWN:
        text = f"{text[: _SHOWN // 2]} [...] {text[-_SHOWN // 2 :]}"
    return loaded.records, Source(loaded.report, template, tokenizer, text)
