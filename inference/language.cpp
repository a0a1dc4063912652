// language.cpp — see language.h. The 24 official languages of the EU and the 11 others that EuroLLM
// was trained on.
#include "inference/language.h"

#include <utility>

#include "core/error.h"
#include "core/log.h"

namespace euromodal {
namespace {

constexpr std::pair<const char*, const char*> kLanguages[] = {
    {"ar", "Arabic"},     {"bg", "Bulgarian"}, {"ca", "Catalan"},    {"cs", "Czech"},
    {"da", "Danish"},     {"de", "German"},    {"el", "Greek"},      {"en", "English"},
    {"es", "Spanish"},    {"et", "Estonian"},  {"fi", "Finnish"},    {"fr", "French"},
    {"ga", "Irish"},      {"gl", "Galician"},  {"hi", "Hindi"},      {"hr", "Croatian"},
    {"hu", "Hungarian"},  {"it", "Italian"},   {"ja", "Japanese"},   {"ko", "Korean"},
    {"lt", "Lithuanian"}, {"lv", "Latvian"},   {"mt", "Maltese"},    {"nl", "Dutch"},
    {"no", "Norwegian"},  {"pl", "Polish"},    {"pt", "Portuguese"}, {"ro", "Romanian"},
    {"ru", "Russian"},    {"sk", "Slovak"},    {"sl", "Slovenian"},  {"sv", "Swedish"},
    {"tr", "Turkish"},    {"uk", "Ukrainian"}, {"zh", "Chinese"},
};

}  // namespace

std::string language_name(const std::string& code) {
  std::string known;
  for (const auto& [name_of_code, name] : kLanguages) {
    if (code == name_of_code) return name;
    known += std::string(known.empty() ? "" : " ") + name_of_code;
  }
  throw UsageError("--language: unknown code '{}'; known: {}", code, known);
}

std::string caption_prompt(const std::string& prompt, const std::string& language) {
  static const std::string place = "{language}";
  if (language.empty()) return prompt.empty() ? "Describe this." : prompt;
  const std::string name = language_name(language);
  if (prompt.empty()) return "Describe this in " + name + ".";
  std::string out = prompt;
  size_t at = out.find(place);
  if (at == std::string::npos)
    log_warn("--language {}: the prompt has no {} to fill and is taken as it is", language, place);
  for (; at != std::string::npos; at = out.find(place, at + name.size()))
    out.replace(at, place.size(), name);
  return out;
}

}  // namespace euromodal
