"""Regular and context-free languages: targets against solvers for one word at a time, on strings."""

from itertools import permutations, product
from math import log

import pytest
import torch

from rnnlab import tasks
from rnnlab.interface import InputError
from rnnlab.outputs import IGNORE

ALPHABETS = {  # of words, then of answers; the marker | and the unscored - are added
    "parity": ("ab", "01"),
    "even_pairs": ("ab", "01"),
    "cycle_navigation": ("<=>", "01234"),
    "modular_arithmetic": ("01234+-*", "01234"),
    "reverse_string": ("ab", "ab"),
    "stack_manipulation": ("abxAB", "ab."),
    "modular_arithmetic_brackets": ("01234+~*()", "01234"),
    "solve_equation": ("01234+~*()x=", "01234"),
}
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 17, 40, 41, 120, 500]


def stack_manipulation(word):
    stack = []
    for symbol in word:
        if symbol == "x":
            stack = stack[:-1]
        else:
            stack.append(symbol.lower())
    return ("".join(reversed(stack)) + ".").ljust(len(word) + 1, "a")


def solve_equation(word):
    left, right = word.replace("~", "-").split("=")
    solutions = [x for x in range(5) if eval(left, {"x": x}) % 5 == int(right)]
    assert len(solutions) == 1
    return str(solutions[0])


SOLVERS = {
    "parity": lambda word: str(word.count("b") % 2),
    "even_pairs": lambda word: str(sum(word[i : i + 2] in ("ab", "ba") for i in range(len(word))) % 2),
    "cycle_navigation": lambda word: "01234"[(word.count(">") - word.count("<")) % 5],
    "modular_arithmetic": lambda word: str(eval(word) % 5),
    "reverse_string": lambda word: "".join(reversed(word)),
    "stack_manipulation": stack_manipulation,
    "modular_arithmetic_brackets": lambda word: str(eval(word.replace("~", "-")) % 5),
    "solve_equation": solve_equation,
}
EXAMPLES = {
    "parity": ("abbab", "1"),
    "even_pairs": ("abbab", "1"),
    "cycle_navigation": (">><=>", "2"),
    "modular_arithmetic": ("2+3*4-1", "3"),
    "reverse_string": ("abb", "bba"),
    "stack_manipulation": ("abBxxA", "aa.aaaa"),
    "modular_arithmetic_brackets": ("((2*4)~(~1))", "4"),
    "solve_equation": ("((x+4)~1)=0", "2"),
}


def spell(name, length, batch_size=8, seed=0):
    """Inputs and targets of a batch as pairs of strings."""
    task = tasks.find(name)(batch_size=batch_size)
    batch = task.draw(torch.Generator().manual_seed(seed), length)
    words, answers = ALPHABETS[name]
    assert (task.symbols, task.output_size) == (len(words), len(answers))
    assert task.input.size == len(words) + 1
    for inputs, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
        yield (
            "".join((words + "|")[token] for token in inputs),
            "".join("-" if token == IGNORE else answers[token] for token in targets),
        )


@pytest.mark.parametrize("name", SOLVERS)
def test_the_answers_are_right(name):
    lengths = [length for length in LENGTHS if length >= tasks.find(name).shortest]
    drawn = [(length, *one) for length in lengths for one in spell(name, length)]
    for length, inputs, targets in drawn:
        word = inputs.rstrip("|")
        assert len(word) == length - (name == "modular_arithmetic" and length % 2 == 0)
        answer = SOLVERS[name](word)
        assert inputs == word + "|" * len(answer)
        assert targets == "-" * len(word) + answer


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_of_the_docstring(name):
    word, answer = EXAMPLES[name]
    assert SOLVERS[name](word) == answer
    said = tasks.find(name).__doc__.replace(" ", "")
    plain = word.replace("~", "-")
    assert f"inputs{plain}{'|' * len(answer)}" in said
    assert f"targets{'-' * len(word)}{answer}" in said


