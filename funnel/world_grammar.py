"""
The words of the simulated shop: what it sells, how titles and descriptions are written, and how
people ask for things. Texts are made column by column: draws pick surfaces, Arrow joins them.

A *surface* is one way to write a meaning. The first of a meaning is its usual form; the last noun
of a good is never written in a title, so that only descriptions and clicks connect it to its items.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from funnel.errors import BadQuery
from funnel.types import Array

# department > group: noun, synonym, …, synonym that only buyers use; next noun, …
GOODS = """
Kitchen > Cookware: frying pan, skillet, frypan; saucepan, cooking pot, milkpot; \
casserole, dutch oven, stewpot; wok, stir fryer, karahi
Kitchen > Appliances: kettle, water boiler, teakettle; toaster, bread roaster, toastmaker; \
blender, smoothie maker, liquidizer; coffee machine, espresso maker, coffeemaker
Kitchen > Tableware: mug, coffee cup, beaker; dinner plate, dish, platter; \
wine glass, goblet, stemware; cutlery set, flatware, silverware
Furniture > Living Room: sofa, couch, settee; armchair, lounge chair, recliner; \
coffee table, side table, cocktailtable; bookcase, bookshelf, bookrack
Furniture > Bedroom: bed frame, bedstead, bedbase; mattress, sleeping pad, futon; \
wardrobe, closet, armoire; nightstand, bedside table, nightcupboard
Furniture > Office: desk, writing table, workstation; office chair, swivel chair, deskchair; \
filing cabinet, drawer unit, filecase; floor lamp, standing light, torchiere
Electronics > Audio: headphones, headset, cans; speaker, loudspeaker, boombox; \
earbuds, in ear phones, earpods; turntable, record player, phonograph
Electronics > Computing: laptop, notebook computer, ultrabook; keyboard, typing board, keypad; \
monitor, display, screen; printer, printing machine, inkjet
Electronics > Mobile: smartphone, mobile phone, handset; tablet, touch pad, slate; \
power bank, battery pack, portablecharger; smartwatch, wrist computer, wearable
Clothing > Tops: t-shirt, tee, undershirt; sweater, pullover, jumper; \
hoodie, hooded top, sweatshirt; blouse, dress shirt, tunic
Clothing > Bottoms: jeans, denims, dungarees; trousers, pants, slacks; \
skirt, kilt, sarong; leggings, tights, treggings
Clothing > Footwear: sneakers, trainers, kicks; boots, high shoes, wellies; \
sandals, open shoes, flipflops; slippers, house shoes, loafers
Sports > Outdoor: tent, camping shelter, bivouac; sleeping bag, camp quilt, mummybag; \
backpack, rucksack, knapsack; hiking poles, trekking sticks, walkingcane
Sports > Cycling: bicycle, bike, velo; cycling helmet, head protector, crashhat; \
bike lock, chain lock, antitheft; bicycle pump, tire inflator, airpump
Sports > Fitness: dumbbell, hand weight, barbell; yoga mat, exercise mat, gymmat; \
treadmill, running machine, jogger; resistance band, stretch band, theraband
Garden > Tools: lawn mower, grass cutter, lawnmower; garden shovel, spade, digger; \
pruning shears, hedge clippers, secateurs; garden hose, water pipe, irrigation
Garden > Outdoor Living: barbecue, grill, smoker; garden chair, deck chair, adirondack; \
parasol, sun umbrella, sunshade; hammock, hanging bed, swingbed
Garden > Plants: flower pot, planter, jardiniere; raised bed, grow box, vegpatch; \
seed tray, propagator, germinator; compost bin, composter, wormery
Toys > Building: building blocks, brick set, constructor; train set, toy railway, locomotive; \
marble run, ball track, marbleworks; model kit, scale model, airfix
Toys > Play: doll, baby figure, poupee; stuffed animal, plush toy, teddy; \
toy car, racing car, diecast; dollhouse, play house, minihome
Toys > Games: board game, family game, tabletop; jigsaw, puzzle, tilepicture; \
card game, playing cards, deck; chess set, chessboard, checkers
Beauty > Skin: face cream, moisturizer, emollient; sunscreen, sun lotion, sunblock; \
body lotion, skin milk, bodybutter; cleanser, face wash, scrub
Beauty > Hair: shampoo, hair wash, haircleaner; hair dryer, blow dryer, blower; \
hair brush, paddle brush, detangler; curling iron, hair curler, tongs
Beauty > Fragrance: perfume, eau de parfum, cologne; scented candle, aroma light, waxlight; \
deodorant, antiperspirant, rollon; bath bomb, bubble bath, bathsalt
"""
MATERIALS = {
    "Kitchen": "steel, copper, ceramic, glass, cast iron, bamboo",
    "Furniture": "oak, walnut, velvet, leather, rattan, marble",
    "Electronics": "aluminium, plastic, carbon, titanium, magnesium, silicone",
    "Clothing": "cotton, wool, linen, silk, denim, fleece",
    "Sports": "nylon, polyester, rubber, alloy, neoprene, graphite",
    "Garden": "teak, zinc, terracotta, pine, wicker, granite",
    "Toys": "wood, felt, cardboard, foam, tin, vinyl",
    "Beauty": "aloe, argan, lavender, charcoal, honey, shea",
}
USES = {
    "Kitchen": "camping, induction, parties, small kitchens, restaurants, everyday cooking",
    "Furniture": "small flats, guests, reading, home office, kids rooms, terraces",
    "Electronics": "travel, gaming, studio work, school, commuting, video calls",
    "Clothing": "winter, summer, running, work, weddings, rainy days",
    "Sports": "beginners, mountains, racing, festivals, winter tours, families",
    "Garden": "balconies, lawns, pools, rooftops, allotments, shade",
    "Toys": "toddlers, teenagers, birthdays, long drives, classrooms, collectors",
    "Beauty": "dry skin, sensitive skin, men, holidays, night care, gifts",
}
STYLES = (
    "modern/contemporary, rustic/farmhouse, vintage/retro, minimalist/plain, luxury/premium, "
    "compact/space saving, industrial/factory look, scandinavian/nordic, classic/traditional, "
    "playful/colorful"
)
COLOURS = (
    "black, white, red/crimson, blue/navy, green/olive, grey/anthracite, beige/cream, "
    "yellow/mustard, pink/rose, brown/chocolate"
)
LINES = (
    "Aero Alta Arco Bravo Cielo Delta Duo Echo Flex Forma Fuse Gala Halo Icon Jazz Kilo Luna Lyra "
    "Mira Nova Onyx Opal Orbit Pico Prime Pulse Quanta Rio Sierra Solo Sonic Terra Trio Ultra Vela "
    "Vento Viva Volt Wave Zen"
)
STARTS = "Al Bar Cor Dal Er Fen Gar Hol Ist Jor Kal Lum Mor Nor Ost Pel Quin Ros Sol Tar Ul Ver"
MIDDLES = "a e i o u an en in or um av ek il os"
ENDS = "ta vik ron dal lux mar nex sen tor wick zo mi"
ACCESSORIES = "Cover, Storage Bag, Cleaning Kit, Spare Part, Gift Box, Replacement Handle"
SUFFIXES = "(new packaging), EU version, 2nd batch, - bestseller, (refreshed), with gift tag"
PRAISE = (
    "Entry level., Does the job., Good value., Solid everyday choice., Well reviewed by buyers., "
    "Carefully finished., Built to last., Award winning craftsmanship."
)

NOUN, BRAND, STYLE, MATERIAL, COLOUR, USE = range(6)  # what a surface means; 1–5 are facets
TYPOS = 4  # misspellings known of a surface


class Draw:
    """Random numbers by name and index: a pure function of (seed, name, index), in any order.

    A draw does not depend on what was drawn before it, so a world can be made in chunks of any size
    and a truth recomputed for any row. The hash is the end of splitmix64 (Steele et al., 2014).
    """

    def __init__(self, seed: int):
        self.seed = seed

    def bits(self, name: str, *index: Array | int) -> NDArray[np.uint64]:
        """64 random bits for every element of the broadcast indices."""
        salt = (self.seed * 0x9E3779B97F4A7C15 + zlib.crc32(name.encode())) % 2**64
        h = _mix(np.full(1, salt, np.uint64))
        for i in index:
            h = _mix(h + np.asarray(i, np.uint64) * np.uint64(0xD1342543DE82EF95))
        return h

    def uniform(self, name: str, *index: Array | int) -> NDArray[np.float64]:
        """In [0, 1)."""
        bits = self.bits(name, *index) >> np.uint64(11)
        return np.asarray(bits * 2.0**-53, np.float64)

    def integer(self, name: str, high: Array | int, *index: Array | int) -> NDArray[np.int64]:
        """In [0, high)."""
        return (self.uniform(name, *index) * high).astype(np.int64)

    def normal(self, name: str, *index: Array | int) -> NDArray[np.float32]:
        """Standard normal (Box and Muller, 1958), both uniforms out of one hash."""
        h = self.bits(name, *index)
        radius = (h >> np.uint64(32)).astype(np.float32)
        angle = (h & np.uint64(0xFFFFFFFF)).astype(np.float32)
        unit = np.float32(2.0**-32)
        turn = np.cos(angle * (unit * np.float32(2 * np.pi)))
        return np.asarray(np.sqrt(-2 * np.log((radius + 0.5) * unit)) * turn, np.float32)


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x ^ (x >> np.uint64(30))
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


@dataclass(frozen=True, slots=True, eq=False)
class Intents:
    """What n queries ask for: a good and, unless `kind` is NOUN, one facet of it."""

    leaf: NDArray[np.int64]  # (n,)
    kind: NDArray[np.int64]  # (n,) NOUN, BRAND, …, USE
    value: NDArray[np.int64]  # (n,) the brand, style, …; 0 for NOUN

    def __getitem__(self, index: Array) -> Intents:
        return Intents(self.leaf[index], self.kind[index], self.value[index])


class Grammar:
    """The lexicon of one world: `leaves` goods, `brands` brands a department.

    leaf → group → department; brands, materials and uses belong to a department.
    """

    def __init__(self, draw: Draw, leaves: int, brands: int):
        parsed = [line.split(":") for line in GOODS.strip().splitlines()]
        groups = [(path.split(" > "), [g.split(", ") for g in goods.strip().split("; ")])
                  for path, goods in parsed]  # fmt: skip
        self.departments = list(MATERIALS)
        # Small worlds take the first group of every department, then the second, ...: whole groups.
        by_depth = sorted(range(len(groups)), key=lambda g: (g % 3, g))
        chosen = by_depth[: -(-leaves // 4)]
        self.nouns = [nouns for g in chosen for nouns in groups[g][1]]
        self.paths = [
            f"{'/'.join(groups[g][0])}/{n[0].title()}" for g in chosen for n in groups[g][1]
        ]
        department = [self.departments.index(groups[g][0][0]) for g in chosen for _ in range(4)]
        self.department = np.array(department)  # (leaves,)
        self.group = np.repeat(np.arange(len(chosen)), 4)  # (leaves,)
        self.leaves, self.brands = len(self.nouns), brands
        self.brand_names = _brand_names(draw, brands * len(self.departments))
        self.draw = draw
        meanings = [
            self.nouns,
            [[name.lower()] for name in self.brand_names],
            _words(STYLES),
            [m for d in self.departments for m in _words(MATERIALS[d])],
            _words(COLOURS),
            [u for d in self.departments for u in _words(USES[d])],
        ]
        flat = [text for words in meanings for forms in words for text in forms]
        counts = [np.array([len(forms) for forms in words]) for words in meanings]
        starts = np.cumsum([0, *[len(forms) for words in meanings for forms in words]])
        bounds = np.cumsum([0, *map(len, meanings)])
        self.counts = counts
        self.starts = [starts[a:b] for a, b in pairwise(bounds)]
        self.surfaces = pa.array([*flat, *_typos(draw, flat)])
        self._known = self._lexicon(meanings)

    def _lexicon(self, meanings: list[list[list[str]]]) -> dict[tuple[int, int, str], int]:
        """(class, department or 0, surface or typo) → meaning; clear words win over typos."""
        texts = self.surfaces.to_pylist()
        clear = (len(texts)) // (TYPOS + 1)
        known: dict[tuple[int, int, str], int] = {}
        for typos in (False, True):
            for kind, words in enumerate(meanings):
                for value in range(len(words)):
                    scope = value // 6 if kind in (MATERIAL, USE) else 0
                    start = int(self.starts[kind][value])
                    for s in range(start, start + len(words[value])):
                        forms = texts[clear + s * TYPOS : clear + (s + 1) * TYPOS]
                        for text in forms if typos else [texts[s]]:
                            known.setdefault((kind, scope, text), value)
        return known

    def surface(self, kind: int, value: Array, form: Array, typo: Array | None = None) -> pa.Array:
        """Texts of meanings: `form` in [0, 1) picks among the usual form and the others; `typo`
        is -1 or which misspelling to take."""
        at = self.starts[kind][value] + (form * self.counts[kind][value]).astype(np.int64)
        if typo is not None:
            clear = len(self.surfaces) // (TYPOS + 1)
            at = np.where(typo < 0, at, clear + at * TYPOS + typo)
        return self.surfaces.take(pa.array(at))

    # ---------------------------------------------------------------- queries

    def phrase(self, intents: Intents, stream: str, index: Array, typos: float) -> pa.Array:
        """(n,) query texts: a third uses another word than the usual one, `typos` is the share
        with a misspelling."""
        u, n = self.draw.uniform, len(index)
        form = np.where(u(stream + ".other", index) < 0.35, u(stream + ".form", index), 0.0)
        wrong = u(stream + ".typo", index)
        which = self.draw.integer(stream + ".which", TYPOS, index)
        in_facet = (intents.kind != NOUN) & (u(stream + ".where", index) < 0.4)
        noun_typo = np.where((wrong < typos) & ~in_facet, which, -1)
        facet_typo = np.where((wrong < typos) & in_facet, which, -1)
        noun = self.surface(NOUN, intents.leaf, form, noun_typo)
        facet_form = np.where(u(stream + ".facet", index) < 0.3, u(stream + ".ff", index), 0.0)
        texts = noun.to_numpy(zero_copy_only=False)
        out = texts.copy()
        for kind in (BRAND, STYLE, MATERIAL, COLOUR, USE):
            at = np.flatnonzero(intents.kind == kind)
            facet = self.surface(kind, intents.value[at], facet_form[at], facet_typo[at])
            words = facet.to_numpy(zero_copy_only=False)
            out[at] = texts[at] + " for " + words if kind == USE else words + " " + texts[at]
        assert len(out) == n
        return pa.array(out, pa.string())

    def understand(self, text: str) -> tuple[int, int, int]:
        """(leaf, kind, value) of a query text that this grammar made, typos included."""
        noun, _, use = text.partition(" for ")
        words = noun.split(" ")
        for cut in range(len(words)):
            leaf = self._known.get((NOUN, 0, " ".join(words[cut:])))
            if leaf is None:
                continue
            here = int(self.department[leaf])
            if use:
                found = [(USE, self._known.get((USE, here, use)))]
            elif not cut:
                return leaf, NOUN, 0
            else:
                facet = " ".join(words[:cut])
                found = [(k, self._known.get((k, here if k == MATERIAL else 0, facet)))
                         for k in (BRAND, STYLE, MATERIAL, COLOUR)]  # fmt: skip
            for kind, value in found:
                if value is not None:
                    return leaf, kind, value
        raise BadQuery(f"{text!r} is not a query of this world; ask for one of its goods")

    # ---------------------------------------------------------------- items

    def titles(self, rows: Array, item: dict[str, Array]) -> pa.Array:
        """(n,) titles. `item` has leaf, brand, style, material, colour, use, accessory, copied and
        base: a copy is written like its base with a small change."""
        base, u = item["base"], self.draw.uniform
        # a quarter of the titles uses another word than the usual one, never the buyers' own word
        other = u("title.other", base) < 0.25
        count = self.counts[NOUN][item["leaf"]]
        form = np.where(other, (1 + u("title.form", base) * (count - 2)) / count, 0.0)
        noun = pc.utf8_title(self.surface(NOUN, item["leaf"], form))
        extra = _take(_list(ACCESSORIES), self.draw.integer("title.extra", 6, base))
        good = pc.if_else(
            pa.array(item["accessory"]), pc.binary_join_element_wise(extra, "for", noun, " "), noun
        )
        facet = {
            kind: pc.utf8_title(self.surface(kind, item[name], self._form(name, base)))
            for kind, name in ((STYLE, "style"), (COLOUR, "colour"), (MATERIAL, "material"))
        }
        use = pc.binary_join_element_wise(
            "for", pc.utf8_title(self.surface(USE, item["use"], np.zeros(len(base)))), " "
        )
        shares = {"style": 0.55, "colour": 0.5, "material": 0.6, "use": 0.3}
        shown = {name: pa.array(u("title." + name, base) < p) for name, p in shares.items()}
        code = pc.binary_join_element_wise(
            _take(LINES.split(), item["line"]),
            number(100 + self.draw.integer("title.code", 899, base), 3, ""),
            "-",
        )
        suffix = _take(_list(SUFFIXES), self.draw.integer("title.suffix", 6, rows))
        return pc.binary_join_element_wise(
            _take(self.brand_names, item["brand"]),
            _only(facet[STYLE], shown["style"]),
            _only(facet[COLOUR], shown["colour"]),
            _only(facet[MATERIAL], shown["material"]),
            good,
            _only(use, shown["use"]),
            code,
            _only(suffix, pa.array(item["copied"])),
            " ",
            null_handling="skip",
        )

    def descriptions(self, item: dict[str, Array], quality: Array) -> pa.Array:
        """(n,) descriptions: every facet, sometimes the other names of the good (this is all that
        connects the buyers' own word), and what goes with it (which misleads word counting)."""
        base, u = item["base"], self.draw.uniform
        name = self.surface(NOUN, item["leaf"], u("text.noun", base) ** 2)
        last = self.surface(NOUN, item["leaf"], np.full(len(base), 0.999))
        friend = self.draw.integer("text.friend", self.leaves, base)
        near = self.department[friend] == self.department[item["leaf"]]
        friends = self.surface(NOUN, friend, np.zeros(len(base)))
        praise = np.clip(3.5 + 1.6 * quality + self.draw.normal("text.praise", base), 0, 7)
        return pc.binary_join_element_wise(
            "A",
            self.surface(STYLE, item["style"], self._form("text.style", base)),
            name,
            "in",
            self.surface(COLOUR, item["colour"], self._form("text.colour", base)),
            self.surface(MATERIAL, item["material"], np.zeros(len(base))),
            "made for",
            pc.binary_join_element_wise(
                self.surface(USE, item["use"], np.zeros(len(base))), ".", ""
            ),
            _only(
                pc.binary_join_element_wise("Also sold as ", last, ".", ""),
                pa.array(u("text.also", base) < 0.25),
            ),
            _only(
                pc.binary_join_element_wise("Goes well with a ", friends, ".", ""),
                pa.array(near & (u("text.with", base) < 0.6)),
            ),
            _take(_list(PRAISE), praise.astype(np.int64)),
            " ",
            null_handling="skip",
        )

    def _form(self, name: str, base: Array) -> NDArray[np.float64]:
        u = self.draw.uniform
        return np.where(u(name + ".other", base) < 0.3, u(name + ".form", base), 0.0)


def number(values: Array, width: int, prefix: str) -> pa.Array:
    """(n,) texts like `i0000012`: ids whose order is the order of the numbers."""
    digits = pc.utf8_lpad(pa.array(np.asarray(values, np.int64)).cast(pa.string()), width, "0")
    return pc.binary_join_element_wise(prefix, digits, "") if prefix else digits


def ids(rows: Array, n: int, prefix: str) -> pa.Array:
    """Ids of rows out of n; their order is the order of the rows."""
    return number(rows, len(str(n - 1)), prefix)


def _only(texts: pa.Array, where: pa.Array) -> pa.Array:
    return pc.if_else(where, texts, pa.scalar(None, pa.string()))


def _take(words: list[str], index: Array) -> pa.Array:
    return pa.array(words, pa.string()).take(pa.array(index))


def _list(text: str) -> list[str]:
    return text.split(", ")


def _words(text: str) -> list[list[str]]:
    return [word.split("/") for word in text.split(", ")]


def _brand_names(draw: Draw, n: int) -> list[str]:
    """n different names."""
    starts, middles, ends = STARTS.split(), MIDDLES.split(), ENDS.split()
    total = len(starts) * len(middles) * len(ends)
    shuffled = np.argsort(draw.bits("brand", np.arange(total)), kind="stable")[:n]
    return [starts[i % 22] + middles[i // 22 % 14] + ends[i // 308] for i in shuffled.tolist()]


def _typos(draw: Draw, words: list[str]) -> list[str]:
    """`TYPOS` misspellings of each word: two letters swapped, one dropped, one doubled."""
    out = []
    for i, word in enumerate(words):
        places = draw.integer("typo", max(len(word) - 2, 1), i, np.arange(TYPOS)).tolist()
        for kind, p in enumerate(places):
            p += len(word) > 3  # first letters are seldom wrong
            if kind % 3 == 0 and word[p : p + 1] != word[p + 1 : p + 2]:
                out.append(word[:p] + word[p + 1 : p + 2] + word[p : p + 1] + word[p + 2 :])
            elif kind % 3 == 1:
                out.append(word[:p] + word[p + 1 :])
            else:
                out.append(word[:p] + word[p : p + 1] + word[p:])
    return out
