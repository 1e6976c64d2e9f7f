"""List the word pairs that the fact families are made of, as left:right entries."""


def pairs(table: str) -> list[tuple[str, str]]:
    """Split "a:b, c:d" into [("a", "b"), ("c", "d")]."""
    rows: list[tuple[str, str]] = []
    for entry in table.split(","):
        left, right = entry.strip().split(":")
        rows.append((left, right))
    return rows


def names(table: str) -> tuple[str, ...]:
    """Split "a b" into ("a", "b")."""
    return tuple(table.split())


def _both_ways(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return rows + [(right, left) for left, right in rows]


OPPOSITES = _both_ways(
    pairs(
        """hot:cold, big:small, fast:slow, up:down, open:closed, happy:sad, day:night,
        light:dark, full:empty, hard:soft, tall:short, wet:dry, old:young, rich:poor,
        early:late, clean:dirty, loud:quiet, strong:weak, true:false, wide:narrow,
        deep:shallow, sweet:sour, near:far, left:right, inside:outside, before:after,
        always:never, first:last, sharp:blunt, brave:cowardly, thick:thin, smooth:rough"""
    )
)

PLURALS = pairs(
    """mouse:mice, child:children, foot:feet, tooth:teeth, goose:geese, man:men, woman:women,
    leaf:leaves, wolf:wolves, knife:knives, life:lives, shelf:shelves, loaf:loaves, ox:oxen,
    sheep:sheep, fish:fish, deer:deer, person:people, baby:babies, city:cities, story:stories,
    berry:berries, party:parties, box:boxes, fox:foxes, bus:buses, dish:dishes, watch:watches,
    tomato:tomatoes, potato:potatoes, hero:heroes, cat:cats, dog:dogs, book:books, tree:trees,
    apple:apples, house:houses, day:days, key:keys, toy:toys"""
)

PASTS = pairs(
    """go:went, see:saw, eat:ate, run:ran, come:came, take:took, give:gave, make:made,
    write:wrote, read:read, speak:spoke, sing:sang, swim:swam, drink:drank, begin:began,
    ring:rang, fly:flew, grow:grew, know:knew, throw:threw, draw:drew, drive:drove, ride:rode,
    rise:rose, break:broke, choose:chose, wake:woke, find:found, think:thought, buy:bought,
    bring:brought, catch:caught, teach:taught, sleep:slept, keep:kept, feel:felt, leave:left,
    lose:lost, build:built, send:sent, sit:sat, stand:stood, win:won, fall:fell, hold:held,
    walk:walked, jump:jumped, play:played, look:looked, help:helped, stop:stopped, try:tried,
    carry:carried, love:loved"""
)

SOUNDS = pairs(
    """dog:woof, cat:meow, cow:moo, sheep:baa, pig:oink, duck:quack, horse:neigh,
    rooster:cock-a-doodle-doo,
    bee:buzz, frog:ribbit, lion:roar, snake:hiss, mouse:squeak, owl:hoot, crow:caw, wolf:howl,
    donkey:hee-haw, turkey:gobble, chick:cheep, goose:honk"""
)

YOUNG = pairs(
    """dog:puppy, cat:kitten, cow:calf, sheep:lamb, horse:foal, pig:piglet, duck:duckling,
    hen:chick, goat:kid, bear:cub, deer:fawn, kangaroo:joey, goose:gosling, swan:cygnet,
    frog:tadpole, owl:owlet, spider:spiderling, fish:fry, butterfly:caterpillar, seal:pup"""
)

SHAPES = pairs(
    """triangle:3, square:4, rectangle:4, pentagon:5, hexagon:6, heptagon:7, octagon:8,
    nonagon:9, decagon:10, dodecagon:12"""
)

COLOURS = pairs(
    """banana:yellow, lemon:yellow, tomato:red, strawberry:red, cherry:red, carrot:orange,
    pumpkin:orange, cucumber:green, frog:green, leaf:green, lime:green, flamingo:pink, pig:pink,
    crow:black, swan:white, snowman:white, polar bear:white, elephant:grey, mouse:grey,
    blueberry:blue, plum:purple, grape:purple, canary:yellow, fire engine:red, coconut:brown,
    tree trunk:brown, violet:purple, whale:blue, raven:black, cloud:white"""
)

HOMES = pairs(
    """bee:hive, bird:nest, dog:kennel, spider:web, horse:stable, pig:sty, rabbit:burrow,
    bear:den, lion:den, fox:den, ant:nest, hen:coop, fish:pond, beaver:lodge, bat:cave,
    king:palace, monk:monastery"""
)

CLASSES = pairs(
    """apple:fruit, banana:fruit, pear:fruit, cherry:fruit, mango:fruit, carrot:vegetable,
    potato:vegetable, cabbage:vegetable, turnip:vegetable, rose:flower, tulip:flower,
    daisy:flower, lily:flower, oak:tree, pine:tree, birch:tree, willow:tree, robin:bird,
    eagle:bird, sparrow:bird, penguin:bird, salmon:fish, trout:fish, shark:fish, ant:insect,
    bee:insect, beetle:insect, butterfly:insect, hammer:tool, saw:tool, spanner:tool,
    violin:instrument, piano:instrument, flute:instrument, drum:instrument, whale:mammal,
    dolphin:mammal, horse:mammal, snake:reptile, lizard:reptile, frog:amphibian, toad:amphibian"""
)

JOBS = pairs(
    """bakes bread:baker, teaches children:teacher, flies planes:pilot, grows crops:farmer,
    paints pictures:painter, writes books:author, heals animals:vet, fixes pipes:plumber,
    cuts hair:barber, puts out fires:firefighter, catches fish:fisher, drives trains:driver,
    sells meat:butcher, sails ships:sailor, pulls teeth:dentist, builds walls:mason,
    makes clothes:tailor, studies stars:astronomer, delivers letters:postman,
    takes photographs:photographer"""
)

UNITS = pairs(
    """days in a week:7, months in a year:12, hours in a day:24, minutes in an hour:60,
    seconds in a minute:60, letters in the alphabet:26, legs on a spider:8, legs on an insect:6,
    sides on a cube:6, wheels on a bicycle:2, wheels on a car:4, fingers on a hand:5,
    strings on a violin:4, colours in a rainbow:7, seasons in a year:4, 
    centimetres in a metre:100,
    metres in a kilometre:1000, grams in a kilogram:1000, eggs in a dozen:12,
    players in a football team:11"""
)

NUMBERS = pairs(
    """0:zero, 1:one, 2:two, 3:three, 4:four, 5:five, 6:six, 7:seven, 8:eight, 9:nine, 10:ten,
    11:eleven, 12:twelve, 13:thirteen, 14:fourteen, 15:fifteen, 16:sixteen, 17:seventeen,
    18:eighteen, 19:nineteen, 20:twenty, 30:thirty, 40:forty, 50:fifty, 60:sixty, 70:seventy,
    80:eighty, 90:ninety, 100:one hundred"""
)

DAYS = names("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = names(
    "January February March April May June July August September October November December"
)
PLANETS = names("Mercury Venus Earth Mars Jupiter Saturn Uranus Neptune")
ORDINALS = names("first second third fourth fifth sixth seventh eighth")
LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
