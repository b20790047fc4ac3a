// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "tests/crash/workloads.h"

#ifndef RENAME_EXCHANGE
#define RENAME_EXCHANGE (1 << 1)
#define RENAME_WHITEOUT (1 << 2)
#endif

namespace pbfs {
namespace {

void CreateFsync(Session& s) {
  s.Record();
  s.Create("a");
  s.Fsync("a");
  s.Create("b");
  s.Fsync("/");
}

void CreateWriteFsync(Session& s) {
  s.Record();
  s.Create("a");
  s.Write("a", 0, 10'000);
  s.Fsync("a");
}

void CreateWriteSync(Session& s) {
  s.Record();
  s.Create("a");
  s.Write("a", 0, 10'000);
  s.Create("b");
  s.Write("b", 0, 70'000);
  s.Sync();
}

void OverwriteFdatasync(Session& s) {
  s.Create("a");
  s.Write("a", 0, 20'000);
  s.Record();
  s.Write("a", 3000, 9000, /*from_page_cache=*/true);
  s.Fsync("a", /*datasync=*/true);
  s.Write("a", 0, 4096, /*from_page_cache=*/true);
  s.Fsync("a", /*datasync=*/true);
}

void AppendFsync(Session& s) {
  s.Create("a");
  s.Write("a", 0, 1000);
  s.Record();
  s.Append("a", 3000);
  s.Fsync("a");
  s.Append("a", 5000);
  s.Fsync("a", /*datasync=*/true);
  s.Append("a", 100);
}

void WriteSyncCalls(Session& s) {
  s.Record();
  s.Create("a");
  s.WriteSync("a", 0, 5000);
  s.WriteSync("a", 4000, 100);
  s.WriteSync("a", 9000, 100);
}

void WritePastEnd(Session& s) {
  s.Create("a");
  s.Write("a", 0, 4096);
  s.Sync();
  s.Truncate("a", 100);  // Leaves garbage behind the end.
  s.Record();
  s.Write("a", 20'000, 3000);
  s.Fsync("a");
}

void WriteWithinLastBlock(Session& s) {
  s.Create("a");
  s.Write("a", 0, 4096);
  s.Sync();
  s.Truncate("a", 100);
  s.Record();
  s.Write("a", 2000, 100);
  s.Fsync("a", /*datasync=*/true);
  s.Truncate("a", 3000);
  s.Sync();
}

void TruncateDown(Session& s) {
  s.Create("a");
  s.Write("a", 0, 30'000);
  s.Record();
  s.Truncate("a", 8192);
  s.Fsync("a");
  s.Truncate("a", 5000);
  s.Fsync("a");
  s.Truncate("a", 0);
  s.Fsync("a");
}

void TruncateDownUp(Session& s) {
  s.Create("a");
  s.Write("a", 0, 12'288);
  s.Record();
  s.Truncate("a", 5000);
  s.Truncate("a", 12'288);
  s.Fsync("a");
  s.Truncate("a", 50'000);
  s.Sync();
}

// The cut-off block is written again before the truncation is durable.
void TruncateThenWriteInPlace(Session& s) {
  s.Create("a");
  s.Write("a", 0, 8192);
  s.Record();
  s.Truncate("a", 5000);
  s.Write("a", 4096, 50, /*from_page_cache=*/true);
  s.Fsync("a", /*datasync=*/true);
}

void TruncateThenAppend(Session& s) {
  s.Create("a");
  s.Write("a", 0, 12'000);
  s.Record();
  s.Truncate("a", 4096);
  s.Append("a", 8000);
  s.Truncate("a", 4500);
  s.Append("a", 6000);
  s.Fsync("a");
}

void TruncateOfDirtyPages(Session& s) {
  s.Create("a");
  s.Record();
  s.Write("a", 0, 20'000);
  s.Truncate("a", 7000);
  s.Write("a", 9000, 2000);
  s.Fsync("a");
}

void UnlinkSync(Session& s) {
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Record();
  s.Unlink("a");
  s.Sync();
  s.Create("a");
  s.Fsync("a");
}

void UnlinkWhileOpen(Session& s) {
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Create("b");
  s.Record();
  s.Unlink("a", /*keep_open=*/true);
  s.Write("b", 0, 3000);
  s.Fsync("b");
  s.Unlink("b", /*keep_open=*/true);
  s.Sync();
}

void CreateUnlinkCreate(Session& s) {
  s.Record();
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Unlink("a");
  s.Create("a");
  s.Write("a", 0, 2000);
  s.Fsync("a");
}

void RenameOver(Session& s) {
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Create("b");
  s.Write("b", 0, 5000);
  s.Record();
  s.Rename("b", "a");
  s.Fsync("a");
}

// How programs replace a file.
void ReplaceFile(Session& s) {
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Record();
  s.Create("a.new");
  s.Write("a.new", 0, 12'000);
  s.Fsync("a.new");
  s.Rename("a.new", "a");
  s.Fsync("/");
}

void RenameAcross(Session& s) {
  s.Mkdir("d");
  s.Mkdir("e");
  s.Mkdir("d/sub");
  s.Create("d/sub/f");
  s.Write("d/sub/f", 0, 3000);
  s.Record();
  s.Rename("d/sub", "e/moved");
  s.Fsync("e/moved");
  s.Rename("e/moved/f", "d/f");
  s.Fsync("d/f");
}

void RenameExchange(Session& s) {
  s.Mkdir("d");
  s.Mkdir("d/sub");
  s.Create("f");
  s.Write("f", 0, 3000);
  s.Record();
  s.Rename("d/sub", "f", RENAME_EXCHANGE);
  s.Fsync("f");
  s.Create("f/x");
  s.Sync();
}

void RenameOverDirectory(Session& s) {
  s.Mkdir("d");
  s.Mkdir("e");
  s.Create("d/x");
  s.Record();
  s.Rename("d", "e");
  s.Fsync("e/x");
  s.Rename("e", "f");
  s.Fsync("f");
}

void LinkUnlink(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Write("a", 0, 5000);
  s.Record();
  s.Link("a", "d/b");
  s.Fsync("a");
  s.Unlink("a");
  s.Fsync("d/b");
  s.Write("d/b", 1000, 5000);
  s.Fsync("d/b");
}

void MkdirRmdir(Session& s) {
  s.Record();
  s.Mkdir("d");
  s.Mkdir("d/e");
  s.Create("d/e/f");
  s.Fsync("d/e/f");
  s.Unlink("d/e/f");
  s.Rmdir("d/e");
  s.Rmdir("d");
  s.Sync();
}

void Symlinks(Session& s) {
  s.Record();
  s.Symlink("short", "l");
  s.Fsync("l");
  s.Symlink(std::string(3000, 'x'), "long");
  s.Fsync("long");
  s.Unlink("long");
  s.Sync();
}

void SpecialFiles(Session& s) {
  s.Record();
  s.Create("fifo", S_IFIFO | 0600);
  s.Create("device", S_IFCHR | 0600);
  s.Fsync("device");
  s.Chmod("fifo", 0640);
  s.Fsync("fifo");
}

void SmallXattrs(Session& s) {
  s.Create("a");
  s.Record();
  s.SetXattr("a", "user.one", 50);
  s.Fsync("a");
  s.SetXattr("a", "user.two", 150);
  s.SetXattr("a", "user.one", 20);
  s.Fsync("a", /*datasync=*/true);
  s.RemoveXattr("a", "user.two");
  s.Sync();
}

void LargeXattrs(Session& s) {
  s.Create("a");
  s.SetXattr("a", "user.small", 50);
  s.Record();
  s.SetXattr("a", "user.large", 40'000);
  s.Fsync("a");
  s.SetXattr("a", "user.large", 9000);
  s.RemoveXattr("a", "user.small");
  s.Fsync("a");
}

void SparseWrites(Session& s) {
  s.Record();
  s.Create("a");
  s.Write("a", 100'000, 5000);
  s.Fsync("a");
  s.Write("a", 10'000, 100);
  s.Write("a", 300'000, 1);
  s.Fsync("a");
}

// An extent list that outgrows the inode, and shrinks in several transactions.
void Fragments(Session& s, int count) {
  s.Create("a");
  for (int i = 0; i < count; ++i) s.Write("a", uint64_t{8192} * static_cast<uint64_t>(i), 3000);
}

void WriteFragments(Session& s) {
  s.Record();
  Fragments(s, 40);
  s.Fsync("a");
}

void TruncateFragments(Session& s) {
  Fragments(s, 40);
  s.Record();
  s.Truncate("a", 100'000);
  s.Fsync("a");
  s.Truncate("a", 10);
  s.Sync();
}

void UnlinkFragments(Session& s) {
  Fragments(s, 40);
  s.Record();
  s.Unlink("a");
  s.Create("b");
  s.Fsync("b");
  s.Sync();
}

void DirectoryBecomesHashed(Session& s) {
  s.Mkdir("d");
  for (int i = 0; i < 8; ++i) s.Create(absl::StrCat("d/", std::string(40, 'n'), i));
  s.Record();
  for (int i = 8; i < 12; ++i) s.Create(absl::StrCat("d/", std::string(40, 'n'), i));
  s.Fsync("d");
  for (int i = 0; i < 12; ++i) s.Unlink(absl::StrCat("d/", std::string(40, 'n'), i));
  s.Sync();
}

void ChmodThenWrite(Session& s) {
  s.Create("a");
  s.Write("a", 0, 4096);
  s.Record();
  s.Chmod("a", 0600);
  s.Write("a", 100, 50);
  s.Fsync("a", /*datasync=*/true);
  s.Chmod("a", 0644);
  s.Fsync("a");
}

void TemporaryFiles(Session& s) {
  s.Mkdir("d");
  s.Record();
  s.Temporary("d/a");
  s.Write("@d/a", 0, 30'000);
  s.Fsync("@d/a");
  s.Temporary("b");
  s.Write("@b", 0, 10'000);
  s.Link("@b", "d/b");
  s.Fsync("@b");
  s.Link("@b", "c");
  s.Unlink("d/b");
  s.Truncate("@d/a", 100);
  s.Link("@d/a", "d/a");
  s.Close("@d/a");
  s.Sync();
  s.Temporary("e");
  s.Close("@e");
  s.Sync();
}

void RenameWhiteout(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Create("d/b");
  s.Write("d/b", 0, 5000);
  s.Record();
  s.Rename("a", "d/a", RENAME_WHITEOUT);
  s.Fsync("d/a");
  s.Rename("d/a", "d/b", RENAME_WHITEOUT);
  s.Fsync("d");
  s.Rename("d", "e", RENAME_WHITEOUT);
  s.Unlink("d");
  s.Sync();
}

void AccessLists(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Record();
  s.SetAcl("a", 0640, 2);
  s.Fsync("a");
  s.Chmod("a", 0604);
  s.Fsync("a");
  s.SetAcl("d", 0775, 100, /*is_default=*/true);
  s.Create("d/b");
  s.Mkdir("d/e");
  s.Fsync("d/b");
  s.SetAcl("d/b", 0700, 60);
  s.RemoveAcl("d/b");
  s.RemoveAcl("d", /*is_default=*/true);
  s.Sync();
}

void InodeFlags(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Record();
  s.SetFlags("a", kInodeImmutable, 0);
  s.Fsync("a");
  s.SetFlags("d", kInodeNoDump | kInodeProjectInherit, 5);
  s.Create("d/b");
  s.Fsync("d/b");
  s.SetFlags("a", kInodeAppendOnly, 1);
  s.SetFlags("a", 0, 1);
  s.Open("a");
  s.Unlink("a");
  s.SetFlags("@a", kInodeImmutable, 0);
  s.Sync();
  s.Close("@a");
  s.Sync();
}

void SyncFlags(Session& s) {
  s.Mkdir("d");
  s.Create("a");
  s.Record();
  s.SetFlags("a", kInodeSync, 0);
  s.Write("a", 0, 9000);
  s.SetFlags("d", kInodeSync | kInodeDirSync, 0);
  s.Create("d/b");
  s.Write("d/b", 3000, 20'000);
  s.WriteBuffered("d/b", 30'000, 5000);
  s.Mkdir("d/e");
  s.Fsync("d/b");
  s.Unlink("d/b");
  s.SetFlags("a", 0, 0);
  s.Write("a", 0, 5000);
  s.Sync();
}

void CopyFileRange(Session& s) {
  s.Create("a");
  s.Write("a", 0, 30'000);
  s.Truncate("a", 50'000);
  s.Create("b");
  s.Write("b", 0, 60'000);
  s.Record();
  s.Copy("a", "b", 0, 50'000);
  s.Fsync("b");
  s.Create("c");
  s.Copy("a", "c", 1000, 40'000);
  s.Copy("b", "a", 45'000, 15'000);
  s.Fsync("a");
  s.Copy("a", "c", 0, 5000);
  s.Sync();
}

void Remounts(Session& s) {
  s.Create("a");
  s.Record();
  s.Write("a", 0, 9000);
  s.Create("b");
  s.Remount();
  s.Write("a", 3000, 9000);
  s.Open("b");
  s.Unlink("b");
  s.Remount();
  s.Create("c");
  s.Fsync("c");
  s.Write("c", 0, 5000);
  s.Remount();
  s.Close("@b");
  s.Sync();
}

void NothingSynced(Session& s) {
  s.Create("a");
  s.Write("a", 0, 9000);
  s.Record();
  s.Write("a", 5000, 10'000);
  s.Create("b");
  s.Rename("a", "c");
}

}  // namespace

const std::vector<Workload>& SmallWorkloads() {
  static const auto& workloads = *new std::vector<Workload>{
      {"CreateFsync", CreateFsync},
      {"CreateWriteFsync", CreateWriteFsync},
      {"CreateWriteSync", CreateWriteSync},
      {"OverwriteFdatasync", OverwriteFdatasync},
      {"AppendFsync", AppendFsync},
      {"WriteSyncCalls", WriteSyncCalls},
      {"WritePastEnd", WritePastEnd},
      {"WriteWithinLastBlock", WriteWithinLastBlock},
      {"TruncateDown", TruncateDown},
      {"TruncateDownUp", TruncateDownUp},
      {"TruncateThenWriteInPlace", TruncateThenWriteInPlace},
      {"TruncateThenAppend", TruncateThenAppend},
      {"TruncateOfDirtyPages", TruncateOfDirtyPages},
      {"UnlinkSync", UnlinkSync},
      {"UnlinkWhileOpen", UnlinkWhileOpen},
      {"CreateUnlinkCreate", CreateUnlinkCreate},
      {"RenameOver", RenameOver},
      {"ReplaceFile", ReplaceFile},
      {"RenameAcross", RenameAcross},
      {"RenameExchange", RenameExchange},
      {"RenameOverDirectory", RenameOverDirectory},
      {"LinkUnlink", LinkUnlink},
      {"MkdirRmdir", MkdirRmdir},
      {"Symlinks", Symlinks},
      {"SpecialFiles", SpecialFiles},
      {"SmallXattrs", SmallXattrs},
      {"LargeXattrs", LargeXattrs},
      {"SparseWrites", SparseWrites},
      {"WriteFragments", WriteFragments},
      {"TruncateFragments", TruncateFragments},
      {"UnlinkFragments", UnlinkFragments},
      {"DirectoryBecomesHashed", DirectoryBecomesHashed},
      {"ChmodThenWrite", ChmodThenWrite},
      {"TemporaryFiles", TemporaryFiles},
      {"RenameWhiteout", RenameWhiteout},
      {"AccessLists", AccessLists},
      {"InodeFlags", InodeFlags},
      {"SyncFlags", SyncFlags},
      {"CopyFileRange", CopyFileRange},
      {"Remounts", Remounts},
      {"NothingSynced", NothingSynced},
  };
  return workloads;
}

}  // namespace pbfs
