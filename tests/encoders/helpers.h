// helpers.h — copies of the golden model folders that a test may damage.
#pragma once
#include <cstring>
#include <filesystem>
#include <vector>

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include "backbone/weights/safetensors.h"
#include "core/files.h"
#include "core/json.h"
#include "tests/encoders/preprocess/formulas.h"
#include "tests/support/temp.h"
#include "tests/support/tensor_near.h"

namespace euromodal::testing_support {

inline std::filesystem::path golden_dir() { return std::filesystem::path(EM_TEST_DIR) / "goldens"; }

inline void copy_model(const std::string& name, const std::filesystem::path& to) {
  std::filesystem::copy(
      golden_dir() / name, to,
      std::filesystem::copy_options::recursive | std::filesystem::copy_options::overwrite_existing);
}

template <typename F>
void edit_json(const std::filesystem::path& file, F edit) {
  Json json = read_json(file);
  edit(json);
  write_text_atomic(file, json.dump(1));
}

template <typename F>
void edit_weights(const std::filesystem::path& dir, F edit) {
  std::vector<NamedTensor> tensors;
  for (const NamedTensor& t : load_model_tensors(dir))
    tensors.push_back({t.name, t.tensor.clone()});
  edit(tensors);
  save_safetensors(dir / "model.safetensors", tensors);
}

}  // namespace euromodal::testing_support
