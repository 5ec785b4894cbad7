"""What the tests of training run under."""

import pytest

from rnnlab.tasks import char_lm


@pytest.fixture(scope="package", autouse=True)
def short_samples():
    """Samples of five characters: a tenth of the time of these tests would go into longer ones."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(char_lm, "SAMPLE_LENGTH", 5)
        yield
