"""What each arm takes from start to end (the paper's Figure 4), and whence its updates come (Figure 1a)."""

from collections.abc import Sequence

import pandas as pd

from dcsft.records import DIFFICULTIES
from dcsft.report.canvas import INK, SOFT, Figure, Panel, drawing
from dcsft.report.cells import BASELINE, Cell, by_arm
from dcsft.report.curves import read_metrics
from dcsft.report.paper_numbers import in_paper

_STAGES = {"cold_start": SOFT, "label": "#e69f00", "train": "#0072b2"}
_ROW_INCH = 0.3


def needs_labels(results: dict[str, object]) -> bool:
    """Whether the arm could not have been trained without labelling: it selects by difficulty or takes rollouts."""
    takes_rollouts = results["paradigm"] == "rs" or results["warm_start"]
    return takes_rollouts or results["subset"] != "all" or results["hard_ratio"] != "natural"


def time_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per trained arm: mean seconds over seeds of cold_start, label and train, and their sum as "total".

    Every arm pays its whole cold start, and its whole labelling if it needs one, as if it were alone.
    """
    rows = {}
    for arm, group in by_arm(cells).items():
        if arm == BASELINE:
            continue
        seconds = [
            {
                stage: cell.results["stages"][stage]["seconds"]
                if stage in cell.results["stages"] and (stage != "label" or needs_labels(cell.results))
                else 0.0
                for stage in _STAGES
            }
            for cell in group
        ]
        rows[arm] = {stage: sum(of_seed[stage] for of_seed in seconds) / len(seconds) for stage in _STAGES}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(_STAGES))
    return frame.assign(total=frame.sum(axis=1))


def total_time(cells: Sequence[Cell]) -> Figure | None:
    """Seconds from the foundation to the trained model, a bar an arm (the paper's Figure 4); needs two arms."""
    frame = time_frame(cells)
    if len(frame) < 2:
        return None
    words = []
    with drawing("time", 1.0 + _ROW_INCH * len(frame)) as draw:
        for y, (arm, row) in enumerate(frame.iterrows()):
            left = 0.0
            for stage, colour in _STAGES.items():
                label = stage.replace("_", " ") if y == 0 else None
                draw.axes.barh(y, row[stage], 0.66, left, color=colour, label=label, ec="white", lw=0.8)
                left += row[stage]
            draw.axes.text(left, y, f" {left:,.0f} s", va="center", color=INK)
            parts = ", ".join(f"{stage.replace('_', ' ')} {row[stage]:.1f}" for stage in _STAGES)
            words.append(f"{arm} {left:.1f} ({parts})")
        draw.axes.margins(x=0.16)
        draw.axes.set_xlim(left=0)
        draw.name_rows([str(arm) for arm in frame.index], "seconds, wall clock")
        draw.legend_above()
        panel = draw.panel(f"Seconds from the start to the trained model: {'; '.join(words)}.")
    caption = (
        "Cold start, labelling and training of each arm as if it were alone, means over seeds, on whatever machine "
        "computed them. Labelling is counted where the arm needs it: to select by difficulty or for its answers. "
        "Where the vision tower is frozen, labelling has encoded the pictures, and no arm's training does it again."
    )
    if "GRPO" in frame.index:
        ratio = frame.loc["GRPO", "total"] / frame["total"]
        named = [f"{arm} {ratio[arm]:.2f} times" for arm in ("SFT-M", "SFT-EM") if arm in ratio.index]
        caption += f" Against GRPO: {', '.join(named)} as fast." if named else ""
        printed = in_paper("speedup", cells)
        caption += f" Paper: {printed['arm']} {printed['times']} times{printed.get('note', '')}." if printed else ""
    return Figure("time", "Time of each arm, from start to end", caption, (panel,))


def update_shares(cells: Sequence[Cell]) -> Figure | None:
    """How much of reinforcement learning's update comes from each difficulty (the paper's Figure 1a), by arm."""
    panels = []
    for arm, group in by_arm(cells).items():
        frames = [read_metrics(cell.metrics) for cell in group if cell.metrics is not None]
        merged = pd.concat(frames) if frames else pd.DataFrame()
        if f"advantage_share/{DIFFICULTIES[1]}" in merged.columns:
            panels.append(_shares_panel(arm, merged, group))
    if not panels:
        return None
    caption = (
        "Means over all steps and seeds. An easy or hard prompt teaches only where its fresh completions differ in "
        "reward; in the groups without variance the advantage, and so the update, is exactly zero."
    )
    return Figure("update", "Where the update comes from", caption, tuple(panels))


def _shares_panel(arm: str, metrics: pd.DataFrame, group: Sequence[Cell]) -> Panel:
    trained = [cell.results["train"] for cell in group]
    held = {name: [train[name] / train["examples"] for train in trained] for name in DIFFICULTIES}
    prompts = {name: 100 * sum(shares) / len(shares) for name, shares in held.items()}
    rows = {"prompts": prompts}
    for row, quantity in {"squared advantage": "advantage_share", "gradient norm": "grad_share"}.items():
        if f"{quantity}/{DIFFICULTIES[1]}" in metrics.columns:
            of = metrics[[f"{quantity}/{n}" for n in DIFFICULTIES if f"{quantity}/{n}" in metrics.columns]]
            means = of.dropna(how="all").fillna(0.0).mean()
            rows[row] = {name: 100 * float(means.get(f"{quantity}/{name}", 0.0)) for name in DIFFICULTIES}
    flat = {name: f"zero_variance/{name}" for name in DIFFICULTIES}
    words = [
        f"{row} " + ", ".join(f"{name} {share:.0f} %" for name, share in shares.items()) for row, shares in rows.items()
    ]
    with drawing(f"update_{arm.lower().replace(' ', '_')}", 0.95 + 0.34 * len(rows)) as draw:
        draw.difficulty_bars(rows, "share, %")
        draw.axes.set_title(arm, pad=22)
        variance = ", ".join(f"{n} {100 * metrics[c].mean():.0f} %" for n, c in flat.items() if c in metrics.columns)
        return draw.panel(f"{arm}: {'; '.join(words)}; groups without variance {variance}.")
