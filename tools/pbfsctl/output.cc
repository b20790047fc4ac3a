// SPDX-License-Identifier: Apache-2.0
#include "tools/pbfsctl/output.h"

#include <cstdio>

namespace pbfs {

Json ToJson(const DumpNode& node) {
  switch (node.kind) {
    case DumpNode::Kind::kValue:
      return std::visit([](const auto& value) { return Json(value); }, node.value);
    case DumpNode::Kind::kGroup: {
      Json object = Json::object();
      for (const DumpNode& child : node.children) object[child.name] = ToJson(child);
      return object;
    }
    case DumpNode::Kind::kList: {
      Json array = Json::array();
      for (const DumpNode& child : node.children) array.push_back(ToJson(child));
      return array;
    }
  }
  return nullptr;
}

DumpNode FromJson(const std::string& name, const Json& json) {
  if (!json.is_structured()) {
    DumpNode value = {name, DumpNode::Kind::kValue, {}};
    if (json.is_number_unsigned()) {
      value.value = json.get<uint64_t>();
    } else if (json.is_number_integer()) {
      value.value = json.get<int64_t>();
    } else {
      value.value = json.is_string() ? json.get<std::string>() : json.dump();
    }
    return value;
  }
  DumpNode node = json.is_array() ? DumpNode::List(name) : DumpNode::Group(name);
  for (const auto& [key, value] : json.items()) node.Add(FromJson(key, value));
  return node;
}

void Print(const DumpNode& node, bool json) {
  const std::string text =
      json ? ToJson(node).dump(2, ' ', false, Json::error_handler_t::replace) + "\n"
           : FormatDump(node);
  std::fwrite(text.data(), 1, text.size(), stdout);
}

}  // namespace pbfs
