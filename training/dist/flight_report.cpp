// flight_report.cpp — see flight_report.h. Calls are matched by (group, sequence). A rank without a
// file counts as absent: it was killed, is stopped, or hangs in the kernel.
#include "training/dist/flight_report.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>
#include <vector>

#include "core/files.h"
#include "training/dist/flight_record.h"

namespace euromodal {
namespace {

namespace fs = std::filesystem;

struct FlightRank {
  int rank = 0;
  std::string host, phase, inside, reason;
  double silent_s = 0.0, stood_still_s = 0.0;
  struct Call {
    FlightCall call;
    std::string phase;
    bool ended = false;
  };
  std::map<std::string, std::map<int64_t, Call>> calls{};  // by group, sequence
};

FlightRank flight_read(const fs::path& file, int* size) {
  const Json json = read_json(file);
  const JsonView view(json, file.string());
  FlightRank out{.rank = static_cast<int>(view.i64("rank")),
                 .host = view.str("host"),
                 .phase = view.str("phase"),
                 .inside = view.str("inside"),
                 .reason = view.str("reason"),
                 .silent_s = view.f64("silent_s"),
                 .stood_still_s = view.f64("stood_still_s", 0.0)};
  *size = std::max(*size, static_cast<int>(view.i64("size")));
  check(json.contains("calls") && json["calls"].is_array(), "{}: has no calls", file.string());
  for (const Json& entry : json["calls"]) {
    const JsonView call(entry, file.string());
    out.calls[call.str("group")][call.i64("sequence")] = {
        .call = {.operation = call.str("operation"),
                 .count = call.i64("count"),
                 .dtype = call.str("dtype"),
                 .group = call.str("group")},
        .phase = call.str("phase"),
        .ended = call.f64("end_s") >= 0.0};
  }
  return out;
}

/// "0-3, 7": ranks in short.
std::string flight_ranks(const std::vector<int>& ranks) {
  std::string out;
  for (size_t i = 0; i < ranks.size();) {
    size_t end = i;
    while (end + 1 < ranks.size() && ranks[end + 1] == ranks[end] + 1) ++end;
    out += fmt::format("{}{}", out.empty() ? "" : ", ", ranks[i]);
    if (end > i) out += fmt::format("-{}", ranks[end]);
    i = end + 1;
  }
  return out;
}

struct FlightDifference {
  std::string text;
  std::vector<int> absent;  // did not come
};

/// The first sequence of `group` in which ranks differ: another call, or one that some never made.
/// Sequences that a full ring has already dropped cannot be compared.
std::optional<FlightDifference> flight_compare(const std::vector<FlightRank>& ranks,
                                               const std::string& group,
                                               const std::vector<int>& silent) {
  int64_t first = 1, last = 0;
  for (const FlightRank& rank : ranks) {
    const auto calls = rank.calls.find(group);
    if (calls == rank.calls.end()) continue;
    if (calls->second.begin()->first > 1) first = std::max(first, calls->second.begin()->first);
    last = std::max(last, calls->second.rbegin()->first);
  }
  for (int64_t sequence = first; sequence <= last; ++sequence) {
    std::map<std::string, std::vector<int>> by_call;
    std::vector<int> absent;
    bool waited_for = false;
    for (const FlightRank& rank : ranks) {
      const auto calls = rank.calls.find(group);
      // Of a smaller group a rank without any call may be no member.
      if (calls == rank.calls.end() && group != "world") continue;
      const auto at = calls == rank.calls.end() ? decltype(calls->second.end()){}
                                                : calls->second.find(sequence);
      if (calls == rank.calls.end() || at == calls->second.end()) {
        absent.push_back(rank.rank);
        continue;
      }
      by_call[fmt::format("{} (phase '{}')", at->second.call.text(), at->second.phase)].push_back(
          rank.rank);
      waited_for |= !at->second.ended;
    }
    if (waited_for && group == "world") absent.insert(absent.end(), silent.begin(), silent.end());
    std::sort(absent.begin(), absent.end());
    std::set<std::string> kinds;
    for (const auto& [text, who] : by_call) kinds.insert(text.substr(0, text.find(" (phase")));
    if (kinds.size() > 1) {
      FlightDifference out{.text = fmt::format("number {} of {}:", sequence, group),
                           .absent = absent};
      for (const auto& [text, who] : by_call)
        out.text += fmt::format(" ranks {} are in {};", flight_ranks(who), text);
      out.text.pop_back();
      return out;
    }
    if (waited_for && !absent.empty() && !by_call.empty()) {
      const auto& [text, who] = *by_call.begin();
      return FlightDifference{
          .text = fmt::format("number {} of {}: ranks {} are in {}; ranks {} did not arrive",
                              sequence, group, flight_ranks(who), text, flight_ranks(absent)),
          .absent = absent};
    }
  }
  return std::nullopt;
}

}  // namespace

bool is_flight_folder(const fs::path& folder) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rank-") && name.ends_with(".json")) return true;
  }
  return false;
}

