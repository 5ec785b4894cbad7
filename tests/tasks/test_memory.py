"""Targets against solvers that read one sequence symbol by symbol."""

import re
from collections import Counter
from itertools import pairwise, product
from math import log

import pytest
import torch

from rnnlab import tasks
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE

LENGTHS = [1, 2, 3, 4, 5, 7, 10, 11, 12, 15, 19, 20, 33, 64, 99, 100, 110, 128, 257]
SMALL = {  # options of the docstrings' examples, and what letters mean there
    "copying": ({"alphabet": 3, "memorize": 2}, {}),
    "temporal_order": ({}, {letter: n for n, letter in enumerate("abcdXYEB")}),
    "selective_copying": ({"alphabet": 3, "memorize": 3}, {letter: n for n, letter in enumerate("abc.|")}),
    "noisy_recall": (
        {"vocab": 6, "noise_vocab": 3, "noise": 0.4},
        {letter: n for n, letter in enumerate("abcxyz", start=3)},
    ),
    "compression": ({"alphabet": 3}, {letter: n for n, letter in enumerate("abc|")}),
    "memorization": ({"vocab": 8}, {letter: n for n, letter in enumerate("abc|")}),
}
CASES = [
    *((name, options) for name, (options, _) in SMALL.items()),
    ("copying", {}),
    ("copying", {"alphabet": 2, "memorize": 1}),
    ("temporal_order", {"relevant": 3}),
    ("selective_copying", {}),
    ("selective_copying", {"alphabet": 2, "memorize": 1}),
    ("noisy_recall", {}),
    ("noisy_recall", {"noise": 0.0, "noise_vocab": 0}),
    ("noisy_recall", {"vocab": 4, "noise_vocab": 1, "noise": 0.9}),
    ("memorization", {}),
    ("memorization", {"vocab": 5}),
]


def copying(word, task):
    waiting, answer, writes = [], [], False
    for symbol in word:
        answer.append(waiting.pop(0) if writes else task.alphabet)
        writes = writes or symbol == task.alphabet + 1
        if symbol < task.alphabet:
            waiting.append(symbol)
    return answer


def temporal_order(word, task):
    order = "".join("XY"[symbol - 4] for symbol in word if symbol in (4, 5))
    classes = ["".join(letters) for letters in product("XY", repeat=task.relevant)]
    return [IGNORE] * (len(word) - 1) + [classes.index(order)]


def selective_copying(word, task):
    waiting, answer = [], []
    for symbol in word:
        answer.append(waiting.pop(0) if symbol == task.alphabet + 1 else IGNORE)
        if symbol < task.alphabet:
            waiting.append(symbol)
    return answer


def noisy_recall(word, task):
    known, answer = {}, [IGNORE] * len(word)
    for step, (symbol, following) in enumerate(pairwise([*word, None])):
        if task.vocab // 2 <= symbol < task.vocab:
            answer[step] = known.get(symbol, IGNORE)
            known[symbol] = following
    return answer


def compression(word, task):
    return word[:-1]


def memorization(word, task):
    known = task.mapping.tolist()
    return [known[word[step - 1]] if symbol == task.keys else IGNORE for step, symbol in enumerate(word)]


def check_copying(word, length, task):
    blanks, symbols = [task.alphabet], word[: task.memorize]
    assert max(symbols) < task.alphabet
    assert word == symbols + (length - 1) * blanks + [task.alphabet + 1] + task.memorize * blanks


def check_temporal_order(word, length, task):
    assert (len(word), word[0], word[-1]) == (length, 6, 7)
    assert max(word[1:-1]) < 6
    places = [step for step, symbol in enumerate(word) if symbol in (4, 5)]
    percent = [(10, 20), (50, 60)] if task.relevant == 2 else [(10, 20), (33, 43), (66, 76)]
    for place, (first, last) in zip(places, percent, strict=True):
        assert int(length * first / 100) <= place <= length * last / 100


def check_selective_copying(word, length, task):
    assert len([symbol for symbol in word[:length] if symbol < task.alphabet]) == task.memorize
    assert max(word[:length]) <= task.alphabet
    assert word[length:] == [task.alphabet + 1] * task.memorize


