// weights.cpp — the strict map of parameters.
#include "backbone/weights/weights.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "backbone/weights/safetensors_header.h"
#include "core/error.h"
#include "core/glob.h"
#include "core/rng.h"

namespace euromodal {
namespace {

at::Tensor weights_draw(uint64_t seed, const std::string& name, at::IntArrayRef shape, Init init,
                        at::ScalarType dtype) {
  if (init.kind == Init::Kind::kZeros) return at::zeros(shape, dtype);
  if (init.kind == Init::Kind::kOnes) return at::ones(shape, dtype);
  if (init.kind == Init::Kind::kConstant) return at::full(shape, init.value, dtype);
  at::Tensor drawn = at::empty(shape, dtype == at::kDouble ? at::kDouble : at::kFloat);
  Rng rng = Rng(seed).fork(name);
  if (dtype == at::kDouble) {
    double* data = drawn.mutable_data_ptr<double>();
    for (int64_t i = 0; i < drawn.numel(); ++i) data[i] = init.value * rng.normal();
  } else {
    float* data = drawn.mutable_data_ptr<float>();
    for (int64_t i = 0; i < drawn.numel(); ++i)
      data[i] = static_cast<float>(init.value * rng.normal());
  }
  return drawn.to(dtype);
}

}  // namespace

struct Weights::Impl {
  std::string what;
  at::ScalarType dtype = at::kFloat;
  bool random = false;
  uint64_t seed = 0;
  std::map<std::string, at::Tensor> stored;  // what nobody has taken yet
  std::map<std::string, std::vector<int64_t>> shapes;
  std::vector<std::string> ignored;
  std::vector<NamedTensor> taken;
  std::unordered_set<std::string> taken_names;

  /// Takes a stored tensor of this shape out of the map.
  at::Tensor claim(const std::string& name, at::IntArrayRef shape) {
    const auto found = stored.find(name);
    check<CheckpointError>(found != stored.end(), "{}: tensor {} is missing", what, name);
    check<CheckpointError>(found->second.sizes() == shape,
                           "{}: tensor {} has shape [{}], expected [{}]", what, name,
                           fmt::join(found->second.sizes(), ", "), fmt::join(shape, ", "));
    at::Tensor out = std::move(found->second);
    stored.erase(found);
    return out;
  }
};

Weights::Weights(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Weights::Weights(Weights&&) noexcept = default;
Weights& Weights::operator=(Weights&&) noexcept = default;
Weights::~Weights() = default;

Weights Weights::from_folder(const std::filesystem::path& dir, at::ScalarType dtype) {
  return from_tensors(load_model_tensors(dir), dtype, dir.string());
}

Weights Weights::from_tensors(std::vector<NamedTensor> tensors, at::ScalarType dtype,
                              std::string what) {
  auto impl = std::make_unique<Impl>();
  impl->what = std::move(what);
  impl->dtype = dtype;
  for (NamedTensor& named : tensors) {
    impl->shapes[named.name] = named.tensor.sizes().vec();
    const bool added = impl->stored.emplace(named.name, std::move(named.tensor)).second;
    check<CheckpointError>(added, "{}: tensor {} is there twice", impl->what,
                           shown_name(named.name));
  }
  return Weights(std::move(impl));
}

Weights Weights::random(uint64_t seed, at::ScalarType dtype) {
  auto impl = std::make_unique<Impl>();
  impl->what = "<random>";
  impl->dtype = dtype;
  impl->random = true;
  impl->seed = seed;
  return Weights(std::move(impl));
}

at::Tensor Weights::take(const std::string& name, at::IntArrayRef shape, Init init) {
  check<CheckpointError>(impl_->taken_names.insert(name).second,
                         "{}: tensor {} is taken twice by the model", impl_->what, name);
  if (impl_->random) {
    impl_->taken.push_back({name, weights_draw(impl_->seed, name, shape, init, impl_->dtype)});
    return impl_->taken.back().tensor;
  }
  const at::Tensor stored = impl_->claim(name, shape);
  check<CheckpointError>(at::isFloatingType(stored.scalar_type()),
                         "{}: tensor {} has dtype {}, expected a floating-point type", impl_->what,
                         name, safetensors_dtype_word(stored.scalar_type()));
  // Held by nobody else: used in place (a mapped file copies its pages when they are written to).
  const bool shared = stored.use_count() > 1 || stored.storage().use_count() > 1;
  at::Tensor tensor = stored.detach().to(impl_->dtype).contiguous();
  if (shared && tensor.is_alias_of(stored)) tensor = tensor.clone();
  impl_->taken.push_back({name, tensor});
  return tensor;
}

at::Tensor Weights::take_bytes(const std::string& name, at::IntArrayRef shape) {
  check<CheckpointError>(impl_->taken_names.insert(name).second,
                         "{}: tensor {} is taken twice by the model", impl_->what, name);
  const at::Tensor stored = impl_->claim(name, shape);
  check<CheckpointError>(stored.scalar_type() == at::kByte,
                         "{}: tensor {} has dtype {}, expected U8", impl_->what, name,
                         safetensors_dtype_word(stored.scalar_type()));
  impl_->taken.push_back({name, stored.contiguous()});
  return impl_->taken.back().tensor;
}

bool Weights::has(const std::string& name) const {
  return impl_->random || impl_->shapes.count(name) != 0;
}

std::vector<int64_t> Weights::shape(const std::string& name) const {
  const auto found = impl_->shapes.find(name);
  check<CheckpointError>(found != impl_->shapes.end(), "{}: tensor {} is missing", impl_->what,
                         name);
  return found->second;
}

void Weights::ignore(const std::string& pattern) { impl_->ignored.push_back(pattern); }

void Weights::finish() const {
  constexpr size_t kShown = 5;
  std::string names;
  size_t count = 0;
  for (const auto& [name, tensor] : impl_->stored) {
    const auto matches = [&name](const std::string& glob) { return glob_match(glob, name); };
    if (std::any_of(impl_->ignored.begin(), impl_->ignored.end(), matches)) continue;
    if (count++ < kShown) names += (names.empty() ? "" : ", ") + shown_name(name);
  }
  if (count > kShown) names += fmt::format(" and {} more", count - kShown);
  check<CheckpointError>(count == 0, "{}: unexpected tensor{} {} (the model does not use {})",
                         impl_->what, count == 1 ? "" : "s", names, count == 1 ? "it" : "them");
}

const std::vector<NamedTensor>& Weights::taken() const { return impl_->taken; }
WeightScope Weights::scope(const std::string& prefix) { return {*this, prefix}; }
at::ScalarType Weights::dtype() const { return impl_->dtype; }
bool Weights::random() const { return impl_->random; }
const std::string& Weights::what() const { return impl_->what; }

}  // namespace euromodal
