/* How many chats a second N threads submit: rendered and tokenized on the submitting threads, while the engine is paused, so that
 * nothing else is measured. Usage: submit_threads MODEL [THREADS [CHATS EACH]]. Linked against two builds and run in turns it
 * compares them. */
#define _POSIX_C_SOURCE 200809L
#include <astrai.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static astrai_engine *engine;
static int each = 400;
static pthread_barrier_t start;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(int status, astrai_error *err) {
  if (status != ASTRAI_OK) {
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err == NULL ? "" : err->message);
    exit(1);
  }
}

static void *submits(void *argument) {
  static const char text[] = "Tell me a story about a young fox who lost her way in the snow, and about the owl that showed her home.";
  int i, thread = *(int *)argument;
  pthread_barrier_wait(&start);
  for (i = 0; i < each; i++) {
    astrai_prompt *prompt;
    astrai_request *request;
    astrai_request_options options;
    astrai_error *err = NULL;
    char own[160];
    int n = snprintf(own, sizeof own, "%d %d: %s", thread, i, text);
    astrai_request_options_init(&options, sizeof options);
    options.max_tokens = 1;
    must(astrai_prompt_new(&prompt, &err), err);
    must(astrai_prompt_add_message(prompt, "user", own, (size_t)n, &err), err);
    must(astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err), err);
    astrai_prompt_free(prompt);
    astrai_request_free(request);
  }
  return NULL;
}

int main(int argc, char **argv) {
  int i, threads = argc > 2 ? atoi(argv[2]) : 32;
  pthread_t ids[256];
  int numbers[256];
  astrai_engine_options options;
  astrai_error *err = NULL;
  double begin, seconds;
  if (argc < 2 || threads < 1 || threads > 256)
    return 2;
  if (argc > 3)
    each = atoi(argv[3]);
  astrai_engine_options_init(&options, sizeof options);
  options.threads = 1;
  options.max_waiting = (uint32_t)(threads * each);
  must(astrai_engine_open(argv[1], &options, &engine, &err), err);
  must(astrai_engine_pause(engine, -1, &err), err);
  pthread_barrier_init(&start, NULL, (unsigned)threads + 1);
  for (i = 0; i < threads; i++) {
    numbers[i] = i;
    pthread_create(&ids[i], NULL, submits, &numbers[i]);
  }
  pthread_barrier_wait(&start);
  begin = now();
  for (i = 0; i < threads; i++)
    pthread_join(ids[i], NULL);
  seconds = now() - begin;
  printf("%d threads: %.0f chats/s\n", threads, threads * each / seconds);
  astrai_engine_free(engine);
  return 0;
}
