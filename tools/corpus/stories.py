"""Short stories in simple English, put together from plots. tell(rng) -> Story: its text, what it is about, questions with answers.

A plot is a function that says what happens, in order; each sentence is picked among several that say the same. People, animals and things
come from word.py and keep their names, pronouns and places through the story, so that every question has its answer in the text.
"""
import dataclasses

import word
from word import a, cap


@dataclasses.dataclass
class Story:
    text: str
    about: str                                   # "a shy fox and a drum", "Tom who lost his red ball"
    asked: list                                  # (question, answer)


class Who:
    """Somebody: Tom, Lily, or an animal that talks."""

    def __init__(self, rng, kind=None):
        kind = kind or rng.choice(["boy", "girl", "boy", "girl", "animal"])
        self.animal = kind == "animal"
        self.mood = rng.choice(word.MOODS)
        if self.animal:
            self.kind = rng.choice(word.CHARACTERS)
            self.name = rng.choice(word.PET_NAMES)
            self.he = rng.choice(["he", "she"])
            self.named = f"{a(rng.choice(word.SIZES))} {self.kind} named {self.name}"
            self.about = rng.choice([f"{a(self.mood)} {self.kind}", f"{a(self.kind)} named {self.name}"])
        else:
            self.kind = kind
            self.name = rng.choice(word.BOYS if kind == "boy" else word.GIRLS)
            self.he = "he" if kind == "boy" else "she"
            self.named = rng.choice([f"{a(rng.choice(word.SIZES))} {kind} named {self.name}", f"a {kind} named {self.name}", f"a {kind} called {self.name}"])
            self.about = rng.choice([self.name, f"a {kind} named {self.name}", f"{a(self.mood)} {kind}"])
        self.him = "him" if self.he == "he" else "her"
        self.his = "his" if self.he == "he" else "her"
        self.He, self.His = cap(self.he), cap(self.his)

    def __str__(self):
        return self.name


def other(rng, who, kind=None):
    while True:
        w = Who(rng, kind)
        if w.name != who.name and w.kind != who.kind or (w.name != who.name and not w.animal):
            return w


class Tale:
    """Sentences in order. say(...) takes alternatives, each with {fields}, and appends one of them."""

    def __init__(self, rng, **fields):
        self.rng, self.fields, self.out, self.asked = rng, fields, [], []

    def say(self, *options):
        self.out.append(self.rng.choice(options).format(**self.fields))

    def maybe(self, *options, p=0.5):
        if self.rng.random() < p:
            self.say(*options)

    def ask(self, question, answer):
        self.asked.append((question.format(**self.fields), answer.format(**self.fields)))

    def done(self, about):
        return Story(" ".join(self.out), about.format(**self.fields), self.asked)


def begin(t, who):
    t.fields["p"] = who
    t.say("Once upon a time there was {p.named}.", "There was once {p.named}.", "One day {p.named} woke up early.", "There was {p.named}.", "Once there was {p.named}.", "This is a story about {p.named}.")
    t.maybe("{p.He} lived {home}.", "{p.He} lived {home} with {p.his} family.", p=0.6)
    t.maybe("{p.name} was very {p.mood}.", "Everyone knew that {p.name} was {p.mood}.", p=0.4)


def common(rng, who):
    friend = other(rng, who)
    parent = rng.choice(["mother", "father", "grandmother", "grandfather", "big sister", "big brother", "aunt", "uncle"])
    return dict(p=who, f=friend, home=rng.choice(word.ANIMAL_HOMES if who.animal else word.HOMES), parent=parent, when=rng.choice(word.WHEN), weather=rng.choice(word.WEATHER))


