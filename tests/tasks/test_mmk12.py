"""MMK12 and its five benchmarks, from files as the Hub has them: every trap of their formats, and bad input."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import pytest
import reasoning_data as data
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from dcsft.config import CONF, register
from dcsft.records import Example, Picture
from dcsft.stages import plan
from dcsft.tasks.benchmarks import gold_letters, inline_options
from dcsft.tasks.mmk12 import MMK12

Make = Callable[..., MMK12]


@cache
def _composed() -> DictConfig:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", ["task=mmk12"])
    OmegaConf.set_struct(cfg, False)
    return cfg


def build(*overrides: str) -> MMK12:
    """The task of the composed configuration, which is composed once."""
    cfg = _composed().copy()
    cfg.merge_with_dotlist(list(overrides))
    return plan.build_task(cfg)


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Builds the task from the sources in `tmp_path`, some of them changed."""

    def changed_and_built(*overrides: str, changed: Mapping[str, Mapping[str, data.Rows]] | None = None) -> MMK12:
        return build(*data.write_all(tmp_path, changed), *overrides)

    return changed_and_built


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> MMK12:
    return build(*data.write_all(tmp_path_factory.mktemp("reasoning")))


def shade(picture: Picture) -> int:
    """The number that a picture was drawn with."""
    red, green, _ = picture.open().getpixel((0, 0))
    return red + 256 * green


def rows(task: MMK12, split: str) -> dict[str, Example]:
    return {example.id.removeprefix(f"{split}/{split}/"): example for example in task.examples(split)}


def content(task: MMK12, example: Example) -> list[str | int]:
    """The user's turn, pictures as their numbers."""
    (*_, message) = task.prompt(example)
    return [shade(part) if isinstance(part, Picture) else part for part in message.content]


def right(task: MMK12, example: Example, text: str) -> bool | None:
    return task.score(example, text).correct


# --- MMK12 -----------------------------------------------------------------------------------------------------------


def test_the_splits_are_drawn_from_the_training_questions_by_the_seed(task: MMK12, make: Make) -> None:
    cold_start, train = ({example.id for example in task.examples(split)} for split in ("cold_start", "train"))
    assert (len(cold_start), len(train)) == (4, 12)
    everything = {f"mmk12/train/t{i}" for i in range(20)}
    assert cold_start | train < everything
    assert not cold_start & train
    other = make("seeds.data=1")
    assert [e.id for e in other.examples("train")] != [e.id for e in task.examples("train")]
    assert [e.id for e in other.examples("id")] == [e.id for e in task.examples("id")]
    assert len(make("task.num_train=null").examples("train")) == 16


def test_training_answers_are_free_form_but_where_the_question_spells_out_options(make: Make) -> None:
    task = make("task.num_train=null", "task.num_cold_start=1")
    found = {example.id.rpartition("/")[2]: example for example in task.examples("train")}
    assert (found["t18"].target, found["t18"].options) == ("B", ("AB", "CD"))
    assert (found["t19"].target, found["t19"].options) == ("B", ())
    assert right(task, found["t18"], "<answer>CD</answer>") is True
    assert right(task, found["t19"], "<answer>b</answer>") is True
    assert right(task, found["t3"], r"<answer>$\sqrt{12}$</answer>") is True


def test_test_questions_are_multiple_choice_with_their_options_in_the_text(task: MMK12) -> None:
    first, second, third = task.examples("id")
    assert (first.target, first.options) == ("B", ("2 N", "4 N", "6 N", "8 N"))
    assert (second.target, second.options) == ("D", ("",) * 4)  # on one line: only the letters are certain
    assert (third.target, third.options) == ("C", ("",) * 4)
    assert content(task, first) == [100, data.MMK12_TEST[0]["question"]]
    assert right(task, first, "<think>A, 2 N?</think><answer>4 N</answer>") is True


def test_the_system_prompt_comes_first_and_may_be_left_out(task: MMK12, make: Make) -> None:
    first, _ = task.prompt(task.examples("id")[0])
    assert first.role == "system"
    assert "<think> </think>" in first.content[0]
    (only,) = make("task.system=null").prompt(task.examples("id")[0])
    assert only.role == "user"


