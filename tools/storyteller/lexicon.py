"""Word lists of the storyteller's grammar: names, places, objects and the words between them.

Every list is a plain tuple of strings; `grammar.py` picks from them uniformly and counts the bits of
each pick. Entries are templates too (see `grammar.py`), so an entry may itself contain a choice.
"""


def _words(text):
    """Splits a block of space-separated words."""
    return tuple(text.split())


def _phrases(text):
    """Splits a block of comma-separated phrases."""
    return tuple(" ".join(part.split()) for part in text.split(",") if part.strip())


SHE_NAMES = _words("""
Mira Anna Lotte Freya Ines Petra Rosa Hilda Nora Edith Tamsin Wren Ivy Maud Greta Selma Yara Leila Amina
Zora Nadia Olive Hazel Juno Clara Dora Elsie Fern Gwen Hanna Iris Kaia Linnea Marta Nell Opal Pia Runa
Saga Thea Una Vera Willa Xenia Ysolde Zelda Bela Cora Dilys Esme Agnes Brida Celia Dagny Elin Fiona Gilda
Sofia Tilda Priya""")
HE_NAMES = _words("""
Tom Oskar Felix Hugo Jonas Anton Bram Caspar Dirk Emil Finn Gustav Henrik Ivan Jakob Karl Leo Milo Nils
Otto Pavel Quinn Ralf Sten Theo Ulrich Viktor Wilf Yusuf Zeno Arlo Boris Conrad Derek Edmund Florian Gareth
Harold Ismael Jasper Kurt Ludo Marek Ned Owen Piet Rufus Simon Tobias Urban Vance Walter Amos Basil Cyril
Dorian Elias Fergus Goran Robin""")

NAME_HEADS = _words("Ka Be Sto Ve Ru Dra Fa Lo Mi Ne O Pe Qua Ri Sa Te U Va Wi Za Bri Cla El Ga Hel Jo Tha Mor")
NAME_MIDS = _words("l r n m s v d th nd rr ll ss lv rk mb st z g b f")
NAME_VOWELS = _words("a e i o u")
SHE_TAILS = _words("a ia na ra la ne wyn sa")
HE_TAILS = _words("n r o us k s th ld m")

PLACE_NOUNS = _phrases("""
lighthouse, windmill, watermill, harbour, bakery, library, orchard, bridge, castle, chapel, forge, market,
quarry, meadow, marsh, forest, cave, well, tower, bell tower, cottage, farm, stable, vineyard, garden, fountain,
ferry landing, fishing pier, boathouse, graveyard, crossroads, hill, valley, waterfall, lake, river bend, pond,
shipyard, smithy, tannery, brewery, theatre, school, clock tower, observatory, greenhouse, barn, granary,
sheepfold, beehives, stone circle, gatehouse, town wall, marketplace, courtyard, cellar, attic, workshop,
toll house, railway station, tram depot, lookout, cliff, beach, lagoon, dunes, island, oak, willow, hollow,
moor, ruin, abbey, monastery, temple, palace, tavern, kiln, salt works, dovecote, maze, arcade, museum,
post office, glassworks, rope yard, mine, canal, lock, weir""")
PLACE_ADJS = _words("""
old red white black green silent hidden northern southern eastern western broken crooked abandoned ancient
misty windy frozen sunken golden stone wooden little great upper lower lonely haunted ivy-covered moonlit
forgotten quiet dusty royal flooded painted""")
TOWN_HEADS = _words("Harrow Vell Kess Brin Ash Thorn Wick Oster Marl Fen Gorse Holm Lark Mill Nether Pen Raven Salt")
TOWN_TAILS = _words("mere moor ford ham wick dale stead haven bury combe ness gate by field ton hollow")

OBJECT_NOUNS = _phrases("""
compass, lantern, key, ring, bell, map, flute, fiddle, drum, cup, goblet, kettle, spoon, knife, hammer, chisel,
needle, thimble, button, ribbon, scarf, cloak, hat, boot, glove, belt, purse, coin, medal, crown, mirror, comb,
brooch, locket, necklace, bracelet, box, chest, basket, barrel, bottle, jar, vase, teapot, candle, lamp, clock,
watch, hourglass, telescope, spyglass, book, diary, letter, scroll, quill, inkwell, painting, statue, doll,
puppet, kite, whistle, horn, harp, violin, trumpet, anchor, oar, rope, net, hook, sail, saddle, bridle,
horseshoe, wheel, plough, sickle, rake, shovel, axe, shield, helmet, sword, arrow, bow, dagger, feather, shell,
pearl, pebble, crystal, acorn, seed, rose, mask, umbrella, walking stick, blanket, cushion, carpet, tapestry,
chessboard, music box, weather vane, snow globe, wooden horse, toy boat, magnet, prism, loom, spindle, pendulum""")
OBJECT_ADJS = _words("""
brass silver golden copper iron wooden glass crystal ivory bronze leather velvet silk woollen clay painted
carved broken cracked rusty ancient tiny heavy blue red green black white yellow crimson striped polished
bent enchanted stolen borrowed folded singing glowing""")

