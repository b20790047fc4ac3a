// SPDX-License-Identifier: Apache-2.0
// Reads whose bytes go into a pipe: which do, and that they are the right ones.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <linux/falloc.h>
#include <unistd.h>

#include <optional>
#include <string>

#include "io/fault_device.h"
#include "io/pipe.h"
#include "tests/support/fs_fixture.h"

namespace pbfs {
namespace {

using ::testing::HasSubstr;

constexpr size_t kLength = 64 * kPageBytes;

class TestPipe : public ReadPipe {
 public:
  int Open(size_t length_bytes) override {
    EXPECT_FALSE(opened_with_.has_value());
    opened_with_ = length_bytes;
    return gives_ ? pipe_->write_end() : -1;
  }
  void Refuse() { gives_ = false; }
  std::optional<size_t> opened_with() const { return opened_with_; }
  std::string Bytes() {
    std::string bytes(2 * kLength, '\0');
    const ssize_t count = read(pipe_->read_end(), bytes.data(), bytes.size());
    bytes.resize(count < 0 ? 0 : static_cast<size_t>(count));
    return bytes;
  }

 private:
  std::unique_ptr<Pipe> pipe_ = *Pipe::Create(2 * kLength / kPageBytes);
  bool gives_ = true;
  std::optional<size_t> opened_with_;
};

class ReadPipeTest : public FsFixture {
 protected:
  void SetUp() override {
    MakeAndMount();
    for (size_t i = 0; i < bytes_.size(); ++i) {
      bytes_[i] = static_cast<char>(i / kPageBytes + i % 7);
    }
    file_ = *client_->Create(root(), "file");
    ASSERT_TRUE(client_->Write(file_, 0, bytes_).ok());
    ASSERT_TRUE(client_->Fsync(file_).ok());
  }
  // Nothing is in the cache then.
  void Remount() {
    Unmount();
    Mount();
    file_ = *client_->Find(root(), "file");
  }
  Status Read(uint64_t offset_bytes, size_t length_bytes) {
    auto bytes = client_->Read(file_, offset_bytes, length_bytes, &pipe_);
    if (bytes.ok()) frames_ = *std::move(bytes);
    return bytes.status();
  }
  std::string Expected(uint64_t offset_bytes, size_t length_bytes) {
    return bytes_.substr(offset_bytes, length_bytes);
  }

  InodeNumber file_ = 0;
  std::string bytes_ = std::string(2 * kLength + 100, '\0');
  TestPipe pipe_;
  std::string frames_;
};

TEST_F(ReadPipeTest, TakesWholePagesOfOneExtent) {
  Remount();
  ASSERT_TRUE(Read(kPageBytes, kLength).ok());
  EXPECT_EQ(pipe_.opened_with(), kLength);
  EXPECT_EQ(pipe_.Bytes(), Expected(kPageBytes, kLength));
  EXPECT_EQ(frames_, "");
}

TEST_F(ReadPipeTest, IsNotUsedForDataInTheCache) {
  ASSERT_TRUE(client_->Write(file_, 5 * kPageBytes, "new").ok());
  bytes_.replace(5 * kPageBytes, 3, "new");
  ASSERT_TRUE(Read(0, kLength).ok());
  EXPECT_EQ(pipe_.opened_with(), std::nullopt);
  EXPECT_EQ(frames_, Expected(0, kLength));
}

TEST_F(ReadPipeTest, IsNotUsedForAFileOfWhichOnePageIsDirty) {
  Remount();
  ASSERT_TRUE(client_->Write(file_, 5 * kPageBytes, "new").ok());
  bytes_.replace(5 * kPageBytes, 3, "new");
  ASSERT_TRUE(Read(0, kLength).ok());
  EXPECT_EQ(pipe_.opened_with(), std::nullopt);
  EXPECT_EQ(frames_, Expected(0, kLength));
}

TEST_F(ReadPipeTest, IsNotUsedForPartsOfPages) {
  Remount();
  ASSERT_TRUE(Read(kPageBytes + 1, kLength).ok());
  EXPECT_EQ(pipe_.opened_with(), std::nullopt);
  EXPECT_EQ(frames_, Expected(kPageBytes + 1, kLength));
  // The end of the file.
  ASSERT_TRUE(Read(2 * kLength - kPageBytes, 2 * kPageBytes).ok());
  EXPECT_EQ(pipe_.opened_with(), std::nullopt);
  EXPECT_EQ(frames_, Expected(2 * kLength - kPageBytes, kPageBytes + 100));
}

TEST_F(ReadPipeTest, IsNotUsedForHolesAndUnwrittenExtents) {
  ASSERT_TRUE(client_->Write(file_, 8 * kLength, "far").ok());
  ASSERT_TRUE(fs_->Fallocate(file_, 0, 4 * kLength, kLength, {}).ok());
  Remount();
  for (const uint64_t offset : {3 * kLength, 4 * kLength}) {
    ASSERT_TRUE(Read(offset, kLength).ok());
    EXPECT_EQ(pipe_.opened_with(), std::nullopt);
    EXPECT_EQ(frames_, std::string(kLength, '\0'));
  }
}

TEST_F(ReadPipeTest, IsNotUsedWhereTwoExtentsMeet) {
  ASSERT_TRUE(
      fs_->Fallocate(file_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, kLength, kPageBytes, {})
          .ok());
  bytes_.replace(kLength, kPageBytes, std::string(kPageBytes, '\0'));
  Remount();
  ASSERT_TRUE(Read(kLength - kPageBytes, 4 * kPageBytes).ok());
  EXPECT_EQ(pipe_.opened_with(), std::nullopt);
  EXPECT_EQ(frames_, Expected(kLength - kPageBytes, 4 * kPageBytes));
}

TEST_F(ReadPipeTest, MayRefuse) {
  Remount();
  pipe_.Refuse();
  ASSERT_TRUE(Read(0, kLength).ok());
  EXPECT_EQ(pipe_.opened_with(), kLength);
  EXPECT_EQ(frames_, Expected(0, kLength));
}

TEST_F(ReadPipeTest, ADeviceThatFailsIsNamed) {
  Unmount();
  FaultDevice faulty(*device_);
  auto mounted = FileSystem::Mount(faulty, SmallCache());
  ASSERT_TRUE(mounted.ok()) << mounted.status();
  fs_ = *std::move(mounted);
  client_ = std::make_unique<FsClient>(*fs_);
  file_ = *client_->Find(root(), "file");
  ASSERT_TRUE(client_->Read(file_, 2 * kLength, 1).ok());  // Its metadata is in the cache.
  faulty.FailAll(IoOp::kRead, EIO);
  const Status status = Read(0, kLength);
  EXPECT_EQ(ErrnoOf(status), EIO);
  EXPECT_THAT(std::string(status.message()), HasSubstr("data of inode"));
  EXPECT_EQ(pipe_.opened_with(), kLength);
  faulty.FailAll(IoOp::kRead, 0);
  Unmount();
}

}  // namespace
}  // namespace pbfs