def expressions(length, operators):
    """Every expression with brackets, and its probability."""
    digits = [(str(digit), 0.2) for digit in range(5)]
    if length < 5:
        shape = ["{}", "~{}", "({})", "(~{})"][length - 1]
        return {shape.format(digit): share for digit, share in digits}
    found = {}
    for left in range(1, length - 3):
        sides = expressions(left, operators).items(), expressions(length - 3 - left, operators).items()
        for (a, share), (b, other), operator in product(*sides, operators):
            found[f"({a}{operator}{b})"] = share * other / len(operators) / (length - 4)
    return found


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 6, 7])
def test_every_expression_with_brackets_has_its_probability(length):
    drawn, expected = 20_000, expressions(length, "+~*")
    assert sum(expected.values()) == pytest.approx(1)
    counts = dict.fromkeys(expected, 0)
    for inputs, _ in spell("modular_arithmetic_brackets", length, drawn):
        counts[inputs.rstrip("|")] += 1
    for word, share in expected.items():
        assert abs(counts[word] - drawn * share) < 5 * (drawn * share) ** 0.5


def test_the_baseline_of_brackets_is_the_probability_of_zero():
    zeros = [
        sum(share for word, share in expressions(length, "+~*").items() if eval(word.replace("~", "-")) % 5 == 0)
        for length in range(1, 11)
    ]
    task = tasks.find("modular_arithmetic_brackets")(lengths=[1, 10], test_lengths=[9, 10])
    assert task.baselines("valid")["always 0"]["accuracy"] == pytest.approx(sum(zeros) / 10)
    assert task.baselines("test")["always 0"]["accuracy"] == pytest.approx(sum(zeros[-2:]) / 2)


def test_expressions_of_one_batch_differ_in_shape():
    shapes = {"".join(c if c in "()" else "." for c in word) for word, _ in spell("solve_equation", 40, 64)}
    assert len(shapes) > 60


def test_x_stands_where_the_authors_put_it():
    """At the first digit from a random place on, the expression's end being followed by its beginning."""
    counts = [0] * 5
    for word, _ in spell("solve_equation", 7, 20_000):  # of the expression (d+d), digits at 1 and 3
        counts[word.index("x")] += 1
    assert counts[1] == pytest.approx(20_000 * 3 / 5, abs=350)  # after 4, 0 and 1
    assert counts[3] == pytest.approx(20_000 * 2 / 5, abs=350)


@pytest.mark.parametrize("name", ["parity", "even_pairs", "cycle_navigation", "modular_arithmetic", "solve_equation"])
def test_every_answer_is_as_frequent_as_any_other(name):
    task = tasks.find(name)(batch_size=10_000)
    targets = task.draw(torch.Generator().manual_seed(0), 31).targets[-1]
    shares = torch.bincount(targets, minlength=task.output_size) / 10_000
    assert (shares - 1 / task.output_size).abs().max() < 0.02  # four standard errors


def table(name):
    """The rows of the docstring's example, without blanks."""
    lines = [line.strip() for line in tasks.find(name).__doc__.splitlines()]
    rows = [next(line for line in lines if line.startswith(row)).removeprefix(row) for row in ("inputs", "targets")]
    return [row.strip().split("   ")[0].replace(" ", "") for row in rows]


def columns(task, batch, symbols, answers):
    """Inputs and targets of a batch as pairs of strings."""
    assert (task.input.size, task.output_size) == (len(symbols), len(answers))
    for inputs, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
        yield (
            "".join(symbols[token] for token in inputs),
            "".join("-" if token == IGNORE else answers[token] for token in targets),
        )


def accuracies(task, split, batches, predict, name="accuracy"):
    """The mean of a metric for who answers with the classes ``predict(batch)``."""
    total = count = 0.0
    for step in range(batches):
        batch = task.batch(split, step)
        outputs = torch.nn.functional.one_hot(predict(batch), task.output_size).float()
        metric = task.measure(outputs, batch)[name]
        total, count = total + float(metric.total.sum()), count + float(metric.count.sum())
    return total / count


COUNTING = {"a_n_b_n": "ab|", "a_n_b_n_c_n": "abc|"}


