# SPDX-License-Identifier: Apache-2.0
"""Rebuilds a recorded disk at many moments and checks what survived.

    power_cuts.py RECORD LOGS --images DIRECTORY --mount MOUNTPOINT --size BYTES --cuts N
                  [--from POSITION --to POSITION] [--run N] [--seed N] [--lie]

At each cut the filesystem must be consistent before and after the log was replayed (fsck.pbfs -n,
where there is one) and hold what the clients' LOGS demand. With --lie the disk forgets flushed writes
too, and a loss must be found. PBFS_TEST_KEEP names a directory for the images that failed.
Needs pbfs, umount.pbfs and fsck.pbfs in PATH.
"""
import argparse
import glob
import os
import random
import shutil
import subprocess
import sys
import time

from history import read_log, verify
from recording import FLUSH_BEGIN, FLUSH_END, HOW, Disk, entries


class Cuts:
    def __init__(self, arguments):
        self.arguments = arguments
        self.random = random.Random(arguments.seed)
        self.base = os.path.join(arguments.images, 'base')
        self.image = os.path.join(arguments.images, 'cut')
        self.logs = {int(os.path.basename(path)[:-len('.log')]): read_log(path)
                     for path in glob.glob(os.path.join(arguments.logs, '*.log'))}
        self.fsck = shutil.which('fsck.pbfs')
        self.replayed = self.pending = self.count = 0

    def positions(self):
        """A third each: anywhere, just before and just after a flush was answered."""
        first, last = self.arguments.begin, self.arguments.end
        begins, ends = [], []
        with open(self.arguments.record, 'rb') as stream:
            for position, entry in enumerate(entries(stream), 1):
                if first <= position <= (last or position):
                    if entry[0] == FLUSH_BEGIN:
                        begins.append(position)
                    elif entry[0] == FLUSH_END:
                        ends.append(position)
        last = last or position
        third = self.arguments.cuts // 3
        chosen = set(self.random.sample(begins, min(third, len(begins))))
        chosen |= set(self.random.sample(ends, min(third, len(ends))))
        while len(chosen) < min(self.arguments.cuts, last - first):
            chosen.add(self.random.randint(first, last))
        return chosen

    def run(self):
        """Yields (where, errors) for each cut."""
        positions = self.positions()
        with open(self.arguments.record, 'rb') as stream, open(self.base, 'wb', 0) as base:
            base.truncate(self.arguments.size)
            disk = Disk(base, self.arguments.lie)
            for position, entry in enumerate(entries(stream), 1):
                disk.follow(entry)
                if position in positions:
                    how = 'lose all' if self.arguments.lie else HOW[self.count % len(HOW)]
                    self.count += 1
                    state = self.random.getstate()
                    pending, kept = self.rebuild(disk, how, self.image)
                    self.pending += pending
                    errors = self.check(position)
                    keep = os.environ.get('PBFS_TEST_KEEP')
                    if errors and keep and not self.arguments.lie:
                        self.random.setstate(state)
                        self.rebuild(disk, how, os.path.join(keep, f'cut-{position}'))
                    yield f'cut at {position}, {how}: {kept} of {pending} unflushed writes', errors

    def rebuild(self, disk, how, path):
        subprocess.run(['cp', '--sparse=always', self.base, path], check=True)
        with open(path, 'r+b', 0) as image:
            return disk.cut(image, how, self.random)

    def check(self, position):
        errors = self.check_consistency('before replay')
        mount = subprocess.run(['pbfs', self.image, self.arguments.mount], capture_output=True,
                               text=True, check=False)
        if mount.returncode != 0:
            return errors + [f'mount: {mount.stderr.strip()}']
        self.replayed += 'replayed' in mount.stderr
        try:
            for client, operations in sorted(self.logs.items()):
                errors += [f'client {client}: {error}' for error in
                           verify(None, os.path.join(self.arguments.mount, f'c{client}'), position,
                                  self.arguments.run, client, operations)]
        except OSError as error:
            errors.append(f'reading: {error}')
        self.unmount()
        return errors + self.check_consistency('after replay')

    def unmount(self):
        """Tries again for a while: others look at all mounts (df does), which are busy then."""
        for _ in range(50):
            if subprocess.run(['umount.pbfs', self.arguments.mount], check=False).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit('cannot unmount')

    def check_consistency(self, when):
        if self.fsck is None:
            return []
        result = subprocess.run([self.fsck, '-n', '-f', self.image], capture_output=True, text=True,
                                check=False)
        if result.returncode == 0:
            return []
        output = (result.stdout + result.stderr).strip()
        return [f'fsck {when}: exit code {result.returncode}: {output[-1500:]}']


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('record')
    parser.add_argument('logs')
    parser.add_argument('--images', required=True)
    parser.add_argument('--mount', required=True)
    parser.add_argument('--size', type=int, required=True)
    parser.add_argument('--cuts', type=int, required=True)
    parser.add_argument('--from', type=int, default=1, dest='begin')
    parser.add_argument('--to', type=int, default=0, dest='end')
    parser.add_argument('--run', type=int, default=0)
    parser.add_argument('--seed', type=int, default=int(time.time()))
    parser.add_argument('--lie', action='store_true')
    cuts = Cuts(parser.parse_args())
    bad = 0
    for where, errors in cuts.run():
        if errors:
            bad += 1
            print(f'{where}:', *errors[:10], sep='\n    ')
        if errors and cuts.arguments.lie:
            break
    print(f'seed {cuts.arguments.seed}: {cuts.count} cuts, {cuts.pending} unflushed writes in all, '
          f'{cuts.replayed} logs replayed, {bad} with losses')
    if cuts.arguments.lie:
        sys.exit(0 if bad else 1)
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
