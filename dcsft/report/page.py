"""One HTML file that holds a whole report: no network, no other file, the same bytes for the same cells."""

import base64
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from dcsft.records import DIFFICULTIES
from dcsft.report.canvas import Figure, Panel
from dcsft.report.cells import BASELINE, Cell, by_arm, finished, missing
from dcsft.report.examples import Pictures, shown_completions, shown_examples
from dcsft.report.figures import all_figures
from dcsft.report.frames import accuracy_frame, cost_frame, difference_frame, training_frame
from dcsft.report.renderers import latex, markdown
from dcsft.report.tables import Table, all_tables


def write_page(
    path: Path, title: str, cells: Sequence[Cell], pictures: Pictures | None = None, description: str = ""
) -> Path:
    """Writes the report of `cells` to `path` and returns it.

    `pictures` gives PNG bytes of training examples by id, None where pictures are not at hand; `description` is plain
    text whose lines are kept, paragraphs parted by an empty line.
    """
    return _write(path, _page(title, cells, pictures, description, all_tables(cells), all_figures(cells)))


def write_report(
    folder: Path, title: str, cells: Sequence[Cell], pictures: Pictures | None = None, description: str = ""
) -> Path:
    """Writes report.html, table.md, table.tex, CSV files and figures/*.svg into `folder`; returns the HTML's path.

    table.csv holds the accuracies; differences.csv, training.csv and cost.csv the rest, all unrounded.
    """
    tables, figures = all_tables(cells), all_figures(cells)
    _write(folder / "table.md", f"# {title}\n\n" + markdown(tables, cells))
    _write(folder / "table.tex", latex(tables, cells))
    _write(folder / "table.csv", accuracy_frame(cells).to_csv())
    _write(folder / "differences.csv", difference_frame(cells).to_csv(index=False))
    _write(folder / "training.csv", training_frame(cells).to_csv())
    _write(folder / "cost.csv", cost_frame(cells).to_csv(index=False))
    for figure in figures:
        for panel in figure.panels:
            _write(folder / "figures" / f"{panel.name}.svg", panel.svg)
    return _write(folder / "report.html", _page(title, cells, pictures, description, tables, figures))


def _write(path: Path, text: str) -> Path:
    """Whole or not at all: a reader never meets half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return path


def _data_uri(panel: Panel) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(panel.svg.encode()).decode()


def _names(cells: Sequence[Cell], key: str) -> str:
    return ", ".join(dict.fromkeys(str(cell.results[key]) for cell in finished(cells)))


def _page(
    title: str,
    cells: Sequence[Cell],
    pictures: Pictures | None,
    description: str,
    tables: Sequence[Table],
    figures: Sequence[Figure],
) -> str:
    seed, examples = shown_examples(cells, pictures)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["data_uri"] = _data_uri
    here = files("dcsft.report")
    seeds = sorted({cell.seed for cell in cells})
    return environment.from_string(here.joinpath("page.jinja").read_text(encoding="utf-8")).render(
        title=title,
        paragraphs=[block.strip() for block in description.split("\n\n") if block.strip()],
        task=_names(cells, "task"),
        model=_names(cells, "model"),
        seeds=seeds,
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
        completions=shown_completions(cells),
        examples_seed=seed,
        rates=sorted({(example.num_correct, example.num_samples) for example in examples}),
        style=Markup(here.joinpath("style.css").read_text(encoding="utf-8")),
        script=Markup(here.joinpath("explorer.js").read_text(encoding="utf-8")),
    )


def _one_per_seed(cells: Sequence[Cell]) -> list[Cell]:
    """Cells of one seed share their labelling."""
    return list({cell.seed: cell for cell in finished(cells)}.values())
