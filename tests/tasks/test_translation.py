"""Translation: its corpora, splits, batches and scores."""

import gzip
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from num2words import num2words

from rnnlab.contracts import check_task
from rnnlab.heads import IGNORE
from rnnlab.interface import InputError
from rnnlab.models.encoder_decoder import EncoderDecoder
from rnnlab.tasks.text import _numbers, translation
from rnnlab.tasks.text.base import Pair
from rnnlab.tasks.text.translation import Translation
from rnnlab.vocabulary import END, START, UNKNOWN

SIZES = {"corpus": "numbers", "eval_size": 40, "batch_size": 16, "longest_output": 12}


def write(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return str(path)


def lines_of(count, word="mot"):
    return [f"{word} {number}\tword {number}" for number in range(count)]


@pytest.mark.parametrize(("language", "name"), [("en", "en_GB"), ("fr", "fr"), ("de", "de"), ("ko", "ko")])
def test_number_words_are_those_of_num2words(language, name):
    for number in [*range(1200), *range(1200, 1_000_000, 977), 999_999]:
        expected = num2words(number, lang=name).replace(",", "")
        if language == "de":  # num2words writes "einhunderteinstausend"; Duden has "einhunderteintausend"
            expected = expected.replace("einstausend", "eintausend")
        assert _numbers.LANGUAGES[language](number) == expected, number


@pytest.mark.parametrize("vocabulary", ["word", "character", "bpe"])
def test_the_contract_holds(vocabulary, tmp_path):
    corpus = write(tmp_path / "pairs.tsv", "\n".join(lines_of(120)))
    options = SIZES | {"corpus": corpus, "vocabulary": vocabulary, "vocabulary_size": 300}
    check_task("translation", model=EncoderDecoder, **options)


def test_the_batch_is_that_of_the_docstring(tmp_path):
    text = "il fait froid .\tit is cold .\nva !\tgo !\n" + "\n".join(lines_of(9))
    task = Translation(corpus=write(tmp_path / "pairs.tsv", text), eval_size=1, batch_size=2)
    task.pairs = {"train": [Pair("il fait froid .", "it is cold ."), Pair("va !", "go !")], "valid": [], "test": []}
    batch = task.batch("train", 0)
    source, target = task.vocabularies
    row = batch.lengths.tolist().index(5)
    assert source.spell(batch.source[:, row].tolist()) == ["il", "fait", "froid", ".", "</s>"]
    assert target.spell(batch.inputs[:, row].tolist()) == ["<s>", "it", "is", "cold", "."]
    assert target.spell(batch.targets[:, row].tolist()) == ["it", "is", "cold", ".", "</s>"]
    other = 1 - row
    assert batch.source_lengths[other] == batch.lengths[other] == 3
    assert batch.targets[:, other].tolist()[3:] == [IGNORE, IGNORE]
    assert batch.inputs[0].tolist() == [START, START]
    assert batch.targets[2, other] == END


def test_unknown_words_are_not_scored(tmp_path):
    lines = [f"a {word}\tb {word}" for word in ["x"] * 5 + ["once"]] + lines_of(9)
    task = Translation(corpus=write(tmp_path / "pairs.tsv", "\n".join(lines)), eval_size=1, min_count=2)
    task.pairs = {"train": [Pair("a x", "b x"), Pair("a x", "b x"), Pair("a once", "b once")], "valid": [], "test": []}
    batch = task.batch("train", 0)
    unknown = batch.inputs[2] == UNKNOWN
    assert unknown.sum() == 1
    assert (batch.targets[1] == IGNORE).tolist() == unknown.tolist()


def test_an_epoch_has_every_pair_once_and_batches_of_similar_length():
    task = Translation(**SIZES | {"batch_size": 50})
    task.pairs = {**task.pairs, "train": task.pairs["train"][::4]}
    batches = [task.batch("train", step) for step in range(task.num_batches("train"))]
    again = [task.batch("train", step + len(batches)) for step in range(3)]
    chosen = torch.cat([task.chosen("train", step) for step in range(len(batches))])
    assert len(set(chosen.tolist())) == len(chosen) > task.count("train") - 50
    assert not torch.equal(again[0].source, batches[0].source)
    padded = sum(batch.source.numel() for batch in batches)
    assert sum(int(batch.source_lengths.sum()) for batch in batches) > 0.9 * padded
    spread = [int(batch.source_lengths.sum()) for batch in batches]
    assert spread != sorted(spread), "batches are in random order"
    other = Translation(**SIZES | {"batch_size": 50})
    other.pairs = task.pairs
    torch.testing.assert_close(other.batch("train", 7).source, batches[7].source)


def test_no_source_and_no_target_is_in_two_splits(tmp_path):
    lines = [f"source {number % 61}\ttarget {number % 47}" for number in range(3000)]
    task = Translation(corpus=write(tmp_path / "pairs.tsv", "\n".join(lines)), eval_size=8)
    for column in (0, 1):
        texts = {split: {pair[column] for pair in pairs} for split, pairs in task.pairs.items()}
        assert not texts["train"] & (texts["valid"] | texts["test"])
        assert not texts["valid"] & texts["test"]
    for split in ("valid", "test"):
        sources = [pair.source for pair in task.pairs[split]]
        assert len(set(sources)) == len(sources) <= 8
    assert len(task.pairs["train"]) > 500
    reordered = Translation(corpus=write(tmp_path / "other.tsv", "\n".join(lines[::-1])), eval_size=8)
    assert {pair.source for pair in reordered.pairs["test"]} == {pair.source for pair in task.pairs["test"]}


def test_scores_are_those_of_sacrebleus_own_command(tmp_path):
    task = Translation(**SIZES)
    pairs = task.pairs["test"]
    texts = [pair.target if row % 3 else pair.target.replace("thousand", "hundred") for row, pair in enumerate(pairs)]
    written = [torch.tensor(task.vocabularies[1].encode(text)) for text in texts]
    values = task.judge("test", written)
    files = task.transcripts("test", written)
    for name, text in files.items():
        write(tmp_path / name, text)
    for metric in ("bleu", "chrf"):
        command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "references.txt")]
        command += ["-i", str(tmp_path / "hypotheses.txt"), "-m", metric, "-b", "-w", "6"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert float(done.stdout) == pytest.approx(values[metric], abs=1e-5)
    assert values["exact"] == sum(text == pair.target for text, pair in zip(texts, pairs, strict=True)) / len(pairs)
    assert 0.5 < values["exact"] < 1
    assert "case:mixed|eff:no|tok:13a" in files["scores.txt"]
    assert any("case:mixed|eff:no|tok:13a" in line for line in task.describe())


def test_two_files_are_read_side_by_side(tmp_path):
    source = "\ufeff" + "".join(f"mot {number}\r\n" for number in range(20)) + "\r\nlast\r\n"
    target = "".join(f"word {number}\n" for number in range(20)) + "no source\nlast one"
    options = {"corpus": write(tmp_path / "a.fr", source), "target": write(tmp_path / "a.en", target), "eval_size": 3}
    task = Translation(**options)
    pairs = {pair for found in task.pairs.values() for pair in found}
    assert Pair("mot 0", "word 0") in pairs
    assert Pair("last", "last one") in pairs
    assert len(pairs) == 21


@pytest.mark.parametrize(
    ("source", "target", "sentence"),
    [
        ("a\nb\nc\n", "a\nb\n", "has 3 lines, .* has 2"),
        ("a\nb\n", "", "a.en is empty"),
        ("", "a\n", "a.fr is empty"),
        ("a\0b\n", "a\n", "NUL bytes"),
        ("a\nb\nc\n", "a\nb\nc\n", "has 3 sources, too few"),
    ],
)
def test_bad_files_get_one_sentence(tmp_path, source, target, sentence):
    corpus, other = write(tmp_path / "a.fr", source), write(tmp_path / "a.en", target)
    with pytest.raises(InputError, match=sentence) as caught:
        Translation(corpus=corpus, target=other).batch("train", 0)
    assert "\n" not in str(caught.value)


def test_a_file_without_tabs_or_in_another_encoding_gets_one_sentence(tmp_path):
    with pytest.raises(InputError, match=r"line 2 has no source and target separated by a tab: 'two'"):
        Translation(corpus=write(tmp_path / "a.tsv", "one\teins\ntwo\n")).batch("train", 0)
    with pytest.raises(InputError, match="is not UTF-8 text"):
        Translation(corpus=write(tmp_path / "b.tsv", "é\tè\n", "latin-1")).batch("train", 0)
    with pytest.raises(InputError, match="neither a file nor one of numbers, tatoeba, multi30k"):
        Translation(corpus="tatobea").batch("train", 0)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"languages": ["fr"]}, "must be two languages"),
        ({"languages": ["fr", "fr"]}, "must be two languages"),
        ({"languages": ["fr", "xx"]}, "the corpus numbers has de, en, fr, ko"),
        ({"corpus": "tatoeba", "languages": ["fr", "ko"]}, "tatoeba has en, fr or en, ko"),
        ({"target": "a.txt"}, "needs task.corpus=FILE"),
        ({"vocabulary": "words"}, "'words' is not one of character, word, bpe"),
        ({"eval_size": 0}, "task.eval_size=0 must be at least 1"),
        ({"max_length": 1, "eval_size": 100}, "too few"),
    ],
)
def test_a_bad_option_gets_one_sentence(options, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        Translation(**{"eval_size": 10} | options).batch("train", 0)
    assert "\n" not in str(caught.value)


def test_a_damaged_archive_gets_one_sentence(tmp_path, monkeypatch):
    path = tmp_path / "tatoeba" / "fra-eng.zip"
    path.parent.mkdir()
    path.write_bytes(b"PK\3\4 no archive")
    with pytest.raises(InputError, match="delete it and download"):
        Translation(data_root=str(tmp_path), corpus="tatoeba").batch("train", 0)


@pytest.mark.parametrize(
    ("languages", "count"),
    [
        pytest.param(("fr", "en"), 142_787, marks=pytest.mark.slow),
        pytest.param(("en", "fr"), 142_787, marks=pytest.mark.slow),
        (("ko", "en"), 3_798),
    ],
)
def test_tatoeba_is_read_in_both_directions(data_root, languages, count):
    task = Translation(data_root=data_root, corpus="tatoeba", languages=languages, eval_size=500)
    assert len(task._all()) == count
    pair = next(pair for pair in task._all() if "Run!" in pair)
    assert pair.source == "Run!" if languages[0] == "en" else pair.target == "Run!"
    for split in ("valid", "test"):
        assert 400 < task.count(split) <= 500
    short = Translation(data_root=data_root, corpus="tatoeba", languages=languages, max_length=8, eval_size=50)
    longest = max(len(tokens) for pairs in short.encoded.values() for pair in pairs[:2000] for tokens in pair)
    assert longest == 9, "eight tokens and END"


@pytest.mark.slow
def test_multi30k_has_its_own_splits_and_reports_overlap(data_root):
    task = Translation(data_root=data_root, corpus="multi30k", languages=["de", "en"], min_count=2)
    assert [task.count(split) for split in task.splits] == [29_000, 1_014, 1_000]
    folder = Path(data_root) / "multi30k" / "data" / "task1" / "raw"
    lines = {
        name: gzip.decompress((folder / f"{name}.de.gz").read_bytes()).decode().splitlines()
        for name in ("train", "test_2016_flickr")
    }
    both = len([line for line in lines["test_2016_flickr"] if line in set(lines["train"])])
    assert f"data: {both} of the 1000 test sources are also in the training set" in task.describe()
    first = task.pairs["test"][0]
    assert first.source.startswith("Ein Mann mit einem orangefarbenen Hut")
    assert first.target.startswith("A man in an orange hat")


def test_an_archive_that_cannot_be_decompressed_gets_one_sentence(tmp_path, monkeypatch):
    broken = tmp_path / "train.de.gz"
    broken.write_bytes(b"no gzip")
    monkeypatch.setattr(translation, "locate", lambda file, root: broken)
    with pytest.raises(InputError, match=r"train\.de\.gz cannot be decompressed"):
        Translation(corpus="multi30k", languages=["de", "en"]).batch("train", 0)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    monkeypatch.setattr(translation, "locate", lambda file, root: tmp_path / "other.zip")
    with pytest.raises(InputError, match=r"or has no fra\.txt"):
        Translation(corpus="tatoeba").batch("train", 0)


def test_answers_do_not_depend_on_the_other_texts():
    task = Translation(**SIZES)
    torch.manual_seed(0)
    model = EncoderDecoder(
        task.input, task.output_size, _gru, "auto", task.source, hidden_size=16, embedding_size=8
    ).eval()
    texts = [pair.source for pair in task.pairs["test"]]
    for beam_size in (1, 5):
        together = task.answer(model, ["", *texts], beam_size)
        assert together[0] == ""
        assert [task.answer(model, [text], beam_size)[0] for text in texts[:8]] == together[1:9]


def test_a_text_that_cannot_be_read_is_refused():
    task = Translation(**SIZES)
    with pytest.raises(InputError, match="has 5000 tokens; at most 1000 are possible"):
        task.encode_source("mille " * 5000)
    with pytest.raises(InputError, match="no token of the text '日本語'"):
        task.encode_source("日本語")
    assert task.encode_source("mille 日本語").tolist()[1:] == [UNKNOWN, END]


def _gru(input_size, hidden_size):
    from rnnlab import cells

    return cells.find("gru")(input_size, hidden_size)
