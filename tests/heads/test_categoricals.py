"""Several independent classes per step: loss, gradients, draws, and generation with the head."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from rnnlab import cells
from rnnlab.generation import Stream, generate
from rnnlab.heads import IGNORE, Categorical, Categoricals
from rnnlab.interface import InputError, Vectors
from rnnlab.models.sequence_model import SequenceModel


def outputs_of(head, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, head.features, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize(("size", "classes", "steps"), [(1, 4, 200), (3, 2, 7), (5, 16, 2)])
def test_the_loss_is_the_sum_over_the_variables(size, classes, steps):
    head = Categoricals(size, classes)
    outputs = outputs_of(head, steps, 2)
    targets = torch.randint(classes, (steps, 2, size), generator=torch.Generator().manual_seed(1))
    targets[-1, 1, -1] = IGNORE
    total = 0.0
    for t in range(steps):
        for b in range(2):
            for n, target in enumerate(targets[t, b].tolist()):
                logits = outputs[t, b].tolist()[n * classes : (n + 1) * classes]
                total += math.log(sum(map(math.exp, logits))) - logits[target] if target != IGNORE else 0
    found, count = head.loss(outputs, targets)
    assert float(found) == pytest.approx(total)
    assert int(count) == steps * 2 * size - 1


def test_the_gradient_of_the_loss():
    head = Categoricals(3, 2)
    targets = torch.tensor([[[0, 1, IGNORE], [1, 1, 0]]])
    assert gradcheck(lambda outputs: head.loss(outputs, targets).total, outputs_of(head, 1, 2).requires_grad_())


def test_draws_are_one_hot_and_follow_the_distribution_of_each_variable():
    head = Categoricals(2, 3)
    outputs = outputs_of(head, 1)
    drawn = head.draw(outputs.expand(4000, -1), 0.7, 0, torch.Generator().manual_seed(0)).view(4000, 2, 3)
    assert (drawn.sum(2) == 1).all()
    expected = (outputs.view(2, 3) / 0.7).softmax(1)
    torch.testing.assert_close(drawn.mean(0).double(), expected, atol=0.03, rtol=0)
    joint = torch.einsum("ni,nj->ij", drawn[:, 0], drawn[:, 1]).double() / 4000
    torch.testing.assert_close(joint, torch.outer(*expected), atol=0.03, rtol=0)


@pytest.mark.parametrize("options", [{"temperature": 0, "top_k": 0}, {"temperature": 1.0, "top_k": 1}])
def test_the_most_probable_classes(options):
    head = Categoricals(4, 5)
    outputs = outputs_of(head, 3)
    drawn = head.draw(outputs, generator=torch.Generator().manual_seed(0), **options)
    assert torch.equal(drawn.view(3, 4, 5).argmax(2), outputs.view(3, 4, 5).argmax(2))


def test_one_variable_is_the_categorical_head():
    one, other = Categoricals(1, 6), Categorical(6)
    outputs, targets = outputs_of(one, 200, 3), torch.arange(600).view(200, 3) % 6
    assert one.features == other.features
    torch.testing.assert_close(one.loss(outputs, targets.unsqueeze(2)), other.loss(outputs, targets))
    drawn = (head.draw(outputs[0], 1.0, 0, torch.Generator().manual_seed(3)) for head in (one, other))
    assert torch.equal(next(drawn).argmax(1), next(drawn))


def test_a_model_that_reads_what_it_draws_generates_with_the_head():
    """Drawing and reading the drawn values oneself is what `generate` does."""
    head = Categoricals(2, 3)
    torch.manual_seed(0)
    model = SequenceModel(Vectors(6), 6, cells.find("gru"), hidden_size=5).eval()
    prompt = torch.zeros(1, 4, 6)
    together = list(generate(model, head, prompt, steps=20, temperature=1.0, seeds=range(4)))
    stream = Stream(model, head, model.begin(batch_size=4), seeds=range(4))
    following = prompt
    for one in together:
        stream.read(following)
        drawn = stream.draw()
        assert torch.equal(drawn, one)
        following = drawn.unsqueeze(0)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="Categoricals: size=0 must be"):
        Categoricals(0, 2)
    with pytest.raises(InputError, match="Categoricals: classes=0 must be"):
        Categoricals(2, 0)
    with pytest.raises(InputError, match="not finite"):
        Categoricals(1, 2).draw(torch.full((1, 2), torch.nan), 1.0, 0, torch.Generator())
