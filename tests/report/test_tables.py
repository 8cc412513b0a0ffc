import dataclasses
import io

import pytest
from rich.console import Console
from synthetic_cells import cell, part, write_labels, write_scores

from dcsft.report.figures import accuracy
from dcsft.report.frames import accuracy_frame, cost_frame, difference_frame, training_frame
from dcsft.report.renderers import latex, markdown
from dcsft.report.tables import (
    ONE_SEED,
    SEVERAL_SEEDS,
    Entry,
    accuracy_tables,
    all_tables,
    difference_tables,
    difficulty_table,
    points,
    quantity,
    show_tables,
)


def accuracies(correct: int, n: int = 100) -> dict:
    return {"id": part(correct, n, groups={})}


def test_one_seed_keeps_its_wilson_interval():
    table = accuracy_tables([cell("SFT", 0, accuracies(8, 10))])[0]
    assert table.header[2] == Entry("ID", "n = 10")
    assert table.rows == ((Entry("SFT"), Entry("1"), Entry("80.0", "[49.0, 94.3]")),)
    assert table.notes == (ONE_SEED,)


def test_several_seeds_become_mean_and_t_interval():
    # accuracies 0.70, 0.80, 0.90: mean 0.8, sd 0.1, se 0.057735, half 4.302653 * 0.057735 = 0.248414
    cells = [cell("SFT", seed, accuracies(correct)) for seed, correct in enumerate((70, 80, 90))]
    frame = accuracy_frame(cells)
    assert frame.loc["SFT", ["id.accuracy", "id.standard_error", "id.low", "id.high"]].tolist() == pytest.approx(
        [0.8, 0.057735, 0.551586, 1.048414], abs=1e-5
    )
    table = accuracy_tables(cells)[0]
    assert table.rows[0][1:] == (Entry("3"), Entry("80.0 ± 5.8", "[55.2, 104.8]"))
    assert table.notes == (SEVERAL_SEEDS,)


def test_best_and_second_are_marked_and_ties_share():
    counts = {"Cold start": 70, "Easy": 80, "Medium": 90, "Hard": 90}
    table = accuracy_tables([cell(arm, 0, accuracies(correct)) for arm, correct in counts.items()])[0]
    assert [row[2].rank for row in table.rows] == [None, 2, 1, 1]


def test_unjudged_answers_and_unequal_test_sets_are_shown():
    cells = [cell("SFT", 0, {"id": part(80, 100, 3, groups={})}), cell("SFT-M", 0, accuracies(45, 50))]
    details = [row[2].detail for row in accuracy_tables(cells)[0].rows]
    assert details[0].endswith("n = 100 3 unjudged")
    assert details[1].endswith("n = 50")


def test_a_narrow_screen_breaks_no_number():
    """A table too wide for it becomes several with some of the columns each; a wide screen has it whole."""
    groups = {kind: part(50, 100) for kind in ("count", "count_colour", "largest", "smallest", "two_hops", "use")}
    cells = [cell(arm, 0, {"id": part(90, 600, groups=groups)}) for arm in ("Cold start", "SFT")]
    interval = accuracy_tables(cells)[1].rows[0][2].detail
    shown = {}
    for width in (60, 200):
        screen = Console(file=io.StringIO(), width=width)
        show_tables(cells, screen)
        shown[width] = screen.file.getvalue()
    for text in shown.values():
        assert text.count(interval) == 2 * len(groups), "each interval of each arm is on one line"
        assert text.count("Accuracy per part of the test sets") == 1
    assert shown[200].count("Cold start") < shown[60].count("Cold start")


def test_groups_have_their_own_table_with_the_share_of_training_words():
    groups = {"novel": part(50, 100, into_id=0.21), "seen": part(40, 50, into_id=None)}
    whole, parts = accuracy_tables([cell("SFT", 0, {"ood_r": part(90, 150, groups=groups)})])
    assert [entry.text for entry in whole.header] == ["Arm", "Seeds", "OOD-R"]
    assert [entry.text for entry in parts.header] == ["Arm", "Seeds", "OOD-R novel", "→ ID word", "OOD-R seen"]
    assert parts.rows[0][3] == Entry("21.0")


