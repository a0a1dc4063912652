// device_model.cpp — see device_model.h. One linear at a time.
#include "backbone/device_model.h"

#include <map>
#include <string>

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include "backbone/device.h"
#include "backbone/llama_block.h"
#include "backbone/packed_model.h"
#include "core/error.h"
#include "core/log.h"

namespace euromodal {

void move_model(const Llama& llama, const std::vector<NamedTensor>& parameters, at::Device device) {
  if (!device.is_cpu()) {
    use_device_codes(llama, device);
    for (const NamedTensor& parameter : parameters) {
      if (parameter.tensor.scalar_type() == at::kByte && parameter.name.ends_with(kPackedSuffix))
        parameter.tensor.set_data(at::empty({0}, at::TensorOptions(device).dtype(at::kByte)));
    }
  }
  move_parameters(parameters, device);
}

void use_device_codes(const Llama& llama, at::Device device) {
  std::map<std::string, int64_t> forms;
  for (Linear linear : all_linears(llama)) {
    if (!linear.packed()) continue;
    const SkinnyWeight weight = skinny_weight(*linear.packed()).to(device);
    ++forms[skinny_form_name(weight.form)];
    if (weight.form == SkinnyForm{}) {
      linear.use(weight.codes);
    } else {
      linear.use(weight);
    }
  }
  std::vector<std::string> words;
  for (const auto& [form, count] : forms) words.push_back(fmt::format("{}={}", form, count));
  if (!words.empty()) log_info("packed linears on {}: {}", device.str(), fmt::join(words, " "));
}

}  // namespace euromodal
