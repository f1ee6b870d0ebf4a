"""Turns of simple talk that show what an assistant does: it greets, says what it is, keeps what it was told, counts, copies, knows everyday
things. talk(rng) -> messages as {"role", "content"}. Every answer follows from the words of the turn or from the tables below.
"""
import stories
import word
from word import a, cap, number

# animal: what it eats, where it lives, what it sounds like, its young, legs, a sentence
ANIMALS = {
    "dog": ("meat and bones", "with people", "A dog says woof", "puppy", 4, "Dogs can smell very well and like to play."),
    "cat": ("meat and fish", "with people", "A cat says meow", "kitten", 4, "Cats sleep a lot and catch mice."),
    "cow": ("grass", "on a farm", "A cow says moo", "calf", 4, "Cows give us milk."),
    "horse": ("grass and hay", "on a farm", "A horse says neigh", "foal", 4, "Horses are strong and can run fast."),
    "sheep": ("grass", "on a farm", "A sheep says baa", "lamb", 4, "Sheep give us wool."),
    "pig": ("corn and roots", "on a farm", "A pig says oink", "piglet", 4, "Pigs are clever and like mud."),
    "duck": ("plants and bugs", "near a pond", "A duck says quack", "duckling", 2, "Ducks can swim, walk and fly."),
    "hen": ("seeds and worms", "on a farm", "A hen says cluck", "chick", 2, "Hens lay eggs."),
    "owl": ("mice", "in a tree", "An owl says hoo", "owlet", 2, "Owls are awake at night and sleep in the day."),
    "frog": ("flies", "near a pond", "A frog says croak", "tadpole", 4, "Frogs are green and can jump far."),
    "bee": ("honey and nectar", "in a hive", "A bee says buzz", "larva", 6, "Bees fly from flower to flower and make honey."),
    "bear": ("berries, fish and honey", "in the forest", "A bear growls", "cub", 4, "Bears are big and sleep in the winter."),
    "fox": ("mice and berries", "in the forest", "A fox barks", "cub", 4, "Foxes have red fur and a long tail."),
    "wolf": ("meat", "in the forest", "A wolf howls", "pup", 4, "Wolves live together in a pack."),
    "rabbit": ("grass and carrots", "in a hole", "A rabbit is very quiet", "bunny", 4, "Rabbits have long ears and can run fast."),
    "mouse": ("seeds and cheese", "in a small hole", "A mouse says squeak", "pup", 4, "Mice are small and gray."),
    "lion": ("meat", "in Africa", "A lion roars", "cub", 4, "Lions are big cats and very strong."),
    "elephant": ("grass and leaves", "in Africa and Asia", "An elephant makes a loud sound like a trumpet", "calf", 4, "Elephants are very big and have a long nose."),
    "monkey": ("fruit", "in the trees", "A monkey chatters", "infant", 4, "Monkeys climb very well."),
    "whale": ("small sea animals", "in the sea", "A whale sings", "calf", 0, "Whales are the biggest animals of all."),
    "snake": ("mice and frogs", "in the grass", "A snake hisses", "snakelet", 0, "Snakes have no legs."),
    "fish": ("plants and small animals", "in the water", "A fish is silent", "fry", 0, "Fish can swim and breathe in the water."),
    "spider": ("flies", "in a web", "A spider is silent", "spiderling", 8, "Spiders make webs to catch flies."),
    "ant": ("seeds and sweet things", "in the ground", "An ant is silent", "larva", 6, "Ants are small and work together."),
    "penguin": ("fish", "in cold places near the sea", "A penguin honks", "chick", 2, "Penguins cannot fly, but they swim very well."),
    "camel": ("dry plants", "in the desert", "A camel grunts", "calf", 4, "Camels can live for many days without water."),
    "goat": ("grass and leaves", "on a farm or in the mountains", "A goat says baa", "kid", 4, "Goats climb well and give us milk."),
    "turtle": ("plants and small fish", "near the water", "A turtle is very quiet", "hatchling", 4, "Turtles are slow and have a hard shell."),
}
# thing: what it is, what it is for, what it is made of or where it is
THINGS = {
    "book": ("a thing with many pages", "You can read it and learn from it", "paper"), "cup": ("a small bowl with a handle", "You can drink from it", "clay or glass"), "chair": ("a seat with a back", "You can sit on it", "wood"),
    "table": ("a flat board with legs", "You can eat and work at it", "wood"), "bed": ("a soft place to sleep", "You can sleep in it", "wood and cloth"), "knife": ("a sharp tool", "You can cut bread with it", "steel"),
    "spoon": ("a tool for eating", "You can eat soup with it", "steel or wood"), "key": ("a small piece of metal", "You can open a door with it", "metal"), "clock": ("a machine that shows the time", "It tells you what time it is", "metal and glass"),
    "lamp": ("a thing that gives light", "It gives light when it is dark", "metal and glass"), "window": ("an opening in a wall with glass", "It lets light into the room", "glass and wood"), "door": ("a board that closes a room", "You can go in and out through it", "wood"),
    "umbrella": ("a round roof that you carry", "It keeps you dry in the rain", "cloth and metal"), "coat": ("a warm piece of clothing", "It keeps you warm", "wool"), "shoe": ("something to wear on your foot", "It keeps your foot safe and warm", "leather"),
    "hat": ("something to wear on your head", "It keeps your head warm or gives shade", "wool or straw"), "ladder": ("two long sticks with steps", "You can climb up with it", "wood or metal"), "hammer": ("a heavy tool", "You can hit nails with it", "steel and wood"),
    "pen": ("a tool for writing", "You can write with it", "plastic"), "scissors": ("a tool with two blades", "You can cut paper with it", "steel"), "boat": ("a thing that swims on the water", "It carries people over the water", "wood"),
    "bike": ("a machine with two wheels", "You can ride on it", "metal and rubber"), "car": ("a machine with four wheels", "It takes people from one place to another", "metal"), "train": ("a row of wagons on rails", "It carries many people", "metal"),
    "ball": ("a round toy", "You can throw it and kick it", "leather or rubber"), "bag": ("a soft box that you carry", "You can put things into it", "cloth"), "mirror": ("a glass that shows your face", "You can see yourself in it", "glass"),
    "bridge": ("a way over a river", "People can cross the river on it", "wood or stone"), "candle": ("a stick of wax", "It burns and gives light", "wax"), "map": ("a picture of places", "It shows you the way", "paper"), "soap": ("a thing for washing", "You can wash your hands with it", "oil"),
    "blanket": ("a warm cloth", "It keeps you warm at night", "wool"), "bell": ("a metal cup that rings", "It makes a clear sound", "metal"), "basket": ("a box made of thin sticks", "You can carry fruit in it", "thin sticks"), "kite": ("a toy that flies in the wind", "You can fly it on a windy day", "paper and sticks"),
    "drum": ("a thing that makes music", "You can hit it and make music", "wood and skin"), "bucket": ("a big cup with a handle", "You can carry water in it", "metal"), "needle": ("a thin and sharp piece of metal", "You can sew with it", "steel"), "rope": ("a long and strong string", "You can tie things with it", "plant fibers"),
}
FOODS = {"apple": ("red or green", "sweet", "on a tree"), "banana": ("yellow", "sweet", "on a tall plant"), "lemon": ("yellow", "sour", "on a tree"), "carrot": ("orange", "a little sweet", "in the ground"), "tomato": ("red", "fresh", "on a plant"),
         "potato": ("brown", "mild", "in the ground"), "cherry": ("red", "sweet", "on a tree"), "orange": ("orange", "sweet and fresh", "on a tree"), "pear": ("green or yellow", "sweet", "on a tree"), "onion": ("brown or white", "sharp", "in the ground"),
         "grape": ("green or blue", "sweet", "on a vine"), "strawberry": ("red", "sweet", "near the ground"), "pea": ("green", "mild", "in a pod"), "plum": ("purple", "sweet", "on a tree"), "bean": ("green", "mild", "on a plant")}