@pytest.mark.parametrize("name", COUNTING)
@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_counting_words_are_those_with_the_same_number_of_each_letter(name, split):
    symbols, seen = COUNTING[name], []
    task = tasks.find(name)(lengths=[1, 9], test_lengths=[10, 100, 30], batch_size=4)
    for step in range(50 if split == "train" else task.num_batches(split)):
        batch = task.batch(split, step)
        numbers = task.lengths(split, step).tolist()
        for (inputs, targets), n in zip(columns(task, batch, symbols, symbols), numbers, strict=True):
            word = "".join(letter * n for letter in symbols[:-1])
            answer = "a" + "-" * n + word[n + 1 :] + "|"
            assert inputs == ("|" + word).ljust(len(inputs), "|")
            assert targets == answer.ljust(len(targets), "-")
        assert batch.lengths.tolist() == [len(symbols[:-1]) * n + 1 for n in numbers]
        seen += numbers
    if split == "train":
        assert set(seen) == set(range(1, 10))
    else:
        assert seen == [*range(1, 10)] if split == "valid" else [10, 40, 70, 100]


@pytest.mark.parametrize("name", COUNTING)
def test_the_example_of_counting_is_drawn(name):
    task = tasks.find(name)(lengths=[2, 3], test_lengths=[2, 3], batch_size=1)
    found = [next(columns(task, task.batch("valid", step), COUNTING[name], COUNTING[name])) for step in (0, 1)]
    assert tuple(table(name)) in found


@pytest.mark.parametrize("name", COUNTING)
def test_a_word_is_accepted_if_all_of_it_is_right(name):
    task = tasks.find(name)(lengths=[1, 9], test_lengths=[10, 100, 30], batch_size=5)
    boundary = len(COUNTING[name]) - 1
    for split in ("valid", "test"):
        batches, baselines = task.num_batches(split), task.baselines(split)

        def last_letter(batch):
            return batch.inputs.where(torch.arange(len(batch.inputs))[:, None] > 0, 0)

        for metric, value in baselines["last letter"].items():
            assert accuracies(task, split, batches, last_letter, metric) == pytest.approx(value)
        assert accuracies(task, split, batches, lambda batch: batch.targets.clamp_min(0), "accepted") == 1
        steps = [[1 + (boundary - 1) * n for n in range(1, 10)], [1 + (boundary - 1) * n for n in (10, 40, 70, 100)]]
        accepted = [sum((boundary + 1) ** -count for count in counts) / len(counts) for counts in steps]
        assert baselines["chance"]["accepted"] == pytest.approx(accepted[split == "test"])
        assert baselines["chance"]["accuracy"] == pytest.approx(1 / (boundary + 1))
        assert baselines["chance"]["loss"] == pytest.approx(log(boundary + 1))


def last_open(word):
    """What can be closed after every beginning of a word of brackets."""
    pairs, stack = dict(zip(")]}>", "([{<", strict=True)), []
    for bracket in word:
        if bracket in pairs:
            assert stack.pop() == pairs[bracket]
        else:
            stack.append(bracket)
        yield len(stack), stack[-1] if stack else "."


@pytest.mark.parametrize(("types", "depth"), [(1, None), (2, None), (4, None), (1, 1), (2, 1), (2, 3), (4, 5)])
def test_brackets_are_well_nested_and_the_innermost_is_named(types, depth):
    task = tasks.find("dyck")(types=types, depth=depth, batch_size=8)
    opening, closing = "([{<"[:types], ")]}>"[:types]
    batches = {length: task.draw(torch.Generator().manual_seed(length), length) for length in LENGTHS}
    drawn = ((n, column) for n in LENGTHS for column in columns(task, batches[n], opening + closing, opening + "."))
    for length, (word, answer) in drawn:
        depths, innermost = zip(*last_open(word), strict=True)
        assert answer == "".join(innermost)
        assert depth is None or max(depths) <= depth
        if depth is not None and length >= 120:
            assert max(depths) == depth


def test_the_example_of_brackets_is_drawn():
    task = tasks.find("dyck")(batch_size=8192)
    word, answer = table("dyck")
    batch = task.draw(torch.Generator().manual_seed(0), len(word))
    assert dict(columns(task, batch, "([)]", "([."))[word] == answer


