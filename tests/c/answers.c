/* Parts of answers, and conversations that go on with them; the model's chat template writes calls as Hermes does. */
#include "check.h"

static const char answer[] = "<think>Two dice.</think>I roll.<tool_call>{\"name\": \"dice\", \"arguments\": {\"sides\": 6}}</tool_call>";

typedef struct whole {
  int32_t kinds[8], ends[8];
  char text[8][128], name[8][32], call_id[8][32];
  uint32_t count;
} whole;

/* Adds what an event has of parts. */
static void add_parts(whole *w, const astrai_event *event) {
  astrai_error *err = NULL;
  astrai_part part;
  uint32_t i;
  for (i = 0; i < event->part_count; i++) {
    part.struct_size = sizeof part;
    EXPECT(ASTRAI_OK, astrai_event_part(event, i, &part, &err));
    CHECK(part.struct_size == sizeof part && part.index < 8);
    CHECK(part.begins == (part.index == w->count));
    if (part.begins) {
      w->count++;
      w->kinds[part.index] = part.kind;
      strcpy(w->name[part.index], part.name);
      strcpy(w->call_id[part.index], part.call_id);
      CHECK((part.kind == ASTRAI_PART_CALL) == (part.call >= 0));
    } else {
      CHECK(part.name_len == 0 && part.call_id_len == 0);
    }
    CHECK(strlen(part.text) == part.text_len && strlen(part.name) == part.name_len && strlen(part.call_id) == part.call_id_len);
    strcat(w->text[part.index], part.text);
    w->ends[part.index] = part.ends;
  }
  part.struct_size = sizeof part;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_event_part(event, event->part_count, &part, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_event_part(event, 0, NULL, &err));
}

static void check_whole(const whole *w) {
  CHECK(w->count == 3);
  CHECK(w->kinds[0] == ASTRAI_PART_REASONING && strcmp(w->text[0], "Two dice.") == 0 && w->ends[0] == ASTRAI_PART_COMPLETE);
  CHECK(w->kinds[1] == ASTRAI_PART_CONTENT && strcmp(w->text[1], "I roll.") == 0 && w->ends[1] == ASTRAI_PART_COMPLETE);
  CHECK(w->kinds[2] == ASTRAI_PART_CALL && strcmp(w->text[2], "{\"sides\": 6}") == 0 && w->ends[2] == ASTRAI_PART_COMPLETE);
  CHECK(strcmp(w->name[2], "dice") == 0 && strlen(w->call_id[2]) == 9);
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  if (event->part_count > 0)
    add_parts((whole *)user_data, event);
  return 0;
}

static const char tools[] =
    "[{\"name\": \"dice\"}, {\"name\": \"coin\", \"parameters\": {\"type\": \"object\", \"required\": [\"side\"],"
    " \"additionalProperties\": false, \"properties\": {\"side\": {\"const\": \"tails\"}},"
    " \"x-guidance\": {\"whitespace_flexible\": false}}}]";

/* Options with which the model writes the answer, in tokens drawn at random. */
static astrai_settings *saying(const astrai_engine *engine, const char *text) {
  astrai_error *err = NULL;
  astrai_constraint *constraint = NULL;
  astrai_settings *settings = NULL;
  char json[512] = "[\"";
  size_t at = 2;
  for (; *text != '\0'; text++) {
    if (*text == '"')
      json[at++] = '\\';
    json[at++] = *text;
  }
  strcpy(json + at, "\"]");
  EXPECT(ASTRAI_OK, astrai_constraint_compile(engine, ASTRAI_CONSTRAINT_TEXTS + ASTRAI_CONSTRAINT_WHOLE, json, strlen(json), &constraint, &err));
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_constraint(settings, constraint, &err));
  astrai_constraint_free(constraint);
  return settings;
}

