import io
import re
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from rnnlab.contracts import check_task
from rnnlab.interface import InputError
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.tasks.text import _stories, babi
from rnnlab.tasks.text._stories import held_out, read_stories
from rnnlab.tasks.text.babi import LSTM, Babi
from rnnlab.vocabulary import END

STORY = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Daniel got the milk.
5 What is Daniel carrying?\tmilk,football\t4
1 Sandra travelled to the office.
2 Where is Sandra?\toffice\t1
"""


def files_of(root):
    """The lines of each file of the archive, by task and part."""
    found = {}
    with tarfile.open(Path(root) / "babi/tasks_1-20_v1-2-en.tar.gz") as archive:
        for member in archive.getmembers():
            if member.name.endswith(("_train.txt", "_test.txt")):
                number, part = re.search(r"qa(\d+)_.*_(\w+)\.txt", member.name).groups()
                found[int(number), part] = archive.extractfile(member).read().decode().splitlines()
    return found


def simulated(lines, number):
    """Questions with their answers, from people who are moved through the rooms line by line."""
    rooms, found = {}, []
    for line in lines:
        place, text = line.split(" ", 1)
        if place == "1":
            rooms = {}
        if "\t" not in text:
            rooms[text.split()[0]] = (text.rstrip(".").split()[-1], place)
            continue
        question, answer, fact = text.split("\t")
        person = question.rstrip("?").split()[2 if number == 1 else 1]
        room, seen = rooms[person]
        expected = room if number == 1 else "yes" if question.rstrip("?").endswith(room) else "no"
        found.append((answer, fact) == (expected, seen))
    return found


def small(monkeypatch, train, test, **options):
    """A task whose texts are those given, by task."""
    texts = {(number, "train"): text for number, text in train.items()}
    texts |= {(number, "test"): text for number, text in test.items()}
    monkeypatch.setattr(babi, "archived", lambda root: texts)
    return Babi(source="babi", tasks=sorted(train), **options)


def story(number, person, room, answers=1):
    """A story whose ``answers`` questions all have the answer ``room``."""
    lines = [f"1 {person} went to the {room} {number} times."]
    lines += [f"{line} Where is {person}?\t{room}\t1" for line in range(2, 2 + answers)]
    return "\n".join(lines)


def spelled(task, texts):
    """What a model writes to give these answers."""
    return [torch.tensor(task.vocabularies[1].encode(text), dtype=torch.int64) for text in texts]


def test_a_file_is_read_as_its_readme_says():
    first, second = read_stories(STORY)
    assert [(one.text, one.answer) for one in first] == [
        ("Where is Mary?", "bathroom"),
        ("What is Daniel carrying?", "milk,football"),
    ]
    assert first[0].story == ("Mary moved to the bathroom.", "John went to the hallway.")
    assert first[1].story == (*first[0].story, "Daniel got the milk.")
    assert [(one.story, one.answer) for one in second] == [(("Sandra travelled to the office.",), "office")]


def test_the_docstring_s_example(monkeypatch):
    task = small(monkeypatch, {1: STORY + "".join(story(n, "Bill", "attic") + "\n" for n in range(20))}, {1: STORY})
    assert task.pairs["test"][0] == (
        "mary moved to the bathroom. john went to the hallway. where is mary?",
        "bathroom",
    )
    batch = task.batch("test", 0)
    source, target = task.vocabularies
    assert source is target
    read = source.spell(batch.source[: batch.source_lengths[0], 0].tolist())
    assert " ".join(read) == "mary moved to the bathroom . john went to the hallway . where is mary ? </s>"
    assert source.spell(batch.targets[:2, 0].tolist()) == ["bathroom", "</s>"]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        ("first", "what is daniel carrying? john went to the hallway. daniel got the milk."),
        ("last", "john went to the hallway. daniel got the milk. what is daniel carrying?"),
        ("both", "what is daniel carrying? john went to the hallway. daniel got the milk. what is daniel carrying?"),
    ],
)
def test_the_most_recent_sentences_are_read(monkeypatch, question, expected):
    text = {1: STORY + story(0, "Bill", "attic")}
    task = small(monkeypatch, text, {1: STORY}, max_sentences=2, question=question)
    assert task.pairs["test"][1].source == expected
    given = "Mary moved to the bathroom. What is Daniel carrying? John went to the hallway. Daniel got  the milk."
    tokens = task.vocabularies[0].encode(expected)
    assert task.encode_source(given).tolist() == task.encode_source(expected).tolist() == [*tokens, END]


def test_a_prompt_has_one_question_to_answer(monkeypatch):
    task = small(monkeypatch, {1: STORY + story(0, "Bill", "attic")}, {1: STORY})
    tokens = task.encode_source("Where is Bill? Bill went to the attic. Where is Mary?")
    assert tokens.tolist() == [*task.vocabularies[0].encode("bill went to the attic. where is mary?"), END]
    with pytest.raises(InputError, match=r"the text 'Mary moved\.' has no question; end one sentence with a question"):
        task.encode_source("Mary moved.")


def test_validation_takes_whole_stories_and_equal_stories_together():
    stories = read_stories("\n".join(story(n % 10, "Bill", "attic", answers=1 + n % 3) for n in range(30)))
    train, valid = held_out(stories, 10)
    assert Counter(train) + Counter(valid) == Counter(one for questions in stories for one in questions)
    assert not {one.story for one in train} & {one.story for one in valid}
    assert 10 <= len(valid) < 10 + 6  # no story, with its copies, has more than six questions
    assert {one.story for one in held_out(stories[::-1], 10)[1]} == {one.story for one in valid}


def test_accuracy_is_the_mean_of_the_tasks(monkeypatch):
    texts = {
        1: "\n".join(story(n, "Bill", "attic", 4) for n in range(10)),
        8: "\n".join(story(n, "Ann", "milk,football") for n in range(10)),
    }
    tests = {1: story(0, "Bill", "attic", 3), 8: story(1, "Ann", "milk,football") + "\n" + story(2, "Ann", "attic")}
    task = small(monkeypatch, texts, tests)
    assert set(task.metrics) == {"loss", "accuracy", "task_01", "task_08"}
    answers = ["attic", "milk", "attic", "milk", "attic"]  # one of two words of a list is no answer
    expected = {"task_01": pytest.approx(2 / 3), "task_08": 0.5, "accuracy": pytest.approx((2 / 3 + 1 / 2) / 2)}
    assert task.judge("test", spelled(task, answers)) == expected
    assert task.judge("test", spelled(task, ["attic"] * 3 + ["milk,football", "attic"]))["accuracy"] == 1
    assert task.baselines("test") == {"majority": {"task_01": 1.0, "task_08": 0.5, "accuracy": 0.75}}
    files = task.transcripts("test", spelled(task, answers))
    assert files["hypotheses.txt"].splitlines() == answers
    table = files["tasks.txt"].splitlines()
    assert table[0].startswith("joint training: one model for 2 tasks; accuracy on the test questions")
    assert [line.split() for line in table[4:]] == [
        ["1", "single", "supporting", "fact", "3", "0.667", "0.500", "1.000"],
        ["8", "lists", "sets", "2", "0.500", "0.450", "0.500"],
        ["mean", "5", "0.583", "0.475", "0.750"],
    ]


def test_the_log_states_the_kind_of_training_and_what_the_splits_share(monkeypatch):
    copies = "\n".join(story(n, "Bill", "attic") for n in range(20))
    tests = "\n".join(story(n, "Bill", "attic", 2) for n in (3, 25))
    task = small(monkeypatch, {1: copies}, {1: tests})
    shared = sum(pair.source.startswith("bill went to the attic 3 times.") for pair in task.pairs["train"])
    assert task.describe()[1:] == [
        "data: single-task training: one model for task 1",
        f"data: {2 * shared} of the 4 test questions and stories are also in the training set",
    ]
    assert "data: joint training: one model for 2 tasks" in Babi().describe()


def test_bars_have_the_heights_of_the_table(monkeypatch):
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    drawn = {}
    bar = Axes.bar
    monkeypatch.setattr(
        Axes, "bar", lambda axes, x, height, **k: drawn.update({k["label"]: height}) or bar(axes, x, height, **k)
    )
    task = small(monkeypatch, {number: STORY + story(0, "Bill", "attic") for number in (1, 20)}, {1: STORY, 20: STORY})
    written = spelled(task, ["bathroom", "milk", "office", "bathroom", "", ""])
    svg = task.transcripts("test", written)["tasks.svg"]
    assert svg == task.transcripts("test", written)["tasks.svg"]
    assert drawn["this model"] == pytest.approx((2 / 3, 1 / 3))
    assert drawn["LSTM (Weston et al., 2015)"] == pytest.approx((0.5, 0.91))
    assert drawn["majority answer"] == pytest.approx(tuple([task.baselines("test")["majority"]["task_01"]] * 2))


def test_the_published_lstm_has_its_published_mean():
    assert (len(LSTM), round(sum(LSTM) / 20)) == (20, 49)


@pytest.mark.parametrize("number", [1, 6])
def test_generated_answers_are_those_of_a_simulation(number):
    texts = _stories.generated()
    for part in ("train", "test"):
        lines = texts[number, part].splitlines()
        assert simulated(lines, number) == [True] * 1000
        assert sum(line.startswith("1 ") for line in lines) == 200
    assert texts == _stories.generated()
    answers = Counter(pair.target for pair in Babi(tasks=[number]).pairs["train"])
    assert max(answers.values()) < (0.25 if number == 1 else 0.6) * answers.total()


def test_what_is_not_possible_is_refused():
    with pytest.raises(InputError, match=r"task\.source='en' is not one of generated, babi"):
        Babi(source="en")
    with pytest.raises(InputError, match=r"tasks=\[2\] must be different numbers; .*source=generated are 1 and 6"):
        Babi(tasks=[2])
    with pytest.raises(InputError, match=r"tasks=\[1, 1\] must be different numbers; .*source=babi are 1 to 20"):
        Babi(source="babi", tasks=[1, 1])
    with pytest.raises(InputError, match=r"task\.max_sentences=0 must be at least 1"):
        Babi(max_sentences=0)
    with pytest.raises(InputError, match=r"task\.question='end' is not one of first, last, both"):
        Babi(question="end")


def test_an_archive_that_cannot_be_used_is_refused(tmp_path):
    path = tmp_path / "babi" / "tasks_1-20_v1-2-en.tar.gz"
    task = Babi(data_root=str(tmp_path), source="babi")
    with pytest.raises(InputError, match=r"v1-2-en\.tar\.gz does not exist; download https://github\.com/\S+ and save"):
        task.read()
    path.parent.mkdir()
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match=r"cannot be read \(not a gzip file\); delete it and download"):
        task.read()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("tasks_1-20_v1-2/en/qa1_single-supporting-fact_train.txt")
        member.size = len(STORY)
        archive.addfile(member, io.BytesIO(STORY.encode()))
    with pytest.raises(InputError, match=r"does not contain the 20 bAbI tasks of version 1\.2"):
        task.read()


def test_a_damaged_archive_is_refused(tmp_path, data_root):
    path = tmp_path / "babi" / "tasks_1-20_v1-2-en.tar.gz"
    path.parent.mkdir()
    content = (Path(data_root) / "babi" / path.name).read_bytes()
    task = Babi(data_root=str(tmp_path), source="babi")
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be read \(.+\); delete it and download"):
        task.read()
    path.write_bytes(content[:100_000] + bytes(100) + content[100_100:])
    with pytest.raises(InputError, match=r"cannot be read|does not contain"):
        task.read()


def test_the_archive_of_the_repository_is_read_too(tmp_path, data_root):
    path = tmp_path / "babi" / "tasks_1-20_v1-2-en.tar.gz"
    path.parent.mkdir()
    with tarfile.open(Path(data_root) / "babi" / path.name) as old, tarfile.open(path, "w:gz", compresslevel=1) as new:
        for member in reversed([one for one in old.getmembers() if one.isfile()]):
            content = old.extractfile(member)
            member.name = member.name.replace("tasks_1-20_v1-2/", "entity-network-b18fbb7/tasks/")
            new.addfile(member, content)
    assert _stories.archived(str(tmp_path)) == _stories.archived(data_root)


def test_the_archive_has_the_published_sizes_and_every_question_once(data_root):
    task, files = Babi(data_root=data_root, source="babi", max_sentences=1000), files_of(data_root)
    assert len(files) == 40
    expected = defaultdict(Counter)
    for (number, part), lines in files.items():
        sentences = []
        for line in lines:
            place, text = line.split(" ", 1)
            sentences = [] if place == "1" else sentences
            if "\t" in text:
                question, answer, _ = text.split("\t")
                source = " ".join([*sentences, question.strip()]).lower()
                expected[part, number][source, answer.lower()] += 1
            else:
                sentences.append(text.strip())
    found = defaultdict(Counter)
    for split, questions in task.questions.items():
        for (number, _), pair in zip(questions, task.pairs[split], strict=True):
            found["test" if split == "test" else "train", number][pair] += 1
    assert {key: value.total() for key, value in expected.items()} == dict.fromkeys(expected, 1000)
    assert found == expected


def test_no_story_of_the_archive_is_in_training_and_validation(data_root):
    task = Babi(data_root=data_root, source="babi")
    of_split = {split: set(task.questions[split]) for split in ("train", "valid")}
    whole = {"train": set(), "valid": set()}
    for (number, part), lines in files_of(data_root).items():
        if part == "train":
            for text in re.split(r"\n(?=1 )", "\n".join(lines)):
                (questions,) = read_stories(text)
                splits = [split for split in whole if all((number, one) in of_split[split] for one in questions)]
                assert len(splits) == 1
                whole[splits[0]].add((number, *re.findall(r"^\d+ ([^\t]+)$", text, re.MULTILINE)))
    assert len(whole["train"]) > 8 * len(whole["valid"]) > 0
    assert not whole["train"] & whole["valid"]
    counts = Counter(number for number, _ in task.questions["valid"])
    assert counts.keys() == set(range(1, 21))
    assert all(100 <= count <= 104 for count in counts.values())


def test_supporting_facts_are_among_the_sentences_read(data_root):
    farthest = 0
    for lines in files_of(data_root).values():
        numbers = []
        for line in lines:
            place, text = line.split(" ", 1)
            numbers = [] if place == "1" else numbers
            if "\t" in text:
                facts = map(int, text.split("\t")[2].split())
                farthest = max(farthest, *(len(numbers) - numbers.index(fact) for fact in facts))
            else:
                numbers.append(int(place))
    assert farthest == 40
    assert Babi().max_sentences >= farthest


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [[], [6]])
def test_the_contract_holds(tasks):
    check_task(Babi, model=EncoderDecoder, tasks=tasks, batch_size=32)


@pytest.mark.slow
def test_the_contract_holds_for_the_archive(data_root):
    check_task(Babi, model=EncoderDecoder, data_root=data_root, source="babi", tasks=[8, 19])
