# SPDX-License-Identifier: Apache-2.0
"""What a client's log allows and demands of the filesystem after a power cut.

A cut at position P has seen every operation that was begun at P or before, in part or not at all;
it must have kept what a synchronising operation acknowledged at P or before covers:

  fsync, fdatasync, msync   the file's data and size, its name, the directories that lead to it
  O_DSYNC write             what it wrote, the file's name, the directories
  fsync of a directory      all changes of names in it before, its own name
  syncfs                    everything before

Whatever came later may be there or not, in part; a rename happens entirely or not at all.
"""
import json
import os

from pattern import CELL, SECTOR, ZERO, Writer, describe

FOREVER = 1 << 62


class Operation:
    def __init__(self, line):
        self.number = line['o']
        self.kind = line['k']
        self.begin = line['b']
        self.ack = None
        self.fields = line
        self.forced = False  # Must have survived.

    def __getitem__(self, key):
        return self.fields[key]

    def names(self):
        """The changes of names: (name, file or 'dir' or None)."""
        if self.kind == 'create':
            return [(self['n'], self['f'])]
        if self.kind == 'rename':
            return [(self['n'], None), (self['to'], self['f'])]
        if self.kind == 'mkdir':
            return [(self['n'], 'dir')]
        if self.kind in ('unlink', 'rmdir'):
            return [(self['n'], None)]
        return []


def read_log(path):
    operations = []
    with open(path, encoding='ascii') as stream:
        for text in stream:
            line = json.loads(text)
            if 'k' in line:
                operations.append(Operation(line))
            elif 'a' in line:
                operations[-1].ack = line['a']
            elif operations[-1].kind not in ('write', 'truncate'):
                operations[-1].kind = 'failed'  # Nothing happened. (Of data a part may be there.)
    return operations


