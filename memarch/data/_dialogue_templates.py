"""Words and sentence patterns of `memarch.data.dialogues`. {v} value, {old} earlier value, {who} whose, {name} a name.

Questions use other words than statements where English has them, so that words overlap only in part.
"""

from typing import NamedTuple


class Trait(NamedTuple):
    """Something true of a speaker until it is updated: values, how it is said, answered, updated, asked for."""

    values: tuple[str, ...]
    says: tuple[str, ...]
    asked: tuple[tuple[str, str], ...]
    updates: tuple[str, ...]
    questions: tuple[str, ...]
    before: tuple[str, ...] = ()


class Event(NamedTuple):
    """Something that happened once: {v} tells it apart, {w} is a detail; questions for the detail and for the time."""

    values: tuple[str, ...]
    details: tuple[str, ...]
    says: tuple[str, ...]
    questions: tuple[str, ...]
    when: tuple[str, ...]


CITIES = tuple(
    "Lisbon Bergen Ghent Turin Leeds Graz Porto Malmo Basel Lyon Cork Utrecht Bilbao Gdansk Tallinn Aarhus Bologna "
    "Valencia Bremen Dundee Salzburg Nantes Split Zadar Vilnius Tampere Odense Girona Trieste Linz".split()
)
JOBS = tuple(
    "nurse,baker,surveyor,translator,plumber,librarian,glassblower,paramedic,beekeeper,locksmith,pharmacist,welder,"
    "photographer,florist,dentist,carpenter,geologist,tailor,bus driver,music teacher".split(",")
)
PEOPLE = tuple(
    "Ines Tobias Priya Marek Solveig Hugo Amara Lennart Zofia Kofi Elif Rasmus Nadia Piotr Yuki Bruno Freya Omar Selma "
    "Viktor Leila Anders Carmen Jonas Mirela Tariq Ingrid Pavel Rosa Emil".split()
)
PETS = tuple("Biscuit Pepper Momo Waffle Nimbus Ziggy Pickle Juno Tofu Bandit Clover Rufus Olive Miso Pixel".split())

TRAITS: dict[str, Trait] = {
    "city": Trait(
        CITIES,
        ("I live in {v} these days, ten minutes from the river.", "Home is {v} for me, on the third floor."),
        (("Where are you based at the moment?", "{v}, and I have no plans to leave."),),
        ("Big news: the boxes are unpacked, {v} is home now!", "I left {old} for good. My flat in {v} has a balcony."),
        ("Where does {who} live now?", "In which town is the apartment of {who}?"),
        ("Where did {who} live before {v}?",),
    ),
    "job": Trait(
        JOBS,
        ("I work as a {v}, mostly early shifts.", "I earn my money as a {v}."),
        (("What do you do for a living, by the way?", "I'm a {v}, have been for years."),),
        ("I handed in my notice and start as a {v} on Monday.", "They hired me! I'm a {v} now, no longer a {old}."),
        ("What is the current profession of {who}?", "Which occupation does {who} have now?"),
        ("What was the profession of {who} before becoming a {v}?",),
    ),
    "pet": Trait(
        PETS,
        ("We took in a stray dog and called her {v}.", "You have to meet {v}, my puppy. She chews everything."),
        (("Did you think of a name for the puppy?", "Yes! {v}. She already listens to it, sometimes."),),
        (),
        ("What is the dog of {who} called?", "Which name did {who} give the pet?"),
    ),
    "food": Trait(
        tuple("ramen,paella,dumplings,lasagne,falafel,pierogi,risotto,goulash,ceviche,okonomiyaki,moussaka".split(",")),
        ("If I could eat one thing forever, it would be {v}.", "Nothing beats a plate of {v} after a long day."),
        (("What should I cook when you come over?", "Make {v}, you know I can't resist it."),),
        ("I can't look at {old} any more. These days it's {v} or nothing.",),
        ("What is the favourite dish of {who}?", "Which meal does {who} like best now?"),
        ("Which dish did {who} like best before {v}?",),
    ),
    "allergy": Trait(
        tuple("peanuts,shellfish,pollen,wasp stings,latex,penicillin,sesame,cat hair".split(",")),
        ("I have to be careful, {v} can put me in hospital.", "The doctor confirmed it: I can't go near {v}."),
        (("Anything I should avoid at dinner or around the house?", "Only {v}, my throat closes up."),),
        (),
        ("What is {who} allergic to?", "What causes an allergic reaction in {who}?"),
    ),
    "hobby": Trait(
        tuple("bouldering,pottery,fencing,choir singing,astronomy,bookbinding,kayaking,archery,chess,salsa".split(",")),
        ("On Thursdays I always go to {v}, it clears my head.", "I got hooked on {v} this year."),
        (("What do you do when work is over?", "{v}, twice a week, whatever the weather."),),
        ("My knee put an end to {old}. I spend my evenings on {v} instead.",),
        ("How does {who} like to spend free evenings now?", "Which pastime does {who} have at present?"),
        ("Which pastime did {who} give up for {v}?",),
    ),
    "car": Trait(
        tuple("red Fiat,green Skoda,white Volvo,blue Renault,grey Toyota,yellow Opel,black Seat".split(",")),
        ("My {v} would not start this morning, again.", "I drive a {v} older than my little cousin."),
        (("How will I recognise you at the station?", "Look for the {v} with a dent in its door."),),
        ("The garage gave up on the {old}, so I came home with a {v}.",),
        ("What does {who} drive now?", "Which vehicle belongs to {who} at present?"),
        ("What did {who} drive before the {v}?",),
    ),
    "number": Trait(
        tuple("4417 9026 3381 7750 1294 6638 5092 8873".split()),
        ("If you get there first, the bike lock opens with {v}.", "I set the code of the cellar to {v}, keep it."),
        (("What do I type at your front gate?", "{v}, then push hard."),),
        ("I had to change the code, it is {v} now, not {old}.",),
        ("Which four digits open the lock of {who}?", "What is the valid combination of {who}?"),
        ("Which combination did {who} use before {v}?",),
    ),
    "school": Trait(
        tuple("physics,law,medicine,architecture,philosophy,marine biology,economics,linguistics".split(",")),
        ("Back at university I studied {v}, can you believe it?", "My degree is in {v}, not that anybody asks."),
        (("What did you do at college?", "{v}. I remember maybe half of it."),),
        (),
        ("Which subject did {who} take a degree in?", "What did {who} learn at university?"),
    ),
    "plan": Trait(
        tuple("open a bakery,walk the Camino,write a cookbook,learn to sail,build a sauna,run a marathon".split(",")),
        ("Next year I want to {v}, I'm saving for it already.", "I have made up my mind to {v}."),
        (("What are you saving up for?", "I'm going to {v}. Don't laugh."),),
        ("Change of plans: forget that I wanted to {old}, I will {v} instead.",),
        ("What does {who} intend to do next?", "Which dream is {who} putting money aside for now?"),
        ("What did {who} intend before deciding to {v}?",),
    ),
}  # fmt: skip

