// language.h — the languages of EuroLLM by their ISO 639-1 codes, and how a prompt asks for one.
#pragma once
#include <string>

namespace euromodal {

/// English name of a code ("de" -> "German"); UsageError naming the code and the known ones.
std::string language_name(const std::string& code);

/// The prompt of `caption`: `{language}` in it stands for the language's name (a prompt without
/// that is taken as it is, with a warning); an empty prompt asks for a description.
std::string caption_prompt(const std::string& prompt, const std::string& language);

}  // namespace euromodal
