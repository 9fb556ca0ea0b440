/* Long texts: what cannot fit is refused at once, nobody waits for somebody else's text, and an engine that closes waits for
 * none of it. A decoder that makes megabytes of one token is refused when the model is opened.
 *   long_text <model folder> <the same with a decoder that grows> */
#define _POSIX_C_SOURCE 200809L
#include "check.h"
#include <time.h>

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static astrai_prompt *long_prompt(size_t bytes) {
  static const char words[] = "once upon a time there was ";
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  size_t i;
  char *text = (char *)malloc(bytes);
  CHECK(text != NULL);
  for (i = 0; i < bytes; i++)
    text[i] = words[i % (sizeof words - 1)];
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_text(prompt, text, bytes, 0, &err));
  free(text);
  return prompt;
}

/* Both ways to submit 50 MB: ERR_CONTEXT with how many tokens it has at least. */
static void refused_at_once(const char *model) {
  astrai_error *err = NULL;
  astrai_event *event = NULL;
  astrai_request *request = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *prompt = long_prompt((size_t)50 << 20);
  astrai_request_options options = steady(3);
  double begin = now();
  CHECK(astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err) == ASTRAI_ERR_CONTEXT);
  CHECK(now() - begin < 1);
  CHECK(err->unit == ASTRAI_UNIT_TOKENS && err->needed > 100000 && err->available > 0 && err->available < 100000);
  CHECK(strstr(err->message, "at least") != NULL);
  astrai_error_free(err);
  err = NULL;
  options.flags |= ASTRAI_REQUEST_DEFER;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FAILED && event->error->status == ASTRAI_ERR_CONTEXT);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  astrai_engine_free(engine);
}

/* A long deferred prompt, a short one behind it, and a close; how long the close took. */
static double closed_after(const char *model) {
  astrai_error *err = NULL;
  astrai_event *event = NULL;
  astrai_request *first = NULL, *second = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *large = long_prompt((size_t)8 << 20), *small = raw_prompt("hello");
  astrai_request_options options = steady(3);
  double begin;
  options.flags |= ASTRAI_REQUEST_DEFER;
  options.deadline_ms = 100;
  EXPECT(ASTRAI_OK, astrai_submit(engine, large, &options, NULL, NULL, NULL, &first, &err));
  options.deadline_ms = 0;
  EXPECT(ASTRAI_OK, astrai_submit(engine, small, &options, NULL, NULL, NULL, &second, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(second, 3000, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FINISHED && event->token_count == 3);
  astrai_event_free(event);
  EXPECT(ASTRAI_OK, astrai_request_wait(first, 3000, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_CANCELLED || event->error->status == ASTRAI_ERR_CONTEXT);
  astrai_event_free(event);
  begin = now();
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  begin = now() - begin;
  astrai_request_free(first);
  astrai_request_free(second);
  astrai_prompt_free(large);
  astrai_prompt_free(small);
  astrai_engine_free(engine);
  return begin;
}

typedef struct reader {
  astrai_engine *engine;
  astrai_prompt *prompt;
  gate began;
  int32_t status;
} reader;

static void *read_long(void *argument) {
  reader *r = (reader *)argument;
  size_t count = 0;
  gate_add(&r->began);
  r->status = astrai_tokenize(r->engine, r->prompt, 0, NULL, 0, &count, NULL);
  return NULL;
}

/* A caller that counts the tokens of 60 MB, and another thread that closes the engine. */
static void close_ends_a_count(const char *model) {
  astrai_error *err = NULL;
  reader r;
  pthread_t thread;
  double begin;
  r.engine = open_engine(model);
  r.prompt = long_prompt((size_t)60 << 20);
  r.status = -1;
  gate_init(&r.began);
  CHECK(pthread_create(&thread, NULL, read_long, &r) == 0);
  gate_wait(&r.began, 1);
  begin = now();
  EXPECT(ASTRAI_OK, astrai_engine_close(r.engine, 0, &err));
  CHECK(pthread_join(thread, NULL) == 0);
  CHECK(r.status == ASTRAI_ERR_CLOSED && now() - begin < 3);
  gate_destroy(&r.began);
  astrai_prompt_free(r.prompt);
  astrai_engine_free(r.engine);
}

/* Where a text is cut into parts changes no token. */
static void parts_are_one_text(const char *model) {
  static const char *const parts[] = {"Once upo", "n a ti", "", "me, there", " was"};
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *whole = raw_prompt("Once upon a time, there was"), *cut = raw_prompt("");
  int32_t expected[64], ids[64];
  size_t count = 0, cut_count = 0, i;
  for (i = 0; i < sizeof parts / sizeof *parts; i++)
    EXPECT(ASTRAI_OK, astrai_prompt_add_text(cut, parts[i], strlen(parts[i]), i % 2 == 0 ? (uint32_t)ASTRAI_TEXT_SPECIAL : 0, &err));
  EXPECT(ASTRAI_OK, astrai_tokenize(engine, whole, 0, expected, 64, &count, &err));
  EXPECT(ASTRAI_OK, astrai_tokenize(engine, cut, 0, ids, 64, &cut_count, &err));
  CHECK(count > 0 && count == cut_count && memcmp(expected, ids, count * sizeof *ids) == 0);
  astrai_prompt_free(whole);
  astrai_prompt_free(cut);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  double least = 1e9;
  int i;
  CHECK(argc == 3);
  parts_are_one_text(argv[1]);
  refused_at_once(argv[1]);
  /* Of three: a machine with other work may delay one. */
  for (i = 0; i < 3; i++) {
    double took = closed_after(argv[1]);
    least = took < least ? took : least;
  }
  CHECK(least < 0.1);
  close_ends_a_count(argv[1]);
  CHECK(astrai_engine_open(argv[2], NULL, &engine, &err) == ASTRAI_ERR_FORMAT);
  CHECK(strstr(err->message, "decoder") != NULL && err->unit == ASTRAI_UNIT_BYTES && err->needed > err->available);
  astrai_error_free(err);
  return 0;
}
