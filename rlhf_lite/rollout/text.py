"""From tokens to text, piece by piece, and the strings that end a text."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

# What decoders write for bytes that are not (or not yet) a character, and how many of them one character
# that lacks its last byte can leave behind.
_BROKEN, _LONGEST = "\N{REPLACEMENT CHARACTER}", 3


def find_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in ``text``; None if there is none."""
    places = [place for place in map(text.find, stop) if place >= 0]
    return min(places, default=None)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` before the first stop string."""
    return text[: find_stop(text, stop)]


class TextStream:
    """The text of one continuation while its tokens arrive.

    A token may end within a character, or within a stop string. What :meth:`push` returns is final: together
    with :meth:`finish` the pieces are ``tokenizer.decode`` of all tokens (special tokens left out), cut
    before the first stop string.

    Args:
        tokenizer: decodes the tokens.
        stop: strings that end the text. They are looked for in the text, so that a token may hold the end of
            one and more, and several tokens may make up one. Special tokens have no text: give their ids as
            end tokens instead.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str] = ()) -> None:
        if isinstance(stop, str) or not all(stop):
            raise ValueError(f"stop must be a list of strings that are not empty, got {stop!r}")
        self.stopped = False
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._reach = max(map(len, self._stop), default=1) - 1  # a stop string may begin this far back
        # Tokens from here on are decoded again: those of the last complete piece, for the space before a word
        # depends on its left neighbour, and the new ones. `_done` characters of their text are known already.
        self._window: list[int] = []
        self._fresh, self._done = 0, 0
        self._tail = ""  # known text that may be the beginning of a stop string

    def push(self, token: int) -> str:
        """Take the next token; returns the text that is certain now, often nothing or more than a token's."""
        self._window.append(token)
        text = self._decode(self._window)
        whole = text.rstrip(_BROKEN)
        if broken := len(text) - len(whole):
            whole = text[: len(text) - min(broken, _LONGEST)]
        piece = whole[self._done :]
        self._done = max(self._done, len(whole))
        if not broken and piece:
            del self._window[: self._fresh]
            self._fresh, self._done = len(self._window), len(self._decode(self._window))
        return self._release(piece)

    def finish(self) -> str:
        """No more tokens: the text that was held back. Nothing after a stop string."""
        if self.stopped:
            return ""
        rest = self._release(self._decode(self._window)[self._done :])
        rest, self._tail = rest + ("" if self.stopped else self._tail), ""
        return rest

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def _release(self, piece: str) -> str:
        """Hold back what may become a stop string; end the text at a whole one."""
        text = self._tail + piece
        place = find_stop(text, self._stop)
        if place is not None:
            self.stopped, self._tail = True, ""
            return text[:place]
        begins = (n for n in range(min(self._reach, len(text)), 0, -1) if self._may_begin(text[-n:]))
        held = next(begins, 0)
        self._tail = text[len(text) - held :]
        return text[: len(text) - held]

    def _may_begin(self, end: str) -> bool:
        return any(stop.startswith(end) for stop in self._stop)
