# SPDX-License-Identifier: Apache-2.0
"""A sparse image as large as the largest disk."""
import errno
import os
import random
import time

import report
from clients import Client
from filesystems import GIB, KIB, MIB, die, drop_caches, run
from panels import Panel

from .part import (KEEP_SIZE, PUNCH_HOLE, Option, Part, decimals, fallocate, median, need_space,
                   seconds_of)

FILES = 15
FILES_PER_FOLDER = 1000
PUNCHERS = 4
WRITTEN_MIB = 6144  # About: the log of XFS alone has 2 GiB.
FULL = 0.9
BAR_CLEAN_S, BAR_RECOVERY_S = 0.5, 3.0
LINES = (  # Name, title, bar in seconds.
    ('mkfs', 'mkfs', BAR_CLEAN_S),
    ('mount', 'mount, empty', BAR_CLEAN_S),
    ('umount', 'umount, empty', BAR_CLEAN_S),
    ('fill', 'fill it in scattered places, sync', None),
    ('umount_changed', 'umount after that', None),
    ('mount_filled', 'mount, filled', BAR_CLEAN_S),
    ('first_file', 'first file and fsync after that', None),
    ('umount_filled', 'umount, filled', BAR_CLEAN_S),
    ('recovery', 'mount with a full log', BAR_RECOVERY_S),
    ('check', 'check (fsck.pbfs -n, xfs_repair -n)', None),
)


def until(deadline):
    """Ten times a second."""
    while time.monotonic() < deadline:
        yield
        time.sleep(0.1)


