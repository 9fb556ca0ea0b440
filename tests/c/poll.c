/* An engine that polls: host code runs on the threads that call, when they call, and nowhere else.
 *   poll <model folder> */
#include "polling.h"

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

int main(int argc, char **argv) {
  CHECK(argc == 2);
  model = argv[1];
  main_loop();
  fair();
  wakes();
  waiting();
  inside();
  endings();
  return 0;
}
