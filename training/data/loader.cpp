// loader.cpp — a window of steps that the workers fill sample by sample, in order; the worker that
// finishes a part packs it. The window is at most prefetch_steps long, whatever the trainer does.
#include "training/data/loader.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>

#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <omp.h>

#include "core/log.h"
#include "training/data/packer.h"
#include "training/data/step_plan.h"

namespace euromodal {
namespace {

struct LoaderItem {
  int64_t global = 0;
  std::optional<Example> example;
  std::string fault;  // why it is bad
};

struct LoaderPart {
  int64_t part = 0;
  std::vector<LoaderItem> items;
  int64_t open = 0;  // items not prepared yet
  std::vector<Batch> batches;
};

struct LoaderStep {
  std::vector<LoaderPart> parts;
  int64_t open = 0;            // parts not packed yet
  size_t part = 0, item = 0;   // the next item to hand out
  std::exception_ptr failure;  // of the earliest thing that was no bad sample
};

}  // namespace

struct Loader::Impl {
  Impl(std::shared_ptr<const Dataset> data_in, LoaderOptions options_in, Prepare prepare_in,
       int64_t first_step)
      : data(std::move(data_in)),
        options(options_in),
        prepare(std::move(prepare_in)),
        sampler(data->size(), options.seed, options.shuffle),
        ranges(options.batch_tokens > 0 ? plan_rows(*data, sampler, options.batch_tokens)
                                        : plan_samples(options.batch_samples)),
        next_step(first_step) {}

  // ---- pure: what a step holds, and one sample ----
  std::shared_ptr<LoaderStep> plan(int64_t step);
  void prepare_item(LoaderItem& item) const;
  void pack(LoaderPart& part) const;
  // ---- workers ----
  void work();
  bool take(std::unique_lock<std::mutex>& lock, std::shared_ptr<LoaderStep>& step,
            LoaderPart*& part, LoaderItem*& item);
  // ---- the trainer's thread ----
  std::shared_ptr<LoaderStep> wait();
  std::vector<PartBatches> deliver(LoaderStep& step);

