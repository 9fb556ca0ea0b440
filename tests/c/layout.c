/* The ABI's structs on 64-bit systems, number by number. These are promises to compiled programs: a line may be added
 * at the end of a struct, none may change. Prints what it checked; the Rust test compares that with Rust's offsets. */
#include "check.h"

#define SIZE(T, size)                                                                                                  \
  do {                                                                                                                 \
    CHECK(sizeof(T) == (size));                                                                                        \
    printf("%s %u\n", #T, (unsigned)sizeof(T));                                                                        \
  } while (0)

#define FIELD(T, f, offset, size)                                                                                      \
  do {                                                                                                                 \
    CHECK(offsetof(T, f) == (offset));                                                                                 \
    CHECK(sizeof(((T *)0)->f) == (size));                                                                              \
    printf("%s.%s %u %u\n", #T, #f, (unsigned)offsetof(T, f), (unsigned)sizeof(((T *)0)->f));                          \
  } while (0)

int main(void) {
  SIZE(astrai_error, 64);
  FIELD(astrai_error, struct_size, 0, 4);
  FIELD(astrai_error, status, 4, 4);
  FIELD(astrai_error, os_code, 8, 4);
  FIELD(astrai_error, unit, 12, 4);
  FIELD(astrai_error, needed, 16, 8);
  FIELD(astrai_error, available, 24, 8);
  FIELD(astrai_error, message, 32, 8);
  FIELD(astrai_error, message_len, 40, 8);
  FIELD(astrai_error, subject, 48, 8);
  FIELD(astrai_error, subject_len, 56, 8);

  SIZE(astrai_usage, 80);
  FIELD(astrai_usage, struct_size, 0, 4);
  FIELD(astrai_usage, prompt_tokens, 4, 4);
  FIELD(astrai_usage, cached_tokens, 8, 4);
  FIELD(astrai_usage, generated_tokens, 12, 4);
  FIELD(astrai_usage, preemptions, 16, 4);
  FIELD(astrai_usage, reasoning_tokens, 20, 4);
  FIELD(astrai_usage, seed, 24, 8);
  FIELD(astrai_usage, queue_us, 32, 8);
  FIELD(astrai_usage, first_token_us, 40, 8);
  FIELD(astrai_usage, prefill_us, 48, 8);
  FIELD(astrai_usage, decode_us, 56, 8);
  FIELD(astrai_usage, total_us, 64, 8);
  FIELD(astrai_usage, drafted_tokens, 72, 4);
  FIELD(astrai_usage, accepted_tokens, 76, 4);

  SIZE(astrai_event, 168);
  FIELD(astrai_event, struct_size, 0, 4);
  FIELD(astrai_event, kind, 4, 4);
  FIELD(astrai_event, terminal, 8, 4);
  FIELD(astrai_event, finish_reason, 12, 4);
  FIELD(astrai_event, request_id, 16, 8);
  FIELD(astrai_event, tag, 24, 8);
  FIELD(astrai_event, text, 32, 8);
  FIELD(astrai_event, text_len, 40, 8);
  FIELD(astrai_event, tokens, 48, 8);
  FIELD(astrai_event, logprobs, 56, 8);
  FIELD(astrai_event, token_count, 64, 4);
  FIELD(astrai_event, top_count, 68, 4);
  FIELD(astrai_event, top_tokens, 72, 8);
  FIELD(astrai_event, top_logprobs, 80, 8);
  FIELD(astrai_event, prompt_logprobs, 88, 8);
  FIELD(astrai_event, prompt_count, 96, 8);
  FIELD(astrai_event, usage, 104, 8);
  FIELD(astrai_event, error, 112, 8);
  FIELD(astrai_event, first_token, 120, 8);
  FIELD(astrai_event, first_byte, 128, 8);
  FIELD(astrai_event, complete, 136, 4);
  FIELD(astrai_event, format, 140, 4);
  FIELD(astrai_event, part_count, 144, 4);
  FIELD(astrai_event, reserved, 148, 4);
  FIELD(astrai_event, embedding, 152, 8);
  FIELD(astrai_event, embedding_len, 160, 8);

  SIZE(astrai_part, 72);
  FIELD(astrai_part, struct_size, 0, 4);
  FIELD(astrai_part, kind, 4, 4);
  FIELD(astrai_part, index, 8, 4);
  FIELD(astrai_part, call, 12, 4);
  FIELD(astrai_part, begins, 16, 4);
  FIELD(astrai_part, ends, 20, 4);
  FIELD(astrai_part, text, 24, 8);
  FIELD(astrai_part, text_len, 32, 8);
  FIELD(astrai_part, name, 40, 8);
  FIELD(astrai_part, name_len, 48, 8);
  FIELD(astrai_part, call_id, 56, 8);
  FIELD(astrai_part, call_id_len, 64, 8);

  SIZE(astrai_engine_options, 160);
  FIELD(astrai_engine_options, struct_size, 0, 4);
  FIELD(astrai_engine_options, flags, 4, 4);
  FIELD(astrai_engine_options, device, 8, 4);
  FIELD(astrai_engine_options, device_index, 12, 4);
  FIELD(astrai_engine_options, cpu_tier, 16, 4);
  FIELD(astrai_engine_options, compute, 20, 4);
  FIELD(astrai_engine_options, weights, 24, 4);
  FIELD(astrai_engine_options, kv, 28, 4);
  FIELD(astrai_engine_options, delivery, 32, 4);
  FIELD(astrai_engine_options, log_level, 36, 4);
  FIELD(astrai_engine_options, thread_priority, 40, 4);
  FIELD(astrai_engine_options, threads, 44, 4);
  FIELD(astrai_engine_options, max_running, 48, 4);
  FIELD(astrai_engine_options, max_waiting, 52, 4);
  FIELD(astrai_engine_options, context_length, 56, 4);
  FIELD(astrai_engine_options, page_tokens, 60, 4);
  FIELD(astrai_engine_options, step_tokens, 64, 4);
  FIELD(astrai_engine_options, duty_work_us, 68, 4);
  FIELD(astrai_engine_options, duty_interval_us, 72, 4);
  FIELD(astrai_engine_options, draft_tokens, 76, 4);
  FIELD(astrai_engine_options, memory_budget, 80, 8);
  FIELD(astrai_engine_options, affinity_mask, 88, 8);
  FIELD(astrai_engine_options, progress, 96, 8);
  FIELD(astrai_engine_options, log, 104, 8);
  FIELD(astrai_engine_options, wake, 112, 8);
  FIELD(astrai_engine_options, finalize, 120, 8);
  FIELD(astrai_engine_options, user_data, 128, 8);
  FIELD(astrai_engine_options, weights_cache, 136, 8);
  FIELD(astrai_engine_options, invariant, 144, 4);
  FIELD(astrai_engine_options, speculation, 148, 4);
  FIELD(astrai_engine_options, draft_model, 152, 8);

  SIZE(astrai_request_options, 112);
  FIELD(astrai_request_options, struct_size, 0, 4);
  FIELD(astrai_request_options, flags, 4, 4);
  FIELD(astrai_request_options, tag, 8, 8);
  FIELD(astrai_request_options, seed, 16, 8);
  FIELD(astrai_request_options, max_tokens, 24, 4);
  FIELD(astrai_request_options, top_k, 28, 4);
  FIELD(astrai_request_options, priority, 32, 4);
  FIELD(astrai_request_options, logprobs, 36, 4);
  FIELD(astrai_request_options, deadline_ms, 40, 4);
  FIELD(astrai_request_options, queue_tokens, 44, 4);
  FIELD(astrai_request_options, temperature, 48, 4);
  FIELD(astrai_request_options, top_p, 52, 4);
  FIELD(astrai_request_options, min_p, 56, 4);
  FIELD(astrai_request_options, repetition_penalty, 60, 4);
  FIELD(astrai_request_options, presence_penalty, 64, 4);
  FIELD(astrai_request_options, frequency_penalty, 68, 4);
  FIELD(astrai_request_options, settings, 72, 8);
  FIELD(astrai_request_options, reasoning_tokens, 80, 4);
  FIELD(astrai_request_options, xtc_probability, 84, 4);
  FIELD(astrai_request_options, xtc_threshold, 88, 4);
  FIELD(astrai_request_options, dry_multiplier, 92, 4);
  FIELD(astrai_request_options, dry_base, 96, 4);
  FIELD(astrai_request_options, dry_allowed_length, 100, 4);
  FIELD(astrai_request_options, dry_penalty_last_n, 104, 4);
  FIELD(astrai_request_options, draft_tokens, 108, 4);

  SIZE(astrai_info, 64);
  FIELD(astrai_info, struct_size, 0, 4);
  FIELD(astrai_info, vocab_size, 4, 4);
  FIELD(astrai_info, context_length, 8, 4);
  FIELD(astrai_info, layers, 12, 4);
  FIELD(astrai_info, device, 16, 4);
  FIELD(astrai_info, cpu_tier, 20, 4);
  FIELD(astrai_info, compute, 24, 4);
  FIELD(astrai_info, bos_token, 28, 4);
  FIELD(astrai_info, eos_token, 32, 4);
  FIELD(astrai_info, has_chat_template, 36, 4);
  FIELD(astrai_info, model_type, 40, 8);
  FIELD(astrai_info, device_name, 48, 8);
  FIELD(astrai_info, answer_format, 56, 8);

  SIZE(astrai_server_options, 48);
  FIELD(astrai_server_options, struct_size, 0, 4);
  FIELD(astrai_server_options, port, 4, 4);
  FIELD(astrai_server_options, host, 8, 8);
  FIELD(astrai_server_options, model_name, 16, 8);
  FIELD(astrai_server_options, api_key, 24, 8);
  FIELD(astrai_server_options, allowed_hosts, 32, 8);
  FIELD(astrai_server_options, priority, 40, 4);
  FIELD(astrai_server_options, reserved, 44, 4);

  SIZE(astrai_plan, 88);
  FIELD(astrai_plan, struct_size, 0, 4);
  FIELD(astrai_plan, fits, 4, 4);
  FIELD(astrai_plan, context_length, 8, 4);
  FIELD(astrai_plan, max_sequences, 12, 4);
  FIELD(astrai_plan, weight_bytes, 16, 8);
  FIELD(astrai_plan, kv_bytes, 24, 8);
  FIELD(astrai_plan, workspace_bytes, 32, 8);
  FIELD(astrai_plan, total_bytes, 40, 8);
  FIELD(astrai_plan, available_bytes, 48, 8);
  FIELD(astrai_plan, kv_tokens, 56, 8);
  FIELD(astrai_plan, kv_bytes_per_token, 64, 8);
  FIELD(astrai_plan, constraint_bytes, 72, 8);
  FIELD(astrai_plan, state_bytes, 80, 8);

  SIZE(astrai_stats, 192);
  FIELD(astrai_stats, struct_size, 0, 4);
  FIELD(astrai_stats, running, 4, 4);
  FIELD(astrai_stats, waiting, 8, 4);
  FIELD(astrai_stats, stalled, 12, 4);
  FIELD(astrai_stats, pages_used, 16, 8);
  FIELD(astrai_stats, pages_cached, 24, 8);
  FIELD(astrai_stats, pages_free, 32, 8);
  FIELD(astrai_stats, prefix_tokens_seen, 40, 8);
  FIELD(astrai_stats, prefix_tokens_hit, 48, 8);
  FIELD(astrai_stats, preemptions, 56, 8);
  FIELD(astrai_stats, evictions, 64, 8);
  FIELD(astrai_stats, tokens_in, 72, 8);
  FIELD(astrai_stats, tokens_out, 80, 8);
  FIELD(astrai_stats, finished, 88, 8);
  FIELD(astrai_stats, cancelled, 96, 8);
  FIELD(astrai_stats, failed, 104, 8);
  FIELD(astrai_stats, steps, 112, 8);
  FIELD(astrai_stats, cleanup_us, 120, 8);
  FIELD(astrai_stats, refill_us, 128, 8);
  FIELD(astrai_stats, prefill_us, 136, 8);
  FIELD(astrai_stats, decode_us, 144, 8);
  FIELD(astrai_stats, queue_us, 152, 8);
  FIELD(astrai_stats, log_dropped, 160, 8);
  FIELD(astrai_stats, drafted_tokens, 168, 8);
  FIELD(astrai_stats, accepted_tokens, 176, 8);
  FIELD(astrai_stats, saved_us, 184, 8);

  CHECK(ASTRAI_ABI_VERSION == 1 && astrai_abi_version() == 1);
  return 0;
}
