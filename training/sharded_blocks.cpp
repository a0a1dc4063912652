// sharded_blocks.cpp — see sharded_blocks.h.
#include "training/sharded_blocks.h"

#include <algorithm>
#include <set>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/error.h"

namespace euromodal {
namespace {

constexpr int64_t kPieceAlign = 256;  // bytes: what kernels may ask of a weight's address

int64_t aligned(int64_t bytes) { return (bytes + kPieceAlign - 1) / kPieceAlign * kPieceAlign; }

at::Tensor bytes_of(const at::Tensor& tensor) { return tensor.view({-1}).view(at::kByte); }

void empty(const at::Tensor& tensor, at::Device device) {
  tensor.set_data(at::empty({0}, tensor.options().device(device).requires_grad(false)));
}

}  // namespace

ShardedBlocks::ShardedBlocks(
    const std::vector<std::vector<NamedTensor>>& blocks, int rank, int ranks, at::Device device,
    const std::function<std::unique_ptr<PeerSlices>(int64_t bytes)>& slices) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> held(static_cast<size_t>(ranks), 0);  // by each rank, so far
  for (const std::vector<NamedTensor>& tensors : blocks) {
    Block& block = blocks_.emplace_back();
    for (const NamedTensor& p : tensors) {
      check(p.tensor.is_cpu() && p.tensor.is_contiguous() && !p.tensor.requires_grad(),
            "{}: expected a frozen, contiguous tensor on the host", p.name);
      block.pieces.push_back({p.tensor, p.tensor.detach(), block.bytes});
      block.bytes += aligned(static_cast<int64_t>(p.tensor.nbytes()));
    }
    for (int r = 0; r <= ranks; ++r) {
      block.bounds.push_back(std::min(aligned((block.bytes + ranks - 1) / ranks) * r, block.bytes));
      if (r == 0) continue;
      block.offsets.push_back(held[r - 1]);
      held[r - 1] += block.bounds[r] - block.bounds[r - 1];
    }
    largest_ = std::max(largest_, block.bytes);
  }
  own_bytes_ = held[static_cast<size_t>(rank)];
  slices_ = slices(own_bytes_);
  const auto options = at::TensorOptions(device).dtype(at::kByte);
  const at::Tensor own = at::from_blob(slices_->own(), {own_bytes_}, options);
  for (const Block& block : blocks_) {
    const int64_t first = block.bounds[rank], last = block.bounds[rank + 1];
    for (const Piece& piece : block.pieces) {
      const int64_t begin = std::max(first, piece.offset),
                    end = std::min(last, piece.offset + static_cast<int64_t>(piece.host.nbytes()));
      if (begin < end)
        own.narrow(0, block.offsets[rank] + begin - first, end - begin)
            .copy_(bytes_of(piece.host).narrow(0, begin - piece.offset, end - begin));
      empty(piece.tensor, device);
    }
  }
  for (Place& place : places_) place.bytes = at::empty({largest_}, options);
  slices_->seal();
}

ShardedBlocks::Place* ShardedBlocks::holding(int64_t block) {
  for (Place& place : places_)
    if (place.block == block) return &place;
  return nullptr;
}

ShardedBlocks::Place* ShardedBlocks::unused() {
  Place* oldest = nullptr;
  for (Place& place : places_)
    if (place.users == 0 && (oldest == nullptr || place.stamp < oldest->stamp)) oldest = &place;
  return oldest;
}

void ShardedBlocks::fetch(int64_t block, Place& place) {
  const Block& from = blocks_[static_cast<size_t>(block)];
  place.block = block;
  place.stamp = uses_;
  slices_->follow();  // behind the last use of the place
  auto* to = static_cast<char*>(place.bytes.mutable_data_ptr());
  for (size_t r = 0; r < from.offsets.size(); ++r)
    slices_->copy(static_cast<int>(r), from.offsets[r], from.bounds[r + 1] - from.bounds[r],
                  to + from.bounds[r]);
}

void ShardedBlocks::use(int64_t block, int64_t step) {
  const at::NoGradGuard no_grad;
  ++uses_;
  Place* place = holding(block);
  if (place == nullptr) {
    ++late_;
    place = unused();
    check(place != nullptr, "block {} of the backbone is needed while {} others are in use", block,
          kPlaces);
    fetch(block, *place);
  }
  slices_->join();
  place->stamp = uses_;
  if (++place->users == 1) {
    for (const Piece& piece : blocks_[static_cast<size_t>(block)].pieces)
      piece.tensor.set_data(
          place->bytes.narrow(0, piece.offset, static_cast<int64_t>(piece.host.nbytes()))
              .view(piece.host.scalar_type())
              .view(piece.host.sizes()));
  }
  const int64_t next = block + step;
  if (next < 0 || next >= static_cast<int64_t>(blocks_.size()) || holding(next) != nullptr) return;
  if (Place* room = unused()) fetch(next, *room);
}

void ShardedBlocks::done(int64_t block) {
  Place* place = holding(block);
  check(place != nullptr && place->users > 0, "block {} ends without having begun", block);
  if (--place->users > 0) return;
  for (const Piece& piece : blocks_[static_cast<size_t>(block)].pieces)
    empty(piece.tensor, place->bytes.device());
}

void ShardedBlocks::give_back() {
  for (const Block& block : blocks_)
    for (const Piece& piece : block.pieces) piece.tensor.set_data(piece.host);
}

std::vector<std::vector<NamedTensor>> frozen_blocks(const std::vector<NamedTensor>& parameters,
                                                    const std::vector<NamedTensor>& trainable,
                                                    int64_t blocks) {
  std::set<const void*> seen;
  for (const NamedTensor& p : trainable) seen.insert(p.tensor.unsafeGetTensorImpl());
  std::vector<std::vector<NamedTensor>> out(static_cast<size_t>(blocks));
  const std::string above = "backbone.model.layers.";
  for (const NamedTensor& p : parameters) {
    if (!p.name.starts_with(above) || p.tensor.numel() == 0) continue;
    if (!seen.insert(p.tensor.unsafeGetTensorImpl()).second) continue;
    const int64_t block = std::stoll(p.name.substr(above.size()));
    check(block < blocks, "{}: the backbone has {} blocks", p.name, blocks);
    out[static_cast<size_t>(block)].push_back(p);
  }
  return out;
}

}  // namespace euromodal
