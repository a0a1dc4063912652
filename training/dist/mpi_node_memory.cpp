// mpi_node_memory.cpp — see mpi_node_memory.h.
#include "training/dist/mpi_node_memory.h"

#include <exception>

#include "training/dist/page_memory.h"

namespace euromodal {
namespace {

class MpiNodeMemory final : public NodeMemory {
 public:
  MpiNodeMemory(MPI_Comm comm, int64_t bytes, const WaitContext& context)
      : context_(context), bytes_(bytes) {
    int rank = 0;
    MPI_Comm_rank(comm, &rank);
    MPI_Request request = MPI_REQUEST_NULL;
    call(MPI_Ibcast(&bytes_, 1, MPI_INT64_T, 0, comm, &request), "MPI_Ibcast");
    wait_mpi(&request, /*ready=*/true, context_);
    // A page more than asked: the window begins where MPI wants, the data at a page.
    const int64_t whole = whole_pages(bytes_) + page_bytes();
    void* own = nullptr;
    const int code = MPI_Win_allocate_shared(static_cast<MPI_Aint>(rank == 0 ? whole : 0), 1,
                                             MPI_INFO_NULL, comm, &own, &window_);
    check<DistError>(code == MPI_SUCCESS,
                     "{}: MPI_Win_allocate_shared of {} bytes failed: this node must have as much "
                     "shared memory free (df /dev/shm), or MPI be told another place for it",
                     context_.text(), whole);
    MPI_Aint size = 0;
    int unit = 0;
    char* start = nullptr;
    call(MPI_Win_shared_query(window_, 0, &size, &unit, &start), "MPI_Win_shared_query");
    const auto page = static_cast<uintptr_t>(page_bytes());
    auto before = static_cast<int64_t>((page - reinterpret_cast<uintptr_t>(start) % page) % page);
    const int64_t mine = before;
    call(MPI_Ibcast(&before, 1, MPI_INT64_T, 0, comm, &request), "MPI_Ibcast");
    wait_mpi(&request, /*ready=*/true, context_);
    check<DistError>(before == mine && size == static_cast<MPI_Aint>(whole),
                     "{}: the window of rank 0 has {} bytes here, {} of them before a page, "
                     "expected {} and {}",
                     context_.text(), static_cast<int64_t>(size), mine, whole, before);
    data_ = start + before;
    call(MPI_Win_lock_all(MPI_MODE_NOCHECK, window_), "MPI_Win_lock_all");
  }
  ~MpiNodeMemory() override {
    // With an exception on its way the peers do not come: freeing would wait for them.
    if (std::uncaught_exceptions() > exceptions_) return;
    protect_pages(data_, whole_pages(bytes_), /*writable=*/true);  // it may be a piece of the heap
    MPI_Win_unlock_all(window_);
    MPI_Win_free(&window_);
  }
  MpiNodeMemory(const MpiNodeMemory&) = delete;
  MpiNodeMemory& operator=(const MpiNodeMemory&) = delete;

  char* data() override { return data_; }
  int64_t bytes() const override { return bytes_; }
  void seal() override {
    call(MPI_Win_sync(window_), "MPI_Win_sync");
    seal_pages(data_, whole_pages(bytes_));
  }

 private:
  void call(int code, const char* name) const { check_mpi(code, name, context_); }

  WaitContext context_;
  int64_t bytes_;
  char* data_ = nullptr;
  MPI_Win window_ = MPI_WIN_NULL;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace

std::unique_ptr<NodeMemory> make_mpi_node_memory(MPI_Comm comm, int64_t bytes,
                                                 const WaitContext& context) {
  return std::make_unique<MpiNodeMemory>(comm, bytes, context);
}

}  // namespace euromodal