def lost(rng):
    who = Who(rng)
    thing, color = rng.choice(word.TOYS), rng.choice(word.COLORS)
    p1, p2, p3 = rng.sample(word.SPOTS, 3)
    t = Tale(rng, **common(rng, who), thing=thing, color=color, p1=p1, p2=p2, p3=p3)
    begin(t, who)
    t.say("{p.He} had {color} {thing} that {p.he} loved very much.".replace("{color}", a(color)), "{p.His} favorite thing was {color} {thing}.".replace("{color}", a(color)),
          "{p.name} had {color} {thing} and played with it every day.".replace("{color}", a(color)))
    t.say("{when} the {thing} was gone.", "{when} {p.name} could not find the {thing}.", "But {when_} {p.he} lost the {thing}.".replace("{when_}", t.fields["when"][0].lower() + t.fields["when"][1:].rstrip(",")))
    t.maybe("\"Where is my {thing}?\" {p.he} cried.", "{p.name} was very sad.", "\"Oh no! Where can it be?\" said {p.name}.", p=0.8)
    t.say("{p.He} looked {p1}, but it was not there.", "First {p.he} looked {p1}. It was not there.")
    t.say("Then {p.he} looked {p2}, but {p.he} only found {junk}.".replace("{junk}", rng.choice(word.JUNK)), "Then {p.he} looked {p2}. There was nothing.", "{p.He} looked {p2} too, but the {thing} was not there.")
    t.say("{p.name} asked {p.his} friend {f.name} for help.", "{p.His} friend {f.name} saw that {p.he} was sad. \"I will help you,\" said {f.name}.", "Then {p.his} friend {f.name} came. \"Do not be sad. We can look together,\" said {f.name}.")
    t.say("They looked and looked. At last {f.name} found the {thing} {p3}.", "{f.name} looked {p3}. \"Here it is!\" {f.he} said.", "Together they went to look {p3}, and there was the {color} {thing}!")
    t.say("{p.name} was so happy that {p.he} hugged {f.name}.", "\"Thank you, {f.name}! You are a good friend,\" said {p.name}.", "{p.name} smiled and said, \"Thank you for your help.\"")
    t.maybe("From that day on {p.name} always put the {thing} in a box at night.", "After that, {p.name} took good care of the {thing}.", "They played with the {thing} all day.", "Then they went home and had some {food}.".replace("{food}", rng.choice(word.TREATS)), p=0.8)
    t.ask("What did {p.name} lose?", rng.choice(["{p.name} lost a {color} {thing}.", "{p.He} lost {p.his} {color} {thing}."]).replace("a {color}", a(color)))
    t.ask("Where was the {thing}?", "The {thing} was {p3}.")
    t.ask("Who helped {p.name}?", "{f.name} helped {p.name}.")
    t.ask("What color was the {thing}?", "The {thing} was {color}.")
    return t.done(rng.choice(["{p.about} and {c} {thing}", "{p.about} who lost {c} {thing}", "a lost {thing}"]).replace("{c}", a(color)))


def share(rng):
    who = Who(rng)
    food = rng.choice(word.TREATS)
    t = Tale(rng, **common(rng, who), food=food, place=rng.choice(word.PLACES))
    begin(t, who)
    t.say("{when} {p.name} had some {food}.", "{when} {p.his} {parent} gave {p.him} some {food}.", "{p.name} liked {food} more than anything else.")
    t.say("{p.He} sat {place} and wanted to eat it all alone.", "\"This is only for me,\" said {p.name} and sat down {place}.", "{p.He} took the {food} and went to eat {place}.")
    t.say("Then {f.name} came by. {f.He} looked hungry.", "{f.name} came and sat down next to {p.him}. \"I am so hungry,\" said {f.name}.", "{p.His} friend {f.name} saw the {food}. \"May I have some?\" asked {f.name}.")
    t.say("{p.name} did not want to share at first.", "\"No,\" said {p.name}. \"It is mine.\" {f.name} was sad and went away.", "{p.name} looked at the {food} and thought for a while.")
    t.say("But then {p.he} felt bad.", "But eating alone was no fun.", "Then {p.he} remembered that {f.name} always shared with {p.him}.")
    t.say("\"Come here, {f.name}! We can eat it together,\" {p.he} said.", "{p.name} gave half of the {food} to {f.name}.", "\"I am sorry. Please have some,\" said {p.name}.")
    t.say("They ate the {food} together and laughed.", "{f.name} smiled, and they ate together.", "The {food} was even better now.")
    t.say("{p.name} learned that it is good to share.", "\"Sharing makes us both happy,\" said {p.name}.", "The next day {f.name} brought some {food2} and shared with {p.name}.".replace("{food2}", rng.choice([x for x in word.TREATS if x != food])), "From then on they shared everything.")
    t.ask("What did {p.name} share?", "{p.name} shared the {food}.")
    t.ask("Who came to {p.name}?", "{f.name} came to {p.name}.")
    return t.done(rng.choice(["{p.about} and some {food}", "{p.about} who learned to share", "two friends who shared some {food}"]))


