"""Several sweeps on one page: each chapter shows its own, and nothing stands there twice."""

import re

import pytest
from synthetic_cells import sights, sweep
from test_page import Page

from dcsft.report.collection import Chapter, write_collection


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return tuple(sweep(tmp_path_factory.mktemp("sweep"), missing=2, n=60))


@pytest.fixture(scope="module")
def html(cells, tmp_path_factory):
    chapters = [
        Chapter("table1", "Table 1.\ncommand: x <y>", cells[:4], ("accuracy", "differences")),
        Chapter("tableS2", "Table S2.", cells, ("training",)),
        Chapter("figure6", "Figure 6.", cells[:4], ("gradients",)),
        Chapter("figureS2", "Figure S2.", cells[:1], ("examples",)),
    ]
    return write_collection(tmp_path_factory.mktemp("page") / "all.html", "All & sundry", chapters, sights)


def chapter(html, name):
    text = html.read_text(encoding="utf-8")
    return re.search(rf'<section aria-labelledby="{name}">.*?</section>', text, re.DOTALL)[0]


def test_a_chapter_shows_what_is_its_own(html):
    table1 = chapter(html, "table1")
    assert "Accuracy per arm and test set" in table1
    assert "Paired difference to Cold start" in table1
    assert "What each arm was trained on" not in table1
    assert table1.count("<figure>") == 2  # accuracy and differences
    assert "What each arm was trained on" in chapter(html, "tableS2")
    assert chapter(html, "figure6").count("<figure>") == 1
    assert 'href="#explorer"' in chapter(html, "figureS2")
    assert "x &lt;y&gt;" in table1


def test_missing_cells_stand_in_their_chapter_with_their_commands(html, cells):
    assert cells[-1].command.replace("'", "&#39;") in chapter(html, "tableS2")
    assert "not computed yet" not in chapter(html, "table1")


def test_there_is_one_explorer_and_one_ledger_for_all(html):
    explorer, ledger = chapter(html, "explorer"), chapter(html, "ledger")
    assert explorer.count('<ul class="cards"') == 2  # one of training, one of test examples
    # Chapters share their runs: the ledger counts each of them once. Three seeds, one cold start each.
    rows = re.findall(r'<th scope="row">cold start</th>\s*<td>[^<]*</td>\s*<td class="number">(\d+)</td>', ledger)
    assert sum(map(int, rows)) == 3


def test_it_stands_alone_and_is_accessible(html):
    page = Page(html.read_text(encoding="utf-8"))
    assert "http" not in re.sub(r'src="[^"]*"', "", html.read_text(encoding="utf-8"))
    assert all(attrs["alt"] for attrs in page.of("img"))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    links = {attrs["href"].removeprefix("#") for attrs in page.of("a")}
    assert links <= set(ids)
    regions = [attrs["aria-label"] for attrs in page.of("div") if attrs.get("role") == "region"]
    assert len(set(regions)) == len(regions)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1


def test_nothing_computed_is_a_page(cells, tmp_path):
    alone = Chapter("table1", "", (cells[-1],), ())
    text = write_collection(tmp_path / "page.html", "Nothing", [alone]).read_text(encoding="utf-8")
    Page(text)
    assert "1 of 1 cells is not computed yet." in text
    assert 'id="explorer"' not in text
