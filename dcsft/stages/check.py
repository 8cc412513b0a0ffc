"""check: look at the data before anything is computed. Are they there, all of them, and can they be read and judged?

It takes seconds, reads no weights and needs neither a GPU nor the store. A contact sheet is left in outputs/check/.
What is wrong is said at the end, one line each, as the error that the run ends with; a split that is missing does not
keep the others from being shown.
"""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TypeVar

from omegaconf import DictConfig
from PIL import Image
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dcsft.checks import task_problems
from dcsft.config import check
from dcsft.records import DIFFICULTIES, Example, Picture
from dcsft.seeding import stream
from dcsft.stages.plan import difficulties, shipped_foundation, uncounted_task
from dcsft.stages.progress import bar
from dcsft.tasks.sources import UNREADABLE
from dcsft.tasks.task import Task, check_judge, data_problems

_UNREADABLE = (*UNREADABLE, Image.DecompressionBombError)
_NAMED = 3
"""So many of a kind are named, of broken pictures and of classes."""
_ON_SHEET = 16
"""Pictures of each split on the contact sheet."""
_BAR_WIDTH = 30

Rows = Mapping[str, Sequence[Example]]
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class _Looked:
    """What opening some pictures of a split has shown."""

    num_all: int
    sizes: tuple[tuple[int, int], ...]
    """Width and height of those that can be read."""
    broken: tuple[str, ...]
    """Why the others cannot."""


def run(cfg: DictConfig, console: Console) -> None:
    """Show what is there.

    Raises:
        ValueError: something is wrong; one line a problem.
    """
    check(cfg)
    task = uncounted_task(cfg)
    rows = {split: task.examples(split) for split in _splits(task) if split not in task.missing}
    problems = data_problems(task)
    if not rows:
        raise ValueError("\n".join(problems))
    _print_origins(task, console)
    looked = _open_pictures(rows, cfg.check.num_pictures, console)
    console.print(_splits_table(task, rows, looked))
    for reason, count in task.dropped.items():
        console.print(f"[yellow]{count} examples dropped[/]: {reason}", highlight=False)
    if cfg.label.name == "release":
        problems += _labels_of_the_release(cfg, console)
    if task.classes is not None and "train" in rows:
        console.print(_classes_table(rows["train"]))
    problems += [*_broken_pictures(task, looked), *_classes_without_training(task, rows), *_judge(task, rows, console)]
    first = rows.get("train", next(iter(rows.values())))[0]
    _print_example(task, first, console)
    problems += _count_tokens(task, rows, first, cfg, console)
    for problem in task_problems(cfg):
        console.print(f"[yellow]before training[/]: {problem}", highlight=False, soft_wrap=True)
    console.print(f"contact sheet: {_write_sheet(task, rows, cfg)}", highlight=False, soft_wrap=True)
    if problems:
        raise ValueError("\n".join(problems))


def _splits(task: Task) -> tuple[str, ...]:
    return ("cold_start", "train", *task.tests)


def _some(items: Sequence[_Item], count: int | None, *purpose: object) -> list[_Item]:
    """So many items, drawn and in order; all if count is None."""
    if count is None or count >= len(items):
        return list(items)
    drawn = stream("check", *purpose).choice(len(items), count, replace=False)
    return [items[i] for i in sorted(drawn)]


# --- what is where ------------------------------------------------------------------------------------------------


def _print_origins(task: Task, console: Console) -> None:
    for origin, splits in groupby(task.origins.items(), lambda pair: pair[1]):
        names = ", ".join(split for split, _ in splits)
        console.print(f"[bold]{names}[/]: {origin}", highlight=False, soft_wrap=True)


def _size_or_reason(picture: Picture) -> tuple[int, int] | str:
    try:
        return picture.open().size
    except _UNREADABLE as error:
        return str(error).splitlines()[0]


def _open_pictures(rows: Rows, count: int | None, console: Console) -> dict[str, _Looked]:
    """Decode some pictures of each split; Pillow decodes without the interpreter's lock."""
    pictures = {split: [picture for row in some for picture in row.pictures] for split, some in rows.items()}
    chosen = {split: _some(some, count, "pictures", split) for split, some in pictures.items()}
    looked, done = {}, 0
    with bar(console, "opening pictures", sum(map(len, chosen.values()))) as shown, ThreadPoolExecutor() as threads:
        for split, some in chosen.items():
            found = []
            for one in threads.map(_size_or_reason, some):
                found.append(one)
                done += 1
                shown.advance(done, split)
            sizes = tuple(one for one in found if not isinstance(one, str))
            broken = tuple(one for one in found if isinstance(one, str))
            looked[split] = _Looked(len(pictures[split]), sizes, broken)
    return looked


