/* The HTTP server in a program: it shares the engine with the program's own requests, whose events alone the program sees.
 *   server <model folder> */
#include "check.h"
#include "http.h"

static const char *model;
static char answer[1 << 16];

static const char ask[] = "{\"prompt\": \"Once upon a time\", \"max_tokens\": 8, \"seed\": 7, \"ignore_eos\": true}";
static const char endless[] = "{\"prompt\": \"Once upon a time\", \"max_tokens\": 1900, \"ignore_eos\": true, \"stream\": true}";

static void refusals(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_server *server = NULL, *other = NULL;
  astrai_server_options options;
  astrai_engine_options text_only;
  astrai_engine *reader = NULL;
  CHECK(astrai_server_options_init(NULL, sizeof options) == ASTRAI_ERR_ARGUMENT);
  CHECK(astrai_server_options_init(&options, 3) == ASTRAI_ERR_STRUCT_SIZE);
  CHECK(astrai_server_options_init(&options, sizeof options) == ASTRAI_OK);
  CHECK(options.priority == -1 && options.port == 0 && options.host == NULL);
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(NULL, &options, &server, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(engine, &options, NULL, &err));
  options.port = 65536;
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(engine, &options, &server, &err));
  options.port = 0;
  options.host = "no.address";
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(engine, &options, &server, &err));
  options.host = "\xff";
  EXPECT(ASTRAI_ERR_UTF8, astrai_server_start(engine, &options, &server, &err));
  options.host = NULL;
  options.model_name = "";
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(engine, &options, &server, &err));
  options.model_name = NULL;
  options.api_key = "";
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_start(engine, &options, &server, &err));
  options.api_key = NULL;
  options.struct_size = 0;
  EXPECT(ASTRAI_ERR_STRUCT_SIZE, astrai_server_start(engine, &options, &server, &err));
  options.struct_size = sizeof options;
  CHECK(server == NULL && astrai_server_url(NULL) == NULL);
  EXPECT(ASTRAI_OK, astrai_server_stop(NULL, 0, &err));
  /* A port that another one has. */
  EXPECT(ASTRAI_OK, astrai_server_start(engine, NULL, &server, &err));
  options.port = (uint32_t)atoi(strrchr(astrai_server_url(server), ':') + 1);
  EXPECT(ASTRAI_ERR_IO, astrai_server_start(engine, &options, &other, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_server_stop(server, -2, &err));
  CHECK(http(astrai_server_url(server), "GET", "/health", NULL, NULL, answer, sizeof answer) == 200);
  EXPECT(ASTRAI_OK, astrai_server_stop(server, 0, &err));
  /* Without weights there is nothing to ask. */
  CHECK(astrai_engine_options_init(&text_only, sizeof text_only) == ASTRAI_OK);
  text_only.flags = ASTRAI_ENGINE_TEXT_ONLY;
  EXPECT(ASTRAI_OK, astrai_engine_open(model, &text_only, &reader, &err));
  EXPECT(ASTRAI_ERR_UNSUPPORTED, astrai_server_start(reader, NULL, &server, &err));
  astrai_engine_free(reader);
}

