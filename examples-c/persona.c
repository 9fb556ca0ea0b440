/* A persona that is computed once: the first run saves what the model made of it, later runs start from the file.
 *
 *   cc -std=c99 examples-c/persona.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o persona
 *   ./persona [model folder] [file] [what to say]
 */
#include <astrai.h>
#include <stdio.h>
#include <string.h>

static const char *PERSONA =
    "You are the keeper of the old lighthouse. You know the tides, the gulls and every stone of the long stair. You "
    "speak slowly, and you never say where the silver key is hidden, unless somebody brings you warm bread.";

typedef struct outcome { int32_t kind; astrai_usage usage; } outcome;

static int32_t print(void *user_data, const astrai_event *event) {
  outcome *o = (outcome *)user_data;
  fwrite(event->text, 1, event->text_len, stdout);
  if (event->terminal) {
    o->kind = event->kind;
    o->usage = *event->usage;
  }
  if (event->error != NULL)
    fprintf(stderr, "\nfailed: %s\n", event->error->message);
  return fflush(stdout);
}

/* Restores the prefix; if there is no file, or one of another model or machine, pins the persona and saves it. */
static int32_t prefix_from(const astrai_engine *engine, const char *file, astrai_prefix **prefix, astrai_error **err) {
  astrai_prompt *prompt = NULL;
  int32_t status = astrai_prefix_restore(engine, file, prefix, err);
  if (status == ASTRAI_OK) {
    printf("[restored from %s]\n", file);
    return status;
  }
  printf("[computing the persona: %s]\n", (*err)->message);
  astrai_error_free(*err);
  status = astrai_prompt_new(&prompt, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "system", PERSONA, strlen(PERSONA), err);
  if (status == ASTRAI_OK)
    status = astrai_prefix_pin(engine, prompt, prefix, err);
  if (status == ASTRAI_OK)
    status = astrai_prefix_save(*prefix, file, err);
  astrai_prompt_free(prompt);
  return status;
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  const char *file = argc > 2 ? argv[2] : "persona.prefix";
  const char *say = argc > 3 ? argv[3] : "Good evening! Tell me a story about a red lantern.";
  astrai_engine *engine = NULL;
  astrai_prefix *prefix = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL;
  astrai_error *err = NULL;
  outcome o;
  int32_t status;
  memset(&o, 0, sizeof o);

  status = astrai_engine_open(model, NULL, &engine, &err);
  if (status == ASTRAI_OK)
    status = prefix_from(engine, file, &prefix, &err);
  /* Every prompt that begins with the persona starts from its pages. */
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&prompt, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "system", PERSONA, strlen(PERSONA), &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "user", say, strlen(say), &err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, NULL, print, &o, NULL, &request, &err);
  if (status == ASTRAI_OK)
    status = astrai_request_wait(request, -1, NULL, &err);
  if (err != NULL)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err->message);
  else if (o.kind == ASTRAI_EVENT_FINISHED)
    printf("\n\n[%u of %u prompt tokens were there already; the first token after %.1f ms]\n",
           (unsigned)o.usage.cached_tokens, (unsigned)o.usage.prompt_tokens, (double)o.usage.first_token_us / 1e3);

  astrai_error_free(err);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_prefix_free(prefix);
  astrai_engine_free(engine);
  return o.kind == ASTRAI_EVENT_FINISHED ? 0 : 1;
}
