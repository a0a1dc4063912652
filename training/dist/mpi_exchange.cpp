// mpi_exchange.cpp — see mpi_exchange.h.
#include "training/dist/mpi_exchange.h"

#include <algorithm>
#include <cstring>

#include "training/dist/part_sum.h"

namespace euromodal {
namespace {

constexpr int64_t kExchangeBlock = int64_t{1} << 18;  // floats: 1 MiB, small enough for a cache

// MPI promises tags up to 32767; far fewer operations than 16000 are on their way at a time.
int exchange_tag(int64_t sequence, bool gather) {
  return static_cast<int>(2 * (sequence % 16000)) + (gather ? 1 : 0);
}

}  // namespace

int64_t mpi_operation_key(const std::string& operation, int64_t sequence) {
  uint64_t hash = 1469598103934665603ULL ^ static_cast<uint64_t>(sequence);
  for (const char c : operation) hash = (hash ^ static_cast<unsigned char>(c)) * 1099511628211ULL;
  return static_cast<int64_t>((hash ^ (hash >> 32)) & ((1ULL << 62) - 1));
}

MpiExchange::MpiExchange(const MpiLink& link, MpiExchangePlan plan, const WaitContext& phase)
    : link_(link), plan_(std::move(plan)), phase_(&phase) {
  // Two ranks with other slices must notice it, so the slices are a part of the key.
  std::string what = plan_.operation;
  for (const Slices* slices : {&plan_.scatter.slices, &plan_.gathered_bytes})
    what.append(reinterpret_cast<const char*>(slices->data()), slices->size() * sizeof(int64_t));
  key_ = mpi_operation_key(what, plan_.sequence);
  keys_[0] = key_;
  keys_[1] = -key_;
  checked(MPI_Iallreduce(MPI_IN_PLACE, keys_, 2, MPI_INT64_T, MPI_MAX, link_.comm, &handshake_),
          "MPI_Iallreduce");
  phase_->progress->add(this);
}

void MpiExchange::checked(int code, const char* call) const {
  if (code != MPI_SUCCESS) check_mpi(code, call, context());
}

WaitContext MpiExchange::context() const {
  WaitContext out = *phase_;
  out.operation = plan_.operation;
  out.start_s = MPI_Wtime();
  return out;
}

bool MpiExchange::all_done(std::vector<MPI_Request>& requests) const {
  int flag = 1;
  if (!requests.empty())
    checked(
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &flag, MPI_STATUSES_IGNORE),
        "MPI_Testall");
  if (flag != 0) requests.clear();
  return flag != 0;
}

bool MpiExchange::handshake_done() {
  if (stage_ != Stage::kHandshake) return true;
  int flag = 0;
  checked(MPI_Test(&handshake_, &flag, MPI_STATUS_IGNORE), "MPI_Test");
  if (flag == 0) return false;
  if (link_.arrived) link_.arrived(plan_.sequence + 1);
  check<DistError>(keys_[0] == key_ && keys_[1] == -key_,
                   "{}: the ranks are in different collectives (this is number {} of this rank)",
                   context().text(), plan_.sequence + 1);
  stage_ = Stage::kSum;
  if (plan_.sum) begin_sum();
  return true;
}

bool MpiExchange::test() {
  if (stage_ == Stage::kDone) return true;
  if (!handshake_done()) return false;
  if (stage_ == Stage::kSum) {
    if (plan_.sum && !sum_done()) return false;
    stage_ = Stage::kGather;
    if (plan_.gather) begin_gather();
  }
  if (!all_done(receives_[0]) || !all_done(sends_)) return false;
  stage_ = Stage::kDone;
  phase_->progress->remove(this);
  return true;
}

void MpiExchange::wait() {
  const WaitContext here = context();
  wait_until([this] { return handshake_done(); }, /*ready=*/false, here);
  wait_until([this] { return test(); }, /*ready=*/true, here);
}

