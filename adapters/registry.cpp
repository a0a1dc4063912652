// registry.cpp — the table of adapters.
#include "adapters/registry.h"

#include "core/error.h"

namespace euromodal {

const std::vector<AdapterEntry>& adapter_registry() {
  static const std::vector<AdapterEntry> table = {
      {"mlp", &make_mlp},
      {"stack_mlp", &make_stack_mlp},
      {"pool", &make_pool},
  };
  return table;
}

std::unique_ptr<Adapter> make_adapter(const Config& config, const AdapterShape& shape,
                                      const WeightScope& weights) {
  check(shape.feature_width > 0 && shape.backbone_width > 0,
        "adapter: widths {} and {} must be above 0", shape.feature_width, shape.backbone_width);
  std::vector<std::string> types;
  for (const AdapterEntry& entry : adapter_registry()) types.emplace_back(entry.type);
  const std::string type = config.choice("type", types);
  for (const AdapterEntry& entry : adapter_registry()) {
    if (type != entry.type) continue;
    auto adapter = entry.make(config, shape, weights);
    config.finish();
    return adapter;
  }
  throw ConfigError("{}: unknown adapter '{}'", config.where("type"), type);
}

}  // namespace euromodal
