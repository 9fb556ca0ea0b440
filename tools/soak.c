/* Mixed traffic for some minutes: conversations, shared prefixes, one of them pinned now and then, callbacks, events taken
 * from the engine, deferred requests, readers that stall, cancels, deadlines.
 * Each minute a line with memory, pages and counters. At the end every page must have come back, the accounting must be
 * right, and memory may have grown by no more than stated since the first fifth of the time.
 *   soak <model folder> <minutes, may be 0.5> <largest growth of memory in KiB> [seed]
 * Built and run by tools/soak.sh. */
#include <astrai.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HOSTS 8
#define TAKERS 2
#define TURNS_MAX 6
#define KV_TOKENS 1300

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                        \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

static const char *const sentences[] = {
    "Tell me a story about Tom and a red lantern.", "What happened to the old lighthouse?",
    "Once upon a time a small boat sailed into the silent harbour.", "Why was the girl sad?",
    "The miller's cat could speak, but only on Sundays.", "And then?", "Who lives in the forest?", "Good night."};
#define SENTENCES (sizeof sentences / sizeof sentences[0])

static astrai_engine *engine;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int stopping;
static long submitted, refused, ended, callbacks_open, given, taken, pins;

typedef struct host {
  pthread_t thread;
  uint64_t random;
} host;

static unsigned below(host *h, unsigned n) {
  h->random = h->random * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)(h->random >> 33) % n;
}

static void add(long *counter, long n) {
  pthread_mutex_lock(&lock);
  *counter += n;
  pthread_mutex_unlock(&lock);
}

static int stop_now(void) {
  int stop;
  pthread_mutex_lock(&lock);
  stop = stopping;
  pthread_mutex_unlock(&lock);
  return stop;
}

static void pause_ms(unsigned ms) {
  struct timespec time;
  time.tv_sec = ms / 1000;
  time.tv_nsec = (long)(ms % 1000) * 1000000;
  nanosleep(&time, NULL);
}

/* A deferred request learns in its terminal event what others learn from submit. Nothing else fails. */
static void check_end(const astrai_event *event) {
  CHECK(event->terminal);
  if (event->kind == ASTRAI_EVENT_FAILED)
    CHECK(event->error->status == ASTRAI_ERR_CONTEXT);
  add(&ended, 1);
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  (void)user_data;
  if (event->terminal)
    check_end(event);
  return event->request_id % 17 == 0; /* some turn away at once */
}

static void on_finalize(void *user_data) {
  (void)user_data;
  add(&callbacks_open, -1);
}

static astrai_request_options any_options(host *h) {
  astrai_request_options options;
  CHECK(astrai_request_options_init(&options, sizeof options) == ASTRAI_OK);
  options.max_tokens = (int32_t)(1 + below(h, 80));
  options.priority = (int32_t)below(h, 3);
  options.temperature = below(h, 2) ? 0.9f : 0.0f;
  options.logprobs = (int32_t)below(h, 4) - 1;
  options.queue_tokens = below(h, 3) == 0 ? 4 : 0;
  options.deadline_ms = below(h, 20) == 0 ? 50 : 0;
  if (below(h, 10) == 0)
    options.flags |= ASTRAI_REQUEST_PROMPT_LOGPROBS;
  if (below(h, 4) == 0)
    options.flags |= ASTRAI_REQUEST_DEFER;
  return options;
}

static astrai_request *submit(const astrai_prompt *prompt, const astrai_request_options *options) {
  astrai_request *request = NULL;
  int32_t status = astrai_submit(engine, prompt, options, NULL, NULL, NULL, &request, NULL);
  add(&submitted, 1);
  if (status == ASTRAI_OK)
    return request;
  CHECK(status == ASTRAI_ERR_QUEUE_FULL || status == ASTRAI_ERR_CONTEXT);
  add(&refused, 1);
  return NULL;
}

/* A few turns of a chat, each of which begins with all that was said before. */
static void converse(host *h) {
  astrai_prompt *chat = NULL;
  unsigned turn;
  CHECK(astrai_prompt_new(&chat, NULL) == ASTRAI_OK);
  for (turn = 0; turn < TURNS_MAX && !stop_now(); turn++) {
    const char *said = sentences[below(h, SENTENCES)];
    astrai_request_options options = any_options(h);
    astrai_event *event = NULL;
    astrai_request *request;
    CHECK(astrai_prompt_add_message(chat, "user", said, strlen(said), NULL) == ASTRAI_OK);
    request = submit(chat, &options);
    if (request == NULL)
      break;
    CHECK(astrai_request_wait(request, -1, &event, NULL) == ASTRAI_OK);
    check_end(event);
    CHECK(astrai_prompt_add_message(chat, "assistant", event->text, event->text_len, NULL) == ASTRAI_OK);
    astrai_event_free(event);
    astrai_request_free(request);
  }
  astrai_prompt_free(chat);
}

