// nccl_test.cpp — the NCCL backend's logic with a fake NCCL: order of calls, polling of
// non-blocking calls, deadlines, faults while it works, abort. No GPU, no NCCL.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/temp.h"
#include "training/dist/counting.h"
#include "training/dist/nccl/ipc_slices.h"
#include "training/dist/nccl/nccl_collectives.h"

namespace euromodal {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;

/// What the fake does; plain functions reach it through this pointer.
struct FakeNccl {
  std::vector<std::string> calls;
  int polls_of_a_call = 0;  // async_error says "in progress" so often after each call; -1: for ever
  int queries_of_work = 0;  // event_query says "not ready" so often; -1: for ever
  int fault = 0;            // async_error's state once `fault_after` polls are over
  int fault_after = 0;
  int init_code = kNcclSuccess;
  int left = 0, queries_left = 0, polls = 0, comms = 0, ids = 0, opened = 0;
  std::string refuses;  // "allocate", "open" (of the second peer)

  void begin(const std::string& call) {
    calls.push_back(call);
    left = polls_of_a_call;
  }
  std::vector<std::string> called(const std::string& name) const {
    std::vector<std::string> out;
    for (const std::string& call : calls)
      if (call.starts_with(name)) out.push_back(call);
    return out;
  }
};
FakeNccl* fake = nullptr;
constexpr int kFakeNotReady = 600;

std::string fake_name(NcclComm comm) {
  return comm == nullptr ? "none" : std::to_string(reinterpret_cast<intptr_t>(comm));
}

NcclApi fake_api() {
  NcclApi api;
  api.get_unique_id = [](NcclId* id) {
    id->bytes.fill(static_cast<char>('a' + fake->ids++));
    return 0;
  };
  api.init_rank_scalable = [](NcclComm* comm, int ranks, int rank, int ids, const NcclId* id) {
    fake->begin(fmt::format("init {}/{} ids {} {}", rank, ranks, ids, id[0].bytes[0]));
    *comm = reinterpret_cast<NcclComm>(static_cast<intptr_t>(++fake->comms));
    return fake->init_code;
  };
  api.split = [](NcclComm comm, int color, int key, NcclComm* out) {
    fake->begin(fmt::format("split {} color {} key {}", fake_name(comm), color, key));
    *out = reinterpret_cast<NcclComm>(static_cast<intptr_t>(++fake->comms));
    return static_cast<int>(kNcclInProgress);
  };
  api.async_error = [](NcclComm /*comm*/, int* state) {
    ++fake->polls;
    if (fake->fault != 0 && fake->polls > fake->fault_after) {
      *state = fake->fault;
    } else if (fake->left != 0) {
      if (fake->left > 0) --fake->left;
      *state = kNcclInProgress;
    } else {
      *state = kNcclSuccess;
    }
    return 0;
  };
  api.finalize = [](NcclComm comm) {
    fake->begin("finalize " + fake_name(comm));
    return static_cast<int>(kNcclInProgress);
  };
  api.destroy = [](NcclComm comm) {
    fake->begin("destroy " + fake_name(comm));
    return 0;
  };
  api.comm_abort = [](NcclComm comm) {
    fake->begin("abort " + fake_name(comm));
    return 0;
  };
  api.all_reduce_sum = [](const void*, void*, size_t count, NcclType, NcclComm comm, CudaStream) {
    fake->begin(fmt::format("all_reduce_sum {} {}", count, fake_name(comm)));
    return static_cast<int>(kNcclInProgress);
  };
  api.reduce_scatter_sum = [](const void*, void*, size_t count, NcclType, NcclComm comm,
                              CudaStream) {
    fake->begin(fmt::format("reduce_scatter_sum {} {}", count, fake_name(comm)));
    return 0;
  };
  api.all_gather = [](const void*, void*, size_t count, NcclType, NcclComm comm, CudaStream) {
    fake->begin(fmt::format("all_gather {} {}", count, fake_name(comm)));
    return 0;
  };
  api.broadcast = [](const void*, void*, size_t count, NcclType, int root, NcclComm comm,
                     CudaStream) {
    fake->begin(fmt::format("broadcast {} from {} {}", count, root, fake_name(comm)));
    return 0;
  };
  api.reduce_sum = [](const void*, void* out, size_t count, NcclType, int root, NcclComm comm,
                      CudaStream) {
    fake->begin(fmt::format("reduce_sum {} to {}{} {}", count, root,
                            out == nullptr ? "" : " (here)", fake_name(comm)));
    return 0;
  };
  api.group_start = [] {
    fake->begin("group");
    return 0;
  };
  api.group_end = [] {
    fake->begin("group ends");
    return static_cast<int>(kNcclInProgress);
  };
  api.error_text = [](int code) { return code == 6 ? "remote error" : "some error"; };
  api.last_error = [](NcclComm) { return "peer 3 closed the connection"; };
  api.set_device = [](int device) {
    fake->begin(fmt::format("device {}", device));
    return device == 9 ? 101 : 0;
  };
  api.stream_create = [](CudaStream* stream) {
    *stream = reinterpret_cast<CudaStream>(static_cast<intptr_t>(0x5));
    return 0;
  };
  api.stream_destroy = [](CudaStream) {
    fake->begin("stream_destroy");
    return 0;
  };
  api.event_create = [](CudaEvent* event) {
    static int made = 0;
    *event = reinterpret_cast<CudaEvent>(static_cast<intptr_t>(0x100 + ++made % 2));
    return 0;
  };
  api.event_destroy = [](CudaEvent) {
    fake->begin("event_destroy");
    return 0;
  };
  api.event_record = [](CudaEvent, CudaStream stream) {
    fake->begin(fmt::format("record on {}", fake_name(stream)));
    fake->queries_left = fake->queries_of_work;
    return 0;
  };
  api.stream_wait_event = [](CudaStream stream, CudaEvent) {
    fake->begin(fmt::format("stream {} waits", fake_name(stream)));
    return 0;
  };
  api.event_query = [](CudaEvent) {
    if (fake->queries_left == 0) return 0;
    if (fake->queries_left > 0) --fake->queries_left;
    return kFakeNotReady;
  };
  api.not_ready = kFakeNotReady;
  api.stream_wait = [](CudaStream stream) {
    fake->begin("host waits for " + fake_name(stream));
    return 0;
  };
  api.allocate = [](void** memory, size_t bytes) {
    fake->begin(fmt::format("allocate {}", bytes));
    *memory = reinterpret_cast<void*>(static_cast<intptr_t>(0x1000));
    return fake->refuses == "allocate" ? 2 : 0;
  };
  api.release = [](void* memory) {
    fake->begin("release " + fake_name(memory));
    return 0;
  };
  api.ipc_handle = [](IpcHandle* handle, void* memory) {
    fake->begin("handle of " + fake_name(memory));
    handle->bytes.fill('h');
    return 0;
  };
  api.ipc_open = [](void** memory, const IpcHandle* handle) {
    fake->begin(fmt::format("open {}", handle->bytes[63]));
    *memory = reinterpret_cast<void*>(static_cast<intptr_t>(0x2000 * ++fake->opened));
    return fake->refuses == "open" && fake->opened == 2 ? 217 : 0;
  };
  api.ipc_close = [](void* memory) {
    fake->begin("close " + fake_name(memory));
    return 0;
  };
  api.copy = [](void* to, const void* from, size_t bytes, CudaStream stream) {
    fake->begin(fmt::format("copy {} from {} to {} on {}", bytes, reinterpret_cast<intptr_t>(from),
                            fake_name(to), fake_name(stream)));
    return 0;
  };
  api.cuda_error_text = [](int) { return "invalid device ordinal"; };
  return api;
}

class NcclTest : public testing::Test {
 protected:
  NcclTest() { fake = &fake_; }
  ~NcclTest() override { fake = nullptr; }
  std::unique_ptr<DeviceCollectives> make(double deadline_s = 5.0, int device = 0) {
    return make_nccl_collectives(fake_api(), *world_,
                                 {.stream = reinterpret_cast<void*>(static_cast<intptr_t>(0x7)),
                                  .device = device,
                                  .setup_deadline_s = deadline_s});
  }
  FakeNccl fake_;
  std::unique_ptr<Collectives> world_ = make_single();
};

TEST_F(NcclTest, SetsUpThreeCommunicatorsInOrderAndEndsThemInReverse) {
  fake_.polls_of_a_call = 3;
  fake_.init_code = kNcclInProgress;
  {
    const auto gpu = make();
    EXPECT_EQ(gpu->size(DeviceGroup::kNode), 1);
    EXPECT_THAT(fake_.calls, ElementsAre("device 0", "init 0/1 ids 1 a", "split 1 color 0 key 0",
                                         "split 1 color 0 key 0"));
    EXPECT_GE(fake_.polls, 12) << "every call was polled to its end";
    fake_.calls.clear();
  }
  EXPECT_THAT(fake_.calls,
              ElementsAre("finalize 3", "destroy 3", "finalize 2", "destroy 2", "finalize 1",
                          "destroy 1", "event_destroy", "event_destroy", "stream_destroy"));
}

TEST_F(NcclTest, ACallRunsBehindTheCallersStreamAndJoinPutsTheStreamBehindIt) {
  const auto gpu = make();
  fake_.calls.clear();
  float x[8];
  gpu->all_reduce_sum(x, 8, DeviceType::kF32, DeviceGroup::kWorld);
  gpu->reduce_scatter_sum(x, x, 4, DeviceType::kBf16, DeviceGroup::kNode);
  gpu->all_gather(x, x, 4, DeviceType::kU8, DeviceGroup::kCross);
  gpu->join();
  // 7: the caller's stream, 5: NCCL's own.
  EXPECT_THAT(fake_.calls,
              ElementsAre("record on 7", "stream 5 waits", "all_reduce_sum 8 1", "record on 5",
                          "record on 7", "stream 5 waits", "reduce_scatter_sum 4 2", "record on 5",
                          "record on 7", "stream 5 waits", "all_gather 4 3", "record on 5",
                          "stream 7 waits"));
  EXPECT_THROW(gpu->broadcast(x, 1, DeviceType::kF32, 1, DeviceGroup::kWorld), DistError);
  EXPECT_THROW(gpu->all_reduce_sum(x, -1, DeviceType::kF32, DeviceGroup::kWorld), DistError);
  EXPECT_THROW(gpu->set_phase("step 1", 0.0), DistError);
}

TEST_F(NcclTest, SlicesOfOneLengthAreOneCallOthersAGroupOfRootedCalls) {
  world_ = make_counting(/*size=*/3, /*rank=*/1);
  const auto gpu = make_nccl_collectives(fake_api(), *world_, {.ranks_per_id = 1});
  fake_.polls_of_a_call = 2;  // the group's end is polled like any call
  float x[9];
  const auto operations = [&] {
    std::vector<std::string> out;
    for (const std::string& call : fake_.calls)
      if (!call.starts_with("record") && !call.starts_with("stream")) out.push_back(call);
    fake_.calls.clear();
    return out;
  };
  operations();
  const DeviceGroup world = DeviceGroup::kWorld;
  gpu->reduce_scatter_slices(x, {0, 3, 6, 9}, x + 3, DeviceType::kF32, world);
  gpu->all_gather_slices(x, {0, 3, 6, 9}, DeviceType::kF32, world);
  EXPECT_THAT(operations(), ElementsAre("reduce_scatter_sum 3 1", "all_gather 3 1"));
  gpu->reduce_scatter_slices(x, {0, 0, 4, 9}, x, DeviceType::kF32, world);
  EXPECT_THAT(operations(), ElementsAre("group", "reduce_sum 4 to 1 (here) 1",
                                        "reduce_sum 5 to 2 1", "group ends"));
  gpu->all_gather_slices(x, {0, 1, 1, 9}, DeviceType::kU8, world);
  EXPECT_THAT(operations(),
              ElementsAre("group", "broadcast 1 from 0 1", "broadcast 8 from 2 1", "group ends"));
  EXPECT_TRUE(throws_with<DistError>(
      [&] {
        gpu->all_gather_slices(x, {0, 9}, DeviceType::kF32, world);
      },
      {"all_gather_slices over 3 ranks", "expected 4 ascending slice bounds", "got 2"}));
  EXPECT_THROW(gpu->reduce_scatter_slices(x, {0, 5, 4, 9}, x, DeviceType::kF32, world), DistError);
}

TEST_F(NcclTest, WaitPollsUntilTheWorkIsDone) {
  fake_.queries_of_work = 20;
  const auto gpu = make();
  float x = 0;
  gpu->all_reduce_sum(&x, 1, DeviceType::kF32, DeviceGroup::kWorld);
  const int before = fake_.polls;
  gpu->wait();
  EXPECT_EQ(fake_.polls - before, 3 * 20) << "every communicator is looked at in every round";
}

TEST_F(NcclTest, ASetUpThatStaysInProgressIsAbortedAtTheDeadline) {
  fake_.init_code = kNcclInProgress;
  fake_.polls_of_a_call = -1;
  EXPECT_TRUE(throws_with<DistError>(
      [&] { make(/*deadline_s=*/0.1); },
      {"rank 0 of 1", "phase 'setup'", "ncclCommInitRankScalable is still in progress after 0.1",
       "deadline 0.1 s"}));
  EXPECT_THAT(fake_.called("abort"), ElementsAre("abort 1"));
  EXPECT_TRUE(fake_.called("destroy").empty());
}

TEST_F(NcclTest, WorkThatDoesNotEndIsAbortedAtThePhasesDeadline) {
  fake_.queries_of_work = -1;
  {
    const auto gpu = make();
    gpu->set_phase("step 7", 0.1);
    float x = 0;
    gpu->all_reduce_sum(&x, 100, DeviceType::kF32, DeviceGroup::kNode);
    EXPECT_TRUE(throws_with<DistError>([&] { gpu->wait(); },
                                       {"phase 'step 7'", "all_reduce_sum of 100 values (node)",
                                        "is not done after 0.1", "deadline 0.1 s"}));
    EXPECT_THAT(fake_.called("abort"), ElementsAre("abort 3", "abort 2", "abort 1"));
    EXPECT_TRUE(throws_with<DistError>([&] { gpu->wait(); }, {"were aborted"}));
    EXPECT_TRUE(throws_with<DistError>([&] { gpu->join(); }, {"were aborted"}));
  }
  EXPECT_TRUE(fake_.called("finalize").empty()) << "nothing is finalised after an abort";
  EXPECT_THAT(fake_.calls, Contains("stream_destroy"));
}

TEST_F(NcclTest, AFaultWhileItWorksNamesNcclsOwnWords) {
  fake_.queries_of_work = -1;
  const auto gpu = make();
  gpu->set_phase("step 9", 30.0);
  float x = 0;
  gpu->all_gather(&x, &x, 1, DeviceType::kF32, DeviceGroup::kWorld);
  fake_.fault = 6;
  fake_.fault_after = fake_.polls + 10;
  EXPECT_TRUE(throws_with<DistError>(
      [&] { gpu->wait(); },
      {"phase 'step 9'", "all_gather of 1 values (world)", "remote error", "peer 3 closed"}));
  EXPECT_EQ(fake_.called("abort").size(), 3U);
}

TEST_F(NcclTest, FaultsOfTheSetUpAreNamed) {
  fake_.init_code = 5;
  EXPECT_TRUE(throws_with<DistError>([&] { make(); }, {"ncclCommInitRankScalable", "some error"}));
  EXPECT_TRUE(throws_with<DistError>([&] { make(5.0, /*device=*/9); },
                                     {"cudaSetDevice", "invalid device ordinal"}));
}

TEST_F(NcclTest, APeerThatIsGoneDoesNotKeepTheEndWaiting) {
  {
    const auto gpu = make();
    gpu->set_phase("shutdown", 0.1);
    fake_.polls_of_a_call = -1;
  }
  EXPECT_THAT(fake_.called("finalize"), ElementsAre("finalize 3"));
  EXPECT_THAT(fake_.called("abort"), ElementsAre("abort 3", "abort 2", "abort 1"));
}

/// One node of three ranks, of which rank 1 exists.
class OneNode final : public Collectives {
 public:
  int rank() const override { return 1; }
  int size() const override { return 3; }
  int local_rank() const override { return 1; }
  int local_size() const override { return 3; }
  void set_phase(const std::string&, double) override {}
  void barrier() override { fake->begin("barrier"); }
  void broadcast(void*, int64_t, int) override {}
  void all_reduce_sum(double*, int64_t) override {}
  void all_reduce_max(double*, int64_t) override {}
  void gather_slices(const void*, const Slices&, void*, int) override {}
  std::unique_ptr<Pending> start_all_reduce_sum(float*, int64_t) override { return nullptr; }
  std::unique_ptr<Pending> start_reduce_scatter_sum(const ScatterSum&) override { return nullptr; }
  std::unique_ptr<Pending> start_all_gather_slices(void*, const Slices&) override {
    return nullptr;
  }
  std::vector<char> all_gather(const void* data, int64_t bytes) override {
    const auto* mine = static_cast<const char*>(data);
    std::vector<char> out;
    for (int r = 0; r < 3; ++r) out.insert(out.end(), mine, mine + bytes);
    return out;
  }
  void ordered_sum(const std::vector<const float*>&, const std::vector<int64_t>&, int64_t,
                   float*) override {}
  std::unique_ptr<NodeMemory> node_memory(int64_t) override { return nullptr; }
  Collectives& node() override { return *this; }
  Collectives& cross() override { return *this; }
};

TEST_F(NcclTest, PeersMemoryIsOpenedReadInOrderAndClosedBeforeItIsFreed) {
  OneNode node;
  const auto caller = reinterpret_cast<CudaStream>(static_cast<intptr_t>(0x7));
  {
    const auto slices = make_ipc_slices(fake_api(), node, caller, 100);
    EXPECT_THAT(fake_.calls, ElementsAre("allocate 100", "handle of 4096", "open h", "open h"));
    fake_.calls.clear();
    EXPECT_EQ(slices->own(), reinterpret_cast<void*>(static_cast<intptr_t>(0x1000)));
    slices->seal();
    slices->follow();
    slices->copy(2, 10, 90, nullptr);
    slices->copy(1, 0, 100, nullptr);
    slices->copy(0, 100, 0, nullptr);  // nothing
    slices->join();
    EXPECT_THAT(fake_.calls,
                ElementsAre("host waits for 7", "barrier", "record on 7", "stream 5 waits",
                            "copy 90 from 16394 to none on 5", "copy 100 from 4096 to none on 5",
                            "record on 5", "stream 7 waits"));
    EXPECT_TRUE(throws_with<DistError>([&] { slices->copy(2, 50, 51, nullptr); },
                                       {"bytes 50 to 101 of rank 2 of the node"}));
    EXPECT_THROW(slices->copy(3, 0, 1, nullptr), DistError);
    fake_.calls.clear();
  }
  EXPECT_THAT(fake_.calls, ElementsAre("host waits for 5", "close 8192", "close 16384", "barrier",
                                       "release 4096", "event_destroy", "stream_destroy"));
}

TEST_F(NcclTest, MemoryThatPeersCannotReadIsNamed) {
  OneNode node;
  fake_.refuses = "open";
  EXPECT_TRUE(throws_with<DistError>(
      [&] { make_ipc_slices(fake_api(), node, nullptr, 100); },
      {"the GPU memory of rank 2 cannot be read", "peer access", "parallel.shard_frozen"}));
  EXPECT_THAT(fake_.called("close"), ElementsAre("close 8192"));
  EXPECT_EQ(fake_.called("release").size(), 1U);
  fake_.refuses = "allocate";
  EXPECT_TRUE(throws_with<DistError>([&] { make_ipc_slices(fake_api(), node, nullptr, 100); },
                                     {"100 bytes of GPU memory", "frozen weights"}));
  EXPECT_EQ(fake_.called("release").size(), 1U) << "nothing to free the second time";
}

TEST(NcclRootTest, IdsAreMadeWhereNcclExpectsThem) {
  // The rule of NCCL's user guide for ncclCommInitRankScalable.
  const auto has_root = [](int rank, int ranks, int ids) {
    const int rest = ranks % ids, per = ranks / ids, limit = rest * (per + 1);
    return rank < limit ? rank % (per + 1) == 0 : (rank - limit) % per == 0;
  };
  for (const int ranks : {1, 2, 5, 7, 16, 1000}) {
    for (int ids = 1; ids <= std::min(ranks, 9); ++ids) {
      std::vector<int> expected, got;
      for (int rank = 0; rank < ranks; ++rank)
        if (has_root(rank, ranks, ids)) expected.push_back(rank);
      for (int id = 0; id < ids; ++id) got.push_back(nccl_root_rank(id, ids, ranks));
      EXPECT_EQ(got, expected) << ranks << " ranks, " << ids << " ids";
    }
  }
}

TEST(DeviceCollectivesTest, WithoutTheCudaLibraryItIsAClearError) {
  const auto world = make_single();
  EXPECT_TRUE(throws_with<DistError>([&] { make_device_collectives(*world, {}); },
                                     {"libeuromodal_cuda.so", "open_device"}));
}

}  // namespace
}  // namespace euromodal
