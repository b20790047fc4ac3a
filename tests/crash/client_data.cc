// SPDX-License-Identifier: Apache-2.0
// Clients: data and persistence.
#include <fcntl.h>
#include <linux/falloc.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "fs/inode.h"
#include "tests/crash/client.h"
#include "tests/crash/session.h"
#include "tests/support/fs_client.h"

namespace pbfs {
namespace {

// Longer ones are cut up, as the kernel does.
constexpr size_t kWriteBytesMax = 512 << 10;

}  // namespace

// ---- Data ---------------------------------------------------------------------------------------

Status Client::CallWrite(InodeNumber ino, uint64_t offset, const std::string& bytes,
                         const WriteFlags& flags, bool hand_over) {
  std::string copy = bytes;
  std::vector<PageBuf*> frames;
  WritePayload payload;
  if (hand_over) {
    fs().page_cache().AllocateMany((bytes.size() + kPageBytes - 1) / kPageBytes, frames);
    for (size_t at = 0; at < bytes.size(); at += kPageBytes) {
      const size_t count = std::min(bytes.size() - at, kPageBytes);
      std::memcpy(frames[at / kPageBytes]->data, bytes.data() + at, count);
      payload.data.Append(frames[at / kPageBytes]->data, count);
    }
    payload.frames = &frames;
  } else {
    payload.data.Append(copy.data(), copy.size());
  }
  Event done;
  Status status;
  fs().Write(ino, offset, payload, flags, [&](const Status& result) {
    status = result;
    done.Set();
  });
  done.Wait();
  for (PageBuf* frame : frames) {
    if (frame != nullptr) fs().page_cache().Unpin(*frame);
  }
  return status;
}

void Client::DoWrite(std::string_view path, uint64_t offset, size_t length,
                     const WriteFlags& flags) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const bool sync = flags.sync_data || (!flags.from_page_cache && IsSync(place.id));
  const uint32_t write = ++writes_[place.id];
  const std::string bytes = PatternOf(PatternIdOf(place.id), write, offset, length);
  // Every other aligned write hands its frames over, as the FUSE bridge does.
  const bool hand_over = offset % kPageBytes == 0 && write % 2 == 0;
  const Status status = CallWrite(InodeOf(place.id), offset, bytes, flags, hand_over);
  // One that fails to become durable may have been accepted all the same.
  const bool accepted =
      !status.ok() && session_.accepts_failures() && sync && Shows(place.id, offset, bytes);
  if (accepted) session_.Failed(status, "O_DSYNC write");
  if (status.ok() || accepted) {
    NoteRewritten(place.id);
    if (accepted) session_.NoteSync(*this, place.id, status);
  }
  {
    MutexLock lock(session_.models_mutex());
    if (status.ok() || accepted) {
      std::string after = model_.Bytes(place.id);
      if (after.size() < offset + length) after.resize(offset + length, '\0');
      after.replace(offset, length, bytes);
      model_.SetBytes(place.id, std::move(after), /*resized=*/false);
      const bool timed = !flags.from_page_cache;
      Note(place.id, {.changed = timed, .modified = timed, .lazy = timed});
    }
    End(accepted ? OkStatus() : status, "write");
  }
  if (sync && status.ok()) {
    Acknowledge(status, model_.PromiseOf(place.id, /*datasync=*/true), "O_DSYNC write");
  }
}

void Client::NoteRewritten(Model::FileId id) {
  ++rewrites_[id];
  session_.NoteSync(*this, id, OkStatus());
}

bool Client::IsSync(Model::FileId id) {
  MutexLock lock(session_.models_mutex());
  return (NodeOf(id).flags & kInodeSync) != 0;
}

bool Client::Shows(Model::FileId id, uint64_t offset, const std::string& bytes) {
  const auto found = FsClient(fs()).Read(InodeOf(id), offset, bytes.size());
  return found.ok() && *found == bytes;
}

void Client::Write(std::string_view path, uint64_t offset, size_t length, bool from_page_cache) {
  for (size_t done = 0; done < length; done += kWriteBytesMax) {
    DoWrite(path, offset + done, std::min(length - done, kWriteBytesMax),
            {.from_page_cache = from_page_cache});
  }
}

void Client::WriteSync(std::string_view path, uint64_t offset, size_t length) {
  DoWrite(path, offset, length, {.sync_data = true});
}

void Client::WriteBuffered(std::string_view path, uint64_t offset, size_t length) {
  Write(path, offset, length, /*from_page_cache=*/true);
  SetAttributes request;
  request.mtime = request.ctime = CurrentTime();
  ChangeAttributes(path, request, "times of a write");
}

void Client::Append(std::string_view path, size_t length) {
  if (Lacks(path)) return;
  Write(path, Size(path), length);
}

void Client::Truncate(std::string_view path, uint64_t size) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  Begin();
  const Status status = FsClient(fs()).Truncate(InodeOf(place.id), size);
  MutexLock lock(session_.models_mutex());
  if (status.ok()) {
    std::string after = model_.Bytes(place.id);
    after.resize(size, '\0');
    model_.SetBytes(place.id, std::move(after), /*resized=*/true);
    Note(place.id, Modified());
    NoteRewritten(place.id);
  }
  End(status, "truncate");
}

