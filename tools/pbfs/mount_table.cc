// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/mount_table.h"

#include <sys/sysmacros.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <initializer_list>
#include <sstream>
#include <string_view>
#include <utility>

namespace pbfs {
namespace {

// The kernel writes space, tab, newline and backslash as \ooo.
std::string Unescape(const std::string& text) {
  std::string result;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '\\' || i + 3 >= text.size()) {
      result.push_back(text[i]);
      continue;
    }
    result.push_back(static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 +
                                       (text[i + 3] - '0')));
    i += 3;
  }
  return result;
}

bool HasWord(std::string_view words, std::string_view wanted) {
  while (!words.empty()) {
    const std::string_view word = words.substr(0, words.find(','));
    if (word == wanted) return true;
    words.remove_prefix(std::min(words.size(), word.size() + 1));
  }
  return false;
}

unsigned long FlagsOf(std::string_view words,
                      std::initializer_list<std::pair<std::string_view, unsigned long>> known) {
  unsigned long flags = 0;
  for (const auto& [name, flag] : known) {
    if (HasWord(words, name)) flags |= flag;
  }
  return flags;
}

// The kernel shows no word for strictatime.
unsigned long AccessTimeFlags(std::string_view words) {
  const unsigned long flags = FlagsOf(
      words, {{"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME}});
  return (flags & (MS_NOATIME | MS_RELATIME)) != 0 ? flags : flags | MS_STRICTATIME;
}

// "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw"
std::optional<MountEntry> ParseLine(const std::string& line) {
  std::istringstream words(line);
  MountEntry entry;
  std::string parent, number, root, mountpoint, of_mount, word;
  if (!(words >> entry.id >> parent >> number >> root >> mountpoint >> of_mount)) {
    return std::nullopt;
  }
  while (words >> word && word != "-") {
  }
  unsigned major = 0;
  unsigned minor = 0;
  if (!(words >> entry.type >> word) || std::sscanf(number.c_str(), "%u:%u", &major, &minor) != 2) {
    return std::nullopt;
  }
  entry.device = makedev(major, minor);
  entry.root = Unescape(root);
  entry.mountpoint = Unescape(mountpoint);
  entry.source = Unescape(word);
  words >> word;
  entry.flags =
      AccessTimeFlags(of_mount) |
      FlagsOf(of_mount, {{"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC}}) |
      FlagsOf(word, {{"ro", MS_RDONLY},
                     {"sync", MS_SYNCHRONOUS},
                     {"dirsync", MS_DIRSYNC},
                     {"lazytime", MS_LAZYTIME}});
  entry.is_roots = HasWord(word, "user_id=0");
  return entry;
}

}  // namespace

bool MountEntry::is_dead() const {
  // Not stat(2), which the kernel answers from its cache.
  struct statfs status = {};
  return statfs(mountpoint.c_str(), &status) != 0 && (errno == ENOTCONN || errno == ECONNABORTED);
}

std::vector<MountEntry> ReadMountTable() {
  std::vector<MountEntry> entries;
  std::ifstream table("/proc/self/mountinfo");
  std::string line;
  while (std::getline(table, line)) {
    if (auto entry = ParseLine(line)) entries.push_back(*std::move(entry));
  }
  return entries;
}

std::optional<MountEntry> FindMountAt(const std::string& mountpoint) {
  std::optional<MountEntry> found;
  for (MountEntry& entry : ReadMountTable()) {
    if (entry.mountpoint == mountpoint) found = std::move(entry);
  }
  return found;
}

}  // namespace pbfs
