/* What a step spends on admitting requests while WAITING of them wait for one long beginning of TOKENS that all share, which the
 * model's context must hold. It should not depend on their length (how often the tree is searched: a test of the scheduler's).
 * Usage: refill MODEL TOKENS WAITING STEPS. */
#include "../tests/c/check.h"

int main(int argc, char **argv) {
  astrai_error *err = NULL;
  astrai_engine *engine = NULL;
  astrai_engine_options engine_options;
  astrai_request_options options = steady(2);
  astrai_prompt *prompt = NULL;
  astrai_stats before, after;
  int32_t *tokens, last;
  int count, waiting, i;
  uint64_t steps;
  double each;
  CHECK(argc == 5);
  count = atoi(argv[2]);
  waiting = atoi(argv[3]);
  steps = (uint64_t)atoi(argv[4]);
  CHECK(astrai_engine_options_init(&engine_options, sizeof engine_options) == ASTRAI_OK);
  engine_options.threads = 1;
  engine_options.max_running = 16;
  engine_options.memory_budget = (uint64_t)1 << 30;
  EXPECT(ASTRAI_OK, astrai_engine_open(argv[1], &engine_options, &engine, &err));
  tokens = (int32_t *)malloc((size_t)count * sizeof *tokens);
  CHECK(tokens != NULL);
  for (i = 0; i < count; i++)
    tokens[i] = (i * 7 + i / 31) % 300 + 10;
  EXPECT(ASTRAI_OK, astrai_engine_pause(engine, -1, &err));
  options.flags |= ASTRAI_REQUEST_TO_ENGINE;
  for (i = 0; i < waiting; i++) {
    EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
    EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(prompt, tokens, (size_t)count, &err));
    last = i % 300;
    EXPECT(ASTRAI_OK, astrai_prompt_add_tokens(prompt, &last, 1, &err));
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, NULL, &err));
    astrai_prompt_free(prompt);
  }
  before.struct_size = after.struct_size = sizeof before;
  EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &before, &err));
  EXPECT(ASTRAI_OK, astrai_engine_resume(engine, &err));
  do
    EXPECT(ASTRAI_OK, astrai_engine_stats(engine, &after, &err));
  while (after.steps < before.steps + steps && after.finished == 0);
  CHECK(after.waiting + 1 >= (uint32_t)waiting); /* the first is not done, and nobody else began */
  each = (double)(after.refill_us - before.refill_us) / (double)(after.steps - before.steps);
  printf("%d wait for %d tokens: %.1f us of refill in each of %d steps\n", waiting, count, each,
         (int)(after.steps - before.steps));
  free(tokens);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  astrai_engine_free(engine);
  return 0;
}
