// json_schema.h — a JSON schema as a grammar of the JSON texts that it admits.
#pragma once
#include <string>

#include "core/json.h"
#include "inference/grammar/grammar.h"

namespace euromodal {

/// The grammar of `schema`'s texts (Draft 2020-12, the part that a grammar can hold): type (also a
/// list), properties, required, additionalProperties, items, prefixItems, minItems, maxItems,
/// minLength, maxLength, pattern, format (date, time, date-time, uuid), minimum and maximum of
/// integers, enum, const, anyOf, oneOf, allOf of one, $ref inside the document; `true` and `{}` are
/// any JSON. Properties come in the schema's order; others only where additionalProperties says so
/// or no properties are named. Between tokens at most one space, or a new line with indentation.
/// `what` names the schema in errors: ConfigError naming the place and the keyword for everything
/// else.
Grammar json_schema_grammar(const Json& schema, const std::string& what);

}  // namespace euromodal
