"""The paper's reasoning study: MMK12, and five multiple-choice benchmarks out of distribution."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from dcsft.records import Example, Message, Picture
from dcsft.rewards.reward import Reward
from dcsft.seeding import stream
from dcsft.tasks.benchmarks import BENCHMARKS, MMK12_TEST, MMK12_TRAIN, PLACE, Benchmark, Question
from dcsft.tasks.sources import content_digest, parquet_files, parquet_rows
from dcsft.tasks.task import Count, Task

ADAPTER_VERSION = 2
"""Raised whenever a change to an adapter changes a row or a prompt."""
_RULES = {
    "id": "MMK12's test: 500 questions of each of four subjects",
    "mmmu": "the multiple-choice questions of MMMU's validation set",
    "mmmu_open": "its open questions",
    "we_math": "all of We-Math's testmini",
    "math_verse": "the multiple-choice problems of MathVerse's testmini in five versions, without its text-only file",
    "math_vista": "the multiple-choice questions of MathVista's testmini",
    "math_vision": "the questions of MathVision's test that have options",
}
"""Which questions the expected numbers count."""


class MMK12(Task):
    """Answer a question on a picture after reasoning. Splits: cold_start, train, id (MMK12's test) and the benchmarks.

    Training answers are mostly free-form, test answers letters. The paper trains on answers that a teacher reasoned
    out and that were found right: `targets` holds such texts; without them, cold start and SFT teach the bare answer.

    Args:
        question: asked where a picture holds the whole question.
        system: the system prompt; None: the chat template's own.
        seed: draws which training questions are taken, and which of them by the cold start.
        sources: folder or Hub id of "mmk12" and of each benchmark; a benchmark whose source is None is left out.
        expected: questions that each test set must have, open questions of MMMU on their own as "mmmu_open"; None:
            as many as are there.
        mmmu_open: "convert" asks MMMU's open questions too and compares the answers; "drop" leaves them out.
        num_cold_start, num_train: size of these splits; num_train None: all that the cold start leaves.
        targets: a file with a JSON object a line, {"id": id of a training question, "text": what SFT teaches}. Only
            questions with a text that the judge finds right are trained on. "bare" or None: the bare answer of every
            question; a run that trains must say so, since the system prompt asks for reasoning.
    """

    def __init__(
        self,
        reward: Reward,
        question: str,
        system: str | None,
        seed: int,
        sources: Mapping[str, str | None],
        expected: Mapping[str, int | None],
        mmmu_open: Literal["convert", "drop"],
        num_cold_start: int,
        num_train: int | None,
        targets: str | None,
    ) -> None:
        super().__init__(reward, question)
        self.system, self.seed, self.mmmu_open = system, seed, mmmu_open
        self.sizes = {"cold_start": num_cold_start, "train": num_train}
        self._check(sources, expected)
        self._ood = tuple(name for name in BENCHMARKS if sources[name] is not None)
        self._dropped: Counter[str] = Counter()
        self._digests: dict[str, str] = {}
        self._rows: dict[str, list[Example]] = {}
        self._texts: dict[str, str] = {}
        with self._or_missing("cold_start", "train"):
            pool = self._read("train", "mmk12", sources["mmk12"], MMK12_TRAIN)
            if targets not in (None, "bare"):
                self._texts = self._verified(targets, {example.id: example for example in pool})
                pool = [example for example in pool if example.id in self._texts]
            self._rows |= self._share_out(pool)
        for split in self.tests:
            name = "mmk12" if split == "id" else split
            with self._or_missing(split):
                self._rows[split] = self._read(split, name, sources[name], BENCHMARKS.get(split, MMK12_TEST))
        there = [split for split in self.tests if split not in self.missing]
        self._counts = tuple(count for split in there for count in self._count(split, expected))
        self._origins = {split: str(sources["mmk12"]) for split in ("cold_start", "train", "id")}
        self._origins |= {name: str(sources[name]) for name in self._ood}

    def _check(self, sources: Mapping[str, str | None], expected: Mapping[str, int | None]) -> None:
        """What can be found wrong before a file is opened."""
        for name, given, known in (
            ("sources", sources, {"mmk12", *BENCHMARKS}),
            ("expected", expected, {"id", "mmmu_open", *BENCHMARKS}),
        ):
            if set(given) != known:
                wrong = ", ".join(sorted(set(given) ^ known))
                raise ValueError(
                    f"task.{name} must have the keys {', '.join(sorted(known))}, got a difference in {wrong}"
                )
        if sources["mmk12"] is None:
            raise ValueError("task.sources.mmk12 must be a folder or a dataset on the Hub, got None; set it")
        if self.mmmu_open not in ("convert", "drop"):
            raise ValueError(f"task.mmmu_open must be convert or drop, got {self.mmmu_open!r}; convert is the paper's")
        for split, size in self.sizes.items():
            if size is not None and size < 1:
                raise ValueError(f"task.num_{split} must be at least 1, got {size}; the paper has 400 and 6,400")

    def _read(self, split: str, name: str, source: str, benchmark: Benchmark) -> list[Example]:
        """The questions of a split; what cannot be used is counted."""
        option = f"task.sources.{name}"
        files = parquet_files(option, source, benchmark.split)
        digests = {str(file): content_digest(file) for file in files}
        self._digests[split] = hashlib.sha256(" ".join(digests.values()).encode()).hexdigest()
        rows = [
            {column: "" if value is None and column in benchmark.columns else value for column, value in row.items()}
            for row in parquet_rows(option, files, benchmark.columns, benchmark.pictures)
        ]
        examples, seen = [], Counter[str]()
        for found in benchmark.questions(rows):
            if isinstance(found, str):
                self._dropped[f"{split}: {found}"] += 1
                continue
            seen[found.id] += 1
            number = f"#{seen[found.id]}" if seen[found.id] > 1 else ""  # some datasets repeat an id
            examples.append(_example(split, f"{name}/{split}/{found.id}{number}", found, digests))
        return examples

    def _count(self, split: str, expected: Mapping[str, int | None]) -> list[Count]:
        """Of a test set; open questions apart where there are any, then dropped if they are not wanted."""
        rows = self._rows[split]
        kinds = {split: rows}
        if split == "mmmu":
            kinds = {
                "mmmu": [row for row in rows if row.options],
                "mmmu_open": [row for row in rows if not row.options],
            }
        why = "; ".join(f"{count} dropped, {reason}" for reason, count in self.dropped.items() if split in reason)
        counts = []
        for kind, some in kinds.items():
            wanted = expected[kind]
            if wanted is None:
                continue
            problem = (
                f"task.expected.{kind} must be the number of questions there, got {wanted} for {len(some)}"
                f"{f' ({why})' if why else ''}; the paper's are {_RULES[kind]}: look at task.sources, or set it to "
                "null to take what is there"
            )
            unit = "open questions" if kind == "mmmu_open" else "questions"
            counts.append(Count(split, unit, len(some), wanted, problem))
        if split == "mmmu" and self.mmmu_open == "drop":
            self._rows[split] = kinds["mmmu"]
        return counts

    def _verified(self, file: str, questions: Mapping[str, Example]) -> dict[str, str]:
        """The texts of `targets` that the judge finds right, by the id of their question."""
        texts = _read_targets(file)
        unknown = [name for name in texts if name not in questions]
        if unknown:
            raise ValueError(
                f"task.targets must hold ids of MMK12's training questions, got {file!r} with {len(unknown)} others, "
                f"such as {unknown[0]!r}; they look like {next(iter(questions), 'mmk12/train/ID')!r}"
            )
        right = {name: text for name, text in texts.items() if self.score(questions[name], text).correct}
        if len(right) < len(texts):
            self._dropped["train: the target text is not right"] = len(texts) - len(right)
        self._digests["targets"] = hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()
        return right

    def _share_out(self, pool: list[Example]) -> dict[str, list[Example]]:
        """Cold start and training questions, drawn uniformly."""
        num_cold_start, num_train = self.sizes["cold_start"], self.sizes["train"]
        if len(pool) < num_cold_start + (num_train or 1):
            raise ValueError(
                f"task.num_cold_start and task.num_train must be at most the {len(pool)} questions that can be trained "
                f"on, got {num_cold_start} and {num_train}; take fewer or give task.targets more"
            )
        order = [pool[i] for i in stream("mmk12", "order", self.seed).permutation(len(pool))]
        end = None if num_train is None else num_cold_start + num_train
        drawn = {"cold_start": order[:num_cold_start], "train": order[num_cold_start:end]}
        return {split: [replace(example, split=split) for example in examples] for split, examples in drawn.items()}

    @property
    def ood(self) -> tuple[str, ...]:
        return self._ood

    @property
    def dropped(self) -> dict[str, int]:
        return dict(self._dropped)

    @property
    def counts(self) -> tuple[Count, ...]:
        return self._counts

    @property
    def origins(self) -> Mapping[str, str]:
        return self._origins

    def identity(self, split: str) -> dict[str, object]:
        known: dict[str, object] = {"split": f"mmk12-{ADAPTER_VERSION}/{split}", "system": self.system}
        if split in self.tests:
            known["files"] = self._digests[split]
            return known | ({"open": self.mmmu_open} if split == "mmmu" else {})
        known |= {"files": self._digests["train"], "targets": self._digests.get("targets"), "seed": self.seed}
        sizes = self.sizes if split == "train" else {"cold_start": self.sizes["cold_start"]}
        return known | {f"num_{name}": size for name, size in sizes.items()}

    def examples(self, split: str) -> Sequence[Example]:
        if split in self.missing:
            raise ValueError(self.missing[split])
        if split not in self._rows:
            raise ValueError(f"split must be one of {', '.join(self._rows)}, got {split!r}; see the docstring of MMK12")
        return self._rows[split]

    def prompt(self, example: Example) -> list[Message]:
        """The system prompt, then the question with each picture at its place; those without a place come first."""
        text = example.question or self.question
        number = len(example.pictures)
        first, *rest = PLACE.split(text)  # text, number, text, number, text
        content: list[str | Picture] = [first]
        placed = set()
        for place, after in zip(rest[::2], rest[1::2], strict=True):
            if 1 <= int(place) <= number:
                placed.add(int(place))
                content += [example.pictures[int(place) - 1], after]
            else:
                content += [f"<image {place}>", after]
        loose = [picture for i, picture in enumerate(example.pictures, 1) if i not in placed]
        system = [Message("system", (self.system,))] if self.system is not None else []
        return [*system, Message("user", (*loose, *(part for part in content if part != "")))]

    def target(self, example: Example) -> str:
        """The verified text where there is one; else the bare answer in the prompt's format."""
        first, *_ = example.target.split("\n")
        return self._texts.get(example.id) or f"<answer>{first}</answer>"


def _example(split: str, name: str, question: Question, digests: Mapping[str, str]) -> Example:
    pictures = tuple(
        Picture(f"parquet/{digests[cell.path][:16]}/{cell.row_group}/{cell.row}/{cell.column}", cell)
        for cell in question.pictures
    )
    return Example(name, split, pictures, question.target, question.text, question.options)


def _read_targets(file: str) -> dict[str, str]:
    """The texts of a targets file by id.

    Raises:
        ValueError: it is not there, or a line is not what it should be.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f"task.targets must be a file of JSON lines, got {file!r}; there is no such file")
    texts: dict[str, str] = {}
    for number, line in enumerate(path.read_text().rstrip("\n").split("\n"), 1):
        try:
            row = json.loads(line)
            name, text = row["id"], row["text"]
            fine = isinstance(name, str) and isinstance(text, str) and name not in texts
        except (ValueError, KeyError, TypeError):
            fine = False
        if not fine:
            raise ValueError(
                f'each line of task.targets must be {{"id": ..., "text": ...}} with an id of its own, '
                f"got line {number} of {file!r}: {line[:80]!r}; see the docstring of MMK12"
            )
        texts[name] = text
    return texts
