"""A sweep's yaml to tables, figures and one page: `python report.py sweeps/table2.yaml [overrides as for train.py]`.

Several sweeps become one page: `python report.py sweeps/table*.yaml sweeps/figure*.yaml`.
"""

import sys
from pathlib import Path

from rich.console import Console

from dcsft.config import accept_names, explain, register

CONSOLE = Console()
TITLE = "DC-SFT, table by table and figure by figure"
USAGE = "usage: python report.py sweeps/NAME.yaml [sweeps/OTHER.yaml ...] [overrides as for train.py]"


def main(arguments: list[str]) -> None:
    """Gather the sweeps' cells from the store, show the table of a single one, and write the report's folder."""
    sweeps = [Path(word) for word in arguments if "=" not in word]
    if not sweeps or {"-h", "--help"} & set(arguments):
        sys.exit(USAGE)
    for path in sweeps:
        if not path.is_file():
            there = ", ".join(sorted(str(other) for other in Path("sweeps").glob("*.yaml")))
            raise ValueError(f"the sweep must be a yaml file, got {str(path)!r}, which is not there; there are {there}")
    register()
    overrides = accept_names([word for word in arguments if "=" in word])
    page = _one(sweeps[0], overrides) if len(sweeps) == 1 else _collection(sweeps, overrides)
    CONSOLE.print(f"page: {page}", highlight=False, soft_wrap=True)


def _one(sweep: Path, overrides: list[str]) -> Path:
    from dcsft.report.page import write_report
    from dcsft.report.tables import show_tables
    from dcsft.stages.gather import gather, sights_of
    from dcsft.tracking import send_report

    found = gather(sweep, overrides, CONSOLE.print)
    show_tables(found.cells, CONSOLE)
    folder = found.outputs / "report" / sweep.stem
    page = write_report(folder, sweep.stem, found.cells, sights_of(found.tasks), found.description)
    send_report(folder, sweep.stem, found.logger)
    return page


def _collection(sweeps: list[Path], overrides: list[str]) -> Path:
    from dcsft.report.cells import missing
    from dcsft.report.collection import Chapter, write_collection
    from dcsft.stages.gather import gather, sights_of

    chapters, tasks = [], {}
    for sweep in sorted(sweeps, key=lambda path: (not path.stem.startswith("table"), path.stem)):
        found = gather(sweep, overrides, CONSOLE.print)
        chapters.append(Chapter(sweep.stem, found.description, tuple(found.cells), found.shows))
        tasks |= found.tasks
        lacking = missing(found.cells)
        said = f": {len(lacking)} missing, e.g. {lacking[0].command}" if lacking else ""
        CONSOLE.print(f"{sweep.stem}: {len(found.cells)} cells{said}", highlight=False, soft_wrap=True)
    return write_collection(found.outputs / "report" / "paper.html", TITLE, chapters, sights_of(tasks))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.exit(message)
