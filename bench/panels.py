# SPDX-License-Identifier: Apache-2.0
"""Plots of several panels, as SVG by gnuplot: curves, or bars."""
import math
import subprocess
import sys
from dataclasses import dataclass, field, replace

COLOURS = ('#0060ad', '#dd181f', '#2ca02c', '#9467bd', '#ff7f0e', '#17becf', '#8c564b', '#7f7f7f')
ALWAYS = ('pbfs-dev', 'xfs', 'pbfs-uring', 'pbfs')  # With the same colours in all plots.
PANEL_WIDTH, PANEL_HEIGHT = 420, 290


@dataclass
class Panel:
    """Curves or bars, one of each filesystem: `series` has lists of (x, y), the x of bars being
    texts. `bar` is a line that the values are to stay above, or below. On a logarithmic x axis each
    x has its own label."""
    title: str
    x_title: str
    y_title: str
    series: dict = field(default_factory=dict)
    log_x: bool = False
    bars: bool = False
    bar: float | None = None


def colour(name, names):
    others = [other for other in names if other not in ALWAYS]
    number = ALWAYS.index(name) if name in ALWAYS else len(ALWAYS) + others.index(name)
    return COLOURS[number % len(COLOURS)]


def quoted(text):
    return '"' + str(text).replace('\\', '').replace('"', '') + '"'


def scale_of(values, title):
    """By what numbers are divided to be easy to read, and the title that goes with it."""
    most = max((value for value in values if value is not None), default=0)
    for scale, word in ((1_000_000, 'million'), (1000, 'thousand')):
        if most >= 10 * scale:
            return scale, f'{word} {title}'
    return 1, title


def number(value):
    return '?' if value is None or not math.isfinite(value) else f'{value:.6g}'


def scaled(panel):
    """The same with numbers that are easy to read."""
    points = [point for series in panel.series.values() for point in series]
    y_scale, y_title = scale_of([y for _, y in points], panel.y_title)
    x_scale, x_title = 1, panel.x_title
    if not panel.bars and not panel.log_x:
        x_scale, x_title = scale_of([x for x, _ in points], panel.x_title)
    series = {name: [(x if x_scale == 1 else x / x_scale, None if y is None else y / y_scale)
                     for x, y in one] for name, one in panel.series.items()}
    bar = panel.bar / y_scale if panel.bar is not None else None
    return replace(panel, series=series, x_title=x_title, y_title=y_title, bar=bar)


def blocks(panel, prefix):
    """The data as gnuplot's here documents; the names of their variables."""
    lines, names = [], {}
    if panel.bars:
        categories = list(dict.fromkeys(x for points in panel.series.values() for x, _ in points))
        lines.append(f'${prefix} << END')
        for category in categories:
            values = [number(dict(points).get(category)) for points in panel.series.values()]
            lines.append(' '.join([quoted(category)] + values))
        lines.append('END')
    else:
        for index, (name, points) in enumerate(panel.series.items()):
            names[name] = f'${prefix}_{index}'
            lines.append(f'{names[name]} << END')
            lines += [f'{number(x)} {number(y)}' for x, y in points]
            lines.append('END')
    return lines, names


def panel_script(panel, prefix, all_names):
    panel = scaled(panel)
    lines, names = blocks(panel, prefix)
    lines += ['reset', 'set datafile missing "?"', 'set grid ytics',
              'set key tmargin center horizontal samplen 1.5 width -1',
              'set style fill solid 0.85 border -1', 'set tics nomirror',
              f'set title {quoted(panel.title)}', f'set xlabel {quoted(panel.x_title)}',
              f'set ylabel {quoted(panel.y_title)}', 'set offsets graph 0, 0, graph 0.05, 0',
              'set yrange [0:*]']
    if panel.bars:
        lines += ['set style data histograms', 'set style histogram clustered gap 1',
                  'set xtics scale 0']
        if sum(len(str(x)) for x, _ in next(iter(panel.series.values()))) > 50:
            lines += ['set xtics rotate by -25', 'set rmargin 9']
        plots = [f'${prefix} using {index + 2}:xtic(1) linecolor rgb "{colour(name, all_names)}" '
                 f'title {quoted(name)}'
                 for index, name in enumerate(panel.series)]
    else:
        xs = sorted({x for points in panel.series.values() for x, _ in points})
        if panel.log_x:
            lines += ['set logscale x', f'set xrange [{xs[0] / 1.2}:{xs[-1] * 1.2}]',
                      'set xtics (' + ', '.join(f'"{brief(x)}" {x}' for x in xs) + ')']
        style = 'linespoints pointtype 7 pointsize 0.5' if len(xs) <= 20 else 'lines'
        plots = [f'{names[name]} using 1:2 with {style} linewidth 1.5 '
                 f'linecolor rgb "{colour(name, all_names)}" title {quoted(name)}'
                 for name in panel.series]
    if panel.bar is not None:
        plots.append(f'{panel.bar} with lines dashtype 2 linecolor "black" title "bar"')
    return lines + ['plot ' + ', '.join(plots)]


def brief(value):
    for scale, letter in ((1_000_000, 'M'), (1000, 'k')):
        if value >= scale and value % scale == 0:
            return f'{value // scale}{letter}'
    return str(value)


def plot(panels, path, columns=2, terminal='svg'):
    """Returns whether it is there; says why not."""
    panels = [panel for panel in panels if any(panel.series.values())]
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    script = [f'set terminal {terminal} size {PANEL_WIDTH * columns},{PANEL_HEIGHT * rows} '
              'font "sans,10" background "white" noenhanced',
              f'set output {quoted(path)}', f'set multiplot layout {rows},{columns}']
    for index, panel in enumerate(panels):
        script += panel_script(panel, f'p{index}', names)
    script.append('unset multiplot')
    try:
        subprocess.run(['gnuplot'], input='\n'.join(script) + '\n', text=True, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        print(f'no plot {path}: {error}', file=sys.stderr)
        return False
    return True