def test_one_seed_is_compared_picture_by_picture(tmp_path):
    # the arm alone is right on 6 pictures, the baseline alone on 1, one more picture is not judged: exact p = 0.125
    ours = [True] * 9 + [False] * 3 + [None]
    theirs = [True] * 3 + [False] * 6 + [True] + [False] * 2 + [True]
    cells = [
        dataclasses.replace(cell(arm, 0, accuracies(6)), scores=write_scores(tmp_path / arm, {"id": answers}))
        for arm, answers in (("Cold start", theirs), ("SFT-EM", ours))
    ]
    frame = difference_frame(cells)
    assert frame[["reference", "arm", "seeds", "pairs"]].to_numpy().tolist() == [["Cold start", "SFT-EM", 1, 12]]
    assert frame.loc[0, ["difference", "p", "p_holm"]].tolist() == pytest.approx([5 / 12, 0.125, 0.125])
    table = difference_tables(cells)[0]
    assert table.rows[0][2].text == "+41.7"
    assert table.rows[0][2].detail.endswith("p = 0.125")
    assert "12 pictures" in table.notes[0]


def test_several_seeds_are_compared_seed_by_seed_with_holm_per_reference():
    cells = [cell("Cold start", seed, accuracies(50)) for seed in range(3)]
    cells += [cell("SFT", seed, accuracies(51 + seed)) for seed in range(3)]
    cells += [cell("SFT-EM", seed, accuracies(50 + (1, 3, 2)[seed])) for seed in range(3)]
    frame = difference_frame(cells).set_index(["reference", "arm"])
    # 1, 2, 3 points: p = 1 - sqrt(12/14) = 0.074180, twice in one family of two: 0.148360
    assert frame.loc["Cold start", "p"].tolist() == pytest.approx([0.074180] * 2, abs=1e-6)
    assert frame.loc["Cold start", "p_holm"].tolist() == pytest.approx([0.148360] * 2, abs=1e-6)
    # 0, +1, -1 points: no difference at all
    assert frame.loc[("SFT", "SFT-EM"), "difference"] == pytest.approx(0.0, abs=1e-12)
    assert frame.loc[("SFT", "SFT-EM"), "p"] == pytest.approx(1.0, abs=1e-9)


def test_training_seeds_that_share_a_cold_start_are_paired_with_its_only_cell():
    shared = {"data": 0, "cold_start": 0, "label": 0}
    cells = [cell("Cold start", 0, accuracies(50))]
    cells += [cell("SFT", seed, accuracies(51 + seed), seeds=shared | {"train": seed}) for seed in range(3)]
    assert difference_frame(cells)["seeds"].tolist() == [3]
    other = [cell("SFT", 1, accuracies(52))]
    assert difference_frame([cells[0], *other]).empty


def test_training_lists_mixtures_and_leaves_the_baseline_out():
    frame = training_frame([cell("Cold start", 0, accuracies(5), train=None), cell("SFT", 0, accuracies(5))])
    assert frame.index.tolist() == ["SFT"]
    assert frame.loc["SFT", ["seeds", "examples", "easy", "hard"]].tolist() == [1, 340, 172, 0]


def test_shared_runs_cost_once():
    cells = [cell(arm, seed, accuracies(5)) for arm in ("SFT", "SFT-EM") for seed in (0, 1)]
    frame = cost_frame(cells).set_index(["stage", "arms"])
    # cold start: two runs of 10 s, shared by both arms; training: two runs of 8 s each arm
    assert frame.loc[("cold_start", "all 2 arms"), ["num_runs", "seconds"]].tolist() == [2, 20.0]
    assert frame.loc[("train", "SFT-EM"), ["num_runs", "seconds", "tokens_trained"]].tolist() == [2, 16.0, 6000]
    # 20 + 10 + 2 * 16 + 2 * 4
    assert frame["seconds"].sum() == pytest.approx(70.0)


