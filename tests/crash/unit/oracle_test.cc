// SPDX-License-Identifier: Apache-2.0
// An oracle that cannot refuse anything proves nothing.
#include "tests/crash/oracle.h"

#include <sys/stat.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace pbfs {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

constexpr InodeNumber kRootInode = 1;

Attributes RootAttributes() {
  Attributes root;
  root.mode = S_IFDIR | 0755;
  root.nlink = 2;
  return root;
}

// One client's sequence, and the state that shows all of it. Inodes are numbered like files, from
// that of the root on. The clock goes on by one second with each operation.
struct Client {
  explicit Client(InodeNumber root_inode = kRootInode) : root(root_inode) { See(Model::kRoot); }

  void See(Model::FileId id) {
    const Model::Node& node = std::as_const(model).tree().at(id);
    ObservedNode& seen = state.nodes[root + id];
    seen.mode = node.mode;
    seen.nlink = node.nlink;
    seen.times = model.TimesOf(id);
    seen.btime = node.btime;
    for (const auto& [name, child] : node.entries) seen.entries[name] = root + child;
    if (!S_ISREG(node.mode)) return;
    seen.bytes = model.Bytes(id);
    seen.size_bytes = seen.bytes.size();
  }
  Model::FileId Create(const std::string& name) {
    model.Begin();
    const Model::FileId id = model.NewFile();
    Model::Node& node = model.tree()[id];
    node.mode = S_IFREG | 0644;
    node.nlink = 1;
    node.btime = Now();
    model.tree().at(Model::kRoot).entries[name] = id;
    model.SetBytes(id, "", true);
    model.AddTimes(id, {Now(), Now(), Now()}, true, false);
    model.AddTimes(Model::kRoot, {{}, Now(), Now()}, true, false);
    model.Touch(id);
    model.Touch(Model::kRoot);
    model.End();
    See(id);
    See(Model::kRoot);
    return id;
  }
  void Write(Model::FileId id, const std::string& bytes) {
    model.Begin();
    model.SetBytes(id, bytes, false);
    model.AddTimes(id, {model.TimesOf(id).atime, Now(), Now()}, true, /*lazy=*/true);
    model.End();
    See(id);
  }
  void Chmod(Model::FileId id, uint32_t mode) {
    model.Begin();
    model.tree().at(id).mode = S_IFREG | mode;
    model.AddTimes(id, {model.TimesOf(id).atime, model.TimesOf(id).mtime, Now()}, false, false);
    model.Touch(id);
    model.End();
    See(id);
  }
  void SetTimes(Model::FileId id, Time time) {
    model.Begin();
    model.AddTimes(id, {time, time, Now()}, true, false);
    model.Touch(id, /*times_only=*/true);
    model.End();
    See(id);
  }
  size_t Fsync(Model::FileId id, bool datasync = false) {
    return model.Acknowledge(model.PromiseOf(id, datasync));
  }
  std::string Explain(const Observed& observed, size_t acks) const {
    return model.Explain(observed, model.op(), acks);
  }
  Time Now() const { return {1000 + model.op(), 5}; }

  InodeNumber root;
  Model model{RootAttributes()};
  Observed state{.root = root, .nodes = {}};
};

TEST(OracleTest, TheNewestAndTheOldestStateAreLegal) {
  Client client;
  const Observed before = client.state;
  const Model::FileId f = client.Create("f");
  const Observed created = client.state;
  client.Write(f, "abc");
  EXPECT_THAT(client.Explain(client.state, 0), IsEmpty());
  EXPECT_THAT(client.Explain(created, 0), IsEmpty());
  EXPECT_THAT(client.Explain(before, 0), IsEmpty());
}

TEST(OracleTest, ANameIsMissedAfterFsync) {
  Client client;
  const Observed before = client.state;
  const Model::FileId f = client.Create("f");
  const size_t acks = client.Fsync(f);
  EXPECT_THAT(client.Explain(before, 0), IsEmpty());
  EXPECT_THAT(client.Explain(before, acks), HasSubstr("no state after operations 1..1 fits"));
}

