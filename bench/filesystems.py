# SPDX-License-Identifier: Apache-2.0
"""The filesystems that are measured, each on the same loop device, and what the scripts share."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.environ.get('PBFS_BIN', os.path.join(ROOT, 'build', 'bin'))


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


class Filesystem:
    """One kind of filesystem. mount() returns when it can be used, unmount() when all is on disk."""
    name = ''

    def available(self):
        return True

    def mkfs(self, device):
        raise NotImplementedError

    def mount(self, device, directory):
        raise NotImplementedError

    def unmount(self, directory):
        run('umount', directory)


class Pbfs(Filesystem):
    name = 'pbfs'

    def __init__(self, options=''):
        self.options = options

    def available(self):
        return os.access(os.path.join(BIN, 'pbfs'), os.X_OK)

    def mkfs(self, device):
        run(os.path.join(BIN, 'mkfs.pbfs'), '-q', '-f', '-K', device)

    def mount(self, device, directory):
        options = ['-o', self.options] if self.options else []
        run(os.path.join(BIN, 'pbfs'), *options, device, directory)

    def unmount(self, directory):
        run(os.path.join(BIN, 'umount.pbfs'), directory)


class Fuse2fs(Filesystem):
    name = 'fuse2fs'

    def available(self):
        return shutil.which('fuse2fs') is not None and shutil.which('mkfs.ext4') is not None

    def mkfs(self, device):
        run('mkfs.ext4', '-q', '-F', '-E', 'nodiscard', device)

    def mount(self, device, directory):
        run('fuse2fs', device, directory, '-o', 'rw,allow_other,default_permissions')

    def unmount(self, directory):
        run('umount', directory)
        # The server still writes after umount(8) has returned.
        deadline = time.monotonic() + 60
        while subprocess.run(['pgrep', '-f', f'fuse2fs.* {directory}'], check=False,
                             stdout=subprocess.DEVNULL).returncode == 0:
            if time.monotonic() > deadline:
                die('fuse2fs does not end')
            time.sleep(0.02)


class Xfs(Filesystem):
    name = 'xfs'

    def available(self):
        if shutil.which('mkfs.xfs') is None:
            return False
        if shutil.which('modprobe'):
            subprocess.run(['modprobe', 'xfs'], check=False, stderr=subprocess.DEVNULL)
        with open('/proc/filesystems', encoding='ascii') as stream:
            return any(line.split()[-1] == 'xfs' for line in stream)

    def mkfs(self, device):
        run('mkfs.xfs', '-q', '-f', '-K', device)

    def mount(self, device, directory):
        run('mount', '-t', 'xfs', device, directory)


@contextlib.contextmanager
def work_folder(parent):
    """A folder of its own, removed at the end."""
    folder = tempfile.mkdtemp(prefix='pbfs-bench.', dir=parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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


def drop_caches():
    os.sync()
    with open('/proc/sys/vm/drop_caches', 'w', encoding='ascii') as stream:
        stream.write('3')