class Large(Part):
    name = 'large'
    title = 'A large device'
    options = (
        Option('large-size', '15T', '1T', 'of the sparse image'),
        Option('large-mounts', 5, 2, 'how often it is mounted for each time'),
        Option('log-seconds', 60.0, 10.0, 'for the log to become full'),
    )
    notes = (f'Seconds; medians. Filled: preallocated files take {FULL * 100:.0f} % of the space, '
             'with 4 KiB written in each of their gigabytes, so that most allocation groups are in '
             'use. The full log: one process creates files, '
             f'{PUNCHERS} punch holes at random places, nobody syncs; then, when about as much of '
             'the log is in use as ever was, the filesystem is shut down, as if the power had '
             'gone.')

    def make_image(self, options, path):
        need_space(path, WRITTEN_MIB)
        run('truncate', '-s', options.large_size, path)

    def measure(self, site, options, results):
        results['size'] = options.large_size
        times = results.setdefault('seconds', {})
        resident = results.setdefault('resident_bytes', {})

        def timed(what, function, *arguments):
            times.setdefault(what, []).append(seconds_of(function, *arguments))
            site.say(f'{what:15} {times[what][-1]:8.3f} s')

        def mount(what):
            drop_caches()
            timed(what, site.mount)

        timed('mkfs', site.make)
        for _ in range(options.large_mounts):
            mount('mount')
            timed('umount', site.unmount)
        site.mount()
        timed('fill', self.fill, site)
        resident['filled'] = site.resident_bytes()
        timed('umount_changed', site.unmount)
        for _ in range(options.large_mounts):
            mount('mount_filled')
            timed('umount_filled', site.unmount)
        for number in range(options.large_mounts):
            site.remount_cold() if number else site.mount()
            timed('first_file', self.first_file, site, number)
        self.fill_log(site, options, results)
        site.unmount()
        mount('recovery')
        site.unmount()
        timed('check', site.filesystem.check, site.device)

    @staticmethod
    def large_file(site, number):
        return site.path(f'large-{number:02}')

    def fill(self, site):
        state = os.statvfs(site.directory)
        each_bytes = int(state.f_bavail * state.f_frsize * FULL / FILES) // GIB * GIB
        for number in range(FILES):
            fd = os.open(self.large_file(site, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            fallocate(fd, 0, 0, each_bytes)
            for offset in range(0, each_bytes, GIB):
                os.pwrite(fd, b'x' * (4 * KIB), offset)
            os.close(fd)
        site.sync()

    @staticmethod
    def first_file(site, number):
        fd = os.open(site.path(f'small-{number}'), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, b'x')
        os.fsync(fd)
        os.close(fd)

    def fill_log(self, site, options, results):
        """Shuts the filesystem down when the log is as full as it gets."""
        deadline = time.monotonic() + options.log_seconds
        most = 0.0
        clients = []
        try:
            clients.append(Client(0, lambda _: lambda _: self.create(site), 0))
            for number in range(1, 1 + PUNCHERS):
                clients.append(Client(number, lambda number: lambda _: self.punch(
                    site, options.seed + number), 0))
            for client in clients:
                client.wait_until_ready()
            for client in clients:
                client.go()
            # It rises and falls: not in a valley.
            for _ in until(deadline + options.log_seconds / 2):
                used = (site.log_used() or (0, 0))[0]
                most = max(most, used)
                if time.monotonic() > deadline and used >= 0.9 * most:
                    break
            log, end = site.log_used(), time.monotonic()
            results['resident_bytes']['full_log'] = site.resident_bytes()
            site.filesystem.shut_down(site.directory)
            done = [client.result() for client in clients]
        finally:
            for client in clients:
                client.end()
        if any(one['end'] < end for one in done):
            die('the filesystem failed before it was shut down')
        site.say(f'{done[0]["done"]} files, {sum(one["done"] for one in done[1:])} holes; '
                 f'{most / MIB:.1f} MiB of the log in use at most')
        results['log_used'] = log

    @staticmethod
    def until_shut_down(step):
        """How often it could be done."""
        count = 0
        try:
            while True:
                step(count)
                count += 1
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return count

    def create(self, site):
        def step(count):
            folder = site.path(f'log-{count // FILES_PER_FOLDER:05}')
            if count % FILES_PER_FOLDER == 0:
                os.mkdir(folder)
            os.close(os.open(os.path.join(folder, str(count)), os.O_WRONLY | os.O_CREAT, 0o644))

        return self.until_shut_down(step)

    def punch(self, site, seed):
        numbers = random.Random(seed)
        fds = [os.open(self.large_file(site, number), os.O_RDWR) for number in range(FILES)]
        blocks = os.fstat(fds[0]).st_size // (4 * KIB)
        return self.until_shut_down(lambda _: fallocate(
            numbers.choice(fds), KEEP_SIZE | PUNCH_HOLE, numbers.randrange(blocks) * 4 * KIB,
            4 * KIB))

    def tables(self, results):
        rows = []
        for name, title, bar in LINES:
            values = [median(by_name.get('seconds', {}).get(name)) for by_name in results.values()]
            if any(value is not None for value in values):
                rows.append([title, f'{bar}' if bar else '-'] +
                            [decimals(value, 3) for value in values])
        logs = [by_name.get('log_used') for by_name in results.values()]
        rows.append(['log in use at the shutdown, MiB', '-'] + [
            f'{log[0] / MIB:.0f} of {log[1] / MIB:.0f}' if log else '-' for log in logs])
        for what, title in (('filled', 'when filled'), ('full_log', 'with the full log')):
            values = [by_name.get('resident_bytes', {}).get(what) for by_name in results.values()]
            rows.append([f"server's memory {title}, MiB", '-'] +
                        [f'{value / MIB:.0f}' if value else '-' for value in values])
        sizes = list(dict.fromkeys(by_name.get('size', '') for by_name in results.values()))
        header = [f'{", ".join(sizes)}, seconds', 'bar, less than']
        return report.table(header + list(results), rows)

    def panels(self, results):
        def panel(title, bar):
            chosen = [(name, text) for name, text, of_it in LINES if of_it == bar]
            return Panel(title, '', 'seconds', bars=True, bar=bar, series={
                name: [(text, median(by_name.get('seconds', {}).get(what)))
                       for what, text in chosen]
                for name, by_name in results.items()})

        return [panel('clean', BAR_CLEAN_S), panel('recovery', BAR_RECOVERY_S)]
