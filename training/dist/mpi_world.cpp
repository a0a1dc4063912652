// mpi_world.cpp — collectives over MPI for CPU ranks. Every operation begins with a small
// all-reduce that says which operation this is: ranks that disagree get a DistError instead of
// mixed-up data, and a rank that does not come is noticed before any data moves (mpi_wait.h). All
// MPI calls come from one thread (MPI_THREAD_FUNNELED).
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <numeric>
#include <thread>

#include "training/dist/collectives.h"
#include "training/dist/launcher.h"
#include "training/dist/mpi_exchange.h"
#include "training/dist/mpi_node_memory.h"
#include "training/dist/mpi_wait.h"
#include "training/dist/part_sum.h"

#if defined(__SANITIZE_ADDRESS__)
// Open MPI keeps what it allocated until the process ends, some of it behind components that it has
// closed by then, which no suppression can name: a process that used MPI is not searched for leaks.
namespace {
bool lsan_off = false;
}
extern "C" int __lsan_is_turned_off() { return lsan_off ? 1 : 0; }
#endif

namespace euromodal {
namespace {

class MpiWorld final : public Collectives {
 public:
  /// Starts MPI.
  explicit MpiWorld(const WorldOptions& options);
  /// The ranks of `world` with the same `colour`, in their order.
  MpiWorld(const MpiWorld& world, const std::string& name, int colour);
  ~MpiWorld() override;
  MpiWorld(const MpiWorld&) = delete;
  MpiWorld& operator=(const MpiWorld&) = delete;

  int rank() const override { return link_.rank; }
  int size() const override { return link_.size; }
  int local_rank() const override { return local_rank_; }
  int local_size() const override { return local_size_; }

  void set_phase(const std::string& phase, double deadline_s) override {
    check<DistError>(deadline_s > 0, "phase '{}': deadline {} s: expected more than 0", phase,
                     deadline_s);
    for (MpiWorld* group : {this, node_.get(), cross_.get()}) {
      if (group == nullptr) continue;
      group->context_.phase = phase;
      group->context_.deadline_s = deadline_s;
    }
  }
  void barrier() override { enter("barrier"); }
  void broadcast(void* data, int64_t bytes, int root) override;
  std::unique_ptr<Pending> start_all_reduce_sum(float* data, int64_t count) override;
  std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum& sum) override;
  std::unique_ptr<Pending> start_all_gather_slices(void* data, const Slices& bytes) override;
  void gather_slices(const void* own, const Slices& bytes, void* whole, int root) override;
  void all_reduce_sum(double* data, int64_t count) override {
    reduce(data, count, {"all_reduce_sum of {} f64", MPI_DOUBLE, sizeof(double), MPI_SUM});
  }
  void all_reduce_max(double* data, int64_t count) override {
    reduce(data, count, {"all_reduce_max of {} f64", MPI_DOUBLE, sizeof(double), MPI_MAX});
  }
  std::vector<char> all_gather(const void* data, int64_t bytes) override;
  void ordered_sum(const std::vector<const float*>& parts, const std::vector<int64_t>& part_ids,
                   int64_t count, float* out) override;
  std::unique_ptr<NodeMemory> node_memory(int64_t bytes) override {
    enter("node_memory");
    return make_mpi_node_memory(comm_, bytes, context_);
  }
  Collectives& node() override { return node_ ? *node_ : group_name_ == "node" ? *this : *alone_; }
  Collectives& cross() override {
    return cross_ ? *cross_ : group_name_ == "cross" ? *this : *alone_;
  }

 private:
  struct Reduction {
    const char* name;
    MPI_Datatype type;
    size_t type_bytes;
    MPI_Op op;
  };
  void learn_group();
  std::string named(const std::string& operation) const {
    return group_name_.empty() ? operation : group_name_ + " group: " + operation;
  }
  void enter(const std::string& operation);
  std::unique_ptr<Pending> exchange(MpiExchangePlan plan);
  void check_slices(const Slices& slices, const char* operation) const;
  void reduce(void* data, int64_t count, const Reduction& what);
  std::vector<int64_t> gather_i64(int64_t value);
  void gather_bytes(const char* data, const std::vector<int64_t>& counts, char* out);
  void wait(MPI_Request* request) { wait_mpi(request, /*ready=*/true, context_); }