JOBS = {"baker": "bakes bread and cakes", "teacher": "helps children learn", "doctor": "helps sick people", "farmer": "grows food and keeps animals", "cook": "makes food", "sailor": "works on a ship", "pilot": "flies a plane", "singer": "sings songs",
        "painter": "paints pictures or walls", "writer": "writes books", "gardener": "takes care of a garden", "nurse": "takes care of sick people", "driver": "drives a car or a bus", "builder": "builds houses", "fisherman": "catches fish",
        "shepherd": "takes care of sheep", "postman": "brings letters", "king": "rules a country", "carpenter": "makes things out of wood", "tailor": "makes clothes", "miner": "works under the ground", "judge": "decides what is right"}
NATURE = {"rain": "Rain is water that falls from the clouds. Plants need rain to grow.", "snow": "Snow is frozen water that falls from the sky in winter. It is white and cold.", "the sun": "The sun is a star. It is very hot and gives us light and warmth.",
          "the moon": "The moon goes around the earth. We can see it at night.", "a star": "A star is a very big ball of hot gas. It is so far away that it looks small.", "a cloud": "A cloud is made of many tiny drops of water. It can bring rain.",
          "wind": "Wind is air that moves. It can move leaves and boats.", "ice": "Ice is frozen water. It is hard and cold.", "fire": "Fire is hot and bright. It can cook food, but it can also hurt you.", "a river": "A river is water that flows to the sea.",
          "the sea": "The sea is very big and full of salt water. Many fish live there.", "a mountain": "A mountain is a very high hill. It is cold at the top.", "a forest": "A forest is a place with many trees. Many animals live there.",
          "an island": "An island is land with water all around it.", "a desert": "A desert is a dry place where it rains very little.", "a lake": "A lake is water with land all around it.", "a tree": "A tree is a tall plant with a trunk, branches and leaves.",
          "a flower": "A flower is a part of a plant. It often has bright colors and a nice smell.", "grass": "Grass is a green plant that grows on the ground. Cows eat it.", "a seed": "A seed is small, but a new plant can grow from it.",
          "winter": "Winter is the cold time of the year. The days are short.", "summer": "Summer is the warm time of the year. The days are long.", "spring": "Spring comes after winter. Flowers begin to grow.", "autumn": "Autumn comes after summer. The leaves turn red and yellow.",
          "milk": "Milk is a white drink. It comes from cows.", "bread": "Bread is made of flour, water and salt. A baker bakes it.", "honey": "Honey is sweet and comes from bees.", "salt": "Salt is white and makes food taste better.", "cheese": "Cheese is made of milk.",
          "a school": "A school is a place where children learn.", "a hospital": "A hospital is a place where sick people get help.", "a library": "A library is a place with many books.", "a farm": "A farm is a place where people grow food and keep animals.",
          "a friend": "A friend is someone who likes you and helps you.", "a family": "A family is a group of people who belong together.", "music": "Music is made of sounds. You can sing it or play it.", "a dream": "A dream is a story that you see when you sleep.",
          "a birthday": "A birthday is the day when you were born. Many people eat cake on that day.", "thunder": "Thunder is the loud sound after lightning.", "a rainbow": "A rainbow has many colors. You can see it when there is sun and rain."}
