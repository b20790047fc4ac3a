// SPDX-License-Identifier: Apache-2.0
// Filesystem images with a bit of everything in them, and ways to damage them, for tests of the
// checker, the dump and the tools.
#pragma once

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "fs/aligned_buffer.h"
#include "fs/filesystem.h"
#include "fs/format.h"
#include "fs/make_filesystem.h"
#include "fs/recovery.h"
#include "fs/verify.h"
#include "io/memory_device.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {

// A device that can be looked at and changed block by block.
class ImageEditor {
 public:
  explicit ImageEditor(BlockDevice& device) : device_(device) {
    AlignedBuffer buffer = *AlignedBuffer::Create(kBlockBytes);
    Load(0, buffer);
    superblock_ = *buffer.as<Superblock>();
  }

  const Superblock& superblock() const { return superblock_; }
  BlockDevice& device() { return device_; }

  void Load(BlockNumber block, AlignedBuffer& buffer) {
    ASSERT_EQ(ReadSync(device_, block * kBlockBytes, buffer.data(), kBlockBytes), 0) << block;
  }
  void Store(BlockNumber block, const AlignedBuffer& buffer) {
    ASSERT_EQ(WriteSync(device_, block * kBlockBytes, buffer.data(), kBlockBytes), 0) << block;
  }
  template <typename T>
  T Get(BlockNumber block) {
    AlignedBuffer buffer = *AlignedBuffer::Create(kBlockBytes);
    Load(block, buffer);
    return *buffer.as<T>();
  }
  // Changes the block and makes its crc right again.
  void Edit(BlockNumber block, const std::function<void(std::byte*)>& change) {
    AlignedBuffer buffer = *AlignedBuffer::Create(kBlockBytes);
    Load(block, buffer);
    change(buffer.data());
    StampBlock(buffer.data(), buffer.as<BlockHeader>()->lsn);
    Store(block, buffer);
  }
  template <typename T>
  void EditAs(BlockNumber block, const std::function<void(T&)>& change) {
    Edit(block, [&](std::byte* data) { change(*reinterpret_cast<T*>(data)); });
  }
  void EditInode(InodeNumber ino, const std::function<void(DiskInode&)>& change) {
    EditAs<InodeTableBlock>(InodeBlock(ino),
                            [&](InodeTableBlock& table) { change(table.inodes[InodeSlot(ino)]); });
  }
  DiskInode GetInode(InodeNumber ino) {
    return Get<InodeTableBlock>(InodeBlock(ino)).inodes[InodeSlot(ino)];
  }
  AgEntry GetGroup(uint32_t ag) {
    return Get<AgTableBlock>(superblock_.ag_table_start + ag / kAgEntriesPerBlock)
        .entries[ag % kAgEntriesPerBlock];
  }
  void EditGroup(uint32_t ag, const std::function<void(AgEntry&)>& change) {
    EditAs<AgTableBlock>(
        superblock_.ag_table_start + ag / kAgEntriesPerBlock,
        [&](AgTableBlock& table) { change(table.entries[ag % kAgEntriesPerBlock]); });
  }
  // The bitmap block of `block`, and its bit there.
  void EditBit(BlockNumber block, bool used) {
    const auto offset = static_cast<uint32_t>(block - AgStart(AgOf(block)));
    const uint32_t bit = offset % kBitsPerBitmapBlock;
    const BlockNumber bitmap =
        AgStart(AgOf(block)) + kAgBitmapOffset + offset / kBitsPerBitmapBlock;
    EditAs<BitmapBlock>(bitmap, [&](BitmapBlock& content) {
      const uint64_t mask = uint64_t{1} << (bit % 64);
      if (used) {
        content.words[bit / 64] |= mask;
      } else {
        content.words[bit / 64] &= ~mask;
      }
    });
  }
  // Numbers of all blocks that have the filesystem's header.
  std::vector<BlockNumber> MetadataBlocks() {
    std::vector<BlockNumber> blocks;
    AlignedBuffer buffer = *AlignedBuffer::Create(kBlockBytes);
    for (BlockNumber block = 0; block < superblock_.total_blocks; ++block) {
      Load(block, buffer);
      const auto* header = buffer.as<BlockHeader>();
      if (header->meta_uuid == superblock_.meta_uuid && header->block == block) {
        blocks.push_back(block);
      }
    }
    return blocks;
  }

 private:
  BlockDevice& device_;
  Superblock superblock_ = {};
};