  WorldOptions options_;
  std::string group_name_;  // "": the world
  WaitContext context_;     // rank and size of the world, also in a group
  std::shared_ptr<MpiProgress> progress_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  MpiLink link_;
  int local_rank_ = 0, local_size_ = 1;
  std::unique_ptr<MpiWorld> node_, cross_;              // of the world
  std::unique_ptr<Collectives> alone_ = make_single();  // of a group
  int64_t sequence_ = 0;
  int exceptions_ = std::uncaught_exceptions();
};

MpiWorld::MpiWorld(const WorldOptions& options)
    : options_(options), progress_(std::make_shared<MpiProgress>()) {
  check<DistError>(options.chunk_bytes >= 64 && options.chunk_bytes <= (int64_t{1} << 30),
                   "chunk_bytes {}: expected 64..2^30 (MPI counts are int)", options.chunk_bytes);
  int initialised = 0, provided = 0;
  MPI_Initialized(&initialised);
  check<DistError>(initialised == 0, "make_world() was called twice");
  context_.operation = "start";
  context_.phase = "setup";
  context_.deadline_s = options.setup_deadline_s;
#if defined(__SANITIZE_ADDRESS__)
  lsan_off = true;
#endif
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread",
            context_);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &context_.rank);
  MPI_Comm_size(MPI_COMM_WORLD, &context_.size);
  check<DistError>(provided >= MPI_THREAD_FUNNELED,
                   "this MPI gives thread level {}: expected MPI_THREAD_FUNNELED or more",
                   provided);
  char library[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(library, &length);
  check_launch(find_launch(), context_.size, library);
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup", context_);
  learn_group();
  int on_node = options.ranks_per_node;
  int first = on_node > 0 ? context_.rank / on_node * on_node : context_.rank;
  if (on_node <= 0) {
    MPI_Comm shared = MPI_COMM_NULL;
    check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &shared),
              "MPI_Comm_split_type", context_);
    check_mpi(MPI_Bcast(&first, 1, MPI_INT, 0, shared), "MPI_Bcast", context_);
    MPI_Comm_free(&shared);
  }
  node_ = std::make_unique<MpiWorld>(*this, "node", first);
  local_rank_ = node_->local_rank_ = node_->rank();
  local_size_ = node_->local_size_ = node_->size();
  cross_ = std::make_unique<MpiWorld>(*this, "cross", local_rank_);
}

MpiWorld::MpiWorld(const MpiWorld& world, const std::string& name, int colour)
    : options_(world.options_),
      group_name_(name),
      context_(world.context_),
      progress_(world.progress_) {
  check_mpi(MPI_Comm_split(world.comm_, colour, world.rank(), &comm_), "MPI_Comm_split", context_);
  learn_group();
}

void MpiWorld::learn_group() {
  context_.progress = progress_.get();
  link_ = {
      .comm = comm_, .chunk_bytes = options_.chunk_bytes, .ordered_bytes = options_.ordered_bytes};
  if (options_.arrived)
    link_.arrived = [this](int64_t number) { options_.arrived(group_name_, number); };
  MPI_Comm_rank(comm_, &link_.rank);
  MPI_Comm_size(comm_, &link_.size);
}

MpiWorld::~MpiWorld() {
  // With an exception on its way the peers still wait for this rank: MPI_Finalize would hang too.
  if (std::uncaught_exceptions() > exceptions_) return;
  if (!group_name_.empty()) {
    MPI_Comm_free(&comm_);
    return;
  }
  try {
    set_phase("shutdown", options_.setup_deadline_s);
    enter("shutdown");  // has a deadline, MPI_Finalize has none; meets no other barrier
  } catch (const std::exception& e) {
    abort_world(1, e.what());
  }
  node_.reset();
  cross_.reset();
  MPI_Comm_free(&comm_);
  MPI_Finalize();
}

void MpiWorld::enter(const std::string& operation) {
  context_.operation = named(operation);
  context_.start_s = MPI_Wtime();
  const int64_t key = mpi_operation_key(operation, sequence_++);
  int64_t keys[2] = {key, -key};
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallreduce(MPI_IN_PLACE, keys, 2, MPI_INT64_T, MPI_MAX, comm_, &request),
            "MPI_Iallreduce", context_);
  wait_mpi(&request, /*ready=*/false, context_);
  if (link_.arrived) link_.arrived(sequence_);
  check<DistError>(keys[0] == key && keys[1] == -key,
                   "{}: the ranks are in different collectives (this is number {} of this rank)",
                   context_.text(), sequence_);
}

std::unique_ptr<Pending> MpiWorld::exchange(MpiExchangePlan plan) {
  plan.operation = named(plan.operation);
  plan.sequence = sequence_++;
  return std::make_unique<MpiExchange>(link_, std::move(plan), context_);
}

void MpiWorld::check_slices(const Slices& slices, const char* operation) const {
  check<DistError>(static_cast<int>(slices.size()) == size() + 1 && slices.front() == 0 &&
                       std::is_sorted(slices.begin(), slices.end()),
                   "{}: {} offsets of slices for {} ranks: expected {} ascending ones from 0",
                   operation, slices.size(), size(), size() + 1);
}