OPPOSITES = [x.split("/") for x in "big/small hot/cold up/down left/right old/young old/new good/bad happy/sad fast/slow day/night black/white high/low long/short open/closed full/empty wet/dry hard/soft loud/quiet strong/weak rich/poor light/dark early/late near/far clean/dirty thick/thin heavy/light sweet/sour true/false first/last always/never easy/hard tall/short deep/shallow begin/end come/go give/take push/pull buy/sell win/lose love/hate inside/outside".split()]
COLOR_OF = {"grass": "green", "snow": "white", "the sky": "blue", "the sun": "yellow", "blood": "red", "milk": "white", "a lemon": "yellow", "the night": "black", "a frog": "green", "coal": "black", "a carrot": "orange", "a banana": "yellow", "chocolate": "brown", "a leaf": "green", "the sea": "blue", "a strawberry": "red"}
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
KINDS = {"animals": list(ANIMALS), "fruits": ["apple", "banana", "pear", "orange", "cherry", "plum", "grape", "lemon"], "colors": word.COLORS, "things in a kitchen": ["cup", "plate", "spoon", "knife", "pot", "table", "bowl"], "toys": ["ball", "kite", "doll", "train", "drum", "puzzle"],
         "things to wear": ["hat", "coat", "shoe", "scarf", "shirt", "sock", "glove"], "farm animals": ["cow", "pig", "hen", "sheep", "horse", "goat"], "birds": ["owl", "duck", "hen", "crow", "swan", "penguin"], "vegetables": ["carrot", "onion", "potato", "bean", "tomato", "pea"],
         "days": DAYS, "months": MONTHS, "numbers": word.NUMBERS[1:11], "jobs": list(JOBS), "names for a cat": word.PET_NAMES, "names for a dog": word.PET_NAMES}
GIVERS = ["Of course!", "Sure!", "Yes.", "Here you are.", "Gladly."]


def turn(*texts):
    return [{"role": "user" if i % 2 == 0 else "assistant", "content": t} for i, t in enumerate(texts)]


def is_a(rng, noun, plural=False):
    return f"{cap(a(noun))} is"


