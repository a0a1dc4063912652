// sample_token_kernel.cu — the next token of a row of logits. Reference: inference/sampling.cpp.
//
// One cluster of blocks a row: the row is read once into shared memory, and every rule is a pass
// over it there with a barrier of the cluster behind it. So one launch, no sort, and the host does
// not wait.
#include <algorithm>
#include <cmath>

#include "backbone/kernels/sample_token/draw_number.h"
#include "backbone/kernels/sample_token/exact_exp.h"
#include "backbone/kernels/sample_token/sample_token_kernel.h"
#include "backbone/kernels/sample_token/select.h"

namespace euromodal {
namespace {

struct SampleShared {
  TeamShared team;
  SelectShared select;
  uint64_t exp_table[kExpTableSize];
  double warp_sum[kMaxWarps];
};

constexpr int kMaxThreads = 1024;
constexpr float kMinusInf = -INFINITY;

EM_DEVICE double warp_sum_double(double v) {
  for (int offset = 16; offset > 0; offset >>= 1) v += __shfl_xor_sync(0xffffffffU, v, offset);
  return v;
}

// Stops of the rules. Measure of top-k: 1 a token.
struct FewerThan {
  uint64_t k;
  EM_DEVICE bool operator()(uint64_t before) const { return before < k; }
};
// Measure of top-p: probability in units of 2^-62. A token goes when it and all less likely ones
// together hold at most 1 - p.
struct LessThan {
  float threshold;
  EM_DEVICE bool operator()(uint64_t before) const {
    return before == 0 ||
           static_cast<float>(1.0 - static_cast<double>(before) * 0x1.0p-62) > threshold;
  }
};

class Row {
 public:
  EM_DEVICE Row(const SampleTokenArgs& a, int64_t row, SampleShared* shared, const RowPart& part)
      : a_(a), row_(row), shared_(shared), part_(part), team_(&shared->team) {}

  EM_DEVICE void run() {
    const SampleParams params = a_.params_B[row_];
    const int64_t step = a_.step_B != nullptr ? a_.step_B[row_] : 0;
    if (threadIdx.x < kExpTableSize) shared_->exp_table[threadIdx.x] = kExpTable[threadIdx.x];
    load();
    cluster_sync();  // all blocks run, and the table is there
    if (a_.logprob_B != nullptr) measure_untouched();
    penalize(params);
    const int64_t token =
        params.temperature == 0.0 ? most_likely() : draw(params, static_cast<uint64_t>(step));
    if (token < 0) return;  // another block has it
    if (token >= part_.begin + part_.count) return;
    a_.token_B[row_] = token;
    const int64_t at = row_ * a_.V + token;
    if (a_.counts_BV != nullptr) ++a_.counts_BV[at];
    if (a_.step_B != nullptr) a_.step_B[row_] = step + 1;
    if (a_.logprob_B != nullptr) a_.logprob_B[row_] = a_.logits_BV[at] - plain_top_ - plain_log_;
  }

 private:
  template <typename F>
  EM_DEVICE void each(F f) const {
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < part_.count; i += blockDim.x) f(i);
  }

  EM_DEVICE void load() {
    const float* from = a_.logits_BV + row_ * a_.V + part_.begin;
    if (reinterpret_cast<uintptr_t>(from) % 16 != 0 || part_.count % 4 != 0) {
      each([&](int64_t i) { part_.x[i] = from[i]; });
      return;
    }
#pragma unroll 4
    for (int64_t i = threadIdx.x; i < part_.count / 4; i += blockDim.x)
      store16(part_.x + 4 * i, load16(from + 4 * i));
  }

  EM_DEVICE float exp_of(float x) const { return exact_exp(x, shared_->exp_table); }

  // Largest value, and the least that is in the race.
  EM_DEVICE void extremes(float* top, float* lowest) {
    uint32_t high = 0, low = 0;
    each([&](int64_t i) {
      const uint32_t key = ordered(part_.x[i]);
      high = key > high ? key : high;
      if (part_.x[i] > kMinusInf) low = ~key > low ? ~key : low;
    });
    const uint64_t both =
        team_.all(uint64_t{high} << 32 | low, uint64_t{0}, [](uint64_t a, uint64_t b) {
          const uint64_t h = a >> 32 > b >> 32 ? a >> 32 : b >> 32;
          const auto la = static_cast<uint32_t>(a), lb = static_cast<uint32_t>(b);
          return h << 32 | (la > lb ? la : lb);
        });
    *top = from_ordered(static_cast<uint32_t>(both >> 32));
    *lowest = from_ordered(~static_cast<uint32_t>(both));
  }

  EM_DEVICE void measure_untouched() {
    float lowest = 0.0F;
    extremes(&plain_top_, &lowest);
    double sum = 0.0;
    each([&](int64_t i) { sum += static_cast<double>(exp_of(part_.x[i] - plain_top_)); });
    plain_log_ = static_cast<float>(log(team_.sum(sum)));
  }

