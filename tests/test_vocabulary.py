"""Texts become tokens and texts again, by character, word and byte pair."""

import json
import re
import subprocess
import sys
import unicodedata
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rnnlab.interface import InputError
from rnnlab.vocabulary import END, FIRST, START, UNKNOWN, learn, restored, tidy, words

KINDS = ("character", "word", "bpe")
TEXTS = {
    "English": "I can't believe it's 3.14! (Really?) state-of-the-art, e-mail: a_b@c.org",
    "French": "Où êtes-vous allé, « ma chère » ? L’été, c'était à l'œuvre : 1 000 €.",
    "Korean": "안녕하세요, 저는 학생입니다. 오늘은 날씨가 참 좋네요!",
    "German": "Straßenbahnhaltestelle, „Größe“ – übermäßig viele Füße; ẞ.",
    "emoji": "party 🎉👩‍👩‍👧‍👦 flag 🇰🇷 thumbs 👍🏽 heart ❤️",
    "combining": "x̂ = ŷ, क्षि, ก็, Z̷a̷l̷g̷o̷, \u1112\u1161\u11ab\u1100\u1173\u11af, e\u0301te\u0301",
    "Windows": "first line\r\nsecond\tline\r\n\r\n  third\u00a0line\r\n",
    "odd": "\ufeffmark \u200b zero \x00 nul \x7f \U0010ffff Ġ <s> </s> <unk> ##",
}


def plain(text):
    """What a round trip gives: composed characters, and one space for every run of white space."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip(" ")


def characters(alphabet=None):
    return st.text(alphabet or st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def bpe():
    """Byte pairs learned from the texts above, which most other texts do not resemble."""
    return learn("bpe", [*TEXTS.values()] * 3, 400, 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("language", TEXTS)
def test_a_text_comes_back(kind, language):
    text = TEXTS[language]
    vocabulary = learn(kind, [text], 1000)
    tokens = vocabulary.encode(text)
    assert UNKNOWN not in tokens
    assert FIRST <= min(tokens) <= max(tokens) < len(vocabulary)
    assert vocabulary.decode(tokens) == plain(text)
    assert vocabulary.decode([START, *tokens[:1], UNKNOWN, *tokens[1:], END, END]) == plain(text)


@settings(deadline=None, derandomize=True)
@given(characters())
def test_any_text_comes_back(text):
    for kind in ("character", "word"):
        if plain(text):
            vocabulary = learn(kind, [text])
            assert vocabulary.decode(vocabulary.encode(text)) == plain(text)
        else:
            with pytest.raises(InputError, match="the vocabulary is empty"):
                learn(kind, [text])


@settings(deadline=None, derandomize=True)
@given(characters() | characters("é가한ᄒ ️‍👩🎉a'.\r\n\t\u0301\u00a0"))
def test_byte_pairs_have_no_unknown_text(bpe, text):
    tokens = bpe.encode(text)
    assert all(FIRST <= token < len(bpe) for token in tokens)
    assert bpe.decode(tokens) == plain(text)


@settings(deadline=None, derandomize=True)
@given(characters())
def test_words_are_the_text(text):
    assert "".join(words(text)) == (" " + plain(text) if plain(text) else "")
    assert tidy(text) == plain(text) == tidy(tidy(text))


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("I'm here.", [" I", "'", "m", " here", "."]),
        ("", []),
        (" \r\n ", []),
        ("Où ?\r\nLà!", [" Où", " ?", " Là", "!"]),
        ("a_b 3.14", [" a_b", " 3", ".", "14"]),
        ("e\u0301t\u00e9", [" été"]),
        ("\u1112\u1161\u11ab글 날씨가", [" 한글", " 날씨가"]),
        ("¿Qué? 🎉🎉", [" ¿", "Qué", "?", " 🎉", "🎉"]),
        ("x\u0302 + क्षि", [" x\u0302", " +", " क्षि"]),  # marks without a composed form belong to their word
        ("👍🏽 👩\u200d👧", [" 👍🏽", " 👩\u200d👧"]),  # and so do the parts of one picture
        ("می\u200cخواهم ❤\ufe0f!ok", [" می\u200cخواهم", " ❤\ufe0f", "!", "ok"]),
        ("❤\ufe0fok x\u0302y", [" ❤\ufe0f", "ok", " x\u0302y"]),
    ],
)
def test_words_are_those_a_reader_counts(text, pieces):
    assert words(text) == pieces


def test_the_most_frequent_pieces_are_kept():
    texts = ["the cat, the dog", "the cat: a bird", "a cat and the end", "the the"]
    counted = Counter(" ".join(texts).replace(",", " ,").replace(":", " :").split())
    for size in range(1, 10):
        for least in (1, 2, 3):
            vocabulary = learn("word", texts, size, least)
            kept = {text for text in counted if UNKNOWN not in vocabulary.encode("x " + text)[1:]}
            dropped = counted.keys() - kept - {",", ":"}  # the marks follow a word, without a space
            kept -= {",", ":"}
            assert all(counted[text] >= least for text in kept)
            assert min((counted[text] for text in kept), default=9) >= max(
                (counted[text] for text in dropped if counted[text] >= least), default=0
            )
            assert len(vocabulary) <= FIRST + size
    assert len(learn("word", texts, 1000, 2)) == FIRST + 3  # the 6, cat 3, a 2


def test_the_order_of_the_texts_does_not_matter():
    texts = [f"{a} {b} {a}{b}" for a in "xyz" for b in ("one", "two", "été")]
    for kind in KINDS:
        assert learn(kind, texts, 280).memory() == learn(kind, texts[::-1], 280).memory()


def test_characters_are_counted():
    vocabulary = learn("character", ["aab", "abc"], 3, 1)
    assert vocabulary.memory()["pieces"] == ["a", "b", "c"]
    assert vocabulary.encode("cabé") == [FIRST + 2, FIRST, FIRST + 1, UNKNOWN]
    assert len(learn("character", ["aab", "abc"], 3, 2)) == FIRST + 2


def test_unknown_words_stand_for_nothing():
    vocabulary = learn("word", ["a cat and a dog"])
    tokens = vocabulary.encode("A cat and a bird, a dog")
    assert [token == UNKNOWN for token in tokens] == [True, False, False, False, True, True, False, False]
    assert vocabulary.decode(tokens) == "cat and a a dog"
    assert vocabulary.encode("cat") == vocabulary.encode(" cat\n")  # also in the first place of a text
    assert vocabulary.encode("") == []
    assert vocabulary.decode([]) == vocabulary.decode([START, END, UNKNOWN]) == ""


@pytest.mark.parametrize(
    "text",
    ["low " * 5 + "lower " * 2 + "newest " * 6 + "widest " * 3, TEXTS["French"] * 2, TEXTS["Korean"] * 2],
    ids=["paper", "French", "Korean"],
)
def test_byte_pairs_merge_the_most_frequent_pair(text):
    """A plain transcription of Sennrich, Haddow and Birch (2016), figure 1: count pairs, merge the most frequent."""
    learned = json.loads(learn("bpe", [text], 275, 2).memory()["tokenizer"])["model"]
    vocabulary = {tuple(bytes([byte]) for byte in piece.encode()): count for piece, count in _pieces(text).items()}
    for merge in learned["merges"]:
        left, right = (_bytes(part) for part in merge)
        pairs = _pairs(vocabulary)
        assert pairs[left, right] == max(pairs.values()) >= 2
        vocabulary = {_merged(piece, left, right): count for piece, count in vocabulary.items()}
    assert len(learned["merges"]) == 275 - 256 or max(_pairs(vocabulary).values(), default=0) < 2


def _pieces(text):
    """How often each word or run of marks occurs, with the space before it; enough for texts without odd marks."""
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?[^\W\d_]+| ?\d+| ?[^\s\w]+"
    return Counter(re.findall(pattern, " " + plain(text)))


def _pairs(vocabulary):
    pairs = Counter()
    for piece, count in vocabulary.items():
        for pair in pairwise(piece):
            pairs[pair] += count
    return pairs


def _merged(piece, left, right):
    merged, place = [], 0
    while place < len(piece):
        if piece[place : place + 2] == (left, right):
            merged.append(left + right)
            place += 2
        else:
            merged.append(piece[place])
            place += 1
    return tuple(merged)


def _bytes(text):
    """The bytes of a piece: GPT-2 writes a printable byte as its character, the others from U+0100 upwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
    return bytes(table[character] for character in text)