  std::shared_ptr<const Dataset> data;
  LoaderOptions options;
  Prepare prepare;
  Sampler sampler;
  std::unique_ptr<StepPlan> ranges;  // used by the one thread that plans
  LoaderFigures figures;
  std::exception_ptr broken;

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::shared_ptr<LoaderStep>> window;
  int64_t next_step;  // the next one to plan
  bool planning = false, stop = false;
  std::vector<std::thread> threads;
};

std::shared_ptr<LoaderStep> Loader::Impl::plan(int64_t step) {
  const auto [first, count] = ranges->range(step);
  std::vector<double> rows(count, 1.0);
  if (options.parts > 1) {
    for (int64_t i = 0; i < count; ++i) rows[i] = data->cost(sampler.at(first + i));
  }
  const auto dealt = deal(rows, options.parts, options.quadratic);
  auto out = std::make_shared<LoaderStep>();
  for (int64_t p = options.rank; p < options.parts; p += options.world) {
    LoaderPart part;
    part.part = p;
    for (const int64_t position : dealt[p]) part.items.push_back({first + position, {}, {}});
    part.open = static_cast<int64_t>(part.items.size());
    if (part.open > 0) ++out->open;
    out->parts.push_back(std::move(part));
  }
  return out;
}

void Loader::Impl::prepare_item(LoaderItem& item) const {
  const int64_t index = sampler.at(item.global);
  std::string where = fmt::format("{}: sample {}", data->name(), index);
  try {
    const Sample sample = data->get(index);
    where = fmt::format("{} (id {})", sample.where, sample.record.id);
    item.example = prepare(sample, item.global);
    item.example->index = index;
  } catch (const DataError& e) {
    item.fault = fmt::format("{}: {}", where, e.what());
  }
}

void Loader::Impl::pack(LoaderPart& part) const {
  std::vector<Example> examples;
  for (LoaderItem& item : part.items) {
    if (item.example) examples.push_back(std::move(*item.example));
    item.example.reset();
  }
  part.batches = pack_part(
      std::move(examples),
      {.pack = options.pack, .max_tokens = options.max_tokens, .per_sample = options.per_sample});
}

// The next item that is to be prepared; plans a step when the window has room. False: stop.
bool Loader::Impl::take(std::unique_lock<std::mutex>& lock, std::shared_ptr<LoaderStep>& step,
                        LoaderPart*& part, LoaderItem*& item) {
  while (!stop) {
    for (const auto& candidate : window) {
      LoaderStep& s = *candidate;
      while (s.part < s.parts.size() && s.item == s.parts[s.part].items.size()) {
        ++s.part;
        s.item = 0;
      }
      if (s.part == s.parts.size() || s.failure) continue;
      step = candidate;
      part = &s.parts[s.part];
      item = &part->items[s.item++];
      return true;
    }
    if (planning || static_cast<int64_t>(window.size()) >= options.prefetch_steps) {
      changed.wait(lock);
      continue;
    }
    planning = true;
    const int64_t number = next_step++;
    lock.unlock();
    auto planned = std::make_shared<LoaderStep>();
    try {
      planned = plan(number);
    } catch (...) {
      planned->failure = std::current_exception();
    }
    lock.lock();
    planning = false;
    window.push_back(std::move(planned));
    changed.notify_all();
  }
  return false;
}

void Loader::Impl::work() {
  at::internal::lazy_init_num_threads();
  omp_set_num_threads(1);  // of this thread: workers must not start teams of their own
  const at::NoGradGuard no_grad;
  std::unique_lock lock(mutex);
  std::shared_ptr<LoaderStep> step;
  LoaderPart* part = nullptr;
  LoaderItem* item = nullptr;
  while (take(lock, step, part, item)) {
    lock.unlock();
    std::exception_ptr failure;
    try {
      prepare_item(*item);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (--part->open == 0 && !failure) {
      lock.unlock();  // nobody else touches a part whose items are all done
      try {
        pack(*part);
      } catch (...) {
        failure = std::current_exception();
      }
      lock.lock();
      --step->open;
    }
    if (failure && !step->failure) step->failure = failure;
    changed.notify_all();
  }
}

std::shared_ptr<LoaderStep> Loader::Impl::wait() {
  if (options.workers == 0) {
    const at::NoGradGuard no_grad;
    auto step = plan(next_step++);
    for (LoaderPart& part : step->parts) {
      for (LoaderItem& item : part.items) prepare_item(item);
      pack(part);
    }
    return step;
  }
  std::unique_lock lock(mutex);
  for (const auto& step : window) figures.ready_steps += step->open == 0 ? 1.0 : 0.0;
  changed.wait(lock, [&] {
    return !window.empty() && (window.front()->open == 0 || window.front()->failure);
  });
  auto step = std::move(window.front());
  window.pop_front();
  changed.notify_all();
  if (step->failure) std::rethrow_exception(step->failure);
  return step;
}

std::vector<PartBatches> Loader::Impl::deliver(LoaderStep& step) {
  std::vector<PartBatches> out;
  for (LoaderPart& part : step.parts) {
    for (const LoaderItem& item : part.items) {
      if (item.fault.empty()) continue;
      ++figures.bad_samples;
      check<DataError>(figures.bad_samples <= options.max_bad_samples,
                       "bad sample {}, more than max_bad_samples = {}: {}", figures.bad_samples,
                       options.max_bad_samples, item.fault);
      log_warn("bad sample {} of at most {} left out: {}", figures.bad_samples,
               options.max_bad_samples, item.fault);
    }
    out.push_back({part.part, std::move(part.batches)});
  }
  return out;
}

Loader::Loader(std::shared_ptr<const Dataset> data, LoaderOptions options, Prepare prepare,
               int64_t first_step) {
  const bool by_tokens = options.batch_tokens > 0;
  check<ConfigError>(by_tokens || options.batch_samples > 0, "batch.samples {}: expected 1 or more",
                     options.batch_samples);
  check<ConfigError>(!by_tokens || options.batch_samples == 0,
                     "batch.samples {} and batch.tokens {} exclude each other",
                     options.batch_samples, options.batch_tokens);
  check<ConfigError>(options.parts > 0 && (by_tokens || options.parts <= options.batch_samples),
                     "batch.parts {}: expected 1 to batch.samples = {}", options.parts,
                     options.batch_samples);
  check<ConfigError>(options.workers >= 0 && options.workers <= 1024,
                     "batch.workers {}: expected 0 to 1024", options.workers);
  check<ConfigError>(options.prefetch_steps > 0, "prefetch steps {}: expected 1 or more",
                     options.prefetch_steps);
  check<ConfigError>(options.max_tokens >= 0, "max_tokens {}: expected 0 (no limit) or more",
                     options.max_tokens);
  check<ConfigError>(options.max_bad_samples >= 0, "max_bad_samples {}: expected 0 or more",
                     options.max_bad_samples);
  check<ConfigError>(options.world > 0 && options.rank >= 0 && options.rank < options.world,
                     "rank {} of {}", options.rank, options.world);
  check<ConfigError>(
      first_step >= 0 &&
          first_step < (int64_t{1} << 62) / std::max<int64_t>(options.batch_samples, 1),
      "first step {}: expected 0 or more", first_step);
  impl_ = std::make_unique<Impl>(std::move(data), options, std::move(prepare), first_step);
  for (int64_t w = 0; w < options.workers; ++w)
    impl_->threads.emplace_back([impl = impl_.get()] { impl->work(); });
}

Loader::~Loader() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
  }
  impl_->changed.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

std::vector<PartBatches> Loader::next() {
  if (impl_->broken) std::rethrow_exception(impl_->broken);
  const auto start = std::chrono::steady_clock::now();
  try {
    const auto step = impl_->wait();
    const std::chrono::duration<double> waited = std::chrono::steady_clock::now() - start;
    impl_->figures.stall_s += waited.count();
    ++impl_->figures.steps;
    return impl_->deliver(*step);
  } catch (...) {
    impl_->broken = std::current_exception();
    throw;
  }
}

LoaderFigures Loader::figures() const { return impl_->figures; }

}  // namespace euromodal
