import dataclasses
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pandas as pd
import pytest
from synthetic_cells import cell, part, sights, sweep, write_labels

from dcsft.report.examples import choose, shown_examples
from dcsft.report.page import write_page, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "img", "input", "br"}


class Page(HTMLParser):
    """Notes every tag and checks that they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)

    def of(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep"), missing=2, n=60)


@pytest.fixture(scope="module")
def html(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    return write_page(path, "A <b>bold</b> title", cells, sights, "One & two.\n\nThree.")


def test_the_page_stands_alone(html):
    text = html.read_text(encoding="utf-8")
    assert not re.search(r"https?://", text)
    page = Page(text)
    for tag, attribute in (("img", "src"), ("link", "href"), ("a", "href")):
        assert all(attrs[attribute].startswith(("data:", "#")) for attrs in page.of(tag))
    assert all("src" not in attrs for attrs in page.of("script"))


def test_what_comes_from_data_is_escaped(html):
    text = html.read_text(encoding="utf-8")
    assert len(Page(text).of("script")) == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<b>" not in text


def test_the_page_is_accessible(html):
    page = Page(html.read_text(encoding="utf-8"))
    assert page.of("html") == [{"lang": "en"}]
    assert all(attrs["alt"] for attrs in page.of("img"))
    assert len(page.of("caption")) == len(page.of("table"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(set(ids)) == len(ids)
    assert {attrs["aria-labelledby"] for attrs in page.of("section")} <= set(ids)
    assert {attrs["data-cards"] for attrs in page.of("form")} <= set(ids)
    assert {attrs.get("scope") for attrs in page.of("th")} == {"row", "col"}
    regions = [attrs["aria-label"] for attrs in page.of("div") if attrs.get("role") == "region"]
    assert len(set(regions)) == len(regions)
    # Every control stands in a <label>.
    assert len(page.of("label")) == len(page.of("select")) + len(page.of("input"))


def luminance(colour: str) -> float:
    """Relative luminance of "#rgb" or "#rrggbb" (WCAG 2.2)."""
    digits = colour.removeprefix("#")
    digits = "".join(digit * 2 for digit in digits) if len(digits) == 3 else digits
    shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_every_colour_of_text_can_be_read_by_day_and_by_night():
    assert contrast("#fff", "#000000") == pytest.approx(21)  # by definition
    style = files("dcsft.report").joinpath("style.css").read_text()
    day, night = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    for scheme in (day, night):
        colours = dict(re.findall(r"--(\w+): (#\w+)", scheme))
        for name in ("ink", "soft", "accent", "easy", "medium", "hard"):
            for ground in ("paper", "wash"):
                assert contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_missing_cells_come_with_their_commands(html, cells):
    text = "".join(Page(html.read_text(encoding="utf-8")).text)
    assert "25 of 27 cells" in text
    assert cells[-1].command in text


def test_the_same_cells_give_the_same_bytes(html, cells, tmp_path):
    again = write_page(tmp_path / "again.html", "A <b>bold</b> title", cells, sights, "One & two.\n\nThree.")
    assert again.read_bytes() == html.read_bytes()


def test_a_report_is_a_folder_of_files(cells, tmp_path):
    path = write_report(tmp_path / "report", "Report", cells)
    assert path == tmp_path / "report" / "report.html"
    found = {str(file.relative_to(path.parent)) for file in path.parent.rglob("*") if file.is_file()}
    assert {"report.html", "table.md", "table.tex", "table.csv", "cost.csv", "figures/accuracy_id.svg"} <= found
    assert not [name for name in found if name.startswith(".")]
    table = pd.read_csv(path.parent / "table.csv", index_col="arm")
    assert table.loc["SFT-EM", "seeds"] == 3


def test_one_run_is_a_page(tmp_path):
    labels, rollouts = write_labels(tmp_path, 0, count=40)
    alone = dataclasses.replace(cell("SFT", 0, {"id": part(8, 10, groups={})}), labels=labels, rollouts=rollouts)
    text = "".join(Page(write_page(tmp_path / "page.html", "One run", [alone]).read_text(encoding="utf-8")).text)
    assert "One seed: the 95 % intervals (Wilson) are test-sampling error only" in text
    assert "Paired differences" not in text
    assert "no picture" in text


def test_nothing_computed_is_a_page(tmp_path):
    text = "".join(Page(write_page(tmp_path / "page.html", "Nothing", [cell("SFT", 0)]).read_text()).text)
    assert "The only cell is not computed yet." in text


def test_arms_without_their_baseline_say_so(tmp_path):
    arms = [cell(arm, 0, {"id": part(8, 10, groups={})}) for arm in ("Easy", "Hard")]
    text = "".join(Page(write_page(tmp_path / "page.html", "Arms", arms).read_text()).text)
    assert "“Cold start” is not among the computed cells" in text


def test_examples_are_spread_over_pass_rates(tmp_path):
    labels, _ = write_labels(tmp_path, 0)
    chosen = choose(pd.read_parquet(labels), count=7)
    assert chosen["difficulty"].tolist() == ["easy"] * 7 + ["medium"] * 7 + ["hard"] * 7
    assert chosen[chosen["difficulty"] == "medium"]["num_correct"].tolist() == [7, 6, 5, 4, 3, 2, 1]


def test_answers_are_counted_right_ones_first(tmp_path):
    labels, rollouts = write_labels(tmp_path, 0)
    alone = dataclasses.replace(cell("SFT", 0), labels=labels, rollouts=rollouts)
    seed, examples = shown_examples([alone], sights)
    assert seed == 0
    assert examples[0].sight.picture is None
    assert examples[1].sight.picture.startswith("data:image/png;base64,")
    for example in examples:
        assert sum(answer.count for answer in example.answers) == example.num_samples
        assert sum(answer.count for answer in example.answers if answer.correct) == example.num_correct
        order = [answer.correct for answer in example.answers]
        assert order == sorted(order, reverse=True)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_filter_works_in_a_browser(html, tmp_path):
    # The page as it opens, then with the filters set as a reader would.
    opened = dom(html, tmp_path)
    assert "48 of 48 examples" in opened
    word = re.findall(r'<option value="(\d+)">house</option>', opened)[-1]
    choice = f"""<script>
      const [tests, training] = document.forms;
      training.querySelector('input[value="hard"]').checked = true;
      training.elements.rate.value = "0/8";
      training.elements.class.value = "{word}";
      training.dispatchEvent(new Event("change"));
      tests.elements.verdict.value = "right1";
      tests.elements.split.value = "2";
      tests.dispatchEvent(new Event("change"));
    </script></body>"""
    filtered = tmp_path / "filtered.html"
    filtered.write_text(html.read_text(encoding="utf-8").replace("</body>", choice), encoding="utf-8")
    text = dom(filtered, tmp_path)
    hard_houses = shown(text, r'data-difficulty="(\w+)" data-rate="([^"]*)" data-class="(\d+)"')
    assert set(hard_houses) == {("hard", "0/8", word)}
    easy_right = shown(text, r'data-split="(\d)" data-class="\d+" data-verdict="([^"]*)"')
    assert easy_right
    assert all(split == "2" and "right1" in verdict.split() for split, verdict in easy_right)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_no_part_of_the_page_is_wider_than_a_phone(html, tmp_path):
    """In a frame, since a window of the browser cannot be as narrow. Tables scroll within themselves."""
    frame = f"""<iframe src="{html.as_uri()}" style="width: 390px; height: 800px; border: 0"></iframe><script>
      const [frame] = document.getElementsByTagName("iframe");
      frame.onload = () => {{ document.title = `wide: ${{frame.contentDocument.documentElement.scrollWidth}}`; }};
    </script>"""
    outer = tmp_path / "outer.html"
    outer.write_text(frame)
    (wide,) = re.findall("<title>wide: (\\d+)</title>", dom(outer, tmp_path, "--allow-file-access-from-files"))
    assert int(wide) <= 390


def shown(text: str, pattern: str) -> list[tuple[str, ...]]:
    """The data of the cards that are not hidden."""
    return re.findall(f"<li {pattern}>", text)


def dom(path, tmp_path, *more) -> str:
    """The document after its scripts ran."""
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    flags += f" --disable-component-update --disable-sync --dump-dom --user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *flags.split(), *more, path.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
