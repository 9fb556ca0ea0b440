/* What the host does to rounding and denormals changes nothing that the library computes, and comes back as it was.
 *   floats <model folder> <an empty folder> */
#include "check.h"
#include <fenv.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#define TOKENS 12

static const char *model;
static const char *folder;
static int wanted;
static int callbacks;

/* Rounds upwards; on x86-64 denormals are also zero. */
static void change(void) {
  CHECK(fesetround(FE_UPWARD) == 0);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() | 0x8040);
#endif
}

static void restore(void) {
  CHECK(fesetround(FE_TONEAREST) == 0);
#if defined(__x86_64__)
  _mm_setcsr(_mm_getcsr() & ~0x8040u);
#endif
}

static void check_mode(int changed) {
  CHECK(fegetround() == (changed ? FE_UPWARD : FE_TONEAREST));
#if defined(__x86_64__)
  CHECK((_mm_getcsr() & 0x8040) == (changed ? 0x8040u : 0u));
  CHECK((_mm_getcsr() & 0x6000) == (changed ? 0x4000u : 0u));
#endif
}

/* Callbacks on the host's own thread find its mode. */
static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data;
  (void)done;
  (void)total;
  check_mode(wanted);
  callbacks++;
  return 0;
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data;
  (void)level;
  (void)text;
  (void)len;
  check_mode(wanted);
}

typedef struct answer {
  int32_t tokens[TOKENS];
  float logprobs[TOKENS];
  float top[TOKENS * 3];
  float first_prompt[8];
  char text[512];
} answer;

static int32_t on_event(void *user_data, const astrai_event *event) {
  answer *a = (answer *)user_data;
  check_mode(wanted);
  CHECK(event->terminal == 0 || event->kind == ASTRAI_EVENT_FINISHED);
  (void)a;
  callbacks++;
  return 0;
}

/* Opens, renders and runs a request, in the mode that the two flags say. */
static void ask(int32_t weights, int32_t compute, const char *cache, int opening, int asking, answer *a) {
  static const char variables[] = "{\"x\": 0.1234567890123456789, \"y\": 123456789012345678901234e-20}";
  astrai_engine_options options;
  astrai_request_options request_options = steady(TOKENS);
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL, *shown = NULL;
  astrai_event *event = NULL;
  size_t count = 0;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.threads = 2;
  options.weights = weights;
  options.compute = compute;
  options.weights_cache = cache;
  options.delivery = ASTRAI_DELIVER_POLL;
  options.progress = on_progress;
  options.log = on_log;
  options.log_level = ASTRAI_LOG_INFO;
  memset(a, 0, sizeof *a);
  wanted = opening;
  if (opening)
    change();
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  check_mode(opening);
  restore();
  wanted = asking;
  if (asking)
    change();
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(prompt, "user", "Tell me a story about Mira and a silver key.", 44, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_set_json(prompt, ASTRAI_JSON_VARIABLES, variables, strlen(variables), &err));
  EXPECT(ASTRAI_OK, astrai_render(engine, prompt, 0, a->text, sizeof a->text, &count, &err));
  request_options.flags |= ASTRAI_REQUEST_PROMPT_LOGPROBS;
  request_options.temperature = 0.9f;
  request_options.top_p = 0.95f;
  request_options.repetition_penalty = 1.1f;
  request_options.logprobs = 3;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, on_event, a, NULL, &shown, &err));
  check_mode(asking);
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(shown, -1, NULL, &err));
  check_mode(asking);
  restore();
  CHECK(event->kind == ASTRAI_EVENT_FINISHED && event->token_count == TOKENS && event->top_count == 3);
  CHECK(event->prompt_count > 9);
  memcpy(a->tokens, event->tokens, sizeof a->tokens);
  memcpy(a->logprobs, event->logprobs, sizeof a->logprobs);
  memcpy(a->top, event->top_logprobs, sizeof a->top);
  memcpy(a->first_prompt, event->prompt_logprobs + 1, sizeof a->first_prompt);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_request_free(shown);
  astrai_prompt_free(prompt);
  wanted = 0;
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  static const int32_t weights[4] = {ASTRAI_TYPE_AUTO, ASTRAI_TYPE_Q8, ASTRAI_TYPE_Q5, ASTRAI_TYPE_Q4};
  static const int32_t computes[2] = {ASTRAI_TYPE_F32, ASTRAI_TYPE_BF16};
  int w, c, mode;
  CHECK(argc == 3);
  model = argv[1];
  folder = argv[2];
  for (w = 0; w < 4; w++) {
    for (c = 0; c < 2; c++) {
      answer expected, got;
      ask(weights[w], computes[c], NULL, 0, 0, &expected);
      for (mode = 1; mode < 4; mode++) {
        ask(weights[w], computes[c], NULL, mode & 1, mode >> 1, &got);
        if (memcmp(&expected, &got, sizeof got) != 0) {
          fprintf(stderr, "weights %d, compute %d: the host's mode %d changed what was computed\n", (int)weights[w],
                  (int)computes[c], mode);
          return 1;
        }
      }
    }
  }
  /* What is kept while the mode is another one is what anybody would have kept. */
  {
    answer expected, got;
    ask(ASTRAI_TYPE_Q4, ASTRAI_TYPE_BF16, NULL, 0, 0, &expected);
    ask(ASTRAI_TYPE_Q4, ASTRAI_TYPE_BF16, folder, 1, 0, &got);
    CHECK(memcmp(&expected, &got, sizeof got) == 0);
    ask(ASTRAI_TYPE_Q4, ASTRAI_TYPE_BF16, folder, 0, 0, &got);
    CHECK(memcmp(&expected, &got, sizeof got) == 0);
  }
  CHECK(callbacks > 0);
  return 0;
}
