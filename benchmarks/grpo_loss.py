"""GRPO's loss, forward and backward, G = 8 completions a prompt: one row a prompt against a row a completion.

    python benchmarks/grpo_loss.py [--rounds 5]

The same log-probabilities and gradients on each side, checked before anything is measured. The ways differ in how often
a prompt and its picture go through the model: once, or eight times. Our vision tower is the faster one of dcsft, which
batches over pictures and windows: what is left beside it is due to the shared prefix alone.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from bench_model import LARGE_SIDE, SIDE, build, picture, question_of, read_rows
from measuring import Measured, alternate, console, cpu_rate, peak_mib, publish
from torch import Tensor

import dcsft.models.completion_logps as completion_logps_module
from dcsft.models.completion_logps import LONG_TOKENS, completion_logps, completion_logps_naive
from dcsft.models.render import Prompts, append_completions, render_prompts
from dcsft.models.vlm import VLM
from dcsft.records import PARTS, Message

G, TEMPERATURE = 8, 0.9
Setting = tuple[int, int, int, int]
"""Pixels of the picture's side, prompt tokens with the picture, completion tokens, prompts a forward pass."""
SETTINGS: tuple[Setting, ...] = (
    (LARGE_SIDE, 322, 4, 2),
    (LARGE_SIDE, 322, 64, 1),
    (SIDE, 322, 4, 2),
    (SIDE, 322, 64, 1),
    (SIDE, 107, 4, 4),
)
CROSSING = tuple((SIDE, *lengths, 2) for lengths in ((322, 8), (322, 16), (322, 32), (107, 8), (107, 16), (107, 32)))
"""Where the attention function overtakes the dense mask."""
REPEATS = 3
"""Passes a round."""

PLAIN, PASSES, ROWS = "8 passes of transformers", "8 passes, our vision tower", "8 rows, our vision tower"
MASK, FUNCTION, RULE = "dcsft, dense mask", "dcsft, attention function", "dcsft"

Groups = list[list[list[int]]]


def policy(folder: Path) -> VLM:
    """With LoRA as in sft.py; no dropout, so that all ways compute the same."""
    vlm = VLM.load(folder / "model")
    vlm.add_lora(r=32, alpha=64, dropout=0.0, parts=PARTS, seed=0)
    vlm.model.train()
    return vlm


def case(vlm: VLM, folder: Path, setting: Setting) -> tuple[str, Prompts, Groups]:
    """A name, and prompts of at least `num_tokens` tokens, each with G completions of `width` random tokens."""
    side, num_tokens, width, num_prompts = setting
    paths = [row["picture"] for row in read_rows(folder)[:num_prompts]]
    question = question_of(vlm, paths[0], num_tokens)
    prompts = render_prompts(vlm, [[Message("user", (picture(path), question))] for path in paths])
    numbers = torch.Generator().manual_seed(0)
    ids = torch.randint(0, min(vlm.picture_ids), (num_prompts, G, width), generator=numbers)
    name = f"P = {prompts.input_ids.shape[1]} ({(side // 28) ** 2} of them picture), C = {width}, {num_prompts} prompts"
    return name, prompts, ids.tolist()


def ways(vlm: VLM, prompts: Prompts, groups: Groups) -> dict[str, Callable[[], Tensor]]:
    """Each way to log-probabilities [B, G, T]; prompts are rendered already."""

    def shared(long: int) -> Tensor:
        completion_logps_module.LONG_TOKENS = long
        return completion_logps(vlm, prompts, groups, TEMPERATURE)[0]

    repeated = Prompts(
        *(part.repeat_interleave(G, -2) for part in (prompts.input_ids, prompts.attention_mask, prompts.position_ids)),
        prompts.next_position.repeat_interleave(G, 0),
        _repeated(prompts),
    )
    flat = [[completion] for group in groups for completion in group]
    return {
        PLAIN: lambda: plain_passes(vlm, prompts, groups),
        PASSES: lambda: completion_logps_naive(vlm, prompts, groups, TEMPERATURE)[0],
        ROWS: lambda: completion_logps_naive(vlm, repeated, flat, TEMPERATURE)[0].view(len(groups), G, -1),
        MASK: lambda: shared(long=1_000_000),
        FUNCTION: lambda: shared(long=0),
        RULE: lambda: shared(LONG_TOKENS),
    }


