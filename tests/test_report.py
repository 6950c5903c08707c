"""The page about one question and its figures, as a user makes them; the page in a real browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import SEEN
from PIL import Image

from molquery.cli.histogram import histogram, strata_picture
from molquery.figures.style import FORMATS
from molquery.query.units import Called
from molquery.report.drawings import KINDS

IFNG, E2F, HYPOXIA = SEEN
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))),
    None,
)
SURVIVAL = ("--time", "os_days", "--event", "OS_STATUS")


@pytest.fixture(scope="module")
def pages(cli, clinical, tmp_path_factory):
    """A page with everything on it, and one of a rule with the cohorts apart."""
    folder = tmp_path_factory.mktemp("pages")
    questions = {
        "one": ("--geneset", IFNG, *SURVIVAL, "--outcome", "grade", "--covariates", "activity"),
        "rule": ("--rule", f"hot and dividing: {IFNG} high and {E2F} high", "--rule",
                 f"hot and resting, with a long name: {IFNG} high and {E2F} low",
                 *SURVIVAL, "--each-cohort"),
    }  # fmt: skip
    for name, words in questions.items():
        done = cli("--db", clinical, "report", *words, "-o", folder / f"{name}.html")
        assert done.code == 0, done.err
    return folder


class Reader(HTMLParser):
    """Tags, every address that a browser would follow, and the text of headings."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.headings = set(), [], []
        self._heading = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._heading = tag == "h2"
        self.addresses += [v for k, v in attrs if k in ("href", "src", "xlink:href", "srcset")]
        for value in (v for k, v in attrs if k == "style"):
            self.addresses += re.findall(r"url\(([^)]*)\)", value)

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
            self._heading = False


@pytest.mark.parametrize("name", ["one", "rule"])
def test_a_page_loads_nothing_and_runs_nothing(pages, name):
    text = (pages / f"{name}.html").read_text("utf-8")
    page = Reader(text)
    assert {"svg", "table", "figure"} <= page.tags
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "base", "form"}
    assert page.addresses, "figures refer to their own parts"
    assert all(a.startswith(("#", "data:image/png;base64,")) for a in page.addresses)
    assert "@import" not in text
    assert set(re.findall(r"url\((.)", text)) <= {"#"}
    assert "default-src 'none'" in text
    assert page.headings == [
        "The strata", "Outcomes", "How far to trust the scores", "What else differs",
        "The highest scores", "Before you use this", "Where this comes from",
    ]  # fmt: skip
    assert len(text) < 3_000_000


def test_a_page_holds_its_tests_caveats_and_command(cli, clinical, pages, tmp_path):
    text = (pages / "one.html").read_text("utf-8")
    done = cli(
        "--db", clinical, "stratify", "--geneset", IFNG, "--within", "cohort", *SURVIVAL,
        "--outcome", "grade", "--covariates", "activity", "-o", tmp_path / "s.json",
    )  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads((tmp_path / "s.json").read_text("utf-8"))
    rows = re.findall(r"<tr><td>(?:OS_STATUS|grade)</td>.*?</tr>", text)
    tests = told["associations"]["tests"]
    assert len(rows) == len(tests) > 5
    for row, test in zip(rows, tests, strict=True):
        cells = re.findall(r"<td[^>]*>(.*?)</td>", row)
        assert cells[1] == test["test"]
        assert float(cells[3]) == pytest.approx(test["p"], rel=0.06, abs=6e-4)
    space = told["provenance"]["space_id"]
    for part in ("exploratory", "For research use only", space, "molquery --db",
                 "--covariates activity", "over all cohorts together"):  # fmt: skip
        assert part.lower() in text.lower(), part


def test_a_page_is_not_replaced_unasked(cli, clinical, pages, unchanged):
    unchanged(pages)
    unchanged(clinical)
    again = cli("--db", clinical, "report", "--geneset", IFNG, "-o", pages / "one.html")
    assert again.code == 1
    assert "exists already" in again.err
    several = cli("--db", clinical, "report", "--geneset", IFNG, "--geneset", E2F, "-o",
                  pages / "two.html")  # fmt: skip
    assert several.code == 1
    assert "one question" in several.err


