# SPDX-License-Identifier: Apache-2.0
"""Rebuilds a recorded disk at many moments and checks what survived.

    power_cuts.py RECORD LOGS --start IMAGE --work DIRECTORY --images DIRECTORY --cuts N
                  [--run N] [--seed N] [--jobs N] [--totals FILE] [--lie]

RECORD begins when the disk held what IMAGE does, all of it durable. At each cut the filesystem must be
consistent before and after the log was replayed (fsck.pbfs -n) and hold what the clients' LOGS demand. So many JOBS are checked at once, on mountpoints below the work directory. --totals:
appends a line of counts: cuts, logs replayed, cuts with losses, cuts with an fsck that was not clean.
With --lie the disk forgets flushed writes too, and a loss must be found. The same arguments give the
same images.
Needs pbfs, umount.pbfs and fsck.pbfs in PATH.
"""
import argparse
import collections
import glob
import multiprocessing
import os
import random
import subprocess
import sys
import time

from history import read_log, verify
from recording import FLUSH_BEGIN, FLUSH_END, HOW, Disk, entries

Result = collections.namedtuple('Result', 'replayed losses dirty')


class Checker:
    """Checks images, in a process of its own."""

    def __init__(self, arguments):
        self.run = arguments.run
        self.logs = {int(os.path.basename(path)[:-len('.log')]): read_log(path)
                     for path in glob.glob(os.path.join(arguments.logs, '*.log'))}

    def __call__(self, position, image, mountpoint):
        dirty = self.dirt(image, 'before replay')
        mount = subprocess.run(['pbfs', '-v', image, mountpoint], capture_output=True, text=True,
                               check=False)
        if mount.returncode != 0:
            return Result(False, [f'mount: {mount.stderr.strip()}'], dirty)
        try:
            losses = self.losses(position, mountpoint)
        finally:
            self.unmount(mountpoint)
        dirty += self.dirt(image, 'after replay')
        return Result('replayed' in mount.stderr, losses, dirty)

    def losses(self, position, mountpoint):
        try:
            return [f'client {client}: {error}'
                    for client, operations in sorted(self.logs.items())
                    for error in verify(None, os.path.join(mountpoint, f'c{client}'), position,
                                        self.run, client, operations)]
        except OSError as error:
            return [f'reading: {error}']

    @staticmethod
    def unmount(mountpoint):
        """Tries again for a while: others look at all mounts (df does), which are busy then."""
        for _ in range(50):
            if subprocess.run(['umount.pbfs', mountpoint], check=False).returncode == 0:
                return
            time.sleep(0.1)
        raise RuntimeError('cannot unmount')

    @staticmethod
    def dirt(image, when):
        result = subprocess.run(['fsck.pbfs', '-n', '-f', image], capture_output=True, text=True,
                                check=False)
        if result.returncode == 0:
            return []
        output = (result.stdout + result.stderr).strip()
        return [f'fsck {when}: exit code {result.returncode}: {output[-1500:]}']


def copy(source, target):
    subprocess.run(['cp', '--sparse=always', source, target], check=True)


def positions(arguments, chance):
    """A third each: anywhere, just before and just after a flush was answered."""
    begins, ends, last = [], [], 0
    with open(arguments.record, 'rb') as stream:
        for last, entry in enumerate(entries(stream), 1):
            if entry[0] == FLUSH_BEGIN:
                begins.append(last)
            elif entry[0] == FLUSH_END:
                ends.append(last)
    third = arguments.cuts // 3
    chosen = set(chance.sample(begins, min(third, len(begins))))
    chosen |= set(chance.sample(ends, min(third, len(ends))))
    while len(chosen) < min(arguments.cuts, last - 1):
        chosen.add(chance.randint(1, last))
    return chosen


def rebuilt(arguments, image):
    """Yields (position, what was done) each time `image()` is the disk after a cut."""
    chance = random.Random(arguments.seed)
    chosen = positions(arguments, chance)
    count = 0
    base_path = os.path.join(arguments.images, 'base')
    copy(arguments.start, base_path)
    with open(arguments.record, 'rb') as stream, open(base_path, 'r+b', 0) as base:
        disk = Disk(base, arguments.lie)
        for position, entry in enumerate(entries(stream), 1):
            disk.follow(entry)
            if position not in chosen:
                continue
            how = 'lose all' if arguments.lie else HOW[count % len(HOW)]
            count += 1
            path = image()
            copy(base_path, path)
            with open(path, 'r+b', 0) as cut:
                pending, kept = disk.cut(cut, how, chance)
            yield position, pending, f'cut at {position}, {how}: {kept} of {pending} unflushed writes'


class Report:
    def __init__(self):
        self.cuts = self.pending = self.replayed = self.losses = self.dirty = 0
        self.begin = time.monotonic()

    def add(self, pending, what, result):
        self.cuts += 1
        self.pending += pending
        self.replayed += result.replayed
        self.losses += bool(result.losses)
        self.dirty += bool(result.dirty)
        if result.losses or result.dirty:
            print(f'{what}:', *result.losses[:10], *result.dirty, sep='\n    ', flush=True)

    def finish(self, arguments):
        seconds = time.monotonic() - self.begin
        print(f'seed {arguments.seed}: {self.cuts} cuts in {seconds:.1f} s, '
              f'{self.pending} unflushed writes in all, {self.replayed} logs replayed, '
              f'{self.losses} with losses, {self.dirty} not clean')
        if arguments.totals:
            with open(arguments.totals, 'a', encoding='ascii') as stream:
                print(self.cuts, self.replayed, self.losses, self.dirty, file=stream)
        return bool(self.losses or self.dirty) != arguments.lie


def check_all(arguments):
    """True if something was found that should not be, or the other way round."""
    slots = [(os.path.join(arguments.images, f'cut{i}'), os.path.join(arguments.work, f'cut{i}'))
             for i in range(arguments.jobs)]
    for _, mountpoint in slots:
        os.makedirs(mountpoint, exist_ok=True)
    report = Report()
    running = collections.deque()

    def wait_for_first():
        pending, what, result, slot = running.popleft()
        slots.append(slot)
        report.add(pending, what, result.get())

    def next_image():
        if not slots:
            wait_for_first()
        return slots[-1][0]

    checker = Checker(arguments)
    with multiprocessing.get_context('fork').Pool(arguments.jobs, set_checker, (checker,)) as pool:
        for position, pending, what in rebuilt(arguments, next_image):
            slot = slots.pop()
            running.append((pending, what, pool.apply_async(check, (position, *slot)), slot))
            if arguments.lie and report.losses:
                break
        while running:
            wait_for_first()
    return report.finish(arguments)


def set_checker(checker):
    global the_checker
    the_checker = checker


def check(*arguments):
    return the_checker(*arguments)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('record')
    parser.add_argument('logs')
    parser.add_argument('--start', required=True)
    parser.add_argument('--work', required=True)
    parser.add_argument('--images', required=True)
    parser.add_argument('--cuts', type=int, required=True)
    parser.add_argument('--run', type=int, default=0)
    parser.add_argument('--seed', type=int, default=int(time.time()))
    parser.add_argument('--jobs', type=int, default=os.cpu_count())
    parser.add_argument('--totals')
    parser.add_argument('--lie', action='store_true')
    sys.exit(1 if check_all(parser.parse_args()) else 0)


if __name__ == '__main__':
    main()
