# SPDX-License-Identifier: Apache-2.0
"""The filesystems that are measured, each on the same loop device, and what the scripts share."""
import contextlib
import fcntl
import json
import mmap
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get('PBFS_BIN', os.path.join(ROOT, 'build', 'bin'))
NULL = os.path.join(os.path.dirname(BIN), 'tests', 'pbfs-null')
FUSE_OVER_URING = '/sys/module/fuse/parameters/enable_uring'
XFS_IOC_GOINGDOWN = 0x8004587d
NO_LOG_FLUSH = 2


def die(message):
    sys.exit(f'{os.path.basename(sys.argv[0])}: {message}')


def run(*command, **options):
    """Runs a command; what it prints is shown only if it fails."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            stdin=subprocess.DEVNULL, text=True, check=False, **options)
    if result.returncode != 0:
        die(f'{" ".join(command)}: exit code {result.returncode}\n{result.stdout}')
    return result.stdout


def need(*programs):
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        die(f'missing: {" ".join(missing)} (tools/install-deps --bench installs them)')


def kernel_has(name):
    if shutil.which('modprobe'):
        subprocess.run(['modprobe', name], check=False, stderr=subprocess.DEVNULL)
    with open('/proc/filesystems', encoding='ascii') as stream:
        return any(line.split()[-1] == name for line in stream)


class Filesystem:
    """One kind of filesystem. mount() returns when it can be used, unmount() when all is on disk."""
    name = ''
    keeps_data = True
    server = None  # The name of the server's program, where there is one.

    def available(self):
        return True

    def mkfs(self, device):
        raise NotImplementedError

    def mount(self, device, directory):
        raise NotImplementedError

    def unmount(self, directory):
        run('umount', directory)

    def check(self, device):
        """Fails unless the filesystem, not mounted, is as it should be. Changes nothing."""
        raise NotImplementedError

    def shut_down(self, directory):
        """As if the power had gone: nothing more is written. It is still mounted."""
        fd = os.open(directory, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, XFS_IOC_GOINGDOWN, struct.pack('I', NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def log_used(self, device, directory):
        """Bytes of the log that are taken, and how many it has; None where that is not known."""

    def server_pid(self, directory):
        """None where the kernel itself serves."""
        if self.server is None:
            return None
        found = run('pgrep', '-x', '-f', f'.*{self.server}.* {directory}( .*)?').split()
        return int(found[0])

    def wait_for_end_of_server(self, directory):
        """It still writes after umount(8) has returned."""
        deadline = time.monotonic() + 60
        while subprocess.run(['pgrep', '-f', f'{self.server}.* {directory}'], check=False,
                             stdout=subprocess.DEVNULL).returncode == 0:
            if time.monotonic() > deadline:
                die(f'{self.server} does not end')
            time.sleep(0.02)


class Pbfs(Filesystem):
    """With `transport`, by that one."""
    server = 'pbfs'

    def __init__(self, options='', transport=None):
        self.name = 'pbfs' if transport is None else f'pbfs-{transport}'
        self.transport = transport
        self.options = [word for word in (options, transport and f'transport={transport}') if word]
        self.program = os.path.join(BIN, 'pbfs')

    def available(self):
        return os.access(self.program, os.X_OK) and (
            self.transport != 'uring' or os.path.exists(FUSE_OVER_URING))

    def mkfs(self, device):
        run(os.path.join(BIN, 'mkfs.pbfs'), '-q', '-f', '-K', device)

    def mount(self, device, directory):
        options = ['-o', ','.join(self.options)] if self.options else []
        run(self.program, *options, device, directory, env=dict(os.environ, **self.environment()))

    def environment(self):
        return {}

    def unmount(self, directory):
        run(os.path.join(BIN, 'umount.pbfs'), directory)

    def check(self, device):
        run(os.path.join(BIN, 'fsck.pbfs'), '-n', device)

    def log_used(self, device, directory):
        log = stats(directory)['log']
        return log['ring_used'] * 4 * KIB, log['ring_blocks'] * 4 * KIB


class Null(Pbfs):
    """What FUSE costs: names and sizes in memory, served as pbfs serves, and no data."""
    keeps_data = False

    def __init__(self, transport=None):
        super().__init__(transport=transport)
        self.name = self.name.replace('pbfs', 'null')
        self.program = NULL

    def environment(self):
        return {'PBFS_NULL_FORGETS_DATA': '1'}


class Fuse2fs(Filesystem):
    name = server = 'fuse2fs'

    def available(self):
        return shutil.which('fuse2fs') is not None and shutil.which('mkfs.ext4') is not None

    def mkfs(self, device):
        run('mkfs.ext4', '-q', '-F', '-E', 'nodiscard', device)

    def mount(self, device, directory):
        run('fuse2fs', device, directory, '-o', 'rw,allow_other,default_permissions')

    def unmount(self, directory):
        run('umount', directory)
        self.wait_for_end_of_server(directory)


class Ntfs3g(Filesystem):
    name = server = 'ntfs-3g'

    def available(self):
        return shutil.which('ntfs-3g') is not None and shutil.which('mkfs.ntfs') is not None

    def mkfs(self, device):
        run('mkfs.ntfs', '-Q', '-F', '-q', device)

    def mount(self, device, directory):
        run('ntfs-3g', device, directory, '-o', 'big_writes,permissions')

    def unmount(self, directory):
        run('umount', directory)
        self.wait_for_end_of_server(directory)


class Xfs(Filesystem):
    name = 'xfs'

    def available(self):
        return shutil.which('mkfs.xfs') is not None and kernel_has('xfs')

    def mkfs(self, device):
        run('mkfs.xfs', '-q', '-f', '-K', device)

    def mount(self, device, directory):
        run('mount', '-t', 'xfs', device, directory)

    def check(self, device):
        run('xfs_repair', '-n', device)

    def log_used(self, device, directory):
        """From where the kernel says head and tail are: a cycle, and a number of sectors in it."""
        def position(name):
            path = f'/sys/fs/xfs/{os.path.basename(device)}/log/log_{name}_lsn'
            with open(path, encoding='ascii') as stream:
                return [int(word) for word in stream.read().split(':')]

        (head_cycle, head), (tail_cycle, tail) = position('head'), position('tail')
        log = re.search(r'^log .*bsize=(\d+) +blocks=(\d+)', run('xfs_info', directory),
                        re.MULTILINE)
        size_bytes = int(log.group(1)) * int(log.group(2))
        return (head_cycle - tail_cycle) * size_bytes + (head - tail) * 512, size_bytes


class Ext4(Filesystem):
    name = 'ext4'

    def available(self):
        return shutil.which('mkfs.ext4') is not None and kernel_has('ext4')

    def mkfs(self, device):
        # As it is after the first minute: tables are initialised.
        run('mkfs.ext4', '-q', '-F', '-E', 'nodiscard,lazy_itable_init=0,lazy_journal_init=0', device)

    def mount(self, device, directory):
        run('mount', '-t', 'ext4', device, directory)


def chosen_filesystems(names, pbfs_options=''):
    """Those that a list with commas names."""
    known = [Pbfs(pbfs_options), Pbfs(pbfs_options, 'dev'), Pbfs(pbfs_options, 'uring'), Null(),
             Null('dev'), Null('uring'), Xfs(), Ext4(), Fuse2fs(), Ntfs3g()]
    splicing = Pbfs('splice=always', 'dev')
    splicing.name = 'pbfs-splice'
    by_name = {filesystem.name: filesystem for filesystem in known + [splicing]}
    chosen = []
    for name in names.split(','):
        if name not in by_name:
            die(f'{name} is none of {", ".join(by_name)}')
        if not by_name[name].available():
            die(f'{name} is not available here')
        chosen.append(by_name[name])
    return chosen


def stats(directory):
    """The counters of the pbfs mounted there, as `pbfsctl stats --json` shows them."""
    return json.loads(os.getxattr(directory, 'pbfs.stats'))


def is_mounted(directory):
    """Also where its server is gone."""
    with open('/proc/self/mountinfo', encoding='utf-8') as stream:
        return any(line.split()[4] == directory for line in stream)


def enter_namespace():
    """Starts the program anew where nobody takes copies of its mounts, which would keep a filesystem
    mounted after umount(8)."""
    if 'PBFS_BENCH_NAMESPACE' in os.environ:
        return
    os.environ['PBFS_BENCH_NAMESPACE'] = '1'
    os.execvp('unshare', ['unshare', '--mount', '--propagation', 'private', '--', *sys.argv])


@contextlib.contextmanager
def fuse_over_uring():
    """On for as long as it is needed, as far as the kernel can."""
    try:
        with open(FUSE_OVER_URING, encoding='ascii') as stream:
            before = stream.read()
    except OSError:
        yield
        return
    with open(FUSE_OVER_URING, 'w', encoding='ascii') as stream:
        stream.write('Y')
    try:
        yield
    finally:
        with open(FUSE_OVER_URING, 'w', encoding='ascii') as stream:
            stream.write(before)


@contextlib.contextmanager
def work_folder(parent):
    """A folder of its own, removed at the end."""
    folder = tempfile.mkdtemp(prefix='pbfs-bench.', dir=parent)
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def fill(path, mib):
    """An image for which the host will not have to allocate anything."""
    block = bytes(MIB)
    with open(path, 'wb', buffering=0) as stream:
        for _ in range(mib):
            if stream.write(block) != MIB:
                die(f'{path}: no space')
        os.fsync(stream.fileno())


@contextlib.contextmanager
def loop_device(image):
    """A loop device over an image, without the host's page cache between."""
    device = run('losetup', '--direct-io=on', '--find', '--show', image).strip()
    try:
        yield device
    finally:
        run('losetup', '-d', device)


@contextlib.contextmanager
def mounted(filesystem, device, directory):
    filesystem.mount(device, directory)
    try:
        yield
    finally:
        filesystem.unmount(directory)


def touch_memory(mib):
    """Makes the host of a virtual machine give that much memory, which is free again afterwards.

    The first touch of a page that the host has taken back takes ten times as long as a copy into it.
    Whoever is measured first after a pause would pay for all.
    """
    size_bytes = mib * MIB
    with mmap.mmap(-1, size_bytes) as memory:
        memory.madvise(mmap.MADV_HUGEPAGE)
        for offset in range(0, size_bytes, 4 * KIB):
            memory[offset] = 1


def drop_caches():
    os.sync()
    with open('/proc/sys/vm/drop_caches', 'w', encoding='ascii') as stream:
        stream.write('3')
