"""Targets against solvers that read one sequence token by token."""

import re
from collections import Counter
from itertools import permutations

import pytest
import torch

from rnnlab import tasks
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE

LENGTHS = [3, 4, 5, 8, 9, 12, 13, 16, 17, 31, 64, 100, 257]
SMALL = {  # options of the docstrings' examples, and what letters mean there
    "mqar": ({"vocab": 8, "pairs": 2}, {letter: n for n, letter in enumerate("abc.", start=4)}),
    "induction_heads": ({"vocab": 4}, {letter: n for n, letter in enumerate("abc*")}),
    "fuzzy_recall": (
        {"vocab": 8, "key_size": 2, "value_size": 2},
        {letter: n for n, letter in enumerate("abc.", start=4)},
    ),
}
CASES = [
    *((name, options) for name, (options, _) in SMALL.items()),
    ("mqar", {}),
    ("mqar", {"vocab": 4, "pairs": 1}),
    ("mqar", {"vocab": 34, "pairs": 16, "power": 1.0, "test_lengths": [64, 100], "lengths": [64, 64]}),
    ("mqar", {"vocab": 64, "random_filler": True}),
    ("induction_heads", {}),
    ("induction_heads", {"vocab": 3}),
    ("fuzzy_recall", {}),
    ("fuzzy_recall", {"vocab": 4, "key_size": 1, "value_size": 1}),
    ("fuzzy_recall", {"vocab": 5, "key_size": 2, "value_size": 1}),
    ("fuzzy_recall", {"vocab": 40, "key_size": 1, "value_size": 4}),
]


def mqar(word, task, targets):
    """Random filler may look like a query; which of them are is then taken from the targets."""
    known, asked, answer = {}, [], [IGNORE] * len(word)
    for step in range(0, 2 * task.pairs, 2):
        known[word[step]] = word[step + 1]
    for step in range(2 * task.pairs, len(word)):
        is_query = targets[step] != IGNORE if task.random_filler else word[step] in known
        if is_query:
            answer[step] = known[word[step]]
            asked.append(word[step])
    assert sorted(asked) == sorted(known)
    return answer


def induction_heads(word, task, targets):
    special = task.vocab - 1
    first, second = (step for step, token in enumerate(word) if token == special)
    assert second == len(word) - 1
    return [IGNORE] * second + [word[first + 1]]


def pairs_of(word, task):
    """The pairs of a word with fuzzy keys as (first step of the value, key, value); the last value lacks a token."""
    step = next(step for step, token in enumerate(word) if token != task.vocab - 1)
    while step < len(word):
        start = step
        while step < len(word) and word[step] >= task.output_size:
            step += 1
        middle = step
        while step < len(word) and word[step] < task.output_size:
            step += 1
        yield middle, tuple(word[start:middle]), word[middle:step]


def fuzzy_recall(word, task, targets):
    *earlier, (last, key, value) = pairs_of(word, task)
    known, answer = {}, [IGNORE] * len(word)
    for step, other, tokens in [*earlier, (last, key, [*value, targets[-1]])]:
        if other in known:
            answer[step - 1 : step - 1 + len(tokens)] = known[other]
        assert known.setdefault(other, tokens) == tokens
    assert key in {other for _, other, _ in earlier}
    return answer


def check_fuzzy_recall(word, task, targets):
    largest = task.key_size + task.value_size
    blanks = word.count(task.vocab - 1)
    assert set(word[:blanks]) <= {task.vocab - 1}
    assert blanks < 2 * largest - 2, "another pair would have had room"
    *earlier, (_, key, value) = pairs_of(word, task)
    for _, tokens, answer in [*earlier, (None, key, [*value, targets[-1]])]:
        assert 1 <= len(tokens) == len(set(tokens)) <= task.key_size
        assert 1 <= len(answer) == len(set(answer)) <= task.value_size


