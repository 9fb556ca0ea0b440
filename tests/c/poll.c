/* An engine that polls: host code runs on the threads that call, when they call, and nowhere else.
 *   poll <model folder> */
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

static void on_wake(void *user_data) {
  CHECK(!pthread_equal(caller, pthread_self()));
  gate_add(&((host *)user_data)->wakes);
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  CHECK(pthread_equal(caller, pthread_self()));
  CHECK(level >= ASTRAI_LOG_ERROR && text[len] == '\0');
  ((host *)user_data)->lines++;
}

static void on_engine_finalize(void *user_data) {
  CHECK(pthread_equal(caller, pthread_self()));
  ((host *)user_data)->finalized++;
}

static int32_t on_event(void *user_data, const astrai_event *event) {
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

static void on_finalize(void *user_data) {
  seen *s = (seen *)user_data;
  CHECK(pthread_equal(caller, pthread_self()));
  s->finalized++;
}

static astrai_engine *open_polling(host *h) {
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

static void free_polling(astrai_engine *engine, host *h) {
  astrai_engine_free(engine);
  CHECK(h->finalized == 1);
  gate_destroy(&h->wakes);
}

static void start(astrai_engine *engine, int32_t max_tokens, uint32_t queue_tokens, astrai_event_fn callback, seen *s) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(max_tokens);
  options.queue_tokens = queue_tokens;
  memset(s, 0, sizeof *s);
  s->engine = engine;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, callback, s, on_finalize, &s->request, &err));
  astrai_prompt_free(prompt);
}

/* A main loop: nothing is called but in its polls, and everything is called there. */
static void main_loop(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h);
  seen s[4];
  uint32_t ran = 77;
  int i, shown = 0, ended = 0;
  EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 0, &ran, &err));
  CHECK(ran == 0);
  for (i = 0; i < 4; i++)
    start(engine, 20 + i, 0, on_event, &s[i]);
  while (ended < 4) {
    /* Requests that run on by themselves must not show: their events wait for the poll. */
    int before = s[0].events + s[1].events + s[2].events + s[3].events;
    CHECK(before == shown);
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 0, &ran, &err));
    CHECK(ran >= 1 && ran <= 4); /* at most one event of each */
    shown += (int)ran;
    ended = s[0].finalized + s[1].finalized + s[2].finalized + s[3].finalized;
  }
  for (i = 0; i < 4; i++) {
    CHECK(s[i].terminals == 1 && s[i].finalized == 1 && s[i].tokens == 20 + i);
    CHECK(s[i].kind == ASTRAI_EVENT_FINISHED && s[i].finish_reason == ASTRAI_FINISH_LENGTH);
    EXPECT(ASTRAI_OK, astrai_request_wait(s[i].request, 0, NULL, &err));
    astrai_request_free(s[i].request);
  }
  EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 1, 0, NULL, &err)); /* nothing comes */
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_poll(engine, -2, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  CHECK(h.finalized == 0);
  ran = 77;
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_poll(engine, 0, 0, &ran, &err));
  CHECK(ran == 77);
  free_polling(engine, &h);
  engine = open_engine(model);
  CHECK(astrai_engine_poll(engine, 0, 0, &ran, &err) == ASTRAI_ERR_ARGUMENT);
  CHECK(strstr(err->message, "ASTRAI_DELIVER_POLL") != NULL);
  astrai_error_free(err);
  astrai_engine_free(engine);
}

/* Waits with a pulled request, whose end says that those submitted before it are ready: it was behind them in the line. */
static void until_ready(astrai_engine *engine, int32_t tokens) {
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

/* max_events bounds a poll, and the next goes on with those that have waited longer. */
static void fair(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h);
  seen s[3];
  uint32_t ran;
  int i, round, clock = 0;
  for (i = 0; i < 3; i++) {
    start(engine, 400, 2, on_event, &s[i]);
    s[i].clock = &clock;
  }
  for (round = 0; round < 5; round++) {
    /* Each stalls at two tokens, so all three are ready once the pulled one has made more than that. */
    until_ready(engine, 8);
    for (i = 0; i < 3; i++) {
      EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 1, &ran, &err));
      CHECK(ran == 1);
    }
    for (i = 0; i < 3; i++)
      CHECK(s[i].events == round + 1 && s[i].terminals == 0);
  }
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  for (i = 0; i < 3; i++) {
    CHECK(s[i].terminals == 1 && s[i].finalized == 1 && s[i].finish_reason == ASTRAI_FINISH_CLOSE);
    astrai_request_free(s[i].request);
  }
  free_polling(engine, &h);
}

/* One wake when something is ready, and none more until a poll. */
static void wakes(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h);
  seen s[3];
  uint32_t ran;
  int i, polls = 0, ended = 0;
  CHECK(gate_value(&h.wakes) == 0);
  for (i = 0; i < 3; i++)
    start(engine, 40, 0, on_event, &s[i]);
  gate_wait(&h.wakes, 1);
  until_ready(engine, 60); /* all of them have ended long before */
  CHECK(gate_value(&h.wakes) == 1);
  EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 0, &ran, &err));
  CHECK(ran == 3 && s[0].terminals == 1 && s[1].terminals == 1 && s[2].terminals == 1);
  CHECK(s[0].events == 1 && s[0].tokens == 40); /* merged */
  /* What is pulled wakes nobody. */
  until_ready(engine, 5);
  CHECK(gate_value(&h.wakes) == 1);
  for (i = 0; i < 3; i++)
    astrai_request_free(s[i].request);
  /* A host that polls only when it is woken gets everything, with at most one wake for each poll. */
  for (i = 0; i < 3; i++)
    start(engine, 30, 2, on_event, &s[i]);
  while (ended < 3) {
    gate_wait(&h.wakes, polls + 2);
    polls++;
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, 0, 0, NULL, &err));
    ended = s[0].finalized + s[1].finalized + s[2].finalized;
    CHECK(gate_value(&h.wakes) <= polls + 2);
  }
  for (i = 0; i < 3; i++)
    astrai_request_free(s[i].request);
  free_polling(engine, &h);
}