RELATIONS = ("flatmate", "boss", "cousin", "neighbour", "landlord", "best friend", "godchild", "coach")
INTRODUCTIONS = ("My {rel} is called {name}, did I ever mention that?", "You would like {name}, my {rel}.")
# Said with the name alone: the question names only the relation, so two turns are needed.
RELATIVES: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "job": (
        JOBS,
        ("{name} got hired as a {v} and can't stop smiling.", "Working as a {v} is wearing {name} out."),
        ("What does the {rel} of {who} do for a living?", "Which profession does the {rel} of {who} have?"),
    ),
    "city": (
        CITIES,
        ("{name} found a flat in {v} at last.", "I'm visiting {name} in {v}, the guest room is free."),
        ("In which town does the {rel} of {who} live?", "Where is the home of the {rel} of {who}?"),
    ),
    "instrument": (
        tuple("cello,trumpet,accordion,harp,banjo,clarinet,bagpipes,viola".split(",")),
        ("{name} practises the {v} at six in the morning.", "{name} carried a {v} all the way."),
        ("Which instrument does the {rel} of {who} play?",),
    ),
}  # fmt: skip

EVENTS: dict[str, Event] = {
    "trip": Event(
        tuple("Iceland Madeira Crete Corsica Estonia Cyprus Jordan Georgia Malta Scotland Slovenia Oman Peru".split()),
        PEOPLE,
        ("Just back from {v}! {w} came along and carried the tent.", "{w} and I spent four days in {v}, pure rain."),
        ("Who travelled to {v} with {who}?",),
        ("When did {who} talk about having been to {v}?",),
    ),
    "purchase": Event(
        tuple("kettle,sofa,typewriter,telescope,canoe,sewing machine,drill,record player,lawnmower,oven".split(",")),
        tuple(f"{n} euros" for n in (35, 48, 59, 72, 85, 110, 135, 160, 210, 245, 390, 415)),
        ("I could not say no to a second-hand {v}. {w}, a bargain!", "The {v} set me back {w}, but it will last."),
        ("How much did {who} pay for the {v}?", "What was the price of the {v} of {who}?"),
        ("When did {who} tell about buying the {v}?",),
    ),
    "film": Event(
        tuple(f"{a} {b}" for a in ("Silent", "Copper", "Paper", "Distant") for b in ("Harbour", "Moon", "Garden")),
        PEOPLE,
        ("{w} dragged me to see '{v}' and I cried through half of it.", "We saw '{v}' last night, {w} fell asleep."),
        ("With whom did {who} watch '{v}'?", "Who was at the cinema with {who} for '{v}'?"),
        ("When did {who} mention having seen '{v}'?",),
    ),
    "award": Event(
        tuple("quiz night,baking contest,half marathon,poetry slam,chess open,photo prize,dance battle".split(",")),
        tuple(f"{n} place" for n in ("first", "second", "third", "fourth", "seventh", "eleventh", "last")),
        ("The {v} is over: {w}! My hands are still shaking.", "Guess what, {w} at the {v}, and I had hardly trained."),
        ("How did {who} do in the {v}?", "Which rank did {who} reach at the {v}?"),
        ("When did {who} report the result of the {v}?",),
    ),
    "lesson": Event(
        tuple("Basque,Finnish,Greek,Welsh,Icelandic,Maltese,Breton,Latvian,Albanian,Irish".split(",")),
        PEOPLE,
        ("My first {v} class was chaos, but {w} is a patient teacher.", "{w} agreed to teach me {v} over the phone."),
        ("Who gives {who} lessons in {v}?", "Which teacher has {who} for {v}?"),
        ("When did {who} begin to speak of {v} classes?",),
    ),
}  # fmt: skip

