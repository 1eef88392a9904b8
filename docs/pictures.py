"""Draws the pictures of docs/concepts as SVG, readable on light and dark pages.

    python docs/pictures.py

A test compares what is drawn with the files beside the pages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import by_hand

FOLDER = Path(__file__).parent / "concepts"
_STYLE = """
  text { font: 15px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 13px } .quiet { fill: #57606a } .middle { text-anchor: middle } .end { text-anchor: end }
  .strong { font-weight: 600 }
  .line { stroke: #57606a; stroke-width: 1.5; fill: none }
  .box { fill: #eef6f5; stroke: #00796b; stroke-width: 1.5 }
  .easy { fill: #00796b } .hard { fill: #b4540a } .plain { fill: #8c959f }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .quiet { fill: #9da7b1 } .line { stroke: #9da7b1 }
    .box { fill: #16302d; stroke: #4db6ac } .easy { fill: #4db6ac } .hard { fill: #f0883e } .plain { fill: #7d8590 }
  }
"""


class Drawing:
    """Shapes collected into one SVG.

    Args:
        width: of the picture, in its own units.
        height: likewise.
        title: what it shows, for those who cannot see it.
    """

    def __init__(self, width: int, height: int, title: str) -> None:
        self.head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" role="img">\n<title>{escape(title)}</title>\n<style>{_STYLE}</style>'
        )
        self.shapes: list[str] = []

    def text(self, x: float, y: float, what: str, kind: str = "") -> None:
        """Words; ``kind`` holds class names."""
        self.shapes.append(f'<text x="{x:g}" y="{y:g}" class="{kind}">{escape(what)}</text>')

    def bar(self, x: float, y: float, width: float, height: float, kind: str) -> None:
        """A rectangle from its upper left corner."""
        self.shapes.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" class="{kind}"/>'
        )

    def line(self, *points: tuple[float, float], arrow: bool = False) -> None:
        """A line through points; with an arrow its end is drawn as two strokes."""
        self.shapes.append(f'<polyline points="{" ".join(f"{x:g},{y:g}" for x, y in points)}" class="line"/>')
        if arrow:
            (x0, y0), (x, y) = points[-2:]
            if x == x0:
                back = 7 if y < y0 else -7
                self.line((x - 5, y + back), (x, y), (x + 5, y + back))
            else:
                back = 7 if x < x0 else -7
                self.line((x + back, y - 5), (x, y), (x + back, y + 5))

    def dot(self, x: float, y: float, kind: str) -> None:
        """A filled circle."""
        self.shapes.append(f'<circle cx="{x:g}" cy="{y:g}" r="7" class="{kind}"/>')

    def __str__(self) -> str:
        return "\n".join([self.head, *self.shapes, "</svg>"]) + "\n"


def boosting() -> Drawing:
    """Weights of six tokens before, between and after two rounds."""
    story = by_hand.story()
    picture = Drawing(720, 470, "Weights of six answer tokens over two rounds of boosting")
    heads = ("at first", "after expert 1", "after expert 2")
    for step, weights in enumerate(story.weights):
        base = 100 + step * 160
        picture.text(16, base - 70, heads[step], "strong")
        if step:
            record = story.records[step - 1]
            picture.text(16, base - 48, f"error {record.error:.3f}", "small quiet")
            picture.text(16, base - 30, f"alpha {record.alpha:.3f}", "small quiet")
        wrong = by_hand.EXPERTS_WRONG[step - 1] if step else (False,) * len(weights)
        for place, weight in enumerate(weights):
            x = 160 + place * 88 + (24 if place >= 4 else 0)
            height = weight * 330
            picture.bar(x, base - height, 56, height, "hard" if wrong[place] else "easy")
            picture.text(x + 28, base - height - 7, f"{weight:.3f}", "small middle")
            picture.text(x + 28, base + 19, by_hand.TOKENS[place], "middle")
        picture.line((150, base), (708, base))
    picture.text(330, 464, "Put 3 1 2 in order", "small quiet middle")
    picture.text(622, 464, "The largest of 4 and 9", "small quiet middle")
    return picture


def combining() -> Drawing:
    """What two experts say, and their mixture."""
    picture = Drawing(720, 250, "Next-token distributions of two experts and of their mixture")
    columns: Sequence[tuple[str, Sequence[float], str]] = (
        ("expert 1", by_hand.SAID[0], "plain"), ("expert 2", by_hand.SAID[1], "plain"),
        ("weighted mean", by_hand.mixture(), "easy"),
    )  # fmt: skip
    for column, (title, probabilities, kind) in enumerate(columns):
        left = 30 + column * 236
        picture.text(left + 90, 24, title, "strong middle")
        for place, probability in enumerate(probabilities):
            x, height = left + place * 64, probability * 150
            picture.bar(x, 205 - height, 48, height, kind)
            picture.text(x + 24, 198 - height, f"{probability:.2f}", "small middle")
            picture.text(x + 24, 226, by_hand.CANDIDATES[place], "middle")
        picture.line((left - 8, 205), (left + 186, 205))
    alphas = [record.alpha for record in by_hand.story().records]
    picture.text(120, 246, f"alpha {alphas[0]:.3f}", "small quiet middle")
    picture.text(356, 246, f"alpha {alphas[1]:.3f}", "small quiet middle")
    return picture


def pgr() -> Drawing:
    """The gap between weak and ceiling, and the part of it that the student recovers."""
    picture = Drawing(720, 190, "The student between the weak expert and the ceiling: its share of the gap is the PGR")

    def at(score: float) -> float:
        return 60 + (score - 35) * 12

    weak, student, ceiling = 42.4, 78.2, 83.4
    picture.line((at(35), 100), (at(86), 100))
    picture.bar(at(weak), 95, at(student) - at(weak), 10, "easy")
    for score, name, kind in ((weak, "weak", "plain"), (student, "student", "easy"), (ceiling, "ceiling", "hard")):
        picture.dot(at(score), 100, kind)
        aside = {"student": -12, "ceiling": 12}.get(name, 0)  # they stand close together
        picture.text(at(score) + aside, 78, name, "middle strong")
        picture.text(at(score) + aside, 128, f"{score:.1f} %", "middle small")
    picture.line((at(weak), 140), (at(weak), 148), (at(student), 148), (at(student), 140))
    picture.text((at(weak) + at(student)) / 2, 168, "recovered: 35.9 points", "middle small")
    picture.line((at(weak), 58), (at(weak), 44), (at(ceiling), 44), (at(ceiling), 58))
    picture.text((at(weak) + at(ceiling)) / 2, 34, "the gap: 41.0 points", "middle small")
    return picture


def easy_to_hard() -> Drawing:
    """Five splits along the difficulty axis."""
    picture = Drawing(720, 270, "Five splits along the axis of difficulty")
    picture.line((40, 220), (690, 220), arrow=True)
    picture.text(40, 244, "easy", "small quiet")
    picture.text(690, 244, "hard", "small quiet end")
    picture.text(365, 244, "difficulty", "small quiet middle")
    picture.line((350, 20), (350, 220))
    for left, width, y, kind, name, what in (
        (60, 250, 36, "easy", "weak train", "answers are known: experts learn here"),
        (60, 120, 96, "easy", "validation", "choices are made here"),
        (60, 120, 156, "easy", "test ID", "measured here"),
        (390, 270, 36, "hard", "pool", "no answers: the ensemble labels it"),
        (390, 130, 156, "hard", "test OOD", "measured here"),
    ):
        picture.bar(left, y, width, 14, kind)
        picture.text(left, y - 5, name, "strong")
        picture.text(left, y + 30, what, "small quiet")
    return picture


def flow() -> Drawing:
    """From labelled easy questions to a student."""
    picture = Drawing(720, 250, "Experts learn from easy labelled questions, label hard ones, and a student learns")
    boxes = {
        "easy": (16, 30, "easy questions", "with answers"),
        "experts": (204, 30, "weak experts", "boosted, one by one"),
        "ensemble": (392, 30, "ensemble", "mixed by token"),
        "hard": (204, 160, "hard questions", "without answers"),
        "labels": (392, 160, "labels", "with confidence"),
        "student": (566, 160, "student", "the strong model"),
    }
    for x, y, name, what in boxes.values():
        width = 138 if name == "student" else 156
        picture.bar(x, y, width, 62, "box")
        picture.text(x + width / 2, y + 27, name, "middle strong")
        picture.text(x + width / 2, y + 48, what, "middle small quiet")
    picture.line((174, 61), (202, 61), arrow=True)
    picture.line((362, 61), (390, 61), arrow=True)
    picture.line((470, 94), (470, 158), arrow=True)
    picture.line((362, 191), (390, 191), arrow=True)
    picture.line((550, 191), (564, 191), arrow=True)
    return picture


PICTURES: dict[str, Callable[[], Drawing]] = {
    "boosting": boosting, "combining": combining, "pgr": pgr, "easy-to-hard": easy_to_hard, "flow": flow,
}  # fmt: skip


def main() -> None:
    """Write every picture."""
    for name, draw in PICTURES.items():
        (FOLDER / f"{name}.svg").write_text(str(draw()), encoding="utf-8")


if __name__ == "__main__":
    main()