int main(int argc, char **argv) {
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL, *raw = raw_prompt("go");
  astrai_request_options options = steady(400);
  astrai_settings *settings;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_info info;
  whole streamed, shown, once;
  uint32_t cached;
  char wrong_id[16];
  CHECK(argc == 2);
  memset(&streamed, 0, sizeof streamed);
  memset(&shown, 0, sizeof shown);
  memset(&once, 0, sizeof once);
  EXPECT(ASTRAI_OK, astrai_engine_open(argv[1], NULL, &engine, &err));
  info.struct_size = sizeof info;
  EXPECT(ASTRAI_OK, astrai_engine_info(engine, &info, &err));
  CHECK(strcmp(info.answer_format, "hermes") == 0);

  settings = saying(engine, answer);
  options.flags = ASTRAI_REQUEST_SEEDED;
  options.temperature = 1.5f;
  options.settings = settings;
  options.queue_tokens = 2;
  EXPECT(ASTRAI_OK, astrai_prompt_new(&prompt, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_message(prompt, "user", "go", 2, &err));

  /* By a callback, which sees the deltas. */
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, on_event, &shown, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  check_whole(&shown);
  astrai_request_free(request);

  /* Pulled, one after the other. */
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_answer(prompt, request, &err));
  for (;;) {
    int32_t status = astrai_request_next(request, -1, &event, NULL);
    if (status == ASTRAI_END)
      break;
    CHECK(status == ASTRAI_OK && event->format == ASTRAI_FORMAT_KNOWN);
    add_parts(&streamed, event);
    astrai_event_free(event);
  }
  check_whole(&streamed);
  astrai_request_free(request);

  /* Whole, and then a part of the conversation. */
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->part_count == 3 && strcmp(event->text, "I roll.") == 0 && event->complete == 1);
  CHECK(event->usage->reasoning_tokens > 0 && event->usage->reasoning_tokens < event->usage->generated_tokens);
  add_parts(&once, event);
  check_whole(&once);
  astrai_event_free(event);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_result(prompt, once.call_id[2], "5", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_answer(raw, request, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_answer(prompt, request, &err));
  astrai_request_free(request);
  strcpy(wrong_id, once.call_id[2]);
  wrong_id[0] = wrong_id[0] == 'x' ? 'y' : 'x';
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_result(prompt, wrong_id, "5", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_result(prompt, NULL, "5", 1, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prompt_add_result(prompt, once.call_id[2], "\xff", 1, &err));
  EXPECT(ASTRAI_OK, astrai_prompt_add_result(prompt, once.call_id[2], "5", 1, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_result(prompt, once.call_id[2], "5", 1, &err));
  options.flags |= ASTRAI_REQUEST_RAW_TEXT;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(strcmp(event->text, answer) == 0 && event->part_count == 3);
  cached = event->usage->cached_tokens;
  CHECK(cached >= 16 && cached < event->usage->prompt_tokens);
  astrai_event_free(event);
  astrai_request_free(request);

  /* A prompt of text has one part. */
  options.flags = ASTRAI_REQUEST_SEEDED;
  EXPECT(ASTRAI_OK, astrai_submit(engine, raw, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(strcmp(event->text, answer) == 0 && event->part_count == 1 && event->format == ASTRAI_FORMAT_TEXT);
  memset(&once, 0, sizeof once);
  add_parts(&once, event);
  CHECK(once.kinds[0] == ASTRAI_PART_CONTENT && strcmp(once.text[0], answer) == 0 && once.ends[0] == ASTRAI_PART_COMPLETE);
  astrai_event_free(event);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prompt_add_answer(prompt, request, &err));
  astrai_request_free(request);

  /* A call that is demanded, with little thought. */
  astrai_settings_free(settings);
  EXPECT(ASTRAI_OK, astrai_settings_new(&settings, &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_tools(settings, tools, strlen(tools), &err));
  EXPECT(ASTRAI_OK, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NAMED, "coin", ASTRAI_TOOLS_SINGLE_CALL, &err));
  options.settings = settings;
  options.reasoning_tokens = 3;
  for (options.seed = 0; options.seed < 8; options.seed++) {
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
    EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
    memset(&once, 0, sizeof once);
    add_parts(&once, event);
    CHECK(event->complete == 1 && event->text_len == 0 && once.count >= 1 && once.count <= 2);
    CHECK(once.kinds[once.count - 1] == ASTRAI_PART_CALL && once.ends[once.count - 1] == ASTRAI_PART_COMPLETE);
    CHECK(strcmp(once.name[once.count - 1], "coin") == 0 && strcmp(once.text[once.count - 1], "{\"side\":\"tails\"}") == 0);
    astrai_event_free(event);
    astrai_request_free(request);
  }
  EXPECT(ASTRAI_OK, astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NAMED, "card", 0, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, raw, &options, NULL, NULL, NULL, &request, &err));
  options.draft_tokens = 33;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_submit(engine, raw, &options, NULL, NULL, NULL, &request, &err));

  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_event_part(NULL, 0, NULL, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  astrai_settings_free(settings);
  astrai_prompt_free(prompt);
  astrai_prompt_free(raw);
  astrai_engine_free(engine);
  return 0;
}
