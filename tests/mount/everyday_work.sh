# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What people do in a directory all day; run by everyday.sh, maybe as another user. For each thing
# prints a line that begins with ok, FAIL or skip.
#
#   bash everyday_work.sh DIRECTORY SOURCE-TREE SMALL-TREE long|short PBFS-SOURCE
#   bash everyday_work.sh DIRECTORY checksums
set -u
cd "$1" || exit 1
# Of everything with data; of the sparse file, what it begins with.
if [ "$2" = checksums ]; then
  find . -xdev -type f -size -1048576k -print0 | sort -z | xargs -0 sha256sum
  head -c 4M sparse | sha256sum
  exit
fi
source=$2
small=$3
size=$4
pbfs_source=$5
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export HOME=$temporary GIT_CONFIG_NOSYSTEM=1

pick() { if [ "$size" = long ]; then echo "$1"; else echo "$2"; fi; }
check() {
  local what=$1 start=$SECONDS
  shift
  if "$@" >"$temporary/output" 2>&1; then
    echo "ok    $what ($((SECONDS - start)) s)"
  else
    echo "FAIL  $what"
    sed 's/^/      /' "$temporary/output" | tail -20
  fi
}
# check_with PROGRAM WHAT COMMAND...: where the program is installed.
check_with() {
  local program=$1
  shift
  if command -v "$program" >/dev/null; then check "$@"; else echo "skip  $1: no $program"; fi
}

copy_tree() { cp -a "$source" tree && diff -r --no-dereference "$source" tree; }

git_repository() (
  set -e
  cp -a "$(pick "$source" "$small")" repository
  cd repository
  git init -q
  git config gc.auto 0  # It would run in the background, and remove objects that fsck looks at.
  git config user.name pbfs
  git config user.email pbfs@localhost
  git add -A
  git commit -q -m everything
  git fsck --full --no-progress
  rm -r -- *
  git checkout -q -- .
  [ -z "$(git status --porcelain)" ]
  git gc -q
  git fsck --full --no-progress
)

sqlite_transactions() {
  local count mode
  count=$(pick 5000 150)
  for mode in delete wal; do
    {
      echo "PRAGMA journal_mode=$mode; CREATE TABLE IF NOT EXISTS t(i INTEGER, s TEXT);"
      for ((i = 0; i < count; ++i)); do
        echo "BEGIN; INSERT INTO t VALUES($i, hex(randomblob(100))); COMMIT;"
      done
    } | sqlite3 database >/dev/null || return 1
  done
  [ "$(sqlite3 database 'PRAGMA integrity_check')" = ok ] &&
    [ "$(sqlite3 database 'SELECT count(*) FROM t')" = $((count * 2)) ]
}

rsync_copy() {
  rsync -a tree/ synced/ && [ -z "$(rsync -a --checksum --dry-run --itemize-changes tree/ synced/)" ]
}

many_files() {
  local count
  count=$(pick 100000 10000)
  mkdir many &&
    (cd many && seq -f 'a-file-with-a-name-%g' "$count" | xargs touch) &&
    [ "$(find many -type f | wc -l)" -eq "$count" ] &&
    (cd many && seq -f 'a-file-with-a-name-%g' 1 2 "$count" | xargs rm) &&
    [ "$(find many -type f | wc -l)" -eq $((count / 2)) ] &&
    [ "$(find many -name '*[13579]' | wc -l)" -eq 0 ]
}

# 10 GB with data here and there, more than the device holds.
sparse_file() {
  truncate -s 10G sparse || return 1
  local at
  for at in 0 1 2047 5000 7777 10239; do
    head -c 1000000 /dev/urandom | dd of=sparse bs=1M seek="$at" conv=notrunc status=none || return 1
  done
  cp --sparse=always sparse sparse2 && mkdir untar && tar -S -cf sparse.tar sparse &&
    tar -S -xf sparse.tar -C untar || return 1
  local copy
  for copy in sparse sparse2 untar/sparse; do
    stat -c "$copy: %s bytes, %b blocks" "$copy"
    [ "$(stat -c %s "$copy")" -eq 10737418240 ] && [ "$(stat -c %b "$copy")" -lt 20000 ] || return 1
    for at in 0 1 2047 5000 7777 10239; do
      cmp -n 1048576 -i $((at << 20)) sparse "$copy" || return 1
    done
  done
  [ "$size" != long ] || { cmp sparse sparse2 && cmp sparse untar/sparse; }
}

fio_verify() {
  local bytes
  bytes=$(pick 512M 24M)
  fio --name=verify --filename="fio-$1" --size="$bytes" --bs=4k-64k --rw=randwrite --verify=crc32c \
    --do_verify=1 --verify_fatal=1 --verify_dump=0 "${@:2}"
}

mapped_write() {
  python3 - <<'PY'
import mmap, os
fd = os.open('mapped', os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 16 << 20)
memory = mmap.mmap(fd, 16 << 20)
for offset in range(0, 16 << 20, 4096):
    memory[offset:offset + 8] = offset.to_bytes(8, 'little')
memory.flush(0, 8 << 20)
memory[5:9] = b'late'
memory.close()
with open('mapped', 'rb') as stream:
    content = stream.read()
assert len(content) == 16 << 20 and content[5:9] == b'late'
assert all(content[offset:offset + 8] == offset.to_bytes(8, 'little')
           for offset in range(4096, 16 << 20, 4096))
PY
}

# pbfs itself, and what its unit tests say when they run here.
build_pbfs() {
  cp -r "$pbfs_source" pbfs && cd pbfs && export CCACHE_DISABLE=1 TMPDIR=$PWD &&
    cmake --preset release && cmake --build --preset release &&
    ctest --test-dir build -j "$(nproc)" --timeout 600 --output-on-failure
}

check "copying and comparing $(find "$source" -type f | wc -l) files" copy_tree
check_with git "git: init, add, commit, fsck, checkout, gc" git_repository
check_with sqlite3 "SQLite: transactions and integrity_check" sqlite_transactions
check_with rsync "rsync --checksum" rsync_copy
check "$(pick 100000 10000) files in one directory" many_files
check "a sparse file of 10 GB: cp --sparse=always, tar -S" sparse_file
check_with fio "fio verify, buffered" fio_verify buffered --ioengine=psync
check_with fio "fio verify, O_DIRECT" fio_verify direct --direct=1 --ioengine=libaio --iodepth=16
check_with python3 "a file written through a mapping" mapped_write
[ "$size" != long ] || check_with cmake "building pbfs and running its unit tests" build_pbfs
