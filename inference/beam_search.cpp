// beam_search.cpp — see beam_search.h. Reference: transformers 5.23, generation/utils.py
// (_beam_search). Scores are sums of log-probabilities in f32, as there; a hypothesis that ends is
// scored by sum / (its new tokens) ^ length_penalty, and the search ends when the best running sum
// over the length so far cannot beat the worst of B finished hypotheses.
#include "inference/beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "backbone/greedy.h"
#include "core/error.h"
#include "inference/sampling.h"

namespace euromodal {

namespace {

struct Beam {
  Sequence sequence;
  float score = 0.0F;  // sum of log-probabilities (running) or the final score (finished)
};

struct Candidate {
  int64_t parent;
  Beam beam;  // the parent's with one more token
  bool ends;
};

/// The `count` best of `scores`, best first; of equals the first.
std::vector<int64_t> best_of(const std::vector<float>& scores, int64_t count) {
  std::vector<int64_t> order(scores.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  count = std::min(count, static_cast<int64_t>(order.size()));
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int64_t a, int64_t b) {
    return scores[a] != scores[b] ? scores[a] > scores[b] : a < b;
  });
  order.resize(static_cast<size_t>(count));
  return order;
}

class BeamSearch {
 public:
  BeamSearch(const Llama& llama, const GenerateOptions& options, int64_t budget)
      : llama_(llama), options_(options), budget_(budget) {}

  void run(Sequence prompt, const at::Tensor& first_1V, KvCache cache, Generated& out);

 private:
  std::vector<Candidate> candidates(const at::Tensor& logits_BV);
  void take_finished(const std::vector<Candidate>& candidates, int64_t length);
  void go_on(std::vector<Candidate> candidates);
  bool can_improve(int64_t length) const;
  at::Tensor step();

  const Llama& llama_;
  const GenerateOptions& options_;
  int64_t budget_;
  std::vector<Beam> running_;    // best first
  std::vector<KvCache> caches_;  // of running_
  std::vector<Beam> finished_;   // best first, at most `beams`
};

/// The best (stop ids + 1) x beams continuations over all beams, best first: enough that `beams` of
/// them go on.
std::vector<Candidate> BeamSearch::candidates(const at::Tensor& logits_BV) {
  const int64_t vocab = logits_BV.size(1);
  std::vector<float> sums;
  sums.reserve(running_.size() * static_cast<size_t>(vocab));
  for (size_t b = 0; b < running_.size(); ++b) {
    const float* data = logits_BV.const_data_ptr<float>() + static_cast<int64_t>(b) * vocab;
    std::vector<float> scores_V(data, data + vocab);
    log_softmax(scores_V);
    apply_rules(scores_V, running_[b].sequence, options_);
    for (float log_prob : scores_V) sums.push_back(log_prob + running_[b].score);
  }
  const auto stops = static_cast<int64_t>(options_.stop_ids.size());
  std::vector<Candidate> out;
  for (int64_t i : best_of(sums, std::max<int64_t>(2, 1 + stops) * options_.beams)) {
    const float score = sums[static_cast<size_t>(i)];
    if (!std::isfinite(score)) break;  // only what is banned is left
    Candidate c{i / vocab, running_[static_cast<size_t>(i / vocab)], false};
    c.beam.sequence.append(i % vocab, options_);
    c.beam.score = score;
    c.ends = finish_reason(c.beam.sequence, budget_, options_).has_value();
    out.push_back(std::move(c));
  }
  return out;
}

/// Of the first `beams` candidates those that end join the finished ones, of which the best stay.
/// `length`: their new tokens.
void BeamSearch::take_finished(const std::vector<Candidate>& candidates, int64_t length) {
  const auto divisor =
      static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
  const auto first = std::min(candidates.size(), static_cast<size_t>(options_.beams));
  for (size_t i = 0; i < first; ++i) {
    if (!candidates[i].ends) continue;
    finished_.push_back(candidates[i].beam);
    finished_.back().score /= divisor;
  }
  std::stable_sort(finished_.begin(), finished_.end(),
                   [](const Beam& a, const Beam& b) { return a.score > b.score; });
  if (finished_.size() > static_cast<size_t>(options_.beams))
    finished_.resize(static_cast<size_t>(options_.beams));
}

/// The best candidates that do not end become the running beams, with their parents' caches (moved
/// where a parent is needed once more, copied before).
void BeamSearch::go_on(std::vector<Candidate> candidates) {
  std::erase_if(candidates, [](const Candidate& c) { return c.ends; });
  if (candidates.size() > static_cast<size_t>(options_.beams))
    candidates.resize(static_cast<size_t>(options_.beams));
  std::vector<int64_t> uses(running_.size(), 0);
  for (const Candidate& c : candidates) ++uses[static_cast<size_t>(c.parent)];
  std::vector<KvCache> caches;
  running_.clear();
  for (Candidate& c : candidates) {
    const auto parent = static_cast<size_t>(c.parent);
    caches.push_back(--uses[parent] == 0 ? std::move(caches_[parent]) : caches_[parent].clone());
    running_.push_back(std::move(c.beam));
  }
  caches_ = std::move(caches);
}

/// Could a running beam, at the length so far, still beat the worst of `beams` finished ones?
bool BeamSearch::can_improve(int64_t length) const {
  if (finished_.size() < static_cast<size_t>(options_.beams)) return true;
  const auto divisor =
      static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
  return running_.front().score / divisor > finished_.back().score;
}

/// All running beams in one pass, which reads the weights once -> [B, V].
at::Tensor BeamSearch::step() {
  std::vector<int64_t> last;
  std::vector<KvCache*> caches;
  for (size_t b = 0; b < running_.size(); ++b) {
    last.push_back(running_[b].sequence.ids.back());
    caches.push_back(&caches_[b]);
  }
  return decode_step(llama_, last, caches);
}

void BeamSearch::run(Sequence prompt, const at::Tensor& first_1V, KvCache cache, Generated& out) {
  running_.push_back({std::move(prompt), 0.0F});
  caches_.push_back(std::move(cache));
  at::Tensor logits_BV = first_1V;
  for (int64_t length = 1;; ++length) {
    std::vector<Candidate> found = candidates(logits_BV);
    take_finished(found, length);
    if (length == budget_) break;
    go_on(std::move(found));
    if (running_.empty() || !can_improve(length)) break;
    if (options_.interrupted && options_.interrupted()) break;
    logits_BV = step();
    ++out.timings.steps;
  }
  check(!finished_.empty() || !running_.empty(),
        "no token is left to choose from: every one is banned (see --no-repeat-ngram)");
  for (const Beam& beam : finished_.empty() ? running_ : finished_) {
    const std::span<const int64_t> tokens = beam.sequence.new_ids();
    out.beams.push_back({{tokens.begin(), tokens.end()}, beam.score});
  }
  const Sequence& best = (finished_.empty() ? running_ : finished_).front().sequence;
  out.tokens = out.beams.front().tokens;
  out.finish = finish_reason(best, budget_, options_).value_or(FinishReason::kInterrupted);
}

}  // namespace

void beam_search(const Llama& llama, Sequence prompt, const at::Tensor& first_1V, KvCache cache,
                 int64_t budget, const GenerateOptions& options, Generated& out) {
  BeamSearch(llama, options, budget).run(std::move(prompt), first_1V, std::move(cache), out);
}

}  // namespace euromodal
