// SPDX-License-Identifier: Apache-2.0
// pbfsctl: looks at pbfs filesystems, mounted or not, and has them do things.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <vector>

#include "tools/pbfsctl/commands.h"

namespace pbfs {
namespace {

int Main(int argc, char** argv) {
  CLI::App app("Looks at pbfs filesystems and has them do things.", "pbfsctl");
  app.set_version_flag("-V,--version", "pbfsctl " PBFS_VERSION);
  app.require_subcommand(1);
  app.fallthrough();
  bool json = false;
  app.add_flag("--json", json, "Print JSON");
  std::string path;
  std::string mode = "default";
  std::optional<std::string> new_label;
  std::vector<std::string> what;

  CLI::App& stats = *app.add_subcommand("stats", "Counters of a mount; facts of a device");
  stats.add_option("MOUNT-or-DEVICE", path)->required();
  CLI::App& sync = *app.add_subcommand("sync", "Make everything durable that reached the server");
  sync.add_option("MOUNT", path)->required();
  CLI::App& shutdown = *app.add_subcommand("shutdown", "Stop using the device at once");
  shutdown.add_option("MOUNT", path)->required();
  shutdown.add_option("--mode", mode, "default (sync first), logflush or nologflush");
  CLI::App& trim = *app.add_subcommand("trim", "Tell the device which space is free");
  trim.add_option("MOUNT", path)->required();
  CLI::App& label = *app.add_subcommand("label", "Show or change the label");
  label.add_option("MOUNT", path)->required();
  label.add_option("LABEL", new_label, "At most 64 bytes");
  CLI::App& dump = *app.add_subcommand("dump", "Show structures on a device");
  dump.add_option("DEVICE", path)->required();
  dump.add_option("WHAT", what,
                  "superblock (default), state, log, ag N, inode N, or a block number");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "pbfsctl: %s\nTry: pbfsctl --help\n", error.what());
    return 1;
  }
  Status status = stats      ? ShowStats(path, json)
                  : sync     ? SyncMount(path)
                  : shutdown ? ShutDownMount(path, mode)
                  : trim     ? TrimMount(path, json)
                  : label    ? LabelMount(path, new_label, json)
                             : DumpDevice(path, what, json);
  if (status.ok() && std::fflush(stdout) != 0) {
    status = ErrnoError(errno, "cannot write to standard output");
  }
  if (status.ok()) return 0;
  const std::string message(status.message());
  std::fprintf(stderr, "pbfsctl: %s\n", message.c_str());
  return 1;
}

}  // namespace
}  // namespace pbfs

int main(int argc, char** argv) {
  try {
    return pbfs::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "pbfsctl: %s\n", error.what());
    return 1;
  }
}
