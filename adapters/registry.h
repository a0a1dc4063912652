// registry.h — the adapters by `type` of their YAML: one line each in registry.cpp.
#pragma once
#include <memory>
#include <vector>

#include "adapters/adapter.h"

namespace euromodal {

using AdapterFactory = std::unique_ptr<Adapter> (*)(const Config& config, const AdapterShape& shape,
                                                    const WeightScope& weights);
struct AdapterEntry {
  const char* type;
  AdapterFactory make;
};

const std::vector<AdapterEntry>& adapter_registry();

std::unique_ptr<Adapter> make_mlp(const Config& config, const AdapterShape& shape,
                                  const WeightScope& weights);
std::unique_ptr<Adapter> make_stack_mlp(const Config& config, const AdapterShape& shape,
                                        const WeightScope& weights);
std::unique_ptr<Adapter> make_pool(const Config& config, const AdapterShape& shape,
                                   const WeightScope& weights);

}  // namespace euromodal
