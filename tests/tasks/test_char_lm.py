import hashlib
import urllib.error
from math import log

import pytest
import torch

from rnnlab import cells, data
from rnnlab.contracts import check_task
from rnnlab.interface import Batch, InputError
from rnnlab.models.sequence_model import SequenceModel
from rnnlab.outputs import IGNORE
from rnnlab.tasks.char_lm import TINY_SHAKESPEARE, CharLM
from rnnlab.training.evaluation import evaluate


def make(tmp_path, text, **options):
    path = tmp_path / "corpus.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return CharLM(corpus=str(path), **options)


def spell(task, tokens):
    return [
        "".join(task.vocabulary.characters[token] if token != IGNORE else "-" for token in row) for row in tokens.t()
    ]


def test_the_streams_are_those_of_the_docstring(tmp_path):
    task = make(tmp_path, "abcdefghijklm" + "abcdefghijklm", split=[0.5, 0.5], batch_size=2, seq_len=3)
    first, second, again = (task.batch("train", step) for step in range(3))
    assert spell(task, first.inputs) == ["abc", "ghi"]
    assert spell(task, first.targets) == ["bcd", "hij"]
    assert spell(task, second.inputs) == ["def", "jkl"]
    assert spell(task, second.targets) == ["efg", "klm"]
    assert [batch.fresh.tolist() for batch in (first, second, again)] == [[True] * 2, [False] * 2, [True] * 2]
    torch.testing.assert_close(again.inputs, first.inputs)


@pytest.mark.parametrize("length", [2, 5, 17, 18, 19, 100])
def test_evaluation_scores_every_character_but_the_first_once(tmp_path, length):
    text = "".join(chr(33 + i % 90) for i in range(900)) + "".join(chr(200 + i) for i in range(length))
    task = make(tmp_path, text, split=[900 / (900 + length), length / (900 + length)], batch_size=4, seq_len=3)
    streams = ["" for _ in range(4)]
    for step in range(task.num_batches("valid")):
        for row, piece in enumerate(spell(task, task.batch("valid", step).targets)):
            streams[row] += piece
    assert "".join(streams).replace("-", "") == text[901:]


def test_the_splits_are_contiguous_and_in_order():
    task = CharLM()
    sizes = {name: int((targets != IGNORE).sum()) for name, (_, targets) in task.streams.items()}
    total = len(task.text)
    assert abs(sizes["valid"] / total - 0.05) < 0.001
    assert abs(sizes["test"] / total - 0.05) < 0.001
    assert 0.9 * total - sizes["train"] < 2 * task.batch_size * task.seq_len
    assert task.text.startswith(spell(task, task.batch("train", 0).inputs)[0])


def test_two_shares_mean_no_test():
    assert CharLM(split=[0.9, 0.1]).splits == ("train", "valid")


def test_bits_per_character_are_the_loss_in_bits():
    assert CharLM().derive({"loss": log(2) * 3})["bpc"] == pytest.approx(3)


def test_the_unigram_baseline_has_the_frequencies_of_the_training_text(tmp_path):
    task = make(tmp_path, "aaab" * 100 + "b" * 50 + "ab" * 25, split=[0.8, 0.1, 0.1], batch_size=1, seq_len=10)

    def scored(split):
        (text,) = spell(task, task.streams[split][1].reshape(-1, 1))
        return text.replace("-", "")

    text = scored("train")
    probability = {letter: (text.count(letter) + 1) / (len(text) + 2) for letter in "ab"}
    assert probability["a"] > 0.7
    for split in ("train", "valid", "test"):
        expected = -sum(log(probability[letter]) for letter in scored(split)) / len(scored(split))
        assert task.baselines(split)["unigram"]["loss"] == pytest.approx(expected, rel=1e-9)


def test_a_uniform_model_scores_the_logarithm_of_the_vocabulary():
    task = CharLM()
    batch = task.batch("valid", task.num_batches("valid") - 1)
    total, count = task.loss(torch.zeros(*batch.inputs.shape, task.output_size), batch)
    assert float(total / count) == pytest.approx(log(len(task.vocabulary)), rel=1e-5)