def test_the_size_of_byte_pairs():
    texts = [*TEXTS.values()] * 2
    assert len(learn("bpe", texts, 256)) == FIRST + 256
    assert len(learn("bpe", texts, 300)) == FIRST + 300
    assert len(learn("bpe", texts, 100_000, 10**6)) == FIRST + 256
    with pytest.raises(InputError, match=r"task\.vocabulary_size=255 .* at least 256"):
        learn("bpe", texts, 255)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_travels_with_a_model(kind):
    texts = list(TEXTS.values())
    vocabulary = learn(kind, texts, 300)
    memory = json.loads(json.dumps(vocabulary.memory()))  # plain containers
    elsewhere = restored(memory)
    assert len(elsewhere) == len(vocabulary)
    assert elsewhere.memory() == vocabulary.memory()
    for text in [*texts, "naïve unseen words 학생"]:
        tokens = vocabulary.encode(text)
        assert elsewhere.encode(text) == tokens
        assert elsewhere.decode(tokens) == vocabulary.decode(tokens)
        assert elsewhere.spell(tokens) == vocabulary.spell(tokens)


def test_every_token_has_a_label():
    vocabulary = learn("character", ["a b"])
    assert vocabulary.spell([START, *vocabulary.encode("a b?"), END]) == ["<s>", "a", "␣", "b", "<unk>", "</s>"]
    assert learn("word", ["I'm here."]).spell(learn("word", ["I'm here."]).encode("I'm")) == ["I", "'", "m"]
    byte_pairs = learn("bpe", ["le le le"], 258)
    assert byte_pairs.spell(byte_pairs.encode("le e")) == ["le", "␣", "e"]


def test_learning_is_the_same_in_another_process():
    """Byte pairs are counted in hash tables by several threads."""
    code = (
        "import sys, json; from rnnlab.vocabulary import learn; "
        "print(json.dumps(learn('bpe', json.loads(sys.argv[1]), 500).memory()))"
    )
    texts = [f"{word}{number % 7} {word[::-1]}" for number in range(200) for word in ("alpha", "beta", "gamma")]
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(texts)], capture_output=True, text=True, timeout=60, check=True
    )
    assert json.loads(done.stdout) == learn("bpe", texts, 500).memory()


def test_bytes_that_are_not_text_are_replaced(bpe):
    text = b"caf\xe9 ok".decode("utf-8", "surrogateescape")  # an argument of a command in Latin-1
    assert tidy(text) == bpe.decode(bpe.encode(text)) == "caf\ufffd ok"


def test_what_is_wrong_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"task\.vocabulary='subword' is not one of character, word, bpe"):
        learn("subword", ["a"])
    with pytest.raises(InputError, match=r"the vocabulary is empty; give more text, or lower task\.min_count"):
        learn("word", ["a b c"], 10, 2)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(InputError, match=r"needs the package tokenizers, .* pip install 'rnnlab\[text\]'"):
        learn("bpe", ["a"])
