"""Small talk in English and Korean, generated: greetings, arithmetic, and questions about what was said before."""

# ruff: noqa: SIM905 - lists of many words are easier to read as one text

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rnnlab.tasks.text._exchange import Exchange

CONVERSATIONS = 12_000
"""Number of conversations, over all languages."""
LONGEST_CONVERSATION = 3
"""Largest number of exchanges of a conversation."""
LARGEST_NUMBER = 9
"""Largest number of an addition or subtraction."""


@dataclass(frozen=True)
class _Language:
    """The sentences of a language.

    fixed: an answer, and the utterances that it answers.
    names, towns: names and homes of speakers.
    tell, ask: for ``name`` and ``town``: the statements, their answer; the questions, their answer, and the answer if
        the speaker has not said it.
    sums: for "+" and "-": the questions, and their answer.
    """

    fixed: dict[str, tuple[str, ...]]
    names: list[str]
    towns: list[str]
    tell: dict[str, tuple[tuple[str, ...], str]]
    ask: dict[str, tuple[tuple[str, ...], str, str]]
    sums: dict[str, tuple[tuple[str, ...], str]]


_ENGLISH_NAMES = (
    "Ada Alan Alice Anna Ben Bob Clara Claude Dana David Edith Emma Emmy Eric Erik Felix Flora Frank Frida Grace Greta "
    "Hana Hannah Harry Helen Henry Ida Ivan Jack Jane Jonas Julia Karl Kate Kim Laura Leo Lina Louis Lucy Maria Mark "
    "Mary Max Mia Nina Noah Nora Olga Oscar Paul Peter Rosa Ruth Sam Sara Simon Sofia Tom Vera Victor Yuri Yuna Zoe"
).split()
_ENGLISH_TOWNS = (
    "Athens Berlin Bonn Boston Busan Cairo Daegu Delhi Dublin Geneva Hanoi Jeju Lima Lisbon London Lyon Madrid Milan "
    "Moscow Nairobi Oslo Paris Porto Prague Quito Riga Rome Seoul Tokyo Turin Vienna Warsaw Zurich"
).split()
_SYLLABLES = "가나다미민서소수아연영우유윤은지진하현호"
_KOREAN_NAMES = [first + second for first in _SYLLABLES for second in _SYLLABLES if first != second]
_KOREAN_TOWNS = (
    "강릉 경주 광주 대구 대전 부산 서울 수원 순천 안동 양양 여수 울산 원주 인천 전주 제주 진주 청주 춘천 포항"
).split()
_ENGLISH = _Language(
    fixed={
        "Hello!": ("Hello!", "Hello there!", "Hey!"),
        "Hi!": ("Hi!", "Hi there!"),
        "Good morning!": ("Good morning!", "Morning!"),
        "Good evening!": ("Good evening!",),
        "I am fine, thank you.": ("How are you?", "How are you doing?", "How do you do?"),
        "I am a small recurrent network.": ("Who are you?", "What are you?", "What is your name?"),
        "You are welcome.": ("Thank you.", "Thanks!", "Thanks a lot!"),
        "Goodbye!": ("Bye!", "Goodbye!", "See you!"),
    },
    names=_ENGLISH_NAMES,
    towns=_ENGLISH_TOWNS,
    tell={
        "name": (("My name is {}.", "I am {}.", "Call me {}."), "Nice to meet you, {}."),
        "town": (("I live in {}.", "My home is in {}."), "{} is a nice place."),
    },
    ask={
        "name": (
            ("What is my name?", "Who am I?", "Do you remember my name?"),
            "Your name is {}.",
            "You have not told me your name.",
        ),
        "town": (
            ("Where do I live?", "Where is my home?"),
            "You live in {}.",
            "You have not told me where you live.",
        ),
    },
    sums={
        "+": (("What is {} plus {}?", "How much is {} plus {}?", "{} plus {}?"), "{} plus {} is {}."),
        "-": (("What is {} minus {}?", "How much is {} minus {}?", "{} minus {}?"), "{} minus {} is {}."),
    },
)
_KOREAN = _Language(
    fixed={
        "안녕!": ("안녕!", "안녕?"),
        "안녕하세요!": ("안녕하세요!", "안녕하세요.", "안녕하십니까?"),
        "저도 반가워요.": ("반가워요.", "반갑습니다.", "만나서 반가워요."),
        "좋은 아침이에요!": ("좋은 아침이에요!", "좋은 아침입니다."),
        "저는 잘 지내요. 고마워요.": ("잘 지내요?", "어떻게 지내세요?", "기분이 어때요?"),
        "저는 작은 순환 신경망이에요.": ("누구세요?", "이름이 뭐예요?", "당신은 누구예요?"),
        "천만에요.": ("고마워요.", "감사합니다.", "정말 고마워요."),
        "안녕히 가세요!": ("안녕히 계세요.", "잘 가요.", "다음에 또 만나요."),
    },
    names=_KOREAN_NAMES,
    towns=_KOREAN_TOWNS,
    tell={
        "name": (
            ("제 이름은 {}입니다.", "저는 {}입니다.", "저를 {} 님이라고 불러 주세요."),
            "반가워요, {} 님.",
        ),
        "town": (("저는 {}에 살아요.", "제 집은 {}에 있어요."), "{}에 사시는군요."),
    },
    ask={
        "name": (
            ("제 이름이 뭐예요?", "저는 누구예요?", "제 이름을 기억해요?"),
            "{} 님이에요.",
            "아직 이름을 말하지 않았어요.",
        ),
        "town": (("저는 어디에 살아요?", "제 집이 어디예요?"), "{}에 살아요.", "아직 사는 곳을 말하지 않았어요."),
    },
    sums={
        "+": (("{} 더하기 {}의 답이 뭐예요?", "{} 더하기 {}?"), "{} 더하기 {}의 답은 {}입니다."),
        "-": (("{} 빼기 {}의 답이 뭐예요?", "{} 빼기 {}?"), "{} 빼기 {}의 답은 {}입니다."),
    },
)
LANGUAGES = {"english": _ENGLISH, "korean": _KOREAN}