def _splits_table(task: Task, rows: Rows, looked: Mapping[str, _Looked]) -> Table:
    """A line a split."""
    table = Table("split", box=None, pad_edge=False, header_style="bold")
    table.add_column("rows", justify="right")
    grouped = any(row.group for some in rows.values() for row in some)
    for name in (
        *(("there / expected",) if task.counts else ()),
        "pictures opened",
        *(("of the rows",) if grouped else ()),
    ):
        table.add_column(name)
    for split in _splits(task):
        if split in task.missing:
            table.add_row(split, "[red]missing ✗[/]")
            continue
        some = rows[split]
        cells = [split, f"{len(some):,}"]
        if task.counts:
            cells.append(_counted(task, split))
        cells.append(_opened(looked[split]))
        if grouped:
            groups = Counter(row.group for row in some if row.group)
            cells.append(", ".join(f"{count:,} {group}" for group, count in sorted(groups.items(), reverse=True)))
        table.add_row(*cells)
    return table


def _counted(task: Task, split: str) -> str:
    """What is there against what must be, in words."""
    said = [
        f"{count.there:,} {count.unit} [green]✓[/]"
        if count.fits
        else f"[red]{count.there:,} / {count.expected:,} {count.unit} ✗[/]"
        for count in task.counts
        if count.split == split
    ]
    return ", ".join(said) or "any number"


