"""Self-contained HTML pages: headings, text, tables and figures in one file that needs no network.

Everything that is given as text is escaped; nothing is ever pasted into a page as it is but the SVG
of our own figures. Pages have no script, print on A4, and read without colour.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from molquery.errors import printable
from molquery.files import atomic_path

_STYLE = """
:root { --ink: #1b1b1b; --soft: #595959; --line: #d5d5d5; --tint: #f4f6f8; --mark: #0072b2; }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  color: var(--ink); background: #fff; max-width: 60rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.25rem 0 .5rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .25rem; }
p { margin: .5rem 0; max-width: 46rem; }
.lead { font-size: 1.1rem; }
.soft { color: var(--soft); }
.small { font-size: .82rem; max-width: none; }
.answer { background: var(--tint); border-left: 4px solid var(--mark); padding: .75rem 1rem;
  margin: 1rem 0; }
.warn { border-left: 4px solid #d55e00; padding: .25rem 1rem; margin: 1rem 0; }
.warn::before { content: "Caution. "; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .75rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .25rem; }
th, td { text-align: left; padding: .2rem .9rem .2rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-size: .92rem; }
th { font-weight: 600; }
td:first-child, td.n, td.word { white-space: nowrap; }
td.n, th.n { text-align: right; }
.wide th, .wide td { padding-right: .45rem; font-size: .8rem; }
figure { margin: 1rem 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 46rem; }
code, pre { font: .88rem/1.45 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace; }
pre { background: var(--tint); padding: .6rem .8rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
ul { padding-left: 1.25rem; max-width: 46rem; }
@page { size: A4; margin: 16mm; }
@media print {
  body { font-size: 10.5pt; margin: 0; max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  th, td { font-size: 8.5pt; padding-right: .5rem; }
  figure, table:not(.long), .answer, .warn, tr, pre { break-inside: avoid; }
  h2, h3, caption, thead { break-after: avoid; }
  figure svg { max-height: 108mm; }
  figure { margin: .6rem 0; }
  h2 { margin-top: 1.25rem; }
  p:has(+ pre) { break-after: avoid; }
}
"""

#: Characters of a row from which a table is set smaller, so that it fits the page.
_WIDE = 100
#: Characters up to which a name in a table stands on one line.
_WORD = 24
#: Tables with more rows may go on on the next page of a print.
_ROWS = 12
#: 0.59 (0.55–0.62)
_AS_TEXT = re.compile(r"[-+−]?\d[\d.,%()–/ +−-]*")


class Page:
    """A page that is written from top to bottom.

    Example:
        >>> page = Page("Immune score", "Predicted from H&E")
        >>> page.section("Answer")
        >>> page.text("No difference was found.")
        >>> "<h2>Answer</h2>" in page.html()
        True
    """

    def __init__(self, title: str, subtitle: str = "") -> None:
        self._title = title
        self._parts = [f"<h1>{_text(title)}</h1>"]
        if subtitle:
            self.text(subtitle, "lead soft")

    def section(self, heading: str, *, minor: bool = False) -> None:
        """Begin a section, or a part of one."""
        level = "h3" if minor else "h2"
        self._parts.append(f"<{level}>{_text(heading)}</{level}>")

    def text(self, text: str, kind: str = "") -> None:
        """A paragraph; `kind` is a class of the style: lead, soft, answer, warn."""
        attribute = f' class="{_text(kind)}"' if kind else ""
        self._parts.append(f"<p{attribute}>{_text(text)}</p>")

    def answer(self, text: str) -> None:
        """The sentence that a reader came for."""
        self.text(text, "answer")

    def caution(self, text: str) -> None:
        """What a reader must know before using the answer."""
        self.text(text, "warn")

    def points(self, items: Iterable[str]) -> None:
        """A list of short statements."""
        self._parts.append("<ul>" + "".join(f"<li>{_text(i)}</li>" for i in items) + "</ul>")

    def code(self, text: str) -> None:
        """A command or other text to copy; its line breaks are kept."""
        lines = "\n".join(_text(line) for line in text.split("\n"))
        self._parts.append(f"<pre>{lines}</pre>")

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, caption: str = ""
    ) -> None:
        """A table; numbers, as text too, stand right; missing values are a dash.

        Raises:
            ValueError: a row is not as long as `columns`.
        """
        rows = [list(row) for row in rows]
        if any(len(row) != len(columns) for row in rows):
            raise ValueError("every row needs one cell per column")
        numeric = [
            any(_is_number(row[c]) for row in rows)
            and all(_is_number(row[c]) or row[c] in (None, "") for row in rows)
            for c in range(len(columns))
        ]
        shown = [list(columns), *([cell(v) for v in row] for row in rows)]
        longest = sum(max(len(row[c]) for row in shown) + 2 for c in range(len(columns)))
        kinds = ["wide"] * (longest > _WIDE) + ["long"] * (len(rows) > _ROWS)
        kind = f' class="{" ".join(kinds)}"' if kinds else ""
        out = [f'<div class="scroll"><table{kind}>']
        if caption:
            out.append(f"<caption>{_text(caption)}</caption>")
        mark = [' class="n"' if n else "" for n in numeric]
        head = "".join(f"<th{m}>{_text(c)}</th>" for c, m in zip(columns, mark, strict=True))
        out.append(f"<thead><tr>{head}</tr></thead><tbody>")
        for row in shown[1:]:
            marks = (m or ' class="word"' * _is_word(v) for v, m in zip(row, mark, strict=True))
            cells = (f"<td{m}>{_text(v)}</td>" for v, m in zip(row, marks, strict=True))
            out.append(f"<tr>{''.join(cells)}</tr>")
        out.append("</tbody></table></div>")
        self._parts.append("".join(out))

    def facts(self, facts: Mapping[str, Any]) -> None:
        """Names and values, one a row."""
        self.table(["", ""], facts.items())

    def figure(self, svg: str, caption: str, alt: str = "") -> None:
        """A figure of `molquery.figures`, as the text of its `<svg>` element.

        `alt` says in words what it shows, for those who cannot see it; the caption does otherwise.
        """
        label = _text(alt or caption)
        self._parts.append(
            f'<figure role="img" aria-label="{label}">{svg}'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole page."""
        body = "\n".join(self._parts)
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            # Nothing may be fetched and nothing may run, whatever a file name or an id contains.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
            f"<title>{_text(self._title)}</title>\n<style>{_STYLE}</style></head>\n"
            f"<body>\n{body}\n</body></html>\n"
        )

    def write(self, path: Path, *, overwrite: bool = False) -> None:
        """Write the page, whole or not at all.

        Raises:
            OutputError: the file exists and `overwrite` is false, or it cannot be written.
        """
        with atomic_path(path, overwrite=overwrite) as temporary:
            temporary.write_text(self.html(), encoding="utf-8", newline="\n")


def cell(value: Any) -> str:
    """A value as a table shows it: three digits after the point, small numbers as 1.2e-05."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        if value != 0 and abs(value) < 0.001:
            return f"{value:.1e}"
        return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}"
    return str(value)


def _is_number(value: Any) -> bool:
    """True for numbers, and for numbers as text, such as an estimate with its interval."""
    if isinstance(value, str):
        return _AS_TEXT.fullmatch(value) is not None
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_word(text: str) -> bool:
    """True for names such as TCGA-BRCA, which must not be broken at a hyphen."""
    return "-" in text[1:-1] and " " not in text and len(text) <= _WORD


def _text(text: str) -> str:
    # A line may not break between a number and its per cent sign.
    return escape(printable(text, limit=None), quote=True).replace(" %", "\u00a0%")
