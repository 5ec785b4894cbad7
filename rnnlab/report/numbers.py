"""Numbers for people: thousands separators, powers of ten with superscripts."""

from __future__ import annotations

import re
from html import escape

_SMALL, _LARGE = 1e-4, 1e15
"""Numbers outside these bounds are written with a power of ten."""
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LOWERED = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "−0123456789")


def number(value: float | None, digits: int = 4) -> str:
    """Format a number with ``digits`` significant digits and thousands separators; a dash for None and NaN.

    Numbers below 0.0001 and above 10¹⁵ are written with a power of ten, such as 1.5×10⁻⁷.
    """
    if value is None or value != value:
        return "–"
    if abs(value) == float("inf"):
        return "∞" if value > 0 else "−∞"
    if value == int(value) and abs(value) < _LARGE:
        return f"{int(value):,}".replace("-", "−")
    if _SMALL <= abs(value) < _LARGE:
        text = f"{value:,.{digits}g}"
        text = f"{value:,.0f}" if "e" in text else text
        return text.replace("-", "−")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    power = f"10{raised(int(exponent))}"
    text = {"1": power, "-1": f"-{power}"}.get(mantissa, f"{mantissa}×{power}")
    return text.replace("-", "−")


def raised(exponent: int) -> str:
    """Return an exponent in superscript characters."""
    return str(exponent).translate(_RAISED)


def inline(text: str) -> str:
    """Escape a text for HTML; superscript characters become ``<sup>``, which every font draws alike."""
    return re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"<sup>{found[0].translate(_LOWERED)}</sup>", escape(text))
