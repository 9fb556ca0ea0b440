/* An innkeeper who answers in JSON: what he says, how he feels, and what he hands over. Never anything else.
 *
 *   cc -std=c99 examples-c/npc_json.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o npc_json
 *   ./npc_json [model] [answers] [what to say to him]
 *
 * A schema is compiled once and serves any number of requests, on any thread. What the model writes meets it, token by token.
 * One line of JSON for each answer; an answer that was cut before its end is told on stderr, and not printed.
 */
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Bounds keep answers short, and minLength keeps him from saying nothing. Without x-guidance there may be white space between the
 * parts, new lines too. */
static const char schema[] = "{\"x-guidance\": {\"whitespace_flexible\": false}, \"type\": \"object\", \"additionalProperties\": false,"
                             " \"required\": [\"line\", \"mood\", \"gives_item\"], \"properties\": {"
                             "  \"line\": {\"type\": \"string\", \"minLength\": 1, \"maxLength\": 160},"
                             "  \"mood\": {\"enum\": [\"cheerful\", \"weary\", \"suspicious\"]},"
                             "  \"gives_item\": {\"enum\": [\"ale\", \"room_key\", \"map\", null]}}}";

static int failed(int32_t status, const astrai_error *err) {
  if (status != ASTRAI_OK)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err != NULL ? err->message : "");
  return status != ASTRAI_OK;
}

/* What the innkeeper is asked: with a chat template as messages, else as text. */
static int32_t ask(astrai_engine *engine, const char *words, astrai_prompt **prompt, astrai_error **err) {
  static const char role[] = "You are the innkeeper of The Old Lighthouse. Answer as JSON: line, mood, gives_item.";
  int32_t status = astrai_prompt_new(prompt, err);
  astrai_info info;
  info.struct_size = sizeof info;
  if (status == ASTRAI_OK)
    status = astrai_engine_info(engine, &info, err);
  if (status == ASTRAI_OK && !info.has_chat_template)
    return astrai_prompt_add_text(*prompt, words, strlen(words), 0, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(*prompt, "system", role, strlen(role), err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(*prompt, "user", words, strlen(words), err);
  return status;
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  long answers = argc > 2 ? strtol(argv[2], NULL, 10) : 3, whole = 0, i;
  const char *words = argc > 3 ? argv[3] : "Good evening! Have you got a room for the night?";
  astrai_engine *engine = NULL;
  astrai_constraint *innkeeper = NULL;
  astrai_settings *settings = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request_options options;
  astrai_error *err = NULL;
  int32_t status = astrai_engine_open(model, NULL, &engine, &err);

  if (status == ASTRAI_OK)
    status = astrai_constraint_compile(engine, ASTRAI_CONSTRAINT_JSON_SCHEMA, schema, strlen(schema), &innkeeper, &err);
  if (status == ASTRAI_OK)
    status = astrai_settings_new(&settings, &err);
  if (status == ASTRAI_OK)
    status = astrai_settings_set_constraint(settings, innkeeper, &err);
  if (status == ASTRAI_OK)
    status = ask(engine, words, &prompt, &err);
  astrai_request_options_init(&options, sizeof options);
  options.settings = settings;
  options.flags = ASTRAI_REQUEST_SEEDED;
  options.max_tokens = 400;
  options.temperature = 1.0f;

  for (i = 0; i < answers && status == ASTRAI_OK; i++) {
    astrai_request *request = NULL;
    astrai_event *event = NULL;
    options.seed = (uint64_t)i;
    status = astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err);
    if (status == ASTRAI_OK)
      status = astrai_request_wait(request, -1, &event, &err);
    if (status == ASTRAI_OK && event->complete == 1) {
      printf("%s\n", event->text);
      whole++;
    } else if (status == ASTRAI_OK) {
      fprintf(stderr, "answer %ld was cut: %s\n", i, event->error != NULL ? event->error->message : event->text);
    }
    astrai_event_free(event);
    astrai_request_free(request);
  }

  if (failed(status, err) == 0)
    fprintf(stderr, "%ld of %ld answers are whole\n", whole, answers);
  astrai_error_free(err);
  astrai_prompt_free(prompt);
  astrai_settings_free(settings);
  astrai_constraint_free(innkeeper);
  astrai_engine_free(engine);
  return status == ASTRAI_OK && whole == answers ? 0 : 1;
}
