"""Targets against solvers for one word at a time, in Python's own integers and strings."""

from collections import Counter
from math import comb, isqrt, log

import pytest
import tiers
import torch

from rnnlab import tasks
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE
from rnnlab.tasks.languages._binary import digits, limbs, product

ALPHABETS = {  # of words, then of answers; the marker | and the unscored - are added
    "duplicate_string": ("ab", "ab"),
    "odds_first": ("ab", "ab"),
    "missing_duplicate": ("ab_~", "ab"),
    "bucket_sort": ("01234", "01234"),
    "binary_addition": ("01+", "01."),
    "binary_multiplication": ("01*", "01."),
    "compute_sqrt": ("01", "01"),
}
SHORTEST = {"missing_duplicate": 2, "binary_addition": 3, "binary_multiplication": 3}
LENGTHS = [*range(1, 14), *range(22, 28), 39, 40, 41, 47, 48, 49, 50, 51, 95, 96, 97, 98, 99, 249, 499, 500]


def missing_duplicate(word):
    word = word.removesuffix("~")
    half, hidden = len(word) // 2, word.index("_")
    return word[hidden + half if hidden < half else hidden - half]


def arithmetic(word, operator, operation, length):
    one, other = (int(number[::-1], 2) for number in word.split(operator))
    return (format(operation(one, other), "b")[::-1] + ".").ljust(length, "0")