  EM_DEVICE void penalize(const SampleParams& params) {
    const bool repetition = params.repetition != 1.0,
               presence = params.presence != 0.0 || params.frequency != 0.0;
    if (a_.counts_BV == nullptr || !(repetition || presence)) return;
    const int32_t* counts = a_.counts_BV + row_ * a_.V + part_.begin;
    const auto factor = static_cast<float>(params.repetition);
    each([&](int64_t i) {
      const int32_t seen = counts[i], drawn = seen & (kSampleInPrompt - 1);
      if (seen == 0) return;
      float x = part_.x[i];
      if (repetition) x = x < 0.0F ? x * factor : x / factor;
      if (presence && drawn > 0)
        x -= static_cast<float>(params.presence + params.frequency * static_cast<double>(drawn));
      part_.x[i] = x;
    });
  }

  // Known to one thread of the team; -1 to the others.
  EM_DEVICE int64_t most_likely() {
    uint64_t best = 0;
    each([&](int64_t i) {
      const uint64_t key =
          uint64_t{ordered(part_.x[i])} << 32 | ~static_cast<uint32_t>(part_.begin + i);
      best = key > best ? key : best;
    });
    best = team_.max(best);
    return mine(static_cast<int64_t>(~static_cast<uint32_t>(best)));
  }
  EM_DEVICE int64_t mine(int64_t token) const {
    const bool here = token >= part_.begin && token < part_.begin + part_.count;
    return here && threadIdx.x == 0 ? token : -1;
  }

  EM_DEVICE int64_t draw(const SampleParams& params, uint64_t step) {
    if (params.temperature != 1.0) {
      const auto divisor = static_cast<float>(params.temperature);
      each([&](int64_t i) { part_.x[i] = part_.x[i] / divisor; });
    }
    float top = 0.0F, lowest = 0.0F;
    extremes(&top, &lowest);
    if (!(fabsf(top) < INFINITY)) return mine(0);  // nothing to draw from
    const SelectBins bins = select_bins(top, lowest);

    if (params.top_k > 0 && params.top_k < a_.V) {
      const uint64_t least = select_least(
          team_, &shared_->select, part_, bins,
          [&](int64_t i) { return uint64_t{part_.x[i] > kMinusInf ? 1U : 0U}; },
          FewerThan{static_cast<uint64_t>(params.top_k)});
      if (least != 0) {
        const float kth = from_ordered(static_cast<uint32_t>(least >> 32));
        each([&](int64_t i) {
          if (part_.x[i] < kth) part_.x[i] = kMinusInf;
        });
      }
    }
    double sum = 0.0;
    each([&](int64_t i) {
      part_.w[i] = exp_of(part_.x[i] - top);
      sum += static_cast<double>(part_.w[i]);
    });
    if (params.top_p < 1.0) {
      const auto total = static_cast<float>(team_.sum(sum));
      const uint64_t least = select_least(
          team_, &shared_->select, part_, bins,
          [&](int64_t i) { return static_cast<uint64_t>(part_.w[i] / total * 0x1.0p62F); },
          LessThan{static_cast<float>(1.0 - params.top_p)});
      sum = 0.0;
      each([&](int64_t i) {
        if (token_key(part_.x[i], part_.begin + i) < least) part_.w[i] = 0.0F;
        sum += static_cast<double>(part_.w[i]);
      });
    }
    if (params.min_p > 0.0) {
      const auto total = static_cast<float>(team_.sum(sum));
      const float bound = static_cast<float>(params.min_p) * (1.0F / total);
      each([&](int64_t i) {
        if (part_.w[i] / total < bound && part_.w[i] < 1.0F) part_.w[i] = 0.0F;
      });
    }
    __syncthreads();
    return pick(draw_number(params.seed, step));
  }

  // The first id at which the weights, added up in the order of ids, pass u times their sum.
  EM_DEVICE int64_t pick(double u) {
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
    const int64_t span = ((part_.count + warps - 1) / warps + 31) / 32 * 32;
    const auto weight = [&](int64_t i) {
      return i < part_.count ? static_cast<double>(part_.w[i]) : 0.0;
    };
    double sum = 0.0;
    for (int64_t i = warp * span + lane; i < (warp + 1) * span; i += 32) sum += weight(i);
    sum = warp_sum_double(sum);
    if (lane == 0) shared_->warp_sum[warp] = sum;
    __syncthreads();
    double own = 0.0;
    for (unsigned w = 0; w < warps; ++w) own += shared_->warp_sum[w];
    const double* of_rank = team_.gather(own);

    double total = 0.0;
    for (unsigned r = 0; r < team_.size(); ++r) total += of_rank[r];
    const double target = u * total;
    double before = 0.0;
    if (find(of_rank, team_.size(), target, &before) != team_.rank()) return -1;
    if (find(shared_->warp_sum, warps, target, &before) != warp) return -1;
    int64_t last = -1;
    for (int64_t i = warp * span; i < (warp + 1) * span; i += 32) {
      const double w = weight(i + lane);
      double upto = w;
      for (unsigned offset = 1; offset < 32; offset <<= 1) {
        const double other = __shfl_up_sync(0xffffffffU, upto, offset);
        if (lane >= offset) upto += other;
      }
      const unsigned any = __ballot_sync(0xffffffffU, static_cast<int>(w > 0.0)),
                     past = __ballot_sync(0xffffffffU,
                                          static_cast<int>(w > 0.0 && target < before + upto));
      if (any != 0U) last = i + 31 - __clz(static_cast<int>(any));
      if (past != 0U) {
        last = i + __ffs(static_cast<int>(past)) - 1;
        break;
      }
      before += __shfl_sync(0xffffffffU, upto, 31);
    }
    return lane == 0 && last >= 0 ? part_.begin + last : -1;
  }

