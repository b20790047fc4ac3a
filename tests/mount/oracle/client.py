# SPDX-License-Identifier: Apache-2.0
"""One client of a mixed load that writes down what it was promised.

    client.py DIRECTORY LOG --client N --seconds S [--run N] [--seed N] [--control FILE] [--eager X]
              [--syncfs] [--full]

Works below DIRECTORY, which exists and is durable. LOG lies on another filesystem; before each
operation a line says what is about to happen, afterwards a line says that it was acknowledged, each
with the recorder's position at that moment (0 without --control). history.py reads it. --eager: how
often it syncs, 1 often, 0 hardly ever. --full: operations that take space may fail for lack of it; the
mount tells of it at once (nowriteback).
Exit code 3: an operation failed, which is said on stderr.
"""
import argparse
import ctypes
import errno
import json
import mmap
import os
import random
import struct
import sys
import time

from pattern import CELL, Writer

FILES_MAX = 30
BYTES_MAX = 10 << 20
DIRECTORIES_MAX = 4
TAKE_SPACE = ('create', 'write', 'truncate', 'rename', 'mkdir')


class OperationLog:
    def __init__(self, path, control):
        self.fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.position = lambda: 0
        if control:
            fd = os.open(control, os.O_RDONLY)
            page = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
            os.close(fd)
            self.position = lambda: struct.unpack_from('<Q', page, 0)[0]
        self.number = 0
        self.current = {}

    def begin(self, kind, **what):
        self.number += 1
        self.current = {'o': self.number, 'k': kind, 'b': self.position(), **what}
        os.write(self.fd, json.dumps(self.current).encode() + b'\n')
        return self.number

    def end(self):
        line = {'o': self.number, 'a': self.position()}
        os.write(self.fd, json.dumps(line).encode() + b'\n')

    def fail(self):
        os.write(self.fd, json.dumps({'o': self.number, 'x': True}).encode() + b'\n')


