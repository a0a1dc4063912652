// beam_search.cpp — see beam_search.h. Reference: transformers 5.23, generation/utils.py
// (_beam_search). Scores are sums of log-probabilities in f32, as there; a hypothesis that ends is
// scored by sum / (its new tokens) ^ length_penalty, and the search ends when the best running sum
// over the length so far cannot beat the worst of B finished hypotheses.
#include "inference/beam_search.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "inference/sampling.h"

namespace euromodal {

namespace {

constexpr float kNoScore = -1e9F;  // of a hypothesis that must not be chosen

struct Beam {
  std::vector<int64_t> seen;  // prompt and new tokens
  float score = 0.0F;         // sum of log-probabilities (running) or the final score (finished)
};

struct Candidate {
  int64_t parent, id;
  float score;
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
  BeamSearch(const Llama& llama, const GenerateOptions& options, int64_t prompt_tokens,
             int64_t budget)
      : llama_(llama), options_(options), prompt_tokens_(prompt_tokens), budget_(budget) {}

  std::vector<int64_t> run(const std::vector<int64_t>& prompt_ids, std::vector<float> first_V,
                           KvCache cache);

 private:
  std::vector<Candidate> candidates(std::vector<std::vector<float>>& logits_BV, int64_t length);
  void take_finished(const std::vector<Candidate>& candidates, int64_t length);
  void go_on(const std::vector<Candidate>& candidates);
  bool can_improve(int64_t length) const;
  std::vector<std::vector<float>> step();

  const Llama& llama_;
  const GenerateOptions& options_;
  int64_t prompt_tokens_, budget_;
  std::vector<Beam> running_;    // best first
  std::vector<KvCache> caches_;  // of running_
  std::vector<Beam> finished_;   // best first, at most `beams`
};

/// The best (stop ids + 1) x beams continuations over all beams, best first: enough that `beams` of
/// them go on. `length`: new tokens with the one being chosen.
std::vector<Candidate> BeamSearch::candidates(std::vector<std::vector<float>>& logits_BV,
                                              int64_t length) {
  const auto vocab = static_cast<int64_t>(logits_BV[0].size());
  std::vector<float> sums;
  sums.reserve(running_.size() * logits_BV[0].size());
  for (size_t b = 0; b < running_.size(); ++b) {
    log_softmax(logits_BV[b]);
    apply_penalties(logits_BV[b], running_[b].seen, options_);
    for (float log_prob : logits_BV[b]) sums.push_back(log_prob + running_[b].score);
  }
  const auto stops = static_cast<int64_t>(options_.stop_ids.size());
  std::vector<Candidate> out;
  for (int64_t i : best_of(sums, std::max<int64_t>(2, 1 + stops) * options_.beams)) {
    const int64_t id = i % vocab;
    out.push_back(
        {i / vocab, id, sums[static_cast<size_t>(i)], is_stop(id, options_) || length == budget_});
  }
  return out;
}

/// Of the first `beams` candidates those that end join the finished ones, of which the best stay.
void BeamSearch::take_finished(const std::vector<Candidate>& candidates, int64_t length) {
  const auto divisor =
      static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
  const auto first = std::min(candidates.size(), static_cast<size_t>(options_.beams));
  for (size_t i = 0; i < first; ++i) {
    const Candidate& c = candidates[i];
    if (!c.ends) continue;
    Beam beam = running_[static_cast<size_t>(c.parent)];
    beam.seen.push_back(c.id);
    beam.score = c.score / divisor;
    finished_.push_back(std::move(beam));
  }
  std::stable_sort(finished_.begin(), finished_.end(),
                   [](const Beam& a, const Beam& b) { return a.score > b.score; });
  if (finished_.size() > static_cast<size_t>(options_.beams))
    finished_.resize(static_cast<size_t>(options_.beams));
}

/// The best candidates that do not end become the running beams, with their parents' caches (moved
/// where a parent is needed once more, copied before).
void BeamSearch::go_on(const std::vector<Candidate>& candidates) {
  std::vector<Candidate> chosen;
  for (const Candidate& c : candidates)
    if (!c.ends && chosen.size() < static_cast<size_t>(options_.beams)) chosen.push_back(c);
  std::vector<int64_t> uses(running_.size(), 0);
  for (const Candidate& c : chosen) ++uses[static_cast<size_t>(c.parent)];
  std::vector<Beam> beams;
  std::vector<KvCache> caches;
  for (const Candidate& c : chosen) {
    const auto parent = static_cast<size_t>(c.parent);
    Beam beam{running_[parent].seen, c.score};
    beam.seen.push_back(c.id);
    beams.push_back(std::move(beam));
    caches.push_back(--uses[parent] == 0 ? std::move(caches_[parent]) : caches_[parent].clone());
  }
  running_ = std::move(beams);
  caches_ = std::move(caches);
}

/// Could a running beam, at the length so far, still beat the worst of `beams` finished ones?
bool BeamSearch::can_improve(int64_t length) const {
  if (finished_.size() < static_cast<size_t>(options_.beams)) return true;
  const auto divisor =
      static_cast<float>(std::pow(static_cast<double>(length), options_.length_penalty));
  return running_.front().score / divisor > finished_.back().score;
}

std::vector<std::vector<float>> BeamSearch::step() {
  std::vector<std::vector<float>> logits_BV;
  for (size_t b = 0; b < running_.size(); ++b)
    logits_BV.push_back(decode_step(llama_, running_[b].seen.back(), caches_[b]));
  return logits_BV;
}

std::vector<int64_t> BeamSearch::run(const std::vector<int64_t>& prompt_ids,
                                     std::vector<float> first_V, KvCache cache) {
  running_.push_back({prompt_ids, 0.0F});
  caches_.push_back(std::move(cache));
  std::vector<std::vector<float>> logits_BV{std::move(first_V)};
  for (int64_t length = 1;; ++length) {
    const std::vector<Candidate> found = candidates(logits_BV, length);
    take_finished(found, length);
    if (length == budget_) break;
    go_on(found);
    if (running_.empty() || !can_improve(length)) break;
    if (options_.interrupted && options_.interrupted()) break;
    logits_BV = step();
  }
  const Beam& best = finished_.empty() ? running_.front() : finished_.front();
  return {best.seen.begin() + prompt_tokens_, best.seen.end()};
}

}  // namespace

std::vector<int64_t> beam_search(const Llama& llama, const std::vector<int64_t>& prompt_ids,
                                 std::vector<float> first_V, KvCache cache, int64_t budget,
                                 const GenerateOptions& options) {
  return BeamSearch(llama, options, static_cast<int64_t>(prompt_ids.size()), budget)
      .run(prompt_ids, std::move(first_V), std::move(cache));
}

}  // namespace euromodal
