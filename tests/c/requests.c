/* What the API promises when it is used as meant: text functions, events and what they carry, options, callbacks.
 *   requests <model folder> */
#include "check.h"
#include <math.h>

static const char *model;

/* Everything a request produced. */
typedef struct heard {
  char text[16384];
  size_t text_len;
  int32_t tokens[2048];
  float logprobs[2048];
  size_t token_count, logprob_count;
  uint64_t tag, request_id;
  astrai_usage usage;
  int32_t kind, finish_reason;
  int events, terminals, finalized;
} heard;

static int32_t hear(void *user_data, const astrai_event *event) {
  heard *h = (heard *)user_data;
  CHECK(h->terminals == 0);
  CHECK(h->text_len + event->text_len < sizeof h->text && h->token_count + event->token_count <= 2048);
  memcpy(h->text + h->text_len, event->text, event->text_len);
  h->text_len += event->text_len;
  if (event->token_count > 0)
    memcpy(h->tokens + h->token_count, event->tokens, event->token_count * sizeof(int32_t));
  if (event->logprobs != NULL) {
    memcpy(h->logprobs + h->logprob_count, event->logprobs, event->token_count * sizeof(float));
    h->logprob_count += event->token_count;
  }
  h->token_count += event->token_count;
  h->tag = event->tag;
  h->request_id = event->request_id;
  h->events++;
  if (event->terminal) {
    h->terminals++;
    h->kind = event->kind;
    h->finish_reason = event->finish_reason;
    h->usage = *event->usage;
  }
  return 0;
}

static void hear_end(void *user_data) {
  heard *h = (heard *)user_data;
  CHECK(h->terminals == 1);
  h->finalized++;
}

/* Submits and waits: by callback, by next until the end, or by one wait. */
static void run(const astrai_engine *engine, const astrai_prompt *prompt, const astrai_request_options *options,
                int how, heard *h) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  memset(h, 0, sizeof *h);
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, options, how == 0 ? hear : NULL, h, how == 0 ? hear_end : NULL,
                                  &request, &err));
  if (how == 0) {
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
    CHECK(h->finalized == 1);
  } else if (how == 1) {
    while (h->terminals == 0) {
      EXPECT(ASTRAI_OK, astrai_request_next(request, -1, &event, &err));
      hear(h, event);
      astrai_event_free(event);
    }
    EXPECT(ASTRAI_END, astrai_request_next(request, -1, &event, &err));
  } else {
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
    hear(h, event);
    astrai_event_free(event);
    EXPECT(ASTRAI_END, astrai_request_wait(request, 0, &event, &err));
  }
  CHECK(h->terminals == 1 && h->request_id == astrai_request_id(request));
  CHECK(h->usage.generated_tokens == h->token_count && h->usage.total_us >= h->usage.first_token_us);
  astrai_request_free(request);
}

/* Works on an engine without weights too. */
static void text_functions(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_prompt *raw = raw_prompt("Once upon a time in Orl\xc3\xa9" "ans"), *chat = NULL;
  size_t need = 0, count = 0;
  int32_t ids[64];
  char text[256];

  CHECK(astrai_tokenize(engine, raw, 0, NULL, 0, &need, &err) == ASTRAI_ERR_BUFFER);
  CHECK(err->unit == ASTRAI_UNIT_TOKENS && err->needed == need && err->available == 0);
  astrai_error_free(err);
  err = NULL;
  CHECK(need > 3 && need < 64);
  EXPECT(ASTRAI_ERR_BUFFER, astrai_tokenize(engine, raw, 0, ids, need - 1, &count, &err));
  CHECK(count == need);
  EXPECT(ASTRAI_OK, astrai_tokenize(engine, raw, 0, ids, need, &count, &err));
  CHECK(count == need);

  EXPECT(ASTRAI_ERR_BUFFER, astrai_detokenize(engine, ids, count, 0, NULL, 0, &need, &err));
  memset(text, '#', sizeof text);
  EXPECT(ASTRAI_ERR_BUFFER, astrai_detokenize(engine, ids, count, 0, text, need - 1, &count, &err));
  CHECK(text[0] == '#' && count == need);
  EXPECT(ASTRAI_OK, astrai_tokenize(engine, raw, 0, ids, 64, &count, &err));
  EXPECT(ASTRAI_OK, astrai_detokenize(engine, ids, count, 0, text, need, &count, &err));
  CHECK(count + 1 == need && text[count] == '\0' && text[need] == '#');
  CHECK(strcmp(text, "Once upon a time in Orl\xc3\xa9" "ans") == 0);
  EXPECT(ASTRAI_OK, astrai_detokenize(engine, NULL, 0, 0, text, sizeof text, &count, &err));
  CHECK(count == 0 && text[0] == '\0');

  EXPECT(ASTRAI_OK, astrai_prompt_new(&chat, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(chat, "user", "Good evening!", 13, &err));
  EXPECT(ASTRAI_OK, astrai_render(engine, chat, 0, text, sizeof text, &count, &err));
  CHECK(strstr(text, "Good evening!") != NULL && strlen(text) == count);
  need = count;
  EXPECT(ASTRAI_OK,
         astrai_render(engine, chat, ASTRAI_TEXT_NO_GENERATION_PROMPT, text, sizeof text, &count, &err));
  CHECK(count < need && strlen(text) == count);
  /* A template that raises gives its own words. */
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(chat, "wizard", "x", 1, &err));
  CHECK(astrai_render(engine, chat, 0, text, sizeof text, &count, &err) == ASTRAI_ERR_TEMPLATE);
  CHECK(strstr(err->message, "wizard") != NULL);
  astrai_error_free(err);
  err = NULL;
  /* The messages given as JSON are the same messages. */
  EXPECT(ASTRAI_OK, astrai_prompt_set_json(chat, ASTRAI_JSON_MESSAGES,
                                           "[{\"role\": \"user\", \"content\": \"Good evening!\"}]", 46, &err));
  EXPECT(ASTRAI_OK, astrai_render(engine, chat, 0, text, sizeof text, &count, &err));
  CHECK(count == need);
  astrai_prompt_free(chat);
  astrai_prompt_free(raw);
}