std::unique_ptr<Pending> MpiWorld::start_all_reduce_sum(float* data, int64_t count) {
  check<DistError>(count >= 0, "all_reduce_sum of {} values", count);
  MpiExchangePlan plan;
  plan.operation = fmt::format("all_reduce_sum of {} f32", count);
  plan.sum = plan.gather = true;
  plan.scatter.slices = even_slices(count, size());
  plan.scatter.data = data;
  plan.scatter.out = data + plan.scatter.slices[rank()];
  plan.scatter.ranks = size();
  plan.gathered = reinterpret_cast<char*>(data);
  for (const int64_t offset : plan.scatter.slices)
    plan.gathered_bytes.push_back(offset * static_cast<int64_t>(sizeof(float)));
  return exchange(std::move(plan));
}

std::unique_ptr<Pending> MpiWorld::start_reduce_scatter_sum(const ScatterSum& sum) {
  check_slices(sum.slices, "reduce_scatter_sum");
  check<DistError>(sum.ranks >= -1 && sum.ranks <= size(), "reduce_scatter_sum of {} in {} ranks",
                   sum.ranks, size());
  MpiExchangePlan plan;
  plan.sum = true;
  plan.scatter = sum;
  if (sum.ranks < 0) plan.scatter.ranks = size();
  plan.operation = fmt::format("reduce_scatter_sum of {} f32 from {} ranks", sum.slices.back(),
                               plan.scatter.ranks);
  return exchange(std::move(plan));
}

std::unique_ptr<Pending> MpiWorld::start_all_gather_slices(void* data, const Slices& bytes) {
  check_slices(bytes, "all_gather_slices");
  MpiExchangePlan plan;
  plan.operation = fmt::format("all_gather_slices of {} bytes", bytes.back());
  plan.gather = true;
  plan.gathered = static_cast<char*>(data);
  plan.gathered_bytes = bytes;
  return exchange(std::move(plan));
}

void MpiWorld::gather_slices(const void* own, const Slices& bytes, void* whole, int root) {
  check_slices(bytes, "gather_slices");
  MpiExchangePlan plan;
  plan.operation = fmt::format("gather_slices of {} bytes to rank {}", bytes.back(), root);
  plan.gather = true;
  plan.gathered = static_cast<char*>(whole);
  plan.own = static_cast<const char*>(own);
  plan.root = root;
  plan.gathered_bytes = bytes;
  exchange(std::move(plan))->wait();
}

void MpiWorld::broadcast(void* data, int64_t bytes, int root) {
  check<DistError>(bytes >= 0 && root >= 0 && root < size(),
                   "broadcast: {} bytes from root {} in a world of {} ranks", bytes, root, size());
  enter(fmt::format("broadcast of {} bytes from rank {}", bytes, root));
  for (int64_t at = 0; at < bytes; at += options_.chunk_bytes) {
    const auto n = static_cast<int>(std::min(options_.chunk_bytes, bytes - at));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Ibcast(static_cast<char*>(data) + at, n, MPI_BYTE, root, comm_, &request),
              "MPI_Ibcast", context_);
    wait(&request);
  }
}

void MpiWorld::reduce(void* data, int64_t count, const Reduction& what) {
  check<DistError>(count >= 0, "all_reduce of {} values", count);
  enter(fmt::format(fmt::runtime(what.name), count));
  const auto type_bytes = static_cast<int64_t>(what.type_bytes);
  const int64_t chunk = options_.chunk_bytes / type_bytes;
  for (int64_t at = 0; at < count; at += chunk) {
    const auto n = static_cast<int>(std::min(chunk, count - at));
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, static_cast<char*>(data) + at * type_bytes, n, what.type,
                             what.op, comm_, &request),
              "MPI_Iallreduce", context_);
    wait(&request);
  }
}

std::vector<int64_t> MpiWorld::gather_i64(int64_t value) {
  std::vector<int64_t> all(size());
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(MPI_Iallgather(&value, 1, MPI_INT64_T, all.data(), 1, MPI_INT64_T, comm_, &request),
            "MPI_Iallgather", context_);
  wait(&request);
  return all;
}

