# SPDX-License-Identifier: Apache-2.0
"""What is done on each filesystem.

A workload's prepare() is not measured; run() is, and returns a Done. Times are those a program sees:
a sync is part of it only where the title says so. `cold`: the filesystem is mounted anew and nothing
is cached after prepare(). `keeps_data`: reads what it wrote, which the null server cannot give back.
"""
import contextlib
import json
import os
import random
import re
import shutil
import socket
import sqlite3
import threading
from dataclasses import dataclass

from clients import in_parallel
from filesystems import KIB, MIB, ROOT, die, run

FOLDERS = 100
POSTGRES = '/usr/lib/postgresql'


@dataclass
class Done:
    """What was done: operations, how many in a second (None: all in the time that run() took), and
    how many bytes of the user's were written."""
    operations: float
    rate: float | None = None
    written_bytes: int = 0


@dataclass
class Place:
    """Where, and how much."""
    directory: str
    options: object  # The command line's.

    def path(self, *names):
        return os.path.join(self.directory, *names)


class Workload:
    title = ''
    unit = '1/s'
    cold = False
    keeps_data = False
    peers = False  # One of the fifteen that the peers were measured with.
    programs = ()  # That it needs.

    def available(self):
        return all(shutil.which(name) for name in self.programs)

    def prepare(self, place):
        pass

    def warm(self, place):
        """Reads what run() reads that is not on the filesystem: dropping caches drops that, too."""

    def run(self, place):
        raise NotImplementedError


