// splice_rows_bench.cpp — media rows into the rows of a pack, and the gradients back: a picture of
// 729 rows in every 1024. Forward reads and writes each row once; backward with a frozen embedding
// moves the media rows alone.
#include <ATen/ATen.h>
#include <fmt/core.h>

#include "backbone/kernels/splice_rows/splice_rows_kernel.h"
#include "experiments/bench/cuda/gpu_bench.h"

using namespace euromodal;
using namespace euromodal::bench;

EM_GPU_BENCH(splice_rows) {
  for (const int64_t D : {6144, 2048}) {
    const int64_t T = 4096, S = T / 1024, M = S * 729;
    const size_t row = static_cast<size_t>(D) * 2, bytes = static_cast<size_t>(T) * row,
                 media_bytes = static_cast<size_t>(M) * row;
    const int copies = bench.copies(2 * bytes);
    std::vector<void*> emb, rows, y;
    for (int i = 0; i < copies; ++i) {
      emb.push_back(bench.random(bytes));
      rows.push_back(bench.random(media_bytes));
      y.push_back(bench.zeros(bytes));
    }
    std::vector<int64_t> table;
    for (const int64_t what : {100, 829, 0})  // starts, ends, rows before
      for (int64_t s = 0; s < S; ++s) table.push_back(what != 0 ? s * 1024 + what : s * 729);
    void* on_device = bench.zeros(table.size() * 8);
    must(cudaMemcpy(on_device, table.data(), table.size() * 8, cudaMemcpyHostToDevice),
         "cudaMemcpy");
    const RowSpans spans{static_cast<const int64_t*>(on_device), S};
    const std::string shape = fmt::format("{} of {} x {} bf16", M, T, D);
    double us = bench.time_us([&](int i, cudaStream_t stream) {
      return splice_rows_forward(
          {emb[i % copies], rows[i % copies], y[i % copies], spans, T, static_cast<int64_t>(row)},
          stream);
    });
    bench.report("splice_rows forward", shape, us, 2.0 * static_cast<double>(bytes));
    for (const bool trained : {false, true}) {
      us = bench.time_us([&](int i, cudaStream_t stream) {
        return splice_rows_backward({emb[i % copies], trained ? y[i % copies] : nullptr,
                                     rows[i % copies], spans, T, static_cast<int64_t>(row)},
                                    stream);
      });
      bench.report("splice_rows backward", shape + (trained ? ", embedding trained" : ""), us,
                   static_cast<double>(trained ? 2 * bytes + media_bytes : 2 * media_bytes));
    }
  }
}
