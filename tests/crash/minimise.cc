// SPDX-License-Identifier: Apache-2.0
#include "tests/crash/minimise.h"

#include <nlohmann/json.hpp>

#include "tests/crash/children.h"
#include "tests/crash/step.h"

namespace pbfs {
namespace {

using Clock = std::chrono::steady_clock;
using nlohmann::json;
constexpr std::chrono::seconds kRunMax(60);

Workload WorkloadOf(const std::vector<Step>& steps) {
  return {.name = ToText(steps),
          .run = [steps](Session& session) { RunSteps(session, steps); },
          .steps = steps};
}

// What goes wrong, and at which cut.
struct Failure {
  std::string text;  // Empty: nothing.
  Cut cut;           // Position 0: without a crash, or it took the process with it.
};

json ToJson(const Cut& cut) {
  json fates = json::array();
  for (const Fate& fate : cut.fates) {
    fates.push_back({static_cast<int>(fate.kind), fate.seed});
  }
  return {{"position", cut.position}, {"fates", fates}};
}

Cut CutFrom(const json& text) {
  Cut cut{text["position"], {}};
  for (const json& fate : text["fates"]) {
    cut.fates.push_back({static_cast<Fate::Kind>(fate[0].get<int>()), fate[1]});
  }
  return cut;
}

Failure Try(const Workload& workload, const TrialOptions& options) {
  const auto ended = RunInChild(
      [&] {
        const TrialResult result = RunTrial(workload, options);
        if (result.violations.empty()) return std::string();
        return json{{"text", result.violations.front()}, {"cut", ToJson(result.cut)}}.dump();
      },
      kRunMax);
  if (!ended.death.empty()) return {ended.death, {}};
  if (ended.result.empty()) return {};
  const json text = json::parse(ended.result);
  return {text["text"], CutFrom(text["cut"])};
}

std::string TryCut(const Workload& workload, const TrialOptions& options, const Cut& cut,
                   const std::string& image_path, std::string* writes) {
  const auto ended = RunInChild(
      [&] {
        std::string list;
        const std::string problem = RunCut(workload, options, cut, image_path, &list);
        return json{{"problem", problem}, {"writes", list}}.dump();
      },
      kRunMax);
  if (!ended.death.empty()) return ended.death;
  const json text = json::parse(ended.result);
  if (writes != nullptr) *writes = text["writes"];
  return text["problem"];
}

// Leaves out what can be, from long runs of steps to single ones.
void ReduceSteps(std::vector<Step>& steps, Failure& failure, const TrialOptions& options,
                 Clock::time_point end) {
  for (size_t length = (steps.size() + 1) / 2; length > 0; length /= 2) {
    for (size_t at = 0; at < steps.size() && Clock::now() < end;) {
      std::vector<Step> fewer = steps;
      const auto first = fewer.begin() + static_cast<ptrdiff_t>(at);
      fewer.erase(first, first + static_cast<ptrdiff_t>(std::min(length, fewer.size() - at)));
      Failure still = Try(WorkloadOf(fewer), options);
      if (still.text.empty()) {
        at += length;
      } else {
        steps = std::move(fewer);
        failure = std::move(still);
      }
    }
  }
}

void ReduceCut(const Workload& workload, Failure& failure, const TrialOptions& options,
               Clock::time_point end) {
  for (size_t i = 0; i < failure.cut.fates.size() && Clock::now() < end; ++i) {
    if (failure.cut.fates[i] == Fate{}) continue;
    Cut kept = failure.cut;
    kept.fates[i] = {};
    const std::string problem = TryCut(workload, options, kept, "", nullptr);
    if (problem.empty()) continue;
    failure = {problem, std::move(kept)};
  }
}

}  // namespace

Minimised Minimise(const Workload& workload, const TrialOptions& options,
                   const std::string& image_path, std::chrono::seconds time_max) {
  const auto end = Clock::now() + time_max;
  Failure failure = Try(workload, options);
  Workload least = workload;
  if (!workload.steps.empty() && !failure.text.empty()) {
    std::vector<Step> steps = workload.steps;
    ReduceSteps(steps, failure, options, end);
    least = WorkloadOf(steps);
  }
  Minimised minimised{least.name, failure.text, "", ""};
  if (failure.cut.position == 0) return minimised;
  ReduceCut(least, failure, options, end);
  const std::string problem = TryCut(least, options, failure.cut, image_path, &minimised.writes);
  if (!problem.empty()) minimised.violation = problem;
  minimised.cut = ToJson(failure.cut).dump();
  return minimised;
}

}  // namespace pbfs
