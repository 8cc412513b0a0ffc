"""Test examples with what each arm answered: which arm gets which picture right?"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from dcsft.report.cells import Cell, by_arm, split_title
from dcsft.report.examples import short_answer
from dcsft.report.sights import Sight, Sights
from dcsft.seeding import seed_of

IN_ALL = 48
"""Test examples on a page, the same number of each test set."""


@dataclass(frozen=True)
class ArmAnswer:
    """What one arm answered."""

    arm: str
    text: str
    correct: bool | None


@dataclass(frozen=True)
class ShownTest:
    """A test example as the page shows it."""

    id: str
    split: str
    """As it is written: "OOD-R"."""
    group: str | None
    target: str
    sight: Sight
    answers: tuple[ArmAnswer, ...]

    @property
    def divided(self) -> bool:
        """Whether some arms are right and some are not."""
        return len({answer.correct for answer in self.answers}) > 1


@dataclass(frozen=True)
class ShownTests:
    """What a page shows of the test sets of one seed."""

    seed: int
    arms: tuple[str, ...]
    examples: tuple[ShownTest, ...]


def shown_tests(cells: Sequence[Cell], sights: Sights | None) -> ShownTests | None:
    """A fixed draw from each test set of the first seed that has answers; those that divide the arms come first."""
    answered = [cell for group in by_arm(cells).values() for cell in group if cell.scores is not None]
    if not answered:
        return None
    seed = min(cell.seed for cell in answered)
    arms = {cell.arm: cell for cell in answered if cell.seed == seed}
    scores = {arm: pd.read_parquet(cell.scores).set_index(["split", "id"]) for arm, cell in arms.items()}
    joined = pd.concat(scores, axis=1, join="inner")  # columns: (arm, field)
    chosen = joined.loc[_choose(joined)]
    texts = {name: [row[arm, "text"] for arm in arms] for (_, name), row in chosen.iterrows()}
    seen = sights(next(iter(arms.values())), texts) if sights is not None else {}
    examples = tuple(_shown(split, name, row, tuple(arms), seen) for (split, name), row in chosen.iterrows())
    return ShownTests(seed, tuple(arms), examples)


def _choose(joined: pd.DataFrame) -> pd.Index:
    """As many of each test set, the same ones every time."""
    divided = joined.xs("correct", axis=1, level=1).nunique(axis=1, dropna=False) > 1
    index = joined.index.to_frame(index=False)
    index["agreed"], index["order"] = ~divided.to_numpy(), [seed_of("report", name) for name in index["id"]]
    each = max(1, IN_ALL // index["split"].nunique())
    chosen = index.sort_values(["agreed", "order"]).groupby("split", sort=False).head(each)
    splits = {split: i for i, split in enumerate(index["split"].unique())}
    chosen = chosen.sort_values("split", key=lambda column: column.map(splits), kind="stable")
    return pd.MultiIndex.from_frame(chosen[["split", "id"]])


def _shown(split: str, name: str, row: pd.Series, arms: Sequence[str], seen: dict[str, Sight]) -> ShownTest:
    first = row[arms[0]]
    group = first["group"] if isinstance(first["group"], str) else None
    answers = []
    for arm in arms:
        correct = row[arm, "correct"]
        answers.append(ArmAnswer(arm, short_answer(row[arm]), None if pd.isna(correct) else bool(correct)))
    sight = seen[name] if name in seen else Sight(None, None)
    return ShownTest(name, split_title(split), group, first["target"], sight, tuple(answers))