def make(rng):
    who = Who(rng)
    what, parts, verb = rng.choice(word.MADE)
    bad = rng.choice(["everything fell down.", "the wind blew it away.", "a dog ran by and broke it.", "it began to rain, and everything got wet.", f"{who.name} dropped it on the floor."])
    t = Tale(rng, **common(rng, who), what=what, parts=parts, verb=verb, bad=cap(bad), bad_=bad)
    begin(t, who)
    t.say("{when} {p.name} wanted to {verb} {what}.", "{p.name} had an idea. \"I want to {verb} {what},\" {p.he} said.", "{p.His} {parent} had a birthday, and {p.name} wanted to {verb} {what}.")
    t.say("{p.He} needed {parts}.", "{p.He} went and found {parts}.", "First {p.he} put {parts} on the table.")
    t.say("{p.name} worked all morning.", "{p.He} worked very hard.", "It was not easy.")
    t.say("Then something went wrong. {bad}", "But then {bad_}")
    t.say("{p.name} wanted to cry.", "\"Oh no!\" said {p.name}. \"All my work is gone.\"", "{p.name} sat down and was very sad.")
    t.say("{p.His} friend {f.name} came to see. \"Do not give up,\" said {f.name}. \"I can help you.\"", "{p.His} {parent} said, \"We can try again together.\"", "\"Let us try one more time,\" said {f.name}, {p.his} best friend.")
    t.say("They started again and were careful this time.", "So they worked together, step by step.", "They did it again, and this time it went well.")
    t.say("When the sun went down, it was done. {what_} looked very good.".replace("{what_}", cap(what.replace("a ", "the ", 1).replace("an ", "the ", 1).replace("some ", "the ", 1))), "In the evening it was ready, and everyone came to look.", "At last it was ready. \"We did it!\" they said.")
    t.say("{p.name} was proud and happy.", "\"Thank you,\" said {p.name}. \"Two can do more than one.\"", "{p.name} was glad that {p.he} did not give up.")
    t.ask("What did {p.name} want to {verb}?", "{p.name} wanted to {verb} {what}.")
    return t.done(rng.choice(["{p.about} who wanted to {verb} {what}", "{p.about} and {what}"]))


def afraid(rng):
    who = Who(rng)
    fear, brave, end = rng.choice(word.FEARS)
    t = Tale(rng, **common(rng, who), fear=fear, brave=brave, end=end)
    begin(t, who)
    t.say("{p.name} was afraid of {fear}.", "There was one thing that {p.name} did not like. {p.He} was afraid of {fear}.", "{p.He} was not afraid of many things, but {p.he} was afraid of {fear}.")
    t.say("{when} {p.his} {parent} saw it and asked, \"Why are you afraid?\"", "{when} {p.he} told {p.his} friend {f.name} about it.", "\"What is wrong?\" asked {p.his} {parent}.")
    t.say("\"I do not know. I just am,\" said {p.name}.", "\"It is so big and I am so small,\" said {p.name}.", "{p.name} looked down and said nothing.")
    t.say("\"Everyone is afraid sometimes. Take my hand,\" was the kind answer.", "\"I was afraid too when I was little,\" was the answer. \"We can do it slowly.\"", "\"Being brave means to try even when you are afraid,\" was the answer.")
    t.say("So {p.name} took a deep breath. {brave}", "{p.name} closed {p.his} eyes and counted to three. {brave}", "\"I will try,\" said {p.name}. {brave}")
    t.say("Nothing bad happened.", "It was not so bad at all.", "It was even a little fun.")
    t.say("{end}", "{p.name} laughed. {end}", "{end} \"I did it!\" said {p.name}.")
    t.say("That night {p.name} slept very well.", "Now {p.name} knew that {p.he} was brave.", "{p.name} was not afraid anymore.", "Everyone was proud of {p.name}.")
    t.ask("What was {p.name} afraid of?", "{p.name} was afraid of {fear}.")
    return t.done(rng.choice(["{p.about} who was afraid of {fear}", "being afraid of {fear}", "{p.about} who learned to be brave"]))


