"""Several sweeps on one page: a chapter each with what is the sweep's own, then one explorer and one ledger for all."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dcsft.records import DIFFICULTIES
from dcsft.report.answers import ShownTests, shown_tests
from dcsft.report.canvas import Figure
from dcsft.report.cells import Cell, finished, missing
from dcsft.report.examples import ShownExample, shown_examples
from dcsft.report.figures import FIGURES, all_figures
from dcsft.report.page import paragraphs, rendered, write_text
from dcsft.report.sights import Sights
from dcsft.report.tables import Table, all_tables, cost_table

EXAMPLES = "examples"
"""What a sweep shows that has the training examples for its own figure: they stand in the explorer of the page."""


@dataclass(frozen=True)
class Chapter:
    """One sweep of a collection."""

    name: str
    """Stem of its yaml: "tableS2"."""
    description: str
    cells: tuple[Cell, ...]
    shows: tuple[str, ...]
    """Names of its tables and figures, "differences" for all of that kind; empty: all."""

    @property
    def title(self) -> str:
        """tableS2 -> "Table S2"."""
        kind, number = re.fullmatch(r"([a-z]+)(.*)", self.name.replace("_", " ")).groups() if self.name else ("", "")
        return f"{kind.capitalize()} {number}".strip()

    @property
    def missing(self) -> list[Cell]:
        return missing(self.cells)

    def tables(self) -> list[Table]:
        """The sweep's own tables, as it orders them."""
        tables = all_tables(self.cells)
        if not self.shows:
            return tables
        return [table for name in self.shows for table in tables if table.name.split("_")[0] == name]

    def figures(self) -> list[Figure]:
        """The sweep's own figures, as it orders them."""
        return all_figures(self.cells, self.shows or tuple(FIGURES))


@dataclass(frozen=True)
class Shelf:
    """All cells of one task and model, over the chapters."""

    task: str
    model: str
    cells: tuple[Cell, ...]
    seed: int | None
    examples: list[ShownExample]
    tests: ShownTests | None
    cost: Table | None


def _shelves(chapters: Sequence[Chapter], sights: Sights | None) -> list[Shelf]:
    groups: dict[tuple[str, str], dict[tuple[str, int], Cell]] = {}
    every: dict[tuple[str, str], list[Cell]] = {}
    for chapter in chapters:
        for cell in finished(chapter.cells):
            where = cell.results["task"], cell.results["model"]
            groups.setdefault(where, {}).setdefault((cell.arm, cell.seed), cell)
            every.setdefault(where, []).append(cell)
    shelves = []
    for (task, model), cells in groups.items():
        first = tuple(cells.values())  # the same arm in another chapter is mostly the same run
        seed, examples = shown_examples(first, sights)
        cost = cost_table(every[task, model])
        shelves.append(Shelf(task, model, first, seed, examples, shown_tests(first, sights), cost))
    return shelves


def write_collection(path: Path, title: str, chapters: Sequence[Chapter], sights: Sights | None = None) -> Path:
    """Writes one HTML file of all `chapters` to `path` and returns it."""
    cells = [cell for chapter in chapters for cell in chapter.cells]
    shelves = _shelves(chapters, sights)
    page = rendered(
        "collection.jinja",
        title=title,
        chapters=chapters,
        described={chapter.name: paragraphs(chapter.description) for chapter in chapters},
        shelves=shelves,
        difficulties=DIFFICULTIES,
        examples_name=EXAMPLES,
        num_cells=len(cells),
        num_missing=len(missing(cells)),
    )
    return write_text(path, page)
