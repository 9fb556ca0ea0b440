/* An engine that polls, and what its host sees: for poll.c and poll_threads.c. */
#ifndef POLLING_H
#define POLLING_H

#include "check.h"

static const char *model;

/* The thread whose call is in progress; host code must find itself on it. */
static pthread_t caller;

/* What host code saw of an engine. */
typedef struct host {
  gate wakes;
  int finalized, lines;
} host;

/* What host code saw of a request. */
typedef struct seen {
  astrai_engine *engine;
  astrai_request *request;
  int events, terminals, finalized, tokens;
  int32_t kind, finish_reason;
  int order, *clock; /* when its latest event came, counted over all requests */
  int free_engine;   /* frees the engine in its next event */
} seen;

static inline void on_wake(void *user_data) {
  CHECK(!pthread_equal(caller, pthread_self()));
  gate_add(&((host *)user_data)->wakes);
}

static inline void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  CHECK(pthread_equal(caller, pthread_self()));
  CHECK(level >= ASTRAI_LOG_ERROR && text[len] == '\0');
  ((host *)user_data)->lines++;
}

static inline void on_engine_finalize(void *user_data) {
  CHECK(pthread_equal(caller, pthread_self()));
  ((host *)user_data)->finalized++;
}

static inline int32_t on_event(void *user_data, const astrai_event *event) {
  seen *s = (seen *)user_data;
  CHECK(pthread_equal(caller, pthread_self()));
  CHECK(s->terminals == 0 && s->finalized == 0 && (event->usage != NULL) == (event->terminal != 0));
  s->events++;
  s->tokens += (int)event->token_count;
  if (s->clock != NULL)
    s->order = ++*s->clock;
  if (event->terminal) {
    s->terminals++;
    s->kind = event->kind;
    s->finish_reason = event->finish_reason;
  }
  if (s->free_engine) {
    s->free_engine = 0;
    astrai_engine_free(s->engine);
  }
  return 0;
}

static inline void on_finalize(void *user_data) {
  seen *s = (seen *)user_data;
  CHECK(pthread_equal(caller, pthread_self()));
  s->finalized++;
}

static inline astrai_engine *open_polling(host *h) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  caller = pthread_self();
  options.delivery = ASTRAI_DELIVER_POLL;
  options.log_level = ASTRAI_LOG_DEBUG;
  options.log = on_log;
  options.threads = 1;
  memset(h, 0, sizeof *h);
  gate_init(&h->wakes);
  options.wake = on_wake;
  options.finalize = on_engine_finalize;
  options.user_data = h;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  return engine;
}

static inline void free_polling(astrai_engine *engine, host *h) {
  astrai_engine_free(engine);
  CHECK(h->finalized == 1);
  gate_destroy(&h->wakes);
}

static inline void start(astrai_engine *engine, int32_t max_tokens, uint32_t queue_tokens, astrai_event_fn callback, seen *s) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(max_tokens);
  options.queue_tokens = queue_tokens;
  memset(s, 0, sizeof *s);
  s->engine = engine;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, callback, s, on_finalize, &s->request, &err));
  astrai_prompt_free(prompt);
}

#endif
