// SPDX-License-Identifier: Apache-2.0
// Memory that is refused. operator new: the server ends with a message, as in a power cut, and what
// was acknowledged is there afterwards. PBFS_FAULT_STRIDE changes which allocations are tried.
#include <sys/mman.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/out_of_memory.h"
#include "base/simulation/scheduler.h"
#include "gtest/gtest.h"
#include "tests/crash/children.h"
#include "tests/crash/judge.h"
#include "tests/crash/workloads.h"

namespace {

// Counts from Arm() on; the allocation with this number finds no memory.
std::atomic<bool> g_counting{false};
std::atomic<uint64_t> g_count{0};
std::atomic<uint64_t> g_refused{0};

void* Allocate(size_t size, size_t alignment) {
  const bool refuse = g_counting.load(std::memory_order_relaxed) && ++g_count == g_refused;
  void* memory = nullptr;
  if (!refuse) {
    const size_t rounded = (size + alignment - 1) / alignment * alignment;
    memory = alignment <= alignof(std::max_align_t) ? std::malloc(size)
                                                    : std::aligned_alloc(alignment, rounded);
  }
  if (memory != nullptr) return memory;
  const std::new_handler handler = std::get_new_handler();
  if (handler != nullptr) handler();
  throw std::bad_alloc();
}

}  // namespace

// Those for arrays come to these, and without a sanitizer those that throw nothing, too.
// Not inlined: gcc would see new beside free().
#define PBFS_NOT_INLINED __attribute__((noinline))
PBFS_NOT_INLINED void* operator new(size_t size) { return Allocate(size, 1); }
PBFS_NOT_INLINED void* operator new(size_t size, std::align_val_t alignment) {
  return Allocate(size, static_cast<size_t>(alignment));
}
PBFS_NOT_INLINED void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, 1);
}
PBFS_NOT_INLINED void* operator new[](size_t size) { return Allocate(size, 1); }
PBFS_NOT_INLINED void operator delete[](void* memory) noexcept { std::free(memory); }
PBFS_NOT_INLINED void operator delete[](void* memory, size_t) noexcept { std::free(memory); }
PBFS_NOT_INLINED void operator delete(void* memory) noexcept { std::free(memory); }
PBFS_NOT_INLINED void operator delete(void* memory, size_t) noexcept { std::free(memory); }
PBFS_NOT_INLINED void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
PBFS_NOT_INLINED void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}

namespace pbfs {
namespace {

constexpr int kExitCode = 42;
constexpr uint64_t kStride = 97;
constexpr uint64_t kDeviceBytes = 16 << 20;

// What the child leaves behind: the device, and how far it came.
struct Shared {
  std::atomic<uint32_t> op;
  std::atomic<uint64_t> acks;
  std::atomic<uint64_t> allocations;
  alignas(4096) std::byte device[kDeviceBytes];
};

class OutOfMemoryTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const int fd = memfd_create("device", MFD_CLOEXEC);
    ASSERT_GE(fd, 0);
    ASSERT_EQ(ftruncate(fd, sizeof(Shared)), 0);
    void* const memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    ASSERT_NE(memory, MAP_FAILED);
    shared_ = new (memory) Shared;
    FreshFilesystem();
  }
  void TearDown() override { munmap(shared_, sizeof(Shared)); }

  // In a simulation, so that the same allocation has the same number each time.
  void RunWorkload(Session& session) {
    WorkloadNamed(GetParam()).run(session);
    session.Sync();
    session.CheckLive();
  }
  // The model, from a run in which nothing is refused.
  void RunHere() {
    simulation::Scheduler({}).Run([&] {
      Session::Options options;
      options.on_phase = [this](Session::Phase phase, FaultDevice&) {
        if (phase == Session::Phase::kMounting) first_ = model_session_->bounds()[0];
      };
      model_session_ = std::make_unique<Session>(options);
      RunWorkload(*model_session_);
      recording_ = model_session_->Finish();
    });
    ASSERT_TRUE(model_session_->problems().empty())
        << absl::StrJoin(model_session_->problems(), "\n");
  }
  // What reaches the device reaches the shared one before the filesystem hears of it.
  std::string RunInTheChild(uint64_t refused) {
    InstallOutOfMemoryHandler(kExitCode);
    Session::Options options;
    options.on_phase = [&](Session::Phase phase, FaultDevice& device) {
      if (phase != Session::Phase::kMounting) return;
      device.SetOnComplete([this](const IoRequest& request, int error) {
        if (error == 0 && request.op == IoOp::kWrite) {
          request.buffer.CopyTo(0, shared_->device + request.offset_bytes,
                                request.buffer.size_bytes());
        }
        return error;
      });
      g_refused = refused;
      g_counting = true;
    };
    options.on_progress = [this](const std::vector<Bounds>& bounds) { Share(bounds[0]); };
    simulation::Scheduler({}).Run([&] {
      Session session(options);
      RunWorkload(session);
      g_counting = false;
      shared_->allocations = g_count.load();
    });
    return "ended";
  }
  void Share(const Bounds& bounds) {
    shared_->op = bounds.ops_begun;
    shared_->acks = bounds.acks;
  }
  Children::Ended RunChild(uint64_t refused) {
    recording_->base.Read(0, shared_->device, kDeviceBytes);
    Share(first_);
    return RunInChild([&] { return RunInTheChild(refused); }, std::chrono::seconds(60));
  }
  // What the model says of what the child left.
  std::string JudgeShared() {
    std::string problem;
    simulation::Scheduler({}).Run([&] {
      Image image(kDeviceBytes);
      image.Write(0, shared_->device, kDeviceBytes);
      problem = JudgeState(image, model_session_->oracle(), {{shared_->op, shared_->acks}}, false);
    });
    return problem;
  }

  Shared* shared_ = nullptr;
  std::unique_ptr<Session> model_session_;
  std::unique_ptr<Recording> recording_;
  Bounds first_;  // When the counting begins.
};

TEST_P(OutOfMemoryTest, EndsTheServerWithAMessageAndLosesNothingAcknowledged) {
  RunHere();
  const Children::Ended whole = RunChild(0);
  ASSERT_EQ(whole.result, "ended") << whole.death;
  const uint64_t count = shared_->allocations;
  ASSERT_EQ(JudgeShared(), "");
  uint64_t stride = kStride;
  const char* text = std::getenv("PBFS_FAULT_STRIDE");
  if (text != nullptr) ASSERT_TRUE(absl::SimpleAtoi(text, &stride));
  stride = std::max<uint64_t>(stride, count / 200);
  size_t tried = 0;
  for (uint64_t refused = 1; refused <= count; refused += stride) {
    const Children::Ended ended = RunChild(refused);
    ++tried;
    ASSERT_TRUE(absl::StartsWith(ended.death, absl::StrCat("exit code ", kExitCode, "\n")))
        << "allocation " << refused << ": " << ended.death;
    ASSERT_TRUE(absl::StrContains(ended.death, "out of memory")) << ended.death;
    ASSERT_EQ(JudgeShared(), "") << "allocation " << refused;
  }
  std::cout << GetParam() << ": " << tried << " of " << count << " allocations refused\n";
}

INSTANTIATE_TEST_SUITE_P(Workloads, OutOfMemoryTest,
                         testing::Values("CreateWriteSync", "TruncateDown", "UnlinkSync",
                                         "ManyFiles", "GarbageTails"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace pbfs
