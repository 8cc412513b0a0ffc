"""What the benchmarks share: rounds that alternate, ratios within a round, files of results, README's tables."""

import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
RESULTS, README = HERE / "results", HERE / "README.md"
SWIFT = HERE.parent / ".venv-swift" / "bin" / "python"
"""Made by `make benchmark`: ms-swift needs other versions of our own dependencies."""
console = Console()

_PACKAGES = ("torch", "transformers", "peft", "lightning", "trl", "tokenizers")


@dataclass(frozen=True)
class Measured:
    """One side in one setting."""

    setting: str
    side: str
    rates: list[float]
    """Units of work a CPU second, one for each round."""
    reference: list[float]
    """The same of the side that it is compared with, round by round."""
    compared_with: str

    @property
    def ratios(self) -> list[float]:
        """How many times faster, round by round: the machine's mood is the same on both sides of a round."""
        return [own / other for own, other in zip(self.rates, self.reference, strict=True)]


def alternate(sides: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each side's rate in each round; every other round runs backwards, so that no side is always first."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            with console.status(f"round {number + 1} of {rounds}: {name}"):
                rates[name].append(sides[name]())
            console.print(f"round {number + 1} of {rounds}: {name} {rates[name][-1]:.3g}", highlight=False)
    return rates


def cpu_rate(work: Callable[[], int]) -> float:
    """Units of work a CPU second; `work` returns how many it did."""
    start = time.process_time()
    done = work()
    return done / (time.process_time() - start)


def run_side(name: str, python: Path | None, script: str, *arguments: object) -> dict[str, Any]:
    """What `script` prints last, run in a process of its own, by our Python or another; `name` is for an error."""
    command = [str(python or sys.executable), str(HERE / script), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def swift_python(given: Path | None) -> Path | None:
    """The Python with ms-swift, if there is one."""
    python = given or SWIFT
    if python.exists():
        return python
    console.print(f"ms-swift is left out: there is no {python}; `make benchmark` sets it up")
    return None


def peak_mib() -> float:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def publish(
    name: str, unit: str, rows: list[Measured], command: str, versions: Mapping[str, str] | None = None, **extra: object
) -> None:
    """Show the table, write `results/NAME.json`, and put both into README.md between the marks of NAME.

    Args:
        versions: of packages in another environment, besides those of this one.
        extra: more to keep; a list of rows under `memory` becomes a table of its own.
    """
    table = Table("setting", "side", f"{unit} a CPU second", "compared with", "ratio", "rounds", title=name)
    for row in rows:
        table.add_row(
            row.setting,
            row.side,
            f"{statistics.median(row.rates):.3g}",
            row.compared_with,
            f"{statistics.median(row.ratios):.2f}x",
            f"{_spread(row.ratios)} ({len(row.ratios)})",
        )
    console.print(table)
    result = {
        "date": date.today().isoformat(),
        "command": command,
        "machine": f"{os.cpu_count()} CPU cores, one thread",
        "versions": {"python": platform.python_version(), **_versions(), **(versions or {})},
        "unit": f"{unit} a CPU second",
        "rows": [asdict(row) | {"ratios": row.ratios, "median_ratio": statistics.median(row.ratios)} for row in rows],
        **extra,
    }
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(_rounded(result), indent=1) + "\n")
    _into_readme(name)
    console.print(f"written to {path} and {README}")


def _spread(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} - {max(ratios):.2f}"


def _into_readme(name: str) -> None:
    """README.md shows what `results/NAME.json` holds, and nothing else."""
    result = json.loads((RESULTS / f"{name}.json").read_text())
    versions = ", ".join(f"{package} {number}" for package, number in result["versions"].items())
    lines = [
        f"`{result['command']}`, {result['date']}, {result['machine']}; {versions}.",
        "",
        f"| setting | side | {result['unit']} | against | ratio: median (low - high) | rounds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["rows"]:
        rate, ratio = statistics.median(row["rates"]), f"{row['median_ratio']:.2f}x ({_spread(row['ratios'])})"
        cells = (row["setting"], row["side"], f"{rate:.3g}", row["compared_with"], ratio, len(row["ratios"]))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    if result.get("memory"):
        columns = list(result["memory"][0])
        lines += ["", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
        cells = [[f"{v:.0f}" if isinstance(v, float) else str(v) for v in row.values()] for row in result["memory"]]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    before, rest = README.read_text().split(f"<!-- {name} -->\n")
    _, after = rest.split(f"<!-- end of {name} -->\n")
    table = "\n".join(lines) + "\n"
    README.write_text(f"{before}<!-- {name} -->\n{table}<!-- end of {name} -->\n{after}")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # TRL is wanted by one of the benchmarks only
            continue
    return found


def _rounded(value: object) -> object:
    """Floats to four digits: the rest is noise."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: _rounded(inner) for key, inner in value.items()}
    return [_rounded(inner) for inner in value] if isinstance(value, list) else value