def rescue(rng):
    who = Who(rng, rng.choice(["boy", "girl"]))
    animal, trouble, deed = rng.choice(word.RESCUES)
    t = Tale(rng, **common(rng, who), animal=animal, an=a(animal), trouble=trouble, deed=deed, place=rng.choice(word.PLACES))
    begin(t, who)
    t.say("{when} {p.name} walked {place}.", "{when} {p.he} played {place}.", "{when} it was {weather}, and {p.name} was {place}.")
    t.say("{p.He} heard a small sound. It was {an}.", "There {p.he} saw {an}.", "Suddenly {p.he} saw {an}.")
    t.say("{trouble}")
    t.say("\"Poor little {animal}! I will help you,\" said {p.name}.", "{p.name} felt sorry for the {animal}.", "\"Do not be afraid,\" said {p.name} softly.")
    t.say("{deed}")
    t.say("The {animal} looked at {p.him} and was happy.", "The {animal} was safe now.", "Soon the {animal} was well again.")
    t.say("{p.name} wanted to keep it, but {p.his} {parent} said, \"It has its own home.\" So they let it go.", "{p.name} gave it some water and something to eat.", "{p.name} took it home and made a warm bed for it.")
    t.say("The next day the {animal} came back and sat near the window.", "From that day on the {animal} was {p.his} friend.", "Every morning {p.name} said hello to the {animal}.", "{p.name} told everyone about the {animal}.")
    t.ask("Which animal did {p.name} help?", "{p.name} helped {an}.")
    t.ask("Where did {p.name} see the {animal}?", "{p.name} saw the {animal} {place}.")
    return t.done(rng.choice(["{p.about} and {an}", "{p.about} who helped {an}", "a little {animal} {place}"]))


def seed(rng):
    who = Who(rng)
    plant, fruit = rng.choice(word.PLANTS)
    t = Tale(rng, **common(rng, who), plant=plant, fruit=fruit)
    begin(t, who)
    t.say("{when} {p.his} {parent} gave {p.him} a small seed.", "{when} {p.name} found a seed on the ground.", "{p.name} had a little seed in {p.his} hand.")
    t.say("\"What will it be?\" asked {p.name}.", "{p.He} wanted to see it grow.", "\"I will plant you,\" said {p.name} to the seed.")
    t.say("{p.He} made a hole in the ground and put the seed in it.", "{p.He} put the seed into the soft earth.")
    t.say("Every day {p.he} gave it some water.", "Each morning {p.name} came with water.")
    t.say("But nothing happened. {p.name} waited and waited.", "For many days there was nothing to see.", "\"Why does it not grow?\" asked {p.name}. \"You have to wait,\" said {p.his} {parent}.")
    t.say("Then the rain came, and then the sun.", "After two weeks it rained, and the next day the sun was warm.", "One morning there was a tiny green leaf.")
    t.say("The plant grew and grew. It was {plant}!", "The little plant got taller every day, and soon it was {plant}.", "In the summer it was {plant}.")
    t.say("Now there was {fruit} for everyone.", "{p.name} picked {fruit} and gave some to {f.name}.", "{p.His} friend {f.name} came, and they had {fruit}.")
    t.say("\"Good things take time,\" said {p.name}.", "{p.name} was very proud.", "{p.He} kept one seed for the next year.")
    t.ask("What grew from the seed?", "It was {plant}.")
    return t.done(rng.choice(["{p.about} and a seed", "{p.about} who planted a seed", "a little seed"]))


