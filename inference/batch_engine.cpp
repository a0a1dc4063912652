// batch_engine.cpp — see batch_engine.h.
#include "inference/batch_engine.h"

#include <algorithm>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "backbone/greedy.h"
#include "backbone/kernels/to_device.h"
#include "core/error.h"
#include "inference/batch_slot.h"
#include "inference/device_decode.h"
#include "inference/kept_sequences.h"

namespace euromodal {

BatchEngine::BatchEngine(const Llama& llama, const BatchLimits& limits,
                         std::shared_ptr<Decoder> decoder)
    : llama_(llama), limits_(limits), decoder_(std::move(decoder)) {
  check(
      limits.sequences > 0 && limits.pass_rows >= limits.sequences,
      "a batch of {} sequences in passes of {} rows: expected at least one sequence and a row for "
      "each",
      limits.sequences, limits.pass_rows);
  if (decoder_) limits_.cache_tokens = decoder_->free_pages() * kPagePositions;
}

BatchEngine::~BatchEngine() = default;

int64_t BatchEngine::reserved(const BatchRequest& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t longest = prompt + token_budget(prompt, llama_.config(), request.options);
  // A page more: one that two sequences share is copied when one of them writes.
  return decoder_ ? (kv_pages(longest) + 1) * kPagePositions : longest;
}

void BatchEngine::add(BatchRequest request) {
  check(request.options.beams == 1 && request.options.lookup == 0,
        "a batch decodes without beams and without lookup");
  check_prompt_length(static_cast<int64_t>(request.prompt_ids.size()), llama_.config());
  check_token_ids(request.prompt_ids, llama_.config());
  const int64_t needed = reserved(request);
  check<DataError>(limits_.cache_tokens == 0 || needed <= limits_.cache_tokens,
                   "prompt and answer need {} positions of the cache, all there is room for is {}",
                   needed, limits_.cache_tokens);
  waiting_.push_back(std::move(request));
}

void BatchEngine::admit() {
  while (!waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.sequences) {
    const int64_t needed = reserved(waiting_.front());
    if (limits_.cache_tokens > 0 && reserved_ + needed > limits_.cache_tokens) return;
    BatchRequest request = std::move(waiting_.front());
    waiting_.pop_front();
    Sequence sequence = Sequence::of_prompt(request.prompt_ids, request.options);
    const int64_t budget = token_budget(sequence.prompt_tokens, llama_.config(), request.options);
    KvCache cache =
        decoder_ ? decoder_->make_cache() : llama_.make_cache(request.options.int8_cache);
    running_.push_back(std::make_unique<Slot>(
        Slot{std::move(request), std::move(sequence), std::move(cache), budget, needed, {}}));
    running_.back()->result.timings.prompt_tokens = running_.back()->sequence.prompt_tokens;
    reserved_ += needed;
  }
}

/// Gives a slot what is kept of its prompt's beginning; false: another slot is reading a longer
/// part of it just now.
bool BatchEngine::begin(Slot& slot) {
  KeptSequences* const kept = slot.request.options.kept.get();
  if (kept) {
    const auto keys =
        std::span(std::as_const(slot.request.prompt_ids))
            .first(slot.request.prompt_ids.size() - 1);  // the last row says what comes next
    const int64_t known = std::max(kept->common(keys), kept->limits().least - 1);
    for (const auto& other : running_)
      if (other->reads_prompt() && common_beginning(other->request.prompt_ids, keys) > known)
        return false;
    if (auto cache = kept->take(keys)) slot.cache = std::move(*cache);
    slot.result.timings.reused_tokens = slot.cache.length();
  }
  if (decoder_) reserve_pages(*decoder_, kept, slot.cache, slot.longest());
  return slot.begun = true;
}

at::Tensor BatchEngine::pass(std::vector<Slot*>& through) {
  // Those that decode go first, one row each; what is left of the pass goes to prompts.
  std::stable_sort(running_.begin(), running_.end(),
                   [](const auto& a, const auto& b) { return (a->due() == 1) > (b->due() == 1); });
  std::vector<int64_t> ids, lengths;
  std::vector<KvCache*> caches;
  std::vector<Slot*> slots;
  for (const auto& slot : running_) {
    if (slot->budget == 0 || slot->place >= 0) continue;
    const int64_t room = limits_.pass_rows - static_cast<int64_t>(ids.size());
    if (room == 0) break;
    if (!slot->begun && !begin(*slot)) continue;
    const int64_t count = std::min(room, slot->due());
    const auto begin = slot->sequence.ids.begin() + slot->cache.length();
    ids.insert(ids.end(), begin, begin + count);
    lengths.push_back(count);
    caches.push_back(&slot->cache);
    slots.push_back(slot.get());
  }
  if (ids.empty()) return {};
  const Segments rows = Segments::from_lengths(lengths);
  const at::Tensor ids_T = to_device(ids, llama_.embedding_VD().device());
  const at::Tensor hidden_TD = llama_.forward_cached(llama_.embed(ids_T, rows), rows, caches);
  std::vector<int64_t> last_rows;
  for (size_t i = 0; i < slots.size(); ++i) {
    if (slots[i]->due() > 0) continue;  // more of its prompt comes first
    KeptSequences* const kept = slots[i]->request.options.kept.get();
    if (kept && slots[i]->sequence.new_ids().empty())
      kept->keep(slots[i]->request.prompt_ids, slots[i]->cache.clone());
    last_rows.push_back(rows.cu[i + 1] - 1);
    through.push_back(slots[i]);
  }
  if (through.empty()) return {};
  return hidden_TD.index_select(0, to_device(last_rows, hidden_TD.device()));
}

int64_t BatchEngine::choose(Slot& slot, std::span<float> logits_V) {
  const GenerateOptions& options = slot.request.options;
  const std::vector<float> plain_V = options.logprobs >= 0
                                         ? std::vector<float>(logits_V.begin(), logits_V.end())
                                         : std::vector<float>();
  apply_rules(logits_V, slot.sequence, options);
  const int64_t id =
      choose_token(logits_V, options, static_cast<int64_t>(slot.sequence.new_ids().size()));
  if (options.logprobs >= 0)
    slot.result.logprobs.push_back(token_logprob(plain_V, id, options.logprobs));
  return id;
}

void BatchEngine::take_token(Slot& slot, int64_t id) {
  slot.sequence.append(id, slot.request.options);
  ++slot.result.timings.steps;
  if (const auto reason = finish_reason(slot.sequence, slot.budget, slot.request.options)) {
    slot.result.finish = *reason;
    slot.budget = 0;
  }
}

void BatchEngine::step(const std::function<void(int64_t, Generated)>& done) {
  const c10::NoGradGuard no_grad;
  admit();
  std::vector<Slot*> through;
  const at::Tensor hidden_RD = pass(through);
  if (decoder_) {
    for (size_t i = 0; i < through.size(); ++i)
      begin_on_device(*through[i], hidden_RD.narrow(0, static_cast<int64_t>(i), 1));
    step_on_device();
  } else if (!through.empty()) {
    const at::Tensor logits_RV = checked_logits(llama_, hidden_RD);
    for (size_t i = 0; i < through.size(); ++i) {
      const float* data =
          logits_RV.const_data_ptr<float>() + static_cast<int64_t>(i) * logits_RV.size(1);
      std::vector<float> logits_V(data, data + logits_RV.size(1));
      take_token(*through[i], choose(*through[i], logits_V));
    }
  }
  for (size_t i = 0; i < running_.size();) {
    Slot& slot = *running_[i];
    if (slot.budget > 0) {
      ++i;
      continue;
    }
    const auto tokens = slot.sequence.new_ids();
    slot.result.tokens.assign(tokens.begin(), tokens.end());
    slot.result.timings.new_tokens = static_cast<int64_t>(tokens.size());
    reserved_ -= slot.reserved;
    const int64_t number = slot.request.number;
    Generated result = std::move(slot.result);
    running_.erase(running_.begin() + static_cast<int64_t>(i));
    done(number, std::move(result));
  }
}

}  // namespace euromodal
