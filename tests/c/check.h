/* What the C tests share: checks that say where they failed, and a way to wait for another thread. */
#ifndef CHECK_H
#define CHECK_H

#include <astrai.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);                                        \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* The call must return this status, and write an error exactly if that is one. Uses and clears the variable err. */
#define EXPECT(expected, call)                                                                                         \
  do {                                                                                                                 \
    int32_t got_ = (call);                                                                                             \
    if (got_ != (expected)) {                                                                                          \
      fprintf(stderr, "%s:%d: %s\n  gave %s (%s), not %s\n", __FILE__, __LINE__, #call, astrai_status_name(got_),      \
              err != NULL ? err->message : "no error", astrai_status_name(expected));                                  \
      exit(1);                                                                                                         \
    }                                                                                                                  \
    CHECK((err != NULL) == (got_ >= 10));                                                                              \
    if (err != NULL) {                                                                                                 \
      CHECK(err->status == got_ && err->struct_size == sizeof *err);                                                   \
      CHECK(err->message_len > 0 && strlen(err->message) == err->message_len && err->subject != NULL);                 \
    }                                                                                                                  \
    astrai_error_free(err);                                                                                            \
    err = NULL;                                                                                                        \
  } while (0)

/* A number that threads wait for. */
typedef struct gate {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  int value;
} gate;

static inline void gate_init(gate *g) {
  pthread_mutex_init(&g->mutex, NULL);
  pthread_cond_init(&g->changed, NULL);
  g->value = 0;
}

static inline void gate_add(gate *g) {
  pthread_mutex_lock(&g->mutex);
  g->value++;
  pthread_cond_broadcast(&g->changed);
  pthread_mutex_unlock(&g->mutex);
}

static inline void gate_wait(gate *g, int at_least) {
  pthread_mutex_lock(&g->mutex);
  while (g->value < at_least)
    pthread_cond_wait(&g->changed, &g->mutex);
  pthread_mutex_unlock(&g->mutex);
}

static inline int gate_value(gate *g) {
  int value;
  pthread_mutex_lock(&g->mutex);
  value = g->value;
  pthread_mutex_unlock(&g->mutex);
  return value;
}

static inline void gate_destroy(gate *g) {
  pthread_cond_destroy(&g->changed);
  pthread_mutex_destroy(&g->mutex);
}

/* A raw prompt. */
static inline astrai_prompt *raw_prompt(const char *text) {
  astrai_prompt *prompt = NULL;
  astrai_error *err = NULL;
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_text(prompt, text, strlen(text), 0, &err));
  return prompt;
}

/* Options of a request that runs on until max_tokens, the same each time. */
static inline astrai_request_options steady(int32_t max_tokens) {
  astrai_request_options options;
  CHECK(astrai_request_options_init(&options, sizeof options) == ASTRAI_OK);
  options.flags = ASTRAI_REQUEST_SEEDED | ASTRAI_REQUEST_IGNORE_EOS;
  options.seed = 7;
  options.max_tokens = max_tokens;
  return options;
}

static inline astrai_engine *open_engine(const char *model) {
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, NULL, &engine, &err));
  CHECK(engine != NULL);
  return engine;
}

/* Waits with a pulled request, whose end says that those submitted before it are ready: it was behind them in the line. */
static inline void until_ready(const astrai_engine *engine, int32_t tokens) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(tokens);
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->finish_reason == ASTRAI_FINISH_LENGTH);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
}

#endif
