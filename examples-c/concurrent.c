/* 32 prompts at once from 4 threads: one engine computes them all in one batch per step.
 *
 *   cc -std=c99 examples-c/concurrent.c -Iinclude -Ltarget/release -lastrai -lpthread -Wl,-rpath,$PWD/target/release -o concurrent
 *   ./concurrent [model folder]
 */
#include <astrai.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define JOBS 32
#define JOBS_PER_THREAD (JOBS / THREADS)

/* One prompt and what became of it. Its callback alone writes to it, until wait says that the request has ended. */
typedef struct job {
  char ask[160];
  astrai_request *request;
  char *text;
  size_t text_len;
  astrai_usage usage;
  int failed; /* until it has finished */
} job;

typedef struct worker {
  pthread_t thread;
  const astrai_engine *engine;
  job *jobs; /* JOBS_PER_THREAD of them */
} worker;

static const char *const NAMES[8] = {"Mira", "Tom", "Lotte", "Oskar", "Freya", "Felix", "Ines", "Hugo"};
static const char *const PLACES[4] = {"the old lighthouse", "the silent library", "the frozen lake", "the royal bakery"};
static const char *const OBJECTS[4] = {"a silver key", "a broken compass", "a wooden flute", "a red lantern"};

/* Called on a thread of the engine. Nothing here may take long: other callbacks wait for it. */
static int32_t on_event(void *user_data, const astrai_event *event) {
  job *j = (job *)user_data;
  char *grown = (char *)realloc(j->text, j->text_len + event->text_len + 1);
  if (grown == NULL)
    return 1; /* stops this request only */
  memcpy(grown + j->text_len, event->text, event->text_len);
  j->text = grown;
  j->text_len += event->text_len;
  j->text[j->text_len] = '\0';
  if (event->terminal) {
    j->usage = *event->usage;
    j->failed = event->kind != ASTRAI_EVENT_FINISHED;
  }
  if (event->error != NULL)
    fprintf(stderr, "%s failed: %s\n", j->ask, event->error->message);
  return 0;
}

static int32_t submit(const astrai_engine *engine, job *j, astrai_error **err) {
  astrai_request_options options;
  astrai_prompt *prompt = NULL;
  int32_t status = astrai_prompt_new(&prompt, err);
  astrai_request_options_init(&options, sizeof options);
  options.max_tokens = 120;
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "user", j->ask, strlen(j->ask), err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, &options, on_event, j, NULL, &j->request, err);
  astrai_prompt_free(prompt); /* the request has its own copy */
  return status;
}

/* One thread of the host: submits its prompts, then waits for all of them. */
static void *work(void *argument) {
  worker *w = (worker *)argument;
  int i;
  for (i = 0; i < JOBS_PER_THREAD; i++) {
    astrai_error *err = NULL;
    w->jobs[i].failed = 1;
    if (submit(w->engine, &w->jobs[i], &err) != ASTRAI_OK)
      fprintf(stderr, "submit: %s\n", err != NULL ? err->message : "failed");
    astrai_error_free(err);
  }
  for (i = 0; i < JOBS_PER_THREAD; i++)
    if (w->jobs[i].request != NULL && astrai_request_wait(w->jobs[i].request, -1, NULL, NULL) != ASTRAI_OK)
      w->jobs[i].failed = 1;
  return NULL;
}

/* Tokens per second of one request, from its first token to its last. */
static double rate(const astrai_usage *usage) {
  if (usage->generated_tokens < 2 || usage->decode_us == 0)
    return 0.0;
  return (usage->generated_tokens - 1) * 1e6 / (double)usage->decode_us;
}

static int report(const job *jobs) {
  uint64_t tokens = 0, longest_us = 1;
  int i, failed = 0;
  for (i = 0; i < JOBS; i++)
    printf("[%d] %s\n%s\n\n", i + 1, jobs[i].ask, jobs[i].text != NULL ? jobs[i].text : "(nothing)");

  printf("request  prompt  tokens  queue ms  first ms  total ms  tokens/s\n");
  for (i = 0; i < JOBS; i++) {
    const astrai_usage *u = &jobs[i].usage;
    printf("%7d  %6u  %6u  %8.1f  %8.1f  %8.1f  %8.1f%s\n", i + 1, (unsigned)u->prompt_tokens,
           (unsigned)u->generated_tokens, (double)u->queue_us / 1e3, (double)u->first_token_us / 1e3,
           (double)u->total_us / 1e3, rate(u), jobs[i].failed ? "  failed" : "");
    tokens += u->generated_tokens;
    if (u->total_us > longest_us)
      longest_us = u->total_us;
    failed += jobs[i].failed;
  }
  printf("all: %llu tokens, %.1f tokens/s together\n", (unsigned long long)tokens,
         (double)tokens * 1e6 / (double)longest_us);
  return failed;
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  static job jobs[JOBS];
  worker workers[THREADS];
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_engine_options options;
  int i, failed;

  astrai_engine_options_init(&options, sizeof options);
  options.max_running = JOBS; /* the rest would wait for a place */
  if (astrai_engine_open(model, &options, &engine, &err) != ASTRAI_OK) {
    fprintf(stderr, "%s\n", err->message);
    astrai_error_free(err);
    return 1;
  }

  for (i = 0; i < JOBS; i++)
    snprintf(jobs[i].ask, sizeof jobs[i].ask, "Tell me a story about %s, %s and %s.", NAMES[i % 8], PLACES[i / 8],
             OBJECTS[(i + i / 8) % 4]);
  for (i = 0; i < THREADS; i++) {
    workers[i].engine = engine;
    workers[i].jobs = jobs + i * JOBS_PER_THREAD;
    if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0) {
      fprintf(stderr, "cannot start a thread\n");
      return 1;
    }
  }
  for (i = 0; i < THREADS; i++)
    pthread_join(workers[i].thread, NULL);

  failed = report(jobs);
  for (i = 0; i < JOBS; i++) {
    astrai_request_free(jobs[i].request);
    free(jobs[i].text);
  }
  astrai_engine_free(engine);
  return failed == 0 ? 0 : 1;
}
