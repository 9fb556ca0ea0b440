/* Everything a careless or unlucky program does to an open engine: a status each time, never a crash, never a hang.
 *   hostile <model folder> [brief]     brief: for valgrind, without what takes long or leaks by design */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *model;

/* What the callbacks of one request saw. */
typedef struct watch {
  astrai_engine *engine; /* for callbacks that call back */
  gate events, terminals, finalized;
  int32_t kind, finish_reason;
  int stop_at, free_engine_at;
  int32_t inner_status;
} watch;

static void watch_init(watch *w, astrai_engine *engine) {
  memset(w, 0, sizeof *w);
  w->engine = engine;
  gate_init(&w->events);
  gate_init(&w->terminals);
  gate_init(&w->finalized);
}

static void watch_destroy(watch *w) {
  gate_destroy(&w->events);
  gate_destroy(&w->terminals);
  gate_destroy(&w->finalized);
}

static int32_t see(watch *w, const astrai_event *event) {
  CHECK(event->struct_size == sizeof *event && event->text != NULL && event->text[event->text_len] == '\0');
  CHECK(gate_value(&w->terminals) == 0 && gate_value(&w->finalized) == 0);
  CHECK((event->terminal != 0) == (event->kind != ASTRAI_EVENT_DELTA));
  CHECK((event->usage != NULL) == (event->terminal != 0));
  CHECK((event->error != NULL) == (event->kind == ASTRAI_EVENT_FAILED));
  gate_add(&w->events);
  if (event->terminal) {
    w->kind = event->kind;
    w->finish_reason = event->finish_reason;
    gate_add(&w->terminals);
  }
  return w->stop_at != 0 && gate_value(&w->events) >= w->stop_at;
}

static int32_t on_event(void *user_data, const astrai_event *event) { return see((watch *)user_data, event); }

static void on_finalize(void *user_data) {
  watch *w = (watch *)user_data;
  CHECK(gate_value(&w->finalized) == 0);
  gate_add(&w->finalized);
}

static astrai_request *start(astrai_engine *engine, int32_t max_tokens, astrai_event_fn callback, watch *w) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(max_tokens);
  EXPECT(ASTRAI_OK,
         astrai_submit(engine, prompt, &options, callback, w, w != NULL ? on_finalize : NULL, &request, &err));
  astrai_prompt_free(prompt);
  CHECK(astrai_request_id(request) != 0);
  return request;
}

static void arguments(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *prompt = raw_prompt("Once"), *empty = NULL, *strange = NULL;
  astrai_settings *settings = NULL;
  astrai_request_options options = steady(4);
  astrai_request *request = NULL;
  astrai_info info;
  astrai_stats stats;
  watch w;
  int32_t ids[2];
  int32_t *many;
  size_t count = 0;
  char text[64];
  int failures = 0;
  struct {
    astrai_stats known;
    uint64_t later;
  } newer;

  info.struct_size = 0;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_info(engine, &info, &err));
  info.struct_size = sizeof info - 1;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_info(engine, &info, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_info(engine, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_stats(engine, NULL, &err));
  info.struct_size = sizeof info;
  EXPECT(ASTRAI_OK, astrai_engine_info(engine, &info, &err));
  CHECK(info.vocab_size > 0 && info.context_length > 0 && info.layers > 0 && info.struct_size == sizeof info);
  CHECK(info.model_type[0] != '\0' && info.device_name[0] != '\0' && info.device == ASTRAI_DEVICE_CPU);
  stats.struct_size = 8;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_stats(engine, &stats, &err));
  memset(&newer, 0x55, sizeof newer);
  newer.known.struct_size = sizeof newer;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &newer.known, &err));
  CHECK(newer.known.struct_size == sizeof(astrai_stats) && newer.later == 0x5555555555555555u);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_set_log_level(engine, 5, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_close(engine, -2, &err));

