"""Scenes, the phrases and the quizzes on them: pure, unambiguous, balanced, and true of the picture."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from dcsft.boxes import first_corners
from dcsft.seeding import stream
from dcsft.tasks.phrases import FORMS, Phrase, draw_phrase
from dcsft.tasks.scene_mix import token_labels, tokens_of
from dcsft.tasks.scene_task import SceneTask
from dcsft.tasks.scenes import (
    COLOURS,
    MOST_ICONS,
    SCENE_PX,
    USES,
    Icon,
    Scene,
    SceneStyle,
    draw_layout,
    draw_scene,
)

PLAIN = SceneStyle((20, 36), repeats=0.35, clutter=0, blur=0, noise=0)
SIZES = ("task.num_train=120", "task.num_cold_start=20", "task.num_test=60")


@pytest.fixture(params=["icon_scenes", "icon_choice"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make(build_task: Callable) -> Callable[..., SceneTask]:
    return lambda name, *overrides: build_task([f"task={name}", *SIZES, *overrides])


def layouts(count: int, least: int = 3, most: int = 6) -> list[Scene]:
    return [draw_layout(stream("test", i), tuple(USES), (least, most), PLAIN) for i in range(count)]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_boxes_lie_around_the_ink_and_nowhere_else() -> None:
    """A scene and the same scene without one icon differ in that icon's box alone, up to each of its edges."""
    for number, scene in enumerate(layouts(40)):
        whole = draw_scene(scene, stream("pixels", number), PLAIN).astype(int)
        for icon in scene:
            others = tuple(other for other in scene if other != icon)
            # The generator gives each icon a tint in turn, so the one that is left out is drawn last.
            ordered = draw_scene((*others, icon), stream("pixels", number), PLAIN).astype(int)
            without = draw_scene(others, stream("pixels", number), PLAIN).astype(int)
            down, across = np.nonzero(np.abs(ordered - without).sum(-1) > 40)
            x1, y1, x2, y2 = icon.corners
            assert x1 <= across.min() <= x1 + 2
            assert y1 <= down.min() <= y1 + 2
            assert x2 - 2 <= across.max() + 1 <= x2
            assert y2 - 2 <= down.max() + 1 <= y2
        assert whole.shape == (SCENE_PX, SCENE_PX, 3)


def test_icons_never_overlap_and_never_leave_the_canvas() -> None:
    for scene in layouts(200, MOST_ICONS, MOST_ICONS):
        covered = np.zeros((SCENE_PX, SCENE_PX), int)
        for icon in scene:
            x1, y1, x2, y2 = (int(edge) for edge in icon.corners)
            assert 0 <= x1 < x2 <= SCENE_PX
            assert 0 <= y1 < y2 <= SCENE_PX
            covered[y1:y2, x1:x2] += 1
        assert covered.max() == 1


def test_every_class_can_be_drawn_and_is_what_the_style_says() -> None:
    sizes = {icon.size_px for scene in layouts(300) for icon in scene}
    assert {icon.name for scene in layouts(300) for icon in scene} == set(USES)
    assert (min(sizes), max(sizes)) == (20, 36)


def test_pictures_are_pure_functions_of_seed_split_and_index(make: Callable, name: str) -> None:
    one, other = make(name), make(name)
    last = one.examples("train")[-1].pictures[0].open().tobytes()  # opened first
    assert (
        other.examples("train")[0].pictures[0].open().tobytes() == one.examples("train")[0].pictures[0].open().tobytes()
    )
    assert other.examples("train")[-1].pictures[0].open().tobytes() == last
    assert make(name, "task.num_train=7").examples("train") == one.examples("train")[:7]


def test_the_seed_changes_training_and_no_test(make: Callable, name: str) -> None:
    one, other = make(name, "seeds.data=0"), make(name, "seeds.data=1")
    for split in ("cold_start", "train"):
        assert one.identity(split) != other.identity(split)
        assert one.examples(split)[0].pictures != other.examples(split)[0].pictures
    for split in one.tests:
        assert one.identity(split) == other.identity(split)
        assert one.examples(split) == other.examples(split)


@pytest.mark.parametrize("knob", ["sizes_px=[20,30]", "repeats=0.5", "clutter=0", "blur=1", "noise=0"])
def test_every_knob_of_the_style_changes_pictures_with_their_ids(make: Callable, knob: str) -> None:
    one, other = make("icon_choice"), make("icon_choice", f"task.style.{knob}")
    assert one.identity("id") != other.identity("id")
    first, second = ([example.pictures[0] for example in task.examples("id")] for task in (one, other))
    assert not {picture.id for picture in first} & {picture.id for picture in second}
    assert any(a.open().tobytes() != b.open().tobytes() for a, b in zip(first[:20], second[:20], strict=True))


# --- phrases ---------------------------------------------------------------------------------------------------------


