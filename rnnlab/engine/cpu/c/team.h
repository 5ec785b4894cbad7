/* Shares of the work, done by OpenMP's threads where they are known. These are torch's: threads of ours would have to
   share the processors with them, as they wait busily for torch's next piece of work. */
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

static void together(struct team *team, void (*work)(const struct call *)) {
  team->work = work;
  if (team->count > 1)
    team->parallel(share, team, team->count, 0);
  else
    work(team->calls[0]);
}