def test_stages_come_in_their_order_though_the_baseline_skips_some():
    cells = [cell("Cold start", 0, accuracies(5)), cell("SFT", 0, accuracies(5))]
    del cells[0].results["stages"]["train"]
    order = ["cold_start", "label", "train", "evaluate"]
    assert list(dict.fromkeys(cost_frame(cells)["stage"])) == order


def test_dropped_examples_are_reported():
    cells = [cell("SFT", 0, accuracies(5), dropped={"too_long": 7, "unjudged": 0})]
    training = next(table for table in all_tables(cells) if table.name == "training")
    assert training.notes == ("Dropped in SFT, seed 0: too_long 7.",)


def test_renderers_mark_and_escape():
    cells = [cell("A_1 & <b> | [x]", 0, accuracies(80)), cell("B", 0, accuracies(70)), cell("C", 1)]
    tables = all_tables(cells)
    written = markdown(tables, cells)
    assert "**80.0** <sub>" in written
    assert "<u>70.0</u>" in written
    assert r"A\_1 &amp; &lt;b> \| \[x\]" in written
    assert "- C, seed 1: `python train.py subset='C' seed=1`" in written
    tex = latex(tables, cells)
    assert r"\toprule" in tex
    assert r"A\_1 \& $<$b$>$ | [x] & 1 & \textbf{80.0}" in tex
    assert r"\underline{70.0}" in tex
    assert "% missing: C, seed 1" in tex
    buffer = io.StringIO()
    show_tables(cells, Console(file=buffer, width=120))
    assert "A_1 & <b> | [x]" in buffer.getvalue()
    assert "1 of 3 cells are not computed yet:\n  python train.py subset='C' seed=1" in buffer.getvalue()


def test_the_command_of_a_missing_cell_is_copied_whole_from_a_narrow_screen():
    command = f"python train.py {' '.join(f'model.knob{i}=[1,2]' for i in range(12))}"
    buffer = io.StringIO()
    show_tables([dataclasses.replace(cell("C", 1), command=command)], Console(file=buffer, width=80))
    assert f"  {command}\n" in buffer.getvalue()


def test_numbers_are_written_for_reading():
    assert [points(value) for value in (-0.0204, 0.0204, -0.0001)] == ["−2.0", "+2.0", "0.0"]
    assert [quantity(value) for value in (0, 1720, 1.2e12)] == ["0", "1,720", "1.20 T"]


def test_nothing_finished_is_no_table():
    assert all_tables([cell("SFT", 0)]) == []


def test_a_split_without_a_judged_answer_is_left_out_and_breaks_nothing():
    nothing = {"n": 0, "unjudged": 5, "correct": 0, "accuracy": None, "low": None, "high": None, "groups": {}}
    cells = [cell(arm, 0, accuracies(80) | {"ood_r": nothing}) for arm in ("Cold start", "SFT")]
    assert [entry.text for entry in accuracy_tables(cells)[0].header] == ["Arm", "Seeds", "ID"]
    assert [panel.name for panel in accuracy(cells).panels] == ["accuracy_id"]


def test_the_papers_numbers_stand_beside_ours_only_for_its_task_and_model(tmp_path):
    labels, _ = write_labels(tmp_path, 0, count=40)
    arms = [cell("Cold start", 0, accuracies(70)), cell("Hard", 0, accuracies(60))]
    arms += [cell("Cold start", 1, accuracies(71)), cell("Hard", 1, accuracies(62))]
    ours = [dataclasses.replace(one, labels=labels) for one in arms]
    paper = {"task": "imagenet", "model": "qwen2_5_vl_3b"}
    theirs = [dataclasses.replace(one, results=one.results | paper) for one in ours]
    assert [row[0].text for row in difficulty_table(ours).rows] == ["seed 0"]
    *_, printed = difficulty_table(theirs).rows
    # 4,163, 4,017 and 1,420 of 9,600
    assert [entry.text for entry in printed] == ["paper", "9,600", "43.4", "41.8", "14.8"]
    assert "paper" not in difference_tables(ours)[0].rows[0][2].detail
    assert difference_tables(theirs)[0].rows[0][2].detail.endswith("; paper +4.5")
    mixed = [ours[0], *theirs[1:]]
    assert len(difficulty_table(mixed).rows) == 1
