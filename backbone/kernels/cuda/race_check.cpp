// race_check.cpp — see race_check.h. Shadow memory: pages whose cells stand for 1 to 16 bytes, as
// fine as the finest access there.
#include "backbone/kernels/cuda/race_check.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <set>
#include <unordered_map>
#include <utility>

#include <elf.h>
#include <unistd.h>

#include "backbone/kernels/cuda/emulation.h"
#include "backbone/kernels/cuda/race_clocks.h"

extern "C" const Elf64_Ehdr __executable_start;  // NOLINT: the linker's names
extern "C" char __data_start, _end;              // NOLINT

namespace euromodal::emulation {
namespace {

constexpr size_t kPage = 1024, kMostCells = size_t{8} << 20, kMostFindings = 10;

// `first` and `last` are of those who have read, or changed by an atomic, since the write.
struct Cell {
  Access write, first, last;
};

struct Page {
  unsigned shift = 4;
  std::vector<Cell> cells;
};

bool same(const Access& a, const Access& b) {
  return a.time == b.time && a.same_thread(b) && a.kind == b.kind;
}

class RaceCheck final : public Observer {
 public:
  void launch_begins(bool dependent) override {
    dependent_ = dependent;
    if (!dependent) {
      indices_.clear();
      if (cells_ > kMostCells) forget();
    }
    clocks_.launch_begins(dependent);
    vain_.clear();
    threads_ = 0;
  }
  void launch_ends() override {
    if (threads_ > 0 && dependent_ && !clocks_.waited())
      found("a dependent launch of which no thread waits for its predecessor", {}, {}, 0);
  }
  void dies() override {
    for (const std::string& finding : findings_) std::fprintf(stderr, "%s\n", finding.c_str());
  }
  void host_waits() override { clocks_.host_waits(); }
  void cluster_begins(const std::vector<uint3>& index, const std::vector<Range>& shared,
                      size_t threads) override {
    const uint32_t first = clocks_.cluster_begins(index.size(), threads);
    if (indices_.empty()) first_index_ = first;
    indices_.insert(indices_.end(), index.begin(), index.end());
    shared_ = shared;
    threads_ += threads;
  }
  void thread_runs(unsigned rank, size_t thread, Range stack) override {
    clocks_.run(rank, thread);
    rank_ = rank;
    stack_ = stack;
    runs_ = true;
  }
  void thread_rests() override { runs_ = false; }
  void cluster_met() override { clocks_.cluster_met(); }
  void block_met(unsigned rank) override { clocks_.block_met(rank); }
  void part_met(unsigned rank, uint32_t warps) override { clocks_.part_met(rank, warps); }
  void warp_met(unsigned rank, unsigned warp, uint32_t lanes) override {
    clocks_.warp_met(rank, warp, lanes);
  }
  void predecessor_waited() override { clocks_.predecessor_waited(); }
  void fence() override { clocks_.fence(); }
  void read_in_vain(const void* p, size_t bytes) override {
    if (vain_.empty() || vain_.back().begin != reinterpret_cast<uintptr_t>(p))
      vain_.push_back({reinterpret_cast<uintptr_t>(p), bytes});
  }
  void atomic(const void* p, size_t bytes, bool acq_rel, const void* place) override {
    // The count's own access belongs to what it releases.
    access(reinterpret_cast<uintptr_t>(p), bytes, kIsWrite | kIsAtomic, place);
    clocks_.atomic(reinterpret_cast<uintptr_t>(p), acq_rel);
  }
  void copy_begins(const void* shared, const void* global, const void* place) override {
    access(reinterpret_cast<uintptr_t>(global), 16, 0, place);
    access(reinterpret_cast<uintptr_t>(shared), 16, kIsWrite | kIsPending, place);
  }
  void copy_lands(const void* shared, const void* global, const void* place) override {
    access(reinterpret_cast<uintptr_t>(global), 16, 0, place);
    landing_ = true;
    access(reinterpret_cast<uintptr_t>(shared), 16, kIsWrite, place);
    landing_ = false;
  }

  void access(uintptr_t p, size_t bytes, unsigned kind, const void* place) {
    if (!runs_ || stack_.has(p) || bytes == 0) return;
    Access me = clocks_.me();
    me.kind = static_cast<uint8_t>(kind);
    me.place = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(place) -
                                     reinterpret_cast<uintptr_t>(&__executable_start));
    if (shared_[rank_].has(p)) {
      me.kind |= kIsShared;
    } else if (p >= reinterpret_cast<uintptr_t>(&__data_start) &&
               p < reinterpret_cast<uintptr_t>(&_end)) {
      for (const void* own :
           {static_cast<const void*>(&threadIdx), static_cast<const void*>(&blockIdx),
            static_cast<const void*>(&blockDim), static_cast<const void*>(&gridDim)})
        if (p - reinterpret_cast<uintptr_t>(own) < sizeof(dim3)) return;
      me.kind |= kIsShared;
    } else {
      for (const Range& peer : shared_)
        if (peer.has(p)) me.kind |= kIsShared;
    }
    while (bytes > 0) {
      const size_t here = std::min(bytes, kPage - p % kPage);
      in_page(p, here, me);
      p += here;
      bytes -= here;
    }
  }

