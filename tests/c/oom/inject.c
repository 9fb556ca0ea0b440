/* Refuses memory to the library, one allocation after another: see tests/c/oom.rs.
 *   inject <model folder> <scratch folder> <first n> <samples> <seed> <seconds> <phase>...
 * Of each phase (open, submit, steps, save, restore, close) the allocations are counted once. Then the phase runs with the n-th
 * allocation refused, alone and with all that follow until an error is returned, for n from 1 to <first n> (0 = all) and for
 * <samples> more; "open:1936-1948" names a phase's n's themselves. Every run must do what it should or say ERR_MEMORY; nothing may be printed; and then, with memory back, the
 * engine must be in order and give the same tokens as ever.
 * The runs are made in a child, which is replaced when one of them ends it. The last line counts the faults. */
#define _GNU_SOURCE
#include <astrai.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

void oom_arm(long n, int all_later) __attribute__((weak));
long oom_disarm(void) __attribute__((weak));
long oom_noted(void) __attribute__((weak));

enum { STEPS = 50, WAYS = 3, FAULTS_SHOWN = 20, HANG_SECONDS = 60 };

/* What parent and child share. */
static struct shared {
  long index, allocations, tried, refused;
  char fault[1024];
} *shared;

static const char *model, *folder;
static FILE *report;
static int printed; /* the file that stdout and stderr go to */
static long n;      /* the allocation that is refused now */
static int later;   /* and all after it, until an error returns */
static int window;  /* allocations are being counted */

static void fault(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(shared->fault, sizeof shared->fault, format, arguments);
  va_end(arguments);
  _exit(3);
}

