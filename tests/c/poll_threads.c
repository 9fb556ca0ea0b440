/* An engine that polls, with several threads: who is held in a callback or a wake holds up nobody else.
 *   poll_threads <model folder> */
#include "polling.h"

/* One thread is held inside a callback of its poll; another one is told that it is busy. */
typedef struct held {
  astrai_engine *engine;
  gate entered, released;
} held;

static int32_t hold(void *user_data, const astrai_event *event) {
  held *w = (held *)user_data;
  (void)event;
  gate_add(&w->entered);
  gate_wait(&w->released, 1);
  return 0;
}

static void *poll_once(void *argument) {
  held *w = (held *)argument;
  uint32_t ran = 0;
  CHECK(astrai_engine_poll(w->engine, -1, 1, &ran, NULL) == ASTRAI_OK && ran == 1);
  return NULL;
}

static void *poll_forever(void *argument) {
  held *w = (held *)argument;
  int32_t status;
  do
    status = astrai_engine_poll(w->engine, -1, 0, NULL, NULL);
  while (status == ASTRAI_OK || status == ASTRAI_ERR_BUSY);
  CHECK(status == ASTRAI_ERR_CLOSED);
  return NULL;
}

static void busy(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  astrai_request_options request_options = steady(30);
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *request = NULL;
  held w;
  pthread_t thread;
  int freed;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.delivery = ASTRAI_DELIVER_POLL;
  for (freed = 0; freed < 2; freed++) {
    gate_init(&w.entered);
    gate_init(&w.released);
    EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
    w.engine = engine;
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, hold, &w, NULL, &request, &err));
    CHECK(pthread_create(&thread, NULL, poll_once, &w) == 0);
    gate_wait(&w.entered, 1);
    EXPECT(ASTRAI_ERR_BUSY, astrai_engine_poll(engine, -1, 0, NULL, &err));
    EXPECT(ASTRAI_ERR_BUSY, astrai_engine_poll(engine, 0, 0, NULL, &err));
    /* Who waits for a request does so while the other thread delivers. */
    EXPECT(ASTRAI_TIMEOUT, astrai_request_wait(request, 1, NULL, &err));
    until_ready(engine, 10); /* and what is pulled goes on */
    gate_add(&w.released);
    pthread_join(thread, NULL);
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
    /* A thread that waits in poll leaves when the engine closes, or is freed. */
    CHECK(pthread_create(&thread, NULL, poll_forever, &w) == 0);
    while (astrai_engine_poll(engine, 0, 0, NULL, NULL) != ASTRAI_ERR_BUSY)
      ; /* until the other thread is inside its call */
    if (!freed)
      EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
    astrai_engine_free(engine);
    pthread_join(thread, NULL);
    astrai_request_free(request);
    gate_destroy(&w.entered);
    gate_destroy(&w.released);
  }
  astrai_prompt_free(prompt);
}

/* A host that polls when it is woken finds another thread delivering: it is woken again for what that thread leaves. */
static int32_t count_end(void *user_data, const astrai_event *event) {
  if (event->terminal)
    gate_add((gate *)user_data);
  return 0;
}

static void *wait_for_end(void *argument) {
  CHECK(astrai_request_wait((astrai_request *)argument, -1, NULL, NULL) == ASTRAI_OK);
  return NULL;
}

static void turned_away(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  astrai_request_options request_options = steady(1);
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *waited = NULL, *polled = NULL;
  host h;
  held w;
  gate ended;
  pthread_t thread;
  int heard;
  memset(&h, 0, sizeof h);
  gate_init(&h.wakes);
  gate_init(&w.entered);
  gate_init(&w.released);
  gate_init(&ended);
  caller = pthread_self();
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.wake = on_wake;
  options.user_data = &h;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, hold, &w, NULL, &waited, &err));
  CHECK(pthread_create(&thread, NULL, wait_for_end, waited) == 0);
  gate_wait(&w.entered, 1);
  request_options.max_tokens = 40;
  request_options.queue_tokens = 2;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, count_end, &ended, NULL, &polled, &err));
  until_ready(engine, 8);
  EXPECT(ASTRAI_ERR_BUSY, astrai_engine_poll(engine, 0, 0, NULL, &err));
  heard = gate_value(&h.wakes);
  CHECK(heard >= 1);
  gate_add(&w.released);
  pthread_join(thread, NULL);
  while (gate_value(&ended) == 0) {
    gate_wait(&h.wakes, ++heard);
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 0, NULL, &err));
  }
  astrai_request_free(waited);
  astrai_request_free(polled);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  gate_destroy(&h.wakes);
  gate_destroy(&w.entered);
  gate_destroy(&w.released);
  gate_destroy(&ended);
}

