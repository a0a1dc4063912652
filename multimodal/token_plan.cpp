// token_plan.cpp — see token_plan.h. A conversation becomes stretches of text and media; each
// stretch is tokenised as a whole, so that training sees the very ids that inference makes: the
// first stretch reaches to the end of the generation prompt, the answer continues it.
//
// Labels come from the stretches themselves, never from a search for the answer in the finished
// ids: a chat template that the search does not know would leave all labels empty
// (facts/adapters.md 8).
#include "multimodal/token_plan.h"

#include <algorithm>
#include <string_view>

#include "core/error.h"

namespace euromodal {
namespace {

constexpr Modality kKinds[3] = {Modality::kImage, Modality::kAudio, Modality::kVideo};

int64_t plan_index(Modality kind) { return static_cast<int64_t>(kind); }

/// Text with the media that stand between its pieces: text[0] media[0] text[1] ... text[n].
struct Mixed {
  std::vector<std::string> text{""};
  std::vector<Modality> media;
};

/// Cuts `text` at the markers. In prompts those of all kinds count, also of kinds that the model
/// does not take: a marker without medium is an error, whatever its kind. In records `<video>` is
/// plain text for a model without video.
Mixed plan_split(std::string_view text, const PlanContext& context, bool all_kinds = false) {
  Mixed out;
  size_t at = 0;
  while (true) {
    size_t first = std::string_view::npos;
    Modality found = Modality::kImage;
    for (const Modality kind : kKinds) {
      if (!all_kinds && context.placeholder_id[plan_index(kind)] < 0) continue;
      const std::string& marker = context.marker[plan_index(kind)];
      const size_t hit = marker.empty() ? std::string_view::npos : text.find(marker, at);
      if (hit < first) {
        first = hit;
        found = kind;
      }
    }
    out.text.back() += text.substr(at, first - at);
    if (first == std::string_view::npos) return out;
    out.media.push_back(found);
    out.text.emplace_back();
    at = first + context.marker[plan_index(found)].size();
  }
}

/// Grows a plan stretch by stretch; `counts` are consumed in order.
class PlanBuilder {
 public:
  PlanBuilder(const PlanContext& context, const std::vector<int64_t>& counts, std::string what)
      : context_(context), counts_(counts), what_(std::move(what)) {}

  void add(const Mixed& mixed, bool target) {
    bool one_text = true;  // every placeholder is a token: the tokenizer sees the whole stretch
    for (const Modality kind : mixed.media)
      one_text &= !context_.placeholder_text[plan_index(kind)].empty();
    const size_t begin = plan_.ids.size();
    const EncodeMode mode = begin == 0 ? EncodeMode::kFull : EncodeMode::kContinuation;
    if (one_text) {
      add_whole(mixed, mode);
    } else {
      add_ids(context_.tokenizer->encode(mixed.text[0], mode));
      for (size_t i = 0; i < mixed.media.size(); ++i) {
        add_media(mixed.media[i]);
        add_ids(context_.tokenizer->encode(mixed.text[i + 1], EncodeMode::kContinuation));
      }
    }
    if (begin == 0) drop_second_bos();
    target_.resize(plan_.ids.size(), target);
  }

  /// Checks that every count was used and fills the labels.
  TokenPlan finish() {
    check<DataError>(used_ == counts_.size(), "{}: {} media items are given, but {} are used",
                     what_, counts_.size(), used_);
    std::vector<bool> placeholder(plan_.ids.size(), false);
    for (const Span& span : plan_.spans)
      std::fill_n(placeholder.begin() + span.start, span.length, true);
    plan_.labels.assign(plan_.ids.size(), -100);
    for (size_t t = 0; t + 1 < plan_.ids.size(); ++t) {
      if (target_[t + 1] && !placeholder[t + 1]) plan_.labels[t] = plan_.ids[t + 1];
    }
    return std::move(plan_);
  }

 private:
  void add_ids(const std::vector<int64_t>& ids) {
    plan_.ids.insert(plan_.ids.end(), ids.begin(), ids.end());
  }

