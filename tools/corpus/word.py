"""The words that stories.py and skills.py put into their sentences."""

BOYS = "Tom Ben Sam Max Jack Tim Leo Dan Finn Bob Will Joe Paul Adam Mark Peter Luke Nick Henry Oscar Hugo Omar Ravi Kofi Noah Alex David Eric Fred Ian".split()
GIRLS = "Lily Mia Anna Lucy Emma Rosa Nina Sara Ella Kate Amy Zoe Ruth Jane Eva Alice Grace Clara Ivy Maya June Leila Mei Yuki Nora Lea Helen Olga Tina Vera".split()
PET_NAMES = "Dot Pip Bo Coco Teddy Rusty Poppy Biscuit Pepper Snowy Milo Luna Buddy Daisy Bella Rocky Toby Ruby Oscar Ginger Fluffy Sunny Nutty Bruno Kiki Momo".split()
CHARACTERS = "cat dog fox bear rabbit mouse bird duck frog horse pig sheep goat hen turtle lion monkey squirrel hedgehog deer wolf crow donkey penguin".split()
MOODS = "happy kind brave shy proud curious clever lazy gentle funny careful quiet".split()
SIZES = "little small young little".split()
HOMES = ["in a small house", "in a little village", "in a big city", "in a house near the sea", "in a house on a hill", "in a yellow house", "in a small town", "on a farm"]
ANIMAL_HOMES = ["in a big forest", "in a green garden", "on a farm", "in a cave", "in a hole under a tree", "in a small wood", "in a field near the river"]
WHEN = ["One day", "One morning", "One sunny day", "One afternoon", "On Sunday", "One cold morning", "On a warm day", "One evening", "In the summer,", "In the spring,"]
WEATHER = ["sunny", "cold", "warm", "windy", "nice", "cloudy"]
COLORS = "red blue green yellow white black brown pink orange purple".split()
TOYS = "ball kite boat book drum hat train doll car scarf bag cup bell whistle toy puzzle ring shoe umbrella lamp".split()
SPOTS = ["under the bed", "behind the door", "in the garden", "near the river", "under a tree", "in the kitchen", "behind the house", "on the roof", "under the table", "in the barn", "next to the well", "in the tall grass", "on the stairs", "in an old box"]
JUNK = ["an old sock", "a dry leaf", "a sleeping cat", "a stone", "some dust", "a broken cup", "a feather", "two nuts"]
TREATS = ["bread", "cake", "honey", "soup", "cheese", "apple pie", "berries", "nuts", "chocolate", "milk and cookies", "rice", "fresh fruit"]
PLACES = ["in the garden", "by the river", "in the forest", "near the pond", "in the park", "on the hill", "at the beach", "in the field", "under a big tree", "behind the barn", "near the school", "on the way home"]
MADE = [("a cake", "milk, eggs and flour", "bake"), ("a kite", "paper, rope and two sticks", "make"), ("a small boat", "wood, nails and a rope", "build"), ("a tree house", "wood, nails and a ladder", "build"),
        ("some soup", "carrots, onions and water", "cook"), ("a snowman", "a lot of snow and a carrot", "build"), ("a picture", "paper, paint and a brush", "paint"), ("a bird house", "wood, glue and some paint", "build"),
        ("a warm scarf", "red wool and two needles", "make"), ("a sand castle", "sand, water and a bucket", "build"), ("a puppet", "an old sock and two buttons", "make"), ("some bread", "flour, water and salt", "bake")]
FEARS = [("the dark", "The light went out, and it was dark in the room.", "There were only the stars in the window, and they were beautiful."),
         ("thunder", "The thunder came again, and they listened together.", "It was only a loud noise far away."),
         ("deep water", "One foot went into the water, and then the other foot.", "The water was cool and soft, and it was fun to splash."),
         ("big dogs", "The big dog came near and sniffed.", "The dog wagged its tail and wanted to play."),
         ("high places", "Step by step they went up the ladder.", "From the top they could see the whole village."),
         ("the first day of school", "The door of the school opened, and they went in.", "The teacher was kind, and there were many books."),
         ("spiders", "They looked at the little spider in its web.", "The spider was busy and did not look at them at all."),
         ("the doctor", "The doctor smiled and looked at both ears.", "It did not hurt, and there was a sticker at the end."),
         ("the wind", "They went out, and the wind pulled at their coats.", "The wind could carry a kite up to the clouds."),
         ("singing in front of people", "The first note was very quiet, and the next one was louder.", "When the song was over, everyone clapped.")]
