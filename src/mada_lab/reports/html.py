"""The pieces of a report's HTML: escaped text, tables, figures, and the page around them. Nothing here knows a run."""

from collections.abc import Iterable, Sequence
from html import escape
from math import isfinite
from string import Template

from mada_lab.plots.style import printable

NONE = '<span class="none">&ndash;</span>'

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1f2328; --soft: #59636e; --line: #d9dce0; --box: #ffffff;
  --mark: #fff0c2; --mark-ink: #3d2e00; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e4e7ea; --soft: #9aa4ae; --line: #343a41;
  --box: #1b1f23; --mark: #4a3a10; --mark-ink: #ffe9ad; --link: #79b8ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.5; font-size: 16px;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 40px 32px 64px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 12px; padding-top: 14px; border-top: 1px solid var(--line); }
.lead { color: var(--soft); margin: 0; max-width: 75ch; overflow-wrap: anywhere; }
.caption, figcaption { color: var(--soft); font-size: 14px; max-width: 85ch; margin: 10px 0 0; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; background: var(--box); }
.scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 14px; text-align: right; white-space: nowrap; vertical-align: baseline; }
thead th { color: var(--soft); font-weight: 500; font-size: 13px; vertical-align: bottom; }
tbody tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; }
th:first-child { text-align: left; position: sticky; left: 0; background: var(--box); }
table.keys td, table.keys th { text-align: left; }
table.keys td { min-width: 150px; max-width: 420px; white-space: normal; overflow-wrap: anywhere; }
code, table.keys td { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 13px; }
mark { background: var(--mark); color: var(--mark-ink); padding: 1px 5px; border-radius: 4px; }
.run { display: inline-flex; align-items: baseline; gap: 8px; max-width: 100%; }
.run > span { white-space: normal; overflow-wrap: break-word; max-width: 30ch; }
.sample { width: 22px; height: 8px; flex: none; background: #fff; border-radius: 2px; align-self: center; }
.badge { color: var(--soft); font-size: 12px; font-weight: 400; display: block; margin-left: 30px;
  max-width: 20ch; white-space: normal; }
.none { color: var(--soft); }
.bad { color: #b42318; font-weight: 600; }
@media (prefers-color-scheme: dark) { .bad { color: #ff8f85; } }
.runs { list-style: none; padding: 0; margin: 12px 0 0; }
.runs li { margin: 0 0 6px; max-width: 110ch; }
.runs .run { margin-right: 10px; font-weight: 600; }
.legend { list-style: none; display: flex; flex-wrap: wrap; gap: 6px 24px; padding: 0; margin: 0 0 12px;
  font-size: 14px; }
figure { margin: 0; }
figure + .scroll { margin-top: 20px; }
.grid { display: grid; gap: 14px; }
.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 440px), 1fr)); }
.small { grid-template-columns: repeat(auto-fill, minmax(min(100%, 320px), 1fr)); }
.card { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px; min-width: 0; }
.card svg { display: block; width: 100%; height: auto; }
details { margin: 14px 0 0; }
summary { cursor: pointer; color: var(--link); font-size: 14px; margin-bottom: 10px; }
@media (max-width: 600px) { main { padding: 24px 14px 48px; } h1 { font-size: 23px; } .card { padding: 8px; }
  th, td { padding: 7px 10px; } .run > span, .badge { max-width: 15ch; } }
@media print { .card, tr { break-inside: avoid; } }
"""

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
""")


def page(title: str, body: Iterable[str]) -> str:
    """A whole page that loads nothing and runs nothing; `title` is plain text, `body` is HTML."""
    return _PAGE.substitute(title=text(title), style=_STYLE, body="\n".join(body))


def text(value: object) -> str:
    """Any value as HTML text, also safe inside a quoted attribute."""
    return escape(printable(value), quote=True)


def number(value: float | None, spec: str) -> str:
    """A number in `spec`; a dash where there is none, and words where it is not finite."""
    if value is None:
        return NONE
    return format(value, spec) if isfinite(value) else '<span class="bad">not finite</span>'


def line_sample(colour: str, dashes: str) -> str:
    """A short piece of a line, as figures draw it."""
    pattern = {"solid": "none", "dashed": "6 2", "dotted": "2 2", "dashdot": "7 2 2 2"}[dashes]
    line = f'<line x1="0" x2="22" y1="4" y2="4" stroke="{colour}" stroke-width="3" stroke-dasharray="{pattern}"/>'
    return f'<svg class="sample" viewBox="0 0 22 8" aria-hidden="true">{line}</svg>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "", kind: str = "numbers") -> str:
    """A table in a box that scrolls sideways; the first cell of a row is its header. All of it is HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "\n".join(_row(row) for row in rows)
    note = f'<p class="caption">{caption}</p>' if caption else ""
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}">\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>\n{note}"
    )


def _row(row: Sequence[str]) -> str:
    return f'<tr><th scope="row">{row[0]}</th>{"".join(f"<td>{cell}</td>" for cell in row[1:])}</tr>'


def comparison(runs: Sequence[str], values: dict[str, list[str | None]], caption: str = "") -> str:
    """A table of keys by runs, where a value other than the first run's is marked.

    Args:
        runs: Heads of the columns, HTML.
        values: Per key, one plain text per run, or None where a run lacks it.
        caption: HTML below the table.
    """
    rows = [[f"<code>{text(key)}</code>", *(_compared(x, row[0]) for x in row)] for key, row in values.items()]
    return table(["key", *runs], rows, caption, "keys")


def _compared(value: str | None, first: str | None) -> str:
    shown = NONE if value is None else text(value)
    return shown if value == first else f"<mark>{shown}</mark>"


def figure(pictures: Iterable[str], caption: str, size: str) -> str:
    """SVG pictures on white cards, with one caption; `size` is "wide" or "small"."""
    cards = "\n".join(f'<div class="card">{picture}</div>' for picture in pictures)
    return f'<figure>\n<div class="grid {size}">\n{cards}\n</div>\n<figcaption>{caption}</figcaption>\n</figure>'


def section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{title}</h2>\n" + "\n".join(parts) + "\n</section>"


def folded(summary: str, content: str) -> str:
    """Content that a reader opens."""
    return f"<details>\n<summary>{summary}</summary>\n{content}\n</details>"
