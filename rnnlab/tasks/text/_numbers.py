"""Number words in English, French, German and Korean."""

# ruff: noqa: SIM905 - lists of twenty words are easier to read as one text

from __future__ import annotations

from collections.abc import Callable

LARGEST = 999_999

_ENGLISH = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
_ENGLISH_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_FRENCH = (
    "zéro un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize dix-sept dix-huit "
    "dix-neuf"
).split()
_FRENCH_TENS = "vingt trente quarante cinquante soixante soixante quatre-vingt quatre-vingt".split()
_GERMAN = (
    "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf dreizehn vierzehn fünfzehn sechzehn siebzehn "
    "achtzehn neunzehn"
).split()
_GERMAN_TENS = "zwanzig dreißig vierzig fünfzig sechzig siebzig achtzig neunzig".split()
_KOREAN = "영일이삼사오육칠팔구"
_KOREAN_UNITS = ("", "십", "백", "천")


def english(number: int) -> str:
    """British English: 1,234 is "one thousand two hundred and thirty-four"."""
    if number < 20:
        return _ENGLISH[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        return _ENGLISH_TENS[tens - 2] + (f"-{_ENGLISH[rest]}" if rest else "")
    if number < 1000:
        hundreds, rest = divmod(number, 100)
        return f"{_ENGLISH[hundreds]} hundred" + (f" and {english(rest)}" if rest else "")
    thousands, rest = divmod(number, 1000)
    joined = " and " if 0 < rest < 100 else " "
    return f"{english(thousands)} thousand" + (f"{joined}{english(rest)}" if rest else "")


def french(number: int) -> str:
    """French of France, traditional spelling: 371 is "trois cent soixante et onze"."""
    return _french(number, is_last=True)


def _french(number: int, is_last: bool) -> str:
    """``is_last``: nothing follows, so that "vingt" and "cent" take their plural s."""
    if number < 20:
        return _FRENCH[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        name = _FRENCH_TENS[tens - 2]
        if tens in (7, 9):
            rest += 10
        if not rest:
            return name + ("s" if tens == 8 and is_last else "")
        return f"{name} et {_FRENCH[rest]}" if rest in (1, 11) and tens < 8 else f"{name}-{_FRENCH[rest]}"
    size, name = (1000, "mille") if number >= 1000 else (100, "cent")
    count, rest = divmod(number, size)
    first = name if count == 1 else f"{_french(count, is_last=False)} {name}"
    if rest:
        return f"{first} {_french(rest, is_last)}"
    return first + ("s" if size == 100 and count > 1 and is_last else "")


def german(number: int) -> str:
    """German, in one word: 1,221 is "eintausendzweihunderteinundzwanzig"."""
    if number < 20:
        return _GERMAN[number]
    if number < 100:
        tens, rest = divmod(number, 10)
        ones = "ein" if rest == 1 else _GERMAN[rest]
        return (f"{ones}und" if rest else "") + _GERMAN_TENS[tens - 2]
    size, name = (1000, "tausend") if number >= 1000 else (100, "hundert")
    count, rest = divmod(number, size)
    words = german(count)
    words = words.removesuffix("s") if words.endswith("eins") else words
    return f"{words}{name}" + (german(rest) if rest else "")


def korean(number: int) -> str:
    """Sino-Korean, with a space after 만 (10,000): 21,300 is "이만 천삼백"."""
    if number == 0:
        return _KOREAN[0]
    high, low = divmod(number, 10_000)
    parts = [("" if high == 1 else _korean(high)) + "만"] if high else []
    return " ".join([*parts, _korean(low)] if low else parts)


def _korean(number: int) -> str:
    """A number below 10,000; 일 is not said before a unit."""
    digits = [(int(digit), unit) for digit, unit in zip(reversed(str(number)), _KOREAN_UNITS, strict=False)]
    said = ("" if digit == 1 and unit else _KOREAN[digit] for digit, unit in reversed(digits) if digit)
    units = (unit for digit, unit in reversed(digits) if digit)
    return "".join(word + unit for word, unit in zip(said, units, strict=True))


LANGUAGES: dict[str, Callable[[int], str]] = {"en": english, "fr": french, "de": german, "ko": korean}
