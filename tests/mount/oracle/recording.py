# SPDX-License-Identifier: Apache-2.0
"""The recorder's log, and the disk as a power cut in it may have left it."""
import struct

WRITE_BEGIN, WRITE_END, FLUSH_BEGIN, FLUSH_END, ZERO_BEGIN, DURABLE_WRITE_END = range(1, 7)
HEADER = struct.Struct('<QQQQ')
SECTOR = 512
HOW = ('lose all', 'keep all', 'keep half', 'tear all', 'lose one', 'keep one', 'reverse')


def entries(stream):
    """(kind, id, offset, length, data) of each entry; data None where there is none."""
    while header := stream.read(HEADER.size):
        if len(header) < HEADER.size:
            return
        kind, number, offset, length = HEADER.unpack(header)
        data = stream.read(length) if kind == WRITE_BEGIN else None
        if kind == ZERO_BEGIN:
            data = bytes(length)
        yield kind, number, offset, length, data


class Disk:
    """Follows the log. `base` holds what is durable, `pending` what a power cut may take."""

    def __init__(self, base, lie=False):
        self.base = base  # A file open for writing.
        self.lie = lie  # Flushes make nothing durable until much later.
        self.open = {}  # Begun, not ended: id -> (offset, data).
        self.ended = []  # Ended since the last flush, in the order of their ends.
        self.durable = set()  # Of these, the ids of writes that are durable by themselves.
        self.flushes = {}  # Id -> how many of `ended` it covers.
        self.dropped = 0  # Entries that left the front of `ended` so far.

    def follow(self, entry):
        kind, number, offset, _, data = entry
        if kind in (WRITE_BEGIN, ZERO_BEGIN):
            self.open[number] = (offset, data, number)
        elif kind in (WRITE_END, DURABLE_WRITE_END):
            self.ended.append(self.open.pop(number))
            if kind == DURABLE_WRITE_END and not self.lie:
                self.durable.add(number)
        elif kind == FLUSH_BEGIN:
            self.flushes[number] = self.dropped + len(self.ended)
        elif kind == FLUSH_END:
            self._make_durable(self.flushes.pop(number))

    def _make_durable(self, up_to):
        count = max(0, up_to - self.dropped)
        if self.lie:
            count = max(0, len(self.ended) - 200)
        for offset, data, number in self.ended[:count]:
            self.base.seek(offset)
            self.base.write(data)
            self.durable.discard(number)
        del self.ended[:count]
        self.dropped += count

    def cut(self, image, how, random):
        """Turns `image`, a copy of the base, into what `how` leaves of the pending writes."""
        writes = self.ended + list(self.open.values())
        pending = [write for write in writes if write[2] not in self.durable]
        kept = {number for _, _, number in self._kept(pending, how, random)}
        for offset, data, number in writes:
            if number in kept and how == 'tear all':
                self._write_torn(image, offset, data, random)
            elif number in kept or number in self.durable:
                image.seek(offset)
                image.write(data)
        return len(pending), len(kept)

    @staticmethod
    def _kept(pending, how, random):
        if how == 'lose all':
            return []
        if how == 'lose one' and pending:
            lost = random.randrange(len(pending))
            return pending[:lost] + pending[lost + 1:]
        if how == 'keep one' and pending:
            return [random.choice(pending)]
        if how == 'keep half':
            return [write for write in pending if random.random() < 0.5]
        if how == 'reverse':
            # What was written last is what lasted.
            return pending[random.randrange(len(pending) + 1):]
        return pending

    @staticmethod
    def _write_torn(image, offset, data, random):
        sectors = range(0, len(data), SECTOR)
        cut = random.randrange(len(sectors) + 1)
        kept = random.choice([sectors[:cut], sectors[cut:],
                              [at for at in sectors if random.random() < 0.5]])
        for at in kept:
            image.seek(offset + at)
            image.write(data[at:at + SECTOR])
