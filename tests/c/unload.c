/* Loads the library, uses all of it, unloads it, again and again: from the main thread, from a thread that lives on,
 * from threads that come and go, and loaded by one thread for another. After each round no mapping of the library, no
 * thread and no open file may be left; memory may grow by no more than stated. Linked with -ldl and not with the library.
 *
 * Memory is what is resident (VmRSS), and that is the allocator's choice too: by itself glibc gives every thread an arena
 * and keeps what was freed there, which spreads for a hundred rounds before it is flat. So there is one arena here, and
 * free pages go back to the system before memory is read. What still differs from run to run is a few hundred KiB: pages
 * with a block in use somewhere, stacks of ended threads, the loader.
 *   unload <path of the library> <model folder> <rounds> <largest growth of memory from round 10 on, in KiB> */
#include "http.h"
#include <astrai.h>
#include <dirent.h>
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      fprintf(stderr, "%s:%d: round %d: not true: %s\n", __FILE__, __LINE__, round_number, #condition);                \
      exit(1);                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* The functions by the types of the header. */
#define FUNCTIONS(X)                                                                                                   \
  X(abi_version) X(engine_options_init) X(request_options_init) X(engine_open) X(engine_close) X(engine_free)          \
  X(engine_check) X(prompt_new) X(prompt_add_text) X(prompt_add_message) X(prompt_free) X(render) X(tokenize)          \
  X(detokenize) X(constraint_compile) X(constraint_free) X(settings_new) X(settings_set_constraint)                    \
  X(settings_set_tools) X(settings_set_tool_choice) X(settings_free) X(submit) X(request_next) X(request_wait)         \
  X(request_cancel) X(request_logits) X(request_choose) X(request_free) X(event_part) X(event_free)                    \
  X(prompt_add_answer) X(server_start) X(server_url) X(server_stop) X(error_free)

typedef struct api {
  void *library;
#define MEMBER(name) __typeof__(&astrai_##name) name;
  FUNCTIONS(MEMBER)
} api;

static const char schema[] = "{\"type\": \"array\", \"items\": {\"enum\": [1, 2]}, \"minItems\": 1}";
static const char *library_path, *model;
static int round_number, finalized, lines, events;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

static void count(int *counter) {
  pthread_mutex_lock(&lock);
  *counter += 1;
  pthread_mutex_unlock(&lock);
}

static void *symbol(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (found == NULL) {
    fprintf(stderr, "%s is not in the library: %s\n", name, dlerror());
    exit(1);
  }
  return found;
}

static void load(api *a) {
  void *found;
  a->library = dlopen(library_path, RTLD_NOW | RTLD_LOCAL);
  if (a->library == NULL) {
    fprintf(stderr, "%s\n", dlerror());
    exit(1);
  }
#define FIND(name)                                                                                                     \
  found = symbol(a->library, "astrai_" #name);                                                                         \
  memcpy(&a->name, &found, sizeof found);
  FUNCTIONS(FIND)
  CHECK(a->abi_version() == ASTRAI_ABI_VERSION);
}

/* A thread that lives on between its jobs. */
typedef struct worker {
  pthread_t thread;
  void (*job)(void *);
  void *argument;
  int jobs, done, stop;
} worker;

static worker lasting, reader;

static void *serve(void *argument) {
  worker *w = (worker *)argument;
  pthread_mutex_lock(&lock);
  while (!w->stop) {
    if (w->done == w->jobs) {
      pthread_cond_wait(&changed, &lock);
      continue;
    }
    pthread_mutex_unlock(&lock);
    w->job(w->argument);
    pthread_mutex_lock(&lock);
    w->done = w->jobs;
    pthread_cond_broadcast(&changed);
  }
  pthread_mutex_unlock(&lock);
  return NULL;
}

static void let_work(worker *w, void (*job)(void *), void *argument) {
  pthread_mutex_lock(&lock);
  w->job = job;
  w->argument = argument;
  w->jobs++;
  pthread_cond_broadcast(&changed);
  while (w->done < w->jobs)
    pthread_cond_wait(&changed, &lock);
  pthread_mutex_unlock(&lock);
}

static void start(worker *w) { CHECK(pthread_create(&w->thread, NULL, serve, w) == 0); }

static void finish(worker *w) {
  pthread_mutex_lock(&lock);
  w->stop = 1;
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
  CHECK(pthread_join(w->thread, NULL) == 0);
}

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data;
  (void)level;
  CHECK(strlen(text) <= len);
  count(&lines);
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  (void)user_data;
  (void)event;
  count(&events);
  return 0;
}

static void on_finalize(void *user_data) {
  (void)user_data;
  count(&finalized);
}

/* What a thread that did not open the engine does with it. */
typedef struct reading {
  const api *a;
  const astrai_engine *engine;
} reading;

/* Chat templates, tokenization both ways, and an error: all of it runs on this thread. */
static astrai_prompt *text(const api *a, const astrai_engine *engine) {
  astrai_prompt *chat = NULL;
  astrai_error *err = NULL;
  const char *message = "Tell me a story about Zo\xc3\xab and a red lantern.";
  static const char *const roles[] = {"system", "user"};
  char out[2048];
  int32_t ids[512];
  size_t len = 0;
  int i;
  CHECK(a->prompt_new(&chat, NULL) == ASTRAI_OK);
  for (i = 0; i < 2; i++)
    CHECK(a->prompt_add_message(chat, roles[i], message, strlen(message), NULL) == ASTRAI_OK);
  CHECK(a->render(engine, chat, 0, out, sizeof out, &len, NULL) == ASTRAI_OK && len > strlen(message));
  CHECK(a->tokenize(engine, chat, 0, ids, 512, &len, NULL) == ASTRAI_OK && len > 10);
  CHECK(a->detokenize(engine, ids, len, 0, out, sizeof out, &len, NULL) == ASTRAI_OK && len > strlen(message));
  CHECK(a->render(engine, chat, 0, out, 3, &len, &err) == ASTRAI_ERR_BUFFER && err != NULL);
  a->error_free(err);
  return chat;
}

static void read_text(void *argument) {
  const reading *r = (const reading *)argument;
  r->a->prompt_free(text(r->a, r->engine));
}

static const char tools[] = "[{\"type\": \"function\", \"function\": {\"name\": \"roll\", \"parameters\": {\"type\": \"object\","
                            " \"properties\": {\"sides\": {\"enum\": [4, 6]}}, \"required\": [\"sides\"],"
                            " \"additionalProperties\": false}}}]";

/* A call that is demanded, its part, and its place in the chat. */
static void call(const api *a, const astrai_engine *engine) {
  astrai_prompt *chat = text(a, engine);
  astrai_settings *settings = NULL;
  astrai_request_options wanted;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_part part;
  CHECK(a->settings_new(&settings, NULL) == ASTRAI_OK);
  CHECK(a->settings_set_tools(settings, tools, strlen(tools), NULL) == ASTRAI_OK);
  CHECK(a->settings_set_tool_choice(settings, ASTRAI_TOOLS_REQUIRED, NULL, ASTRAI_TOOLS_SINGLE_CALL, NULL) == ASTRAI_OK);
  CHECK(a->request_options_init(&wanted, sizeof wanted) == ASTRAI_OK);
  wanted.max_tokens = 100;
  wanted.settings = settings;
  CHECK(a->submit(engine, chat, &wanted, NULL, NULL, NULL, &request, NULL) == ASTRAI_OK);
  a->settings_free(settings);
  CHECK(a->request_wait(request, -1, &event, NULL) == ASTRAI_OK && event->part_count == 1);
  part.struct_size = sizeof part;
  CHECK(a->event_part(event, 0, &part, NULL) == ASTRAI_OK);
  CHECK(part.kind == ASTRAI_PART_CALL && strcmp(part.name, "roll") == 0);
  a->event_free(event);
  CHECK(a->prompt_add_answer(chat, request, NULL) == ASTRAI_OK);
  a->request_free(request);
  a->prompt_free(chat);
}

/* The program chooses the first tokens itself, and then no more. */
static void choose(const api *a, const astrai_engine *engine) {
  astrai_prompt *chat = text(a, engine);
  astrai_request_options wanted;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  float *logits = NULL;
  size_t count = 0;
  int i;
  CHECK(a->request_options_init(&wanted, sizeof wanted) == ASTRAI_OK);
  wanted.max_tokens = 8;
  wanted.flags = ASTRAI_REQUEST_HOST_LOGITS;
  CHECK(a->submit(engine, chat, &wanted, NULL, NULL, NULL, &request, NULL) == ASTRAI_OK);
  for (i = 0; i < 3; i++) {
    CHECK(a->request_logits(request, -1, &logits, &count, NULL) == ASTRAI_OK && count > 3);
    CHECK(a->request_choose(request, i == 1 ? 3 : -1, NULL) == ASTRAI_OK);
  }
  CHECK(a->request_cancel(request, NULL) == ASTRAI_OK);
  CHECK(a->request_wait(request, -1, &event, NULL) == ASTRAI_OK && event->kind == ASTRAI_EVENT_CANCELLED);
  a->event_free(event);
  a->request_free(request);
  a->prompt_free(chat);
}

/* A server that answers; its end finds a stream that is read by nobody. */
static void ask_over_http(const api *a, const astrai_engine *engine) {
  static char answer[1 << 14];
  static const char body[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hello\"}], \"max_tokens\": 4}";
  static const char endless[] = "{\"prompt\": \"Once\", \"max_tokens\": 1900, \"ignore_eos\": true, \"stream\": true}";
  astrai_server *server = NULL;
  int connection;
  CHECK(a->server_start(engine, NULL, &server, NULL) == ASTRAI_OK);
  CHECK(http(a->server_url(server), "POST", "/v1/chat/completions", NULL, body, answer, sizeof answer) == 200);
  CHECK(strstr(answer, "\"finish_reason\"") != NULL);
  connection = http_ask(a->server_url(server), "POST", "/v1/completions", NULL, endless);
  CHECK(connection >= 0 && recv(connection, answer, 1, MSG_PEEK) == 1);
  CHECK(a->server_stop(server, 0, NULL) == ASTRAI_OK);
  close(connection);
}

static void use(const api *a) {
  reading r;
  astrai_engine_options options;
  astrai_request_options wanted;
  astrai_engine *engine = NULL, *missing = NULL;
  astrai_prompt *prompt;
  astrai_request *pulled = NULL, *called = NULL, *dropped = NULL, *bound = NULL;
  astrai_constraint *constraint = NULL;
  astrai_settings *settings = NULL;
  astrai_event *event = NULL;
  int32_t status;
  lines = events = finalized = 0;
  CHECK(a->engine_options_init(&options, sizeof options) == ASTRAI_OK);
  options.log = on_log;
  options.log_level = ASTRAI_LOG_DEBUG;
  options.finalize = on_finalize;
  options.threads = 2;
  CHECK(a->engine_open("/nonexistent/model", &options, &missing, NULL) == ASTRAI_ERR_IO);
  CHECK(a->engine_open(model, &options, &engine, NULL) == ASTRAI_OK);
  prompt = text(a, engine);
  r.a = a;
  r.engine = engine;
  let_work(&reader, read_text, &r);
  CHECK(a->request_options_init(&wanted, sizeof wanted) == ASTRAI_OK);
  wanted.max_tokens = 8;
  wanted.logprobs = 2;
  CHECK(a->submit(engine, prompt, &wanted, NULL, NULL, NULL, &pulled, NULL) == ASTRAI_OK);
  CHECK(a->submit(engine, prompt, &wanted, on_event, NULL, on_finalize, &called, NULL) == ASTRAI_OK);
  CHECK(a->constraint_compile(engine, ASTRAI_CONSTRAINT_JSON_SCHEMA | ASTRAI_CONSTRAINT_WHOLE, schema, strlen(schema), &constraint, NULL) == ASTRAI_OK);
  CHECK(a->settings_new(&settings, NULL) == ASTRAI_OK);
  CHECK(a->settings_set_constraint(settings, constraint, NULL) == ASTRAI_OK);
  wanted.settings = settings;
  CHECK(a->submit(engine, prompt, &wanted, NULL, NULL, NULL, &bound, NULL) == ASTRAI_OK);
  wanted.settings = NULL;
  wanted.max_tokens = 1000;
  CHECK(a->submit(engine, prompt, &wanted, NULL, NULL, NULL, &dropped, NULL) == ASTRAI_OK);
  a->prompt_free(prompt);
  while ((status = a->request_next(pulled, -1, &event, NULL)) == ASTRAI_OK)
    a->event_free(event);
  CHECK(status == ASTRAI_END);
  CHECK(a->request_wait(bound, -1, &event, NULL) == ASTRAI_OK && event->text[0] == '[');
  a->event_free(event);
  event = NULL;
  a->request_free(bound);
  a->settings_free(settings);
  a->constraint_free(constraint);
  CHECK(a->request_wait(called, -1, NULL, NULL) == ASTRAI_OK && events > 0);
  CHECK(a->request_cancel(dropped, NULL) == ASTRAI_OK);
  call(a, engine);
  choose(a, engine);
  ask_over_http(a, engine);
  CHECK(a->engine_check(engine, NULL) == ASTRAI_OK);
  CHECK(a->engine_close(engine, round_number % 2 == 0 ? -1 : 0, NULL) == ASTRAI_OK);
  a->request_free(pulled);
  a->request_free(called);
  a->request_free(dropped);
  a->engine_free(engine);
  CHECK(finalized == 3 && lines > 1);
}

static void unload(api *a) { CHECK(dlclose(a->library) == 0); }

static void whole_round(void *unused) {
  api a;
  (void)unused;
  load(&a);
  use(&a);
  unload(&a);
}

static void use_given(void *argument) { use((const api *)argument); }

static void *fresh_thread(void *unused) {
  whole_round(unused);
  return NULL;
}


static int mapped(void) {
  char line[4096];
  int found = 0;
  FILE *maps = fopen("/proc/self/maps", "r");
  CHECK(maps != NULL);
  while (fgets(line, sizeof line, maps) != NULL)
    found += strstr(line, "libastrai") != NULL;
  fclose(maps);
  return found;
}

static int entries(const char *folder) {
  int n = 0;
  DIR *dir = opendir(folder);
  CHECK(dir != NULL);
  while (readdir(dir) != NULL)
    n++;
  closedir(dir);
  return n;
}

/* Whether there are as many threads as `wanted`. The system lists a thread for a moment after it was joined, so that more are
 * counted again, for up to ten seconds. */
static int threads_are(int wanted) {
  time_t start = time(NULL);
  int found = entries("/proc/self/task");
  while (found > wanted && time(NULL) - start < 10) {
    sched_yield();
    found = entries("/proc/self/task");
  }
  return found == wanted;
}

static long memory_kib(void) {
  char line[256];
  long value = -1;
  FILE *file;
#ifdef __GLIBC__
  malloc_trim(0);
#endif
  file = fopen("/proc/self/status", "r");
  CHECK(file != NULL);
  while (fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "VmRSS:", 6) == 0)
      value = strtol(line + 6, NULL, 10);
  fclose(file);
  CHECK(value > 0);
  return value;
}

static void one_round(void) {
  api a;
  pthread_t fresh;
  switch (round_number % 4) {
  case 0:
    whole_round(NULL);
    break;
  case 1:
    CHECK(pthread_create(&fresh, NULL, fresh_thread, NULL) == 0);
    CHECK(pthread_join(fresh, NULL) == 0);
    break;
  case 2:
    let_work(&lasting, whole_round, NULL);
    break;
  default: /* loaded and unloaded here, used by a thread that outlives the library */
    load(&a);
    let_work(&lasting, use_given, &a);
    unload(&a);
  }
}

int main(int argc, char **argv) {
  long growth_max, memory = 0, last;
  int rounds, threads, files;
#ifdef __GLIBC__
  CHECK(mallopt(M_ARENA_MAX, 1) == 1);
#endif
  CHECK(argc == 5);
  library_path = argv[1];
  model = argv[2];
  rounds = (int)strtol(argv[3], NULL, 10);
  growth_max = strtol(argv[4], NULL, 10);
  CHECK(mapped() == 0 && rounds > 10);
  start(&lasting);
  start(&reader);
  threads = entries("/proc/self/task");
  files = entries("/proc/self/fd");
  for (round_number = 0; round_number < rounds; round_number++) {
    one_round();
    CHECK(mapped() == 0);
    CHECK(threads_are(threads));
    CHECK(entries("/proc/self/fd") == files);
    if (round_number == 9)
      memory = memory_kib();
  }
  last = memory_kib();
  printf("memory after 10 rounds: %ld KiB, after %d: %ld KiB\n", memory, rounds, last);
  CHECK(last <= memory + growth_max);
  finish(&lasting);
  finish(&reader);
  return 0;
}