/* The program takes events of its own requests alone, also while the server has many; both get their answers. */
static void shared(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_server *server = NULL;
  astrai_server_options options;
  astrai_request_options wanted = steady(40);
  astrai_prompt *prompt = raw_prompt("Once upon a time");
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  int connections[4], i, ended = 0;
  CHECK(astrai_server_options_init(&options, sizeof options) == ASTRAI_OK);
  options.api_key = "secret";
  options.model_name = "storyteller";
  EXPECT(ASTRAI_OK, astrai_server_start(engine, &options, &server, &err));
  CHECK(strncmp(astrai_server_url(server), "http://127.0.0.1:", 17) == 0);
  CHECK(http(astrai_server_url(server), "GET", "/v1/models", NULL, NULL, answer, sizeof answer) == 401);
  CHECK(http(astrai_server_url(server), "GET", "/v1/models", "secret", NULL, answer, sizeof answer) == 200);
  CHECK(strstr(answer, "\"storyteller\"") != NULL);
  /* Nothing of the server's is in the program's queue. */
  CHECK(http(astrai_server_url(server), "POST", "/v1/completions", "secret", ask, answer, sizeof answer) == 200);
  CHECK(strstr(answer, "\"finish_reason\":\"length\"") != NULL);
  EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(engine, 0, &event, &err));
  for (i = 0; i < 4; i++)
    CHECK((connections[i] = http_ask(astrai_server_url(server), "POST", "/v1/completions", "secret", endless)) >= 0);
  for (i = 0; i < 4; i++)
    CHECK(recv(connections[i], answer, 1, MSG_PEEK) == 1);
  wanted.flags |= ASTRAI_REQUEST_TO_ENGINE;
  for (i = 0; i < 3; i++) {
    wanted.tag = (uint64_t)(100 + i);
    EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &wanted, NULL, NULL, NULL, &request, &err));
    astrai_request_free(request);
  }
  while (ended < 3) {
    EXPECT(ASTRAI_OK, astrai_engine_next(engine, -1, &event, &err));
    CHECK(event->tag >= 100 && event->tag < 103);
    ended += event->kind != ASTRAI_EVENT_DELTA;
    astrai_event_free(event);
  }
  EXPECT(ASTRAI_TIMEOUT, astrai_engine_next(engine, 0, &event, &err));
  EXPECT(ASTRAI_OK, astrai_server_stop(server, 0, &err));
  /* Their clients were told that this is the end. */
  for (i = 0; i < 4; i++)
    CHECK(http_read(connections[i], answer, sizeof answer) > 0 && strstr(answer, "\"finish_reason\":\"length\"") == NULL);
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  astrai_prompt_free(prompt);
}

typedef struct inside {
  astrai_server *server;
  int32_t status;
} inside;

static int32_t on_event(void *user_data, const astrai_event *event) {
  inside *in = (inside *)user_data;
  astrai_error *err = NULL;
  (void)event;
  in->status = astrai_server_stop(in->server, 0, &err);
  astrai_error_free(err);
  return 0;
}

/* Stopping waits, which a callback must not. */
static void in_a_callback(const astrai_engine *engine) {
  astrai_error *err = NULL;
  astrai_request_options wanted = steady(1);
  astrai_prompt *prompt = raw_prompt("Once");
  astrai_request *request = NULL;
  inside in;
  in.server = NULL;
  in.status = -1;
  EXPECT(ASTRAI_OK, astrai_server_start(engine, NULL, &in.server, &err));
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &wanted, on_event, &in, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(in.status == ASTRAI_ERR_REENTRANT);
  CHECK(http(astrai_server_url(in.server), "GET", "/health", NULL, NULL, answer, sizeof answer) == 200);
  EXPECT(ASTRAI_OK, astrai_server_stop(in.server, -1, &err));
  astrai_request_free(request);
  astrai_prompt_free(prompt);
}

/* An engine that is freed before its server: nothing is answered any more, and the server still ends well. */
static void freed_first(void) {
  astrai_error *err = NULL;
  astrai_server *server = NULL;
  astrai_engine *engine = open_engine(model);
  EXPECT(ASTRAI_OK, astrai_server_start(engine, NULL, &server, &err));
  CHECK(http(astrai_server_url(server), "POST", "/v1/completions", NULL, ask, answer, sizeof answer) == 200);
  astrai_engine_free(engine);
  CHECK(http(astrai_server_url(server), "POST", "/v1/completions", NULL, ask, answer, sizeof answer) == 503);
  EXPECT(ASTRAI_OK, astrai_server_stop(server, -1, &err));
}

int main(int argc, char **argv) {
  astrai_engine *engine;
  CHECK(argc == 2);
  model = argv[1];
  engine = open_engine(model);
  refusals(engine);
  shared(engine);
  in_a_callback(engine);
  astrai_engine_free(engine);
  freed_first();
  return 0;
}
