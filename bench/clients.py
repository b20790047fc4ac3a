# SPDX-License-Identifier: Apache-2.0
"""Processes that use a filesystem at the same time."""
import json
import os
import signal
import socket
import sys
import time
import traceback

from filesystems import die


class Client:
    """A process. It calls prepare(number), which returns a function of a deadline; when it is told
    to go it calls that one, and sends back what it returned, and when."""

    def __init__(self, number, prepare, seconds):
        self.number = number
        self.socket, child = socket.socketpair()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._serve(child, prepare, seconds)
        child.close()

    def _serve(self, child, prepare, seconds):
        try:
            for name in (signal.SIGTERM, signal.SIGINT):
                signal.signal(name, signal.SIG_DFL)
            self.socket.close()
            work = prepare(self.number)
            child.sendall(b'r')
            if child.recv(1):
                done = work(time.monotonic() + seconds)
                child.sendall(json.dumps({'done': done, 'end': time.monotonic()}).encode())
        except BaseException as error:  # die() raises SystemExit.
            text = str(error) if isinstance(error, SystemExit) else traceback.format_exc()
            child.sendall(json.dumps({'error': text}).encode())
        finally:
            os._exit(0)

    def _received(self, text):
        while part := self.socket.recv(4096):
            text += part
        if not text:
            die(f'process {self.number} was killed')
        result = json.loads(text)
        if 'error' in result:
            die(f'process {self.number}: {result["error"]}')
        return result

    def wait_until_ready(self):
        byte = self.socket.recv(1)
        if byte != b'r':
            self._received(byte)

    def go(self):
        self.socket.sendall(b'g')

    def result(self):
        """`done` and `end`."""
        return self._received(b'')

    def end(self):
        """If it has not ended."""
        self.socket.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        finally:
            os.waitpid(self.pid, 0)


def counted(count, prepare, seconds=0):
    """What `count` processes did: the sum of what their functions returned, and the seconds from
    their common start to the end of the last. The deadline is `seconds` after the start; that they
    heed it is up to them."""
    clients = []
    try:
        for number in range(count):
            clients.append(Client(number, prepare, seconds))
        for client in clients:
            client.wait_until_ready()
        start = time.monotonic()
        for client in clients:
            client.go()
        results = [client.result() for client in clients]
    finally:
        for client in clients:
            client.end()
    return (sum(result['done'] or 0 for result in results),
            max(result['end'] for result in results) - start)


def in_parallel(count, function):
    """In processes of their own, all at once."""
    counted(count, lambda number: lambda _: function(number))
