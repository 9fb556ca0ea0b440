/* Pause, duty limit, cache and plan through the ABI, with what they refuse.
 *   control <model folder> */
#include "check.h"

static const char *model;

static astrai_stats stats_of(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_stats stats;
  memset(&stats, 0, sizeof stats);
  stats.struct_size = sizeof stats;
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err)); /* the statistics are of now */
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &stats, &err));
  return stats;
}

static uint32_t wait_for(astrai_request *request, int32_t kind) {
  astrai_error *err = NULL;
  astrai_event *event = NULL;
  uint32_t tokens;
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->terminal && event->kind == kind);
  tokens = event->usage->generated_tokens;
  astrai_event_free(event);
  astrai_request_free(request);
  return tokens;
}

static astrai_request *submit(const astrai_engine *engine, const char *text, int32_t tokens) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_request_options options = steady(tokens);
  astrai_prompt *prompt = raw_prompt(text);
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  astrai_prompt_free(prompt);
  return request;
}

static void arguments(const astrai_engine *engine) {
  static const uint32_t bad[4][2] = {{2, 1}, {0, 1}, {1, 0}, {UINT32_MAX, 5}};
  astrai_error *err = NULL;
  int i;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_pause(NULL, 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_pause(engine, -2, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_resume(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_clear_cache(NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_set_duty(NULL, 1, 2, &err));
  CHECK(astrai_engine_resume(engine, NULL) == ASTRAI_OK);
  for (i = 0; i < 4; i++) {
    CHECK(astrai_engine_set_duty(engine, bad[i][0], bad[i][1], &err) == ASTRAI_ERR_ARGUMENT);
    CHECK(err->needed == bad[i][0] && err->available == bad[i][1] && err->unit == ASTRAI_UNIT_COUNT);
    CHECK(strcmp(err->subject, "duty_work_us") == 0);
    astrai_error_free(err);
    err = NULL;
  }
}

static void pausing(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request, *cancelled;
  astrai_event *event = NULL;
  uint64_t steps;
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, -1, &err));
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, 0, &err));
  steps = stats_of(engine).steps;
  request = submit(engine, "Once upon a time", 20);
  cancelled = submit(engine, "Once", 20);
  EXPECT(ASTRAI_OK, astrai_request_cancel(cancelled, &err));
  CHECK(wait_for(cancelled, ASTRAI_EVENT_CANCELLED) == 0);
  EXPECT(ASTRAI_TIMEOUT, astrai_request_next(request, 20, &event, &err));
  CHECK(stats_of(engine).steps == steps && event == NULL);
  EXPECT(ASTRAI_OK, astrai_engine_resume(engine, &err));
  CHECK(wait_for(request, ASTRAI_EVENT_FINISHED) == 20);
  CHECK(stats_of(engine).steps > steps);
}

static void limiting(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request;
  astrai_event *event = NULL;
  EXPECT(ASTRAI_OK, astrai_engine_set_duty(engine, 1, UINT32_MAX, &err)); /* hours between two layers */
  request = submit(engine, "Once upon a time", 20);
  EXPECT(ASTRAI_TIMEOUT, astrai_request_next(request, 20, &event, &err));
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, -1, &err)); /* resting is rest */
  EXPECT(ASTRAI_OK, astrai_engine_set_duty(engine, 0, 0, &err));
  EXPECT(ASTRAI_OK, astrai_engine_resume(engine, &err));
  CHECK(wait_for(request, ASTRAI_EVENT_FINISHED) == 20);
  EXPECT(ASTRAI_OK, astrai_engine_set_duty(engine, 500, 1000, &err));
  CHECK(wait_for(submit(engine, "Once upon a time", 20), ASTRAI_EVENT_FINISHED) == 20);
  EXPECT(ASTRAI_OK, astrai_engine_set_duty(engine, 0, 0, &err));
}

static void clearing(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_stats before, after;
  wait_for(submit(engine, "Once upon a time there was a weaver", 60), ASTRAI_EVENT_FINISHED);
  before = stats_of(engine);
  CHECK(before.pages_cached > 0 && before.pages_used == 0);
  EXPECT(ASTRAI_OK, astrai_engine_clear_cache(engine, &err));
  after = stats_of(engine);
  CHECK(after.pages_cached == 0 && after.pages_free == before.pages_free + before.pages_cached);
}

typedef struct inside {
  const astrai_engine *engine;
  int32_t pause, pause_now, resume, duty, clear, plan;
} inside;

static int32_t on_event(void *user_data, const astrai_event *event) {
  inside *in = (inside *)user_data;
  astrai_plan plan;
  plan.struct_size = sizeof plan;
  (void)event;
  in->pause = astrai_engine_pause(in->engine, 1000, NULL);
  in->pause_now = astrai_engine_pause(in->engine, 0, NULL);
  in->resume = astrai_engine_resume(in->engine, NULL);
  in->duty = astrai_engine_set_duty(in->engine, 0, 0, NULL);
  in->clear = astrai_engine_clear_cache(in->engine, NULL);
  in->plan = astrai_engine_plan(model, NULL, &plan, NULL);
  return 0;
}

