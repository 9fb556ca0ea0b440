/* Opens an engine, uses it and frees it, again and again: memory and threads must stay where they are.
 *   lifecycle <model folder> <rounds> <largest growth of memory in KiB, 0 = do not look> */
#include "check.h"

static long proc_status(const char *field) {
  char line[256];
  long value = -1;
  FILE *file = fopen("/proc/self/status", "r");
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, field, strlen(field)) == 0)
      value = strtol(line + strlen(field), NULL, 10);
  fclose(file);
  CHECK(value >= 0);
  return value;
}

static int finalized;

static int32_t on_event(void *user_data, const astrai_event *event) {
  (void)event;
  *(int *)user_data += 1;
  return 0;
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data;
  CHECK(level >= ASTRAI_LOG_ERROR && level <= ASTRAI_LOG_DEBUG && strlen(text) <= len);
}

static void on_finalize(void *user_data) {
  (void)user_data;
  finalized++;
}

static void round_trip(const char *model) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *pulled = NULL, *called = NULL;
  astrai_event *event = NULL;
  astrai_request_options options = steady(4);
  astrai_engine_options engine_options;
  int before = finalized, events = 0;

  CHECK(astrai_engine_options_init(&engine_options, sizeof engine_options) == ASTRAI_OK);
  engine_options.log = on_log;
  engine_options.log_level = ASTRAI_LOG_DEBUG;
  engine_options.finalize = on_finalize;
  engine_options.threads = 2;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &engine_options, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &pulled, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, on_event, &events, on_finalize, &called, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(pulled, -1, &event, &err));
  CHECK(event->terminal && event->usage->generated_tokens == 4);
  EXPECT(ASTRAI_OK, astrai_request_wait(called, -1, NULL, &err));
  CHECK(events >= 1 && finalized == before + 1);
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_engine_open("/nonexistent/model", NULL, &engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  astrai_event_free(event);
  astrai_request_free(pulled);
  astrai_request_free(called);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  CHECK(finalized == before + 2);
}

int main(int argc, char **argv) {
  int i, rounds;
  long growth_max, rss = 0, threads = proc_status("Threads:");
  CHECK(argc == 4);
  rounds = (int)strtol(argv[2], NULL, 10);
  growth_max = strtol(argv[3], NULL, 10);
  CHECK(rounds > 0);
  for (i = 0; i < rounds; i++) {
    round_trip(argv[1]);
    CHECK(proc_status("Threads:") == threads);
    if (i == rounds / 5) /* the allocator has seen everything once */
      rss = proc_status("VmRSS:");
  }
  printf("memory after %d rounds: %ld KiB, then %ld KiB\n", rounds / 5 + 1, rss, proc_status("VmRSS:"));
  CHECK(growth_max == 0 || proc_status("VmRSS:") <= rss + growth_max);
  return 0;
}