OPENINGS = (
    "Hey {other}, good to hear from you.", "Hi! Long time no talk.", "Morning, {other}.",
    "There you are! How was your week?",
    "Evening, {other}. Finally a quiet minute.", "Hello again, {other}!",
)  # fmt: skip
REACTIONS = (
    "Oh, I didn't know that.", "Really? Tell me more some day.", "That sounds just like you.", "Ha, noted.",
    "Good for you!", "I should ask you more often.",
    "I will remember that.", "No way!", "That makes sense, now that you say it.", "Well, who would have thought.",
    "I'm happy for you, honestly.", "Interesting, I would have guessed something else.", "You never told me before.",
)  # fmt: skip
# Words of the facts in sentences that state none about a speaker or anybody of theirs.
DISTRACTORS = (
    "I could never live in {city}, far too windy.", "The train through {city} was late again.",
    "There was a documentary about a {job} yesterday.", "A {job} on the radio talked about burnout.",
    "The novel I'm reading has a dog in it that is called {pet}.", "Somebody in the park was shouting for {pet}.",
    "The canteen served {food} today, it was cold.", "They say {hobby} is out of fashion.",
    "A {car} nearly hit me at the crossing.", "My horoscope says that I should avoid {city} this month.",
    "The lift shows {number} whenever it is broken.", "I read that {allergy} is a common problem in spring.",
    "A stranger on the bus asked me whether I was a {job}.", "The museum has a whole room about {school}.",
    "An actor whose name was {name} was on television.", "In that film nobody knows who paid for the {item}.",
)  # fmt: skip
SMALL_TALK = (
    ("The {weather} is getting to me.", "Same here. {weather2} would be a nice change."),
    ("Did you sleep well?", "Not really, the neighbours had a party until {hour}."),
    ("I need coffee before I can think.", "It is my {nth} cup already."),
    ("What are you up to this weekend?", "Nothing much, laundry and {chore}."),
    ("My phone keeps dying.", "Mine too, it was at {percent} percent at noon."),
    ("I spent {hour} hours on {chore}.", "Somebody has to do it."),
    ("The supermarket was out of {grocery}.", "Try the one at the corner, they had {grocery2}."),
    ("I can't stand {weekday}s.", "At least it is not {weekday2}."),
    ("Remind me to do the {chore} later.", "Will do, if I don't forget it myself."),
    ("Have you heard this new song, the one with the {sound}?", "It is everywhere, I can't escape it."),
    ("My back hurts from {chore}.", "Stretch a little. {hour} minutes are enough."),
    ("I had {grocery} on toast for dinner.", "With {weather} outside, why not."),
    ("The {shop} is closed until {weekday}.", "I wanted to go there for {grocery}!"),
    ("Is it me or is the {shop} getting worse?", "It went downhill {hour} years ago."),
    ("I lost my {thing} somewhere between the {shop} and home.", "Look under the {thing2}, I found mine there."),
    ("Who invented {chore}?", "Somebody without a {thing}."),
    ("They are digging up the street again, {sound} included.", "I heard it from the {shop}."),
    ("I am so tired of {weather}.", "By {weekday} it will be over, they say."),
    ("Can you hear that {sound}?", "No, only the {thing2}."),
    ("I finally fixed the {thing2}.", "I still have to look for my {thing}."),
)
SLOTS: dict[str, tuple[str, ...]] = {
    "weather": ("rain", "heat", "fog", "wind", "drizzle", "cold"),
    "weather2": ("Sunshine", "Snow", "A thunderstorm", "A mild breeze"),
    "hour": ("two", "three", "four", "five"),
    "nth": ("second", "third", "fourth", "fifth"),
    "chore": ("ironing", "taxes", "cleaning", "paperwork", "dishes", "shopping"),
    "percent": ("four", "nine", "twelve", "twenty"),
    "grocery": ("oat milk", "lemons", "yeast", "flour", "basil", "eggs"),
    "grocery2": ("plenty of it", "some left", "everything but that"),
    "weekday": ("Monday", "Tuesday", "Sunday"),
    "weekday2": ("Wednesday", "Thursday", "winter"),
    "shop": ("bakery", "post office", "gym", "pharmacy", "corner shop", "hairdresser", "cinema"),
    "thing": ("umbrella", "keys", "left glove", "sunglasses", "charger", "library card"),
    "thing2": ("radiator", "fridge", "doormat", "dishwasher", "curtain", "laundry basket"),
    "sound": ("whistling", "drum solo", "violin", "clapping"),
}