class State:
    """One client's files, as a cut at `position` may have left them."""

    def __init__(self, operations, position, writer):
        self.writer = writer
        self.issued = [op for op in operations if op.begin <= position]
        self.data_floor = {}  # File -> number of the last operation that covers all its data.
        self._pending = {}  # 'f' and file, or 'd' and directory -> changes of names not yet synced.
        self._directory_of = {}  # File -> directory.
        for op in self.issued:
            op.forced = False
            self._note(op)
            if op.ack is not None and op.ack <= position:
                self._force(op)
        self._collect_names()
        self._collect_data()

    def _note(self, op):
        keys = {('d', os.path.dirname(name)) for name, _ in op.names()}
        if op.kind in ('create', 'rename'):
            keys.add(('f', op['f']))
            self._directory_of[op['f']] = os.path.dirname(op.names()[-1][0])
        elif op.kind == 'mkdir':
            keys.add(('made', op['n']))
        for key in keys:
            self._pending.setdefault(key, []).append(op)

    def _force(self, sync):
        if sync.kind == 'syncfs':
            for key in list(self._pending):
                self._force_names(key)
            for op in self.issued[:sync.number - 1]:
                if op.kind in ('write', 'truncate'):
                    self.data_floor[op['f']] = sync.number
        elif sync.kind == 'dirsync':
            self._force_names(('d', sync['n']))
            self._force_names(('made', sync['n']))
        elif sync.kind == 'fsync' or (sync.kind == 'write' and sync['d']):
            self._force_names(('f', sync['f']))
            self._force_names(('made', self._directory_of[sync['f']]))
            if sync.kind == 'fsync':
                self.data_floor[sync['f']] = sync.number
            else:
                sync.forced = True

    def _force_names(self, key):
        for op in self._pending.pop(key, []):
            op.forced = True

    def _collect_names(self):
        """Name -> what it may be; files that must be somewhere."""
        self.candidates = {}
        removable = {}
        for op in self.issued:
            for name, value in op.names():
                known = set() if op.forced else self.candidates.get(name, {None})
                self.candidates[name] = known | {value}
            if op.kind in ('create', 'rename'):
                # True: it may be missing.
                removable[op['f']] = removable.get(op['f'], True) and not op.forced
            gone = op['f'] if op.kind == 'unlink' else op.fields.get('old')
            if gone is not None:
                removable[gone] = True
        self.must_exist = {file for file, may_miss in removable.items() if not may_miss}

    def _collect_data(self):
        self.data_operations = {}
        for op in self.issued:
            if op.kind in ('write', 'truncate'):
                self.data_operations.setdefault(op['f'], []).append(op)

    def _content_at_floor(self, file):
        content = bytearray()
        floor = self.data_floor.get(file, 0)
        for op in self.data_operations.get(file, []):
            if op.number > floor:
                break
            end = op['size'] if op.kind == 'truncate' else op['at'] + op['len']
            if end > len(content) or op.kind == 'truncate':
                del content[end:]
                content.extend(bytes(end - len(content)))
            if op.kind == 'write':
                content[op['at']:end] = self.writer.data(file, op.number, op['at'], op['len'])
        return content

    def content_error(self, file, actual):
        """None if `actual` is what the file may contain."""
        base = self._content_at_floor(file)
        floor = self.data_floor.get(file, 0)
        later = [op for op in self.data_operations.get(file, []) if op.number > floor]
        low = high = len(base)
        for op in later:
            end = op['size'] if op.kind == 'truncate' else op['at'] + op['len']
            if op.kind == 'truncate':
                low, high = min(low, end), max(high, end)
            else:
                low, high = max(low, end) if op.forced else low, max(high, end)
        if not low <= len(actual) <= high:
            return f'file {file} has {len(actual)} bytes, not {low} to {high}'
        length = len(actual)
        base.extend(bytes(max(0, length - len(base))))
        if actual == memoryview(base)[:length]:
            clean = not any(op.forced for op in later)
            if clean:
                return None
        for offset in range(0, length, SECTOR):
            error = self._sector_error(file, actual, base, len(base), later, offset)
            if error:
                return f'file {file} (synced at operation {floor}), {error}'
        return None

    def _sector_error(self, file, actual, base, base_length, later, offset):
        end = min(offset + SECTOR, len(actual))
        touching = [op for op in later if op.kind == 'truncate' and op['size'] < end or
                    op.kind == 'write' and op['at'] < end and op['at'] + op['len'] > offset]
        if not touching and actual[offset:end] == base[offset:end]:
            return None
        # Between two edges every cell has the same history.
        edges = {edge for op in touching for edge in self._edges(op) if offset < edge < end}
        edges = sorted(edges | {offset, end})
        for first, last in zip(edges, edges[1:]):
            error = self._cells_error(file, actual, base, touching, first, last)
            if error:
                return error
        return None

    @staticmethod
    def _edges(op):
        return [op['size']] if op.kind == 'truncate' else [op['at'], op['at'] + op['len']]

    def _cells_error(self, file, actual, base, touching, first, last):
        may_be_base = True
        cells = set()
        for op in touching:
            if op.kind == 'truncate':
                cells |= {ZERO} if op['size'] <= first else set()
            elif op['at'] <= first < op['at'] + op['len']:
                if op.forced:
                    may_be_base = False
                    cells = set()
                cells.add(self.writer.cell(file, op.number, first))
        found = bytes(actual[first:last])
        # As a rule all cells are alike; compared one by one only if not.
        if may_be_base and found == base[first:last] or found[:CELL] in cells and (
                found == found[:CELL] * (len(found) // CELL)):
            return None
        for at in range(first, last, CELL):
            cell = bytes(actual[at:at + CELL])
            allowed = cells | {bytes(base[at:at + CELL])} if may_be_base else cells
            if cell not in allowed:
                return (f'byte {at}: found {describe(cell)}; '
                        f'allowed: {", ".join(sorted(map(describe, allowed)))}')
        return None


def read_tree(root):
    """Name -> bytes of a file, None for a directory."""
    found = {}
    for directory, directories, files in os.walk(root, onerror=_raise):
        for name in directories:
            found[os.path.relpath(os.path.join(directory, name), root)] = None
        for name in files:
            path = os.path.join(directory, name)
            with open(path, 'rb') as stream:
                found[os.path.relpath(path, root)] = stream.read()
    return found


def _raise(error):
    raise error


def errors_of(state, root):
    """Everything below `root` that the state does not allow."""
    errors = []
    found = read_tree(root)
    seen = {}
    for name in sorted(set(found) | set(state.candidates)):
        allowed = state.candidates.get(name, {None})
        if name not in found:
            if None not in allowed:
                errors.append(f'{name} is missing; it must be {allowed}')
        elif found[name] is None:
            if 'dir' not in allowed:
                errors.append(f'{name} is a directory; it must be {allowed}')
        else:
            errors += _file_errors(state, name, found[name], allowed, seen)
    for file in state.must_exist - set(seen):
        errors.append(f'file {file} is nowhere')
    return errors


def _file_errors(state, name, content, allowed, seen):
    files = [file for file in allowed if isinstance(file, int)]
    if not files:
        return [f'{name} exists; it must be {allowed}']
    errors = [(file, state.content_error(file, content)) for file in sorted(files)]
    matching = [file for file, error in errors if error is None]
    if not matching:
        return [f'{name}: {error}' for _, error in errors]
    result = []
    for file in matching:
        if seen.get(file) and content and len(matching) == 1:
            result.append(f'file {file} is both {seen[file]} and {name}')
        # Where it may be another (both could be empty), a second name is no contradiction.
        seen[file] = name if len(matching) == 1 else seen.get(file)
    return result


def verify(log, root, position=FOREVER, run=0, client=0, operations=None):
    """Errors in one client's directory after a cut at `position`."""
    operations = read_log(log) if operations is None else operations
    return errors_of(State(operations, position, Writer(run, client)), root)