def _opened(looked: _Looked) -> str:
    """How many pictures, of which sizes."""
    num_opened = len(looked.sizes) + len(looked.broken)
    said = f"{num_opened:,} of {looked.num_all:,}" if num_opened < looked.num_all else f"all {num_opened:,}"
    if looked.sizes:
        sides = [f"{width}x{height}" for width, height in sorted(looked.sizes, key=lambda size: size[0] * size[1])]
        smallest, median, largest = sides[0], sides[len(sides) // 2], sides[-1]
        said += f", {smallest}" if smallest == largest else f", {smallest} to {largest}, median {median}"
    return said + (f", [red]{len(looked.broken)} broken ✗[/]" if looked.broken else "")


def _broken_pictures(task: Task, looked: Mapping[str, _Looked]) -> list[str]:
    problems = [
        f"pictures of {split} must be readable, got {len(found.broken)} that are not among "
        f"{len(found.broken) + len(found.sizes)} opened: {_first(found.broken)}"
        for split, found in looked.items()
        if found.broken
    ]
    if task.broken_files:
        number, names = len(task.broken_files), _first(task.broken_files)
        problems.append(f"pictures must be readable, got {number} that are not and are left out: {names}")
    return problems


def _first(names: Sequence[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


# --- what is in it ------------------------------------------------------------------------------------------------


def _classes_table(train: Iterable[Example]) -> Table:
    """Training examples of the largest and the smallest classes."""
    sizes = Counter(row.target.casefold() for row in train).most_common()
    most, least = sizes[0][1], sizes[-1][1]
    spread = (
        f"{most} each" if most == least else f"{least} to {most}, median {statistics.median(n for _, n in sizes):g}"
    )
    table = Table("class", "", "", title=f"{len(sizes):,} classes in train: {spread}", box=None, show_header=False)
    table.title_justify, table.title_style = "left", "bold"
    shown = sizes if len(sizes) <= 2 * _NAMED else [*sizes[:_NAMED], None, *sizes[-_NAMED:]]
    for one in shown if most > least else ():
        if one is None:
            table.add_row("...", "", "")
        else:
            table.add_row(one[0], f"{one[1]:,}", "█" * max(1, round(_BAR_WIDTH * one[1] / most)))
    return table


def _classes_without_training(task: Task, rows: Rows) -> list[str]:
    """Classes of the ID set that training does not have are none of its distribution."""
    if task.classes is None or "id" not in rows:
        return []
    unknown = sorted({row.target.casefold() for row in rows["id"]} - task.classes)
    return [f"id must have the classes of train, got {len(unknown)} it lacks: {_first(unknown)}"] if unknown else []


def _labels_of_the_release(cfg: DictConfig, console: Console) -> list[str]:
    try:
        counts = Counter(difficulties(cfg).values())
    except ValueError as error:
        return [str(error)]
    console.print(f"labels of the release: {', '.join(f'{counts[name]:,} {name}' for name in DIFFICULTIES)}")
    return []


def _judge(task: Task, rows: Rows, console: Console) -> list[str]:
    """Try the judge on every split."""
    problems = []
    for split, some in rows.items():
        try:
            check_judge(task, some)
        except ValueError as error:
            problems.append(f"{split}: {error}")
    if not problems:
        judge = type(task.reward).__name__
        console.print(f"judge: {judge} rewards the examples' own targets, and no empty answer", highlight=False)
    return problems


def _print_example(task: Task, example: Example, console: Console) -> None:
    """The conversation as it is asked, and what SFT teaches."""
    shown = Text()
    for message in task.prompt(example):
        shown.append(f"{message.role}: ", "bold")
        for part in message.content:
            if isinstance(part, Picture):
                size = _size_or_reason(part)
                said = "a broken picture" if isinstance(size, str) else f"picture {size[0]}x{size[1]}"
                shown.append(f"[{said}] ", "cyan")
            else:
                shown.append(part)
        shown.append("\n")
    shown.append("target: ", "bold green").append(task.target(example))
    console.print(Panel(shown, title=Text(example.id), title_align="left"))


def _count_tokens(task: Task, rows: Rows, first: Example, cfg: DictConfig, console: Console) -> list[str]:
    """Tokens of the example shown, and the longest of some prompts against the model's context."""
    model = cfg.model
    if model.from_scratch:
        console.print("tokens: not counted, as stage=foundation makes the processor")
        return []
    from dcsft.models.token_counts import TokenCounts

    try:
        path = model.path or shipped_foundation(cfg)
        tokens = TokenCounts(path, model.min_pixels, model.max_pixels, model.max_tiles)
    except ValueError as error:
        console.print(f"tokens: not counted; {error}", highlight=False, soft_wrap=True)
        return []
    lengths = {}
    chosen = [
        first,
        *(row for split, some in rows.items() for row in _some(some, cfg.check.num_prompts, "prompts", split)),
    ]
    with bar(console, "counting tokens", len(chosen)) as shown:
        for done, row in enumerate(chosen, 1):
            try:
                lengths[row.id] = tokens.prompt(task.prompt(row))
            except _UNREADABLE:  # named among the broken ones where it was opened before
                continue
            shown.advance(done, row.split)
    if first.id in lengths:
        one = lengths[first.id]
        answer = tokens.answer(task.target(first))
        console.print(f"tokens of this example: {one.total} + {answer} of its target ({one.pictures} for pictures)")
    if not lengths:
        return []
    longest = max(lengths, key=lambda name: lengths[name].total)
    needed, room = lengths[longest].total + cfg.max_new_tokens, tokens.context_length
    said = f"{lengths[longest].total:,} + max_new_tokens {cfg.max_new_tokens:,} of the context of {room:,}"
    console.print(f"longest of {len(lengths)} prompts: {said} ({longest})", highlight=False, soft_wrap=True)
    return [f"prompt and answer must fit the model's context, got {said} for {longest}"] if needed > room else []


# --- what it looks like -------------------------------------------------------------------------------------------


def _write_sheet(task: Task, rows: Rows, cfg: DictConfig) -> Path:
    """The contact sheet of all splits; broken pictures are left out."""
    from dcsft.report.contact_sheet import Shown, contact_sheet, differing

    splits = {}
    for split, some in rows.items():
        chosen = [row for row in _some(some, _ON_SHEET, "sheet", split) if row.pictures]
        shown = []
        for row, note in zip(chosen, differing([row.question or "" for row in chosen]), strict=True):
            try:
                picture = row.pictures[0].open()
            except _UNREADABLE:
                continue
            more = f"(1 of {len(row.pictures)} pictures)" if len(row.pictures) > 1 else row.group or ""
            shown.append(Shown(picture, task.target(row), f"{note} {more}".strip(), row.frame, task.target(row)))
        splits[f"{split}: {len(shown)} of {len(some):,}"] = shown
    path = Path(cfg.outputs).absolute() / "check" / f"{cfg.task['name']}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(splits).save(path)
    return path
