/* Several threads take the events of several requests with astrai_engine_next: those of one request come in order, whoever
 * has them.
 *   order <model folder> <rounds> */
#include "check.h"

enum { THREADS = 4, REQUESTS = 8, TEXT_MAX = 20000, TOKENS = 150 };

typedef struct host {
  astrai_engine *engine;
  pthread_mutex_t lock;
  gate ended;
  char text[REQUESTS][TEXT_MAX];
  size_t bytes[REQUESTS];
  uint64_t tokens[REQUESTS];
  int over[REQUESTS];
} host;

static void *pump(void *argument) {
  host *h = (host *)argument;
  unsigned random = 1;
  for (;;) {
    astrai_event *event = NULL;
    int32_t status = astrai_engine_next(h->engine, -1, &event, NULL);
    uint64_t tag;
    volatile unsigned work;
    if (status == ASTRAI_END)
      return NULL;
    if (status == ASTRAI_ERR_BUSY)
      continue;
    CHECK(status == ASTRAI_OK);
    /* Some take longer than others with what they have. */
    random = random * 1664525u + 1013904223u;
    for (work = random >> 14; work > 0; work--)
      ;
    tag = event->tag;
    pthread_mutex_lock(&h->lock);
    CHECK(!h->over[tag] && event->first_token == h->tokens[tag] && event->first_byte == h->bytes[tag]);
    CHECK(h->bytes[tag] + event->text_len < TEXT_MAX);
    memcpy(h->text[tag] + h->bytes[tag], event->text, event->text_len);
    h->bytes[tag] += event->text_len;
    h->tokens[tag] += event->token_count;
    h->over[tag] = event->terminal;
    pthread_mutex_unlock(&h->lock);
    if (event->terminal)
      gate_add(&h->ended);
    astrai_event_free(event);
  }
}

static astrai_request_options options_of(void) {
  astrai_request_options options = steady(TOKENS);
  options.flags |= ASTRAI_REQUEST_SEEDED;
  options.seed = 5;
  return options;
}

static int scrambled(const char *model) {
  static host h;
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request_options options = options_of();
  astrai_request *request = NULL;
  astrai_event *alone = NULL;
  pthread_t threads[THREADS];
  int i, bad = 0;
  memset(&h, 0, sizeof h);
  pthread_mutex_init(&h.lock, NULL);
  gate_init(&h.ended);
  h.engine = open_engine(model);
  for (i = 0; i < THREADS; i++)
    CHECK(pthread_create(&threads[i], NULL, pump, &h) == 0);
  options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  for (i = 0; i < REQUESTS; i++) {
    options.tag = (uint64_t)i;
    EXPECT(ASTRAI_OK, astrai_submit(h.engine, prompt, &options, NULL, NULL, NULL, NULL, &err));
  }
  gate_wait(&h.ended, REQUESTS);
  options = options_of();
  EXPECT(ASTRAI_OK, astrai_submit(h.engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &alone, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(h.engine, 0, &err));
  for (i = 0; i < THREADS; i++)
    pthread_join(threads[i], NULL);
  for (i = 0; i < REQUESTS; i++) {
    CHECK(h.tokens[i] == TOKENS);
    bad += h.bytes[i] != alone->text_len || memcmp(h.text[i], alone->text, alone->text_len) != 0;
  }
  astrai_event_free(alone);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_engine_free(h.engine);
  gate_destroy(&h.ended);
  pthread_mutex_destroy(&h.lock);
  return bad;
}

int main(int argc, char **argv) {
  int round, rounds, bad = 0;
  CHECK(argc == 3);
  rounds = atoi(argv[2]);
  for (round = 0; round < rounds; round++)
    bad += scrambled(argv[1]);
  printf("scrambled %d of %d\n", bad, rounds * REQUESTS);
  return bad != 0;
}
