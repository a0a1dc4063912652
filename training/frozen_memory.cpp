// frozen_memory.cpp — see frozen_memory.h.
#include "training/frozen_memory.h"

#include <cstring>
#include <map>
#include <set>
#include <tuple>

#include <ATen/ATen.h>
#include <malloc.h>

#include "core/files.h"

namespace euromodal {
namespace {

constexpr int64_t kAlign = 64;  // bytes, as LibTorch's own

/// Where each tensor lies. Handles of the same memory lie at the same place.
struct FrozenLayout {
  std::vector<int64_t> offsets;
  int64_t bytes = 0;
  std::string text;  // names, types, shapes, offsets
};

FrozenLayout frozen_layout(const std::vector<NamedTensor>& tensors) {
  FrozenLayout out;
  std::map<std::tuple<const void*, size_t>, int64_t> places;
  for (const auto& [name, tensor] : tensors) {
    const auto place = std::tuple(tensor.const_data_ptr(), tensor.nbytes());
    const auto [at, added] = places.try_emplace(place, out.bytes);
    out.offsets.push_back(at->second);
    if (added) out.bytes += (static_cast<int64_t>(tensor.nbytes()) + kAlign - 1) / kAlign * kAlign;
    out.text += fmt::format("{} {} {} {}\n", name, c10::toString(tensor.scalar_type()),
                            fmt::join(tensor.sizes(), "x"), at->second);
  }
  return out;
}

at::Tensor frozen_view(const at::Tensor& tensor, char* data) {
  return at::from_blob(data, tensor.sizes(), tensor.options().requires_grad(false));
}

}  // namespace

FrozenTensors frozen_tensors(const std::vector<NamedTensor>& parameters,
                             const std::vector<NamedTensor>& trainable) {
  std::set<const void*> seen;
  for (const NamedTensor& p : trainable) seen.insert(p.tensor.unsafeGetTensorImpl());
  FrozenTensors out;
  for (const NamedTensor& p : parameters) {
    if (!seen.insert(p.tensor.unsafeGetTensorImpl()).second || p.tensor.numel() == 0) continue;
    if (in_mapped_file(p.tensor)) {
      out.mapped_bytes += static_cast<int64_t>(p.tensor.nbytes());
    } else {
      out.own.push_back(p);
    }
  }
  out.own_bytes = frozen_layout(out.own).bytes;
  return out;
}

std::unique_ptr<Objective> FrozenMemory::make(
    Collectives& node, const std::function<std::unique_ptr<Objective>()>& make,
    const std::function<std::vector<NamedTensor>(const Objective&)>& frozen) {
  std::unique_ptr<Objective> objective;
  std::string expected(hash_hex("").size(), ' ');  // hash of the first rank's layout
  for (int turn = 0; turn < node.size(); ++turn) {
    const bool mine = turn == node.rank();
    std::vector<NamedTensor> tensors;
    FrozenLayout layout;
    if (mine) {
      objective = make();
      tensors = frozen(*objective);
      for (NamedTensor& p : tensors) {
        check(!p.tensor.requires_grad() && p.tensor.is_cpu(), "{}: cannot be shared", p.name);
        if (!p.tensor.is_contiguous()) p.tensor.set_data(p.tensor.detach().contiguous());
      }
      layout = frozen_layout(tensors);
    }
    if (turn == 0) {
      memory_ = node.node_memory(layout.bytes);
      if (mine) expected = hash_hex(layout.text);
      node.broadcast(expected.data(), static_cast<int64_t>(expected.size()), 0);
    } else if (mine) {
      memory_->seal();  // the first rank's bytes are there since the barrier of its turn
    }
    if (mine) {
      check<DistError>(hash_hex(layout.text) == expected && layout.bytes == memory_->bytes(),
                       "rank {} of the node: its frozen tensors have other names, types or shapes "
                       "than those of the first rank; do all ranks read the same model?",
                       node.rank());
      for (size_t i = 0; i < tensors.size(); ++i) {
        const at::Tensor& tensor = tensors[i].tensor;
        char* place = memory_->data() + layout.offsets[i];
        if (turn == 0) {
          std::memcpy(place, tensor.const_data_ptr(), tensor.nbytes());
        } else {
          check<DistError>(std::memcmp(place, tensor.const_data_ptr(), tensor.nbytes()) == 0,
                           "rank {} of the node: tensor {} has other values than on the first "
                           "rank; do all ranks read the same model?",
                           node.rank(), tensors[i].name);
        }
        tensor.set_data(frozen_view(tensor, place));  // its own memory goes back at once
      }
      if (turn == 0) memory_->seal();
      ::malloc_trim(0);
    }
    node.barrier();
  }
  return objective;
}

}  // namespace euromodal