TEST(OracleTest, AForeignByteIsSeen) {
  Client client;
  const Model::FileId f = client.Create("f");
  client.Write(f, "abc");
  client.Fsync(f);
  client.Write(f, "xyz");
  Observed state = client.state;
  state.nodes[kRootInode + f].bytes = "xbc";
  EXPECT_THAT(client.Explain(state, 0), IsEmpty());  // Partly written.
  state.nodes[kRootInode + f].bytes = "xqc";
  EXPECT_THAT(client.Explain(state, 0), HasSubstr("never written there"));
}

TEST(OracleTest, ALostTimeIsMissedAfterFsyncButNotAfterFdatasync) {
  Client client;
  const Model::FileId f = client.Create("f");
  client.Write(f, "abc");
  const Times old = client.model.TimesOf(f);
  client.Write(f, "xyz");
  Observed state = client.state;
  state.nodes[kRootInode + f].times = old;
  const size_t datasync = client.Fsync(f, /*datasync=*/true);
  EXPECT_THAT(client.Explain(state, datasync), IsEmpty());
  const size_t fsync = client.Fsync(f);
  EXPECT_THAT(client.Explain(state, fsync), HasSubstr("times are"));
  EXPECT_THAT(client.Explain(client.state, fsync), IsEmpty());
}

TEST(OracleTest, SetTimesComeWithFsyncNotWithFdatasync) {
  Client client;
  const Model::FileId f = client.Create("f");
  const Times old = client.model.TimesOf(f);
  client.SetTimes(f, {-77, 3});
  Observed state = client.state;
  state.nodes[kRootInode + f].times = old;
  EXPECT_THAT(client.Explain(state, client.Fsync(f, /*datasync=*/true)), IsEmpty());
  EXPECT_THAT(client.Explain(state, client.Fsync(f)), HasSubstr("times are"));
}

TEST(OracleTest, AMixtureOfTimesIsSeen) {
  Client client;
  const Model::FileId f = client.Create("f");
  const Times created = client.model.TimesOf(f);
  client.Write(f, "abc");
  Observed state = client.state;
  Times& times = state.nodes[kRootInode + f].times;
  EXPECT_THAT(client.Explain(state, 0), IsEmpty());
  times.ctime = created.ctime;
  EXPECT_THAT(client.Explain(state, 0), HasSubstr("times are"));
  times.mtime = created.mtime;
  EXPECT_THAT(client.Explain(state, 0), IsEmpty());
}

// The write's time may be stored or not; the change time is that of the chmod in both cases.
TEST(OracleTest, AWriteTimeDoesNotReplaceANewerChangeTime) {
  Client client;
  const Model::FileId f = client.Create("f");
  const Times created = client.model.TimesOf(f);
  client.Write(f, "abc");
  const Times written = client.model.TimesOf(f);
  client.Chmod(f, 0600);
  Observed state = client.state;
  Times& times = state.nodes[kRootInode + f].times;
  EXPECT_THAT(client.Explain(state, 0), IsEmpty());
  times.mtime = created.mtime;
  EXPECT_THAT(client.Explain(state, 0), IsEmpty());
  times = written;
  EXPECT_THAT(client.Explain(state, 0), HasSubstr("times are"));
}

TEST(OracleTest, BirthGenerationAndOwnerAreCompared) {
  Client client;
  const Model::FileId f = client.Create("f");
  const auto explain = [&](const auto& change) {
    Observed state = client.state;
    change(state.nodes[kRootInode + f]);
    return client.Explain(state, client.Fsync(f));
  };
  EXPECT_THAT(explain([](ObservedNode& node) { ++node.btime.nanoseconds; }), HasSubstr("birth"));
  EXPECT_THAT(explain([](ObservedNode& node) { node.generation = 9; }), HasSubstr("generation"));
  EXPECT_THAT(explain([](ObservedNode& node) { node.gid = 9; }), HasSubstr("owner"));
  EXPECT_THAT(explain([](ObservedNode& node) { ++node.times.atime.seconds; }),
              HasSubstr("times are"));
}

