r"""One row of a preference file, in any of the forms people use, into one ``Preference``.

===================  ===============================================================================
explicit prompt      ``prompt``, ``chosen``, ``rejected`` as text; joined as they are
implicit prompt      ``chosen``, ``rejected`` as text; the prompt is what both begin with, whole words only
conversational       ``chosen``, ``rejected`` as lists of ``{"role", "content"}``, with or without ``prompt``
                     (text or a list); only the last turn may differ
transcript           ``chosen``, ``rejected`` as ``\n\nHuman: ... \n\nAssistant: ...`` (HH-RLHF)
===================  ===============================================================================

Optional numbers: ``margin``, or ``chosen_rating`` and ``rejected_rating`` (also ``score_chosen`` and
``score_rejected``), whose difference becomes the margin. All other fields are kept in ``meta``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf_lite.data.files.fields import (
    RATING_FIELDS,
    Place,
    answer_of,
    margin_of,
    messages_of,
    require_columns,
    text_of,
)
from rlhf_lite.data.formatting import (
    common_length,
    looks_like_transcript,
    parse_transcript,
    plain_text,
    render_dialogue,
    split_transcript,
)
from rlhf_lite.errors import DataError
from rlhf_lite.types import Dialogue, Message, Preference

_KNOWN = {
    "prompt",
    "chosen",
    "rejected",
    "margin",
    "meta",
    *(name for pair in RATING_FIELDS for name in pair),
}
_SAME_PROMPT = "let chosen and rejected differ in the assistant's last turn only"


def preference_from_row(row: Mapping[str, Any], place: Place, *, text_only: bool = False) -> Preference:
    """Validate a row and bring it into the one schema.

    Args:
        row: field name -> value.
        place: for errors.
        text_only: values come from a format without types (CSV), so numbers may be text.

    Raises:
        DataError: naming file, row, field, the value received and the fix.
    """
    require_columns(row, place)
    values = {name: _unwrap(row.get(name)) for name in ("prompt", "chosen", "rejected")}
    margin = margin_of(row, place, text_only)
    meta = {name: value for name, value in row.items() if name not in _KNOWN}
    extra = row.get("meta")
    if isinstance(extra, Mapping):
        meta.update(extra)
    elif extra is not None:
        meta["meta"] = extra
    if isinstance(values["chosen"], list) or isinstance(values["rejected"], list):
        return _from_messages(values, place, margin, meta)
    chosen, rejected = (
        answer_of(values["chosen"], "chosen", place),
        answer_of(values["rejected"], "rejected", place),
    )
    if looks_like_transcript(chosen) and looks_like_transcript(rejected):
        return _from_transcripts(values["prompt"], chosen, rejected, place, margin, meta)
    _require_different(chosen, rejected, place)
    if "prompt" not in row:
        prompt = common_opening(chosen, rejected)
        return Preference(prompt, chosen[len(prompt) :], rejected[len(prompt) :], margin, meta)
    if isinstance(values["prompt"], list):
        messages = messages_of(values["prompt"], "prompt", place)
        dialogue = Dialogue(messages, _assistant(chosen), _assistant(rejected))
        return Preference(*render_dialogue(dialogue), margin, meta, dialogue)
    prompt = text_of(values["prompt"], "prompt", place)
    if prompt and not prompt.strip():
        raise place.error(
            "holds only white space", field="prompt", value=prompt, fix="write a prompt, or leave it empty"
        )
    return Preference(prompt, chosen, rejected, margin, meta, _dialogue_of(prompt, chosen, rejected, place))


def common_opening(chosen: str, rejected: str) -> str:
    """What two texts begin with, whole words only, such that something is left of each of them.

    The space after the opening belongs to the continuations.
    """
    for end in range(common_length(chosen, rejected), 0, -1):
        rests = (chosen[end:], rejected[end:])
        if not chosen[end - 1].isspace() and all(rest.strip() and rest[0].isspace() for rest in rests):
            return chosen[:end]
    return ""


def _unwrap(value: Any) -> Any:
    """``{"messages": [...]}`` as the list it holds."""
    return (
        value["messages"] if isinstance(value, Mapping) and isinstance(value.get("messages"), list) else value
    )


def _assistant(text: str) -> Message:
    return Message("assistant", text.strip())


def _require_different(chosen: str, rejected: str, place: Place) -> None:
    if chosen.strip() == rejected.strip():
        fix = "take the row out: it says nothing about which is better"
        raise place.error("is identical to chosen", field="rejected", value=rejected, fix=fix)


def _from_messages(
    values: Mapping[str, Any], place: Place, margin: float | None, meta: dict[str, Any]
) -> Preference:
    """Chosen and rejected as lists of turns: either whole conversations or the answers alone."""
    sides = {}
    for field in ("chosen", "rejected"):
        if not isinstance(values[field], list):
            fix = "write both answers as text, or both as lists of turns"
            kind = type(values[field]).__name__
            raise place.error(
                f"is of type {kind}, expected a list", field=field, value=values[field], fix=fix
            )
        sides[field] = messages_of(values[field], field, place)
        if sides[field][-1].role != "assistant":
            value = sides[field][-1].role
            raise place.error("does not end with the assistant", field=field, value=value, fix=_SAME_PROMPT)
    prompt, answers = sides["chosen"][:-1], (sides["chosen"][-1], sides["rejected"][-1])
    if prompt != sides["rejected"][:-1]:
        raise _prompts_differ(prompt, sides["rejected"][:-1], place)
    given = _given_prompt(values["prompt"], place)
    if given and prompt and given != prompt and given != prompt[-1:]:
        # A system turn may precede a prompt given as text; nothing else may differ.
        raise _prompts_differ(given, prompt, place, field="prompt")
    prompt = prompt or given
    if not prompt:
        fix = "add the user's turn to both lists, or a field 'prompt'"
        raise place.error("has no turn before the answer", field="chosen", value=values["chosen"], fix=fix)
    _require_different(answers[0].content, answers[1].content, place)
    dialogue = Dialogue(prompt, *answers)
    return Preference(*render_dialogue(dialogue), margin, meta, dialogue)


def _given_prompt(value: Any, place: Place) -> tuple[Message, ...]:
    if value is None:
        return ()
    if isinstance(value, list):
        return messages_of(value, "prompt", place)
    text = text_of(value, "prompt", place)
    if not text.strip():
        raise place.error(
            "is empty", field="prompt", value=text, fix="write the prompt, or leave the field out"
        )
    return (Message("user", text),)


def _prompts_differ(
    one: tuple[Message, ...], other: tuple[Message, ...], place: Place, field: str = "rejected"
) -> DataError:
    turn = next(
        (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    received = other[turn].content if turn < len(other) else "no such turn"
    other_side = "the conversation in chosen" if field == "prompt" else "chosen"
    problem = f"has another prompt than {other_side}: turn {turn + 1} differs"
    return place.error(problem, field=field, value=received, fix=_SAME_PROMPT)


def _from_transcripts(
    given: Any, chosen: str, rejected: str, place: Place, margin: float | None, meta: dict[str, Any]
) -> Preference:
    parts = {}
    for field, text in (("chosen", chosen), ("rejected", rejected)):
        try:
            parse_transcript(text)
            parts[field] = split_transcript(text)
        except ValueError as error:
            fix = "complete the conversation, or take the row out"
            raise place.error(str(error), field=field, value=text, fix=fix) from None
    (prompt, good), (other_prompt, bad) = parts["chosen"], parts["rejected"]
    if prompt != other_prompt:
        raise _prompts_differ(_turns_before_answer(prompt), _turns_before_answer(other_prompt), place)
    if given is not None and text_of(given, "prompt", place).strip() != prompt.strip():
        problem = "is not what chosen and rejected begin with"
        raise place.error(problem, field="prompt", value=given, fix="leave the field out, or make them agree")
    _require_different(good, bad, place)
    dialogue = Dialogue(_turns_before_answer(prompt), _assistant(good), _assistant(bad))
    return Preference(prompt, good, bad, margin, meta, dialogue)


def _turns_before_answer(prompt: str) -> tuple[Message, ...]:
    return parse_transcript(prompt[: prompt.rstrip().rfind("\n\n")])


def _dialogue_of(prompt: str, chosen: str, rejected: str, place: Place) -> Dialogue | None:
    """The conversation in an explicit prompt that is a transcript; None if it is any other text."""
    if not (looks_like_transcript(prompt) and prompt.rstrip().endswith("\n\nAssistant:")):
        return None
    try:
        turns = _turns_before_answer(prompt)
    except ValueError as error:
        fix = "complete the conversation, or take the row out"
        raise place.error(str(error), field="prompt", value=prompt, fix=fix) from None
    return Dialogue(turns, _assistant(chosen), _assistant(rejected))


def is_plain_rendering(preference: Preference) -> bool:
    """Whether the texts of a preference are what its messages give, so that the messages alone can be
    stored.
    """
    if preference.dialogue is None:
        return False
    return render_dialogue(preference.dialogue, plain_text) == (
        preference.prompt,
        preference.chosen,
        preference.rejected,
    )