Json flight_report(const fs::path& folder) {
  check(is_flight_folder(folder), "{}: holds no flight records (rank-N.json)", folder.string());
  std::vector<FlightRank> ranks;
  int size = 0;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with("rank-") && name.ends_with(".json"))
      ranks.push_back(flight_read(entry.path(), &size));
  }
  std::sort(ranks.begin(), ranks.end(),
            [](const FlightRank& a, const FlightRank& b) { return a.rank < b.rank; });
  std::vector<int> silent;
  std::set<std::string> groups;
  std::map<std::string, std::vector<int>> places;
  for (int r = 0, i = 0; r < size; ++r) {
    if (i < static_cast<int>(ranks.size()) && ranks[i].rank == r) {
      ++i;
    } else {
      silent.push_back(r);
    }
  }
  for (const FlightRank& rank : ranks) {
    for (const auto& [group, calls] : rank.calls) groups.insert(group);
    places[fmt::format("phase '{}', {}", rank.phase,
                       rank.inside.empty() ? "outside any collective" : "in " + rank.inside)]
        .push_back(rank.rank);
  }
  Json rows = Json::array(), reasons = Json::array();
  for (const auto& [place, who] : places)
    rows.push_back(fmt::format("ranks {}: {}", flight_ranks(who), place));
  for (const FlightRank& rank : ranks)
    reasons.push_back(fmt::format("rank {} on {}: {}", rank.rank, rank.host, rank.reason));
  Json out = {{"kind", "flight records"}, {"ranks", size},          {"records", ranks.size()},
              {"without_record", silent}, {"places", rows},         {"reasons", reasons},
              {"difference", nullptr},    {"absent", Json::array()}};
  for (const std::string& group : groups) {
    const auto found = flight_compare(ranks, group, silent);
    if (!found) continue;
    out["difference"] = found->text;
    out["absent"] = found->absent;
    break;
  }
  std::string verdict = "first difference: ";
  if (!out["difference"].is_null()) {
    verdict += out["difference"].get<std::string>();
  } else {
    // All have made the same calls; one that was started and not waited for may still be open.
    std::vector<int> waiting, elsewhere;
    for (const FlightRank& rank : ranks)
      (rank.inside.empty() ? elsewhere : waiting).push_back(rank.rank);
    verdict = "the ranks agree in every collective that their records hold";
    if (!waiting.empty() && !elsewhere.empty()) {
      verdict += fmt::format("; ranks {} wait, ranks {} are outside any collective",
                             flight_ranks(waiting), flight_ranks(elsewhere));
      out["absent"] = elsewhere;
    }
  }
  // A rank that was stopped and woken again by what ends the run may have come by now.
  std::vector<int> all_absent = out["absent"].get<std::vector<int>>();
  for (const FlightRank& rank : ranks) {
    if (rank.stood_still_s == 0.0) continue;
    verdict += fmt::format(
        "; the whole process of rank {} on {} stood still for {:.1f} s (stopped or starved)",
        rank.rank, rank.host, rank.stood_still_s);
    if (std::find(all_absent.begin(), all_absent.end(), rank.rank) == all_absent.end())
      all_absent.push_back(rank.rank);
  }
  std::sort(all_absent.begin(), all_absent.end());
  out["absent"] = all_absent;
  for (const int absent : all_absent) {
    const auto at = std::find_if(ranks.begin(), ranks.end(),
                                 [&](const FlightRank& rank) { return rank.rank == absent; });
    verdict +=
        at == ranks.end()
            ? fmt::format("; rank {} wrote no record (killed, stopped or never started)", absent)
            : fmt::format("; rank {} on {} was in phase '{}', {}", absent, at->host, at->phase,
                          at->inside.empty() ? "outside any collective" : at->inside);
  }
  out["verdict"] = verdict;
  return out;
}

std::string flight_verdict(const fs::path& folder) {
  try {
    return flight_report(folder)["verdict"].get<std::string>();
  } catch (const std::exception& e) {
    return fmt::format("the flight records cannot be compared: {}", e.what());
  }
}

}  // namespace euromodal
