"""The numbers of a report as pandas frames; how they are written is tables.py's business.

Accuracies, shares and their differences are in [0, 1]; times in seconds of wall clock.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dcsft.report.cells import BASELINE, REFERENCES, Cell, by_arm, comparable, split_names
from dcsft.report.statistics import PairedDifference, holm, mcnemar, mean_t_interval, paired_t

COSTS = ("seconds", "flops", "tokens_trained", "tokens_generated")


def level(parts: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """One accuracy from its seeds: one seed keeps its Wilson interval, several give a mean and a t interval.

    `parts` are entries of results["splits"], one a seed; `n` is the number of pictures of a seed (the mean, where seeds
    differ), `unjudged` is summed over seeds.
    """
    unjudged = sum(part["unjudged"] for part in parts if "unjudged" in part)
    counts = {"n": sum(part["n"] for part in parts) / len(parts), "unjudged": unjudged}
    if len(parts) == 1:
        part = parts[0]
        spread = {"accuracy": part["accuracy"], "standard_error": None, "low": part["low"], "high": part["high"]}
    else:
        mean = mean_t_interval([part["accuracy"] for part in parts])
        spread = {"accuracy": mean.mean, "standard_error": mean.standard_error, "low": mean.low, "high": mean.high}
    return spread | counts


def _measures(results: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every split as "ood_r" and every group of it as "ood_r/novel"; those without a judged picture are left out."""
    for split, part in results["splits"].items():
        if part["accuracy"] is not None:
            yield split, part
        for group, inner in part["groups"].items():
            if inner["accuracy"] is not None:
                yield f"{split}/{group}", inner


def accuracy_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per arm; columns "seeds" and, per split and per group of a split, "<measure>.<field>".

    Fields: accuracy, standard_error (None for one seed), low, high, n, unjudged, and into_id for groups: the share of
    the group's pictures answered with a word of the training classes.
    """
    rows: dict[str, dict[str, Any]] = {}
    for arm, group in by_arm(cells).items():
        parts: dict[str, list[dict[str, Any]]] = {}
        for cell in group:
            for measure, part in _measures(cell.results):
                parts.setdefault(measure, []).append(part)
        rows[arm] = {"seeds": len(group)}
        for measure, seeds in parts.items():
            rows[arm] |= {f"{measure}.{field}": value for field, value in level(seeds).items()}
            shares = [part["into_id"] for part in seeds if "into_id" in part and part["into_id"] is not None]
            if shares:
                rows[arm][f"{measure}.into_id"] = sum(shares) / len(shares)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def judged(cell: Cell, split: str) -> bool:
    """Whether the cell has an accuracy on the split."""
    splits = cell.results["splits"]
    return split in splits and splits[split]["accuracy"] is not None


def _partner(cell: Cell, candidates: Sequence[Cell]) -> Cell | None:
    """The reference cell of the same seed; for the baseline, else, the one that this cell was trained from."""
    for candidate in candidates:
        if candidate.seed == cell.seed:
            return candidate
    for candidate in candidates:
        ours, theirs = cell.results["seeds"], candidate.results["seeds"]
        if candidate.arm == BASELINE and all(ours[name] == theirs[name] for name in ("data", "cold_start")):
            return candidate
    return None


class _Answers:
    """Reads each scores.parquet once."""

    def __init__(self) -> None:
        self._read: dict[Path, pd.Series] = {}

    def of(self, path: Path) -> pd.Series:
        """`correct`, indexed by split and id, without what could not be judged."""
        if path not in self._read:
            scores = pd.read_parquet(path, columns=["split", "id", "correct"])
            self._read[path] = scores.set_index(["split", "id"])["correct"].dropna().astype(bool)
        return self._read[path]


def _compare(pairs: Sequence[tuple[Cell, Cell]], split: str, answers: _Answers) -> PairedDifference | None:
    if len(pairs) > 1:
        accuracies = [[cell.results["splits"][split]["accuracy"] for cell in pair] for pair in pairs]
        return paired_t([ours - theirs for ours, theirs in accuracies])
    arm, reference = pairs[0]
    if arm.scores is None or reference.scores is None:
        return None
    both = pd.concat([answers.of(arm.scores), answers.of(reference.scores)], axis=1, join="inner")
    if split not in both.index.get_level_values("split"):
        return None
    both = both.loc[split]
    return mcnemar(both.iloc[:, 0].tolist(), both.iloc[:, 1].tolist())


def difference_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per reference, arm and split: the accuracy of the arm minus that of the reference.

    One shared seed: exact McNemar on the same test ids. Several: t-test of the per-seed differences. `p_holm` is
    adjusted over the rows of one reference.
    """
    arms, answers, rows = by_arm(cells), _Answers(), []
    for reference in REFERENCES:
        for arm, group in arms.items():
            if reference not in arms or not comparable(arm, reference):
                continue
            partners = [(cell, _partner(cell, arms[reference])) for cell in group]
            for split in split_names(cells):
                pairs = [(c, p) for c, p in partners if p is not None and judged(c, split) and judged(p, split)]
                found = _compare(pairs, split, answers) if pairs else None
                if found is not None:
                    test = "McNemar, over pictures" if len(pairs) == 1 else "paired t, over seeds"
                    head = {"reference": reference, "arm": arm, "split": split, "seeds": len(pairs), "test": test}
                    numbers = {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p}
                    rows.append(head | {"pairs": found.n} | numbers)
    columns = ["reference", "arm", "split", "seeds", "test", "pairs", "difference", "low", "high", "p"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(p_holm=frame.groupby("reference")["p"].transform(lambda p: holm(p.tolist())))


def training_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per trained arm: examples, steps, batch size, passes over the data and pictures per difficulty.

    Means over seeds.
    """
    rows = {}
    for arm, group in by_arm(cells).items():
        trained = [cell.results["train"] for cell in group if cell.results["train"] is not None]
        if trained:
            fields = ["examples", "easy", "medium", "hard", "steps", "batch_size", "epochs"]
            means = {field: sum(train[field] for train in trained) / len(trained) for field in fields}
            rows[arm] = {"seeds": len(trained)} | means
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")


def cost_frame(cells: Sequence[Cell]) -> pd.DataFrame:
    """What was computed: a row per stage and set of arms that share its runs, each run counted once.

    Columns: stage, arms, num_runs, and the sums of seconds, flops, tokens_trained and tokens_generated over the runs.
    """
    costs: dict[tuple[str, str], dict[str, Any]] = {}
    users: dict[tuple[str, str], list[str]] = {}
    arms = by_arm(cells)
    for arm, group in arms.items():
        for cell in group:
            for stage, cost in cell.results["stages"].items():
                if cost is not None:
                    costs[stage, cost["key"]] = cost
                    users.setdefault((stage, cost["key"]), []).append(arm)
    # The baseline skips stages: the cell that went through most of them says in which order they come.
    longest = max((list(cell.results["stages"]) for group in arms.values() for cell in group), key=len, default=[])
    stages = list(dict.fromkeys([*longest, *(stage for stage, _ in costs)]))
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for run in sorted(costs, key=lambda run: stages.index(run[0])):
        names = list(dict.fromkeys(users[run]))
        who = f"all {len(arms)} arms" if len(names) == len(arms) > 1 else ", ".join(names)
        row = rows.setdefault((run[0], who), {"num_runs": 0} | dict.fromkeys(COSTS, 0))
        row["num_runs"] += 1
        for field in COSTS:
            row[field] += costs[run][field]
    records = [{"stage": stage, "arms": who} | row for (stage, who), row in rows.items()]
    return pd.DataFrame(records, columns=["stage", "arms", "num_runs", *COSTS])