def check_mqar(word, task, targets):
    half, start = task.vocab // 2, 2 * task.pairs
    keys, values = word[:start:2], word[1:start:2]
    assert len(set(keys)) == len(set(values)) == task.pairs
    assert max(values) < half <= min(keys)
    assert max(keys) < task.vocab - 1
    queries = [step for step, target in enumerate(targets) if target != IGNORE]
    assert all((step - start) % 2 == 0 for step in queries)
    if not task.random_filler:
        assert {token for step, token in enumerate(word[start:], start) if step not in queries} <= {task.vocab - 1}


def check_induction_heads(word, task, targets):
    assert word[-2] != task.vocab - 1


def draw(task, length, seed=0):
    batch = task.draw(torch.Generator().manual_seed(seed), length)
    return list(zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True))


def make(name, **options):
    return tasks.find(name)(**options)


CHECKS = {
    "mqar": (check_mqar, mqar),
    "induction_heads": (check_induction_heads, induction_heads),
    "fuzzy_recall": (check_fuzzy_recall, fuzzy_recall),
}


def check(name, word, targets, task):
    check_word, solve = CHECKS[name]
    check_word(word, task, targets)
    assert targets == solve(word, task, targets)


@pytest.mark.parametrize("name", SMALL)
def test_the_docstring_s_example_is_one(name):
    options, letters = SMALL[name]
    lines = [line.strip() for line in tasks.find(name).__doc__.splitlines()]
    rows = []
    for row in ("inputs", "targets"):
        symbols = next(line for line in lines if line.startswith(f"{row}  ")).removeprefix(row).strip()
        symbols = re.split(" {4,}", symbols)[0].split()
        rows.append([letters[s] if s in letters else IGNORE if s == "-" else int(s) for s in symbols])
    check(name, *rows, make(name, **options))


@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_target_is_the_solver_s(name, options):
    task = make(name, **options, batch_size=16)
    for length in LENGTHS:
        if length >= task.shortest:
            for word, targets in draw(task, length):
                assert len(word) == length
                check(name, word, targets, task)


def fair(values, possible):
    """Each of ``possible``, or each key of it with its probability, comes as often as it should."""
    shares = possible if isinstance(possible, dict) else dict.fromkeys(possible, 1 / len(possible))
    counts = Counter(values)
    total = sum(counts.values())
    assert counts.keys() <= shares.keys()
    for value, share in shares.items():
        assert abs(counts[value] - total * share) < 5 * (total * share * (1 - share)) ** 0.5 + 1e-9