def check_noisy_recall(word, length, task):
    assert len(word) == length
    half, known = task.vocab // 2, {}
    *pairs, last = [word[step : step + 2] for step in range(0, length, 2)]
    for one, other in pairs:
        if one >= task.vocab:
            assert task.vocab <= other < task.input.size
        else:
            assert other < half <= one
            assert known.setdefault(one, other) == other
    assert last in ([last[0]], [last[0], known[last[0]]])


def check_compression(word, length, task):
    assert len(word) == length
    assert max(word[:-1]) < task.alphabet == word[-1]


def check_memorization(word, length, task):
    assert len(word) == length
    assert all((symbol == task.keys) == bool(step % 2) for step, symbol in enumerate(word))


def draw(task, length, seed=0):
    batch = task.draw(torch.Generator().manual_seed(seed), length)
    return list(zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True))


def make(name, **options):
    return tasks.find(name)(**options)


CHECKS = {
    "copying": (check_copying, copying),
    "temporal_order": (check_temporal_order, temporal_order),
    "selective_copying": (check_selective_copying, selective_copying),
    "noisy_recall": (check_noisy_recall, noisy_recall),
    "compression": (check_compression, compression),
    "memorization": (check_memorization, memorization),
}


def check(name, word, targets, length, task):
    check_word, solve = CHECKS[name]
    check_word(word, length, task)
    assert targets == solve(word, task)


@pytest.mark.parametrize("name", SMALL)
def test_the_docstring_s_example_is_one(name):
    options, letters = SMALL[name]
    lines = [line.strip() for line in tasks.find(name).__doc__.splitlines()]
    rows = []
    for row in ("inputs", "targets"):
        symbols = next(line for line in lines if line.startswith(f"{row}  ")).removeprefix(row).strip()
        symbols = re.split(" {4,}", symbols)[0].split()
        rows.append([letters[s] if s in letters else IGNORE if s == "-" else int(s) for s in symbols])
    steps_of_no_length = {"copying": 4, "selective_copying": 3}.get(name, 0)
    check(name, *rows, len(rows[0]) - steps_of_no_length, make(name, **options))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_target_is_the_solver_s(name, options):
    task = make(name, **options, batch_size=16)
    for length in LENGTHS:
        if length >= task.shortest:
            for word, targets in draw(task, length):
                check(name, word, targets, length, task)
                assert any(target != IGNORE for target in targets)


def fair(values, possible):
    """Each of ``possible`` comes about as often as the others."""
    counts, share = Counter(values), 1 / len(possible)
    total = sum(counts.values())
    assert counts.keys() <= set(possible)
    for value in possible:
        assert abs(counts[value] - total * share) < 5 * (total * share * (1 - share)) ** 0.5 + 1e-9


def test_symbols_to_copy_are_fair():
    words = [word for word, _ in draw(make("copying", batch_size=4000), 5)]
    for place in range(10):
        fair([word[place] for word in words], range(8))


@pytest.mark.parametrize("relevant", [2, 3])
def test_orders_places_and_the_symbols_between_are_fair(relevant):
    sequences = draw(make("temporal_order", relevant=relevant, batch_size=4000), 100)
    fair([targets[-1] for _, targets in sequences], range(2**relevant))
    firsts = {2: (10, 50), 3: (10, 33, 66)}[relevant]  # the paper's own
    for number, first in enumerate(firsts):
        places = [[step for step, symbol in enumerate(word) if symbol in (4, 5)][number] for word, _ in sequences]
        fair(places, range(first, first + 11))
    fair([word[80] for word, _ in sequences], range(4))


def test_sets_of_places_are_fair():
    words = [word for word, _ in draw(make("selective_copying", alphabet=2, memorize=2, batch_size=8000), 4)]
    places = [tuple(step for step, symbol in enumerate(word) if symbol < 2) for word in words]
    fair(places, [(a, b) for a in range(4) for b in range(a + 1, 4)])
    fair([tuple(symbol for symbol in word if symbol < 2) for word in words], list(product(range(2), repeat=2)))


