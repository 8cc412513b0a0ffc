"""The tables of a report: the frames' numbers laid out as text, and how that looks in a terminal."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table as ConsoleTable

from dcsft.records import DIFFICULTIES
from dcsft.report.cells import Cell, by_arm, label_files, missing, split_names, split_title
from dcsft.report.frames import COSTS, accuracy_frame, cost_frame, difference_frame, training_frame
from dcsft.report.paper_numbers import in_paper

ONE_SEED = (
    "One seed: the 95 % intervals (Wilson) are test-sampling error only; how far another seed would land is not shown."
)
SEVERAL_SEEDS = (
    "Mean ± standard error over seeds, in brackets the 95 % t interval over seeds. Where seeds are evaluated on the "
    "same pictures, the error of having drawn these pictures is not part of it."
)
_NOVEL = (
    "Novel classes of the OOD sets never occur in the training data; a model that learned the training vocabulary by "
    "heart answers them with a training word."
)
_AS_ABOVE = "Intervals and marks as in the table of accuracies."
NOTHING = "–"


@dataclass(frozen=True)
class Entry:
    """What one place of a table says."""

    text: str
    detail: str = ""
    """Written smaller, below or behind the text: an interval, a p-value, a count."""
    rank: int | None = None
    """1: best of its column, 2: second best."""


@dataclass(frozen=True)
class Table:
    """A table that every renderer can write."""

    name: str
    """Stem of its files."""
    caption: str
    notes: tuple[str, ...]
    header: tuple[Entry, ...]
    rows: tuple[tuple[Entry, ...], ...]
    num_labels: int
    """Leading columns that name the row; the others hold numbers."""


def percent(share: float) -> str:
    """0.8456 -> "84.6"."""
    return f"{100 * share:.1f}"


def points(difference: float) -> str:
    """A signed difference in percentage points with a true minus: -0.0204 -> "−2.0"."""
    written = f"{100 * difference:+.1f}"
    return "0.0" if float(written) == 0 else written.replace("-", "−")


def probability(p: float) -> str:
    """ "p = 0.012", "p < 0.001", or a dash for nan."""
    if math.isnan(p):
        return f"p {NOTHING}"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def quantity(value: float) -> str:
    """A count: 1720 -> "1,720"; from a million on with an SI letter: 1.2e12 -> "1.20 T"."""
    for size, letter in ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {letter}"
    return f"{value:,.0f}"


def _ranks(values: Sequence[float]) -> list[int | None]:
    """1 for the highest as written, 2 for the next; ties share; nobody is best of one."""
    written = [None if pd.isna(value) else round(100 * value, 1) for value in values]
    order = sorted({value for value in written if value is not None}, reverse=True)
    if len(order) < 2:
        return [None] * len(values)
    return [order.index(value) + 1 if value in order[:2] else None for value in written]


def _level(row: pd.Series, measure: str, n_in_header: bool, rank: int | None) -> Entry:
    if pd.isna(row[f"{measure}.accuracy"]):
        return Entry(NOTHING)
    error = row[f"{measure}.standard_error"]
    text = percent(row[f"{measure}.accuracy"]) + ("" if pd.isna(error) else f" ± {percent(error)}")
    detail = f"[{percent(row[f'{measure}.low'])}, {percent(row[f'{measure}.high'])}]"
    detail += "" if n_in_header else f" n = {quantity(row[f'{measure}.n'])}"
    if row[f"{measure}.unjudged"] > 0:
        detail += f" {quantity(row[f'{measure}.unjudged'])} unjudged"
    return Entry(text, detail, rank)


def _levels(frame: pd.DataFrame, measures: Sequence[str]) -> tuple[tuple[Entry, ...], list[list[Entry]]]:
    """Header and columns of accuracies, each with what share went to training words where that is known."""
    header, columns = [], []
    for measure in measures:
        split, _, group = measure.partition("/")
        counts = frame[f"{measure}.n"].dropna().unique()
        header.append(
            Entry(f"{split_title(split)} {group}".strip(), f"n = {quantity(counts[0])}" if len(counts) == 1 else "")
        )
        ranks = _ranks(frame[f"{measure}.accuracy"].tolist())
        rows = [row for _, row in frame.iterrows()]
        columns.append([_level(row, measure, len(counts) == 1, rank) for row, rank in zip(rows, ranks, strict=True)])
        # For classes that were trained on, a training word is simply an answer; for others it is the mistake to watch.
        if group != "seen" and f"{measure}.into_id" in frame:
            header.append(Entry("→ ID word", f"share of {split_title(split)} {group}"))
            shares = frame[f"{measure}.into_id"]
            columns.append([Entry(NOTHING if pd.isna(share) else percent(share)) for share in shares])
    return tuple(header), columns


def _accuracy_notes(frame: pd.DataFrame) -> tuple[str, ...]:
    notes = [ONE_SEED] if (frame["seeds"] == 1).any() else []
    notes += [SEVERAL_SEEDS] if (frame["seeds"] > 1).any() else []
    if len(frame) > 1:
        notes.append("Bold: highest of its column; underlined: second. This ranks the numbers, it is not a test.")
    return tuple(notes)


def _accuracy_table(
    frame: pd.DataFrame, name: str, caption: str, notes: tuple[str, ...], measures: Sequence[str]
) -> Table:
    header, columns = _levels(frame, measures)
    labels = [(Entry(str(arm)), Entry(str(seeds))) for arm, seeds in frame["seeds"].items()]
    rows = tuple((*label, *cells) for label, *cells in zip(labels, *columns, strict=True))
    return Table(name, caption, notes, (Entry("Arm"), Entry("Seeds"), *header), rows, num_labels=1)


def accuracy_tables(cells: Sequence[Cell]) -> list[Table]:
    """Accuracy per arm and split in percent and, where test sets have groups, per group."""
    frame = accuracy_frame(cells)
    if frame.empty:
        return []
    measures = [column.removesuffix(".accuracy") for column in frame if column.endswith(".accuracy")]
    whole, parts = [m for m in measures if "/" not in m], [m for m in measures if "/" in m]
    tables = [
        _accuracy_table(frame, "accuracy", "Accuracy per arm and test set, in percent", _accuracy_notes(frame), whole)
    ]
    if parts:
        caption, notes = "Accuracy per part of the test sets, in percent", (_AS_ABOVE,)
        if any(column.endswith(".into_id") for column in frame):
            caption = "Accuracy on novel and seen classes, in percent, and novel pictures answered with a training word"
            notes = (_NOVEL, _AS_ABOVE)
        tables.append(_accuracy_table(frame, "groups", caption, notes, parts))
    return tables


def difference_tables(cells: Sequence[Cell]) -> list[Table]:
    """Per reference: how much more accurate each arm is, in percentage points."""
    frame = difference_frame(cells)
    tables = []
    for reference, block in frame.groupby("reference", sort=False):
        splits = [split for split in split_names(cells) if split in set(block["split"])]
        rows = []
        for arm, of_arm in block.groupby("arm", sort=False):
            found = of_arm.set_index("split")
            printed = in_paper("difference", cells, arm=str(arm), reference=str(reference)) or {}
            shown = [
                _difference(found.loc[split], printed.get(split)) if split in found.index else Entry(NOTHING)
                for split in splits
            ]
            rows.append((Entry(str(arm)), Entry(str(found["seeds"].max())), *shown))
        header = (Entry("Arm"), Entry("Seeds"), *(Entry(split_title(split)) for split in splits))
        notes = _difference_notes(block)
        caption = f"Paired difference to {reference}, in percentage points"
        tables.append(Table("differences_" + _stem(str(reference)), caption, notes, header, tuple(rows), num_labels=1))
    return tables


def _stem(name: str) -> str:
    return "".join(sign if sign.isalnum() else "_" for sign in name.lower())


def _difference(row: pd.Series, printed: float | None) -> Entry:
    """With the paper's number, in percentage points, where it has one."""
    detail = f"[{points(row['low'])}, {points(row['high'])}] {probability(row['p_holm'])}"
    return Entry(points(row["difference"]), detail + ("" if printed is None else f"; paper {points(printed / 100)}"))


