/* A model that calls a function of this program: it asks for dice, the program rolls them, and the model goes on.
 *
 *   cc -std=c99 examples-c/tools.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o tools
 *   ./tools MODEL [what to say]
 *
 * The model needs a chat template that knows tools. Its calls arrive as calls, whatever it writes them like, and with arguments that
 * the schema accepts, because nothing else can be generated.
 */
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char tools[] =
    "[{\"type\": \"function\", \"function\": {\"name\": \"roll_dice\", \"description\": \"Rolls dice.\", \"strict\": true,"
    "  \"parameters\": {\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"count\", \"sides\"], \"properties\": {"
    "    \"count\": {\"type\": \"integer\", \"minimum\": 1, \"maximum\": 9},"
    "    \"sides\": {\"enum\": [4, 6, 8, 12, 20]}}}}}]";

/* The number after "key": in the arguments. The schema allows no nesting and no text, so this is enough; others want a JSON library. */
static int number(const char *arguments, const char *key) {
  const char *at = strstr(arguments, key);
  at = at != NULL ? strchr(at, ':') : NULL;
  return at != NULL ? (int)strtol(at + 1, NULL, 10) : 0;
}

/* The function that the model calls. */
static void roll_dice(const char *arguments, char *result, size_t capacity) {
  static unsigned seed = 7;
  int count = number(arguments, "\"count\""), sides = number(arguments, "\"sides\""), sum = 0, i;
  for (i = 0; i < count; i++) {
    seed = seed * 1103515245u + 12345u;
    sum += 1 + (int)(seed / 65536u % (unsigned)sides);
  }
  snprintf(result, capacity, "{\"sum\": %d}", sum);
}

static int failed(int32_t status, const astrai_error *err) {
  if (status != ASTRAI_OK)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err != NULL ? err->message : "");
  return status != ASTRAI_OK;
}

/* One answer: prints what it says, and adds it to the chat with the results of its calls. *calls is how many there were. */
static int32_t answer(const astrai_engine *engine, astrai_prompt *chat, astrai_settings *settings, int *calls, astrai_error **err) {
  astrai_request_options options;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  uint32_t i;
  int32_t status;
  *calls = 0;
  astrai_request_options_init(&options, sizeof options);
  options.settings = settings;
  options.max_tokens = 200;
  options.flags = ASTRAI_REQUEST_SEEDED;
  status = astrai_submit(engine, chat, &options, NULL, NULL, NULL, &request, err);
  if (status == ASTRAI_OK)
    status = astrai_request_wait(request, -1, &event, err);
  if (status == ASTRAI_OK && event->kind == ASTRAI_EVENT_FAILED) {
    fprintf(stderr, "failed: %s\n", event->error->message);
    status = event->error->status;
  }
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_answer(chat, request, err);
  for (i = 0; status == ASTRAI_OK && i < event->part_count; i++) {
    astrai_part part;
    char result[64];
    part.struct_size = sizeof part;
    status = astrai_event_part(event, i, &part, err);
    if (status == ASTRAI_OK && part.kind == ASTRAI_PART_CONTENT)
      printf("%s\n", part.text);
    if (status != ASTRAI_OK || part.kind != ASTRAI_PART_CALL || part.ends != ASTRAI_PART_COMPLETE)
      continue;
    roll_dice(part.text, result, sizeof result);
    printf("[%s(%s) = %s]\n", part.name, part.text, result);
    status = astrai_prompt_add_result(chat, part.call_id, result, strlen(result), err);
    ++*calls;
  }
  astrai_event_free(event);
  astrai_request_free(request);
  return status;
}

int main(int argc, char **argv) {
  const char *words = argc > 2 ? argv[2] : "Roll two dice with six sides for me, please.";
  astrai_engine *engine = NULL;
  astrai_prompt *chat = NULL;
  astrai_settings *settings = NULL;
  astrai_error *err = NULL;
  int32_t status;
  int calls = 0;
  if (argc < 2) {
    fprintf(stderr, "usage: %s MODEL [what to say]\n", argv[0]);
    return 2;
  }
  status = astrai_engine_open(argv[1], NULL, &engine, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&chat, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_set_json(chat, ASTRAI_JSON_TOOLS, tools, strlen(tools), &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(chat, "user", words, strlen(words), &err);
  if (status == ASTRAI_OK)
    status = astrai_settings_new(&settings, &err);

  /* The first answer is a call, the second is what the model makes of the result. */
  if (status == ASTRAI_OK)
    status = astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_REQUIRED, NULL, ASTRAI_TOOLS_SINGLE_CALL, &err);
  if (status == ASTRAI_OK)
    status = answer(engine, chat, settings, &calls, &err);
  if (status == ASTRAI_OK)
    status = astrai_settings_set_tool_choice(settings, ASTRAI_TOOLS_NONE, NULL, 0, &err);
  if (status == ASTRAI_OK && calls > 0)
    status = answer(engine, chat, settings, &calls, &err);

  failed(status, err);
  astrai_error_free(err);
  astrai_settings_free(settings);
  astrai_prompt_free(chat);
  astrai_engine_free(engine);
  return status == ASTRAI_OK ? 0 : 1;
}
