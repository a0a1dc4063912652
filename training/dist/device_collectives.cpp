// device_collectives.cpp — where libeuromodal_cuda.so leaves its factory.
#include "training/dist/device_collectives.h"

namespace euromodal {
namespace {

DeviceCollectivesFactory& device_factory() {
  static DeviceCollectivesFactory factory;
  return factory;
}

}  // namespace

int64_t device_type_bytes(DeviceType type) {
  switch (type) {
    case DeviceType::kF32:
      return 4;
    case DeviceType::kBf16:
      return 2;
    case DeviceType::kU8:
      return 1;
    case DeviceType::kF64:
      return 8;
  }
  throw DistError("unknown device type {}", static_cast<int>(type));
}

bool register_device_collectives(DeviceCollectivesFactory factory) {
  device_factory() = std::move(factory);
  return true;
}

std::unique_ptr<DeviceCollectives> make_device_collectives(Collectives& world,
                                                           const DeviceOptions& options) {
  check<DistError>(
      static_cast<bool>(device_factory()),
      "collectives on GPUs need libeuromodal_cuda.so: call open_device(\"cuda\") first");
  return device_factory()(world, options);
}

}  // namespace euromodal