def learn(rng):
    who = Who(rng)
    skill, fail, win = rng.choice(word.SKILLS)
    t = Tale(rng, **common(rng, who), skill=skill, fail=fail, win=win)
    begin(t, who)
    t.say("{p.name} wanted to learn how to {skill}.", "All {p.his} friends could {skill}, but {p.name} could not.", "More than anything, {p.name} wanted to {skill}.")
    t.say("{when} {p.he} tried for the first time. {fail}", "{when} {p.he} tried it. {fail}")
    t.say("\"It is too hard,\" said {p.name}.", "{p.name} was angry. \"I will never learn it,\" {p.he} said.", "{p.He} wanted to stop.")
    t.say("But {f.name} said, \"Try again. I will show you.\"", "\"No one can do it on the first day,\" said {p.his} {parent}.", "{p.His} {parent} smiled. \"You have to practice every day.\"")
    t.say("So {p.name} practiced every day.", "{p.He} tried again the next day, and the day after that.", "{p.name} did not give up.")
    t.say("After a week it was a little better.", "Slowly it got better.", "Each day it was a bit easier.")
    t.say("Then, on a {weather} day, {win}", "At last {win}", "And one morning {win}")
    t.say("\"Look at me!\" {p.he} called.", "Everyone clapped.", "{p.name} laughed with joy.")
    t.maybe("\"I knew that you could do it,\" said {f.name}.", "Now {p.he} could {skill} as well as the others.", "The next day {p.he} helped {f.name} to learn it too.", p=0.7)
    t.ask("What did {p.name} learn?", "{p.name} learned to {skill}.")
    return t.done(rng.choice(["{p.about} who wanted to {skill}", "{p.about} who learned to {skill}", "learning to {skill}"]))


def broke(rng):
    who = Who(rng, rng.choice(["boy", "girl"]))
    thing = rng.choice(word.BREAKABLE)
    t = Tale(rng, **common(rng, who), thing=thing, hide=rng.choice(["under the bed", "behind the door", "in a box", "under a chair", "in the garden"]))
    begin(t, who)
    t.say("{when} {p.name} played with a ball in the house.", "{when} {p.he} ran through the kitchen.", "{when} {p.he} jumped up and down in the room.")
    t.say("{p.He} hit the {thing}, and it fell down and broke.", "Crash! The {thing} was broken.", "There was a loud sound. {p.name} had broken the {thing}.")
    t.say("It was the favorite {thing} of {p.his} {parent}.", "{p.His} {parent} loved that {thing}.", "{p.name} was afraid.")
    t.say("{p.He} hid the pieces {hide}.", "Quickly {p.he} put the pieces {hide}.")
    t.say("In the evening {p.his} {parent} asked, \"Where is the {thing}?\"", "\"Have you seen the {thing}?\" asked {p.his} {parent}.")
    t.say("\"I do not know,\" said {p.name}, but {p.he} felt very bad.", "{p.name} said nothing. {p.He} could not eat, and {p.he} could not sleep.")
    t.say("Then {p.he} told the truth. \"I broke it. I am so sorry,\" said {p.name}.", "At last {p.he} said, \"It was me. I broke the {thing}.\"")
    t.say("{p.His} {parent} hugged {p.him}. \"Thank you for telling the truth,\" was the answer.", "\"I am sad about the {thing}, but I am glad that you told me,\" said {p.his} {parent}.")
    t.say("Together they fixed the {thing}.", "They made a new one together.", "{p.name} felt much better.", "{p.name} never lied about it again.")
    t.ask("What did {p.name} break?", "{p.name} broke the {thing}.")
    t.ask("Where did {p.name} hide the pieces?", "{p.He} hid the pieces {hide}.")
    return t.done(rng.choice(["{p.about} and a broken {thing}", "{p.about} who told the truth", "telling the truth"]))