# --- benchmarks ------------------------------------------------------------------------------------------------------


def test_the_benchmarks_come_in_the_papers_order_and_can_be_left_out(task: MMK12, make: Make) -> None:
    assert task.ood == ("mmmu", "we_math", "math_verse", "math_vista", "math_vision")
    assert task.dropped == {}
    assert make("task.sources.math_verse=null").ood == ("mmmu", "we_math", "math_vista", "math_vision")


def test_mmmu_places_each_picture_at_its_tag(task: MMK12) -> None:
    found = rows(task, "mmmu")
    art = found["validation_Art_1"]
    assert content(task, art) == [2, " and ", 1, ", then ", 2, ":\nA. ", 3, "\nB. it's new"]
    assert (art.target, art.options) == ("A", ("<image 3>", "it's new"))
    # the second picture is missing and the first has no place: it comes first, and "<image 3>" is still the third
    text = "\n".join([".", *(f"{letter}. option {i}" for i, letter in enumerate("ABCDEFGHI"))])
    assert content(task, found["validation_Art_2"]) == [4, "Look at ", 5, text]
    assert found["validation_Art_2"].target == "I"


def test_mmmu_open_questions_are_compared_or_left_out(task: MMK12, make: Make) -> None:
    found = rows(task, "mmmu")
    assert content(task, found["validation_Finance_1"]) == ["What is ", 6, " worth?"]
    assert right(task, found["validation_Finance_1"], "<answer>$6.50$</answer>") is True
    assert right(task, found["validation_Finance_2"], "<answer>24/7</answer>") is True
    assert right(task, found["validation_Finance_2"], "<answer>3.429</answer>") is True
    assert right(task, found["validation_Finance_2"], "<answer>3</answer>") is False
    structure = found["validation_Pharmacy_19"]  # a letter that is no option
    assert (structure.target, structure.options) == ("B", ())
    assert (right(task, structure, "<answer>B</answer>"), right(task, structure, "<answer>A</answer>")) == (True, False)
    dropped = make("task.mmmu_open=drop")
    assert len(dropped.examples("mmmu")) == 3
    assert dropped.identity("mmmu") != make().identity("mmmu")


def test_we_math_shows_its_option_string_as_it_is(task: MMK12) -> None:
    found = rows(task, "we_math")
    assert set(found) == {"2steps_9/2steps_1", "2steps_9/2steps_2", "2steps_9/2steps_multi"}
    irregular = found["2steps_9/2steps_2"]
    assert content(task, irregular) == [301, "What is the area ( ) ?\nA. with ;B. inside;B. 24 C. 36"]
    assert found["2steps_9/2steps_multi"].target == "G"
    assert all(example.options == ("",) * 7 for example in found.values())


def test_math_verse_has_its_golds_normalised(task: MMK12) -> None:
    found = rows(task, "math_verse")
    angles = ("40°", "60°", "120°", "140°")
    assert {name: example.target for name, example in found.items()} == {
        **{"1": "D", "2": "D", "3": "B", "4": "B", "5": "B"},
        **{"6": "A, C", "8": "F"},
    }
    assert [found[name].options for name in "12345"] == [angles] * 3 + [("True", "False")] * 2
    assert found["8"].options == ("",) * 6
    assert right(task, found["6"], "<answer>A and C</answer>") is True
    assert right(task, found["6"], "<answer>A</answer>") is False
    # Vision Only: the picture holds the question, and the options are those of the problem's other versions
    assert content(task, found["2"]) == [402, task.question]
    assert right(task, found["5"], "<answer>False</answer>") is True


def test_math_vista_answers_are_texts_whose_place_is_the_letter(task: MMK12) -> None:
    found = rows(task, "math_vista")
    assert {name: example.target for name, example in found.items()} == {"3": "C", "587": "A", "15": "B", "16": "B"}
    assert content(task, found["3"]) == [503, "How large?\nA. 135°\nB. 140°\nC. 145°\nD. 150°"]
    assert right(task, found["15"], "<answer>A</answer>") is False  # "A" is the letter, not the text of B


