// SPDX-License-Identifier: Apache-2.0
// posix_test --dir DIRECTORY [option...] [--gtest_filter=...]
//
//   --dir DIRECTORY          where to work; must be root's
//   --filesystem TYPE        its type; without this, as /proc/self/mountinfo has it
//   --mounted-with A,B       mount options it has, for the tests that depend on them
//   --remount-command SHELL  unmounts and mounts again
//   --second-dir DIRECTORY   the same directory, by way of another mount
//   --may-fill               the filesystem is small and nobody else's: fill it
//
// tests/mount/posix.sh runs it on ext4, XFS and pbfs.
#include <getopt.h>
#include <signal.h>

#include <climits>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "tests/posix/posix_fixture.h"

namespace pbfs::posix {
namespace {

// The type of the mount that a path is on: the longest mountpoint that leads to it.
std::string FilesystemOf(const std::string& path) {
  std::ifstream table("/proc/self/mountinfo");
  std::string best, type;
  for (std::string line; std::getline(table, line);) {
    std::istringstream fields(line);
    std::string field, mountpoint;
    for (int i = 0; i < 5; ++i) fields >> mountpoint;
    while (fields >> field && field != "-") continue;
    const bool leads = mountpoint == "/" || (path + "/").rfind(mountpoint + "/", 0) == 0;
    if (leads && mountpoint.size() >= best.size()) {
      best = mountpoint;
      fields >> type;
    }
  }
  return type;
}

std::string Resolved(const char* path) {
  char resolved[PATH_MAX];
  if (realpath(path, resolved) == nullptr) {
    perror(path);
    exit(1);
  }
  return resolved;
}

void ParseOptions(int argc, char** argv) {
  const option known[] = {{"dir", 1, nullptr, 'd'},          {"filesystem", 1, nullptr, 'f'},
                          {"mounted-with", 1, nullptr, 'm'}, {"remount-command", 1, nullptr, 'r'},
                          {"second-dir", 1, nullptr, 's'},   {"may-fill", 0, nullptr, 'F'},
                          {nullptr, 0, nullptr, 0}};
  Options& to = options();
  for (int c; (c = getopt_long(argc, argv, "", known, nullptr)) != -1;) {
    switch (c) {
      case 'd':
        to.directory = Resolved(optarg);
        break;
      case 'f':
        to.filesystem = optarg;
        break;
      case 'm': {
        std::istringstream list(optarg);
        for (std::string one; std::getline(list, one, ',');) to.mounted_with.insert(one);
        break;
      }
      case 'r':
        to.remount_command = optarg;
        break;
      case 's':
        to.second_directory = Resolved(optarg);
        break;
      case 'F':
        to.may_fill = true;
        break;
      default:
        exit(1);
    }
  }
  if (to.directory.empty() || optind != argc) {
    fprintf(stderr, "usage: posix_test --dir DIRECTORY [option...]\n");
    exit(1);
  }
  if (to.filesystem.empty()) to.filesystem = FilesystemOf(to.directory);
}

}  // namespace
}  // namespace pbfs::posix

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (testing::GTEST_FLAG(list_tests)) return RUN_ALL_TESTS();
  pbfs::posix::ParseOptions(argc, argv);
  if (geteuid() != 0) {
    fprintf(stderr, "posix_test needs root: it also works as other users\n");
    return 77;
  }
  signal(SIGPIPE, SIG_IGN);
  return RUN_ALL_TESTS();
}
