/* A server inside a program: other programs ask its model by HTTP, while the program goes on asking it, too, and comes first.
 *
 *   make build-server
 *   cc -std=c99 examples-c/embedded_server.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o embedded_server
 *   ./embedded_server models/storyteller
 *
 * Each line of the standard input is the program's own: the model goes on with it. At its end the server stops.
 */
#include <astrai.h>
#include <stdio.h>
#include <string.h>

static int failed(int32_t status, const astrai_error *err) {
  if (status != ASTRAI_OK)
    fprintf(stderr, "%s: %s\n", astrai_status_name(status), err != NULL ? err->message : "");
  return status != ASTRAI_OK;
}

/* Prints how the model goes on with a text. */
static int32_t go_on(const astrai_engine *engine, const char *text, astrai_error **err) {
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_request_options options;
  int32_t status = astrai_prompt_new(&prompt, err);
  astrai_request_options_init(&options, sizeof options);
  options.max_tokens = 60;
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_text(prompt, text, strlen(text), 0, err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, err);
  while (status == ASTRAI_OK && (status = astrai_request_next(request, -1, &event, err)) == ASTRAI_OK) {
    printf("%s", event->text);
    fflush(stdout);
    if (event->kind == ASTRAI_EVENT_FAILED)
      fprintf(stderr, "failed: %s\n", event->error->message);
    astrai_event_free(event);
  }
  printf("\n");
  fflush(stdout);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  return status == ASTRAI_END ? ASTRAI_OK : status;
}

int main(int argc, char **argv) {
  astrai_engine *engine = NULL;
  astrai_server *server = NULL;
  astrai_error *err = NULL;
  astrai_server_options options;
  char line[1024];
  int32_t status;
  int wrong;
  astrai_server_options_init(&options, sizeof options);
  options.model_name = "storyteller";
  status = astrai_engine_open(argc > 1 ? argv[1] : "models/storyteller", NULL, &engine, &err);
  if (status == ASTRAI_OK)
    status = astrai_server_start(engine, &options, &server, &err);
  if (status == ASTRAI_OK) {
    printf("%s\n", astrai_server_url(server));
    fflush(stdout);
  }
  while (status == ASTRAI_OK && fgets(line, sizeof line, stdin) != NULL) {
    line[strcspn(line, "\n")] = '\0';
    if (line[0] != '\0')
      status = go_on(engine, line, &err);
  }
  wrong = failed(status, err);
  astrai_error_free(err);
  err = NULL;
  /* What still runs has five seconds. */
  wrong |= failed(astrai_server_stop(server, 5000, &err), err);
  astrai_error_free(err);
  astrai_engine_free(engine);
  return wrong;
}