def _difference_notes(block: pd.DataFrame) -> tuple[str, ...]:
    notes = []
    pictures = block[block["seeds"] == 1]["pairs"]
    if len(pictures):
        count = " to ".join(dict.fromkeys([quantity(pictures.min()), quantity(pictures.max())]))
        notes.append(
            f"One seed: exact McNemar test on the same {count} pictures; 95 % interval after Agresti and Min (2005). "
            "It covers the drawing of test pictures, not another training seed."
        )
    if (block["seeds"] > 1).any():
        notes.append(
            "Several seeds: t-test and 95 % t interval of the per-seed differences; with few seeds it has little power."
        )
    notes.append(
        f"p after Holm over the {block['p'].notna().sum()} comparisons of this table; the intervals are not adjusted."
    )
    return tuple(notes)


def difficulty_table(cells: Sequence[Cell]) -> Table | None:
    """How many training examples are easy, medium and hard, a row a labelling; the paper's below, where it is of the
    same task and model."""
    files = label_files(cells)
    if not files:
        return None
    rows = []
    for path, seed in files.items():
        counts = pd.read_parquet(path, columns=["difficulty"])["difficulty"].value_counts()
        rows.append(_shares(f"seed {seed}", {name: int(counts.get(name, 0)) for name in DIFFICULTIES}))
    printed = in_paper("difficulty", cells)
    if printed is not None:
        rows.append(_shares("paper", {name: printed[name] for name in DIFFICULTIES}))
    header = (Entry("Labels"), Entry("Examples"), *(Entry(name.capitalize()) for name in DIFFICULTIES))
    caption = "Difficulty of the training examples, in percent"
    return Table("difficulty", caption, (), header, tuple(rows), num_labels=1)


