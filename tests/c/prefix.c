/* Pinned prefixes: what the header says of pin, wait, save, restore and free.
 *   prefix <model folder> <an empty folder> [brief: no fork] */
#include "check.h"
#include <dirent.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *model;
static const char *folder;

#define PERSONA                                                                                                        \
  "You are the keeper of the old lighthouse. You know the tides, the gulls and every stone of the long stair. You "    \
  "speak slowly, and you never say where the silver key is hidden, unless somebody brings you warm bread. "

static const char *in_folder(const char *name) {
  static char path[4096];
  CHECK(snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path);
  return path;
}

static astrai_prefix *pin(const astrai_engine *engine, const char *text) {
  astrai_error *err = NULL;
  astrai_prefix *prefix = NULL;
  astrai_prompt *prompt = raw_prompt(text);
  EXPECT(ASTRAI_OK, astrai_prefix_pin(engine, prompt, &prefix, &err));
  astrai_prompt_free(prompt);
  CHECK(prefix != NULL);
  return prefix;
}

/* What a request over the persona generates (five tokens), and how many tokens of its prompt were there. */
static uint32_t ask(const astrai_engine *engine, int32_t *tokens) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_event *event = NULL;
  astrai_request_options options = steady(5);
  astrai_prompt *prompt = raw_prompt(PERSONA "A child knocks and asks for a story.");
  uint32_t cached;
  EXPECT(ASTRAI_OK, astrai_submit(engine, prompt, &options, NULL, NULL, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, &event, &err));
  CHECK(event->kind == ASTRAI_EVENT_FINISHED && event->token_count == 5);
  memcpy(tokens, event->tokens, 5 * sizeof *tokens);
  cached = event->usage->cached_tokens;
  astrai_event_free(event);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  return cached;
}