/* A seeded request gives the same tokens however it is received, and alone or among others. */
static void receiving(const astrai_engine *engine) {
  static heard by[3];
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(40);
  int i;
  options.temperature = 0.9f;
  options.tag = 0xfeedfacecafebeefu;
  options.logprobs = 0;
  for (i = 0; i < 3; i++)
    run(engine, prompt, &options, i, &by[i]);
  CHECK(by[2].events == 1);
  for (i = 0; i < 3; i++) {
    CHECK(by[i].kind == ASTRAI_EVENT_FINISHED && by[i].finish_reason == ASTRAI_FINISH_LENGTH);
    CHECK(by[i].token_count == 40 && by[i].logprob_count == 40 && by[i].tag == options.tag);
    CHECK(by[i].usage.seed == 7 && by[i].usage.prompt_tokens > 0);
    CHECK(by[i].text_len == by[0].text_len && memcmp(by[i].text, by[0].text, by[0].text_len) == 0);
    CHECK(memcmp(by[i].tokens, by[0].tokens, sizeof by[0].tokens) == 0);
    CHECK(memcmp(by[i].logprobs, by[0].logprobs, sizeof by[0].logprobs) == 0);
  }
  CHECK(by[0].request_id != by[1].request_id && by[1].request_id != by[2].request_id);
  astrai_prompt_free(prompt);
}

/* Log probabilities: of the prompt, of each token, of the alternatives. */
static void logprobs(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = steady(5);
  uint32_t i, k;
  options.flags |= ASTRAI_REQUEST_PROMPT_LOGPROBS;
  options.logprobs = 3;
  options.temperature = 0.0f;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->token_count == 5 && event->top_count == 3);
  for (i = 0; i < 5; i++) {
    /* Greedy takes the best one. */
    CHECK(event->tokens[i] == event->top_tokens[i * 3] && event->logprobs[i] == event->top_logprobs[i * 3]);
    for (k = 1; k < 3; k++)
      CHECK(event->top_logprobs[i * 3 + k] <= event->top_logprobs[i * 3 + k - 1]);
    CHECK(event->logprobs[i] <= 0.0f && event->logprobs[i] > -100.0f);
  }
  CHECK(event->prompt_count == event->usage->prompt_tokens && isnan(event->prompt_logprobs[0]));
  CHECK(event->embedding == NULL && event->embedding_len == 0);
  for (i = 1; i < event->prompt_count; i++)
    CHECK(event->prompt_logprobs[i] <= 0.0f);
  astrai_event_free(event);
  astrai_request_free(request);

  /* max_tokens 0 only scores. */
  options.max_tokens = 0;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->token_count == 0 && event->tokens == NULL && event->text_len == 0 && event->text[0] == '\0');
  CHECK(event->prompt_count == event->usage->prompt_tokens && event->finish_reason == ASTRAI_FINISH_LENGTH);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
}

