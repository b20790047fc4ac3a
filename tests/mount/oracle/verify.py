# SPDX-License-Identifier: Apache-2.0
"""Compares a mount with what its clients wrote down.

    verify.py LOGS MOUNT [--run N]

LOGS holds 0.log, 1.log...; client N worked in MOUNT/cN. Prints every difference; exit code 1 if there
is one.
"""
import argparse
import glob
import os
import sys

from history import verify


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('logs')
    parser.add_argument('mount')
    parser.add_argument('--run', type=int, default=0)
    arguments = parser.parse_args()
    logs = sorted(glob.glob(os.path.join(arguments.logs, '*.log')))
    errors = [] if logs else ['there is no log']
    for log in logs:
        client = int(os.path.basename(log)[:-len('.log')])
        root = os.path.join(arguments.mount, f'c{client}')
        errors += [f'client {client}: {error}'
                   for error in verify(log, root, run=arguments.run, client=client)]
    print('\n'.join(errors))
    sys.exit(1 if errors else 0)


if __name__ == '__main__':
    main()
