# SPDX-License-Identifier: Apache-2.0
"""Rates with more and more client processes."""
import mmap
import os
import random
import time
from array import array

import report
from clients import counted
from filesystems import KIB, MIB, die
from panels import Panel
from workloads import write_file

from .part import Option, Part, fill_checked, median, shuffled

PAGE_BYTES = 4 * KIB
NAMES_PER_FOLDER = 1000
CONTENT = b'x' * PAGE_BYTES


class Work:
    """What each client does until the deadline; see clients.Client."""
    title = ''
    cold = False
    synced = False  # The sync at the end counts, too.

    def before(self, site, options, clients):
        pass

    def client(self, site, options, number, clients):
        raise NotImplementedError


class Create(Work):
    """Files of 4 KiB."""
    synced = True

    def folder(self, site, number):
        raise NotImplementedError

    def before(self, site, options, clients):
        for number in range(clients):
            os.makedirs(self.folder(site, number), exist_ok=True)

    def client(self, site, options, number, clients):
        folder = os.open(self.folder(site, number), os.O_RDONLY | os.O_DIRECTORY)

        def work(deadline):
            count = 0
            while time.monotonic() < deadline:
                fd = os.open(f'{number}-{count:07}', os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644,
                             dir_fd=folder)
                os.write(fd, CONTENT)
                os.close(fd)
                count += 1
            return count

        return work


class CreateApart(Create):
    title = 'create 4 KiB files, a directory each, sync'

    def folder(self, site, number):
        return site.path('apart', str(number))


class CreateTogether(Create):
    title = 'create 4 KiB files, all in one directory, sync'

    def folder(self, site, number):
        return site.path('together')


