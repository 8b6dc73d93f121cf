"""The chart of the page: how many times better than the seed, as plain SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

_WIDTH, _LABELS, _RIGHT = 760, 300, 90
_ROW, _TOP, _BAR = 26, 34, 14
# A viewer shows the chart on a light or a dark page.
_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.small { font-size: 11px; fill: #59636e }
.bar { fill: #0969da }
.worse { fill: #bc4c00 }
.grid { stroke: #d1d9e0 }
.one { stroke: #59636e }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .small { fill: #9198a1 }
  .bar { fill: #4493f8 }
  .worse { fill: #db6d28 }
  .grid { stroke: #3d444d }
  .one { stroke: #9198a1 }
}
"""


def draw(bars: Sequence[tuple[str, float]]) -> str:
    """Draw one bar for each title and factor, on a logarithmic scale that begins at half."""
    highest = max([2.0, *(factor for _, factor in bars)])
    lowest = min([0.5, *(factor for _, factor in bars)])
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100) if tick <= highest]
    ticks = [tick for tick in ticks if tick >= lowest]
    height = _TOP + _ROW * len(bars) + 8
    span = math.log(highest / lowest)

    def across(factor: float) -> float:
        return _LABELS + (_WIDTH - _LABELS - _RIGHT) * math.log(factor / lowest) / span

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        "<title>devmail, times better than the seed's configuration</title>",
        f"<style>{_STYLE}</style>",
    ]
    for tick in ticks:
        x = across(tick)
        name = "one" if tick == 1 else "grid"
        lines += [
            f'<line class="{name}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP - 8}" y2="{height}"/>',
            f'<text class="small" x="{x:.1f}" y="{_TOP - 14}" text-anchor="middle">{tick:g}</text>',
        ]
    start = across(1)
    for number, (title, factor) in enumerate(bars):
        y = _TOP + _ROW * number
        end = across(factor)
        name = "bar" if factor >= 1 else "worse"
        lines += [
            f'<text x="{_LABELS - 10}" y="{y + 12}" text-anchor="end">{escape(title)}</text>',
            f'<rect class="{name}" x="{min(start, end):.1f}" y="{y}" '
            f'width="{abs(end - start):.1f}" height="{_BAR}" rx="2"/>',
            f'<text x="{max(start, end) + 6:.1f}" y="{y + 12}">{factor:.3g}</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])
