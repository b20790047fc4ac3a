// SPDX-License-Identifier: Apache-2.0
#include "tools/common/size.h"

#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace pbfs {
namespace {

constexpr char kUnits[] = "KMGTPE";

// Exponent of 1024 that a suffix stands for; -1 if it is none.
int UnitPower(const std::string& suffix) {
  if (suffix.empty() || absl::EqualsIgnoreCase(suffix, "b")) return 0;
  const char letter = static_cast<char>(std::toupper(static_cast<unsigned char>(suffix[0])));
  const std::string rest = suffix.substr(1);
  if (!rest.empty() && !absl::EqualsIgnoreCase(rest, "b") && !absl::EqualsIgnoreCase(rest, "ib")) {
    return -1;
  }
  for (int i = 0; kUnits[i] != 0; ++i) {
    if (kUnits[i] == letter) return i + 1;
  }
  return -1;
}

}  // namespace

StatusOr<uint64_t> ParseSize(const std::string& text) {
  const Status bad = ErrnoError(
      EINVAL, absl::StrCat("'", text, "' is not a size; write for example 512M, 10G or 1.5T"));
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string number = text.substr(0, digits);
  const int power = UnitPower(digits == std::string::npos ? "" : text.substr(digits));
  if (power < 0 || number.empty()) return bad;
  uint64_t whole = 0;
  if (absl::SimpleAtoi(number, &whole)) {
    if (whole > UINT64_MAX >> (10 * power)) return bad;
    return whole << (10 * power);
  }
  double value = 0;
  if (power == 0 || !absl::SimpleAtod(number, &value)) return bad;
  value = std::ldexp(value, 10 * power);
  if (!(value < std::ldexp(1.0, 63))) return bad;
  return static_cast<uint64_t>(value);
}

std::string FormatSize(uint64_t size_bytes) {
  int power = 0;
  while (power < 6 && size_bytes >> (10 * (power + 1)) != 0) ++power;
  if (power == 0) return absl::StrCat(size_bytes, " bytes");
  char text[32];
  const double value = std::ldexp(static_cast<double>(size_bytes), -10 * power);
  const bool whole = (size_bytes & ((uint64_t{1} << (10 * power)) - 1)) == 0;
  std::snprintf(text, sizeof text, "%.*f %ciB", whole ? 0 : 1, value, kUnits[power - 1]);
  return text;
}

}  // namespace pbfs