  std::vector<std::string> take() {
    known_.clear();
    known_lines_.clear();
    return std::exchange(findings_, {});
  }
  void forget() {
    pages_.clear();
    std::fill(std::begin(recent_), std::end(recent_), std::pair<uintptr_t, Page*>{});
    cells_ = 0;
  }

 private:
  Page& page_of(uintptr_t number) {
    auto& recent = recent_[number % kRecent];
    if (recent.first != number || recent.second == nullptr) {
      auto& page = pages_[number];
      if (page == nullptr) page = std::make_unique<Page>();
      recent = {number, page.get()};
    }
    return *recent.second;
  }

  void in_page(uintptr_t p, size_t bytes, const Access& me) {
    Page& page = page_of(p / kPage);
    const auto finest =
        static_cast<unsigned>(__builtin_ctzll(static_cast<uint64_t>(p) | bytes | 16U));
    if (page.cells.empty()) {
      page.shift = finest;
      page.cells.resize(kPage >> finest);
      cells_ += page.cells.size();
    } else if (finest < page.shift) {
      std::vector<Cell> finer(kPage >> finest);
      for (size_t i = 0; i < finer.size(); ++i) finer[i] = page.cells[i >> (page.shift - finest)];
      cells_ += finer.size() - page.cells.size();
      page.cells = std::move(finer);
      page.shift = finest;
    }
    const size_t begin = (p % kPage) >> page.shift, count = bytes >> page.shift;
    for (size_t i = begin; i < begin + count; ++i) {
      const uintptr_t at = p - p % kPage + (i << page.shift);
      if ((me.kind & kIsWrite) != 0U) {
        write(page.cells[i], me, at);
      } else {
        read(page.cells[i], me, at);
      }
    }
  }

  void against(const Access& before, const Access& me, uintptr_t p) {
    if (before.time == 0 || ((before.kind ^ me.kind) & kIsShared) != 0U) return;
    const bool pending = (before.kind & kIsPending) != 0U;
    if ((before.kind & me.kind & kIsAtomic) != 0U) return;
    if (pending && landing_ && before.same_thread(me)) return;
    if (clocks_.ordered(before) && (!pending || !of_this_cluster(before))) return;
    if (((before.kind & me.kind) & kIsWrite) == 0U)
      for (const Range& row : vain_)
        if (row.has(p)) return;
    found(pending ? "a copy that has not been waited for" : "a race", before, me, p);
  }
  bool of_this_cluster(const Access& a) const {
    return a.block + shared_.size() >= first_index_ + indices_.size();
  }

  void write(Cell& cell, const Access& me, uintptr_t p) {
    if (same(cell.write, me) && cell.first.time == 0) return;
    against(cell.write, me, p);
    if (!same(cell.first, cell.write)) against(cell.first, me, p);
    if (!same(cell.last, cell.first)) against(cell.last, me, p);
    cell.write = me;
    if ((me.kind & kIsAtomic) != 0U) {
      extend(cell, me);
    } else {
      cell.first = cell.last = Access{};
    }
  }
  void read(Cell& cell, const Access& me, uintptr_t p) {
    if (same(cell.first, me) || same(cell.last, me)) return;
    against(cell.write, me, p);
    for (const Access* other : {&cell.first, &cell.last})
      if ((other->kind & kIsAtomic) != 0U) against(*other, me, p);
    extend(cell, me);
  }
  void extend(Cell& cell, const Access& me) const {
    const auto before = [](const Access& a, const Access& b) {
      return a.block != b.block ? a.block < b.block : a.thread < b.thread;
    };
    if (cell.first.time == 0 || before(me, cell.first) || clocks_.ordered(cell.first))
      cell.first = me;
    if (cell.last.time == 0 || before(cell.last, me) || clocks_.ordered(cell.last)) cell.last = me;
  }

