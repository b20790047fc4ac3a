# SPDX-License-Identifier: Apache-2.0
"""Contents that say who wrote them.

A file consists of cells of 16 bytes. Each names the run, the client, the file, the operation and the
sector of the file, so that whatever is found later can be traced to the write it came from.
"""
import struct

CELL = 16
SECTOR = 512
ZERO = bytes(CELL)
FORMAT = '<HHIII'
MAGIC = 0x5042


class Writer:
    """What all cells of one client's run have in common."""

    def __init__(self, run, client):
        self.tag = MAGIC ^ (run << 8 & 0xff00)
        self.client = client

    def cell(self, file, operation, offset):
        return struct.pack(FORMAT, self.tag, self.client, file, operation, offset // SECTOR)

    def data(self, file, operation, offset, length):
        """The bytes that `operation` writes to `file` at `offset`; multiples of CELL."""
        first = offset // SECTOR
        last = (offset + length - 1) // SECTOR
        whole = b''.join(
            struct.pack(FORMAT, self.tag, self.client, file, operation, sector) * (SECTOR // CELL)
            for sector in range(first, last + 1))
        skip = offset - first * SECTOR
        return whole[skip:skip + length]


def describe(cell):
    if cell == ZERO:
        return 'zeroes'
    tag, client, file, operation, sector = struct.unpack(FORMAT, cell)
    if tag & 0xff != MAGIC & 0xff:
        return 'garbage ' + cell.hex()
    return (f'run {(tag ^ MAGIC) >> 8} client {client} file {file} operation {operation} '
            f'sector {sector}')
