# SPDX-License-Identifier: Apache-2.0
"""Runs a command where io_uring is refused, as kernel.io_uring_disabled=2 does it, but only there.

    without_io_uring.py COMMAND [ARGUMENT...]
"""
import ctypes
import errno
import os
import struct
import sys

PR_SET_SECCOMP = 22
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_MODE_FILTER = 2
IO_URING_SETUP = 425  # On every architecture.

LOAD_WORD = 0x20  # BPF_LD | BPF_W | BPF_ABS
JUMP_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
RETURN = 0x06  # BPF_RET | BPF_K
ALLOW = 0x7fff0000
FAIL = 0x00050000  # | errno


class Program(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('filter', ctypes.c_char_p)]


def main():
    code = [(LOAD_WORD, 0, 0, 0), (JUMP_EQUAL, 0, 1, IO_URING_SETUP),
            (RETURN, 0, 0, FAIL | errno.EPERM), (RETURN, 0, 0, ALLOW)]
    raw = b''.join(struct.pack('<HBBI', *instruction) for instruction in code)
    program = Program(len(code), raw)
    libc = ctypes.CDLL(None, use_errno=True)
    if (libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 or
            libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0) != 0):
        sys.exit(f'seccomp: {os.strerror(ctypes.get_errno())}')
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == '__main__':
    main()
