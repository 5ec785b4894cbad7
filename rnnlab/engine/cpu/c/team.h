/* A team of threads: each runs one function for its share of the work, described by a `struct call`. */

#ifndef TEAM_H
#define TEAM_H

#include <sched.h>

struct call;

/* parallel, number and size are GOMP_parallel, omp_get_thread_num and omp_get_num_threads of the OpenMP that torch uses,
   or null. Separate threads would compete with torch's threads, which busy-wait for work.

   calls: the shares of the work. If threads meet during the work, all shares must run at the same time. If there are
   fewer threads, they run the shares `alone` instead, which are the same work without meetings. */
struct team {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  int (*number)(void), (*size)(void);
  void (*work)(const struct call *);
  const struct call *const *calls;
  long count;
  const struct call *const *alone;
  long alone_count; /* 0 if no threads meet */
};

static void share(void *pointer) {
  const struct team *team = pointer;
  const int few = team->alone_count && team->size() < team->count;
  const struct call *const *calls = few ? team->alone : team->calls;
  for (long i = team->number(); i < (few ? team->alone_count : team->count); i += team->size()) team->work(calls[i]);
}

/* Run `work` for every call of the team, in parallel if there are several. */
static void together(struct team *team, void (*work)(const struct call *)) {
  team->work = work;
  if (team->count > 1)
    team->parallel(share, team, team->count, 0);
  else
    work(team->calls[0]);
}

/* Where threads wait for each other. The two counters lie in cache lines of their own. */
struct meeting {
  long before[16], arrived, between[16], round, after[16];
};

enum { SPINS = 2000 }; /* some microseconds, longer than the others need if each of them has a processor */

/* Wait until all `members` threads have called this function. */
static inline void wait_for(struct meeting *meeting, long members) {
  const long round = __atomic_load_n(&meeting->round, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&meeting->arrived, 1, __ATOMIC_ACQ_REL) == members) {
    __atomic_store_n(&meeting->arrived, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&meeting->round, round + 1, __ATOMIC_RELEASE);
    return;
  }
  for (long spins = 0; __atomic_load_n(&meeting->round, __ATOMIC_ACQUIRE) == round; spins++)
    if (spins < SPINS) {
#if defined(__SSE__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      __asm__ volatile("yield");
#endif
    } else {
      sched_yield(); /* another member may wait for this processor */
    }
}

#endif
