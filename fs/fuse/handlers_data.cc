// SPDX-License-Identifier: Apache-2.0
// File contents: open, read, write, fsync, seek, fallocate, copies.
#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "base/check.h"
#include "fs/fuse/handlers.h"
#include "fs/fuse/kernel_behaviour.h"

namespace pbfs::fuse {
namespace {

// Several direct writes to one file at once, and the kernel's cache kept across opens. The first is
// unknown to libfuse 3.14, so the answer is put together here.
void ReplyOpen(fuse_req_t request, uint32_t flags) {
  fuse_open_out out = {};
  out.open_flags = flags;
  fuse_reply_buf(request, reinterpret_cast<const char*>(&out), sizeof(out));
}

// A WRITE from its handler to its answer, which may come after the handler has ended: until then it
// keeps the frames that hold the payload. Shared by the two, as either may be last.
struct WriteJob {
  WriteJob(PageCache& cache, std::vector<PageBuf*> received)
      : cache(cache), frames(std::move(received)) {}
  ~WriteJob() {
    for (PageBuf* frame : frames) {
      if (frame != nullptr) cache.Unpin(*frame);
    }
  }
  WriteJob(const WriteJob&) = delete;
  WriteJob& operator=(const WriteJob&) = delete;

  PageCache& cache;
  std::vector<PageBuf*> frames;
  // The filesystem has answered and touches neither payload nor frames any more.
  std::atomic<bool> answered{false};
};

WritePayload PayloadOf(WriteJob& job, size_t size_bytes) {
  WritePayload payload;
  for (PageBuf* frame : job.frames) {
    const size_t rest = size_bytes - payload.data.size_bytes();
    payload.data.Append(frame->data, rest < kPageBytes ? rest : kPageBytes);
  }
  PBFS_CHECK(payload.data.size_bytes() == size_bytes);
  payload.frames = &job.frames;
  return payload;
}

WriteFlags WriteFlagsOf(const Session& session, const fuse_write_in& body) {
  WriteFlags flags;
  const bool cached = (body.write_flags & FUSE_WRITE_CACHE) != 0;
  // Without its write cache the kernel leaves the times of mapped writes to us.
  flags.from_page_cache = cached && session.options().writeback_cache;
  // Cached writes of a file opened O_SYNC are followed by an FSYNC.
  flags.sync_data = !cached && (body.flags & (O_SYNC | O_DSYNC)) != 0;
  flags.kill_suidgid = (body.write_flags & FUSE_WRITE_KILL_SUIDGID) != 0;
  return flags;
}

// Immutable files are only read, append-only ones not written but at their end.
Status CheckOpen(const Attributes& attributes, int flags) {
  if ((flags & O_ACCMODE) == O_RDONLY && (flags & O_TRUNC) == 0) return OkStatus();
  const bool appends = (flags & O_APPEND) != 0 && (flags & O_TRUNC) == 0;
  if ((attributes.flags & kInodeImmutable) != 0 ||
      ((attributes.flags & kInodeAppendOnly) != 0 && !appends)) {
    return ErrnoError(EPERM, "the file is immutable or append-only");
  }
  return OkStatus();
}

}  // namespace

void HandleOpen(fuse_req_t request, fuse_ino_t nodeid, fuse_file_info* file) {
  Session& session = SessionOf(request);
  if (!session.ServesThisOpen()) {
    fuse_reply_err(request, ENOSYS);
    return;
  }
  const auto attributes = session.fs().GetAttributes(session.InodeOf(nodeid));
  if (!attributes.ok()) return ReplyStatus(request, attributes.status());
  const Status may_open = CheckOpen(*attributes, file->flags);
  if (!may_open.ok()) return ReplyStatus(request, may_open);
  if (t_request->body<fuse_open_in>().open_flags & FUSE_OPEN_KILL_SUIDGID) {
    SetAttributes change;
    change.kill_suidgid = true;
    change.kill_setgid = CallerLosesSetgid(request, session.InodeOf(nodeid));
    const auto changed = session.fs().SetAttributesOf(session.InodeOf(nodeid), change);
    if (!changed.ok()) return ReplyStatus(request, changed.status());
  }
  uint32_t reply = FOPEN_KEEP_CACHE | FOPEN_PARALLEL_DIRECT_WRITES | FOPEN_NOFLUSH;
  // Each write of a sync file comes to us, and is answered when it is durable.
  if ((attributes->flags & kInodeSync) != 0) {
    reply |= FOPEN_DIRECT_IO;
    session.NoteDirectOpen();
  }
  ReplyOpen(request, reply);
}

void HandleOpenDir(fuse_req_t request, fuse_ino_t, fuse_file_info*) {
  if (!SessionOf(request).serves_open()) {
    fuse_reply_err(request, ENOSYS);
    return;
  }
  ReplyOpen(request, FOPEN_KEEP_CACHE | FOPEN_CACHE_DIR);
}

namespace {

void ReplyRead(fuse_req_t request, const Status& status, const LogicalBuffer& data) {
  if (!status.ok()) return ReplyStatus(request, status);
  const auto segments = data.segments();
  fuse_reply_iov(request, segments.data(), static_cast<int>(segments.size()));
}

}  // namespace

void HandleRead(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset, fuse_file_info*) {
  Session& session = SessionOf(request);
  const uint32_t flags = t_request->body<fuse_read_in>().flags;
  const bool direct = (flags & O_DIRECT) != 0 || session.direct_opens();
  // What fills the page cache (readahead, a fault of mmap) may have the flags of an O_DIRECT file,
  // but has no owner.
  const bool for_pages = (t_request->body<fuse_read_in>().read_flags & FUSE_READ_LOCKOWNER) == 0;
  if (for_pages) session.kernel_view().NoteRead(nodeid);
  std::shared_ptr<SplicedRead> spliced;
  if (!direct) spliced = session.MakeSplicedRead(t_request->header().unique, size);
  session.fs().Read(session.InodeOf(nodeid), static_cast<uint64_t>(offset), size,
                    (flags & O_NOATIME) != 0, spliced.get(),
                    [&session, request, direct, spliced, token = session.NewToken()](
                        const Status& status, const LogicalBuffer& data, PageHold hold) {
                      if (spliced != nullptr && spliced->opened() && status.ok()) {
                        session.SendSpliced(*spliced);
                        return fuse_reply_none(request);
                      }
                      if (!direct) return ReplyRead(request, status, data);
                      session.Answer(true, [request, token, status, data,
                                            pages = std::make_shared<PageHold>(std::move(hold))] {
                        ReplyRead(request, status, data);
                      });
                    });
}

namespace {

constexpr std::chrono::milliseconds kBlocksOutOfDateMax(1000);

uint64_t BlocksOf(Session& session, uint64_t nodeid) {
  const auto attributes = session.fs().GetAttributes(session.InodeOf(nodeid));
  return attributes.ok() ? attributes->blocks_512 : 0;
}

// The kernel keeps ENOSPC for close(2) and fsync(2); with the file's attributes void it asks us
// before the next write(2), too (HandleGetAttr).
void NoteFull(Session& session, uint64_t nodeid, uint64_t bytes) {
  session.kernel_view().NoteFull(nodeid, bytes);
  session.helper().Queue(
      [&session, nodeid, token = session.NewToken()] { session.DropKernelAttributes(nodeid); });
}

// After a WRITE of what the kernel collected.
void NoteBlocks(Session& session, uint64_t nodeid, uint64_t before, uint64_t bytes) {
  if (BlocksOf(session, nodeid) == before) return;
  // From what is kept for this: the kernel is not to collect more of it.
  if (session.fs().AvailableBytes() == 0) NoteFull(session, nodeid, bytes);
  KernelView& view = session.kernel_view();
  if (!view.NoteWritten(nodeid, before == 0)) return;
  session.helper().QueueAfter(kBlocksOutOfDateMax, [&session, &view] {
    for (const uint64_t written : view.TakeWritten()) session.DropKernelAttributes(written);
  });
}

// Answers a WRITE. What the kernel then believes may have to be put right first.
void ReplyWrite(Session& session, fuse_req_t request, uint64_t nodeid, const fuse_write_in& body,
                uint64_t blocks_before, const Status& status) {
  const bool cached = (body.write_flags & FUSE_WRITE_CACHE) != 0;
  if (!status.ok()) {
    session.Answer(!cached,
                   [request, status, token = session.NewToken()] { ReplyStatus(request, status); });
    if (cached && ErrnoOf(status) == ENOSPC) NoteFull(session, nodeid, body.size);
    return;
  }
  session.NoteSpaceTaken();
  if (cached) {
    NoteBlocks(session, nodeid, blocks_before, body.size);
    fuse_reply_write(request, body.size);
    return;
  }
  const auto reply = [request, size = body.size, token = session.NewToken()] {
    fuse_reply_write(request, size);
  };
  if ((body.flags & O_DIRECT) == 0) return session.Answer(true, reply);
  const bool early = session.must_not_wait_for_kernel();
  std::shared_ptr<KernelView::Drop> drop;
  const auto then = [&session, early, reply] {
    if (!early) session.Answer(true, reply);
  };
  const bool waits = session.kernel_view().AwaitDrop(nodeid, then, &drop);
  if (!waits || early) session.Answer(true, reply);
  if (!drop) return;
  session.helper().Queue([&session, nodeid, drop, token = session.NewToken()] {
    session.kernel_view().BeginDrop(*drop);
    session.DropKernelPages(nodeid);
    for (const auto& answer : session.kernel_view().EndDrop(nodeid, *drop)) answer();
  });
}

}  // namespace

void HandleWrite(fuse_req_t request, fuse_ino_t nodeid, fuse_bufvec*, off_t offset,
                 fuse_file_info*) {
  Session& session = SessionOf(request);
  const fuse_write_in body = t_request->body<fuse_write_in>();
  const auto job =
      std::make_shared<WriteJob>(session.fs().page_cache(), std::exchange(t_request->frames, {}));
  WriteFlags flags = WriteFlagsOf(session, body);
  if (flags.kill_suidgid) flags.kill_setgid = CallerLosesSetgid(request, session.InodeOf(nodeid));
  const uint64_t blocks = flags.from_page_cache ? BlocksOf(session, nodeid) : 0;
  session.fs().Write(session.InodeOf(nodeid), static_cast<uint64_t>(offset),
                     PayloadOf(*job, body.size), flags,
                     [token = session.NewToken(), &session, request, nodeid, body, blocks,
                      job](const Status& status) {
                       job->answered.store(true, std::memory_order_release);
                       ReplyWrite(session, request, nodeid, body, blocks, status);
                     });
  if (job->answered.load(std::memory_order_acquire)) t_request->frames.swap(job->frames);
}

void HandleFsync(fuse_req_t request, fuse_ino_t nodeid, int datasync, fuse_file_info*) {
  Session& session = SessionOf(request);
  session.fs().Fsync(session.InodeOf(nodeid), datasync != 0,
                     [&session, request, nodeid, token = session.NewToken()](const Status& status) {
                       // Whoever asks for the fsync has the file open: nothing here waits for the
                       // kernel to drop the inode.
                       if (session.kernel_view().TakeWithoutBlocks(nodeid)) {
                         session.DropKernelAttributes(nodeid);
                       }
                       ReplyStatus(request, status);
                     });
}

void HandleLseek(fuse_req_t request, fuse_ino_t nodeid, off_t offset, int whence, fuse_file_info*) {
  Session& session = SessionOf(request);
  // We cannot wait for what it has sent but not been answered: all is data then.
  if (!WritebackLastsUntilAnswered(session.kernel_minor())) {
    return static_cast<void>(fuse_reply_err(request, ENOSYS));
  }
  if (session.must_not_wait_for_kernel()) return static_cast<void>(fuse_reply_err(request, EBUSY));
  session.helper().Queue([&session, request, nodeid, offset, whence, token = session.NewToken()] {
    session.CollectDirtyPages(nodeid);
    const auto found =
        session.fs().Seek(session.InodeOf(nodeid), static_cast<uint64_t>(offset), whence);
    if (!found.ok()) return ReplyStatus(request, found.status());
    fuse_reply_lseek(request, static_cast<off_t>(*found));
  });
}

namespace {

// The kernel leaves taking away set-id bits to us here, and does not say whether the caller may
// keep them, which root may.
WriteFlags FlagsOfCaller(fuse_req_t request, InodeNumber ino) {
  WriteFlags flags;
  flags.kill_suidgid = fuse_req_ctx(request)->uid != 0;
  flags.kill_setgid = flags.kill_suidgid && CallerLosesSetgid(request, ino);
  return flags;
}

}  // namespace

void HandleFallocate(fuse_req_t request, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
                     fuse_file_info*) {
  Session& session = SessionOf(request);
  const InodeNumber ino = session.InodeOf(nodeid);
  const Status status =
      session.fs().Fallocate(ino, mode, static_cast<uint64_t>(offset),
                             static_cast<uint64_t>(length), FlagsOfCaller(request, ino));
  // There may be room for what it collects now.
  if (status.ok()) session.kernel_view().ForgetFull(nodeid);
  session.NoteSpaceTaken();
  ReplyChanged(request, ino, status);
}

// As above. The kernel has sent the dirty pages of both ranges.
void HandleCopyFileRange(fuse_req_t request, fuse_ino_t from, off_t from_offset, fuse_file_info*,
                         fuse_ino_t to, off_t to_offset, fuse_file_info*, size_t length,
                         int flags) {
  if (flags != 0) return static_cast<void>(fuse_reply_err(request, EINVAL));
  Session& session = SessionOf(request);
  const InodeNumber target = session.InodeOf(to);
  const auto copied = session.fs().CopyRange(
      {session.InodeOf(from), static_cast<uint64_t>(from_offset), length},
      {target, static_cast<uint64_t>(to_offset)}, FlagsOfCaller(request, target));
  if (!copied.ok()) return ReplyStatus(request, copied.status());
  session.NoteSpaceTaken();
  AfterSync(session, SyncsChanges(session, target), target,
            [request, bytes = *copied](const Status& synced) {
              if (!synced.ok()) return ReplyStatus(request, synced);
              fuse_reply_write(request, bytes);
            });
}

void HandleBmap(fuse_req_t request, fuse_ino_t nodeid, size_t block_bytes, uint64_t index) {
  if (block_bytes == 0 || kBlockBytes % block_bytes != 0) {
    return static_cast<void>(fuse_reply_err(request, EINVAL));
  }
  Session& session = SessionOf(request);
  session.helper().Queue(
      [&session, request, nodeid, block_bytes, index, token = session.NewToken()] {
        session.CollectDirtyPages(nodeid);
        const uint64_t parts = kBlockBytes / block_bytes;
        const auto block = session.fs().BlockOf(session.InodeOf(nodeid), index / parts);
        if (!block.ok()) return ReplyStatus(request, block.status());
        fuse_reply_bmap(request, *block == 0 ? 0 : *block * parts + index % parts);
      });
}

}  // namespace pbfs::fuse
