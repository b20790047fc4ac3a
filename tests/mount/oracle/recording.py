# SPDX-License-Identifier: Apache-2.0
"""The recorder's log, and the disk as a power cut in it may have left it."""
import struct

WRITE_BEGIN, WRITE_END, FLUSH_BEGIN, FLUSH_END, ZERO_BEGIN = 1, 2, 3, 4, 5
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
        self.ended = []  # Ended, not durable, in the order of their ends.
        self.flushes = {}  # Id -> how many of `ended` it covers.
        self.dropped = 0  # Entries that left the front of `ended` so far.

    def follow(self, entry):
        kind, number, offset, _, data = entry
        if kind in (WRITE_BEGIN, ZERO_BEGIN):
            self.open[number] = (offset, data)
        elif kind == WRITE_END:
            self.ended.append(self.open.pop(number))
        elif kind == FLUSH_BEGIN:
            self.flushes[number] = self.dropped + len(self.ended)
        elif kind == FLUSH_END:
            self._make_durable(self.flushes.pop(number))

    def _make_durable(self, up_to):
        count = max(0, up_to - self.dropped)
        if self.lie:
            count = max(0, len(self.ended) - 200)
        for offset, data in self.ended[:count]:
            self.base.seek(offset)
            self.base.write(data)
        del self.ended[:count]
        self.dropped += count

    def cut(self, image, how, random):
        """Turns `image`, a copy of the base, into what `how` leaves of the pending writes."""
        pending = self.ended + list(self.open.values())
        if how == 'lose one' and pending:
            del pending[random.randrange(len(pending))]
        elif how == 'keep one' and pending:
            pending = [random.choice(pending)]
        elif how == 'keep half':
            pending = [write for write in pending if random.random() < 0.5]
        elif how == 'reverse':
            # What was written last is what lasted.
            pending = pending[random.randrange(len(pending) + 1):]
        elif how == 'lose all':
            pending = []
        for offset, data in pending:
            if how == 'tear all':
                self._write_torn(image, offset, data, random)
            else:
                image.seek(offset)
                image.write(data)
        return len(self.ended) + len(self.open), len(pending)

    @staticmethod
    def _write_torn(image, offset, data, random):
        sectors = range(0, len(data), SECTOR)
        cut = random.randrange(len(sectors) + 1)
        kept = random.choice([sectors[:cut], sectors[cut:],
                              [at for at in sectors if random.random() < 0.5]])
        for at in kept:
            image.seek(offset + at)
            image.write(data[at:at + SECTOR])
