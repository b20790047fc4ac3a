// SPDX-License-Identifier: Apache-2.0
// The probes that docs/probes.md lists are in the program.
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>

namespace pbfs {
namespace {

std::string Contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(ProbesTest, AreInTheServer) {
#if !__has_include(<sys/sdt.h>)
  GTEST_SKIP() << "built without <sys/sdt.h>";
#endif
  const std::string program = Contents(PBFS_BIN_DIR "/pbfs");
  ASSERT_FALSE(program.empty());
  for (const std::string name : {"operation_begin", "operation_end", "io_submit", "io_done",
                                 "round_end", "log_seal", "log_durable"}) {
    // As a note of stapsdt has them: provider, name, arguments.
    const std::string note = std::string("pbfs") + '\0' + name + '\0';
    EXPECT_NE(program.find(note), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace pbfs