static void arguments(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prompt *prompt = raw_prompt("x"), *empty = NULL;
  astrai_prefix *prefix = pin(engine, "x"), *out = (astrai_prefix *)&model;
  uint32_t tokens = 77;
  FILE *file = fopen(in_folder("garbage"), "wb");
  CHECK(file != NULL && fputs("this is no prefix, but it is long enough to be one", file) >= 0 && fclose(file) == 0);

  EXPECT(ASTRAI_OK, astrai_prompt_new(&empty, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_pin(NULL, prompt, &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_pin(engine, NULL, &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_pin(engine, prompt, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_pin(engine, empty, &out, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_prefix_pin((const astrai_engine *)prompt, prompt, &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_wait(NULL, 0, &tokens, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_wait(prefix, -2, &tokens, &err));
  EXPECT(ASTRAI_ERR_HANDLE, astrai_prefix_wait((const astrai_prefix *)engine, 0, &tokens, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_save(NULL, "x", &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_save(prefix, NULL, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_save(prefix, "", &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prefix_save(prefix, "\xff", &err));
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_save(prefix, in_folder("no/folder"), &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_restore(NULL, "x", &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_restore(engine, NULL, &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_restore(engine, "", &out, &err));
  EXPECT(ASTRAI_ERR_ARGUMENT, astrai_prefix_restore(engine, in_folder("garbage"), NULL, &err));
  EXPECT(ASTRAI_ERR_UTF8, astrai_prefix_restore(engine, "\xff", &out, &err));
  EXPECT(ASTRAI_ERR_FORMAT, astrai_prefix_restore(engine, in_folder("garbage"), &out, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_restore(engine, in_folder("missing"), &out, &err));
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_restore(engine, folder, &out, &err));
  CHECK(out == (astrai_prefix *)&model && tokens == 77);

  /* err is not needed, and neither is tokens. */
  CHECK(astrai_prefix_wait(prefix, -1, NULL, NULL) == ASTRAI_OK);
  EXPECT(ASTRAI_OK, astrai_prefix_wait(prefix, 0, &tokens, &err));
  CHECK(tokens == 0); /* less than a page */
  astrai_prefix_free(NULL);
  astrai_prefix_free(prefix);
  astrai_prompt_free(prompt);
  astrai_prompt_free(empty);
  astrai_engine_free(engine);
}

static void pinned_saved_and_restored(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model), *other = open_engine(model), *cold = open_engine(model);
  astrai_prefix *prefix = pin(engine, PERSONA), *restored = NULL;
  uint32_t tokens = 0, again = 0;
  int32_t first[5], second[5], third[5], status;
  do {
    status = astrai_prefix_wait(prefix, 0, &tokens, &err);
    CHECK(status == ASTRAI_OK || (status == ASTRAI_TIMEOUT && tokens == 0));
  } while (status == ASTRAI_TIMEOUT);
  EXPECT(ASTRAI_OK, astrai_prefix_wait(prefix, -1, &again, &err));
  CHECK(tokens > 16 && tokens % 16 == 0 && again == tokens);
  CHECK(ask(engine, first) == tokens);
  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, in_folder("persona"), &err));
  EXPECT(ASTRAI_OK, astrai_prefix_restore(other, in_folder("persona"), &restored, &err));
  EXPECT(ASTRAI_OK, astrai_prefix_wait(restored, 0, &again, &err));
  CHECK(again == tokens && ask(other, second) == tokens && ask(cold, third) == 0);
  CHECK(memcmp(first, third, sizeof first) == 0 && memcmp(second, third, sizeof second) == 0);
  EXPECT(ASTRAI_OK, astrai_engine_check(engine, &err));
  EXPECT(ASTRAI_OK, astrai_engine_check(other, &err));

  /* Any order: a prefix outlives its engine, and says that it is closed. */
  astrai_prefix_free(restored);
  astrai_engine_free(other);
  EXPECT(ASTRAI_OK, astrai_engine_close(engine, -1, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_prefix_wait(prefix, -1, &again, &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_prefix_save(prefix, in_folder("late"), &err));
  EXPECT(ASTRAI_ERR_CLOSED, astrai_prefix_restore(engine, in_folder("persona"), &restored, &err));
  astrai_engine_free(engine);
  EXPECT(ASTRAI_ERR_CLOSED, astrai_prefix_wait(prefix, 0, &again, &err));
  astrai_prefix_free(prefix);
  astrai_engine_free(cold);
}

/* One engine's prefixes, freed before they are computed and with the engine in between. */
static void freed_at_once(void) {
  int round;
  for (round = 0; round < 4; round++) {
    astrai_engine *engine = open_engine(model);
    astrai_prefix *first = pin(engine, PERSONA PERSONA), *second = pin(engine, PERSONA);
    if (round % 2)
      astrai_prefix_free(first);
    if (round < 2)
      astrai_engine_free(engine);
    astrai_prefix_free(second);
    if (round % 2 == 0)
      astrai_prefix_free(first);
    if (round >= 2)
      astrai_engine_free(engine);
  }
}

static astrai_engine *called_engine;

static int32_t inside(void *user_data, const astrai_event *event) {
  astrai_error *err = NULL;
  astrai_prefix *prefix = pin(called_engine, PERSONA), *out = NULL;
  int32_t status;
  (void)event;
  EXPECT(ASTRAI_ERR_REENTRANT, astrai_prefix_wait(prefix, -1, NULL, &err));
  EXPECT(ASTRAI_ERR_REENTRANT, astrai_prefix_save(prefix, in_folder("inside"), &err));
  EXPECT(ASTRAI_ERR_REENTRANT, astrai_prefix_restore(called_engine, in_folder("persona"), &out, &err));
  status = astrai_prefix_wait(prefix, 0, NULL, &err);
  CHECK(status == ASTRAI_OK || status == ASTRAI_TIMEOUT);
  astrai_prefix_free(prefix);
  *(int *)user_data += 1;
  return 0;
}

static void inside_a_callback(void) {
  astrai_error *err = NULL;
  astrai_request *request = NULL;
  astrai_request_options options = steady(1);
  astrai_prompt *prompt = raw_prompt("Once");
  int calls = 0;
  called_engine = open_engine(model);
  EXPECT(ASTRAI_OK, astrai_submit(called_engine, prompt, &options, inside, &calls, NULL, &request, &err));
  EXPECT(ASTRAI_OK, astrai_request_wait(request, -1, NULL, &err));
  CHECK(calls >= 1);
  astrai_request_free(request);
  astrai_prompt_free(prompt);
  astrai_engine_free(called_engine);
}

static void forked(void) {
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prefix *prefix = pin(engine, PERSONA), *out = NULL;
  int result = -1;
  pid_t child = fork();
  if (child == 0) {
    EXPECT(ASTRAI_ERR_FORKED, astrai_prefix_wait(prefix, -1, NULL, &err));
    EXPECT(ASTRAI_ERR_FORKED, astrai_prefix_save(prefix, in_folder("forked"), &err));
    EXPECT(ASTRAI_ERR_FORKED, astrai_prefix_restore(engine, in_folder("persona"), &out, &err));
    astrai_prefix_free(prefix);
    _exit(0);
  }
  CHECK(child > 0 && waitpid(child, &result, 0) == child && WIFEXITED(result) && WEXITSTATUS(result) == 0);
  EXPECT(ASTRAI_OK, astrai_prefix_wait(prefix, -1, NULL, &err));
  astrai_prefix_free(prefix);
  astrai_engine_free(engine);
}

/* Files of the folder whose name has this in it. */
static int files_with(const char *part) {
  DIR *entries = opendir(folder);
  struct dirent *entry;
  int count = 0;
  CHECK(entries != NULL);
  while ((entry = readdir(entries)) != NULL)
    count += strstr(entry->d_name, part) != NULL;
  closedir(entries);
  return count;
}

/* Only regular files are written, for their owner alone or with the mode they have. */
static void regular_files(void) {
  static const char *const devices[] = {"/dev/null", "/dev/full", "/dev/zero"};
  char link[4096], path[4096];
  astrai_error *err = NULL;
  astrai_engine *engine = open_engine(model);
  astrai_prefix *prefix = pin(engine, PERSONA), *restored = NULL;
  struct stat now;
  size_t i;
  for (i = 0; i < sizeof devices / sizeof *devices; i++) {
    EXPECT(ASTRAI_ERR_IO, astrai_prefix_save(prefix, devices[i], &err));
    CHECK(stat(devices[i], &now) == 0 && S_ISCHR(now.st_mode));
  }
  strcpy(link, in_folder("link"));
  strcpy(path, in_folder("mode"));
  CHECK(symlink("/dev/null", link) == 0);
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_save(prefix, link, &err));
  CHECK(lstat(link, &now) == 0 && S_ISLNK(now.st_mode) && stat("/dev/null", &now) == 0 && S_ISCHR(now.st_mode));
  EXPECT(ASTRAI_ERR_IO, astrai_prefix_save(prefix, folder, &err));

  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, path, &err));
  CHECK(stat(path, &now) == 0 && S_ISREG(now.st_mode) && (now.st_mode & 07777) == 0600);
  CHECK(chmod(path, 0640) == 0 && unlink(link) == 0 && symlink("mode", link) == 0);
  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, link, &err));
  CHECK(lstat(link, &now) == 0 && S_ISLNK(now.st_mode));
  CHECK(lstat(path, &now) == 0 && S_ISREG(now.st_mode) && (now.st_mode & 07777) == 0640);
  EXPECT(ASTRAI_OK, astrai_prefix_restore(engine, path, &restored, &err));
  CHECK(files_with(".tmp") == 0);
  astrai_prefix_free(restored);
  astrai_prefix_free(prefix);
  astrai_engine_free(engine);
}

/* Saves until it is killed. */
static void save_for_ever(const char *path, int ready) {
  astrai_error *err = NULL;
  astrai_prefix *prefix = pin(open_engine(model), PERSONA PERSONA PERSONA);
  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, path, &err));
  CHECK(write(ready, "x", 1) == 1);
  for (;;)
    EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, path, &err));
}

/* Whenever a process is killed, the file is whole, and what lay beside it is gone after the next save. */
static void killed(void) {
  char path[4096], byte;
  astrai_error *err = NULL;
  astrai_engine *engine;
  astrai_prefix *prefix;
  int round;
  strcpy(path, in_folder("killed"));
  for (round = 0; round < 6; round++) {
    int ready[2];
    pid_t child;
    CHECK(pipe(ready) == 0 && (child = fork()) >= 0);
    if (child == 0)
      save_for_ever(path, ready[1]);
    CHECK(read(ready[0], &byte, 1) == 1);
    usleep((useconds_t)(round * 777));
    CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    close(ready[0]);
    close(ready[1]);
    CHECK(files_with(".killed.") <= 1);
  }
  engine = open_engine(model);
  EXPECT(ASTRAI_OK, astrai_prefix_restore(engine, path, &prefix, &err));
  EXPECT(ASTRAI_OK, astrai_prefix_save(prefix, path, &err));
  CHECK(files_with(".tmp") == 0);
  astrai_prefix_free(prefix);
  astrai_engine_free(engine);
}

int main(int argc, char **argv) {
  int brief = argc == 4 && strcmp(argv[3], "brief") == 0;
  CHECK(argc == 3 || brief);
  model = argv[1];
  folder = argv[2];
  if (!brief)
    killed(); /* first, while this process has no engine that a child would inherit */
  arguments();
  pinned_saved_and_restored();
  freed_at_once();
  inside_a_callback();
  regular_files();
  if (!brief)
    forked(); /* the child leaks what its parent's threads owned */
  return 0;
}
