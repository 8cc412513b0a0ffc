"""Time of each arm, where its updates come from, and the completions that a page shows."""

import dataclasses
import json

import pytest
from synthetic_cells import cell, part, sweep

from dcsft.report.costs import time_frame, total_time, update_shares
from dcsft.report.examples import shown_completions
from dcsft.report.page import write_page

SPLITS = {"id": part(8, 10, groups={})}


def grpo(folder):
    """A GRPO cell of 340 examples, 172 easy and 168 medium, with two steps of metrics and completions."""
    lines = [
        {"step": 1, "advantage_share/easy": 0.2, "advantage_share/medium": 0.8, "zero_variance/easy": 1.0},
        {"step": 2, "advantage_share/medium": 1.0, "zero_variance/easy": 0.5, "grad_share/medium": 1.0},
    ]
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = [("house", 1.0, 0.5), ("house", 1.0, 0.5), ("<b>", 0.0, -1.0)]
    rows = [
        {"step": step, "id": "train/7", "difficulty": "medium", "text": text, "reward": reward, "advantage": advantage}
        for step in (1, 2)
        for text, reward, advantage in said
    ]
    completions = folder / "completions.jsonl"
    completions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = cell("GRPO", 0, SPLITS, subset="all", paradigm="grpo")
    return dataclasses.replace(found, metrics=metrics, completions=completions)


def test_an_arm_pays_for_labelling_only_if_it_needs_it():
    cells = [
        cell("Cold start", 0, SPLITS),
        cell("SFT", 0, SPLITS, subset="all"),
        cell("SFT-EM", 0, SPLITS),
        cell("SFT-RS", 0, SPLITS, subset="all", paradigm="rs"),
        cell("SFT, hard 0.05", 0, SPLITS, subset="all", hard_ratio=0.05),
        cell("GRPO", 0, SPLITS, subset="all", paradigm="grpo", warm_start=True),
    ]
    frame = time_frame(cells)
    # cold start 10 s, labelling 5 s, training 8 s
    paying = dict.fromkeys(["SFT-EM", "SFT-RS", "SFT, hard 0.05", "GRPO"], 23.0)
    assert frame["total"].to_dict() == {"SFT": 18.0} | paying
    assert frame.loc["SFT", "label"] == 0.0
    alt = total_time(cells).panels[0].alt
    assert alt.startswith(
        "Seconds from the start to the trained model: SFT 18.0 (cold start 10.0, label 0.0, train 8.0)"
    )
    assert total_time(cells[:2]) is None


def test_the_time_against_grpo_is_said(tmp_path):
    slow = grpo(tmp_path)
    slow.results["stages"]["train"]["seconds"] = 36.0  # 10 + 36 = 46 s, twice 10 + 5 + 8
    assert "Against GRPO: SFT-EM 2.00 times as fast." in total_time([slow, cell("SFT-EM", 0, SPLITS)]).caption


def test_the_update_s_shares_are_means_over_steps(tmp_path):
    figure = update_shares([grpo(tmp_path), cell("SFT", 0, SPLITS)])
    (panel,) = figure.panels
    # a class that is missing in a step has no share in it; a step without any gradient shares is left out
    assert panel.alt == (
        "GRPO: prompts easy 51 %, medium 49 %, hard 0 %; squared advantage easy 10 %, medium 90 %, hard 0 %; "
        "gradient norm easy 0 %, medium 100 %, hard 0 %; groups without variance easy 75 %."
    )
    assert update_shares([cell("SFT", 0, SPLITS)]) is None


def test_completions_are_counted_and_shown_at_several_steps(tmp_path):
    rows = shown_completions([cell("SFT", 0, SPLITS), grpo(tmp_path)])
    assert [(row.step, row.text, row.times, row.reward) for row in rows] == [
        (1, "house", 2, 1.0),
        (1, "<b>", 1, 0.0),
        (2, "house", 2, 1.0),
        (2, "<b>", 1, 0.0),
    ]
    html = write_page(tmp_path / "page.html", "title", [grpo(tmp_path)]).read_text()
    assert "Completions while training" in html
    assert "&lt;b&gt;" in html
    assert "<td><b></td>" not in html


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep"), missing=2, n=60)


def test_a_sweep_has_a_bar_an_arm(cells):
    assert list(time_frame(cells).index) == [arm for arm in dict.fromkeys(c.arm for c in cells) if arm != "Cold start"]