def test_math_vision_options_that_are_letters_stand_in_the_picture(task: MMK12) -> None:
    found = rows(task, "math_vision")
    assert set(found) == {"2", "4", "5"}
    assert content(task, found["2"]) == [602, "Which comes next?\n<image1>"]
    assert found["2"].options == ("",) * 5
    assert content(task, found["4"]) == [604, "<image1> or <image2>?\nA. 1\nB. 2\nC. 3\nD. 4\nE. 5"]
    assert content(task, found["5"])[1].endswith("\nE. <image6>")


def test_inline_options_and_gold_letters() -> None:
    assert inline_options("Which?\n(A) 1\n(B) 2") == ("1", "2")
    assert inline_options("Which? A. 1 B. 2 C. 3") == ("", "", "")
    assert inline_options("A. Let x be 3.\nFind it.") == ()
    assert inline_options("B. 1\nC. 2") == ()
    assert gold_letters("(B)", ("", "")) == "B"
    assert gold_letters("N 40° E", ("N 40° E", "S")) == "A"
    assert gold_letters("C", ("", "")) is None
    assert gold_letters("", ("", "")) is None


FORCES, SEGMENTS = ("2 N", "4 N", "6 N", "8 N"), ("AB", "AC", "BC", "CD")


@pytest.mark.parametrize(
    ("gold", "options", "shown", "target"),
    [
        # several letters, as a list and as one word
        ("A、B，D", FORCES, "", "A, B, D"), ("ABD", FORCES, "", "A, B, D"), ("(DBA)", FORCES, "", "A, B, D"),
        ("ABD", ("",) * 4, "Which? A. 2 N B. 4 N C. 6 N D. 8 N", "A, B, D"),
        ("ABE", FORCES, "", None), ("ABB", FORCES, "", None), ("abd", FORCES, "", None),
        # a segment's name, or what may be one
        ("AB", SEGMENTS, "", "A"), ("BD", SEGMENTS, "", "B, D"), ("AB", ("",) * 4, "", None),
        ("AB", (), "Find AB.", None),
        ("AB", ("",) * 4, "Which? A. AB B. AC C. BC D. CD", None), ("ABD", ("∠ABD", "∠B", "∠D", "none"), "", None),
        # a letter with the text of its option
        ("B. 4 N", FORCES, "", "B"), ("B.4 N", FORCES, "", "B"), ("B) 4 N", FORCES, "", "B"),
        ("(B) 4N", FORCES, "", "B"),
        ("B、4 N", FORCES, "", "B"), ("B. 2", ("",) * 4, "", "B"), ("A. AB", SEGMENTS, "", "A"),
        ("A. C", FORCES, "", "A, C"),
        ("B. 2 N", FORCES, "", None), ("E. 2", FORCES, "", None), ("B. 4 N, D. 8 N", FORCES, "", None),
        ("B. 2", (), "", None),
        ("A. Einstein", ("Newton", "A. Einstein"), "", "B"),
    ],
)  # fmt: skip
def test_a_gold_that_names_options_is_read_and_none_is_guessed(
    gold: str, options: tuple[str, ...], shown: str, target: str | None
) -> None:
    assert gold_letters(gold, options, shown) == target


def test_training_golds_of_several_letters_and_with_texts(make: Make) -> None:
    lines, line = f"Which hold?{data.FOUR}", "Which hold? A. 2 N B. 4 N C. 6 N D. 8 N"
    golds = [(lines, "ABD"), (line, "ABD"), (lines, "B. 4 N"), ("Which segment?", "AB")]
    changed = [data.mmk12(f"s{i}", *golds[i % 4], i) for i in range(10)]
    task = make(
        "task.num_train=null", "task.num_cold_start=1", changed={"mmk12": {"data/train-00000-of-00002": changed}}
    )
    everything = [*task.examples("cold_start"), *task.examples("train")]
    found = {example.id.rpartition("/")[2]: example for example in everything}
    assert [found[f"s{i}"].target for i in range(4)] == ["A, B, D", "A, B, D", "B", "AB"]
    for name in ("s0", "s1"):
        assert [right(task, found[name], text) for text in ("A, B, D", "ABD", "A, B", "AB")] == [
            True,
            True,
            False,
            False,
        ]
    assert right(task, found["s3"], "AB") is True