@pytest.mark.parametrize("depth", [None, 1, 2, 3])
def test_brackets_open_and_close_with_equal_probability(depth):
    """Every word of seven brackets by its probability: a half wherever both is possible, and a half for each type."""
    drawn, counts = 20_000, {}
    task = tasks.find("dyck")(depth=depth, batch_size=drawn)
    for word, _ in columns(task, task.draw(torch.Generator().manual_seed(0), 7), "([)]", "([."):
        counts[word] = counts.get(word, 0) + 1
    for word, count in counts.items():
        share, opens = 1.0, 0
        for bracket in word:
            share *= 1 if opens in (0, depth) else 0.5
            share *= 0.5 if bracket in "([" else 1
            opens += 1 if bracket in "([" else -1
        assert abs(count - drawn * share) < 5 * (drawn * share) ** 0.5 + 1


@pytest.mark.parametrize(("types", "depth"), [(1, None), (2, None), (3, 1), (2, 2), (3, 4)])
def test_the_baseline_of_nesting_is_what_who_names_the_last_type_gets(types, depth):
    task = tasks.find("dyck")(types=types, depth=depth, lengths=[1, 12], test_lengths=[20, 60, 40], batch_size=2000)
    for split in ("valid", "test"):
        found = accuracies(task, split, task.num_batches(split), lambda batch: batch.inputs % types)
        assert task.baselines(split)["last bracket"]["accuracy"] == pytest.approx(found, abs=0.01)


def elements(group):
    """The elements of a group as permutations, in the task's order, 0 first."""
    if group == "Z60":
        return [tuple((i + k) % 60 for i in range(60)) for k in range(60)]
    if group == "A4xZ5":
        shifts = [tuple(4 + (i + k) % 5 for i in range(5)) for k in range(5)]
        return [one + shift for one in elements("A4") for shift in shifts]
    size = int(group[1])
    even = {p: sum(p[i] > p[j] for j in range(size) for i in range(j)) % 2 == 0 for p in permutations(range(size))}
    return [p for p in sorted(even) if even[p] or group[0] == "S"]


@pytest.mark.parametrize(
    ("group", "order"), [("S3", 6), ("S4", 24), ("S5", 120), ("A5", 60), ("A4xZ5", 60), ("Z60", 60)]
)
@pytest.mark.parametrize("length", [1, 2, 3, 17, 100])
def test_products_are_those_of_permutations(group, order, length):
    task, members = tasks.find("word_problem")(group=group, batch_size=8), elements(group)
    assert task.input.size == task.output_size == len(members) == order
    batch = task.draw(torch.Generator().manual_seed(length), length)
    for word, targets in zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True):
        places = tuple(range(len(members[0])))
        for element, target in zip(word, targets, strict=True):
            places = tuple(members[element][place] for place in places)
            assert members[target] == places


def test_the_example_of_products_is_right():
    word, answer = table("word_problem")
    members, places = elements("S3"), (0, 1, 2)
    assert ["".join(map(str, member)) for member in members] == ["012", "021", "102", "120", "201", "210"]
    for element, target in zip(word, answer, strict=True):
        places = tuple(members[int(element)][place] for place in places)
        assert members[int(target)] == places


@pytest.mark.parametrize("group", ["S3", "S5", "Z60"])
def test_every_element_is_as_probable_as_any_other(group):
    task = tasks.find("word_problem")(group=group, batch_size=10_000, lengths=[1, 6], test_lengths=[7, 8])
    for tokens in task.draw(torch.Generator().manual_seed(0), 3).inputs:
        shares = torch.bincount(tokens, minlength=task.output_size) / 10_000
        assert (shares * task.output_size - 1).abs().max() < 5 * (task.output_size / 10_000) ** 0.5
    for split in ("valid", "test"):
        found = accuracies(task, split, task.num_batches(split), lambda batch: batch.inputs)
        assert task.baselines(split)["last element"]["accuracy"] == pytest.approx(found, abs=0.01)


