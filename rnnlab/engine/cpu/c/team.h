/* A team of threads: each runs one function for its share of the work, described by a `struct call`. */

#ifndef TEAM_H
#define TEAM_H

struct call;

/* parallel, number and size are GOMP_parallel, omp_get_thread_num and omp_get_num_threads of the OpenMP that torch uses,
   or null. Separate threads would compete with torch's threads, which busy-wait for work. */
struct team {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned);
  int (*number)(void), (*size)(void);
  void (*work)(const struct call *);
  const struct call *const *calls;
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

#endif
