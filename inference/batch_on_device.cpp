// batch_on_device.cpp — BatchEngine over a device decoder: tokens are drawn on the device where it
// knows the rules, and chosen on the host where one of the sequences asks for more.
#include <algorithm>

#include <ATen/ATen.h>

#include "core/error.h"
#include "inference/batch_slot.h"
#include "inference/device_decode.h"

namespace euromodal {

void BatchEngine::begin_on_device(Slot& slot, const at::Tensor& hidden_1D) {
  int64_t place = 0;
  while (std::any_of(running_.begin(), running_.end(),
                     [&](const auto& other) { return other->place == place; }))
    ++place;
  const int64_t longest = slot.longest();
  // What the prompt keeps for others may hold its last page, which is copied then.
  reserve_pages(*decoder_, slot.request.options.kept.get(), slot.cache, longest);
  decoder_->begin(place, std::move(slot.cache), hidden_1D, longest);
  slot.cache = decoder_->make_cache();
  slot.place = place;
  set_device_rules(*decoder_, place, slot.request.options, slot.request.prompt_ids);
}

void BatchEngine::step_on_device() {
  int64_t count = 0;
  bool on_host = false;
  for (const auto& slot : running_) {
    if (slot->place < 0) continue;
    count = std::max(count, slot->place + 1);
    on_host = on_host || !draws_on_device(slot->request.options);
  }
  if (count == 0) return;
  decoder_->draw(count);
  at::Tensor logits_SV;
  if (on_host) logits_SV = decoder_->logits(count).cpu();
  std::vector<int64_t> tokens = decoder_->tokens();
  for (const auto& slot : running_) {
    if (slot->place < 0) continue;
    int64_t& id = tokens.at(static_cast<size_t>(slot->place));
    if (!draws_on_device(slot->request.options)) {
      const float* data = logits_SV.const_data_ptr<float>() + slot->place * logits_SV.size(1);
      std::vector<float> logits_V(data, data + logits_SV.size(1));
      check(std::all_of(logits_V.begin(), logits_V.end(), [](float x) { return std::isfinite(x); }),
            "the model's logits are not finite; its weights may be damaged, or the weights' form "
            "too coarse for them");
      id = choose(*slot, logits_V);
    }
    take_token(*slot, id);
    if (slot->budget > 0) continue;
    (void)decoder_->release(slot->place);
    slot->place = -1;
    id = -1;
  }
  if (on_host) decoder_->give(tokens);
  if (std::any_of(running_.begin(), running_.end(),
                  [](const auto& slot) { return slot->place >= 0; }))
    decoder_->step(count);
}

}  // namespace euromodal
