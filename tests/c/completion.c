/* The completion queue of an engine: requests without callbacks, whose events any thread takes with astrai_engine_next.
 *   completion <model folder> */
#include "check.h"

static const char *model;

/* What was taken of a request; its user data. */
typedef struct taken {
  gate finalized;
  int events, terminals, tokens;
  size_t bytes;
  int32_t kind, finish_reason;
  uint64_t id;
} taken;

static void on_finalize(void *user_data) {
  taken *t = (taken *)user_data;
  CHECK(gate_value(&t->finalized) == 0);
  gate_add(&t->finalized);
}

static void take(taken *all, astrai_event *event) {
  taken *t = &all[event->tag];
  CHECK(t->terminals == 0 && event->struct_size == sizeof *event && event->text[event->text_len] == '\0');
  CHECK(event->terminal || event->token_count > 0);
  if (event->kind != ASTRAI_EVENT_CANCELLED)
    CHECK(event->first_token == (uint64_t)t->tokens && event->first_byte == (uint64_t)t->bytes);
  t->bytes += event->text_len;
  t->events++;
  t->tokens += (int)event->token_count;
  t->id = event->request_id;
  if (event->terminal) {
    CHECK(event->usage != NULL && gate_value(&t->finalized) == 1);
    t->terminals++;
    t->kind = event->kind;
    t->finish_reason = event->finish_reason;
  } else {
    CHECK(gate_value(&t->finalized) == 0);
  }
  astrai_event_free(event);
}

static void submit(const astrai_engine *engine, int32_t max_tokens, uint32_t queue_tokens, taken *all, int index,
                   astrai_request **out) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(max_tokens);
  memset(&all[index], 0, sizeof all[index]);
  gate_init(&all[index].finalized);
  options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  options.queue_tokens = queue_tokens;
  options.tag = (uint64_t)index;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, &all[index], on_finalize, out, &err));
  astrai_prompt_free(prompt);
}

/* Without handles, without callbacks, from one thread. */
static void one_thread(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = (astrai_event *)engine;
  taken all[8];
  int i, ended = 0;
  EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(engine, 0, &event, &err));
  EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(engine, 2, &event, &err));
  CHECK(event == (astrai_event *)engine);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_next(engine, -2, &event, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_next(engine, 0, NULL, &err));
  for (i = 0; i < 8; i++)
    submit(engine, 5 + i, 0, all, i, NULL);
  while (ended < 8) {
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    ended += event->terminal;
    take(all, event);
  }
  for (i = 0; i < 8; i++)
    CHECK(all[i].tokens == 5 + i && all[i].kind == ASTRAI_EVENT_FINISHED && gate_value(&all[i].finalized) == 1);
  EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(engine, 0, &event, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  EXPECT(ASTRAI_END, astrai_engine_next(engine, -1, &event, &err));
  astrai_engine_free(engine);
}

/* Four threads share the work until the engine closes. */
enum { REQUESTS = 40 };

typedef struct crew {
  astrai_engine *engine;
  pthread_mutex_t lock;
  taken all[REQUESTS];
  gate ended;
} crew;

static void *work(void *argument) {
  crew *c = (crew *)argument;
  astrai_event *event = NULL;
  int32_t status;
  while ((status = astrai_engine_next(c->engine, -1, &event, NULL)) != ASTRAI_END) {
    int terminal;
    taken *t;
    if (status == ASTRAI_ERR_BUSY) /* the others were slow with theirs */
      continue;
    CHECK(status == ASTRAI_OK);
    terminal = event->terminal;
    t = &c->all[event->tag];
    pthread_mutex_lock(&c->lock);
    /* No two threads have events of one request at once, so they come in order. */
    CHECK(t->terminals == 0 && event->first_token == (uint64_t)t->tokens);
    t->tokens += (int)event->token_count;
    t->terminals += terminal;
    pthread_mutex_unlock(&c->lock);
    astrai_event_free(event);
    if (terminal)
      gate_add(&c->ended);
  }
  return NULL;
}

static void four_threads(void) {
  astrai_error *err = NULL;
  static crew c;
  pthread_t threads[4];
  int i;
  c.engine = open_engine(model);
  pthread_mutex_init(&c.lock, NULL);
  gate_init(&c.ended);
  for (i = 0; i < REQUESTS; i++) /* before the threads, so that they find all of it set up */
    submit(c.engine, 20, i % 2 == 0 ? 0 : 3, c.all, i, NULL);
  for (i = 0; i < 4; i++)
    CHECK(pthread_create(&threads[i], NULL, work, &c) == 0);
  gate_wait(&c.ended, REQUESTS);
  EXPECT(ASTRAI_OK, astrai_engine_close(c.engine, 0, &err));
  for (i = 0; i < 4; i++)
    pthread_join(threads[i], NULL);
  for (i = 0; i < REQUESTS; i++) {
    CHECK(c.all[i].terminals == 1 && c.all[i].tokens == 20);
    gate_wait(&c.all[i].finalized, 1);
    gate_destroy(&c.all[i].finalized);
  }
  CHECK(gate_value(&c.ended) == REQUESTS);
  astrai_engine_free(c.engine);
  gate_destroy(&c.ended);
  pthread_mutex_destroy(&c.lock);
}

