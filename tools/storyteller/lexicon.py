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
patient clumsy cheerful stubborn curious gentle bold shy clever lazy honest-hearted weary proud lonely merry
careful restless kindly grumpy dreamy quick-witted sleepy brave nervous hopeful polite tidy forgetful
thoughtful gloomy generous hungry talkative solemn nimble plump skinny freckled sunburnt barefoot
left-handed soft-spoken absent-minded sharp-eyed silver-haired long-legged hard-working good-natured"""),
    "job": _phrases("""
baker, weaver, fisher, shepherd, carpenter, miller, tailor, potter, blacksmith, gardener, cook, teacher,
clockmaker, beekeeper, ferry pilot, glassblower, hunter, painter, messenger, sailor, cobbler, brewer, farmer,
singer, healer, librarian, lamplighter, mapmaker, toymaker, mason, barber, juggler, peddler, scribe, stargazer,
goatherd, candlemaker, piper, dancer, apprentice, woodcutter, chimney sweep, basket maker, ropemaker, nurse,
stable hand, bell ringer, bookbinder"""),
    "animal": _words("""
heron fox crow badger otter hare cat goat donkey owl raven goose hedgehog mouse squirrel toad pony magpie
swan dog sparrow beaver stork pigeon weasel seal turtle lizard robin duck calf lamb kitten hen moth jackdaw
rooster stag mole ferret"""),
    "aadj": _words("""
grey spotted limping old young fat thin one-eyed brown ginger talking tame wet sleepy tiny enormous polite
shaggy speckled white black dusty noisy silent greedy sly friendly lame wise blinking shivering grinning
ragged striped muddy"""),
    "season": _words("spring summer autumn winter"),
    "day": _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday"),
    "time": _phrases("""
morning, evening, afternoon, night, day, market day, dawn, midnight, twilight, feast day, holiday, noon"""),
    "tadj": _words("""
foggy rainy windy bright cold frosty warm stormy quiet golden grey snowy cloudless damp hot mild starry
moonless pale hazy gusty drizzly"""),
    "wsub": _phrases("""
the wind, a thin rain, the fog, a cold draught, the moonlight, the last sunlight, a flock of geese, the smoke,
thunder, a few snowflakes, the smell of [bread|smoke|hay|salt|apples], a distant bell, the tide, dry leaves,
a swarm of moths, the evening star, the mist, a lazy breeze, dust, a chorus of frogs"""),
    "wverb": _phrases("""
drifted, rolled, crept, danced, hung, swirled, whispered, wandered, settled, hummed, trembled, spread, passed,
gathered, lingered, tumbled"""),
    "wover": _phrases("""
over the roofs, across the fields, through the alleys, above the chimneys, along the hedges, between the trees,
past the shutters, under the arches, over the water, around the wagons, down the lane, across the cobbles,
along the shore, over the furrows, through the reeds, behind the barns, beneath the clouds, among the stalls"""),
    "adv": _words("""
slowly quietly carefully gladly suddenly bravely softly quickly calmly proudly nervously patiently happily
sadly firmly gently eagerly boldly clumsily politely silently warmly hastily stubbornly secretly cheerfully
gravely lazily kindly loudly"""),
    "feel": _phrases("""
happy, tired, proud, uneasy, hopeful, puzzled, ashamed, brave, calm, lonely, grateful, worried, curious, lucky,
cross, light-hearted, dizzy, frightened, content, jealous, sorry, excited, homesick, relieved, foolish, restless,
thirsty, wide awake"""),
    "go": _phrases("""
walked, hurried, wandered, ran, rode, climbed, limped, crept, marched, strolled, set out, trudged, skipped,
hiked, slipped away, travelled, drove a [cart|wagon|sledge], sneaked, tiptoed, galloped, rowed, stumbled,
plodded, raced"""),
    "via": _phrases("""
through the [wet|tall|silver|dry|whispering|yellow] [grass|barley|reeds|ferns|nettles|corn],
over the [stony|muddy|narrow|steep|frozen|sandy] [path|track|pass|lane|ridge|field],
past [three|four|five|six|seven|nine] [sleeping|empty|crumbling|crowded|smoking|painted] [houses|wagons|huts|barns|gates],
along the [river|canal|shore|hedge|wall|ditch] [without a lamp|with a heavy pack|in borrowed shoes|with an empty belly|in the rain|humming a tune],
under a [purple|copper|heavy|clear|milky|roaring] [sky|moon|cloud],
behind a [creaking|slow|loaded|rattling] [hay cart|milk wagon|mule|coach|funeral|procession]"""),
    "food": _phrases("""
onion soup, rye bread, apple pie, roast chestnuts, mushroom stew, honey cakes, smoked trout, barley porridge,
goat cheese, pickled plums, pea soup, ginger biscuits, roast duck, turnip mash, bean stew, cherry tart,
fried eggs, lentil soup, walnut bread, baked pears, cabbage rolls, mutton pie, potato cakes, fish broth,
butter buns, plum dumplings, carrot soup, sausages, oatcakes, blackberry jam"""),
    "drink": _phrases("""
cider, mint tea, dark ale, warm milk, elderflower wine, ginger beer, mead, spring water, plum brandy,
hot chocolate, apple juice, nettle tea, mulled wine, buttermilk, small beer, rosehip tea"""),
    "thing": _phrases("""
a ball of string, a broken chair, an empty sack, a bundle of [letters|herbs|rags|feathers], two [apples|eggs|nails|candles],
a rusty nail, a half-eaten pear, a wet sock, a stack of plates, a jug of <drink>, a plate of <food>, a bowl of <food>, a loaf of bread,
a wooden leg, a torn sail, a cracked jug, a bag of [flour|beans|salt|coins|buttons], a bird cage, a sleeping cat,
a heap of [straw|coal|nets|turnips|books], an old accordion, a green bottle"""),
    "where": _phrases("""
under a loose [stone|plank|tile|root], behind a [barrel|curtain|haystack|statue|door|woodpile], inside a hollow [log|wall|tree],
beneath <thing>, between <thing> and <thing>, beside <thing>, in a nest of [twigs|rags|straw|wool], on a high [shelf|branch|beam|ledge],
in the [mud|ashes|snow|moss|sand|weeds], at the bottom of a [bucket|trough|crate|pit], under <thing>, behind <thing>"""),
    "kin": _words("""
grandmother grandfather aunt uncle sister brother cousin neighbour godmother nephew niece friend mother father"""),
    "price": _phrases("""
[two|three|four|five|six|seven|eight|nine|ten|twelve] [coppers|pennies|farthings|silver bits|shillings]"""),
    "num": _words("two three four five six seven eight nine ten eleven twelve"),
    "virtue": _words("""
patience courage kindness honesty laughter friendship luck hope curiosity silence hard-work trust wisdom music
memory bread"""),
    "gift": _phrases("""
a [red|blue|woollen|patched] [coat|cap|shawl|sack], a basket of <food>, a jug of <drink>, [two|three|four|five] [hens|coins|candles|goats],
a [long|short|merry|sad] song, a <aadj> <animal>, a promise, a warm bed, a day of rest, a new pair of [boots|gloves|oars|spectacles],
a kiss on the cheek, a seat by the fire"""),
    "said": _words("said whispered called cried muttered answered laughed sighed growled murmured sang mumbled"),
}
