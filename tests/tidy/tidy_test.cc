// SPDX-License-Identifier: Apache-2.0
// The rules of the source tree that a program can check. Each test lists every place that breaks
// one.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace pbfs {
namespace {

constexpr size_t kFileLinesMax = 800;
constexpr size_t kLineColumnsMax = 100;
constexpr size_t kFunctionLinesMax = 70;

struct SourceFile {
  std::string path;  // From the root of the repository.
  std::vector<std::string> lines;
};

bool StartsWith(const std::string& text, const std::string& prefix) {
  return text.compare(0, prefix.size(), prefix) == 0;
}
bool EndsWith(const std::string& text, const std::string& suffix) {
  return text.size() >= suffix.size() &&
         text.compare(text.size() - suffix.size(), suffix.size(), suffix) == 0;
}
bool IsCxx(const SourceFile& file) {
  return EndsWith(file.path, ".h") || EndsWith(file.path, ".cc");
}

bool IsScript(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  return std::getline(file, line) && StartsWith(line, "#!");
}

bool IsSource(const std::filesystem::path& path) {
  const std::string name = path.filename();
  return EndsWith(name, ".h") || EndsWith(name, ".cc") || EndsWith(name, ".cmake") ||
         EndsWith(name, ".sh") || EndsWith(name, ".py") || name == "CMakeLists.txt" ||
         (path.extension().empty() && IsScript(path));
}

SourceFile Load(const std::filesystem::path& root, const std::filesystem::path& path) {
  SourceFile file;
  file.path = std::filesystem::relative(path, root);
  std::ifstream stream(path);
  for (std::string line; std::getline(stream, line);) file.lines.push_back(line);
  return file;
}

// Characters, not bytes: the rest of a UTF-8 sequence does not count.
size_t Columns(const std::string& line) {
  return static_cast<size_t>(
      std::count_if(line.begin(), line.end(), [](char c) { return (c & 0xc0) != 0x80; }));
}

const std::vector<SourceFile>& Sources() {
  static const auto& sources = *new std::vector<SourceFile>([] {
    std::vector<SourceFile> files;
    const std::filesystem::path root = PBFS_SOURCE_DIR;
    files.push_back(Load(root, root / "CMakeLists.txt"));
    for (const char* top : {"base", "io", "cache", "fs", "tools", "tests", "bench", ".ci"}) {
      if (!std::filesystem::exists(root / top)) continue;
      for (const auto& entry : std::filesystem::recursive_directory_iterator(root / top)) {
        if (entry.is_regular_file() && IsSource(entry.path())) {
          files.push_back(Load(root, entry.path()));
        }
      }
    }
    return files;
  }());
  return sources;
}

// Calls `check(file, line, number)` for every line of the files that `select` takes.
template <typename Select, typename Check>
void ForEachLine(Select select, Check check) {
  for (const SourceFile& file : Sources()) {
    if (!select(file)) continue;
    for (size_t i = 0; i < file.lines.size(); ++i) check(file, file.lines[i], i + 1);
  }
}

// "" unless the line is an include.
std::string IncludedName(const std::string& line) {
  if (!StartsWith(line, "#include ")) return "";
  const size_t start = line.find_first_of("<\"");
  const size_t end = line.find_first_of(">\"", start + 1);
  if (start == std::string::npos || end == std::string::npos) return "";
  return line.substr(start + 1, end - start - 1);
}

TEST(Tidy, TreeIsFound) { ASSERT_GT(Sources().size(), 20u); }

TEST(Tidy, EverySourceNamesTheLicence) {
  for (const SourceFile& file : Sources()) {
    bool found = false;
    for (size_t i = 0; i < std::min<size_t>(3, file.lines.size()); ++i) {
      found |= file.lines[i].find("SPDX-License-Identifier: Apache-2.0") != std::string::npos;
    }
    EXPECT_TRUE(found) << file.path;
  }
}

TEST(Tidy, FilesAreShort) {
  for (const SourceFile& file : Sources()) {
    EXPECT_LE(file.lines.size(), kFileLinesMax) << file.path;
  }
}

TEST(Tidy, LinesAreShortAndClean) {
  ForEachLine([](const SourceFile&) { return true; },
              [](const SourceFile& file, const std::string& line, size_t number) {
                const std::string where = file.path + ":" + std::to_string(number) + ": ";
                const size_t columns = Columns(line);
                if (IsCxx(file) && columns > kLineColumnsMax) {
                  ADD_FAILURE() << where << columns << " columns (tools/lint --fix helps)";
                }
                if (line.find('\t') != std::string::npos) ADD_FAILURE() << where << "a tab";
                if (EndsWith(line, " ") || EndsWith(line, "\r")) {
                  ADD_FAILURE() << where << "white space at the end";
                }
              });
}

TEST(Tidy, HeadersAreIncludedOnce) {
  for (const SourceFile& file : Sources()) {
    if (!EndsWith(file.path, ".h")) continue;
    EXPECT_NE(std::find(file.lines.begin(), file.lines.end(), "#pragma once"), file.lines.end())
        << file.path;
  }
}

TEST(Tidy, NothingIsLeftForLater) {
  const std::string words[] = {std::string("TO") + "DO", std::string("FIX") + "ME",
                               std::string("XX") + "X"};
  ForEachLine([](const SourceFile&) { return true; },
              [&](const SourceFile& file, const std::string& line, size_t number) {
                for (const std::string& word : words) {
                  // mktemp templates are no notes.
                  const size_t at = line.find(word);
                  const bool note = at != std::string::npos && line.find(word + "X") == line.npos;
                  EXPECT_FALSE(note) << file.path << ":" << number;
                }
              });
}

// tools, tests -> fs/fuse -> fs -> cache -> io -> base.
TEST(Tidy, DependenciesPointOneWay) {
  const std::map<std::string, std::set<std::string>> allowed = {
      {"base", {"base"}},
      {"io", {"base", "io"}},
      {"cache", {"base", "io", "cache"}},
      {"fs", {"base", "io", "cache", "fs"}},
      {"tools", {"base", "io", "cache", "fs", "tools"}},
  };
  ForEachLine(IsCxx, [&](const SourceFile& file, const std::string& line, size_t number) {
    const std::string name = IncludedName(line);
    if (name.empty() || line.find('"') == std::string::npos) return;
    const auto rule = allowed.find(file.path.substr(0, file.path.find('/')));
    const std::string top = name.substr(0, name.find('/'));
    if (rule == allowed.end() || (allowed.count(top) == 0 && top != "tests")) return;
    EXPECT_TRUE(rule->second.count(top) != 0) << file.path << ":" << number << ": " << name;
    if (StartsWith(name, "fs/fuse/")) {
      EXPECT_TRUE(StartsWith(file.path, "fs/fuse/") || StartsWith(file.path, "tools/"))
          << file.path << ":" << number << ": " << name;
    }
  });
}

TEST(Tidy, KernelInterfacesStayInTheirFolder) {
  ForEachLine(IsCxx, [](const SourceFile& file, const std::string& line, size_t number) {
    const std::string name = IncludedName(line);
    const std::string where = file.path + ":" + std::to_string(number);
    if (name == "liburing.h") {
      EXPECT_TRUE(StartsWith(file.path, "io/") || StartsWith(file.path, "fs/fuse/uring_transport"))
          << where;
    }
    if (EndsWith(name, "fuse_lowlevel.h")) {
      EXPECT_TRUE(StartsWith(file.path, "fs/fuse/") || StartsWith(file.path, "tests/xfstests/"))
          << where;
    }
  });
}

// A function as clang-format lays it out: from the line that opens it to the "}" in the same
// column. Covers free functions and members defined outside their class.
TEST(Tidy, FunctionsAreShort) {
  const std::set<std::string> others = {"namespace", "class", "struct", "enum", "union", "extern"};
  for (const SourceFile& file : Sources()) {
    if (!IsCxx(file)) continue;
    size_t head = 0;
    bool is_function = false;
    for (size_t i = 0; i < file.lines.size(); ++i) {
      const std::string& line = file.lines[i];
      if (line == "}" || line == "};") {
        if (is_function) {
          EXPECT_LE(i - head + 1, kFunctionLinesMax) << file.path << ":" << head + 1;
        }
        is_function = false;
      } else if (!line.empty() && std::isalpha(static_cast<unsigned char>(line[0])) != 0) {
        head = i;
        const std::string word = line.substr(0, line.find_first_of(" ("));
        is_function = others.count(word) == 0 && line.find('=') == std::string::npos;
      }
    }
  }
}

}  // namespace
}  // namespace pbfs
