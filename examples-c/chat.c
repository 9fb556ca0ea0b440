/* A chat in the terminal: one line is one turn, end of input ends it.
 *
 *   cc -std=c99 examples-c/chat.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o chat
 *   ./chat [model folder] [system message]
 *
 * The model remembers nothing between requests: each turn sends the whole conversation, which the library puts through
 * the model's own chat template. When it no longer fits the context, the oldest turns go.
 */
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct turn {
  const char *role;
  char *text;
  size_t len;
} turn;

/* The conversation so far. turns[0 .. system_count) is the system message, which always stays. */
typedef struct chat {
  turn *turns;
  size_t count, capacity, system_count;
} chat;

/* Adds len bytes to a text that grows. */
static void append(char **text, size_t *len, const char *more, size_t more_len) {
  char *grown = (char *)realloc(*text, *len + more_len + 1);
  if (grown == NULL) {
    fprintf(stderr, "out of memory\n");
    exit(1);
  }
  memcpy(grown + *len, more, more_len);
  *text = grown;
  *len += more_len;
  grown[*len] = '\0';
}

static void add_turn(chat *c, const char *role, char *text, size_t len) {
  if (c->count == c->capacity) {
    c->capacity = c->capacity * 2 + 8;
    c->turns = (turn *)realloc(c->turns, c->capacity * sizeof *c->turns);
    if (c->turns == NULL) {
      fprintf(stderr, "out of memory\n");
      exit(1);
    }
  }
  c->turns[c->count].role = role;
  c->turns[c->count].text = text;
  c->turns[c->count].len = len;
  c->count++;
}

/* Removes count turns, beginning with turns[first]. */
static void drop_turns(chat *c, size_t first, size_t count) {
  size_t i;
  for (i = first; i < first + count; i++)
    free(c->turns[i].text);
  memmove(c->turns + first, c->turns + first + count, (c->count - first - count) * sizeof *c->turns);
  c->count -= count;
}

/* Makes a prompt of the whole conversation. */
static int32_t build(const chat *c, astrai_prompt **out, astrai_error **err) {
  astrai_prompt *prompt = NULL;
  size_t i;
  int32_t status = astrai_prompt_new(&prompt, err);
  for (i = 0; i < c->count && status == ASTRAI_OK; i++)
    status = astrai_prompt_add_message(prompt, c->turns[i].role, c->turns[i].text, c->turns[i].len, err);
  if (status == ASTRAI_OK)
    *out = prompt;
  else
    astrai_prompt_free(prompt);
  return status;
}

/* As build, but without the oldest turns where prompt and answer would not fit into the context; they are forgotten. */
static int32_t build_to_fit(const astrai_engine *engine, chat *c, size_t answer_tokens, astrai_prompt **out,
                            astrai_error **err) {
  uint32_t dropped = 0;
  int32_t status = build(c, out, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_fit(engine, *out, (uint32_t)answer_tokens, &dropped, err);
  if (status != ASTRAI_OK) { /* when the last question alone is too long, the error has both numbers */
    astrai_prompt_free(*out);
    *out = NULL;
  }
  drop_turns(c, c->system_count, dropped);
  return status;
}

/* Prints the answer as it comes and keeps it in *text. A request that fails gives its error's status, without *err. */
static int32_t answer(const astrai_engine *engine, const astrai_prompt *prompt, size_t answer_tokens, char **text,
                      size_t *len, astrai_error **err) {
  astrai_request_options options;
  astrai_request *request = NULL;
  int32_t status, terminal = 0;
  astrai_request_options_init(&options, sizeof options);
  options.max_tokens = (int32_t)answer_tokens;

  /* No callback: the events are pulled, on this thread. */
  status = astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, err);
  while (status == ASTRAI_OK && !terminal) {
    astrai_event *event = NULL;
    status = astrai_request_next(request, -1, &event, err);
    if (status != ASTRAI_OK)
      break;
    fwrite(event->text, 1, event->text_len, stdout);
    fflush(stdout);
    append(text, len, event->text, event->text_len);
    terminal = event->terminal;
    if (event->kind == ASTRAI_EVENT_FAILED) { /* the request was taken in, and failed later */
      fprintf(stderr, "\nfailed: %s\n", event->error->message);
      status = event->error->status;
    }
    astrai_event_free(event);
  }
  astrai_request_free(request);
  return status;
}

/* Reads a line of any length without its end. 0 at the end of input. */
static int read_line(char **text, size_t *len) {
  int c;
  *text = NULL;
  *len = 0;
  append(text, len, "", 0);
  while ((c = getchar()) != EOF && c != '\n') {
    char byte = (char)c;
    append(text, len, &byte, 1);
  }
  if (c == EOF && *len == 0) {
    free(*text);
    return 0;
  }
  return 1;
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
  astrai_error *err = NULL;
  astrai_info info;
  chat c;
  char *line;
  size_t len, answer_tokens;
  int32_t status;
  memset(&c, 0, sizeof c);

  status = astrai_engine_open(model, NULL, &engine, &err);
  info.struct_size = sizeof info;
  if (status == ASTRAI_OK)
    status = astrai_engine_info(engine, &info, &err);
  if (status != ASTRAI_OK) {
    complain(status, err);
    astrai_engine_free(engine);
    return 1;
  }
  answer_tokens = info.context_length / 4;

  if (argc > 2) {
    char *system_text = NULL;
    size_t system_len = 0;
    append(&system_text, &system_len, argv[2], strlen(argv[2]));
    add_turn(&c, "system", system_text, system_len);
    c.system_count = 1;
  }

  while (printf("> "), fflush(stdout), read_line(&line, &len)) {
    astrai_prompt *prompt = NULL;
    char *reply = NULL;
    size_t reply_len = 0;
    add_turn(&c, "user", line, len);
    append(&reply, &reply_len, "", 0);
    status = build_to_fit(engine, &c, answer_tokens, &prompt, &err);
    if (status == ASTRAI_OK)
      status = answer(engine, prompt, answer_tokens, &reply, &reply_len, &err);
    astrai_prompt_free(prompt);
    printf("\n");
    if (status == ASTRAI_OK) {
      add_turn(&c, "assistant", reply, reply_len);
    } else { /* forget the question, so that the next one has a chance */
      complain(status, err);
      err = NULL;
      free(reply);
      drop_turns(&c, c.count - 1, 1);
    }
  }
  printf("\n");

  drop_turns(&c, 0, c.count);
  free(c.turns);
  astrai_engine_free(engine);
  return status == ASTRAI_OK ? 0 : 1;
}