  void add_media(Modality kind) {
    const int64_t k = plan_index(kind);
    check<DataError>(used_ < counts_.size(), "{}: more media are used than the {} that are given",
                     what_, counts_.size());
    const int64_t count = counts_[used_++];
    check<DataError>(count > 0, "{}: {} {} becomes {} tokens", what_, modality_name(kind), seen_[k],
                     count);
    plan_.spans.push_back({.kind = kind,
                           .item = seen_[k]++,
                           .start = static_cast<int64_t>(plan_.ids.size()),
                           .length = count});
    plan_.ids.insert(plan_.ids.end(), static_cast<size_t>(count), context_.placeholder_id[k]);
  }

  /// Placeholder tokens in the text, then each repeated.
  void add_whole(const Mixed& mixed, EncodeMode mode) {
    std::string text = mixed.text[0];
    for (size_t i = 0; i < mixed.media.size(); ++i)
      text += context_.placeholder_text[plan_index(mixed.media[i])] + mixed.text[i + 1];
    size_t next = 0;
    for (const int64_t id : context_.tokenizer->encode(text, mode)) {
      const bool placeholder = std::any_of(std::begin(kKinds), std::end(kKinds), [&](Modality k) {
        return !context_.placeholder_text[plan_index(k)].empty() &&
               context_.placeholder_id[plan_index(k)] == id;
      });
      if (!placeholder) {
        plan_.ids.push_back(id);
        continue;
      }
      check<DataError>(
          next < mixed.media.size() && context_.placeholder_id[plan_index(mixed.media[next])] == id,
          "{}: the text itself holds the placeholder '{}'; media are given beside the "
          "text, not in it",
          what_, context_.tokenizer->token_of(id));
      add_media(mixed.media[next++]);
    }
    check<DataError>(next == mixed.media.size(),
                     "{}: the tokenizer found {} of {} placeholders in the text", what_, next,
                     mixed.media.size());
  }

  /// Template and tokenizer may both give a BOS: one is kept.
  void drop_second_bos() {
    const auto bos = context_.tokenizer->bos_id();
    if (!bos || plan_.ids.size() < 2 || plan_.ids[0] != *bos || plan_.ids[1] != *bos) return;
    plan_.ids.erase(plan_.ids.begin());
    for (Span& span : plan_.spans) --span.start;
  }