#define SUBMIT(status)                                                                                                 \
  do {                                                                                                                 \
    watch_init(&w, engine);                                                                                            \
    EXPECT(status, astrai_submit(engine, strange != NULL ? strange : prompt, &options, on_event, &w, on_finalize,      \
                                 &request, &err));                                                                     \
    CHECK(request == NULL && gate_value(&w.finalized) == 1 && gate_value(&w.events) == 0);                             \
    watch_destroy(&w);                                                                                                 \
    options = steady(4);                                                                                               \
    failures++;                                                                                                        \
  } while (0)
  options.struct_size = 0;
  SUBMIT(ASTRAI_ERR_STRUCT_SIZE);
  options.struct_size = sizeof options - 4;
  SUBMIT(ASTRAI_ERR_STRUCT_SIZE);
  options.flags = 1u << 30;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.flags = ASTRAI_REQUEST_TO_ENGINE; /* and a callback */
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.max_tokens = -2;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.top_k = -2;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.logprobs = 1 << 30;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.temperature = -1.0f;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.top_p = 1.5f;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  options.repetition_penalty = 0.0f;
  SUBMIT(ASTRAI_ERR_ARGUMENT);

  EXPECT(ASTRAI_OK, astrai_prompt_new(&empty, &err));
  strange = empty;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  ids[0] = 1;
  ids[1] = (int32_t)info.vocab_size;
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(empty, ids, 2, &err));
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_detokenize(engine, ids, 2, 0, text, sizeof text, &count, &err));
  astrai_prompt_free(empty);

  strange = NULL;
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_stop_token(settings, 0x7fffffff, &err));
  options.settings = settings;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  astrai_settings_free(settings);
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_bias(settings, (int32_t)info.vocab_size, 1.0f, &err));
  options.settings = settings;
  SUBMIT(ASTRAI_ERR_ARGUMENT);
  astrai_settings_free(settings);
  options.settings = NULL;

  /* Longer than the context: the error carries both lengths. */
  count = (size_t)info.context_length + 10;
  CHECK((many = (int32_t *)calloc(count, sizeof *many)) != NULL);
  EXPECT(ASTRAI_OK, astrai_prompt_new(&strange, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(strange, many, count, &err));
  CHECK(astrai_submit(engine, strange, NULL, NULL, NULL, NULL, &request, &err) == ASTRAI_ERR_CONTEXT);
  CHECK(err->unit == ASTRAI_UNIT_TOKENS && err->needed >= count && err->available == info.context_length);
  astrai_error_free(err);
  err = NULL;
  astrai_prompt_free(strange);
  strange = NULL;
  free(many);

  /* Nobody could read it; a prompt that is no prompt; no prompt. */
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, prompt, NULL, NULL, NULL, NULL, NULL, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_submit(engine, (astrai_prompt *)engine, NULL, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, NULL, NULL, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_tokenize(engine, NULL, 0, ids, 2, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_tokenize(engine, prompt, 4, ids, 2, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_tokenize(engine, prompt, 0, NULL, 2, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_tokenize(engine, prompt, 0, ids, 2, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_detokenize(engine, NULL, 2, 0, text, sizeof text, &count, &err));
  ids[1] = -1;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_detokenize(engine, ids, 2, 0, text, sizeof text, &count, &err));

  /* None of that left anything behind. */
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  CHECK(stats.running == 0 && stats.waiting == 0 && stats.pages_used == 0 && stats.finished == 0);
  CHECK(failures == 14);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
}

/* A callback that stops: one terminal event, then the finalizer. */
static void stopping(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = (astrai_event *)engine;
  astrai_request *request;
  watch w;
  watch_init(&w, engine);
  w.stop_at = 2;
  request = start(engine, 200, on_event, &w);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_next(request, 0, &event, &err)); /* it has a callback */
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event == NULL && gate_value(&w.finalized) == 1 && gate_value(&w.terminals) == 1);
  CHECK(w.kind == ASTRAI_EVENT_CANCELLED && w.finish_reason == ASTRAI_FINISH_CALLBACK);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
  EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
  astrai_request_free(request);
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  astrai_engine_free(engine);
  watch_destroy(&w);
}

/* Every blocking call inside a callback is refused; the others work. */
static int32_t calls_inside(void *user_data, const astrai_event *event) {
  watch *w = (watch *)user_data;
  if (gate_value(&w->events) == 0) {
    astrai_error *err = NULL;
    astrai_engine *other = NULL;
    astrai_event *pulled = NULL;
    float *logits = NULL;
    size_t logit_count = 0;
    astrai_stats stats;
    astrai_request *request = start(w->engine, 1, NULL, NULL);
    int32_t status;
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_close(w->engine, 0, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_check(w->engine, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_engine_open(model, NULL, &other, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_request_wait(request, -1, &pulled, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_request_next(request, 1, &pulled, &err));
    EXPECT(ASTRAI_ERR_REENTRANT, astrai_request_logits(request, 1, &logits, &logit_count, &err));
    status = astrai_request_next(request, 0, &pulled, NULL);
    CHECK(status == ASTRAI_OK || status == ASTRAI_TIMEOUT);
    astrai_event_free(pulled);
    stats.struct_size = sizeof stats;
    EXPECT(ASTRAI_OK, astrai_engine_stats(w->engine, &stats, &err));
    EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
    astrai_request_free(request);
    /* An event shown to a callback is not the callback's to free. */
    astrai_event_free((astrai_event *)event);
  }
  return see(w, event);
}

static void blocking_inside(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_request *request;
  watch w;
  watch_init(&w, engine);
  request = start(engine, 8, calls_inside, &w);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(w.kind == ASTRAI_EVENT_FINISHED && w.finish_reason == ASTRAI_FINISH_LENGTH);
  astrai_request_free(request);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  astrai_engine_free(engine);
  watch_destroy(&w);
}

static void all_closed(astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_info info;
  astrai_stats stats;
  int32_t ids[64] = {0};
  char text[64];
  size_t count;
  info.struct_size = sizeof info;
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_close(engine, 0, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_submit(engine, prompt, NULL, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_info(engine, &info, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_stats(engine, &stats, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_cancel_all(engine, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_set_log_level(engine, 0, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_render(engine, prompt, 0, text, sizeof text, &count, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_tokenize(engine, prompt, 0, ids, 64, &count, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_detokenize(engine, ids, 1, 0, text, sizeof text, &count, &err));
  astrai_prompt_free(prompt);
}

/* Close ends requests with a terminal event; what was pulled stays readable; the rest says it is closed. */
static void closing(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_event *event = NULL;
  astrai_request *pulled, *called;
  watch w;
  watch_init(&w, engine);
  pulled = start(engine, 400, NULL, NULL);
  called = start(engine, 400, on_event, &w);
  gate_wait(&w.events, 1);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  CHECK(gate_value(&w.terminals) == 1 && gate_value(&w.finalized) == 1);
  CHECK(w.kind == ASTRAI_EVENT_CANCELLED && w.finish_reason == ASTRAI_FINISH_CLOSE);
  all_closed(engine);
  EXPECT(ASTRAI_OK, astrai_request_wait(pulled, -1, &event, &err));
  CHECK(event->terminal && event->finish_reason == ASTRAI_FINISH_CLOSE && event->usage != NULL);
  astrai_event_free(event);
  EXPECT(ASTRAI_END, astrai_request_wait(pulled, -1, &event, &err));
  EXPECT(ASTRAI_END, astrai_request_next(pulled, -1, &event, &err));
  EXPECT(ASTRAI_OK, astrai_request_cancel(pulled, &err));
  astrai_engine_free(engine);
  EXPECT(ASTRAI_END, astrai_request_next(pulled, 0, &event, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(called, -1, NULL, &err));
  CHECK(astrai_request_id(pulled) != astrai_request_id(called));
  astrai_request_free(pulled);
  astrai_request_free(called);
  watch_destroy(&w);
}

/* The terminal callback, during close or free, submits again: it is told that the engine is closed. */
static int32_t submit_at_end(void *user_data, const astrai_event *event) {
  watch *w = (watch *)user_data;
  if (event->terminal) {
    astrai_prompt *prompt = raw_prompt("again");
    w->inner_status = astrai_submit(w->engine, prompt, NULL, on_event, w, NULL, NULL, NULL);
    astrai_prompt_free(prompt);
  }
  return see(w, event);
}

static void submit_after_close_began(void) {
  astrai_error *err = NULL;
  int freed;
  for (freed = 0; freed < 2; freed++) {
    astrai_engine *engine = open_engine(model);
    astrai_request *request;
    watch w;
    watch_init(&w, engine);
    request = start(engine, 400, submit_at_end, &w);
    gate_wait(&w.events, 1);
    if (!freed)
      EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
    astrai_engine_free(engine);
    CHECK(gate_value(&w.finalized) == 1 && w.inner_status == ASTRAI_ERR_CLOSED);
    astrai_request_free(request);
    watch_destroy(&w);
  }
}

/* A callback frees its engine: the engine closes after the callback returned. */
static int32_t free_inside(void *user_data, const astrai_event *event) {
  watch *w = (watch *)user_data;
  if (w->free_engine_at != 0 && gate_value(&w->events) + 1 >= w->free_engine_at) {
    w->free_engine_at = 0;
    astrai_engine_free(w->engine);
  }
  return see(w, event);
}

static void freed_in_callback(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_request *request, *bystander;
  astrai_event *event = NULL;
  watch w;
  watch_init(&w, engine);
  w.free_engine_at = 2;
  bystander = start(engine, 400, NULL, NULL);
  request = start(engine, 400, free_inside, &w);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(gate_value(&w.terminals) == 1 && gate_value(&w.finalized) == 1);
  EXPECT(ASTRAI_OK, astrai_request_wait(bystander, -1, &event, &err));
  CHECK(event->terminal);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_request_free(bystander);
  watch_destroy(&w);
}

/* Engine, prompt, a pulled and a called request, freed in all 24 orders while the requests run. */
static void any_order(int step) {
  int order;
  for (order = 0; order < 24; order += step) {
    astrai_engine *engine = open_engine(model);
    astrai_prompt *prompt = raw_prompt("Once");
    astrai_request *pulled, *called;
    int left[4] = {0, 1, 2, 3};
    int code = order, count;
    watch w;
    watch_init(&w, engine);
    pulled = start(engine, 300, NULL, NULL);
    called = start(engine, 300, on_event, &w);
    if (order % 2 == 0)
      gate_wait(&w.events, 1);
    for (count = 4; count > 0; count--) {
      int pick = code % count, what = left[pick];
      code /= count;
      left[pick] = left[count - 1];
      if (what == 0)
        astrai_engine_free(engine);
      else if (what == 1)
        astrai_prompt_free(prompt);
      else if (what == 2)
        astrai_request_free(pulled);
      else
        astrai_request_free(called);
    }
    gate_wait(&w.finalized, 1);
    CHECK(gate_value(&w.terminals) == 1);
    watch_destroy(&w);
  }
}

/* Two threads at one request: one of them is told. */
static void *wait_for_end(void *argument) {
  astrai_event *event = NULL;
  int32_t status;
  do
    status = astrai_request_wait((astrai_request *)argument, -1, &event, NULL);
  while (status == ASTRAI_ERR_BUSY);
  CHECK(status == ASTRAI_OK && event->terminal);
  astrai_event_free(event);
  return NULL;
}

static void two_readers(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_request *request = start(engine, 1500, NULL, NULL);
  pthread_t thread;
  int32_t status;
  CHECK(pthread_create(&thread, NULL, wait_for_end, request) == 0);
  do {
    astrai_event *event = NULL;
    status = astrai_request_next(request, 0, &event, NULL);
    CHECK(status == ASTRAI_OK || status == ASTRAI_TIMEOUT || status == ASTRAI_ERR_BUSY);
    CHECK(event == NULL || !event->terminal);
    astrai_event_free(event);
  } while (status != ASTRAI_ERR_BUSY);
  EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
  pthread_join(thread, NULL);
  astrai_request_free(request);
  astrai_engine_free(engine);
}

/* A forked child is told, and can free what it inherited without hanging. */
static void forked(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_request *request = start(engine, 300, NULL, NULL);
  astrai_event *event = NULL;
  int result = -1;
  pid_t child = fork();
  if (child == 0) {
    astrai_prompt *prompt = raw_prompt("x");
    astrai_request *second = NULL;
    EXPECT(ASTRAI_ERR_FORKED, astrai_submit(engine, prompt, NULL, NULL, NULL, NULL, &second, &err));
    EXPECT(ASTRAI_ERR_FORKED, astrai_request_wait(request, -1, &event, &err));
    EXPECT(ASTRAI_ERR_FORKED, astrai_engine_close(engine, 0, &err));
    astrai_request_free(request);
    astrai_engine_free(engine);
    astrai_prompt_free(prompt);
    _exit(0);
  }
  CHECK(child > 0 && waitpid(child, &result, 0) == child && WIFEXITED(result) && WEXITSTATUS(result) == 0);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->terminal && event->finish_reason == ASTRAI_FINISH_LENGTH);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  int brief = argc == 3 && strcmp(argv[2], "brief") == 0;
  CHECK(argc == 2 || brief);
  model = argv[1];
  arguments();
  stopping();
  blocking_inside();
  closing();
  submit_after_close_began();
  freed_in_callback();
  any_order(brief ? 5 : 1);
  two_readers();
  if (!brief)
    forked(); /* the child leaks what its parent's threads owned */
  return 0;
}
