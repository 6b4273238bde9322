"""Reports: figures as JSON and one self-contained HTML page that loads nothing from outside."""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Cell = str | int | float | bool | None

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c2430;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin-bottom:.2rem}
h2{font-size:1.15rem;margin-top:2rem;border-bottom:1px solid #d8dee8}
table{border-collapse:collapse;margin:.8rem 0;font-size:.92em}
th,td{border:1px solid #d8dee8;padding:.3rem .6rem;text-align:left;vertical-align:top}
th{background:#f2f5f9} td{white-space:pre-wrap;overflow-wrap:anywhere}
td.n{text-align:right;font-variant-numeric:tabular-nums}
div.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:0 1rem}
p.note{color:#5a6675} figure{margin:1rem 0} svg{max-width:100%;height:auto}
"""


@dataclass(frozen=True)
class Series:
    """One line of a plot; ``marked`` is the index of a point to emphasise (the chosen checkpoint)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    marked: int | None = None


@dataclass(frozen=True)
class Report:
    """A finished report. ``data`` holds every figure, ``html`` shows them."""

    title: str
    data: Mapping[str, Any]
    html: str


@dataclass
class ReportBuilder:
    """Collects sections and renders them; all text is escaped."""

    title: str
    subtitle: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    _parts: list[str] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Start a section."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text: str) -> None:
        """A paragraph of explanation."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """A table; numbers are right-aligned and shown to four significant digits."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in columns)
        body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
        self._parts.append(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")

    def plot(self, series: Sequence[Series], *, x_label: str, y_label: str, title: str = "") -> None:
        """A line plot as inline SVG."""
        self._parts.append(
            f"<figure>{line_plot(series, x_label=x_label, y_label=y_label, title=title)}</figure>"
        )

    def plots(self, series: Sequence[Series], *, x_label: str) -> None:
        """A small line plot for each series, side by side as far as the page is wide."""
        drawn = (line_plot([s], x_label=x_label, y_label="", title=s.name, inches=(4.2, 2.5)) for s in series)
        figures = "".join(f"<figure>{svg}</figure>" for svg in drawn)
        self._parts.append(f'<div class="plots">{figures}</div>')

    def build(self) -> Report:
        """The page as a whole."""
        subtitle = f'<p class="note">{html.escape(self.subtitle)}</p>' if self.subtitle else ""
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(self.title)}</h1>{subtitle}"
            f"{''.join(self._parts)}</body></html>"
        )
        return Report(self.title, self.data, page)


def appended(report: Report, further: ReportBuilder) -> Report:
    """A report with the sections and figures of a builder after its own."""
    end = report.html.rindex("</body>")
    page = f"{report.html[:end]}{''.join(further._parts)}{report.html[end:]}"
    return Report(report.title, {**report.data, **further.data}, page)


def _cell(value: Cell) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return f"<td>{html.escape('' if value is None else str(value))}</td>"
    shown = f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    return f'<td class="n">{shown}</td>'


def line_plot(
    series: Sequence[Series],
    *,
    x_label: str,
    y_label: str,
    title: str = "",
    inches: tuple[float, float] = (7.2, 3.6),
) -> str:
    """Lines over a common x axis, as an ``<svg>`` element of ``inches`` (width, height) with text kept as
    text."""
    import matplotlib  # 0.4 s, and only reports need it

    matplotlib.use("svg")
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "rlhf", "font.size": 10}):
        figure = Figure(figsize=inches, layout="constrained")
        axes = figure.subplots()
        for line in series:
            (drawn,) = axes.plot(line.x, line.y, marker="o", markersize=3, label=line.name)
            if line.marked is not None:
                axes.plot(
                    line.x[line.marked], line.y[line.marked], "*", markersize=15, color=drawn.get_color()
                )
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.set_title(title)
        axes.grid(alpha=0.25)
        if len(series) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