  const PlanContext& context_;
  const std::vector<int64_t>& counts_;
  std::string what_;
  TokenPlan plan_;
  std::vector<bool> target_;
  size_t used_ = 0;
  int64_t seen_[3] = {0, 0, 0};
};

/// The turns as the template takes them: one string each, media as markers.
std::vector<ChatMessage> plan_messages(const Record& record, size_t count,
                                       const PlanContext& context) {
  std::vector<ChatMessage> out;
  for (size_t i = 0; i < count; ++i) {
    ChatMessage message{record.messages[i].role, ""};
    for (const Part& part : record.messages[i].parts) {
      if (part.is_media) {
        check<DataError>(context.placeholder_id[plan_index(part.media.kind)] >= 0,
                         "sample {}: this model takes no {} ({})", record.id,
                         modality_name(part.media.kind), part.media.uri);
        message.content += context.marker[plan_index(part.media.kind)];
        continue;
      }
      check<DataError>(plan_split(part.text, context).media.empty(),
                       "sample {}: the text '{}' holds a marker; media are parts {{kind, uri}}",
                       record.id, part.text);
      message.content += part.text;
    }
    out.push_back(std::move(message));
  }
  return out;
}

/// Renders and adds: neighbours that are both targets, or both not, are one stretch.
void plan_add_pieces(PlanBuilder& builder, const std::vector<ChatPiece>& pieces,
                     const PlanContext& context) {
  for (size_t i = 0; i < pieces.size();) {
    std::string text;
    const bool target = pieces[i].target;
    while (i < pieces.size() && pieces[i].target == target) text += pieces[i++].text;
    if (!text.empty()) builder.add(plan_split(text, context), target);
  }
}

std::string plan_kind_counts(const std::vector<Modality>& kinds) {
  std::vector<std::string> words;
  words.reserve(kinds.size());
  for (const Modality kind : kinds) words.emplace_back(modality_name(kind));
  return words.empty() ? "none" : fmt::format("{}", fmt::join(words, ", "));
}

/// CONTRACT 15: same kinds, same number, same order.
void plan_check_markers(const std::vector<Modality>& markers, const std::vector<Modality>& kinds,
                        const PlanContext& context) {
  std::string faults;
  for (const Modality kind : kKinds) {
    const auto placed = std::count(markers.begin(), markers.end(), kind);
    const auto given = std::count(kinds.begin(), kinds.end(), kind);
    if (placed == given) continue;
    faults += fmt::format("{}{} markers {} for {} {} inputs", faults.empty() ? "" : ", ", placed,
                          context.marker[plan_index(kind)], given, modality_name(kind));
  }
  check<DataError>(faults.empty(), "the prompt holds {}; markers and media must agree", faults);
  check<DataError>(markers == kinds,
                   "the order of the markers in the prompt ({}) is not that of the inputs ({})",
                   plan_kind_counts(markers), plan_kind_counts(kinds));
}

}  // namespace

void set_placeholder(PlanContext& context, Modality kind, const std::string& token,
                     int64_t otherwise) {
  const int64_t k = plan_index(kind);
  const std::vector<int64_t> ids = context.tokenizer->encode(token, EncodeMode::kNoSpecial);
  const bool is_token = ids.size() == 1 && context.tokenizer->id_of(token) == ids[0];
  const int64_t id = is_token ? ids[0] : otherwise;
  for (const Modality other : kKinds) {
    check<ConfigError>(other == kind || context.placeholder_id[plan_index(other)] != id,
                       "{}: placeholder '{}' is already the placeholder of {}", modality_name(kind),
                       token, modality_name(other));
  }
  context.placeholder_id[k] = id;
  context.placeholder_text[k] = is_token ? token : "";
}

TokenPlan plan_record(const Record& record, const std::vector<int64_t>& media_tokens,
                      const PlanContext& context) {
  PlanBuilder builder(context, media_tokens, "sample " + record.id);
  const auto messages = plan_messages(record, record.messages.size(), context);
  plan_add_pieces(builder, context.chat.render(messages, /*add_generation_prompt=*/false), context);
  TokenPlan plan = builder.finish();
  const bool supervised =
      std::any_of(plan.labels.begin(), plan.labels.end(), [](int64_t label) { return label >= 0; });
  check<DataError>(supervised, "sample {}: no token to learn: no assistant turn says anything",
                   record.id);
  return plan;
}

TokenPlan plan_record_prompt(const Record& record, const std::vector<int64_t>& media_tokens,
                             const PlanContext& context) {
  size_t last = record.messages.size();
  while (last > 0 && record.messages[last - 1].role != "assistant") --last;
  const size_t count = last > 0 ? last - 1 : record.messages.size();
  check<DataError>(count > 0, "sample {}: nothing stands before the assistant's turn", record.id);
  PlanBuilder builder(context, media_tokens, "sample " + record.id);
  plan_add_pieces(builder,
                  context.chat.render(plan_messages(record, count, context),
                                      /*add_generation_prompt=*/true),
                  context);
  return builder.finish();
}

TokenPlan plan_prompt(const std::string& prompt, const std::vector<Modality>& kinds,
                      const std::vector<int64_t>& media_tokens, bool use_template,
                      const PlanContext& context) {
  check(kinds.size() == media_tokens.size(), "plan_prompt: {} kinds but {} counts", kinds.size(),
        media_tokens.size());
  for (const Modality kind : kinds) {
    check<DataError>(context.placeholder_id[plan_index(kind)] >= 0, "this model takes no {}",
                     modality_name(kind));
  }
  std::vector<Modality> markers = plan_split(prompt, context, /*all_kinds=*/true).media;
  std::string text = prompt;
  if (markers.empty() && use_template) {
    text.clear();
    for (const Modality kind : kinds) text += context.marker[plan_index(kind)] + "\n";
    text += prompt;
    markers = kinds;
  }
  plan_check_markers(markers, kinds, context);
  PlanBuilder builder(context, media_tokens, "prompt");
  if (use_template) {
    const std::string whole = context.chat.render_text({{"user", text}}, true);
    builder.add(plan_split(whole, context), /*target=*/false);
  } else {
    builder.add(plan_split(text, context), /*target=*/false);
  }
  return builder.finish();
}

}  // namespace euromodal
