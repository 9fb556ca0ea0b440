"""Sentence templates of the storyteller's grammar: the tales, the innkeeper's talk and the requests.

Notation, expanded by `grammar.Dice.expand`: `[a|b|c]` picks one alternative, `<rule>` picks an entry of
the named list and expands it, `{var}` inserts a value of the tale: n (name), they/them/their (pronouns
of n), p (place with its article), pc (place without it), o (object without article), on (its noun), h (the helper),
k (a relative), w (a town). Articles and capitals are corrected afterwards.
"""

RULES = {}

# ---------------------------------------------------------------------------------------------- tales

RULES["tagged"] = (
    "who [loved|hated|dreamed of|could not live without|often talked about|never shared] <food>",
    "who [collected|sold|painted|mended|drew|counted|stole|buried] <tha> <stuff>",
    "who [feared|loved|knew|trusted|followed|understood] every <aadj> <animal>",
    "with <tha> [hands|boots|fingers|pockets|sleeves|ears|trousers|spectacles]",
    "with a <tadj> [voice|smile|laugh|nose|whistle|temper|beard|face]",
    "[from|born in|raised in] {w} [among|by|with] <num> <padj> <job>s",
)
RULES["open"] = (
    "[in the <tadj> days of <season>|one <tadj> <time>|one <time> in <season>|one <tadj> <day>|long ago|many <season>s ago|in a <tadj> <season>|on a <tadj> <time>], a <padj> <job> [named|called|by the name of] {n} [lived|worked|slept|sat|waited|rested|stood] [near|by|beside|not far from|behind|close to] {p} with <thing>.",
    "[a|the] <padj> <job> {n}, <tagged>, [lived|stayed|worked|dwelt|had a room|rented a hut|kept a shop] [near|by|beside|behind|close to] {p}.",
    "{n} was a <padj> and <padj> <job>, <tagged>, and often <feel>.",
    "{n} was the most <padj> <job> [in|around|near] {w}, <tagged>.",
    "there [was once|once lived|once was] a <padj> <job> [named|called] {n}, <tagged>.",
    "[everyone|every child|every <job>|the whole street|half the town] in {w} knew {n}, the <padj> <job> <tagged>.",
    "on a <tadj> <time> in <season>, {n} the <padj> <job> [sat|stood|slept|worked|waited] [near|beside|behind] {p}, [eating <food>|drinking <drink>|mending <thing>|guarding <thing>|dreaming of <food>].",
)
RULES["once"] = (
    "once upon a time, [a|there was a] <padj> <job> [named|called] {n}, <tagged>, [lived|stayed|worked|dwelt] [near|by|beside|behind|close to] {p}.",
    "once upon a time, {n} was the <padj> <job> of {w}, <tagged>.",
    "once upon a time, in a <tadj> <season>, {n} the <padj> <job> [lived|worked|waited|slept|sat] [near|beside|behind] {p} with <thing>.",
    "once upon a time, near {p}, there lived a <padj> <job> [named|called] {n}, <tagged>.",
)
RULES["mood"] = (
    "the <wadj> <wnoun> <wverb> <wprep> the <wplace>, and {n} felt <feel> and <feel>.",
    "the <wadj> <wnoun> <wverb> <wprep> the <wplace> while the <wadj> <wnoun> <wverb> <wprep> the <wplace>.",
    "it was a <tadj> and <tadj> <time>, and the <wadj> <wnoun> <wverb> <wprep> the <wplace>.",
    "that <tadj> <time> smelled of <food> and <tha> [wool|wood|hay|ink|leather|rope|wax|leaves].",
    "{they} felt <feel>, for the <wadj> <wnoun> <adv> <wverb> <wprep> the <wplace>.",
    "somewhere <num> <aadj> <animal>s [called|sang|cried|howled|sneezed|coughed|answered], and the <wadj> <wnoun> <wverb> <wprep> the <wplace>.",
    "for [breakfast|supper|lunch] {they} [ate|shared|cooked|burned|bought] <food> with <drink>, and [felt|looked|became|was] <feel>.",
)
RULES["go_p"] = (
    "so {n} <adv> <go> <vprep> the <vadj> <vnoun> to {p}.",
    "<adv>, {they} packed <food> and <thing> and <go> to {p}.",
    "{they} <go> <vprep> the <vadj> <vnoun>, then <go> <vprep> the <vadj> <vnoun>, until {they} [reached|saw|found|came to] {p}.",
    "before [sunrise|breakfast|noon|supper|dark|the rain], {n} <go> to {p} <vprep> the <vadj> <vnoun>.",
    "it took <num> [hours|days|nights] to reach {p}, and {n} <go> <vprep> the <vadj> <vnoun>.",
    "[without a word|with a sigh|after a bowl of <food>|after <num> cups of <drink>|at first light|that same <time>], {they} <go> <vprep> the <vadj> <vnoun> toward {p}.",
    "the [road|way|path] to {p} was <vadj> and <vadj>, yet {n} <adv> <go> <vprep> the <vadj> <vnoun>.",
)
RULES["meet"] = (
    "there {they} met a {h} carrying <thing>.",
    "a {h} [sat|stood|slept|waited|hid|sang] <where>, [eating|guarding|selling|stealing|cooking] <food>.",
    "<where>, {they} [found|met|noticed|woke|heard|saw] a {h} with <thing>.",
    "[soon|then|after a while|by chance|at last], a {h} <go> <vprep> the <vadj> <vnoun> and [greeted|stopped|bumped into|bowed to|frightened|followed] {them}.",
    "a {h} <adv> [blocked|crossed|shared|swept] the path and asked for <food>, and {n} [gave|handed|offered|lent] it <thing>.",
    "only a {h} [was|sat|waited|slept] there, looking <feel> and <feel>, with <thing>.",
)
RULES["hint"] = (
    "the {h} <adv> <said>, \"look <where>, for the {on} [likes|loves|needs|hates|fears] <tha> <stuff>.\"",
    "the {h} <adv> <said>, \"[bring|give|fetch|find|cook] me <food> and I will [show|tell|teach|sing] you [the secret|everything|the truth|the way|a story] of the <tha> <thn>.\"",
    "\"[no|only a] <padj> <job> can [use|lift|keep|hide|trust|wake] that {on},\" <said> the {h}, [scratching|shaking|nodding|lowering|hiding] its <tha> head <adv>.",
    "the {h} [looked|stared|blinked|winked|nodded] <adv> and <said>, \"I [smelled|saw|heard|dreamed of|followed] a <padj> <job> <where>.\"",
    "the {h} <adv> <said>, \"<padj> {n}, [trade|bring|lend|show] me <thing>, and the {on} will be [yours|safe|found|free].\"",
    "the {h} <adv> [drew|scratched|traced|wrote] a <tadj> [map|circle|word|arrow|number] [in|on] the [sand|mud|snow|dust|wall|table] and <said>, \"[dig|look|wait|knock|listen|sing|search|climb] <adv> <where>.\"",
)
RULES["obstacle"] = (
    "but a <aadj> <animal> [stole|swallowed|guarded|dropped|licked|sat on] <thing>, and {they} had to [wait|sing|laugh|run|bargain|climb|hide|dance] <where> for <num> [hours|minutes|nights|days].",
    "then a <padj> <job> [came|shouted|fell|ran|jumped] [out|over|by|down] with <thing> and <adv> [demanded|asked for|threw|offered] <thing>.",
    "[suddenly|just then|a moment later|without warning], the <tha> <thn> [broke|cracked|slipped|gave way|fell], and {they} [landed|rolled|slid|tumbled] <where>.",
    "{they} [searched|looked|felt|peered] <where> and <where>, but found only <thing>.",
    "<num> <aadj> [geese|goats|rats|dogs|crows|cats] [chased|followed|surrounded|watched|mocked] {them} <wprep> the <wplace>.",
    "that <time> {they} was <feel> and <feel>, and had only <thing> [left|to eat|to trade|to hold].",
    "the <job> of {w}, a <padj> [man|woman|giant|fellow|soul] with <thing>, <adv> [refused|argued|complained|wept|shouted] and [hid|kept|wanted|broke] <thing>.",
)
RULES["find"] = (
    "at last, <where>, {n} [found|saw|touched|discovered|spotted|noticed] the {o}, <tha> and <tha>.",
    "and there, <where>, lay the {o}, [wrapped in|covered with|hidden by|tied with|next to] <tha> [cobwebs|straw|wool|moss|leaves|ribbons|paper|silk|seaweed|string].",
    "{they} <adv> [moved|lifted|pushed|kicked] <thing>, and the {o} [rolled|fell|slid|tumbled|dropped] [out|into the light|at {their} feet|into {their} hands].",
    "<adv>, the {h} [led|pulled|carried|pushed] {n} to <thing>, and <where> was the {o}.",
    "when the <wadj> <wnoun> <wverb> <wprep> the <wplace>, something [glittered|moved|gleamed|hummed|rattled|sparkled] <where>, and it was the {o}.",
)
RULES["use"] = (
    "{n} [raised|turned|shook|held up|showed|offered] the {o} <adv>, and <num> <tha> [doors|birds|lights|bells|ghosts|windows] [opened|rose|woke|answered|vanished|appeared] <wprep> the <wplace>.",
    "with the {on} in {their} [hand|lap|pocket|bag|arms], {n} <go> <vprep> the <vadj> <vnoun> and [saved|freed|woke|warned|found] a <padj> <job>.",
    "{they} [tied|traded|pressed|fastened|joined] the {o} to <thing>, and the {h} <adv> began to [dance|laugh|weep|grow|glow|sing|snore] <where>.",
    "the {on} [trembled|sang|shone|hummed|rang|glowed], the <wadj> <wnoun> <wverb> <wprep> the <wplace>, and the {h} was [free|healed|awake|a <job>|rich] and <feel>.",
    "no <padj> <job> had [used|touched|seen|wanted|needed] the {o} for <num> [years|winters|summers], but {n} <adv> [cleaned|mended|oiled|warmed|tried] it with <drink>.",
)
RULES["end"] = (
    "that <time>, {n} [hung|placed|kept|hid|set] the {o} <where> and ate <food> with the {h}.",
    "from that <time> on, the {o} [stayed|rested|hung|remained] at {p}, and {n} was [never|seldom|always] <feel> or <feel>.",
    "{n} <adv> [carried|brought|took] the {o} home, and {their} {k} [cooked|baked|served|burned] <food> for <num> <padj> <job>s.",
    "so the {o} [came|went|was carried] back to {p}, and the {h} [got|earned|received|was given] <gift>.",
    "and whenever the <wadj> <wnoun> <wverb> <wprep> the <wplace>, {n} <adv> [polished|touched|kissed|dusted|held] the {o} and ate <food>.",
    "in the end {n} [gave|lent|left|sold] the {o} to the {h} for <gift>, and both were <feel> and <feel>.",
    "to this day, <padj> <job>s at {p} [drink <drink>|eat <food>] in honour of {n} and the {o}.",
)
RULES["moral"] = (
    "for <virtue> [is worth more than|opens more doors than|lasts longer than|tastes better than|weighs less than|is lighter than] <thing>.",
    "a little <virtue>, {they} [learned|said|knew|thought|wrote], goes further than <thing>.",
    "and the {h}? It [became|married|followed|taught|hired] a <padj> <job>.",
    "{their} <padj> {k} only [laughed|nodded|smiled|wept|sighed] and <adv> [poured|spilled|drank|asked for] <drink>.",
    "and they all [slept|laughed|sang|danced|feasted] <where> until the <drink> was gone.",
    "it was a <tadj> <time>, and the <wadj> <wnoun> <wverb> <wprep> the <wplace>.",
    "",
)

