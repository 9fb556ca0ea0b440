/* A chat template that calls itself for ever is an error, on a caller's thread and deferred, however small the stack is.
 *   recursion <model folder with such a template> */
#include "check.h"

static void submit(const astrai_engine *engine, uint32_t flags) {
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request_options options = steady(2);
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(prompt, "user", "hi", 2, &err));
  options.flags |= flags;
  if (flags == 0) {
    EXPECT(ASTRAI_ERR_TEMPLATE, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  } else {
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
    CHECK(event->kind == ASTRAI_EVENT_FAILED && event->error->status == ASTRAI_ERR_TEMPLATE);
    astrai_event_free(event);
    astrai_request_free(request);
  }
  astrai_prompt_free(prompt);
}

int main(int argc, char **argv) {
  astrai_engine *engine;
  CHECK(argc == 2);
  engine = open_engine(argv[1]);
  submit(engine, ASTRAI_REQUEST_DEFER);
  submit(engine, 0);
  submit(engine, ASTRAI_REQUEST_DEFER);
  astrai_engine_free(engine);
  return 0;
}
