// device_decode.cpp — see device_decode.h. Slot 0 of the decoder.
#include "inference/device_decode.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "core/error.h"
#include "inference/kept_sequences.h"

namespace euromodal {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_between(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

std::vector<float> host_logits(const Decoder& decoder) {
  const at::Tensor logits_1V = decoder.logits(1).cpu();
  const float* data = logits_1V.const_data_ptr<float>();
  std::vector<float> out(data, data + logits_1V.numel());
  check(std::all_of(out.begin(), out.end(), [](float x) { return std::isfinite(x); }),
        "the model's logits are not finite; its weights may be damaged, or the weights' form too "
        "coarse for them");
  return out;
}

/// The rules of the host on the logits of the device.
int64_t choose_on_host(const Decoder& decoder, const Sequence& sequence,
                       const GenerateOptions& options, int64_t step, Generated& out) {
  std::vector<float> logits_V = host_logits(decoder);
  const std::vector<float> plain_V = options.logprobs >= 0 ? logits_V : std::vector<float>();
  apply_rules(logits_V, sequence, options);
  const int64_t id = choose_token(logits_V, options, step);
  if (options.logprobs >= 0) out.logprobs.push_back(token_logprob(plain_V, id, options.logprobs));
  return id;
}

/// The rules as the device knows them.
SampleParams device_rules(const GenerateOptions& options) {
  SampleParams out;
  out.repetition = options.repetition_penalty;
  out.presence = options.presence_penalty;
  out.frequency = options.frequency_penalty;
  if (options.greedy) return out;
  out.temperature = options.temperature;
  out.top_k = options.top_k;
  out.top_p = options.top_p;
  out.min_p = options.min_p;
  out.seed = options.seed;
  return out;
}

}  // namespace

bool draws_on_device(const GenerateOptions& options) {
  const bool typical = !options.greedy && options.typical_p < 1.0;
  return !typical && options.no_repeat_ngram == 0 && options.logit_bias.empty() &&
         !options.grammar && options.logprobs < 0;
}

void set_device_rules(Decoder& decoder, int64_t slot, const GenerateOptions& options,
                      const std::vector<int64_t>& prompt) {
  if (!draws_on_device(options)) return;
  const SampleParams rules = device_rules(options);
  if (rules.temperature > 0.0 || rules.penalizes()) decoder.draw_by(slot, rules, prompt);
}

void reserve_pages(Decoder& decoder, KeptSequences* kept, KvCache& cache, int64_t longest) {
  const int64_t rows = std::max<int64_t>(0, longest - cache.length());
  while (cache.pages_to_reserve(rows) > decoder.free_pages() && kept && kept->forget_oldest()) {
  }
  cache.reserve(rows);
}

KvCache decode_on_device(KvCache cache, const at::Tensor& hidden_1D, Sequence sequence,
                         int64_t budget, const GenerateOptions& options,
                         const std::function<void(int64_t)>& on_token, Generated& out) {
  const c10::NoGradGuard no_grad;
  Decoder& decoder = *options.decoder;
  const bool on_device = draws_on_device(options);
  const auto start = Clock::now();
  const int64_t longest = cache.length() + budget - 1;  // the last token takes no position
  decoder.begin(0, std::move(cache), hidden_1D, longest);
  set_device_rules(decoder, 0, options, sequence.ids);
  auto first = Clock::now();  // until the first token: prefill
  for (int64_t step = 0; step < budget; ++step) {
    if (options.interrupted && options.interrupted()) {
      out.finish = FinishReason::kInterrupted;
      break;
    }
    int64_t id = 0;
    if (on_device) {
      decoder.draw(1);
      // The next step runs while this token is looked at; where the text ends here it was for
      // nothing.
      if (step + 1 < budget) decoder.step(1);
      id = decoder.tokens()[0];
    } else {
      id = choose_on_host(decoder, sequence, options, step, out);
      decoder.give({id});
    }
    if (step == 0) first = Clock::now();
    sequence.append(id, options);
    if (on_token) on_token(id);
    if (const auto reason = finish_reason(sequence, budget, options)) {
      out.finish = *reason;
      break;
    }
    if (!on_device) decoder.step(1);
    ++out.timings.steps;
  }
  const auto tokens = sequence.new_ids();
  out.tokens.assign(tokens.begin(), tokens.end());
  out.timings.prefill_s += seconds_between(start, first);
  out.timings.decode_s = seconds_between(first, Clock::now());
  return decoder.release(0);
}

}  // namespace euromodal