class Client:
    def __init__(self, arguments):
        self.root = arguments.directory
        self.log = OperationLog(arguments.log, arguments.control)
        self.random = random.Random(f'{arguments.seed} {arguments.run} {arguments.client}')
        self.writer = Writer(arguments.run, arguments.client)
        self.may_syncfs = arguments.syncfs
        self.eager = arguments.eager
        self.full = arguments.full
        self.files = {}  # Path -> number.
        self.contents = {}  # Number -> bytearray.
        self.directories = ['']
        self.last = 0  # Number used for a file or directory.

    # Single operations, each logged.

    def path(self, name):
        return os.path.join(self.root, name) if name else self.root

    def number(self):
        self.last += 1
        return self.last

    def create(self, directory):
        file = self.number()
        name = os.path.join(directory, f'f{file}')
        self.log.begin('create', f=file, n=name)
        fd = os.open(self.path(name), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        self.log.end()
        self.files[name] = file
        self.contents[file] = bytearray()
        return name, fd

    def write(self, name, offset, length, flags=0, fd=None):
        """Through `fd` if given, else through an open(2) of its own with `flags`."""
        file = self.files[name]
        content = self.contents[file]
        own = os.open(self.path(name), os.O_RDWR | flags) if fd is None else fd
        durable = bool(flags & os.O_DSYNC)
        operation = self.log.begin('write', f=file, at=offset, len=length, d=durable)
        data = self.writer.data(file, operation, offset, length)
        if flags & os.O_DIRECT:
            memory = mmap.mmap(-1, length)
            memory[:] = data
            written = os.pwrite(own, memory, offset)
        else:
            written = os.pwrite(own, data, offset)
        if written != length:
            raise OSError(errno.ENOSPC, f'{written} of {length} bytes written', name)
        self.log.end()
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset:offset + length] = data
        if fd is None:
            os.close(own)

    def sync(self, name, fd=None, call=None):
        own = os.open(self.path(name), os.O_RDONLY) if fd is None else fd
        call = call or self.random.choice([os.fsync, os.fdatasync])
        self.log.begin('fsync', f=self.files[name])
        call(own)
        self.log.end()
        if fd is None:
            os.close(own)

    def sync_directory(self, directory):
        fd = os.open(self.path(directory), os.O_RDONLY)
        self.log.begin('dirsync', n=directory)
        os.fsync(fd)
        self.log.end()
        os.close(fd)

    def rename(self, source, target):
        file = self.files[source]
        old = self.files.get(target)
        self.log.begin('rename', f=file, n=source, to=target, old=old)
        os.rename(self.path(source), self.path(target))
        self.log.end()
        del self.files[source]
        self.contents.pop(old, None)
        self.files[target] = file

    def unlink(self, name):
        self.log.begin('unlink', f=self.files[name], n=name)
        os.unlink(self.path(name))
        self.log.end()
        del self.contents[self.files.pop(name)]

    def truncate(self, name, size):
        file = self.files[name]
        self.log.begin('truncate', f=file, size=size)
        os.truncate(self.path(name), size)
        self.log.end()
        content = self.contents[file]
        del content[size:]
        content.extend(bytes(size - len(content)))

    # What programs do: a few operations each.

    def any_file(self):
        return self.random.choice(list(self.files)) if self.files else self.new_file()

    def some_bytes(self, most):
        return self.random.randrange(CELL, most, CELL)

    def maybe_sync(self, name, fd=None, probability=0.5):
        if self.random.random() < probability * self.eager:
            self.sync(name, fd)

    def maybe_sync_directory(self, name, probability=0.3):
        if self.random.random() < probability * self.eager:
            self.sync_directory(os.path.dirname(name))

    def new_file(self):
        name, fd = self.create(self.random.choice(self.directories))
        offset = 0
        for _ in range(self.random.randint(0, 3)):
            length = self.some_bytes(40_000)
            self.write(name, offset, length, fd=fd)
            offset += length
        self.maybe_sync(name, fd)
        os.close(fd)
        return name

    def append(self):
        name = self.any_file()
        fd = os.open(self.path(name), os.O_RDWR)
        self.write(name, len(self.contents[self.files[name]]), self.some_bytes(60_000), fd=fd)
        self.maybe_sync(name, fd)
        os.close(fd)

    def overwrite(self):
        name = self.any_file()
        fd = os.open(self.path(name), os.O_RDWR)
        for _ in range(self.random.randint(1, 4)):
            size = len(self.contents[self.files[name]])
            self.write(name, self.random.randrange(0, size + 4096, CELL), self.some_bytes(20_000),
                       fd=fd)
        self.maybe_sync(name, fd)
        os.close(fd)

    def replace(self):
        """The way an editor saves."""
        target = self.any_file()
        name, fd = self.create(os.path.dirname(target))
        self.write(name, 0, self.some_bytes(50_000), fd=fd)
        self.maybe_sync(name, fd, 1)
        os.close(fd)
        self.rename(name, target)
        self.maybe_sync_directory(target, 0.5)

    def move(self):
        name = self.any_file()
        target = os.path.join(self.random.choice(self.directories), f'm{self.number()}')
        self.rename(name, target)
        self.maybe_sync_directory(target)
        self.maybe_sync(target, probability=0.2)

    def remove(self):
        name = self.any_file()
        self.unlink(name)
        self.maybe_sync_directory(name)

    def change_size(self):
        name = self.any_file()
        size = len(self.contents[self.files[name]])
        self.truncate(name, self.random.randrange(0, size * 3 // 2 + 8192, CELL))
        self.maybe_sync(name)

    def durable_write(self):
        name = self.any_file()
        size = len(self.contents[self.files[name]])
        self.write(name, self.random.randrange(0, size + CELL, CELL), self.some_bytes(16_000),
                   os.O_DSYNC if self.random.random() < self.eager else 0)

    def direct_write(self):
        name = self.any_file()
        pages = len(self.contents[self.files[name]]) // 4096
        self.write(name, self.random.randint(0, pages) * 4096, self.random.randint(1, 32) * 4096,
                   os.O_DIRECT | (os.O_DSYNC if self.random.random() < self.eager / 2 else 0))
        self.maybe_sync(name)

    def mapped_write(self):
        name = self.any_file()
        file = self.files[name]
        content = self.contents[file]
        if len(content) < 8192:
            return
        fd = os.open(self.path(name), os.O_RDWR)
        memory = mmap.mmap(fd, len(content))
        offset = self.random.randrange(0, len(content) - 4096, CELL)
        length = self.some_bytes(min(20_000, len(content) - offset))
        operation = self.log.begin('write', f=file, at=offset, len=length, d=False)
        data = self.writer.data(file, operation, offset, length)
        memory[offset:offset + length] = data
        self.log.end()
        content[offset:offset + length] = data
        if self.random.random() < 0.5 * self.eager:
            self.sync(name, fd, lambda fd: memory.flush())
        memory.close()
        os.close(fd)

    def large_file(self):
        name, fd = self.create('')
        step = 1 << 20
        for i in range(self.random.randint(1, 3)):
            self.write(name, i * step, step, fd=fd)
        self.maybe_sync(name, fd, 1)
        os.close(fd)

    def new_directory(self):
        if len(self.directories) > DIRECTORIES_MAX:
            return self.remove_directory()
        name = f'd{self.number()}'
        self.log.begin('mkdir', n=name)
        os.mkdir(self.path(name))
        self.log.end()
        self.directories.append(name)
        self.maybe_sync_directory(name)

    def remove_directory(self):
        name = self.directories.pop(self.random.randrange(1, len(self.directories)))
        for file in [file for file in self.files if os.path.dirname(file) == name]:
            self.unlink(file)
        self.log.begin('rmdir', n=name)
        os.rmdir(self.path(name))
        self.log.end()
        self.maybe_sync_directory(name)

    def sync_all(self):
        if not self.may_syncfs:
            return
        fd = os.open(self.root, os.O_RDONLY)
        self.log.begin('syncfs')
        if ctypes.CDLL(None, use_errno=True).syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), 'syncfs')
        self.log.end()
        os.close(fd)

    def read_back(self):
        name = self.any_file()
        with open(self.path(name), 'rb') as stream:
            if self.random.random() < 0.5:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if stream.read() != self.contents[self.files[name]]:
                raise OSError(f'{name}: not what was written to it')

    def step(self):
        if len(self.files) > FILES_MAX or sum(map(len, self.contents.values())) > BYTES_MAX:
            return self.remove()
        actions = {
            self.new_file: 20, self.append: 12, self.overwrite: 14, self.replace: 12, self.move: 8,
            self.remove: 6, self.change_size: 6, self.durable_write: 6, self.direct_write: 6,
            self.mapped_write: 0 if self.full else 6, self.large_file: 1, self.new_directory: 3,
            self.remove_directory: 1 if len(self.directories) > 1 else 0, self.sync_all: self.eager,
            self.read_back: 8,
        }
        self.random.choices(list(actions), list(actions.values()))[0]()

    def step_if_there_is_space(self):
        try:
            self.step()
        except OSError as error:
            if error.errno != errno.ENOSPC or self.log.current['k'] not in TAKE_SPACE:
                raise
            self.log.fail()
            self.give_up(self.log.current)

    def give_up(self, failed):
        """Removes the file that was written in part, and another one for the space."""
        os.closerange(self.log.fd + 1, self.log.fd + 16)
        if failed['k'] in ('write', 'truncate'):
            self.unlink(next(name for name, file in self.files.items() if file == failed['f']))
        if self.files:
            self.unlink(self.random.choice(list(self.files)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('directory')
    parser.add_argument('log')
    parser.add_argument('--client', type=int, required=True)
    parser.add_argument('--run', type=int, default=0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--full', action='store_true')
    parser.add_argument('--seconds', type=float, required=True)
    parser.add_argument('--control')
    parser.add_argument('--eager', type=float, default=1)
    parser.add_argument('--syncfs', action='store_true')
    client = Client(parser.parse_args())
    end = time.monotonic() + parser.parse_args().seconds
    try:
        while time.monotonic() < end:
            (client.step_if_there_is_space if client.full else client.step)()
    except OSError as error:
        print(f'client stopped at operation {client.log.number}: {error}', file=sys.stderr)
        sys.exit(3)


if __name__ == '__main__':
    main()
