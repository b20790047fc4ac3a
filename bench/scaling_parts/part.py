# SPDX-License-Identifier: Apache-2.0
"""What the parts of bench/scaling share."""
import ctypes
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from filesystems import MIB, die, drop_caches, fill, is_mounted, run

LIBC = ctypes.CDLL(None, use_errno=True)
KEEP_SIZE, PUNCH_HOLE = 1, 2


@dataclass
class Option:
    """One of the command line, with what it is unless given, and that with --quick."""
    name: str
    usual: object
    quick: object
    help: str = ''


class Part:
    """measure() adds to `results`, a dictionary that is the filesystem's own. What is there when it
    fails is shown."""
    name = ''
    title = ''
    options = ()
    filesystems = 'pbfs-dev,xfs'  # Unless told otherwise.
    repeated = False  # As many rounds as --runs says.
    notes = ''

    def make_image(self, options, path):
        raise NotImplementedError

    def measure(self, site, options, results):
        raise NotImplementedError

    def tables(self, results):
        """Markdown. `results`: {filesystem: what measure() left there}."""
        raise NotImplementedError

    def panels(self, results):
        return []


class Site:
    """Where one filesystem is measured."""

    def __init__(self, filesystem, device, directory):
        self.filesystem = filesystem
        self.device = device
        self.directory = directory
        self.server = None

    def path(self, *names):
        return os.path.join(self.directory, *names)

    def make(self):
        self.filesystem.mkfs(self.device)

    def mount(self):
        self.filesystem.mount(self.device, self.directory)
        self.server = self.filesystem.server_pid(self.directory)

    def unmount(self):
        self.filesystem.unmount(self.directory)
        self.server = None

    def sync(self):
        run('sync', '-f', self.directory)

    def remount_cold(self):
        """Nothing is cached then."""
        self.unmount()
        drop_caches()
        self.mount()

    def log_used(self):
        return self.filesystem.log_used(self.device, self.directory)

    def resident_bytes(self):
        """The server's, where there is one."""
        if self.server is None:
            return None
        with open(f'/proc/{self.server}/statm', encoding='ascii') as stream:
            return int(stream.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

    def say(self, text):
        print(f'    {self.filesystem.name:10} {text}', file=sys.stderr, flush=True)

    def clean_up(self):
        """Whatever has happened, nothing is mounted then."""
        if not is_mounted(self.directory):
            return
        try:
            self.unmount()
        except BaseException as error:  # The loop device and the image are to go all the same.
            print(f'    {self.filesystem.name}: {error}', file=sys.stderr)
            if self.server is not None and os.path.exists(f'/proc/{self.server}'):
                os.kill(self.server, signal.SIGKILL)
            subprocess.run(['umount', '-l', self.directory], check=False)
            if not isinstance(error, (Exception, SystemExit)):
                raise


def seconds_of(function, *arguments):
    start = time.monotonic()
    function(*arguments)
    return time.monotonic() - start


def need_space(path, mib, spare_mib=1024):
    """For a file of that size."""
    state = os.statvfs(os.path.dirname(path))
    free_mib = state.f_bavail * state.f_frsize // MIB
    if free_mib < mib + spare_mib:
        die(f'{os.path.dirname(path)} has {free_mib} MiB free; the image takes {mib}, and '
            f'{spare_mib} are to stay free')


def fill_checked(path, mib):
    """As fill(), where there is room for it."""
    need_space(path, mib)
    fill(path, mib)


def fallocate(fd, mode, offset, size_bytes):
    """Not posix_fallocate(3), which writes zeroes where the filesystem cannot."""
    if LIBC.fallocate(fd, mode, ctypes.c_long(offset), ctypes.c_long(size_bytes)) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def shuffled(items, seed=1):
    items = list(items)
    random.Random(seed).shuffle(items)
    return items


def median(values):
    values = [value for value in values or [] if value is not None]
    return statistics.median(values) if values else None


def decimals(value, places=2, unit=''):
    return '-' if value is None else f'{value:.{places}f}{unit}'
