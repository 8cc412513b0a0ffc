"""SFT steps: dcsft's fitting through Lightning against TRL's SFTTrainer and against a bare PyTorch loop.

    python benchmarks/sft.py [--rounds 5]

Every side runs in a process of its own (see sft_sides.py), one after another within a round.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_model import build
from measuring import Measured, alternate, publish

NAMES = {"trl": "TRL SFTTrainer", "bare": "bare PyTorch loop", "dcsft": "dcsft"}
STEPS = {2: 24, 16: 11}
"""Steps a side runs, by batch size."""
REAL_VOCABULARY = 151_936


def measure(side: str, folder: Path, batch_size: int, trained: set[int]) -> float:
    """Steps a CPU second of `side`; adds its number of trained parameters to `trained`."""
    script = Path(__file__).with_name("sft_sides.py")
    command = [sys.executable, script, side, folder, batch_size, STEPS[batch_size]]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{NAMES[side]} failed:\n{done.stderr[-3000:]}")
    result = json.loads(done.stdout.splitlines()[-1])
    trained.add(result["trained"])
    return result["rate"]


def compare(folder: Path, batch_size: int, setting: str, sides: tuple[str, ...], rounds: int) -> list[Measured]:
    """dcsft against each other side."""
    trained: set[int] = set()
    work = {NAMES[side]: lambda side=side: measure(side, folder, batch_size, trained) for side in sides}
    rates = alternate(work, rounds)
    assert len(trained) == 1, f"the sides must train the same parameters, got {trained}"
    ours = NAMES["dcsft"]
    return [Measured(setting, ours, rates[ours], rates[other], other) for other in rates if other != ours]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    rows = []
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        build(small, num_pictures=64)
        for batch_size in STEPS:
            rows += compare(small, batch_size, f"batch {batch_size}", tuple(NAMES), rounds)
        build(large, num_pictures=64, vocab_size=REAL_VOCABULARY)
        setting = f"batch 2, vocabulary {REAL_VOCABULARY:,}"
        rows += compare(large, 2, setting, ("trl", "dcsft"), rounds=1)
    publish("sft", "steps", rows, f"python benchmarks/sft.py --rounds {rounds}")


if __name__ == "__main__":
    main()
