//! `astrai serve --demo`: an engine of a few page frames that is slow enough to be watched, and a minute of requests that shows what
//! an engine does: several who begin alike, one who stays alone, one who is cancelled, many at once, for whom pages run out.

use astrai::engine::{Engine, EngineOptions, Prompt, Request, RequestOptions, Sink};
use astrai::server::Pace;
use serde_json::json;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The model, if none is named.
pub const MODEL: &str = "models/storyteller";
/// Steps of the script, a minute at [`RATE`].
pub const MINUTE: u64 = 480;
/// Steps a second, at first.
const RATE: f32 = 8.0;
/// Page frames, and tokens of each.
const FRAMES: u64 = 96;
const PAGE_TOKENS: u32 = 16;
/// Tokens of a step: few, so that a prompt takes several steps.
const STEP_TOKENS: u32 = 48;
const RUNNING: u32 = 12;

/// What several of the requests begin with.
const PERSONA: &str = "You are Edith, the innkeeper of the Golden Bear. The Golden Bear stands where the north road meets the \
river, and everybody who travels stops there. You know every guest by name. You have soup, bread, cider and four warm rooms. \
You never tell where the silver key is hidden, and you do not like the miller. When a guest is sad, you tell of your cat. \
The stable boy is called Jonas and sleeps in the hay. On Sundays there is music, and the door stays open until the last guest has \
gone to bed. \
Answer in a few friendly sentences.";

