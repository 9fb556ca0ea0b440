/* Constraints and settings: what is refused, what is shared, in which order things may be freed. */
#include "check.h"

static const char schema[] = "{\"type\": \"object\", \"properties\": {\"n\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 9}},"
                             " \"required\": [\"n\"], \"additionalProperties\": false}";

static astrai_request_options options_with(astrai_settings *settings, uint64_t seed, int32_t max_tokens) {
  astrai_request_options options = steady(max_tokens);
  options.flags = ASTRAI_REQUEST_SEEDED;
  options.seed = seed;
  options.temperature = 1.5f;
  options.settings = settings;
  return options;
}

static astrai_event *wait_for(const astrai_engine *engine, const astrai_prompt *prompt, const astrai_request_options *options) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  astrai_request_free(request);
  return event;
}

static void refused(const astrai_engine *engine, int32_t kind, const char *text, int32_t status, const char *word) {
  astrai_error *err = NULL;
  astrai_constraint *constraint = NULL;
  CHECK(astrai_constraint_compile(engine, kind, text, strlen(text), &constraint, &err) == status);
  CHECK(constraint == NULL && strstr(err->message, word) != NULL);
  astrai_error_free(err);
}

static void what_cannot_be_is_refused(const astrai_engine *engine) {
  refused(engine, 0, "", ASTRAI_ERR_ARGUMENT, "ASTRAI_CONSTRAINT_");
  refused(engine, 6, "", ASTRAI_ERR_ARGUMENT, "ASTRAI_CONSTRAINT_");
  refused(engine, ASTRAI_CONSTRAINT_JSON_SCHEMA, "{", ASTRAI_ERR_ARGUMENT, "JSON");
  refused(engine, ASTRAI_CONSTRAINT_JSON_SCHEMA, "{\"not\": {}}", ASTRAI_ERR_UNSUPPORTED, "not");
  refused(engine, ASTRAI_CONSTRAINT_REGEX, "(?=x)", ASTRAI_ERR_UNSUPPORTED, "look");
  refused(engine, ASTRAI_CONSTRAINT_LARK, "root ::= \"x\"", ASTRAI_ERR_UNSUPPORTED, "GBNF");
  refused(engine, ASTRAI_CONSTRAINT_TEXTS, "[]", ASTRAI_ERR_ARGUMENT, "empty");
}

static int32_t compile_inside(void *user_data, const astrai_event *event) {
  astrai_constraint *constraint = NULL;
  (void)event;
  CHECK(astrai_constraint_compile((astrai_engine *)user_data, ASTRAI_CONSTRAINT_JSON, NULL, 0, &constraint, NULL) ==
        ASTRAI_ERR_REENTRANT);
  return 0;
}

int main(int argc, char **argv) {
  astrai_engine *engine;
  astrai_error *err = NULL;
  astrai_constraint *constraint = NULL;
  astrai_settings *settings = NULL, *copy = NULL;
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *requests[8] = {NULL};
  astrai_request_options options;
  astrai_event *event;
  int i;
  CHECK(argc == 2);
  engine = open_engine(argv[1]);
  what_cannot_be_is_refused(engine);
  EXPECT(ASTRAI_OK, astrai_constraint_compile(engine, ASTRAI_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &constraint, &err));
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_constraint(settings, constraint, &err));
  EXPECT(ASTRAI_OK, astrai_settings_clone(settings, &copy, &err));

  /* The settings keep the constraint, requests what they need of the settings. */
  astrai_constraint_free(constraint);
  for (i = 0; i < 8; i++) {
    options = options_with(i % 2 != 0 ? copy : settings, (uint64_t)i, 60);
    if (i > 3)
      options.flags |= ASTRAI_REQUEST_DEFER;
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &requests[i], &err));
  }
  astrai_settings_free(settings);
  for (i = 0; i < 8; i++) {
    EXPECT(ASTRAI_OK, astrai_request_wait(requests[i], -1, &event, &err));
    CHECK(event->complete == 1 && event->finish_reason == ASTRAI_FINISH_EOS && event->reserved == 0);
    CHECK(event->text[0] == '{' && event->text[event->text_len - 1] == '}' && strstr(event->text, "\"n\"") != NULL);
    astrai_event_free(event);
    astrai_request_free(requests[i]);
  }

  /* One token is not enough; without a constraint there is nothing to say. */
  options = options_with(copy, 1, 1);
  event = wait_for(engine, prompt, &options);
  CHECK(event->complete == 0 && event->finish_reason == ASTRAI_FINISH_LENGTH);
  astrai_event_free(event);
  EXPECT(ASTRAI_OK, astrai_settings_set_constraint(copy, NULL, &err));
  event = wait_for(engine, prompt, &options);
  CHECK(event->complete == -1);
  astrai_event_free(event);
  astrai_settings_free(copy);

  options = options_with(NULL, 1, 4);
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, compile_inside, engine, NULL, &requests[0], &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(requests[0], -1, NULL, &err));
  astrai_request_free(requests[0]);

  /* What another engine compiled fits only the same vocabulary; here it does, and outlives its engine. */
  constraint = NULL;
  EXPECT(ASTRAI_OK, astrai_constraint_compile(engine, ASTRAI_CONSTRAINT_TEXTS, "[\"yes\", \"no\"]", 13, &constraint, &err));
  astrai_engine_free(engine);
  engine = open_engine(argv[1]);
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_constraint(settings, constraint, &err));
  options = options_with(settings, 1, 20);
  event = wait_for(engine, prompt, &options);
  CHECK(event->complete == 1 && (strcmp(event->text, "yes") == 0 || strcmp(event->text, "no") == 0));
  astrai_event_free(event);
  astrai_settings_free(settings);
  astrai_constraint_free(constraint);
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, 0, &err));
  CHECK(astrai_constraint_compile(engine, ASTRAI_CONSTRAINT_JSON, NULL, 0, &constraint, &err) == ASTRAI_ERR_CLOSED);
  astrai_error_free(err);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  return 0;
}