void Client::Fallocate(std::string_view path, int mode, uint64_t offset, uint64_t length) {
  if (Lacks(path)) return;
  const Place place = Find(path);
  const bool drops = (mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
  Begin();
  const Status status = FsClient(fs()).Fallocate(InodeOf(place.id), mode, offset, length);
  std::string after;
  if (!status.ok() && drops) after = HalfZeroed(place.id, offset, length);
  MutexLock lock(session_.models_mutex());
  const std::string& before = model_.Bytes(place.id);
  if (status.ok()) {
    after = before;
    if ((mode & FALLOC_FL_KEEP_SIZE) == 0) {
      after.resize(std::max<size_t>(after.size(), offset + length), '\0');
    }
    const size_t end = std::min<size_t>(after.size(), offset + length);
    if (drops && offset < end) after.replace(offset, end - offset, end - offset, '\0');
    Note(place.id, Modified());
  } else if (!drops) {
    after = before;
  }
  if (after != before) {
    const bool resized = after.size() != before.size();
    model_.SetBytes(place.id, std::move(after), resized);
    NoteRewritten(place.id);
  }
  End(status, "fallocate");
}

void Client::Copy(std::string_view from, std::string_view to, uint64_t offset, uint64_t length) {
  if (Lacks(from) || Lacks(to)) return;
  const Model::FileId source = Find(from).id;
  const Model::FileId target = Find(to).id;
  while (length > 0 && !Broken()) {
    const uint64_t copied = CopyPart(
        {InodeOf(source), offset, std::min<uint64_t>(length, kWriteBytesMax)}, source, target);
    if (copied == 0) return;
    offset += copied;
    length -= copied;
  }
}

uint64_t Client::CopyPart(const FileRange& from, Model::FileId source, Model::FileId target) {
  const uint64_t size = model_.Bytes(source).size();
  if (from.offset_bytes >= size) return 0;
  uint64_t length = std::min(from.length_bytes, size - from.offset_bytes);
  const auto data = fs().Seek(from.ino, from.offset_bytes, SEEK_DATA);
  const bool in_hole = !data.ok() || *data > from.offset_bytes;
  const auto end = in_hole ? data : fs().Seek(from.ino, from.offset_bytes, SEEK_HOLE);
  if (end.ok()) length = std::min(length, *end - from.offset_bytes);
  // A hole is made as fallocate(2) and truncate(2) make it; a short one is zeroes like any data.
  const bool hole = in_hole && length >= kBlockBytes;
  Begin();
  const auto copied = fs().CopyRange({from.ino, from.offset_bytes, length},
                                     {InodeOf(target), from.offset_bytes}, {});
  std::string after;
  if (!copied.ok()) after = hole ? HalfZeroed(target, from.offset_bytes, length) : "";
  MutexLock lock(session_.models_mutex());
  const std::string& before = model_.Bytes(target);
  if (copied.ok()) {
    after = before;
    if (after.size() < from.offset_bytes + *copied) after.resize(from.offset_bytes + *copied, '\0');
    after.replace(from.offset_bytes, *copied,
                  model_.Bytes(source).substr(from.offset_bytes, *copied));
    if (hole) {
      Note(target, Modified());
    } else {
      Note(target, {.changed = true, .modified = true, .lazy = true});
    }
  } else if (!hole) {
    after = before;
  }
  if (copied.ok() || after != before) {
    const bool resized = hole && after.size() != before.size();
    model_.SetBytes(target, std::move(after), resized);
    NoteRewritten(target);
  }
  End(copied.status(), "copy");
  return copied.ok() ? *copied : 0;
}

std::string Client::HalfZeroed(Model::FileId id, uint64_t offset, uint64_t length) {
  std::string bytes = model_.Bytes(id);
  const auto found = FsClient(fs()).Read(InodeOf(id), 0, bytes.size());
  if (!found.ok() || found->size() != bytes.size()) return bytes;
  const size_t end = std::min<size_t>(bytes.size(), offset + length);
  for (size_t at = offset; at < end; ++at) {
    if ((*found)[at] == '\0') bytes[at] = '\0';
  }
  return bytes;
}

// ---- Persistence --------------------------------------------------------------------------------

void Client::Acknowledge(const Status& status, const Model::Promise& promise,
                         std::string_view what) {
  if (!status.ok()) {
    return session_.Failed(status, absl::StrCat("client ", number_, ", ", std::string(what),
                                                " after operation ", model_.op()));
  }
  session_.MarkAcknowledged(*this, promise);
}

void Client::Fsync(std::string_view path, bool datasync) {
  const std::unique_ptr<PendingSync> pending = FsyncStart(path, datasync);
  Await(*pending);
}

std::unique_ptr<Client::PendingSync> Client::FsyncStart(std::string_view path, bool datasync) {
  auto pending = std::make_unique<PendingSync>();
  if (Lacks(path)) {
    pending->begun = false;
    pending->status = ErrnoError(EIO, "an operation failed before");
    pending->done.Set();
    return pending;
  }
  const Model::FileId id = Find(path).id;
  pending->promise = model_.PromiseOf(id, datasync);
  pending->file = id;
  pending->rewrites = rewrites_[id];
  fs().Fsync(InodeOf(id), datasync, [raw = pending.get()](const Status& status) {
    raw->status = status;
    raw->done.Set();
  });
  return pending;
}

void Client::Await(PendingSync& pending) {
  pending.done.Wait();
  if (!pending.begun) return;
  // What was written since may have replaced the pages that it failed for.
  if (pending.status.ok() || rewrites_[pending.file] == pending.rewrites) {
    session_.NoteSync(*this, pending.file, pending.status);
  }
  Acknowledge(pending.status, pending.promise, "fsync");
}

void Client::Sync() {
  if (Broken()) return;
  session_.SyncAll();
}

}  // namespace pbfs
