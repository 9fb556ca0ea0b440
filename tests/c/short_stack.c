/* Every function of the library, called on a thread with the stack that the header's contract asks for, and none below it:
 * the pages under it cannot be touched, so an overflow ends the program.
 *   short_stack <model folder> <an empty folder>
 * Prints the bytes of stack that each group of calls used. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "check.h"
#include <sys/mman.h>
#include <unistd.h>

/* As the contract says. */
#define STACK_BYTES (64u << 10)
#define GUARD_BYTES (4u << 20)
#define UNTOUCHED 0xa5

static const char *model;
static const char *folder;
static unsigned char *stack;
static pthread_t opener;
static int progressed;

static const char *in_folder(const char *name) {
  static char path[4096];
  CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
  return path;
}

/* The bytes of the stack that were written since it was last painted. */
static size_t used(void) {
  size_t i = 0;
  while (i < STACK_BYTES && stack[i] == UNTOUCHED)
    i++;
  return STACK_BYTES - i;
}

static void on_short_stack(const char *name, void *(*body)(void *)) {
  pthread_attr_t attributes;
  pthread_t thread;
  memset(stack, UNTOUCHED, STACK_BYTES);
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstack(&attributes, stack, STACK_BYTES) == 0);
  CHECK(pthread_create(&thread, &attributes, body, NULL) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
  pthread_attr_destroy(&attributes);
  printf("%s %lu\n", name, (unsigned long)used());
  fflush(stdout);
}

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data;
  /* Whatever thread the work moved to. */
  CHECK(pthread_equal(pthread_self(), opener) && done <= total);
  progressed++;
  return 0;
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data;
  (void)level;
  CHECK(strlen(text) == len);
}

static void *nothing(void *argument) { return argument; }

static astrai_engine *engine;
static astrai_engine *polled;

static void *opening(void *argument) {
  astrai_engine_options options;
  astrai_plan plan;
  astrai_info info;
  astrai_stats stats;
  astrai_engine *none = NULL;
  astrai_error *err = NULL;
  opener = pthread_self();
  CHECK(astrai_abi_version() == ASTRAI_ABI_VERSION && astrai_version() != NULL && astrai_status_name(0) != NULL);
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.progress = on_progress;
  options.log = on_log;
  options.log_level = ASTRAI_LOG_DEBUG;
  plan.struct_size = sizeof plan;
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, &options, &plan, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", &options, &none, &err));
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  CHECK(progressed > 0);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.weights = ASTRAI_TYPE_Q8;
  options.weights_cache = folder;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &polled, &err));
  info.struct_size = sizeof info;
  EXPECT(ASTRAI_OK, astrai_engine_info(engine, &info, &err));
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_set_log_level(engine, ASTRAI_LOG_WARN, &err));
  return argument;
}