# Plots: each sets the want, then orders the shared sentences.
RULES["lost"] = (
    "one <tadj> <time> the {o} was [gone|lost|missing|stolen], and {their} <padj> {k} <adv> blamed <thing>.",
    "{their} {k} had [lost|dropped|forgotten|left] the {o} somewhere near {p}, [while chasing a <aadj> <animal>|on a <tadj> <day> in <season>|after a <tadj> quarrel about <food>].",
    "a <aadj> <animal> had <adv> [stolen|taken|buried|hidden|carried off] the {o} <where>, and {n} was <feel>.",
)
RULES["quest"] = (
    "a <padj> <job> [asked|begged|paid|ordered|hired] {n} to bring back the {o} for <gift>.",
    "{they} had [heard|learned] from a <padj> <job> that the {o} lay [hidden|buried|asleep|forgotten] at {p}, <where>.",
    "{their} {k} <adv> <said>, \"[find|fetch|bring|save] the {o} before <day>, take <food>, and trust no <aadj> <animal>.\"",
    "in a dream, a <aadj> <animal> <adv> <said>, \"the {o} <hum> at {p} <where>.\"",
)
RULES["owned"] = (
    "{n} owned <thing>, <thing> and a {o}, [a gift from|won from|bought from|borrowed from] a <padj> <job>.",
    "on {their} <tadj> birthday, {their} <padj> {k} <adv> gave {them} a {o} and <food>.",
    "{they} had [traded|swapped|sold] <thing> for a {o} that [hummed|glowed|ticked|smelled of <food>|tasted of <drink>] on a <tadj> <time>.",
)
RULES["trouble"] = (
    "at {p}, a {h} was [stuck|trapped|crying|caught|freezing] <where>, and no <padj> <job> [cared|came|noticed|helped].",
    "but every <time>, a <wadj> [sound|light|smell|song] came from {p}, and a {h} [blamed|feared|watched|told] the <padj> <job>s of {w}.",
    "then a {h} <go> <vprep> the <vadj> <vnoun> with [bad|strange|sad] news: {p} was [dark|closed|flooded|sold], and full of <aadj> <animal>s.",
)
RULES["tale"] = (
    "<lost> [<mood> |]<go_p> <meet> <hint> [<obstacle> |]<find>",
    "<quest> <go_p> [<mood> |]<meet> [<hint> |]<obstacle> <find>",
    "<owned> [<mood> |]<trouble> <go_p> [<obstacle> |<hint> |]<use>",
    "[<mood> |]<quest> <meet> <hint> <go_p> <find> [<use>|<mood>]",
    "<owned> <go_p> <meet> [<mood> |<obstacle> |]<hint> <use>",
    "<mood> <lost> <meet> <go_p> [<obstacle> |]<find>",
)
RULES["tales"] = ("<open> <tale> <end> <moral>",)
RULES["raw_tales"] = ("[<once>|<open>] <tale> <end> <moral>",)