def write_file(path, size_bytes, block=None, sync=False):
    block = block or os.urandom(MIB)
    with open(path, 'wb', buffering=0) as stream:
        for _ in range(size_bytes // len(block)):
            if stream.write(block) != len(block):
                die(f'{path}: short write')
        if sync:
            os.fsync(stream.fileno())


def read_file(path, size_bytes, buffer=None):
    buffer = buffer or bytearray(MIB)
    total = 0
    with open(path, 'rb', buffering=0) as stream:
        while count := stream.readinto(buffer):
            total += count
    if total != size_bytes:
        die(f'{path}: read {total} bytes of {size_bytes}')


def read_all(top):
    """A file, or all in a folder."""
    paths = [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names]
    buffer = bytearray(MIB)
    for path in paths or [top]:
        if os.path.isfile(path):
            with open(path, 'rb', buffering=0) as stream:
                while stream.readinto(buffer):
                    pass


def large(place):
    """The file that most data workloads work on."""
    path = place.path('large')
    size_bytes = place.options.file_mib * MIB
    if not os.path.exists(path) or os.path.getsize(path) != size_bytes:
        write_file(path, size_bytes, sync=True)
    return path


class SequentialWrite(Workload):
    title = 'sequential write 1 MiB, fsync'
    unit = 'MB/s'
    peers = True

    def run(self, place):
        size_bytes = place.options.file_mib * MIB
        write_file(place.path('large'), size_bytes, sync=True)
        return Done(size_bytes / 1e6, written_bytes=size_bytes)


class SequentialRead(Workload):
    title = 'sequential read 1 MiB, cold'
    unit = 'MB/s'
    cold = True
    peers = True

    def prepare(self, place):
        large(place)

    def run(self, place):
        size_bytes = place.options.file_mib * MIB
        read_file(place.path('large'), size_bytes)
        return Done(size_bytes / 1e6)


class Reread(SequentialRead):
    title = 're-read from the page cache'
    cold = False

    def prepare(self, place):
        read_file(large(place), place.options.file_mib * MIB)


class Fio(Workload):
    """One job of fio on the large file."""
    arguments = ()
    direction = 'randread'
    block_bytes = 4 * KIB
    programs = ('fio',)
    peers = True

    def prepare(self, place):
        large(place)

    def files(self, place):
        return f'--filename={place.path("large")}', f'--size={place.options.file_mib}M'

    def run(self, place):
        text = run('fio', '--name=job', *self.files(place), f'--rw={self.direction}',
                   f'--bs={self.block_bytes}', '--time_based',
                   f'--runtime={place.options.seconds}', '--norandommap', '--group_reporting',
                   '--output-format=json', *self.arguments, cwd=place.options.scratch)
        job = json.loads(text[text.index('{'):])['jobs'][0]
        side = job['read' if 'read' in self.direction else 'write']
        written = 0 if 'read' in self.direction else side['io_bytes']
        return Done(side['total_ios'], side['iops'], written)


class RandomRead(Fio):
    title = 'random read 4 KiB, O_DIRECT, depth 32'
    cold = True
    arguments = ('--direct=1', '--ioengine=libaio', '--iodepth=32')


class RandomReadAlone(Fio):
    title = 'random read 4 KiB, O_DIRECT, one at a time'
    cold = True
    peers = False
    arguments = ('--direct=1', '--ioengine=psync')


class RandomWrite(Fio):
    title = 'random write 4 KiB, O_DIRECT, depth 32'
    direction = 'randwrite'
    arguments = ('--direct=1', '--ioengine=libaio', '--iodepth=32')


class WriteFdatasync(Fio):
    title = 'write 4 KiB, fdatasync'
    direction = 'randwrite'
    arguments = ('--ioengine=psync', '--fdatasync=1')


class FsyncThreads(Fio):
    """A file each: the kernel lets FUSE have one fsync of a file at a time."""
    title = 'write 4 KiB, fdatasync, 8 threads'
    direction = 'randwrite'
    peers = False
    arguments = ('--ioengine=psync', '--fdatasync=1', '--thread', '--numjobs=8')

    def files(self, place):
        return f'--directory={place.directory}', f'--size={place.options.file_mib // 64}M'

    def prepare(self, place):
        run('fio', '--name=job', *self.files(place), '--rw=write', '--bs=1M', '--numjobs=8',
            cwd=place.options.scratch)


class SmallWrites(Workload):
    title = 'sequential write 4 KiB, fsync'
    unit = 'MB/s'
    peers = True

    def run(self, place):
        size_bytes = place.options.file_mib // 2 * MIB
        write_file(place.path('small-writes'), size_bytes, block=os.urandom(4 * KIB), sync=True)
        return Done(size_bytes / 1e6, written_bytes=size_bytes)


class ParallelWrite(Workload):
    title = 'sequential write 1 MiB, fsync, 4 at once'
    unit = 'MB/s'
    at_once = 4

    def run(self, place):
        size_bytes = place.options.file_mib // 8 * MIB
        in_parallel(self.at_once, lambda number: write_file(place.path(f'parallel-{number}'),
                                                            size_bytes, sync=True))
        return Done(self.at_once * size_bytes / 1e6, written_bytes=self.at_once * size_bytes)


class ParallelRead(Workload):
    title = 'sequential read 1 MiB, cold, 4 at once'
    unit = 'MB/s'
    cold = True
    at_once = 4

    def prepare(self, place):
        for number in range(self.at_once):
            path = place.path(f'parallel-{number}')
            if not os.path.exists(path):
                write_file(path, place.options.file_mib // 8 * MIB, sync=True)

    def run(self, place):
        size_bytes = place.options.file_mib // 8 * MIB
        in_parallel(self.at_once, lambda number: read_file(place.path(f'parallel-{number}'),
                                                           size_bytes))
        return Done(self.at_once * size_bytes / 1e6)


class SendFile(Workload):
    title = 'sendfile to a socket, cold'
    unit = 'MB/s'
    cold = True

    def prepare(self, place):
        large(place)

    def run(self, place):
        size_bytes = place.options.file_mib * MIB
        sender, receiver = socket.socketpair()

        def receive():
            buffer = bytearray(MIB)
            while receiver.recv_into(buffer):
                pass

        thread = threading.Thread(target=receive)
        thread.start()
        with open(place.path('large'), 'rb') as stream:
            sent = 0
            while sent < size_bytes:
                sent += os.sendfile(sender.fileno(), stream.fileno(), sent, size_bytes - sent)
        sender.close()
        thread.join()
        receiver.close()
        return Done(size_bytes / 1e6)


class ManyFiles(Workload):
    """Files of 4 KiB in a hundred directories."""
    unit = 'files/s'
    peers = True
    content = b'x' * (4 * KIB)

    @staticmethod
    def names(place):
        each = place.options.files // FOLDERS
        for folder in range(FOLDERS):
            for number in range(each):
                yield place.path('many', f'{folder:02}', f'file-{number:06}')

    def create(self, place):
        for folder in range(FOLDERS):
            os.makedirs(place.path('many', f'{folder:02}'))
        for path in self.names(place):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.write(fd, self.content)
            os.close(fd)

    def prepare(self, place):
        if not os.path.exists(place.path('many')):
            self.create(place)

    def run(self, place):
        for path in self.names(place):
            self.one(path)
        return Done(place.options.files)

    def one(self, path):
        raise NotImplementedError


class CreateFiles(ManyFiles):
    title = 'create files of 4 KiB, sync'

    def prepare(self, place):
        shutil.rmtree(place.path('many'), ignore_errors=True)

    def run(self, place):
        self.create(place)
        run('sync', '-f', place.directory)
        return Done(place.options.files, written_bytes=place.options.files * len(self.content))


class WalkFiles(ManyFiles):
    title = 'walk and stat them, cold'
    cold = True

    def run(self, place):
        count = 0
        for folder, _, names in os.walk(place.path('many')):
            for name in names:
                os.lstat(os.path.join(folder, name))
                count += 1
        if count != place.options.files:
            die(f'found {count} files')
        return Done(count)


class ReadFiles(ManyFiles):
    title = 'read them, cold'
    cold = True

    def one(self, path):
        fd = os.open(path, os.O_RDONLY)
        if len(os.read(fd, 8 * KIB)) != len(self.content):
            die(f'{path}: short read')
        os.close(fd)


class RemoveFiles(ManyFiles):
    title = 'remove them'

    def one(self, path):
        os.unlink(path)


class CreateFsync(Workload):
    title = 'create, write 4 KiB, fsync'
    unit = 'files/s'
    peers = True

    def run(self, place):
        count = place.options.files // 10
        os.mkdir(place.path('synced'))
        for number in range(count):
            fd = os.open(place.path('synced', str(number)), os.O_WRONLY | os.O_CREAT, 0o644)
            os.write(fd, ManyFiles.content)
            os.fsync(fd)
            os.close(fd)
        return Done(count, written_bytes=count * len(ManyFiles.content))


class LargeDirectory(Workload):
    title = 'look up in a large directory, cold'
    cold = True

    def prepare(self, place):
        os.mkdir(place.path('directory'))
        for number in range(place.options.files * 3):
            os.mknod(place.path('directory', f'a-rather-long-name-{number:08}'))

    def run(self, place):
        names = random.Random(1).sample(range(place.options.files * 3), place.options.files // 2)
        for number in names:
            os.stat(place.path('directory', f'a-rather-long-name-{number:08}'))
        return Done(len(names))


class Unpack(Workload):
    title = 'unpack a tree (tar -x)'
    unit = 'files/s'
    peers = True

    def warm(self, place):
        read_all(place.options.tar)

    def run(self, place):
        os.mkdir(place.path('tree'))
        run('tar', '-xf', place.options.tar, '-C', place.path('tree'))
        return Done(place.options.tar_files, written_bytes=place.options.tar_bytes)


class Rsync(Workload):
    title = 'copy a tree (rsync -a)'
    unit = 'files/s'
    programs = ('rsync',)

    def warm(self, place):
        read_all(place.options.tree)

    def run(self, place):
        run('rsync', '-a', place.options.tree + '/', place.path('rsynced'))
        return Done(place.options.tar_files, written_bytes=place.options.tar_bytes)


class Sqlite(Workload):
    title = 'SQLite inserts, one transaction each'
    keeps_data = True
    peers = True

    def run(self, place):
        count = place.options.files // 20
        database = sqlite3.connect(place.path('database'), isolation_level=None)
        database.execute('CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)')
        for number in range(count):
            database.execute('INSERT INTO t VALUES (?, ?)', (number, 'x' * 100))
        database.close()
        return Done(count)


class Dbench(Workload):
    title = 'dbench, 4 clients'
    unit = 'MB/s'
    programs = ('dbench',)
    peers = True

    def run(self, place):
        text = run('dbench', '-D', place.directory, '-t', str(place.options.seconds * 2), '4')
        rate = float(re.search(r'Throughput ([0-9.]+) MB/sec', text).group(1))
        return Done(rate * place.options.seconds * 2, rate)


class GitClone(Workload):
    title = 'git clone, git status'
    unit = 'times/s'
    keeps_data = True
    programs = ('git',)

    def warm(self, place):
        read_all(place.options.repository)

    def run(self, place):
        run('git', 'clone', '-q', '--no-local', place.options.repository, place.path('clone'))
        run('git', '-C', place.path('clone'), 'status', '--porcelain')
        return Done(1)


class Compile(Workload):
    title = 'compile (part of pbfs, -j2)'
    unit = 'times/s'
    keeps_data = True
    programs = ('cmake', 'ninja', 'git')
    without_cache = dict(os.environ, CCACHE_DISABLE='1')

    def prepare(self, place):
        run('git', 'clone', '-q', '--no-local', place.options.repository, place.path('source'))
        run('cmake', '-G', 'Ninja', '-S', place.path('source'), '-B', place.path('build'),
            env=self.without_cache)

    def warm(self, place):
        read_all('/usr/include')

    def run(self, place):
        run('cmake', '--build', place.path('build'), '-j2', '--target', 'pbfs_base',
            env=self.without_cache)
        return Done(1)


class Pgbench(Workload):
    title = 'pgbench, 4 clients (PostgreSQL)'
    keeps_data = True

    @staticmethod
    def program(name):
        versions = sorted(os.listdir(POSTGRES), key=float) if os.path.isdir(POSTGRES) else []
        return os.path.join(POSTGRES, versions[-1], 'bin', name) if versions else None

    def available(self):
        return self.program('pgbench') is not None

    def call(self, place, name, *arguments):
        return run('setpriv', '--reuid=postgres', '--regid=postgres', '--init-groups',
                   self.program(name), *arguments, cwd=place.path('postgres'))

    @contextlib.contextmanager
    def running(self, place):
        data = place.path('postgres', 'data')
        self.call(place, 'pg_ctl', '-s', '-w', '-D', data, '-l', place.path('postgres', 'log'), '-o',
                  f'-c listen_addresses= -c unix_socket_directories={place.path("postgres")}',
                  'start')
        try:
            yield ('-h', place.path('postgres'))
        finally:
            self.call(place, 'pg_ctl', '-s', '-w', '-D', data, '-m', 'fast', 'stop')

    def prepare(self, place):
        os.mkdir(place.path('postgres'))
        shutil.chown(place.path('postgres'), 'postgres', 'postgres')
        self.call(place, 'initdb', '-D', place.path('postgres', 'data'))
        with self.running(place) as at:
            self.call(place, 'pgbench', *at, '-i', '-q', '-s', '5', 'postgres')

    def run(self, place):
        with self.running(place) as at:
            seconds = place.options.seconds * 2
            text = self.call(place, 'pgbench', *at, '-c', '4', '-j', '2', '-n', '-T', str(seconds),
                             'postgres')
        rate = float(re.search(r'tps = ([0-9.]+)', text).group(1))
        return Done(rate * seconds, rate)


# In this order: some go on with the files of the one before. A list has a filesystem of its own.
WORKLOADS = [
    [SequentialWrite(), SequentialRead(), Reread(), RandomRead(), RandomReadAlone(), RandomWrite(),
     WriteFdatasync(), FsyncThreads(), SendFile()],
    [SmallWrites(), ParallelWrite(), ParallelRead()],
    [CreateFiles(), WalkFiles(), ReadFiles(), RemoveFiles(), CreateFsync(), LargeDirectory()],
    [Unpack(), Rsync(), Sqlite(), Dbench()],
    [GitClone(), Compile(), Pgbench()],
]


def make_inputs(options, folder):
    """What workloads read that is not on the filesystem that is measured."""
    options.scratch = folder
    options.tar = os.path.join(folder, 'tree.tar')
    run('tar', '-cf', options.tar, '-C', os.path.dirname(options.tree),
        os.path.basename(options.tree))
    options.tar_files = len(run('tar', '-tf', options.tar).splitlines())
    options.tar_bytes = os.path.getsize(options.tar)
    options.repository = os.path.join(folder, 'source.git')
    if shutil.which('git') and os.path.exists(os.path.join(ROOT, '.git')):
        run('git', 'clone', '-q', '--bare', ROOT, options.repository)
