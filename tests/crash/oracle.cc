// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/oracle.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/check.h"

namespace pbfs {

void Oracle::Add(const Model& model, const std::string& directory) {
  PBFS_CHECK(clients_.size() < kClientsMax);
  clients_.push_back({&model, directory});
}

void Oracle::NoteBegin(size_t client, uint32_t op) {
  std::vector<uint32_t> ended;
  for (const Seen& other : clients_) ended.push_back(other.model->ended());
  Seen& self = clients_[client];
  self.ended_before.push_back(std::move(ended));
  PBFS_CHECK(self.ended_before.size() == op + 1);
}

std::vector<Bounds> Oracle::BoundsOf(const std::vector<uint64_t>& marks) const {
  std::vector<Bounds> bounds(clients_.size());
  for (const uint64_t mark : marks) {
    Bounds& of_client = bounds.at(mark / 2 % kClientsMax);
    const uint64_t value = mark / 2 / kClientsMax;
    if (mark % 2 == 0) {
      of_client.ops_begun = static_cast<uint32_t>(value);
    } else {
      of_client.acks = std::max<size_t>(of_client.acks, value);
    }
  }
  return bounds;
}

InodeNumber Oracle::RootOf(const Observed& observed, size_t client) const {
  if (client == 0) return observed.root;
  const auto& entries = observed.nodes.at(observed.root).entries;
  const auto found = entries.find(clients_[client].directory);
  return found == entries.end() ? 0 : found->second;
}

std::string Oracle::ExplainLive(const Observed& observed) const {
  for (size_t i = 0; i < clients_.size(); ++i) {
    const InodeNumber root = RootOf(observed, i);
    const std::string problem =
        root == 0 ? "its directory is missing" : clients_[i].model->ExplainLive(observed, root);
    if (!problem.empty()) return absl::StrCat("client ", i, ": ", problem);
  }
  return "";
}

// The newest place of each client that fits by itself; then each goes back to where nothing of it
// is newer than what others have lost. The allowed places form a lattice, so if this finds nothing,
// there is nothing.
std::string Oracle::Explain(const Observed& observed, const std::vector<Bounds>& bounds) const {
  const size_t count = clients_.size();
  std::vector<InodeNumber> roots(count);
  std::vector<uint32_t> at(count);
  const auto fit = [&](size_t client, uint32_t op_max) -> std::string {
    const Model::Fit found =
        clients_[client].model->NewestFit(observed, roots[client], op_max, bounds[client].acks);
    if (found.op) at[client] = *found.op;
    if (count == 1 || found.problem.empty()) return found.problem;
    return absl::StrCat("client ", client, ": ", found.problem);
  };
  for (size_t i = 0; i < count; ++i) {
    roots[i] = RootOf(observed, i);
    if (roots[i] == 0) return absl::StrCat("client ", i, ": its directory is missing");
    const std::string problem = fit(i, bounds[i].ops_begun);
    if (!problem.empty()) return problem;
  }
  for (bool changed = count > 1; changed;) {
    changed = false;
    for (size_t i = 0; i < count; ++i) {
      const std::vector<uint32_t>& needed = clients_[i].ended_before[at[i]];
      for (size_t other = 0; other < needed.size(); ++other) {
        if (at[other] >= needed[other]) continue;
        const uint32_t was = at[i];
        const std::string problem = was == 0 ? "nothing is older" : fit(i, was - 1);
        if (!problem.empty()) {
          return absl::StrCat("operation ", was, " of client ", i, " is there, but not operation ",
                              needed[other], " of client ", other,
                              ", which had ended before it: ", problem);
        }
        changed = true;
        break;
      }
    }
  }
  return "";
}

}  // namespace pbfs
