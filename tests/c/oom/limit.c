/* Opens, submits and closes under a limit of the address space, as a host in a small container does: see tests/c/oom.rs.
 *   limit <model folder> open <KiB above what the process has>      opens, answers one prompt and closes
 *   limit <model folder> submit <KiB above> <bytes of text>         opens, and then submits a long text
 * Prints the statuses of what it did, and nothing else may. */
#define _GNU_SOURCE
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* Bytes of address space that this process has. */
static size_t held(void) {
  long pages = 0;
  FILE *file = fopen("/proc/self/statm", "r");
  if (file == NULL || fscanf(file, "%ld", &pages) != 1)
    exit(2);
  fclose(file);
  return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void limit(const char *kib) {
  struct rlimit limit;
  limit.rlim_cur = limit.rlim_max = held() + (size_t)atol(kib) * 1024;
  if (setrlimit(RLIMIT_AS, &limit) != 0)
    exit(2);
}

static char line[256];

/* Notes a status for the line that is printed last. */
static int32_t say(const char *what, int32_t status, astrai_error **err) {
  size_t used = strlen(line);
  snprintf(line + used, sizeof line - used, "%s %s; ", what, astrai_status_name(status));
  astrai_error_free(*err);
  *err = NULL;
  return status;
}

int main(int argc, char **argv) {
  astrai_engine_options options;
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_prompt *prompt = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  static const char story[] = "Once upon a time";
  const char *text = story;
  size_t len = sizeof story - 1, i;
  int long_text = argc == 5 && strcmp(argv[2], "submit") == 0;
  if (argc < 4)
    return 2;
  if (long_text) {
    static const char words[] = "the quick brown fox ";
    char *made = malloc(len = (size_t)atol(argv[4]));
    if (made == NULL)
      return 2;
    for (i = 0; i < len; i++)
      made[i] = words[i % (sizeof words - 1)];
    text = made;
  } else {
    limit(argv[3]);
  }
  astrai_engine_options_init(&options, sizeof options);
  options.device = ASTRAI_DEVICE_CPU;
  options.threads = 2;
  if (say("open", astrai_engine_open(argv[1], &options, &engine, &err), &err) == ASTRAI_OK) {
    int32_t status;
    if (long_text)
      limit(argv[3]);
    status = say("new", astrai_prompt_new(&prompt, &err), &err);
    if (status == ASTRAI_OK)
      status = say("text", astrai_prompt_add_text(prompt, text, len, 0, &err), &err);
    if (status == ASTRAI_OK)
      status = say("submit", astrai_submit(engine, prompt, NULL, NULL, NULL, NULL, &request, &err), &err);
    if (status == ASTRAI_OK)
      status = say("wait", astrai_request_wait(request, -1, &event, &err), &err);
    if (status == ASTRAI_OK && event->kind == ASTRAI_EVENT_FAILED)
      say("event", event->error->status, &err);
    astrai_event_free(event);
    astrai_request_free(request);
    astrai_prompt_free(prompt);
  }
  astrai_engine_free(engine);
  printf("%s\n", line);
  return 0;
}
