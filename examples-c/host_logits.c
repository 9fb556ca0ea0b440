/* A story without the letter e: this program has a say in every token.
 *
 *   cc -std=c99 examples-c/host_logits.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o host_logits
 *   ./host_logits [model] [beginning]
 *
 * With ASTRAI_REQUEST_HOST_LOGITS the engine computes the logits of the next token and leaves the choice to the host, on any thread of
 * its own. It may name the token, or change the logits and let one be sampled from them. Other requests go on meanwhile.
 */
#include <astrai.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(int32_t status, const astrai_error *err) {
  if (status >= 10)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err != NULL ? err->message : "");
  return status >= 10;
}

/* Which tokens have the letter: one byte for each. NULL when something failed. */
static unsigned char *with_letter(const astrai_engine *engine, uint32_t vocab, astrai_error **err) {
  unsigned char *has = (unsigned char *)calloc(vocab, 1);
  int32_t id;
  for (id = 0; has != NULL && (uint32_t)id < vocab; id++) {
    char text[256];
    size_t count, i;
    /* What is longer than that is left out as well. */
    int32_t status = astrai_detokenize(engine, &id, 1, 0, text, sizeof text, &count, err);
    has[id] = status == ASTRAI_ERR_BUFFER;
    if (status == ASTRAI_ERR_BUFFER) {
      astrai_error_free(*err);
      *err = NULL;
    } else if (status != ASTRAI_OK) {
      free(has);
      return NULL;
    }
    for (i = 0; !has[id] && i < count; i++)
      has[id] = text[i] == 'e' || text[i] == 'E';
  }
  return has;
}

/* Prints what the request has written so far. */
static int32_t show(astrai_request *request, astrai_error **err) {
  astrai_event *event = NULL;
  int32_t status = astrai_request_next(request, 0, &event, err);
  if (status != ASTRAI_OK)
    return status == ASTRAI_TIMEOUT || status == ASTRAI_END ? ASTRAI_OK : status;
  if (event->kind == ASTRAI_EVENT_FAILED) {
    fprintf(stderr, "failed: %s\n", event->error->message);
    status = event->error->status;
  }
  fwrite(event->text, 1, event->text_len, stdout);
  fflush(stdout);
  astrai_event_free(event);
  return status;
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller", *words = argc > 2 ? argv[2] : "A big brown dog";
  astrai_engine *engine = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL;
  astrai_request_options options;
  astrai_error *err = NULL;
  astrai_info info;
  unsigned char *forbidden = NULL;
  int32_t status = astrai_engine_open(model, NULL, &engine, &err);
  info.struct_size = sizeof info;
  if (status == ASTRAI_OK)
    status = astrai_engine_info(engine, &info, &err);
  if (status == ASTRAI_OK && (forbidden = with_letter(engine, info.vocab_size, &err)) == NULL)
    status = err != NULL ? err->status : ASTRAI_ERR_MEMORY;
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&prompt, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_text(prompt, words, strlen(words), 0, &err);
  astrai_request_options_init(&options, sizeof options);
  options.flags = ASTRAI_REQUEST_HOST_LOGITS | ASTRAI_REQUEST_SEEDED | ASTRAI_REQUEST_IGNORE_EOS;
  options.temperature = 0.8f;
  options.max_tokens = 60;
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err);

  while (status == ASTRAI_OK) {
    float *logits;
    size_t count, i;
    status = astrai_request_logits(request, -1, &logits, &count, &err);
    if (status != ASTRAI_OK)
      break;
    for (i = 0; i < count; i++)
      if (forbidden[i])
        logits[i] = -INFINITY;
    status = astrai_request_choose(request, -1, &err);
    if (status == ASTRAI_OK)
      status = show(request, &err);
  }
  if (status == ASTRAI_END)
    status = show(request, &err);
  printf("\n");

  failed(status, err);
  astrai_error_free(err);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_engine_free(engine);
  free(forbidden);
  return status == ASTRAI_OK ? 0 : 1;
}