def test_noise_is_as_frequent_as_stated_and_keys_are_fair():
    task = make("noisy_recall", batch_size=500)
    sequences = draw(task, 128)
    firsts = [word[step] for word, _ in sequences for step in range(0, 126, 2)]
    share = sum(symbol >= 16 for symbol in firsts) / len(firsts)
    assert share == pytest.approx(0.2 * 62 / 63, abs=0.01)  # one pair of 63 is never noise
    fair([symbol for symbol in firsts if symbol < 16], range(8, 16))
    fair([symbol for symbol in firsts if symbol >= 16], range(16, 32))
    fair([word[1] for word, _ in sequences if word[0] < 16], range(8))


def test_the_last_key_is_any_of_those_before():
    task = make("noisy_recall", batch_size=20_000, vocab=4, noise=0.0)
    words = [word for word, _ in draw(task, 7) if sorted(word[:6:2]) == [2, 3, 3]]  # one key twice
    fair([word[6] for word in words], [2, 3])


def test_a_key_has_the_same_value_everywhere():
    known = {}
    for seed, split in product(range(2), ("train", "valid", "test")):
        batch = make("memorization", seed=seed, vocab=32).batch(split, seed)
        for word, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
            for key, value in zip(word[::2], targets[1::2], strict=True):
                assert known.setdefault(key, value) == value
    assert sorted(known) == list(range(15))
    assert len(set(known.values())) == 15
    assert set(known.values()) <= set(range(16))


def test_the_last_output_has_a_distribution_for_each_position():
    task = make("compression", alphabet=4, lengths=[3, 6], test_lengths=[9, 9], batch_size=5)
    assert task.output_size == 8 * 4
    for step in range(task.num_batches("valid")):
        batch = task.batch("valid", step)
        outputs = torch.randn(len(batch.inputs), 5, task.output_size, generator=torch.Generator().manual_seed(step))
        losses, rights = [], []
        for column, targets in enumerate(batch.targets.t().tolist()):
            for position, target in enumerate(targets):
                logits = outputs[-1, column, 4 * position : 4 * position + 4]
                losses.append(-float(logits.log_softmax(0)[target]))
                rights.append(int(logits.argmax()) == target)
        loss, accuracy = task.loss(outputs, batch), task.measure(outputs, batch)["accuracy"]
        assert int(loss.count) == len(losses) == 5 * (len(batch.inputs) - 1)
        assert float(loss.total) == pytest.approx(sum(losses), rel=1e-5)
        assert float(accuracy.total.mean()) == pytest.approx(sum(rights) / len(rights))


