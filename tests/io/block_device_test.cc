// SPDX-License-Identifier: Apache-2.0
// UringDevice on a real block device: a loop device, so as root only.
#include <linux/loop.h>
#include <sys/ioctl.h>

#include <fstream>

#include "io/io_ring.h"
#include "io/uring_device.h"
#include "tests/io/test_util.h"

namespace pbfs {
namespace {

constexpr uint64_t kSize = 16 << 20;

class LoopDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    if (control < 0) GTEST_SKIP() << "no loop devices here";
    const int file_fd = open(file_.path().c_str(), O_RDWR | O_CLOEXEC);
    // Another program may take the free device first.
    for (int round = 0; round < 20 && loop_fd_ < 0; ++round) {
      const int number = ioctl(control, LOOP_CTL_GET_FREE);
      if (number < 0) break;
      path_ = "/dev/loop" + std::to_string(number);
      const int fd = open(path_.c_str(), O_RDWR | O_CLOEXEC);
      if (fd < 0) break;
      loop_config config = {};
      config.fd = static_cast<__u32>(file_fd);
      config.info.lo_flags = LO_FLAGS_AUTOCLEAR;
      if (ioctl(fd, LOOP_CONFIGURE, &config) == 0) {
        loop_fd_ = fd;
      } else {
        close(fd);
      }
    }
    close(file_fd);
    close(control);
    if (loop_fd_ < 0) GTEST_SKIP() << "no loop device could be set up";
  }
  void TearDown() override {
    if (loop_fd_ >= 0) close(loop_fd_);  // The last close frees the device.
  }
  std::unique_ptr<UringDevice> Open(const UringDeviceOptions& options) {
    StatusOr<std::unique_ptr<UringDevice>> device = UringDevice::Open(path_, options);
    EXPECT_TRUE(device.ok()) << device.status();
    return device.ok() ? *std::move(device) : nullptr;
  }

  // Flushes the kernel has sent to the device.
  uint64_t FlushCount() const {
    std::ifstream file("/sys/block/" + path_.substr(std::strlen("/dev/")) + "/stat");
    std::vector<uint64_t> fields;
    for (uint64_t value = 0; file >> value;) fields.push_back(value);
    return fields.size() > 15 ? fields[15] : 0;
  }

  TempFile file_{kSize};
  std::string path_;
  int loop_fd_ = -1;
};

TEST_F(LoopDeviceTest, HasTheDevicesGeometry) {
  const auto device = Open({});
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(device->geometry().size_bytes, kSize);
  EXPECT_EQ(device->geometry().logical_block_bytes, 512u);
  EXPECT_GE(device->geometry().max_transfer_bytes, 256u << 10);
  EXPECT_TRUE(device->geometry().can_discard);
  EXPECT_FALSE(device->geometry().read_only);
  EXPECT_TRUE(device->warnings().empty());
}

TEST_F(LoopDeviceTest, AnExclusiveOpenRefusesASecondOne) {
  UringDeviceOptions exclusive;
  exclusive.exclusive = true;
  const auto device = Open(exclusive);
  ASSERT_NE(device, nullptr);
  EXPECT_EQ(ErrnoOf(UringDevice::Open(path_, exclusive).status()), EBUSY);
  EXPECT_NE(Open({}), nullptr);
}

TEST_F(LoopDeviceTest, WritesReadsFlushesDiscardsAndZeroesOnEachPath) {
  for (const bool pool : {false, true}) {
    UringDeviceOptions options;
    options.force_thread_pool = pool;
    const auto device = Open(options);
    ASSERT_NE(device, nullptr);
    AlignedMemory data(3 << 20);
    data.FillPattern(pool ? 2 : 1);
    ASSERT_EQ(WriteSync(*device, 4096, data.data(), data.size()), 0);
    ASSERT_EQ(WriteSync(*device, 4096, data.data(), 4096, /*fua=*/true), 0);
    ASSERT_EQ(FlushSync(*device), 0);
    ASSERT_EQ(RunRange(*device, IoOp::kDiscard, 4096 + (1 << 20), 65536), 0);
    ASSERT_EQ(RunRange(*device, IoOp::kWriteZeroes, 4096 + (2 << 20), 512 * 3), 0);
    std::memset(data.data() + (1 << 20), 0, 65536);  // A loop device punches a hole.
    std::memset(data.data() + (2 << 20), 0, 512 * 3);
    AlignedMemory in(3 << 20);
    ASSERT_EQ(ReadSync(*device, 4096, in.data(), in.size()), 0);
    EXPECT_TRUE(in == data);
    EXPECT_EQ(ReadSync(*device, kSize - 4096, in.data(), 8192), EIO);
  }
}

TEST_F(LoopDeviceTest, FlushesAndFuaWritesReachTheDeviceAndPlainWritesSendNone) {
  for (const bool pool : {false, true}) {
    UringDeviceOptions options;
    options.force_thread_pool = pool;
    const auto device = Open(options);
    ASSERT_NE(device, nullptr);
    if (!device->geometry().volatile_cache) GTEST_SKIP() << "no write cache to flush";
    AlignedMemory data(4096);
    const uint64_t before = FlushCount();
    ASSERT_EQ(WriteSync(*device, 0, data.data(), 4096), 0);
    EXPECT_EQ(FlushCount(), before);
    ASSERT_EQ(FlushSync(*device), 0);
    EXPECT_EQ(FlushCount(), before + 1);
    // A loop device has no FUA of its own: the kernel makes it a write and a flush or two.
    ASSERT_EQ(WriteSync(*device, 0, data.data(), 4096, /*fua=*/true), 0);
    EXPECT_GE(FlushCount(), before + 2);
  }
}

TEST_F(LoopDeviceTest, ADiscardFromAThreadWithARingCompletesThere) {
  StatusOr<std::unique_ptr<IoRing>> ring = IoRing::Create(16);
  if (!ring.ok()) GTEST_SKIP() << ring.status();
  const auto device = Open({});
  ASSERT_NE(device, nullptr);
  (*ring)->Attach();
  for (int round = 0; round < 20; ++round) {
    EXPECT_EQ(RunRange(*device, IoOp::kDiscard, 0, 65536), 0);
  }
  IoRing::Detach();
}

}  // namespace
}  // namespace pbfs
