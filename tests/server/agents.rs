//! Agents, which send the whole conversation with every turn: what was computed for the turn before is not computed again.

use crate::client::post;
use crate::scripted::{Pace, SAY, engine_with, serve_with};
use astrai::server::Server;
use serde_json::{Value, json};

/// A chat template that keeps all of the history. `@` stands for what it does with a system message behind the first message.
const TEMPLATE: &str = r#"{{ bos_token }}{% if tools %}<|system|>{{ tools | tojson }}<|end|>{% endif %}
{%- for m in messages %}{% if m.role == 'system' and not loop.first %}@{% endif %}<|{{ 'user' if m.role == 'tool' else m.role }}|>
{%- if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}
{%- if m.content is string %}{{ m.content }}{% else %}{% for part in m.content or [] %}{{ part.text }}{% endfor %}{% endif %}
{%- for call in m.tool_calls or [] %}<tool_call>{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}</tool_call>
{%- endfor %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"#;

/// What the model says in a turn: it thinks, says something and reads a file.
fn script(turn: usize) -> String {
    format!(
        "{SAY}<think>The file number {turn} may tell where the silver key is, so it comes next.</think>I read file {turn}.\
         <tool_call>{{\"name\": \"read_file\", \"arguments\": {{\"path\": \"notes/{turn}.txt\"}}}}</tool_call>"
    )
}

/// Long instructions, as agents have them.
fn instructions() -> String {
    (0..90).map(|rule| format!("Rule {rule}: look at the old lighthouse before you say what is there. ")).collect()
}

fn schema() -> Value {
    json!({"type": "object", "properties": {"path": {"type": "string", "description": "Where the file is."}}, "required": ["path"],
        "additionalProperties": false})
}

/// Counts of a turn, in tokens: of its prompt, those of the prompt that were cached, and of its answer.
#[derive(Clone, Copy, Debug)]
struct Counts {
    prompt: u64,
    cached: u64,
    answer: u64,
}

/// A conversation in one dialect.
trait Agent {
    /// Begins with the instructions and a first question.
    fn begin(script: &str) -> Self
    where
        Self: Sized;
    /// Sends what there is, adds the answer as the client would, and the result of its call, which has the next script.
    fn turn(&mut self, server: &Server, number: usize, next: &str) -> Counts;
}

/// Ten turns; from the second on, at least 95% of the pages of the turn before are found.
fn keeps_its_prefix<A: Agent>(server: &Server, page: u64) {
    let mut agent = A::begin(&script(0));
    let mut before: Option<Counts> = None;
    for turn in 0..10 {
        let counts = agent.turn(server, turn, &script(turn + 1));
        if let Some(before) = before {
            let pages = (before.prompt + before.answer) / page;
            assert!(pages >= 64, "{before:?}");
            assert!(counts.cached / page * 100 >= pages * 95, "turn {turn}: {counts:?} after {before:?}");
        }
        before = Some(counts);
    }
}

fn each_template<A: Agent>() {
    // One that takes late system messages, and one that refuses them.
    for late in ["", "{{ raise_exception('a system message comes first') }}"] {
        let engine = engine_with(&TEMPLATE.replace('@', late), 8192);
        let server = serve_with(&engine, |options| options.prepare = Some(crate::scripted::prepare(Pace::Tokens)));
        keeps_its_prefix::<A>(&server, engine.info().page_tokens.into());
        drop(server);
        engine.check().unwrap();
    }
}

/// Chat completions, as OpenCode and other clients of OpenAI's older interface send them.
struct Chat(Vec<Value>);

impl Agent for Chat {
    fn begin(script: &str) -> Chat {
        Chat(vec![
            json!({"role": "system", "content": instructions()}),
            json!({"role": "user", "content": "Where is the key?"}),
            json!({"role": "assistant", "content": "I do not know."}),
            json!({"role": "user", "content": [{"type": "text", "text": script}]}),
        ])
    }

    fn turn(&mut self, server: &Server, number: usize, next: &str) -> Counts {
        let body = json!({"model": "m", "messages": self.0, "stream": true, "stream_options": {"include_usage": true}, "tool_choice": "auto",
            "max_tokens": 300, "tools": [{"type": "function", "function": {"name": "read_file", "description": "Reads.", "parameters": schema()}}]});
        let chunks = post(server.address(), "/v1/chat/completions", &body).stream();
        let usage = &chunks.last().unwrap()["usage"];
        let (mut content, mut reasoning, mut arguments, mut id) =
            (String::new(), String::new(), String::new(), Value::Null);
        for choice in chunks.iter().flat_map(|chunk| chunk["choices"].as_array().unwrap()) {
            let delta = &choice["delta"];
            content += delta["content"].as_str().unwrap_or_default();
            reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                arguments += call["function"]["arguments"].as_str().unwrap();
                if call["id"].is_string() {
                    id = call["id"].clone();
                }
            }
        }
        let call = json!({"id": id, "type": "function", "function": {"name": "read_file", "arguments": arguments}});
        // The field for reasoning has two names.
        let field = if number.is_multiple_of(2) { "reasoning_content" } else { "reasoning" };
        self.0.push(json!({"role": "assistant", "content": content, field: reasoning, "tool_calls": [call]}));
        if number == 4 {
            self.0.push(json!({"role": "tool", "tool_call_id": id, "content": "nothing"}));
            self.0.push(json!({"role": "assistant", "content": "There is nothing."}));
            self.0.push(json!({"role": "user", "content": next}));
        } else {
            self.0.push(json!({"role": "tool", "tool_call_id": id, "content": next}));
        }
        let reasoned = usage["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap();
        assert!(reasoned > 10 && reasoned < usage["completion_tokens"].as_u64().unwrap() / 2, "{usage}");
        Counts {
            prompt: usage["prompt_tokens"].as_u64().unwrap(),
            cached: usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap(),
            answer: usage["completion_tokens"].as_u64().unwrap(),
        }
    }
}

/// Responses, as Codex sends them.
struct Responses(Vec<Value>);

impl Agent for Responses {
    fn begin(script: &str) -> Responses {
        let text = |role: &str, text: &str| json!({"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]});
        Responses(vec![
            text("developer", "<permissions>Files may be read.</permissions>"),
            text("user", "<environment>The folder is /home.</environment>"),
            text("user", script),
        ])
    }

    fn turn(&mut self, server: &Server, number: usize, next: &str) -> Counts {
        let body = json!({"model": "m", "instructions": instructions(), "input": self.0, "stream": true, "store": false,
            "tools": [{"type": "function", "name": "read_file", "description": "Reads.", "strict": false, "parameters": schema()},
                {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}}, {"type": "web_search"}],
            "tool_choice": "auto", "parallel_tool_calls": false, "reasoning": {"effort": "medium", "summary": "auto"},
            "include": ["reasoning.encrypted_content"], "prompt_cache_key": format!("key-{number}"), "client_metadata": {"turn": number}});
        let events = post(server.address(), "/v1/responses", &body).events();
        let done = events.iter().filter(|event| event["type"] == "response.output_item.done");
        let items: Vec<Value> = done.map(|event| event["item"].clone()).collect();
        let call = items.iter().find(|item| item["type"] == "function_call").unwrap()["call_id"].clone();
        for mut item in items {
            // It sends items back without their state, and reasoning without an id.
            item.as_object_mut().unwrap().remove("status");
            if item["type"] == "reasoning" {
                item.as_object_mut().unwrap().remove("id");
                item["encrypted_content"] = Value::Null;
            }
            self.0.push(item);
        }
        if number == 5 {
            self.0.push(json!({"type": "function_call_output", "call_id": call, "output": [{"type": "input_text", "text": "nothing"}]}));
            self.0.push(json!({"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be quick."}]}));
            self.0.push(json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": next}]}));
        } else {
            self.0.push(json!({"type": "function_call_output", "call_id": call, "output": next}));
        }
        let usage = &events.last().unwrap()["response"]["usage"];
        assert!(usage["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 10, "{usage}");
        Counts {
            prompt: usage["input_tokens"].as_u64().unwrap(),
            cached: usage["input_tokens_details"]["cached_tokens"].as_u64().unwrap(),
            answer: usage["output_tokens"].as_u64().unwrap(),
        }
    }
}

/// Messages, as Claude Code sends them.
struct Messages(Vec<Value>);

impl Agent for Messages {
    fn begin(script: &str) -> Messages {
        Messages(vec![
            json!({"role": "user", "content": [{"type": "text", "text": "<reminder>Files may be read.</reminder>"},
            {"type": "text", "text": "Where is the key?", "cache_control": {"type": "ephemeral"}}]}),
            json!({"role": "assistant", "content": "I do not know."}),
            json!({"role": "user", "content": script}),
        ])
    }

    fn turn(&mut self, server: &Server, number: usize, next: &str) -> Counts {
        let billing = format!("x-anthropic-billing-header: cc_version=2.{number}; cch={:05x};", number * 7919);
        let body = json!({"model": "m", "max_tokens": 300, "messages": self.0, "stream": true, "thinking": {"type": "adaptive"},
            "system": [{"type": "text", "text": billing}, {"type": "text", "text": "You are an agent."},
                {"type": "text", "text": instructions(), "cache_control": {"type": "ephemeral"}}],
            "tools": [{"name": "read_file", "description": "Reads.", "input_schema": schema()}],
            "metadata": {"user_id": format!("u{number}")}, "output_config": {"effort": "medium"}});
        let events = post(server.address(), "/v1/messages?beta=true", &body).events();
        let mut blocks: Vec<Value> = Vec::new();
        let mut input = String::new();
        for event in &events {
            let delta = &event["delta"];
            match event["type"].as_str().unwrap() {
                "content_block_start" => blocks.push(event["content_block"].clone()),
                "content_block_delta" => {
                    let block = blocks.last_mut().unwrap();
                    for name in ["text", "thinking", "signature"] {
                        if let Some(text) = delta[name].as_str() {
                            block[name] = json!(block[name].as_str().unwrap().to_owned() + text);
                        }
                    }
                    input += delta["partial_json"].as_str().unwrap_or_default();
                }
                _ => {}
            }
        }
        let call = blocks.last_mut().unwrap();
        call["input"] = serde_json::from_str(&input).unwrap();
        let id = call["id"].clone();
        self.0.push(json!({"role": "assistant", "content": blocks}));
        let result =
            |text: &str| json!({"type": "tool_result", "tool_use_id": id, "content": [{"type": "text", "text": text}]});
        if number == 5 {
            self.0.push(json!({"role": "user", "content": [result("nothing")]}));
            self.0.push(json!({"role": "system", "content": "Be quick."}));
            self.0.push(json!({"role": "user", "content": next}));
        } else {
            self.0.push(json!({"role": "user", "content": [result(next)]}));
        }
        let number = |usage: &Value, name: &str| usage[name].as_u64().unwrap();
        let (first, last) = (&events[0]["message"]["usage"], &events[events.len() - 2]["usage"]);
        // What is known of the prompt at the end is known at the beginning.
        for name in ["input_tokens", "cache_read_input_tokens"] {
            assert_eq!(number(first, name), number(last, name), "{name}");
        }
        let cached = number(last, "cache_read_input_tokens");
        Counts { prompt: number(last, "input_tokens") + cached, cached, answer: number(last, "output_tokens") }
    }
}

#[test]
fn chats_keep_their_prefix() {
    each_template::<Chat>();
}

#[test]
fn responses_keep_their_prefix() {
    each_template::<Responses>();
}

#[test]
fn messages_keep_their_prefix() {
    each_template::<Messages>();
}

/// Sampled answers are not always cut into tokens as their text would be: how much of the turn before is found then.
#[test]
fn sampled_answers_keep_most_of_it() {
    let engine = engine_with(&TEMPLATE.replace('@', ""), 8192);
    let server = serve_with(&engine, |_| ());
    let page = u64::from(engine.info().page_tokens);
    let (mut found, mut all) = (0, 0);
    for seed in 0..12 {
        let mut messages = vec![json!({"role": "user", "content": "Tell me a story about the old lighthouse."})];
        let mut before = 0;
        for turn in 0..4 {
            let body =
                json!({"messages": messages, "seed": seed * 10 + turn, "max_tokens": 400, "reasoning_effort": "none"});
            let answer = crate::client::answer(&server, "/v1/chat/completions", &body);
            let usage = &answer["usage"];
            let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            if turn > 0 {
                found += cached / page;
                all += before / page;
            }
            before = usage["total_tokens"].as_u64().unwrap();
            messages.push(answer["choices"][0]["message"].clone());
            messages.push(json!({"role": "user", "content": "And what happened then?"}));
        }
    }
    println!("{found} of {all} pages of the turns before were found");
    assert!(found * 2 > all, "{found} of {all}");
}
