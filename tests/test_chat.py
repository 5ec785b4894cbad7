"""The command chat: a conversation on standard streams that keeps its turns."""

import functools
import re
import signal
import subprocess
from itertools import pairwise

import processes
import pytest
import torch

from rnnlab import config
from rnnlab.interface import InputError
from rnnlab.training import load, train
from rnnlab.vocabulary import END, START

QUIET = ["logger.tensorboard=false", "logger.progress=false"]


def trained(folder, *options):
    train(config.compose([*options, *QUIET, f"run_dir={folder}"]))
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small model of the default corpus, hardly trained."""
    options = ["task.eval_size=5", "model.hidden_size=32", "model.embedding_size=16", "optimizer.lr=0.02"]
    lengths = ["task.batch_size=16", "task.longest_output=20", "trainer.steps=30", "trainer.eval_every=30"]
    return trained(tmp_path_factory.mktemp("chat") / "run", "task=conversation", *options, *lengths)


def chat(*arguments, **options):
    return processes.rnnlab("chat", *arguments, **options)


def greedy(task, model, source, length):
    """The tokens of the most probable answer: a loop that shares no code with generation."""
    tokens = torch.tensor([[*task.vocabularies[0].encode(source), END]]).t()
    found, token = [], torch.tensor([START])
    with torch.inference_mode():
        state = model.begin(tokens, torch.tensor([len(tokens)]), 1)
        for _ in range(length):
            outputs, state = model.step(token, state)
            token = outputs.argmax(-1)
            if int(token) == END:
                break
            found.append(int(token))
    return task.vocabularies[1].decode(found)


@pytest.mark.slow
def test_it_answers_line_by_line_from_the_turns_so_far(run):
    lines = ["Hello!", "my name is Ada", "안녕", "what is my name?"]
    done = chat(f"run={run}", "length=15", input="".join(f"{line}\n" for line in lines))
    assert (done.returncode, done.stderr) == (0, "")
    task, model, _ = load(run, "cpu")
    history = []
    for line, answer in zip(lines, done.stdout.splitlines(), strict=True):
        history.append(line)
        assert answer == greedy(task, model, " | ".join(history[-5:]).lower(), 15)
        history.append(answer)


def test_a_line_of_unknown_tokens_is_reported_and_not_kept(run):
    lines = ["hello", "αβγ", "안녕"]
    done = chat(f"run={run}", "length=15", input="".join(f"{line}\n" for line in lines))
    without = chat(f"run={run}", "length=15", input="hello\n안녕\n")
    assert done.stdout == without.stdout
    assert done.returncode == 0
    assert done.stderr == (
        "rnnlab: the model's vocabulary has no token of the text 'αβγ'; give a text in the language of the training "
        "data\n"
    )


def test_an_empty_line_has_an_empty_answer_and_a_long_line_is_reported(run):
    done = chat(f"run={run}", "length=15", input=f"hello\n |\n{'hello ' * 200}\nhi\n")
    answers = chat(f"run={run}", "length=15", input="hello\nhi\n").stdout.splitlines()
    assert done.stdout.splitlines() == [answers[0], "", answers[1]]
    assert done.stderr.count("\n") == 1
    assert "1199 tokens" in done.stderr


def test_a_line_that_is_not_text_is_reported(run):
    done = chat(f"run={run}", "length=15", input=b"hello\n\xff\nhi\n", text=False)
    assert len(done.stdout.decode().splitlines()) == 2
    assert b"is not valid text in the encoding" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize("end", ["exit", "quit", " QUIT "])
def test_exit_and_quit_end_the_conversation(run, end):
    done = chat(f"run={run}", "length=5", input=f"hello\n{end}\nhello\n")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 1, "")


def test_no_input_is_a_conversation_of_no_lines(run):
    done = chat(str(run), input="")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def _talking(run):
    # A shell starts its background jobs with SIGINT ignored, and Python inherits that.
    listening = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([processes.programs() / "rnnlab", "chat", f"run={run}"], preexec_fn=listening, **pipes)


def test_an_answer_comes_before_the_next_line_and_ctrl_c_ends_without_a_traceback(run):
    with _talking(run) as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        assert process.stdout.readline().endswith(b"\n")
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)  # before its standard input ends, which would end the conversation as well
        assert (process.stderr.read(), process.returncode) == (b"", 130)


def test_it_ends_quietly_when_the_reader_has_ended(run):
    with _talking(run) as process:
        process.stdin.write(b"hello\n")
        process.stdin.flush()
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write(b"hello\n" * 2)
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_samples_follow_the_seed_and_each_answer_has_its_own_draws(run):
    lines = "hello\nexit\n"
    draws = ["temperature=3", "length=30"]
    said = [chat(f"run={run}", *draws, f"seed={seed}", input=lines).stdout for seed in (0, 0, 1)]
    assert said[0] == said[1] != said[2]
    task, model, _ = load(run, "cpu")
    dialogue = task.speaker(model, 3.0, 0, 0)
    answers = []
    for _ in range(3):
        dialogue.history.clear()
        answers += dialogue.reply("hello", 30)
    assert answers[0] == said[0].removesuffix("\n")
    assert len(set(answers)) == 3


def test_beam_search_finds_an_answer_that_is_at_least_as_probable(run):
    task, model, _ = load(run, "cpu")
    source = torch.tensor([[*task.vocabularies[0].encode("how are you?"), END]]).t()

    def score(text):
        tokens = torch.tensor([START, *task.vocabularies[1].encode(text), END])
        total, state = 0.0, model.begin(source, torch.tensor([len(source)]), 1)
        for before, token in pairwise(tokens):
            outputs, state = model.step(before.unsqueeze(0), state)
            total += float(outputs.log_softmax(-1)[0, token])
        return total / (len(tokens) - 1)

    with torch.inference_mode():
        found = [chat(str(run), f"beam_size={k}", input="How are you?\n").stdout.strip() for k in (1, 8)]
        assert found[0] == greedy(task, model, "how are you?", 200)
        assert score(found[1]) >= score(found[0]) - 1e-6


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("length=0", "length=0 must be a number of at least 1"),
        ("temperature=-1", "temperature=-1.0 must be a number of at least 0"),
        ("temperature=nan", "temperature=nan must be a number of at least 0"),
        ("top_k=-1", "top_k=-1 must be a number of at least 0"),
        ("beam_size=0", "beam_size=0 must be a number of at least 1"),
        ("beem_size=2", "did you mean 'beam_size'?"),
    ],
)
def test_a_wrong_option_is_refused(run, option, says):
    done = chat(f"run={run}", option, input="hello\n")
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_beam_search_does_not_sample(run):
    done = chat(f"run={run}", "beam_size=4", "temperature=0.5", input="hello\n")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "omit temperature= and top_k=" in done.stderr


def test_a_run_of_another_task_is_refused_with_the_command_for_it(tmp_path):
    (tmp_path / "text.txt").write_text("the cat sat on the mat.\n" * 50)
    short = ["model.hidden_size=8", "trainer.steps=1"]
    small = ["task.batch_size=2", "task.seq_len=8", f"task.corpus={tmp_path}/text.txt"]
    text = trained(tmp_path / "text", *small, *short)
    bits = trained(tmp_path / "bits", "task=parity", "task.test_lengths=[41,42]", *short)
    done = chat(f"run={text}", input="hello\n")
    assert done.returncode == 2
    assert f"use rnnlab generate run={text} interactive=true" in done.stderr
    done = chat(f"run={bits}", input="hello\n")
    assert done.returncode == 2
    assert "generates no text" in done.stderr


def test_generate_converses_with_the_same_turns(run):
    lines = "hello\nmy name is Ada\nwhat is my name?\n"
    options = ["temperature=0", "length=15"]
    done = processes.rnnlab("generate", f"run={run}", "interactive=true", *options, input=lines)
    assert done.stdout == chat(f"run={run}", *options, input=lines).stdout


def test_a_dialogue_leaves_out_old_turns_that_do_not_fit(run):
    task, model, _ = load(run, "cpu")
    dialogue = task.speaker(model, 0.0, 0, 0)
    dialogue.history = ["hello " * 80, "hello " * 80]
    (answer,) = dialogue.reply("hi " * 100, 10)
    source = " | ".join(["hello " * 80, "hi " * 100])
    assert answer == greedy(task, model, re.sub(r"\s+", " ", source).strip(), 10)
    with pytest.raises(InputError, match="at most 1000"):
        list(dialogue.reply("hi " * 500, 10))


@pytest.mark.slow
def test_greeted_in_korean_it_answers_in_korean(tmp_path):
    options = ["task.batch_size=32", "model.hidden_size=64", "model.embedding_size=32", "optimizer.lr=8e-3"]
    trained(tmp_path / "run", "task=conversation", *options, "trainer.steps=900", "trainer.eval_every=900")
    korean = chat(str(tmp_path / "run"), input="안녕\n안녕하세요\n제 이름은 지수입니다\n").stdout.splitlines()
    assert korean[:2] == ["안녕!", "안녕하세요!"]
    assert re.fullmatch(r"반가워요, \w+ 님\.", korean[2])
    english = chat(str(tmp_path / "run"), input="hello\nthank you\n").stdout.splitlines()
    assert english == ["Hello!", "You are welcome."]