def test_the_vocabulary_travels(tmp_path):
    memory = make(tmp_path, "hello world, " * 50).memory()
    elsewhere = CharLM(corpus="gone.txt")
    elsewhere.restore(memory)
    assert elsewhere.output_size == len(set("hello world, "))
    assert elsewhere.vocabulary.characters == " ,dehlorw"


MARK = "\ufeff"


def test_a_byte_order_mark_is_no_character(tmp_path):
    text = "the cat sat.\n" * 50
    task = make(tmp_path, MARK + text + MARK + text)  # two files joined
    assert task.text == text + text
    assert task.vocabulary.characters == "".join(sorted(set(text)))
    assert task.data_digest() == hashlib.sha256((text + text).encode()).hexdigest()
    with pytest.raises(InputError, match="is empty"):
        make(tmp_path, MARK).streams  # noqa: B018


def test_a_model_that_was_trained_with_byte_order_marks_keeps_them(tmp_path):
    text = MARK + "the cat sat.\n" * 50
    task = make(tmp_path, text, batch_size=2, seq_len=8)
    task.restore({"vocabulary": "".join(sorted(set(text)))})
    assert task.text == text
    assert task.data_digest() == hashlib.sha256(text.encode()).hexdigest()
    assert int(task.batch("train", 0).inputs[0, 0]) == task.vocabulary.characters.index(MARK)


def walked(text, length, known):
    """Whether each character but the first ends an n-gram that came before and of which ``known`` has at most two."""
    seen, marks = set(), []
    for end in range(1, len(text) + 1):
        gram = text[end - length : end] if end >= length else None
        marks.append(gram in seen and known.count(gram) <= 2)
        seen.add(gram if gram else end)
    return marks[1:]


@pytest.mark.parametrize("length", [1, 2, 3, 5, 8])
def test_repeated_n_grams_are_those_of_a_walk_over_the_text(tmp_path, length):
    generator = torch.Generator().manual_seed(length)
    letters = "ab" if length == 8 else "abcdefghijklmnopqrstuvwxyz"[: 2 + 24 // length]
    words = ["".join(letters[i] for i in torch.randint(len(letters), (3,), generator=generator)) for _ in range(40)]
    body = "".join(words[i] for i in torch.randint(40, (500,), generator=generator))
    text = body[:1000] + ("zyx" + body[1000:1400]).replace("a", "!")
    task = make(tmp_path, text, batch_size=3, seq_len=7, split=[0.7, 0.15, 0.15], recall_length=length)

    class Grams(list):
        count = staticmethod(lambda gram: sum(text.startswith(gram, i) for text in trained for i in range(len(text))))

    def texts(split):
        inputs, targets = task.streams[split]
        return ["".join(column).rstrip("-") for column in spell(task, torch.cat([inputs[:1], targets]))]

    trained = texts("train")
    for split in ("train", "valid", "test"):
        expected = [walked(column, length, Grams()) for column in texts(split)]
        if not any(map(any, expected)):
            with pytest.raises(
                InputError, match=rf"the {split} part .* repeats no n-gram of task.recall_length={length}"
            ):
                task.batch(split, 0)
            continue
        found = torch.cat([task.batch(split, step).repeated for step in range(task.num_batches(split))])
        for column, marks in zip(found.t().tolist(), expected, strict=True):
            assert column == marks + [False] * (len(column) - len(marks))


def test_the_losses_of_repeated_and_other_characters_make_up_the_loss():
    task = CharLM(recall_length=6)
    batch = task.batch("valid", 3)
    assert batch.to(torch.device("cpu")).repeated is batch.repeated
    outputs = torch.randn(*batch.inputs.shape, task.output_size, generator=torch.Generator().manual_seed(0))
    parts = task.measure(outputs, batch)
    nats = -outputs.log_softmax(-1).gather(2, batch.targets[:, :, None])[:, :, 0]
    assert int(parts["loss_repeated"].count) == int(batch.repeated.sum()) > 0
    assert float(parts["loss_repeated"].total) == pytest.approx(float(nats[batch.repeated].sum()), rel=1e-5)
    assert float(parts["loss_other"].total) == pytest.approx(float(nats[~batch.repeated].sum()), rel=1e-5)
    assert parts.keys() | {"loss", "bpc"} == task.metrics.keys()
    assert all(values.keys() == task.metrics.keys() for values in task.baselines("valid").values())
    assert CharLM().metrics.keys() == {"loss", "bpc"}


def test_a_corpus_whose_n_grams_are_scored_keeps_the_contract(tmp_path):
    text = "".join(f"{n * n} is the square of {n}, " for n in range(300))
    path = tmp_path / "squares.txt"
    path.write_text(text)
    check_task(CharLM, corpus=str(path), recall_length=3, recall_count=9, batch_size=2, seq_len=16)


def test_what_was_read_is_told(tmp_path):
    (told,) = make(tmp_path, "a cat.\r\n" * 50).describe()
    assert "400 characters of " in told
    assert "(train 0.9, valid 0.05, test 0.05), 7 different ones, line breaks: '\\r\\n'" in told
    assert CharLM().describe() == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"short", "too few for one batch of 32 x 64"),
        (b"\xff\xfe\x00bad", "not UTF-8 text \\(byte 0\\)"),
        (b"\x00\x01\x02" * 5000, "NUL bytes"),
        ("caf\xe9".encode("latin-1") * 5000, "not UTF-8 text \\(byte 3\\)"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, says):
    with pytest.raises(InputError, match=says):
        make(tmp_path, content).streams  # noqa: B018


