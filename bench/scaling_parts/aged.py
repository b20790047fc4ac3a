# SPDX-License-Identifier: Apache-2.0
"""A filesystem that was full, lost half of its files, and is filled again."""
import fcntl
import os
import random
import statistics
from array import array

import report
from filesystems import KIB, MIB
from panels import Panel
from workloads import read_file

from .part import Option, Part, decimals, fill_checked, seconds_of, shuffled

SMALLEST_BYTES, LARGEST_BYTES = 4 * KIB, 4 * MIB
FULL = 0.9
FOLDERS = 64
FIBMAP, FIGETBSZ = 1, 2
STATES = ('fresh', 'aged')


def sizes_up_to(total_bytes, seed):
    """Of files that take so many bytes: whole blocks, as many of each magnitude."""
    numbers = random.Random(seed)
    sizes = []
    while total_bytes >= SMALLEST_BYTES:
        size = SMALLEST_BYTES * 2 ** (10 * numbers.random())
        size = min(int(size) // SMALLEST_BYTES * SMALLEST_BYTES, total_bytes, LARGEST_BYTES)
        sizes.append(size)
        total_bytes -= size
    return sizes


def extents(path):
    """How many runs of blocks the file lies in: FIBMAP, which FUSE has too, block by block."""
    fd = os.open(path, os.O_RDONLY)
    try:
        cell = array('i', [0])
        fcntl.ioctl(fd, FIGETBSZ, cell)
        count, before = 0, None
        for number in range(-(-os.fstat(fd).st_size // cell[0])):
            block = array('i', [number])
            fcntl.ioctl(fd, FIBMAP, block)
            count += before is None or block[0] != before + 1
            before = block[0]
        return count
    finally:
        os.close(fd)


class Aged(Part):
    name = 'aged'
    title = 'An aged filesystem'
    options = (Option('aged-mib', 4096, 640, 'size of the image'),)
    notes = (f'Filled to {FULL * 100:.0f} % with files of 4 KiB to 4 MiB, half of them removed '
             'at random, then filled again: rates and extents are of these last files, and of the '
             'same files on a filesystem with nothing else. Writing ends with a sync; reading '
             'begins with nothing cached, and is in the order of writing.')

    def make_image(self, options, path):
        fill_checked(path, options.aged_mib)

    def measure(self, site, options, results):
        site.make()
        site.mount()
        state = os.statvfs(site.directory)
        site.unmount()
        first = sizes_up_to(int(state.f_bavail * state.f_frsize * FULL), options.seed)
        removed = set(shuffled(range(len(first)), options.seed)[::2])
        again = sizes_up_to(sum(first[number] for number in removed), options.seed + 1)
        content = os.urandom(LARGEST_BYTES)
        results['files'] = len(again)
        results['bytes'] = sum(again)
        for state in STATES:
            site.make()
            site.mount()
            if state == 'aged':
                self.make_folders(site, 'first')
                self.write(site, 'first', first, content)
                for number in removed:
                    os.unlink(self.path(site, 'first', number))
                site.sync()
            self.make_folders(site, 'again')
            self.one(site, results.setdefault(state, {}), again, content)
            site.unmount()

    def one(self, site, result, sizes, content):
        megabytes = sum(sizes) / 1e6
        result['write_rate'] = megabytes / seconds_of(self.write, site, 'again', sizes, content)
        site.say(f'written at {report.short(result["write_rate"])} MB/s')
        result['extents'] = [extents(self.path(site, 'again', number))
                             for number in range(len(sizes))]
        site.say(f'{statistics.fmean(result["extents"]):.2f} extents in a file')
        site.remount_cold()
        result['read_rate'] = megabytes / seconds_of(self.read, site, 'again', sizes)
        site.say(f'read at {report.short(result["read_rate"])} MB/s')

    @staticmethod
    def make_folders(site, kind):
        for folder in range(FOLDERS):
            os.makedirs(site.path(kind, f'{folder:02}'))

    @staticmethod
    def path(site, kind, number):
        return site.path(kind, f'{number % FOLDERS:02}', f'file-{number:06}')

    def write(self, site, kind, sizes, content):
        for number, size_bytes in enumerate(sizes):
            with open(self.path(site, kind, number), 'xb', buffering=0) as stream:
                written = 0
                while written < size_bytes:
                    written += stream.write(content[written:min(size_bytes, written + MIB)])
        site.sync()

    def read(self, site, kind, sizes):
        buffer = bytearray(MIB)
        for number, size_bytes in enumerate(sizes):
            read_file(self.path(site, kind, number), size_bytes, buffer)

    @staticmethod
    def figures(by_name, state):
        result = by_name.get(state, {})
        counts = sorted(result.get('extents', []))
        return {
            'write_rate': result.get('write_rate'), 'read_rate': result.get('read_rate'),
            'mean': statistics.fmean(counts) if counts else None,
            'tenth': counts[len(counts) * 9 // 10] if counts else None,
            'most': counts[-1] if counts else None,
            'per_mib': sum(counts) / (by_name['bytes'] / MIB) if counts else None,
        }

    def tables(self, results):
        rows = []
        for name, by_name in results.items():
            figures = {state: self.figures(by_name, state) for state in STATES}
            for state, values in figures.items():
                rows.append([name, state, report.short(values['write_rate']),
                             report.short(values['read_rate']), decimals(values['mean']),
                             decimals(values['tenth'], 0), decimals(values['most'], 0),
                             decimals(values['per_mib'])])
            ratios = ['-' if not figures['fresh'][what] or not figures['aged'][what]
                      else decimals(figures['aged'][what] / figures['fresh'][what])
                      for what in ('write_rate', 'read_rate', 'mean', 'tenth', 'most', 'per_mib')]
            rows.append([name, 'aged : fresh'] + ratios)
        return report.table(['filesystem', 'state', 'write MB/s', 'read MB/s', 'extents in a file',
                             'of 9 in 10 at most', 'greatest', 'extents in a MiB'], rows)

    def panels(self, results):
        return [Panel(title, '', unit, bars=True, series={
            name: [(state, self.figures(by_name, state)[what]) for state in STATES]
            for name, by_name in results.items()})
            for title, unit, what in (('write, sync', 'MB/s', 'write_rate'),
                                      ('sequential read, cold', 'MB/s', 'read_rate'),
                                      ('extents in a file', 'mean', 'mean'))]
