# SPDX-License-Identifier: Apache-2.0
"""A filesystem with millions of files."""
import os
import statistics
import subprocess
import time

import report
from filesystems import KIB, MIB, die, drop_caches
from panels import Panel

from .part import Option, Part, decimals, fill_checked, seconds_of

PER_FOLDER = 1000
BAR = 0.7


def end_to_start(points):
    """The rate of the last tenth against that of the first, or None of too few."""
    tenth = len(points) // 10
    if tenth == 0:
        return None
    first, last = (statistics.fmean(1 / point['rate'] for point in part)
                   for part in (points[:tenth], points[-tenth:]))
    return first / last


class Files(Part):
    name = 'files'
    title = 'Millions of files'
    options = (
        Option('files', 10000000, 50000, 'empty, 1000 in a directory'),
        Option('files-step', 100000, 2000, 'a point of the curves'),
    )
    notes = (f'Bar: at the end files are created at {BAR} of the rate of the start, at least (last '
             'tenth against first tenth). All by one process. The walk is "find -printf %s", cold: '
             'nothing is cached.')

    def make_image(self, options, path):
        fill_checked(path, 1024 + options.files * KIB // MIB)

    def measure(self, site, options, results):
        site.make()
        site.mount()
        results['files'] = options.files
        self.curve(site, options, self.create_folder, results.setdefault('create', []))
        results['create_sync_s'] = seconds_of(site.sync)
        results['umount_s'] = seconds_of(site.unmount)
        results['check_s'] = seconds_of(site.filesystem.check, site.device)
        drop_caches()
        results['mount_s'] = seconds_of(site.mount)
        results['walk_s'] = seconds_of(self.walk, site, options)
        results['walk_rate'] = options.files / results['walk_s']
        results['walk_resident_bytes'] = site.resident_bytes()
        site.say(f'walk {report.short(results["walk_rate"])} files/s')
        self.curve(site, options, self.remove_folder, results.setdefault('remove', []))
        results['remove_sync_s'] = seconds_of(site.sync)
        site.unmount()

    @staticmethod
    def curve(site, options, function, points):
        """Adds points in the order of time, a `rate` in each."""
        count, counted, start = 0, 0, time.monotonic()
        while count < options.files:
            each = min(PER_FOLDER, options.files - count)
            function(site.path(f'd{count // PER_FOLDER:06}'), count, each)
            count += each
            if count - counted < options.files_step and count < options.files:
                continue
            rate = (count - counted) / (time.monotonic() - start)
            log = site.log_used()
            points.append({'files': count, 'rate': rate, 'resident_bytes': site.resident_bytes(),
                           'log_used': log[0] / log[1] if log else None})
            what = function.__name__.partition('_')[0]
            site.say(f'{what} {count:>9} {report.short(rate):>8} 1/s')
            counted, start = count, time.monotonic()

    @staticmethod
    def create_folder(path, first, count):
        os.mkdir(path)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(first, first + count):
            os.close(os.open(f'file-{number:08}', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644,
                             dir_fd=folder))
        os.close(folder)

    @staticmethod
    def remove_folder(path, first, count):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(first, first + count):
            os.unlink(f'file-{number:08}', dir_fd=folder)
        os.close(folder)
        os.rmdir(path)

    @staticmethod
    def walk(site, options):
        found = 0
        with subprocess.Popen(['find', site.directory, '-type', 'f', '-printf', '%s\n'],
                              stdout=subprocess.PIPE) as process:
            while text := process.stdout.read(MIB):
                found += text.count(b'\n')
        if process.returncode != 0 or found != options.files:
            die(f'find ended with {process.returncode} and found {found} of {options.files} files')

    def tables(self, results):
        def peak(points, what):
            return max((point[what] for point in points or [] if point[what] is not None),
                       default=None)

        def rate_of(points):
            return len(points) / sum(1 / point['rate'] for point in points) if points else None

        def mib(value):
            return report.short(value / MIB) if value is not None else '-'

        def percent(value):
            return decimals(value * 100, 0, ' %') if value is not None else '-'

        rows = []
        lines = (
            ('create, files/s', lambda r: report.short(rate_of(r.get('create')))),
            (f'rate at the end : start (bar: {BAR})',
             lambda r: decimals(end_to_start(r.get('create', [])))),
            ('sync after it, s', lambda r: decimals(r.get('create_sync_s'))),
            ("server's memory, greatest while creating, MiB",
             lambda r: mib(peak(r.get('create'), 'resident_bytes'))),
            ('log in use, greatest', lambda r: percent(peak(r.get('create'), 'log_used'))),
            ('umount, s', lambda r: decimals(r.get('umount_s'))),
            ('check (fsck.pbfs -n, xfs_repair -n), s', lambda r: decimals(r.get('check_s'))),
            ('mount, s', lambda r: decimals(r.get('mount_s'))),
            ('walk with sizes, cold, files/s', lambda r: report.short(r.get('walk_rate'))),
            ("server's memory after it, MiB", lambda r: mib(r.get('walk_resident_bytes'))),
            ('remove, files/s', lambda r: report.short(rate_of(r.get('remove')))),
            ('rate at the end : start', lambda r: decimals(end_to_start(r.get('remove', [])))),
        )
        for title, text in lines:
            rows.append([title] + [text(by_name) for by_name in results.values()])
        count = max(by_name.get('files', 0) for by_name in results.values())
        return report.table([f'{count} files'] + list(results), rows)

    def panels(self, results):
        def panel(title, y_title, curve, what, scale=1):
            return Panel(title, 'files', y_title, series={
                name: [(point['files'], point[what] * scale) for point in by_name.get(curve, [])
                       if point[what] is not None]
                for name, by_name in results.items()})

        panels = [panel('create', 'files/s', 'create', 'rate'),
                  panel("server's memory while creating", 'MiB', 'create', 'resident_bytes',
                        1 / MIB),
                  panel('log in use while creating', '%', 'create', 'log_used', 100),
                  panel('remove (how many are gone)', 'files/s', 'remove', 'rate')]
        for one in panels:
            one.series = {name: points for name, points in one.series.items() if points}
        return panels