  // The part in which the sum passes `target` (by rounding none: the last with any weight), and
  // the sum before it.
  EM_DEVICE static unsigned find(const double* parts, unsigned count, double target,
                                 double* before) {
    unsigned found = 0;
    double upto = *before, start = upto;
    for (unsigned p = 0; p < count; ++p) {
      if (parts[p] > 0.0) {
        found = p;
        start = upto;
      }
      upto += parts[p];
      if (target < upto) break;
    }
    *before = start;
    return found;
  }

  const SampleTokenArgs& a_;
  int64_t row_;
  SampleShared* shared_;
  RowPart part_;
  Team team_;
  float plain_top_ = 0.0F, plain_log_ = 0.0F;  // of the untouched logits
};

// Values of a block's part: in shared memory behind SampleShared, or in the workspace.
__global__ void __launch_bounds__(kMaxThreads)
    sample_kernel(SampleTokenArgs a, int64_t each, bool fits) {
  EM_DYNAMIC_SHARED(unsigned char, bytes);
  wait_for_predecessor();
  release_successor();
  const int64_t row = blockIdx.x / cluster_size();
  if (a.active_B != nullptr && a.active_B[row] == 0) return;
  auto* shared = reinterpret_cast<SampleShared*>(bytes);
  const int64_t begin = cluster_rank() * each,
                count = begin >= a.V ? 0 : (a.V - begin < each ? a.V - begin : each);
  float* values = reinterpret_cast<float*>(bytes + (sizeof(SampleShared) + 15) / 16 * 16);
  if (!fits) {
    const int64_t row_floats = 2 * each * cluster_size();
    values = static_cast<float*>(a.workspace) + row * row_floats + 2 * cluster_rank() * each;
  }
  Row(a, row, shared, {values, values + each, begin, count}).run();
}

struct Plan {
  unsigned team;
  int64_t each;  // tokens of a block
  size_t shared;
  bool fits;
};

Plan plan_of(int64_t V) {
  Plan plan{};
  plan.team = 1;
  while (plan.team < kMaxTeam && plan.team * 256 < V && has_clusters()) plan.team *= 2;
  plan.each = ((V + plan.team - 1) / plan.team + 3) / 4 * 4;
  const size_t fixed = (sizeof(SampleShared) + 15) / 16 * 16,
               values = static_cast<size_t>(plan.each) * 2 * sizeof(float);
  plan.fits = fixed + values <= shared_memory_limit();
  plan.shared = plan.fits ? fixed + values : fixed;
  return plan;
}

}  // namespace

size_t sample_token_workspace(int64_t B, int64_t V) noexcept {
  if (B < 1 || V < 1) return 0;
  const Plan plan = plan_of(V);
  return plan.fits ? 0
                   : static_cast<size_t>(B) * plan.team * static_cast<size_t>(plan.each) * 2 *
                         sizeof(float);
}

cudaError_t sample_token(const SampleTokenArgs& args, cudaStream_t stream) noexcept {
  if (args.B == 0) return cudaSuccess;
  if (args.B < 0 || args.B > 65535 || args.V < 1 || args.V > (int64_t{1} << 30))
    return cudaErrorInvalidValue;
  const Plan plan = plan_of(args.V);
  if (!plan.fits && args.workspace == nullptr) return cudaErrorInvalidValue;
  const cudaError_t error = cudaFuncSetAttribute(
      sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(plan.shared));
  if (error != cudaSuccess) return error;
  const int64_t threads = std::min<int64_t>(kMaxThreads, (plan.each / 4 + 31) / 32 * 32);
  return launch_cluster(sample_kernel, static_cast<unsigned>(args.B) * plan.team,
                        static_cast<unsigned>(std::max<int64_t>(threads, 32)), plan.team,
                        plan.shared, args.dependent, stream, args, plan.each, plan.fits);
}

}  // namespace euromodal
