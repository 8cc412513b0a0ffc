"""The digit scans: who is held out, what the pictures look like, and that typeset digits are digits."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from sklearn.datasets import load_digits

from dcsft.rewards.exact import Exact
from dcsft.tasks.digits import FONTS, Digits
from dcsft.tasks.drawing import SIZE_PX, font_folder
from dcsft.tasks.foundation_mix import DIGIT_WORDS


def digits(**changes: Any) -> Digits:
    arguments = dict(question="Which digit is this?", seed=0, test_seed=77)
    sizes = dict(num_cold_start=200, num_id=597, num_ood_r=1000)
    return Digits(Exact(), **(arguments | sizes | changes))


def _scan_of(example_id: str) -> int:
    return int(example_id.partition("/")[2])


def test_sizes_and_the_held_out_scans() -> None:
    # 1,797 scans: 597 held out, and of the first 1,200 the cold start's 200 leave 1,000
    task = digits()
    sizes = {split: len(task.examples(split)) for split in ("cold_start", "train", *task.tests)}
    assert sizes == {"cold_start": 200, "train": 1000, "id": 597, "ood_r": 1000, "ood_a": 597}
    training = [_scan_of(example.id) for split in ("cold_start", "train") for example in task.examples(split)]
    assert sorted(training) == list(range(1200))
    for split in ("id", "ood_a"):
        assert [example.id for example in task.examples(split)] == [f"{split}/{i}" for i in range(1200, 1797)]
    assert [example.id for example in digits(num_id=2).examples("id")] == ["id/1795", "id/1796"]


def test_targets_are_the_words_of_the_scans() -> None:
    truth = load_digits().target
    task = digits()
    for split in ("cold_start", "train", "id", "ood_a"):
        for example in task.examples(split):
            assert example.target == DIGIT_WORDS[truth[_scan_of(example.id)]]
            assert example.noisy is None
    assert task.classes == set(DIGIT_WORDS)


@pytest.mark.parametrize(("num_cold_start", "a_digit"), [(200, {20}), (10, {1}), (15, {1, 2}), (1170, {117})])
def test_the_cold_start_is_balanced(num_cold_start: int, a_digit: set[int]) -> None:
    counts = Counter(example.target for example in digits(num_cold_start=num_cold_start).examples("cold_start"))
    assert len(counts) == 10
    assert set(counts.values()) == a_digit


def test_typeset_digits_and_fonts_take_turns() -> None:
    # 1,000 pictures on a grid of 10 digits and 10 fonts are 10 of each pair; ids are not scans'
    examples = digits().examples("ood_r")
    assert set(Counter(example.target for example in examples).values()) == {100}
    assert [example.id for example in examples[:2]] == ["ood_r/0", "ood_r/1"]
    assert examples[3].target == "three"


@pytest.mark.parametrize("font", FONTS)
def test_the_fonts_have_digits_under_the_digits(font: str) -> None:
    # fonts name their glyphs: matplotlib's cmsy10 has "prime" and "infinity" where 0 and 1 should be
    names = TTFont(font_folder() / font).getBestCmap()
    assert tuple(names[ord(character)] for character in "0123456789") == DIGIT_WORDS


def test_the_foundation_has_not_seen_the_fonts() -> None:
    assert "DejaVuSans.ttf" not in FONTS
    assert len(set(FONTS)) == len(FONTS)


def test_the_seed_draws_the_cold_start_and_no_test() -> None:
    one, other = digits(seed=0), digits(seed=1)
    assert {e.id for e in one.examples("cold_start")} != {e.id for e in other.examples("cold_start")}
    assert one.identity("cold_start") != other.identity("cold_start")
    for split in one.tests:
        assert one.examples(split) == other.examples(split)
        assert one.identity(split) == other.identity(split)
    # a scan is the same picture on either side
    pictures = {e.id: e.pictures for e in one.examples("train")}
    both = [e for e in other.examples("cold_start") if e.id in pictures]
    assert both
    assert all(e.pictures == pictures[e.id] for e in both)


def test_the_test_seed_draws_the_ood_sets_and_nothing_else() -> None:
    one, other = digits(test_seed=77), digits(test_seed=78)
    for split in ("ood_r", "ood_a"):
        first, second = one.examples(split)[0].pictures[0], other.examples(split)[0].pictures[0]
        assert first.id != second.id
        assert first.open().tobytes() != second.open().tobytes()
        assert one.identity(split) != other.identity(split)
    for split in ("cold_start", "train", "id"):
        assert one.examples(split) == other.examples(split)
        assert one.identity(split) == other.identity(split)


def test_scans_are_dark_ink_on_light_paper_and_in_the_right_place() -> None:
    scans = load_digits().images
    for example in digits().examples("id")[:20]:
        image = example.pictures[0].open()
        assert (image.mode, image.size) == ("RGB", (SIZE_PX, SIZE_PX))
        grey = np.asarray(image.convert("L"), float)
        border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
        # paper is 0.92 of 255, 234; full ink 0.08 of 255, 20, and every scan has ink of 14 of 16 levels: 47
        assert abs(border - 234).max() <= 1
        assert grey.min() < 60
        # 48 of 56 pixels hold the scan, 6 for each of its 8: their means are the scan again, upside up
        cells = (234 - grey[4:52, 4:52]).reshape(8, 6, 8, 6).mean((1, 3))
        correlation = np.corrcoef(cells.ravel(), scans[_scan_of(example.id)].ravel())[0, 1]
        assert correlation > 0.95


def test_hard_scans_are_not_the_plain_ones() -> None:
    task = digits()
    for plain, hard in list(zip(task.examples("id"), task.examples("ood_a"), strict=True))[:5]:
        assert plain.target == hard.target
        assert plain.pictures[0].open().tobytes() != hard.pictures[0].open().tobytes()


def test_a_picture_does_not_depend_on_what_was_opened_before() -> None:
    for split in ("ood_r", "ood_a"):
        alone = digits().examples(split)[7].pictures[0].open()
        after = [example.pictures[0].open() for example in digits().examples(split)[:8]][7]
        assert alone.tobytes() == after.tobytes()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_cold_start", 0, "between 1 and 1170"),  # the rarest digit has 117 of the first 1,200 scans
        ("num_cold_start", 1171, "between 1 and 1170"),
        ("num_id", 0, "between 1 and 597"),
        ("num_id", 598, "between 1 and 597"),
        ("num_ood_r", 0, "at least 1"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, value: int, allowed: str) -> None:
    with pytest.raises(ValueError, match=rf"^task\.{name} must be {allowed}, got {value}; "):
        digits(**{name: value})