def _shares(name: str, counts: Mapping[str, int]) -> tuple[Entry, ...]:
    total = sum(counts.values())
    shares = [
        Entry(percent(count / total) if total else NOTHING, f"n = {quantity(count)}") for count in counts.values()
    ]
    return (Entry(name), Entry(quantity(total)), *shares)


def training_table(cells: Sequence[Cell]) -> Table | None:
    """What each arm was trained on; None where no arm was."""
    frame = training_frame(cells)
    if frame.empty:
        return None
    rows = []
    for arm, row in frame.iterrows():
        counts = [Entry(quantity(row[field])) for field in ("examples", "easy", "medium", "hard", "steps")]
        size = Entry(quantity(row["batch_size"]))
        rows.append((Entry(str(arm)), Entry(f"{row['seeds']:.0f}"), *counts, size, Entry(f"{row['epochs']:.2f}")))
    header = ("Arm", "Seeds", "Examples", "Easy", "Medium", "Hard", "Steps", "Batch", "Epochs")
    notes = ("Means over seeds.",) if (frame["seeds"] > 1).any() else ()
    return Table(
        "training",
        "What each arm was trained on",
        notes + _dropped(cells),
        tuple(map(Entry, header)),
        tuple(rows),
        num_labels=1,
    )


def _dropped(cells: Sequence[Cell]) -> tuple[str, ...]:
    notes = []
    for arm, group in by_arm(cells).items():
        for cell in group:
            counts = [f"{reason} {count}" for reason, count in cell.results["dropped"].items() if count]
            if counts:
                notes.append(f"Dropped in {arm}, seed {cell.seed}: {', '.join(counts)}.")
    return tuple(notes)