#define CHECK(condition) \
  do { \
    if (!(condition)) \
      fault("line %d: %s", __LINE__, #condition); \
  } while (0)

static void arm(void) {
  window = 1;
  oom_arm(n, later);
}

static void disarm(void) {
  if (window) {
    long count = oom_disarm();
    if (n == 0)
      shared->allocations = count;
  }
  window = 0;
}

/* The outcome of a call in the window: whether memory was refused to it. Then memory is back. */
static int refused(int32_t status, astrai_error **err) {
  if (status == ASTRAI_OK) {
    if (*err != NULL)
      fault("an error with status OK");
    return 0;
  }
  disarm();
  if (status != ASTRAI_ERR_MEMORY || *err == NULL || (*err)->status != status || (*err)->message_len == 0)
    fault("status %s: %s", astrai_status_name(status), *err != NULL ? (*err)->message : "no error");
  astrai_error_free(*err);
  *err = NULL;
  return 1;
}

static void must(int32_t status, astrai_error *err, int line) {
  if (status != ASTRAI_OK)
    fault("line %d, with memory back: %s: %s", line, astrai_status_name(status), err != NULL ? err->message : "no error");
}
#define MUST(call) must((call), err, __LINE__)

static void on_log(void *user_data, int32_t level, const char *text, size_t len) {
  (void)user_data, (void)level;
  CHECK(text[len] == '\0');
}

static int32_t open_engine(astrai_engine **engine, astrai_error **err) {
  astrai_engine_options options;
  astrai_engine_options_init(&options, sizeof options);
  options.device = ASTRAI_DEVICE_CPU;
  options.threads = 2;
  options.max_running = 4;
  options.log_level = ASTRAI_LOG_DEBUG;
  options.log = on_log;
  return astrai_engine_open(model, &options, engine, err);
}

static astrai_engine *engine;

static void renew(void) {
  astrai_error *err = NULL;
  astrai_engine_free(engine);
  engine = NULL;
  MUST(open_engine(&engine, &err));
}

/* A request in one of the ways to receive: by callback, from the engine's queue, or pulled (and deferred). */
typedef struct job {
  int way, accepted, failed, terminals, finalized, count;
  int32_t tokens[STEPS];
  astrai_request *request;
} job;

static job jobs[WAYS], reference[WAYS];

static void take(job *j, const astrai_event *event) {
  uint32_t i;
  for (i = 0; i < event->token_count; i++) {
    CHECK(j->count < STEPS);
    j->tokens[j->count++] = event->tokens[i];
  }
  if (event->terminal) {
    j->terminals++;
    j->failed = event->kind == ASTRAI_EVENT_FAILED;
    if (j->failed && (event->error == NULL || event->error->status != ASTRAI_ERR_MEMORY))
      fault("way %d ended with %s", j->way, event->error != NULL ? event->error->message : "no error");
    CHECK(j->failed || event->kind == ASTRAI_EVENT_FINISHED);
  }
}

static int32_t on_event(void *user_data, const astrai_event *event) {
  take((job *)user_data, event);
  return 0;
}

static void on_finalize(void *user_data) { ((job *)user_data)->finalized++; }

/* Submits a job; whether memory was refused. */
static int submit(job *j, int way, int32_t max_tokens) {
  static const char chat[] = "Tell me a story about Mira, the old lighthouse and a silver key.";
  static const char text[] = "In the pale days of spring, a plump mapmaker called Mira rested near the old lighthouse.";
  astrai_request_options options;
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  astrai_settings *settings = NULL;
  int no;
  memset(j, 0, sizeof *j);
  j->way = way;
  astrai_request_options_init(&options, sizeof options);
  options.flags = ASTRAI_REQUEST_SEEDED | ASTRAI_REQUEST_IGNORE_EOS;
  options.seed = 7;
  options.max_tokens = max_tokens;
  options.tag = (uint64_t)way;
  no = refused(astrai_prompt_new(&prompt, &err), &err);
  if (!no && way == 0)
    no = refused(astrai_prompt_add_message(prompt, "user", chat, sizeof chat - 1, &err), &err);
  if (!no && way != 0)
    no = refused(astrai_prompt_add_text(prompt, text, sizeof text - 1, 0, &err), &err);
  if (!no && way == 1) {
    options.flags |= ASTRAI_REQUEST_TO_ENGINE | ASTRAI_REQUEST_PROMPT_LOGPROBS;
    options.logprobs = 2;
    options.repetition_penalty = 1.1f;
    no = refused(astrai_settings_new(&settings, &err), &err);
    if (!no)
      no = refused(astrai_settings_add_bias(settings, 5, 0.5f, &err), &err);
    if (!no)
      no = refused(astrai_settings_add_stop(settings, "no such text", 12, &err), &err);
    options.settings = settings;
  }
  if (way == 2)
    options.flags |= ASTRAI_REQUEST_DEFER;
  if (!no) {
    no = refused(astrai_submit(engine, prompt, &options, way == 0 ? on_event : NULL, j, on_finalize, &j->request, &err),
                 &err);
    CHECK(!no || j->finalized == 1);
    CHECK((j->request != NULL) == !no);
    j->accepted = !no;
  }
  astrai_settings_free(settings);
  astrai_prompt_free(prompt);
  return no;
}

static void ended(int32_t status, astrai_error *err) {
  if (status != ASTRAI_OK)
    fault("a wait for what has ended: %s: %s", astrai_status_name(status), err != NULL ? err->message : "no error");
}

/* Waits for the end of all that was accepted, taking what comes; whether memory was refused to any. */
static int collect(job *all) {
  astrai_error *err = NULL;
  astrai_event *event = NULL;
  int i, no = 0;
  while (all[1].accepted && all[1].terminals == 0) {
    if (refused(astrai_engine_next(engine, -1, &event, &err), &err)) {
      no = 1;
      continue;
    }
    CHECK(event->tag == 1);
    take(&all[1], event);
    astrai_event_free(event);
  }
  for (i = 0; i < WAYS; i++) {
    while (all[i].accepted && i == 2 && all[2].terminals == 0) {
      if (refused(astrai_request_next(all[2].request, -1, &event, &err), &err)) {
        no = 1;
        continue;
      }
      take(&all[2], event);
      astrai_event_free(event);
    }
    if (all[i].accepted && i != 2) {
      no |= refused(astrai_request_wait(all[i].request, -1, &event, &err), &err);
    }
    if (all[i].failed)
      disarm();
    no |= all[i].failed;
  }
  disarm();
  for (i = 0; i < WAYS; i++) {
    if (!all[i].accepted)
      continue;
    if (i != 2)
      ended(astrai_request_wait(all[i].request, -1, &event, &err), err);
    astrai_request_free(all[i].request);
    CHECK(all[i].terminals == 1 && all[i].finalized == 1);
    if (!all[i].failed && reference[i].count > 0)
      CHECK(all[i].count <= STEPS && memcmp(all[i].tokens, reference[i].tokens, sizeof(int32_t) * (size_t)all[i].count) == 0);
  }
  return no;
}

/* With memory there: everything is in order, and the tokens are as ever. */
static void sound(int32_t tokens) {
  astrai_error *err = NULL;
  job all[WAYS];
  int i;
  for (i = 0; i < WAYS; i++)
    CHECK(!submit(&all[i], i, tokens));
  CHECK(!collect(all));
  for (i = 0; i < WAYS; i++)
    CHECK(all[i].count == tokens);
  MUST(astrai_engine_check(engine, &err));
}

/* Waits until this is the only thread. The kernel lists one for a moment after it was joined; one that stays is found by the
 * alarm. */
static void alone(void) {
  int found;
  do {
    DIR *dir = opendir("/proc/self/task");
    for (found = -2; readdir(dir) != NULL;)
      found++;
    closedir(dir);
    sched_yield();
  } while (found != 1);
}

static int phase_open(void) {
  astrai_error *err = NULL;
  int no;
  engine = NULL;
  arm();
  no = refused(open_engine(&engine, &err), &err);
  disarm();
  CHECK((engine == NULL) == no);
  if (!no)
    sound(5);
  astrai_engine_free(engine);
  engine = NULL;
  alone();
  return no;
}

static int phase_submit(void) {
  int i, no = 0;
  memset(jobs, 0, sizeof jobs);
  arm();
  for (i = 0; i < WAYS; i++)
    no |= submit(&jobs[i], i, 8);
  no |= collect(jobs);
  sound(8);
  return no;
}

static int phase_steps(void) {
  astrai_error *err = NULL;
  int i, no;
  MUST(astrai_engine_pause(engine, -1, &err));
  for (i = 0; i < WAYS; i++)
    CHECK(!submit(&jobs[i], i, STEPS));
  arm();
  astrai_engine_resume(engine, NULL);
  no = collect(jobs);
  sound(8);
  return no;
}

static const char *path(const char *name) {
  static char buffer[4096];
  snprintf(buffer, sizeof buffer, "%s/%s", folder, name);
  return buffer;
}

/* Pins what the chat prompt of way 0 begins with. */
static astrai_prefix *pin(void) {
  static const char chat[] = "Tell me a story about Mira, the old lighthouse and a silver key.";
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  astrai_prefix *prefix = NULL;
  MUST(astrai_prompt_new(&prompt, &err));
  MUST(astrai_prompt_add_message(prompt, "user", chat, sizeof chat - 1, &err));
  MUST(astrai_prefix_pin(engine, prompt, &prefix, &err));
  MUST(astrai_prefix_wait(prefix, -1, NULL, &err));
  astrai_prompt_free(prompt);
  return prefix;
}

static int phase_save(void) {
  astrai_error *err = NULL;
  astrai_prefix *prefix, *again = NULL;
  struct dirent *entry;
  int no;
  DIR *dir;
  /* The first save of an engine does more than the others. */
  renew();
  prefix = pin();
  unlink(path("saved"));
  arm();
  no = refused(astrai_prefix_save(prefix, path("saved"), &err), &err);
  disarm();
  astrai_prefix_free(prefix);
  if (!no) {
    MUST(astrai_prefix_restore(engine, path("saved"), &again, &err));
    astrai_prefix_free(again);
  }
  unlink(path("saved"));
  dir = opendir(folder);
  while ((entry = readdir(dir)) != NULL)
    if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0 && strcmp(entry->d_name, "kept") != 0 &&
        strcmp(entry->d_name, "printed") != 0)
      fault("%s is left behind", entry->d_name);
  closedir(dir);
  sound(5);
  return no;
}

