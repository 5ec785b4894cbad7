"""Conversation: the three corpora, their splits, and the scores of dialogue acts."""

import json
import re
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score
from sklearn.preprocessing import MultiLabelBinarizer

from rnnlab.contracts import check_task
from rnnlab.interface import InputError
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.tasks.text import _chatterbot
from rnnlab.tasks.text._simulated import Act, dialogues, parse, score_acts, spaced, spelled
from rnnlab.tasks.text.conversation import SEPARATOR, Conversation, joined
from rnnlab.vocabulary import learn

SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def task():
    return Conversation()


def oracle(source):
    """The reply of English small talk, from its documentation: what a reader of the templates would answer."""
    *before, last = source.split(" | ")
    said = [*before[::2], last]
    names = [match[1] for line in said if (match := re.match(r"(?:my name is|i am|call me) (\w+)", line))]
    towns = [match[1] for line in said if (match := re.match(r"(?:i live in|my home is in) (\w+)", line))]
    if match := re.search(r"(\d+) (plus|minus) (\d+)", last):
        first, sign, second = int(match[1]), match[2], int(match[3])
        return f"{first} {sign} {second} is {first + second if sign == 'plus' else first - second}."
    if re.match(r"my name is|i am|call me", last):
        return f"Nice to meet you, {names[-1].title()}."
    if re.match(r"i live in|my home is in", last):
        return f"{towns[-1].title()} is a nice place."
    if last.rstrip("?") in ("what is my name", "who am i", "do you remember my name"):
        return f"Your name is {names[-1].title()}." if names else "You have not told me your name."
    if last.rstrip("?") in ("where do i live", "where is my home"):
        return f"You live in {towns[-1].title()}." if towns else "You have not told me where you live."
    return None


def test_small_talk_replies_what_an_independent_reader_replies(task):
    answered = 0
    for split in SPLITS:
        for exchange, (source, target) in zip(task.exchanges[split], task.pairs[split], strict=True):
            if re.search("[가-힣]", source):
                assert re.search("[가-힣]", target), "greeted in Korean, it answers in Korean"
                continue
            assert not re.search("[가-힣]", target)
            expected = oracle(source)
            assert expected in (None, target)
            answered += expected is not None
            earlier = " ".join(source.split(SEPARATOR)[:-1])
            if exchange.recalls:
                assert target.split()[-1].rstrip(".").lower() in earlier
    assert answered > 5000


def test_korean_sums_are_right_and_korean_recall_is_of_the_last_name(task):
    sums = recalled = 0
    for split in SPLITS:
        for exchange, (source, target) in zip(task.exchanges[split], task.pairs[split], strict=True):
            if match := re.fullmatch(r"(\d+) (더하기|빼기) (\d+)의 답은 (\d+)입니다\.", target):
                first, second, result = int(match[1]), int(match[3]), int(match[4])
                assert result == (first + second if match[2] == "더하기" else first - second)
                assert source.split(" | ")[-1].startswith(f"{first} {match[2]} {second}")
                sums += 1
            if exchange.recalls and (match := re.fullmatch(r"(\w+) 님이에요\.", target)):
                names = re.findall(r"(?:제 이름은|저는) (\w+)입니다|저를 (\w+) 님이라고", source)
                assert "".join(names[-1]) == match[1]
                recalled += 1
    assert sums > 500
    assert recalled > 500


def test_no_source_is_in_two_splits_and_greetings_are_in_training(task):
    sources = {split: {pair.source for pair in task.pairs[split]} for split in SPLITS}
    assert not sources["train"] & sources["valid"]
    assert not sources["train"] & sources["test"]
    assert not sources["valid"] & sources["test"]
    assert [len(task.pairs[split]) for split in ("valid", "test")] == [500, 500]
    assert {"hello!", "hello", "안녕", "안녕!", "안녕하세요", "안녕하세요."} <= sources["train"]
    assert sum(exchange.recalls for exchange in task.exchanges["test"]) >= 50


