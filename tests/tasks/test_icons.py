"""The icon world: its knobs do what they say."""

from collections import Counter
from typing import Any

import pytest
from fontTools.ttLib import TTFont

from dcsft.rewards.exact import Exact
from dcsft.tasks.drawing import SIZE_PX, font_folder
from dcsft.tasks.icons import Icons, icon_classes

SMALL = dict(
    question="What is shown in this picture? Answer with one word.",
    seed=0,
    test_seed=77,
    class_seed=1234,
    num_train=100,
    num_cold_start=100,
    num_test=138,
    num_id_classes=50,
    ood_r_classes=(9, 25),
    ood_a_classes=(13, 33),
    label_noise=0.02,
    two_objects=0.08,
    distractors=0.3,
    occlusion=0.22,
    blur=0.3,
)


def icons(**changes: Any) -> Icons:
    return Icons(Exact(), **(SMALL | changes))


def test_there_are_103_classes_with_names_of_their_own() -> None:
    assert len({icon.name for icon in icon_classes()}) == len(icon_classes()) == 103


def test_every_drawing_is_in_the_font() -> None:
    known = set(TTFont(font_folder() / "DejaVuSans.ttf").getBestCmap())
    missing = {c for icon in icon_classes() for c in icon.characters if ord(c) not in known}
    assert not missing  # they would be drawn as the same empty box
    assert all(icon.characters for icon in icon_classes())


def test_no_drawing_belongs_to_two_classes() -> None:
    counts = Counter(c for icon in icon_classes() for c in icon.characters)
    assert max(counts.values()) == 1


@pytest.mark.parametrize(("split", "a_class"), [("train", 2), ("cold_start", 2)])
def test_training_splits_are_balanced(split: str, a_class: int) -> None:
    # 100 pictures of 50 classes are 2 of each, when no label is wrong
    counts = Counter(example.target for example in icons(label_noise=0.0).examples(split))
    assert len(counts) == 50
    assert set(counts.values()) == {a_class}


def test_test_splits_are_balanced() -> None:
    # 138 pictures: of 50 ID classes 38 have 3 and 12 have 2; of 34 OOD-R classes 2 have 5 and 32 have 4; of 46, 3 each
    sizes = {
        split: Counter(Counter(example.target for example in icons().examples(split)).values())
        for split in ("id", "ood_r", "ood_a")
    }
    assert sizes == {"id": {3: 38, 2: 12}, "ood_r": {5: 2, 4: 32}, "ood_a": {3: 46}}


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_share_of_wrong_labels_is_the_knob(share: float) -> None:
    # 2,000 draws: the mean is 2000 s and the standard deviation sqrt(2000 s (1 - s)), 13.4 at s = 0.1; five of them
    # are 67, which chance exceeds once in two million seeds. At s = 0 and s = 1 the bound is 0: exact.
    wrong = sum(bool(example.noisy) for example in icons(num_train=2000, label_noise=share).examples("train"))
    assert abs(wrong - 2000 * share) <= 5 * (2000 * share * (1 - share)) ** 0.5


def test_noisy_means_wrong_and_an_id_class() -> None:
    task = icons(num_train=500, label_noise=0.5)
    for index, example in enumerate(task.examples("train")):
        truth = task.id_classes[index % 50].name  # classes take turns
        assert example.noisy == (example.target != truth)
        assert example.target in task.classes


def test_test_labels_are_never_wrong_and_not_called_noisy() -> None:
    task = icons(label_noise=1.0)
    for split in task.tests:
        pool = task.ood_classes.get(split, task.id_classes)
        for index, example in enumerate(task.examples(split)):
            assert (example.noisy, example.target) == (None, pool[index % len(pool)].name)


def test_the_seed_changes_training_and_no_test() -> None:
    one, other = icons(seed=0), icons(seed=1)
    for split in ("train", "cold_start"):
        first, second = one.examples(split)[0].pictures[0], other.examples(split)[0].pictures[0]
        assert first.id != second.id
        assert first.open().tobytes() != second.open().tobytes()
        assert one.identity(split) != other.identity(split)
    for split in one.tests:
        assert one.examples(split) == other.examples(split)  # pictures compare by id
        first, second = one.examples(split)[0].pictures[0], other.examples(split)[0].pictures[0]
        assert first.open().tobytes() == second.open().tobytes()
        assert one.identity(split) == other.identity(split)


def test_the_test_seed_changes_tests_and_no_training() -> None:
    one, other = icons(test_seed=77), icons(test_seed=78)
    assert one.examples("train") == other.examples("train")
    assert one.identity("train") == other.identity("train")
    for split in one.tests:
        assert one.identity(split) != other.identity(split)
        assert one.examples(split)[0].pictures[0] != other.examples(split)[0].pictures[0]


@pytest.mark.parametrize(("split", "seen", "novel"), [("ood_r", 9, 25), ("ood_a", 13, 33)])
def test_ood_classes_are_seen_and_novel_as_configured(split: str, seen: int, novel: int) -> None:
    task = icons()
    groups = {example.target: example.group for example in task.examples(split)}
    assert Counter(groups.values()) == {"seen": seen, "novel": novel}
    assert all((group == "seen") == (name in task.classes) for name, group in groups.items())


def test_a_picture_does_not_depend_on_what_was_opened_before() -> None:
    alone = icons().examples("train")[7].pictures[0].open()
    after = [example.pictures[0].open() for example in icons().examples("train")[:8]][7]
    assert alone.tobytes() == after.tobytes()
    assert (alone.mode, alone.size) == ("RGB", (SIZE_PX, SIZE_PX))


def test_a_longer_split_begins_with_the_shorter_one() -> None:
    assert icons(num_train=150).examples("train")[:100] == icons(num_train=100).examples("train")


@pytest.mark.parametrize("name", ["label_noise", "two_objects", "distractors", "occlusion", "blur"])
@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_outside_0_and_1_is_refused(name: str, share: float) -> None:
    with pytest.raises(ValueError, match=rf"^task\.{name} must be a share in \[0, 1\], got {share}; give a probab"):
        icons(**{name: share})


def test_more_novel_classes_than_there_are_is_refused() -> None:
    # 103 classes less 50 ID ones leave 53
    with pytest.raises(ValueError, match=r"at most 50 seen and 53 novel classes, got \[9, 54\]; of 103 classes"):
        icons(ood_r_classes=(9, 54))
    assert len(icons(ood_r_classes=(50, 53)).ood_classes["ood_r"]) == 103
