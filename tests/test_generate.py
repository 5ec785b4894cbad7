"""Speaking: streaming, drawing, conversation, pipes."""

import functools
import signal
import subprocess
import tracemalloc
import unicodedata

import processes
import pytest
import torch
from outside.reversal import Reversal

from rnnlab import config
from rnnlab.interface import Batch, InputError
from rnnlab.outputs import draw_categorical
from rnnlab.text import Alphabet, Speaker
from rnnlab.training import load, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small trained character model."""
    folder = tmp_path_factory.mktemp("speaking")
    (folder / "text.txt").write_text("the cat sat on the mat.\n" * 200)
    options = ["model.hidden_size=24", "task.batch_size=4", "task.seq_len=16", "trainer.steps=150", "optimizer.lr=0.02"]
    quiet = ["logger.tensorboard=false", "logger.progress=false"]
    train(config.compose([*options, *quiet, f"task.corpus={folder}/text.txt", f"run_dir={folder}/run"]))
    (folder / "text.txt").unlink()  # what a trained model needs travels with it
    return folder / "run"


def command(*arguments, **options):
    return processes.rnnlab("generate", *arguments, **options)


def test_the_command_prints_the_prompt_and_what_follows(run):
    done = command(f"run={run}", "prompt=the c", "length=30", "temperature=0")
    assert done.stdout.startswith("the cat sat on the mat.")
    assert len(done.stdout) == len("the c") + 30 + 1
    assert done.returncode == 0
    assert done.stderr == ""


def test_the_same_seed_says_the_same_and_another_something_else(run):
    said = [command(f"run={run}", "prompt=t", "temperature=1.5", f"seed={seed}").stdout for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2]


def test_a_step_at_a_time_is_what_one_forward_pass_predicts(run):
    task, model, _ = load(run, "cpu")
    text = "".join(task.speaker(model, temperature=0, top_k=0, seed=0).generate("the ", 20))
    tokens = task.vocabulary.encode(text).unsqueeze(1)
    outputs, _ = model(Batch(tokens[:-1], tokens[1:]))
    assert outputs.argmax(-1)[3:, 0].tolist() == tokens[4:, 0].tolist()


def test_drawing_follows_the_probabilities():
    logits = torch.tensor([0.7, 0.2, 0.1]).log().expand(20_000, 3)
    drawn = draw_categorical(logits, 1.0, 0, torch.Generator().manual_seed(0)).bincount(minlength=3) / 20_000
    torch.testing.assert_close(drawn, torch.tensor([0.7, 0.2, 0.1]), atol=0.015, rtol=0)  # four standard errors
    colder = draw_categorical(logits, 0.5, 0, torch.Generator().manual_seed(0)).bincount(minlength=3) / 20_000
    expected = torch.tensor([0.49, 0.04, 0.01]) / 0.54
    torch.testing.assert_close(colder, expected, atol=0.015, rtol=0)


def test_top_k_never_draws_beyond_the_k_most_probable():
    logits = torch.tensor([1.0, 3.0, 2.0, 0.0]).expand(500, 4)
    drawn = draw_categorical(logits, 2.0, 2, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {1, 2}
    assert set(draw_categorical(logits, 0, 0, torch.Generator()).tolist()) == {1}


TIES = torch.tensor([1.0, 2.0, 2.0, 0.0, 2.0])


@pytest.mark.parametrize(
    ("top_k", "drawn"), [(1, {1}), (2, {1, 2}), (3, {1, 2, 4}), (4, {0, 1, 2, 4}), (9, set(range(5)))]
)
def test_top_k_takes_exactly_k_of_equally_probable_classes_the_first(top_k, drawn):
    found = draw_categorical(TIES.expand(2, 500, 5), 1.0, top_k, torch.Generator().manual_seed(0))
    assert found.shape == (2, 500)
    assert set(found.flatten().tolist()) == drawn


@pytest.mark.parametrize("temperature", [1e-3, 1e-20, 1e-38, 1e-39, 1e-45, 1e-300, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_a_tiny_temperature_takes_the_most_probable_class(temperature, scale):
    logits = scale * torch.randn(50, 7, generator=torch.Generator().manual_seed(0))
    if temperature < 1e-5 * scale:
        assert torch.equal(draw_categorical(logits, temperature, 0, torch.Generator()), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e10, 1e300])
def test_a_huge_temperature_draws_every_class_alike(temperature):
    drawn = draw_categorical(
        torch.tensor([9.0, 0.0]).expand(20_000, 2), temperature, 0, torch.Generator().manual_seed(0)
    )
    assert float(drawn.float().mean()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_outputs_that_are_not_finite_are_refused(wrong):
    for temperature in (0, 1.0):
        with pytest.raises(InputError, match="outputs of the model are not finite"):
            draw_categorical(torch.tensor([[0.0, wrong]]), temperature, 0, torch.Generator())


@pytest.mark.parametrize("prompt", ["'\"", "a=[b", "${oc.env:HOME}", "x\ny", "=="])
def test_a_prompt_is_literal_text(run, prompt):
    done = command(f"run={run}", f"prompt={prompt}")
    unknown = next(character for character in prompt if character not in "the cat sat on the mat.\n")
    assert done.returncode == 2
    assert (
        f"the character {unknown!r} is not in the model's vocabulary" in done.stderr
    )  # it came through as it was given
    assert done.stdout == ""


def test_an_empty_prompt_is_refused_by_the_speaker(run):
    task, model, _ = load(run, "cpu")
    with pytest.raises(InputError, match="the prompt is empty"):
        list(task.speaker(model, 1.0, 0, 0).generate("", 3))


def test_a_task_without_words_says_so():
    with pytest.raises(InputError, match="generates no text"):
        Reversal().speaker(None, 1.0, 0, 0)


def test_a_task_of_files_says_how_to_get_them():
    class Doodles(Reversal):
        def generate(self, model, prompt, length, temperature, top_k, seed):
            return []

    with pytest.raises(InputError, match="out=FOLDER"):
        Doodles().speaker(None, 1.0, 0, 0)


class _Counter(torch.nn.Module):
    """A model that says a, b, c, a, b, c and so on."""

    def __init__(self):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def begin(self, source=None, source_lengths=None, batch_size=1):
        return (torch.zeros(batch_size),)

    def step(self, tokens, state):
        return torch.nn.functional.one_hot((tokens + 1) % 3, 3) * 9.0, state


class _Parrot(_Counter):
    """A model that says its own line again and again, and expects what follows of what it reads too."""

    def __init__(self, line, characters):
        super().__init__()
        self.follows = dict(zip(line, line[1:] + line[0], strict=True))
        self.characters = characters

    def step(self, tokens, state):
        follower = self.follows.get(self.characters[int(tokens)], self.characters[0])
        return torch.nn.functional.one_hot(
            torch.tensor([self.characters.index(follower)]), len(self.characters)
        ) * 9.0, state


@pytest.mark.parametrize("line", ["yes\r\n", "yes\n", "yes\r", "yes"])
@pytest.mark.parametrize("others", ["", "\r\n"])
def test_an_answer_is_a_line_without_its_break(line, others):
    """Whether lines end with LF, CRLF or CR, and though the other characters occur in the text as well."""
    characters = "".join(sorted(set(line + others)))
    speaker = Speaker(_Parrot(line, characters), Alphabet(characters), 0, 0, 0)
    for _ in range(3):
        answer = "".join(speaker.reply("yes", 10))
        assert answer == ("yes" if line != "yes" else answer)
        assert not set(answer) & set("\r\n")


def test_a_prompt_may_have_its_accents_in_another_form():
    for text in ("Käse größer", unicodedata.normalize("NFD", "Käse größer")):
        vocabulary = Alphabet.of(text)
        for form in ("NFC", "NFD"):
            speaker = Speaker(_Parrot(text[:1], vocabulary.characters), vocabulary, 0, 0, 0)
            assert "".join(speaker.generate(unicodedata.normalize(form, "größe"), 1)).startswith("gr")
    with pytest.raises(InputError, match="'é' is not in the model's vocabulary"):
        speaker.read("é")


def test_memory_is_constant_however_long_it_speaks():
    speaker = Speaker(_Counter(), Alphabet("abc"), 0, 0, 0)
    pieces = speaker.generate("a", 10_000)
    for _ in range(1000):
        next(pieces)
    tracemalloc.start()
    for _ in range(100):
        next(pieces)
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(5000):
        next(pieces)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000  # 5,000 characters kept with their state would take far more than 4 bytes each


def test_it_streams(run):
    # The first characters arrive while the rest, which would take minutes, is still being made.
    arguments = [processes.programs() / "rnnlab", "generate", f"run={run}", "prompt=t", "length=100000000"]
    # A shell starts its background jobs with SIGINT ignored, and Python inherits that: the suite may itself be one.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=listening) as process:
        assert process.stdout.read(50).startswith(b"t")
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error == b""


def test_it_ends_quietly_when_nobody_reads_on(run):
    arguments = [processes.programs() / "rnnlab", "generate", f"run={run}", "prompt=t", "length=100000000"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(50)
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0
    assert error == b""


def test_a_conversation_answers_line_by_line_and_survives_an_unknown_character(run):
    done = command(f"run={run}", "interactive=true", "temperature=0", "length=40", input="the cat\n§\nthe cat\n")
    answers = done.stdout.splitlines()
    assert len(answers) == 2
    assert all(len(answer) <= 40 for answer in answers)
    assert "'§' is not in the model's vocabulary" in done.stderr
    assert done.returncode == 0


def test_a_conversation_remembers(run):
    task, model, _ = load(run, "cpu")
    speaker = task.speaker(model, 0, 0, 0)
    list(speaker.reply("the cat", 10))
    fresh = task.speaker(model, 0, 0, 0)
    assert not torch.equal(speaker.state[0][0], fresh.state[0][0])


@pytest.mark.parametrize("wrong", ["length=-1", "temperature=-0.5", "top_k=-2"])
def test_negative_numbers_are_refused(run, wrong):
    done = command(f"run={run}", wrong)
    assert done.returncode == 2
    assert f"{wrong} is negative" in done.stderr.replace(".0", "")
