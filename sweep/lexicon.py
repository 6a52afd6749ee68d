"""The words of `stories`."""

from __future__ import annotations

GIRLS = "Lily Mia Anna Sue Lucy Ella Rose Amy".split()
BOYS = "Tom Ben Max Tim Sam Jack Leo Dan".split()
FRIENDS = "fox owl bear cat dog frog duck mouse rabbit horse pig bird turtle cow bee hen".split()
ADJECTIVES = (
    "little happy kind brave clever quiet funny gentle shy proud lucky curious sleepy hungry "
    "silly polite"
).split()
SHADES = (
    "red blue green big small old new shiny soft tiny round pretty heavy warm bright strange"
).split()
OBJECTS = "ball kite doll book drum boat box lamp cup key hat coin bell map ring rope".split()
SPOTS = (
    "tree river hill barn pond gate bridge cave well road beach garden tower mill field wall"
).split()

ACTIVITIES = (
    ("eat", "food"), ("ride", "beasts"), ("wear", "clothes"), ("play", "music"),
    ("grow", "plants"), ("build", "crafts"), ("paint", "scenes"), ("trade", "goods"),
    ("cook", "food"), ("feed", "beasts"), ("sew", "clothes"), ("hear", "music"),
    ("pick", "plants"), ("carve", "crafts"), ("draw", "scenes"), ("buy", "goods"),
)  # fmt: skip
"""Verb and the list of products that it goes with."""

PRODUCTS = {
    "food": "plums figs buns pies beans nuts soup rice corn peas jam bread cakes eggs fish cheese "
    "leeks dates limes pears honey oats yams tarts stew grapes melons olives pasta carrots "
    "berries apples",
    "beasts": "goats mules camels ponies yaks oxen elks deer sheep geese swans llamas bisons "
    "donkeys zebras moose lambs calves foals hounds ducks pigeons otters beavers badgers "
    "hedgehogs squirrels lizards crickets snails crabs whales",
    "clothes": "scarves boots gloves coats socks shirts skirts belts caps vests cloaks gowns robes "
    "shawls sandals slippers mittens hoods aprons jackets trousers ties ribbons sashes veils "
    "bonnets collars sleeves capes wigs masks crowns",
    "music": "flutes harps horns bells fiddles lutes pipes gongs banjos organs pianos trumpets "
    "tubas violins guitars whistles cymbals rattles bugles cellos oboes clarinets zithers chimes "
    "marches waltzes hymns ballads jigs reels carols lullabies",
    "plants": "roses lilies tulips daisies ferns mosses reeds palms pines oaks elms willows "
    "birches maples cedars ivies poppies violets orchids irises clovers herbs mints thistles "
    "nettles vines hedges bushes cacti lotuses asters peonies",
    "crafts": "chairs tables boats barrels bowls spoons combs ladders fences carts wheels chests "
    "shelves stools benches cradles sleds oars masts doors frames baskets buckets brooms rakes "
    "arrows bows shields puppets statues tops swings",
    "scenes": "castles rivers mountains forests valleys islands deserts storms sunsets rainbows "
    "clouds stars moons ships towns markets temples bridges harbors meadows lakes glaciers "
    "volcanoes canyons cliffs waves knights dragons giants fairies kings queens",
    "goods": "silk salt pepper gold silver pearls rubies glass paper ink wax candles soap wool "
    "cotton leather copper iron tin coal oil perfume tea coffee sugar cocoa vanilla ginger amber "
    "ivory marble clay",
}

ONSETS = tuple("b d f g h k l m".split())
FIRST = tuple(o + v for o in ONSETS for v in "aeiu")
SECOND = tuple(o + v for o in "n p r s t v w z".split() for v in "aeio")
THIRD = tuple(o + v for o in "ch sh th br dr gl st tr".split() for v in "aeou")
"""Syllables of place names, 32 for each position."""

FEELINGS = tuple("glad sad calm cross proud shy bold tired".split())
"""The eight states of the counting game."""
MOVES = tuple("hop spin clap wave".split())
"""Its four operations, each a fixed permutation of the states."""