def cost_table(cells: Sequence[Cell]) -> Table | None:
    """What was computed, each shared run counted once; None where nothing was."""
    frame = cost_frame(cells)
    if frame.empty:
        return None
    fields = ["num_runs", *COSTS]

    def entries(row: pd.Series) -> list[Entry]:
        return [Entry(f"{row[field]:,.1f}" if field == "seconds" else quantity(row[field])) for field in fields]

    rows = [(Entry(row["stage"].replace("_", " ")), Entry(row["arms"]), *entries(row)) for _, row in frame.iterrows()]
    rows.append((Entry("Total"), Entry(""), *entries(frame[fields].sum())))
    header = ("Stage", "For", "Runs", "Seconds", "FLOPs", "Tokens trained", "Tokens generated")
    notes = (
        "Sums over runs; a run that several arms share is counted once. Seconds are wall clock on whatever machine "
        "computed the stage; FLOPs and tokens are as the stage counted them.",
    )
    caption = "What it cost, stage by stage"
    return Table("cost", caption, notes, tuple(map(Entry, header)), tuple(rows), num_labels=2)


def all_tables(cells: Sequence[Cell]) -> list[Table]:
    """Every table that has something to say, in reading order."""
    others = (difficulty_table(cells), training_table(cells), cost_table(cells))
    rest = [table for table in others if table is not None]
    return [*accuracy_tables(cells), *difference_tables(cells), *rest]


def show_tables(cells: Sequence[Cell], screen: Console) -> None:
    """Accuracies and paired differences, then the commands of the missing cells, a line each however narrow it is."""
    for table in (*accuracy_tables(cells), *difference_tables(cells)):
        for part in _fitting(table, screen):
            screen.print(console(part))
    if missing(cells):
        screen.print(f"{len(missing(cells))} of {len(cells)} cells are not computed yet:", highlight=False)
    for cell in missing(cells):
        screen.print(f"  {cell.command}", highlight=False, markup=False, soft_wrap=True)


def _fitting(table: Table, screen: Console) -> list[Table]:
    """The table or, where the screen is narrow, several with fewer columns each, so that no number is broken."""
    columns, unlimited = range(table.num_labels, len(table.header)), screen.options.update(max_width=10_000)
    for number in range(1, len(columns) + 1):
        parts = [_some(table, some.tolist()) for some in np.array_split(columns, number)]
        if max(screen.measure(console(part), options=unlimited).maximum for part in parts) <= screen.width:
            break
    first, last = parts[0], parts[-1]
    return [replace(p, caption=p.caption if p is first else "", notes=p.notes if p is last else ()) for p in parts]


def _some(table: Table, columns: Sequence[int]) -> Table:
    """The table with its labels and some of its other columns."""

    def kept(row: Sequence[Entry]) -> tuple[Entry, ...]:
        return (*row[: table.num_labels], *(row[column] for column in columns))

    return replace(table, header=kept(table.header), rows=tuple(map(kept, table.rows)))


def console(table: Table) -> ConsoleTable:
    """Best bold, second best underlined, details dim below."""
    shown = ConsoleTable(title=table.caption or None, caption="\n".join(table.notes) or None, title_justify="left")
    shown.caption_justify = "left"
    for i, entry in enumerate(table.header):
        if i < table.num_labels:
            shown.add_column(_markup(entry), overflow="fold")
        else:
            narrow = replace(entry, text=entry.text.replace(" ", "\n"))
            shown.add_column(_markup(narrow), justify="right", no_wrap=True, overflow="fold")
    for row in table.rows:
        shown.add_row(*map(_markup, row))
    return shown


def _markup(entry: Entry) -> str:
    style = {1: "bold", 2: "underline", None: ""}[entry.rank]
    text = f"[{style}]{escape(entry.text)}[/]" if style else escape(entry.text)
    detail = entry.detail.replace("] ", "]\n")  # an interval stays whole, what follows it has a line of its own
    return f"{text}\n[dim]{escape(detail)}[/]" if detail else text
