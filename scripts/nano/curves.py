"""curves.py: loss curves of a run (metrics.jsonl) as inline SVG."""
import math
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 420, 220, 44, 30, 12, 14


def ticks(low: float, high: float, about: int = 5) -> list:
    """Round numbers from low to high."""
    if high <= low:
        return [low]
    raw = (high - low) / about
    power = 10 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, int(high / step + 1e-9) + 1)]


def series(rows: list, key: str) -> list:
    """(step, value) of every row that has a finite value; a step logged twice (a resumed run) counts once, the last time."""
    found = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value) and "step" in row:
            found[row["step"]] = float(value)
    return sorted(found.items())


def smooth(points: list, weight: float = 0.8) -> list:
    out, mean, norm = [], 0.0, 0.0
    for step, value in points:
        mean, norm = weight * mean + (1 - weight) * value, weight * norm + (1 - weight)
        out.append((step, mean / norm))
    return out


def chart(title: str, lines: list) -> str:
    """lines: (name, colour, points, as_dots). Empty lines are left out; nothing at all gives a note instead of a chart."""
    lines = [line for line in lines if line[2]]
    if not lines:
        return f'<figure class="chart"><figcaption>{escape(title)}</figcaption><p class="note">no metrics were logged</p></figure>'
    steps = [s for _, _, points, _ in lines for s, _ in points]
    values = [v for _, _, points, _ in lines for _, v in points]
    x_low, x_high, y_high = min(steps + [0]), max(steps + [1]), max(values) * 1.03 or 1.0
    y_low = min(0.0, min(values))

    def x(step):
        return LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)

    def y(value):
        return HEIGHT - BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - BOTTOM - TOP)

    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for value in ticks(y_low, y_high):
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
                   f'<text class="tick" x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        out.append(f'<text class="tick" x="{x(value):.1f}" y="{HEIGHT - 10}" text-anchor="middle">{value:g}</text>')
    legend = []
    for name, colour, points, as_dots in lines:
        if as_dots:
            out += [f'<circle cx="{x(s):.1f}" cy="{y(v):.1f}" r="3.5" fill="{colour}"><title>{escape(name)}, step {s}: {v:.3f}</title></circle>' for s, v in points]
        else:
            path = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in points)
            out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8" stroke-linejoin="round"/>')
        legend.append(f'<span><i style="background:{colour}"></i>{escape(name)} {points[-1][1]:.2f}</span>')
    out.append("</svg>")
    return f'<figure class="chart"><figcaption>{escape(title)}</figcaption>{"".join(out)}<div class="legend">{"".join(legend)}</div></figure>'