def race(rng):
    who = Who(rng, "animal")
    t = Tale(rng, **common(rng, who))
    f = other(rng, who, "animal")
    t.fields.update(f=f, goal=rng.choice(["the old tree", "the river", "the big stone", "the bridge", "the red house", "the top of the hill"]))
    begin(t, who)
    t.say("{p.name} was fast and told everyone about it.", "\"No one is as fast as I am,\" said {p.name} every day.", "{p.name} always said, \"I am the best.\"")
    t.say("{when} {f.named} said, \"Let us have a race.\"".replace("{f.named}", f.named), "\"Then run with me to {goal},\" said {f.name} the {f.kind}.", "A {f.kind} named {f.name} said, \"I want to race with you.\"".replace("A {f.kind}", cap(a(f.kind))))
    t.say("{p.name} laughed. \"You? You are too slow!\"", "Everyone laughed, but {f.name} was not angry.")
    t.say("They started at sunrise and ran to {goal}.", "One, two, three, go! They ran to {goal}.")
    t.say("{p.name} was soon far ahead. \"I have time,\" {p.he} said, and lay down to rest.", "{p.name} was ahead and stopped to eat some berries.", "{p.name} was so sure to win that {p.he} stopped to talk with a bird.")
    t.say("{f.name} did not stop. {f.He} went on, step by step.", "But {f.name} went on and on.")
    t.say("When {p.name} looked up, {f.name} was already at {goal}.", "{p.name} ran as fast as {p.he} could, but it was too late. {f.name} had won.")
    t.say("\"Well done,\" said {p.name}. \"I will not laugh at you again.\"", "{p.name} was sorry. \"You are better than I thought,\" {p.he} said.", "\"You do not have to be fast. You have to go on,\" said {f.name}.")
    t.say("After that they were good friends.", "Then they drank some cool water together.", "From that day on {p.name} was a little more quiet.")
    t.ask("Who won the race?", "{f.name} won the race.")
    t.ask("Where did they run to?", "They ran to {goal}.")
    return t.done(rng.choice(["a race", "{p.name} the {p.kind} and {f.name} the {f.kind}", "{p.about} who was too proud"]))


def visit(rng):
    who = Who(rng)
    g1, g2 = rng.sample(word.TREATS, 2)
    t = Tale(rng, **common(rng, who), g1=g1, g2=g2, relative=rng.choice(["grandmother", "grandfather", "aunt", "uncle"]), far=rng.choice(["on the other side of the forest", "near the sea", "on a high hill", "in the next village", "behind the river"]))
    t.fields["q"] = other(rng, who, "animal")
    begin(t, who)
    t.say("{p.His} {relative} lived {far}.", "{p.name} wanted to see {p.his} {relative}, who lived {far}.")
    t.say("{when} {p.he} put {g1} and {g2} into a basket and went out.", "{when} {p.he} took a basket with {g1} and {g2} and began to walk.")
    t.say("It was {weather}, and the birds sang.", "The way was long, but {p.name} liked to walk.", "{p.He} walked past the farm and over the bridge.")
    t.say("On the way {p.he} met {q.named}.".replace("{q.named}", t.fields["q"].named), "After a while {p.he} saw {q.kind}.".replace("{q.kind}", a(t.fields["q"].kind)))
    t.say("\"Where are you going?\" asked the {q.kind}. \"To my {relative},\" said {p.name}.", "\"I am hungry,\" said the {q.kind}. So {p.name} gave the {q.kind} some {g1}.", "\"Do you know the way?\" asked {p.name}. \"Go straight on and turn left at the big tree,\" said the {q.kind}.")
    t.say("Soon it got dark, but then {p.he} saw a light in a window.", "At noon {p.he} was there and knocked on the door.", "At last {p.he} saw the little house.")
    t.say("{p.His} {relative} was very happy to see {p.him}.", "\"What a nice surprise!\" said {p.his} {relative}.")
    t.say("They drank tea and ate {g2}.", "They sat by the fire and told stories.", "They ate {g2} and talked all evening.")
    t.maybe("\"Come back soon,\" said {p.his} {relative}.", "Then {p.name} fell asleep in a warm bed.", "It was a good day.", p=0.8)
    t.ask("What was in the basket?", "The basket had {g1} and {g2} in it.")
    t.ask("Where did the {relative} live?", "The {relative} lived {far}.")
    return t.done(rng.choice(["{p.about} who visited {p.his} {relative}", "{p.about} and a basket", "a long walk"]))