def test_test_golds_with_a_text_and_without_any_letter(make: Make) -> None:
    changed = [dict(row) for row in data.MMK12_TEST]
    changed[2]["answer"] = "C. Newton"  # whose options stand in the picture
    task = make(changed={"mmk12": {TEST: changed}})
    assert (task.examples("id")[2].target, task.examples("id")[2].options) == ("C", ("",) * 4)
    changed[2]["answer"] = "12"
    task = make("task.expected.id=null", changed={"mmk12": {TEST: changed}})
    assert task.dropped == {"id: the gold answer is none of the options": 1}


# --- targets ---------------------------------------------------------------------------------------------------------


def targets(path: Path, texts: Mapping[str, str]) -> str:
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts.items()))
    return f"task.targets={path}"


def test_a_teachers_texts_are_taught_where_they_are_right(make: Make, tmp_path: Path) -> None:
    texts = {
        f"mmk12/train/t{i}": f"<think>Step {i}.\u2028</think><answer>{data.TRAIN_ANSWERS[i % 6]}</answer>"
        for i in range(18)
    }
    texts["mmk12/train/t0"] = "<think>?</think><answer>7</answer>"
    texts["mmk12/train/t1"] = "<think>5"
    file = targets(tmp_path / "targets.jsonl", texts)
    task = make(file)
    assert task.dropped == {"train: the target text is not right": 2}
    trained = [*task.examples("cold_start"), *task.examples("train")]
    assert len(trained) == 16
    assert {task.target(example) for example in trained} == {texts[f"mmk12/train/t{i}"] for i in range(2, 18)}
    assert task.target(task.examples("id")[0]) == "<answer>B</answer>"
    assert task.identity("cold_start") != make().identity("cold_start")
    assert task.identity("id") == make().identity("id")
    with pytest.raises(ValueError, match=r"must be at most the 16 questions that can be trained on, got 4 and 13; "):
        make(file, "task.num_train=13")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"id": "mmk12/train/t99", "text": ""}\n',
            r"must hold ids of MMK12's training questions, got .* with 1 others",
        ),
        ("no json\n", r"each line of task.targets must be .*, got line 1 of .*: 'no json'"),
        ('{"id": "mmk12/train/t1"}\n', r"got line 1 of"),
        ('{"id": "mmk12/train/t1", "text": null}\n', r"got line 1 of"),
        ('{"id": "mmk12/train/t1", "text": "a"}\n' * 2, r"with an id of its own, got line 2 of"),
        ("[1]\n", r"got line 1 of"),
    ],
)
def test_a_targets_file_that_is_none_is_refused(make: Make, tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "targets.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=said) as error:
        make(f"task.targets={file}")
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="there is no such file"):
        make("task.targets=/nowhere")


# --- bad input -------------------------------------------------------------------------------------------------------


def without(source: str, file: str, number: int, **values: object) -> dict[str, dict[str, data.Rows]]:
    """A source of which one row has other values."""
    changed = [dict(row) for row in data.DATA[source][file]]
    changed[number] |= values
    return {source: {file: changed}}


VISION, VISTA = "data/test-00000-of-00001-3532b8d3f1b4047a", "data/testmini-00000-of-00001-725687bf7a18d64b"
MMMU, TEST = "data/validation-00000-of-00001", "data/test-00000-of-00001"
BROKEN = [
    ("math_vision", VISION, 0, {"decoded_image": None}, "no picture"),
    ("math_vision", VISION, 0, {"answer": "12"}, "the gold answer is none of the options"),
    ("math_vista", VISTA, 0, {"answer": "146°"}, "the gold answer is none of the options"),
    ("mmmu", MMMU, 1, {"image_3": None}, "no picture"),
    ("mmmu", MMMU, 0, {"options": "['1 m', "}, "the options cannot be read"),
    ("mmmu", MMMU, 0, {"options": "__import__('os')"}, "the options cannot be read"),
    ("id", TEST, 0, {"answer": "E"}, "the gold answer is none of the options"),
]


