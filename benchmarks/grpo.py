"""Whole GRPO steps: rollout, reward, reference, loss and optimizer, against TRL's GRPOTrainer and ms-swift's.

    python benchmarks/grpo.py [--rounds 5] [--swift .venv-swift/bin/python]

2 prompts a step, 8 completions of 8 tokens each. Every side runs in a process of its own (see grpo_sides.py and
swift_sides.py), one after another within a round. Without an environment for ms-swift its rows are left out.
"""

import argparse
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path

from bench_model import REAL_VOCABULARY, build
from measuring import Measured, alternate, console, publish, run_side, swift_python

NAMES = {"trl": "TRL GRPOTrainer", "swift": "ms-swift GRPO", "dcsft": "dcsft"}
PROMPTS = 2
STEPS = {None: 10, REAL_VOCABULARY: 5}
"""Steps a side runs, by vocabulary."""


def compare(
    folder: Path, vocab_size: int | None, swift: Path | None, rounds: int
) -> tuple[list[Measured], list[dict], dict[str, str]]:
    """dcsft against each other side, the peak memory of all, and the versions of ms-swift's environment."""
    build(folder, num_pictures=64, vocab_size=vocab_size)
    memory = defaultdict(list)
    trained, versions = set(), {}

    def measure(side: str) -> float:
        script, first = ("swift_sides.py", "grpo") if side == "swift" else ("grpo_sides.py", side)
        found = run_side(
            NAMES[side], swift if side == "swift" else None, script, first, folder, PROMPTS, STEPS[vocab_size], "all"
        )
        memory[side].append(found)
        trained.add(found["trained"])
        versions.update(found.get("versions", {}))
        return found["rate"]

    sides = [side for side in NAMES if side != "swift" or swift]
    rates = alternate({NAMES[side]: lambda side=side: measure(side) for side in sides}, rounds)
    assert len(trained) == 1, f"the sides must train the same parameters, got {trained}"
    setting = f"vocabulary {vocab_size or 448:,}"
    ours = NAMES["dcsft"]
    rows = [Measured(setting, ours, rates[ours], rates[other], other) for other in rates if other != ours]
    peaks = [
        {"setting": setting, "side": NAMES[side]}
        | {key: statistics.median(one[key] for one in found) for key in ("loaded_mib", "step_mib")}
        for side, found in memory.items()
    ]
    for peak in peaks:
        console.print("{setting}, {side}: {step_mib:.0f} MiB over the {loaded_mib:.0f} once loaded".format(**peak))
    return rows, peaks, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--swift", type=Path, help="the Python of an environment with ms-swift")
    args = parser.parse_args()
    swift = swift_python(args.swift)
    rows, memory, versions = [], [], {}
    with tempfile.TemporaryDirectory() as name:
        for vocab_size in STEPS:
            folder = Path(name, str(vocab_size))
            found, peaks, versions = compare(folder, vocab_size, swift, args.rounds)
            rows, memory = rows + found, memory + peaks
    publish("grpo", "steps", rows, f"python benchmarks/grpo.py --rounds {args.rounds}", versions, memory=memory)


if __name__ == "__main__":
    main()