/* Messages as deep as JSON may be. */
#define DEPTH 120
static void *chatting(void *argument) {
  static char json[4 * DEPTH + 200];
  static char text[1 << 16];
  static int32_t tokens[1 << 14];
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL, *copy = NULL;
  astrai_request_options options = steady(3);
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_prefix *prefix = NULL;
  size_t count = 0, at;
  int i;
  at = (size_t)sprintf(json, "[{\"role\":\"user\",\"content\":\"Who has the key?\",\"extra\":");
  for (i = 0; i < DEPTH; i++)
    json[at++] = '[';
  for (i = 0; i < DEPTH; i++)
    json[at++] = ']';
  at += (size_t)sprintf(json + at, "}]");
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_set_json(prompt, ASTRAI_JSON_MESSAGES, json, at, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_set_json(prompt, ASTRAI_JSON_VARIABLES, "{\"x\":[1,2.5]}", 13, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_set_json(prompt, ASTRAI_JSON_VARIABLES, "{}", 2, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_clone(prompt, &copy, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(copy, "assistant", "Mira.", 5, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(copy, "user", "Why?", 4, &err));
  EXPECT(ASTRAI_OK, astrai_render(engine, copy, 0, text, sizeof text, &count, &err));
  EXPECT(ASTRAI_OK, astrai_tokenize(engine, copy, 0, tokens, sizeof tokens / sizeof *tokens, &count, &err));
  EXPECT(ASTRAI_OK, astrai_detokenize(engine, tokens, count, 0, text, sizeof text, &count, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, copy, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FINISHED);
  astrai_event_free(event);
  astrai_request_free(request);
  options.flags |= ASTRAI_REQUEST_DEFER;
  EXPECT(ASTRAI_OK, astrai_submit(engine, copy, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FINISHED);
  astrai_event_free(event);
  astrai_request_free(request);
  EXPECT(ASTRAI_OK, astrai_prefix_pin(engine, copy, &prefix, &err));
  EXPECT(ASTRAI_OK, astrai_prefix_wait(prefix, -1, NULL, &err));
  astrai_prefix_free(prefix);
  astrai_prompt_free(copy);
  astrai_prompt_free(prompt);
  return argument;
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  (void)event;
  ++*(int *)user_data;
  return 0;
}

static void on_done(void *user_data) { *(int *)user_data += 1000; }

static void *running(void *argument) {
  static int32_t ids[3] = {5, 6, 7};
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time there was a keeper of the lighthouse who spoke slowly.");
  astrai_request_options options = steady(40);
  astrai_settings *settings = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  int events = 0;
  uint32_t ran;
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(prompt, ids, 3, &err));
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_stop(settings, "never ever", 10, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_stop_token(settings, 1, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_bias(settings, 9, 0.5f, &err));
  options.settings = settings;
  options.logprobs = 4;
  options.temperature = 0.9f;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  CHECK(astrai_request_id(request) != 0);
  EXPECT(ASTRAI_OK, astrai_request_next(request, -1, &event, &err));
  astrai_event_free(event);
  EXPECT(ASTRAI_OK, astrai_request_cancel(request, &err));
  astrai_request_free(request);
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, on_event, &events, on_done, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(events > 1000);
  astrai_request_free(request);
  options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, NULL, &err));
  do {
    int32_t terminal;
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    terminal = event->terminal;
    astrai_event_free(event);
    if (terminal)
      break;
  } while (1);
  options.flags &= ~(uint32_t)ASTRAI_REQUEST_TO_ENGINE;
  events = 0;
  EXPECT(ASTRAI_OK, astrai_submit(polled, prompt, &options, on_event, &events, on_done, &request, &err));
  while (events < 1000)
    EXPECT(ASTRAI_OK, astrai_engine_poll(polled, 1000, 0, &ran, &err));
  astrai_request_free(request);
  astrai_settings_free(settings);
  astrai_prompt_free(prompt);
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, -1, &err));
  EXPECT(ASTRAI_OK, astrai_engine_resume(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_set_duty(engine, 0, 0, &err));
  EXPECT(ASTRAI_OK, astrai_engine_clear_cache(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_cancel_all(engine, &err));
  return argument;
}

static void *keeping(void *argument) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("The keeper of the old lighthouse knew the tides, the gulls and every stone of it.");
  astrai_prefix *prefix = NULL, *again = NULL;
  EXPECT(ASTRAI_OK, astrai_prefix_pin(engine, prompt, &prefix, &err));
  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, in_folder("saved"), &err));
  EXPECT(ASTRAI_OK, astrai_prefix_restore(engine, in_folder("saved"), &again, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_restore(engine, in_folder("none"), &again, &err));
  astrai_prefix_free(again);
  astrai_prefix_free(prefix);
  astrai_prompt_free(prompt);
  return argument;
}

static void *closing(void *argument) {
  astrai_error *err = NULL;
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  astrai_engine_free(engine);
  astrai_engine_free(polled);
  return argument;
}

int main(int argc, char **argv) {
  unsigned char *memory = NULL;
  void *mapped;
  CHECK(argc == 3);
  model = argv[1];
  folder = argv[2];
  mapped = mmap(NULL, GUARD_BYTES + STACK_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(mapped != MAP_FAILED);
  memory = (unsigned char *)mapped;
  stack = memory + GUARD_BYTES;
  CHECK(mprotect(stack, STACK_BYTES, PROT_READ | PROT_WRITE) == 0);
  on_short_stack("nothing", nothing);
  on_short_stack("opening", opening);
  on_short_stack("chatting", chatting);
  on_short_stack("running", running);
  on_short_stack("keeping", keeping);
  on_short_stack("closing", closing);
  return 0;
}
