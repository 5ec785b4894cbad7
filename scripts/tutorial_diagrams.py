"""Drawings of the tutorial as SVG: networks and cells, and the numbers of trained networks in them.

Every function returns an SVG document without language or with the English words of `WORDS`. The colours are those of
rnnlab's reports; each drawing has its own background and follows the reader's light or dark mode.
"""

import re
from html import escape

from rnnlab.report.figures import colours

WORDS = {
    "one to one": "일대일",
    "one to many": "일대다",
    "many to one": "다대일",
    "many to many": "다대다",
    "many to many, at each step": "다대다, 매 단계",
    "state": "상태",
    "gradient": "기울기",
    "input": "입력",
    "probability of h, e, l, o": "h, e, l, o의 확률",
    "position in the line": "줄 안의 위치",
    "quotation marks": "따옴표",
    "low": "낮음",
    "high": "높음",
    "training step": "학습 단계",
    "steps before the loss": "손실까지의 거리(단계)",
    "untrained": "학습 전",
    "trained": "학습 후",
    "bits per character": "문자당 비트",
    "1 layer": "1개 층",
    "2 layers": "2개 층",
    "3 layers": "3개 층",
    "squared error": "제곱 오차",
    "before training": "학습 전",
    "during training": "학습 중",
    "unit": "유닛",
}
"""Every word that occurs in a figure, and its Korean translation."""


def translated(svg: str) -> str:
    """A figure with its words in Korean."""
    return re.sub(r">([^<>]+)<", lambda found: f">{WORDS.get(found[1].strip(), found[1])}<", svg)


