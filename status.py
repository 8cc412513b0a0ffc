"""The jobs of a submitted sweep and how far they are: `python status.py table2 [--watch] [--resume | --cancel]`."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from dcsft.config import explain

_WATCH_S = 5


def main(arguments: list[str]) -> None:
    """Show, from the folders and the queue alone; resume or cancel what the sweep has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", nargs="?", help="its name; without it: the names")
    parser.add_argument("--watch", action="store_true", help="refresh until every job has ended")
    parser.add_argument("--resume", action="store_true", help="submit again, as frozen, what is missing or failed")
    parser.add_argument("--cancel", action="store_true", help="end what is queued or running and no other sweep needs")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="the root of the results")
    given = parser.parse_args(arguments)
    from dcsft.launch.status import Sweep, sweep_names

    console = Console()
    if given.sweep is None:
        console.print("\n".join(sweep_names(given.outputs)), highlight=False)
        return
    sweep = Sweep.load(given.outputs, given.sweep)
    if given.cancel:
        for other, titles in sweep.cancel().items():
            console.print(f"goes on, as {other} needs it: {'; '.join(titles)}", highlight=False, soft_wrap=True)
    if given.resume:
        console.print(f"{sweep.resume()} jobs submitted", highlight=False)
    table, live = sweep.table()
    if not given.watch:
        console.print(table)
        return
    with Live(table, console=console, auto_refresh=False) as shown:
        while live:
            time.sleep(_WATCH_S)
            table, live = sweep.table()
            shown.update(table, refresh=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit()
    except Exception as error:
        message = explain(error)
        if message is None:
            raise
        sys.exit(message)