def satisfying(text: str, scene: Scene) -> list[Icon]:
    """The icons of which a phrase is true, read from its words alone and by centres that differ at all."""
    if text.startswith("the thing "):
        return [icon for icon in scene if USES[icon.name] == text.removeprefix("the thing ")]
    for words, axis, sign in ((" left of ", 0, -1), (" right of ", 0, 1), (" above ", 1, -1), (" below ", 1, 1)):
        head, found, rest = text.partition(words)
        if found and not any(other in head for other in (" of ", " above ", " below ")):
            anchors = satisfying(rest, scene)
            assert len(anchors) == 1, (text, rest)  # "the cat" must be one as well
            return [
                icon
                for icon in satisfying(head, scene)
                if sign * (icon.centre[axis] - anchors[0].centre[axis]) > 0 and icon != anchors[0]
            ]
    words = text.removeprefix("the ").split()
    noun, colours = words[-1], words[:-1]
    return [icon for icon in scene if noun in ("icon", icon.name) and all(icon.colour == colour for colour in colours)]


def test_the_words_of_a_phrase_by_hand() -> None:
    assert Phrase("star", "red", "left of", Phrase("cat")).text == "the red star left of the cat"
    nested = Phrase(None, None, "above", Phrase(None, None, "left of", Phrase("sun")))
    assert nested.text == "the icon above the icon left of the sun"
    assert Phrase("umbrella", by_use=True).text == "the thing you use when it rains"


def test_what_a_phrase_names_by_hand() -> None:
    def at(name: str, colour: str, x: int, y: int) -> Icon:
        return Icon(name, colour, "", 0, (x - 10, y - 10, x + 10, y + 10))

    red, blue, cat = at("star", "red", 20, 20), at("star", "blue", 90, 20), at("cat", "red", 55, 60)
    scene = (red, blue, cat)
    assert Phrase("star").named(scene) is None  # two
    assert Phrase("star", "red").named(scene) == red
    assert Phrase("star", None, "right of", Phrase("cat")).named(scene) == blue
    assert Phrase(None, None, "above", Phrase("cat")).named(scene) is None  # both stars
    assert Phrase("cat", None, "below", Phrase("star")).named(scene) is None  # of which star?
    near = (red, cat, at("star", "blue", 50, 20))  # five pixels left of the cat: is it meant, too?
    assert Phrase("star", None, "left of", Phrase("cat")).named(near) is None


@pytest.mark.parametrize("form", FORMS)
def test_exactly_one_icon_satisfies_a_phrase(form: str) -> None:
    seen = 0
    for number, scene in enumerate(layouts(250)):
        found = draw_phrase(stream("phrase", number), scene, form)
        if found is not None:
            phrase, icon = found
            assert satisfying(phrase.text, scene) == [icon]
            seen += 1
    assert seen > 20


@pytest.mark.parametrize("split", ["train", "id", "novel", "reasoning"])
def test_the_box_is_that_of_the_one_icon_that_satisfies_the_question(make: Callable, split: str) -> None:
    task = make("icon_scenes", "task.label_noise=0")
    for index, example in enumerate(task.examples(split)):
        scene, _ = task.scene(split, index)
        phrase = example.question.removeprefix("Where is ").removesuffix("? Answer with its box.")
        (icon,) = satisfying(phrase, scene)
        assert first_corners(example.target) == icon.corners
        assert first_corners(task.target(example)) == icon.corners  # model=tiny_scenes speaks of the same pixels
        assert {one.name for one in scene} <= set(task.novel_classes if split == "novel" else task.id_classes)


def test_boxes_are_in_the_frame_that_the_model_speaks(make: Callable) -> None:
    (normalised,) = make("icon_scenes", "model.boxes.frame=normalised", "task.num_train=1").examples("train")
    (own,) = make("icon_scenes", "task.num_train=1").examples("train")
    assert (normalised.frame.width, own.frame.width) == (1000, SCENE_PX)
    for ours, theirs in zip(first_corners(own.target), first_corners(normalised.target), strict=True):
        assert theirs == pytest.approx(ours * 1000 / SCENE_PX, abs=0.01)


def test_a_wrong_box_is_that_of_another_icon(make: Callable) -> None:
    right, wrong = make("icon_scenes", "task.label_noise=0"), make("icon_scenes", "task.label_noise=1")
    for index, (one, other) in enumerate(zip(right.examples("train"), wrong.examples("train"), strict=True)):
        boxes = {icon.corners for icon in right.scene("train", index)[0]}
        assert (one.noisy, other.noisy) == (False, True)
        assert one.target != other.target
        assert first_corners(other.target) in boxes
    assert all(example.noisy is None for example in wrong.examples("id"))


