# SPDX-License-Identifier: Apache-2.0
"""One directory that grows."""
import os
import random

import report
from filesystems import die
from panels import Panel, brief

from .part import Option, Part, fill_checked, median, seconds_of

SMALLEST = 1000
KINDS = {'create': 'creates', 'lookup': 'random lookups, cold', 'readdir': 'readdir, cold'}


def name_of(number):
    return f'a-rather-long-name-{number:08}'


class Directory(Part):
    name = 'directory'
    title = 'One directory'
    repeated = True
    options = (
        Option('directory-files', 1000000, 10000, 'in it at the end; measured at 1000, 10000, ...'),
        Option('lookups', 20000, 2000, 'at each size, or as many as there are files'),
    )
    notes = ('Names in a second. Creates: while the directory grew to this size from the one '
             'before it. Lookups are stat(2) of random names; they and readdir begin with nothing '
             'cached.')

    def make_image(self, options, path):
        fill_checked(path, 1024 + options.directory_files // 500)

    @staticmethod
    def sizes(options):
        size = min(SMALLEST, options.directory_files)
        while size < options.directory_files:
            yield size
            size *= 10
        yield options.directory_files

    def measure(self, site, options, results):
        site.make()
        site.mount()
        path = site.path('directory')
        os.mkdir(path)
        before = 0
        for size in self.sizes(options):
            site.sync()
            self.note(site, results, 'create', size, size - before,
                      seconds_of(self.create, path, before, size))
            site.sync()
            site.remount_cold()
            chosen = random.Random(options.seed).sample(range(size), min(size, options.lookups))
            self.note(site, results, 'lookup', size, len(chosen),
                      seconds_of(self.look_up, path, chosen))
            site.remount_cold()
            self.note(site, results, 'readdir', size, size, seconds_of(self.read, path, size))
            before = size
        site.unmount()

    @staticmethod
    def note(site, results, kind, size, count, seconds):
        rate = count / seconds
        results.setdefault(kind, {}).setdefault(str(size), []).append(rate)
        site.say(f'{KINDS[kind]:25} {size:>8} files {report.short(rate):>8} 1/s')

    @staticmethod
    def create(path, first, end):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for number in range(first, end):
            os.close(os.open(name_of(number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644,
                             dir_fd=folder))
        os.close(folder)

    @staticmethod
    def look_up(path, numbers):
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        for number in numbers:
            os.stat(name_of(number), dir_fd=folder)
        os.close(folder)

    @staticmethod
    def read(path, size):
        with os.scandir(path) as entries:
            found = sum(1 for _ in entries)
        if found != size:
            die(f'{path} has {size} files, and readdir found {found}')

    def tables(self, results):
        sizes = list(dict.fromkeys(size for by_kind in results.values()
                                   for by_size in by_kind.values() for size in by_size))
        rows = []
        for kind, title in KINDS.items():
            for name, by_kind in results.items():
                by_size = by_kind.get(kind, {})
                rows.append([title, name] +
                            [report.short(median(by_size.get(size))) for size in sizes])
        return report.table(['1/s with this many files', 'filesystem'] +
                            [brief(int(size)) for size in sizes], rows)

    def panels(self, results):
        return [Panel(title, 'files in the directory', 'names/s', log_x=True,
                      series={name: [(int(size), median(samples)) for size, samples
                                     in by_kind.get(kind, {}).items()]
                              for name, by_kind in results.items()})
                for kind, title in KINDS.items()]