def plain_passes(vlm: VLM, prompts: Prompts, groups: Groups) -> Tensor:
    """The model's own forward, once for each of the G completions, with its output head on the completion alone."""
    found = []
    for number in range(G):
        ids = torch.tensor([group[number] for group in groups])
        inputs = append_completions(vlm, prompts, ids.tolist()).inputs
        width = ids.shape[1]
        logits = vlm.model(**inputs, logits_to_keep=width + 1).logits[:, :-1].float() / TEMPERATURE
        logits[..., vlm.picture_ids] = float("-inf")
        found.append(logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0])
    return torch.stack(found, 1)


def _repeated(prompts: Prompts) -> dict[str, object]:
    """Each prompt's picture G times."""
    grids = prompts.vision["image_grid_thw"]
    pixels = prompts.vision["pixel_values"].split(grids.prod(-1).tolist())
    return {
        "pixel_values": torch.cat([pixel for pixel in pixels for _ in range(G)]),
        "image_grid_thw": grids.repeat_interleave(G, 0),
    }


def step(vlm: VLM, way: Callable[[], Tensor]) -> Tensor:
    """Forward and backward; returns the log-probabilities."""
    vlm.model.zero_grad()
    logp = way()
    logp.mean().backward()
    return logp.detach()


def agree(vlm: VLM, found: dict[str, Callable[[], Tensor]]) -> None:
    """All ways give the same numbers; also warms them up."""
    results = []
    for way in found.values():
        logp = step(vlm, way)
        results.append((logp, [p.grad.clone() for p in vlm.model.parameters() if p.grad is not None]))
    for logp, gradients in results[1:]:
        torch.testing.assert_close(logp, results[0][0], rtol=0, atol=1e-5)
        torch.testing.assert_close(gradients, results[0][1], rtol=0, atol=1e-5)


def compare(folder: Path, setting: Setting, pairs: Sequence[tuple[str, str]], rounds: int) -> list[Measured]:
    """The first way of each pair against the second."""
    vlm = policy(folder / str(setting[0]))
    name, prompts, groups = case(vlm, folder / str(setting[0]), setting)
    found = ways(vlm, prompts, groups)
    found = {name: way for name, way in found.items() if any(name in pair for pair in pairs)}
    agree(vlm, found)

    def work(way: Callable[[], Tensor]) -> int:
        for _ in range(REPEATS):
            step(vlm, way)
        return REPEATS

    rates = alternate({name: lambda way=way: cpu_rate(lambda: work(way)) for name, way in found.items()}, rounds)
    return [Measured(name, way, rates[way], rates[other], other) for way, other in pairs]


def weigh(folder: Path, setting: Setting, side: str) -> None:
    """In a process of its own: print the peak memory of one step over that of the loaded model, in MiB."""
    vlm = policy(folder / str(setting[0]))
    name, prompts, groups = case(vlm, folder / str(setting[0]), setting)
    way = ways(vlm, prompts, groups)[side]
    loaded = peak_mib()
    for _ in range(2):
        step(vlm, way)
    print(json.dumps({"setting": name, "side": side, "loaded_mib": loaded, "step_mib": peak_mib() - loaded}))


def memory(folder: Path) -> list[dict[str, object]]:
    found = []
    for setting in SETTINGS:
        for side in (PLAIN, PASSES, ROWS, RULE):
            given = json.dumps([setting, side])
            command = [sys.executable, __file__, "--folder", str(folder), "--weigh", given]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found.append(json.loads(output.splitlines()[-1]))
            console.print("{setting}, {side}: {step_mib:.0f} MiB over the model's {loaded_mib:.0f}".format(**found[-1]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--weigh", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if args.weigh:
        weigh(args.folder, *args.weigh)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side in (SIDE, LARGE_SIDE):
            build(folder / str(side), num_pictures=8, side=side)
        weighed = memory(folder)  # first: a child process starts with its parent's peak
        pairs = [(RULE, other) for other in (PLAIN, PASSES, ROWS)]
        rows = [row for setting in SETTINGS for row in compare(folder, setting, pairs, args.rounds)]
        rows += [row for setting in CROSSING for row in compare(folder, setting, [(FUNCTION, MASK)], args.rounds)]
    publish("grpo_loss", "passes", rows, f"python benchmarks/grpo_loss.py --rounds {args.rounds}", memory=weighed)


if __name__ == "__main__":
    main()
