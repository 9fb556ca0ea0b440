/* Bad arguments that need no model: NULL everywhere, struct sizes, handles of the wrong kind, bad text, bad folders.
 *   arguments <empty folder> <a file> */
#include "check.h"
#include <math.h>

static int finalized;

static void count_finalize(void *user_data) {
  CHECK(user_data == &finalized);
  finalized++;
}

static int32_t ignore_event(void *user_data, const astrai_event *event) {
  (void)user_data;
  (void)event;
  return 0;
}

static void library(void) {
  astrai_error_free(NULL);
  astrai_event_free(NULL);
  astrai_prompt_free(NULL);
  astrai_request_free(NULL);
  astrai_engine_free(NULL);
  CHECK(astrai_abi_version() == ASTRAI_ABI_VERSION);
  CHECK(strlen(astrai_version()) >= 5);
  CHECK(strcmp(astrai_status_name(ASTRAI_OK), "ASTRAI_OK") == 0);
  CHECK(strcmp(astrai_status_name(ASTRAI_ERR_QUEUE_FULL), "ASTRAI_ERR_QUEUE_FULL") == 0);
  CHECK(strcmp(astrai_status_name(-1), "ASTRAI_UNKNOWN") == 0);
  CHECK(strcmp(astrai_status_name(9), "ASTRAI_UNKNOWN") == 0);
  CHECK(strcmp(astrai_status_name(25), "ASTRAI_UNKNOWN") == 0);
}

