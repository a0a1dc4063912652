// glob.h — name patterns: `*` stands for any run of characters (dots included), `?` for one.
#pragma once
#include <string_view>

namespace euromodal {

bool glob_match(std::string_view pattern, std::string_view name);

}  // namespace euromodal
