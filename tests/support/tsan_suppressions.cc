// SPDX-License-Identifier: Apache-2.0
// Part of every test program that ThreadSanitizer instruments.

/// What ThreadSanitizer reports although it is no race; it asks for this by name, once, at start.
/// Debian's libabsl_status is not instrumented, so ThreadSanitizer does not see how it counts
/// references: one thread reads a Status, another drops the last reference to it and frees it.
extern "C" const char* __tsan_default_suppressions() {
  return "race:absl::*::Status::UnrefNonInlined\n";
}