# ------------------------------------------------------------------------------------- tale requests

RULES["please"] = ("", "please, ", "hello! ", "good <time>. ", "could you help? ", "hi, ", "I am <feel>. ", "dear storyteller, ", "it is a <tadj> <time>. ")
RULES["ask_verb"] = (
    "tell me", "write", "invent", "make up", "I want", "I would like", "give me", "could you tell", "can you write",
    "please tell me", "let me hear", "spin", "we need", "I'd love", "please write", "tell us")
RULES["kind"] = ("tale", "story", "fairy tale", "bedtime story", "short story", "fable", "legend", "yarn")
RULES["story"] = ("a <kind>", "a [short|little|new|good|funny|nice|strange|sad|<tadj>] <kind>")
RULES["triple"] = (
    "{n}, {p} and a {o}", "{n}, a {o} and {p}", "a {o}, {n} and {p}", "{p}, {n} and the {o}", "{n} and a {o} at {p}",
    "{n} who finds a {o} near {p}", "{n} and {p}, with a {o} in it", "a {o} and {n} near {p}",
    "{n}, {p}, and the {o}", "a <job> named {n}, {p}, and a {o}", "how {n} brought the {o} to {p}")
RULES["ask_tale"] = (
    "<please><ask_verb> <story> about <triple>[.|!|?|]",
    "<please><ask_verb> <story> with <triple>[.|!|, please.|]",
    "<please><story>[, about|:| about] <triple>[.|, please.|]",
    "name: {n}. Place: {p}. Object: {o}. <ask_verb> <story>.",
    "name: {n}, place: {pc}, object: {o}",
    "<ask_verb> <story>. The hero is {n}, it happens at {p}, and there must be a {o}[.|!]",
    "<ask_verb> <story> set at {p}. It should have {n} and a {o}.",
    "what happened to {n} at {p}? [Do not forget|And mention|I heard about|There was also] the {o}.",
    "{n}. {p}. a {o}. <ask_verb> <story>.",
    "do you know <story> about <triple>?",
)
RULES["ask_name"] = ("<please><ask_verb> <story> about {n}[.|!|]", "do you know <story> about {n}?", "who is {n}? <ask_verb> <story>.")
RULES["ask_two"] = ("<please><ask_verb> <story> about {n} and a {o}[.|!|]", "<please><ask_verb> <story> about {n} and {p}[.|!|]", "<please><ask_verb> <story> about a {o} and {p}[.|!|]")
RULES["ask_any"] = ("<please><ask_verb> <story>[.|!|, please.|]", "once upon a time", "surprise me with <story>.", "<story>[, please|]", "what can you tell me?", "hello", "begin.")
RULES["again"] = ("", "", "another one. ", "thank you! Now ", "lovely. ", "and now ", "one more, ", "next: ", "I liked that. ")
RULES["follow_q"] = (
    "what became of the {o}?", "and the {o}? Where is it now?", "where is the {o} today?", "did {n} keep the {o}?",
    "what did {n} do next?", "was {n} happy in the end?", "who was {n}, really?", "is {p} still there?", "[and then|what happened next|what came after that]?")
