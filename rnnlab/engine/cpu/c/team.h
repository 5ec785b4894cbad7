/* A team of threads: each runs one function for its share of the work, described by a `struct call`. */

#ifndef TEAM_H
#define TEAM_H

#include <sched.h>

struct call;

/* parallel, number and size are GOMP_parallel, omp_get_thread_num and omp_get_num_threads of the OpenMP that torch uses,
   or null. Separate threads would compete with torch's threads, which busy-wait for work. */
struct team {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  int (*number)(void), (*size)(void);
  void (*work)(const struct call *);
  struct call *const *calls;
  long count;
};

static void share(void *pointer) {
  const struct team *team = pointer;
  for (long i = team->number(); i < team->count; i += team->size()) team->work(team->calls[i]);
}

/* Run `work` for every call of the team, in parallel if there are several. */
static void together(struct team *team, void (*work)(const struct call *)) {
  team->work = work;
  if (team->count > 1)
    team->parallel(share, team, team->count, 0);
  else
    work(team->calls[0]);
}

/* Where `members` threads divide one phase of the work after another into as many parts. claimed: the number of the
   phase, and below it a bit for every part that a thread has taken; done: the number of completed parts of all phases.
   Both lie in cache lines of their own. */
struct meeting {
  long before[16], claimed, between[16], done, after[16];
};

enum { PHASE = 32, PATIENCE = 100, SPINS = 2000 }; /* some microseconds are hundreds of spins */

/* Take a part of a phase; -1 if all parts are done. Every thread takes its own part, whose data are in its cache. If
   another thread does not arrive, perhaps because it has no processor, its part is taken as well: threads wait only for
   parts that are being computed. */
static long take_part(struct meeting *meeting, long phase, long member, long members) {
  const long all = (1L << members) - 1, mine = 1L << member;
  for (long spins = 0;; spins++) {
    long word = __atomic_load_n(&meeting->claimed, __ATOMIC_ACQUIRE);
    if (word >> PHASE != phase) return -1;
    const long left = all & ~word, wanted = left & mine ? mine : spins > PATIENCE ? left & -left : 0;
    if (wanted) {
      if (__atomic_compare_exchange_n(&meeting->claimed, &word, word | wanted, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return __builtin_ctzl(wanted);
    } else if (!left && __atomic_load_n(&meeting->done, __ATOMIC_ACQUIRE) == members * (phase + 1)) {
      const long next = (phase + 1) << PHASE;
      __atomic_compare_exchange_n(&meeting->claimed, &word, next, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    } else if (spins < SPINS) {
#if defined(__SSE__)
      __builtin_ia32_pause();
#elif defined(__aarch64__)
      __asm__ volatile("yield");
#endif
    } else {
      sched_yield(); /* the thread that is waited for may need this processor */
    }
  }
}

#endif
