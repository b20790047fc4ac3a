# SPDX-License-Identifier: Apache-2.0
"""Where something was measured, and tables and plots of what bench/compare has measured.

`results`: {workload title: {filesystem: [sample]}}, a sample being a dictionary with 'rate',
'operations', 'user_bytes' and what counters.Costs and counters.Events add.
"""
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time

from filesystems import BIN

REFERENCE = 'xfs'


def version_of(*command):
    try:
        result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip().splitlines()[0] if result.stdout.strip() else None


def surroundings():
    """Facts that a reader of the figures wants to know."""
    with open('/proc/cpuinfo', encoding='ascii') as stream:
        models = [line.partition(':')[2].strip() for line in stream
                  if line.startswith('model name')]
    program = os.path.basename(sys.argv[0])
    return {
        'date': time.strftime('%Y-%m-%d'),
        'command': shlex.join([f'bench/{program}'] + sys.argv[1:]),
        'kernel': platform.release(),
        'processors': f'{os.cpu_count()} x {models[0] if models else platform.machine()}',
        'versions': [text for text in (
            version_of(os.path.join(BIN, 'pbfs'), '--version'),
            version_of('dpkg-query', '-W', '-f', 'libfuse ${Version}', 'libfuse3-3'),
            version_of('dpkg-query', '-W', '-f', 'liburing ${Version}', 'liburing2'),
            version_of('mkfs.xfs', '-V'), version_of('mkfs.ext4', '-V'),
            version_of('fio', '--version')) if text],
    }


def about(facts):
    """Those facts, in Markdown."""
    return (f'{facts["date"]}, Linux {facts["kernel"]}, {facts["processors"]}; '
            f'{"; ".join(facts["versions"])}\n\n    {facts["command"]}')


def median(samples, name='rate'):
    values = [sample[name] for sample in samples if sample.get(name) is not None]
    return statistics.median(values) if values else None


def spread(samples):
    """How far the extremes are apart, as a part of the median."""
    values = [sample['rate'] for sample in samples]
    return (max(values) - min(values)) / statistics.median(values)


def short(value):
    if value is None:
        return '-'
    if value >= 10000:
        return f'{value / 1000:.1f}k'
    return f'{value:.0f}' if value >= 100 else f'{value:.3g}'


def table(header, rows):
    """Markdown, with columns as wide as they need."""
    lines = [header] + rows
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]

    def text(line):
        cells = [cell.ljust(width) if i == 0 else cell.rjust(width)
                 for i, (cell, width) in enumerate(zip(line, widths))]
        return '| ' + ' | '.join(cells) + ' |'

    rule = '|' + '|'.join('-' * (width + 2) if i == 0 else '-' * (width + 1) + ':'
                          for i, width in enumerate(widths)) + '|'
    return '\n'.join([text(header), rule] + [text(row) for row in rows])


def rates(workloads, results, names):
    """Medians, with the spread in percent."""
    rows = []
    for workload in workloads:
        by_name = results.get(workload.title)
        if by_name is None:
            continue
        row = [f'{workload.title}, {workload.unit}']
        for name in names:
            samples = by_name.get(name)
            row.append(f'{short(median(samples))} ±{spread(samples) * 50:.0f} %' if samples else '-')
        rows.append(row)
    return table(['median ± half the range'] + names, rows)


def ratio(by_name, name, other):
    if name not in by_name or other not in by_name:
        return None
    return median(by_name[name]) / median(by_name[other])


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values)) if values else None


def ratios(workloads, results, names, reference=REFERENCE):
    """How all do against one, with the geometric mean over the peers' fifteen and over all."""
    rows = []
    for workload in workloads:
        by_name = results.get(workload.title)
        if by_name is None:
            continue
        values = [ratio(by_name, name, reference) for name in names]
        rows.append([workload.title] + [f'{value:.2f}' if value else '-' for value in values])
    for title, chosen in (("geometric mean of the peers' fifteen",
                           [workload for workload in workloads if workload.peers]),
                          ('geometric mean of all', workloads)):
        row = [title]
        for name in names:
            values = [ratio(results[workload.title], name, reference) for workload in chosen
                      if workload.title in results]
            mean = geometric_mean([value for value in values if value])
            row.append(f'{mean:.2f}' if mean else '-')
        rows.append(row)
    return table([f'rate, {reference} = 1'] + names, rows)


def per_operation(sample, name, scale):
    return sample[name] * scale / sample['operations'] if sample.get(name) is not None else None


def costs(workloads, results, names):
    """What an operation costs; of MB/s workloads the operation is a megabyte."""
    rows = []
    for workload in workloads:
        for name in names:
            samples = results.get(workload.title, {}).get(name)
            if not samples:
                continue
            row = [workload.title, name]
            for what, scale in (('client_s', 1e6), ('server_s', 1e6), ('machine_s', 1e6),
                                ('requests', 1), ('server_calls', 1)):
                values = [per_operation(sample, what, scale) for sample in samples]
                values = [value for value in values if value is not None]
                row.append(short(statistics.median(values)) if values else '-')
            user = median(samples, 'user_bytes')
            written = median(samples, 'device_written')
            row.append(f'{written / user:.2f}' if user else '-')
            rows.append(row)
    return table(['of one operation', 'filesystem', 'client us', 'server us', 'machine us',
                  'FUSE requests', 'server calls', 'device / user bytes'], rows)


def plot(workloads, results, names, path, reference=REFERENCE):
    """Bars of all ratios, as SVG by gnuplot; False when there is none."""
    names = [name for name in names if name != reference]
    chosen = [workload for workload in workloads
              if reference in results.get(workload.title, {})]
    data = []
    for workload in chosen:
        values = [ratio(results[workload.title], name, reference) for name in names]
        title = workload.title.replace('"', '')
        data.append(f'"{title}" ' + ' '.join(f'{value:.4f}' if value else '?' for value in values))
    bars = ', '.join(f'$data using {column + 2}:xtic(1) title "{name}"'
                     for column, name in enumerate(names))
    script = f'''
set terminal svg size 1200,560 font "sans,11" background "white" noenhanced
set output "{path}"
$data << END
{chr(10).join(data)}
END
set datafile missing "?"
set style data histograms
set style histogram clustered gap 1
set style fill solid 0.85 border -1
set logscale y
set yrange [0.01:4]
set ytics (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 4)
set grid ytics
set xtics rotate by -35 scale 0
set key outside top center horizontal
set rmargin 14
set ylabel "rate, {reference} = 1"
plot 1 with lines linecolor "black" notitle, {bars}
'''
    try:
        subprocess.run(['gnuplot'], input=script, text=True, check=True)
    except FileNotFoundError:
        return False
    return os.path.exists(path)
