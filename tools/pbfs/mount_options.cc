// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfs/mount_options.h"

#include <sys/mount.h>

#include <cerrno>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "tools/common/size.h"

#ifndef MS_LAZYTIME
#define MS_LAZYTIME (1 << 25)
#endif

namespace pbfs {
namespace {

constexpr int kCommitSecondsMax = 300;
constexpr int kWorkersMax = 16;

struct KernelFlag {
  std::string_view word;
  unsigned long flag;
  bool clears;
};
constexpr KernelFlag kKernelFlags[] = {
    {"ro", MS_RDONLY, false},
    {"rw", MS_RDONLY, true},
    {"nosuid", MS_NOSUID, false},
    {"suid", MS_NOSUID, true},
    {"nodev", MS_NODEV, false},
    {"dev", MS_NODEV, true},
    {"noexec", MS_NOEXEC, false},
    {"exec", MS_NOEXEC, true},
    {"sync", MS_SYNCHRONOUS, false},
    {"async", MS_SYNCHRONOUS, true},
    {"dirsync", MS_DIRSYNC, false},
    {"noatime", MS_NOATIME, false},
    {"atime", MS_NOATIME, true},
    {"nodiratime", MS_NODIRATIME, false},
    {"diratime", MS_NODIRATIME, true},
    {"relatime", MS_RELATIME, false},
    {"norelatime", MS_RELATIME, true},
    {"strictatime", MS_STRICTATIME, false},
    {"nostrictatime", MS_STRICTATIME, true},
    {"lazytime", MS_LAZYTIME, false},
    {"nolazytime", MS_LAZYTIME, true},
};

// For mount(8), fstab and systemd, or what mount(8) finds in the mount table when it remounts; they
// mean nothing here.
constexpr std::string_view kPassedOver[] = {
    "defaults", "auto",    "noauto",   "nofail",     "_netdev", "user",     "nouser",
    "users",    "owner",   "group",    "silent",     "loud",    "mand",     "nomand",
    "iversion", "comment", "helper",   "noiversion", "uhelper", "fsname",   "subtype",
    "user_id",  "blksize", "group_id", "rootmode",   "fd",      "max_read", "default_permissions",
};

struct Word {
  std::string_view name;
  std::optional<std::string> value;
};

Status BadValue(const Word& word, std::string_view wanted) {
  return ErrnoError(EINVAL, absl::StrCat("option ", std::string(word.name), "=",
                                         word.value.value_or(""), ": ", std::string(wanted)));
}

absl::string_view View(std::string_view text) { return {text.data(), text.size()}; }

StatusOr<int> ParseNumber(const Word& word, int smallest, int greatest) {
  int number = 0;
  if (!word.value || !absl::SimpleAtoi(*word.value, &number) || number < smallest ||
      number > greatest) {
    return BadValue(word, absl::StrCat("a number from ", smallest, " to ", greatest, " is wanted"));
  }
  return number;
}

Status ParseCache(const Word& word, PbfsOptions& options) {
  constexpr uint64_t kCacheBytesMin = uint64_t{PageCache::kFramesMin} * kPageBytes;
  const auto size = ParseSize(word.value.value_or(""));
  if (!size.ok()) return BadValue(word, "a size such as 256M is wanted");
  if (*size < kCacheBytesMin) return BadValue(word, "at least " + FormatSize(kCacheBytesMin));
  options.filesystem.cache_bytes = *size;
  return OkStatus();
}

Status ParseType(const Word& word, PbfsOptions& options) {
  if (word.value == "fuse") {
    options.type = MountType::kFuse;
  } else if (word.value == "fuseblk") {
    options.type = MountType::kFuseblk;
  } else {
    return BadValue(word, "fuse or fuseblk is wanted");
  }
  return OkStatus();
}

Status ParseTransport(const Word& word, PbfsOptions& options) {
  using fuse::TransportKind;
  if (word.value == "auto") {
    options.session.transport = TransportKind::kAuto;
  } else if (word.value == "dev") {
    options.session.transport = TransportKind::kDev;
  } else if (word.value == "uring") {
    options.session.transport = TransportKind::kUring;
  } else {
    return BadValue(word, "auto, dev or uring is wanted");
  }
  return OkStatus();
}

Status ParseSplice(const Word& word, PbfsOptions& options) {
  using fuse::SplicePolicy;
  if (word.value == "auto") {
    options.session.splice = SplicePolicy::kAuto;
  } else if (word.value == "always") {
    options.session.splice = SplicePolicy::kAlways;
  } else if (word.value == "never") {
    options.session.splice = SplicePolicy::kNever;
  } else {
    return BadValue(word, "auto, always or never is wanted");
  }
  return OkStatus();
}

bool ParseKernelFlag(const Word& word, PbfsOptions& options) {
  for (const KernelFlag& known : kKernelFlags) {
    if (word.name != known.word) continue;
    if (known.clears) {
      options.kernel_flags &= ~known.flag;
    } else {
      options.kernel_flags |= known.flag;
    }
    options.kernel_words.emplace_back(word.name);
    return true;
  }
  return false;
}

bool IsPassedOver(const Word& word) {
  if (absl::StartsWith(View(word.name), "x-") || absl::StartsWith(View(word.name), "X-")) {
    return true;
  }
  for (const std::string_view known : kPassedOver) {
    if (word.name == known) return true;
  }
  return false;
}

// Options that take a value. nullopt: not one of them.
std::optional<Status> ParseValued(const Word& word, PbfsOptions& options) {
  if (word.name == "cache") return ParseCache(word, options);
  if (word.name == "type") return ParseType(word, options);
  if (word.name == "commit") {
    const auto seconds = ParseNumber(word, 1, kCommitSecondsMax);
    if (!seconds.ok()) return seconds.status();
    options.filesystem.commit_interval_ns = int64_t{*seconds} * 1'000'000'000;
    options.commit_interval_given = true;
    return OkStatus();
  }
  if (word.name == "workers") {
    const auto count = ParseNumber(word, 1, kWorkersMax);
    if (!count.ok()) return count.status();
    options.workers = static_cast<unsigned>(*count);
    return OkStatus();
  }
  if (word.name == "transport") return ParseTransport(word, options);
  if (word.name == "splice") return ParseSplice(word, options);
  if (word.name == "log") {
    if (!word.value || word.value->empty()) return BadValue(word, "a file name is wanted");
    options.log_path = *word.value;
    return OkStatus();
  }
  return std::nullopt;
}

bool ParseSwitch(const Word& word, PbfsOptions& options) {
  if (word.name == "norecovery") {
    options.filesystem.no_recovery = true;
    options.filesystem.read_only = true;
  } else if (word.name == "discard" || word.name == "nodiscard") {
    options.filesystem.discard = word.name == "discard";
  } else if (word.name == "nowriteback") {
    options.session.writeback_cache = false;
  } else if (word.name == "open") {
    options.session.serve_open = true;
  } else if (word.name == "acl" || word.name == "noacl") {
    options.session.acls = word.name == "acl";
  } else if (word.name == "nospin") {
    options.session.workers.spin = false;
  } else if (word.name == "allow_other") {
    options.allow_other = true;
  } else if (word.name == "remount") {
    options.remount = true;
  } else {
    return false;
  }
  return true;
}

Status ParseWord(const Word& word, bool sloppy, PbfsOptions& options) {
  if (IsPassedOver(word)) return OkStatus();
  if (const auto parsed = ParseValued(word, options)) return *parsed;
  if (word.value) return sloppy ? OkStatus() : BadValue(word, "unknown option");
  if (ParseKernelFlag(word, options) || ParseSwitch(word, options) || sloppy) return OkStatus();
  return ErrnoError(EINVAL, absl::StrCat("unknown option ", View(word.name)));
}

// Takes the first option off the list.
Word NextWord(std::string_view& list) {
  size_t end = 0;
  bool quoted = false;
  while (end < list.size() && (quoted || list[end] != ',')) quoted ^= list[end++] == '"';
  const std::string_view text = list.substr(0, end);
  list.remove_prefix(end < list.size() ? end + 1 : end);
  const size_t equals = text.find('=');
  Word word = {text.substr(0, equals), std::nullopt};
  if (equals == std::string_view::npos) return word;
  word.value.emplace();
  for (const char c : text.substr(equals + 1)) {
    if (c != '"') word.value->push_back(c);
  }
  return word;
}

}  // namespace

AccessTimePolicy AccessTimesOf(unsigned long flags) {
  AccessTimePolicy policy;
  if ((flags & MS_STRICTATIME) != 0) policy.when = AccessTimePolicy::When::kAlways;
  if ((flags & MS_NOATIME) != 0) policy.when = AccessTimePolicy::When::kNever;
  policy.directories = (flags & MS_NODIRATIME) == 0;
  policy.lazy = (flags & MS_LAZYTIME) != 0;
  return policy;
}

Status ParseMountOptions(std::string_view list, bool sloppy, PbfsOptions& options) {
  while (!list.empty()) {
    const Word word = NextWord(list);
    if (word.name.empty() && !word.value) continue;
    PBFS_RETURN_IF_ERROR(ParseWord(word, sloppy, options));
  }
  const unsigned long synchronous = MS_SYNCHRONOUS | MS_DIRSYNC;
  options.session.sync_names = (options.kernel_flags & synchronous) != 0;
  options.session.sync_attributes = (options.kernel_flags & MS_SYNCHRONOUS) != 0;
  options.read_only_asked = (options.kernel_flags & MS_RDONLY) != 0;
  if (options.read_only_asked) options.filesystem.read_only = true;
  options.filesystem.access_times = AccessTimesOf(options.kernel_flags);
  if (options.filesystem.no_recovery) options.kernel_flags |= MS_RDONLY;
  return OkStatus();
}

}  // namespace pbfs
