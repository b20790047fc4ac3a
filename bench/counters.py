# SPDX-License-Identifier: Apache-2.0
"""What a piece of work cost: processor time, device bytes, requests, system calls."""
import os
import resource
import signal
import subprocess
import tempfile
import time

SECTOR_BYTES = 512
TICKS = os.sysconf('SC_CLK_TCK')


def client_seconds():
    return sum(sum(resource.getrusage(who)[:2])
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def server_seconds(pid):
    if pid is None:
        return 0.0
    with open(f'/proc/{pid}/stat', encoding='ascii') as stream:
        fields = stream.read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def machine_seconds():
    """All that was not idle, of all processors."""
    with open('/proc/stat', encoding='ascii') as stream:
        user, nice, system, _, _, irq, softirq = map(int, stream.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICKS


def device_bytes(device):
    """Read, written."""
    with open(f'/sys/block/{os.path.basename(device)}/stat', encoding='ascii') as stream:
        fields = stream.read().split()
    return int(fields[2]) * SECTOR_BYTES, int(fields[6]) * SECTOR_BYTES


class Costs:
    """Between start() and stop(). Device bytes: until settled() at the end of a sync."""

    def __init__(self, device, server):
        self.device = device
        self.server = server
        self.values = {}

    def _read(self):
        read, written = device_bytes(self.device)
        return {'client_s': client_seconds(), 'server_s': server_seconds(self.server),
                'machine_s': machine_seconds(), 'device_read': read, 'device_written': written,
                'seconds': time.monotonic()}

    def start(self):
        self.values = self._read()

    def stop(self):
        now = self._read()
        self.values = {name: now[name] - before for name, before in self.values.items()}

    def settled(self, before):
        """Adds what the device wrote since `before`, a device_bytes()."""
        self.values['device_written'] += device_bytes(self.device)[1] - before[1]


class Events:
    """FUSE requests and the server's system calls, counted by perf(1): a context manager, which
    slows what runs inside. `counts` is filled at the end."""

    def __init__(self, server):
        self.server = server
        self.counts = {}
        self.running = {}

    def __enter__(self):
        self._count('requests', '-a', '-e', 'fuse:fuse_request_send')
        if self.server is not None:
            self._count('server_calls', '-p', str(self.server), '-e', 'raw_syscalls:sys_enter')
        time.sleep(0.3)  # Until they count.
        return self

    def _count(self, name, *arguments):
        output = tempfile.NamedTemporaryFile(mode='r')
        process = subprocess.Popen(['perf', 'stat', '-x,', '-o', output.name, *arguments],
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running[name] = process, output

    def __exit__(self, *_):
        for name, (process, output) in self.running.items():
            process.send_signal(signal.SIGINT)
            process.wait()
            for line in output:
                value = line.split(',')[0]
                if value.isdigit():
                    self.counts[name] = int(value)
            output.close()
