/* How near texts are in meaning: the cosine between the embedding of the first and those of the others.
 *
 *   cc -std=c99 examples-c/similar.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o similar
 *   ./similar <model> <text> <text> ...
 *
 * All texts are submitted at once, and the engine computes them together. A model made for embeddings, such as
 * Qwen3-Embedding, says more than one that was made to write.
 */
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(int32_t status, const astrai_error *err) {
  if (status >= 10)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err != NULL ? err->message : "");
  return status >= 10;
}

/* Asks for the embedding of a text. */
static int32_t embed(const astrai_engine *engine, const char *text, astrai_request **request, astrai_error **err) {
  astrai_request_options options;
  astrai_prompt *prompt = NULL;
  int32_t status = astrai_request_options_init(&options, sizeof options);
  options.flags = ASTRAI_REQUEST_EMBED;
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&prompt, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_text(prompt, text, strlen(text), 0, err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, &options, NULL, NULL, NULL, request, err);
  astrai_prompt_free(prompt);
  return status;
}

int main(int argc, char **argv) {
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_request **requests;
  astrai_event **events;
  int32_t status;
  int count = argc - 2, i, bad = 0;
  size_t k;
  if (count < 2) {
    fprintf(stderr, "usage: %s <model> <text> <text> ...\n", argv[0]);
    return 2;
  }
  requests = (astrai_request **)calloc((size_t)count, sizeof *requests);
  events = (astrai_event **)calloc((size_t)count, sizeof *events);
  status = requests != NULL && events != NULL ? ASTRAI_OK : ASTRAI_ERR_MEMORY;
  if (status == ASTRAI_OK)
    status = astrai_engine_open(argv[1], NULL, &engine, &err);
  for (i = 0; i < count && status == ASTRAI_OK; i++)
    status = embed(engine, argv[i + 2], &requests[i], &err);
  for (i = 0; i < count && status == ASTRAI_OK; i++)
    status = astrai_request_wait(requests[i], -1, &events[i], &err);
  bad = failed(status, err);
  for (i = 0; i < count && !bad; i++) {
    /* The vectors have the norm 1, so that their product is the cosine. */
    float cosine = 0;
    if (events[i]->kind != ASTRAI_EVENT_FINISHED) {
      bad = failed(ASTRAI_ERR_ARGUMENT, events[i]->error);
      break;
    }
    for (k = 0; k < events[i]->embedding_len; k++)
      cosine += events[0]->embedding[k] * events[i]->embedding[k];
    printf("%6.3f  %s\n", cosine, argv[i + 2]);
  }
  for (i = 0; i < count && requests != NULL && events != NULL; i++) {
    astrai_event_free(events[i]);
    astrai_request_free(requests[i]);
  }
  free(events);
  free(requests);
  astrai_error_free(err);
  astrai_engine_free(engine);
  return bad;
}