def test_a_finite_training_set_is_repeated_in_another_order():
    task = make("selective_copying", batch_size=2, examples=12)
    content = [tuple(task.batch("train", step).inputs.flatten().tolist()) for step in range(24)]
    epochs = [content[start : start + 6] for start in range(0, 24, 6)]
    assert len(set(content)) == 6
    assert all(set(epoch) == set(content) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    other = make("selective_copying", batch_size=2, examples=12, seed=1)
    assert not set(content) & {tuple(other.batch("train", step).inputs.flatten().tolist()) for step in range(6)}
    endless = make("selective_copying", batch_size=2)
    assert torch.equal(task.batch("valid", 3).inputs, endless.batch("valid", 3).inputs)
    assert content[:6] != [tuple(endless.batch("train", step).inputs.flatten().tolist()) for step in range(6)]


def test_recall_is_of_the_symbols_alone():
    task = make("copying")
    batch = task.batch("valid", 0)
    right = torch.nn.functional.one_hot(batch.targets, 9).float()
    blanks, symbols = right.clone(), right.clone()
    blanks[-10:] = right[-10:].roll(1, -1)
    symbols[:-10] = right[:-10].roll(1, -1)
    for outputs, expected in ((right, 1), (blanks, 0), (symbols, 1)):
        total, count = task.measure(outputs, batch)["accuracy"]
        assert float(total.sum() / count.sum()) == expected


def evaluate(task, split, predict):
    """Loss and accuracy of outputs ``predict(batch)`` over a split."""
    sums = {"loss": [0.0, 0.0], "accuracy": [0.0, 0.0]}
    for step in range(task.num_batches(split)):
        batch = task.batch(split, step)
        outputs = predict(batch)
        for name, mean in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
            sums[name] = [old + float(torch.as_tensor(new).sum()) for old, new in zip(sums[name], mean, strict=True)]
    return {name: total / count for name, (total, count) in sums.items()}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_chance_is_what_guessing_gets(name, options):
    lengths = [max(20, make(name, **options).shortest), 40]
    task = make(name, **options, lengths=lengths, batch_size=400, eval_batches=1)
    generator = torch.Generator().manual_seed(0)
    chance = next(iter(task.baselines("valid").values()))
    even = evaluate(task, "valid", lambda batch: torch.zeros(*batch.targets.shape, task.output_size))
    random = evaluate(
        task, "valid", lambda batch: torch.rand(*batch.targets.shape, task.output_size, generator=generator)
    )
    assert chance["loss"] == pytest.approx(even["loss"])
    assert chance["accuracy"] == pytest.approx(random["accuracy"], abs=0.02)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_the_memoryless_write_blanks_and_then_guess(split):
    task = make("copying", lengths=[1, 7], test_lengths=[10, 90, 40], batch_size=500, eval_batches=1)

    def predict(batch):
        outputs = torch.full((*batch.targets.shape, 9), -50.0)
        outputs[:-10, :, 8] = 0
        outputs[-10:, :, :8] = 0
        return outputs

    stated, found = task.baselines(split)["memoryless"], evaluate(task, split, predict)
    assert stated["loss"] == pytest.approx(found["loss"], rel=1e-5)
    assert stated["accuracy"] == pytest.approx(found["accuracy"], abs=0.01)
    hundred = make("copying").baselines(split)["memoryless"]
    assert hundred == {"loss": pytest.approx(10 * log(8) / 120), "accuracy": 1 / 8}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("copying", {"alphabet": 1}, r"task\.alphabet=1 must be at least 2"),
        ("copying", {"memorize": 0}, r"task\.memorize=0 must be at least 1"),
        ("temporal_order", {"relevant": 4}, r"task\.relevant=4 must be 2 or 3"),
        (
            "temporal_order",
            {"lengths": [9, 20]},
            r"task\.lengths is \[9, 20\]; the shortest length must be at least 10",
        ),
        ("selective_copying", {"alphabet": 1}, r"task\.alphabet=1 must be at least 2"),
        ("selective_copying", {"memorize": 0}, r"task\.memorize=0 must be at least 1"),
        (
            "selective_copying",
            {"lengths": [8, 64]},
            r"task\.lengths is \[8, 64\]; the shortest length must be at least 16",
        ),
        ("noisy_recall", {"vocab": 7}, r"task\.vocab=7 must be even"),
        ("noisy_recall", {"vocab": 2}, r"task\.vocab=2 must be even.* at least 4"),
        ("noisy_recall", {"noise_vocab": 0}, r"task\.noise_vocab=0 must be at least 1"),
        ("noisy_recall", {"examples": 100}, r"task\.examples=100 must be a positive multiple of task.batch_size=128"),
        ("memorization", {"examples": 0}, r"task\.examples=0 must be a positive multiple of .*=128, or null"),
        ("memorization", {"vocab": 4}, r"task\.vocab=4 must be at least 5"),
        ("compression", {"alphabet": 1}, r"task\.alphabet=1 must be at least 2"),
        ("compression", {"lengths": [1, 9]}, r"task\.lengths is \[1, 9\]; the shortest length must be at least 2"),
        ("noisy_recall", {"noise": 1.0}, r"task\.noise=1\.0 must be at least 0 and below 1"),
        (
            "noisy_recall",
            {"test_lengths": [2, 9]},
            r"task\.test_lengths is \[2, 9\]; the shortest length must be at least 3",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        make(name, **options)