/* The embedding of a prompt: in the last event alone, of norm 1 without a word of the model's; options about tokens are refused. */
static void embedding(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options;
  double norm = 0;
  size_t i;
  CHECK(astrai_request_options_init(&options, sizeof options) == ASTRAI_OK);
  options.flags = ASTRAI_REQUEST_EMBED;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->terminal && event->kind == ASTRAI_EVENT_FINISHED && event->finish_reason == ASTRAI_FINISH_LENGTH);
  CHECK(event->token_count == 0 && event->text_len == 0 && event->embedding_len > 1);
  for (i = 0; i < event->embedding_len; i++)
    norm += (double)event->embedding[i] * event->embedding[i];
  CHECK(fabs(norm - 1) < 1e-5 && event->usage->prompt_tokens > 1 && event->usage->generated_tokens == 0);
  astrai_event_free(event);
  astrai_request_free(request);
  options.temperature = 0.5f;
  CHECK(astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err) == ASTRAI_ERR_ARGUMENT);
  CHECK(strcmp(err->subject, "temperature") == 0);
  astrai_error_free(err);
  astrai_prompt_free(prompt);
}

/* Stops and biases. */
static void stops(const astrai_engine *engine) {
  static heard whole, cut, banned;
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_settings *settings = NULL;
  astrai_request_options options = steady(60);
  size_t len, i;
  options.temperature = 0.0f;
  run(engine, prompt, &options, 0, &whole);
  CHECK(whole.text_len > 30);

  /* Some letters from the middle: they may begin and end inside tokens, and none of them may be delivered. */
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  options.settings = settings;
  EXPECT(ASTRAI_OK, astrai_settings_add_stop(settings, whole.text + 20, 5, &err));
  run(engine, prompt, &options, 0, &cut);
  whole.text[whole.text_len] = '\0';
  {
    char needle[6] = {0};
    memcpy(needle, whole.text + 20, 5);
    len = (size_t)(strstr(whole.text, needle) - whole.text);
  }
  CHECK(cut.finish_reason == ASTRAI_FINISH_STOP && cut.text_len == len);
  CHECK(memcmp(cut.text, whole.text, len) == 0 && cut.token_count < whole.token_count);
  astrai_settings_free(settings);

  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  options.settings = settings;
  EXPECT(ASTRAI_OK, astrai_settings_add_stop_token(settings, whole.tokens[3], &err));
  run(engine, prompt, &options, 0, &cut);
  CHECK(cut.finish_reason == ASTRAI_FINISH_STOP && cut.token_count <= 4);
  CHECK(cut.tokens[cut.token_count - 1] == whole.tokens[3]);
  astrai_settings_free(settings);

  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  options.settings = settings;
  EXPECT(ASTRAI_OK, astrai_settings_add_bias(settings, whole.tokens[0], (float)-INFINITY, &err));
  run(engine, prompt, &options, 0, &banned);
  for (i = 0; i < banned.token_count; i++)
    CHECK(banned.tokens[i] != whole.tokens[0]);
  astrai_settings_free(settings);
  astrai_prompt_free(prompt);
}

/* A deadline, a cancel, and cancel_all: each ends with its own reason. */
static void cut_short(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *request[3] = {NULL, NULL, NULL};
  astrai_event *event = NULL;
  astrai_request_options options = steady(-1);
  int i;
  options.deadline_ms = 1;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request[0], &err));
  options.deadline_ms = 0;
  for (i = 1; i < 3; i++)
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request[i], &err));
  EXPECT(ASTRAI_OK, astrai_request_cancel(request[1], &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request[1], -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_CANCELLED && event->finish_reason == ASTRAI_FINISH_CANCEL);
  astrai_event_free(event);
  EXPECT(ASTRAI_OK, astrai_request_wait(request[0], -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_CANCELLED && event->finish_reason == ASTRAI_FINISH_DEADLINE);
  astrai_event_free(event);
  EXPECT(ASTRAI_OK, astrai_engine_cancel_all(engine, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request[2], -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_CANCELLED && event->finish_reason == ASTRAI_FINISH_CANCEL);
  astrai_event_free(event);
  for (i = 0; i < 3; i++)
    astrai_request_free(request[i]);
  astrai_prompt_free(prompt);
}

/* A request without a handle runs to its end. */
static void post(void *user_data) { gate_add((gate *)user_data); }

static int32_t count_terminal(void *user_data, const astrai_event *event) {
  if (event->terminal)
    gate_add((gate *)user_data);
  return 0;
}

static void detached(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_request_options options = steady(10);
  gate g;
  gate_init(&g);
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, count_terminal, &g, post, NULL, &err));
  astrai_prompt_free(prompt);
  gate_wait(&g, 2); /* the terminal event, and then the finalizer */
  gate_destroy(&g);
}

