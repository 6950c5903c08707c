"""Pages: one file, nothing fetched, nothing run, everything escaped."""

from html.parser import HTMLParser

import pytest

from molquery.errors import OutputError
from molquery.pages import Page

HOSTILE = "<script>alert(1)</script>\"' & \x1b[31m\u202e"


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.words = [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)


def test_whatever_is_given_is_text_and_nothing_else():
    page = Page(HOSTILE, HOSTILE)
    page.section(HOSTILE)
    page.text(HOSTILE, HOSTILE)
    page.answer(HOSTILE)
    page.points([HOSTILE])
    page.code(HOSTILE)
    page.table([HOSTILE, "n"], [[HOSTILE, 1.5]], caption=HOSTILE)
    page.facts({HOSTILE: HOSTILE})
    page.figure("<svg></svg>", HOSTILE)
    html = page.html()
    reader = Reader()
    reader.feed(html)
    assert "script" not in {tag for tag, _ in reader.tags}
    assert "".join(reader.words).count("<script>alert(1)</script>") >= 11
    assert "\x1b" not in html
    assert "\u202e" not in html
    links = [v for _, given in reader.tags for k, v in given.items() if k in ("src", "href")]
    assert links == []
    policy = next(given["content"] for _, given in reader.tags if given.get("http-equiv"))
    assert policy.startswith("default-src 'none'")


def test_tables_align_numbers_and_show_what_is_missing():
    page = Page("t")
    page.table(["name", "r"], [["a", 0.12345], ["b", None], ["c", float("nan")]])
    html = page.html()
    assert '<td>a</td><td class="n">0.123</td>' in html
    assert html.count('<td class="n">-</td>') == 2
    page.table(["set", "cohort"], [["a", "TCGA-BRCA"], ["b", "all cohorts"]])
    assert '<td class="word">TCGA-BRCA</td>' in page.html(), "no line breaks at the hyphen"
    assert "<td>all cohorts</td>" in page.html()
    with pytest.raises(ValueError, match="one cell per column"):
        page.table(["name", "r"], [["a"]])


def test_a_page_does_not_replace_a_file_unasked(tmp_path):
    path = tmp_path / "page.html"
    Page("one").write(path)
    with pytest.raises(OutputError, match="exists already"):
        Page("two").write(path)
    assert "<h1>one</h1>" in path.read_text("utf-8")
    Page("two").write(path, overwrite=True)
    assert "<h1>two</h1>" in path.read_text("utf-8")
