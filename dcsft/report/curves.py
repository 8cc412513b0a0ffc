"""Figures over training steps: loss and gradient norm per difficulty, and accuracy on the way."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.ticker import NullFormatter

from dcsft.artefacts import read_lines
from dcsft.records import DIFFICULTIES
from dcsft.report.canvas import CYCLE, DIFFICULTY_COLOURS, MARKERS, Figure, Panel, drawing
from dcsft.report.cells import Cell, by_arm, split_title
from dcsft.report.statistics import mean_t_interval, wilson

_QUANTITIES = {"loss": "loss", "grad_norm": "gradient norm"}
_LOGARITHMIC = ("grad_norm",)


def read_metrics(path: Path) -> pd.DataFrame:
    """metrics.jsonl, indexed by step."""
    lines = read_lines(path)
    return pd.DataFrame(lines, columns=["step"] if not lines else None).set_index("step")


def _curves(group: Sequence[Cell], quantity: str) -> dict[str, pd.Series]:
    """difficulty -> the quantity's mean over the seeds of an arm, by step, where there is something to draw."""
    frames = [read_metrics(cell.metrics) for cell in group if cell.metrics is not None]
    if not frames:
        return {}
    merged = pd.concat(frames)
    merged = merged[[c for c in merged.columns if "/" in c]].astype(float).groupby(level="step").mean()
    columns = {name: f"{quantity}/{name}" for name in DIFFICULTIES if f"{quantity}/{name}" in merged.columns}
    found = {name: merged[column].dropna() for name, column in columns.items()}
    if quantity in _LOGARITHMIC:  # where all completions earn the same, the gradient is exactly zero
        found = {name: curve[curve > 0] for name, curve in found.items()}
    return {name: curve for name, curve in found.items() if not curve.empty}


def gradient_norms(cells: Sequence[Cell]) -> Figure | None:
    """Gradient norm of easy, medium and hard examples against the step (the paper's Figure 6)."""
    caption = (
        "Smoothed over a tenth of the run; raw values faint, means over seeds. The scale is logarithmic: steps whose "
        "gradient is exactly zero are left out."
    )
    panels = _training_panels(cells, "grad_norm")
    return Figure("gradients", "Gradient norm per difficulty", caption, panels) if panels else None


def losses(cells: Sequence[Cell]) -> Figure | None:
    """Training loss of easy, medium and hard examples against the step (the paper's Figure S1)."""
    caption = (
        "Smoothed over a tenth of the run; raw values faint, means over seeds. A falling loss on training examples "
        "does not show that the model generalises."
    )
    panels = _training_panels(cells, "loss")
    return Figure("losses", "Loss per difficulty", caption, panels) if panels else None


def _training_panels(cells: Sequence[Cell], quantity: str) -> tuple[Panel, ...]:
    """The arms that hold one difficulty only, and the first of the arms that hold most difficulties together."""
    alone: dict[str, pd.Series] = {}
    mixed: tuple[str, dict[str, pd.Series]] = ("", {})
    for arm, group in by_arm(cells).items():
        curves = _curves(group, quantity)
        if len(curves) == 1:
            alone = curves | alone
        elif len(curves) > len(mixed[1]):
            mixed = arm, curves
    drawn = (("alone", "Each trained on alone", alone), ("mixed", *mixed))
    return tuple(_training_panel(f"{quantity}_{key}", title, quantity, found) for key, title, found in drawn if found)


def _training_panel(name: str, title: str, quantity: str, curves: dict[str, pd.Series]) -> Panel:
    label, words = _QUANTITIES[quantity], []
    with drawing(name, 2.3) as draw:
        for difficulty in (name for name in DIFFICULTIES if name in curves):
            raw, colour = curves[difficulty], DIFFICULTY_COLOURS[difficulty]
            smooth = raw.rolling(max(1, len(raw) // 10), center=True, min_periods=1).mean()
            draw.axes.plot(raw.index, raw, color=colour, lw=0.7, alpha=0.3)
            draw.axes.plot(smooth.index, smooth, color=colour, lw=1.8, label=difficulty)
            words.append(f"{difficulty} from {smooth.iloc[0]:.3g} to {smooth.iloc[-1]:.3g}")
        if quantity in _LOGARITHMIC:
            draw.axes.set_yscale("log")
            draw.axes.yaxis.set_major_formatter("{x:g}")
            draw.axes.yaxis.set_minor_formatter(NullFormatter())
        else:
            draw.axes.set_ylim(bottom=0)
        draw.axes.grid(axis="y")
        draw.axes.set_xlabel("step")
        draw.axes.set_ylabel(label)
        draw.axes.set_title(title, pad=22)
        draw.axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=3, handlelength=1.2, columnspacing=1.2)
        return draw.panel(f"{title}: {label} against step, smoothed: {'; '.join(words)}.")


def accuracy_curve(cells: Sequence[Cell]) -> Figure | None:
    """Accuracy against the training step, a line an arm and a panel a split (the paper's Figure 3)."""
    curves: dict[str, pd.DataFrame] = {}
    for arm, group in by_arm(cells).items():
        found = [pd.read_csv(cell.curve) for cell in group if cell.curve is not None]
        if found:
            curves[arm] = pd.concat(found)
    if not curves:
        return None
    splits = dict.fromkeys(split for frame in curves.values() for split in frame["split"])
    caption = "Accuracy on the way. Bands: 95 % intervals, over pictures for one seed, over seeds for several."
    panels = tuple(_curve_panel(curves, split) for split in splits)
    return Figure("curve", "Accuracy during training", caption, panels)


def _curve_panel(curves: dict[str, pd.DataFrame], split: str) -> Panel:
    words = []
    with drawing(f"curve_{split}", 2.5) as draw:
        for i, (arm, frame) in enumerate(curves.items()):
            of_split = frame[frame["split"] == split]
            if of_split.empty:
                continue
            table = [(step, *_point(part)) for step, part in of_split.groupby("step")]
            step, middle, low, high = (list(column) for column in zip(*table, strict=True))
            colour, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
            draw.axes.fill_between(step, low, high, color=colour, alpha=0.12, lw=0)
            draw.axes.plot(step, middle, marker=marker, ms=4, lw=1.5, color=colour, mec="white", mew=0.5, label=arm)
            words.append(f"{arm} from {middle[0]:.1f} to {middle[-1]:.1f}")
        draw.axes.grid(axis="y")
        draw.axes.set_xlabel("step")
        draw.axes.set_ylabel("accuracy, %")
        draw.axes.set_title(split_title(split))
        draw.axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)
        return draw.panel(f"Accuracy on {split_title(split)} in percent against step: {'; '.join(words)}.")


def _point(part: pd.DataFrame) -> tuple[float, float, float]:
    """Accuracy in percent and its 95 % interval at one step; `part` has a row a seed."""
    if len(part) == 1:
        correct, n = int(part["correct"].iloc[0]), int(part["n"].iloc[0])
        low, high = wilson(correct, n)
        return 100 * correct / n, 100 * low, 100 * high
    mean = mean_t_interval((100 * part["correct"] / part["n"]).tolist())
    return mean.mean, mean.low, mean.high