static void null_handles(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = (astrai_engine *)&finalized;
  astrai_request *request = (astrai_request *)&finalized;
  astrai_prompt *prompt = (astrai_prompt *)&finalized;
  astrai_event *event = (astrai_event *)&finalized;
  astrai_settings *settings = (astrai_settings *)&finalized;
  astrai_constraint *constraint = (astrai_constraint *)&finalized;
  astrai_info info;
  astrai_stats stats;
  size_t count = 77;
  int32_t id = 0;
  char text[4] = "abc";
  info.struct_size = sizeof info;
  stats.struct_size = sizeof stats;

  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open(NULL, NULL, &engine, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open("x", NULL, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open("", NULL, &engine, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_close(NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_info(NULL, &info, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_stats(NULL, &stats, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_check(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_set_log_level(NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_cancel_all(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_poll(NULL, 0, 0, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_next(NULL, 0, &event, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_new(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_clone(NULL, &prompt, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_text(NULL, "a", 1, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_tokens(NULL, &id, 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_message(NULL, "user", "a", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(NULL, ASTRAI_JSON_TOOLS, "[]", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_message_flags(NULL, -1, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_fit(NULL, NULL, 0, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_new(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_clone(NULL, &settings, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_stop(NULL, "a", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_stop_token(NULL, 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_bias(NULL, 1, 1.0f, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_constraint(NULL, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tools(NULL, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_dry_breakers(NULL, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(NULL, ASTRAI_TOOLS_AUTO, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_constraint_compile(NULL, ASTRAI_CONSTRAINT_JSON, NULL, 0, &constraint, &err));
  CHECK(settings == (astrai_settings *)&finalized && constraint == (astrai_constraint *)&finalized);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_render(NULL, NULL, 0, text, sizeof text, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_tokenize(NULL, NULL, 0, &id, 1, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_detokenize(NULL, &id, 1, 0, text, sizeof text, &count, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT,
         astrai_submit(NULL, NULL, NULL, ignore_event, &finalized, count_finalize, &request, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_next(NULL, 0, &event, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_wait(NULL, 0, &event, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_logits(NULL, 0, NULL, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_choose(NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_request_cancel(NULL, &err));
  CHECK(astrai_request_id(NULL) == 0);

  /* Outputs are written only on success; the finalizer of a failed submit ran before it returned. */
  CHECK(engine == (astrai_engine *)&finalized && prompt == (astrai_prompt *)&finalized);
  CHECK(request == (astrai_request *)&finalized && event == (astrai_event *)&finalized && count == 77);
  CHECK(finalized == 1);

  /* Without a place for the error all is the same. */
  CHECK(astrai_engine_open(NULL, NULL, NULL, NULL) == ASTRAI_ERR_ARGUMENT);
  CHECK(astrai_submit(NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) == ASTRAI_ERR_ARGUMENT);
  CHECK(astrai_render(NULL, NULL, 0, NULL, 0, NULL, NULL) == ASTRAI_ERR_ARGUMENT);
  CHECK(astrai_request_wait(NULL, -1, NULL, NULL) == ASTRAI_ERR_ARGUMENT);
}

static void wrong_handles(void) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = raw_prompt("x");
  astrai_settings *settings = NULL;
  int32_t id = 1;
  uint64_t words[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_engine_check((astrai_engine *)prompt, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_request_cancel((astrai_request *)prompt, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_engine_close((astrai_engine *)words, 0, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_prompt_add_tokens((astrai_prompt *)words, &id, 1, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_settings_add_stop_token((astrai_settings *)prompt, 1, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_settings_set_constraint(settings, (astrai_constraint *)prompt, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_request_cancel((astrai_request *)((char *)words + 1), &err));
  CHECK(astrai_request_id((astrai_request *)prompt) == 0);
  astrai_engine_free((astrai_engine *)prompt);
  astrai_request_free((astrai_request *)prompt);
  astrai_prompt_free((astrai_prompt *)words);
  EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(prompt, &id, 1, &err)); /* nothing of that harmed it */
  astrai_settings_free(settings);
  astrai_prompt_free(prompt);
}

/* A program that was compiled with a later header. */
typedef struct newer_engine_options {
  astrai_engine_options known;
  uint64_t later[2];
} newer_engine_options;

static void struct_sizes(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  newer_engine_options options;
  astrai_request_options request;
  size_t first = offsetof(astrai_engine_options, weights_cache); /* where the first version ends */
  size_t sizes[] = {0, 4, 0, 0, 0, 4097, (size_t)-1};
  size_t i;

  sizes[2] = first - 1;
  sizes[3] = first + 4; /* half of a field that came later */
  sizes[4] = sizeof(astrai_engine_options) - 1;
  CHECK(astrai_engine_options_init(NULL, sizeof options) == ASTRAI_ERR_ARGUMENT);
  CHECK(astrai_request_options_init(NULL, sizeof request) == ASTRAI_ERR_ARGUMENT);
  memset(&options, 0x55, sizeof options);
  for (i = 0; i < sizeof sizes / sizeof *sizes; i++)
    CHECK(astrai_engine_options_init(&options.known, sizes[i]) == ASTRAI_ERR_STRUCT_SIZE);
  /* Nor one that is larger than any this library knows, since it cannot know what to put there. */
  CHECK(astrai_engine_options_init(&options.known, sizeof options) == ASTRAI_ERR_STRUCT_SIZE);
  CHECK(astrai_engine_options_init(&options.known, sizeof options.known + 8) == ASTRAI_ERR_STRUCT_SIZE);
  CHECK(astrai_request_options_init(&request, sizeof request - 4) == ASTRAI_ERR_STRUCT_SIZE);
  CHECK(astrai_request_options_init(&request, sizeof request + 4) == ASTRAI_ERR_STRUCT_SIZE);
  CHECK(options.known.struct_size == 0x55555555u);

  /* Passed with such a size it is accepted as long as what is not known is 0. */
  memset(&options, 0, sizeof options);
  CHECK(astrai_engine_options_init(&options.known, sizeof options.known) == ASTRAI_OK);
  CHECK(options.known.struct_size == sizeof options.known);
  CHECK(options.known.threads == 0 && options.known.progress == NULL && options.known.user_data == NULL);
  options.known.struct_size = sizeof options;
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", &options.known, &engine, &err));
  options.later[1] = 1;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_open("/nonexistent/model", &options.known, &engine, &err));
  options.later[1] = 0;
  for (i = 0; i < 6; i++) {
    options.known.struct_size = (uint32_t)sizes[i];
    EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_open("/nonexistent/model", &options.known, &engine, &err));
  }

  /* Smaller, of a program that was compiled with an older header: what lies behind it is neither written nor read. */
  memset(&options, 0x55, sizeof options);
  CHECK(astrai_engine_options_init(&options.known, first) == ASTRAI_OK);
  CHECK(options.known.struct_size == first && options.known.user_data == NULL);
  CHECK(*(unsigned char *)&options.known.weights_cache == 0x55);
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", &options.known, &engine, &err));
  first = offsetof(astrai_engine_options, invariant); /* where the second version ends */
  CHECK(astrai_engine_options_init(&options.known, first) == ASTRAI_OK);
  CHECK(options.known.struct_size == first && options.known.weights_cache == NULL);
  CHECK(options.known.invariant == 0x55555555);

  CHECK(astrai_request_options_init(&request, sizeof request) == ASTRAI_OK);
  CHECK(request.struct_size == sizeof request && request.flags == 0 && request.tag == 0);
  CHECK(request.max_tokens == -1 && request.top_k == -1 && request.logprobs == -1 && request.priority == 0);
  CHECK(isnan(request.temperature) && isnan(request.top_p) && isnan(request.min_p));
  CHECK(isnan(request.repetition_penalty) && isnan(request.presence_penalty) && isnan(request.frequency_penalty));
}

static void engine_options(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
#define TRY(status, field, value)                                                                                      \
  do {                                                                                                                 \
    CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);                                          \
    options.field = (value);                                                                                           \
    EXPECT(status, astrai_engine_open("/nonexistent/model", &options, &engine, &err));                                 \
  } while (0)
  TRY(ASTRAI_ERR_ARGUMENT, flags, 2147483648u);
  TRY(ASTRAI_ERR_IO, flags, ASTRAI_ENGINE_TOUCH_KV);
  TRY(ASTRAI_ERR_IO, flags, ASTRAI_ENGINE_CONSTRAINTS);
  TRY(ASTRAI_ERR_ARGUMENT, device, 3);
  TRY(ASTRAI_ERR_ARGUMENT, device, -1);
  TRY(ASTRAI_ERR_ARGUMENT, cpu_tier, 7);
  TRY(ASTRAI_ERR_ARGUMENT, compute, 6);
  TRY(ASTRAI_ERR_ARGUMENT, weights, 6);
  TRY(ASTRAI_ERR_ARGUMENT, kv, 6);
  TRY(ASTRAI_ERR_ARGUMENT, delivery, 2);
  TRY(ASTRAI_ERR_ARGUMENT, log_level, 5);
  TRY(ASTRAI_ERR_ARGUMENT, draft_tokens, 1);
  TRY(ASTRAI_ERR_ARGUMENT, draft_tokens, 33);
  TRY(ASTRAI_ERR_ARGUMENT, speculation, 4);
  TRY(ASTRAI_ERR_IO, speculation, ASTRAI_SPECULATE_OWN_TEXT | ASTRAI_SPECULATE_SHARED_TEXTS);
  TRY(ASTRAI_ERR_ARGUMENT, invariant, 2);
  TRY(ASTRAI_ERR_ARGUMENT, invariant, -1);
  TRY(ASTRAI_ERR_IO, invariant, 0);
  TRY(ASTRAI_ERR_ARGUMENT, device_index, -1);
  TRY(ASTRAI_ERR_IO, flags, ASTRAI_ENGINE_GPU_LOW_PRIORITY | ASTRAI_ENGINE_GPU_BLOCKING_WAIT);
  TRY(ASTRAI_ERR_ARGUMENT, wake, count_finalize);
  TRY(ASTRAI_ERR_ARGUMENT, duty_work_us, 1);
  TRY(ASTRAI_ERR_ARGUMENT, duty_interval_us, 1);
  TRY(ASTRAI_ERR_IO, delivery, ASTRAI_DELIVER_POLL);
  TRY(ASTRAI_ERR_UNSUPPORTED, weights, ASTRAI_TYPE_F32);
  TRY(ASTRAI_ERR_UNSUPPORTED, weights, ASTRAI_TYPE_BF16);
  TRY(ASTRAI_ERR_UNSUPPORTED, kv, ASTRAI_TYPE_Q4);
  TRY(ASTRAI_ERR_UNSUPPORTED, kv, ASTRAI_TYPE_Q5);
  TRY(ASTRAI_ERR_ARGUMENT, compute, ASTRAI_TYPE_Q5);
  TRY(ASTRAI_ERR_IO, kv, ASTRAI_TYPE_Q8);
  TRY(ASTRAI_ERR_ARGUMENT, weights_cache, "");
  TRY(ASTRAI_ERR_UTF8, weights_cache, "\xff");
  TRY(ASTRAI_ERR_IO, weights_cache, "/nonexistent/cache");
#undef TRY
  /* A library that was built for GPUs looks at the folder first. */
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.device = ASTRAI_DEVICE_CUDA;
  int32_t cuda = astrai_engine_open("/nonexistent/model", &options, &engine, &err);
  CHECK(cuda == ASTRAI_ERR_UNSUPPORTED || cuda == ASTRAI_ERR_IO);
  CHECK(err != NULL);
  astrai_error_free(err);
  err = NULL;
  CHECK(engine == NULL);

  /* The finalizer runs once, whatever the reason of the failure; without one nothing happens. */
  finalized = 0;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.finalize = count_finalize;
  options.user_data = &finalized;
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", &options, &engine, &err));
  CHECK(finalized == 1);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open(NULL, &options, &engine, &err));
  CHECK(finalized == 2);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open("x", &options, NULL, &err));
  CHECK(finalized == 3);
  options.log_level = 99;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_open("x", &options, &engine, &err));
  CHECK(finalized == 4);
}

static void folders(const char *empty_folder, const char *file) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  int32_t status;
  CHECK(astrai_engine_open("/nonexistent/model", NULL, &engine, &err) == ASTRAI_ERR_IO);
  CHECK(err->os_code == 2 && strstr(err->subject, "/nonexistent/model") != NULL);
  astrai_error_free(err);
  err = NULL;
  status = astrai_engine_open(file, NULL, &engine, &err);
  CHECK((status == ASTRAI_ERR_IO || status == ASTRAI_ERR_FORMAT) && strstr(err->subject, file) != NULL);
  astrai_error_free(err);
  err = NULL;
  status = astrai_engine_open(empty_folder, NULL, &engine, &err);
  CHECK((status == ASTRAI_ERR_IO || status == ASTRAI_ERR_FORMAT) && strstr(err->message, "config.json") != NULL);
  astrai_error_free(err);
  err = NULL;
  CHECK(astrai_engine_open("models/\xff", NULL, &engine, &err) == ASTRAI_ERR_UTF8);
  CHECK(strstr(err->message, "byte 7") != NULL);
  astrai_error_free(err);
  CHECK(engine == NULL);
}

static void prompts(void) {
  astrai_error *err = NULL;
  astrai_prompt *raw = raw_prompt("x"), *chat = NULL, *copy = NULL;
  astrai_settings *settings = NULL;
  int32_t ids[3] = {1, 2, -3};
  char *deep;
  EXPECT(ASTRAI_OK, astrai_prompt_new(&chat, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(chat, "user", "hello", 5, &err));

  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_clone(raw, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_message(raw, "user", "hello", 5, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_text(chat, "x", 1, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_tokens(chat, ids, 2, &err));

  EXPECT(ASTRAI_OK, astrai_prompt_add_text(raw, NULL, 0, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_text(raw, NULL, 1, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_text(raw, "x", (size_t)-1, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_text(raw, "x", 1, ASTRAI_TEXT_NO_GENERATION_PROMPT, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prompt_add_text(raw, "ab\xc3(", 4, 0, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prompt_add_text(raw, "\xed\xa0\x80", 3, 0, &err)); /* a surrogate */
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_tokens(raw, ids, 3, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_tokens(raw, NULL, 3, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_tokens(raw, ids, (size_t)1 << 40, &err));

  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_message(chat, NULL, "x", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_message(chat, "", "x", 1, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prompt_add_message(chat, "us\xffr", "x", 1, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prompt_add_message(chat, "user", "x\xff", 2, &err));

  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, 0, "[]", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_MESSAGES, "{}", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_MESSAGES, "[1]", 3, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_MESSAGES, "[{\"role\": 1}]", 13, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_TOOLS, "{}", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_VARIABLES, "[]", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_VARIABLES, "{", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_VARIABLES, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(raw, ASTRAI_JSON_TOOLS, "[]", 2, &err));
  CHECK((deep = (char *)malloc(1000000)) != NULL);
  memset(deep, '[', 1000000);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_set_json(chat, ASTRAI_JSON_TOOLS, deep, 1000000, &err));
  free(deep);

  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_stop(settings, "", 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_stop(settings, NULL, 1, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_settings_add_stop(settings, "\xff", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_stop_token(settings, -1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_bias(settings, -1, 1.0f, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_bias(settings, 1, (float)NAN, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_add_bias(settings, 1, (float)INFINITY, &err));
  EXPECT(ASTRAI_OK, astrai_settings_add_bias(settings, 1, (float)-INFINITY, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_dry_breakers(settings, "{}", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_dry_breakers(settings, "[1]", 3, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_dry_breakers(settings, "[\"\"]", 4, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_dry_breakers(settings, "[\";\"]", 5, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_dry_breakers(settings, "[]", 2, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_dry_breakers(settings, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tools(settings, "{}", 2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tools(settings, "[", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tools(settings, NULL, 1, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_tools(settings, "[]", 2, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_tools(settings, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(settings, -1, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(settings, 4, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NAMED, NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_AUTO, "dice", 0, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NAMED, "\xff", 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_AUTO, NULL, 4, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NAMED, "dice", ASTRAI_TOOLS_SINGLE_CALL, &err));
  astrai_settings_free(settings);

  EXPECT(ASTRAI_OK, astrai_prompt_clone(chat, &copy, &err));
  astrai_prompt_free(chat);
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(copy, "assistant", "", 0, &err));
  astrai_prompt_free(copy);
  astrai_prompt_free(raw);
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  library();
  null_handles();
  wrong_handles();
  struct_sizes();
  engine_options();
  folders(argv[1], argv[2]);
  prompts();
  return 0;
}
