"""SFT steps: dcsft's fitting through Lightning against TRL's SFTTrainer, ms-swift and a bare PyTorch loop.

    python benchmarks/sft.py [--rounds 5] [--swift .venv-swift/bin/python]

Every side runs in a process of its own (see sft_sides.py and swift_sides.py), one after another within a round. Without
an environment for ms-swift its rows are left out.
"""

import argparse
import tempfile
from pathlib import Path

from bench_model import REAL_VOCABULARY, build
from measuring import Measured, alternate, publish, run_side, swift_python

NAMES = {"trl": "TRL SFTTrainer", "swift": "ms-swift SFT", "bare": "bare PyTorch loop", "dcsft": "dcsft"}
SETTINGS = ((None, 2, 24), (None, 16, 11), (REAL_VOCABULARY, 2, 6))
"""Vocabulary, batch size, and steps a side runs."""


def compare(
    folder: Path, batch_size: int, steps: int, setting: str, sides: list[str], swift: Path | None, rounds: int
) -> tuple[list[Measured], dict[str, str]]:
    """dcsft against each other side, and the versions of ms-swift's environment."""
    trained, versions = set(), {}

    def measure(side: str) -> float:
        script, first = ("swift_sides.py", "sft") if side == "swift" else ("sft_sides.py", side)
        python = swift if side == "swift" else None
        found = run_side(NAMES[side], python, script, first, folder, batch_size, steps)
        trained.add(found["trained"])
        versions.update(found.get("versions", {}))
        return found["rate"]

    rates = alternate({NAMES[side]: lambda side=side: measure(side) for side in sides}, rounds)
    assert len(trained) == 1, f"the sides must train the same parameters, got {trained}"
    ours = NAMES["dcsft"]
    return [Measured(setting, ours, rates[ours], rates[other], other) for other in rates if other != ours], versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swift", type=Path, help="the Python of an environment with ms-swift")
    args = parser.parse_args()
    swift = swift_python(args.swift)
    sides = [side for side in NAMES if side != "swift" or swift]
    rows, versions = [], {}
    with tempfile.TemporaryDirectory() as name:
        for vocab_size, batch_size, steps in SETTINGS:
            folder = Path(name, str(vocab_size))
            if not folder.exists():
                build(folder, num_pictures=64, vocab_size=vocab_size)
            setting = f"batch {batch_size}" + (f", vocabulary {vocab_size:,}" if vocab_size else "")
            some = sides if vocab_size is None else [side for side in sides if side != "bare"]
            found, versions = compare(folder, batch_size, steps, setting, some, swift, args.rounds)
            rows += found
    publish("sft", "steps", rows, f"python benchmarks/sft.py --rounds {args.rounds}", versions)


if __name__ == "__main__":
    main()