@pytest.mark.parametrize("corpus", ["no_such_file.txt", "/", "pydocs"])
def test_a_missing_corpus_is_named(corpus):
    with pytest.raises(
        InputError, match=f"task.corpus='{corpus}' is neither a file nor one of pydoc, tiny_shakespeare"
    ):
        CharLM(corpus=corpus).text  # noqa: B018


@pytest.mark.parametrize(
    "split", [[1.0], [0.5, 0.4], [0.9, 0.1, 0.0], [0.4, 0.3, 0.2, 0.1], [1.1, -0.1], [float("nan"), 0.5]]
)
def test_shares_that_do_not_sum_to_one_are_refused(split):
    with pytest.raises(InputError, match=r"task\.split="):
        CharLM(split=split)


def _serve(monkeypatch, content):
    class Response:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def read(self):
            return content

    monkeypatch.setattr(data.urllib.request, "urlopen", lambda url, timeout: Response())


def test_a_public_file_is_downloaded_once_and_checked(tmp_path, monkeypatch):
    content = b"to be"
    file = data.PublicFile("set/input.txt", "https://example.org/input.txt", hashlib.sha256(content).hexdigest())
    _serve(monkeypatch, content)
    path = data.locate(file, str(tmp_path))
    assert path.read_bytes() == content
    monkeypatch.setattr(data.urllib.request, "urlopen", None)  # a second look needs no network
    assert data.locate(file, str(tmp_path)) == path
    path.write_bytes(b"or not")
    with pytest.raises(InputError, match="has SHA-256"):
        data.locate(file, str(tmp_path))


def test_a_download_of_something_else_is_not_kept(tmp_path, monkeypatch):
    _serve(monkeypatch, b"<html>please log in</html>")
    with pytest.raises(InputError, match="another SHA-256"):
        CharLM(corpus="tiny_shakespeare", data_root=str(tmp_path)).text  # noqa: B018
    assert not (tmp_path / "tiny_shakespeare" / "input.txt").exists()


def test_offline_the_error_says_what_to_put_where(tmp_path, monkeypatch):
    def fail(url, timeout):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(data.urllib.request, "urlopen", fail)
    with pytest.raises(InputError) as error:
        CharLM(corpus="tiny_shakespeare", data_root=str(tmp_path)).text  # noqa: B018
    for part in (TINY_SHAKESPEARE.url, TINY_SHAKESPEARE.sha256, str(tmp_path / "tiny_shakespeare"), "no network"):
        assert part in str(error.value)


def test_tiny_shakespeare_is_what_everybody_uses(data_root):
    task = CharLM(corpus="tiny_shakespeare", data_root=data_root, split=[0.9, 0.1])
    assert len(task.text) == 1_115_394
    assert len(task.vocabulary) == 65


