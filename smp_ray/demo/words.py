"""The word lists and templates behind the sample world's titles and tags, written for this project."""

SUBJECT_SYNONYMS: dict[str, tuple[str, ...]] = {
    "bicycle": ("bike",),
    "car": ("little car",),
    "boat": ("sailboat",),
    "house": ("cottage",),
    "tree": ("old tree",),
    "cat": ("kitty",),
    "bird": ("little bird",),
    "fish": ("big fish",),
    "flower": ("blossom",),
    "cup": ("mug",),
    "guitar": ("old guitar",),
    "umbrella": ("parasol",),
    "balloon": ("party balloon",),
    "butterfly": ("little butterfly",),
    "chair": ("wooden chair",),
    "kite": ("paper kite",),
}

PLACE_PHRASES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "at the beach", "by the sea"),
    "forest": ("in the forest", "in the woods"),
    "city": ("in the city", "downtown"),
    "snow": ("in the snow", "on a winter hill"),
    "desert": ("in the desert", "among the dunes"),
    "meadow": ("in the meadow", "in the grass"),
    "room": ("in the room", "at home"),
}

PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "beach": ("beach", "seaside"),
    "forest": ("forest", "woods"),
    "city": ("city", "streets"),
    "snow": ("snow", "winter"),
    "desert": ("desert", "dunes"),
    "meadow": ("meadow", "grass"),
    "room": ("room", "indoors"),
}

FREE: dict[str, tuple[str, ...]] = {
    "adjective": (
        "lovely", "lonely", "tiny", "old", "new", "pretty", "funny", "shiny", "quiet", "proud", "famous", "strange",
        "forgotten", "favourite", "sleepy", "brave", "perfect", "simple", "bright", "faded",
    ),
    "when": (
        "this morning", "at noon", "last night", "on Sunday", "yesterday", "in May", "after the rain", "in spring",
        "this summer", "in October", "at sunset", "today", "on our trip", "last week", "before lunch", "again",
    ),
    "person": (
        "Anna", "grandma", "my brother", "Tom", "the neighbours", "Lucy", "our teacher", "dad", "Maria",
        "my best friend", "uncle Joe", "Sarah", "the kids", "my sister", "Peter", "aunt Rose",
    ),
    "event": (
        "birthday", "wedding", "graduation", "concert", "exam", "holiday", "meeting", "marathon", "job interview",
        "school play", "reunion", "anniversary", "dinner", "football match", "long weekend", "first day at work",
    ),
    "matter": (
        "homework", "the news", "coffee and cake", "tomorrow", "old songs", "the bus timetable", "politics",
        "breakfast", "a good book", "the lottery", "my new phone", "the dentist", "pancakes", "next year",
        "the phone bill", "mathematics",
    ),
    "feeling": (
        "patience", "hope", "courage", "wonder", "gratitude", "longing", "calm", "memory", "kindness", "silence",
        "tenderness", "solitude", "laughter", "belonging", "mercy", "trust",
    ),
    "light": ("morning light", "evening light", "golden light", "soft winter light", "the last light", "summer light"),
}  # fmt: skip
"""Words a template may use whatever the picture shows."""

PLAIN: tuple[str, ...] = (
    "{colour} {subject} {where}",
    "the {colour} {subject} {where}",
    "{adjective} {colour} {subject} {where}",
    "my {colour} {subject} {where}",
    "a {adjective} {colour} {subject}, {place}",
    "{place}: {colour} {subject}",
    "{colour} {subject}, {place}, {when}",
    "{colour} {subject} {where} {when}",
    "one {adjective} {colour} {subject} {where}",
    "found a {colour} {subject} {where}",
    "the {adjective} {subject}, {colour}, {where}",
    "that {colour} {subject} {where} {when}",
    "{place} with {colour} {subject}",
    "look, a {colour} {subject} {where}",
)

UNRELATED: tuple[str, ...] = (
    "happy {event}, {person}",
    "{person} talks about {matter}",
    "waiting for the {event}",
    "the {event} of {person}",
    "too much {matter} {when}",
    "thinking about {matter}",
    "{event} with {person} {when}",
    "never forget the {event}",
    "no more {matter}, {person}",
    "getting ready for the {event}",
    "{matter} and a little {feeling}",
    "thank you, {person}, for the {event}",
    "all about {matter} {when}",
    "good luck with the {event}, {person}",
)

CAREFUL: tuple[str, ...] = (
    "a {colour} {subject} rests {where}, waiting for {light} to find it.",
    "there is something about a {colour} {subject} {where} that speaks of {feeling}.",
    "{where}, a {colour} {subject} keeps its own kind of {feeling}.",
    "in {light}, the {colour} {subject} {where} becomes a study in {feeling}.",
    "the {colour} {subject} stood {where} as if {feeling} had a colour of its own.",
    "what the {colour} {subject} {where} taught me about {feeling}.",
)

REFLECTION: tuple[str, ...] = (
    "there are days when {feeling} is the only thing worth carrying home.",
    "of all the things we keep, {feeling} is the one that keeps us.",
    "we came looking for {light} and stayed for a little {feeling}.",
    "some stories begin with {feeling} and end with {light}.",
    "a few quiet words about {feeling}, written in {light}.",
    "the older I grow, the more I believe in {feeling}.",
)

EMOJI: tuple[str, ...] = (
    "😀",
    "😂",
    "😍",
    "🔥",
    "❤️",
    "👍",
    "🎉",
    "✨",
    "💯",
    "🙏",
    "😎",
    "🌈",
    "🍕",
    "💥",
    "!!",
    "...",
    "^^",
    "xD",
)

TAGS: tuple[str, ...] = (
    "photo", "nikon", "canon", "2015", "light", "art", "nature", "square", "travel", "colour", "street", "summer",
    "film", "macro", "outdoor", "life",
)  # fmt: skip
"""Tags that say nothing of the picture."""
