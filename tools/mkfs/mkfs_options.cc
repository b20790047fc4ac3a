// SPDX-License-Identifier: Apache-2.0
#include "tools/mkfs/mkfs_options.h"

#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <vector>

#include "fs/uuid.h"
#include "tools/common/size.h"

namespace pbfs {

StatusOr<std::optional<MkfsOptions>> ParseMkfsOptions(int argc, char** argv) {
  CLI::App app("Makes a pbfs filesystem on a block device or in an image file.", "mkfs.pbfs");
  MkfsOptions options;
  std::string uuid, size, log_size;
  std::vector<std::string> devices;
  bool keep = false;
  app.set_version_flag("-V,--version", "mkfs.pbfs " PBFS_VERSION);
  app.add_flag("-f,--force", options.force, "Overwrite what is already on the device");
  app.add_flag("-q,--quiet", options.quiet, "Print nothing but errors");
  app.add_flag("-n,--dry-run", options.dry_run, "Print the layout, write nothing");
  app.add_option("-L,--label", options.make.label, "Label, at most 64 bytes");
  app.add_option("-U,--uuid", uuid, "UUID (default: random)");
  app.add_option("-s,--size", size,
                 "Size of the filesystem, K M G T (default: the whole device); "
                 "an image file is made or extended");
  app.add_option("-l,--log-size", log_size, "Size of the log (default: by the device's size)");
  app.add_flag("-K,--nodiscard", keep, "Do not discard the device's blocks first");
  app.add_option("DEVICE", devices, "Block device or image file")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    app.exit(success);
    return std::optional<MkfsOptions>();
  } catch (const CLI::ParseError& error) {
    return ErrnoError(EINVAL, std::string(error.what()) + "\nTry: mkfs.pbfs --help");
  }
  if (devices.size() != 1) {
    return ErrnoError(EINVAL, "filesystems on more than one device are not supported yet");
  }
  options.device = devices.front();
  options.make.discard = !keep;
  options.make.root_uid = getuid();
  options.make.root_gid = getgid();
  if (!size.empty()) {
    PBFS_ASSIGN_OR_RETURN(options.make.size_bytes, ParseSize(size));
  }
  if (!log_size.empty()) {
    PBFS_ASSIGN_OR_RETURN(options.make.log_bytes, ParseSize(log_size));
  }
  if (!uuid.empty()) {
    PBFS_ASSIGN_OR_RETURN(options.make.uuid, ParseUuid(uuid));
  }
  return std::make_optional(std::move(options));
}

}  // namespace pbfs