@pytest.mark.parametrize("kind", KINDS)
def test_the_figure_command_draws_every_kind_in_every_format(cli, clinical, tmp_path, kind):
    for suffix in FORMATS:
        out = tmp_path / f"{kind}.{suffix}"
        done = cli("--db", clinical, "figure", kind, "--geneset", IFNG, *SURVIVAL, "-o", out)
        assert done.code == 0, done.err
        if suffix == "png":
            with Image.open(out) as picture:
                assert picture.width >= 900
                assert np.asarray(picture.convert("L")).std() > 5
        elif suffix == "svg":
            assert ElementTree.parse(out).getroot().tag.endswith("svg")
        else:
            assert out.read_bytes().startswith(b"%PDF-")
    unknown = cli("--db", clinical, "figure", kind, "--geneset", IFNG, "-o", tmp_path / "x.gif")
    assert unknown.code == 1
    assert ".png, .svg or .pdf" in unknown.err


def test_the_histogram_counts_every_row_once():
    rng = np.random.default_rng(3)
    scores = rng.normal(size=500)
    labels = np.where(scores > 0.4, "high", "low")
    edges, counts = histogram(scores, labels, ("high", "low"))
    for i, (low, high) in enumerate(pairwise(edges)):
        inside = (scores >= low) & ((scores < high) | (i == len(counts) - 1))
        for j, label in enumerate(("high", "low")):
            assert counts[i, j] == (inside & (labels == label)).sum()
    reason = np.where(np.arange(500) % 5 == 0, "near a cut point", "")
    one = Called("S", ("low", "high"), True, labels, np.full(500, 0.7), reason, scores)
    text = re.sub(r"\x1b\[[0-9;]*m", "", strata_picture(one, scores))
    assert re.search(rf"high +{(labels == 'high').sum()} +{one.certain['high']} ", text)
    totals = [int(n) for n in re.findall(r"(?:to +-?[\d.]+).*? (\d+)$", text, re.MULTILINE)]
    assert sum(totals) == 500


# A real browser -----------------------------------------------------------------------------------

#: What a browser lays out: the width that is needed, and labels that stick out of their figures.
_MEASURE = """
<script>
window.addEventListener("load", () => {
  const clipped = [];
  for (const svg of document.querySelectorAll("svg")) {
    const box = svg.getBoundingClientRect();
    for (const text of svg.querySelectorAll("text")) {
      const t = text.getBoundingClientRect();
      if (t.left < box.left - 3 || t.right > box.right + 3 || t.top < box.top - 3
          || t.bottom > box.bottom + 3) clipped.push(text.textContent);
    }
  }
  const found = {needed: document.documentElement.scrollWidth, wide: window.innerWidth,
    figures: document.querySelectorAll("svg").length, clipped: clipped,
    heights: [...document.querySelectorAll("svg")].map(s => s.getBoundingClientRect().height)};
  document.body.setAttribute("data-found", JSON.stringify(found));
});
</script></body>
"""


def browse(profile, *words):
    """Run the browser without a network, and return what it prints."""
    done = subprocess.run(
        [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}", *map(str, words)],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.skipif(BROWSER is None, reason="no browser: install chromium to open pages in it")
@pytest.mark.parametrize("name", ["one", "rule"])
def test_a_browser_shows_and_prints_the_page(pages, tmp_path, name):
    page = pages / f"{name}.html"
    # The page itself forbids scripts: what measures it is put into a copy.
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text("utf-8"))
    copy = tmp_path / "measured.html"
    planted = re.sub(r"(<svg[^>]*>)", r'\1<text x="-300" y="20">planted</text>', text, count=1)
    copy.write_text(planted.replace("</body>", _MEASURE), encoding="utf-8")
    shown = browse(tmp_path / "a", "--window-size=1100,1400", "--dump-dom", copy.as_uri())
    told = re.search(r'data-found="([^"]*)"', shown)
    assert told, "the page was not laid out"
    found = json.loads(told[1].replace("&quot;", '"').replace("&amp;", "&"))
    assert found["figures"] == text.count("<figure") >= 5
    assert found["needed"] <= found["wide"]
    assert min(found["heights"]) > 150
    assert found["clipped"] == ["planted"]  # which shows that a clipped label is noticed
    browse(tmp_path / "b", "--window-size=1100,1400", f"--screenshot={tmp_path / 'page.png'}",
           page.as_uri())  # fmt: skip
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    assert pixels.std() > 10
    assert (pixels < 100).any(axis=1).mean() > 0.2  # lines of text and figures all the way down
    browse(tmp_path / "c", "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}",
           page.as_uri())  # fmt: skip
    printed = (tmp_path / "page.pdf").read_bytes()
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 20