// ---- Several clients ----------------------------------------------------------------------------

// Client 0 has the root with the other two's directories, and does nothing.
class ClientsTest : public testing::Test {
 protected:
  static constexpr InodeNumber kA = 100;
  static constexpr InodeNumber kB = 200;

  ClientsTest() {
    oracle_.Add(root_.model, "");
    oracle_.NoteBegin(0, root_.model.Begin());
    for (const char* name : {"a", "b"}) {
      const Model::FileId id = root_.model.NewFile();
      root_.model.tree()[id].mode = S_IFDIR | 0755;
      root_.model.tree()[id].foreign = true;
      root_.model.tree().at(Model::kRoot).entries[name] = id;
    }
    root_.model.End();
    oracle_.Add(a_.model, "a");
    oracle_.Add(b_.model, "b");
  }
  static void Create(Oracle& oracle, size_t number, Client& client, const std::string& name) {
    oracle.NoteBegin(number, client.model.op() + 1);
    client.Create(name);
  }
  std::string Explain(const Observed& a, const Observed& b) {
    Observed all;
    all.root = kRootInode;
    all.nodes = a.nodes;
    all.nodes.insert(b.nodes.begin(), b.nodes.end());
    ObservedNode& root = all.nodes[kRootInode];
    root = root_.state.nodes.at(kRootInode);
    root.entries = {{"a", kA}, {"b", kB}};
    return oracle_.Explain(all, {{1, 0}, {a_.model.op(), 0}, {b_.model.op(), 0}});
  }

  Client root_;
  Client a_{kA};
  Client b_{kB};
  Oracle oracle_;
};

TEST_F(ClientsTest, WhatEndedBeforeMustBeThere) {
  const Observed a0 = a_.state;
  Create(oracle_, 1, a_, "x");
  const Observed a1 = a_.state;
  const Observed b0 = b_.state;
  Create(oracle_, 2, b_, "y");
  const Observed b1 = b_.state;
  EXPECT_THAT(Explain(a0, b0), IsEmpty());
  EXPECT_THAT(Explain(a1, b0), IsEmpty());
  EXPECT_THAT(Explain(a1, b1), IsEmpty());
  EXPECT_THAT(Explain(a0, b1), HasSubstr("which had ended before it"));
}

TEST_F(ClientsTest, WhatRanAtTheSameTimeMayBeThereOrNot) {
  const Observed a0 = a_.state;
  const Observed b0 = b_.state;
  // Both begin before either ends.
  oracle_.NoteBegin(1, 1);
  oracle_.NoteBegin(2, 1);
  a_.Create("x");
  b_.Create("y");
  EXPECT_THAT(Explain(a0, b_.state), IsEmpty());
  EXPECT_THAT(Explain(a_.state, b0), IsEmpty());
}

// The newest place that fits client b alone is too new, an older one is right.
TEST_F(ClientsTest, AnOlderPlaceIsFound) {
  Create(oracle_, 2, b_, "y");
  const Observed a0 = a_.state;
  Create(oracle_, 1, a_, "x");
  oracle_.NoteBegin(2, b_.model.op() + 1);
  b_.Write(1, "data");  // Leaves the names alone, so a state without it fits after it, too.
  Observed without = b_.state;
  without.nodes[kB + 1].bytes = "";
  without.nodes[kB + 1].size_bytes = 0;
  without.nodes[kB + 1].times = {{1001, 5}, {1001, 5}, {1001, 5}};
  EXPECT_THAT(Explain(a0, without), IsEmpty());
  EXPECT_THAT(Explain(a0, b_.state), HasSubstr("which had ended before it"));
}

}  // namespace
}  // namespace pbfs
