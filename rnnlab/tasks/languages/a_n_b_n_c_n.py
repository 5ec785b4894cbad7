"""The language a^n b^n c^n. Context-sensitive; two counters are sufficient."""

from __future__ import annotations

from rnnlab.tasks.languages._counting import Counting


class AnBnCn(Counting):
    """Predict the next symbol of a^n b^n c^n (Gers and Schmidhuber, 2001, doi:10.1109/72.963769).

        inputs   | a a b b c c        a = 0, b = 1, c = 2, the boundary | = 3
        targets  a - - b c c |        - is not scored

    An a can be followed by an a or a b, so the step after an a is not scored. As in `AnBn`, a word is ``accepted`` if
    all determined symbols are predicted correctly; repeating the last letter is correct at most steps, but its
    ``accepted`` is zero.
    """

    letters = 3