def small_talk(languages: Sequence[str]) -> list[Exchange]:
    """The exchanges of all conversations; each conversation is in one of ``languages``."""
    numbers = random.Random(0)

    def pick(choices: Sequence[Any]) -> Any:
        # `random` is the method whose numbers no version of Python changes.
        return choices[int(numbers.random() * len(choices))]

    found: list[Exchange] = []
    for number in range(CONVERSATIONS):
        found += _converse(LANGUAGES[languages[number % len(languages)]], pick)
    return found


def _converse(language: _Language, pick: Callable[[Sequence[Any]], Any]) -> list[Exchange]:
    """The exchanges of a conversation of one to `LONGEST_CONVERSATION` exchanges."""
    told: dict[str, str] = {}
    utterances: list[str] = []
    found = []
    lengths = range(1, LONGEST_CONVERSATION + 1)
    length = max(pick(lengths), pick(lengths))  # longer conversations are more frequent
    for place in range(length):
        kinds = ["fixed", "sum", "sum", "tell", "ask"]
        if place == 0:
            kinds += ["tell"] * 8
        elif told and place == length - 1:
            kinds += ["ask"] * 8
        kind = pick(kinds)
        recalls = False
        if kind == "fixed":
            reply = pick(list(language.fixed))
            said = pick(language.fixed[reply])
        elif kind == "sum":
            said, reply = _sum(language, pick)
        else:
            topic = pick(("name", "town"))
            if kind == "tell":
                told[topic] = pick(language.names if topic == "name" else language.towns)
                statements, answer = language.tell[topic]
                said, reply = pick(statements).format(told[topic]), answer.format(told[topic])
            else:
                questions, answer, unknown = language.ask[topic]
                said, recalls = pick(questions), topic in told
                reply = answer.format(told[topic]) if recalls else unknown
        utterances.append(pick((said, said, said.rstrip(".!?"))))
        found.append(Exchange(tuple(utterances), reply, recalls, is_fixed=place == 0 and kind in ("fixed", "ask")))
        utterances.append(reply)
    return found


def _sum(language: _Language, pick: Callable[[Sequence[Any]], Any]) -> tuple[str, str]:
    """A question about an addition or subtraction without a negative result, and its answer."""
    sign = pick(list(language.sums))
    first = pick(range(LARGEST_NUMBER + 1))
    second = pick(range(LARGEST_NUMBER + 1 if sign == "+" else first + 1))
    questions, answer = language.sums[sign]
    result = first + second if sign == "+" else first - second
    return pick(questions).format(first, second), answer.format(first, second, result)