static int phase_restore(void) {
  astrai_error *err = NULL;
  astrai_prefix *prefix = NULL;
  int no;
  renew();
  arm();
  no = refused(astrai_prefix_restore(engine, path("kept"), &prefix, &err), &err);
  disarm();
  CHECK((prefix == NULL) == no);
  sound(5);
  astrai_prefix_free(prefix);
  return no;
}

static int phase_close(void) {
  astrai_error *err = NULL;
  int i, no;
  renew();
  for (i = 0; i < WAYS; i++)
    CHECK(!submit(&jobs[i], i, STEPS));
  arm();
  no = refused(astrai_engine_close(engine, -1, &err), &err);
  disarm();
  collect(jobs);
  astrai_engine_free(engine);
  engine = NULL;
  alone();
  return no;
}

static const struct phase {
  const char *name;
  int (*run)(void);
} PHASES[] = {{"open", phase_open}, {"submit", phase_submit}, {"steps", phase_steps},
              {"save", phase_save}, {"restore", phase_restore}, {"close", phase_close}};

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The child's life: the runs from `shared->index` on. */
static void child(const struct phase *phase, const long *list, long count, double until) {
  astrai_error *err = NULL;
  int i;
  alarm(HANG_SECONDS);
  n = 0;
  renew();
  for (i = 0; i < WAYS; i++)
    CHECK(!submit(&reference[i], i, STEPS));
  CHECK(!collect(reference));
  if (phase->run == phase_restore && access(path("kept"), F_OK) != 0) {
    astrai_prefix *prefix = pin();
    MUST(astrai_prefix_save(prefix, path("kept"), &err));
    astrai_prefix_free(prefix);
  }
  if (phase->run == phase_open) {
    astrai_engine_free(engine);
    engine = NULL;
  }
  if (list == NULL) {
    phase->run();
    _exit(0);
  }
  for (; shared->index < count && now() < until; shared->index++) {
    struct stat file;
    n = list[shared->index];
    alarm(HANG_SECONDS);
    shared->tried++;
    shared->refused += phase->run();
    fstat(printed, &file);
    if (file.st_size > 0)
      fault("something was printed");
    if (oom_noted() > 0)
      fault("glibc was asked to note a thread-local's destructor");
  }
  _exit(0);
}

