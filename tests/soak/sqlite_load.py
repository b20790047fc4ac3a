#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Moves money between accounts in an SQLite database, in small durable transactions, for some seconds.

    sqlite_load.py [--check] FOLDER [SECONDS]

Each transfer is one transaction and leaves a line in a journal table. Half of the databases use the
write-ahead log, half the rollback journal. Fails if the sum of all accounts, the number of the lines or
SQLite's own check is not as it should be; with --check it does only look.
"""
import os
import random
import sqlite3
import sys
import time

ACCOUNTS = 1000
BALANCE = 1000
KEPT_TRANSFERS = 20000  # Older lines are removed, so that the database does not grow for ever.


def connect(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f'PRAGMA journal_mode = {"WAL" if path.endswith("wal") else "DELETE"}')
    connection.execute('PRAGMA synchronous = FULL')
    connection.execute('CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, balance INTEGER)')
    connection.execute('CREATE TABLE IF NOT EXISTS transfer (id INTEGER PRIMARY KEY AUTOINCREMENT, '
                       'source INTEGER, target INTEGER, amount INTEGER, note TEXT)')
    if connection.execute('SELECT count(*) FROM account').fetchone()[0] == 0:
        connection.execute('BEGIN')
        connection.executemany('INSERT INTO account VALUES (?, ?)',
                               ((number, BALANCE) for number in range(ACCOUNTS)))
        connection.execute('COMMIT')
    return connection


def check(connection, path):
    problem = connection.execute('PRAGMA integrity_check').fetchone()[0]
    if problem != 'ok':
        sys.exit(f'{path}: {problem}')
    total, = connection.execute('SELECT sum(balance) FROM account').fetchone()
    if total != ACCOUNTS * BALANCE:
        sys.exit(f'{path}: the accounts sum up to {total}')


def transfer(connection):
    source, target = random.sample(range(ACCOUNTS), 2)
    amount = random.randrange(100)
    connection.execute('BEGIN IMMEDIATE')
    connection.execute('UPDATE account SET balance = balance - ? WHERE id = ?', (amount, source))
    connection.execute('UPDATE account SET balance = balance + ? WHERE id = ?', (amount, target))
    done = connection.execute('INSERT INTO transfer (source, target, amount, note) VALUES (?, ?, ?, ?)',
                              (source, target, amount, 'x' * random.randrange(2000))).lastrowid
    connection.execute('DELETE FROM transfer WHERE id <= ?', (done - KEPT_TRANSFERS,))
    connection.execute('COMMIT')
    return done


def main():
    arguments = sys.argv[1:]
    only_check = arguments[:1] == ['--check']
    folder = arguments[only_check]
    paths = [os.path.join(folder, name) for name in ('rollback', 'wal')]
    connections = {path: connect(path) for path in paths}
    last = {}
    if not only_check:
        end = time.monotonic() + float(arguments[1])
        while time.monotonic() < end:
            for path, connection in connections.items():
                last[path] = transfer(connection)
    for path, connection in connections.items():
        check(connection, path)
        newest, = connection.execute('SELECT max(id) FROM transfer').fetchone()
        if path in last and newest != last[path]:
            sys.exit(f'{path}: the last transfer is {newest}, not {last[path]}')
        connection.close()


main()