def test_fewer_turns_leave_the_replies_and_the_splits_unchanged(task):
    short = Conversation(turns=1)
    for split in SPLITS:
        assert [pair.target for pair in short.pairs[split]] == [pair.target for pair in task.pairs[split]]
        expected = [pair.source.split(" | ")[-1] for pair in task.pairs[split]]
        assert [pair.source for pair in short.pairs[split]] == expected


@pytest.mark.parametrize("kind", ["character", "word", "bpe"])
def test_the_separator_survives_every_vocabulary(task, kind):
    sources = [pair.source for pair in task.pairs["train"][:2000]]
    vocabulary = learn(kind, sources)
    longest = max(sources, key=len)
    assert longest.count(SEPARATOR) == 4
    assert vocabulary.decode(vocabulary.encode(longest)) == longest


def test_a_separator_within_an_utterance_is_removed():
    assert joined(["A|B", "c"], 5).count("|") == 1


def test_the_scores_of_replies_are_those_of_a_count_by_hand(task):
    replies = [pair.target for pair in task.pairs["test"]]
    recalls = [place for place, exchange in enumerate(task.exchanges["test"]) if exchange.recalls]
    texts = list(replies)
    texts[recalls[0]] = texts[recalls[1]] = "?"
    written = [task.vocabularies[1].encode(text) for text in texts]
    found = task.judge("test", [torch.tensor(tokens) for tokens in written])
    assert found["exact"] == pytest.approx(498 / 500)
    assert found["recall"] == pytest.approx(1 - 2 / len(recalls))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"vocabulary": "word"}, {"eval_size": 0, "languages": ["korean"]}])
def test_it_keeps_the_contract(options):
    check_task("conversation", model=EncoderDecoder, **options)


def test_without_a_validation_set_everything_is_in_training(task):
    whole = Conversation(eval_size=0)
    assert (whole.splits, whole.monitor, set(whole.metrics)) == (("train",), "loss", {"loss"})
    assert set(whole.pairs["train"]) == {pair for pairs in task.pairs.values() for pair in pairs}
    assert len(whole.examples()) == 5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"corpus": "movies"}, "task.corpus='movies' is not one of small_talk, chatterbot, simulated"),
        ({"languages": ["english", "klingon"]}, "the corpus small_talk has english, korean"),
        ({"languages": []}, "must be different languages"),
        ({"turns": 0}, "task.turns=0 must be at least 1"),
        ({"max_length": -1}, "task.max_length=-1 must be at least 0"),
        ({"eval_size": -1}, "task.eval_size=-1 must be at least 0"),
        ({"corpus": "simulated", "eval_size": 9}, "the corpus simulated has its own splits; omit task.eval_size"),
    ],
)
def test_a_wrong_option_is_refused(options, says):
    with pytest.raises(InputError, match=re.escape(says)):
        Conversation(**options)


def test_too_large_a_validation_set_is_refused():
    with pytest.raises(InputError, match=r"too few for a validation and a test set of 20000 each.*task\.eval_size"):
        Conversation(eval_size=20_000).pairs  # noqa: B018


BROKEN = """\
categories:
- toy
conversations:
- - Hi
  - Hello there
  - How are   you?
- - alone
- - 3
  - three
- text
- - Bye
  - ''
- - 안녕
  - 안녕하세요
"""


def test_chatterbot_reads_longer_conversations_and_counts_broken_entries(tmp_path):
    (tmp_path / "toy.yml").write_text(BROKEN, encoding="utf-8")
    (tmp_path / "bad.yml").write_text("conversations: [", encoding="utf-8")
    (tmp_path / "odd.yml").write_text("- 1\n", encoding="utf-8")
    found, broken = _chatterbot.read_file(tmp_path / "toy.yml")
    assert [(exchange.history, exchange.reply) for exchange in found] == [
        (("Hi",), "Hello there"),
        (("Hi", "Hello there"), "How are you?"),
        (("안녕",), "안녕하세요"),
    ]
    assert broken == 4
    assert [_chatterbot.read_file(tmp_path / name) for name in ("bad.yml", "odd.yml")] == [([], 1), ([], 1)]