/* Runs children until the list is done or the time is over; the faults. */
static int run(const struct phase *phase, const long *list, long count, double until) {
  int faults = 0;
  shared->index = shared->tried = shared->refused = 0;
  while ((list == NULL || shared->index < count) && now() < until) {
    int status;
    pid_t pid;
    shared->fault[0] = '\0';
    fflush(NULL);
    pid = fork();
    if (pid == 0)
      child(phase, list, count, until);
    waitpid(pid, &status, 0);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
      break;
    if (++faults <= FAULTS_SHOWN) {
      char text[256] = "";
      ssize_t len = pread(printed, text, sizeof text - 1, 0);
      text[len < 0 ? 0 : len] = '\0';
      fprintf(report, "fault: %s %s n=%ld: %s%s%s%s\n", phase->name, later ? "onwards" : "alone",
              list == NULL ? 0 : list[shared->index], WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "", shared->fault,
              len > 0 ? "; printed: " : "", text);
    }
    if (list == NULL)
      break;
    shared->index++;
    if (ftruncate(printed, 0) != 0)
      _exit(4);
  }
  return faults;
}

int main(int argc, char **argv) {
  long first, samples, seed, faults = 0;
  double end;
  int i, p;
  if (argc < 8 || oom_arm == NULL)
    return 2;
  model = argv[1], folder = argv[2];
  first = atol(argv[3]), samples = atol(argv[4]), seed = atol(argv[5]);
  end = now() + atof(argv[6]);
  report = fdopen(dup(1), "w");
  printed = open(path("printed"), O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600);
  if (report == NULL || printed < 0 || dup2(printed, 1) < 0 || dup2(printed, 2) < 0)
    return 2;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  srandom((unsigned)seed);
  for (i = 7; i < argc; i++) {
    for (p = 0; p < (int)(sizeof PHASES / sizeof *PHASES); p++) {
      const struct phase *phase = &PHASES[p];
      long *list, count, total, k, from = 0, to = 0;
      const char *range = argv[i] + strcspn(argv[i], ":");
      if (strlen(phase->name) != (size_t)(range - argv[i]) || strncmp(phase->name, argv[i], strlen(phase->name)) != 0)
        continue;
      if (*range != '\0' && (sscanf(range, ":%ld-%ld", &from, &to) != 2 || from < 1 || to < from))
        return 2;
      n = 0, later = 0;
      if (run(phase, NULL, 0, now() + HANG_SECONDS) > 0) {
        fprintf(report, "%s cannot be run with memory there\n", phase->name);
        return 1;
      }
      total = shared->allocations;
      count = from > 0 ? to - from + 1 : first == 0 || first > total ? total : first;
      list = malloc(sizeof *list * (size_t)(count + samples + 1));
      for (k = 0; k < count; k++)
        list[k] = (from > 0 ? from : 1) + k;
      if (from == 0 && total > count) {
        for (k = 0; k < samples; k++)
          list[count + k] = count + 1 + random() % (total - count);
        count += samples;
      }
      /* In no order, so that a run that is cut short has tried some of all. */
      for (k = count - 1; k > 0 && first != 0; k--) {
        long other = random() % (k + 1), swapped = list[k];
        list[k] = list[other];
        list[other] = swapped;
      }
      for (later = 0; later < 2; later++) {
        /* An even share of what time is left. */
        double begin = now(), each = (end - begin) / (2 * (argc - i) - later);
        long wrong = run(phase, list, count, begin + each);
        fprintf(report, "%-7s %-7s %6ld allocations, %5ld of %5ld refused in turn, %5ld told ERR_MEMORY, %ld faults, %.0f s\n", phase->name,
                later ? "onwards" : "alone", total, shared->tried, count, shared->refused, wrong, now() - begin);
        fflush(report);
        faults += wrong;
      }
      free(list);
    }
  }
  fprintf(report, "%ld faults\n", faults);
  fclose(report);
  return faults != 0;
}
