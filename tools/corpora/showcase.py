"""Prompts written by hand: `core_15`, the ones to try first, and `showcase_400`. One a line."""

CORE = """
a red-eyed tree frog
a red tricycle with a wicker basket
a corgi in a yellow raincoat
a teapot shaped like an elephant
an old leather armchair with brass studs
a two-story birdhouse with a mossy roof
a clay robot holding a daisy
a loaf of bread in the shape of a hedgehog
a blue glass bottle with a ship inside
a snowman wearing a green scarf and a top hat
an owl carved from driftwood
a steaming bowl of noodles with a boiled egg
a rusty pickup truck loaded with pumpkins
a knight in copper armor riding a snail
a bonsai tree in a cracked ceramic pot
a wooden rocking horse with a rope mane
"""

SHOWCASE = """
a poison dart frog painted like blue porcelain
a glass frog sitting on a magnifying lens
a fat toad wearing a crown of clover
a bullfrog playing a tin banjo
a tree frog clinging to the stem of a wine glass
a chameleon halfway between green and plaid
a gecko with stained-glass scales
an iguana asleep on a warm radiator
a tortoise carrying a tiny lighthouse on its shell
a sea turtle covered in delft tile patterns
a crocodile made of stitched denim
a cobra coiled around a brass candlestick
a snake knitted from rainbow wool
a baby dragon hatching from a marble egg
a dragon curled around a stack of old books
a moss-covered dragon with antlers of oak
a paper dragon with red and gold scales
a two-headed dragon arguing over a teacup
a griffin with the feathers of a magpie
a phoenix made of autumn leaves
a unicorn with a barber-pole horn
a pegasus with patched canvas wings
a kraken squeezing a rubber duck
a mermaid cat with silver scales
a yeti in a hand-knitted cardigan
a stone troll with a garden growing on its head
a goblin selling lanterns from a handcart
a gnome riding a robin
a friendly three-eyed monster holding a balloon
a jackalope in a velvet waistcoat
a minotaur chef rolling out dough
a tiny golem built of cobblestones
a swamp witch with a hat full of mushrooms
a wizard whose beard is a waterfall
a ghost made of lace curtains
a skeleton tuning a violin
a fox in a mustard turtleneck
a fox asleep in a copper saucepan
an arctic fox made of folded paper
a wolf carved out of black basalt
a wolf wearing a sheepskin coat
a raccoon in a bathrobe holding a toothbrush
a raccoon piloting a biplane
a badger in a miner's helmet with a lit lamp
an otter floating on its back with a clam
an otter in scuba gear
a beaver in a tool belt admiring a plank
a hedgehog whose spines are colored pencils
a hedgehog balancing an apple on its back
a squirrel in armor made of walnut shells
a flying squirrel with a striped parachute
a mouse reading a newspaper in a matchbox bed
a mouse knight with a needle for a sword
a rat conducting an orchestra of teaspoons
a rabbit in a spacesuit eating a carrot
a rabbit pulling a magician out of a hat
a hare running in red sneakers
a bat hanging from a coat hanger in a tuxedo
a sloth delivering mail on a scooter
a koala hugging a street lamp
a kangaroo boxer with golden gloves
a platypus in a detective's trench coat
a wombat pushing a tiny wheelbarrow
a panda eating bamboo-shaped candy
a polar bear on a melting ice cream bar
a grizzly bear in a marching band uniform
a bear cub with a honeycomb for a hat
a moose with string lights on its antlers
a reindeer wearing ice skates
a highland cow with a fringe of braids
a bull made of welded chains
a sheep with wool like cotton candy
a goat standing on a grand piano
a llama with saddlebags full of potatoes
an alpaca in heart-shaped sunglasses
a camel carrying a striped tent
a donkey with a basket of oranges on each side
a carousel horse with chipped turquoise paint
a horse built from bicycle parts
a zebra whose stripes are a bar code
a giraffe in a very long scarf
an elephant watering flowers with its trunk
a baby elephant balancing on a beach ball
a rhinoceros in ballet slippers
a hippo in a claw-foot bathtub
a lion with a mane of sunflower petals
a lion cub tangled in yarn
a tiger made of orange marzipan
a snow leopard in a sauna towel
a black panther with constellations on its fur
a tabby cat loafing on a warm laptop
a cat sitting in a fishbowl helmet
a sphynx cat in a striped sweater
a dachshund as long as a train
a bulldog in a pilot's jacket and goggles
a pug dressed as a bumblebee
a poodle trimmed like a garden hedge
a husky pulling a sled of presents
a greyhound made of polished chrome
a dalmatian with one heart-shaped spot
a gorilla holding a dandelion
a chimpanzee repairing a pocket watch
an orangutan in a hammock of vines
a lemur with a candy-striped tail
a penguin selling ice cream from a cart
an emperor penguin in an actual emperor's robe
a flamingo standing on a unicycle
a pelican with a goldfish bowl in its beak
a peacock whose tail is a hand of playing cards
a toucan with a beak like a painted surfboard
a parrot in a tiny sailor suit
an owl made of old clock gears
a barn owl wearing round spectacles
a raven holding a silver key
a crow in a patchwork cloak
a hummingbird built from watch springs and glass
a rooster weather vane with real feathers
a hen sitting on a golden alarm clock
a duck in yellow rain boots
a swan folded from white linen
a goose with a bow tie and a suitcase
an ostrich wearing knee socks
a shark in a paper party hat
a whale carrying a village on its back
a blue whale made of recycled bottles
a narwhal with a candy cane tusk
an octopus juggling eight teacups
an octopus knitting four scarves at once
a jellyfish that is also a chandelier
a crab with a typewriter for a shell
a hermit crab living in a teapot
a lobster in a chef's hat holding a whisk
a seahorse wearing a saddle
a pufferfish like a pincushion
a goldfish with a bubble wand
an anglerfish with a desk lamp lure
a koi fish of red lacquer and gold leaf
a starfish with a sheriff badge
a snail whose shell is a cinnamon roll
a snail with a camper van on its back
a butterfly with stained-glass wings
a moth with wings of old letters
a dragonfly made of copper wire
a beetle like a polished emerald brooch
a ladybug with tiny ladybugs for spots
a bee in a quilted jacket
an ant carrying a sugar cube on a tray
a praying mantis doing yoga
a spider crocheting a doily
a scorpion with a fishing hook tail
a caterpillar made of green grapes
a tyrannosaurus brushing its teeth
a stegosaurus with slate roof tiles on its back
a triceratops in a football helmet
a velociraptor riding a skateboard
a long-necked dinosaur peeking over a hedge
a robot with a fish tank for a head
a rusty robot sitting on a park bench
a robot barista with six arms
a small yellow robot watering a cactus
a robot built of kitchen appliances
a wind-up tin robot missing one arm
a robot dog burying a battery
a robot monk in an orange robe
a giant robot with a castle on each shoulder
a cleaning robot with a feather duster tail
an astronaut holding a jar of fireflies
an astronaut riding a rocking horse
an astronaut in a suit of quilted patches
a cosmonaut planting a tree in a crater
a deep-sea diver carrying a treasure chest
a lighthouse keeper with an oil lamp
a fisherwoman in a green oilskin coat
a beekeeper surrounded by paper bees
a chimney sweep with a sooty face and a top hat
a clockmaker with a magnifying monocle
a baker balancing a tower of baguettes
a blacksmith hammering a glowing horseshoe
a violinist in a coat of sheet music
a drummer with buckets instead of drums
a tango couple made of red ribbon
a ballerina carved from soap
a tightrope walker with a striped umbrella
a clown in a gray business suit
a magician's assistant sawn in half and smiling
a samurai in armor of autumn leaves
a Viking with a beard braided around a spoon
a knight whose shield is a pizza
a pirate captain with a parrot-shaped hat
an archer in a cloak of owl feathers
a ninja hiding behind a potted fern
a shepherd girl with a crook of candy cane
a queen wearing a crown of icicles
a king on a throne of stacked books
an explorer with a map tattooed on a coat
a firefighter rescuing a kitten from a lamppost
a grandmother on a motorcycle with a sidecar
an old man feeding a mechanical pigeon
a child in a cardboard rocket costume
a boy holding a kite shaped like a carp
a girl in red boots jumping into a puddle
a scarecrow in a wedding dress
a teddy bear with a zipper smile
a sock monkey in a bow tie
a nesting doll painted like a cosmonaut
a marionette of a tired knight
a jack-in-the-box with a cabbage inside
a rocking horse with a real mane
a wooden duck on red wheels
a spinning top inlaid with mother-of-pearl
a kite with a tail of letters
a snow globe containing a desert
a music box with a dancing bear
a toy train pulling wagons of marbles
a dollhouse cut open like a cake
a puzzle cube with faces of different woods
a chess set of frogs against herons
a chess knight carved from jade
a deck of cards standing as a castle
a piggy bank with a parachute
a birthday piñata in the shape of a submarine
a tricycle with a boat's steering wheel
a penny-farthing with sunflower wheels
a bicycle with spokes of braided rope
a motorcycle covered in crochet
a scooter with a wicker sidecar for a dog
a taxi made of yellow butter
a camper van with a garden on the roof
an ice cream truck with a giant cone on top
a fire engine with a garden hose for a ladder
a double-decker bus with a library upstairs
a race car carved from a cucumber
a convertible full of balloons
a steam tractor with brass pipes
a bulldozer pushing a heap of gold coins
a forklift lifting a grand piano
a monster truck with tires like donuts
a police car from a rainy cartoon city
a milk float with rattling bottles
a hot-air balloon stitched from quilts
an airship with a greenhouse gondola
a biplane with bamboo wings
a helicopter with palm leaf rotors
a paper airplane with a tiny pilot
a rocket made of stacked tin cans
a flying saucer with lace curtains in the windows
a space shuttle covered in postage stamps
a lunar rover with picnic baskets
a submarine shaped like a herring
a gondola with dragon-headed oars
a viking ship in a bathtub
a tugboat pulling an iceberg
a sailboat with butterfly wings for sails
a raft of barrels with a patched umbrella
a paddle steamer decorated with lanterns
a canoe hollowed out of a giant banana
a locomotive with a copper boiler and a velvet cab
a tram climbing a spiral staircase
a sleigh with peacock feather runners
a covered wagon with a neon sign
a stroller with off-road tires
a wheelbarrow full of tulips
a shopping cart converted into a grill
a treehouse in a giant broccoli
a windmill with sails of lace
a lighthouse made of stacked teacups
a castle built from playing cards
a castle on the back of a sleeping cat
a sandcastle with real flags and a moat
a log cabin in a snow globe
a house shaped like a boot with a red door
a mushroom house with round windows and a chimney
a gingerbread house with peppermint gutters
a houseboat with a tin roof and flower boxes
a witch's hut standing on chicken legs
a tiny bookshop squeezed between two trees
a bakery with a roof of sliced bread
a pagoda carved from a single carrot
a glass greenhouse overgrown with grapes
a ruined tower with a tree growing through it
a water tower painted like a coffee pot
a stone bridge with a troll's mailbox
a covered bridge wrapped in ivy
an igloo with a satellite dish
a yurt with a blue embroidered door
a circus tent on a floating island
a telephone booth full of houseplants
a bus stop covered in wisteria
a wishing well with a neon rim
a fountain of stone fish spitting confetti
a gazebo made of whale bones
a spiral staircase leading nowhere
a garden gate in the shape of a harp
a door of green bronze with a lion knocker
a grandfather clock with tree roots for feet
a cuckoo clock with a trombone inside
an hourglass filled with tiny shells
a pocket watch open like an oyster
a compass whose needle is a feather
a brass telescope on a crooked tripod
a typewriter with mushroom keys
a gramophone with a lily for a horn
a jukebox made of stained glass
a radio in the shape of a cathedral
a camera carved out of walnut wood
a rotary phone covered in sea shells
a computer monitor showing an aquarium
a game console made of cheese
a pair of headphones lined with sheep wool
a microphone shaped like an ice cream
a cello with a map burned into its back
an accordion with marble keys
a trumpet blooming with morning glories
a drum painted with a blue heron
a guitar made from a cigar box
a piano with legs like a spider
a harp strung with silver hair
a bagpipe in the shape of a goose
an armchair upholstered with moss
a throne of antlers and red velvet
a rocking chair woven from willow
a stool with three different legs
a sofa in the shape of a sleeping bear
a hammock full of watermelons
a bed carved like a canoe
a bunk bed inside a whale's ribcage
a writing desk with a hundred tiny drawers
a kitchen table set for seven mice
a bookshelf bent like a question mark
a wardrobe with a snowy forest inside
a treasure chest full of buttons
a suitcase covered in railway stickers
a backpack shaped like a ladybug
a handbag made of orange peel
a lantern with a trapped sunset
a lava lamp with goldfish
a chandelier of forks and spoons
a desk lamp that looks like a heron
a candle in the shape of a cactus
a candlestick of twisted iron vines
a campfire of paper flames
a teapot with a spout like a swan's neck
a teacup with a tiny sea storm inside
a coffee mug with a dragon handle
a beer stein with a castle for a lid
a vase cracked and mended with gold
a wine bottle wrapped in snake skin
a glass jar of glowing mushrooms
a perfume bottle shaped like a tulip
a wooden bucket of silver fish
a picnic basket with a checkered cloth and a baguette
a watering can painted with bees
a birdcage with a cloud inside
a mailbox in the shape of a pike
a cast-iron skillet with a fried egg
a butter churn with brass hoops
a rolling pin engraved with dinosaurs
a Swiss-style pocket knife with forty tools
a sword of green glass with a coral hilt
an axe with runes glowing along its edge
a shield made from a tortoise shell
a wooden bow wrapped in red thread
a wizard staff topped with a lightbulb
a magic wand growing leaves
a helmet with ram horns and a fur lining
a samurai mask with a porcelain mustache
a carnival mask with peacock eyes
a crown made of measuring tape
a top hat with a small chimney
a straw hat covered with cherries
a pair of boots with roots for laces
a red high heel shaped like a pepper
a single sneaker with wings
a ballet slipper made of rose petals
a glove knitted from copper wire
a velvet cloak lined with maps
a dress of folded newspaper
a ball gown of green ferns
a raincoat for a snail
a kimono with cranes and waves
a denim jacket covered in enamel pins
a suit of armor for a cat
a necklace of tiny brass keys
a ring with a castle instead of a stone
a brooch like a silver dragonfly
an umbrella made of lily pads
a pair of spectacles with shell frames
a walking stick with a duck's head
an ice cream sundae with a volcano on top
a layer cake decorated like a chessboard
a wedding cake in the style of a cathedral
a donut with a galaxy glaze
a cupcake in a knitted wrapper
a stack of pancakes with a pat of butter
a croissant in the shape of a moon
a pretzel tied like a sailor's knot
a pie with a lattice of snakes
a hamburger with a smiling pickle
a hot dog on a tiny skateboard
a taco made of felt
a slice of pizza with a sunrise of peppers
a sushi platter arranged like a harbor
a bowl of ramen with a paper boat
a fried egg in the shape of a cat
a wheel of cheese with a mouse door
a roast chicken wearing a crown of herbs
a gingerbread astronaut
a chocolate rabbit with one ear bitten off
a candy cane bent into a heart
a jar of pickles like an aquarium
a pineapple with a zipper
a watermelon carved into a shark
a banana peeled into an octopus
an apple with a tiny window
an orange made of stained glass
a strawberry knight with a leaf cape
a bunch of grapes made of amethyst
a pumpkin carriage with copper wheels
a carrot rocket standing on its leaves
an eggplant dressed as a detective
a corn cob with pearls for kernels
a head of cabbage shaped like a rose
an artichoke cast in bronze
a garlic bulb as a hot-air balloon
a red mushroom with a stepladder
a cluster of glowing blue mushrooms on a log
a cactus in a cowboy boot
a cactus knitted in three greens
a sunflower with a clock for a face
a rose made of rusted iron
a bouquet of paper tulips in a milk bottle
a lotus flower carved from soapstone
a Venus flytrap in a sailor collar
a bonsai tree growing from a teapot
an oak tree with lanterns and a rope ladder
a willow with leaves of silver foil
a palm tree wearing a Christmas garland
a cherry tree in a bathtub
a dead tree full of red kites
a tree stump with a tiny door and a doormat
a floating island with one crooked house
a volcano made of chocolate and raspberry sauce
a waterfall frozen into glass steps
a snowy mountain with a ski lift for mice
an island shaped like a sleeping dog
a geode with a city of crystals inside
a meteorite with a bite taken out
an iceberg with a polar bear's living room
a stack of river stones balanced on a feather
a bust of a woman with a honeycomb hairdo
a marble statue wearing headphones
a bronze statue of a boy with a paper boat
a totem pole of kitchen pots
a balloon dog made of brushed steel
a weather vane in the shape of a comet
a snowman holding a hair dryer
a Möbius strip made of railway tracks
a cube of blue jelly with a fish inside
a sphere woven from willow branches
a moon with a hammock hung between its tips
a wooden rowing boat with peeling green paint, two mismatched oars and a sleeping tabby cat on the seat
a detective hedgehog in a gray trench coat, holding a magnifying glass over a trail of cookie crumbs
a mechanical grasshopper of brass and blue enamel, with a winding key and thin glass wings
a street food cart with a striped awning, steaming bamboo baskets and a string of paper lanterns
an elderly frog couple in matching cardigans, sharing an umbrella on a lily pad
a corner of a potter's workshop with a kick wheel, a shelf of unglazed bowls and a muddy apron
a gray stone lion with moss on its paws, one chipped ear and a robin on its head
a tall lighthouse on a slice of stormy sea, with a red door and a spiral of tiny windows
a pair of worn hiking boots, one with a small fern growing out of it
a bakery counter with three shelves of round loaves and a sleepy mouse in a paper hat
a badger librarian pushing a cart of very small books, wearing half-moon spectacles
a miniature Japanese garden on a tray, with raked sand, two rocks and a twisted pine
a cargo bike loaded with potted herbs, a birdcage and a rolled-up carpet
an old copper diving helmet used as an aquarium for three orange fish
"""