def test_chatterbot_without_the_package_says_what_to_install(monkeypatch):
    monkeypatch.setattr(_chatterbot, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs the package chatterbot-corpus.*pip install 'rnnlab\[text\]'"):
        Conversation(corpus="chatterbot").pairs  # noqa: B018


def test_chatterbot_has_the_lines_of_the_package():
    package = pytest.importorskip("chatterbot_corpus")
    task = Conversation(corpus="chatterbot", max_length=0)
    pairs = set(task.pairs["train"])
    lines = (Path(package.__file__).parent / "data/korean/greetings.yml").read_text(encoding="utf-8").splitlines()
    first = lines.index("conversations:") + 1
    entries = "\n".join(lines[first:]).split("- - ")[1:]  # a reading of the file that knows no YAML
    plain = [[line.strip().removeprefix("- ") for line in entry.strip().splitlines()] for entry in entries]
    assert len(plain) > 10
    for entry in plain:
        assert (entry[0], entry[1]) in pairs
    assert len(pairs) == len(task.pairs["train"]), "the corpus repeats some conversations a hundred times"
    assert any("broken entries" in line for line in task.describe())
    with pytest.raises(InputError, match=r"the corpus chatterbot has .*english.*korean"):
        Conversation(corpus="chatterbot", languages=["klingon"]).pairs  # noqa: B018


def test_chatterbot_may_hold_out_sources():
    pytest.importorskip("chatterbot_corpus")
    task = Conversation(corpus="chatterbot", eval_size=100)
    sources = {split: {pair.source for pair in task.pairs[split]} for split in SPLITS}
    assert len(sources["valid"]) == len(sources["test"]) == 100
    assert not sources["valid"] & sources["test"]
    assert not sources["train"] & (sources["valid"] | sources["test"])


DIALOGUE = [
    {
        "turns": [
            {"user_utterance": {"text": "two tickets for friday"}},
            {
                "system_acts": [
                    {"type": "REQUEST", "slot": "time"},
                    {"type": "CONFIRM", "slot": "date", "value": "friday"},
                ],
                "system_utterance": {"text": "friday ? at what time ?"},
                "user_utterance": {"text": "6:00 pm"},
            },
            {
                "system_acts": [{"type": "NOTIFY_FAILURE"}],
                "system_utterance": {"text": "sorry ."},
                "user_utterance": {"text": "bye"},
            },
        ]
    }
]


def test_simulated_dialogues_become_acts_and_replies():
    found = [(exchange.history, exchange.reply) for exchange in dialogues(json.loads(json.dumps(DIALOGUE)))]
    assert found == [
        (("two tickets for friday",), "CONFIRM(date=friday) REQUEST(time) || friday ? at what time ?"),
        (("two tickets for friday", "friday ? at what time ?", "6:00 pm"), "NOTIFY_FAILURE || sorry ."),
    ]


def test_scores_of_acts_by_hand():
    references = ["CONFIRM(date=friday) REQUEST(time) || a", "NOTIFY_FAILURE || b", "REQUEST(movie) || c"]
    written = ["CONFIRM(date=monday) REQUEST(time) || a", "NOTIFY_FAILURE NOTIFY_FAILURE || b", "nothing || c"]
    found = score_acts(written, references)
    # kinds: 2 + 1 right of 5 written (CONFIRM, REQUEST, 2 NOTIFY_FAILURE, nothing) and 4 wanted
    assert found["act_f1"] == pytest.approx(2 * 3 / (5 + 4))
    assert found["slot_f1"] == pytest.approx(2 * 1 / (2 + 3))  # REQUEST(time)
    assert found["joint"] == 0
    assert score_acts(references, references) == {"act_f1": 1, "slot_f1": 1, "joint": 1}
    assert score_acts(["", "", ""], references) == {"act_f1": 0, "slot_f1": 0, "joint": 0}


def test_scores_of_acts_are_those_of_scikit_learn_on_the_data(data_root):
    task = Conversation(data_root=data_root, corpus="simulated", vocabulary="word")
    references = [pair.target for pair in task.pairs["test"]]
    numbers = torch.Generator().manual_seed(0)
    swapped = (torch.rand(len(references), generator=numbers) < 0.5).tolist()
    written = [references[place - swap] for place, swap in enumerate(swapped)]  # half of them of another turn
    # Every act of the data occurs once in its turn, so that counts and sets have the same scores; kinds may repeat.
    acts = [[set(map(str, parse(text))) for text in side] for side in (references, written)]
    assert all(len(parse(text)) == len(one) for text, one in zip(references, acts[0], strict=True))
    slots = [[{act for act in one if "(" in act} for one in side] for side in acts]
    found = score_acts(written, references)
    assert 0.4 < found["slot_f1"] < 0.6
    assert found["slot_f1"] == pytest.approx(_micro_f1(*slots))
    assert found["joint"] == pytest.approx(
        sum(one == other for one, other in zip(*acts, strict=True)) / len(references)
    )
    kinds = [[[act.partition("(")[0] for act in one] for one in side] for side in acts]
    single = [n for n in range(len(written)) if all(len(set(side[n])) == len(side[n]) for side in kinds)]
    some = score_acts([written[n] for n in single], [references[n] for n in single])
    assert 0.5 < some["act_f1"] < 0.9
    assert some["act_f1"] == pytest.approx(_micro_f1(*([side[n] for n in single] for side in kinds)))


def _micro_f1(wanted, found):
    binarizer = MultiLabelBinarizer().fit([*wanted, *found])
    return f1_score(binarizer.transform(wanted), binarizer.transform(found), average="micro")


def test_simulated_has_the_published_sizes_and_its_acts_can_be_read_back(data_root):
    task = Conversation(data_root=data_root, corpus="simulated", vocabulary="word")
    # A turn of the system follows every turn of the user except the last: 1,973 turns in 384 dialogues, and so on.
    assert {split: len(pairs) for split, pairs in task.pairs.items()} == {
        "train": 1973 - 384,
        "valid": 627 - 120,
        "test": 1364 - 264,
    }
    for pairs in task.pairs.values():
        for pair in pairs:
            assert spelled(parse(pair.target)) == pair.target.partition(" || ")[0]
    baseline = task.baselines("test")["most frequent"]
    requests = sum(pair.target.startswith("REQUEST(num_tickets) ||") for pair in task.pairs["test"])
    assert baseline["joint"] == pytest.approx(requests / 1100)


def test_bleu_is_of_the_utterances_alone(data_root):
    task = Conversation(data_root=data_root, corpus="simulated", vocabulary="word")
    replies = [pair.target for pair in task.pairs["valid"]]
    found = task._score("valid", [f"NOTIFY_FAILURE || {reply.partition(' || ')[2]}" for reply in replies])
    assert found["bleu"] == pytest.approx(100)
    assert found["joint"] < 0.1
    assert task._score("valid", [reply.partition(" || ")[0] for reply in replies])["bleu"] == 0


def test_an_act_has_the_form_of_the_data():
    acts = [Act("NOTIFY_FAILURE"), Act("CONFIRM", "time", "6:00 pm"), Act("REQUEST", "movie")]
    assert spelled(acts) == "CONFIRM(time=6:00 pm) NOTIFY_FAILURE REQUEST(movie)"
    assert parse("REQUEST(movie) CONFIRM(time=6:00 pm) || REQUEST(date)") == [acts[2], acts[1]]


def test_a_line_of_a_user_is_written_as_the_data():
    assert spaced("Yes, 6:00 pm. I don't care") == "yes , 6:00 pm . i don ' t care"


def test_damaged_simulated_data_are_refused(tmp_path):
    folder = tmp_path / "simulated-dialogue" / "sim-M"
    folder.mkdir(parents=True)
    (folder / "train.json.gz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"train\.json\.gz cannot be decompressed"):
        Conversation(data_root=str(tmp_path), corpus="simulated").pairs  # noqa: B018