def wish(rng):
    who = Who(rng, "animal")
    want, why, but = rng.choice(word.WISHES)
    t = Tale(rng, **common(rng, who), want=want, why=why, but=but)
    begin(t, who)
    t.say("{p.name} was not happy. {p.He} wanted to {want}.", "Every day {p.name} said, \"I wish I could {want}.\"", "{p.name} had a wish. {p.He} wanted to {want}.")
    t.say("{p.He} said, \"{why}\"", "\"Why?\" asked {f.name}. \"{why}\"")
    t.say("{when} {p.name} met an old owl. \"Why are you so sad?\" asked the owl.", "{when} {p.he} asked a wise old owl for help.")
    t.say("\"I want to {want},\" said {p.name}.", "{p.name} told the owl about the wish.")
    t.say("The owl smiled. \"{but}\"", "The owl thought for a while and said, \"{but}\"")
    t.say("{p.name} thought about it all day.", "{p.name} went home and thought about these words.", "Then {p.name} looked at {p.his} own feet and had to laugh.")
    t.say("That evening {f.name} fell into a hole. Only {p.name} could help, because {p.he} was just the right size.", "The next day {f.name} needed help, and {p.name} was the only one who could help.")
    t.say("\"Thank you! I am so glad that you are as you are,\" said {f.name}.", "\"You are perfect just as you are,\" said {f.name}.")
    t.say("After that, {p.name} was happy.", "{p.name} never wanted to be anyone else again.", "And {p.name} smiled.")
    t.ask("What did {p.name} want?", "{p.name} wanted to {want}.")
    return t.done(rng.choice(["{p.about} who wanted to {want}", "{p.about} and an old owl", "a wish"]))


def sleepless(rng):
    who = Who(rng)
    t = Tale(rng, **common(rng, who), sound=rng.choice(["the wind in the trees", "the rain on the roof", "an owl in the night", "a small mouse", "the clock on the wall"]))
    begin(t, who)
    t.say("It was night, but {p.name} could not sleep.", "One night {p.name} lay in bed with open eyes.", "The moon was in the sky, but {p.name} was still awake.")
    t.say("{p.He} heard {sound}.", "\"What is that?\" {p.he} asked. It was {sound}.")
    t.say("{p.He} turned to the left and to the right.", "{p.He} counted ten sheep, but it did not help.", "{p.He} drank some water, but it did not help.")
    t.say("Then {p.his} {parent} came in. \"Why are you awake?\"", "{p.name} called {p.his} {parent}.")
    t.say("\"I cannot sleep,\" said {p.name}.", "\"I am thinking about tomorrow,\" said {p.name}.")
    t.say("{p.His} {parent} sat down on the bed and sang a quiet song.", "{p.His} {parent} told {p.him} a story about a little star.", "\"Close your eyes and think of something nice,\" said {p.his} {parent}.")
    t.say("{p.name} thought of a warm day at the beach.", "{p.name} listened and felt warm and safe.", "The song was soft and slow.")
    t.say("Soon {p.his} eyes were closed.", "A moment later {p.name} was asleep.", "Then {p.name} fell asleep and had a good dream.")
    t.maybe("In the morning the sun woke {p.him} up.", "\"Good night,\" said {p.his} {parent} and turned off the light.", p=0.6)
    t.ask("What did {p.name} hear?", "{p.name} heard {sound}.")
    return t.done(rng.choice(["{p.about} who could not sleep", "a night without sleep", "{p.about} and the moon"]))


def market(rng):
    who = Who(rng, rng.choice(["boy", "girl"]))
    f1, f2 = rng.sample(word.FRUITS, 2)
    n = rng.randint(4, 9)
    c1 = rng.randint(1, n - 3)
    c2 = rng.randint(1, n - c1 - 1)
    coins = word.number
    t = Tale(rng, **common(rng, who), f1=f1, f2=f2, n=coins(n), c1=coins(c1), c2=coins(c2), left=coins(n - c1 - c2), s1="" if c1 == 1 else "s", s2="" if c2 == 1 else "s", sl="" if n - c1 - c2 == 1 else "s")
    begin(t, who)
    t.say("{when} {p.he} went to the market with {n} coins.", "{when} {p.his} {parent} gave {p.him} {n} coins and sent {p.him} to the market.")
    t.say("There were many people and many colors.", "The market was full of people.", "It was {weather}, and the market was open.")
    t.say("First {p.he} bought some {f1} for {c1} coin{s1}.", "{p.He} gave {c1} coin{s1} for some {f1}.")
    t.say("Then {p.he} bought some {f2} for {c2} coin{s2}.", "Then {p.he} gave {c2} coin{s2} for some {f2}.")
    t.say("\"How many coins do I have now?\" {p.he} thought. {p.He} counted. {p.He} had {left} coin{sl} left.", "Now {p.name} had {left} coin{sl} left.")
    t.say("On the way home {p.he} met {f.name}, who was hungry. {p.name} gave {f.him} some of the {f1}.", "{p.name} put everything into {p.his} bag and walked home.", "Near the gate {p.he} saw an old man who played music. {p.name} gave him one coin." if n - c1 - c2 > 1 else "{p.name} carried the bag home.")
    t.say("At home they made a big salad.", "\"You did very well,\" said {p.his} {parent}.", "{p.His} {parent} was proud of {p.him}.")
    t.ask("What did {p.name} buy?", "{p.name} bought {f1} and {f2}.")
    t.ask("How many coins did {p.name} have at first?", "{p.name} had {n} coins.")
    return t.done(rng.choice(["{p.about} at the market", "{p.about} and {n} coins"]))


