"""A report's HTML back to tables, as a reader sees them."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Seen:
    """The pieces of one cell by class: value, kind, detail, remark."""

    pieces: dict[str, str] = field(default_factory=dict)

    def __getattr__(self, name: str) -> str:
        """Return a piece, empty if the cell has none."""
        return self.pieces.get(name, "").strip()


@dataclass
class Page:
    """Captions, rows of cells by column, scripts and every attribute of a page."""

    tables: dict[str, list[dict[str, Seen]]] = field(default_factory=dict)
    scripts: list[str] = field(default_factory=list)
    specs: list[str] = field(default_factory=list)
    attributes: list[tuple[str, str, str]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


def page_from_html(html: str) -> Page:
    """Parse a report."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    return reader.page


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.page = Page()
        self._stack: list[str] = []
        self._caption = ""
        self._cell: Seen | None = None
        self._piece = ""
        self._sink: list[str] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.page.attributes += [(tag, name, value) for name, value in found.items()]
        if tag not in ("meta", "link", "br", "input"):
            self._stack.append(tag)
        if "template" in self._stack:
            return
        if tag == "caption":
            self._caption = ""
        elif tag == "tr" and "tbody" in self._stack:
            self.page.tables[self._caption].append({})
        elif tag == "td" and "data-label" in found:
            self._cell = Seen()
            self.page.tables[self._caption][-1][found["data-label"]] = self._cell
        elif tag == "span" and self._cell is not None:
            self._piece = found["class"].split()[0]
        elif tag == "script":
            self._sink = self.page.specs if "type" in found else self.page.scripts
            self._sink.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._stack.pop() == tag, f"</{tag}> closes nothing"
        if "template" in self._stack:
            return
        if tag == "caption":
            self.page.tables[self._caption] = []
        elif tag == "td":
            self._cell = None
        elif tag == "script":
            self._sink = None

    def handle_data(self, data: str) -> None:
        if "template" in self._stack:  # inert until the script takes it
            return
        if self._sink is not None:
            self._sink[-1] += data
            return
        self.page.texts.append(data)
        if "caption" in self._stack and "span" not in self._stack:
            self._caption += data
        elif self._cell is not None and "span" in self._stack:
            self._cell.pieces[self._piece] = self._cell.pieces.get(self._piece, "") + data