static int32_t refuse(void *user_data, const astrai_event *event) {
  (void)user_data;
  (void)event;
  CHECK(0);
  return 1;
}

/* The handle cancels and waits, but does not read. */
static void with_handles(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = NULL;
  astrai_request *request = NULL;
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_request_options options = steady(5);
  taken all[1], refused;
  submit(engine, 1000, 2, all, 0, &request);
  CHECK(astrai_request_next(request, 0, &event, &err) == ASTRAI_ERR_ARGUMENT);
  CHECK(strstr(err->message, "astrai_engine_next") != NULL);
  astrai_error_free(err);
  err = NULL;
  EXPECT(ASTRAI_TIMEOUT, astrai_request_wait(request, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
  take(all, event);
  EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
  EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
  CHECK(event->terminal && event->token_count == 0); /* the deltas were dropped, and their number shows */
  CHECK(event->first_token == event->usage->generated_tokens && event->first_token >= (uint64_t)all[0].tokens);
  CHECK(event->first_byte >= all[0].bytes);
  take(all, event);
  CHECK(all[0].id == astrai_request_id(request) && all[0].finish_reason == ASTRAI_FINISH_CANCEL);
  event = (astrai_event *)engine;
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event == NULL);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, 0, NULL, &err));
  astrai_request_free(request);
  /* A freed handle cancels; the end comes all the same. */
  submit(engine, 1000, 2, all, 0, &request);
  astrai_request_free(request);
  do {
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    take(all, event);
  } while (all[0].terminals == 0);
  CHECK(all[0].finish_reason == ASTRAI_FINISH_CANCEL);
  /* Either a callback or the queue. */
  memset(&refused, 0, sizeof refused);
  gate_init(&refused.finalized);
  options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, prompt, &options, refuse, &refused, on_finalize, NULL, &err));
  CHECK(gate_value(&refused.finalized) == 1);
  astrai_engine_free(engine);
  gate_destroy(&refused.finalized);
  gate_destroy(&all[0].finalized);
  astrai_prompt_free(prompt);
}

/* A full queue pauses its request alone, and who has been ready longest comes first. */
static void backpressure(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = NULL;
  astrai_stats stats;
  taken all[3];
  int i, round, ended = 0;
  for (i = 0; i < 3; i++)
    submit(engine, 60, 2, all, i, NULL);
  for (round = 0; round < 4; round++) {
    until_ready(engine, 10);
    stats.struct_size = sizeof stats;
    EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
    EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
    CHECK(stats.stalled == 3);
    for (i = 0; i < 3; i++) {
      EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
      CHECK(event->token_count <= 2);
      take(all, event);
    }
    for (i = 0; i < 3; i++)
      CHECK(all[i].events == round + 1 && all[i].terminals == 0);
  }
  while (ended < 3) {
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    CHECK(event->token_count <= 2);
    ended += event->terminal;
    take(all, event);
  }
  for (i = 0; i < 3; i++) {
    CHECK(all[i].tokens == 60 && all[i].finish_reason == ASTRAI_FINISH_LENGTH);
    gate_destroy(&all[i].finalized);
  }
  astrai_engine_free(engine);
}

/* Events that are out keep the next ones of their requests back. Who has them all is told, and does not wait. */
static void held(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = NULL, *out[3];
  taken all[4];
  int i, round;
  for (i = 0; i < 3; i++)
    submit(engine, 40, 2, all, i, NULL);
  for (i = 0; i < 3; i++)
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &out[i], &err));
  for (round = 0; round < 4; round++) {
    CHECK(out[0]->tag != out[1]->tag && out[1]->tag != out[2]->tag && out[2]->tag != out[0]->tag);
    until_ready(engine, 8); /* more has come of each */
    CHECK(astrai_engine_next(engine, -1, &event, &err) == ASTRAI_ERR_BUSY && strstr(err->message, "astrai_event_free"));
    astrai_error_free(err);
    err = NULL;
    EXPECT(ASTRAI_ERR_BUSY, astrai_engine_next(engine, 0, &event, &err));
    /* What is freed comes next, in the order of the freeing; what it gave meanwhile is one event. */
    for (i = 2; i >= 0; i--) {
      uint64_t tag = out[i]->tag;
      CHECK(!out[i]->terminal);
      take(all, out[i]);
      EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &out[i], &err));
      CHECK(out[i]->tag == tag && out[i]->token_count == 2);
    }
  }
  /* Another request gives something while those are out. */
  submit(engine, 1, 0, all, 3, NULL);
  EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
  CHECK(event->tag == 3 && event->token_count == 1);
  if (!event->terminal) { /* taken before its end was there */
    astrai_event_free(event);
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    CHECK(event->tag == 3 && event->terminal);
  }
  astrai_event_free(event);
  /* Events outlive the engine; what is behind them is dropped with it. */
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  EXPECT(ASTRAI_ERR_BUSY, astrai_engine_next(engine, -1, &event, &err));
  astrai_event_free(out[1]);
  EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
  CHECK(event->terminal && event->finish_reason == ASTRAI_FINISH_CLOSE);
  astrai_engine_free(engine);
  for (i = 0; i < 4; i++)
    CHECK(gate_value(&all[i].finalized) == 1);
  CHECK(out[0]->token_count == 2 && out[2]->text[out[2]->text_len] == '\0');
  astrai_event_free(out[2]);
  astrai_event_free(event);
  astrai_event_free(out[0]);
  for (i = 0; i < 4; i++)
    gate_destroy(&all[i].finalized);
}

