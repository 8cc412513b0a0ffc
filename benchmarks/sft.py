"""SFT steps: dcsft's fitting through Lightning against TRL's SFTTrainer, ms-swift and a bare PyTorch loop.

    python benchmarks/sft.py [--rounds 5] [--swift .venv-swift/bin/python]

Every side runs in a process of its own (see sft_sides.py and swift_sides.py), one after another within a round. Without
an environment for ms-swift its rows are left out.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench_model import REAL_VOCABULARY, build
from measuring import Measured, alternate, publish, run_side, swift_python

NAMES = {
    "trl": "TRL SFTTrainer",
    "swift": "ms-swift SFT",
    "bare": "bare PyTorch loop",
    "unlabelled": "dcsft without labels' features",
    "dcsft": "dcsft",
}


@dataclass(frozen=True)
class Case:
    """What is trained, and which sides of NAMES train it; each runs `steps`."""

    name: str
    batch_size: int
    steps: int
    sides: Sequence[str]
    parts: str = "all"
    vocab_size: int | None = None


EVERYTHING, FROZEN = ("trl", "swift", "bare", "dcsft"), ("trl", "swift", "unlabelled", "dcsft")
CASES = (
    Case("vision frozen, batch 2", 2, 24, FROZEN, parts="llm"),
    Case("vision frozen, batch 16", 16, 11, FROZEN, parts="llm"),
    Case("vision trained, batch 2", 2, 24, EVERYTHING),
    Case("vision trained, batch 16", 16, 11, EVERYTHING),
    Case("vision trained, batch 2, vocabulary 151,936", 2, 6, ("trl", "swift", "dcsft"), vocab_size=REAL_VOCABULARY),
)


def compare(folder: Path, case: Case, swift: Path | None, rounds: int) -> tuple[list[Measured], dict[str, str]]:
    """dcsft against each other side, and the versions of ms-swift's environment."""
    trained, versions = set(), {}

    def measure(side: str) -> float:
        script, first = ("swift_sides.py", "sft") if side == "swift" else ("sft_sides.py", side)
        python = swift if side == "swift" else None
        found = run_side(NAMES[side], python, script, first, folder, case.batch_size, case.steps, case.parts)
        trained.add(found["trained"])
        versions.update(found.get("versions", {}))
        return found["rate"]

    sides = [side for side in case.sides if side != "swift" or swift]
    rates = alternate({NAMES[side]: lambda side=side: measure(side) for side in sides}, rounds)
    assert len(trained) == 1, f"the sides must train the same parameters, got {trained}"
    ours = NAMES["dcsft"]
    return [Measured(case.name, ours, rates[ours], rates[other], other) for other in rates if other != ours], versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swift", type=Path, help="the Python of an environment with ms-swift")
    args = parser.parse_args()
    swift = swift_python(args.swift)
    rows, versions = [], {}
    with tempfile.TemporaryDirectory() as name:
        for case in CASES:
            folder = Path(name, str(case.vocab_size))
            if not folder.exists():
                build(folder, num_pictures=64, vocab_size=case.vocab_size)
            found, versions = compare(folder, case, swift, args.rounds)
            rows += found
    publish("sft", "steps", rows, f"python benchmarks/sft.py --rounds {args.rounds}", versions)


if __name__ == "__main__":
    main()
