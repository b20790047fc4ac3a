// SPDX-License-Identifier: Apache-2.0
// Static probes for bpftrace, perf and gdb (USDT). One costs a no-op where nobody listens, and
// nothing where <sys/sdt.h> was not there at build time. docs/probes.md lists them.
#pragma once

#if __has_include(<sys/sdt.h>)
#define SDT_USE_VARIADIC
#include <sys/sdt.h>
// PBFS_PROBE(name, integer or pointer...): at most twelve.
#define PBFS_PROBE(name, ...) STAP_PROBEV(pbfs, name __VA_OPT__(, ) __VA_ARGS__)
#else
// The arguments are still compiled, so that they stay right.
#define PBFS_PROBE(name, ...) ::pbfs::NoProbe(__VA_ARGS__)
namespace pbfs {
template <typename... Arguments>
void NoProbe(const Arguments&...) {}
}  // namespace pbfs
#endif
