// watched_world.h — a world whose every phase and collective goes into the watchdog's flight record
// on its way to MPI (or to the world of one rank).
#pragma once
#include <memory>

#include "training/dist/collectives.h"
#include "training/dist/watchdog.h"

namespace euromodal {

/// make_world() under `watchdog`, which must outlive it. The watchdog ends the run at a phase's
/// deadline; the wait inside MPI keeps a later deadline of its own, should that thread not live.
std::unique_ptr<Collectives> make_watched_world(Watchdog& watchdog, WorldOptions options = {});

}  // namespace euromodal
