/* Requests that end and that nobody reads: from some number on no more are accepted, and memory stays as it is. Reading them
 * makes room again.
 *   unread <model folder> <requests> <growth of memory allowed after the first that is refused, in KiB; 0: any> */
#include "check.h"

enum { RUNNING = 8, WAITING = 8, UNREAD_MAX = 256, HANDLES_MAX = 4096 };

/* How they would be read. */
typedef enum way { TO_ENGINE, POLL, PULL, WAYS } way;
static const char *names[WAYS] = {"to the engine's queue", "to callbacks of poll", "to their handles"};

static long resident_kib(void) {
  FILE *file = fopen("/proc/self/status", "r");
  char line[200];
  long kib = 0;
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "VmRSS:", 6) == 0)
      kib = atol(line + 6);
  fclose(file);
  return kib;
}

static int32_t count_end(void *user_data, const astrai_event *event) {
  *(int *)user_data += event->terminal;
  return 0;
}

static void try_way(const char *model, way how, long requests, long growth_max) {
  static astrai_request *handles[HANDLES_MAX];
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options engine_options;
  astrai_request_options options = steady(30);
  astrai_prompt *prompt = NULL;
  astrai_stats stats;
  int32_t tokens[4] = {5, 6, 7, 8};
  long tries, accepted = 0, refused = 0, full = 0, grown;
  int ended = 0, i;
  CHECK(astrai_engine_options_init(&engine_options, sizeof engine_options) == ASTRAI_OK);
  engine_options.threads = 1;
  engine_options.max_running = RUNNING;
  engine_options.max_waiting = WAITING;
  engine_options.delivery = how == POLL ? ASTRAI_DELIVER_POLL : ASTRAI_DELIVER_THREAD;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &engine_options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(prompt, tokens, 4, &err));
  options.logprobs = 20;
  options.flags |= how == TO_ENGINE ? ASTRAI_REQUEST_TO_ENGINE : 0;
  stats.struct_size = sizeof stats;
  for (tries = 0; tries < requests; tries++) {
    astrai_request **out = how == PULL ? &handles[accepted % HANDLES_MAX] : NULL;
    int32_t status = astrai_submit(engine, prompt, &options, how == POLL ? count_end : NULL, &ended, NULL, out, &err);
    if (status == ASTRAI_OK) {
      accepted++;
      continue;
    }
    CHECK(status == ASTRAI_ERR_QUEUE_FULL && err->unit == ASTRAI_UNIT_COUNT);
    CHECK(err->needed == err->available + 1);
    if (err->available == RUNNING + WAITING + UNREAD_MAX) {
      CHECK(strstr(err->message, "take them") != NULL);
      if (refused++ == 0)
        full = resident_kib();
    } else { /* as many run and wait as may: until they have ended */
      CHECK(err->available == RUNNING + WAITING);
      tries--;
    }
    astrai_error_free(err);
    err = NULL;
    EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err)); /* takes a step's time */
  }
  grown = resident_kib() - full;
  CHECK(accepted == RUNNING + WAITING + UNREAD_MAX && refused == requests - accepted);
  printf("%s: %ld accepted, %ld refused, %ld KiB more\n", names[how], accepted, refused, grown);
  CHECK(growth_max == 0 || grown <= growth_max);
  /* What is read, or freed by who alone could, makes room. */
  do
    EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  while (stats.finished < (uint64_t)accepted);
  if (how == TO_ENGINE) {
    astrai_event *event = NULL;
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, 0, &event, &err));
    CHECK(event->terminal && event->token_count == 30);
    astrai_event_free(event);
  } else if (how == POLL) {
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 1, NULL, &err));
    CHECK(ended == 1);
  } else {
    astrai_event *event = NULL;
    EXPECT(ASTRAI_OK, astrai_request_wait(handles[0], 0, &event, &err));
    CHECK(event->terminal && event->token_count == 30);
    astrai_event_free(event);
  }
  for (i = 0; i < 2; i++) {
    astrai_request **out = how == PULL ? &handles[accepted] : NULL;
    EXPECT(i == 0 ? ASTRAI_OK : ASTRAI_ERR_QUEUE_FULL,
           astrai_submit(engine, prompt, &options, how == POLL ? count_end : NULL, &ended, NULL, out, &err));
  }
  if (how == PULL) {
    astrai_request_free(handles[1]); /* never read */
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &handles[1], &err));
    for (i = 0; i <= accepted; i++)
      astrai_request_free(handles[i]);
  }
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  int how;
  CHECK(argc == 4);
  for (how = 0; how < WAYS; how++)
    try_way(argv[1], (way)how, atol(argv[2]), atol(argv[3]));
  return 0;
}
