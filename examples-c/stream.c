/* Streams a story, token by token.
 *
 *   cc -std=c99 examples-c/stream.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o stream
 *   ./stream [model folder] [what to ask]
 */
#include <astrai.h>
#include <stdio.h>
#include <string.h>

typedef struct outcome { int32_t kind; astrai_usage usage; } outcome;

/* Called on a thread of the engine for each piece of text. The last event also says how it ended and what it took. */
static int32_t on_event(void *user_data, const astrai_event *event) {
  outcome *o = (outcome *)user_data;
  fwrite(event->text, 1, event->text_len, stdout);
  if (event->terminal) {
    o->kind = event->kind; /* ASTRAI_EVENT_FINISHED, _CANCELLED or _FAILED: that is with an error */
    o->usage = *event->usage;
  }
  if (event->error != NULL)
    fprintf(stderr, "\nfailed: %s\n", event->error->message);
  return fflush(stdout); /* anything but 0 stops the story */
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  const char *ask = argc > 2 ? argv[2] : "Tell me a story about Mira, the old lighthouse and a silver key.";
  astrai_engine *engine = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL;
  astrai_error *err = NULL;
  outcome o;
  int32_t status;
  memset(&o, 0, sizeof o);

  /* NULL options: everything automatic. */
  status = astrai_engine_open(model, NULL, &engine, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&prompt, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "user", ask, strlen(ask), &err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, NULL, on_event, &o, NULL, &request, &err);
  if (status == ASTRAI_OK)
    status = astrai_request_wait(request, -1, NULL, &err); /* -1: as long as it takes */

  if (err != NULL)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err->message);
  if (o.usage.generated_tokens > 1)
    printf("\n\n[%u tokens, the first after %.1f ms, then %.1f tokens/s]\n", (unsigned)o.usage.generated_tokens,
           (double)o.usage.first_token_us / 1e3, (o.usage.generated_tokens - 1) * 1e6 / (double)(o.usage.decode_us + 1));

  /* NULL is fine for all of these, and so is any order. */
  astrai_error_free(err);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  return o.kind == ASTRAI_EVENT_FINISHED ? 0 : 1;
}