/// What happens in the minute.
enum Act {
    /// A guest asks the innkeeper, and gets so many tokens at most.
    Guest(&'static str, u32),
    /// Somebody wants a story; the prompt has a beginning of its own.
    Story(&'static str, u32),
    /// The story that was asked for last is cancelled.
    Cancel,
}

const SCRIPT: &[(u64, Act)] = &[
    (3, Act::Guest("Good evening, Edith. Do you have a room for me and my donkey?", 110)),
    (20, Act::Guest("What do you have to eat tonight?", 90)),
    (34, Act::Guest("I am so tired and so sad. Tell me something.", 120)),
    (52, Act::Story("Mira, the old lighthouse and a silver key", 150)),
    (70, Act::Guest("Who is the man in the corner?", 60)),
    (88, Act::Story("Tobias, the frozen lake and a broken clock", 190)),
    (140, Act::Cancel),
    // Many at once, each with a long prompt of its own.
    (170, Act::Story(BURST[0], 135)),
    (170, Act::Story(BURST[1], 105)),
    (171, Act::Story(BURST[2], 140)),
    (171, Act::Story(BURST[3], 92)),
    (172, Act::Story(BURST[4], 135)),
    (172, Act::Story(BURST[5], 95)),
    (173, Act::Story(BURST[6], 138)),
    (174, Act::Guest("Is there a room left in this storm?", 50)),
    (175, Act::Story(BURST[7], 115)),
    (176, Act::Story(BURST[8], 125)),
    (177, Act::Story(BURST[9], 105)),
    (350, Act::Guest("Good morning, Edith. How much do I owe you?", 70)),
    (380, Act::Guest("Did you hide the silver key under the stove?", 60)),
    (405, Act::Story("Anna, the crooked mill and a jar of honey", 50)),
];

const BURST: [&str; 10] = [
    "Oskar, the salt mine and a lame pony. The pony has to be hungry and stubborn, the mine has to be dark and full of puddles, and \
     Oskar must not know the way. Let it rain on the first day, let it snow on the second, and let somebody sing at the end of it",
    "Greta, the windy bridge and a torn map. There shall be a toll keeper who cannot count, a goat that eats the map, and a river that \
     is too loud to talk. Let Greta be brave only when nobody looks, and let the goat come home with her",
    "Pavel, the empty church and a cracked bell. The bell rings by itself at night, the priest has gone fishing, and the village has \
     lost its only ladder. Let Pavel climb up by the ivy, and let there be an owl who knows the reason for it all",
    "Selma, the sunken boat and a wooden spoon. The lake is calm, the cook is angry, and the soup is cold. Let there be a fish with a \
     beard, a lamp without oil, and a promise that nobody keeps until the very last evening of the summer",
    "Bruno, the steep vineyard and a tin whistle. The grapes are late, the baron is early, and the foxes have a meeting. Let Bruno \
     play a tune that he does not know, and let the baron lose his left boot in the mud below the old wall",
    "Ilse, the crowded market and a blue hen. Everybody wants to buy the hen, and nobody says why. Let there be a thief with cold hands, \
     a baker who whispers, and a wheelbarrow that squeaks whenever somebody tells a lie about the weather",
    "Henrik, the high pass and a sack of letters. One letter is wet, one is for a bear, and one has no name on it. Let the mule choose \
     the way, let the fog be friendly, and let the last letter be opened by the wrong person at the right time",
    "Clara, the closed museum and a glass eye. The guard is asleep, the clock is wrong, and the statues have moved since yesterday. Let \
     there be a cat that counts to nine, a window that opens to another street, and a secret that is smaller than it looks",
    "Emil, the last ferry and a heavy trunk. The captain is young, the rope is old, and the trunk knocks from within. Let the passengers \
     guess what is in it, let every guess be a little true, and let the ferry come to the wrong side of the river",
    "Nora, the burnt oven and a bag of flour. The wedding is tomorrow, the bride is hungry, and the mice are many. Let Nora ask three \
     neighbours for help, let each of them want a song for it, and let the cake be crooked and very much loved",
];

/// A demonstration.
#[derive(Clone)]
pub struct Demo {
    pace: Arc<Pace>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Demo {
    pub fn new() -> Demo {
        Demo { pace: Arc::new(Pace::new(RATE)), thread: Arc::default() }
    }

    pub fn pace(&self) -> Arc<Pace> {
        self.pace.clone()
    }

    /// The options of its engine.
    ///
    /// # Errors
    /// As of [`Engine::plan`].
    pub fn options(&self, model: &Path, mut options: EngineOptions) -> astrai::Result<EngineOptions> {
        let numbers = |budget: u64, options: &EngineOptions| EngineOptions {
            max_running: RUNNING,
            page_tokens: PAGE_TOKENS,
            step_tokens: STEP_TOKENS,
            memory_budget: budget,
            device: options.device,
            device_index: options.device_index,
            compute: options.compute,
            cpu_tier: options.cpu_tier,
            weights: options.weights,
            kv: options.kv,
            threads: options.threads,
            context_length: options.context_length,
            ..EngineOptions::default()
        };
        let plan = Engine::plan(model, &numbers(0, &options))?;
        let kv = FRAMES * u64::from(PAGE_TOKENS) * plan.kv_bytes_per_token;
        let budget = plan.weight_bytes + plan.workspace_bytes + kv;
        let progress = options.progress.take();
        Ok(EngineOptions { progress, ..numbers(budget, &options) })
    }

    /// Performs the minute again and again while somebody watches, until the pace is stopped.
    pub fn perform(&self, engine: Arc<Engine>) {
        let pace = self.pace.clone();
        let thread = std::thread::spawn(move || {
            while let Some(audience) = pace.wait_for_audience() {
                while minute(&engine, &pace, audience) {}
            }
        });
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
    }

    /// Waits for the end, after the server has stopped.
    pub fn join(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of it has been told by the hook.
        thread.into_iter().for_each(|thread| _ = thread.join());
    }
}

/// One minute; false when its audience has gone.
fn minute(engine: &Engine, pace: &Pace, audience: u64) -> bool {
    // What is cached of the last one would make this one another.
    let _ = engine.clear_cache();
    let begin = pace.clock();
    // Those that still run at the end are cancelled when they are dropped.
    let mut requests: Vec<Request> = Vec::new();
    let mut last_story = None;
    for (number, (at, act)) in SCRIPT.iter().enumerate() {
        if !pace.wait_until(begin + at, audience) {
            return false;
        }
        let (messages, most) = match act {
            Act::Guest(question, most) => {
                let system = json!({"role": "system", "content": PERSONA});
                (vec![system, json!({"role": "user", "content": question})], *most)
            }
            Act::Story(about, most) => {
                last_story = Some(requests.len());
                (vec![json!({"role": "user", "content": format!("Tell me a story about {about}.")})], *most)
            }
            Act::Cancel => {
                last_story.and_then(|story| requests.get(story)).into_iter().for_each(Request::cancel);
                continue;
            }
        };
        let prompt = Prompt { messages, ..Prompt::default() };
        let options = RequestOptions {
            seed: Some(number as u64),
            temperature: Some(0.8),
            max_tokens: Some(most),
            ..RequestOptions::default()
        };
        // A model that has no chat template has a quieter minute.
        requests.extend(engine.submit(&prompt, &options, Sink::Callback(Box::new(|_| true))));
    }
    pace.wait_until(begin + MINUTE, audience)
}
