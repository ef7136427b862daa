// Threads that stay and help: the pool behind parallel_for.
//
// The caller of a loop works itself from the first item on, and waits at the end only for helpers that have begun an
// item. On a busy machine, where no helper comes in time, a loop therefore takes no longer than on one thread; and
// where one that came was taken from its core amid an item, nobody is asked for a while.
#pragma once

#include <cstddef>
#include <functional>

namespace gt {

// work(worker) on the calling thread, worker 0, and on at most workers - 1 helpers beside it, each with a number of its
// own below `workers`; returns when all that began are back. `work` takes items from a common counter until none is
// left, so that whoever comes late finds nothing to do; it must not throw. Safe from several threads at a time, after a
// fork, and where the system starts no thread: then fewer help, or none.
void share_work(std::size_t workers, const std::function<void(std::size_t worker)>& work);

}  // namespace gt