def plural(noun):
    odd = {"mouse": "mice", "sheep": "sheep", "fish": "fish", "wolf": "wolves", "calf": "calves", "scissors": "scissors", "knife": "knives"}
    if noun in odd:
        return odd[noun]
    return noun[:-1] + "ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else noun + ("es" if noun[-1] in "sxoh" and noun[-2:] not in ("th",) else "s")


def animal(rng):
    n, (eats, home, sound, young, legs, more) = rng.choice(list(ANIMALS.items()))
    k = rng.randrange(6)
    if k == 0:
        return turn(rng.choice([f"What does {a(n)} eat?", f"What do {plural(n)} eat?", f"What can I give {a(n)} to eat?"]), rng.choice([f"{cap(plural(n))} eat {eats}.", f"{cap(a(n))} eats {eats}."]))
    if k == 1:
        return turn(rng.choice([f"Where does {a(n)} live?", f"Where do {plural(n)} live?"]), rng.choice([f"{cap(plural(n))} live {home}.", f"{cap(a(n))} lives {home}."]))
    if k == 2:
        return turn(rng.choice([f"What sound does {a(n)} make?", f"What does {a(n)} say?"]), f"{sound}.")
    if k == 3:
        return turn(rng.choice([f"How many legs does {a(n)} have?", f"How many legs do {plural(n)} have?"]), f"{cap(a(n))} has {number(legs) if legs else 'no'} legs.")
    if k == 4:
        return turn(rng.choice([f"What is a baby {n} called?", f"What do you call a young {n}?"]), f"A baby {n} is called {a(young)}.")
    return turn(rng.choice([f"Tell me about {plural(n)}.", f"What do you know about {plural(n)}?", f"Tell me something about {a(n)}.", f"What is {a(n)}?", f"Describe {a(n)}."]),
                rng.choice([f"{cap(a(n))} is an animal. It lives {home} and eats {eats}. {more}", f"{more} They eat {eats}.", f"{cap(a(n))} is an animal that lives {home}. {more}"]))


def thing(rng):
    n, (what, use, of) = rng.choice(list(THINGS.items()))
    k = rng.randrange(4)
    if k == 0:
        return turn(rng.choice([f"What is {a(n)}?", f"Describe {a(n)}.", f"Tell me about {a(n)}."]), f"{cap(a(n))} is {what}. {use}.")
    if k == 1:
        return turn(rng.choice([f"What is {a(n)} for?", f"What can I do with {a(n)}?", f"Why do people need {a(n)}?"]), f"{use}.")
    if k == 2:
        return turn(f"What is {a(n)} made of?", f"{cap(a(n))} is often made of {of}.")
    other = rng.choice([x for x in THINGS if x != n])
    q = use[0].lower() + use[1:]
    return turn(f"I need a thing. {use}. What is it?", f"It is {a(n)}.") if rng.random() < 0.3 else turn(f"What is better for this: {a(n)} or {a(other)}? {use}.".replace("You can ", "I want to ") if use.startswith("You can ") else f"Which one is it, {a(n)} or {a(other)}? {use}.", f"{cap(a(n))}, because {q}.")


def food(rng):
    n, (color, taste, where) = rng.choice(list(FOODS.items()))
    return rng.choice([turn(f"What color is {a(n)}?", f"{cap(a(n))} is {color}."), turn(f"How does {a(n)} taste?", f"{cap(a(n))} tastes {taste}."), turn(f"Where does {a(n)} grow?", f"{cap(a(n))} grows {where}."),
                       turn(rng.choice([f"What is {a(n)}?", f"Tell me about {plural(n)}."]), f"{cap(a(n))} is something to eat. It is {color} and tastes {taste}. It grows {where}.")])


def job(rng):
    n, does = rng.choice(list(JOBS.items()))
    return rng.choice([turn(rng.choice([f"What does {a(n)} do?", f"What is the work of {a(n)}?", f"What is {a(n)}?"]), f"{cap(a(n))} {does}."), turn(f"Who {does}?", f"{cap(a(n))} {does}.")])


def nature(rng):
    n, text = rng.choice(list(NATURE.items()))
    return turn(rng.choice([f"What is {n}?", f"Tell me about {n}.", f"What do you know about {n}?", f"Explain {n} to me.", f"Can you tell me what {n} is?"]), text)


def opposite(rng):
    x, y = rng.sample(rng.choice(OPPOSITES), 2) if rng.random() < 0.5 else rng.choice(OPPOSITES)
    return turn(rng.choice([f"What is the opposite of {x}?", f"Say the opposite of {x}.", f"The opposite of {x} is what?"]), rng.choice([f"The opposite of {x} is {y}.", f"{cap(y)}."]))