def documents_of(text, separator):
    """The documents of a text, each with its separator."""
    parts = [part + separator for part in text.split(separator)]
    parts[-1] = parts[-1].removesuffix(separator)
    return [part for part in parts if part]


def test_streams_of_documents_are_those_of_the_text(tmp_path):
    text = "ab;c;;defgh;ij;klmno;p;"
    task = make(tmp_path, text * 2, split=[0.5, 0.5], batch_size=2, seq_len=4, documents=";")
    streams = task.batch("valid", 0), task.batch("valid", 1), task.batch("valid", 2)
    inputs, targets, fresh = (torch.cat([getattr(b, n) for b in streams]) for n in ("inputs", "targets", "fresh"))
    assert spell(task, targets) == ["b;-;--efgh;", "j;-lmno;-;-"]
    assert [piece[:10] for piece in spell(task, inputs)] == ["ab;c;;defg", "ij;klmno;p"]
    assert fresh.int().t().tolist() == [[1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0]]
    train = [task.batch("train", step) for step in range(task.num_batches("train"))]
    assert {batch.inputs.shape for batch in train} == {(4, 2)}  # padded to whole windows


@pytest.mark.parametrize("seq_len", [5, 64])
def test_the_loss_of_documents_is_the_mean_over_documents_read_alone(tmp_path, seq_len):
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(1, 12, (30,), generator=draw).tolist()
    letters = ["".join("abcdef"[i] for i in torch.randint(6, (n,), generator=draw).tolist()) for n in lengths]
    text = "--".join(letters)
    task = make(tmp_path, text, split=[0.7, 0.3], batch_size=3, seq_len=seq_len, documents="--")
    torch.manual_seed(0)
    options = {"hidden_size": 6, "num_layers": 2, "initial_state": "learned"}
    model = SequenceModel(task.input, task.output_size, cells.find("lstm"), **options).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)

    def alone(document):
        """The summed loss of a document and its number of targets."""
        tokens = task.vocabulary.encode(document).unsqueeze(1)
        batch = Batch(tokens[:-1], tokens[1:])
        return task.loss(model(batch)[0], batch) if len(tokens) > 1 else (torch.zeros(()).double(), 0)

    assert task.streams  # made before an evaluation, whose tensors could not be differentiated
    documents, place = documents_of(text, "--"), 0
    for split in ("train", "valid"):
        report = evaluate(model, task, split, torch.device("cpu"), torch.autocast("cpu", enabled=False))
        scored = int((task.streams[split][1] != IGNORE).sum())
        ours = []
        while sum(int(count) for _, count in ours) < scored:
            ours.append(alone(documents[place]))
            place += 1
        assert sum(int(count) for _, count in ours) == scored
        assert report.values["loss"] == pytest.approx(
            float(sum(total.detach() for total, _ in ours)) / scored, rel=1e-10
        )
        if task.num_batches(split) > 1:
            continue
        batch = task.batch(split, 0)  # it holds all documents of the split
        total, _ = task.loss(model(batch, model.begin(batch_size=3))[0], batch)
        found, expected = (
            torch.autograd.grad(loss, list(model.parameters())) for loss in (total, sum(part for part, _ in ours))
        )
        for mine, true in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-9)
    assert not any(int(alone(document)[1]) for document in documents[place:])


@pytest.mark.slow
def test_documents_keep_the_contract_of_a_task(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("one two.\nthree.\n\nfour five six.\n" * 60)
    check_task(CharLM, corpus=str(path), documents="\n", batch_size=4, seq_len=8)


def test_a_text_with_too_few_documents_is_refused(tmp_path):
    task = make(tmp_path, "ab;cd;ef;gh;" * 3, split=[0.5, 0.5], batch_size=40, seq_len=4, documents=";")
    with pytest.raises(InputError, match="has 6 documents ending with ';', too few for 40 streams"):
        task.batch("train", 0)
    with pytest.raises(InputError, match=r"use it without task\.documents"):
        make(tmp_path, "ab;cd;", documents=";", recall_length=2)