def test_a_product_may_be_right_at_the_last_step_or_at_every_step():
    task = tasks.find("word_problem")(group="S3", lengths=[1, 4], test_lengths=[5, 6], batch_size=500, by_length="last")
    assert task.length_metric == "last"
    sums = {split: {"last": 0.0, "whole": 0.0} for split in ("valid", "test")}
    for split in sums:
        for step in range(task.num_batches(split)):
            batch = task.batch(split, step)
            outputs = torch.nn.functional.one_hot(batch.inputs, 6).float()  # repeats the last element
            pairs = zip(batch.inputs.t().tolist(), batch.targets.t().tolist(), strict=True)
            rows = [[one == other for one, other in zip(*pair, strict=True)] for pair in pairs]
            expected = {"accuracy": [sum(row) / len(row) for row in rows]}
            expected |= {"last": [row[-1] for row in rows], "whole": [all(row) for row in rows]}
            found = task.measure(outputs, batch)
            assert {name: mean.total.tolist() for name, mean in found.items()} == {
                name: pytest.approx(list(map(float, values))) for name, values in expected.items()
            }
            for name in sums[split]:
                sums[split][name] += sum(expected[name]) / len(rows) / task.num_batches(split)
        stated = task.baselines(split)["last element"]
        assert sums[split] == {name: pytest.approx(stated[name], abs=0.03) for name in sums[split]}


def test_the_baseline_of_the_stack_is_that_of_its_letters():
    task = tasks.find("stack_manipulation")(lengths=[1, 10])
    shares = []
    for step in range(task.num_batches("valid")):
        answers = "".join("ab."[s] if s != IGNORE else " " for s in task.batch("valid", step).targets.t().flatten())
        counted = "".join(answer.split(".")[0] + "." for answer in answers.split())
        shares.append(counted.count("b") / len(counted))
    assert task.baselines("valid")["always 1"]["accuracy"] == pytest.approx(sum(shares) / len(shares))


def test_a_curriculum_lengthens_the_words():
    task = tasks.find("parity")(lengths=[2, 9], curriculum=[4, 10])
    longest = [
        max(len(task.batch("train", step).inputs) - 1 for step in range(first, first + 10)) for first in (0, 200)
    ]
    assert longest[0] <= 4
    assert 8 <= longest[1] <= 9
    assert {len(task.batch("train", step).inputs) - 1 for step in range(300, 400)} == set(range(2, 10))
    assert [len(task.batch("valid", step).inputs) - 1 for step in range(task.num_batches("valid"))] == [*range(2, 10)]


def test_a_test_may_leave_lengths_out():
    task = tasks.find("parity")(test_lengths=[41, 60, 9], eval_batches=2)
    lengths = [int(task.lengths("test", step)[0]) for step in range(task.num_batches("test"))]
    assert lengths == [41, 41, 50, 50, 59, 59]
    assert [len(task.batch("test", step).inputs) - 1 for step in range(6)] == lengths


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"lengths": [5, 4]}, r"task.lengths is \[5, 4\]; give the shortest and the longest length"),
        ({"lengths": [4]}, "give the shortest and the longest length"),
        ({"lengths": [0, 4]}, "the shortest length must be at least 1"),
        ({"test_lengths": [1, 2, 0]}, r"task.test_lengths is \[1, 2, 0\]"),
        ({"curriculum": [4]}, "the initial longest length, from 1 to 40"),
        ({"curriculum": [41, 10]}, "the initial longest length, from 1 to 40"),
        ({"curriculum": [4, 0]}, "the number of training steps between increases"),
        ({"batch_size": 0}, "task.batch_size=0 must be at least 1"),
        ({"eval_batches": 0}, "task.eval_batches=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(options, says):
    with pytest.raises(InputError, match=says):
        tasks.find("parity")(**options)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("solve_equation", {"lengths": [2, 4]}, "the shortest length must be at least 3"),
        ("a_n_b_n", {"lengths": [0, 4]}, "the shortest length must be at least 1"),
        ("a_n_b_n_c_n", {"batch_size": 0}, "task.batch_size=0 must be at least 1"),
        ("dyck", {"types": 0}, "task.types=0 must be at least 1"),
        ("dyck", {"depth": 0}, "task.depth=0 must be at least 1, or null for unlimited depth"),
        ("word_problem", {"group": "Z7"}, "task.group='Z7' must be one of S3, S4, S5, A5, A4xZ5, Z60"),
        ("word_problem", {"by_length": "loss"}, "task.by_length='loss' must be accuracy, last or whole"),
    ],
)
def test_what_one_task_cannot_do_is_refused(name, options, says):
    with pytest.raises(InputError, match=says):
        tasks.find(name)(**options)