static void in_callbacks(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_request_options options = steady(10);
  astrai_prompt *prompt = raw_prompt("Once");
  inside in;
  memset(&in, 0xff, sizeof in);
  in.engine = engine;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, on_event, &in, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(in.pause == ASTRAI_ERR_REENTRANT && in.plan == ASTRAI_ERR_REENTRANT);
  CHECK(in.pause_now == ASTRAI_OK || in.pause_now == ASTRAI_TIMEOUT);
  CHECK(in.resume == ASTRAI_OK && in.duty == ASTRAI_OK && in.clear == ASTRAI_OK);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
}

static void never(void *user_data) {
  (void)user_data;
  CHECK(!"a plan calls nothing back");
}

static int32_t never_progress(void *user_data, uint64_t done, uint64_t total) {
  (void)done;
  (void)total;
  never(user_data);
  return 1;
}

static void planning(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options options;
  astrai_plan plan, whole;
  astrai_info info;
  memset(&whole, 0, sizeof whole);
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_plan(model, NULL, &whole, &err));
  whole.struct_size = sizeof whole;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_plan(NULL, NULL, &whole, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_plan("", NULL, &whole, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_plan(model, NULL, NULL, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_engine_plan("/nonexistent/model", NULL, &whole, &err));
  CHECK(whole.total_bytes == 0);
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, NULL, &whole, &err));
  CHECK(whole.struct_size == sizeof whole && whole.fits == 1 && whole.context_length == 2048);
  CHECK(whole.max_sequences == 16 && whole.kv_tokens == 16 * 2048);
  CHECK(whole.kv_bytes == whole.kv_tokens * whole.kv_bytes_per_token);
  CHECK(whole.total_bytes == whole.weight_bytes + whole.kv_bytes + whole.workspace_bytes);

  CHECK(whole.constraint_bytes == 0);

  CHECK(astrai_engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.flags = ASTRAI_ENGINE_CONSTRAINTS;
  plan = whole;
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, &options, &plan, &err));
  CHECK(plan.constraint_bytes > 0 && plan.total_bytes == whole.total_bytes + plan.constraint_bytes);
  options.flags = 0;
  options.progress = never_progress;
  options.finalize = never;
  options.max_running = 5000;
  plan = whole;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_engine_plan(model, &options, &plan, &err));
  options.max_running = 0;
  options.struct_size = 0;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_engine_plan(model, &options, &plan, &err));
  options.struct_size = sizeof options;
  /* A budget for weights, workspace and 100 tokens: 6 pages. */
  options.memory_budget = whole.total_bytes - whole.kv_bytes + 100 * whole.kv_bytes_per_token;
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, &options, &plan, &err));
  CHECK(plan.fits == 1 && plan.kv_tokens == 96 && plan.context_length == 96 && plan.max_sequences == 1);
  CHECK(plan.total_bytes <= plan.available_bytes && plan.available_bytes == options.memory_budget);
  options.progress = NULL;
  options.finalize = NULL;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  CHECK(stats_of(engine).pages_free == 6);
  info.struct_size = sizeof info;
  EXPECT(ASTRAI_OK, astrai_engine_info(engine, &info, &err));
  CHECK(info.context_length == 96);
  astrai_engine_free(engine);
  engine = NULL;

  /* Too little: the plan says by how much, open refuses with the same numbers. */
  options.memory_budget = 1000;
  EXPECT(ASTRAI_OK, astrai_engine_plan(model, &options, &plan, &err));
  CHECK(plan.fits == 0 && plan.kv_tokens == 16 && plan.total_bytes > plan.available_bytes);
  CHECK(astrai_engine_open(model, &options, &engine, &err) == ASTRAI_ERR_MEMORY);
  CHECK(err->unit == ASTRAI_UNIT_BYTES && err->needed == plan.total_bytes && err->available == 1000);
  astrai_error_free(err);
  err = NULL;
  options.memory_budget = plan.total_bytes;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &options, &engine, &err));
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  astrai_error *err = NULL;
  astrai_engine *engine;
  astrai_request *request;
  CHECK(argc == 2);
  model = argv[1];
  engine = open_engine(model);
  arguments(engine);
  pausing(engine);
  limiting(engine);
  clearing(engine);
  in_callbacks(engine);
  planning();

  /* A closing engine gives a paused request no grace. */
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, -1, &err));
  request = submit(engine, "Once upon a time", 20);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  CHECK(wait_for(request, ASTRAI_EVENT_CANCELLED) == 0);
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_pause(engine, 0, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_resume(engine, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_set_duty(engine, 1, 2, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_engine_clear_cache(engine, &err));
  astrai_engine_free(engine);
  return 0;
}
