/* A chat in the terminal: one line is one turn, end of input ends it.
 *
 *   cc -std=c99 examples-c/chat.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o chat
 *   ./chat [model folder] [system message]
 *
 * The model remembers nothing between requests: each turn sends the whole conversation, which the library puts through
 * the model's own chat template. Answers are added as they were generated, so that what was computed of the conversation is not
 * computed again. When it no longer fits the context, the oldest turns go.
 */
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Prints the answer as it comes. A request that fails gives its error's status, without *err. */
static int32_t print_answer(const astrai_request *request, astrai_error **err) {
  int32_t status = ASTRAI_OK, terminal = 0;
  while (status == ASTRAI_OK && !terminal) {
    astrai_event *event = NULL;
    status = astrai_request_next(request, -1, &event, err);
    if (status != ASTRAI_OK)
      break;
    /* What the model thinks before it answers is not in the text: its parts have it, see astrai_event_part. */
    fwrite(event->text, 1, event->text_len, stdout);
    fflush(stdout);
    terminal = event->terminal;
    if (event->kind == ASTRAI_EVENT_FAILED) { /* the request was taken in, and failed later */
      fprintf(stderr, "\nfailed: %s\n", event->error->message);
      status = event->error->status;
    }
    astrai_event_free(event);
  }
  return status;
}

/* One turn: what was said, and the answer, at the end of the chat. */
static int32_t turn(const astrai_engine *engine, astrai_prompt *chat, const char *line, size_t len, uint32_t answer_tokens,
                    astrai_error **err) {
  astrai_request_options options;
  astrai_request *request = NULL;
  int32_t status = astrai_prompt_add_message(chat, "user", line, len, err);
  if (status == ASTRAI_OK) /* when this turn alone is too long, the error has both numbers */
    status = astrai_prompt_fit(engine, chat, answer_tokens, NULL, err);
  astrai_request_options_init(&options, sizeof options);
  options.max_tokens = (int32_t)answer_tokens;
  if (status == ASTRAI_OK) /* No callback: the events are pulled, on this thread. */
    status = astrai_submit(engine, chat, &options, NULL, NULL, NULL, &request, err);
  if (status == ASTRAI_OK)
    status = print_answer(request, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_answer(chat, request, err);
  astrai_request_free(request);
  return status;
}

/* Reads a line of any length without its end. 0 at the end of input. */
static int read_line(char **text, size_t *len) {
  size_t capacity = 0;
  int c;
  *text = NULL;
  *len = 0;
  while ((c = getchar()) != EOF && c != '\n') {
    if (*len == capacity) {
      capacity = capacity * 2 + 256;
      *text = (char *)realloc(*text, capacity);
      if (*text == NULL) {
        fprintf(stderr, "out of memory\n");
        exit(1);
      }
    }
    (*text)[(*len)++] = (char)c;
  }
  return c != EOF || *len > 0;
}

static void complain(int32_t status, astrai_error *err) {
  if (err == NULL)
    return;
  fprintf(stderr, "%s: %s\n", astrai_status_name(status), err->message);
  if (status == ASTRAI_ERR_CONTEXT)
    fprintf(stderr, "(%llu tokens are too many, the model reads %llu)\n", (unsigned long long)err->needed,
            (unsigned long long)err->available);
  astrai_error_free(err);
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  astrai_engine *engine = NULL;
  astrai_prompt *chat = NULL;
  astrai_error *err = NULL;
  astrai_info info;
  char *line;
  size_t len;
  int32_t status = astrai_engine_open(model, NULL, &engine, &err);

  info.struct_size = sizeof info;
  if (status == ASTRAI_OK)
    status = astrai_engine_info(engine, &info, &err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_new(&chat, &err);
  if (status == ASTRAI_OK && argc > 2)
    status = astrai_prompt_add_message(chat, "system", argv[2], strlen(argv[2]), &err);
  if (status != ASTRAI_OK) {
    complain(status, err);
    astrai_prompt_free(chat);
    astrai_engine_free(engine);
    return 1;
  }

  while (printf("> "), fflush(stdout), read_line(&line, &len)) {
    astrai_prompt *next = NULL;
    status = astrai_prompt_clone(chat, &next, &err);
    if (status == ASTRAI_OK)
      status = turn(engine, next, line, len, info.context_length / 4, &err);
    printf("\n");
    if (status == ASTRAI_OK) {
      astrai_prompt_free(chat);
      chat = next;
    } else { /* forget the question, so that the next one has a chance */
      complain(status, err);
      err = NULL;
      astrai_prompt_free(next);
    }
    free(line);
  }
  printf("\n");

  astrai_prompt_free(chat);
  astrai_engine_free(engine);
  return status == ASTRAI_OK ? 0 : 1;
}
