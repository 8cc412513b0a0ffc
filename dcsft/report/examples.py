"""Example pictures per difficulty with the answers they were given (the paper's Figure S2)."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dcsft.artefacts import read_lines
from dcsft.records import DIFFICULTIES
from dcsft.report.cells import Cell
from dcsft.report.sights import Sight, Sights
from dcsft.seeding import seed_of

PER_DIFFICULTY = 16
_LONGEST_ANSWER = 90
_UNSEEN = Sight(None, None)


@dataclass(frozen=True)
class Answer:
    """A sampled answer and how often it was given."""

    text: str
    correct: bool | None
    count: int


@dataclass(frozen=True)
class ShownExample:
    """A training example as the page shows it."""

    id: str
    difficulty: str
    num_correct: int
    num_samples: int
    target: str
    noisy: bool
    """The target is known to be wrong."""
    sight: Sight
    answers: tuple[Answer, ...]


def choose(labels: pd.DataFrame, count: int = PER_DIFFICULTY) -> pd.DataFrame:
    """Up to `count` rows a difficulty, the same ones every time, medium ones spread over the pass rates."""
    ordered = labels.assign(order=[seed_of("report", name) for name in labels["id"]]).sort_values("order")
    ordered["turn"] = ordered.groupby(["difficulty", "num_correct"]).cumcount()
    ordered = ordered.sort_values(["turn", "order"])
    chosen = [ordered[ordered["difficulty"] == name].head(count) for name in DIFFICULTIES]
    return pd.concat([block.sort_values(["pass_rate", "order"], ascending=[False, True]) for block in chosen])


def shown_examples(cells: Sequence[Cell], sights: Sights | None) -> tuple[int | None, list[ShownExample]]:
    """Examples of the first labelled seed, and that seed; (None, []) where nothing was labelled."""
    for cell in sorted(cells, key=lambda cell: cell.seed):
        if cell.labels is not None and cell.rollouts is not None:
            chosen = choose(pd.read_parquet(cell.labels))
            rollouts = pd.read_parquet(cell.rollouts)
            answers = dict(list(rollouts[rollouts["id"].isin(chosen["id"])].groupby("id")))
            texts = {name: answers[name]["text"].tolist() if name in answers else [] for name in chosen["id"]}
            seen = sights(cell, texts) if sights is not None else {}
            return cell.seed, [_shown(row, answers, seen) for row in chosen.to_dict("records")]
    return None, []


@dataclass(frozen=True)
class ShownCompletion:
    """What the policy answered while it was trained."""

    arm: str
    seed: int
    step: int
    id: str
    difficulty: str | None
    text: str
    times: int
    reward: float
    advantage: float


def shown_completions(cells: Sequence[Cell], moments: int = 4) -> list[ShownCompletion]:
    """Completions of the first cell that has some, at evenly spread steps; equal ones are counted."""
    for cell in sorted(cells, key=lambda cell: cell.seed):
        if cell.completions is None:
            continue
        rows = pd.DataFrame(read_lines(cell.completions))
        steps = rows["step"].unique()
        chosen = sorted({steps[round(i * (len(steps) - 1) / max(1, moments - 1))] for i in range(moments)})
        found = []
        for step in chosen:
            group = rows[rows["step"] == step].to_dict("records")
            counts = Counter((row["text"], row["reward"], row["advantage"]) for row in group)
            for (text, reward, advantage), times in sorted(counts.items(), key=lambda item: (-item[0][1], -item[1])):
                where = (cell.arm, cell.seed, int(step), group[0]["id"], group[0]["difficulty"])
                found.append(ShownCompletion(*where, _cut(text), times, reward, advantage))
        return found
    return []


def _shown(row: dict, answers: dict[str, pd.DataFrame], seen: dict[str, Sight]) -> ShownExample:
    found = answers[row["id"]].to_dict("records") if row["id"] in answers else []
    counts = Counter((short_answer(one), None if pd.isna(one["correct"]) else bool(one["correct"])) for one in found)
    # Right answers first, then those that cannot be judged last; the most frequent first among equals.
    order = sorted(counts.items(), key=lambda item: ((True, False, None).index(item[0][1]), -item[1], item[0][0]))
    return ShownExample(
        id=row["id"],
        difficulty=row["difficulty"],
        num_correct=int(row["num_correct"]),
        num_samples=int(row["num_samples"]),
        target=row["target"],
        noisy=not pd.isna(row["noisy"]) and bool(row["noisy"]),
        sight=seen.get(row["id"], _UNSEEN),
        answers=tuple(Answer(text, correct, count) for (text, correct), count in order),
    )


def short_answer(row: dict) -> str:
    """What was read out of the answer, else its text, cut to a length that fits a card."""
    text = row["answer"] if isinstance(row["answer"], str) and row["answer"] else row["text"]
    return _cut(text)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ANSWER else text[: _LONGEST_ANSWER - 1] + "…"