RULES["follow_a"] = (
    "the {o} [lay|stood|hung|rested] <where> for <num> [years|winters|weeks], and {n} [often|never|rarely|always] [thought|spoke|dreamed] of {p} over <food>.",
    "{n} <adv> [sold|lent|gave|traded] the {o} to a <padj> <job> for <gift>, then <go> <vprep> the <vadj> <vnoun>.",
    "they say {n} [still|sometimes|often] <go> to {p} with the {o}, [eating|carrying|sharing|selling] <food> and feeling <feel> and <feel>.",
    "{n} was <feel> and <feel>. Near {p}, {they} [opened|kept|built|ran] a <tadj> [shop|school|inn|stall] for <padj> <job>s, with the {o} <where>.",
)

# ------------------------------------------------------------------------------------------ innkeeper

RULES["inn"] = ("the [Copper|Laughing|Sleeping|Golden|Crooked|Drunken|Silver|Singing|Lucky|Black|White|Merry|Tired|Broken|Red|Thirsty] [Kettle|Goose|Bear|Barrel|Lantern|Fox|Boot|Crown|Trout|Anchor|Pony|Owl|Ladle|Goat|Wheel|Moon|Badger|Hen]",)
RULES["sys"] = (
    "you are {i}, the [innkeeper|keeper|owner|host] of {inn}[ in {w}| near {w}|]. [You are <padj> and <padj>.|You speak <adv>.|You know every rumour.|You serve <food>.|A guest comes in.|]",
    "you play {i}, a <padj> innkeeper at {inn}[ in {w}|]. [Answer the guests.|Answer <adv>.|You love gossip.|]",
    "you are an innkeeper[ named {i}|] in a game. Your inn is {inn}. [You are <padj>.|Stay in character.|Help the player.|]",
)
RULES["sys_tale"] = (
    "you are a <padj> storyteller.", "you tell [short|little|strange|gentle|merry] <kind>s to <padj> [children|guests|travellers|<job>s].",
    "you are a storyteller. Use the name, the place and the object.", "you are a helpful assistant.", "you write <kind>s.")
