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
#define OWN_WORK 1800000 /* steps of own_work in a frame: about 8 ms */

typedef struct character {
  char says[80]; /* the last words */
  int talking, failed;
} character;

static character cast[CAST];
static unsigned tokens; /* of all of them */
static const char *const NAMES[CAST] = {"Mira", "Tom", "Freya", "Hugo"};

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* Runs inside astrai_engine_poll: no locks, the game's data is its own. */
static int32_t on_event(void *user_data, const astrai_event *event) {
  character *c = (character *)user_data;
  if (strlen(c->says) + event->text_len >= sizeof c->says)
    c->says[0] = '\0'; /* a new line */
  strncat(c->says, event->text, sizeof c->says - strlen(c->says) - 1);
  tokens += event->token_count;
  if (event->kind == ASTRAI_EVENT_FAILED) {
    c->failed = 1;
    fprintf(stderr, "failed: %s\n", event->error->message);
  }
  c->talking = !event->terminal;
  return 0;
}

static int begin_story(const astrai_engine *engine, character *c, astrai_error **err) {
  astrai_prompt *prompt = NULL;
  char ask[80];
  int len = snprintf(ask, sizeof ask, "Tell me a story about %s and a silver key.", NAMES[c - cast]);
  c->talking = astrai_prompt_new(&prompt, err) == ASTRAI_OK &&
               astrai_prompt_add_message(prompt, "user", ask, (size_t)len, err) == ASTRAI_OK &&
               astrai_submit(engine, prompt, NULL, on_event, c, NULL, NULL, err) == ASTRAI_OK;
  astrai_prompt_free(prompt); /* the request has its own copy */
  return c->talking;
}

static int by_size(const void *a, const void *b) { return *(const double *)a < *(const double *)b ? -1 : 1; }

static void own_work(long steps) { /* stands for what the game itself computes */
  volatile double x = 0.5;
  while (steps-- > 0)
    x = 3.9 * x * (1.0 - x);
}

int main(int argc, char **argv) {
  const char *model = argc > 1 ? argv[1] : "models/storyteller";
  static double took[60 * 600];
  int i, frame = 0, frames = 60 * (argc > 2 ? atoi(argv[2]) : 10), failed = frames < 60 || frames > 60 * 600;
  double due;
  astrai_engine_options options;
  astrai_engine *engine = NULL;
  astrai_error *err = NULL;
  astrai_engine_options_init(&options, sizeof options);
  options.delivery = ASTRAI_DELIVER_POLL;
  options.duty_work_us = (uint32_t)(argc > 3 ? atoi(argv[3]) : 4000);
  options.duty_interval_us = options.duty_work_us != 0 ? (uint32_t)FRAME_US : 0;
  failed = failed || astrai_engine_open(model, &options, &engine, &err) != ASTRAI_OK;
  for (due = now_us(); !failed && frame < frames; frame++) {
    struct timespec rest = {0, (long)(due > now_us() ? (due - now_us()) * 1e3 : 0.0)};
    nanosleep(&rest, NULL);
    failed = astrai_engine_poll(engine, 0, 0, NULL, &err) != ASTRAI_OK;
    for (i = 0; i < CAST && !failed; i++)
      failed = cast[i].failed || (!cast[i].talking && !begin_story(engine, &cast[i], &err));
    own_work(OWN_WORK);
    for (i = 0; i < CAST; i++)
      printf("%-5s %s\033[K\n", NAMES[i], cast[i].says);
    fputs(frame + 1 < frames ? "\033[4A" : "", stdout); /* back to the first line */
    fflush(stdout);
    took[frame] = (now_us() - due) / 1e3; /* from when the frame was due until it is drawn */
    due = due + FRAME_US > now_us() ? due + FRAME_US : now_us();
  }
  if (err != NULL)
    fprintf(stderr, "%s\n", err->message);
  if (frames < 60 || frames > 60 * 600)
    fprintf(stderr, "usage: game_loop [model] [seconds, 1 to 600] [us]\n");
  astrai_error_free(err);
  astrai_engine_free(engine);
  qsort(took, (size_t)frame, sizeof *took, by_size);
  if (!failed)
    printf("%d frames, ms: p50 %.2f, p90 %.2f, p99 %.2f, max %.2f; %u tokens\n", frames, took[frames / 2],
           took[frames * 9 / 10], took[frames * 99 / 100], took[frames - 1], tokens);
  return failed;
}