/* An event that another thread has: who asks waits a little, and is told when that does not help. */
static void *ask(void *argument) {
  astrai_event *event = NULL;
  CHECK(astrai_engine_next((astrai_engine *)argument, 1, &event, NULL) == ASTRAI_TIMEOUT);
  CHECK(astrai_engine_next((astrai_engine *)argument, -1, &event, NULL) == ASTRAI_ERR_BUSY && event == NULL);
  return NULL;
}

static void held_by_another(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = NULL;
  pthread_t thread;
  taken all[1];
  submit(engine, 40, 2, all, 0, NULL);
  EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
  CHECK(pthread_create(&thread, NULL, ask, engine) == 0);
  pthread_join(thread, NULL);
  astrai_event_free(event);
  astrai_engine_free(engine);
  gate_destroy(&all[0].finalized);
}

/* A closed engine still gives what it has; a freed one drops it, and finalizes. */
static void endings(void) {
  astrai_error *err = NULL;
  int how;
  for (how = 0; how < 3; how++) {
    astrai_engine *engine = open_engine(model);
    astrai_request *request = NULL;
    astrai_event *event = NULL;
    taken all[4];
    int i, left = 0;
    for (i = 0; i < 4; i++)
      submit(engine, i < 2 ? 4 : 1000, 2, all, i, i == 3 ? &request : NULL);
    until_ready(engine, 10);
    if (how < 2) {
      EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
      EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_check(engine, &err));
      for (i = 0; i < 4; i++)
        CHECK(gate_value(&all[i].finalized) == 0);
      left = how == 0 ? 4 : 1;
      for (i = 0; i < left; i++) {
        EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
        CHECK(event->terminal); /* merged */
        take(all, event);
      }
      if (how == 0)
        EXPECT(ASTRAI_END, astrai_engine_next(engine, -1, &event, &err));
    }
    astrai_engine_free(engine);
    for (i = 0; i < 4; i++) {
      CHECK(gate_value(&all[i].finalized) == 1 && (how != 0 || all[i].terminals == 1));
      gate_destroy(&all[i].finalized);
    }
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
    astrai_request_free(request);
  }
}

/* Who waits in next leaves when the engine closes, with nothing to take. */
static void *next_once(void *argument) {
  crew *c = (crew *)argument;
  astrai_event *event = NULL;
  gate_add(&c->ended);
  CHECK(astrai_engine_next(c->engine, -1, &event, NULL) == ASTRAI_END && event == NULL);
  return NULL;
}

static void closed_while_waiting(void) {
  astrai_error *err = NULL;
  static crew c;
  pthread_t threads[3];
  int i;
  c.engine = open_engine(model);
  gate_init(&c.ended);
  for (i = 0; i < 3; i++)
    CHECK(pthread_create(&threads[i], NULL, next_once, &c) == 0);
  gate_wait(&c.ended, 3);
  EXPECT(ASTRAI_OK, astrai_engine_close(c.engine, 0, &err));
  for (i = 0; i < 3; i++)
    pthread_join(threads[i], NULL);
  astrai_engine_free(c.engine);
  gate_destroy(&c.ended);
}

/* A callback that blocks delays neither the pulling of others nor the completion queue: it is let go only after both. */
static int32_t block(void *user_data, const astrai_event *event) {
  gate *gates = (gate *)user_data;
  (void)event;
  gate_add(&gates[0]);
  gate_wait(&gates[1], 1);
  return 0;
}

static void blocked_callback(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(100);
  astrai_request *blocked = NULL;
  astrai_event *event = NULL;
  taken all[1];
  gate gates[2];
  gate_init(&gates[0]);
  gate_init(&gates[1]);
  options.queue_tokens = 4;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, block, gates, NULL, &blocked, &err));
  gate_wait(&gates[0], 1);
  until_ready(engine, 200);
  submit(engine, 50, 0, all, 0, NULL);
  do {
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    take(all, event);
  } while (all[0].terminals == 0);
  CHECK(all[0].tokens == 50);
  EXPECT(ASTRAI_TIMEOUT, astrai_request_wait(blocked, 0, NULL, &err));
  gate_add(&gates[1]);
  EXPECT(ASTRAI_OK, astrai_request_wait(blocked, -1, NULL, &err));
  astrai_request_free(blocked);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  gate_destroy(&gates[0]);
  gate_destroy(&gates[1]);
  gate_destroy(&all[0].finalized);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  model = argv[1];
  one_thread();
  four_threads();
  with_handles();
  backpressure();
  held();
  held_by_another();
  endings();
  closed_while_waiting();
  blocked_callback();
  return 0;
}
