"""Text from tokens, piece by piece: no half characters, and nothing of a stop string."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_models import byte_tokenizer

from rlhf_lite.rollout.sampler import TextStream, cut_at_stop, find_stop

BYTES = byte_tokenizer()
BROKEN = "\N{REPLACEMENT CHARACTER}"


def word_tokenizer() -> PreTrainedTokenizerFast:
    """In the manner of SentencePiece: a mark for the space before a word, and bytes for rare characters."""
    words = ["▁the", "▁cat", "s", "▁sat", "▁", "."]
    vocab = {word: i for i, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="."))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


WORDS = word_tokenizer()


def pieces(tokenizer, tokens, stop=()):
    """Pieces until the text is stopped, as the sampling loop makes them, and the tokens that were read."""
    stream, found = TextStream(tokenizer, stop), []
    for token in tokens:
        found.append(stream.push(token))
        if stream.stopped:
            break
    return [*found, stream.finish()], tokens[: len(found)]


def whole(tokenizer, tokens):
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def ids(text: str) -> list[int]:
    return BYTES(text, add_special_tokens=False)["input_ids"]


def test_a_character_comes_when_it_is_whole():
    found, _ = pieces(BYTES, ids("aé€😀!"))
    # 1, 2, 3 and 4 bytes; the last piece is what finish() adds
    assert found == ["a", "", "é", "", "", "€", "", "", "", "😀", "!", ""]


def test_bytes_that_are_no_character_are_not_lost():
    tokens = [*ids("a"), *ids("😀")[:3], *ids("b"), *ids("é")[1:] * 5, *ids("é")[:1]]
    found, _ = pieces(BYTES, tokens)
    assert "".join(found) == whole(BYTES, tokens)
    assert BROKEN in found[4]  # the b shows that the emoji will not be completed
    assert found[-1].endswith(BROKEN)  # only the end shows that the last character stays half


def test_a_real_replacement_character_passes():
    tokens = ids(f"x{BROKEN}y")
    assert "".join(pieces(BYTES, tokens)[0]) == f"x{BROKEN}y"


def test_special_tokens_have_no_text():
    tokens = [*ids("a"), BYTES.eos_token_id, *ids("b")]
    assert pieces(BYTES, tokens)[0] == ["a", "", "b", ""]


def test_spaces_before_words_survive():
    tokens = [0, 1, 2, 3, 5, 4, 0]  # ▁the ▁cat s ▁sat . ▁ ▁the
    found, _ = pieces(WORDS, tokens)
    assert found == ["the", " cat", "s", " sat", ".", " ", " the", ""]
    rare = [0, *(6 + byte for byte in "€".encode()), 1]
    assert pieces(WORDS, rare)[0] == ["the", "", "", "€", " cat", ""]


def test_a_stop_string_over_several_tokens():
    found, read = pieces(BYTES, ids("one\n\ntwo"), ["\n\n"])
    assert found == ["o", "n", "e", "", "", ""] and len(read) == 5
    found, read = pieces(WORDS, [0, 1, 2, 3], ["he cats"])
    assert found == ["t", "", "", ""] and len(read) == 3


def test_what_only_looked_like_a_stop_string_is_given_back():
    assert pieces(BYTES, ids("a<en><e"), ["<end>"])[0] == ["a", "", "", "", "<en>", "", "", "<e"]
    # "aab" begins anew inside "aaab"
    assert "".join(pieces(BYTES, ids("xaaaby"), ["aab"])[0]) == "xa"


def test_a_token_may_hold_the_stop_string_and_more():
    found, read = pieces(WORDS, [0, 1, 3], ["c"])
    assert found == ["the", " ", ""] and read == [0, 1]


def test_the_stop_string_that_begins_first_counts():
    assert find_stop("abcd", ["cd", "bc", "x"]) == 1 and find_stop("abcd", ["x"]) is None
    assert cut_at_stop("abcd", ["cd", "bc"]) == "a" and cut_at_stop("abcd", []) == "abcd"


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="ab\n é€😀", max_size=12).map(ids) | st.lists(st.integers(0, 256), max_size=12),
    st.lists(st.text(alphabet="ab\n é", min_size=1, max_size=3), max_size=2),
)
def test_the_pieces_are_the_text_before_the_first_stop(tokens, stop):
    tokens = [*tokens, *ids("b")]
    found, read = pieces(BYTES, tokens, stop)
    assert "".join(found) == cut_at_stop(whole(BYTES, read), stop)
    if len(read) < len(tokens):
        assert find_stop(whole(BYTES, read), stop) is not None
        assert find_stop(whole(BYTES, read[:-1]), stop) is None  # not a token too late
    for count in range(len(found)):  # what was given out is never taken back
        assert whole(BYTES, tokens).startswith("".join(found[: count + 1]).rstrip(BROKEN))


@pytest.mark.parametrize("stop", ["<end>", [""], ["a", ""]])
def test_wrong_stop_strings_are_an_error(stop):
    with pytest.raises(ValueError, match="list of strings that are not empty"):
        TextStream(BYTES, stop)