@pytest.mark.parametrize(("split", "file", "number", "values", "reason"), BROKEN)
def test_a_question_that_cannot_be_used_is_counted_and_then_missed(
    make: Make, split: str, file: str, number: int, values: dict[str, object], reason: str
) -> None:
    changed = without("mmk12" if split == "id" else split, file, number, **values)
    count = data.COUNTS[split]
    with pytest.raises(
        ValueError, match=rf"task.expected.{split} must be .*, got {count} for {count - 1} \(1 dropped, "
    ):
        make(changed=changed)
    task = make(f"task.expected.{split}=null", changed=changed)
    assert task.dropped == {f"{split}: {reason}": 1}


@pytest.mark.parametrize("split", data.SIZES)
def test_a_wrong_count_is_refused(make: Make, split: str) -> None:
    with pytest.raises(ValueError, match=rf"task.expected.{split} must be the number of questions there, got 1 for "):
        make(f"task.expected.{split}=1")


def test_a_training_gold_that_cannot_be_judged_stays_for_labelling_to_drop(make: Make) -> None:
    file = "data/train-00000-of-00002"
    task = make(
        "task.num_train=null", "task.num_cold_start=1", changed=without("mmk12", file, 3, answer="See figure 3.")
    )
    (example,) = [e for split in ("cold_start", "train") for e in task.examples(split) if e.id.endswith("/t3")]
    assert right(task, example, task.target(example)) is None


def test_other_columns_are_said(make: Make) -> None:
    rows = [{key: value for key, value in row.items() if key != "option"} for row in data.WE_MATH]
    with pytest.raises(ValueError, match=r"task.sources.we_math must have the columns .* it lacks option"):
        make(changed={"we_math": {"data/testmini-00000-of-00001": rows}})


def test_a_picture_that_cannot_be_read_is_said_with_its_place(make: Make) -> None:
    broken = {"bytes": b"no picture", "path": None}
    task = make(changed=without("math_vision", VISION, 2, decoded_image=broken))
    with pytest.raises(
        ValueError, match=r"a picture must be readable, got decoded_image of row 2 of .*3532b8d3f1b4047a.parquet"
    ):
        rows(task, "math_vision")["4"].pictures[0].open()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.sources.mmk12=null", "task.sources.mmk12 must be a folder or a dataset on the Hub, got None"),
        ("task.sources.mmmu=/nowhere", "task.sources.mmmu must be a folder or a dataset on the Hub"),
        ("task.mmmu_open=keep", "task.mmmu_open must be convert or drop, got 'keep'"),
        ("task.num_train=0", "task.num_train must be at least 1, got 0"),
        ("task.num_train=17", "must be at most the 20 questions that can be trained on, got 4 and 17"),
        ("task.sources.mathvista=x", "task.sources must have the keys .*, got a difference in mathvista"),
    ],
)
def test_a_wrong_setting_is_refused(make: Make, override: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(override)


def test_a_moved_source_is_the_same_data_and_an_edited_one_is_not(task: MMK12, make: Make) -> None:
    splits = ("cold_start", "train", *task.tests)
    assert [make().identity(split) for split in splits] == [task.identity(split) for split in splits]
    edited = make(changed=without("math_vision", VISION, 0, answer="B"))
    assert [split for split in splits if edited.identity(split) != task.identity(split)] == ["math_vision"]


def test_an_id_that_is_there_twice_names_two_examples(make: Make) -> None:
    task = make(changed=without("math_vista", VISTA, 2, pid="3"))
    assert [example.id.rpartition("/")[2] for example in task.examples("math_vista")] == ["3", "3#2", "15", "16"]
