/* What a plan and an open say of memory that is not there.
 *   memory <model folder> <MiB of KV cache> <MiB that there are at most; 0: not known>
 * Prints nothing, or SKIP when this machine has as much as was asked for. */
#include "check.h"

static int warnings;
static char warning[4096];

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data;
  if (level == ASTRAI_LOG_WARN && strstr(text, "bytes of memory") != NULL) {
    warnings++;
    CHECK(len < sizeof warning);
    memcpy(warning, text, len + 1);
  }
}

static int32_t on_progress(void *user_data, uint64_t done, uint64_t total) {
  (void)user_data;
  (void)done;
  (void)total;
  return 0;
}

static uint64_t resident(void) {
  unsigned long size, pages;
  FILE *file = fopen("/proc/self/statm", "r");
  CHECK(file != NULL && fscanf(file, "%lu %lu", &size, &pages) == 2 && fclose(file) == 0);
  return (uint64_t)pages << 12;
}

static astrai_engine_options with_kv(const char *model, uint64_t bytes) {
  astrai_engine_options options;
  astrai_error *err = NULL;
  astrai_plan plan;
  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.memory_budget = (uint64_t)1 << 50;
  options.kv = ASTRAI_TYPE_F32;
  options.threads = 1;
  options.max_running = 1;
  options.log = on_log;
  options.progress = on_progress;
  options.log_level = ASTRAI_LOG_WARN;
  plan.struct_size = sizeof plan;
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, &options, &plan, &err));
  options.max_running = (uint32_t)(bytes / plan.kv_bytes) + 1;
  if (options.max_running > 4096)
    options.max_running = 4096; /* as many as there may be */
  return options;
}

int main(int argc, char **argv) {
  astrai_engine_options options;
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_plan plan;
  astrai_prompt *prompt;
  uint64_t before, there;
  CHECK(argc == 4);
  options = with_kv(argv[1], (uint64_t)atoll(argv[2]) << 20);
  there = (uint64_t)atoll(argv[3]) << 20;
  plan.struct_size = sizeof plan;
  EXPECT(ASTRAI_OK, astrai_engine_plan(argv[1], &options, &plan, &err));
  if (there == 0 && plan.fits) {
    printf("SKIP: this machine has %lu bytes of memory free\n", (unsigned long)plan.available_bytes);
    return 0;
  }
  CHECK(plan.fits == 0 && plan.available_bytes < plan.total_bytes);
  CHECK(there == 0 || plan.available_bytes <= there);

  /* The pages are promised, with a warning; or the system refuses even that. */
  if (astrai_engine_open(argv[1], &options, &engine, &err) != ASTRAI_OK)
    CHECK(err->status == ASTRAI_ERR_MEMORY);
  CHECK(warnings == 1 && strstr(warning, "lower memory_budget") != NULL);
  astrai_error_free(err);
  astrai_engine_free(engine);
  engine = NULL;

  /* Touched, they are refused before one is written. */
  options.flags = ASTRAI_ENGINE_TOUCH_KV;
  before = resident();
  CHECK(astrai_engine_open(argv[1], &options, &engine, &err) == ASTRAI_ERR_MEMORY);
  CHECK(err->unit == ASTRAI_UNIT_BYTES && err->needed > err->available && err->available < plan.total_bytes);
  CHECK(strcmp(err->subject, "memory") == 0 && strstr(err->message, "lower memory_budget") != NULL);
  astrai_error_free(err);
  err = NULL;
  CHECK(resident() < before + ((uint64_t)64 << 20));

  /* What is there is written, all of it. */
  options = with_kv(argv[1], (uint64_t)40 << 20);
  options.flags = ASTRAI_ENGINE_TOUCH_KV;
  plan.struct_size = sizeof plan;
  EXPECT(ASTRAI_OK, astrai_engine_plan(argv[1], &options, &plan, &err));
  CHECK(plan.fits == 1 && plan.kv_bytes >= (uint64_t)40 << 20);
  before = resident();
  EXPECT(ASTRAI_OK, astrai_engine_open(argv[1], &options, &engine, &err));
  CHECK(resident() + ((uint64_t)1 << 20) >= before + plan.kv_bytes);
  prompt = raw_prompt("Once upon a time");
  astrai_request_options request_options = steady(3);
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &request_options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FINISHED);
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  return 0;
}
