"""The language a^n b^n. Deterministic context-free; one counter is sufficient."""

from __future__ import annotations

from rnnlab.tasks.languages._counting import Counting


class AnBn(Counting):
    """Predict the next symbol of a^n b^n, n a's and n b's (Gers and Schmidhuber, 2001, doi:10.1109/72.963769).

        inputs   | a a a b b b        a = 0, b = 1, the boundary | = 2
        targets  a - - - b b |        - is not scored

    An a can be followed by either letter, so the step after an a is not scored. In Gers and Schmidhuber, a model
    predicts the set of possible next symbols and accepts a word if all sets are correct; here, a word is ``accepted``
    if all determined symbols are predicted correctly. Repeating the last letter is wrong only at the end of the
    word: the accuracy of this baseline is high, but its ``accepted`` is zero.
    """

    letters = 2