SOLVERS = {
    "duplicate_string": lambda word: word + word,
    "odds_first": lambda word: "".join(
        [s for i, s in enumerate(word, 1) if i % 2] + [s for i, s in enumerate(word, 1) if i % 2 == 0]
    ),
    "missing_duplicate": missing_duplicate,
    "bucket_sort": lambda word: "".join(symbol * Counter(word)[symbol] for symbol in "01234"),
    "binary_addition": lambda word: arithmetic(word, "+", int.__add__, len(word) + 1),
    "binary_multiplication": lambda word: arithmetic(word, "*", int.__mul__, len(word)),
    "compute_sqrt": lambda word: format(isqrt(int(word, 2)), "b").zfill((len(word) + 1) // 2),
}
NAMES = list(SOLVERS)


def lengths(name):
    return [length for length in LENGTHS if length >= SHORTEST.get(name, 1)]


def spell(name, length, batch_size=8, seed=0):
    """Inputs and targets of a batch as pairs of strings."""
    task = tasks.find(name)(batch_size=batch_size)
    batch = task.draw(torch.Generator().manual_seed(seed), length)
    words, answers = ALPHABETS[name]
    assert (task.symbols, task.output_size) == (len(words), len(answers))
    letters = dict(enumerate(answers)) | {IGNORE: "-"}
    inputs = ["".join((words + "|")[symbol] for symbol in row) for row in batch.inputs.t().tolist()]
    targets = ["".join(letters[symbol] for symbol in row) for row in batch.targets.t().tolist()]
    return list(zip(inputs, targets, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_is_the_solver_s(name):
    for length in lengths(name):
        for inputs, targets in spell(name, length):
            word, answer = inputs[:length], targets[length:]
            assert answer == SOLVERS[name](word)
            assert inputs == word + "|" * len(answer)
            assert targets == "-" * length + answer


@pytest.mark.parametrize("name", NAMES)
def test_a_word_is_what_it_should_be(name):
    drawn = [(length, inputs.rstrip("|")) for length in lengths(name) for inputs, _ in spell(name, length, seed=1)]
    for length, word in drawn:
        if name == "missing_duplicate":
            assert len(word) == length
            assert word.endswith("~") == length % 2
            assert [word.count("_"), word.count("~")] == [1, length % 2]
            whole = [word.replace("_", letter).removesuffix("~") for letter in "ab"]
            assert sum(w[: length // 2] == w[length // 2 :] for w in whole) == 1
        elif name.startswith("binary"):
            numbers = word.split(ALPHABETS[name][0][-1])
            assert len(numbers) == 2
            assert all("1" in number for number in numbers)
        elif name == "compute_sqrt":
            assert "1" in word


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_s_example_is_drawn(name):
    lines = tasks.find(name).__doc__.splitlines()
    inputs, targets = (
        next(line for line in map(str.strip, lines) if line.startswith(row)).removeprefix(row).strip().split("   ")[0]
        for row in ("inputs", "targets")
    )
    inputs, targets = inputs.replace(" ", ""), targets.replace(" ", "")
    assert dict(spell(name, len(inputs.rstrip("|")), batch_size=8192))[inputs] == targets


@pytest.mark.parametrize("size", [1, 23, 24, 25, 48, 500, 3000])
def test_arithmetic_is_exact_where_carries_are_longest(size):
    numbers = [2**size - 1, 1, 2 ** (size - 1), 0, 2**size // 3]
    pairs = [(a, b) for a in numbers for b in numbers]
    a, b = (
        torch.tensor([[n >> place & 1 for n in row] for place in range(2 * size + 1)])
        for row in zip(*pairs, strict=True)
    )
    total = digits(limbs(a) + limbs(b), 2 * size + 1)
    times = digits(product(limbs(a[:size]), limbs(b[:size])), 2 * size)
    for (one, other), added, multiplied in zip(pairs, total.t().tolist(), times.t().tolist(), strict=True):
        assert "".join(map(str, added)) == format(one + other, "b")[::-1].ljust(2 * size + 1, "0")
        assert "".join(map(str, multiplied)) == format(one * other, "b")[::-1].ljust(2 * size, "0")


def _words(name, length):
    """Every word of a length that can be drawn, and its probability."""
    if name.startswith("binary"):
        operator = ALPHABETS[name][0][-1]
        for place in range(1, length - 1):
            ones, others = ([format(n, f"0{size}b") for n in range(1, 2**size)] for size in (place, length - 1 - place))
            share = 1 / (len(ones) * len(others) * (length - 2))
            yield from ((one + operator + other, share) for one in ones for other in others)
    elif name == "compute_sqrt":
        yield from ((format(n, f"0{length}b"), 1 / (2**length - 1)) for n in range(1, 2**length))
    elif name == "missing_duplicate":
        for n in range(2 ** (length // 2)):
            w = format(n, f"0{length // 2}b").replace("0", "a").replace("1", "b") * 2
            for hidden in range(len(w)):
                word = w[:hidden] + "_" + w[hidden + 1 :] + "~" * (length % 2)
                yield word, 1 / (len(w) * 2 ** (length // 2))
    else:
        letters = ALPHABETS[name][0]
        for n in range(len(letters) ** length):
            yield (
                "".join(letters[n // len(letters) ** i % len(letters)] for i in range(length)),
                len(letters) ** -length,
            )


@pytest.mark.parametrize(
    ("name", "length"),
    tiers.quick_if(
        [
            (name, length)
            for name in NAMES
            for length in range(1, 4 if name == "bucket_sort" else 7)
            if length >= SHORTEST.get(name, 1)
        ],
        lambda case: case[1] in (1, 4) or case == ("bucket_sort", 3),
    ),
)
def test_every_word_has_its_probability(name, length):
    drawn, expected = 20_000, dict(_words(name, length))
    found = Counter(inputs.rstrip("|") for inputs, _ in spell(name, length, drawn))
    assert found.keys() <= expected.keys()
    assert sum(expected.values()) == pytest.approx(1)
    for word, share in expected.items():
        assert abs(found[word] - drawn * share) < 5 * (drawn * share) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_digits_of_long_words_are_fair(name):
    letters = ALPHABETS[name][0].rstrip("+*_~")
    counts = Counter("".join(inputs for inputs, _ in spell(name, 500, 64)))
    for letter in letters:
        assert counts[letter] / sum(counts[other] for other in letters) == pytest.approx(1 / len(letters), abs=0.015)


@pytest.mark.parametrize("name", NAMES)
def test_chance_is_one_over_the_answer_s_symbols(name):
    count = len(ALPHABETS[name][1])
    task = tasks.find(name)(test_lengths=[41, 500, 153])
    chance = next(iter(task.baselines("test").values()))
    assert chance == {"loss": pytest.approx(log(count)), "accuracy": pytest.approx(1 / count)}


@pytest.mark.parametrize("name", ["binary_addition", "binary_multiplication", "compute_sqrt"])
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_always_1_is_what_who_says_1_gets(name, split):
    task = tasks.find(name)(lengths=[3, 9], test_lengths=[10, 90, 40], eval_batches=2)
    total = count = 0
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        outputs = torch.zeros(*batch.targets.shape, task.output_size)
        outputs[..., 1] = 1
        accuracy = task.measure(outputs, batch)["accuracy"]
        total, count = total + accuracy.total.sum(), count + accuracy.count.sum()
    assert task.baselines(split)["always 1"]["accuracy"] == pytest.approx(float(total / count), rel=1e-5)


def test_by_position_is_the_binomial_law():
    """Brute force: all words by their numbers of each symbol."""
    length, right, loss = 4, 0.0, 0.0
    words = Counter()
    for counts in ((a, b, c, d) for a in range(5) for b in range(5) for c in range(5) for d in range(5)):
        rest = length - sum(counts)
        if rest >= 0:
            ways, left = 1, length
            for n in counts:
                ways, left = ways * comb(left, n), left - n
            words["".join(str(s) * n for s, n in enumerate((*counts, rest)))] = ways
    assert sum(words.values()) == 5**length
    for place in range(length):
        shares = Counter()
        for word, ways in words.items():
            shares[word[place]] += ways / 5**length
        right += max(shares.values()) / length
        loss -= sum(p * log(p) for p in shares.values()) / length
    found = tasks.find("bucket_sort")(lengths=[length, length]).baselines("valid")["by position"]
    assert found == {"loss": pytest.approx(loss), "accuracy": pytest.approx(right)}


def test_by_position_is_reached():
    """Who says at each place what stands there most often is right as often as stated, over lengths too."""
    task = tasks.find("bucket_sort")(test_lengths=[1, 500, 120], batch_size=4000)
    shares, loss, steps = [], 0.0, 0
    for step in range(task.num_batches("test")):
        batch = task.batch("test", step)
        answers = batch.targets[len(batch.targets) // 2 :]
        often = torch.stack([(answers == symbol).float().mean(1) for symbol in range(5)])
        shares.append(float(often.amax(0).mean()))
        loss, steps = loss + float(torch.special.entr(often).sum()), steps + len(answers)
    stated = task.baselines("test")["by position"]
    assert stated["accuracy"] == pytest.approx(sum(shares) / len(shares), abs=0.005)
    assert stated["loss"] == pytest.approx(loss / steps, abs=0.005)


@pytest.mark.parametrize(("name", "shortest"), SHORTEST.items())
def test_lengths_that_cannot_be_are_refused(name, shortest):
    with pytest.raises(
        InputError, match=rf"task\.lengths is \[1, 40\]; the shortest length must be at least {shortest}"
    ):
        tasks.find(name)(lengths=[1, 40])