@pytest.mark.parametrize("power", [0.01, 0.5, 1.0])
def test_queries_come_at_places_drawn_one_after_another(power):
    """The probability of every sequence of places, by the definition of a draw without replacement."""
    weights = [n ** (power - 1) for n in range(1, 6)]
    shares = {}
    for places in permutations(range(5), 2):
        first, second = (weights[place] for place in places)
        shares[places] = first / sum(weights) * second / (sum(weights) - first)
    assert sum(shares.values()) == pytest.approx(1)
    found = []
    for word, _ in draw(make("mqar", vocab=16, pairs=2, power=power, batch_size=20_000), 14):
        found.append(tuple((word.index(key, 4) - 4) // 2 for key in word[:4:2]))
    fair(found, shares)


def test_keys_and_values_are_fair():
    words = [word for word, _ in draw(make("mqar", vocab=8, pairs=2, batch_size=20_000), 8)]
    fair([(word[0], word[2]) for word in words], list(permutations(range(4, 7), 2)))
    fair([(word[1], word[3]) for word in words], list(permutations(range(4), 2)))


def test_filler_is_any_token():
    words = [word for word, _ in draw(make("mqar", vocab=8, pairs=1, random_filler=True, batch_size=8000), 9)]
    for step in (3, 5, 7, 8):
        fair([word[step] for word in words], range(8))


def test_the_special_token_stands_anywhere():
    sequences = draw(make("induction_heads", vocab=5, batch_size=8000), 10)
    fair([word.index(4) for word, _ in sequences], range(8))
    fair([targets[-1] for _, targets in sequences], range(4))
    fair([word[8] for word, _ in sequences], range(4))


def test_fuzzy_keys_and_values_are_fair():
    task = make("fuzzy_recall", batch_size=20_000, vocab=8, key_size=2, value_size=2)
    pairs = [list(pairs_of(word, task))[-2] for word, _ in draw(task, 11)]  # it has room whatever its size
    keys = [(4 + one,) for one in range(3)] + [(4 + one, 4 + other) for one, other in permutations(range(3), 2)]
    fair([key for _, key, _ in pairs], {key: 1 / 6 if len(key) == 1 else 1 / 12 for key in keys})
    values = [(one,) for one in range(4)] + list(permutations(range(4), 2))
    fair([tuple(value) for *_, value in pairs], {value: 1 / 8 if len(value) == 1 else 1 / 24 for value in values})


def test_the_last_fuzzy_key_is_that_of_any_earlier_pair():
    task = make("fuzzy_recall", batch_size=8000, vocab=65, key_size=1, value_size=1)
    words = [word[:9:2] for word, _ in draw(task, 9)]  # five pairs
    fair([keys.index(keys[-1]) for keys in words if len(set(keys)) == 4], range(4))


def test_evaluation_has_keys_of_the_largest_size():
    task = make("fuzzy_recall", batch_size=8)
    for split in ("valid", "test", "train"):
        words = task.batch(split, 0).inputs.t().tolist()
        sizes = {len(key) for word in words for _, key, _ in pairs_of(word, task)}
        assert sizes == ({1, 2, 3} if split == "train" else {3})


MIXTURE = {"vocab": 64, "mixture": [[16, 4, 3], [24, 2], [20, 4]], "test_mixture": [[40, 10], [20, 5]]}


def test_a_mixture_has_every_part():
    task = make("mqar", **MIXTURE, batch_size=4, eval_batches=2)
    drawn = []
    for split, parts in (("train", None), ("valid", MIXTURE["mixture"]), ("test", MIXTURE["test_mixture"])):
        steps = range(task.num_batches(split)) if parts else range(500)
        for step in steps:
            batch = task.batch(split, step)
            pairs = (batch.targets != IGNORE).sum(0).tolist()
            assert len(set(pairs)) == 1
            assert task.lengths(split, step).tolist() == pairs
            found = [len(batch.inputs), pairs[0]]
            if parts:
                assert found == parts[step // 2][:2]
            else:
                drawn.append(tuple(found))
            for word, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
                known = dict(zip(word[: 2 * pairs[0] : 2], word[1 : 2 * pairs[0] : 2], strict=True))
                queries = [step for step, token in enumerate(word) if token in known and step >= 2 * pairs[0]]
                assert len(known) == len(queries) == pairs[0]
                assert targets == [known[word[step]] if step in queries else IGNORE for step in range(len(word))]
    fair(drawn, {(16, 4): 0.6, (24, 2): 0.2, (20, 4): 0.2})
    assert make("mqar", mixture=[[16, 4], [24, 4]]).lengths("valid", 0) is None
    assert make("mqar", vocab=6, mixture=[[8, 2]]).batch("train", 0).inputs.max() == 5
    digests = {make("mqar", **options).data_digest() for options in ({}, {"mixture": [[64, 4]]}, MIXTURE)}
    assert len(digests) == 3


def test_value_seen_is_the_mean_over_the_parts():
    task = make("mqar", **MIXTURE, batch_size=50, eval_batches=1)

    def predict(batch):
        outputs = torch.full((*batch.targets.shape, 32), -50.0)
        pairs = int((batch.targets[:, 0] != IGNORE).sum())
        return outputs.scatter(2, batch.inputs[1 : 2 * pairs : 2].t().expand(len(outputs), -1, -1), 0.0)

    found, stated = evaluate(task, predict), task.baselines("valid")["value seen"]
    assert found["loss"] == pytest.approx(stated["loss"], rel=1e-5)
    assert found["accuracy"] == pytest.approx(stated["accuracy"], abs=0.05)


def evaluate(task, predict):
    """Loss and accuracy of outputs ``predict(batch)`` over the validation."""
    sums = {"loss": [0.0, 0.0], "accuracy": [0.0, 0.0]}
    for step in range(task.num_batches("valid")):
        batch = task.batch("valid", step)
        outputs = predict(batch)
        for name, mean in {"loss": task.loss(outputs, batch), **task.measure(outputs, batch)}.items():
            sums[name] = [old + float(torch.as_tensor(new).sum()) for old, new in zip(sums[name], mean, strict=True)]
    return {name: total / count for name, (total, count) in sums.items()}


@pytest.mark.parametrize(("name", "options"), CASES)
def test_chance_is_what_guessing_gets(name, options):
    task = make(name, **options | {"lengths": [64, 64]}, batch_size=1000, eval_batches=1)
    generator = torch.Generator().manual_seed(0)
    chance = next(iter(task.baselines("valid").values()))
    even = evaluate(task, lambda batch: torch.zeros(*batch.targets.shape, task.output_size))
    random = evaluate(task, lambda batch: torch.rand(*batch.targets.shape, task.output_size, generator=generator))
    assert chance["loss"] == pytest.approx(even["loss"])
    assert chance["accuracy"] == pytest.approx(random["accuracy"], abs=0.05)


def test_value_seen_is_any_of_the_sequence_s_own():
    task = make("mqar", vocab=32)

    def predict(batch):
        outputs = torch.full((*batch.targets.shape, 16), -50.0)
        values = batch.inputs[1:8:2].t().expand(len(outputs), -1, -1)
        return outputs.scatter(2, values, 0.0)  # the first of equals counts as the most probable

    found, stated = evaluate(task, predict), task.baselines("valid")["value seen"]
    assert found == {name: pytest.approx(value, rel=1e-5) for name, value in stated.items()}


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("mqar", {"pairs": 0}, r"task\.pairs=0 must be at least 1"),
        ("mqar", {"vocab": 9}, r"task\.vocab=9 must be even, and at least 10 for task.pairs=4"),
        ("mqar", {"vocab": 8}, r"task\.vocab=8 must be even, and at least 10 for task.pairs=4"),
        ("mqar", {"power": 0}, r"task\.power=0 must be above 0"),
        ("mqar", {"power": float("inf")}, r"task\.power=inf must be .* at most 1"),
        ("mqar", {"pairs": 17}, r"task\.lengths is \[64, 64\]; the shortest length must be at least 68"),
        ("mqar", {"mixture": []}, r"task\.mixture is empty"),
        ("mqar", {"mixture": [[15, 4]]}, r"task\.mixture has the part \[15, 4\]; .* at least 4 steps for each pair"),
        ("mqar", {"mixture": [[16, 4, 0]]}, r"give \[length, pairs\] or \[length, pairs, weight\]"),
        ("mqar", {"mixture": [[16, 4]], "test_mixture": [[16, 4, 1]]}, r"task\.test_mixture has the part \[16, 4, 1\]"),
        ("mqar", {"mixture": [[16, 4]], "pairs": 5}, r"task\.mixture replaces task\.pairs=5"),
        ("mqar", {"mixture": [[16, 4]], "lengths": [9, 64]}, r"task\.mixture replaces task\.lengths=\[9, 64\]"),
        ("mqar", {"test_mixture": [[16, 4]]}, r"task\.test_mixture needs task\.mixture"),
        ("mqar", {"mixture": [[1024, 256]]}, r"task\.vocab=512 must be even, and at least 514 for task.pairs=256"),
        ("fuzzy_recall", {"key_size": 0}, r"task\.key_size=0 must be at least 1"),
        ("fuzzy_recall", {"vocab": 6}, r"task\.vocab=6 must be at least 7 for task\.key_size=3 and task\.value_size=3"),
        ("fuzzy_recall", {"lengths": [10, 64]}, r"the shortest length must be at least 11"),
        ("induction_heads", {"vocab": 2}, r"task\.vocab=2 must be at least 3"),
        ("induction_heads", {"lengths": [2, 9]}, r"task\.lengths is \[2, 9\]; the shortest length must be at least 3"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        make(name, **options)