void MpiExchange::begin_sum() {
  const ScatterSum& sum = plan_.scatter;
  const int64_t peers = std::max(link_.size - 1, 1);
  const int64_t limit =
      std::min({link_.chunk_bytes / 4, link_.ordered_bytes / (2 * 4 * peers), kExchangeBlock});
  block_ = std::max<int64_t>(limit, 1);
  blocks_ = (own_count() + block_ - 1) / block_;
  for (int64_t block = 0; block < std::min<int64_t>(blocks_, 2); ++block) receive_block(block);
  if (link_.rank >= sum.ranks) return;
  for (int step = 1; step < link_.size; ++step) {  // each begins with its neighbour: no rush on one
    const int to = (link_.rank + step) % link_.size;
    for (int64_t at = sum.slices[to]; at < sum.slices[to + 1]; at += block_) {
      const auto n = static_cast<int>(std::min(block_, sum.slices[to + 1] - at));
      checked(MPI_Isend(sum.data + at, n, MPI_FLOAT, to, exchange_tag(plan_.sequence, false),
                        link_.comm, &sends_.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Isend");
    }
  }
}

void MpiExchange::receive_block(int64_t block) {
  const int64_t n = std::min(block_, own_count() - block * block_);
  std::vector<float>& addends = addends_[block % 2];
  addends.resize(static_cast<size_t>(n * plan_.scatter.ranks));
  for (int from = 0; from < plan_.scatter.ranks; ++from) {
    if (from == link_.rank) continue;
    checked(MPI_Irecv(addends.data() + from * n, static_cast<int>(n), MPI_FLOAT, from,
                      exchange_tag(plan_.sequence, false), link_.comm,
                      &receives_[block % 2].emplace_back(MPI_REQUEST_NULL)),
            "MPI_Irecv");
  }
}

void MpiExchange::add_block(int64_t block) {
  const ScatterSum& sum = plan_.scatter;
  const int64_t at = block * block_, n = std::min(block_, own_count() - at);
  std::vector<const float*> ordered;
  if (sum.onto_out) ordered.push_back(sum.out + at);
  for (int from = 0; from < sum.ranks; ++from)
    ordered.push_back(from == link_.rank ? sum.data + own_begin() + at
                                         : addends_[block % 2].data() + from * n);
  sum_parts(ordered, n, sum.out + at);
}

bool MpiExchange::sum_done() {
  for (; next_block_ < blocks_; ++next_block_) {
    if (!all_done(receives_[next_block_ % 2])) return false;
    add_block(next_block_);
    if (next_block_ + 2 < blocks_) receive_block(next_block_ + 2);
  }
  // Gathered slices land where this rank's addends are: those must have left.
  return all_done(sends_);
}

void MpiExchange::begin_gather() {
  const Slices& bytes = plan_.gathered_bytes;
  const char* own = plan_.own != nullptr ? plan_.own : plan_.gathered + bytes[link_.rank];
  const int64_t own_bytes = bytes[link_.rank + 1] - bytes[link_.rank];
  const int tag = exchange_tag(plan_.sequence, true);
  for (int step = 1; step < link_.size; ++step) {
    const int from = (link_.rank + link_.size - step) % link_.size;
    const bool receives = plan_.root < 0 || plan_.root == link_.rank;
    for (int64_t at = bytes[from]; receives && at < bytes[from + 1]; at += link_.chunk_bytes) {
      const auto n = static_cast<int>(std::min(link_.chunk_bytes, bytes[from + 1] - at));
      checked(MPI_Irecv(plan_.gathered + at, n, MPI_BYTE, from, tag, link_.comm,
                        &receives_[0].emplace_back(MPI_REQUEST_NULL)),
              "MPI_Irecv");
    }
    const int to = (link_.rank + step) % link_.size;
    const bool sends = plan_.root < 0 || plan_.root == to;
    for (int64_t at = 0; sends && at < own_bytes; at += link_.chunk_bytes) {
      const auto n = static_cast<int>(std::min(link_.chunk_bytes, own_bytes - at));
      checked(MPI_Isend(own + at, n, MPI_BYTE, to, tag, link_.comm,
                        &sends_.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Isend");
    }
  }
  if (plan_.root == link_.rank && own_bytes > 0)
    std::memcpy(plan_.gathered + bytes[link_.rank], own, static_cast<size_t>(own_bytes));
}

}  // namespace euromodal
