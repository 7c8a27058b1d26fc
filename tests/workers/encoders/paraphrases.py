"""Pairs of sentences that say the same in other words, each about something else than all others."""

PARAPHRASES = (
    ("The cat sleeps on the sofa.", "A cat is lying asleep on the couch."),
    ("How do I reset my password?", "I forgot my password and need a new one."),
    ("The stock market fell sharply today.", "Share prices dropped a lot this afternoon."),
    ("She plays the violin in an orchestra.", "She is a violinist with a symphony orchestra."),
    ("Water boils at one hundred degrees.", "At 100 °C water starts to boil."),
    ("The train to Berlin is delayed.", "There is a delay of the rail service to Berlin."),
    ("He fixed the leaking tap in the kitchen.", "He repaired the dripping faucet."),
    ("Vaccines protect children from measles.", "Immunisation keeps kids safe from the measles."),
    ("The recipe needs two eggs and flour.", "You need flour and a couple of eggs for this dish."),
    ("Our team won the football match.", "We were victorious in the soccer game."),
    ("The volcano erupted last night.", "There was an eruption of the volcano yesterday evening."),
    ("I would like to cancel my subscription.", "Please end my membership."),
    ("The museum is closed on Mondays.", "On Monday you cannot visit the museum."),
    ("Bees make honey from nectar.", "Honey is produced by bees out of nectar."),
    ("The lawyer presented new evidence in court.", "New proof was shown to the judge by the attorney."),
    ("Python is a popular programming language.", "Many developers write code in Python."),
    ("The moon orbits the earth.", "Our planet is circled by the moon."),
    ("The hotel room had a view of the sea.", "From my hotel room I could see the ocean."),
    ("Regular exercise is good for the heart.", "Working out often keeps your heart healthy."),
    ("The bridge was built in the nineteenth century.", "Construction of the bridge was in the 1800s."),
)
