// ctc.cpp — a speech encoder learns characters by connectionist temporal classification (Graves et
// al. 2006): `alphabet: FILE` (one character a line; the blank is output 0), the target is what the
// assistant says. Validation adds the character error rate of greedy decoding. N samples, L rows, C
// outputs.
#include <algorithm>
#include <map>

#include <ATen/ATen.h>

#include "training/objectives/encoder_head.h"

namespace euromodal {
namespace {

constexpr int64_t kBlank = 0;

/// Characters of valid UTF-8.
std::vector<std::string> ctc_characters(const std::string& text) {
  std::vector<std::string> out;
  for (const char c : text) {
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80 || out.empty()) out.emplace_back();
    out.back() += c;
  }
  return out;
}

int64_t ctc_edit_distance(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  std::vector<int64_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = static_cast<int64_t>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0];
    row[0] = static_cast<int64_t>(i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] == b[j - 1] ? 0 : 1)});
      diagonal = above;
    }
  }
  return row.back();
}

class Ctc final : public EncoderHead {
 public:
  Ctc(const Config& config, const ObjectiveOptions& options,
      const std::vector<std::string>& alphabet)
      : EncoderHead(config, options, static_cast<int64_t>(alphabet.size()) + 1) {
    for (size_t i = 0; i < alphabet.size(); ++i) {
      check<ConfigError>(ctc_characters(alphabet[i]).size() == 1,
                         "{}: line {} holds '{}', expected one character", config.where("alphabet"),
                         i + 1, alphabet[i]);
      check<ConfigError>(outputs_.emplace(alphabet[i], static_cast<int64_t>(i) + 1).second,
                         "{}: '{}' stands twice", config.where("alphabet"), alphabet[i]);
    }
  }

  Example prepare(const Sample& sample, const Rng& rng, bool training) const override {
    std::vector<int64_t> target;
    for (const std::string& character : ctc_characters(answer(sample.record))) {
      const auto it = outputs_.find(character);
      check<DataError>(it != outputs_.end(), "sample {}: '{}' is not in the alphabet",
                       sample.record.id, character);
      target.push_back(it->second);
    }
    check<DataError>(!target.empty(), "sample {}: its target is empty", sample.record.id);
    Example out = prepare_medium(sample, rng, training);
    out.target = std::move(target);
    return out;
  }

  LossSums loss(const Batch& batch, bool training) override {
    const auto [rows_LE, samples] = encode(batch);
    const at::Tensor log_LC = at::log_softmax(head(rows_LE, samples).to(at::kFloat), 1);
    LossSums out;
    // Sample by sample: a pack of unequal lengths needs no padding, and the bits of a sample do not
    // depend on its neighbours.
    for (int64_t s = 0; s < samples.count(); ++s) {
      const std::vector<int64_t>& target = batch.examples[static_cast<size_t>(s)].target;
      const at::Tensor log_T1C = log_LC.narrow(0, samples.begin(s), samples.length(s)).unsqueeze(1);
      const at::Tensor loss = at::ctc_loss(log_T1C, at::tensor(target, at::kLong).unsqueeze(0),
                                           at::IntArrayRef{samples.length(s)},
                                           at::IntArrayRef{static_cast<int64_t>(target.size())},
                                           kBlank, at::Reduction::Sum, /*zero_infinity=*/true);
      out.loss_sum = out.loss_sum.defined() ? out.loss_sum + loss : loss;
      out.count += static_cast<double>(target.size());
      if (!training) {
        auto& [errors, length] = out.metrics["cer"];
        errors += static_cast<double>(ctc_edit_distance(greedy(log_T1C.squeeze(1)), target));
        length += static_cast<double>(target.size());
      }
    }
    return out;
  }

 private:
  /// Best path: repeated outputs collapse, blanks go.
  static std::vector<int64_t> greedy(const at::Tensor& log_TC) {
    const at::Tensor best_T = log_TC.argmax(1).contiguous();
    std::vector<int64_t> out;
    int64_t last = kBlank;
    for (int64_t t = 0; t < best_T.size(0); ++t) {
      const int64_t now = best_T.const_data_ptr<int64_t>()[t];
      if (now != last && now != kBlank) out.push_back(now);
      last = now;
    }
    return out;
  }

  std::map<std::string, int64_t> outputs_;
};

}  // namespace

std::unique_ptr<Objective> make_ctc(const Config& config, const ObjectiveOptions& options) {
  return std::make_unique<Ctc>(config, options, read_lines(config.path("alphabet")));
}

}  // namespace euromodal
