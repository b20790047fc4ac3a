# SPDX-License-Identifier: Apache-2.0
"""Whether writes and flushes of a loop device reach the recorder's log, and in their order.

    recorder_trial.py DEVICE LOG
"""
import mmap
import os
import sys

from recording import FLUSH_BEGIN, WRITE_BEGIN, entries


def main():
    device, log = sys.argv[1:]
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, 8192)
    expected = []
    for i in range(20):
        memory[:] = bytes([i]) * 8192
        os.pwrite(fd, memory, i * 8192)
        expected.append((WRITE_BEGIN, i * 8192))
        os.fdatasync(fd)
        expected.append((FLUSH_BEGIN, 0))
    os.close(fd)
    with open(log, 'rb') as stream:
        seen = [(kind, offset) for kind, _, offset, _, _ in entries(stream)
                if kind in (WRITE_BEGIN, FLUSH_BEGIN)]
    # Whoever opens or closes the device may flush it once more.
    while seen and seen[0][0] == FLUSH_BEGIN:
        del seen[0]
    if seen[:len(expected)] != expected:
        sys.exit(f'expected {expected}, but the log has {seen}')


if __name__ == '__main__':
    main()