LEX = {
    "padj": _words("""
patient clumsy cheerful stubborn curious gentle bold shy clever lazy honest weary proud lonely merry careful
restless kindly grumpy dreamy sleepy brave nervous hopeful polite tidy forgetful thoughtful gloomy generous
hungry talkative solemn nimble plump skinny freckled sunburnt barefoot stern bashful jolly foolish bearded
wealthy penniless famous humble loyal sulky witty tireless graceful noisy modest greedy moody lanky daring
wrinkled bald toothless elegant timid"""),
    "job": _words("""
baker weaver fisher shepherd carpenter miller tailor potter blacksmith gardener cook teacher clockmaker
beekeeper glassblower hunter painter messenger sailor cobbler brewer farmer singer healer librarian lamplighter
mapmaker toymaker mason barber juggler peddler scribe stargazer goatherd piper dancer apprentice woodcutter
nurse ropemaker bookbinder dentist lawyer pirate soldier butcher plumber poet porter drummer tinker acrobat
diver pilot judge printer jeweller locksmith washer goldsmith ranger doctor guard"""),
    "animal": _words("""
heron fox crow badger otter hare cat goat donkey owl raven goose hedgehog mouse squirrel toad pony magpie
swan dog sparrow beaver stork pigeon weasel seal turtle lizard robin duck calf lamb kitten hen moth jackdaw
rooster stag mole ferret frog bat wolf bear snail crab parrot falcon"""),
    "aadj": _words("""
grey spotted limping old young fat thin brown ginger talking tame wet sleepy tiny enormous polite shaggy
speckled white black dusty noisy silent greedy sly friendly lame wise blinking shivering grinning ragged striped
muddy grumpy dancing snoring hungry whistling elderly"""),
    "season": _words("spring summer autumn winter"),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "time": _words("morning evening afternoon night day dawn midnight twilight holiday noon weekend birthday"),
    "tadj": _words("""
foggy rainy windy bright cold frosty warm stormy quiet golden grey snowy cloudless damp hot mild starry
moonless pale hazy gusty drizzly gloomy lovely silver endless"""),
    "wadj": _words("""
cold thin thick pale silver grey golden soft bitter gentle wild slow distant white sudden heavy restless purple
salty sleepy damp bright lonely endless warm faint strange shy furious last"""),
    "wnoun": _words("""
wind rain fog mist smoke moonlight sunlight thunder snow dust breeze tide hail starlight frost steam music
laughter twilight silence drizzle cloud shadow pollen echo birdsong heat storm sunset rainbow darkness whisper"""),
    "wverb": _words("""
drifted rolled crept danced hung swirled whispered wandered settled hummed trembled spread passed gathered
lingered tumbled floated sank rose fluttered sighed faded flickered slept"""),
    "wprep": _words("over across through above along between past under around behind beyond among"),
    "wplace": _words("""
roofs fields alleys chimneys hedges trees shutters arches water wagons lanes cobbles shore furrows reeds barns
clouds stalls gardens steeples docks hills fences stables boats windows rocks ferns puddles gables gutters
tombstones vines ditches bells balconies stairs lamps tents nets"""),
    "adv": _words("""
slowly quietly carefully gladly suddenly bravely softly quickly calmly proudly nervously patiently happily
sadly firmly gently eagerly boldly clumsily politely silently warmly hastily stubbornly secretly cheerfully
gravely lazily kindly loudly grimly wearily shyly neatly briskly sternly gracefully foolishly solemnly humbly
timidly cleverly merrily meekly"""),
    "feel": _words("""
happy tired proud uneasy hopeful puzzled ashamed brave calm lonely grateful worried curious lucky cross dizzy
frightened content jealous sorry excited homesick relieved foolish restless thirsty awake bored hungry sleepy
strong small nervous cold wise weary cheerful rich lost safe clumsy guilty young old important free gloomy
angry"""),
    "go": _words("""
walked hurried wandered ran rode climbed limped crept marched strolled trudged skipped hiked travelled sneaked
tiptoed galloped rowed stumbled plodded raced danced crawled hobbled drifted sailed"""),
    "vprep": _words("through over past along under behind across around beyond down"),
    "vadj": _words("""
wet tall dry stony muddy narrow steep frozen sandy sleeping empty crumbling crowded smoking painted creaking
slippery thorny flooded shady windy crooked silent burning tangled snowy dark rotten mossy foggy hollow broken
bare yellow purple grassy"""),
    "vnoun": _words("""
grass barley reeds ferns nettles corn path track pass lane ridge field houses wagons huts barns gates river canal
shore hedge wall ditch sky moon clouds cart tunnel valley bushes stairs tents bridges rocks dunes gardens woods
pines swamp market"""),
    "fadj": _words("""
onion apple rye mushroom honey plum cherry barley goat pea ginger duck turnip bean walnut pear cabbage mutton
potato fish carrot oat berry lentil pumpkin trout chestnut nettle garlic cheese lemon egg"""),
    "fnoun": _words("""
soup pie stew bread cake tart porridge dumplings broth pudding pancakes sausages jam salad biscuits butter
buns pasties rolls noodles"""),
    "food": ("<fadj> <fnoun>", "[hot|cold|burnt|fresh|salty|sweet|stale|fried|roast|pickled|smoked|spicy] <fadj> <fnoun>"),
    "dadj": _words("""
warm dark mint cold elderflower ginger plum hot apple nettle mulled bitter sweet berry cloudy honey foaming
spiced lemon old"""),
    "dnoun": _words("cider tea ale milk wine beer mead water brandy juice coffee punch"),
    "drink": ("<dadj> <dnoun>",),
    "tha": _words("""
rusty wet broken empty torn cracked dusty green red blue yellow black white old new tiny huge heavy wooden
golden copper dirty crooked burnt frozen sticky stolen painted bent rotten shiny hairy square hollow leaky
smelly striped woollen borrowed mouldy round dented wobbly greasy"""),
    "thn": _words("""
nail sock jug plate sack chair pear loaf brick sail bucket ladder boot spoon bottle basket carrot fence barrel
pillow turnip fork rope net broom apron hammer pan stool coat candle onion egg wheel potato trunk log crate
cart bench statue curtain door pot shawl tooth bone rug ball flag towel cushion turban tub pumpkin stove trough
bathtub cabbage table book hat anvil wardrobe"""),
    "stuff": _words("""
buttons letters herbs rags feathers apples eggs nails candles coins beans books nets turnips shells maps stamps
spoons cherries pebbles needles biscuits mushrooms ribbons songs clocks boots baskets pearls bones walnuts
secrets"""),
    "thing": (
        "a <tha> <thn>", "a <tha> <thn>", "<num> <tha> <thn>s",
        "a <tha> [bag|basket|jar|box|heap|sack|cart|pile|bucket|chest] of <stuff>", "<num> <stuff>"),
    "inprep": _words("under behind inside beneath beside near above against"),
    "where": (
        "<inprep> a <tha> <thn>", "<inprep> the <tha> <thn>", "<inprep> <num> <tha> <thn>s",
        "between a <thn> and a <tha> <thn>", "<inprep> <thing>",
        "in the <vadj> [mud|ashes|snow|moss|sand|weeds|straw|leaves|attic|cellar|hall|kitchen]"),
    "kin": _words("""
grandmother grandfather aunt uncle sister brother cousin neighbour godmother nephew niece friend mother father
teacher landlord"""),
    "price": ("<num> [coppers|pennies|farthings|shillings|crowns|feathers|eggs|songs|kisses|pearls]",),
    "num": _words("two three four five six seven eight nine ten eleven twelve twenty thirty forty fifty sixty"),
    "virtue": _words("""
patience courage kindness honesty laughter friendship luck hope curiosity silence trust wisdom music memory
bread sleep mercy thrift cunning love"""),
    "gift": (
        "<thing>", "a <tha> [coat|cap|shawl|cloak|scarf|vest]", "a <tha> basket of <fadj> <fnoun>", "a jug of <drink>",
        "a <tadj> [song|dance|promise|holiday|feast|poem]", "a <aadj> <animal>"),
    "said": _words("said whispered called cried muttered answered laughed sighed growled murmured sang mumbled"),
    "hum": _words("hums glows sings rattles weeps shines ticks shakes buzzes whistles snores trembles"),
}