def meet(rng):
    who = Who(rng, rng.choice(["boy", "girl"]))
    t = Tale(rng, **common(rng, who), game=rng.choice(word.GAMES), thing=rng.choice(word.TOYS))
    t.fields["f"] = other(rng, who, rng.choice(["boy", "girl"]))
    begin(t, who)
    t.say("It was the first day at a new school.", "{when} there was a new child at school.", "{p.name} was new in the village and had no friends.")
    t.say("{p.name} sat alone and did not know what to say.", "{p.name} looked at the other children, but {p.he} was shy.", "Nobody talked to {p.name}.")
    t.say("Then {p.he} saw a {f.kind} with a {thing}.", "A {f.kind} came and sat down next to {p.him}.")
    t.say("\"Hello, my name is {f.name}. What is your name?\" \"My name is {p.name}.\"", "\"I am {f.name},\" said the {f.kind}. \"And who are you?\" \"I am {p.name}.\"")
    t.say("\"Do you want to play {game}?\" asked {f.name}.", "\"We are playing {game}. Come with us,\" said {f.name}.")
    t.say("\"Yes, please!\" said {p.name}.", "{p.name} smiled for the first time that day.")
    t.say("They played until the bell rang.", "They ran and laughed, and the time went by fast.", "Soon the other children came and played with them.")
    t.say("In the evening {p.name} told {p.his} {parent}, \"I have a friend now.\"", "\"See you tomorrow,\" said {f.name}. {p.name} could not wait.", "After that day {p.name} and {f.name} were always together.")
    t.ask("Who played with {p.name}?", "{f.name} played with {p.name}.")
    t.ask("What did they play?", "They played {game}.")
    return t.done(rng.choice(["{p.about} at a new school", "{p.name} and {f.name}", "a new friend", "two friends"]))


def rainy(rng):
    who = Who(rng)
    plan, inside = rng.choice(word.PLANS), rng.choice(word.INSIDE)
    t = Tale(rng, **common(rng, who), plan=plan, inside=inside)
    begin(t, who)
    t.say("{p.name} and {f.name} wanted to {plan}.", "{when} {p.name} wanted to {plan} with {f.name}.")
    t.say("But when they looked out, it was raining.", "But dark clouds came, and it began to rain.", "Then it rained and rained.")
    t.say("\"Now we cannot go,\" said {p.name}.", "\"What a pity,\" said {f.name}.", "{p.name} looked out of the window and was sad.")
    t.say("\"I have an idea,\" said {f.name}. \"We can {inside}.\"", "{p.His} {parent} said, \"Why do you not {inside}?\"")
    t.say("So they stayed inside to {inside}.", "And so they did.")
    t.say("It was so much fun that they forgot the rain.", "They laughed a lot.", "The hours went by very fast.")
    t.say("When they looked out again, the sun was shining.", "After some time the rain stopped, and there was a rainbow.")
    t.say("\"Look, the rain is over,\" said {p.name}. \"But I want to stay here and play.\"", "Then they ran out and jumped into every puddle.", "\"The rain was good for us,\" said {f.name}.")
    t.ask("What did they want to do first?", "They wanted to {plan}.")
    t.ask("What did they do inside?", "They stayed inside to {inside}.")
    return t.done(rng.choice(["{p.about} and the rain", "a rainy day", "{p.name} and {f.name} on a rainy day"]))


PLOTS = [lost, lost, share, make, afraid, rescue, rescue, seed, learn, broke, race, visit, wish, sleepless, market, meet, rainy]


def tell(rng):
    return rng.choice(PLOTS)(rng)
