// sampling.cpp — see sampling.h. Reference: transformers 5.23, generation/logits_process.py.
#include "inference/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <unordered_map>

#include "core/error.h"

namespace euromodal {

namespace {

constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

float largest_logit(std::span<const float> logits_V) {
  return *std::max_element(logits_V.begin(), logits_V.end());
}

/// exp(logit - largest), and their sum in double.
std::vector<float> exponentials(std::span<const float> logits_V, double* sum) {
  const float top = largest_logit(logits_V);
  std::vector<float> out(logits_V.size());
  *sum = 0.0;
  for (size_t v = 0; v < logits_V.size(); ++v) {
    out[v] = std::exp(logits_V[v] - top);
    *sum += out[v];
  }
  return out;
}

}  // namespace

void penalize_repetition(std::span<float> logits_V, std::span<const int64_t> seen, double penalty) {
  if (penalty == 1.0) return;
  const auto factor = static_cast<float>(penalty);
  std::vector<bool> done(logits_V.size(), false);
  for (int64_t id : seen) {
    const auto v = static_cast<size_t>(id);
    if (id < 0 || v >= logits_V.size() || done[v]) continue;
    done[v] = true;
    logits_V[v] = logits_V[v] < 0.0F ? logits_V[v] * factor : logits_V[v] / factor;
  }
}

void ban_repeated_ngrams(std::span<float> logits_V, std::span<const int64_t> seen, int64_t n) {
  const auto length = static_cast<int64_t>(seen.size());
  if (n <= 0 || n > length) return;
  const auto last = seen.last(static_cast<size_t>(n - 1));  // what the next token would go on from
  for (int64_t start = 0; start + n <= length; ++start) {
    const auto ngram = seen.subspan(static_cast<size_t>(start), static_cast<size_t>(n));
    if (!std::equal(last.begin(), last.end(), ngram.begin())) continue;
    const auto banned = static_cast<size_t>(ngram.back());
    if (ngram.back() >= 0 && banned < logits_V.size()) logits_V[banned] = kMinusInf;
  }
}

void penalize_presence(std::span<float> logits_V, std::span<const int64_t> seen, double presence,
                       double frequency) {
  if (presence == 0.0 && frequency == 0.0) return;
  std::unordered_map<int64_t, int64_t> counts;
  for (int64_t id : seen) ++counts[id];
  for (const auto& [id, count] : counts) {
    if (id < 0 || static_cast<size_t>(id) >= logits_V.size()) continue;
    logits_V[static_cast<size_t>(id)] -=
        static_cast<float>(presence + frequency * static_cast<double>(count));
  }
}

void apply_temperature(std::span<float> logits_V, double temperature) {
  if (temperature == 1.0) return;
  const auto divisor = static_cast<float>(temperature);
  for (float& logit : logits_V) logit /= divisor;
}

void keep_top_k(std::span<float> logits_V, int64_t k) {
  if (k <= 0 || static_cast<size_t>(k) >= logits_V.size()) return;
  std::vector<float> sorted(logits_V.begin(), logits_V.end());
  const auto kth = sorted.begin() + (k - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  for (float& logit : logits_V)
    if (logit < *kth) logit = kMinusInf;
}

void keep_top_p(std::span<float> logits_V, double p) {
  if (p >= 1.0) return;
  double sum = 0.0;
  const std::vector<float> weight = exponentials(logits_V, &sum);
  std::vector<int64_t> order(logits_V.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  // Most likely first, of equals the higher id: the reverse of transformers' stable ascending sort.
  const auto before = [&](int64_t a, int64_t b) {
    return logits_V[a] != logits_V[b] ? logits_V[a] > logits_V[b] : a > b;
  };
  // A token goes when it and all less likely ones together hold at most 1 - p. Few tokens stay, so
  // only as much of the order is sorted as is needed.
  const auto threshold = static_cast<float>(1.0 - p);
  const auto total = static_cast<float>(sum);
  double above = 0.0;  // probability of those that stay
  size_t kept = 0, sorted = 0;
  while (kept < order.size()) {
    if (kept == sorted) {
      sorted = std::min(order.size(), std::max<size_t>(64, 4 * sorted));
      std::partial_sort(order.begin() + static_cast<int64_t>(kept),
                        order.begin() + static_cast<int64_t>(sorted), order.end(), before);
    }
    if (kept > 0 && static_cast<float>(1.0 - above) <= threshold) break;
    above += static_cast<double>(weight[static_cast<size_t>(order[kept])] / total);
    ++kept;
  }
  for (size_t i = kept; i < order.size(); ++i) logits_V[static_cast<size_t>(order[i])] = kMinusInf;
}

void keep_min_p(std::span<float> logits_V, double p) {
  if (p <= 0.0) return;
  double sum = 0.0;
  const std::vector<float> weight = exponentials(logits_V, &sum);  // 1 for the most likely
  const auto total = static_cast<float>(sum);
  const float least = static_cast<float>(p) * (1.0F / total);
  for (size_t v = 0; v < weight.size(); ++v)
    if (weight[v] / total < least && weight[v] < 1.0F) logits_V[v] = kMinusInf;
}

void keep_typical(std::span<float> logits_V, double p) {
  if (p >= 1.0) return;
  std::vector<float> log_p(logits_V.begin(), logits_V.end());
  log_softmax(log_p);
  double entropy = 0.0;
  for (float l : log_p)
    if (l > kMinusInf) entropy -= static_cast<double>(l) * std::exp(static_cast<double>(l));
  const auto surprise = static_cast<float>(entropy);
  std::vector<int64_t> order(log_p.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  std::vector<float> distance(log_p.size());
  for (size_t v = 0; v < log_p.size(); ++v) distance[v] = std::abs(-log_p[v] - surprise);
  std::stable_sort(order.begin(), order.end(),
                   [&](int64_t a, int64_t b) { return distance[a] < distance[b]; });
  double above = 0.0;
  size_t kept = 0;
  while (kept < order.size()) {  // the token that crosses p is the last that stays
    above += std::exp(static_cast<double>(log_p[static_cast<size_t>(order[kept])]));
    ++kept;
    if (above >= p) break;
  }
  const float furthest = distance[static_cast<size_t>(order[kept - 1])];
  for (size_t v = 0; v < distance.size(); ++v)
    if (distance[v] > furthest) logits_V[v] = kMinusInf;
}

int64_t most_likely(std::span<const float> logits_V) {
  return std::max_element(logits_V.begin(), logits_V.end()) - logits_V.begin();
}

int64_t draw_token(std::span<const float> logits_V, Rng& rng) {
  check(largest_logit(logits_V) > kMinusInf,
        "no token is left to choose from: every one is banned (see --no-repeat-ngram)");
  double sum = 0.0;
  const std::vector<float> weight = exponentials(logits_V, &sum);
  const double target = rng.uniform() * sum;
  double below = 0.0;
  int64_t last = 0;
  for (size_t v = 0; v < weight.size(); ++v) {
    if (weight[v] == 0.0F) continue;
    last = static_cast<int64_t>(v);
    below += weight[v];
    if (target < below) break;
  }
  return last;
}

void log_softmax(std::span<float> logits_V) {
  const float top = largest_logit(logits_V);
  double sum = 0.0;
  for (float logit : logits_V) sum += std::exp(logit - top);
  const auto log_sum = static_cast<float>(std::log(sum));
  for (float& logit : logits_V) logit = logit - top - log_sum;
}

}  // namespace euromodal
