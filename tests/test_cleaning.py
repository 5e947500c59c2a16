"""Each rule takes what it is for, and leaves what only looks like it."""

import pytest

from llama_exp.data.cleaning import KNOWN, RULES, Cleaner
from llama_exp.errors import UserError

CASES = {
    "signatures": [
        ("On its way. ^AB", "On its way."),
        ("On its way.^Beth S. 2/2", "On its way. 2/2"),
        ("Sorry! ^AB @264 Try again", "Sorry! @264 Try again"),
        ("See here ^kc https://t.co/x1", "See here https://t.co/x1"),
        ("Any luck? ^AP .", "Any luck?"),
        ("1/2^ML", "1/2"),
        ("We'll see what we can suggest /MC", "We'll see what we can suggest "),
        ("Miles are posted. *AMV @654 Thanks", "Miles are posted.  @654 Thanks"),
        ("May I help? -Andy", "May I help?"),
        ("Thanks-Floi", "Thanks"),
        ("I can look into this for you - Ed 3/3", "I can look into this for you 3/3"),
        ("What's wrong? ~Angel", "What's wrong?"),
    ],
    "html_entities": [("R&amp;D &gt; 3 &#39;x&#39;", "R&D > 3 'x'")],
    "urls": [
        ("Look: https://t.co/xYz9 now", "Look:  now"),
        ("Look here: https://t.co/xYz9.", "Look here:."),
        ("(https://example.org/a_b) and www.nih.gov/x?y=1", " and "),
        ("app:https://t.co/xYz9…", "app:…"),
    ],
    "handles": [
        ("@115850 hello @AskeBay", " hello "),
        ("slow..@idea_cares", "slow.."),
        ("by @Tesco's rules", "by  rules"),
    ],
    "control_characters": [("a\x00b\u200bc\ufeff", "abc"), ("a\x0cb", "a b")],
    "whitespace": [
        ("  a \t b\u00a0 c \r\n", "a b c"),
        ("a\n\n\n\n b", "a\n\nb"),
        ("Signs:      - Fever.    -   Rash.", "Signs:\n- Fever.\n- Rash."),
    ],
}
UNTOUCHED = {
    "signatures": [
        "2^10 is 1024",
        "a smile ^_^",
        "As ^SD mentioned, wait",
        "open 24/7",
        "Visa/AmEx",
        "on 3/4",
        "Device/OS version",
        "dial *140# now",
        "this is *Important* news",
        "before take-off.",
        "from LAX-SFO",
        "via Wi-Fi",
        "from 9 - Friday",
        "Thanks - Monday",
        "from Bristol Parkway - Reading",
        "from 5 - 10",
        "no - I said no",
        "X is 3 -A",
    ],
    "html_entities": ["AT&T", "&not a sign", "fish & chips; peas"],
    "urls": ["http status 404", "e.g. this", "w.w.w"],
    "handles": ["adear@nia.nih.gov", "meet @ 5", "meet @5pm or @7:30", "a @ b"],
    "control_characters": ["👩\u200d👧 tab\there\nline"],
    "whitespace": ["a - b", "5 - 10", "a\n\nb"],
}


@pytest.mark.parametrize(("rule", "before", "after"), [(rule, *case) for rule in CASES for case in CASES[rule]])
def test_a_rule_takes_what_it_is_for(rule, before, after):
    assert RULES[rule](before) == after


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule in UNTOUCHED for text in UNTOUCHED[rule]])
def test_a_rule_leaves_other_uses_of_the_same_signs(rule, text):
    assert RULES[rule](text) == text


def test_every_rule_has_cases():
    assert set(CASES) == set(UNTOUCHED) == set(RULES) == set(KNOWN) - {"duplicates"}


@pytest.mark.parametrize("rule", RULES)
def test_cleaning_twice_changes_nothing_more(rule):
    for before, _ in CASES[rule]:
        assert RULES[rule](RULES[rule](before)) == RULES[rule](before)


def test_only_agents_sign():
    clean = Cleaner({"signatures": True})
    assert clean("great service ^CA") == "great service ^CA"
    assert clean("great service ^CA", agent=True) == "great service"


def test_a_signature_is_found_although_its_link_and_the_next_handle_go_too():
    clean = Cleaner(dict.fromkeys(KNOWN, True))
    tweets = "@264322 Sorry&#33; See https://t.co/aB3, ^AK @264322 and   tell us. /MC https://t.co/cD4"
    assert clean(tweets, agent=True) == "Sorry! See, and tell us."


def test_a_rule_that_is_off_does_nothing_and_is_not_counted():
    clean = Cleaner({"urls": False, "handles": True})
    assert clean("@ab https://t.co/x") == " https://t.co/x"
    clean.end_row()
    assert clean.counts == {"handles": {"rows": 1, "characters": 3}}


def test_a_row_counts_once_however_many_of_its_texts_were_changed():
    clean = Cleaner({"handles": True, "html_entities": True})
    clean("@abc hello")
    clean("@de &amp; @fgh")
    clean.end_row()
    clean("nothing to do")
    clean.end_row()
    assert clean.counts["html_entities"] == {"rows": 1, "characters": len("amp;")}
    assert clean.counts["handles"] == {"rows": 1, "characters": len("@abc@de@fgh")}


def test_an_unknown_rule_lists_the_known_ones():
    with pytest.raises(UserError, match="unknown rule emoji; known: html_entities, .*handles.*duplicates"):
        Cleaner({"emoji": True})