/* A long beginning that many share, and an end of one's own. */
static astrai_prompt *story(host *h) {
  astrai_prompt *prompt = NULL;
  unsigned i, family = below(h, 3), shared = below(h, 30), own = 1 + below(h, 3);
  CHECK(astrai_prompt_new(&prompt, NULL) == ASTRAI_OK);
  for (i = 0; i < shared + own; i++) {
    const char *text = sentences[i < shared ? (i * (family + 1)) % SENTENCES : below(h, SENTENCES)];
    CHECK(astrai_prompt_add_text(prompt, text, strlen(text), 0, NULL) == ASTRAI_OK);
  }
  return prompt;
}

/* Pulls, stalls, cancels or walks away. */
static void pull(host *h) {
  astrai_prompt *prompt = story(h);
  astrai_request_options options = any_options(h);
  astrai_request *request = submit(prompt, &options);
  astrai_event *event = NULL;
  unsigned what = below(h, 6), reads = below(h, 10);
  astrai_prompt_free(prompt);
  if (request == NULL)
    return;
  if (what == 0)
    pause_ms(1 + below(h, 200)); /* the queue fills, the request is paused */
  if (what == 1) {
    pause_ms(below(h, 20));
    CHECK(astrai_request_cancel(request, NULL) == ASTRAI_OK);
  }
  if (what != 2) /* else it is let go of as it is */
    while (astrai_request_next(request, -1, &event, NULL) == ASTRAI_OK) {
      int terminal = event->terminal;
      if (terminal)
        check_end(event);
      astrai_event_free(event);
      if (terminal)
        continue;
      if (what == 3 && reads-- == 0)
        CHECK(astrai_request_cancel(request, NULL) == ASTRAI_OK);
    }
  astrai_request_free(request);
}

/* By callback, or to be taken from the engine; nobody keeps a handle. */
static void call(host *h, int to_engine) {
  astrai_prompt *prompt = story(h);
  astrai_request_options options = any_options(h);
  int32_t status;
  if (to_engine)
    options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  add(&callbacks_open, 1);
  add(&submitted, 1);
  status = astrai_submit(engine, prompt, &options, to_engine ? NULL : on_event, NULL, on_finalize, NULL, NULL);
  if (status == ASTRAI_OK && to_engine)
    add(&given, 1);
  CHECK(status == ASTRAI_OK || status == ASTRAI_ERR_QUEUE_FULL || status == ASTRAI_ERR_CONTEXT);
  if (status != ASTRAI_OK) {
    add(&refused, 1);
    pause_ms(20);
  }
  astrai_prompt_free(prompt);
}

/* Keeps a beginning of many stories in memory for a moment. */
static void pin(host *h) {
  astrai_prompt *prompt = story(h);
  astrai_prefix *prefix = NULL;
  uint32_t tokens = 0;
  int32_t status = astrai_prefix_pin(engine, prompt, &prefix, NULL);
  astrai_prompt_free(prompt);
  if (status != ASTRAI_OK) {
    CHECK(status == ASTRAI_ERR_QUEUE_FULL || status == ASTRAI_ERR_CONTEXT);
    return;
  }
  status = astrai_prefix_wait(prefix, 1000, &tokens, NULL);
  CHECK(status == ASTRAI_OK || status == ASTRAI_TIMEOUT || status == ASTRAI_ERR_MEMORY ||
        status == ASTRAI_ERR_QUEUE_FULL);
  if (status == ASTRAI_OK && tokens > 0) {
    add(&pins, 1);
    pause_ms(below(h, 1000));
  }
  astrai_prefix_free(prefix);
}

/* Takes what was submitted for the engine's own queue, until the engine is closed. */
static void *take(void *argument) {
  astrai_event *event = NULL;
  (void)argument;
  while (astrai_engine_next(engine, -1, &event, NULL) == ASTRAI_OK) {
    if (event->terminal) {
      check_end(event);
      add(&taken, 1);
    }
    astrai_event_free(event);
  }
  return NULL;
}

static void *serve(void *argument) {
  host *h = (host *)argument;
  while (!stop_now())
    switch (below(h, 12)) {
    case 0:
    case 1:
    case 2:
      converse(h);
      break;
    case 3:
    case 4:
      call(h, 0);
      break;
    case 5:
    case 6:
      call(h, 1);
      break;
    case 7:
      pin(h);
      break;
    default:
      pull(h);
    }
  return NULL;
}

static long memory_kib(void) {
  char line[256];
  long value = -1;
  FILE *file = fopen("/proc/self/status", "r");
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "VmRSS:", 6) == 0)
      value = strtol(line + 6, NULL, 10);
  fclose(file);
  CHECK(value > 0);
  return value;
}

