"""More that an assistant is asked: places, science, verses, letters, jokes, words; and what it does not know. Each function: rng -> messages."""
import word
from skills import turn
from word import a, cap, number

CAPITALS = {"France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "England": "London", "Japan": "Tokyo", "China": "Beijing", "Russia": "Moscow", "Egypt": "Cairo", "Greece": "Athens", "India": "New Delhi",
            "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia", "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Poland": "Warsaw", "Austria": "Vienna", "Portugal": "Lisbon", "Ireland": "Dublin",
            "Kenya": "Nairobi", "Turkey": "Ankara", "Denmark": "Copenhagen", "Hungary": "Budapest", "Peru": "Lima", "Cuba": "Havana", "Australia": "Canberra", "Korea": "Seoul", "Switzerland": "Bern"}
SCIENCE = [(["Why is the sky blue?"], "The air bends the blue light of the sun more than the red light, so the sky looks blue."), (["Why do we need the sun?", "What does the sun do?"], "The sun gives us light and warmth. Plants need it to grow."),
           (["Why does ice float?", "Does ice float?"], "Ice floats because it is lighter than water."), (["What is gravity?", "Why do things fall down?", "Explain gravity."], "Gravity pulls all things to the earth. That is why an apple falls down."),
           (["How many legs does a spider have?"], "A spider has eight legs."), (["What is the biggest animal?", "Which animal is the biggest?"], "The blue whale is the biggest animal."), (["Which animal is the fastest?", "What is the fastest animal?"], "The cheetah is the fastest animal on land."),
           (["Which planet do we live on?", "What planet is ours?"], "We live on the earth."), (["How many days are in a week?", "How many days does a week have?"], "A week has seven days."), (["How many months are in a year?", "How many months does a year have?"], "A year has twelve months."),
           (["How many hours does a day have?", "How many hours are in a day?"], "A day has twenty-four hours."), (["How many minutes are in an hour?"], "An hour has sixty minutes."), (["How many fingers do I have?", "How many fingers does a hand have?"], "A hand has five fingers, and two hands have ten."),
           (["What do plants need?", "What does a plant need to grow?"], "Plants need light, water, air and earth."), (["Why do leaves fall?", "Why do trees lose their leaves?"], "In autumn it gets cold, and many trees drop their leaves to save water."), (["Where does milk come from?"], "Milk comes from cows."),
           (["Where does honey come from?", "Who makes honey?"], "Honey is made by bees."), (["Where does wool come from?"], "Wool comes from sheep."), (["Where do eggs come from?"], "Eggs come from hens and other birds."), (["What is a computer?"], "A computer is a machine that works with numbers and words."),
           (["What is a language model?"], "A language model is a program that learned from text and says which word comes next."), (["What is water made of?"], "Water is made of hydrogen and oxygen."), (["How does a bird fly?", "Why can birds fly?"], "A bird moves its wings, and the air carries it."),
           (["Why do we sleep?", "Why do people sleep?"], "We sleep because the body and the head need rest."), (["Why do we eat?", "Why do people eat?"], "Food gives us strength."), (["What colors does a rainbow have?"], "A rainbow is red, orange, yellow, green, blue and purple."),
           (["What happens when it rains?"], "Water falls from the clouds, and the ground gets wet."), (["What happens when ice gets warm?"], "It melts and becomes water."), (["What happens when water gets very cold?"], "It freezes and becomes ice."), (["What happens when water gets very hot?"], "It boils and becomes steam."),
           (["Is the sun a star?"], "Yes, the sun is a star."), (["Can fish breathe in the air?"], "No, fish breathe in the water."), (["Can a penguin fly?", "Can penguins fly?"], "No, a penguin cannot fly, but it swims very well."), (["Can dogs talk?", "Can a cat speak?"], "No, animals cannot speak as people do."),
           (["Who wrote Romeo and Juliet?"], "William Shakespeare wrote Romeo and Juliet."), (["Who was Isaac Newton?"], "Isaac Newton was a scientist. He found the laws of gravity."), (["What is the longest river?"], "The Nile and the Amazon are the longest rivers."), (["What is the highest mountain?"], "Mount Everest is the highest mountain.")]
JOKES = ["Why did the chicken cross the road? It wanted to get to the other side.", "What has hands but cannot clap? A clock.", "What gets wet while it dries? A towel.", "What has many teeth but cannot bite? A comb.", "What goes up and never comes down? Your age.", "Why was the book sad? It had too many problems. It was a math book.",
         "What do you call a bear with no teeth? A gummy bear.", "What did the sea say to the beach? Nothing, it just waved.", "What has one eye but cannot see? A needle.", "Why did the cookie go to the doctor? It felt crumby."]