class Sheet:
    """An SVG drawing; coordinates are in pixels from the top left, colours are names of the report's CSS variables."""

    def __init__(self, width: int, height: int) -> None:
        self.size = width, height
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, text: str = "", colour: str = "s0") -> None:
        """Draw a rounded rectangle with centred text; (x, y) is its centre."""
        self.parts.append(
            f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width:g}" height="{height:g}" rx="5" '
            f'style="fill:var(--soft);stroke:var(--{colour})"/>'
        )
        self.text(x, y + 5, text)

    def circle(self, x: float, y: float, text: str) -> None:
        """Draw an operation: a circle with a symbol."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="13" style="fill:var(--paper);stroke:var(--s1)"/>')
        self.text(x, y + 5, text)

    def line(self, *points: tuple[float, float], colour: str = "muted", dashed: bool = False, tip: bool = True) -> None:
        """Draw a line through points, with an arrow at its end if ``tip``."""
        path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        look = f"stroke:var(--{colour})" + (";stroke-dasharray:4 3" if dashed else "")
        if tip:
            look += f";marker-end:url(#{colour})"
        self.parts.append(f'<path d="{path}" style="fill:none;stroke-width:1.5;{look}"/>')

    def text(self, x: float, y: float, text: str, anchor: str = "middle", colour: str = "ink", size: int = 14) -> None:
        """Write text; ``_x`` and ``_{xy}`` are subscripts."""
        if not text:
            return
        pieces = re.split(r"_(?:\{(.*?)\}|(\w))", text)
        written = escape(pieces[0])
        for braced, single, rest in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
            written += f'<tspan dy="4" font-size="{size * 0.7:.0f}">{escape(braced or single)}</tspan>'
            written += f'<tspan dy="-4">{escape(rest)}</tspan>' if rest else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" style="fill:var(--{colour})">'
            f"{written}</text>"
        )

    def svg(self, style: str = "") -> str:
        """The document."""
        width, height = self.size
        tips = "".join(
            f'<marker id="{colour}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="6" markerHeight="6" orient="auto">'
            f'<path d="M0 0L8 4L0 8z" style="fill:var(--{colour})"/></marker>'
            for colour in ("muted", "s0", "s1")
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'font-family="sans-serif">\n<style>{colours()}{style}</style><defs>{tips}</defs>\n'
            f'<rect width="{width}" height="{height}" style="fill:var(--paper)"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def patterns() -> str:
    """The five patterns: which steps have an input and which an output."""
    sheet = Sheet(960, 210)
    shown = (
        ("one to one", "1", "1"),
        ("one to many", "100", "111"),
        ("many to one", "111", "001"),
        ("many to many", "11100", "00111"),
        ("many to many, at each step", "111", "111"),
    )
    x = 60.0
    for name, inputs, outputs in shown:
        sheet.text(x + 20 * (len(inputs) - 1), 24, name, size=13)
        for step, (has_input, has_output) in enumerate(zip(inputs, outputs, strict=True)):
            place = x + 40 * step
            sheet.box(place, 112, 26, 34, colour="s2")
            if step:
                sheet.line((place - 27, 112), (place - 14, 112))
            if has_input == "1":
                sheet.box(place, 180, 26, 34, colour="s1")
                sheet.line((place, 163), (place, 131))
            if has_output == "1":
                sheet.box(place, 56, 26, 24, colour="s0")
                sheet.line((place, 95), (place, 70))
        x += 40 * len(inputs) + 64
    return sheet.svg()


def unrolled() -> str:
    """The vanilla network over four steps."""
    sheet = Sheet(620, 250)
    sheet.text(40, 130, "h_0")
    for step in range(4):
        x = 130 + 140 * step
        sheet.line((x - 106 if step else x - 76, 125), (x - 34, 125))
        sheet.text(x - 70 if step else x - 58, 114, "W_{hh}", colour="s2", size=13)
        sheet.box(x, 125, 64, 40, f"h_{step + 1}", "s2")
        sheet.box(x, 215, 64, 36, f"x_{step + 1}", "s1")
        sheet.box(x, 35, 64, 36, f"y_{step + 1}", "s0")
        sheet.line((x, 196), (x, 148))
        sheet.line((x, 104), (x, 56))
        sheet.text(x + 8, 178, "W_{xh}", "start", "s1", 13)
        sheet.text(x + 8, 86, "W_{hy}", "start", "s0", 13)
    return sheet.svg()


def hello(letters: str, inputs: list[int], states: list[list[float]], probabilities: list[list[float]]) -> str:
    """The network that spells "hello", with its numbers.

    Args:
        letters: the vocabulary.
        inputs: tokens of the inputs, followed by the last target.
        states: hidden state of each step.
        probabilities: probabilities of the characters at each step.
    """
    sheet = Sheet(720, 430)
    for y, name in ((20, "probability of h, e, l, o"), (385, "input")):
        sheet.text(12, y, name, "start", "muted", 12)
    for step, (h, p) in enumerate(zip(states, probabilities, strict=True)):
        x = 120 + 160 * step
        token, target = inputs[step : step + 2]
        for row, value in enumerate(p):
            colour = "s2" if row == target else "muted"
            sheet.text(x, 48 + 18 * row, f"{letters[row]}  {value:.3f}", colour=colour, size=13)
        sheet.box(x, 212, 72, 84, colour="s2")
        for row, value in enumerate(h):
            sheet.text(x, 193 + 24 * row, f"{value:.2f}".replace("-", "−"), size=13)
        for row in range(len(letters)):
            sheet.text(x - 27 + 18 * row, 345, str(int(row == token)), colour="s1" if row == token else "muted")
        sheet.box(x, 380, 34, 34, letters[token], "s1")
        sheet.line((x, 328), (x, 258))
        sheet.line((x, 168), (x, 114))
        sheet.line((x - 122 if step else x - 80, 212), (x - 38, 212))
        sheet.text(x + 8, 298, "W_{xh}", "start", "s1", 12)
        sheet.text(x + 8, 146, "W_{hy}", "start", "s0", 12)
        sheet.text(x - 80, 202, "W_{hh}" if step else "", colour="s2", size=12)
    return sheet.svg()


def truncated() -> str:
    """Truncated backpropagation through time: three windows of four steps."""
    sheet = Sheet(720, 190)
    for window in range(3):
        left = 96 + 205 * window
        sheet.box(left + 82, 92, 196, 150, colour="grid")
        for step in range(4):
            x = left + 50 * step + 8
            sheet.box(x, 72, 26, 34, colour="s2")
            if step:
                sheet.line((x - 36, 66), (x - 15, 66), colour="s0")
                sheet.line((x - 4, 132), (x - 46, 132), colour="s1", dashed=True)
        if window:
            sheet.line((left - 34, 66), (left - 7, 66), colour="s0")
            sheet.text(left - 20, 138, "×", colour="s1", size=18)
    sheet.text(40, 70, "state", colour="s0", size=13)
    sheet.text(40, 136, "gradient", colour="s1", size=13)
    return sheet.svg()


def lstm() -> str:
    """One step of the LSTM."""
    sheet = Sheet(640, 330)
    sheet.line((50, 60), (590, 60), colour="s0")
    sheet.text(30, 65, "c_{t−1}")
    sheet.text(612, 65, "c_t")
    gates = ((150, "f_t", "σ"), (260, "i_t", "σ"), (340, "g_t", "tanh"), (450, "o_t", "σ"))
    sheet.line((50, 280), (450, 280), tip=False)
    sheet.text(30, 272, "h_{t−1}")
    sheet.text(30, 296, "x_t")
    for x, name, function in gates:
        sheet.line((x, 280), (x, 244))
        sheet.box(x, 225, 56, 36, function, "s2")
        sheet.text(x + (10 if name != "o_t" else -10), 196, name, "start" if name != "o_t" else "end")
    sheet.line((150, 206), (150, 75))
    sheet.line((260, 206), (260, 160), (287, 160))
    sheet.line((340, 206), (340, 160), (315, 160))
    sheet.line((301, 146), (301, 75))
    sheet.line((520, 60), (520, 105))
    sheet.box(520, 123, 56, 34, "tanh", "s0")
    sheet.line((520, 141), (520, 187))
    sheet.line((450, 206), (450, 202), (505, 202))
    sheet.line((534, 202), (590, 202))
    sheet.text(612, 207, "h_t")
    for x, y, symbol in ((150, 60, "⊙"), (301, 60, "+"), (301, 160, "⊙"), (520, 202, "⊙")):
        sheet.circle(x, y, symbol)
    return sheet.svg()


def gru() -> str:
    """One step of the GRU with the reset gate after the recurrent product."""
    sheet = Sheet(640, 350)
    sheet.line((50, 60), (590, 60), colour="s0")
    sheet.text(30, 65, "h_{t−1}")
    sheet.text(612, 65, "h_t")
    sheet.line((50, 310), (470, 310), tip=False)
    sheet.text(30, 302, "h_{t−1}")
    sheet.text(30, 326, "x_t")
    for x, name, function in ((150, "z_t", "σ"), (330, "r_t", "σ"), (470, "n_t", "tanh")):
        sheet.line((x, 310), (x, 274))
        sheet.box(x, 255, 56, 36, function, "s2")
        sheet.text(x + 10, 226, name, "start")
    sheet.line((358, 255), (439, 255))
    sheet.text(398, 245, "⊙", colour="s1")
    sheet.line((150, 236), (150, 75))
    sheet.line((150, 160), (226, 160))
    sheet.box(265, 160, 76, 32, "1 − z_t", "s0")
    sheet.line((303, 160), (395, 160))
    sheet.line((470, 236), (470, 160), (425, 160))
    sheet.line((410, 146), (410, 75))
    for x, y, symbol in ((150, 60, "⊙"), (410, 60, "+"), (410, 160, "⊙")):
        sheet.circle(x, y, symbol)
    return sheet.svg()


LEVELS, CHARACTER, LINE = 9, 8.4, 22
"""Shades of a coloured text; width of a character and height of a line in pixels."""


def coloured(texts: list[tuple[str, str, list[float]]], width: int = 84) -> str:
    """Texts whose characters are coloured by a value each.

    Args:
        texts: name, text, and the value of each character from -1 to 1.
        width: longest line in characters.
    """
    rows: list[tuple[str, list[tuple[str, float]]]] = []
    for name, text, values in texts:
        line: list[tuple[str, float]] = []
        rows.append((name, []))
        for character, value in zip(text, values, strict=True):
            line.append(("⏎" if character == "\n" else character, value))
            if character == "\n" or len(line) == width:
                rows.append(("", line))
                line = []
        if line:
            rows.append(("", line))
    sheet = Sheet(round(width * CHARACTER) + 24, LINE * len(rows) + 44)
    areas: dict[int, str] = {}
    for number, (name, line) in enumerate(rows):
        y = 10 + LINE * number
        sheet.text(12, y + 16, name, "start", "muted", 13)
        for place, (_, value) in enumerate(line):
            level = round((max(-1.0, min(1.0, value)) + 1) / 2 * (LEVELS - 1))
            areas[level] = areas.get(level, "") + f"M{12 + CHARACTER * place:.1f} {y}h{CHARACTER}v20h-{CHARACTER}z"
    shades = [f'<path class="l{level}" d="{area}"/>' for level, area in sorted(areas.items())]
    for number, (_, line) in enumerate(rows):
        letters = escape("".join(letter for letter, _ in line))
        if letters:
            shades.append(
                f'<text x="12" y="{25 + LINE * number}" textLength="{CHARACTER * len(line):.1f}" xml:space="preserve" '
                f'font-family="monospace" font-size="14" style="fill:var(--ink)">{letters}</text>'
            )
    bottom = LINE * len(rows) + 20
    for level in range(LEVELS):
        shades.append(f'<path class="l{level}" d="M{60 + 16 * level} {bottom}h16v14h-16z"/>')
    sheet.parts += shades
    sheet.text(52, bottom + 12, "low", "end", "muted", 12)
    sheet.text(68 + 16 * LEVELS, bottom + 12, "high", "start", "muted", 12)
    middle = (LEVELS - 1) / 2
    style = "".join(
        f".l{level}{{fill:var(--s{int(level > middle)});opacity:{abs(level - middle) / middle * 0.75:.2f}}}"
        for level in range(LEVELS)
    )
    return sheet.svg(style)