# --- quizzes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", ["train", "id", "novel", "crowded"])
def test_the_letter_is_that_of_the_only_true_option(make: Callable, split: str) -> None:
    task = make("icon_choice", "task.label_noise=0")
    for index, example in enumerate(task.examples(split)):
        scene, _ = task.scene(split, index)
        question, *lines = example.question.split("\n")
        assert lines == [f"{letter}. {option}" for letter, option in zip("ABC", example.options, strict=True)]
        words = question.removesuffix(" Answer with a letter.").rstrip("?").split()
        if words[:2] == ["How", "many"]:
            counted = Counter(icon.colour for icon in scene) + Counter(icon.name for icon in scene)
            (what,) = set(words) & {*COLOURS, *USES}
            right = str(counted[what])
        else:
            sizes = {f"the {icon.name}": icon.size_px for icon in scene}
            assert all(Counter(icon.name for icon in scene)[option.split()[1]] == 1 for option in example.options)
            pick = max if words[-1] == "largest" else min
            right = pick(example.options, key=lambda option: sizes[option])
        assert [letter for letter, option in zip("ABC", example.options, strict=True) if option == right] == [
            example.target
        ]


def test_letters_are_balanced_for_every_kind(make: Callable) -> None:
    """Of 1,500, each letter has 500 with a standard deviation of 18.3; five of them are 91."""
    task = make("icon_choice", "task.num_test=1500")
    assert all(abs(count - 500) < 91 for count in Counter(e.target for e in task.examples("id")).values())
    kinds = Counter((example.group, example.target) for example in task.examples("id"))
    for kind in {kind for kind, _ in kinds}:
        counts = [kinds[kind, letter] for letter in "ABC"]
        assert max(counts) < 1.35 * min(counts)


def test_crowded_scenes_have_more_icons_than_training(make: Callable) -> None:
    task = make("icon_choice")
    numbers = {split: {len(task.scene(split, i)[0]) for i in range(60)} for split in ("train", "crowded")}
    assert numbers == {"train": {3, 4, 5}, "crowded": {6, 7, 8}}


# --- the foundation's labels -----------------------------------------------------------------------------------------


def test_what_is_at_each_image_token_by_hand() -> None:
    # 28-pixel tokens, 4 x 4. The star lies in token (0, 0) alone; the cat has a quarter in each of (2, 2) .. (3, 3).
    star, cat = (
        Icon("star", "red", "", 0, (2, 4, 26, 24)),
        Icon("cat", "blue", "", 0, (74, 74, 94, 94)),
    )
    labels, edges = token_labels((star, cat))
    names, colours = labels[:, 0].reshape(4, 4), labels[:, 1].reshape(4, 4)
    a, b, none = list(USES).index("star"), list(USES).index("cat"), len(USES)
    assert names.tolist() == [[a, none, none, none], [none] * 4, [none, none, b, b], [none, none, b, b]]
    assert colours[0, 0] == list(COLOURS).index("red")
    assert colours[3, 3] == list(COLOURS).index("blue")
    assert colours[1, 1] == len(COLOURS)
    assert edges[0] * 28 == pytest.approx([-54, -52, -30, -32])  # from the middle of the scene, (56, 56)
    assert edges[10] * 28 == pytest.approx([18, 18, 38, 38])
    assert tokens_of(cat).nonzero()[0].tolist() == [10, 11, 14, 15]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.num_id_classes=20", r"task.num_id_classes must be 1 to 19, got 20"),
        ("task.label_noise=2", r"task.label_noise must be a share in \[0, 1\], got 2"),
        ("task.style.blur=-1", r"task.style.blur must be a share"),
        ("task.style.sizes_px=[20,60]", r"task.style.sizes_px must be \[least, most\] of 8 to 37, got \[20, 60\]"),
        ("+task.style.fog=1", r"task.style must have blur, clutter, .*, got blur, clutter, fog"),
        ("task.splits.id.num_icons=[3,12]", r"task.splits.id.num_icons must be \[least, most\] of 1 to 9"),
        ("+task.splits.id.questions.riddle=1", r"task.splits.id.questions must be shares of .*riddle"),
        ("+task.splits.id.weather=1", r"task.splits.id must have novel, num_icons, questions, got .*weather"),
        ("~task.splits.id", r"task.splits must have id, got"),
    ],
)
def test_bad_settings_are_refused_in_one_line(make: Callable, name: str, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make(name, override)
    assert "\n" not in str(caught.value)


def test_a_question_without_its_place_is_refused(make: Callable) -> None:
    with pytest.raises(ValueError, match=r"task.question must contain \{phrase\}, got 'Where\?'"):
        make("icon_scenes", "task.question='Where?'")
    with pytest.raises(ValueError, match=r"task.question must contain \{question\}, got 'What\?'"):
        make("icon_choice", "task.question='What?'")


def test_a_model_that_speaks_no_boxes_is_refused(make: Callable) -> None:
    with pytest.raises(ValueError, match=r"model.boxes must say in which frame"):
        make("icon_scenes", "model.boxes=null")