RHYMES = [("cat", "hat"), ("mouse", "house"), ("sun", "fun"), ("tree", "sea"), ("bear", "hair"), ("moon", "spoon"), ("night", "light"), ("day", "play"), ("rain", "train"), ("sheep", "sleep"), ("fox", "box"), ("goat", "boat"), ("bee", "me"), ("star", "car"), ("snow", "grow"), ("duck", "luck"), ("king", "ring"), ("frog", "dog"), ("bed", "red"), ("blue", "you")]
LINES = {"sun": ("The sun is warm, the sky is blue,", "the birds all sing a song for you."), "moon": ("The moon is round, the moon is bright,", "it looks at us all through the night."), "sea": ("The sea is deep, the sea is wide,", "and many fish can swim and hide."),
         "rain": ("The rain falls down on roof and tree,", "and makes a song for you and me."), "snow": ("The snow is white, the snow is deep,", "and all the little animals sleep."), "wind": ("The wind blows high, the wind blows low,", "it takes the leaves and lets them go."),
         "cat": ("My cat is soft, my cat is small,", "she plays all morning with a ball."), "dog": ("My dog can run, my dog can play,", "he waits for me the whole long day."), "tree": ("The tree is old, the tree is tall,", "it gives its shade to one and all."), "star": ("A little star is in the sky,", "it shines for us so very high."),
         "spring": ("The spring is here, the grass is green,", "the finest flowers that I have seen."), "friend": ("A friend is there when you are sad,", "a friend will laugh when you are glad."), "night": ("The night is here, the day is done,", "good night to you and everyone."), "river": ("The river runs, it does not stay,", "it finds the sea at the end of day."),
         "bird": ("A little bird sits in the tree,", "and sings a happy song for me."), "winter": ("The winter wind is cold and strong,", "the day is short, the night is long.")}
SECOND = [("I like to sit and look around,", "and listen to the quiet sound."), ("And when I go to bed at night,", "I dream of it till morning light."), ("Come out with me and take a look,", "it is as nice as in a book."), ("I wish that you could see it too,", "then I would share it all with you.")]
UNKNOWN = ["Who won the game yesterday?", "What is the phone number of my uncle?", "What did I eat this morning?", "How much money do I have?", "What will the weather be tomorrow?", "What is my neighbor called?", "Who will be king in a hundred years?", "Where did I put my glasses?", "What is on television tonight?", "How many people are in my house?",
           "What am I thinking?", "What does my friend want for her birthday?", "What is the price of gold today?", "What color are my eyes?"]
DONT = ["I am sorry, I do not know that.", "I cannot know that. You did not tell me.", "I do not know. I am only a small model."]
SPELL = "cat dog sun sea tree house apple milk bird fish water green blue book moon star".split()


def capital(rng):
    x, y = rng.choice(list(CAPITALS.items()))
    return rng.choice([turn(rng.choice([f"What is the capital of {x}?", f"Which city is the capital of {x}?", f"Tell me the capital of {x}."]), f"The capital of {x} is {y}."), turn(rng.choice([f"Where is {y}?", f"In which country is {y}?"]), f"{y} is in {x}."),
                       turn(f"Tell me about {x}.", f"{x} is a country. Its capital is {y}.")])


def science(rng):
    q, r = rng.choice(SCIENCE)
    return turn(rng.choice(q), r)


def joke(rng):
    return turn(rng.choice(["Tell me a joke.", "Do you know a joke?", "Say something funny.", "Make me laugh.", "tell me a joke", "Another joke, please."]), rng.choice(JOKES))


def rhyme(rng):
    x, y = rng.sample(rng.choice(RHYMES), 2)
    return turn(rng.choice([f"What rhymes with {x}?", f"Give me a word that rhymes with {x}."]), rng.choice([f"{cap(y)} rhymes with {x}.", f"{cap(y)}."]))


def poem(rng):
    about = rng.choice(list(LINES))
    text = "\n".join(LINES[about] + rng.choice(SECOND))
    return turn(rng.choice(["Write a poem about the {}.", "Write a short poem about the {}.", "Can you write a poem about the {}?", "A poem about the {}, please."]).format(about).replace("the friend", "a friend").replace("the spring", "spring"), text)


def letter(rng):
    to, who = rng.choice(["grandmother", "grandfather", "aunt", "uncle", "friend", "teacher"]), rng.choice(word.BOYS + word.GIRLS)
    thing = rng.choice(word.TOYS)
    why, text = rng.choice([("to say thank you for " + a(thing), f"Thank you very much for the {thing}. I like it a lot and use it every day."), ("to say that I am sorry", "I am sorry for what I did. I hope that we can be friends again."), ("for a birthday", "Happy birthday! I wish you a wonderful day and a big cake."),
                            ("to ask for a visit", "I would like to visit you soon. Do you have time on " + rng.choice(["Saturday", "Sunday"]) + "?")])
    return turn(f"Write a short letter to my {to} {why}. My name is {who}.", f"Dear {to},\n{text}\nYours,\n{who}")


