r"""One row of a preference file, in any of the forms people use, into one ``Preference``.

==============  ====================================================================================
explicit        ``prompt``, ``chosen``, ``rejected`` as text; joined as they are
implicit        ``chosen``, ``rejected`` as text; the prompt is what both begin with, whole words only;
                refused where another column could be the prompt
question        ``question`` (or another name of ``data.files.columns``), or ``prompt`` beside ``system``,
                with two answers as text: a conversation
conversation    ``chosen``, ``rejected`` as lists of ``{"role", "content"}``, with or without ``prompt``
                (text or a list); only the last turn may differ. Also as JSON or Python text in a cell
transcript      ``chosen``, ``rejected`` as ``\n\nHuman: ... \n\nAssistant: ...`` (HH-RLHF)
==============  ====================================================================================

Optional numbers: ``margin``, or ``chosen_rating`` and ``rejected_rating``, people's ratings, whose difference
becomes the margin. All other fields are kept in ``meta``.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from rlhf_lite.data.files.cells import Cell, Place
from rlhf_lite.data.files.columns import ANSWERS, Columns, may_be_question, require_prompt
from rlhf_lite.data.formatting import (
    ANSWER_MARKER,
    common_length,
    looks_like_transcript,
    parse_transcript,
    plain_text,
    prompt_turns,
    render_dialogue,
    split_transcript,
)
from rlhf_lite.errors import DataError
from rlhf_lite.types import Dialogue, Message, Preference

_SAME_PROMPT = "let chosen and rejected differ in the assistant's last turn only"
# Common characters of a script without blanks that are no chance: two answers to a question not taken apart.
_UNSPACED = 8
_COMPLETE = "complete the conversation, or take the row out"
Texts = tuple[str, str, str]
Form = Literal["explicit", "implicit", "question", "conversation", "transcript"]


class ReadRow(NamedTuple):
    """A preference, the form of its row, and what its columns were taken for."""

    preference: Preference
    form: Form
    columns: Columns


def read_row(row: Mapping[str, Any], place: Place, *, text_only: bool = False) -> ReadRow:
    """Validate a row and bring it into the one schema.

    Args:
        row: field name -> value.
        place: for errors.
        text_only: values come from a format without types (CSV), so numbers may be text.

    Raises:
        DataError: naming file, row, field, the value received and the fix.
    """
    columns = Columns(row, place)
    chosen, rejected = columns.answers()
    margin = columns.margin(text_only)
    prompt, opening = columns.prompt(chosen), columns.opening()
    form: Form = "explicit"
    dialogue = None
    if isinstance(chosen.value, list) or isinstance(rejected.value, list):
        form, (texts, dialogue) = "conversation", _from_messages(prompt, chosen, rejected, opening)
    elif all([looks_like_transcript(cell.answer()) for cell in (chosen, rejected)]):
        form, (texts, dialogue) = "transcript", _from_transcripts(prompt, chosen, rejected, opening)
    elif prompt is None:
        columns.refuse_questions()
        form, texts = "implicit", _from_answers(chosen, rejected, opening)
    elif isinstance(prompt.value, list) or opening or (
            columns.is_chat(prompt) and not looks_like_transcript(prompt.text())):
        form, (texts, dialogue) = "question", _from_question(prompt, chosen, rejected, opening)
    else:
        texts, dialogue = _from_texts(prompt, chosen, rejected)
    return ReadRow(Preference(*texts, margin, columns.meta(), dialogue), form, columns)


def prompt_from_row(row: Mapping[str, Any], place: Place) -> str | tuple[Message, ...]:
    """The prompt of a row, whose answers may be missing: a text, or the turns of a conversation.

    Raises:
        DataError: naming file, row, field, the value received and the fix.
    """
    require_prompt(row, place)
    columns = Columns(row, place)
    complete = any(all(name in columns for name in pair) for pair in ANSWERS)
    prompt, opening = columns.prompt(columns.answers()[0] if complete else None), columns.opening()
    if complete and (prompt is None or prompt.value is None):
        found = read_row(row, place)
        if found.form == "conversation" and found.preference.dialogue is not None:
            return found.preference.dialogue.prompt
        prompt, opening = Cell("prompt", found.preference.prompt, place), ()
    prompt = prompt or Cell("prompt", None, place)
    if isinstance(prompt.value, list) or opening:
        return _after(opening, _turns(prompt), prompt)
    return prompt.filled("is empty", "write a prompt or take the row out")


def _require_different(chosen: str, rejected: str, place: Place) -> None:
    if chosen.strip() == rejected.strip():
        fix = "take the row out: it says nothing about which is better"
        raise place.error("is identical to chosen", fix, field="rejected", value=rejected)


def _dialogue(prompt: tuple[Message, ...], chosen: str, rejected: str) -> Dialogue:
    return Dialogue(prompt, *(Message("assistant", text.strip()) for text in (chosen, rejected)))


# --- Texts -------------------------------------------------------------------


def _from_answers(chosen: Cell, rejected: Cell, opening: tuple[Message, ...]) -> Texts:
    """Two texts without a prompt: it is what both begin with."""
    if opening:
        raise chosen.place.error("has no prompt beside it", "add a column 'prompt'", field=opening[0].role)
    good, bad = chosen.value, rejected.value
    _require_different(good, bad, chosen.place)
    prompt = common_opening(good, bad)
    more = good[len(prompt) : common_length(good, bad)]
    if sum(unicodedata.east_asian_width(letter) in "WF" for letter in more) >= _UNSPACED:
        problem = "begins as the other answer does, without a blank that could end a prompt"
        fix = "add a column 'prompt' (empty where there is none)"
        raise chosen.error(problem, fix)
    return prompt, good[len(prompt) :], bad[len(prompt) :]


def _from_question(given: Cell, chosen: Cell, rejected: Cell,
                   opening: tuple[Message, ...]) -> tuple[Texts, Dialogue]:
    """Two texts as answers to a question or a conversation."""
    _require_different(chosen.value, rejected.value, chosen.place)
    dialogue = _dialogue(_after(opening, _turns(given), given), chosen.value, rejected.value)
    return render_dialogue(dialogue), dialogue


def _from_texts(given: Cell, chosen: Cell, rejected: Cell) -> tuple[Texts, Dialogue | None]:
    """Two texts that continue a third one."""
    good, bad = chosen.value, rejected.value
    _require_different(good, bad, chosen.place)
    prompt = given.text()
    if prompt and not prompt.strip():
        raise given.error("holds only white space", "write a prompt, or leave it empty")
    start = prompt.strip()
    if may_be_question(prompt) and good.lstrip().startswith(start) and bad.lstrip().startswith(start):
        fix = ("take it off both answers, or leave the prompt's column out; if answers must repeat it, call "
               "that column 'question'")
        problem = f"begins with the whole {given.name}, as the other answer does: it would be read twice"
        raise chosen.error(problem, fix)
    talk = prompt and looks_like_transcript(prompt) and prompt.rstrip().endswith(ANSWER_MARKER)
    return (prompt, good, bad), _dialogue(_turns(given), good, bad) if talk else None


def common_opening(chosen: str, rejected: str) -> str:
    """What two texts begin with, whole words only, such that something is left of each of them.

    The space after the opening belongs to the continuations.
    """
    # Behind the opening, both texts go on with white space and hold more than that.
    end = min(common_length(chosen, rejected), len(chosen.rstrip()) - 1, len(rejected.rstrip()) - 1)
    edge = " " if chosen[end].isspace() and rejected[end].isspace() else ""
    words = f"{chosen[:end]}{edge}|".rsplit(maxsplit=1)
    return words[0] if len(words) == 2 else ""


# --- Lists of turns ----------------------------------------------------------


def _from_messages(given: Cell | None, chosen: Cell, rejected: Cell,
                   opening: tuple[Message, ...]) -> tuple[Texts, Dialogue]:
    """Chosen and rejected as lists of turns: either whole conversations or the answers alone."""
    sides = []
    for cell in (chosen, rejected):
        if not isinstance(cell.value, list):
            problem = f"is of type {type(cell.value).__name__}, expected a list"
            raise cell.error(problem, "write both answers as text, or both as lists of turns")
        turns = cell.messages()
        if turns[-1].role != "assistant":
            last = Cell(cell.name, turns[-1].role, cell.place)
            raise last.error("does not end with the assistant", _SAME_PROMPT)
        sides.append(turns)
    (*prompt, good), (*other_prompt, bad) = sides
    if prompt != other_prompt:
        raise _prompts_differ(prompt, other_prompt, chosen.place)
    before = [] if given is None or given.value is None else list(_turns(given))
    if given is not None and before and prompt and before not in (prompt, prompt[-1:]):
        # A system turn may precede a prompt given as text; nothing else may differ.
        raise _prompts_differ(before, prompt, chosen.place, field=given.name)
    prompt = prompt or before
    if not prompt:
        fix = "add the user's turn to both lists, or a field 'prompt'"
        raise chosen.error("has no turn before the answer", fix)
    _require_different(good.content, bad.content, chosen.place)
    dialogue = Dialogue(_after(opening, tuple(prompt), chosen), good, bad)
    return render_dialogue(dialogue), dialogue


def _turns(given: Cell) -> tuple[Message, ...]:
    """A prompt as turns: a text is what the user says, or the transcript of a conversation."""
    if isinstance(given.value, list):
        return given.messages()
    try:
        return prompt_turns(given.filled("is empty", "write the prompt, or leave the field out"))
    except ValueError as error:
        raise given.error(str(error), _COMPLETE) from None


def _after(opening: tuple[Message, ...], turns: tuple[Message, ...], cell: Cell) -> tuple[Message, ...]:
    """The turns with the system turn of its own column before them, if they do not begin with it."""
    if turns[: len(opening)] == opening:
        return turns
    if turns[0].role == "system":
        raise cell.error("begins with another system turn than its column says", "take one of them out")
    return (*opening, *turns)


def _prompts_differ(one: Sequence[Message], other: Sequence[Message], place: Place,
                    field: str = "rejected") -> DataError:
    turn = common_length(one, other)
    received = other[turn].content if turn < len(other) else "no such turn"
    other_side = "chosen" if field == "rejected" else "the conversation in chosen"
    problem = f"has another prompt than {other_side}: turn {turn + 1} differs"
    return place.error(problem, _SAME_PROMPT, field=field, value=received)


# --- Transcripts -------------------------------------------------------------


def _from_transcripts(given: Cell | None, chosen: Cell, rejected: Cell,
                      opening: tuple[Message, ...]) -> tuple[Texts, Dialogue]:
    """Chosen and rejected as transcripts that part at the last answer."""
    parts = []
    for cell in (chosen, rejected):
        try:
            parse_transcript(cell.value)
            parts.append(split_transcript(cell.value))
        except ValueError as error:
            raise cell.error(str(error), _COMPLETE) from None
    (prompt, good), (other_prompt, bad) = parts
    turns = _turns_before_answer(prompt)
    if prompt != other_prompt:
        raise _prompts_differ(turns, _turns_before_answer(other_prompt), chosen.place)
    if given is not None and given.value is not None and given.text().strip() not in (
            prompt.strip(), turns[-1].content):
        problem = "is not what chosen and rejected begin with"
        raise given.error(problem, "leave the field out, or make them agree")
    if turns[: len(opening)] != opening:
        raise chosen.error(f"has no {opening[0].role} turn, which stands in a column of its own",
                           "write it into the transcripts as their first turn, and take the column out")
    _require_different(good, bad, chosen.place)
    return (prompt, good, bad), _dialogue(turns, good, bad)


def _turns_before_answer(prompt: str) -> tuple[Message, ...]:
    return parse_transcript(prompt[: prompt.rstrip().rfind("\n\n")])


def is_plain_rendering(preference: Preference) -> bool:
    """Whether the texts of a preference are what its messages give, so that the messages suffice."""
    texts = (preference.prompt, preference.chosen, preference.rejected)
    return preference.dialogue is not None and render_dialogue(preference.dialogue, plain_text) == texts