RULES["hello_q"] = ("[hello|good <time>|greetings|hi|well met|hello there][, {i}|, innkeeper|, friend|][!|.] [It is a <tadj> <time>.|I am <feel>.|My name is {g}.|Is this {inn}?|I am {g}, a <job>.|What a <time>.|]",)
RULES["hello_a"] = (
    "welcome to {inn}, <padj> [traveller|friend|guest|stranger]! I am {i}. [Sit|Rest|Warm yourself|Drop your bag] <where> and try my <food> with <drink>.",
    "a <tadj> <time> to you! {i} is my name, and {inn} is my <tadj> [home|pride|burden|kingdom]. [Mind|Ignore|Forgive|Do not feed] the <aadj> <animal> <where>.",
    "[ah|oh|well], a <padj> guest! You look <feel> and <feel>, so [take|eat|try] <food> <where>, <adv> served by the <job> of {inn}.",
    "come in, come in! the <wadj> <wnoun> <wverb> <wprep> the <wplace>, and you must be <feel>. I have <drink>, <food>, and <thing>.",
)
RULES["food_q"] = ("what [do you have|is there|can I get] to [eat|drink]?", "what is on the [menu|fire|table] [tonight|today]?", "I am [hungry|thirsty|starving]. What do you [have|serve|recommend]?", "do you have <food>?", "a [cup|mug|glass] of <drink>, please.")
RULES["food_a"] = (
    "today there is <food>, or <food> if you are <feel>, and a mug of <drink> for <price>.",
    "my {k} [cooked|burned|made|prepared] <food> this <time>. With <drink> that makes <price>, and the <food> is free.",
    "[certainly|of course|gladly|at once]! Take the <drink>, it [tastes|smells] of <tha> [smoke|honey|apples|rain|pepper|roses]. The <food> costs <price>.",
    "no <food>, I fear, since a <aadj> <animal> ate it. But there is <food> with <drink>, <price> a [plate|bowl|helping].",
)
RULES["room_q"] = ("[do you have|is there|may I have] a [room|bed] [tonight|for the night|for <num> nights|for {g}|]?", "how much is a [room|bed]?", "where [can|do|may] I sleep?", "I need a [room|bed], <adv> if possible.")
RULES["room_a"] = (
    "a room costs <price> a night, with <food> in the morning. The bed is <tha> and stands beside <thing>.",
    "the <aadj> <animal> sleeps in the <tha> room, but the <tha> one is yours for <price> and <thing>.",
    "[yes|gladly|of course|surely], past <thing>, then <where>, door number <num>. It is <price>, and <drink> is included.",
    "only the [attic|stable|cellar|loft] is left, I am <feel> to say. For <price> you share it with a <padj> <job> and <thing>.",
)
RULES["rumour_q"] = (
    "[do you know|have you heard|what do you know] [anything |]about {n} and the {o} at {p}?", "have you heard of {n}, {p} and a {o}?",
    "I am looking for {n}. They say {they} had a {o} near {p}.", "tell me about {n}, the {o} and {p}.", "what is this talk about {n}, a {o} and {p}?",
    "is it true that {n} [found|lost|hid|stole|sold] a {o} at {p}?", "people [say|whisper] that {n} [took|carried|brought] the {o} to {p}. Is it true?",
    "any news of {n} from {p}? I seek the {o}.", "why did {n} go to {p} with a {o}?")