static astrai_stats report(double seconds) {
  astrai_stats s;
  s.struct_size = sizeof s;
  CHECK(astrai_engine_stats(engine, &s, NULL) == ASTRAI_OK);
  pthread_mutex_lock(&lock);
  printf("%7.0f s: %ld KiB; pages %llu used, %llu cached, %llu free; %u running, %u waiting, %u paused; %llu preemptions, "
         "%llu evictions, %llu of %llu prompt tokens from the cache; %llu finished, %llu cancelled, %llu failed, "
         "%llu tokens out; %ld submitted, %ld refused\n",
         seconds, memory_kib(), (unsigned long long)s.pages_used, (unsigned long long)s.pages_cached,
         (unsigned long long)s.pages_free, s.running, s.waiting, s.stalled, (unsigned long long)s.preemptions,
         (unsigned long long)s.evictions, (unsigned long long)s.prefix_tokens_hit,
         (unsigned long long)s.prefix_tokens_seen, (unsigned long long)s.finished, (unsigned long long)s.cancelled,
         (unsigned long long)s.failed, (unsigned long long)s.tokens_out, submitted, refused);
  pthread_mutex_unlock(&lock);
  fflush(stdout);
  return s;
}

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

int main(int argc, char **argv) {
  static host hosts[HOSTS];
  pthread_t takers[TAKERS];
  astrai_engine_options options;
  astrai_error *err = NULL;
  astrai_stats stats;
  astrai_plan plan;
  double begin = now(), duration, next = 60;
  long growth_max, warm = 0, last;
  uint64_t seed;
  int i;
  CHECK(argc >= 4);
  duration = strtod(argv[2], NULL) * 60;
  growth_max = strtol(argv[3], NULL, 10);
  seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 20260101;
  CHECK(duration > 0);
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.max_running = 12;
  options.max_waiting = 48;
  plan.struct_size = sizeof plan;
  CHECK(astrai_engine_plan(argv[1], &options, &plan, NULL) == ASTRAI_OK);
  /* Few enough pages that sequences are preempted all the time. */
  options.memory_budget = plan.weight_bytes + plan.workspace_bytes + KV_TOKENS * plan.kv_bytes_per_token;
  if (astrai_engine_open(argv[1], &options, &engine, &err) != ASTRAI_OK) {
    fprintf(stderr, "cannot open %s: %s\n", argv[1], err->message);
    return 1;
  }
  printf("seed %llu, %.0f seconds, %d host threads\n", (unsigned long long)seed, duration, HOSTS);
  for (i = 0; i < HOSTS; i++) {
    hosts[i].random = seed * 1000 + (uint64_t)i;
    CHECK(pthread_create(&hosts[i].thread, NULL, serve, &hosts[i]) == 0);
  }
  for (i = 0; i < TAKERS; i++)
    CHECK(pthread_create(&takers[i], NULL, take, NULL) == 0);
  while (now() - begin < duration) {
    pause_ms(100);
    if (warm == 0 && now() - begin >= duration / 5) {
      report(now() - begin);
      warm = memory_kib();
    }
    if (now() - begin >= next) {
      report(now() - begin);
      CHECK(astrai_engine_check(engine, NULL) == ASTRAI_OK);
      next += 60;
    }
  }
  pthread_mutex_lock(&lock);
  stopping = 1;
  pthread_mutex_unlock(&lock);
  for (i = 0; i < HOSTS; i++)
    CHECK(pthread_join(hosts[i].thread, NULL) == 0);
  CHECK(astrai_engine_cancel_all(engine, NULL) == ASTRAI_OK);
  do { /* what nobody waits for ends too */
    pause_ms(10);
    CHECK(astrai_engine_check(engine, NULL) == ASTRAI_OK);
    stats.struct_size = sizeof stats;
    CHECK(astrai_engine_stats(engine, &stats, NULL) == ASTRAI_OK);
  } while (stats.running + stats.waiting > 0);
  stats = report(now() - begin);
  CHECK(stats.pages_used == 0);
  CHECK(stats.preemptions > 0 && stats.cancelled > 0 && stats.evictions > 0 && stats.prefix_tokens_hit > 0);
  last = memory_kib(); /* before the close, which gives the engine's own memory back */
  CHECK(astrai_engine_close(engine, -1, NULL) == ASTRAI_OK);
  for (i = 0; i < TAKERS; i++)
    CHECK(pthread_join(takers[i], NULL) == 0);
  printf("%ld taken from the engine, %ld pinned for a while\n", taken, pins);
  CHECK(callbacks_open == 0 && taken == given && taken > 0 && pins > 0);
  astrai_engine_free(engine);
  printf("memory: %ld KiB when warm, %ld KiB at the end, %ld KiB may be added\n", warm, last, growth_max);
  CHECK(last <= warm + growth_max);
  printf("soak passed\n");
  return 0;
}
