import dataclasses
import io
import json
from xml.etree import ElementTree

import pandas as pd
import pytest
from rich.console import Console
from synthetic_cells import cell, part, sweep, write_curve

from dcsft.report import figures


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep"), missing=2, n=60)


def test_every_figure_is_drawn_and_is_the_same_twice(cells):
    drawn = figures.all_figures(cells)
    assert [figure.name for figure in drawn] == [
        "accuracy",
        "differences",
        "difficulty",
        "gradients",
        "losses",
        "hard_ratio",
        "time",
    ]
    for figure, again in zip(drawn, figures.all_figures(cells), strict=True):
        assert figure == again
        for panel in figure.panels:
            assert ElementTree.fromstring(panel.svg).tag.endswith("svg")
            assert panel.alt.endswith(".")
    names = [panel.name for figure in drawn for panel in figure.panels]
    assert len(set(names)) == len(names)


def test_drawings_fit_a_phone(cells):
    for figure in figures.all_figures(cells):
        for panel in figure.panels:
            width = ElementTree.fromstring(panel.svg).get("width")
            assert float(width.removesuffix("pt")) * 4 / 3 <= 360


def test_accuracy_tells_its_numbers_in_words():
    cells = [cell(arm, 0, {"id": part(right, 10, groups={})}) for arm, right in (("Cold start", 8), ("SFT", 9))]
    alt = figures.accuracy(cells).panels[0].alt
    assert alt == (
        "Accuracy on ID in percent, with 95 % intervals: Cold start 80.0 (49.0 to 94.3); SFT 90.0 (59.6 to 98.2)."
    )


def test_dollar_signs_in_names_are_not_mathematics():
    cells = [cell(arm, 0, {"id": part(8, 10, groups={})}) for arm in ("cost $1$", r"$\frac{")]
    assert figures.accuracy(cells) is not None


def test_figures_without_data_are_left_out():
    alone = [cell("SFT", 0, {"id": part(8, 10, groups={})})]
    assert figures.all_figures(alone) == []
    assert figures.all_figures([cell("SFT", 0)]) == []


def test_the_curve_is_drawn_where_there_is_one(cells, tmp_path):
    curve = write_curve(tmp_path / "curve.csv", 0.6, 0.8)
    figure = figures.accuracy_curve([dataclasses.replace(cells[4], curve=curve)])
    assert [panel.name for panel in figure.panels] == ["curve_id", "curve_ood_r", "curve_ood_a"]
    assert "SFT from 60.0 to 80.0" in figure.panels[0].alt


def test_training_curves_part_single_classes_from_mixtures(cells):
    assert [panel.name for panel in figures.losses(cells).panels] == ["loss_alone", "loss_mixed"]
    assert [panel.name for panel in figures.gradient_norms(cells).panels] == ["grad_norm_alone", "grad_norm_mixed"]


@pytest.mark.parametrize("norms", [[0.0, 0.0], [0.0, 2.0]])
def test_a_gradient_of_zero_has_no_place_on_a_logarithmic_scale(norms, tmp_path):
    """As in GRPO where every completion of a batch earns the same; warnings are errors in these tests."""
    lines = [{"step": step, "loss/easy": 1.0, "grad_norm/easy": norm} for step, norm in enumerate(norms, 1)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arm = dataclasses.replace(cell("GRPO", 0, {"id": part(8, 10, groups={})}), metrics=tmp_path / "metrics.jsonl")
    drawn = figures.gradient_norms([arm])
    assert (drawn is not None) == any(norms)
    if drawn is not None:
        assert "easy from 2 to 2" in drawn.panels[0].alt
    assert figures.losses([arm]) is not None


def labels(tmp_path, counts):
    frame = pd.DataFrame(counts, columns=["num_correct", "num_samples"])
    frame.to_parquet(tmp_path / "labels.parquet")
    return tmp_path / "labels.parquet"


def test_pass_rates_in_the_terminal(tmp_path):
    # the first is not judged; 0/8, 4/8, 8/8 twice;
    # 1 of 7 is nearest to 1/8; 6 of 7 (0.857) is nearest to 7/8 and not easy; 7 of 7 is easy
    path = labels(tmp_path, [(0, 0), (0, 8), (4, 8), (8, 8), (8, 8), (1, 7), (6, 7), (7, 7)])
    buffer = io.StringIO()
    Console(file=buffer, width=100, color_system=None).print(figures.pass_rate_histogram(path))
    lines = [line.split() for line in buffer.getvalue().splitlines() if "/8" in line]
    # The last three words of a line are the count, its share and the percent sign.
    assert [line[0] for line in lines] == [f"{right}/8" for right in range(9)]
    assert [int(line[-3]) for line in lines] == [1, 1, 0, 0, 1, 0, 0, 1, 3]