RESCUES = [("bird", "It had a hurt wing and could not fly.", "A box with soft grass was a good bed until the wing was well."),
           ("cat", "It sat high in a tree and could not come down.", "A tall man with a ladder came and brought it down."),
           ("puppy", "It was wet and cold.", "A warm blanket made it dry again."),
           ("duck", "Its foot was caught in a rope.", "It took some time, but the rope came off."),
           ("turtle", "It lay on its back and could not turn around.", "One little push, and it was on its feet again."),
           ("hedgehog", "It had fallen into a hole.", "A long piece of wood made a way out of the hole."),
           ("fish", "It was in a very small puddle.", "A bucket of water carried it back to the river."),
           ("lamb", "It could not find its mother.", "They walked over the field until they heard the mother sheep."),
           ("frog", "It sat in the middle of the road.", "Two soft hands carried it to the grass."),
           ("bee", "It had fallen into the water.", "A leaf was a good boat for it.")]
PLANTS = [("an apple tree", "sweet apples"), ("a tall sunflower", "seeds"), ("a big pumpkin", "pumpkin soup"), ("a red rose", "a nice smell"), ("a bean plant", "green beans"), ("a tomato plant", "red tomatoes"),
          ("a strawberry plant", "strawberries"), ("a cherry tree", "dark red cherries"), ("a pear tree", "yellow pears"), ("a carrot", "fresh carrots")]
SKILLS = [("swim", "The water went into both ears.", "it worked, and the water carried the swimmer from one side to the other."), ("ride a bike", "The bike fell over after two meters.", "the bike went straight on and did not fall."),
          ("read", "The letters looked like little bugs.", "the letters became words, and the words became a story."), ("whistle", "Only air came out.", "a clear sound came out."),
          ("play the drum", "It was only noise.", "the noise became music."), ("dance", "Left and right were all mixed up.", "the feet knew what to do."), ("catch a ball", "The ball went right past.", "the ball stayed in both hands."),
          ("climb a tree", "The first branch was too high.", "the top of the tree was reached."), ("tie shoes", "The knot fell apart.", "the knot stayed tight."), ("bake bread", "The bread was as hard as a stone.", "the bread was soft and warm."),
          ("write a name", "The letters fell over each other.", "the whole name stood on the paper."), ("skate", "The ice was hard, and so was the fall.", "the skates went round and round on the ice.")]
BREAKABLE = ["cup", "lamp", "window", "plate", "clock", "vase", "mirror", "bowl", "pot"]
WISHES = [("fly", "The birds can see everything from above.", "A bird cannot do what you can do. Everyone is good at something."), ("be big", "Big animals are never afraid.", "Big animals cannot hide in small places as you can."),
          ("have long legs", "With long legs I would be the fastest.", "Long legs are of no use in a small hole."), ("sing like a bird", "Everyone listens when the birds sing.", "You can listen, and that is as good as singing."),
          ("have golden feathers", "Gold shines in the sun.", "Gold is heavy and cold, and your coat is warm."), ("live in the sea", "The fish never have to walk.", "The sea is deep and salty, and your friends are here."),
          ("be strong like a bear", "No one laughs at a bear.", "A kind heart is stronger than a bear.")]
FRUITS = ["apples", "pears", "carrots", "tomatoes", "grapes", "onions", "potatoes", "plums", "oranges", "beans", "cherries", "lemons"]
GAMES = ["ball", "hide and seek", "chess", "cards", "tag", "music", "school", "football"]
PLANS = ["go to the beach", "fly a kite", "play in the garden", "climb the hill", "swim in the lake", "have a picnic", "look for berries", "ride their bikes"]
INSIDE = ["build a tent out of blankets", "read a book", "bake cookies", "paint pictures", "play cards", "make paper boats", "tell stories", "sing songs", "make puppets"]
NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()


def a(noun):
    """With its article."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def cap(s):
    return s[:1].upper() + s[1:]


def number(n):
    return NUMBERS[n]