// counts[r] bytes of rank r, one after the other, in rounds that keep every MPI count an int.
void MpiWorld::gather_bytes(const char* data, const std::vector<int64_t>& counts, char* out) {
  const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  const bool one_round = total <= options_.chunk_bytes;
  const int64_t slice = one_round ? std::max<int64_t>(longest, 1)
                                  : std::max<int64_t>(options_.chunk_bytes / size(), 1);
  std::vector<char> buffer;
  std::vector<int> sizes(size()), starts(size());
  for (int64_t at = 0; at < longest; at += slice) {
    int64_t filled = 0;
    for (int r = 0; r < size(); ++r) {
      sizes[r] = static_cast<int>(std::clamp<int64_t>(counts[r] - at, 0, slice));
      starts[r] = static_cast<int>(filled);
      filled += sizes[r];
    }
    buffer.resize(one_round ? 0 : filled);
    char* target = one_round ? out : buffer.data();
    MPI_Request request = MPI_REQUEST_NULL;
    // A rank whose share is used up sends nothing; its pointer must still be a legal one.
    const char* mine = data + std::min(at, counts[rank()]);
    check_mpi(MPI_Iallgatherv(mine, sizes[rank()], MPI_BYTE, target, sizes.data(), starts.data(),
                              MPI_BYTE, comm_, &request),
              "MPI_Iallgatherv", context_);
    wait(&request);
    int64_t begin = 0;  // of rank r in `out`
    for (int r = 0; r < size() && !one_round; ++r) {
      std::copy_n(buffer.data() + starts[r], sizes[r], out + begin + std::min(at, counts[r]));
      begin += counts[r];
    }
  }
}

std::vector<char> MpiWorld::all_gather(const void* data, int64_t bytes) {
  check<DistError>(bytes >= 0, "all_gather of {} bytes", bytes);
  enter("all_gather");
  const std::vector<int64_t> counts = gather_i64(bytes);
  std::vector<char> all(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
  gather_bytes(static_cast<const char*>(data), counts, all.data());
  return all;
}

void MpiWorld::ordered_sum(const std::vector<const float*>& parts,
                           const std::vector<int64_t>& part_ids, int64_t count, float* out) {
  check<DistError>(parts.size() == part_ids.size(), "ordered_sum: {} parts but {} part numbers",
                   parts.size(), part_ids.size());
  enter(fmt::format("ordered_sum of {} f32", count));
  const std::vector<int64_t> parts_of = gather_i64(static_cast<int64_t>(parts.size()));
  std::vector<int64_t> counts(size());
  for (int r = 0; r < size(); ++r) counts[r] = parts_of[r] * static_cast<int64_t>(sizeof(int64_t));
  std::vector<int64_t> ids(std::accumulate(parts_of.begin(), parts_of.end(), int64_t{0}));
  gather_bytes(reinterpret_cast<const char*>(part_ids.data()), counts,
               reinterpret_cast<char*>(ids.data()));
  const std::vector<int64_t> slot_of = part_slots(ids);  // the same fault on every rank

  const auto total = std::max<int64_t>(static_cast<int64_t>(ids.size()), 1);
  const int64_t value_bytes = sizeof(float);
  const int64_t limit = std::min(options_.ordered_bytes, options_.chunk_bytes) / value_bytes;
  const int64_t block = std::clamp<int64_t>(limit / total, 1, std::max<int64_t>(count, 1));
  std::vector<float> mine(parts.size() * block), all(ids.size() * block);
  std::vector<const float*> ordered(slot_of.size());
  for (int64_t at = 0; at < count; at += block) {
    const int64_t n = std::min(block, count - at);
    for (size_t p = 0; p < parts.size(); ++p)
      std::copy_n(parts[p] + at, n, mine.data() + static_cast<int64_t>(p) * n);
    for (int r = 0; r < size(); ++r) counts[r] = parts_of[r] * n * value_bytes;
    gather_bytes(reinterpret_cast<const char*>(mine.data()), counts,
                 reinterpret_cast<char*>(all.data()));
    for (size_t p = 0; p < slot_of.size(); ++p) ordered[p] = all.data() + slot_of[p] * n;
    sum_parts(ordered, n, out + at);
  }
}

}  // namespace

std::unique_ptr<Collectives> make_world(const WorldOptions& options) {
  if (!launched_by_mpi()) return make_single();
  return std::make_unique<MpiWorld>(options);
}

void abort_world(int code, const std::string& message) {
  int initialised = 0, finalised = 0;
  MPI_Initialized(&initialised);
  if (initialised != 0) MPI_Finalized(&finalised);
  if (initialised == 0 || finalised != 0) return;
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  if (size == 1) return;
  const std::string who = fmt::format("rank {} of {}", rank, size);
  const bool named = message.compare(0, who.size(), who) == 0;  // DistError does so itself
  std::fprintf(stderr, "euromodal: %s%s; ending all ranks\n", named ? "" : (who + ": ").c_str(),
               message.c_str());
  std::fflush(stderr);
  // A launcher may end all processes, itself too, without reading what still stands in their pipes
  // (MPICH's on a busy machine): the message gets a moment to be read.
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  MPI_Abort(MPI_COMM_WORLD, code == 0 ? 1 : code);
}

}  // namespace euromodal
