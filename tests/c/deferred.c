/* Deferred submits: template and tokenizer run on a thread of the engine, and what goes wrong there is an event.
 *   deferred <model folder> */
#include "check.h"

static const char *model;

typedef struct heard {
  pthread_t thread;
  gate finalized;
  int terminals;
  int32_t kind, status;
  char message[512];
  int tokens[64], token_count;
} heard;

static void hear_event(heard *h, const astrai_event *event) {
  uint32_t i;
  CHECK(h->terminals == 0);
  for (i = 0; i < event->token_count; i++) {
    CHECK(h->token_count < 64);
    h->tokens[h->token_count++] = event->tokens[i];
  }
  if (event->terminal) {
    CHECK(event->usage != NULL && (event->error != NULL) == (event->kind == ASTRAI_EVENT_FAILED));
    h->terminals++;
    h->kind = event->kind;
    if (event->error != NULL) {
      h->status = event->error->status;
      CHECK(event->error->message_len < sizeof h->message);
      memcpy(h->message, event->error->message, event->error->message_len + 1);
    }
  }
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  heard *h = (heard *)user_data;
  h->thread = pthread_self();
  hear_event(h, event);
  return 0;
}

static void on_finalize(void *user_data) { gate_add(&((heard *)user_data)->finalized); }

/* By callback, pulled, and through the completion queue; the prompt is freed as soon as it was submitted. */
static void run(astrai_engine *engine, const astrai_prompt *prompt, int how, int poll, heard *h) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_prompt *copy = NULL;
  astrai_request_options options = steady(10);
  memset(h, 0, sizeof *h);
  gate_init(&h->finalized);
  options.flags |= ASTRAI_REQUEST_DEFER | (how == 2 ? (uint32_t)ASTRAI_REQUEST_TO_ENGINE : 0);
  EXPECT(ASTRAI_OK, astrai_prompt_clone(prompt, &copy, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, copy, &options, how == 0 ? on_event : NULL, h, on_finalize,
                                  how == 2 ? NULL : &request, &err));
  astrai_prompt_free(copy);
  if (how == 0) {
    while (poll && h->terminals == 0)
      EXPECT(ASTRAI_OK, astrai_engine_poll(engine, -1, 0, NULL, &err));
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
    CHECK(pthread_equal(h->thread, pthread_self()) ? poll : !poll);
  } else if (how == 1) {
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
    hear_event(h, event);
    astrai_event_free(event);
  } else {
    while (h->terminals == 0) {
      EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
      hear_event(h, event);
      astrai_event_free(event);
    }
  }
  CHECK(h->terminals == 1);
  astrai_request_free(request);
  CHECK(gate_value(&h->finalized) == 1);
  gate_destroy(&h->finalized);
}

static void same_answers(int poll) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_prompt *good = raw_prompt("Once upon a time"), *wizard = NULL, *empty = NULL, *endless = NULL;
  astrai_prompt *bad[3];
  astrai_request *request = NULL;
  astrai_request_options options = steady(10);
  astrai_engine_options engine_options;
  astrai_event *event = NULL;
  astrai_stats stats;
  heard h;
  int32_t tokens[8000] = {0};
  int i, how;
  CHECK(astrai_engine_options_init(&engine_options, sizeof engine_options) == ASTRAI_OK);
  engine_options.delivery = poll ? ASTRAI_DELIVER_POLL : ASTRAI_DELIVER_THREAD;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &engine_options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_new(&wizard, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(wizard, "wizard", "x", 1, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_new(&empty, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_new(&endless, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(endless, tokens, 8000, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, good, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  bad[0] = wizard;
  bad[1] = empty;
  bad[2] = endless;
  for (how = 0; how < 3; how++) {
    run(engine, good, how, poll, &h);
    CHECK(h.kind == ASTRAI_EVENT_FINISHED && h.token_count == 10);
    for (i = 0; i < 10; i++)
      CHECK(h.tokens[i] == event->tokens[i]);
    for (i = 0; i < 3; i++) {
      astrai_request *none = NULL;
      int32_t status = astrai_submit(engine, bad[i], NULL, NULL, NULL, NULL, &none, &err);
      CHECK(status >= 10 && none == NULL);
      run(engine, bad[i], how, poll, &h);
      CHECK(h.kind == ASTRAI_EVENT_FAILED && h.status == status && strcmp(h.message, err->message) == 0);
      astrai_error_free(err);
      err = NULL;
    }
  }
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  CHECK(stats.failed == 9 && stats.waiting == 0 && stats.pages_used == 0);
  /* Options are still checked at once. */
  options.flags |= ASTRAI_REQUEST_DEFER;
  options.temperature = -1.0f;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, good, &options, NULL, NULL, NULL, &request, &err));
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(good);
  astrai_prompt_free(wizard);
  astrai_prompt_free(empty);
  astrai_prompt_free(endless);
  astrai_engine_free(engine);
}

/* Cancelled, freed and closed while many wait for their prompts: each ends once, whatever it was at. */
static void cut_short(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(20);
  astrai_request *requests[60];
  static heard h[60];
  int i;
  for (i = 0; i < 400; i++)
    EXPECT(ASTRAI_OK, astrai_prompt_add_text(prompt, " and a red lantern burned", 25, 0, &err));
  options.flags |= ASTRAI_REQUEST_DEFER;
  for (i = 0; i < 60; i++) {
    gate_init(&h[i].finalized);
    options.deadline_ms = i % 4 == 3 ? 1 : 0;
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, on_event, &h[i], on_finalize, &requests[i], &err));
    if (i % 4 == 1)
      EXPECT(ASTRAI_OK, astrai_request_cancel(requests[i], &err));
    if (i % 4 == 2) {
      astrai_request_free(requests[i]);
      requests[i] = NULL;
    }
  }
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  for (i = 0; i < 60; i++) {
    CHECK(h[i].terminals == 1 && gate_value(&h[i].finalized) == 1);
    astrai_request_free(requests[i]);
    gate_destroy(&h[i].finalized);
  }
  astrai_engine_free(engine);
  astrai_prompt_free(prompt);
}

int main(int argc, char **argv) {
  CHECK(argc == 2);
  model = argv[1];
  same_answers(0);
  same_answers(1);
  cut_short();
  return 0;
}
