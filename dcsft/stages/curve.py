"""Accuracy on the way (Figure 3): its file beside a training's metrics, and both read back step by step."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dcsft.artefacts import read_lines

CURVE, METRICS = "curve.csv", "metrics.jsonl"


def accuracies(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The rows of one step of the curve as metrics; a test set of which nothing could be judged has none."""
    return {f"accuracy/{row['split']}": int(row["correct"]) / int(row["n"]) for row in rows if int(row["n"])}


def told_steps(folder: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """What a stage in `folder` told of each of its steps when it was computed; nothing if it does not train."""
    metrics, curve = folder / METRICS, folder / CURVE
    on_the_way = dict(list(pd.read_csv(curve).groupby("step"))) if curve.exists() else {}
    for values in read_lines(metrics) if metrics.exists() else ():
        step = values.pop("step")
        yield step, values | accuracies(on_the_way[step].to_dict("records") if step in on_the_way else ())