  std::string side(const Access& a) const {
    std::string kind = (a.kind & kIsAtomic) != 0U    ? "atomic"
                       : (a.kind & kIsPending) != 0U ? "copy to"
                       : (a.kind & kIsWrite) != 0U   ? "write"
                                                     : "read";
    std::string block = "of a launch before";
    if (a.block >= first_index_ && a.block - first_index_ < indices_.size()) {
      const uint3 at = indices_[a.block - first_index_];
      block =
          "block " + std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z);
    }
    return kind + " by thread " + std::to_string(a.thread) + " " + block + " at ";
  }
  std::string memory(uintptr_t p, const Access& a) const {
    for (size_t rank = 0; rank < shared_.size(); ++rank)
      if (shared_[rank].has(p))
        return "dynamic shared memory + " + std::to_string(p - shared_[rank].begin) + " of rank " +
               std::to_string(rank);
    char text[64];
    std::snprintf(text, sizeof(text), "%s 0x%llx",
                  (a.kind & kIsShared) != 0U ? "static shared" : "global",
                  static_cast<unsigned long long>(p));
    return text;
  }
  static std::string line_of(uint32_t place) {
    const uint64_t base =
        __executable_start.e_type == ET_DYN ? 0 : reinterpret_cast<uintptr_t>(&__executable_start);
    char command[160], line[512];
    std::snprintf(command, sizeof(command), "addr2line -Cipe /proc/%d/exe 0x%llx 2>/dev/null",
                  static_cast<int>(::getpid()), static_cast<unsigned long long>(base + place - 1));
    std::string out;
    if (FILE* pipe = ::popen(command, "r"); pipe != nullptr) {
      while (std::fgets(line, sizeof(line), pipe) != nullptr) {
        if (std::strstr(line, "/usr/include/") != nullptr) continue;
        line[std::strcspn(line, "\n")] = 0;
        out += (out.empty() ? "" : ",") + std::string(line);
      }
      ::pclose(pipe);
    }
    char text[32];
    std::snprintf(text, sizeof(text), "+0x%x", place);
    return out.empty() ? text : out;
  }

  void found(const char* what, const Access& before, const Access& me, uintptr_t p) {
    if (findings_.size() >= kMostFindings || !known_.insert({before.place, me.place}).second)
      return;
    std::string text = what;
    if (me.time != 0) {
      const std::string line = line_of(me.place), other = line_of(before.place);
      if (!known_lines_.insert(line + other).second) return;  // (a loop that was unrolled)
      text += ": " + memory(p, me) + "\n  " + side(me) + line + "\n  after " + side(before) + other;
    }
    findings_.push_back(std::move(text));
  }

  static constexpr size_t kRecent = 4096;
  RaceClocks clocks_;
  std::unordered_map<uintptr_t, std::unique_ptr<Page>> pages_;
  std::pair<uintptr_t, Page*> recent_[kRecent]{};
  size_t cells_ = 0, threads_ = 0;
  std::vector<Range> shared_, vain_;
  std::vector<uint3> indices_;  // of blocks since the last plain launch
  uint32_t first_index_ = 0;
  Range stack_{};
  unsigned rank_ = 0;
  bool runs_ = false, landing_ = false, dependent_ = false;
  std::vector<std::string> findings_;
  std::set<std::pair<uint32_t, uint32_t>> known_;
  std::set<std::string> known_lines_;
};

RaceCheck& the_check() {
  static RaceCheck check;
  return check;
}
RaceCheck* watching = nullptr;

}  // namespace

void check_races() {
  watching = &the_check();
  observer = watching;
}
std::vector<std::string> take_races() { return the_check().take(); }
void forget_accesses() { the_check().forget(); }

}  // namespace euromodal::emulation

// What GCC calls before each access of a file compiled with -fsanitize=thread.
// NOLINTBEGIN
#define EM_SEEN(name, bytes, kind)                                                        \
  extern "C" void __tsan_##name(void* p) {                                                \
    if (euromodal::emulation::watching != nullptr)                                        \
      euromodal::emulation::watching->access(reinterpret_cast<uintptr_t>(p), bytes, kind, \
                                             __builtin_return_address(0));                \
  }
#define EM_SEEN_SIZES(bytes)     \
  EM_SEEN(read##bytes, bytes, 0) \
  EM_SEEN(write##bytes, bytes, 1)
#define EM_SEEN_UNALIGNED(bytes)           \
  EM_SEEN(unaligned_read##bytes, bytes, 0) \
  EM_SEEN(unaligned_write##bytes, bytes, 1)
EM_SEEN_SIZES(1)
EM_SEEN_SIZES(2)
EM_SEEN_SIZES(4)
EM_SEEN_SIZES(8)
EM_SEEN_SIZES(16)
EM_SEEN_UNALIGNED(2)
EM_SEEN_UNALIGNED(4)
EM_SEEN_UNALIGNED(8)
EM_SEEN_UNALIGNED(16)
#define EM_SEEN_RANGE(name, kind)                                                         \
  extern "C" void __tsan_##name(void* p, size_t bytes) {                                  \
    if (euromodal::emulation::watching != nullptr)                                        \
      euromodal::emulation::watching->access(reinterpret_cast<uintptr_t>(p), bytes, kind, \
                                             __builtin_return_address(0));                \
  }
EM_SEEN_RANGE(read_range, 0)
EM_SEEN_RANGE(write_range, 1)
extern "C" void __tsan_init() {}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_vptr_update(void*, void*) {}
extern "C" void __tsan_vptr_read(void*) {}
// NOLINTEND
