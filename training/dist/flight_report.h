// flight_report.h — the flight records of all ranks of a run, compared: which collective is the
// first in which ranks differ, and which ranks did not come to it.
#pragma once
#include <filesystem>
#include <string>

#include "core/json.h"

namespace euromodal {

/// Is `folder` one of flight records (rank-N.json)?
bool is_flight_folder(const std::filesystem::path& folder);
/// One object: kind; ranks and records (how many); without_record (ranks); places (a line for the
/// ranks that stand at the same place); reasons (why each record was written); difference (text, or
/// null when all ranks agree); absent (ranks that the others wait for: they did not come, or their
/// process stood still); verdict (one line). Error for a folder without records.
Json flight_report(const std::filesystem::path& folder);
/// The report's verdict; what went wrong instead of an exception.
std::string flight_verdict(const std::filesystem::path& folder);

}  // namespace euromodal
