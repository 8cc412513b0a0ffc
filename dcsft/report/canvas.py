"""The look of every figure: size, colours, type; and how one becomes SVG, byte for byte the same each time."""

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Sheet

INK, SOFT, FAINT = "#22262b", "#6b7280", "#d5d9de"
ACCENT = "#0072b2"
DIFFICULTY_COLOURS = {"easy": "#00805e", "medium": "#0072b2", "hard": "#c14f00"}
"""Okabe and Ito's colours for the colour-blind, the green and the red a little darker so that white text reads."""
CYCLE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#22262b", "#e69f00", "#56b4e9", "#8a6d00")
MARKERS = "osD^vPX*"
_WIDTH_INCH = 3.6
"""At 72 points an inch and one pixel a point and a third, 346 pixels: a phone shows it at its own size."""
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    # Letters as outlines: the same everywhere, whatever fonts a machine has.
    "svg.fonttype": "path",
    # A dollar sign in the name of an arm is a dollar sign.
    "text.parse_math": False,
}


@dataclass(frozen=True)
class Panel:
    """One drawing."""

    name: str
    svg: str
    alt: str
    """What it shows, numbers included, for who cannot see it."""


@dataclass(frozen=True)
class Figure:
    """Panels that belong together; a page lays them side by side as far as its width allows."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]


class Drawing:
    """An axes to draw on, which then becomes a panel."""

    def __init__(self, name: str, sheet: Sheet) -> None:
        self.axes: Axes = sheet.add_subplot()
        self._name, self._sheet = name, sheet

    def name_rows(self, names: Sequence[str], label: str) -> None:
        """Names the rows from the top down, and the axis of their values."""
        self.axes.set_yticks(range(len(names)), names)
        self.axes.set_ylim(len(names) - 0.4, -0.6)
        self.axes.tick_params(axis="y", length=0)
        self.axes.spines["left"].set_visible(False)
        self.axes.set_xlabel(label)

    def legend_above(self) -> None:
        """The legend of bars, in one line above them."""
        self.axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1, handleheight=1)

    def difficulty_bars(self, rows: Mapping[str, Mapping[str, float]], label: str) -> None:
        """A bar a row, of the shares of its difficulties in percent; those wide enough are written into it."""
        for y, shares in enumerate(rows.values()):
            left = 0.0
            for name, width in shares.items():
                colour = DIFFICULTY_COLOURS[name]
                self.axes.barh(y, width, 0.72, left, color=colour, label=name if y == 0 else None, ec="white", lw=0.8)
                if width > 9:
                    centre = left + width / 2
                    self.axes.text(centre, y, f"{width:.0f} %", ha="center", va="center", color="white", weight="bold")
                left += width
        self.name_rows(list(rows), label)
        self.axes.set_xlim(0, 100)
        self.legend_above()

    def panel(self, alt: str) -> Panel:
        """The finished drawing as SVG, without date or creator, its ids derived from its name."""
        buffer = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": self._name}):
            self._sheet.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        return Panel(self._name, buffer.getvalue(), alt)


@contextmanager
def drawing(name: str, height_inch: float) -> Iterator[Drawing]:
    """A drawing one panel wide, in the house style."""
    with matplotlib.rc_context(_STYLE):
        yield Drawing(name, Sheet(figsize=(_WIDTH_INCH, height_inch), layout="constrained"))