// What RichImage made, by what is special about it.
struct RichContents {
  InodeNumber small_dir = 0;    // Inline: "a", "sub".
  InodeNumber sub_dir = 0;      // In small_dir, empty.
  InodeNumber other_dir = 0;    // Inline: "b".
  InodeNumber large_dir = 0;    // A tree of several nodes.
  InodeNumber small_file = 0;   // "a" in small_dir: one extent.
  InodeNumber other_file = 0;   // "b" in other_dir: one extent.
  InodeNumber sparse_file = 0;  // Extents in a tree.
  InodeNumber short_link = 0;
  InodeNumber long_link = 0;  // Target in a tree.
  InodeNumber fifo = 0;
  InodeNumber large_xattrs = 0;  // A file with attributes in a tree.
  InodeNumber small_xattrs = 0;  // A file with two inline attributes.
  InodeNumber orphan = 0;        // Without a name, on the orphan tree.
};

struct RichImage {
  std::unique_ptr<MemoryDevice> device;
  RichContents contents;
};

inline InodeNumber Made(const StatusOr<InodeNumber>& made) {
  EXPECT_TRUE(made.ok()) << made.status();
  return made.value_or(0);
}

inline void FillRichDirectories(FileSystem& fs, FsClient& client, RichContents& has) {
  const InodeNumber root = fs.root();
  has.small_dir = Made(client.Mkdir(root, "small"));
  has.sub_dir = Made(client.Mkdir(has.small_dir, "sub"));
  has.other_dir = Made(client.Mkdir(root, "other"));
  has.large_dir = Made(client.Mkdir(root, "large"));
  for (int i = 0; i < 600; ++i) {
    Made(client.Create(has.large_dir, absl::StrCat("a name that is not too short ", i)));
  }
  has.small_file = Made(client.Create(has.small_dir, "a"));
  has.other_file = Made(client.Create(has.other_dir, "b"));
  EXPECT_TRUE(client.Write(has.small_file, 0, std::string(20'000, 'a')).ok());
  EXPECT_TRUE(client.Write(has.other_file, 0, std::string(9'000, 'b')).ok());
  EXPECT_TRUE(fs.Link(has.other_file, has.large_dir, "second name").ok());
  has.sparse_file = Made(client.Create(root, "sparse"));
  for (uint64_t i = 0; i < 400; ++i) {
    EXPECT_TRUE(client.Write(has.sparse_file, i * 3 * kBlockBytes, "data").ok());
  }
}

inline void FillRichOthers(FileSystem& fs, FsClient& client, RichContents& has) {
  const InodeNumber root = fs.root();
  has.short_link = Made(client.Create(root, "short", S_IFLNK | 0777, "target"));
  has.long_link = Made(client.Create(root, "long", S_IFLNK | 0777, std::string(3'000, 't')));
  has.fifo = Made(client.Create(root, "fifo", S_IFIFO | 0600));
  has.large_xattrs = Made(client.Create(root, "large xattrs"));
  EXPECT_TRUE(fs.SetXattr(has.large_xattrs, "user.large", std::string(5'000, 'x'), 0).ok());
  EXPECT_TRUE(fs.SetXattr(has.large_xattrs, "user.small", "x", 0).ok());
  has.small_xattrs = Made(client.Create(root, "small xattrs"));
  EXPECT_TRUE(fs.SetXattr(has.small_xattrs, "user.one", "1", 0).ok());
  EXPECT_TRUE(fs.SetXattr(has.small_xattrs, "user.two", "2", 0).ok());
  has.orphan = Made(client.Create(root, "orphan"));
  EXPECT_TRUE(client.Write(has.orphan, 0, std::string(5'000, 'o')).ok());
  EXPECT_TRUE(fs.Unlink(root, "orphan").ok());
}

// A synced filesystem whose server was killed: the log is dirty, there is an orphan.
inline RichImage MakeDirtyRichImage(uint64_t size_bytes = 32 << 20) {
  RichImage image;
  image.device = std::make_unique<MemoryDevice>(size_bytes);
  const auto made = MakeFilesystem(*image.device, {});
  EXPECT_TRUE(made.ok()) << made.status();
  MountOptions options;
  options.cache_bytes = 16 << 20;
  auto mounted = FileSystem::Mount(*image.device, options);
  EXPECT_TRUE(mounted.ok()) << mounted.status();
  FsClient client(**mounted);
  FillRichDirectories(**mounted, client, image.contents);
  FillRichOthers(**mounted, client, image.contents);
  EXPECT_TRUE(client.Sync().ok());
  return image;
}

// The same with its log replayed: clean, the orphan is still there.
inline RichImage MakeRichImage(uint64_t size_bytes = 32 << 20) {
  RichImage image = MakeDirtyRichImage(size_bytes);
  ImageEditor editor(*image.device);
  const auto replayed = ReplayLog(*image.device, editor.superblock());
  EXPECT_TRUE(replayed.ok()) << replayed.status();
  return image;
}

}  // namespace pbfs