RULES["rumour_a"] = (
    "[ah|oh|well|hush|yes], {n}! A <padj> <job>, <tagged>. [Last <season>|On <day>|One <tadj> <time>|<num> days ago] {they} <adv> <go> to {p} and [hid|lost|buried|found|dropped] the {o} <where>.",
    "a <padj> <job> told me, over <food>, that {n} <go> <vprep> the <vadj> <vnoun> to {p}. The {o} lies <where>, and a <aadj> <animal> guards it <adv>.",
    "they say the {o} of {n} <hum> <adv> whenever the <wadj> <wnoun> [passes|drifts|wanders|sails] over {p}. I was <feel> when my {k} told me, over <food>.",
    "[hm|well|listen|sit closer], {n} drank <drink> here, looking <feel>, with the {o} <where>. Then {they} <go> <vprep> the <vadj> <vnoun> toward {p} and left me <thing> and <thing>.",
    "I saw {n} <adv> trading the {o} for <gift> at {p}. That <padj> <job>, a friend of {n}, still <adv> [laughs|weeps|sings|argues] about it over <food>.",
)
RULES["who_q"] = ("who is {n}?", "tell me more about {n}.", "what is {n} like?", "is {n} a friend of yours?", "where can I find {n}?")
RULES["who_a"] = (
    "{n} is a <padj> and <padj> <job>, <tagged>. You will find {them} near {p}, <where>.",
    "{n}? The most <padj> <job> I know, <tagged>. {they} still owes me <price> for <food>.",
    "a <job> <tagged>, always <feel> after <drink>. {n} and my {k} once <go> <vprep> the <vadj> <vnoun> with <thing>.",
)
RULES["place_q"] = ("where is {p}?", "how do I get to {p}?", "is it far to {p}?", "what is {p} like?", "is {p} dangerous?")
RULES["place_a"] = (
    "to reach {p}, [go|walk|ride|travel] <vprep> the <vadj> <vnoun>, then <vprep> the <vadj> <vnoun>. Take <food>, and [greet|avoid|feed|trust|beware] the <aadj> <animal>.",
    "{p} is <num> [hours|miles|days] from here, <vprep> the <vadj> <vnoun>. There is <thing> now, and the <wadj> <wnoun> often [drifts|hangs|rolls|settles] <where>.",
    "[few|most|some|many] <job>s go to {p} <adv>, and come back <feel>. Look for <thing>, then turn [left|right|back|north|south].",
)
RULES["object_q"] = ("what about the {o}?", "where is the {o} now?", "tell me about the {o}.", "is the {o} worth much?", "what does the {o} do?", "who has the {o}?")
RULES["object_a"] = (
    "the {o} is worth <price>, or perhaps <gift>. A <padj> <job> [made|found|cursed|blessed|repaired] it on a <tadj> <time>.",
    "last I heard, {n} kept the {o} <where>, at {p}, with <thing> to <adv> [hide|guard|cover|warm] it.",
    "[ah|careful|hush|well], that {o} makes every <padj> <job> <feel>. Even {n} <adv> wrapped it in <tha> [wool|silk|paper|leaves|straw] and ate no <food> for <num> days.",
)
RULES["news_q"] = ("what is new?", "any [news|rumours|gossip]?", "what are [people|the guests] talking about?", "tell me something[ strange| funny|].")
RULES["news_a"] = (
    "a <padj> <job> from {w} [married|hired|sued|kissed|insulted] a <padj> <job>, and the <aadj> <animal> got <gift>.",
    "the <wadj> <wnoun> <wverb> <wprep> the <wplace> all <time>, and nobody can find <thing>. The <job>s are <feel>, and the price of <food> is <price>.",
    "they found <thing> <where>. My {k} blames the <aadj> <animal>, but I suspect a <padj> <job>.",
)
RULES["bye_q"] = ("[thank you|thanks|many thanks][.|, {i}.|!] [Goodbye.|Farewell.|Good night.|I must go.|]", "[goodbye|farewell|good night][, {i}|, friend|][.|!]", "I will [leave|go|sleep] now.", "here are <price> for the <drink>.")
RULES["bye_a"] = (
    "safe travels, <padj> friend! Take <food> for the road, and beware the <aadj> <animal> <where>.",
    "farewell! When the <wadj> <wnoun> [drifts|passes|rolls|creeps] <wprep> the <wplace>, think of {inn} and my <drink>.",
    "[good night|goodbye|until <day>]! may you never be <feel> or <feel>, and may <virtue> find my <padj> {k} <where>.",
)