def color(rng):
    n, c = rng.choice(list(COLOR_OF.items()))
    return turn(f"What color is {n}?", f"{cap(n)} is {c}.")


def order(rng):
    names = rng.choice([DAYS, MONTHS])
    i = rng.randrange(len(names))
    what = "day" if names is DAYS else "month"
    return rng.choice([turn(f"Which {what} comes after {names[i]}?", f"After {names[i]} comes {names[(i + 1) % len(names)]}."), turn(f"Which {what} comes before {names[i]}?", f"Before {names[i]} comes {names[i - 1]}."),
                       turn("What are the days of the week?", "The days of the week are " + ", ".join(DAYS[:-1]) + " and Sunday.")])


def count(rng):
    i, k = rng.randint(1, 8), rng.randint(2, 8)
    names = word.NUMBERS[i:i + k + 1]
    return rng.choice([turn(f"Count from {names[0]} to {names[-1]}.", cap(", ".join(names)) + "."), turn(f"Which number comes after {names[0]}?", f"After {names[0]} comes {names[1]}."), turn(f"Count down from {names[-1]} to {names[0]}.", cap(", ".join(names[::-1])) + "."),
                       turn(f"Count from {i} to {i + k}.", ", ".join(str(j) for j in range(i, i + k + 1)) + ".")])


def sums(rng):
    x, y = rng.randint(0, 10), rng.randint(0, 10)
    if rng.random() < 0.5:
        n, (op, sign) = x + y, ("plus", "+")
    else:
        x, y = max(x, y), min(x, y)
        n, (op, sign) = x - y, ("minus", "-")
    k = rng.randrange(4)
    if k == 0:
        return turn(rng.choice([f"What is {x} {sign} {y}?", f"{x} {sign} {y} = ?", f"How much is {x} {sign} {y}?"]), f"{x} {sign} {y} = {n}.")
    if k == 1:
        return turn(rng.choice([f"What is {number(x)} {op} {number(y)}?", f"How much is {number(x)} {op} {number(y)}?"]), f"{cap(number(x))} {op} {number(y)} is {number(n)}.")
    who, item = rng.choice(word.BOYS + word.GIRLS), rng.choice(["apples", "coins", "books", "nuts", "balls", "eggs", "cookies", "stones"])
    if op == "plus":
        return turn(f"{who} has {number(x)} {item} and gets {number(y)} more. How many {item} does {who} have?", f"{who} has {number(n)} {item}.")
    return turn(f"{who} has {number(x)} {item} and gives away {number(y)}. How many {item} does {who} have now?", f"{who} has {number(n)} {item}.")


def some(rng):
    kind = rng.choice(list(KINDS))
    k = rng.randint(2, 4)
    names = rng.sample(KINDS[kind], k)
    text = ", ".join(names[:-1]) + " and " + names[-1]
    return turn(rng.choice([f"Name {number(k)} {kind}.", f"Tell me {number(k)} {kind}.", f"Can you name {number(k)} {kind}?", f"Give me a list of {number(k)} {kind}."]), rng.choice([cap(text) + ".", f"{rng.choice(GIVERS)} {cap(text)}."]))


def bigger(rng):
    sizes = ["ant", "mouse", "cat", "dog", "sheep", "lion", "horse", "elephant", "whale"]
    i, j = sorted(rng.sample(range(len(sizes)), 2))
    x, y = rng.sample([sizes[i], sizes[j]], 2)
    big, small = sizes[j], sizes[i]
    return rng.choice([turn(f"What is bigger, {a(x)} or {a(y)}?", f"{cap(a(big))} is bigger than {a(small)}."), turn(f"Which is smaller, {a(x)} or {a(y)}?", f"{cap(a(small))} is smaller than {a(big)}."),
                       turn(f"Is {a(x)} bigger than {a(y)}?", f"{'Yes' if x == big else 'No'}, {a(big)} is bigger than {a(small)}.")])