/* A dispatching engine's callback frees a polling engine: the latter's requests end there. */
typedef struct both {
  astrai_engine *polling;
  gate done;
} both;

static int32_t free_other(void *user_data, const astrai_event *event) {
  both *b = (both *)user_data;
  if (b->polling != NULL) {
    caller = pthread_self();
    astrai_engine_free(b->polling);
    b->polling = NULL;
  }
  if (event->terminal)
    gate_add(&b->done);
  return 0;
}

static void freed_by_another(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h), *other = open_engine(model);
  astrai_request_options options = steady(3);
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_request *request = NULL;
  seen s;
  both b;
  start(engine, 400, 2, on_event, &s);
  b.polling = engine;
  gate_init(&b.done);
  EXPECT(ASTRAI_OK, astrai_submit(other, prompt, &options, free_other, &b, NULL, &request, &err));
  gate_wait(&b.done, 1);
  CHECK(s.terminals == 1 && s.finalized == 1 && h.finalized == 1);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  astrai_request_free(request);
  astrai_request_free(s.request);
  astrai_prompt_free(prompt);
  astrai_engine_free(other);
  gate_destroy(&b.done);
  gate_destroy(&h.wakes);
}

/* The wake callback may not block, and an engine without weights polls too. */
static int32_t inner[3];
static gate woken;

static void block_in_wake(void *user_data) {
  astrai_engine **engine = (astrai_engine **)user_data;
  if (gate_value(&woken) == 0) {
    inner[0] = astrai_engine_poll(*engine, 0, 0, NULL, NULL);
    inner[1] = astrai_engine_close(*engine, 0, NULL);
    inner[2] = astrai_engine_check(*engine, NULL);
  }
  gate_add(&woken);
}

static void odd_engines(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  seen s;
  caller = pthread_self();
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.wake = block_in_wake;
  options.user_data = &engine;
  gate_init(&woken);
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  start(engine, 5, 0, on_event, &s);
  gate_wait(&woken, 1);
  CHECK(inner[0] == ASTRAI_ERR_REENTRANT && inner[1] == ASTRAI_ERR_REENTRANT && inner[2] == ASTRAI_ERR_REENTRANT);
  EXPECT(ASTRAI_OK, astrai_request_wait(s.request, -1, NULL, &err));
  CHECK(s.tokens == 5);
  astrai_request_free(s.request);
  astrai_engine_free(engine);
  gate_destroy(&woken);

  options.flags = ASTRAI_ENGINE_TEXT_ONLY;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_poll(engine, -1, 0, NULL, &err));
  astrai_engine_free(engine);
}

/* A wake that does not return holds up nothing: requests run, are polled and pulled, and end. Close waits for it. */
typedef struct sleeper {
  gate entered, released;
} sleeper;

static void sleep_in_wake(void *user_data) {
  sleeper *w = (sleeper *)user_data;
  gate_add(&w->entered);
  gate_wait(&w->released, 1);
}

static void *free_engine(void *argument) {
  astrai_engine_free((astrai_engine *)argument);
  return NULL;
}

static void slow_wake(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  pthread_t thread;
  sleeper w;
  gate ended;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options request_options = steady(60);
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.wake = sleep_in_wake;
  options.user_data = &w;
  gate_init(&w.entered);
  gate_init(&w.released);
  gate_init(&ended);
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, count_end, &ended, NULL, NULL, &err));
  gate_wait(&w.entered, 1);
  until_ready(engine, 80);
  while (gate_value(&ended) == 0)
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  CHECK(gate_value(&w.entered) == 1);
  CHECK(pthread_create(&thread, NULL, free_engine, engine) == 0);
  gate_add(&w.released);
  pthread_join(thread, NULL);
  astrai_prompt_free(prompt);
  gate_destroy(&w.entered);
  gate_destroy(&w.released);
  gate_destroy(&ended);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  model = argv[1];
  slow_wake();
  busy();
  turned_away();
  freed_by_another();
  odd_engines();
  return 0;
}