/* Loading: progress on this thread, log lines, and who gets the user data. */
typedef struct loading {
  pthread_t opener;
  uint64_t done, total;
  int calls, abort_at, lines, finalized;
  int32_t inner;
} loading;

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  loading *l = (loading *)user_data;
  astrai_engine *inner = NULL;
  CHECK(pthread_equal(l->opener, pthread_self()) && l->finalized == 0);
  CHECK(done >= l->done && done <= total);
  l->done = done;
  l->total = total;
  l->calls++;
  l->inner = astrai_engine_open(model, NULL, &inner, NULL);
  return l->abort_at != 0 && l->calls >= l->abort_at;
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  loading *l = (loading *)user_data;
  CHECK(l->finalized == 0 && level >= ASTRAI_LOG_ERROR && level <= ASTRAI_LOG_INFO);
  CHECK(len > 0 && text[len] == '\0');
  l->lines++;
}

static void on_finalize(void *user_data) { ((loading *)user_data)->finalized++; }

static void loading_callbacks(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  loading l;
  int lines;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.progress = on_progress;
  options.log = on_log;
  options.log_level = ASTRAI_LOG_INFO;
  options.finalize = on_finalize;
  options.user_data = &l;
  options.flags = ASTRAI_ENGINE_NO_MMAP;

  memset(&l, 0, sizeof l);
  l.opener = pthread_self();
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  CHECK(l.calls > 0 && l.done == l.total && l.total > 0 && l.lines > 0 && l.finalized == 0);
  CHECK(l.inner == ASTRAI_ERR_REENTRANT);
  EXPECT(ASTRAI_OK, astrai_engine_set_log_level(engine, ASTRAI_LOG_OFF, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  CHECK(l.finalized == 0);
  astrai_engine_free(engine);
  CHECK(l.finalized == 1);

  memset(&l, 0, sizeof l);
  l.opener = pthread_self();
  l.abort_at = 1;
  engine = NULL;
  EXPECT(ASTRAI_ERR_ABORTED, astrai_engine_open(model, &options, &engine, &err));
  CHECK(engine == NULL && l.calls == 1 && l.finalized == 1);

  memset(&l, 0, sizeof l);
  l.opener = pthread_self();
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", &options, &engine, &err));
  CHECK(l.lines == 1 && l.finalized == 1); /* a failing open is logged */

  /* Without callbacks the user data lives as long as the engine all the same. */
  memset(&l, 0, sizeof l);
  options.progress = NULL;
  options.log = NULL;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  CHECK(l.finalized == 0);
  astrai_engine_free(engine);
  CHECK(l.finalized == 1);
  lines = l.lines;
  CHECK(lines == 0);
}

static void without_weights(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_request *request = NULL;
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_engine_options options;
  astrai_stats stats;
  astrai_info info;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.flags = ASTRAI_ENGINE_TEXT_ONLY;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  text_functions(engine);
  info.struct_size = sizeof info;
  EXPECT(ASTRAI_OK, astrai_engine_info(engine, &info, &err));
  CHECK(info.has_chat_template == 1 && info.layers == 0);
  EXPECT(ASTRAI_ERR_UNSUPPORTED, astrai_submit(engine, prompt, NULL, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  EXPECT(ASTRAI_OK, astrai_engine_cancel_all(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_close(engine, -1, &err));
  astrai_engine_free(engine);
  astrai_prompt_free(prompt);
}

int main(int argc, char **argv) {
  astrai_error *err = NULL;
  astrai_engine *engine;
  astrai_stats stats;
  CHECK(argc == 2);
  model = argv[1];
  engine = open_engine(model);
  text_functions(engine);
  receiving(engine);
  logprobs(engine);
  embedding(engine);
  stops(engine);
  cut_short(engine);
  detached(engine);
  /* Counters are published between steps: the second check is answered after the step that follows the first. */
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  CHECK(stats.pages_used == 0 && stats.running == 0 && stats.waiting == 0 && stats.failed == 0);
  CHECK(stats.finished == 3 + 2 + 1 + 4 + 1 && stats.cancelled == 3 && stats.tokens_out >= 120);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  astrai_engine_free(engine);
  loading_callbacks();
  without_weights();
  return 0;
}