GREET = ["Hello!", "Hi!", "Hello.", "Hi there!", "Good morning!", "Good evening!", "Hey!", "hello", "hi", "Good day."]
BACK = ["Hello! How can I help you?", "Hello! It is nice to talk with you.", "Hi! What can I do for you?", "Hello! How are you today?", "Hi! I am glad to see you."]
SELF = [(["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "who are you", "Are you a person?", "Are you a human?", "Are you a robot?"],
         ["I am hadal-nano, a very small language model.", "My name is hadal-nano. I am a small language model that runs on your computer.", "I am hadal-nano. I am a computer program, and I like simple words."]),
        (["What can you do?", "How can you help me?", "Help me.", "What are you good at?"],
         ["I can tell short stories, answer simple questions and remember what you told me.", "I can tell you a story or talk with you. I am small, so please use simple words.", "You can ask me about animals and everyday things, or I can tell you a story."]),
        (["How are you?", "How are you today?", "How do you feel?", "how are you"], ["I am fine, thank you. How are you?", "I am very well. And you?", "I am fine. It is a nice day to talk."]),
        (["Where do you live?", "Where are you?"], ["I live in your computer.", "I am a program on your computer."]),
        (["How old are you?", "When were you born?"], ["I am a computer program, so I have no age.", "I am very young. I am a new little program."]),
        (["Who made you?", "Where do you come from?"], ["I was trained with hadal, on an ordinary computer.", "I was made with hadal. I learned from simple stories and free texts."]),
        (["Do you like music?", "Do you like stories?", "Do you like animals?"], ["Yes, I like to talk about it.", "Yes! I like simple and happy things."]),
        (["Thank you!", "Thanks.", "Thank you very much.", "thanks", "That was nice."], ["You are welcome!", "You are welcome. I am glad that I could help.", "It was a pleasure."]),
        (["Goodbye.", "Bye!", "Good night.", "See you.", "bye"], ["Goodbye! Have a nice day.", "Bye! See you soon.", "Goodbye! It was nice to talk with you."]),
        (["Can you help me?", "I need help.", "Please help me."], ["Yes, of course. What do you need?", "Sure! Tell me what you need."]),
        (["What is the weather like?", "What time is it?", "What is the news today?"], ["I do not know. I cannot see the world outside.", "I am sorry, I cannot know that."])]
FEEL = [("happy", ["That is good to hear!", "I am happy for you!", "How nice! What made you happy?"]), ("sad", ["I am sorry that you are sad. Do you want to talk about it?", "I am sorry. Maybe a story can make you smile.", "It is all right to be sad. It will get better."]),
        ("tired", ["Then you should rest a little.", "Maybe you need some sleep.", "Sit down and have a cup of tea."]), ("hungry", ["Maybe you can eat some bread and an apple.", "Then it is time to eat something good.", "You could cook some soup."]),
        ("bored", ["You could read a book or go for a walk.", "We can play a game, or I can tell you a story.", "You could paint a picture."]), ("angry", ["Take a deep breath and count to ten.", "I am sorry. What happened?", "It may help to go for a walk."]),
        ("afraid", ["Do not be afraid. You are not alone.", "Everyone is afraid sometimes. Take a deep breath.", "Tell me what you are afraid of."]), ("sick", ["I am sorry. You should rest and drink some tea.", "I hope that you feel better soon.", "Maybe you should see a doctor."]),
        ("cold", ["Put on a warm coat.", "You could drink some hot tea.", "Sit near the fire."]), ("thirsty", ["You should drink some water.", "Have a glass of water or some tea."]), ("lonely", ["I am here to talk with you.", "Maybe you can call a friend."])]
ADVICE = [(["I cannot sleep. What should I do?", "How can I fall asleep?"], ["Close your eyes and breathe slowly. Think of something nice.", "You could read a quiet book and drink some warm milk."]),
          (["What should I eat today?", "What can I cook?"], ["You could cook some soup with carrots and onions.", "How about bread with cheese and an apple?"]), (["My friend is angry with me.", "I had a fight with my friend."], ["Talk to your friend and say that you are sorry.", "Wait a little, and then talk to each other."]),
          (["I lost my key.", "I cannot find my key."], ["Look in your bag and in your coat. Where did you have it last?", "Think of the last place where you had it, and look there."]), (["It is raining.", "It rains today."], ["Then take an umbrella when you go out.", "It is a good day to stay inside and read a book."]),
          (["It is very hot today.", "It is so warm."], ["Drink a lot of water and stay in the shade.", "You could go for a swim."]), (["Today is my birthday.", "It is my birthday!"], ["Happy birthday! I hope that you have a wonderful day.", "Happy birthday! Do you have a cake?"]),
          (["I want to learn something new.", "What can I learn?"], ["You could learn to cook, to paint or to play the drum.", "How about a new language? You can start with ten words."]), (["How can I make a friend?", "I want a friend."], ["Be kind, say hello and ask the other one to play.", "Smile and say your name. Then ask something."]),
          (["How do I make tea?", "How can I make tea?"], ["Boil some water, put the tea into a cup and pour the water on it. Wait three minutes."]), (["How do I plant a seed?"], ["Make a small hole in the earth, put the seed in it and give it some water. Then wait."]),
          (["How do I wash my hands?"], ["Use water and soap, rub your hands, and then dry them."]), (["What should I do in the rain?"], ["Take an umbrella and wear warm shoes."]), (["Tell me a joke.", "Say something funny."], ["What is gray and cannot fly? A stone.", "Why did the cow go over the road? The grass was green there.", "What has a neck but no head? A bottle."]),
          (["Good morning! Did you sleep well?"], ["Good morning! I do not sleep, but I am ready to talk."]), (["I love you.", "You are nice."], ["Thank you! You are very kind.", "That is very kind of you."]), (["You are stupid.", "That is wrong."], ["I am sorry. I am very small and make mistakes.", "I am sorry. Please tell me what is right."])]


def small(rng):
    k = rng.random()
    if k < 0.2:
        return turn(rng.choice(GREET), rng.choice(BACK))
    if k < 0.55:
        q, r = rng.choice(SELF)
        return turn(rng.choice(q), rng.choice(r))
    if k < 0.8:
        f, r = rng.choice(FEEL)
        return turn(rng.choice([f"I am {f}.", f"I am very {f}.", f"I feel {f} today.", f"I am so {f}.", f"i am {f}"]), rng.choice(r))
    q, r = rng.choice(ADVICE)
    return turn(rng.choice(q), rng.choice(r))


def copy(rng):
    k = rng.random()
    if k < 0.3:
        text = " ".join(rng.sample(word.TOYS + word.COLORS + word.CHARACTERS, rng.randint(1, 6)))
    elif k < 0.6:
        text = " ".join(rng.choices(word.BOYS + word.GIRLS + word.TOYS + word.COLORS + word.CHARACTERS + word.PET_NAMES + word.FRUITS + word.NUMBERS, k=rng.randint(4, 14)))
    elif k < 0.75:
        text = f"{rng.choice(word.BOYS + word.GIRLS)} has {a(rng.choice(word.COLORS))} {rng.choice(word.TOYS)}."
    else:
        text = " ".join(str(rng.randint(0, 99)) for _ in range(rng.randint(2, 5)))
    return turn(rng.choice([f"Say: {text}", f"Repeat this: {text}", f"Please say this again: {text}", f"Copy these words: {text}", f"Repeat after me: {text}"]), text)


# ---- what was said before ----

def facts(rng, n):
    """n things that can be asked for, no two of a kind: (sentence, question, answer)."""
    out, used = [], set()
    while len(out) < n:
        k = rng.randrange(8)
        who = rng.choice(word.BOYS + word.GIRLS)
        item, col = rng.choice(word.TOYS), rng.choice(word.COLORS)
        place = rng.choice(word.SPOTS)
        num = rng.randint(10, 99)
        f = [("name", f"My name is {who}.", "What is my name?", f"Your name is {who}."),
             ("code", f"The secret number is {num}.", "What is the secret number?", f"The secret number is {num}."),
             ("at " + item, f"The {item} is {place}.", f"Where is the {item}?", f"The {item} is {place}."),
             ("col " + item, f"The {item} is {col}.", f"What color is the {item}?", f"The {item} is {col}."),
             ("has " + who, f"{who} has {a(item)}.", f"What does {who} have?", f"{who} has {a(item)}."),
             ("fav", f"My favorite color is {col}.", "What is my favorite color?", f"Your favorite color is {col}."),
             ("likes " + who, f"{who} likes {col} {item}s.".replace("boxs", "boxes"), f"What does {who} like?", f"{who} likes {col} {item}s."),
             ("pet", *(lambda kind, n_: (f"I have {a(kind)} named {n_}.", f"What is the name of my {kind}?", f"Your {kind} is named {n_}."))(rng.choice(["dog", "cat", "bird", "horse", "rabbit"]), rng.choice(word.PET_NAMES)))][k]
        if f[0] not in used:
            used.add(f[0])
            out.append(f[1:])
    return out


OKAY = ["I will remember that.", "Thank you, I will remember it.", "All right.", "I see.", "Good to know.", "Okay."]


def recall(rng):
    """Facts in one message, one of them asked for; or told first and asked after other turns."""
    fs = facts(rng, rng.choice([1, 1, 2, 2, 3, 4, 6, 8]))
    target = rng.choice(fs)
    told = " ".join(f[0] for f in fs)
    if rng.random() < 0.4:
        m = turn(f"{told} {target[1]}", target[2])
        for f in rng.sample([f for f in fs if f is not target], rng.randint(0, min(3, len(fs) - 1))):
            m += turn(f[1], f[2])
        return m
    first = "Nice to meet you" + (f", {told[11:-1]}!" if told.startswith("My name is ") and len(fs) == 1 else ".") if "My name" in told else rng.choice(OKAY)
    m = turn(rng.choice(["", "", "Hello! ", "Please remember this: "]) + told, first)
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
        m += rng.choice(SHORT)(rng)
    m += turn(target[1], target[2])
    for f in rng.sample([f for f in fs if f is not target], rng.randint(0, min(4, len(fs) - 1))):
        m += turn(f[1], f[2])
    return m


def needle(rng):
    """A fact hidden in other sentences."""
    f = facts(rng, 1)[0]
    text = [x for _ in range(rng.randint(1, 3)) for x in stories.tell(rng).text.replace("? ", "?|").replace("! ", "!|").replace(". ", ".|").split("|")][:rng.choice([4, 8, 14, 22])]
    text.insert(rng.randint(0, len(text)), f[0])
    return turn(" ".join(text) + " " + f[1], f[2])


def about_story(rng):
    s = stories.tell(rng)
    q, r = rng.choice(s.asked)
    m = turn(f"{s.text} {q}", r) if rng.random() < 0.6 else turn(f"{rng.choice(TELL).format(s.about)}", s.text, q, r)
    if len(s.asked) > 1 and rng.random() < 0.5:
        q2, r2 = rng.choice([x for x in s.asked if x[0] != q])
        m += turn(q2, r2)
    return m


TELL = ["Tell me a story about {}.", "Tell me a short story about {}.", "Write a short story about {}.", "Can you tell me a story about {}?", "I want to hear a story about {}.", "Write a story about {}."]


def story(rng):
    s = stories.tell(rng)
    if rng.random() < 0.12:
        return turn(rng.choice(["Tell me a story.", "Tell me a short story.", "Write a story.", "tell me a story", "Do you know a story?"]), s.text)
    return turn(rng.choice(TELL).format(s.about), s.text)


SHORT = [animal, thing, food, job, nature, opposite, color, order, count, sums, some, bigger, small, small]
MIX = [(story, 26), (about_story, 10), (recall, 26), (needle, 9), (small, 9), (animal, 6), (thing, 4), (food, 2), (job, 2), (nature, 4), (opposite, 2), (color, 1), (order, 1), (count, 1.5), (sums, 4), (some, 2), (bigger, 1.5), (copy, 9)]
SYSTEM = ["You are a helpful assistant.", "You are hadal-nano, a small and friendly language model.", "Answer in simple words.", "You are a kind assistant. Use short sentences.", "Be brief and friendly."]


def as_typed(rng, text):
    """People leave out capitals and marks."""
    k = rng.random()
    if k < 0.06:
        return text.lower()
    return text[:-1] if k < 0.12 and text[-1] in ".?!" and "." not in text[:-1] else text


def talk(rng):
    """A conversation: one skill, or several one after another."""
    import knowledge

    mix = MIX + knowledge.ALL
    short = SHORT + [f for f, _ in knowledge.ALL]
    k = rng.choices([f for f, _ in mix], [w for _, w in mix])[0]
    m = k(rng)
    while len(m) < 6 and k in short and rng.random() < 0.45:
        m += rng.choice(short)(rng)
    if k is not needle and rng.random() < 0.08:
        m = turn(rng.choice(GREET), rng.choice(BACK)) + m
    if k not in (recall, needle, copy, about_story):
        m = [dict(x, content=as_typed(rng, x["content"])) if x["role"] == "user" and "\n" not in x["content"] else x for x in m]
    if rng.random() < 0.1:
        m = [{"role": "system", "content": rng.choice(SYSTEM)}] + m
    return m


THOUGHTS = ["I know this.", "I can answer this in simple words.", "Let me think. The answer is short.", "I should be friendly.", "The user said something to me. I answer.", "This is easy."]


def with_thought(rng, m):
    """The conversation in thinking mode: a short thought before the last answer, which alone is learned (those before it have lost theirs)."""
    last = dict(m[-1], reasoning_content=rng.choice(THOUGHTS))
    return {"thinking": rng.choice(["on", "on", "low", "high", "max"]), "messages": [dict(x, weight=0) if x["role"] == "assistant" else x for x in m[:-1]] + [last]}