/* Waiting for a callback request delivers: nobody polls. */
static void waiting(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h);
  astrai_event *event = (astrai_event *)engine;
  seen s[2];
  start(engine, 60, 2, on_event, &s[0]);
  start(engine, 10, 2, on_event, &s[1]);
  EXPECT(ASTRAI_OK, astrai_request_wait(s[0].request, -1, &event, &err));
  CHECK(event == NULL && s[0].finalized == 1 && s[0].tokens == 60 && s[0].events >= 30);
  CHECK(s[1].events > 0); /* those of others on the way */
  EXPECT(ASTRAI_OK, astrai_request_wait(s[1].request, -1, NULL, &err));
  CHECK(s[1].finalized == 1);
  astrai_request_free(s[0].request);
  astrai_request_free(s[1].request);
  /* Without time it delivers what is there. */
  start(engine, 500, 2, on_event, &s[0]);
  until_ready(engine, 8);
  EXPECT(ASTRAI_TIMEOUT, astrai_request_wait(s[0].request, 0, NULL, &err));
  CHECK(s[0].events == 1);
  EXPECT(ASTRAI_OK, astrai_request_cancel(s[0].request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(s[0].request, -1, NULL, &err));
  CHECK(s[0].events == 2 && s[0].kind == ASTRAI_EVENT_CANCELLED && s[0].finalized == 1);
  astrai_request_free(s[0].request);
  free_polling(engine, &h);
}

/* Inside a callback nothing delivers. */
static int32_t calls_inside(void *user_data, const astrai_event *event) {
  seen *s = (seen *)user_data;
  astrai_error *err = NULL;
  astrai_event *none = NULL;
  if (s->events == 0) {
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_poll(s->engine, 0, 0, NULL, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_poll(s->engine, -1, 0, NULL, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_close(s->engine, 0, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_next(s->engine, 1, &none, &err));
    EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(s->engine, 0, &none, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_request_wait(s->request, -1, NULL, &err));
    EXPECT(ASTRAI_TIMEOUT, astrai_request_wait(s->request, 0, NULL, &err));
  }
  return on_event(user_data, event);
}

static void inside(void) {
  astrai_error *err = NULL;
  host h;
  astrai_engine *engine = open_polling(&h);
  seen s;
  start(engine, 20, 0, calls_inside, &s);
  while (s.finalized == 0)
    EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 0, NULL, &err));
  CHECK(s.kind == ASTRAI_EVENT_FINISHED && s.tokens == 20);
  astrai_request_free(s.request);
  free_polling(engine, &h);
}

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

/* Freed with requests in flight, by close, in a callback of poll and in a callback of wait: all end on this thread. */
static void endings(void) {
  astrai_error *err = NULL;
  host h;
  int how;
  for (how = 0; how < 5; how++) {
    astrai_engine *engine = open_polling(&h);
    seen s[3];
    int i;
    for (i = 0; i < 3; i++)
      start(engine, how == 2 ? 40 : 400, 2, on_event, &s[i]);
    until_ready(engine, 8);
    CHECK(s[0].events == 0 && s[1].events == 0 && s[2].events == 0);
    if (how == 0) { /* free, nothing polled */
      astrai_engine_free(engine);
    } else if (how == 1) { /* close, then free */
      EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
      CHECK(s[0].finalized == 1 && s[1].finalized == 1 && s[2].finalized == 1 && h.finalized == 0);
      astrai_engine_free(engine);
    } else if (how == 2) { /* close with all the time they need */
      EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
      CHECK(s[0].tokens == 40 && s[1].tokens == 40 && s[2].tokens == 40);
      astrai_engine_free(engine);
    } else if (how == 3) { /* free inside a callback of poll */
      s[1].free_engine = 1;
      EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 0, NULL, &err));
    } else { /* free inside a callback of wait */
      s[1].free_engine = 1;
      EXPECT(ASTRAI_OK, astrai_request_wait(s[0].request, -1, NULL, &err));
    }
    CHECK(h.finalized == 1);
    for (i = 0; i < 3; i++) {
      CHECK(s[i].terminals == 1 && s[i].finalized == 1);
      CHECK(s[i].finish_reason == (how == 2 ? ASTRAI_FINISH_LENGTH : ASTRAI_FINISH_CLOSE));
      EXPECT(ASTRAI_OK, astrai_request_wait(s[i].request, -1, NULL, &err));
      astrai_request_free(s[i].request);
    }
    gate_destroy(&h.wakes);
  }
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
  main_loop();
  fair();
  wakes();
  waiting();
  inside();
  busy();
  turned_away();
  endings();
  freed_by_another();
  odd_engines();
  return 0;
}
