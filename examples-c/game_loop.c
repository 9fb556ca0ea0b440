/* A game at 60 frames a second while four characters talk. The duty limit leaves the processor to the game; the events
 * are received inside the frame, on the game's own thread. Prints how long frames took.
 *   cc -std=c99 examples-c/game_loop.c -Iinclude -Ltarget/release -lastrai -Wl,-rpath,$PWD/target/release -o game_loop
 *   ./game_loop [model folder] [seconds] [engine's work in microseconds of each frame, 0 = no limit] */
#define _POSIX_C_SOURCE 200112L
#include <astrai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CAST 4
#define FRAME_US 16667.0
#define OWN_WORK_US 5000.0 /* the game's own work for a frame */

typedef struct character {
  const char *ask;
  char says[61]; /* the last words */
  int talking, failed;
  unsigned tokens;
} character;

static character cast[CAST] = {{"Tell me a story about Mira, the old lighthouse and a silver key.", "", 0, 0, 0},
                               {"Tell me a story about Tom, the silent library and a red lantern.", "", 0, 0, 0},
                               {"Tell me a story about Freya, the frozen lake and a wooden flute.", "", 0, 0, 0},
                               {"Tell me a story about Hugo, the royal bakery and a broken compass.", "", 0, 0, 0}};

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Runs inside astrai_engine_poll: no locks, the game's data is its own. */
static int32_t on_event(void *user_data, const astrai_event *event) {
  character *c = (character *)user_data;
  size_t i, room = sizeof c->says - 1;
  for (i = 0; i < event->text_len; i++) {
    if (strlen(c->says) == room)
      memmove(c->says, c->says + 1, room);
    c->says[strlen(c->says)] = event->text[i] == '\n' ? ' ' : event->text[i];
  }
  c->tokens += event->token_count;
  c->failed |= event->kind == ASTRAI_EVENT_FAILED;
  c->talking = !event->terminal;
  return 0;
}

static int32_t begin_story(const astrai_engine *engine, character *c, astrai_error **err) {
  astrai_prompt *prompt = NULL;
  int32_t status = astrai_prompt_new(&prompt, err);
  if (status == ASTRAI_OK)
    status = astrai_prompt_add_message(prompt, "user", c->ask, strlen(c->ask), err);
  if (status == ASTRAI_OK)
    status = astrai_submit(engine, prompt, NULL, on_event, c, NULL, NULL, err);
  c->talking = status == ASTRAI_OK;
  astrai_prompt_free(prompt);
  return status;
}

static int by_size(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

/* Stands for what the game itself computes. */
static void own_work(long steps) {
  static volatile double x = 0.5;
  while (steps-- > 0)
    x = 3.9 * x * (1.0 - x);
}

int main(int argc, char **argv) {
  static double took[60 * 600];
  int i, frame = 0, frames = (argc > 2 ? atoi(argv[2]) : 10) * 60, failed = frames < 60 || frames > 60 * 600;
  double due = now_us(), steps = 1 << 20;
  astrai_engine_options options;
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  own_work((long)steps);
  steps *= OWN_WORK_US / (now_us() - due); /* as many as take so long on this machine */
  astrai_engine_options_init(&options, sizeof options);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.duty_work_us = (uint32_t)(argc > 3 ? atoi(argv[3]) : 4000);
  options.duty_interval_us = options.duty_work_us != 0 ? (uint32_t)FRAME_US : 0;
  failed = failed || astrai_engine_open(argc > 1 ? argv[1] : "models/storyteller", &options, &engine, &err) != ASTRAI_OK;
  for (due = now_us(); !failed && frame < frames; frame++) {
    struct timespec rest = {0, (long)(due > now_us() ? (due - now_us()) * 1e3 : 0.0)};
    nanosleep(&rest, NULL);
    failed = astrai_engine_poll(engine, 0, 0, NULL, &err) != ASTRAI_OK;
    for (i = 0; i < CAST && !failed; i++)
      failed = cast[i].failed || (!cast[i].talking && begin_story(engine, &cast[i], &err) != ASTRAI_OK);
    own_work((long)steps);
    for (i = 0; i < CAST; i++)
      printf("%d: %-60s\033[K\n", i + 1, cast[i].says);
    fputs(frame + 1 < frames ? "\033[4A" : "", stdout); /* back to the first line */
    fflush(stdout);
    took[frame] = (now_us() - due) / 1e3; /* from when the frame was due until it is drawn */
    due = due + FRAME_US > now_us() ? due + FRAME_US : now_us();
  }
  if (failed)
    fprintf(stderr, "%s\n", err != NULL ? err->message : "failed; usage: game_loop [model] [seconds, 1 to 600] [us]");
  astrai_error_free(err);
  astrai_engine_free(engine);
  qsort(took, (size_t)frame, sizeof *took, by_size);
  if (!failed)
    printf("%d frames, ms: p50 %.2f, p90 %.2f, p99 %.2f, max %.2f; %u tokens\n", frames, took[frames / 2],
           took[frames * 9 / 10], took[frames * 99 / 100], took[frames - 1],
           cast[0].tokens + cast[1].tokens + cast[2].tokens + cast[3].tokens);
  return failed;
}