def unknown(rng):
    return turn(rng.choice(UNKNOWN), rng.choice(DONT))


def spell(rng):
    w = rng.choice(SPELL)
    return turn(rng.choice([f"How do you spell {w}?", f"Spell {w}.", f"Please spell the word {w}."]), "-".join(w.upper()) + ".")


def choose(rng):
    """Which of the words is of a kind."""
    kinds = {"an animal": word.CHARACTERS, "a color": word.COLORS, "a toy": word.TOYS[:9], "a fruit": ["apple", "pear", "plum", "cherry", "lemon", "banana"], "a number": word.NUMBERS[1:12]}
    k = rng.choice(list(kinds))
    right = rng.choice(kinds[k])
    wrong = rng.sample([w for o, ws in kinds.items() if o != k for w in ws if w not in kinds[k]], rng.choice([1, 2, 3]))
    words = rng.sample(wrong + [right], len(wrong) + 1)
    text = ", ".join(words[:-1]) + " or " + words[-1]
    return turn(f"Which word is {k}: {text}?", rng.choice([f"{cap(right)} is {k}.", f"{cap(right)}."]))


def yes_no(rng):
    kind, words = rng.choice([("an animal", word.CHARACTERS), ("a color", word.COLORS), ("a fruit", ["apple", "pear", "plum", "cherry", "lemon"])])
    other = rng.choice([w for w in word.CHARACTERS + word.COLORS + word.TOYS if w not in words and w != "orange"])
    w = rng.choice([rng.choice(words), other])
    named = w if w in word.COLORS else a(w)
    return turn(f"Is {named} {kind}?", f"{'Yes' if w in words else 'No'}, {named} is {'' if w in words else 'not '}{kind}.")


def compare(rng):
    """Who has more, out of the sentence itself."""
    x, y = rng.sample(word.BOYS + word.GIRLS, 2)
    i, j = rng.sample(range(1, 13), 2)
    item = rng.choice(["apples", "coins", "books", "nuts", "balls", "eggs"])
    one = lambda n: f"{number(n)} {item if n > 1 else item[:-1]}"
    more, less = (x, y) if i > j else (y, x)
    return turn(f"{x} has {one(i)} and {y} has {one(j)}. " + (q := rng.choice(["Who has more?", "Who has less?"])), f"{more if 'more' in q else less} has {q[8:-1]}.")


def follow(rng):
    """Small orders on given words."""
    ws = rng.sample(word.TOYS + word.CHARACTERS + word.FRUITS, rng.randint(2, 5))
    listed = ", ".join(ws)
    return rng.choice([turn(f"What is the first word: {listed}?", cap(ws[0]) + "."), turn(f"What is the last word: {listed}?", cap(ws[-1]) + "."), turn(f"How many words are these: {listed}?", cap(number(len(ws))) + "."),
                       turn(f"Say {ws[0]} {number(k := rng.randint(2, 4))} times.", cap(", ".join([ws[0]] * k)) + "."), turn(f"Make a sentence with the word {ws[0]}.", rng.choice([f"I can see the {ws[0]} from here.", f"The {ws[0]} is very nice.", f"We have no {ws[0]} at home.", f"Do you like the {ws[0]}?"])),
                       turn(f"Write these words in the other order: {listed}", cap(", ".join(ws[::-1])) + ".")])


def thought(rng):
    """Little conclusions."""
    x, y, z = rng.sample(word.BOYS + word.GIRLS, 3)
    adj, more = rng.choice([("tall", "taller"), ("old", "older"), ("fast", "faster"), ("strong", "stronger")])
    s = rng.sample([f"{x} is {more} than {y}.", f"{y} is {more} than {z}."], 2)
    most = {"taller": "tallest", "older": "oldest", "faster": "fastest", "stronger": "strongest"}[more]
    return rng.choice([turn(" ".join(s) + f" Who is the {most}?", f"{x} is the {most}."), turn(f"{x} is {more} than {y}. Who is {more}?", f"{x} is {more} than {y}.")])


ALL = [(capital, 3), (science, 4), (joke, 1.5), (rhyme, 1), (poem, 3), (letter, 2), (unknown, 1.5), (spell, 0.7), (choose, 2), (yes_no, 1.5), (compare, 2), (follow, 3), (thought, 2)]
