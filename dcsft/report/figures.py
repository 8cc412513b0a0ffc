"""The figures of a report. Each function takes the cells and returns a figure, or None where there is nothing to draw.

How training went (losses, gradient norms, curves over steps) is in curves.py.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rich.bar import Bar
from rich.table import Table as ConsoleTable

from dcsft.records import DIFFICULTIES
from dcsft.report.canvas import (
    ACCENT,
    CYCLE,
    DIFFICULTY_COLOURS,
    INK,
    MARKERS,
    SOFT,
    Drawing,
    Figure,
    Panel,
    drawing,
)
from dcsft.report.cells import BASELINE, Cell, by_arm, label_files, split_names, split_title
from dcsft.report.costs import total_time, update_shares
from dcsft.report.curves import accuracy_curve, gradient_norms, losses
from dcsft.report.frames import accuracy_frame, difference_frame, judged, level
from dcsft.report.tables import points

_ROW_INCH = 0.25


def _round_steps() -> MaxNLocator:
    return MaxNLocator(nbins=5, steps=[1, 2, 5, 10])


def _rows(draw: Drawing, names: Sequence[str], label: str) -> None:
    """Rows of points, on a grid."""
    draw.name_rows(names, label)
    draw.axes.xaxis.set_major_locator(_round_steps())
    draw.axes.grid(axis="x")


def accuracy(cells: Sequence[Cell]) -> Figure | None:
    """Accuracy per arm with its 95 % interval, a panel a split; every seed as a faint dot.

    One arm alone is no figure: the table says it better.
    """
    frame = accuracy_frame(cells)
    panels = [
        _accuracy_panel(frame, cells, split) for split in split_names(cells) if f"{split}.accuracy" in frame.columns
    ]
    if not panels or len(frame) < 2:
        return None
    caption = "Accuracy per arm. Bars: 95 % intervals as in the table."
    caption += " Small dots below: single seeds." if (frame["seeds"] > 1).any() else ""
    caption += " Dashed: the cold start." if BASELINE in frame.index else ""
    return Figure("accuracy", "Accuracy per arm", caption, tuple(panels))


def _accuracy_panel(frame: pd.DataFrame, cells: Sequence[Cell], split: str) -> Panel:
    shown = frame.dropna(subset=[f"{split}.accuracy"])
    names, words = [str(arm) for arm in shown.index], []
    with drawing(f"accuracy_{split}", 0.75 + _ROW_INCH * len(names)) as draw:
        if BASELINE in names:
            draw.axes.axvline(100 * shown.loc[BASELINE, f"{split}.accuracy"], color=SOFT, ls=(0, (4, 3)), lw=0.9)
        for y, (arm, group) in enumerate((name, by_arm(cells)[name]) for name in names):
            middle, low, high = (100 * shown.loc[arm, f"{split}.{field}"] for field in ("accuracy", "low", "high"))
            colour = SOFT if arm == BASELINE else ACCENT
            seeds = [100 * c.results["splits"][split]["accuracy"] for c in group if judged(c, split)]
            if len(seeds) > 1:
                draw.axes.plot(seeds, [y + 0.3] * len(seeds), "o", ms=2.6, color=colour, alpha=0.55, mew=0)
            draw.axes.plot([low, high], [y, y], color=colour, lw=1.4, zorder=2)
            draw.axes.plot(middle, y, "o", ms=5.5, color=colour, mec="white", mew=0.8, zorder=4)
            words.append(f"{arm} {middle:.1f} ({low:.1f} to {high:.1f})")
        _rows(draw, names, "accuracy, %")
        draw.axes.set_title(split_title(split))
        return draw.panel(f"Accuracy on {split_title(split)} in percent, with 95 % intervals: {'; '.join(words)}.")


def differences(cells: Sequence[Cell]) -> Figure | None:
    """Paired difference of each arm to the cold start, a panel a split."""
    frame = difference_frame(cells)
    frame = frame[frame["reference"] == BASELINE]
    if frame.empty:
        return None
    panels = tuple(_difference_panel(block, str(split)) for split, block in frame.groupby("split", sort=False))
    caption = (
        "Paired difference to the cold start with its 95 % interval, not adjusted for several comparisons. Filled: the "
        "interval leaves out zero."
    )
    return Figure("differences", "Difference to the cold start", caption, panels)


def _difference_panel(block: pd.DataFrame, split: str) -> Panel:
    words = []
    with drawing(f"differences_{split}", 0.75 + _ROW_INCH * len(block)) as draw:
        draw.axes.axvline(0, color=INK, lw=0.8)
        for y, (_, row) in enumerate(block.iterrows()):
            low, high = 100 * row["low"], 100 * row["high"]
            fill = "white" if low <= 0 <= high else ACCENT
            draw.axes.plot([low, high], [y, y], color=ACCENT, lw=1.4, zorder=2)
            draw.axes.plot(100 * row["difference"], y, "o", ms=5.5, color=ACCENT, mfc=fill, mew=1.2, zorder=3)
            words.append(f"{row['arm']} {points(row['difference'])} ({points(row['low'])} to {points(row['high'])})")
        _rows(draw, block["arm"].tolist(), "difference, percentage points")
        draw.axes.set_title(split_title(split))
        return draw.panel(f"Difference to the cold start on {split_title(split)} in points: {'; '.join(words)}.")


def difficulty(cells: Sequence[Cell]) -> Figure | None:
    """How difficult the training examples are for the cold-started model: shares per seed, and pass rates."""
    files = label_files(cells)
    if not files:
        return None
    labels = {f"seed {seed}": pd.read_parquet(path) for path, seed in files.items()}
    caption = "Easy: all sampled answers right. Hard: none. Medium: the rest."
    if any(frame["num_correct"].isna().any() for frame in labels.values()):  # the paper's release has no rates
        return Figure("difficulty", "Difficulty of the training set", caption, (_shares(labels),))
    caption += " Pass rates are averaged over seeds." if len(labels) > 1 else ""
    return Figure("difficulty", "Difficulty of the training set", caption, (_shares(labels), _pass_rates(labels)))


def _shares(labels: dict[str, pd.DataFrame]) -> Panel:
    rows = {}
    for seed, frame in labels.items():
        shares = frame["difficulty"].value_counts(normalize=True)
        rows[seed] = {name: 100 * float(shares.get(name, 0.0)) for name in DIFFICULTIES}
    words = [f"{seed} {name} {width:.1f} %" for seed, shares in rows.items() for name, width in shares.items()]
    with drawing("difficulty_shares", 1.05 + 0.34 * len(labels)) as draw:
        draw.difficulty_bars(rows, "share of the training examples, %")
        draw.axes.xaxis.set_major_locator(_round_steps())
        return draw.panel(f"Difficulty of the training examples: {'; '.join(words)}.")


def _histogram(labels: pd.DataFrame) -> tuple[int, NDArray[np.int64]]:
    """G, the samples of an example, and the number of examples with 0 ... G of them right.

    An example with some unjudged samples counts at the nearest rate; ends stay reserved for none and all right. One
    with none judged is left out.
    """
    labels = labels[labels["num_samples"] > 0]
    most = int(labels["num_samples"].max())
    right, samples = labels["num_correct"].to_numpy(), labels["num_samples"].to_numpy()
    inner = np.clip(np.rint(most * right / samples), 1, max(1, most - 1))
    bins = np.where(right == 0, 0, np.where(right == samples, most, inner)).astype(int)
    return most, np.bincount(bins, minlength=most + 1)


def _class_of(right: int, most: int) -> str:
    return "hard" if right == 0 else "easy" if right == most else "medium"


def _pass_rates(labels: dict[str, pd.DataFrame]) -> Panel:
    histograms = [_histogram(frame) for frame in labels.values()]
    most = max(m for m, _ in histograms)
    shares = np.mean([100 * counts / counts.sum() for m, counts in histograms if m == most], axis=0)
    with drawing("pass_rates", 2.1) as draw:
        colours = [DIFFICULTY_COLOURS[_class_of(right, most)] for right in range(most + 1)]
        draw.axes.bar(range(most + 1), shares, 0.78, color=colours)
        draw.axes.set_xticks(range(most + 1), [f"{right}/{most}" for right in range(most + 1)])
        draw.axes.grid(axis="y")
        draw.axes.tick_params(axis="x", length=0)
        draw.axes.set_xlabel("sampled answers that are right")
        draw.axes.set_ylabel("share of examples, %")
        words = "; ".join(f"{right} of {most} right {share:.1f} %" for right, share in enumerate(shares))
        return draw.panel(f"Histogram of pass rates: {words}.")


def pass_rate_histogram(labels: Path) -> ConsoleTable:
    """The pass rates of labels.parquet as bars for the terminal (rich): a row for each of 0 ... G right.

    Where rates are not known, as in the paper's release, a row for each difficulty.
    """
    frame = pd.read_parquet(labels)
    if frame["num_correct"].isna().any():
        title, names = "Difficulty", list(DIFFICULTIES)
        rows, counts = names, np.array([(frame["difficulty"] == name).sum() for name in names])
    else:
        title, (most, counts) = "Pass rates", _histogram(frame)
        names = [_class_of(right, most) for right in range(most + 1)]
        rows = [f"{right}/{most}" + ("" if name == "medium" else f" {name}") for right, name in enumerate(names)]
    shown = ConsoleTable("right", "", "examples", "share", box=None, header_style="dim", title=title)
    shown.columns[2].justify = shown.columns[3].justify = "right"
    for row, name, count in zip(rows, names, counts, strict=True):
        bar = Bar(float(counts.max()), 0, float(count), width=40, color=DIFFICULTY_COLOURS[name])
        shown.add_row(row, bar, f"{count:,}", f"{100 * count / counts.sum():.1f} %")
    return shown


def hard_ratio(cells: Sequence[Cell]) -> Figure | None:
    """Accuracy against the share of hard examples in the training mixture (the paper's Figure 5).

    A line per paradigm through its arms that are trained on everything or on easy and medium, with whatever share of
    hard; a paradigm needs two different ratios.
    """
    mixtures: dict[str, list[list[Cell]]] = {}
    for group in by_arm(cells).values():
        results = group[0].results
        if results["train"] is not None and results["subset"] in ("all", "em"):
            mixtures.setdefault(results["paradigm"], []).append(group)
    lines = {name: arms for name, arms in mixtures.items() if len({str(a[0].results["hard_ratio"]) for a in arms}) > 1}
    if not lines:
        return None
    panels = tuple(_hard_ratio_panel(lines, split) for split in split_names(cells))
    caption = (
        "Accuracy against the share of hard examples in the mixture; the rest are easy and medium ones in their "
        "natural proportion. Bars: 95 % intervals as in the table."
    )
    return Figure("hard_ratio", "Accuracy against the share of hard examples", caption, panels)


def _hard_ratio_panel(lines: dict[str, list[list[Cell]]], split: str) -> Panel:
    words = []
    with drawing(f"hard_ratio_{split}", 2.2) as draw:
        for i, (paradigm, arms) in enumerate(lines.items()):
            judged_arms = [kept for kept in ([c for c in group if judged(c, split)] for group in arms) if kept]
            if not judged_arms:
                continue
            x, y, low, high = np.array(sorted(_hard_ratio_point(group, split) for group in judged_arms)).T
            colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
            draw.axes.plot(x, y, marker=marker, color=colour, ms=5.5, lw=1.3, mec="white", label=paradigm.upper())
            draw.axes.vlines(x, low, high, color=colour, lw=1.2, alpha=0.7)
            words += [f"{paradigm} at {a:.1f} % hard {b:.1f}" for a, b in zip(x, y, strict=True)]
        draw.axes.xaxis.set_major_locator(_round_steps())
        draw.axes.yaxis.set_major_locator(_round_steps())
        draw.axes.grid(axis="y")
        draw.axes.set_xlabel("hard examples in the mixture, %")
        draw.axes.set_ylabel("accuracy, %")
        draw.axes.set_title(split_title(split))
        if len(lines) > 1:
            draw.axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), ncols=len(lines))
        return draw.panel(f"Accuracy on {split_title(split)} in percent: {'; '.join(words)}.")


def _hard_ratio_point(group: Sequence[Cell], split: str) -> tuple[float, float, float, float]:
    """Share of hard examples, accuracy and its interval, in percent."""
    found = level([cell.results["splits"][split] for cell in group])
    trained = [cell.results["train"] for cell in group]
    share = float(np.mean([train["hard"] / sum(train[name] for name in DIFFICULTIES) for train in trained]))
    return 100 * share, 100 * found["accuracy"], 100 * found["low"], 100 * found["high"]


FIGURES: dict[str, Callable[[Sequence[Cell]], Figure | None]] = {
    "accuracy": accuracy,
    "differences": differences,
    "difficulty": difficulty,
    "gradients": gradient_norms,
    "losses": losses,
    "hard_ratio": hard_ratio,
    "curve": accuracy_curve,
    "update": update_shares,
    "time": total_time,
}
"""Each under its own name, in reading order."""


def all_figures(cells: Sequence[Cell], names: Sequence[str] = tuple(FIGURES)) -> list[Figure]:
    """Every figure among `names` that has something to show."""
    return [figure for figure in (FIGURES[name](cells) for name in names if name in FIGURES) if figure is not None]
