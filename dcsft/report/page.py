"""One HTML file that holds a whole report: no network, no other file, the same bytes for the same cells."""

import base64
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dcsft.records import DIFFICULTIES
from dcsft.report.answers import shown_tests
from dcsft.report.canvas import Figure, Panel
from dcsft.report.cells import BASELINE, Cell, by_arm, finished, missing
from dcsft.report.examples import shown_completions, shown_examples
from dcsft.report.figures import all_figures
from dcsft.report.frames import accuracy_frame, cost_frame, difference_frame, training_frame
from dcsft.report.renderers import latex, markdown
from dcsft.report.sights import Sights
from dcsft.report.tables import Table, all_tables


def write_page(
    path: Path, title: str, cells: Sequence[Cell], sights: Sights | None = None, description: str = ""
) -> Path:
    """Writes the report of `cells` to `path` and returns it.

    `sights` looks up examples by id, None where they are not at hand; `description` is plain text whose lines are kept,
    paragraphs parted by an empty line.
    """
    return write_text(path, _page(title, cells, sights, description, all_tables(cells), all_figures(cells)))


def write_report(
    folder: Path, title: str, cells: Sequence[Cell], sights: Sights | None = None, description: str = ""
) -> Path:
    """Writes report.html, table.md, table.tex, CSV files and figures/*.svg into `folder`; returns the HTML's path.

    table.csv holds the accuracies; differences.csv, training.csv and cost.csv the rest, all unrounded.
    """
    tables, figures = all_tables(cells), all_figures(cells)
    write_text(folder / "table.md", f"# {title}\n\n" + markdown(tables, cells))
    write_text(folder / "table.tex", latex(tables, cells))
    write_text(folder / "table.csv", accuracy_frame(cells).to_csv())
    write_text(folder / "differences.csv", difference_frame(cells).to_csv(index=False))
    write_text(folder / "training.csv", training_frame(cells).to_csv())
    write_text(folder / "cost.csv", cost_frame(cells).to_csv(index=False))
    for figure in figures:
        for panel in figure.panels:
            write_text(folder / "figures" / f"{panel.name}.svg", panel.svg)
    return write_text(folder / "report.html", _page(title, cells, sights, description, tables, figures))


def write_text(path: Path, text: str) -> Path:
    """Whole or not at all: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def _data_uri(panel: Panel) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(panel.svg.encode()).decode()


def _numbered(names: Sequence[str]) -> list[tuple[str, str]]:
    """Values and texts of a choice: names may hold spaces, which part the values of a card's attribute."""
    return [(str(i), name) for i, name in enumerate(names)]


def rendered(template: str, **values: Any) -> str:
    """A page of this folder, with its style and its script inside."""
    here = files("dcsft.report")
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FileSystemLoader(str(here)),
    )
    environment.filters["data_uri"] = _data_uri
    environment.globals["numbered"] = _numbered
    style, script = (Markup(here.joinpath(name).read_text(encoding="utf-8")) for name in ("style.css", "explorer.js"))
    return environment.get_template(template).render(style=style, script=script, **values)


def paragraphs(description: str) -> list[str]:
    """Blocks that empty lines part."""
    return [block.strip() for block in description.split("\n\n") if block.strip()]


def _names(cells: Sequence[Cell], key: str) -> str:
    return ", ".join(dict.fromkeys(str(cell.results[key]) for cell in finished(cells)))


def _page(
    title: str,
    cells: Sequence[Cell],
    sights: Sights | None,
    description: str,
    tables: Sequence[Table],
    figures: Sequence[Figure],
) -> str:
    seed, examples = shown_examples(cells, sights)
    return rendered(
        "page.jinja",
        title=title,
        paragraphs=paragraphs(description),
        task=_names(cells, "task"),
        model=_names(cells, "model"),
        seeds=sorted({cell.seed for cell in cells}),
        num_cells=len(cells),
        missing=missing(cells),
        arms=list(by_arm(cells)),
        baseline=BASELINE,
        tables={table.name: table for table in tables},
        figures={figure.name: figure for figure in figures},
        differences=[table for table in tables if table.name.startswith("differences_")],
        unjudged=sum(cell.results["difficulty"]["unjudged"] for cell in _one_per_seed(cells)),
        difficulties=DIFFICULTIES,
        examples=examples,
        examples_seed=seed,
        tests=shown_tests(cells, sights),
        completions=shown_completions(cells),
    )


def _one_per_seed(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one seed share their labelling."""
    return list({cell.seed: cell for cell in finished(cells)}.values())