class RandomRead(Work):
    """Each page once at most, so that none is cached."""
    title = 'random read 4 KiB, buffered, nothing cached'
    cold = True

    def before(self, site, options, clients):
        size_bytes = options.read_mib * MIB
        path = site.path('large')
        if not os.path.exists(path):
            write_file(path, size_bytes, sync=True)
        self.pages = array('I', shuffled(range(size_bytes // PAGE_BYTES), options.seed))

    def client(self, site, options, number, clients):
        fd = os.open(site.path('large'), os.O_RDONLY)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        pages = self.pages[number::clients]
        buffer = mmap.mmap(-1, PAGE_BYTES)

        def work(deadline):
            count = 0
            for page in pages:
                if os.preadv(fd, [buffer], page * PAGE_BYTES) != PAGE_BYTES:
                    die('short read')
                count += 1
                if time.monotonic() >= deadline:
                    break
            return count

        return work


class Stat(Work):
    def names(self, site, options):
        return [site.path('names', f'{number // NAMES_PER_FOLDER:03}', f'name-{number:07}')
                for number in range(options.stat_names)]

    def before(self, site, options, clients):
        if os.path.exists(site.path('names')):
            return
        names = self.names(site, options)
        for folder in dict.fromkeys(os.path.dirname(path) for path in names):
            os.makedirs(folder)
        for path in names:
            os.mknod(path)


class StatUncached(Stat):
    """Each name once at most."""
    title = 'stat, nothing cached'
    cold = True

    def client(self, site, options, number, clients):
        names = shuffled(self.names(site, options), options.seed)[number::clients]

        def work(deadline):
            count = 0
            for path in names:
                os.stat(path)
                count += 1
                if time.monotonic() >= deadline:
                    break
            return count

        return work


class StatCached(Stat):
    title = 'stat, names cached'

    def before(self, site, options, clients):
        super().before(site, options, clients)
        self.chosen = shuffled(self.names(site, options), options.seed)[:NAMES_PER_FOLDER]
        for path in self.chosen:
            os.stat(path)

    def client(self, site, options, number, clients):
        names = self.chosen

        def work(deadline):
            count = 0
            while time.monotonic() < deadline:
                for path in names:
                    os.stat(path)
                count += len(names)
            return count

        return work


class WriteFsync(Work):
    title = 'write 4 KiB and fsync, a file each'
    file_bytes = 16 * MIB

    def before(self, site, options, clients):
        for number in range(clients):
            path = site.path(f'synced-{number}')
            if not os.path.exists(path):
                write_file(path, self.file_bytes, sync=True)

    def client(self, site, options, number, clients):
        fd = os.open(site.path(f'synced-{number}'), os.O_WRONLY)
        numbers = random.Random(options.seed + number)

        def work(deadline):
            count = 0
            while time.monotonic() < deadline:
                page = numbers.randrange(self.file_bytes // PAGE_BYTES)
                os.pwrite(fd, CONTENT, page * PAGE_BYTES)
                os.fsync(fd)
                count += 1
            return count

        return work


# Those of a list share a filesystem; the first ones have a new one for each number of clients, so
# that what is there already is the same for all.
CREATING = [CreateApart(), CreateTogether()]
OTHERS = [RandomRead(), StatUncached(), StatCached(), WriteFsync()]


class Threads(Part):
    name = 'threads'
    title = 'Client processes'
    filesystems = 'pbfs-dev,pbfs-uring,xfs'
    repeated = True
    options = (
        Option('clients', '1,2,4,8', '1,2,4,8', 'how many processes, in turn'),
        Option('seconds', 5.0, 1.0, 'of each measurement'),
        Option('read-mib', 2048, 512, 'size of the file that is read'),
        Option('stat-names', 200000, 5000),
        Option('threads-image-mib', 8192, 1536),
    )
    notes = ('Operations in a second, of all processes together. Reads of the file, which is '
             'larger than the cache, and uncached stats never ask for the same thing twice.')

    def make_image(self, options, path):
        fill_checked(path, options.threads_image_mib)

    def measure(self, site, options, results):
        counts = [int(word) for word in options.clients.split(',')]
        for clients in counts:
            site.make()
            site.mount()
            for work in CREATING:
                self.one(site, options, results, work, clients)
            site.unmount()
        site.make()
        site.mount()
        for work in OTHERS:
            for clients in counts:
                self.one(site, options, results, work, clients)
        site.unmount()

    @staticmethod
    def one(site, options, results, work, clients):
        work.before(site, options, clients)
        site.sync()
        if work.cold:
            site.remount_cold()
        count, seconds = counted(
            clients, lambda number: work.client(site, options, number, clients), options.seconds)
        if work.synced:
            start = time.monotonic()
            site.sync()
            seconds += time.monotonic() - start
        rate = count / seconds
        results.setdefault(work.title, {}).setdefault(str(clients), []).append(rate)
        site.say(f'{work.title:48} {clients} clients {report.short(rate):>8} 1/s')

    def tables(self, results):
        counts = list(dict.fromkeys(clients for by_title in results.values()
                                    for by_clients in by_title.values() for clients in by_clients))
        rows = []
        for work in CREATING + OTHERS:
            for name, by_title in results.items():
                rates = {clients: median(samples)
                         for clients, samples in by_title.get(work.title, {}).items()}
                if not rates:
                    continue
                first, last = rates.get(counts[0]), rates.get(counts[-1])
                rows.append([work.title, name] +
                            [report.short(rates.get(clients)) for clients in counts] +
                            [f'{last / first:.2f}' if first and last else '-'])
        header = ['1/s with this many clients', 'filesystem'] + counts
        return report.table(header + [f'{counts[-1]} : {counts[0]}'], rows)

    def panels(self, results):
        panels = []
        for work in CREATING + OTHERS:
            panel = Panel(work.title, 'clients', 'operations/s', log_x=True)
            for name, by_title in results.items():
                panel.series[name] = [(int(clients), median(samples)) for clients, samples
                                      in by_title.get(work.title, {}).items()]
            panels.append(panel)
        return panels
