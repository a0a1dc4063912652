// hub_config.cpp — quantization_config of AWQ and GPTQ folders, see hub_quantization.h.
#include <algorithm>

#include "backbone/hub_quantization.h"

namespace euromodal {

std::optional<HubQuantization> read_hub_quantization(const JsonView& how) {
  const std::string method = how.str("quant_method", "");
  if (method != "awq" && method != "gptq") return std::nullopt;
  HubQuantization out;
  const bool awq = method == "awq";
  out.method = awq ? HubQuantization::Method::kAwq : HubQuantization::Method::kGptq;
  out.bits = how.i64("bits", 4);
  check<ConfigError>(out.bits == 4 || (!awq && out.bits == 8),
                     "{}: {} of {} bits cannot be read, only 4{}", how.what(), method, out.bits,
                     awq ? "" : " and 8");
  out.group = how.i64("group_size", 128);
  check<ConfigError>(out.group == -1 || (out.group > 0 && out.group < (int64_t{1} << 31)),
                     "{}: group_size is {}, expected a number above 0, or -1 for whole rows",
                     how.what(), out.group);
  if (awq) {
    std::string version = how.str("version", "gemm");
    std::transform(version.begin(), version.end(), version.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
    check<ConfigError>(version == "gemm", "{}: version {} of awq cannot be read, only gemm",
                       how.what(), version);
    out.zeros = how.boolean("zero_point", true);
    return out;
  }
  const std::string format = how.str("checkpoint_format", how.str("format", "gptq"));
  check<ConfigError>(format == "gptq" || format == "gptq_v2",
                     "{}: checkpoint_format {} cannot be read, only gptq and gptq_v2", how.what(),
                     format);
  check<ConfigError>(!how.boolean("is_marlin_format", false),
                     "{}: is_marlin_format cannot be read, only checkpoint_format gptq and gptq_v2",
                     how.what());
  const bool rules = how.has("dynamic") && !how.raw().at("dynamic").empty();
  check<ConfigError>(!rules, "{}: dynamic (rules for single modules) cannot be read", how.what());
  out.zeros = !how.boolean("sym", true);
  out.zero_less = format == "gptq";
  return out;
}

std::optional<HubQuantization> hub_quantization_of(const std::filesystem::path& dir) {
  const std::filesystem::path file = dir / "config.json";
  const Json json = read_json(file);
  const JsonView view(json, file.string());
  if (!json.is_object() || !view.has("quantization_config")) return std::nullopt;
  return read_hub_quantization(view.object("quantization_config"));
}

}  // namespace euromodal
