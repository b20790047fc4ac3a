# SPDX-License-Identifier: Apache-2.0
"""Changes the superblock of an image (the bytes of fs/format.h) and makes its checksum right again.

    patch_superblock.py IMAGE FIELD=VALUE...     FIELD: compat, ro_compat, incompat, version_major
    patch_superblock.py IMAGE damage             leaves a wrong checksum
"""
import struct
import sys

BLOCK = 4096
FIELDS = {'version_major': (64, '<H'), 'compat': (80, '<Q'), 'ro_compat': (88, '<Q'),
          'incompat': (96, '<Q')}


def crc32c(data):
    crc = 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def main():
    with open(sys.argv[1], 'r+b') as image:
        block = bytearray(image.read(BLOCK))
        crc = struct.unpack_from('<I', block, 4)[0]
        struct.pack_into('<I', block, 4, 0)
        if block[:4] != b'PBFS' or crc != crc32c(block):
            sys.exit('this is no superblock')
        for change in sys.argv[2:]:
            if change == 'damage':
                block[200] ^= 1
                continue
            field, value = change.split('=')
            offset, form = FIELDS[field]
            struct.pack_into(form, block, offset, int(value, 0))
            crc = 0
        if 'damage' not in sys.argv:
            crc = crc32c(block)
        struct.pack_into('<I', block, 4, crc)
        image.seek(0)
        image.write(block)


if __name__ == '__main__':
    main()
