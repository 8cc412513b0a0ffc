"""A sweep's yaml to tables, figures and one page: `python report.py sweeps/table2.yaml [overrides as for train.py]`."""

import sys
from pathlib import Path

from rich.console import Console

from dcsft.config import accept_names, explain, register


def main(arguments: list[str]) -> None:
    """Gather the sweep's cells from the store, show the table, and write the report's folder."""
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.exit("usage: python report.py sweeps/NAME.yaml [overrides as for train.py]")
    sweep, *overrides = arguments
    path = Path(sweep)
    if not path.is_file():
        there = ", ".join(sorted(str(other) for other in Path("sweeps").glob("*.yaml")))
        raise ValueError(f"the sweep must be a yaml file, got {sweep!r}, which is not there; there are {there}")
    register()
    from dcsft.report.page import write_report
    from dcsft.report.tables import console_table
    from dcsft.stages.gather import gather, opening_comment, pictures_of

    console = Console()
    cells, tasks, outputs = gather(path, accept_names(overrides), console.print)
    console.print(console_table(cells))
    description = opening_comment(path)
    page = write_report(outputs / "report" / path.stem, path.stem, cells, pictures_of(tasks), description)
    console.print(f"page: {page}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.exit(message)
