"""Labelling, G = 8 short answers a picture: sampling from a shared prefix against `generate`, and its memory.

    python benchmarks/labelling.py [--rounds 5]

The ways differ in how often a prompt and its picture are encoded: eight times each in separate passes, once and eight
times in generate(num_return_sequences=8), once each from a shared prefix, never where the features are cached.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench_model import build, picture, prompt_tokens, question_of, read_rows
from measuring import Measured, alternate, console, cpu_rate, peak_mib, publish
from rich.console import Console
from torch import Tensor

from dcsft.generation.engine import Request, Sampling
from dcsft.generation.shared_prefix import SharedPrefix
from dcsft.models.features import FeatureCache
from dcsft.models.vlm import VLM
from dcsft.records import Example, Message
from dcsft.rewards.exact import Exact
from dcsft.stages import label
from dcsft.stages.runtime import Runtime
from dcsft.tasks.task import Task

SAMPLES, TOKENS, PROMPTS = 8, 8, 8
FEW = 2
"""Prompts a call of the second `generate(num_return_sequences=8)`: near its best at both lengths (of 1, 2, 4, 8)."""
SAMPLING = Sampling(temperature=0.9, top_p=1.0, top_k=0, max_new_tokens=TOKENS, seed=0)
LENGTHS = (107, 326)
"""Prompt tokens: a short question, and one as long as a prompt that explains a format."""
MEMORY_ROWS = (256, 1024)


class Generate:
    """transformers' own `generate`, with the settings of `SAMPLING`."""

    def __init__(self, vlm: VLM, paths: Sequence[str], question: str) -> None:
        self.vlm, self.paths = vlm, paths
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        self.text = vlm.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

    def separate_passes(self) -> int:
        """One pass a sample, with the processor each time, as in the release of the paper."""
        for _ in range(SAMPLES):
            self._decode(self._generate(1), len(self.paths))
        return len(self.paths) * SAMPLES

    def one_call(self) -> int:
        self._decode(self._generate(SAMPLES), len(self.paths) * SAMPLES)
        return len(self.paths) * SAMPLES

    def _generate(self, num_samples: int) -> Tensor:
        batch = self.vlm.processor(
            text=[self.text] * len(self.paths),
            images=[[picture(path).open()] for path in self.paths],
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        sequences = self.vlm.model.generate(
            **batch,
            do_sample=True,
            temperature=SAMPLING.temperature,
            top_k=SAMPLING.top_k,
            top_p=SAMPLING.top_p,
            max_new_tokens=TOKENS,
            num_return_sequences=num_samples,
            suppress_tokens=self.vlm.picture_ids,
        )
        return sequences[:, batch["input_ids"].shape[1] :]

    def _decode(self, tokens: Tensor, num_answers: int) -> None:
        assert tokens.shape == (num_answers, TOKENS), tokens.shape  # or the sides would not do the same work
        self.vlm.processor.batch_decode(tokens, skip_special_tokens=True)


def shared_prefix(engine: SharedPrefix, requests: Sequence[Request]) -> Callable[[], int]:
    """The work of dcsft's engine."""

    def work() -> int:
        answers = engine.generate(requests, SAMPLES, SAMPLING)
        assert all(len(answer.token_ids) == TOKENS for row in answers for answer in row)
        return len(requests) * SAMPLES

    return work


def compare(folder: Path, num_tokens: int, rounds: int) -> list[Measured]:
    """All ways on the same batch of prompts."""
    vlm = VLM.load(folder / "model")
    vlm.model.requires_grad_(False)
    paths = [row["picture"] for row in read_rows(folder)[:PROMPTS]]
    question = question_of(vlm, paths[0], num_tokens)
    requests = [Request(path, [Message("user", (picture(path), question))]) for path in paths]
    naive = Generate(vlm, paths, question)
    # One call with all prompts prefills 64 rows and is slower than several with few: both are measured.
    few = [Generate(vlm, paths[start : start + FEW], question) for start in range(0, PROMPTS, FEW)]
    cache = FeatureCache(vlm, folder / "features", limit_gb=1.0)
    ways = {
        "8 passes of generate": naive.separate_passes,
        "generate(num_return_sequences=8)": naive.one_call,
        f"the same, {FEW} prompts a call": lambda: sum(part.one_call() for part in few),
        "dcsft, expand": shared_prefix(SharedPrefix(vlm, PROMPTS, "expand"), requests),
        "dcsft, tree": shared_prefix(SharedPrefix(vlm, PROMPTS, "tree"), requests),
        "dcsft, tree, features cached": shared_prefix(SharedPrefix(vlm, PROMPTS, "tree", cache), requests),
    }
    for work in ways.values():  # warm up; fills the cache
        work()
    rates = alternate({name: lambda work=work: cpu_rate(work) for name, work in ways.items()}, rounds)
    setting = f"{prompt_tokens(vlm, paths[0], question)} prompt tokens"
    passes, one_call, one_call_few, *ours = ways
    pairs = [(one_call, passes), (one_call_few, passes)]
    pairs += [(way, other) for way in ours for other in (passes, one_call, one_call_few)]
    return [Measured(setting, way, rates[way], rates[other], other) for way, other in pairs]


class _Photos(Task):
    """A labelling task of `num_rows` rows, over and over the same pictures."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        super().__init__(Exact(), "what type of object is in this photo?")
        self.rows, self.num_rows = read_rows(folder), num_rows

    @property
    def ood(self) -> tuple[str, ...]:
        return ()

    def examples(self, split: str) -> list[Example]:
        rows = [self.rows[number % len(self.rows)] for number in range(self.num_rows)]
        return [
            Example(f"{split}/{number}", split, (picture(row["picture"]),), row["answer"])
            for number, row in enumerate(rows)
        ]

    def identity(self, split: str) -> dict[str, object]:
        return {}


def label_and_weigh(folder: Path, num_rows: int) -> None:
    """In a process of its own: run the label stage and print its peak memory, in MiB."""
    vlm = VLM.load(folder / "model")
    runtime = Runtime(
        device="cpu",
        micro_batch_size=PROMPTS,
        generation_batch_size=PROMPTS,
        checkpoint_every=50,
        decoding="tree",
        feature_folder=folder / "features",
        feature_cache_gb=0,
        num_processes=1,
        console=Console(quiet=True),
    )
    loaded = peak_mib()
    with tempfile.TemporaryDirectory() as out:
        label.run(Path(out), vlm, _Photos(folder, num_rows), SAMPLES, SAMPLING, runtime)
    print(json.dumps({"rows": num_rows, "loaded_mib": loaded, "peak_mib": peak_mib()}))


def memory(folder: Path) -> list[dict[str, float]]:
    """Peak memory of labelling datasets of growing size."""
    found = []
    for num_rows in MEMORY_ROWS:
        command = [sys.executable, __file__, "--folder", str(folder), "--weigh", str(num_rows)]
        with console.status(f"peak memory of labelling {num_rows} rows"):
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found.append(json.loads(output.splitlines()[-1]))
        console.print("{rows} rows: loaded {loaded_mib:.0f} MiB, peak {peak_mib:.0f} MiB".format(**found[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--weigh", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.weigh:
        label_and_weigh(args.folder, args.weigh)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder, num_pictures=64)
        weighed = memory(folder)  # first: a child process starts with its parent's peak
        rows = [row for num_tokens in LENGTHS for row in compare(folder, num_tokens, args.rounds)]
    publish("labelling", "samples", rows, f"python benchmarks/labelling.py --rounds {args.rounds}", memory=weighed)


if __name__ == "__main__":
    main()
